//! NodeConditions: a view of the verdict for kubectl, that loses most of it.
//!
//! Five types of our own, named as on EKS, on which no provisioner acts. `True` is good. Their texts change only when their meaning
//! does, because every change of a Node goes to everybody who watches nodes.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{CANNOT_MEASURE, Finding, Scope, State, Subsystem, SubsystemState, Verdict};

/// The types we write, each with the subsystems that it stands for. The last only where there is something that it could tell of.
const TYPES: [(&str, &[Subsystem]); 5] = [
    ("KernelReady", &[Subsystem::Kernel, Subsystem::Time]),
    ("StorageReady", &[Subsystem::Storage]),
    ("NetworkingReady", &[Subsystem::Network]),
    ("ContainerRuntimeReady", &[Subsystem::Runtime, Subsystem::Kubelet]),
    ("AcceleratedHardwareReady", &[Subsystem::Accelerators]),
];

/// The types that are ours, for who takes them off a Node.
pub fn condition_types() -> [&'static str; 5] {
    TYPES.map(|(kind, _)| kind)
}

/// As Kubernetes spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// Good.
    True,
    /// Bad.
    False,
    /// Not measured.
    Unknown,
}

impl fmt::Display for ConditionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// One condition of the Node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it is good.
    pub status: ConditionStatus,
    /// The fault, or that there is none.
    pub reason: String,
    /// The fault's meaning: no number, no time.
    pub message: String,
    /// When the status last changed.
    pub last_transition_time: Timestamp,
}

impl State {
    /// The conditions as they stand. None before the node has registered, as it has no Node to write them to, and none before anything
    /// was verified in this boot: what is on the Node stands until we know better.
    pub fn conditions(&self) -> Vec<Condition> {
        self.conditions_of(&self.findings())
    }

    fn conditions_of(&self, findings: &[Finding]) -> Vec<Condition> {
        if !self.is_booted() || self.current.state == Verdict::Unknown {
            return Vec::new();
        }
        let of = |(kind, subsystems): (&str, &[Subsystem])| {
            let (status, reason, message) = self.status(subsystems, findings);
            let since = self.conditions.get(kind).map_or(self.changed_at, |(_, since)| *since);
            Condition { kind: kind.to_owned(), status, reason, message, last_transition_time: since }
        };
        let is_there = |(_, of): &(&str, &[Subsystem])| self.subsystems().any(|one| of.contains(&one));
        TYPES.into_iter().filter(is_there).map(of).collect()
    }

    fn status(&self, subsystems: &[Subsystem], findings: &[Finding]) -> (ConditionStatus, String, String) {
        // The world's faults are not the node's, and who could read them here can see them himself.
        let is_ours =
            |finding: &&Finding| subsystems.contains(&finding.fault.subsystem) && finding.fault.scope == Scope::Local;
        if let Some(worst) = findings.iter().find(is_ours) {
            return (ConditionStatus::False, worst.fault.reason.to_owned(), worst.fault.meaning.to_owned());
        }
        let is_unknown = |subsystem: &Subsystem| {
            self.subsystem(*subsystem, findings) == SubsystemState::Unknown && subsystem.is_required()
        };
        if subsystems.iter().any(is_unknown) {
            return (ConditionStatus::Unknown, CANNOT_MEASURE.to_owned(), "nap-agent could not look.".to_owned());
        }
        (ConditionStatus::True, "NoFaultFound".to_owned(), "nap-agent looks at it and finds no fault.".to_owned())
    }

    /// Moves the time of a condition when its status changed.
    pub(super) fn move_conditions(&mut self, findings: &[Finding], wall: Timestamp) {
        for Condition { kind, status, .. } in self.conditions_of(findings) {
            let known = self.conditions.entry(kind).or_insert((status, wall));
            if known.0 != status {
                *known = (status, wall);
            }
        }
    }
}
