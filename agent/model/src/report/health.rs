//! The NodeHealth document: what a provisioner polls. `facts/node-health.md`, 8.3, is its contract.
//!
//! Nothing in it changes while nothing changes: no counter, no time of a look. So its entity tag stands still on a healthy node and a
//! poll is answered without a body. How old the last look is, is in a header ([`crate::verdict`] says what a change is).

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::clouds::HEALTH_API_VERSION;
use crate::config::shape::Shape::{self, Bool, Integer, List, Object, Text, Word};
use crate::config::shape::{Field, field};
use crate::monitor::{Class, ScheduledEvent, Scope, Subsystem, Verdict};
use crate::repair::ledger::Phase;
use crate::repair::{REPAIRS, TRIES, repair};
use crate::verdict::{Condition, Current, Finding, Intents, State, SubsystemState, Suppression};

/// For how long a reader may rely on a document, in seconds after the last look.
const VALID_FOR_SECONDS: u32 = 90;

/// From a watchdog's end to a machine that runs nothing any more, in seconds. Source: the facts, 5.1 (self-node-remediation).
const RESET_SECONDS: u64 = 30;

/// Most findings in a document, and most evidence in a finding: it stays below 16 KB whatever happens.
const MAX_FINDINGS: usize = 16;

/// Most attempts of a part's repairs in a document, and longest text of how one ended, in letters.
const MAX_ATTEMPTS: usize = 3;
const MAX_DETAIL: usize = 200;

/// Which node this is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The node's name; empty before it is known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Azure's id of the VM.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub vm_id: String,
    /// `/proc/sys/kernel/random/boot_id`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub boot_id: String,
    /// `uname -r`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kernel: String,
}

/// What the agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentSeen {
    /// Its version.
    pub version: String,
    /// When this process started.
    pub started_at: Timestamp,
}

/// The document.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeHealth {
    api_version: &'static str,
    kind: &'static str,
    node: NodeSeen,
    agent: AgentSeen,
    generation: u64,
    observed_at: Timestamp,
    valid_for_seconds: u32,
    phase: &'static str,
    fencing: Fencing,
    verdict: VerdictSeen,
    subsystems: Vec<SubsystemSeen>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scheduled_events: Vec<ScheduledEvent>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    suppressions: Vec<Suppression>,
    #[serde(skip_serializing_if = "Option::is_none")]
    intents: Option<IntentsSeen>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeSeen {
    #[serde(flatten)]
    identity: Identity,
    boot_seq: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct VerdictSeen {
    state: Verdict,
    since: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subsystem: Option<Subsystem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<Scope>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence_percent: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replace_after: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Next>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repair: Option<RepairSeen>,
    summary: String,
}

/// What ends a machine that hangs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Fencing {
    watchdog_armed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    safe_after_seconds: Option<u64>,
}

/// What the provisioner asked for and still holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct IntentsSeen {
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<HeldSeen>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reboot_granted_by: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct HeldSeen {
    intent: &'static str,
    until: Timestamp,
    by: String,
}

/// The repair that the verdict waits for.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct RepairSeen {
    action: String,
    attempt: usize,
    of: usize,
    deadline: Timestamp,
}

/// What the verdict would become, and when, if nothing changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Next {
    state: Verdict,
    by: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct SubsystemSeen {
    name: Subsystem,
    required: bool,
    state: SubsystemState,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    findings: Vec<FindingSeen>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    repairs: Vec<AttemptSeen>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    budgets: Vec<BudgetSeen>,
}

/// One attempt of a repair.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct AttemptSeen {
    id: u64,
    action: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    target: String,
    reason: String,
    started_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<Timestamp>,
    result: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
}

/// What is left of a repair's budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct BudgetSeen {
    action: String,
    remaining: usize,
    window_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    resets_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct FindingSeen {
    reason: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    target: String,
    since: Timestamp,
    asks_for: Verdict,
    scope: Scope,
    confidence_percent: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    caused_by: Option<String>,
    /// It is gone, and held because it came too often.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    held: bool,
    evidence: Vec<EvidenceSeen>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct EvidenceSeen {
    signal: &'static str,
    class: Class,
    first_seen: Timestamp,
    sample: String,
}

impl NodeHealth {
    /// The document of a state.
    pub fn of(state: &State, identity: &Identity, agent: &AgentSeen) -> Self {
        let mut findings = state.findings();
        let subsystem_state: Vec<_> = state.subsystems().map(|name| (name, state.subsystem(name, &findings))).collect();
        let verdict = verdict_seen(state.current(), findings.first());
        findings.truncate(MAX_FINDINGS);
        let subsystems = subsystem_state.into_iter().map(|(name, how)| SubsystemSeen {
            name,
            required: name.is_required(),
            state: how,
            findings: findings.iter().filter(|finding| finding.fault.subsystem == name).map(finding_seen).collect(),
            repairs: attempts_seen(state, name),
            budgets: budgets_seen(state, name),
        });
        Self {
            api_version: HEALTH_API_VERSION,
            kind: "NodeHealth",
            node: NodeSeen { identity: identity.clone(), boot_seq: state.boot_sequence },
            agent: agent.clone(),
            generation: state.generation,
            observed_at: state.changed_at,
            valid_for_seconds: VALID_FOR_SECONDS,
            fencing: Fencing {
                watchdog_armed: state.watchdog_seconds.is_some(),
                safe_after_seconds: state.watchdog_seconds.map(|seconds| seconds + RESET_SECONDS),
            },
            phase: if state.is_booted() { "Ready" } else { "Bootstrapping" },
            verdict,
            subsystems: subsystems.collect(),
            scheduled_events: state.events.clone(),
            suppressions: state.suppressed.clone().into_iter().collect(),
            intents: intents_seen(state.intents()),
            conditions: state.conditions(),
        }
    }

    /// The part that is enough to sort nodes by, on one line.
    pub fn verdict_view(&self) -> Value {
        json!({"node": self.node.identity.name, "generation": self.generation, "phase": self.phase, "verdict": self.verdict})
    }
}

fn intents_seen(Intents { held, reboot_granted_by }: &Intents) -> Option<IntentsSeen> {
    let held = held.as_ref().map(|held| HeldSeen { intent: held.word(), until: held.until, by: held.by.clone() });
    let seen = IntentsSeen { held, reboot_granted_by: reboot_granted_by.clone() };
    (seen.held.is_some() || seen.reboot_granted_by.is_some()).then_some(seen)
}

/// The newest attempts of a part's repairs within a day, the oldest of them first.
fn attempts_seen(state: &State, subsystem: Subsystem) -> Vec<AttemptSeen> {
    let of_it = state.repairs().filter_map(|attempt| {
        let row = repair(&attempt.repair).filter(|row| row.subsystem == subsystem)?;
        let (result, finished_at, detail) = match &attempt.ended {
            Some(ended) => (format!("{:?}", ended.outcome), Some(ended.at), ended.detail.clone()),
            None if state.repair_phase() == Some(Phase::Verifying) => ("Verifying".to_owned(), None, String::new()),
            None => ("Running".to_owned(), None, String::new()),
        };
        Some(AttemptSeen {
            id: attempt.id,
            action: attempt.repair.clone(),
            target: row.act.unit().map_or_else(|| attempt.target.clone(), str::to_owned),
            reason: attempt.reason.clone(),
            started_at: attempt.at,
            finished_at,
            result,
            detail: detail.chars().take(MAX_DETAIL).collect(),
        })
    });
    let mut all: Vec<_> = of_it.collect();
    all.drain(..all.len().saturating_sub(MAX_ATTEMPTS));
    all
}

fn budgets_seen(state: &State, subsystem: Subsystem) -> Vec<BudgetSeen> {
    let used = REPAIRS.iter().filter(|row| row.subsystem == subsystem).filter_map(|row| state.ledger.budget(row));
    let seen = used.map(|budget| BudgetSeen {
        action: budget.repair,
        remaining: budget.remaining,
        window_seconds: budget.window.as_secs(),
        resets_at: budget.resets_at,
    });
    seen.collect()
}

fn verdict_seen(current: &Current, worst: Option<&Finding>) -> VerdictSeen {
    let worst = worst.filter(|worst| Some(worst.fault.reason) == current.reason.as_deref());
    let next = worst.and_then(|worst| worst.next).map(|(state, by)| Next { state, by });
    let repair = worst.and_then(|worst| worst.repair.as_ref()).map(|repair| RepairSeen {
        action: repair.repair.clone(),
        attempt: repair.attempt,
        of: TRIES,
        deadline: repair.deadline,
    });
    VerdictSeen {
        state: current.state,
        since: current.since,
        reason: current.reason.clone(),
        subsystem: worst.map(|worst| worst.fault.subsystem),
        scope: worst.map(|worst| worst.fault.scope),
        confidence_percent: worst.map(|worst| worst.confidence),
        replace_after: current.replace_after,
        next,
        repair,
        summary: summary(current, worst),
    }
}

fn summary(current: &Current, worst: Option<&Finding>) -> String {
    match worst {
        Some(worst) if worst.target.is_empty() => worst.fault.meaning.to_owned(),
        Some(worst) => format!("{} ({})", worst.fault.meaning, worst.target),
        None if current.state == Verdict::Healthy => "Every required subsystem was looked at; no fault.".to_owned(),
        None if current.state == Verdict::Degraded => "A required subsystem cannot be looked at.".to_owned(),
        None => "Nothing has been verified yet.".to_owned(),
    }
}

fn finding_seen(finding: &Finding) -> FindingSeen {
    let evidence = finding.evidence.iter().map(|seen| EvidenceSeen {
        signal: seen.signal,
        class: seen.class,
        first_seen: seen.first_seen,
        sample: seen.sample.clone(),
    });
    FindingSeen {
        reason: finding.fault.reason,
        target: finding.target.clone(),
        since: finding.since,
        asks_for: finding.level,
        scope: finding.fault.scope,
        confidence_percent: finding.confidence,
        caused_by: finding.caused_by.clone(),
        held: finding.is_held,
        evidence: evidence.collect(),
    }
}

const VERDICTS: Shape = Word(&["Unknown", "Healthy", "Degraded", "Repairing", "NeedsReboot", "NeedsReplacement"]);
const SCOPES: Shape = Word(&["local", "upstream", "unknown"]);
const SUBSYSTEMS: Shape = Word(&[
    "bootstrap",
    "kernel",
    "storage",
    "network",
    "runtime",
    "kubelet",
    "accelerators",
    "time",
    "configuration",
    "platform",
]);
const PERCENT: Shape = Integer(0, 100);
const COUNT: Shape = Integer(0, i64::MAX);

const EVIDENCE: &[Field] = &[
    field("signal", Text, "What was looked at.").required(),
    field("class", Word(&["probe", "kernel", "counter", "device", "platform"]), "How; two classes are independent.")
        .required(),
    field("firstSeen", Text, "When it was first bad; RFC 3339.").required(),
    field("sample", Text, "What was seen.").required(),
];

const FINDING: &[Field] = &[
    field("reason", Text, "The fault; `nap-agent explain REASON` tells what it means.").required(),
    field("target", Text, "At what, such as a mount point."),
    field("since", Text, "Since when; RFC 3339.").required(),
    field("asksFor", VERDICTS, "The verdict that it would give alone.").required(),
    field("scope", SCOPES, "Whose fault it is.").required(),
    field("confidencePercent", PERCENT, "How sure; below 80 the verdict stays Degraded.").required(),
    field("causedBy", Text, "The fault whose consequence it is."),
    field("held", Bool, "It is gone, and held because it came three times in half an hour."),
    field("evidence", List(&Object(EVIDENCE)), "What was seen.").required(),
];

const ATTEMPT: &[Field] = &[
    field("id", COUNT, "Grows with every attempt on this node.").required(),
    field("action", Text, "The repair; `nap-agent explain ACTION` tells what it does.").required(),
    field("target", Text, "What it was done to; absent when to the whole machine."),
    field("reason", Text, "The fault that it is for.").required(),
    field("startedAt", Text, "When; RFC 3339.").required(),
    field("finishedAt", Text, "When it was known whether it helped; absent before; RFC 3339."),
    field(
        "result",
        Word(&["Running", "Verifying", "Succeeded", "ChangedNothing", "Failed", "Interrupted"]),
        "Running and Verifying are not over.",
    )
    .required(),
    field("detail", Text, "Why it did not succeed."),
];

const BUDGET: &[Field] = &[
    field("action", Text, "The repair.").required(),
    field("remaining", COUNT, "Attempts left now.").required(),
    field("windowSeconds", COUNT, "In a window of this length.").required(),
    field("resetsAt", Text, "When the oldest attempt leaves the window; RFC 3339."),
];

const SUBSYSTEM: &[Field] = &[
    field("name", SUBSYSTEMS, "The part of the node.").required(),
    field("required", Bool, "Whether the node cannot do without it.").required(),
    field("state", Word(&["Ok", "Impaired", "Failed", "Unknown"]), "How it does.").required(),
    field("findings", List(&Object(FINDING)), "Faults, the worst first."),
    field("repairs", List(&Object(ATTEMPT)), "The newest attempts of a day, the oldest of them first."),
    field("budgets", List(&Object(BUDGET)), "What is left of the budgets that were used within a day."),
];

const NEXT: &[Field] = &[
    field("state", VERDICTS, "What the verdict would become.").required(),
    field("by", Text, "When; RFC 3339.").required(),
];

const REPAIR: &[Field] = &[
    field("action", Text, "The repair that is made, or was and will be again.").required(),
    field("attempt", COUNT, "Which attempt of it this is.").required(),
    field("of", COUNT, "After so many that changed nothing the next repair is tried.").required(),
    field("deadline", Text, "By then it has helped, or the verdict changes, or another attempt begins; RFC 3339.")
        .required(),
];

const VERDICT: &[Field] = &[
    field("state", VERDICTS, "The word.").required(),
    field("since", Text, "Since when it is that word; RFC 3339.").required(),
    field("reason", Text, "The fault that it is about."),
    field("subsystem", SUBSYSTEMS, "Where that is."),
    field("scope", SCOPES, "Whose that is."),
    field("confidencePercent", PERCENT, "How sure."),
    field("replaceAfter", Text, "From this time on the node should be replaced; RFC 3339."),
    field("next", Object(NEXT), "What comes if nothing changes, and with a repair under way: if nothing helps."),
    field("repair", Object(REPAIR), "What is being done about it."),
    field("summary", Text, "For people.").required(),
];

const NODE: &[Field] = &[
    field("name", Text, "The node's name; absent before it is known."),
    field("vmId", Text, "Azure's id of the VM; absent when IMDS did not say."),
    field("bootId", Text, "The kernel's id of this boot."),
    field("kernel", Text, "`uname -r`."),
    field("bootSeq", COUNT, "Boots that the agent saw.").required(),
];

const AGENT: &[Field] = &[
    field("version", Text, "The agent's version.").required(),
    field("startedAt", Text, "When its process started; RFC 3339.").required(),
];

const EVENT: &[Field] = &[
    field("id", Text, "IMDS' id.").required(),
    field("type", Text, "Preempt, Freeze, Reboot, Redeploy or Terminate.").required(),
    field("notBefore", Text, "Not before this time; absent once started; RFC 3339."),
    field("source", Text, "Platform or User.").required(),
    field("hasStarted", Bool, "It has begun.").required(),
];

const SUPPRESSION: &[Field] = &[
    field("reason", Text, "BootGrace, VmPause or PlannedMaintenance: while it lasts no fault gets older.").required(),
    field("from", Text, "Since when; RFC 3339.").required(),
];

const FENCING: &[Field] = &[
    field("watchdogArmed", Bool, "A watchdog of the machine counts down, and somebody feeds it.").required(),
    field(
        "safeAfterSeconds",
        COUNT,
        "A machine whose kernel or PID 1 hangs has been reset so long after it was last heard of; says nothing about one that cannot be reached.",
    ),
];

const HELD: &[Field] = &[
    field("intent", Word(&["Hold", "Drain"]), "Why no repair is begun.").required(),
    field("until", Text, "When it is over; RFC 3339.").required(),
    field("by", Text, "The intent's id.").required(),
];

const INTENTS: &[Field] = &[
    field("held", Object(HELD), "No repair is begun."),
    field("rebootGrantedBy", Text, "The id of the intent by which the node may reboot itself once."),
];

const CONDITION: &[Field] = &[
    field("type", Text, "The type of the NodeCondition.").required(),
    field("status", Word(&["True", "False", "Unknown"]), "True is good.").required(),
    field("reason", Text, "The fault.").required(),
    field("message", Text, "What it means.").required(),
    field("lastTransitionTime", Text, "When the status last changed; RFC 3339.").required(),
];

/// The shape of the document.
static SHAPE: Shape = Object(&[
    field("apiVersion", Word(&[HEALTH_API_VERSION]), "The contract.").required(),
    field("kind", Word(&["NodeHealth"]), "The kind.").required(),
    field("node", Object(NODE), "Which node.").required(),
    field("agent", Object(AGENT), "Who says so.").required(),
    field("generation", COUNT, "Grows with every change of the document.").required(),
    field("observedAt", Text, "When it last changed; RFC 3339.").required(),
    field("validForSeconds", Integer(1, 3600), "How old the last look (header Node-Health-Age) may be.").required(),
    field("phase", Word(&["Bootstrapping", "Ready"]), "Whether the node has registered.").required(),
    field("fencing", Object(FENCING), "What ends a machine that hangs.").required(),
    field("verdict", Object(VERDICT), "The one word, and why.").required(),
    field("subsystems", List(&Object(SUBSYSTEM)), "Every part of the node.").required(),
    field("scheduledEvents", List(&Object(EVENT)), "What Azure announces."),
    field("suppressions", List(&Object(SUPPRESSION)), "Why nothing counts now."),
    field("intents", Object(INTENTS), "What the provisioner asked for at /v1/intents, as far as it still holds."),
    field("conditions", List(&Object(CONDITION)), "The NodeConditions, as the agent would write them."),
]);

/// The JSON Schema of the document.
pub fn health_schema() -> Value {
    let mut schema = SHAPE.json_schema();
    schema["$schema"] = json!(crate::clouds::JSON_SCHEMA_DIALECT);
    schema["title"] = json!("NodeHealth");
    schema
}

/// What is wrong with a document, by the schema: for tests of whoever makes one.
#[cfg(test)]
pub(crate) fn problems(document: &NodeHealth) -> Vec<String> {
    let mut findings = crate::config::problem::Findings::default();
    SHAPE.check(&serde_json::to_value(document).unwrap(), crate::config::shape::Naming::Exact, &mut findings);
    let problems = findings.problems.iter().map(ToString::to_string);
    problems.chain(findings.warnings.iter().map(|warning| format!("{}: {}", warning.path, warning.message))).collect()
}
