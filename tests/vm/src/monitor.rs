//! QEMU's monitor (QMP): commands, and the events that tell of resets and shutdowns.

use std::collections::VecDeque;

use serde_json::{Value, json};

use crate::VmError;
use crate::lines::{Deadline, Lines, Unanswered};

/// The connected monitor.
pub(crate) struct Monitor {
    lines: Lines,
    events: VecDeque<String>,
}

impl Monitor {
    /// Greets QEMU on the freshly connected socket.
    pub(crate) fn greet(lines: Lines, deadline: Deadline) -> Result<Self, Unanswered> {
        let mut monitor = Self { lines, events: VecDeque::new() };
        monitor.execute("qmp_capabilities", &json!({}), deadline)?;
        Ok(monitor)
    }

    /// Runs a command.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value, deadline: Deadline) -> Result<(), Unanswered> {
        self.lines.send(format!("{}\n", json!({ "execute": command, "arguments": arguments })).as_bytes())?;
        loop {
            let message = self.message(deadline)?;
            if message.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = message.get("error") {
                let (command, reply) = (command.to_owned(), error.to_string());
                return Err(VmError::Monitor { command, reply }.into());
            }
        }
    }

    /// Waits for an event of this name that was not waited for yet.
    pub(crate) fn wait_for(&mut self, event: &str, deadline: Deadline) -> Result<(), Unanswered> {
        loop {
            while let Some(name) = self.events.pop_front() {
                if name == event {
                    return Ok(());
                }
            }
            self.message(deadline)?;
        }
    }

    /// Reads until QEMU closes the monitor, which it does when it ends.
    pub(crate) fn wait_for_end(&mut self, deadline: Deadline) -> Result<(), Unanswered> {
        loop {
            match self.lines.next(deadline) {
                Ok(_) => {}
                Err(Unanswered::Closed) => return Ok(()),
                Err(other) => return Err(other),
            }
        }
    }

    /// Events of before are not of interest any more.
    pub(crate) fn forget_events(&mut self) {
        self.events.clear();
    }

    fn message(&mut self, deadline: Deadline) -> Result<Value, Unanswered> {
        let line = self.lines.next(deadline)?;
        let message: Value = serde_json::from_str(&line).unwrap_or_default();
        if let Some(event) = message.get("event").and_then(Value::as_str) {
            self.events.push_back(event.to_owned());
        }
        Ok(message)
    }
}
