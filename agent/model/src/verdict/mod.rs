//! From readings to one word: what the provisioner may do to this node.
//!
//! A provisioner destroys a node on one bit and gives its pods a second. So everything that makes a signal slow and sure happens here,
//! and everything that makes it quick happens in the host, which looks at once when the kernel says something. In order:
//!
//! 1. **Time.** All counting is in a time of our own, that stands still while something is suppressed: the boot and a minute after it, a
//!    pause of the VM (the sweep came much too late, or the wall clock jumped), a maintenance that Azure announced. So a suppressed
//!    minute cannot make anything older, and nor can the time in which the agent itself did not run.
//! 2. **Hysteresis.** A signal counts when N of its last M readings were bad, spaced; it clears after K good ones in a row and a minute.
//! 3. **Flaps.** A fault that came three times within half an hour is held, at `Degraded`, for half an hour.
//! 4. **Proof.** A verdict worse than `Degraded` needs a signal that cannot err, or two of different classes, for as long as the fault's
//!    row says, on a machine calm enough to measure. Faults of the world and of nobody stay `Degraded` for ever.
//! 5. **Causes.** A fault that another explains is its consequence: it adds nothing, and its time starts when the cause is gone.
//! 6. **Repairs.** While one is made against a fault, or cools down, the fault asks for `Repairing`; for more only when its ladder is
//!    spent ([`crate::repair`]).
//! 7. **Reboot.** What a reboot was to mend and did not, within a day, needs replacement. Where the node may reboot itself, or was granted
//!    it, that is the last rung of every ladder.
//!
//! The state is plain data. The host keeps it on disk, so a restart of ours changes neither a time nor a verdict.

mod conditions;
mod events;
mod hysteresis;
mod intents;
mod repairs;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use conditions::{Condition, ConditionStatus, NODE_HEALTHY, PREEMPTION_SCHEDULED, condition_types};
pub use events::NodeEvent;
pub use intents::{Held, Intents, Taken};
pub use repairs::Order;

use crate::monitor::{
    self, BootSeen, Class, Fault, History, Observed, Outcome, Reading, ScheduledEvent, Scope, Seen, Subsystem, Tick,
    UnitSeen, Verdict,
};
use crate::repair::ledger::Progress;
use crate::repair::{Ledger, Policy, Repair, Standing, millis, standing};
use hysteresis::{FaultState, LEAST_CONFIDENCE};

/// Most time that one sweep can add: sweeps come each second, and a late one does not make a fault older by its lateness.
const MAX_STEP: Duration = Duration::from_secs(5);

/// A sweep later than this, or a wall clock that jumped by more, means that the VM stood still or was moved.
const PAUSE: Duration = Duration::from_secs(10);

/// How long after a pause or a maintenance nothing counts.
const AFTER_PAUSE: Duration = Duration::from_secs(120);

/// How long after a boot nothing counts.
const AFTER_BOOT: Duration = Duration::from_secs(60);

/// A signal that was not read for so long is dropped: what it looked at is gone.
const STALE_MS: u64 = 10 * 60_000;

/// A required subsystem that was not read for so long is unknown.
const UNMEASURED_MS: u64 = 2 * 60_000;

/// A reboot for the same fault within this did not help.
const REBOOT_WINDOW: SignedDuration = SignedDuration::from_hours(24);

/// Time for a granted reboot; then the node should be replaced.
const REBOOT_GRACE: SignedDuration = SignedDuration::from_mins(30);

/// What the node cannot do without, and must have been measured before it is called healthy.
const REQUIRED: [Subsystem; 4] = [Subsystem::Kernel, Subsystem::Storage, Subsystem::Runtime, Subsystem::Kubelet];

impl Subsystem {
    /// Whether the node cannot do without it.
    pub fn is_required(self) -> bool {
        REQUIRED.contains(&self)
    }
}

/// Reason of a node whose required subsystem cannot be measured.
pub const CANNOT_MEASURE: &str = "CannotMeasure";

/// Everything that is known over time. Kept on disk by the host.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    boot_id: String,
    /// Boots of this machine that we saw.
    pub(crate) boot_sequence: u64,
    /// Counts what changed in the document.
    pub(crate) generation: u64,
    /// When it last changed.
    pub(crate) changed_at: Timestamp,
    time_ms: u64,
    last: Option<(Duration, Timestamp)>,
    boot: Boot,
    pause: Option<Pause>,
    pub(crate) suppressed: Option<Suppression>,
    faults: BTreeMap<String, FaultState>,
    measured: BTreeMap<Subsystem, u64>,
    history: History,
    pub(crate) current: Current,
    pub(crate) events: Vec<ScheduledEvent>,
    /// After so many seconds a machine that hangs is reset.
    pub(crate) watchdog_seconds: Option<u64>,
    rebooted_for: Vec<(String, Timestamp)>,
    conditions: BTreeMap<String, (ConditionStatus, Timestamp)>,
    policy: Policy,
    pub(crate) intents: Intents,
    taken_intents: intents::TakenIntents,
    pub(crate) ledger: Ledger,
    is_strained: bool,
    units: BTreeMap<String, UnitSeen>,
    writes: BTreeMap<String, repairs::Write>,
    told: Told,
    events_told: events::Told,
    run: Run,
}

/// What this run of the agent has seen by itself; the rest is an earlier one's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Run {
    /// After the machine's start.
    since: Duration,
    /// IMDS has said what it announces.
    has_events: bool,
}

/// Where the boot stands, as last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Boot {
    #[default]
    Running,
    Failed,
    /// Since when, after the machine's start.
    Done(Duration),
}

/// Why the machine stood still, and until when nothing counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pause {
    reason: PauseReason,
    from: Timestamp,
    until: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum PauseReason {
    VmPause,
    PlannedMaintenance,
}

/// Why nothing counts now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Suppression {
    /// `BootGrace`, `VmPause` or `PlannedMaintenance`.
    pub reason: String,
    /// Since when.
    pub from: Timestamp,
}

/// The verdict as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Current {
    /// The word.
    pub state: Verdict,
    /// Since when it is that word.
    pub since: Timestamp,
    /// Which fault it is about.
    pub reason: Option<String>,
    /// Of which target; empty when there is only one.
    pub target: String,
    /// From this time on the node should be replaced.
    pub replace_after: Option<Timestamp>,
}

impl Default for Current {
    fn default() -> Self {
        Self {
            state: Verdict::Unknown,
            since: Timestamp::UNIX_EPOCH,
            reason: None,
            target: String::new(),
            replace_after: None,
        }
    }
}

/// Reason, target, cause, verdict, signals.
type ToldFinding = (String, String, Option<String>, Verdict, Vec<String>);

/// What a reader of the document could tell apart; when it changes, the generation does.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Told {
    current: Option<Current>,
    boot: bool,
    findings: Vec<ToldFinding>,
    unknown: Vec<Subsystem>,
    suppressed: Option<Suppression>,
    events: Vec<ScheduledEvent>,
    watchdog_seconds: Option<u64>,
    intents: Intents,
    repairs: repairs::Told,
}

/// One fault that is there.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Its row.
    pub fault: &'static Fault,
    /// At what: a mount point, an interface; empty when there is only one.
    pub target: String,
    /// Since when.
    pub since: Timestamp,
    /// The verdict that it asks for now.
    pub level: Verdict,
    /// What it would ask for, and when, if nothing changed.
    pub next: Option<(Verdict, Timestamp)>,
    /// The reason of the fault that explains it.
    pub caused_by: Option<String>,
    /// In percent.
    pub confidence: u8,
    /// It is gone and held because it came too often.
    pub is_held: bool,
    /// The repair that is made against it, or cools down.
    pub repair: Option<Progress>,
    /// What was seen.
    pub evidence: Vec<Evidence>,
}

/// What one signal saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// The signal's name.
    pub signal: &'static str,
    /// What kind of look it is.
    pub class: Class,
    /// When it was first bad.
    pub first_seen: Timestamp,
    /// What it saw last.
    pub sample: String,
}

/// How a subsystem does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubsystemState {
    /// Measured, and nothing wrong.
    Ok,
    /// Something is wrong that is not proven, or that something else explains.
    Impaired,
    /// Something is wrong, for sure.
    Failed,
    /// It was not measured.
    Unknown,
}

impl State {
    /// Goes on after a start of ours: in the same boot of the machine where the last one stopped, in another one from the beginning.
    pub fn resume(mut self, boot_id: &str, tick: Tick) -> Self {
        let is_same_boot = self.boot_id == boot_id;
        self.ledger.resume(is_same_boot, tick.since_boot, tick.wall);
        let run = Run { since: tick.since_boot, has_events: false };
        if is_same_boot {
            self.last = Some((tick.since_boot, tick.wall));
            self.run = run;
            return self;
        }
        let mut rebooted_for = std::mem::take(&mut self.rebooted_for);
        if self.current.state == Verdict::NeedsReboot {
            rebooted_for.extend(self.current.reason.take().map(|reason| (reason, tick.wall)));
        }
        rebooted_for.retain(|(_, at)| tick.wall.duration_since(*at) < REBOOT_WINDOW);
        Self {
            boot_id: boot_id.to_owned(),
            boot_sequence: self.boot_sequence + 1,
            generation: self.generation,
            // A condition's time moves when its status does, also over a reboot.
            conditions: self.conditions,
            events_told: self.events_told,
            rebooted_for,
            last: Some((tick.since_boot, tick.wall)),
            current: Current { since: tick.wall, ..Current::default() },
            changed_at: tick.wall,
            policy: Policy { is_reboot_granted: false, ..self.policy },
            ledger: self.ledger,
            run,
            ..Self::default()
        }
    }

    /// Takes a sweep in. True when the document changed.
    pub fn advance(&mut self, observed: &Observed) -> bool {
        let tick = observed.tick;
        self.take_boot(observed);
        self.take_events(observed);
        let step = self.step(tick);
        self.suppressed = self.suppression(tick);
        if self.suppressed.is_some() {
            // What grows now is not held against the node later.
            self.history = History::default();
        } else {
            self.time_ms += millis(step.min(MAX_STEP));
        }
        self.history.add(self.time_ms, &observed.counters);
        let seen = Seen { now: observed, history: &self.history };
        let is_strained = seen.is_strained();
        for reading in monitor::read(seen) {
            if self.suppressed.is_none() || reading.signal.is_immediate {
                self.take(reading, tick.wall);
            }
        }
        self.drop_stale();
        self.judge(tick.wall, is_strained);
        self.follow_repairs(observed, is_strained);
        let findings = self.findings();
        self.conclude(&findings, tick.wall);
        self.expire_intents(tick);
        self.move_conditions(&findings, tick.wall);
        self.has_changed(&findings, tick.wall)
    }

    fn take_boot(&mut self, observed: &Observed) {
        self.boot = match (&observed.boot, self.boot) {
            (None, boot) | (Some(BootSeen::Done), boot @ Boot::Done(_)) => boot,
            (Some(BootSeen::Running), _) => Boot::Running,
            (Some(BootSeen::Failed(_)), _) => Boot::Failed,
            (Some(BootSeen::Done), _) => Boot::Done(observed.tick.since_boot),
        };
    }

    fn take_events(&mut self, observed: &Observed) {
        if let Some(Ok(events)) = &observed.scheduled_events {
            self.events.clone_from(events);
            self.run.has_events = true;
        }
        if let Some(watchdogs) = &observed.watchdogs {
            self.watchdog_seconds = watchdogs.iter().copied().min();
        }
    }

    /// The time since the last sweep; notes a pause.
    fn step(&mut self, tick: Tick) -> Duration {
        let Some((last, last_wall)) = self.last.replace((tick.since_boot, tick.wall)) else { return Duration::ZERO };
        let step = tick.since_boot.saturating_sub(last);
        let by_wall = tick.wall.duration_since(last_wall);
        let jump = (by_wall - SignedDuration::try_from(step).unwrap_or(SignedDuration::MAX)).unsigned_abs();
        if step > PAUSE || jump > PAUSE {
            self.pause =
                Some(Pause { reason: PauseReason::VmPause, from: last_wall, until: tick.since_boot + AFTER_PAUSE });
        }
        let is_maintained = self.events.iter().any(|event| {
            let is_due = event.has_started || event.not_before.is_some_and(|at| at <= tick.wall);
            is_due && matches!(event.kind.as_str(), "Freeze" | "Reboot" | "Redeploy")
        });
        if is_maintained {
            let from = match &self.pause {
                Some(pause) if pause.reason == PauseReason::PlannedMaintenance => pause.from,
                _ => tick.wall,
            };
            let until = tick.since_boot + AFTER_PAUSE;
            self.pause = Some(Pause { reason: PauseReason::PlannedMaintenance, from, until });
        }
        step
    }

    fn suppression(&mut self, tick: Tick) -> Option<Suppression> {
        let is_booting = match self.boot {
            Boot::Running => true,
            Boot::Failed => false,
            Boot::Done(at) => tick.since_boot < at + AFTER_BOOT,
        };
        self.pause = self.pause.take().filter(|pause| tick.since_boot < pause.until);
        let (reason, from) = match &self.pause {
            Some(pause) => (format!("{:?}", pause.reason), pause.from),
            None if is_booting => ("BootGrace".to_owned(), tick.wall),
            None => return None,
        };
        // The time of the first sweep of a suppression stays.
        let from = self.suppressed.take().filter(|old| old.reason == reason).map_or(from, |old| old.from);
        Some(Suppression { reason, from })
    }

    fn take(&mut self, reading: Reading, wall: Timestamp) {
        let Reading { signal, target, outcome } = reading;
        let fault = signal.fault;
        if matches!(outcome, Outcome::Good | Outcome::Bad(_)) {
            self.measured.insert(fault.subsystem, self.time_ms);
        }
        let key = format!("{}/{target}", fault.reason);
        match outcome {
            Outcome::Unknown(_) => {}
            Outcome::Good => {
                let known = self.faults.get_mut(&key).and_then(|fault| fault.signals.get_mut(signal.name));
                if let Some(state) = known {
                    state.good(signal, self.time_ms);
                }
            }
            Outcome::Bad(sample) => {
                let fault = self.faults.entry(key).or_insert_with(|| FaultState {
                    reason: fault.reason.to_owned(),
                    target,
                    ..FaultState::default()
                });
                fault.signals.entry(signal.name.to_owned()).or_default().bad(signal, self.time_ms, wall, sample);
            }
        }
    }

    /// What was not read for long is gone: a file system that was unmounted, an interface that was removed.
    fn drop_stale(&mut self) {
        let now = self.time_ms;
        for fault in self.faults.values_mut() {
            fault.signals.retain(|_, state| now - state.last_read_ms() < STALE_MS && !state.is_forgotten());
        }
        // Rows of an older version of us have no monitor any more.
        self.faults.retain(|_, fault| {
            monitor::fault(&fault.reason).is_some()
                && (!fault.signals.is_empty() || fault.since.is_some() || fault.was_here_lately(now))
        });
    }

    /// Enters, leaves, holds, proves and explains.
    fn judge(&mut self, wall: Timestamp, is_strained: bool) {
        let now = self.time_ms;
        for fault in self.faults.values_mut() {
            fault.enter_or_leave(now, wall);
        }
        let present: BTreeSet<String> =
            self.faults.values().filter(|fault| fault.is_active()).map(|fault| fault.reason.clone()).collect();
        for fault in self.faults.values_mut() {
            let Some(row) = monitor::fault(&fault.reason) else { continue };
            fault.cause =
                row.explained_by.iter().find(|cause| present.contains(**cause)).map(|cause| (*cause).to_owned());
            fault.prove(row, now, wall, is_strained);
        }
    }

    /// The faults that are there, the worst first.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self.faults.values().filter_map(|fault| self.finding(fault)).collect();
        findings.sort_by(|a, b| {
            (b.level.cmp(&a.level))
                .then(a.caused_by.is_some().cmp(&b.caused_by.is_some()))
                .then(a.since.cmp(&b.since))
                .then(a.fault.reason.cmp(b.fault.reason))
        });
        findings
    }

    fn finding(&self, state: &FaultState) -> Option<Finding> {
        let fault = monitor::fault(&state.reason)?;
        let since = state.since?;
        let standing = standing(&self.policy, &self.ledger, &state.reason, &state.target);
        let level = match standing {
            // That is a fact, whatever it was begun on; that its signals clear one by one is what was hoped for.
            Standing::UnderWay => Verdict::Repairing,
            Standing::CoolingDown(row, _) | Standing::Next(row) if row.is_last_resort() => {
                self.last_resort(state, fault)
            }
            Standing::CoolingDown(..) if self.is_being_repaired(state) => Verdict::Repairing,
            Standing::Next(row) if self.is_being_repaired(state) && self.goes_on(row, state) => Verdict::Repairing,
            Standing::NoRepair | Standing::Spent if state.is_escalated => self.worst(fault),
            _ => Verdict::Degraded,
        };
        let repair = Some(fault.reason).filter(|_| level == Verdict::Repairing);
        let repair = repair.and_then(|reason| self.ledger.progress(&self.policy, reason, &state.target));
        let next = self.next(state, fault, level, standing, repair.as_ref());
        let evidence = monitor::signals().filter(|signal| std::ptr::eq(signal.fault, fault)).filter_map(|signal| {
            let seen = state.signals.get(signal.name).filter(|seen| seen.is_active)?;
            Some(Evidence {
                signal: signal.name,
                class: signal.class,
                first_seen: seen.first_seen.unwrap_or(since),
                sample: seen.sample.clone(),
            })
        });
        Some(Finding {
            fault,
            target: state.target.clone(),
            since,
            level,
            next,
            caused_by: state.cause.clone(),
            confidence: state.confidence,
            is_held: !state.is_active(),
            repair,
            evidence: evidence.collect(),
        })
    }

    /// Whether the next attempt is only a matter of time: the fault is proven, or one on suspicion was made.
    fn is_being_repaired(&self, state: &FaultState) -> bool {
        state.cause.is_none() && (state.proven_ms.is_some() || self.ledger.was_tried(&state.reason, &state.target))
    }

    /// What a fault asks for when nothing milder than a reboot is left, whoever makes that.
    fn last_resort(&self, state: &FaultState, fault: &Fault) -> Verdict {
        match state.is_escalated {
            false => Verdict::Degraded,
            true if self.was_rebooted_for(fault.reason) => self.worst(fault),
            true => Verdict::NeedsReboot,
        }
    }

    fn was_rebooted_for(&self, reason: &str) -> bool {
        self.rebooted_for.iter().any(|(of, _)| of == reason) || self.ledger.was_rebooted_for(reason, &self.boot_id)
    }

    fn goes_on(&self, row: &Repair, state: &FaultState) -> bool {
        self.ledger.goes_on_until(row, &state.reason, &state.target).is_some()
    }

    /// What a fault would ask for, and when, if nothing changed; nothing while it waits for a repair that can be made.
    fn next(
        &self,
        state: &FaultState,
        fault: &Fault,
        level: Verdict,
        standing: Standing,
        repair: Option<&Progress>,
    ) -> Option<(Verdict, Timestamp)> {
        let worst = self.worst(fault);
        let may_escalate = fault.worst > Verdict::Degraded && fault.scope == Scope::Local && level < worst;
        let persist = SignedDuration::try_from(fault.persist).unwrap_or(SignedDuration::MAX);
        let by = state.proven_at.filter(|_| may_escalate)? + persist;
        match (standing, repair) {
            (_, Some(repair)) => Some((worst, by.max(repair.spent_by))),
            (Standing::NoRepair | Standing::Spent, None) => Some((worst, by)),
            (Standing::CoolingDown(row, _) | Standing::Next(row), None) if row.is_last_resort() => {
                let level = if self.was_rebooted_for(fault.reason) { worst } else { Verdict::NeedsReboot };
                (state.proven_ms.is_some() && !state.is_escalated).then_some((level, by))
            }
            (Standing::UnderWay | Standing::CoolingDown(..) | Standing::Next(_), None) => None,
        }
    }

    /// The worst that a fault can lead to here: a reboot that did not help is not asked for again.
    fn worst(&self, fault: &Fault) -> Verdict {
        match fault.worst {
            Verdict::NeedsReboot if self.was_rebooted_for(fault.reason) => Verdict::NeedsReplacement,
            worst => worst,
        }
    }

    /// Whether a required subsystem was not measured for too long, or never.
    fn is_unmeasured(&self, subsystem: Subsystem) -> bool {
        self.measured.get(&subsystem).is_none_or(|at| self.time_ms - at > UNMEASURED_MS)
    }

    /// Those that the node has: accelerators only where one was looked at.
    pub(crate) fn subsystems(&self) -> impl Iterator<Item = Subsystem> {
        let has = |one: &Subsystem| *one != Subsystem::Accelerators || self.measured.contains_key(one);
        Subsystem::ALL.into_iter().filter(has)
    }

    /// How a subsystem does.
    pub fn subsystem(&self, subsystem: Subsystem, findings: &[Finding]) -> SubsystemState {
        let mut here = findings.iter().filter(|finding| finding.fault.subsystem == subsystem).peekable();
        if here.peek().is_none() {
            return if self.is_unmeasured(subsystem) { SubsystemState::Unknown } else { SubsystemState::Ok };
        }
        let is_sure = |finding: &Finding| finding.caused_by.is_none() && finding.confidence >= LEAST_CONFIDENCE;
        if here.any(is_sure) { SubsystemState::Failed } else { SubsystemState::Impaired }
    }

    fn conclude(&mut self, findings: &[Finding], wall: Timestamp) {
        let unmeasured = REQUIRED.iter().find(|subsystem| self.is_unmeasured(**subsystem));
        let (state, reason, target) = match (findings.first(), unmeasured) {
            (Some(worst), _) => (worst.level, Some(worst.fault.reason.to_owned()), worst.target.clone()),
            // Before anything was measured there is no verdict; afterwards it is a fault not to know.
            (None, Some(_)) if !self.is_booted() || self.time_ms < UNMEASURED_MS => {
                (Verdict::Unknown, None, String::new())
            }
            (None, Some(_)) => (Verdict::Degraded, Some(CANNOT_MEASURE.to_owned()), String::new()),
            (None, None) if !self.is_booted() => (Verdict::Unknown, None, String::new()),
            (None, None) => (Verdict::Healthy, None, String::new()),
        };
        let old = &self.current;
        let is_same = old.state == state;
        let replace_after = match state {
            Verdict::NeedsReboot => Some(wall + REBOOT_GRACE),
            Verdict::NeedsReplacement => Some(wall),
            _ => None,
        };
        self.current = Current {
            since: if is_same { old.since } else { wall },
            // Computed once: neither a restart nor a stepped clock moves it.
            replace_after: if is_same { old.replace_after } else { replace_after },
            state,
            reason,
            target,
        };
    }

    fn has_changed(&mut self, findings: &[Finding], wall: Timestamp) -> bool {
        let told = Told {
            current: Some(self.current.clone()),
            boot: self.is_booted(),
            findings: findings
                .iter()
                .map(|finding| {
                    let signals = finding.evidence.iter().map(|seen| seen.signal.to_owned()).collect();
                    (
                        finding.fault.reason.to_owned(),
                        finding.target.clone(),
                        finding.caused_by.clone(),
                        finding.level,
                        signals,
                    )
                })
                .collect(),
            unknown: self
                .subsystems()
                .filter(|subsystem| self.subsystem(*subsystem, findings) == SubsystemState::Unknown)
                .collect(),
            suppressed: self.suppressed.clone(),
            events: self.events.clone(),
            watchdog_seconds: self.watchdog_seconds,
            intents: self.intents.clone(),
            repairs: self.repairs_told(),
        };
        let has_changed = told != self.told;
        if has_changed {
            self.told = told;
            // What they tell of is part of it.
            self.tell_events(wall);
            self.generation += 1;
            self.changed_at = wall;
        }
        has_changed
    }

    /// Whether the node has registered in this boot.
    pub fn is_booted(&self) -> bool {
        matches!(self.boot, Boot::Done(_))
    }

    /// The verdict.
    pub fn current(&self) -> &Current {
        &self.current
    }

    /// `"<boots>-<generation>"`, as the document's entity tag has it.
    pub fn tag(&self) -> String {
        format!("{}-{}", self.boot_sequence, self.generation)
    }

    /// The generation of the document.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}
