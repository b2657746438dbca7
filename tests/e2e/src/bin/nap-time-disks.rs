//! Does what a boot does with local disks and nothing else, and says what each part took: `nap-time-disks NODE_BOOTSTRAP`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nap_host::executor::Executor;
use nap_host::journal::Journal;
use nap_host::root::Root;
use nap_host::{cmd, observe};
use nap_model::plan::CONTAINERD_DIRECTORY;
use nap_model::{config, plan};

/// Longest start of a mount unit.
const UNIT_START: Duration = Duration::from_secs(90);

/// Longest counting of what is in containerd's directory, as in a boot.
const COUNT_LIMIT: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "its output is its answer")]
async fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).context("usage: nap-time-disks NODE_BOOTSTRAP")?;
    let decoded = config::decode(&std::fs::read(path)?)?;
    let config = decoded.config.context("the NodeBootstrap has mistakes")?;
    let root = Arc::new(Root::open(Path::new("/"))?);

    observe::disks_settled(&root).await; // waits for the world; said for itself by nobody
    let mut facts = observe::observe(&root).await?;
    let start = Instant::now();
    facts.disks = observe::disks(&root)?;
    observe::look_into(&root, &mut facts.disks);
    facts.containerd_bytes =
        observe::directory_bytes(&root, CONTAINERD_DIRECTORY, config.storage.copy_limit_bytes, COUNT_LIMIT);
    println!("scan {} ms", start.elapsed().as_millis());

    let stages = plan::plan(&config, &facts)?.stages.into_iter().filter(|stage| stage.name.starts_with("disks"));
    let journal = Journal::open(&root, &facts.boot_id, "boot")?;
    let executor = Executor::new(Arc::clone(&root), Arc::new(journal), UNIT_START);
    for stage in stages {
        let start = Instant::now();
        let applied = executor.apply(&stage).await?;
        anyhow::ensure!(applied.degraded.is_empty(), "{}: {:?}", stage.name, applied.degraded);
        println!("{} {} ms, {} steps changed", stage.name, start.elapsed().as_millis(), applied.changed.len());
    }
    println!("programs {}", cmd::programs_started());
    Ok(())
}
