//! What the verdict tells those who decide about repairs, and what it takes back from those who make them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hysteresis::FaultState;
use super::{Observed, State, UNMEASURED_MS};
use crate::monitor::{Fault, Tick, WriteSeen};
use crate::repair::ledger::{Phase, Symptoms};
use crate::repair::{
    Act, Attempt, Outcome, Policy, Proposal, Proposed, REPAIRS, Repair, Sick, Situation, decide, millis, repair,
};

/// The last write to a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Write {
    at_ms: u64,
    /// What kept it from the disk.
    trouble: Option<String>,
}

/// What a reader of the document could tell apart of repairs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Told {
    attempts: Vec<(u64, Option<Outcome>)>,
    phase: Option<Phase>,
    budgets: Vec<(String, usize, Duration)>,
}

/// What the host is to do.
#[derive(Debug, Clone)]
pub struct Order {
    /// The repair.
    pub repair: &'static Repair,
    /// What is to be on disk before it begins.
    pub attempt: Attempt,
    /// It may begin all the same when that cannot be written: a grant for this boot is record enough.
    pub is_granted: bool,
}

impl State {
    /// Which repairs are allowed.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Takes in the journal of repairs, after a start of ours.
    pub fn learn(&mut self, tick: Tick, journal: Vec<Attempt>) {
        self.ledger.learn(&self.boot_id, tick.since_boot, tick.wall, journal);
    }

    /// What is to be done about each fault that is there, the worst first: at most one repair.
    pub fn decide(&self) -> Vec<Proposal> {
        let findings = self.findings();
        let faults: Vec<Sick<'_>> = findings
            .iter()
            .filter_map(|finding| {
                let state = self.faults.get(&format!("{}/{}", finding.fault.reason, finding.target))?;
                state.is_active().then(|| Sick {
                    reason: finding.fault.reason,
                    target: &finding.target,
                    caused_by: finding.caused_by.as_deref(),
                    is_proven: state.proven_ms.is_some(),
                    is_bad_now: state.is_bad_now(),
                    entered_ms: state.entered_ms.back().copied().unwrap_or(self.time_ms),
                    is_fatal_since_ms: self.is_fatal_since_ms(finding.fault, state),
                })
            })
            .collect();
        let situation = Situation {
            time_ms: self.time_ms,
            is_booted: self.is_booted(),
            suppressed: self.suppressed.as_ref().map(|suppressed| suppressed.reason.as_str()),
            events: &self.events,
            is_strained: self.is_strained,
            units: &self.units,
            written_ms: self.written_ms(),
            held: self.intents.held.as_ref().map(super::Held::word),
            lottery: self.lottery(),
        };
        decide(&self.policy, &self.ledger, situation, &faults)
    }

    fn is_fatal_since_ms(&self, fault: &Fault, state: &FaultState) -> Option<u64> {
        let is_fatal = state.is_escalated && !self.was_rebooted_for(fault.reason);
        state.proven_ms.filter(|_| is_fatal).map(|proven_ms| proven_ms + millis(fault.persist))
    }

    /// When the last of the file systems took a write, or what keeps one from it.
    fn written_ms(&self) -> Result<u64, &str> {
        match self.writes.values().find_map(|write| write.trouble.as_deref()) {
            Some(trouble) => Err(trouble),
            None => Ok(self.writes.values().map(|write| write.at_ms).min().unwrap_or_default()),
        }
    }

    /// Makes an order of what was decided, unless that is to do nothing. It is under way until one of the next three says otherwise.
    pub fn order(&mut self, proposal: &Proposal, tick: Tick) -> Option<Order> {
        let Proposed::Do(row) = proposal.what else { return None };
        let findings = self.findings();
        let is_it =
            |finding: &&super::Finding| finding.fault.reason == proposal.reason && finding.target == proposal.target;
        let evidence = findings.iter().find(is_it)?.evidence.iter();
        let evidence = evidence.map(|seen| format!("{}: {}", seen.signal, seen.sample)).collect();
        let attempt = self.ledger.order(Attempt {
            id: 0,
            repair: row.name.to_owned(),
            reason: proposal.reason.clone(),
            target: proposal.target.clone(),
            boot_id: self.boot_id.clone(),
            at: tick.wall,
            up_ms: millis(tick.since_boot),
            at_ms: 0,
            evidence,
            ended: None,
        });
        Some(Order { repair: row, attempt, is_granted: row.act == Act::Reboot && self.policy.is_reboot_granted })
    }

    /// The host has recorded the attempt, and makes it.
    pub fn repair_has_begun(&mut self, attempt: Attempt) {
        if repair(&attempt.repair).is_some_and(|row| row.act == Act::Reboot) {
            self.use_grant();
        }
        self.ledger.has_begun(attempt);
    }

    /// The host has not begun: something else is under way there.
    pub fn repair_was_refused(&mut self, why: String) {
        self.ledger.was_refused(why);
    }

    /// The host has done it, or could not.
    pub fn repair_has_acted(&mut self, tick: Tick, result: Result<(), String>) {
        self.ledger.has_acted(tick.wall, result);
    }

    /// Ends of attempts that are to be recorded, once.
    pub fn take_ended_repairs(&mut self) -> Vec<Attempt> {
        self.ledger.take_unrecorded()
    }

    /// The attempts of the last day, the oldest first.
    pub fn repairs(&self) -> impl Iterator<Item = &Attempt> {
        self.ledger.attempts()
    }

    /// How far the attempt is that has not ended.
    pub(crate) fn repair_phase(&self) -> Option<Phase> {
        self.ledger.under_way().map(|(_, phase)| phase)
    }

    pub(super) fn follow_repairs(&mut self, observed: &Observed, is_strained: bool) {
        self.is_strained = is_strained;
        for (name, seen) in &observed.units {
            match seen {
                Ok(unit) => self.units.insert(name.clone(), unit.clone()),
                Err(_) => self.units.remove(name),
            };
        }
        self.take_writes(observed);
        self.ledger.advance(observed.tick.since_boot);
        let faults = &self.faults;
        self.ledger.verify(observed.tick.wall, self.suppressed.is_some(), |reason, target| {
            let fault = faults.get(&format!("{reason}/{target}"));
            Symptoms {
                is_active: fault.is_some_and(FaultState::is_active),
                is_bad_now: fault.is_some_and(FaultState::is_bad_now),
            }
        });
        let present = faults.values().filter(|fault| fault.since.is_some());
        self.ledger.follow(&self.policy, present.map(|fault| (fault.reason.as_str(), fault.target.as_str())));
    }

    fn take_writes(&mut self, observed: &Observed) {
        let now = self.time_ms;
        for filesystem in &observed.filesystems {
            let trouble = match &filesystem.write {
                None => continue,
                Some(WriteSeen::Done(_)) => None,
                Some(WriteSeen::Failed(error)) => Some(format!("{}: {error}", filesystem.path)),
                Some(WriteSeen::Hanging(_)) => Some(format!("{}: a write hangs", filesystem.path)),
            };
            self.writes.insert(filesystem.path.clone(), Write { at_ms: now, trouble });
        }
        // One that is not written to any more is gone.
        self.writes.retain(|_, write| now - write.at_ms < UNMEASURED_MS);
    }

    pub(super) fn repairs_told(&self) -> Told {
        let budgets = REPAIRS.iter().filter_map(|row| self.ledger.budget(row));
        Told {
            attempts: self
                .repairs()
                .map(|attempt| (attempt.id, attempt.ended.as_ref().map(|ended| ended.outcome)))
                .collect(),
            phase: self.repair_phase().filter(|phase| *phase != Phase::Ordered),
            budgets: budgets.map(|budget| (budget.repair, budget.remaining, budget.window)).collect(),
        }
    }
}
