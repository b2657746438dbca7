//! A directory that was made as a copy of another: beside, synced, renamed.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nap_model::plan::AbsPath;
use thiserror::Error;

use crate::checkpoint;
use crate::cmd::{Cmd, CmdError};
use crate::root::{FileError, Kind, Root};
use crate::units::{UnitError, Units};

/// Time for copying what a plan lets be copied, from a slow remote disk.
const COPY_LIMIT: Duration = Duration::from_secs(240);

/// Longest stop of a service that writes to what is to be copied.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Why a directory was not copied.
#[derive(Debug, Error)]
pub enum CopyError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The program failed.
    #[error(transparent)]
    Cmd(#[from] CmdError),
    /// Who writes there cannot be stopped.
    #[error(transparent)]
    Unit(#[from] UnitError),
}

/// How the machine differs.
///
/// # Errors
/// When the kernel does not say.
pub(crate) fn difference(root: &Root, from: &AbsPath, to: &AbsPath) -> Result<Option<String>, FileError> {
    Ok(match root.target(to)? {
        Some(entry) if entry.kind == Kind::Directory => None,
        Some(_) => Some(format!("{to} is no directory")),
        None => Some(format!("copy {from} to {to}")),
    })
}

/// Copies. Owners, modes, links, holes, extended attributes and devices (overlayfs' whiteouts) are cp's to keep: of the programs that
/// every image has it is the one that does, and there is no library for it.
pub(crate) async fn copy(
    root: &Root,
    (from, to): (&AbsPath, &AbsPath),
    mode: u32,
    without: Option<&'static str>,
    stopped: Option<&'static str>,
) -> Result<(), CopyError> {
    if root.names(from.as_str())?.is_empty() {
        return Ok(root.make_directory(to, mode)?);
    }
    if let Some(unit) = stopped {
        stop(root, unit).await?;
    }
    let beside = format!("{to}.nap-agent");
    let wrap = |action: &'static str| {
        let path = beside.clone();
        move |source: io::Error| FileError { action, path, source }
    };
    let (parent, _) = to.as_str().rsplit_once('/').unwrap_or_default();
    root.make_directories(parent)?;
    // What a killed run left.
    remove(root, &beside).map_err(wrap("remove"))?;
    let (source, target) = (root.outside(from.as_str()), root.outside(&beside));
    let arguments = ["--archive", "--one-file-system", "--no-target-directory", "--"];
    let paths = [source.to_string_lossy().into_owned(), target.to_string_lossy().into_owned()];
    let arguments: Vec<&str> = arguments.into_iter().chain(paths.iter().map(String::as_str)).collect();
    Cmd::new(root.outside("/usr/bin/cp"), &arguments, COPY_LIMIT).output().await?;
    checkpoint::pass("directory copied");
    if let Some(name) = without {
        remove(root, &format!("{beside}/{name}")).map_err(wrap("leave out a part of"))?;
    }
    let place = AbsPath::try_from(beside.as_str()).map_err(|error| wrap("name")(io::Error::other(error)))?;
    root.make_directory(&place, mode)?;
    let synced = fs::File::open(&target).and_then(|directory| Ok(nix::unistd::syncfs(directory.as_fd())?));
    synced.map_err(wrap("sync"))?;
    fs::rename(&target, root.outside(to.as_str())).map_err(wrap("rename"))?;
    let parent = fs::File::open(root.outside(parent)).and_then(|directory| directory.sync_all());
    Ok(parent.map_err(wrap("sync the directory of"))?)
}

async fn stop(root: &Root, unit: &str) -> Result<(), UnitError> {
    let units = match Units::connect(root).await {
        Ok(units) => units,
        // No systemd, no services.
        Err(UnitError::Connect { .. }) if !root.is_machine() => return Ok(()),
        Err(error) => return Err(error),
    };
    if units.status(unit).await?.is_started() { units.stop(unit, STOP_LIMIT).await } else { Ok(()) }
}

fn remove(root: &Root, path: &str) -> io::Result<()> {
    match fs::remove_dir_all(root.outside(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    const FROM: &str = "/var/lib/kubelet";
    const TO: &str = "/var/lib/ephemeral/kubelet";

    /// A root whose `cp` is this machine's.
    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("usr/bin")).unwrap();
        fs::copy("/usr/bin/cp", directory.path().join("usr/bin/cp")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        (directory, root)
    }

    async fn copied(root: &Root, without: Option<&'static str>) {
        assert!(difference(root, &AbsPath::literal(FROM), &AbsPath::literal(TO)).unwrap().is_some());
        copy(root, (&AbsPath::literal(FROM), &AbsPath::literal(TO)), 0o750, without, None).await.unwrap();
        assert_eq!(difference(root, &AbsPath::literal(FROM), &AbsPath::literal(TO)).unwrap(), None);
        let mode = fs::metadata(root.outside(TO)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o750);
    }

    #[tokio::test]
    async fn what_is_there_goes_along_and_a_part_may_stay() {
        let (directory, root) = root();
        let from: &Path = &directory.path().join("var/lib/kubelet");
        fs::create_dir_all(from.join("pki")).unwrap();
        fs::write(from.join("pki/key"), "secret").unwrap();
        fs::write(from.join("config"), "x").unwrap();
        fs::set_permissions(from.join("config"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink("config", from.join("link")).unwrap();
        // Half of an earlier copy.
        fs::create_dir_all(directory.path().join("var/lib/ephemeral/kubelet.nap-agent/old")).unwrap();
        copied(&root, Some("pki")).await;
        assert_eq!(root.names(TO).unwrap(), ["config", "link"]);
        assert_eq!(root.names("/var/lib/ephemeral").unwrap(), ["kubelet"]);
        assert_eq!(fs::read_link(root.outside(TO).join("link")).unwrap(), Path::new("config"));
        assert_eq!(root.names("/var/lib/kubelet").unwrap(), ["config", "link", "pki"], "the original stays");
    }

    #[tokio::test]
    async fn nothing_to_copy_is_an_empty_directory() {
        let (_directory, root) = root();
        copied(&root, None).await;
        assert_eq!(root.names(TO).unwrap(), [""; 0]);
    }
}
