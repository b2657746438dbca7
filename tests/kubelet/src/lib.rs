//! What the pretend kubelet and the pretend containerd share: where files are, what they log, and how they talk to the
//! service manager. Both are small and strict: what the real programs refuse, these refuse.

pub mod corefile;

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where absolute paths lead: below `PRETEND_ROOT`, or to the machine itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Root(Option<PathBuf>);

impl Root {
    /// The root that the environment names.
    #[must_use]
    pub fn from_env() -> Self {
        Self(std::env::var_os("PRETEND_ROOT").filter(|root| !root.is_empty()).map(PathBuf::from))
    }

    /// A scratch root.
    #[must_use]
    pub fn scratch(root: &Path) -> Self {
        Self(Some(root.to_owned()))
    }

    /// Whether this is not the machine itself.
    #[must_use]
    pub fn is_scratch(&self) -> bool {
        self.0.is_some()
    }

    /// The real place of a path.
    #[must_use]
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        match &self.0 {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }
}

/// Writes a line for the journal.
#[expect(clippy::print_stderr, reason = "the service manager collects standard error")]
pub fn log(message: &str) {
    eprintln!("{message}");
}

/// Writes a line that was asked for.
#[expect(clippy::print_stdout, reason = "the answer to --version belongs on standard output")]
pub fn answer(message: &str) {
    println!("{message}");
}

/// Sends a state such as `READY=1`, when a service manager asked for it.
///
/// # Errors
/// When the service manager's socket takes no message.
pub fn notify(state: &str) -> io::Result<()> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(OsStr::from_bytes(name.as_bytes()))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// Sends signs of life at half of the service manager's limit, when it set one.
///
/// # Errors
/// When the service manager's socket takes no message.
pub async fn feed_watchdog() -> io::Result<Infallible> {
    let Some(every) = watchdog_interval() else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        notify("WATCHDOG=1")?;
    }
}

fn watchdog_interval() -> Option<Duration> {
    let microseconds: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    let ours = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
    (ours && microseconds > 1).then(|| Duration::from_micros(microseconds / 2))
}
