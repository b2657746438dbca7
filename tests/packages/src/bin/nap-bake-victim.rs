//! Bakes below a root, and dies on the way when told to: the victim of the crash test.
//!
//! `nap-bake-victim ROOT [CHECKPOINT]`; prints the number of checkpoints passed and the steps changed.

use std::path::Path;

use nap_host::checkpoint;
use nap_image_builder::bake;
use nap_image_builder::progress::Progress;

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "its output is its answer")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, root, ..] = arguments.as_slice() else { anyhow::bail!("usage: ROOT [CHECKPOINT]") };
    if let Some(number) = arguments.get(2) {
        checkpoint::abort_at(number.parse()?);
    }
    let (root, os) = bake::open(Path::new(root))?;
    let baked = bake::run(&root, os, &Progress::new()).await?;
    println!("{} {}", checkpoint::passed(), baked.changed.join(","));
    Ok(())
}
