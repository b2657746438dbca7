//! The file systems that a node cannot do without: what is left of them, and whether a small write comes to an end.
//!
//! Each has a thread of its own, because everything here may hang with its disk.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nap_model::monitor::{FilesystemSeen, Space, WriteSeen};
use nap_model::plan::AbsPath;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use nix::sys::statvfs::fstatvfs;
use tokio::sync::Notify;
use tracing::warn;

use super::aside::Aside;
use crate::root::{FileError, Root};

/// Where we look, in this order: a directory on the file system of an earlier one is not looked at again. The first holds our own
/// state, so an unwritable one there is our own fault, too. In `/run` nothing is written: it has no disk.
const DIRECTORIES: [&str; 4] = ["/var/lib/nap-agent", "/var/lib/containerd", "/var/lib/kubelet", "/run"];

const PROBE: &str = ".nap-agent-write-probe";

/// A write that has been under way for so long is told of.
const TELL_AFTER: Duration = Duration::from_secs(10);

/// What one look gave; nothing when the directory is not there or on an earlier one's file system.
type Look = Option<(bool, Space, WriteSeen)>;

/// One directory and its thread.
#[derive(Debug)]
struct Probe {
    path: &'static str,
    work: Aside<Look>,
    last: Option<(bool, Space)>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Filesystems {
    probes: Vec<Probe>,
}

impl Filesystems {
    /// `news` is told when a look has come back.
    pub(super) fn start(root: &Arc<Root>, news: &Arc<Notify>) -> Self {
        let mut probes = Vec::new();
        for (index, path) in DIRECTORIES.into_iter().enumerate() {
            let root = Arc::clone(root);
            match Aside::start("write-probe", Arc::clone(news), move || look(&root, path, &DIRECTORIES[..index])) {
                Ok(work) => probes.push(Probe { path, work, last: None }),
                Err(error) => warn!(path, error = %error, "cannot be probed"),
            }
        }
        Self { probes }
    }

    pub(super) fn ask(&self) {
        self.probes.iter().for_each(|probe| probe.work.ask());
    }

    /// What came back since, and what has been away for too long.
    pub(super) fn take(&mut self) -> Vec<FilesystemSeen> {
        self.probes.iter_mut().filter_map(Probe::take).collect()
    }
}

impl Probe {
    fn take(&mut self) -> Option<FilesystemSeen> {
        let seen = |is_root, space, write| FilesystemSeen {
            path: if is_root { "/" } else { self.path }.to_owned(),
            is_root,
            space,
            write: Some(write),
        };
        if let Some(look) = self.work.take() {
            let (is_root, space, write) = look?;
            self.last = Some((is_root, space));
            return Some(seen(is_root, Some(space), write));
        }
        let away = self.work.away_for().filter(|away| *away >= TELL_AFTER)?;
        let is_root = self.last.is_some_and(|(is_root, _)| is_root);
        Some(seen(is_root, None, WriteSeen::Hanging(away)))
    }
}

fn look(root: &Root, path: &str, earlier: &[&str]) -> Look {
    let directory = root.open_for_reading(path).ok().flatten()?;
    let device = fstat(&directory).ok()?.st_dev;
    let is_on = |other: &str| {
        let other = root.open_for_reading(other).ok().flatten();
        other.and_then(|other| fstat(&other).ok()).is_some_and(|stat| stat.st_dev == device)
    };
    if earlier.iter().any(|other| is_on(other)) {
        return None;
    }
    let space = space(&directory)?;
    let start = Instant::now();
    let written = if path == "/run" { Ok(()) } else { write(root, &format!("{path}/{PROBE}")) };
    let write = match written {
        Ok(()) => WriteSeen::Done(start.elapsed()),
        Err(error) => WriteSeen::Failed(name(&error)),
    };
    Some((is_on("/"), space, write))
}

/// What is left of the file system of an open file or directory; nothing when the kernel does not say.
pub(crate) fn space(directory: impl AsFd) -> Option<Space> {
    let stat = fstatvfs(directory).ok()?;
    Some(Space {
        bytes: stat.blocks() * stat.fragment_size(),
        free_bytes: stat.blocks_available() * stat.fragment_size(),
        inodes: stat.files(),
        free_inodes: stat.files_available(),
    })
}

/// Creates, writes, syncs and removes a file.
fn write(root: &Root, path: &str) -> Result<(), FileError> {
    let flags = OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW;
    let mut file = root.open_for_writing(path, flags)?;
    let wrote = file.write_all(&[0; 4096]).and_then(|()| file.sync_data());
    let removed = AbsPath::try_from(path).map_or(Ok(()), |path| root.remove(&path));
    wrote.map_err(|source| FileError { action: "write", path: path.to_owned(), source })?;
    removed
}

/// `EROFS` and its like.
fn name(error: &FileError) -> String {
    let number = error.source.raw_os_error().or_else(|| io::Error::last_os_error().raw_os_error());
    number.map_or_else(|| error.source.to_string(), |number| format!("{:?}", Errno::from_raw(number)))
}
