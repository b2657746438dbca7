//! Runs programs of an image root, in namespaces of their own. unshare and chroot are this machine's.

use std::path::PathBuf;
use std::time::Duration;

use crate::cmd::{Cmd, CmdError};
use crate::root::Root;

const UNSHARE: &str = "/usr/bin/unshare";
const CHROOT: &str = "/usr/sbin/chroot";

/// No network, and killed with its time: also what it started.
const NAMESPACES: [&str; 7] = ["--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts"];

/// Numbers of `nobody` and `nogroup`; the image's names for them do not matter.
const NOBODY: &str = "--userspec=65534:65534";

/// What a program below this root prints. An image's programs are not this machine's: it sees the image as its root, runs as nobody, and can
/// do nothing but tell.
///
/// # Errors
/// When it cannot start, as one for another processor, does not end in time, or exits with anything but 0.
pub async fn ask(root: &Root, program: &str, arguments: &[&str], limit: Duration) -> Result<String, CmdError> {
    let directory = root.outside("/");
    let directory = directory.to_string_lossy();
    let confined = ["--", CHROOT, NOBODY, "--groups=", &directory, program];
    Cmd::new(PathBuf::from(UNSHARE), &[&NAMESPACES, &confined[..], arguments].concat(), limit).output().await
}

/// Runs a program below this root as its root, with a /proc: for images that are made here, of packages that we trust. Only files of the image
/// can be changed by it.
///
/// # Errors
/// When it cannot start, does not end in time, or exits with anything but 0.
pub async fn run(root: &Root, program: &str, arguments: &[&str], limit: Duration) -> Result<String, CmdError> {
    let directory = root.outside("/");
    let directory = directory.to_string_lossy();
    let proc = format!("--mount-proc={}", root.outside("/proc").to_string_lossy());
    let inside = [proc.as_str(), "--", CHROOT, &directory, program];
    Cmd::new(PathBuf::from(UNSHARE), &[&NAMESPACES, &inside[..], arguments].concat(), limit).output().await
}
