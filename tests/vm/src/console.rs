//! The serial console: QEMU's standard output, collected by a thread, so that waiting for a text is waiting for an event.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ChildStdout;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::VmError;
use crate::lines::{Deadline, Unanswered};

/// Everything the console said so far. Also in `console.log` in the VM's folder.
pub(crate) struct Console {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

struct Shared {
    said: Mutex<Said>,
    more: Condvar,
}

struct Said {
    text: String,
    /// Where each piece that was read starts, and when it came.
    arrivals: Vec<(usize, Duration)>,
    ended: bool,
}

impl Shared {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Console {
    /// Collects `output`, and writes it to the file `log` too.
    pub(crate) fn collect(output: ChildStdout, log: &Path) -> Result<Self, VmError> {
        let file = File::create(log).map_err(VmError::file("create", log))?;
        let said = Said { text: String::new(), arrivals: Vec::new(), ended: false };
        let shared = Arc::new(Shared { said: Mutex::new(said), more: Condvar::new() });
        let writer = Arc::clone(&shared);
        let reader = std::thread::spawn(move || collect(output, file, &writer));
        Ok(Self { shared, reader: Some(reader) })
    }

    /// Everything said so far.
    pub(crate) fn text(&self) -> String {
        self.shared.said().text.clone()
    }

    /// How much was said so far; a start for [`Console::wait_for`].
    pub(crate) fn len(&self) -> usize {
        self.shared.said().text.len()
    }

    /// Waits until `pattern` is said at or after `from`. Returns the time since power-on at which it was.
    pub(crate) fn wait_for(&self, pattern: &str, from: usize, deadline: Deadline) -> Result<Duration, Unanswered> {
        let mut said = self.shared.said();
        loop {
            if let Some(at) = said.text.get(from..).and_then(|text| text.find(pattern)) {
                return Ok(said.arrival(from + at + pattern.len()));
            }
            if said.ended {
                return Err(Unanswered::Closed);
            }
            let left = deadline.left().ok_or(Unanswered::TooLate)?;
            (said, _) = self.shared.more.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join(); // it panicked if at all, and then the console is only incomplete
        }
    }
}

impl Said {
    fn arrival(&self, offset: usize) -> Duration {
        let later = self.arrivals.partition_point(|(start, _)| *start < offset);
        later.checked_sub(1).map_or(Duration::ZERO, |index| self.arrivals[index].1)
    }
}

fn collect(mut output: ChildStdout, mut log: File, shared: &Shared) {
    let start = Instant::now();
    let mut chunk = [0; 4096];
    loop {
        let count = output.read(&mut chunk).unwrap_or(0);
        let mut said = shared.said();
        let length = said.text.len();
        said.arrivals.push((length, start.elapsed()));
        said.text += &String::from_utf8_lossy(&chunk[..count]);
        said.ended = count == 0;
        shared.more.notify_all();
        if count == 0 {
            return;
        }
        drop(said);
        let _ = log.write_all(&chunk[..count]); // the log is for people; the test reads the text
    }
}
