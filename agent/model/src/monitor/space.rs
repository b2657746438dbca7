//! File systems that are full, in bytes or in inodes. Facts: catalogue F13, F14, F16. kubelet evicts pods for it, so this never replaces a node.

use super::{
    Class, Fault, FilesystemSeen, Monitor, Outcome, Reading, Seen, Signal, Subsystem, WriteSeen, at_least, degrading,
    seconds, signal,
};

/// Full from here on, in percent used. kubelet evicts from 85 to 90 on, so it has had its chance.
pub(super) const FULL_PERCENT: f64 = 95.0;

/// The same for inodes.
const INODES_PERCENT: f64 = 97.0;

static FULL: Fault = degrading(
    "DiskFull",
    Subsystem::Storage,
    "A file system that the node needs is full.",
    "`df -h` and `du -xh --max-depth=2` show who filled it.",
);
static NO_INODES: Fault = degrading(
    "InodesExhausted",
    Subsystem::Storage,
    "A file system that the node needs has no inodes left, whatever `df -h` says.",
    "`df -i`; look for a directory with very many small files.",
);

static SPACE: Signal = signal("space.free", &FULL, Class::Counter, (3, 3), seconds(20), 3);
static NO_SPACE: Signal = signal("write.probe", &FULL, Class::Probe, (2, 2), seconds(10), 3);
static INODES: Signal = signal("inodes.free", &NO_INODES, Class::Counter, (3, 3), seconds(20), 3);

pub(super) const MONITOR: Monitor = Monitor { signals: &[&SPACE, &NO_SPACE, &INODES], read };

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    for FilesystemSeen { path, space, write, .. } in &seen.now.filesystems {
        let mut say = |signal, outcome| readings.push(Reading { signal, target: path.clone(), outcome });
        if let Some(space) = space {
            let bytes = percent_used(space.free_bytes, space.bytes);
            let inodes = percent_used(space.free_inodes, space.inodes);
            for (signal, used, limit) in [(&SPACE, bytes, FULL_PERCENT), (&INODES, inodes, INODES_PERCENT)] {
                if let Some(outcome) = at_least(used, limit, || format!("more than {limit} % used")) {
                    say(signal, outcome);
                } else if used < limit - 2.0 {
                    // Four fifths of full would be far too low to call good.
                    say(signal, Outcome::Good);
                }
            }
        }
        match write {
            // Out of space with bytes left is out of inodes; that has its own row.
            Some(WriteSeen::Failed(error)) if error == "ENOSPC" || error == "EDQUOT" => {
                let has_inodes = space.is_none_or(|space| space.inodes == 0 || space.free_inodes > 0);
                if has_inodes {
                    say(&NO_SPACE, Outcome::Bad(format!("the write probe got {error}")));
                }
            }
            Some(WriteSeen::Done(_)) => say(&NO_SPACE, Outcome::Good),
            _ => {}
        }
    }
}

pub(super) fn percent_used(free: u64, size: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a percentage needs no 53 bits")]
    if size == 0 { 0.0 } else { 100.0 - 100.0 * (free as f64 / size as f64) }
}
