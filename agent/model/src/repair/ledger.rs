//! What was tried: the attempts of the last day, the one under way, and for which fault which rung was reached.
//!
//! Budgets count in the time of the machine's **life**: the time that it has run, over all boots, as far as we know. Within a boot it is the
//! kernel's clock, which nobody can set; from one boot to the next it stands still. So it is never ahead of the true time: no window of
//! an hour by it is shorter than an hour, whatever the wall clock does and however often we or the machine start again.

mod outlook;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use outlook::{Budget, Progress};

use super::{Act, MOST_VERIFY, Policy, Repair, Standing, VERIFY, millis, minutes, repair, standing};

/// Windows of the budgets.
pub(super) const HOUR: Duration = minutes(60);
pub(super) const DAY: Duration = minutes(24 * 60);

/// What an act may be late by before it is given up.
const SLACK: Duration = Duration::from_secs(30);

/// How long the host may take to begin.
const BEGIN_WITHIN: Duration = minutes(5);

/// Pause after the host could not begin, because something else was under way.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Outcome {
    /// The fault was gone in time.
    Succeeded,
    /// It was done, and the fault was still there.
    ChangedNothing,
    /// It could not be done.
    Failed,
    /// The machine started again in the middle of it.
    Interrupted,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Succeeded, Self::ChangedNothing, Self::Failed, Self::Interrupted];
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// When.
    pub at: Timestamp,
    /// The same in milliseconds of the machine's life.
    pub at_ms: u64,
    /// How.
    pub outcome: Outcome,
    /// What was seen; without secrets.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// One attempt, as the journal has it: first without its end, then with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Grows with every attempt on this machine.
    pub id: u64,
    /// The repair's name.
    pub repair: String,
    /// The fault that it is for.
    pub reason: String,
    /// At what; empty when there is only one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// In which boot of the machine.
    pub boot_id: String,
    /// When.
    pub at: Timestamp,
    /// The same in milliseconds since the machine started.
    pub up_ms: u64,
    /// The same in milliseconds of the machine's life.
    pub at_ms: u64,
    /// What was seen of the fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// How it ended; absent while it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

impl Attempt {
    /// The wall clock's time of a moment of the machine's life, as this attempt knows it. Stands still when the clock is set.
    fn wall(&self, at_ms: u64) -> Timestamp {
        let (at, from) = self.ended.as_ref().map_or((self.at, self.at_ms), |ended| (ended.at, ended.at_ms));
        let after = SignedDuration::from_millis(i64::try_from(at_ms.saturating_sub(from)).unwrap_or(i64::MAX));
        at.checked_add(after).unwrap_or(Timestamp::MAX)
    }

    /// Whether it ended so.
    pub fn is(&self, outcome: Outcome) -> bool {
        self.ended.as_ref().is_some_and(|ended| ended.outcome == outcome)
    }

    fn is_for(&self, reason: &str, target: &str) -> bool {
        self.reason == reason && self.target == target
    }

    /// Moves its begin: so long it took from the decision to the record.
    pub fn begun_after(mut self, took: Duration) -> Self {
        self.at += SignedDuration::try_from(took).unwrap_or(SignedDuration::ZERO);
        self.up_ms += millis(took);
        self.at_ms += millis(took);
        self
    }
}

/// How far an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The host was told, and has not begun.
    Ordered,
    /// It is on disk, and being done.
    Acting,
    /// It was done; the signals have the word.
    Verifying,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Running {
    attempt: Attempt,
    phase: Phase,
    since_ms: u64,
}

/// The time in which a fault was there without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Episode {
    since_ms: u64,
    /// Its ladder came to its end; that stands until the fault is gone, or the verdict would flap with the budget.
    is_spent: bool,
}

/// What was tried.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// The machine's life before this boot.
    before_ms: u64,
    now_ms: u64,
    last_id: u64,
    /// Ended ones of the last day, the oldest first.
    attempts: Vec<Attempt>,
    running: Option<Running>,
    episodes: BTreeMap<String, Episode>,
    /// Why the host did not begin, and until when it is not asked again.
    refused: Option<(String, u64)>,
    /// Ends that the journal does not have yet.
    unrecorded: Vec<Attempt>,
    /// Nothing counts now.
    is_paused: bool,
}

/// What the signals say of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Symptoms {
    /// It is there.
    pub(crate) is_active: bool,
    /// Its signals are still bad; else they are clearing.
    pub(crate) is_bad_now: bool,
}

impl Ledger {
    /// Goes on after a start of ours.
    pub(crate) fn resume(&mut self, is_same_boot: bool, up: Duration, wall: Timestamp) {
        if !is_same_boot {
            // The attempt under way may have begun after the last sweep.
            let begun_ms = self.running.as_ref().map_or(0, |running| running.attempt.at_ms);
            self.before_ms = self.now_ms.max(begun_ms);
            self.episodes.clear();
        }
        self.refused = None;
        self.advance(up);
        match self.running.take() {
            Some(running) if running.phase == Phase::Ordered => {} // it is not in the journal: it was not begun
            Some(running) if is_same_boot && running.phase == Phase::Verifying => self.running = Some(running),
            Some(running) => self.adopt(running.attempt, is_same_boot, wall),
            None => {}
        }
    }

    /// Takes in what the journal has: it is the truth, and may know of attempts that a crash took from us.
    pub(crate) fn learn(&mut self, boot_id: &str, up: Duration, wall: Timestamp, journal: Vec<Attempt>) {
        for attempt in &journal {
            let is_of_this_boot = attempt.boot_id == boot_id;
            let before = if is_of_this_boot { attempt.at_ms.saturating_sub(attempt.up_ms) } else { attempt.at_ms };
            self.before_ms = self.before_ms.max(before);
            self.last_id = self.last_id.max(attempt.id);
        }
        self.advance(up);
        for attempt in journal {
            let is_of_this_boot = attempt.boot_id == boot_id;
            let is_running = self.running.as_ref().is_some_and(|running| running.attempt.id == attempt.id);
            let is_known = self.attempts.iter().any(|known| known.id == attempt.id);
            match (attempt.ended.is_some(), is_running) {
                (true, true) => {
                    self.running = None;
                    self.attempts.push(attempt);
                }
                (true, false) if !is_known => self.attempts.push(attempt),
                (false, false) if !is_known => self.adopt(attempt, is_of_this_boot, wall),
                _ => {}
            }
        }
        self.attempts.sort_by_key(|attempt| attempt.id);
        self.forget();
    }

    /// An attempt that had begun when we or the machine stopped. What it did we do not know: the signals do.
    fn adopt(&mut self, attempt: Attempt, is_of_this_boot: bool, wall: Timestamp) {
        let row = repair(&attempt.repair);
        if !is_of_this_boot && row.is_some_and(|row| row.act == Act::Reboot) {
            // Whether it helped shows when the fault is there again: then it is not tried a second time.
            return self.close(attempt, wall, Outcome::Succeeded, "the machine started again".to_owned());
        }
        if !is_of_this_boot || self.running.is_some() {
            return self.close(attempt, wall, Outcome::Interrupted, "its end was not seen".to_owned());
        }
        let limit = row.map_or(0, |row| millis(row.limit));
        let since_ms = self.now_ms.min(attempt.at_ms.saturating_add(limit));
        self.running = Some(Running { attempt, phase: Phase::Verifying, since_ms });
    }

    /// Lets time go on.
    pub(crate) fn advance(&mut self, up: Duration) {
        self.now_ms = self.now_ms.max(self.before_ms + millis(up));
        self.forget();
    }

    fn forget(&mut self) {
        let now = self.now_ms;
        self.attempts.retain(|attempt| now.saturating_sub(attempt.at_ms) < millis(DAY));
    }

    /// The machine's life now, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Attempts of the last day, the one under way among them, the oldest first.
    pub fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        let running = self.running.iter().filter(|running| running.phase != Phase::Ordered);
        self.attempts.iter().chain(running.map(|running| &running.attempt))
    }

    fn begun(&self, row: &Repair, window: Duration) -> impl Iterator<Item = &Attempt> {
        let after = self.now_ms.saturating_sub(millis(window));
        let is_in = move |attempt: &&Attempt| self.now_ms < millis(window) || attempt.at_ms > after;
        self.attempts().filter(|attempt| attempt.repair == row.name).filter(is_in)
    }

    /// Whether a budget of a repair is spent.
    pub(super) fn is_out_of_budget(&self, row: &Repair) -> bool {
        let (hour, day) = row.budget;
        self.begun(row, HOUR).count() >= hour || self.begun(row, DAY).count() >= day
    }

    /// When a repair may be done again, in the machine's life.
    pub(super) fn cooled_ms(&self, row: &Repair) -> u64 {
        let Some(last) = self.attempts.iter().rev().find(|attempt| attempt.repair == row.name) else { return 0 };
        let count = u32::try_from(self.begun(row, DAY).count()).unwrap_or(u32::MAX).clamp(1, 31);
        let (first, most) = row.pause;
        let pause = first.saturating_mul(1 << (count - 1)).min(most);
        last.ended.as_ref().map_or(last.at_ms, |ended| ended.at_ms) + millis(pause)
    }

    /// Attempts of a repair against a fault that did not help, since it came or was last helped.
    pub(super) fn tries(&self, row: &Repair, reason: &str, target: &str) -> usize {
        let since = self.episodes.get(&key(reason, target)).map_or(0, |episode| episode.since_ms);
        let of_it = self.attempts.iter().filter(|attempt| attempt.is_for(reason, target) && attempt.at_ms >= since);
        let of_it: Vec<_> = of_it.collect();
        let helped = of_it.iter().rposition(|attempt| attempt.is(Outcome::Succeeded)).map_or(0, |last| last + 1);
        of_it[helped..].iter().filter(|attempt| attempt.repair == row.name).count()
    }

    /// Whether any attempt against a fault did not help, since it came or was last helped.
    pub(crate) fn was_tried(&self, reason: &str, target: &str) -> bool {
        super::ladder(reason).any(|row| self.tries(row, reason, target) > 0)
    }

    /// Whether the machine was started again for a fault within a day, before this boot.
    pub(crate) fn was_rebooted_for(&self, reason: &str, boot_id: &str) -> bool {
        let is_reboot = |attempt: &Attempt| repair(&attempt.repair).is_some_and(|row| row.act == Act::Reboot);
        self.attempts.iter().any(|one| one.reason == reason && one.boot_id != boot_id && is_reboot(one))
    }

    pub(super) fn is_spent(&self, reason: &str, target: &str) -> bool {
        self.episodes.get(&key(reason, target)).is_some_and(|episode| episode.is_spent)
    }

    /// The attempt that the host was told to make or makes, or that is being verified.
    pub(crate) fn under_way(&self) -> Option<(&Attempt, Phase)> {
        self.running.as_ref().map(|running| (&running.attempt, running.phase))
    }

    /// The attempt that was begun for a fault.
    pub(super) fn is_repairing(&self, reason: &str, target: &str) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| running.phase != Phase::Ordered && running.attempt.is_for(reason, target))
    }

    /// Why the host is not to be asked now.
    pub(super) fn refused(&self) -> Option<&str> {
        self.refused.as_ref().filter(|(_, until)| self.now_ms < *until).map(|(why, _)| why.as_str())
    }

    /// Notes that the host was told to make an attempt. What it records is this.
    pub(crate) fn order(&mut self, mut attempt: Attempt) -> Attempt {
        self.last_id += 1;
        attempt.id = self.last_id;
        attempt.at_ms = self.now_ms;
        self.running = Some(Running { attempt: attempt.clone(), phase: Phase::Ordered, since_ms: self.now_ms });
        attempt
    }

    /// The attempt is on disk, and being made.
    pub(crate) fn has_begun(&mut self, attempt: Attempt) {
        // One that was given up, because its record took long, is one all the same.
        self.attempts.retain(|known| known.id != attempt.id);
        self.running = Some(Running { since_ms: attempt.at_ms, attempt, phase: Phase::Acting });
    }

    /// The host did not begin, because something else was under way. That counts for nothing.
    pub(crate) fn was_refused(&mut self, why: String) {
        if self.running.take_if(|running| running.phase == Phase::Ordered).is_some() {
            self.refused = Some((why, self.now_ms + millis(REFUSED_PAUSE)));
        }
    }

    /// The act has ended.
    pub(crate) fn has_acted(&mut self, wall: Timestamp, result: Result<(), String>) {
        let Some(running) = self.running.take() else { return };
        match result {
            Ok(()) => self.running = Some(Running { phase: Phase::Verifying, since_ms: self.now_ms, ..running }),
            Err(why) => self.close(running.attempt, wall, Outcome::Failed, why),
        }
    }

    /// Looks whether the attempt under way has helped, or was given time enough.
    pub(crate) fn verify(&mut self, wall: Timestamp, is_paused: bool, symptoms: impl Fn(&str, &str) -> Symptoms) {
        let was_paused = std::mem::replace(&mut self.is_paused, is_paused);
        if is_paused {
            return;
        }
        let Some(mut running) = self.running.take() else { return };
        if was_paused {
            // The signals stood still meanwhile, and so could prove nothing.
            running.since_ms = self.now_ms;
        }
        let age = Duration::from_millis(self.now_ms.saturating_sub(running.since_ms));
        let limit = repair(&running.attempt.repair).map_or(Duration::ZERO, |row| row.limit);
        let seen = symptoms(&running.attempt.reason, &running.attempt.target);
        let end = match running.phase {
            Phase::Ordered if age > BEGIN_WITHIN => Some((Outcome::Failed, "it could not be begun in time")),
            Phase::Acting if age > limit + SLACK => Some((Outcome::Failed, "it did not end in time")),
            Phase::Ordered | Phase::Acting => None,
            Phase::Verifying if !seen.is_active => Some((Outcome::Succeeded, "")),
            Phase::Verifying if age > MOST_VERIFY => Some((Outcome::ChangedNothing, "the fault did not clear in time")),
            Phase::Verifying if age > VERIFY && seen.is_bad_now => {
                Some((Outcome::ChangedNothing, "the fault is there"))
            }
            Phase::Verifying => None,
        };
        match end {
            Some((outcome, detail)) => self.close(running.attempt, wall, outcome, detail.to_owned()),
            None => self.running = Some(running),
        }
    }

    fn close(&mut self, mut attempt: Attempt, at: Timestamp, outcome: Outcome, detail: String) {
        // It may have begun after the last sweep.
        let at_ms = self.now_ms.max(attempt.at_ms);
        attempt.ended = Some(Ended { at, at_ms, outcome, detail });
        self.unrecorded.push(attempt.clone());
        self.attempts.push(attempt);
    }

    /// Notes which faults are there, and whose ladder has come to its end.
    pub(crate) fn follow<'a>(&mut self, policy: &Policy, present: impl Iterator<Item = (&'a str, &'a str)>) {
        let mut episodes = BTreeMap::new();
        for (reason, target) in present {
            let key = key(reason, target);
            let fresh = Episode { since_ms: self.now_ms, is_spent: false };
            let mut episode = self.episodes.get(&key).copied().unwrap_or(fresh);
            self.episodes.insert(key.clone(), episode);
            episode.is_spent |= matches!(standing(policy, self, reason, target), Standing::Spent);
            episodes.insert(key, episode);
        }
        self.episodes = episodes;
    }

    /// Ends that are to be recorded, once.
    pub(crate) fn take_unrecorded(&mut self) -> Vec<Attempt> {
        std::mem::take(&mut self.unrecorded)
    }
}

fn key(reason: &str, target: &str) -> String {
    format!("{reason}/{target}")
}
