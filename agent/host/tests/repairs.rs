//! Repairs against a pretend systemd: whose turn it is, and what is asked of systemd.

use std::time::Duration;

use nap_host::repairs::{NotBegun, prepare};
use nap_host::root::Root;
use nap_host::units::Units;
use nap_model::repair::Act;
use pretend_node::systemd::{PretendSystemd, Runner};

const LIMIT: Duration = Duration::from_secs(20);
const UNIT: &str = "containerd.service";
const ACT: Act = Act::DumpStacksAndRestart(UNIT);

async fn machine() -> (tempfile::TempDir, Root, PretendSystemd) {
    let directory = tempfile::tempdir().unwrap();
    let units = directory.path().join("usr/lib/systemd/system");
    std::fs::create_dir_all(&units).unwrap();
    std::fs::write(units.join(UNIT), "[Service]\nExecStart=/usr/bin/containerd\n").unwrap();
    let systemd = PretendSystemd::start(directory.path(), Runner::Nothing).unwrap();
    let root = Root::open(directory.path()).unwrap();
    Units::connect(&root).await.unwrap().restart(UNIT, true, LIMIT).await.unwrap();
    (directory, root, systemd)
}

fn refused(result: Result<nap_host::repairs::Ready, NotBegun>) -> String {
    match result {
        Err(NotBegun::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_service_is_signalled_forgiven_and_restarted_and_its_files_are_not_read_again() {
    let (_directory, root, systemd) = machine().await;
    let before = systemd.history().len();
    prepare(&root, ACT).await.unwrap().act(&root, ACT, "", LIMIT).await.unwrap();
    let verbs: Vec<_> = systemd.history()[before..].iter().map(|call| call.verb.clone()).collect();
    assert_eq!(verbs, ["KillUnit", "ResetFailedUnit", "RestartUnit"]);
}

#[tokio::test]
async fn what_somebody_stopped_or_masked_is_refused_at_the_last_moment() {
    let (directory, root, systemd) = machine().await;
    Units::connect(&root).await.unwrap().stop(UNIT, LIMIT).await.unwrap();
    let before = systemd.history().len();
    assert_eq!(refused(prepare(&root, ACT).await), "containerd.service was stopped on purpose");
    let etc = directory.path().join("etc/systemd/system");
    std::fs::create_dir_all(&etc).unwrap();
    std::os::unix::fs::symlink("/dev/null", etc.join(UNIT)).unwrap();
    assert_eq!(refused(prepare(&root, ACT).await), "containerd.service was stopped on purpose");
    assert_eq!(systemd.history().len(), before);
}

#[tokio::test]
async fn without_systemd_it_cannot_be_begun() {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::open(directory.path()).unwrap();
    let cannot = prepare(&root, ACT).await.unwrap_err();
    assert!(matches!(&cannot, NotBegun::CannotBegin(why) if why.contains("cannot reach systemd")), "{cannot:?}");
}

/// No logind here: the real one is asked in the VM's test of repairs.
#[tokio::test]
async fn without_logind_systemd_reboots_the_machine_and_one_that_stays_up_is_told() {
    let (directory, root, systemd) = machine().await;
    std::fs::write(directory.path().join("usr/lib/systemd/system/reboot.target"), "[Unit]\n").unwrap();
    let before = systemd.history().len();
    let limit = Duration::from_millis(50);
    let error = prepare(&root, Act::Reboot).await.unwrap().act(&root, Act::Reboot, "", limit).await.unwrap_err();
    assert!(error.contains("still up"), "{error}");
    let calls: Vec<_> = systemd.history()[before..].iter().map(|call| format!("{} {}", call.verb, call.unit)).collect();
    assert_eq!(calls, ["StartUnit reboot.target"]);
}
