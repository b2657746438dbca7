//! What goes on, for whoever watches: one line that changes on a terminal, plain lines in a pipe.

use std::future::Future;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::{Instant, interval_at};

/// Where words about the work go: standard error, so that results can be piped.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
}

impl Progress {
    /// As standard error is.
    pub fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal() }
    }

    /// What is done just now.
    pub fn now(&self, text: &str) {
        if self.terminal { self.write(&format!("\r\x1b[K{text}")) } else { self.write(&format!("{text}\n")) }
    }

    /// What is done just now, until it is: says how long it has taken, on a terminal every second and in a pipe every fifteen.
    pub async fn during<T>(&self, text: &str, work: impl Future<Output = T>) -> T {
        self.now(text);
        let start = Instant::now();
        let mut tick = interval_at(start, Duration::from_secs(if self.terminal { 1 } else { 15 }));
        tokio::pin!(work);
        loop {
            // Neither is lost when the other is taken: the work goes on where it was, and a tick says nothing that matters.
            tokio::select! {
                result = &mut work => return result,
                _ = tick.tick() => {
                    let seconds = start.elapsed().as_secs();
                    if seconds > 0 {
                        self.now(&format!("{text} ({seconds} s)"));
                    }
                }
            }
        }
    }

    /// A line that stays.
    pub fn say(&self, text: &str) {
        if self.terminal { self.write(&format!("\r\x1b[K{text}\n")) } else { self.write(&format!("{text}\n")) }
    }

    /// Takes the line of [`Progress::now`] away.
    pub fn end(&self) {
        if self.terminal {
            self.write("\r\x1b[K");
        }
    }

    fn write(&self, text: &str) {
        let mut stderr = std::io::stderr().lock();
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()); // nobody watches: nobody needs to know
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}
