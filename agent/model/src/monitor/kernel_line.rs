//! Lines of the kernel's log that make us look at once.
//!
//! `/dev/kmsg` is open to everybody who may write to it: a pod with the host's devices can say anything. The kernel marks what users
//! wrote with a facility of at least 1, and its own words with 0. Only those are read, and even they decide nothing.
//! The texts are those of 5.15 to 6.18; where they changed, the table has each. Source: facts, 6.2.

use std::fmt;

/// A record of `/dev/kmsg`: `priority,sequence,microseconds,flags;text`. Source: Documentation/ABI/testing/dev-kmsg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// 0 for the kernel itself.
    pub facility: u32,
    /// Counts every record of this boot.
    pub sequence: u64,
    /// Its first line.
    pub text: &'a str,
}

impl<'a> Record<'a> {
    /// Takes a record apart; nothing when it is none.
    pub fn parse(record: &'a str) -> Option<Self> {
        let (head, text) = record.split_once(';')?;
        let mut fields = head.split(',');
        let priority: u32 = fields.next()?.parse().ok()?;
        let sequence = fields.next()?.parse().ok()?;
        // Lines after the first are ` KEY=value` and escape sequences; a text has no line breaks of its own.
        Some(Self { facility: priority >> 3, sequence, text: text.lines().next().unwrap_or_default() })
    }
}

/// What a line of the kernel is about, and so what to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Disks and file systems: the write probe, the counters of ext4, the state of NVMe controllers.
    Storage,
    /// Tasks that hang.
    Tasks,
    /// Oopses, lockups, bad pages: the kernel's taint.
    Kernel,
    /// Memory: the counters of OOM kills.
    Memory,
    /// Forks that were refused.
    Pids,
    /// Tables of the network.
    Network,
    /// NVIDIA's driver.
    Gpus,
}

/// A line that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelLine {
    /// What it is about.
    pub topic: Topic,
    /// Which line of the table it is.
    pub name: &'static str,
    /// What it says, cut to 256 bytes.
    pub text: String,
}

impl fmt::Display for KernelLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Longest text that is kept, in bytes.
const MAX_TEXT: usize = 256;

/// One row: how a line starts, what it must contain after that in this order, and what it means.
struct Row {
    name: &'static str,
    topic: Topic,
    starts: &'static [&'static str],
    contains: &'static [&'static str],
}

const fn row(
    name: &'static str,
    topic: Topic,
    starts: &'static [&'static str],
    contains: &'static [&'static str],
) -> Row {
    Row { name, topic, starts, contains }
}

const TABLE: &[Row] = &[
    row(
        "blockError",
        Topic::Storage,
        &[
            "I/O error, dev ",
            "blk_update_request: I/O error, dev ",
            "critical medium error, dev ",
            "critical target error, dev ",
            "critical nexus error, dev ",
            "critical space allocation error, dev ",
            "timeout error, dev ",
            "recoverable transport error, dev ",
            "protection error, dev ",
            "device offline error, dev ",
            "reservation conflict error, dev ",
            "blk_update_request: critical ",
            "blk_update_request: timeout error, dev ",
        ],
        &[", sector ", " op 0x"],
    ),
    row("bufferError", Topic::Storage, &["Buffer I/O error on dev"], &[", logical block "]),
    row("ext4Error", Topic::Storage, &["EXT4-fs error (device "], &[]),
    row("ext4Shutdown", Topic::Storage, &["EXT4-fs ("], &["): Remounting filesystem read-only"]),
    row("ext4Loss", Topic::Storage, &["EXT4-fs"], &["potential data loss"]),
    row("ext4Lost", Topic::Storage, &["EXT4-fs"], &["Data will be lost"]),
    row("journalAborted", Topic::Storage, &["Aborting journal on device "], &[]),
    row("xfsShutdown", Topic::Storage, &["XFS ("], &["Shutting down filesystem"]),
    row("btrfsReadOnly", Topic::Storage, &["BTRFS info (device ", "BTRFS: "], &["forced readonly"]),
    row(
        "btrfsError",
        Topic::Storage,
        &["BTRFS: error (device ", "BTRFS error (device ", "BTRFS critical (device "],
        &["errno=-"],
    ),
    row("nvmeTimeout", Topic::Storage, &["nvme nvme"], &[": I/O ", " timeout, "]),
    row("nvmeDown", Topic::Storage, &["nvme nvme"], &[": controller is down"]),
    row("nvmeRemoved", Topic::Storage, &["nvme nvme"], &[": Removing after probe failure"]),
    row("nvmeDisabled", Topic::Storage, &["nvme nvme"], &[": Disabling device after reset failure"]),
    row("storvscError", Topic::Storage, &["hv_storvsc "], &[" cmd 0x", " status: scsi 0x", " srb 0x"]),
    row(
        "oomKill",
        Topic::Memory,
        &["Out of memory: Killed process ", "Memory cgroup out of memory: Killed process "],
        &["total-vm:"],
    ),
    row(
        "oomStuck",
        Topic::Memory,
        &["Out of memory and no killable processes", "oom_reaper: unable to reap pid:"],
        &[],
    ),
    row("taskHung", Topic::Tasks, &["INFO: task "], &[" blocked for more than ", " seconds"]),
    row("softLockup", Topic::Kernel, &["watchdog: BUG: soft lockup - CPU#"], &[" stuck for "]),
    row(
        "hardLockup",
        Topic::Kernel,
        &["watchdog: Watchdog detected hard LOCKUP", "NMI watchdog: Watchdog detected hard LOCKUP"],
        &[],
    ),
    row("rcuStall", Topic::Kernel, &["rcu: INFO: rcu_"], &[" stall"]),
    row("workqueueLockup", Topic::Kernel, &["BUG: workqueue lockup - pool"], &[]),
    row(
        "oops",
        Topic::Kernel,
        &[
            "BUG: kernel NULL pointer dereference",
            "BUG: unable to handle page fault",
            "Unable to handle kernel",
            "Oops: ",
            "Internal error: Oops",
            "kernel BUG at ",
        ],
        &[],
    ),
    row("badPage", Topic::Kernel, &["BUG: Bad page state", "BUG: Bad page map"], &[]),
    row("memoryFailure", Topic::Kernel, &["Memory failure: 0x"], &["recovery action for"]),
    row("hardwareError", Topic::Kernel, &["mce: [Hardware Error]"], &[]),
    row("forkRefused", Topic::Pids, &["cgroup: fork rejected by pids controller in "], &[]),
    row("conntrackFull", Topic::Network, &["nf_conntrack: "], &["table full", "dropping packet"]),
    // Source: NVIDIA's open kernel modules, src/nvidia/src/kernel/gpu/rcdb.c and arch/nvalloc/unix/src/osinit.c. What the driver says because it
    // was asked for a GPU (`API mismatch`, `RmInitAdapter failed`) is no row: we ask, too, and would hear ourselves.
    row("gpuXid", Topic::Gpus, &["NVRM: Xid (PCI:"], &["): "]),
    row("gpuLost", Topic::Gpus, &["NVRM: GPU "], &[" has fallen off the bus."]),
    row("neighboursFull", Topic::Network, &["neighbour: "], &[": neighbor table overflow!"]),
];

/// What a line of the kernel means; nothing for one that matters to nobody here.
pub fn classify(text: &str) -> Option<KernelLine> {
    let row = TABLE.iter().find(|row| row.matches(text))?;
    let mut text = text.to_owned();
    if text.len() > MAX_TEXT {
        text.truncate((0..=MAX_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0));
    }
    Some(KernelLine { topic: row.topic, name: row.name, text })
}

impl Row {
    fn matches(&self, text: &str) -> bool {
        let Some(mut rest) = self.starts.iter().find_map(|start| text.strip_prefix(start)) else { return false };
        self.contains.iter().all(|part| match rest.split_once(part) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each record with the row that must match, or `-`. Lines that say `#` where they come from.
    const RECORDS: &str = include_str!("../../testdata/kmsg.txt");

    #[test]
    fn recorded_lines_are_what_they_are_and_nothing_else() {
        let mut told = 0;
        for line in RECORDS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (want, record) = line.split_once(' ').unwrap();
            let record = Record::parse(record).unwrap_or_else(|| panic!("no record: {line}"));
            let found = Some(&record).filter(|record| record.facility == 0).and_then(|record| classify(record.text));
            assert_eq!(found.map_or("-", |line| line.name), want, "{line}");
            told += 1;
        }
        assert!(told > 60, "{told} records");
    }

    #[test]
    fn every_row_has_a_record() {
        for row in TABLE {
            let line = RECORDS.lines().find(|line| line.split(' ').next() == Some(row.name));
            assert!(line.is_some(), "{}", row.name);
        }
    }

    #[test]
    fn a_record_is_taken_apart() {
        let record = Record::parse("12,462,1622516784,-;EXT4-fs (sda1): x\n SUBSYSTEM=block\n DEVICE=b8:1\n").unwrap();
        assert_eq!(record, Record { facility: 1, sequence: 462, text: "EXT4-fs (sda1): x" });
        assert_eq!(Record::parse("no record"), None);
        assert_eq!(Record::parse("a,b,c;d"), None);
    }

    #[test]
    fn a_long_line_is_cut_at_a_letter() {
        let line = classify(&format!("Oops: {}", "ä".repeat(400))).unwrap();
        assert!(line.text.len() <= MAX_TEXT && line.text.ends_with('ä'));
    }
}
