//! Makes repairs, and keeps their journal: every attempt is on disk before it begins, and again with its end.
//!
//! The journal is apart from that of steps: budgets rest on it, so it is never turned over, only shortened to what still counts.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use nap_model::monitor::KUBELET;
use nap_model::plan::{AbsPath, BOOTSTRAP_KUBECONFIG, LEFT_STREAMING};
use nap_model::repair::{Act, Attempt};
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use nix::sys::signal::Signal;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::alone::{self, Alone};
use crate::chain;
use crate::reboot::Then;
use crate::root::{FileError, Root};
use crate::units::{UnitError, Units};
use crate::{free_space, observe, persist, reboot, routes};

/// Where the journal lies.
pub const JOURNAL: &str = "/var/lib/nap-agent/repairs.jsonl";

/// Size above which it is shortened at a start, in bytes, and to how many attempts.
const MAX_BYTES: usize = 256 * 1024;
const KEPT_ATTEMPTS: usize = 100;

/// Room that is kept for the next attempts, in bytes: more than a day's.
const RESERVED_BYTES: i64 = 64 * 1024;

/// How long a boot or the guard may keep a repair waiting: a look of the guard takes moments.
const WAIT_FOR_OTHERS: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a process may take to take a signal.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);

/// Every attempt in the journal, each as it was last written; the oldest first. What a crash cut is left out.
///
/// # Errors
/// When the journal is there and cannot be read. Then nothing may be repaired: how much was is not known.
pub fn read_journal(root: &Root) -> Result<Vec<Attempt>, FileError> {
    Ok(attempts(&root.read(JOURNAL)?.unwrap_or_default()))
}

fn attempts(bytes: &[u8]) -> Vec<Attempt> {
    let mut attempts: Vec<Attempt> = Vec::new();
    for attempt in bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Attempt>(line).ok()) {
        attempts.retain(|known| known.id != attempt.id);
        attempts.push(attempt);
    }
    attempts.sort_by_key(|attempt| attempt.id);
    attempts
}

/// Shortens the journal when it has grown: years of a node that is repaired each day.
///
/// # Errors
/// When it cannot be read or written.
pub fn shorten_journal(root: &Root) -> Result<(), FileError> {
    let bytes = root.read(JOURNAL)?.unwrap_or_default();
    if bytes.len() <= MAX_BYTES {
        return Ok(());
    }
    let attempts = attempts(&bytes);
    let kept: Vec<u8> = attempts[attempts.len().saturating_sub(KEPT_ATTEMPTS)..].iter().flat_map(line).collect();
    root.write(&AbsPath::literal(JOURNAL), &kept, 0o600)
}

fn line(attempt: &Attempt) -> Vec<u8> {
    let mut line = serde_json::to_vec(attempt).expect("an attempt has only texts and numbers");
    line.push(b'\n');
    line
}

/// Appends an attempt; it is on the disk when this returns.
///
/// # Errors
/// When it cannot be written; then it may not be begun either.
pub fn record(root: &Root, attempt: &Attempt) -> Result<(), FileError> {
    let text = match root.read(JOURNAL)? {
        None => {
            root.write(&AbsPath::literal(JOURNAL), b"", 0o600)?;
            line(attempt)
        }
        // A crash cut the last line; this one must not be glued to it.
        Some(bytes) if bytes.last().is_some_and(|byte| *byte != b'\n') => [b"\n".to_vec(), line(attempt)].concat(),
        Some(_) => line(attempt),
    };
    let mut file = root.open_for_writing(JOURNAL, OFlag::O_APPEND)?;
    let written = file.write_all(&text).and_then(|()| file.sync_data());
    written.map_err(|source| FileError { action: "append to", path: JOURNAL.to_owned(), source })?;
    reserve(&file);
    Ok(())
}

/// Keeps room behind the end of the journal, so that the next attempts can be recorded on a disk that is full by then.
fn reserve(file: &File) {
    let end = file.metadata().map_or(0, |metadata| metadata.len());
    let (end, length) = (i64::try_from(end).unwrap_or_default(), RESERVED_BYTES);
    if let Err(errno) = fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, end, length) {
        debug!(error = %errno, "no room is kept for the journal of repairs"); // not every file system can
    }
}

/// Why a repair is not begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotBegun {
    /// It is somebody else's turn: a boot's, the guard's, an administrator's, systemd's.
    Refused(String),
    /// It cannot be done.
    CannotBegin(String),
}

/// A repair that may be made now.
#[derive(Debug)]
pub enum Ready {
    /// It touches nothing that a boot or the guard does.
    Beside,
    /// While it is held, neither a boot nor the guard changes anything.
    Alone {
        /// To systemd.
        units: Units,
        /// The right to change the machine.
        alone: Alone,
    },
}

/// Looks whether a repair may be made now.
///
/// # Errors
/// When not.
pub async fn prepare(root: &Root, act: Act) -> Result<Ready, NotBegun> {
    if act == Act::FreeSpace {
        return Ok(Ready::Beside);
    }
    let alone = wait_for_others(root).await?;
    let cannot = |error: UnitError| NotBegun::CannotBegin(chain(&error));
    let units = Units::connect(root).await.map_err(cannot)?;
    let Some(unit) = act.unit() else { return Ok(Ready::Alone { units, alone }) };
    let status = units.status(unit).await.map_err(cannot)?;
    // What was seen a few seconds ago may have changed: an administrator's word is asked for at the last moment.
    if status.is_stopped_on_purpose() {
        return Err(NotBegun::Refused(format!("{unit} was stopped on purpose")));
    }
    if status.active == "deactivating" {
        return Err(NotBegun::Refused(format!("{unit} is being stopped")));
    }
    Ok(Ready::Alone { units, alone })
}

async fn wait_for_others(root: &Root) -> Result<Alone, NotBegun> {
    let start = Instant::now();
    loop {
        match alone::now(root) {
            Ok(Some(alone)) => return Ok(alone),
            Ok(None) if start.elapsed() > WAIT_FOR_OTHERS => {
                return Err(NotBegun::Refused("a boot or the guard is changing the machine".to_owned()));
            }
            Ok(None) => sleep(LOOK_EVERY).await,
            Err(error) => return Err(NotBegun::CannotBegin(chain(&error))),
        }
    }
}

impl Ready {
    /// Does it, to the fault's target when it is not to a unit.
    ///
    /// # Errors
    /// When it cannot be done within `limit`; why.
    pub async fn act(self, root: &Root, act: Act, target: &str, limit: Duration) -> Result<(), String> {
        let late = || format!("it did not end within {} s", limit.as_secs());
        match (self, act) {
            (Ready::Alone { units, alone: _alone }, Act::Restart(unit)) => revive(&units, unit, limit).await,
            (Ready::Alone { units, alone: _alone }, Act::DumpStacksAndRestart(unit)) => {
                dump_stacks(root, &units, unit).await;
                revive(&units, unit, limit).await
            }
            (Ready::Alone { units, alone: _alone }, Act::Rebootstrap) => {
                look_for_credential(root)?;
                revive(&units, KUBELET, limit).await
            }
            (Ready::Alone { units, alone: _alone }, Act::Reboot) => {
                reboot::go_down(root, &units, Then::Reboot).await?;
                // We end with the machine, or it does not go down.
                sleep(limit).await;
                Err(format!("the machine is still up {} s after it was told to go down", limit.as_secs()))
            }
            (Ready::Alone { alone: _alone, .. }, Act::PutBackRoute) => {
                // The kernel answers when no driver holds its lock of the network.
                let seen = routes::seen(root);
                let work = timeout(limit, spawn_blocking(move || routes::put_back(&seen))).await;
                work.map_err(|_| late())?.map_err(|error| chain(&error))?
            }
            (Ready::Alone { .. }, Act::LeaveStreaming) => leave_streaming(root),
            (_, Act::FreeSpace) => {
                let freed = timeout(limit, free_space::free(root, target)).await.map_err(|_| late())??;
                info!(freed, on = target, "made room");
                Ok(())
            }
            (Ready::Beside, act) => Err(format!("{act:?} was not prepared")),
        }
    }
}

/// Notes that this boot of the machine streams no more; whoever plans next plans so.
fn leave_streaming(root: &Root) -> Result<(), String> {
    let mut facts = persist::read_facts(root).map_err(|error| chain(&error))?.ok_or("no boot's facts are here")?;
    if facts.boot_id != observe::boot_id(root).map_err(|error| chain(&error))? {
        return Err("this boot of the machine has no facts yet".to_owned());
    }
    if facts.streaming.is_none() {
        return Err("nobody asked this node to stream images".to_owned());
    }
    // It has snapshots by now, of containers that run on.
    facts.streaming = Some(observe::streaming(root).map_err(|error| chain(&error))?);
    facts.streaming_failure = Some(LEFT_STREAMING.to_owned());
    persist::write_facts(root, &facts).map_err(|error| chain(&error))?;
    info!("images are pulled whole until the next boot; the guard follows");
    Ok(())
}

/// Something gives kubelet a certificate when it starts: the kubeconfig with the token.
fn look_for_credential(root: &Root) -> Result<(), String> {
    let found = root.entry(&AbsPath::literal(BOOTSTRAP_KUBECONFIG)).map_err(|error| chain(&error))?;
    match found {
        Some(_) => Ok(()),
        None => Err(format!(
            "nothing gives kubelet another certificate: there is no {BOOTSTRAP_KUBECONFIG}; the guard writes it when it finds a bootstrap token"
        )),
    }
}

async fn revive(units: &Units, unit: &str, limit: Duration) -> Result<(), String> {
    units.revive(unit, limit).await.map_err(|error| chain(&error))
}

/// A Go program's handler writes them, and ends it at the SIGTERM that follows: in the order in which its threads caught the two. Of a process
/// that was stopped, two threads catch both at once when it goes on, so the second may only follow when the first was caught.
/// Source: handleSignals and dumpStacks in cmd/containerd of containerd.
async fn dump_stacks(root: &Root, units: &Units, unit: &str) {
    let told = async {
        units.signal_main(unit, Signal::SIGUSR1).await?;
        units.signal_main(unit, Signal::SIGCONT).await?;
        units.status(unit).await
    };
    match told.await {
        Ok(status) if is_taken(root, status.main_pid, Signal::SIGUSR1).await => {
            info!(unit, "told to write its stacks to its log");
        }
        Ok(_) => warn!(unit, within_s = TAKEN_WITHIN.as_secs(), "takes no signal; restarting it without its stacks"),
        Err(error) => warn!(unit, error = chain(&error), "no stacks; restarting it without"),
    }
}

/// Waits until a process has taken a signal that it was sent, or has ended.
async fn is_taken(root: &Root, process: u32, signal: Signal) -> bool {
    let taken = async {
        while is_pending(root, process, signal) {
            sleep(LOOK_EVERY).await;
        }
    };
    timeout(TAKEN_WITHIN, taken).await.is_ok()
}

/// Whether a signal waits for any thread of a process. Source: `ShdPnd` in proc_pid_status(5).
fn is_pending(root: &Root, process: u32, signal: Signal) -> bool {
    let status = root.read_text(&format!("/proc/{process}/status")).ok().flatten().unwrap_or_default(); // it has ended
    let pending = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("ShdPnd:")?.trim(), 16).ok());
    pending.is_some_and(|pending| pending & (1 << (signal as i32 - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use nap_model::repair::{Ended, Outcome};

    use super::*;

    fn attempt(id: u64, ended: Option<Outcome>) -> Attempt {
        Attempt {
            id,
            repair: "RestartKubelet".to_owned(),
            reason: "KubeletDown".to_owned(),
            target: String::new(),
            boot_id: "b".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            up_ms: 1,
            at_ms: 1,
            evidence: vec!["unit.state: failed".to_owned()],
            ended: ended.map(|outcome| Ended { at: Timestamp::UNIX_EPOCH, at_ms: 2, outcome, detail: String::new() }),
        }
    }

    #[test]
    fn the_journal_has_every_attempt_as_it_was_last_written() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        assert_eq!(read_journal(&root).unwrap(), []);
        for attempt in [attempt(1, None), attempt(1, Some(Outcome::Failed)), attempt(2, None)] {
            record(&root, &attempt).unwrap();
        }
        let path = directory.path().join("var/lib/nap-agent/repairs.jsonl");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend(b"\0\0\n{\"id\":3,\"repair\":\"\xc3"); // what a power cut leaves
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(read_journal(&root).unwrap(), [attempt(1, Some(Outcome::Failed)), attempt(2, None)]);
        record(&root, &attempt(2, Some(Outcome::Succeeded))).unwrap();
        let known = [attempt(1, Some(Outcome::Failed)), attempt(2, Some(Outcome::Succeeded))];
        assert_eq!(read_journal(&root).unwrap(), known);
    }

    #[test]
    fn kubelet_is_not_restarted_for_a_certificate_that_nothing_would_give_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let why = look_for_credential(&root).unwrap_err();
        assert!(why.contains(BOOTSTRAP_KUBECONFIG), "{why}");
        root.write(&AbsPath::literal(BOOTSTRAP_KUBECONFIG), b"{}", 0o600).unwrap();
        assert_eq!(look_for_credential(&root), Ok(()));
    }

    #[test]
    fn attempts_are_recorded_on_a_disk_that_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("var/lib/nap-agent");
        std::fs::create_dir_all(&at).unwrap();
        let nothing = None::<&str>;
        let mounted = nix::mount::mount(nothing, &at, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=1m"));
        if let Err(errno) = mounted {
            let _ = writeln!(std::io::stderr(), "SKIPPED: cannot mount a small file system: {errno}"); // nobody listens
            return;
        }
        let root = Root::open(directory.path()).unwrap();
        let recorded = record(&root, &attempt(1, None));
        let filled = std::fs::write(at.join("filler"), vec![1; 2 << 20]).unwrap_err();
        let second = record(&root, &attempt(1, Some(Outcome::Succeeded)));
        let read = read_journal(&root);
        nix::mount::umount2(&at, nix::mount::MntFlags::MNT_DETACH).unwrap();
        recorded.unwrap();
        assert_eq!(filled.kind(), std::io::ErrorKind::StorageFull);
        second.unwrap();
        assert_eq!(read.unwrap(), [attempt(1, Some(Outcome::Succeeded))]);
    }

    #[test]
    fn a_journal_that_has_grown_keeps_the_newest() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        for id in 1..=1200 {
            record(&root, &attempt(id, Some(Outcome::Succeeded))).unwrap();
        }
        shorten_journal(&root).unwrap();
        let ids: Vec<_> = read_journal(&root).unwrap().iter().map(|attempt| attempt.id).collect();
        assert_eq!(ids, (1101..=1200).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_signal_is_waited_for_until_it_is_taken() {
        let root = Root::open(std::path::Path::new("/")).unwrap();
        let mut sleeper = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let (id, pid) = (sleeper.id(), nix::unistd::Pid::from_raw(sleeper.id().cast_signed()));
        nix::sys::signal::kill(pid, Signal::SIGSTOP).unwrap();
        nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WUNTRACED)).unwrap();
        nix::sys::signal::kill(pid, Signal::SIGUSR1).unwrap();
        assert!(is_pending(&root, id, Signal::SIGUSR1) && !is_pending(&root, id, Signal::SIGTERM));
        assert!(!is_taken(&root, id, Signal::SIGUSR1).await);
        nix::sys::signal::kill(pid, Signal::SIGCONT).unwrap();
        assert!(is_taken(&root, id, Signal::SIGUSR1).await);
        let ended = sleeper.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(Signal::SIGUSR1 as i32));
    }

    #[tokio::test]
    async fn nobody_is_repaired_while_a_boot_runs() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let _boot = alone::now(&root).unwrap().unwrap();
        tokio::time::pause();
        let refused = prepare(&root, Act::Restart("kubelet.service")).await.unwrap_err();
        assert_eq!(refused, NotBegun::Refused("a boot or the guard is changing the machine".to_owned()));
    }
}
