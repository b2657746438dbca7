//! Where log lines go: to standard error, which systemd takes into the journal, and their tail into the report.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
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

/// Target of the one event that tells how a boot ended. Under systemd it goes to the journal with its fields, so that
/// `journalctl F_REASON=ApiServerDnsFailed` finds it on any node; every other line is for people to read.
pub(crate) const OUTCOME: &str = "nap_agent::outcome";

/// Starts logging. `NAP_LOG` takes the filter syntax of tracing-subscriber and overrides `default_level`.
pub(crate) fn start(default_level: &str) -> Tail {
    let tail = Tail::default();
    let filter = EnvFilter::try_from_env("NAP_LOG").unwrap_or_else(|_| EnvFilter::new(default_level));
    let uptime = fmt::time::uptime;
    let kept = fmt::layer().with_writer(tail.clone()).with_ansi(false).with_target(false).with_timer(uptime());
    // systemd sets JOURNAL_STREAM for a unit whose output goes to the journal.
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    let is_outcome = |metadata: &Metadata<'_>| metadata.target() == OUTCOME;
    let journal = under_systemd.then(tracing_journald::layer).and_then(Result::ok);
    let in_journal = journal.is_some();
    let journal = journal.map(|layer| layer.with_filter(filter_fn(is_outcome)));
    let stderr = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let stderr = if in_journal {
        stderr.event_format(ForJournal).with_filter(filter_fn(move |metadata| !is_outcome(metadata))).boxed()
    } else {
        stderr.with_ansi(std::io::stderr().is_terminal()).with_timer(uptime()).boxed()
    };
    tracing_subscriber::registry().with(filter).with(kept).with(journal).with(stderr).init();
    tail
}

/// A line for the journal: systemd's level prefix (sd-daemon(3)) before it, no time, because the journal has its own.
struct ForJournal;

impl<S, N> FormatEvent<S, N> for ForJournal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        write!(writer, "<{level}>")?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
