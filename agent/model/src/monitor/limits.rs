//! Limits of the kernel that are nearly used up, most often by a leak. Facts: catalogue F17, F30 to F32, F44, F45, F93.
//!
//! Each is one number of the kernel's against another; nothing but the leak's end, or a reboot, gives back what is used. None costs the node:
//! it goes on as long as nobody needs one more, and who does fails by name.

use super::{Class, Fault, Monitor, Reading, Seen, Signal, Subsystem, degrading, nearly_used, seconds, signal};

static FILES: Fault = degrading(
    "FileHandlesExhausted",
    Subsystem::Kernel,
    "Nearly all open files that the kernel allows are open.",
    "Find the process: `ls /proc/*/fd | wc -l` by process, most often a leak.",
);
static SERVICE_FILES: Fault = degrading(
    "ServiceFilesExhausted",
    Subsystem::Kernel,
    "kubelet or containerd has nearly as many files open as it may.",
    "`ls -l /proc/PID/fd` shows which; LimitNOFILE= of its unit says how many. A restart of the service closes them.",
);
static MOUNTS: Fault = degrading(
    "MountsLeaking",
    Subsystem::Storage,
    "There are so many mounts that systemd and kubelet are busy with them alone, or no more can be made.",
    "`cut -d' ' -f5 /proc/self/mountinfo | sort | uniq -c | sort -n | tail` shows where.",
);
static ZOMBIES: Fault = degrading(
    "ZombieProcesses",
    Subsystem::Kernel,
    "A tenth of all processes that there can be have ended and nobody takes note; each keeps its number.",
    "`ps -eo ppid,stat | awk '$2 ~ /Z/' | sort | uniq -c` shows whose children they are; they go with their parent.",
);
static KEYS: Fault = degrading(
    "KeysExhausted",
    Subsystem::Kernel,
    "root's quota of kernel keys is nearly used up; each container takes some, and the next ones cannot start.",
    "`cat /proc/key-users /proc/keys`; raise kernel.keys.root_maxkeys and kernel.keys.root_maxbytes.",
);
static CGROUPS: Fault = degrading(
    "CgroupsLeaking",
    Subsystem::Kernel,
    "Thousands of removed cgroups are still held by memory that was charged to them; accounting gets slow.",
    "`grep dying /sys/fs/cgroup/cgroup.stat`; `echo 3 >/proc/sys/vm/drop_caches` frees most.",
);
static KERNEL_MEMORY: Fault = degrading(
    "KernelMemoryHigh",
    Subsystem::Kernel,
    "The kernel itself holds more than two fifths of the memory and cannot give it back.",
    "`grep -e SUnreclaim -e Percpu /proc/meminfo`, `slabtop -o -s c`. A reboot, when it suits, frees it.",
);
static TCP_MEMORY: Fault = degrading(
    "TcpMemoryExhausted",
    Subsystem::Network,
    "TCP's buffers have nearly reached their limit; connections stall and are dropped.",
    "`cat /proc/net/sockstat`, `sysctl net.ipv4.tcp_mem`, `ss -tm` shows who does not read.",
);

const fn used(name: &'static str, fault: &'static Fault) -> Signal {
    signal(name, fault, Class::Counter, (3, 3), seconds(20), 3)
}

static FILES_OPEN: Signal = used("files.open", &FILES);
static SERVICE_FILES_OPEN: Signal = used("service.files", &SERVICE_FILES);
static MOUNTS_MADE: Signal = used("mounts.made", &MOUNTS);
static ZOMBIES_LEFT: Signal = used("tasks.zombie", &ZOMBIES);
static KEYS_USED: Signal = used("keys.used", &KEYS);
static CGROUPS_DYING: Signal = used("cgroups.dying", &CGROUPS);
static KERNEL_MEMORY_USED: Signal = used("kernel.memory", &KERNEL_MEMORY);
static TCP_MEMORY_USED: Signal = used("tcp.memory", &TCP_MEMORY);

/// The host's name of a limit, or how it begins where there is one for each of several; what shows by it; of what it is.
const ROWS: [(&str, &Signal, &str); 9] = [
    ("files", &FILES_OPEN, "open files"),
    ("files/", &SERVICE_FILES_OPEN, "open files"),
    ("mounts", &MOUNTS_MADE, "mounts"),
    ("zombies", &ZOMBIES_LEFT, "processes that have ended"),
    ("keys", &KEYS_USED, "keys"),
    ("keys.bytes", &KEYS_USED, "bytes of keys"),
    ("cgroups.dying", &CGROUPS_DYING, "removed cgroups"),
    ("kernel.memory", &KERNEL_MEMORY_USED, "KiB of the kernel's own"),
    ("tcp.memory", &TCP_MEMORY_USED, "pages of TCP's buffers"),
];

pub(super) const MONITOR: Monitor = Monitor {
    signals: &[
        &FILES_OPEN,
        &SERVICE_FILES_OPEN,
        &MOUNTS_MADE,
        &ZOMBIES_LEFT,
        &KEYS_USED,
        &CGROUPS_DYING,
        &KERNEL_MEMORY_USED,
        &TCP_MEMORY_USED,
    ],
    read,
};

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    for limit in seen.now.limits.keys() {
        let is = |name: &str| limit == name || (name.ends_with('/') && limit.starts_with(name));
        let Some((name, signal, what)) = ROWS.into_iter().find(|(name, ..)| is(name)) else { continue };
        let target = if name.ends_with('/') { &limit[name.len()..] } else { "" };
        // Keys have two limits, and one that is far from full must not speak for the other.
        let target = if name == "keys.bytes" { "bytes" } else { target };
        if let Some(outcome) = nearly_used(seen, limit, what) {
            readings.push(Reading { signal, target: target.to_owned(), outcome });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::{History, Observed, Outcome, Used};

    #[test]
    fn what_is_nearly_used_up_is_told_by_its_own_name() {
        let full = Used { count: 96, limit: 100 };
        let names = ["files", "files/kubelet.service", "mounts", "zombies", "keys", "keys.bytes", "cgroups.dying"];
        let others = ["kernel.memory", "tcp.memory", "conntrack"];
        let mut now = Observed::default();
        now.limits.extend(names.iter().chain(&others).map(|name| ((*name).to_owned(), full)));
        let bad = |now: &Observed| {
            let mut readings = Vec::new();
            read(Seen { now, history: &History::default() }, &mut readings);
            let bad = readings.into_iter().filter(|one| matches!(one.outcome, Outcome::Bad(_)));
            bad.map(|one| format!("{} {}", one.signal.fault.reason, one.target)).collect::<Vec<_>>()
        };
        let wanted = [
            "CgroupsLeaking ",
            "FileHandlesExhausted ",
            "ServiceFilesExhausted kubelet.service",
            "KernelMemoryHigh ",
            "KeysExhausted ",
            "KeysExhausted bytes",
            "MountsLeaking ",
            "TcpMemoryExhausted ",
            "ZombieProcesses ",
        ];
        assert_eq!(bad(&now), wanted);
        now.limits.values_mut().for_each(|used| used.count = 80);
        assert_eq!(bad(&now), [""; 0]);
    }
}
