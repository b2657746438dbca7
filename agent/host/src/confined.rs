//! Asks a program of an image root for a word, and lets it do nothing else.
//!
//! An image's programs are not this machine's: they see the image as their root, run as nobody, without network, in namespaces of
//! their own, and are killed with their time. unshare and chroot are this machine's.

use std::path::PathBuf;
use std::time::Duration;

use crate::cmd::{Cmd, CmdError};
use crate::root::Root;

const UNSHARE: &str = "/usr/bin/unshare";
const CHROOT: &str = "/usr/sbin/chroot";

/// Numbers of `nobody` and `nogroup`; the image's names for them do not matter.
const NOBODY: &str = "--userspec=65534:65534";

/// What a program below this root prints.
///
/// # Errors
/// When it cannot start, as one for another processor, does not end in time, or exits with anything but 0.
pub async fn ask(root: &Root, program: &str, arguments: &[&str], limit: Duration) -> Result<String, CmdError> {
    let directory = root.outside("/");
    let directory = directory.to_string_lossy();
    let namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts"];
    let confined = ["--", CHROOT, NOBODY, "--groups=", &directory, program];
    Cmd::new(PathBuf::from(UNSHARE), &[&namespaces, &confined[..], arguments].concat(), limit).output().await
}
