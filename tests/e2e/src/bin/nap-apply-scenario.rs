//! Applies a golden plan below a root, and dies on the way when told to: the victim of the crash tests.
//!
//! `nap-apply-scenario SCENARIO ROOT [CHECKPOINT]`; prints the number of checkpoints passed and the steps changed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nap_host::executor::Executor;
use nap_host::journal::Journal;
use nap_host::{checkpoint, root::Root};

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "its output is its answer")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, scenario, root, ..] = arguments.as_slice() else { anyhow::bail!("usage: SCENARIO ROOT [CHECKPOINT]") };
    if let Some(number) = arguments.get(3) {
        checkpoint::abort_at(number.parse()?);
    }
    let plan = nap_e2e::scenario_plan(scenario);
    let root = Arc::new(Root::open(Path::new(root))?);
    let journal = Arc::new(Journal::open(&root, "crash-test", "boot")?);
    let executor = Executor::new(root, journal, Duration::from_secs(10));
    let mut changed = Vec::new();
    for stage in &plan.stages {
        changed.extend(executor.apply(stage).await?.changed);
    }
    println!("{} {}", checkpoint::passed(), changed.join(","));
    Ok(())
}
