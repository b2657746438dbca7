//! Has the executor make a file system on the disks with these serial numbers, as if a plan had chosen them: past the plan's guards, to
//! see the executor's own. `nap-make-volume SERIAL [SERIAL]`; prints what became of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nap_host::executor::Executor;
use nap_host::journal::Journal;
use nap_host::root::Root;
use nap_model::facts::disks::Format;
use nap_model::plan::{Member, Stage, Step, Volume, Want};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let members: Vec<Member> = std::env::args().skip(1).map(|serial| Member { serial, bytes: 0 }).collect();
    let volume = Volume {
        vm_id: "made by a test".to_owned(),
        array: (members.len() > 1).then(|| "186be55d-77fc-828d-87ca-1b4895db4927".to_owned()),
        format: Format::Xfs,
        file_system: "d6af6e79-2296-8c1f-86c5-b5b1f1124e6f".to_owned(),
        make: true,
        replaces: Vec::new(),
        members,
    };
    let root = Arc::new(Root::open(Path::new("/"))?);
    let journal = Journal::open(&root, "test", "test")?;
    let executor = Executor::new(root, Arc::new(journal), Duration::from_secs(60));
    let step = Step::new("disks.volume", "a test wants it", Want::Volume { volume });
    let applied = executor.apply(&Stage { name: "disks", steps: vec![step] }).await;
    match applied {
        Ok(applied) => anyhow::bail!("made: {:?}", applied.changed),
        Err(error) => {
            let text = nap_host::chain(&error);
            use std::io::Write as _;
            writeln!(std::io::stdout(), "{text}")?;
            Ok(())
        }
    }
}
