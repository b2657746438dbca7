//! NodeConditions: a view of the verdict for kubectl, that loses most of it.
//!
//! Five types of our own, named as on EKS, on which no provisioner acts. `True` is good. Their texts change only when their meaning
//! does, because every change of a Node goes to everybody who watches nodes.
//!
//! Two more are shared with others, and Karpenter replaces a node at once for them: each is written only where the node's owner says so. It
//! stands on the Node only while it has bad news. A good word of ours would hide a bad one of somebody else's.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{CANNOT_MEASURE, Current, Finding, Scope, State, Subsystem, SubsystemState, Verdict, monitor};

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

/// False: replace the node. Azure's Cluster Health Monitor writes it, too. Source: RepairPolicies of karpenter-provider-azure.
pub const NODE_HEALTHY: &str = "kubernetes.azure.com/NodeHealthy";

/// True: Azure takes the VM away. AKS' own node-problem-detector writes it where it runs. Source: the same.
pub const PREEMPTION_SCHEDULED: &str = "PreemptionScheduled";

/// After so long what an earlier run found would have cleared if it were gone: good readings in a row, and a minute.
const VERIFIED: Duration = Duration::from_secs(180);

/// Until a preemption has been heard of: the condition is written, the provisioner has polled.
const HEARD_MS: u64 = 3000;

/// The fault behind [`PREEMPTION_SCHEDULED`].
const PREEMPT: &str = "PreemptScheduled";

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

    /// The shared conditions that are to stand on the Node, of those that its owner allows; the others are not to. Nothing while that is an
    /// earlier run's word that this one has had no time to verify: what is on the Node stands.
    pub fn shared_conditions(&self) -> Option<Vec<Condition>> {
        if !self.is_booted() || self.current.state == Verdict::Unknown {
            return None;
        }
        let now = self.last.map(|(now, _)| now).unwrap_or_default();
        let is_of_a_fault = self.is_lost() && self.current.reason.as_deref() != Some(PREEMPT);
        if now.saturating_sub(self.run.since) < VERIFIED && (is_of_a_fault || !self.run.has_events) {
            return None;
        }
        let allowed = self.policy.shared_conditions;
        let healthy = allowed.node_healthy.then(|| self.not_healthy()).flatten();
        let preempted = allowed.preemption_scheduled.then(|| self.preempted()).flatten();
        Some(healthy.into_iter().chain(preempted).collect())
    }

    /// Whether the machine is to be shut down now, before Azure takes it away: its owner wants that, and whoever hears of a preemption has.
    pub fn is_to_be_powered_off(&self) -> bool {
        if !self.policy.power_off_when_preempted || self.policy.observe_only {
            return false;
        }
        let preempted = self.faults.get(&format!("{PREEMPT}/"));
        let entered = preempted.filter(|fault| fault.is_active()).and_then(|fault| fault.entered_ms.back());
        entered.is_some_and(|at| self.time_ms - at >= HEARD_MS)
    }

    fn is_lost(&self) -> bool {
        self.current.state == Verdict::NeedsReplacement
    }

    fn not_healthy(&self) -> Option<Condition> {
        let Current { since, reason, .. } = &self.current;
        // A preemption has its own type, and the node is not ill. Where nothing may be repaired, nothing was tried before giving it up.
        let reason = reason.as_ref().filter(|reason| self.is_lost() && *reason != PREEMPT)?;
        if self.policy.observe_only {
            return None;
        }
        Some(Condition {
            kind: NODE_HEALTHY.to_owned(),
            status: ConditionStatus::False,
            reason: reason.clone(),
            message: monitor::fault(reason).map(|fault| fault.meaning.to_owned()).unwrap_or_default(),
            last_transition_time: *since,
        })
    }

    fn preempted(&self) -> Option<Condition> {
        let finding = self.findings().into_iter().find(|finding| finding.fault.reason == PREEMPT)?;
        let event = self.events.iter().find(|event| event.kind == "Preempt")?;
        let time =
            event.not_before.map_or_else(|| "now".to_owned(), |at| at.strftime("%a, %d %b %Y %T GMT").to_string());
        // The reason, and how the message begins and ends, are those of AKS' node-problem-detector. Source: karpenter-provider-azure 1829.
        Some(Condition {
            kind: PREEMPTION_SCHEDULED.to_owned(),
            status: ConditionStatus::True,
            reason: "SpotEvictionIncoming".to_owned(),
            message: format!("Preempt Scheduled: {time}. {} EventId: {}", finding.fault.meaning, event.id),
            last_transition_time: finding.since,
        })
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
