//! Where log lines go: to the journal under systemd, to standard error by hand, and their tail into the report.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// Log lines that are kept for the report.
const KEPT_LINES: usize = 60;

/// The last log lines of this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    /// The lines, oldest first.
    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(String::as_str).collect()
    }
}

impl Write for Tail {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(String::from_utf8_lossy(line).into_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Tail {
    type Writer = Tail;

    fn make_writer(&self) -> Tail {
        self.clone()
    }
}

/// Starts logging. `NAP_LOG` takes the filter syntax of tracing-subscriber and overrides `default_level`.
pub(crate) fn start(default_level: &str) -> Tail {
    let tail = Tail::default();
    let filter = EnvFilter::try_from_env("NAP_LOG").unwrap_or_else(|_| EnvFilter::new(default_level));
    let kept =
        fmt::layer().with_writer(tail.clone()).with_ansi(false).with_target(false).with_timer(fmt::time::uptime());
    // systemd sets JOURNAL_STREAM for a unit whose output goes to the journal; then fields go there as fields.
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    let journal = under_systemd.then(tracing_journald::layer).and_then(Result::ok);
    let stderr = journal.is_none().then(|| {
        fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .with_timer(fmt::time::uptime())
            .boxed()
    });
    tracing_subscriber::registry().with(filter).with(kept).with(journal).with(stderr).init();
    tail
}
