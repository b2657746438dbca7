//! Can we still write? Facts: catalogue F01 to F04, F12, and 6.1.
//!
//! Newer kernels show a file system that went read-only by an error in no flag, and XFS shows a shutdown nowhere. So a small file is
//! written, synced and removed, by a thread of its own. Its word is the kernel's own and proves the fault.

use std::time::Duration;

use super::{
    Class, Fault, FilesystemSeen, Monitor, Outcome, Reading, Scope, Seen, Signal, Subsystem, Verdict, WriteSeen,
    degrading, minutes, seconds, signal,
};

/// A write that takes longer is slow; an ordinary one takes milliseconds.
const SLOW: Duration = seconds(10);

/// A write that has not ended by now hangs, however busy the machine is.
const HANGS: Duration = seconds(60);

/// ext4 counts its errors in the superblock; one that stopped counting half an hour ago is history.
const ERRORS_WINDOW: Duration = minutes(30);

const fn broken(reason: &'static str, worst: Verdict, persist: Duration, meaning: &'static str) -> Fault {
    Fault {
        reason,
        subsystem: Subsystem::Storage,
        worst,
        scope: Scope::Local,
        persist,
        explained_by: &[],
        meaning,
        hint: "The kernel says why: `journalctl -k | grep -iE 'ext4|xfs|btrfs|I/O error'`. A file system that failed needs an unmount and a check.",
    }
}

static ROOT_READ_ONLY: Fault = broken(
    "RootFilesystemReadOnly",
    Verdict::NeedsReboot,
    minutes(1),
    "The root file system refuses to be written: it went read-only after an error.",
);
static DATA_READ_ONLY: Fault = broken(
    "DataFilesystemReadOnly",
    Verdict::NeedsReplacement,
    minutes(2),
    "A file system that kubelet or containerd needs refuses to be written.",
);
static ROOT_FAILING: Fault = broken(
    "RootFilesystemFailing",
    Verdict::NeedsReboot,
    minutes(2),
    "Writing to the root file system fails with an I/O error.",
);
static DATA_FAILING: Fault = broken(
    "DataFilesystemFailing",
    Verdict::NeedsReplacement,
    minutes(2),
    "Writing to a file system that kubelet or containerd needs fails with an I/O error.",
);
static STALLED: Fault = Fault {
    hint: "A frozen file system (`fsfreeze`), a dead remote disk, or a limit on I/O: look at /proc/pressure/io and /sys/block/*/inflight.",
    ..broken("DiskStalled", Verdict::NeedsReboot, minutes(5), "A small write does not come to an end.")
};
static SLOW_WRITES: Fault = Fault {
    explained_by: &["DiskStalled"],
    ..degrading(
        "DiskSlow",
        Subsystem::Storage,
        "A small write takes more than ten seconds, on a machine that has processors and memory to spare.",
        "Look at /proc/pressure/io, `iostat -x`, and the limits of the disk and the VM size.",
    )
};
static ERRORS: Fault = Fault {
    explained_by: &[
        "RootFilesystemReadOnly",
        "DataFilesystemReadOnly",
        "RootFilesystemFailing",
        "DataFilesystemFailing",
    ],
    ..degrading(
        "FilesystemErrors",
        Subsystem::Storage,
        "ext4 found errors in a file system that is still written to.",
        "`journalctl -k | grep EXT4-fs`; the file system needs e2fsck.",
    )
};

const fn refusal(fault: &'static Fault) -> Signal {
    Signal { is_authoritative: true, ..signal("write.probe", fault, Class::Probe, (2, 2), seconds(5), 5) }
}
static ROOT_READ_ONLY_WRITE: Signal = refusal(&ROOT_READ_ONLY);
static DATA_READ_ONLY_WRITE: Signal = refusal(&DATA_READ_ONLY);
static ROOT_FAILING_WRITE: Signal = refusal(&ROOT_FAILING);
static DATA_FAILING_WRITE: Signal = refusal(&DATA_FAILING);
// One write that ended disproves both.
static STALLED_WRITE: Signal = signal("write.probe", &STALLED, Class::Probe, (3, 4), seconds(10), 1);
static STALLED_TASKS: Signal = signal("tasks.stuck", &STALLED, Class::Kernel, (2, 2), seconds(20), 1);
static SLOW_WRITE: Signal = signal("write.probe", &SLOW_WRITES, Class::Probe, (4, 6), seconds(20), 3);
static ERRORS_COUNT: Signal = signal("ext4.errors", &ERRORS, Class::Counter, (1, 1), seconds(10), 3);

pub(super) const MONITOR: Monitor = Monitor {
    signals: &[
        &ROOT_READ_ONLY_WRITE,
        &DATA_READ_ONLY_WRITE,
        &ROOT_FAILING_WRITE,
        &DATA_FAILING_WRITE,
        &STALLED_WRITE,
        &STALLED_TASKS,
        &SLOW_WRITE,
        &ERRORS_COUNT,
    ],
    read,
};

/// Counter of a device's ext4 errors.
const EXT4_ERRORS: &str = "ext4.errors/";

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    for filesystem in &seen.now.filesystems {
        if let Some(write) = &filesystem.write {
            read_write(seen, filesystem, write, readings);
        }
    }
    for name in seen.now.counters.keys() {
        let Some(device) = name.strip_prefix(EXT4_ERRORS) else { continue };
        let grown = seen.history.growth(name, ERRORS_WINDOW).unwrap_or_default();
        // How many is in the counter; here it would change the text at each.
        let outcome = if grown == 0 { Outcome::Good } else { Outcome::Bad("errors_count grew".to_owned()) };
        readings.push(Reading { signal: &ERRORS_COUNT, target: device.to_owned(), outcome });
    }
}

fn read_write(seen: Seen<'_>, filesystem: &FilesystemSeen, write: &WriteSeen, readings: &mut Vec<Reading>) {
    let mut say = |signal, outcome| readings.push(Reading { signal, target: filesystem.path.clone(), outcome });
    let (read_only, failing) = if filesystem.is_root {
        (&ROOT_READ_ONLY_WRITE, &ROOT_FAILING_WRITE)
    } else {
        (&DATA_READ_ONLY_WRITE, &DATA_FAILING_WRITE)
    };
    if let WriteSeen::Hanging(time) = write {
        let text =
            format!("a small write has not ended after {} s", if *time < HANGS { SLOW } else { HANGS }.as_secs());
        say(
            &STALLED_WRITE,
            match time {
                time if *time >= HANGS => Outcome::Bad(text),
                _ if seen.is_strained() => Outcome::Unknown(text),
                time if *time >= SLOW => Outcome::Bad(text),
                _ => return,
            },
        );
        // Our own thread is one of them; the host leaves its tasks out.
        if let Some(tasks) = &seen.now.stuck_tasks {
            say(
                &STALLED_TASKS,
                tasks.first().map_or(Outcome::Good, |(name, _)| Outcome::Bad(format!("{name} waits, too"))),
            );
        }
        return;
    }
    say(&STALLED_WRITE, Outcome::Good);
    say(&STALLED_TASKS, Outcome::Good);
    say(
        &SLOW_WRITE,
        match write {
            WriteSeen::Done(took) if *took >= SLOW && seen.is_slow_itself() => {
                Outcome::Unknown("slow on a machine that is slow itself".to_owned())
            }
            WriteSeen::Done(took) if *took >= SLOW => {
                Outcome::Bad(format!("a small write took more than {} s", SLOW.as_secs()))
            }
            _ => Outcome::Good,
        },
    );
    let (is_read_only, is_failing) = match write {
        WriteSeen::Failed(error) if error == "EROFS" => (Some(error), None),
        // EUCLEAN: the file system found itself damaged. ENODEV, ENXIO: the disk is gone.
        WriteSeen::Failed(error) if matches!(error.as_str(), "EIO" | "EUCLEAN" | "ENODEV" | "ENXIO" | "ESHUTDOWN") => {
            (None, Some(error))
        }
        _ => (None, None),
    };
    for (signal, error) in [(read_only, is_read_only), (failing, is_failing)] {
        say(signal, error.map_or(Outcome::Good, |error| Outcome::Bad(format!("the write probe got {error}"))));
    }
}
