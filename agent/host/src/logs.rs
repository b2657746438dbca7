//! The last lines of a unit in systemd's journal, as evidence.

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
