//! What can go wrong when a VM is built, started or talked to.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why the image, the disk or the VM did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// A file or socket of ours could not be used.
    #[error("cannot {action} {path}")]
    File {
        /// What we were doing, as a verb.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("cannot start {program}; tests/vm/setup.sh installs what the VM needs")]
    Start {
        /// Its name.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program said that it failed, or ran out of time.
    #[error("{command} failed ({status}): {output}")]
    Program {
        /// Program and arguments.
        command: String,
        /// Exit status.
        status: String,
        /// The end of its standard error.
        output: String,
    },
    /// debugfs did not put something on the disk.
    #[error("{path} is not on the disk as it was meant to be: wanted {wanted}, found {found}")]
    NotWritten {
        /// Path in the guest.
        path: String,
        /// Mode and size, or target.
        wanted: String,
        /// What debugfs showed instead.
        found: String,
    },
    /// A binary that the VM needs has not been built.
    #[error("{name} is not built: looked for {looked_in:?}. Run `cargo build --release` for it first, or `make`")]
    NotBuilt {
        /// File name of the binary.
        name: String,
        /// Every path that was tried.
        looked_in: Vec<PathBuf>,
    },
    /// The VM did not do something in time.
    #[error("no {what} within {within:?}; last lines of the console:\n{console}")]
    TooLate {
        /// What was waited for.
        what: String,
        /// For how long.
        within: Duration,
        /// The end of the serial console.
        console: String,
    },
    /// QEMU ended, or closed a socket, while we wanted something from it.
    #[error("QEMU ended while waiting for {what}: {qemu}\nlast lines of the console:\n{console}")]
    Ended {
        /// What was waited for.
        what: String,
        /// What QEMU wrote to its standard error.
        qemu: String,
        /// The end of the serial console.
        console: String,
    },
    /// QEMU's monitor refused a command.
    #[error("QEMU's monitor refused {command}: {reply}")]
    Monitor {
        /// The QMP command.
        command: String,
        /// Its answer.
        reply: String,
    },
    /// The guest went down or was reset while a command ran in it.
    #[error("the guest restarted while it ran: {command}")]
    Restarted {
        /// The shell command.
        command: String,
    },
    /// The shell in the guest answered something that is no answer.
    #[error("the guest's shell answered nonsense to: {command}")]
    Garbled {
        /// The shell command.
        command: String,
        /// Why it could not be decoded.
        #[source]
        source: io::Error,
    },
    /// A command is too long for the serial line's buffer.
    #[error("a command of {bytes} bytes is too long for the guest's serial line")]
    CommandTooLong {
        /// Length as it would go over the line.
        bytes: usize,
    },
}

impl VmError {
    /// For `map_err`: the error of doing `action` with `path`.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
