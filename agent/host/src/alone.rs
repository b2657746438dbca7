//! One boot at a time on a machine.

use std::fs::File;

use nap_model::plan::AbsPath;
use nix::fcntl::{Flock, FlockArg, OFlag};
use tracing::info;

use crate::root::{FileError, Root};

const LOCK: &str = "/run/nap-agent/boot.lock";

/// The right to boot, until dropped. The kernel gives it back when its holder dies.
#[derive(Debug)]
pub struct Alone(#[expect(dead_code, reason = "held, not read")] Flock<File>);

/// Waits until no other boot runs.
///
/// # Errors
/// When the lock's file cannot be made.
pub async fn wait(root: &Root) -> Result<Alone, FileError> {
    let wrap = |source| FileError { action: "lock", path: LOCK.to_owned(), source };
    if root.entry(&AbsPath::literal(LOCK))?.is_none() {
        root.write(&AbsPath::literal(LOCK), b"", 0o600)?;
    }
    let file = root.open_for_writing(LOCK, OFlag::empty())?;
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(locked) => return Ok(Alone(locked)),
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => file,
        Err((_, errno)) => return Err(wrap(errno.into())),
    };
    info!("another boot is running; waiting for its end");
    let blocked = tokio::task::spawn_blocking(move || Flock::lock(file, FlockArg::LockExclusive));
    let locked = blocked.await.expect("waiting for a lock does not panic");
    locked.map(Alone).map_err(|(_, errno)| wrap(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let first = wait(&root).await.unwrap();
        let second = wait(&root);
        tokio::pin!(second);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(50), &mut second).await.is_err());
        drop(first);
        second.await.unwrap();
    }
}
