//! What the node may do to itself when something is wrong with it, and when.
//!
//! A repair is one file: a row that says what is done, against which faults, how often, and when not. [`decide()`] says, from what is wrong
//! and what was tried, which one is to be done now, or why none. The host does it; the verdict's own signals say whether it helped.
//!
//! A repair is no plan for the executor. A plan says what should be true of the machine and skips what is; that a hung service runs is
//! true, and only the signals can tell whether its restart changed anything. What drifted from the plan the guard puts back; a repair that
//! wants another plan changes the facts under it, and leaves the rest to the guard.
//!
//! - **One at a time**, and never while a boot or the guard changes the machine (they share a lock).
//! - **Budgets** by the hour and the day, in the time of the machine's life ([`ledger`]), which neither a restart of ours nor a stepped
//!   clock can turn back or hurry on. An attempt is on disk before it begins, and counts however it ends. Cool-downs double.
//! - **A ladder** for each fault: its repairs, the mildest first. One that changed nothing twice is not tried again before the fault has
//!   gone. When no rung is left, or no budget, the ladder is spent, and only then may the verdict ask for another node.
//! - **On suspicion** a service that does not answer may be restarted, because that is mild; another node is never asked for without proof.
//! - **A deadline** on everything: on the act, and on the proof that it helped.
//! - **A reboot** is the last rung, for who may make it: an owner who allows it, or a provisioner who grants it for this boot. It is made when
//!   nothing milder is left and the fault has stood for as long as one that costs the node, and once a day for each fault.
//!
//! A wrong clock is no reason to leave a dead kubelet dead, so it is no precondition, although the facts (8.7) have it as one.

mod containerd;
mod decide;
mod free_space;
mod kubelet;
pub mod ledger;
mod network;
mod policy;
mod reboot;
mod snapshotter;
mod system_services;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::monitor::{KUBELET, Subsystem};

pub use decide::{Hold, Proposal, Proposed, Sick, Situation, Standing, decide, standing};
pub use ledger::{Attempt, Ended, Ledger, Outcome};
pub use policy::{Policy, PolicyError, SharedConditions};
pub use reboot::LOTTERY;

/// What the host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Forgets the unit's failures, and restarts it.
    Restart(&'static str),
    /// The same, after its main process was told to write the stacks of its threads to its log.
    DumpStacksAndRestart(&'static str),
    /// Restarts kubelet, once something gives it another client certificate than the one that it had.
    Rebootstrap,
    /// Adds the default routes that were there last.
    PutBackRoute,
    /// Removes what nobody uses from the file system that the fault is at.
    FreeSpace,
    /// Notes that images are pulled whole until the machine's next boot: another plan, which the guard follows.
    LeaveStreaming,
    /// Shuts the machine down in order, and starts it again.
    Reboot,
}

impl Act {
    /// The unit that it is done to.
    pub fn unit(self) -> Option<&'static str> {
        match self {
            Act::Restart(unit) | Act::DumpStacksAndRestart(unit) => Some(unit),
            Act::Rebootstrap => Some(KUBELET),
            Act::PutBackRoute | Act::FreeSpace | Act::LeaveStreaming | Act::Reboot => None,
        }
    }
}

/// What a repair costs those who use the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Risk {
    /// Pods do not notice.
    Low,
    /// Pods go on; what is being started, and who is attached to one, is cut off.
    Medium,
    /// Pods end.
    High,
}

/// One repair.
#[derive(Debug)]
pub struct Repair {
    /// The word for it in the policy, the journal and the document; never changes its meaning.
    pub name: &'static str,
    /// What is done.
    pub act: Act,
    /// What it is done to.
    pub subsystem: Subsystem,
    /// Reasons of the faults that it may help against.
    pub against: &'static [&'static str],
    /// Those of them for which one kind of signal is enough, once it has said so for [`SUSPICION`]: who hangs in one place goes on in
    /// others, and no second kind of signal shows it.
    pub on_suspicion: &'static [&'static str],
    /// Reasons of faults during which it is not done: it could only make things worse.
    pub not_while: &'static [&'static str],
    /// What it costs.
    pub risk: Risk,
    /// How long the fault must have been there: others may mend it first.
    pub after: Duration,
    /// Most attempts within an hour, and within a day.
    pub budget: (usize, usize),
    /// Pause after an attempt: after the first of a day, and at most; each is twice the one before.
    pub pause: (Duration, Duration),
    /// Longest time for the act.
    pub limit: Duration,
    /// What it means, for people.
    pub meaning: &'static str,
}

impl Repair {
    /// Pods pay for it: only done instead of losing the node.
    pub fn is_last_resort(&self) -> bool {
        self.risk == Risk::High
    }
}

/// During these a restart of what writes to kubelet's or containerd's file systems only makes things worse: it is killed in the middle of a
/// write, or cannot start.
const NO_RESTART_WHILE: &[&str] = &[
    "RootFilesystemReadOnly",
    "RootFilesystemFailing",
    "DataFilesystemReadOnly",
    "DataFilesystemFailing",
    "DiskStalled",
    "PidsExhausted",
    // It would start with what is below its directory.
    "LocalDiskUnmounted",
];

/// Every repair, the mildest first: a fault's ladder is those against it, in this order.
pub const REPAIRS: &[&Repair] = &[
    &kubelet::RESTART,
    &kubelet::REBOOTSTRAP,
    &free_space::FREE_SPACE,
    &snapshotter::RESTART,
    &network::PUT_BACK_ROUTE,
    &system_services::RESTART_RESOLVED,
    &system_services::RESTART_CHRONYD,
    &system_services::RESTART_JOURNALD,
    &system_services::RESTART_DEVICE_PLUGIN,
    &system_services::RESTART_NETWORKD,
    &system_services::RESTART_FABRIC_MANAGER,
    &snapshotter::LEAVE_STREAMING,
    &containerd::RESTART,
    &reboot::REBOOT,
];

/// Attempts of one repair against one fault that changed nothing, after which the next is tried.
pub const TRIES: usize = 2;

/// How long a fault that is not proven must have been there before a repair is made on suspicion.
pub const SUSPICION: Duration = minutes(2);

/// Time after an act for its fault to show signs of going.
pub const VERIFY: Duration = Duration::from_secs(120);

/// Time after an act for its fault to be gone: signals take a minute to clear, and a busy machine takes longer.
pub const MOST_VERIFY: Duration = Duration::from_secs(240);

/// The repair with a name.
pub fn repair(name: &str) -> Option<&'static Repair> {
    REPAIRS.iter().find(|row| row.name.eq_ignore_ascii_case(name)).copied()
}

/// The repairs against a fault, the mildest first.
pub fn ladder(reason: &str) -> impl Iterator<Item = &'static Repair> {
    REPAIRS.iter().filter(move |row| row.against.contains(&reason)).copied()
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
