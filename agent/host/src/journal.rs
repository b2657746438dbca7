//! What we tried: one line of JSON an event, synced before a change begins, so that a crash cannot hide the attempt.
//!
//! The journal remembers; it never decides. Whether a step is done the machine says.

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use nap_model::plan::AbsPath;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::root::{FileError, Root};

/// Where it lies.
pub const PATH: &str = "/var/lib/nap-agent/journal.jsonl";

/// Size at which the journal is moved to [`OLD_PATH`] and begun anew, in bytes.
const MAX_BYTES: usize = 1024 * 1024;

const OLD_PATH: &str = "/var/lib/nap-agent/journal.old.jsonl";

/// What happened to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// It was already as wanted.
    InSync,
    /// It is about to be changed.
    Attempt,
    /// It was changed and checked.
    Changed,
    /// It could not be brought into its state.
    Failed,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// When.
    pub at: Timestamp,
    /// In which boot of the machine.
    pub boot_id: String,
    /// Which of our runs: `boot` or `guard`.
    pub run: String,
    /// Which step.
    pub step: String,
    /// What happened.
    pub event: Event,
    /// What differed, or what went wrong; without secrets.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The journal of one run.
#[derive(Debug)]
pub struct Journal {
    file: Mutex<File>,
    boot_id: String,
    run: &'static str,
}

impl Journal {
    /// Opens it for appending, making it if need be and turning it over when it has grown.
    ///
    /// # Errors
    /// When it cannot be opened; then nothing may be changed either.
    pub fn open(root: &Root, boot_id: &str, run: &'static str) -> Result<Self, FileError> {
        let path = AbsPath::literal(PATH);
        let mut cut = false;
        match root.read(PATH)? {
            Some(bytes) if bytes.len() > MAX_BYTES => {
                root.write(&AbsPath::literal(OLD_PATH), &bytes, 0o600)?;
                root.write(&path, b"", 0o600)?;
            }
            Some(bytes) => cut = bytes.last().is_some_and(|byte| *byte != b'\n'),
            None => root.write(&path, b"", 0o600)?,
        }
        let mut file = root.open_for_writing(PATH, OFlag::O_APPEND)?;
        if cut {
            // A crash cut the last line; the next must not be glued to it.
            file.write_all(b"\n").map_err(|source| FileError { action: "append to", path: PATH.to_owned(), source })?;
        }
        Ok(Self { file: Mutex::new(file), boot_id: boot_id.to_owned(), run })
    }

    /// Appends events; with `sync`, they are on the disk when this returns.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(&self, events: &[(String, Event, String)], sync: bool) -> Result<(), FileError> {
        let at = Timestamp::now();
        let mut text = String::new();
        for (step, event, detail) in events {
            let line = Line {
                at,
                boot_id: self.boot_id.clone(),
                run: self.run.to_owned(),
                step: step.clone(),
                event: *event,
                detail: detail.clone(),
            };
            text += &serde_json::to_string(&line).expect("a line has only texts and a time");
            text.push('\n');
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = file.write_all(text.as_bytes()).and_then(|()| if sync { file.sync_data() } else { Ok(()) });
        written.map_err(|source| FileError { action: "append to", path: PATH.to_owned(), source })
    }
}

/// All lines that can be read. A crash may have cut one, and a power cut may have left zeroes where a line was not synced.
///
/// # Errors
/// When the journal is there and cannot be read.
pub fn read(root: &Root) -> Result<Vec<Line>, FileError> {
    let bytes = root.read(PATH)?.unwrap_or_default();
    Ok(bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_left_does_not_hide_the_other_lines() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let journal = Journal::open(&root, "b", "boot").unwrap();
        journal
            .write(&[("a".into(), Event::Attempt, "x".into()), ("a".into(), Event::Changed, String::new())], true)
            .unwrap();
        let path = directory.path().join("var/lib/nap-agent/journal.jsonl");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend(b"\0\0\0\n{\"at\":\"2026\xc3"); // zeroes, and the first half of a letter
        std::fs::write(&path, bytes).unwrap();
        let events: Vec<_> = read(&root).unwrap().iter().map(|line| line.event).collect();
        assert_eq!(events, [Event::Attempt, Event::Changed]);
        let journal = Journal::open(&root, "b", "guard").unwrap();
        journal.write(&[("b".into(), Event::Attempt, String::new())], true).unwrap();
        assert_eq!(read(&root).unwrap().len(), 3);
    }

    #[test]
    fn a_grown_journal_is_turned_over() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        root.write(&AbsPath::literal(PATH), &vec![b'x'; MAX_BYTES + 1], 0o600).unwrap();
        Journal::open(&root, "b", "boot").unwrap();
        assert_eq!(root.read(PATH).unwrap().unwrap().len(), 0);
        assert_eq!(root.read(OLD_PATH).unwrap().unwrap().len(), MAX_BYTES + 1);
    }
}
