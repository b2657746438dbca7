//! What is to come, as far as the rules say: until when a repair may take, when a ladder is spent, what is left of a budget.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Attempt, BEGIN_WITHIN, DAY, HOUR, Ledger, Outcome, Phase, Running, SLACK};
use crate::repair::{MOST_VERIFY, Policy, Repair, Standing, millis, repair, standing};

/// A ladder on which an attempt did not help goes on at once; what it waits for longer than this is no part of the repair.
const GO_ON_WITHIN: Duration = Duration::from_secs(30);

/// A repair of a fault, as the document has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The repair's name.
    pub repair: String,
    /// Which attempt of it against this fault.
    pub attempt: usize,
    /// Nothing while it cools down.
    pub phase: Option<Phase>,
    /// When the attempt began.
    pub started_at: Timestamp,
    /// When this phase is over at the latest.
    pub deadline: Timestamp,
    /// When the ladder is spent at the latest.
    pub spent_by: Timestamp,
}

/// What is left of a repair's budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// The repair's name.
    pub repair: String,
    /// Attempts that may still be made now.
    pub remaining: usize,
    /// The window that is nearest to its limit.
    pub window: Duration,
    /// When the oldest attempt leaves that window, if the wall clock is right.
    pub resets_at: Option<Timestamp>,
}

impl Ledger {
    /// What is left of a repair's budget; nothing when nothing was used.
    pub(crate) fn budget(&self, row: &Repair) -> Option<Budget> {
        let of = |window: Duration, most: usize| {
            let used: Vec<&Attempt> = self.begun(row, window).collect();
            let resets_at = used.first().map(|first| {
                first.at.checked_add(SignedDuration::try_from(window).unwrap_or_default()).unwrap_or(Timestamp::MAX)
            });
            Budget { repair: row.name.to_owned(), remaining: most.saturating_sub(used.len()), window, resets_at }
        };
        let (hour, day) = (of(HOUR, row.budget.0), of(DAY, row.budget.1));
        day.resets_at?;
        Some(if hour.resets_at.is_some() && hour.remaining <= day.remaining { hour } else { day })
    }

    /// Until when a ladder that has not helped yet should have gone on with this repair; nothing when it has just begun, or is held up.
    pub(crate) fn goes_on_until(&self, row: &Repair, reason: &str, target: &str) -> Option<u64> {
        let last = self.attempts.iter().rev().find(|attempt| attempt.is_for(reason, target))?;
        let ended = last.ended.as_ref().filter(|ended| ended.outcome != Outcome::Succeeded)?;
        let until = ended.at_ms.max(self.cooled_ms(row)) + millis(GO_ON_WITHIN);
        (self.now_ms < until).then_some(until)
    }

    /// How a repair of a fault stands, while one is made or cools down.
    pub(crate) fn progress(&self, policy: &Policy, reason: &str, target: &str) -> Option<Progress> {
        let (attempt, phase, until_ms) = match standing(policy, self, reason, target) {
            Standing::UnderWay => {
                let Running { attempt, phase, .. } = self.running.as_ref()?;
                (attempt, Some(*phase), self.latest_end_ms()?)
            }
            Standing::CoolingDown(row, _) | Standing::Next(row) if row.is_last_resort() => return None,
            Standing::CoolingDown(row, until_ms) => {
                let last = self.attempts.iter().rev().find(|attempt| attempt.repair == row.name)?;
                (last, None, until_ms + millis(GO_ON_WITHIN))
            }
            Standing::Next(row) => {
                let last = self.attempts.iter().rev().find(|attempt| attempt.is_for(reason, target))?;
                (last, None, self.goes_on_until(row, reason, target)?)
            }
            Standing::NoRepair | Standing::Spent => return None,
        };
        let tries = repair(&attempt.repair).map_or(0, |row| self.tries(row, reason, target));
        Some(Progress {
            repair: attempt.repair.clone(),
            attempt: tries + usize::from(phase.is_some()),
            phase,
            started_at: attempt.at,
            deadline: attempt.wall(until_ms),
            spent_by: attempt.wall(self.spent_by_ms(policy, reason, target)),
        })
    }

    /// When the attempt under way has ended at the latest.
    fn latest_end_ms(&self) -> Option<u64> {
        let running = self.running.as_ref()?;
        let limit = repair(&running.attempt.repair).map_or(Duration::ZERO, |row| row.limit);
        let left = match running.phase {
            Phase::Ordered => BEGIN_WITHIN + limit + SLACK + MOST_VERIFY,
            Phase::Acting => limit + SLACK + MOST_VERIFY,
            Phase::Verifying => MOST_VERIFY,
        };
        Some(running.since_ms + millis(left))
    }

    /// When a ladder is spent if nothing helps and everything takes its longest: the rules themselves, played to their end.
    fn spent_by_ms(&self, policy: &Policy, reason: &str, target: &str) -> u64 {
        let mut future = self.clone();
        // Each turn uses one attempt or waits for one, and there are few.
        for _ in 0..64 {
            match standing(policy, &future, reason, target) {
                Standing::UnderWay => {
                    future.now_ms = future.latest_end_ms().unwrap_or(future.now_ms);
                    let Some(running) = future.running.take() else { break };
                    future.close(running.attempt, Timestamp::UNIX_EPOCH, Outcome::ChangedNothing, String::new());
                }
                // It is not made before the fault costs the node, which is what this is about.
                Standing::CoolingDown(row, _) | Standing::Next(row) if row.is_last_resort() => break,
                Standing::CoolingDown(_, until_ms) => future.now_ms = until_ms,
                Standing::Next(row) => {
                    future.last_id += 1;
                    let attempt = Attempt {
                        id: future.last_id,
                        repair: row.name.to_owned(),
                        reason: reason.to_owned(),
                        target: target.to_owned(),
                        boot_id: String::new(),
                        at: Timestamp::UNIX_EPOCH,
                        up_ms: 0,
                        at_ms: future.now_ms,
                        evidence: Vec::new(),
                        ended: None,
                    };
                    future.has_begun(attempt);
                }
                Standing::NoRepair | Standing::Spent => break,
            }
        }
        future.now_ms
    }
}
