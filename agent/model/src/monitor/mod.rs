//! What can be wrong with a node, and how each fault shows.
//!
//! A monitor is one file: the faults it knows (rows), the signals by which they show (rows), and a pure function from what was seen to
//! readings. It does not decide: [`crate::verdict`] counts readings over time. Three rules hold for every monitor.
//!
//! - **Log text never decides.** There is no signal for a kernel line; a line makes the host probe at once, and stands beside the
//!   finding as evidence ([`kernel_line`]). Texts rot between kernels and can be forged; counters and probes do neither.
//! - **Unknown is not unhealthy.** Who cannot measure says [`Outcome::Unknown`], which counts neither way.
//! - **A slow answer on a machine under pressure says nothing**, see [`Seen::is_strained`].

mod boot;
mod certificate;
mod clock;
mod containerd;
mod drift;
mod filesystem;
mod gpu;
mod history;
pub mod kernel_line;
mod kubelet;
mod limits;
mod memory;
mod mounts;
mod network;
mod nvme;
mod observed;
mod oops;
mod pids;
mod platform;
mod service;
mod snapshotter;
mod space;
mod stuck_tasks;
mod system_services;
mod systemd;

pub(crate) use gpu::DEVICE_PLUGIN;
pub use gpu::{FABRIC_MANAGER, GPU_SERVICES};
pub use history::History;
pub use nvme::media_errors_of;
pub use observed::*;
pub use service::{CONTAINERD, KUBELET};
pub use system_services::SYSTEM_SERVICES;
pub(crate) use system_services::{CHRONYD, JOURNALD, NETWORKD, RESOLVED};

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How bad things are, as the provisioner reads it. The order is the order of badness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verdict {
    /// Nothing has been verified yet.
    Unknown,
    /// Every required subsystem was verified.
    Healthy,
    /// It works, with less; or the fault is not the node's; or it cannot be told. Never a reason to replace the node.
    Degraded,
    /// A repair is under way; hold everything until its deadline.
    Repairing,
    /// Only a reboot can help.
    NeedsReboot,
    /// Nothing here can help.
    NeedsReplacement,
}

/// Parts of a node, named as in the health document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Subsystem {
    /// The boot itself.
    Bootstrap,
    /// Kernel, CPU, memory, processes.
    Kernel,
    /// Disks and file systems.
    Storage,
    /// The node's network.
    Network,
    /// containerd.
    Runtime,
    /// kubelet.
    Kubelet,
    /// GPUs; only of nodes that have some.
    Accelerators,
    /// The clock.
    Time,
    /// What the plan says and the machine does not.
    Configuration,
    /// What the platform is about to do.
    Platform,
}

impl Subsystem {
    /// All of them, in the document's order.
    pub const ALL: [Self; 10] = [
        Self::Bootstrap,
        Self::Kernel,
        Self::Storage,
        Self::Network,
        Self::Runtime,
        Self::Kubelet,
        Self::Accelerators,
        Self::Time,
        Self::Configuration,
        Self::Platform,
    ];
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    /// The node's.
    Local,
    /// The world's: replacing the node would change nothing.
    Upstream,
    /// Cannot be told.
    Unknown,
}

/// What kind of look a signal is. Signals of different kinds are independent: they take different ways through the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Class {
    /// We used it and looked what came back.
    Probe,
    /// The kernel's or PID 1's word on a state.
    Kernel,
    /// A number that grew, or did not.
    Counter,
    /// A device's own state.
    Device,
    /// What Azure announces.
    Platform,
}

/// A fault: one stable reason.
#[derive(Debug)]
pub struct Fault {
    /// The word that dashboards and provisioners match; never changes its meaning.
    pub reason: &'static str,
    /// Where it is.
    pub subsystem: Subsystem,
    /// The worst verdict that it can lead to, when proven for `persist`.
    pub worst: Verdict,
    /// Whose it is.
    pub scope: Scope,
    /// How long it must have been proven before the verdict may be worse than `Degraded`.
    pub persist: Duration,
    /// Reasons of faults that explain this one; while one of them is there, this is its consequence.
    pub explained_by: &'static [&'static str],
    /// What it means.
    pub meaning: &'static str,
    /// What a person can do.
    pub hint: &'static str,
}

/// One way in which a fault shows.
#[derive(Debug)]
pub struct Signal {
    /// Its name in evidence.
    pub name: &'static str,
    /// Of which fault.
    pub fault: &'static Fault,
    /// What kind of look it is.
    pub class: Class,
    /// It counts when this many of the last so many readings were bad.
    pub enter: (u8, u8),
    /// Readings of the same outcome closer together than this count once.
    pub spacing: Duration,
    /// It clears after this many good readings in a row and a minute without a bad one; at once where a single good one disproves it.
    pub leave: u8,
    /// It proves the fault by itself. Only for what cannot be a mistake of measurement.
    pub is_authoritative: bool,
    /// The platform's and the boot's words: they count also while everything else is suppressed.
    pub is_immediate: bool,
}

/// What a look at one target by one signal gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Good,
    /// Not as it should be; what was seen.
    Bad(String),
    /// It could not be measured; why.
    Unknown(String),
}

/// One result of one look.
#[derive(Debug, Clone)]
pub struct Reading {
    /// By which signal.
    pub signal: &'static Signal,
    /// At what: a mount point, a unit, an event; empty when there is only one.
    pub target: String,
    /// What was found.
    pub outcome: Outcome,
}

/// What a monitor looks at: this sweep, and the counters of the time before.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// This sweep.
    pub now: &'a Observed,
    /// Counters over time.
    pub history: &'a History,
}

impl Seen<'_> {
    /// Whether the machine is so busy that a late answer is no sign of a fault.
    pub fn is_strained(&self) -> bool {
        self.is_slow_itself() || self.now.pressure.unwrap_or_default().io_full > 40.0
    }

    /// The same but for its disks: where one is slow, all wait for it, and that is no other reason.
    fn is_slow_itself(&self) -> bool {
        let Pressure { cpu_some, memory_full, .. } = self.now.pressure.unwrap_or_default();
        cpu_some > 80.0 || memory_full > 40.0 || self.now.tick.late > Duration::from_secs(2)
    }
}

/// One monitor: its rows and its function.
#[derive(Debug)]
pub struct Monitor {
    /// The signals it reads; each names its fault.
    pub signals: &'static [&'static Signal],
    /// From what was seen to readings. What was not looked at gives none.
    pub read: fn(Seen<'_>, &mut Vec<Reading>),
}

/// Every monitor.
pub const MONITORS: &[Monitor] = &[
    boot::MONITOR,
    platform::MONITOR,
    kubelet::MONITOR,
    containerd::MONITOR,
    snapshotter::MONITOR,
    filesystem::MONITOR,
    space::MONITOR,
    nvme::MONITOR,
    gpu::MONITOR,
    pids::MONITOR,
    limits::MONITOR,
    memory::MONITOR,
    oops::MONITOR,
    stuck_tasks::MONITOR,
    clock::MONITOR,
    certificate::MONITOR,
    network::MONITOR,
    system_services::MONITOR,
    systemd::MONITOR,
    mounts::MONITOR,
    drift::MONITOR,
];

/// Every signal.
pub fn signals() -> impl Iterator<Item = &'static Signal> {
    MONITORS.iter().flat_map(|monitor| monitor.signals).copied()
}

/// Every fault once.
pub fn faults() -> impl Iterator<Item = &'static Fault> {
    let mut told: Vec<&'static str> = Vec::new();
    signals().map(|signal| signal.fault).filter(move |fault| {
        let is_new = !told.contains(&fault.reason);
        told.push(fault.reason);
        is_new
    })
}

/// The fault with a reason.
pub fn fault(reason: &str) -> Option<&'static Fault> {
    signals().map(|signal| signal.fault).find(|fault| fault.reason.eq_ignore_ascii_case(reason))
}

/// All readings of one sweep.
pub fn read(seen: Seen<'_>) -> Vec<Reading> {
    let mut readings = Vec::new();
    for monitor in MONITORS {
        (monitor.read)(seen, &mut readings);
    }
    readings
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A fault that stays `Degraded` for ever.
const fn degrading(reason: &'static str, subsystem: Subsystem, meaning: &'static str, hint: &'static str) -> Fault {
    Fault {
        reason,
        subsystem,
        worst: Verdict::Degraded,
        scope: Scope::Local,
        persist: Duration::ZERO,
        explained_by: &[],
        meaning,
        hint,
    }
}

/// A signal that needs a second one.
const fn signal(
    name: &'static str,
    fault: &'static Fault,
    class: Class,
    enter: (u8, u8),
    spacing: Duration,
    leave: u8,
) -> Signal {
    Signal { name, fault, class, enter, spacing, leave, is_authoritative: false, is_immediate: false }
}

/// A value is bad from `limit` on and good again below four fifths of it; in between it says nothing.
fn at_least(value: f64, limit: f64, what: impl FnOnce() -> String) -> Option<Outcome> {
    match value {
        value if value >= limit => Some(Outcome::Bad(what())),
        value if value < 0.8 * limit => Some(Outcome::Good),
        _ => None,
    }
}

/// How much of one of the kernel's limits is used: bad from 95 % on. Nothing when it was not looked at, or is in between.
fn nearly_used(seen: Seen<'_>, limit: &str, of_what: &str) -> Option<Outcome> {
    let used = seen.now.limits.get(limit)?;
    at_least(used.share(), 0.95, || format!("more than 95 % of {} {of_what}", used.limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_and_signals_are_words_that_can_be_matched() {
        let mut names: Vec<_> = signals().map(|signal| (signal.fault.reason, signal.name)).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "a signal twice at one fault");
        for (reason, name) in names {
            assert!(reason.chars().all(|letter| letter.is_ascii_alphanumeric()), "{reason}");
            assert!(
                name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '.'),
                "{name}"
            );
        }
        for one in signals() {
            assert!(std::ptr::eq(fault(one.fault.reason).unwrap(), one.fault), "two rows for {}", one.fault.reason);
        }
    }

    #[test]
    fn the_page_has_every_fault_as_it_is() {
        let page = include_str!("../../../../docs/health.md");
        for row in faults() {
            let names: Vec<_> = signals().filter(|one| std::ptr::eq(one.fault, row)).map(|one| one.name).collect();
            let worst = match row.worst {
                Verdict::Degraded => "Degraded".to_owned(),
                worst => format!("{worst:?} after {} s", row.persist.as_secs()),
            };
            let line = format!("| {} | {worst} | {} |", row.reason, names.join(" + "));
            assert!(page.contains(&line), "docs/health.md wants the line {line}");
        }
    }

    #[test]
    fn causes_exist_and_go_in_no_circle() {
        fn depth(reason: &str, left: usize) -> usize {
            assert!(left > 0, "a circle at {reason}");
            let row = fault(reason).unwrap_or_else(|| panic!("no fault {reason}"));
            row.explained_by.iter().map(|cause| 1 + depth(cause, left - 1)).max().unwrap_or(0)
        }
        for row in faults() {
            assert!(depth(row.reason, 10) < 6, "{}", row.reason);
        }
    }

    #[test]
    fn what_can_lead_to_more_than_degraded_can_be_proven() {
        for row in faults().filter(|row| row.worst > Verdict::Degraded) {
            let mut classes: Vec<_> = signals().filter(|one| std::ptr::eq(one.fault, row)).collect();
            let authoritative = classes.iter().any(|one| one.is_authoritative);
            classes.sort_by_key(|one| one.class);
            classes.dedup_by_key(|one| one.class);
            assert!(authoritative || classes.len() > 1, "{} can never be proven", row.reason);
            assert_eq!(row.scope, Scope::Local, "{}", row.reason);
        }
    }

    #[test]
    fn hysteresis_can_be_entered_and_left() {
        for one in signals() {
            let (bad, of) = one.enter;
            assert!(bad > 0 && bad <= of && of <= 16 && one.leave > 0, "{}", one.name);
        }
    }
}
