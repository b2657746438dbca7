//! A unix socket that QEMU connects to, read line by line with a time limit.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::VmError;

/// The point in time at which a wait is given up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(within: Duration) -> Self {
        Self(Instant::now() + within)
    }

    /// What is left, if anything.
    pub(crate) fn left(self) -> Option<Duration> {
        self.0.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }
}

/// Why what was waited for did not come.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The deadline passed.
    TooLate,
    /// The other side closed the socket: QEMU ended.
    Closed,
    /// There was an answer, and it was a refusal.
    Refused(Box<VmError>),
}

impl From<VmError> for Unanswered {
    fn from(error: VmError) -> Self {
        Self::Refused(Box::new(error))
    }
}

/// A socket that waits for QEMU.
pub(crate) struct Listening {
    path: PathBuf,
    listener: UnixListener,
}

impl Listening {
    pub(crate) fn new(path: &Path) -> Result<Self, VmError> {
        let listener = UnixListener::bind(path).map_err(VmError::file("listen on", path))?;
        Ok(Self { path: path.to_owned(), listener })
    }

    /// Waits until QEMU connects.
    pub(crate) fn accept(self, within: Duration) -> Result<Lines, Unanswered> {
        let (sender, receiver) = mpsc::channel();
        let waiting = std::thread::spawn(move || {
            let accepted = self.listener.accept().map(|(stream, _)| stream);
            let _ = sender.send(accepted); // receiver gone means the wait was given up
        });
        let accepted = receiver.recv_timeout(within);
        if accepted.is_err() {
            let _ = UnixStream::connect(&self.path); // only to end the thread
        }
        waiting.join().map_err(|_| Unanswered::Closed)?;
        let stream = accepted.map_err(|_| Unanswered::TooLate)?.map_err(|_| Unanswered::Closed)?;
        Ok(Lines { stream, buffer: Vec::new() })
    }
}

/// The connected socket.
pub(crate) struct Lines {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next whole line, without its end.
    pub(crate) fn next(&mut self, deadline: Deadline) -> Result<String, Unanswered> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.buffer.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.fill(deadline)?;
        }
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), Unanswered> {
        self.stream.write_all(bytes).map_err(|_| Unanswered::Closed)
    }

    /// Drops all that has come until now, read or not.
    pub(crate) fn forget(&mut self) -> Result<(), Unanswered> {
        self.stream.set_nonblocking(true).map_err(|_| Unanswered::Closed)?;
        let ended = loop {
            match self.fill(Deadline::after(Duration::from_secs(1))) {
                Ok(()) => self.buffer.clear(),
                Err(Unanswered::TooLate) => break Ok(()), // nothing is left
                Err(other) => break Err(other),
            }
        };
        self.buffer.clear();
        self.stream.set_nonblocking(false).map_err(|_| Unanswered::Closed)?;
        ended
    }

    fn fill(&mut self, deadline: Deadline) -> Result<(), Unanswered> {
        let left = deadline.left().ok_or(Unanswered::TooLate)?;
        self.stream.set_read_timeout(Some(left)).map_err(|_| Unanswered::Closed)?;
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(Unanswered::Closed),
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(Unanswered::TooLate)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(_) => Err(Unanswered::Closed),
        }
    }
}
