//! Lines of systemd's journal, as evidence.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use systemd::journal::OpenOptions;
use tracing::debug;

/// The last `count` lines of a unit in this boot, oldest first; none when the journal cannot be read.
pub fn last_lines(unit: &str, boot_id: &str, count: usize) -> Vec<String> {
    match read(unit, boot_id, count) {
        Ok(lines) => lines,
        Err(error) => {
            // Evidence is welcome and never a reason to fail.
            debug!(unit, error = %error, "cannot read the journal");
            Vec::new()
        }
    }
}

fn read(unit: &str, boot_id: &str, count: usize) -> systemd::Result<Vec<String>> {
    let mut journal = OpenOptions::default().system(true).local_only(true).open()?;
    journal.match_add("_SYSTEMD_UNIT", unit)?;
    journal.match_and()?;
    journal.match_add("_BOOT_ID", boot_id.replace('-', ""))?;
    journal.seek_tail()?;
    let mut lines = Vec::new();
    while lines.len() < count {
        let Some(entry) = journal.previous_entry()? else { break };
        lines.extend(entry.get("MESSAGE").cloned());
    }
    lines.reverse();
    Ok(lines)
}

/// What everybody wrote within a time before now, oldest first: so many bytes of it, the newest.
///
/// # Errors
/// When the journal cannot be read.
pub fn newest(window: Duration, max_bytes: usize) -> systemd::Result<String> {
    let mut journal = OpenOptions::default().system(true).local_only(true).open()?;
    journal.seek_tail()?;
    let since = SystemTime::now().checked_sub(window).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut lines = Vec::new();
    let mut bytes = 0;
    while bytes < max_bytes {
        let Some(entry) = journal.previous_entry()? else { break };
        let at = journal.timestamp()?;
        if at < since {
            break;
        }
        let field = |name: &str| entry.get(name).map(String::as_str);
        let who = field("SYSLOG_IDENTIFIER").or(field("_COMM")).unwrap_or("?");
        let at = Timestamp::try_from(at).unwrap_or_default(); // before the year -9999
        let line = format!("{at:.3} {who}[{}]: {}\n", field("_PID").unwrap_or("?"), field("MESSAGE").unwrap_or("?"));
        bytes += line.len();
        lines.push(line);
    }
    lines.reverse();
    Ok(lines.concat())
}
