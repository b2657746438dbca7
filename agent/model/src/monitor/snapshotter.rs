//! Artifact streaming: the snapshotter is silent, or back while containerd still lists no images. Facts: disks-imds-streaming 5.3, B to F.
//!
//! Only on a node whose containerd is told of one. It is asked over its own socket, for containerd answers for it from its own books. The
//! images are counted only while it answers: before that a restart of containerd would change nothing.

use super::service::halted;
use super::space::{FULL_PERCENT, percent_used};
use super::{Class, Fault, Monitor, Outcome, Reading, Seen, Signal, Subsystem, at_least, degrading, seconds, signal};
use crate::os::STREAMING_SNAPSHOTTER;

static SILENT: Fault = degrading(
    "SnapshotterUnresponsive",
    Subsystem::Runtime,
    "The snapshotter of artifact streaming does not answer: no image can be unpacked and no pod made. Running pods go on.",
    "Look at `systemctl status overlaybd-snapshotter` and `journalctl -u overlaybd-snapshotter -n 100`.",
);

static UNLISTED: Fault = Fault {
    explained_by: &["SnapshotterUnresponsive", "ContainerdDown", "ContainerdUnresponsive"],
    ..degrading(
        "ImagesNotListed",
        Subsystem::Runtime,
        "containerd lists fewer images than it has: it started while the snapshotter was away. Pods whose images it has do not start.",
        "`systemctl restart containerd` makes it look again; pods go on.",
    )
};

static STALLED: Fault = degrading(
    "StreamedDeviceStalled",
    Subsystem::Storage,
    "A block device of a streamed image gives no data: its containers hang, and cannot even be killed.",
    "Look at `systemctl status overlaybd-tcmu` and /var/log/overlaybd.log; what hangs for good ends with a reboot.",
);

/// A fault of its own: nothing else of the node waits for these caches, so it explains nothing.
static CACHES: Fault = degrading(
    "StreamedCachesFull",
    Subsystem::Storage,
    "The file system with the caches of streamed images is full: streamed images are read from their registry again and again.",
    "`df -h /opt/overlaybd`; `cacheConfig` in /etc/overlaybd/overlaybd.json says how large they may be.",
);

static SILENT_ANSWER: Signal = signal("snapshotter.answer", &SILENT, Class::Probe, (3, 4), seconds(10), 3);
static SILENT_UNIT: Signal = signal("unit.state", &SILENT, Class::Kernel, (3, 4), seconds(10), 3);
static UNLISTED_COUNT: Signal = signal("images.listed", &UNLISTED, Class::Probe, (3, 3), seconds(20), 1);

static STALLED_READ: Signal = signal("devices.read", &STALLED, Class::Probe, (2, 2), seconds(10), 2);

static CACHES_SPACE: Signal = signal("caches.free", &CACHES, Class::Counter, (3, 3), seconds(20), 3);

pub(super) const MONITOR: Monitor =
    Monitor { signals: &[&SILENT_ANSWER, &SILENT_UNIT, &UNLISTED_COUNT, &STALLED_READ, &CACHES_SPACE], read };

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    let mut say = |signal, outcome| readings.push(Reading { signal, target: String::new(), outcome });
    match &seen.now.snapshotter {
        None => {}
        Some(Ok(())) => say(&SILENT_ANSWER, Outcome::Good),
        Some(Err(why)) if seen.is_strained() => say(&SILENT_ANSWER, Outcome::Unknown(why.clone())),
        Some(Err(why)) => say(&SILENT_ANSWER, Outcome::Bad(why.clone())),
    }
    match seen.now.units.get(STREAMING_SNAPSHOTTER) {
        // Who answers is up; and who is not needed any more may be as it likes.
        None if seen.now.snapshotter == Some(Ok(())) => say(&SILENT_UNIT, Outcome::Good),
        None => {}
        Some(Err(why)) => say(&SILENT_UNIT, Outcome::Unknown(why.clone())),
        Some(Ok(unit)) => {
            let process = seen.now.processes.get(STREAMING_SNAPSHOTTER);
            say(
                &SILENT_UNIT,
                match process.and_then(halted) {
                    Some(why) => Outcome::Bad(why),
                    None if unit.active == "active" => Outcome::Good,
                    None => Outcome::Bad(format!("{} ({}), result {}", unit.active, unit.sub, unit.result)),
                },
            );
        }
    }
    match &seen.now.streamed_devices {
        None => {}
        Some(Ok(())) => say(&STALLED_READ, Outcome::Good),
        Some(Err(why)) => say(&STALLED_READ, Outcome::Bad(why.clone())),
    }
    if let Some(space) = &seen.now.streamed_caches {
        let used = percent_used(space.free_bytes, space.bytes);
        if let Some(outcome) = at_least(used, FULL_PERCENT, || format!("more than {FULL_PERCENT} % used")) {
            say(&CACHES_SPACE, outcome);
        } else if used < FULL_PERCENT - 2.0 {
            say(&CACHES_SPACE, Outcome::Good);
        }
    }
    match &seen.now.images {
        None => {}
        Some(images) if images.listed >= images.stored => say(&UNLISTED_COUNT, Outcome::Good),
        Some(images) => {
            let found = format!("containerd lists {} images of {} in its store", images.listed, images.stored);
            say(&UNLISTED_COUNT, Outcome::Bad(found));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{History, ImagesSeen, Observed, ProcessSeen, Space, UnitSeen};
    use super::*;

    fn bad(now: &Observed) -> Vec<&'static str> {
        let mut readings = Vec::new();
        read(Seen { now, history: &History::default() }, &mut readings);
        let bad = readings.iter().filter(|one| matches!(one.outcome, Outcome::Bad(_)));
        bad.map(|one| one.signal.fault.reason).collect()
    }

    #[test]
    fn what_was_not_looked_at_is_not_bad() {
        assert_eq!(bad(&Observed::default()), [""; 0]);
        let images = Some(ImagesSeen { listed: 3, stored: 3 });
        assert_eq!(bad(&Observed { snapshotter: Some(Ok(())), images, ..Observed::default() }), [""; 0]);
    }

    #[test]
    fn a_silent_a_stopped_and_a_dead_one_are_told() {
        let unit = |active: &str| Ok(UnitSeen { active: active.into(), sub: String::new(), result: "success".into() });
        let mut now = Observed { snapshotter: Some(Err("late".into())), ..Observed::default() };
        now.units.insert(STREAMING_SNAPSHOTTER.to_owned(), unit("active"));
        assert_eq!(bad(&now), ["SnapshotterUnresponsive"]);
        now.processes.insert(STREAMING_SNAPSHOTTER.to_owned(), ProcessSeen { pid: 7, state: 'T' });
        assert_eq!(bad(&now), ["SnapshotterUnresponsive"; 2]);
        now.processes.clear();
        now.units.insert(STREAMING_SNAPSHOTTER.to_owned(), unit("activating"));
        assert_eq!(bad(&now), ["SnapshotterUnresponsive"; 2]);
    }

    #[test]
    fn a_device_that_gives_nothing_is_told() {
        let now = |read| Observed { streamed_devices: Some(read), ..Observed::default() };
        assert_eq!(bad(&now(Err("sdc: no sector in 12 s".to_owned()))), ["StreamedDeviceStalled"]);
        assert_eq!(bad(&now(Ok(()))), [""; 0]);
        let space = |free_bytes| Observed {
            streamed_caches: Some(Space { bytes: 100, free_bytes, inodes: 0, free_inodes: 0 }),
            ..Observed::default()
        };
        assert_eq!((bad(&space(3)), bad(&space(50))), (vec!["StreamedCachesFull"], vec![]));
    }

    #[test]
    fn images_that_are_stored_and_not_listed_are_told() {
        let images = Some(ImagesSeen { listed: 1, stored: 3 });
        assert_eq!(bad(&Observed { images, ..Observed::default() }), ["ImagesNotListed"]);
    }
}
