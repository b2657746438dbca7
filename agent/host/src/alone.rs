//! One boot at a time on a machine, and no guard beside it: both write the same files.

use std::fs::File;

use nap_model::plan::AbsPath;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use tracing::info;

use crate::root::{FileError, Root};

const LOCK: &str = "/run/nap-agent/boot.lock";

/// The right to change the machine, until dropped. The kernel gives it back when its holder dies.
#[derive(Debug)]
pub struct Alone(#[expect(dead_code, reason = "held, not read")] Flock<File>);

/// Waits until nobody else boots or guards, and says whether it had to.
///
/// # Errors
/// When the lock's file cannot be made.
pub async fn wait(root: &Root) -> Result<(Alone, bool), FileError> {
    let file = match try_lock(root)? {
        Ok(alone) => return Ok((alone, false)),
        Err(file) => file,
    };
    info!("another boot is running; waiting for its end");
    let blocked = tokio::task::spawn_blocking(move || Flock::lock(file, FlockArg::LockExclusive));
    let locked = blocked.await.expect("waiting for a lock does not panic");
    locked.map(|locked| (Alone(locked), true)).map_err(|(_, errno)| failed(errno))
}

/// The right, unless somebody else has it.
///
/// # Errors
/// When the lock's file cannot be made.
pub fn now(root: &Root) -> Result<Option<Alone>, FileError> {
    Ok(try_lock(root)?.ok())
}

fn try_lock(root: &Root) -> Result<Result<Alone, File>, FileError> {
    // Never replaced: whoever has another file of this name has another lock.
    root.make_directory(&AbsPath::literal("/run/nap-agent"), 0o755)?;
    let file = root.open_for_writing(LOCK, OFlag::O_CREAT)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(locked) => Ok(Ok(Alone(locked))),
        Err((file, Errno::EWOULDBLOCK)) => Ok(Err(file)),
        Err((_, errno)) => Err(failed(errno)),
    }
}

fn failed(errno: Errno) -> FileError {
    FileError { action: "lock", path: LOCK.to_owned(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let (first, waited) = wait(&root).await.unwrap();
        assert!(!waited && now(&root).unwrap().is_none());
        let second = wait(&root);
        tokio::pin!(second);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(50), &mut second).await.is_err());
        drop(first);
        assert!(second.await.unwrap().1);
    }
}
