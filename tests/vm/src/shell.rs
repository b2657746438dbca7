//! The root shell on the guest's second serial port. The other end is `image/tree/usr/lib/nap-vm/shell`.

use std::io::Read;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;

use crate::VmError;
use crate::lines::{Deadline, Lines, Unanswered};

/// The guest's tty drops what overflows its buffer, and nothing tells the sender.
const MAX_LINE_BYTES: usize = 32 * 1024;

/// What a command in the guest said and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit status; 124 when it ran out of time.
    pub status: i32,
    /// Standard output and standard error, as they came.
    pub text: String,
}

/// The connection to the shell. It outlives reboots of the guest.
pub(crate) struct Shell {
    lines: Lines,
    boot_id: Option<String>,
    sent: u64,
}

/// One line of the guest's protocol.
enum Line {
    Ready(String),
    Begin(u64),
    End(u64, i32),
    Text(String),
}

impl Shell {
    pub(crate) fn new(lines: Lines) -> Self {
        Self { lines, boot_id: None, sent: 0 }
    }

    /// The boot id of the guest, once the shell has reported.
    pub(crate) fn boot_id(&self) -> Option<&str> {
        self.boot_id.as_deref()
    }

    /// The guest was reset: what it reported is no longer so, and what nobody has read yet never was of interest.
    pub(crate) fn forget_boot(&mut self) -> Result<(), Unanswered> {
        self.boot_id = None;
        self.lines.forget()
    }

    /// Waits until the shell of the current boot has reported.
    pub(crate) fn wait_ready(&mut self, deadline: Deadline) -> Result<(), Unanswered> {
        while self.boot_id.is_none() {
            self.line(deadline)?;
        }
        Ok(())
    }

    /// Runs a command by bash.
    pub(crate) fn run(&mut self, command: &str, within: Duration) -> Result<Output, Unanswered> {
        // The guest's own limit is the shorter one, so that the shell is free again for what comes after.
        let deadline = Deadline::after(within + Duration::from_secs(20));
        self.wait_ready(deadline)?;
        let id = self.send(command, within)?;
        self.answer(id, command, deadline)
    }

    /// Sends a command after which no answer can be expected: the guest goes down.
    pub(crate) fn post(&mut self, command: &str, within: Duration) -> Result<(), Unanswered> {
        self.wait_ready(Deadline::after(within))?;
        self.send(command, within).map(|_| ())
    }

    fn send(&mut self, command: &str, within: Duration) -> Result<u64, Unanswered> {
        self.sent += 1;
        let line = format!("{} {} {}\n", self.sent, within.as_secs().max(1), STANDARD.encode(command));
        if line.len() > MAX_LINE_BYTES {
            return Err(VmError::CommandTooLong { bytes: line.len() }.into());
        }
        self.lines.send(line.as_bytes())?;
        Ok(self.sent)
    }

    fn answer(&mut self, id: u64, command: &str, deadline: Deadline) -> Result<Output, Unanswered> {
        let mut encoded = String::new();
        let mut begun = false;
        loop {
            match self.line(deadline)? {
                Line::Ready(_) => return Err(VmError::Restarted { command: command.to_owned() }.into()),
                Line::Begin(of) => begun = of == id,
                Line::Text(text) if begun => encoded += &text,
                Line::End(of, status) if of == id => return Ok(decode(&encoded, status, command)?),
                // The rest of an answer that nobody waited for any more.
                Line::Text(_) | Line::End(..) => {}
            }
        }
    }

    fn line(&mut self, deadline: Deadline) -> Result<Line, Unanswered> {
        let line = parse(self.lines.next(deadline)?);
        if let Line::Ready(boot_id) = &line {
            self.boot_id = Some(boot_id.clone());
        }
        Ok(line)
    }
}

fn parse(line: String) -> Line {
    let words: Vec<_> = line.split_whitespace().collect();
    match words[..] {
        ["nap-ready", boot_id] => Line::Ready(boot_id.to_owned()),
        ["nap-begin", id] => id.parse().map_or(Line::Text(line.clone()), Line::Begin),
        ["nap-end", id, status] => match (id.parse(), status.parse()) {
            (Ok(id), Ok(status)) => Line::End(id, status),
            _ => Line::Text(line),
        },
        _ => Line::Text(line),
    }
}

fn decode(encoded: &str, status: i32, command: &str) -> Result<Output, VmError> {
    let garbled = |source| VmError::Garbled { command: command.to_owned(), source };
    let compressed = STANDARD.decode(encoded).map_err(|error| garbled(std::io::Error::other(error)))?;
    let mut bytes = Vec::new();
    GzDecoder::new(&compressed[..]).read_to_end(&mut bytes).map_err(garbled)?;
    Ok(Output { status, text: String::from_utf8_lossy(&bytes).into_owned() })
}
