//! What people should find in `kubectl describe node`: how the verdict went, and what was done about it.
//!
//! A Kubernetes Event is best effort: it may be dropped, and it is forgotten within hours. The health document is the source. An event's
//! name says which one it is, so one that is sent twice is there once.

use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::State;
use crate::monitor::{self, Verdict};
use crate::repair::{Attempt, Outcome};

/// Most that wait to be sent; the oldest goes.
const MOST_WAITING: usize = 16;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEvent {
    /// Part of its name; the same event has the same.
    pub key: String,
    /// `Warning`, else `Normal`.
    pub is_warning: bool,
    /// A fault's reason, or `Recovered`, `RepairBegun`, `RepairSucceeded`, `RepairFailed`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// What was told of, so that the next look knows what is new.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    verdict: Option<(Verdict, Option<String>)>,
    attempts: Vec<(u64, Option<Outcome>)>,
    waiting: Vec<NodeEvent>,
}

impl State {
    /// Those that have come since this was last asked.
    pub fn take_node_events(&mut self) -> Vec<NodeEvent> {
        std::mem::take(&mut self.events_told.waiting)
    }

    pub(super) fn tell_events(&mut self, wall: Timestamp) {
        let mut told = std::mem::take(&mut self.events_told);
        let attempts: Vec<Attempt> = self.repairs().cloned().collect();
        let mut new = Vec::new();
        for attempt in &attempts {
            let outcome = attempt.ended.as_ref().map(|ended| ended.outcome);
            let known = told.attempts.iter().find(|(id, _)| *id == attempt.id).map(|(_, outcome)| *outcome);
            if known.is_none() {
                new.push(begun(attempt));
            }
            if let Some(outcome) = outcome.filter(|_| known != Some(outcome)) {
                new.push(ended(attempt, outcome, wall));
            }
        }
        told.attempts = attempts.iter().map(|one| (one.id, one.ended.as_ref().map(|ended| ended.outcome))).collect();
        let now = (self.current.state, self.current.reason.clone());
        if told.verdict.as_ref() != Some(&now) {
            new.extend(self.of_verdict(told.verdict.as_ref(), wall));
            told.verdict = Some(now);
        }
        told.waiting.extend(new);
        let excess = told.waiting.len().saturating_sub(MOST_WAITING);
        told.waiting.drain(..excess);
        self.events_told = told;
    }

    fn of_verdict(&self, before: Option<&(Verdict, Option<String>)>, wall: Timestamp) -> Option<NodeEvent> {
        let current = &self.current;
        let event = |is_warning, reason: &str, message: String| NodeEvent {
            key: key(&[&self.boot_id, reason, &current.since.to_string(), &format!("{:?}", current.state)]),
            is_warning,
            reason: reason.to_owned(),
            message,
            at: wall,
        };
        match (current.state, before) {
            // What is done about it has events of its own; and before anything is known there is nothing to say.
            (Verdict::Unknown | Verdict::Repairing, _) => None,
            (Verdict::Healthy, Some((Verdict::Unknown | Verdict::Healthy, _)) | None) => None,
            (Verdict::Healthy, Some((_, reason))) => {
                let what = reason.as_deref().unwrap_or("what was wrong");
                Some(event(false, "Recovered", format!("{what} is gone")))
            }
            (state, _) => {
                let reason = current.reason.as_deref()?;
                let meaning = monitor::fault(reason).map_or("", |fault| fault.meaning);
                let on = if current.target.is_empty() { String::new() } else { format!(" ({})", current.target) };
                Some(event(true, reason, format!("{state:?}: {meaning}{on}")))
            }
        }
    }
}

fn begun(attempt: &Attempt) -> NodeEvent {
    NodeEvent {
        key: key(&[&attempt.boot_id, &attempt.id.to_string(), "begun"]),
        is_warning: false,
        reason: "RepairBegun".to_owned(),
        message: format!("{} for {}", attempt.repair, attempt.reason),
        at: attempt.at,
    }
}

fn ended(attempt: &Attempt, outcome: Outcome, wall: Timestamp) -> NodeEvent {
    let is_good = outcome == Outcome::Succeeded;
    let detail = attempt.ended.as_ref().map(|ended| ended.detail.as_str()).filter(|detail| !detail.is_empty());
    let detail = detail.map(|detail| format!(": {detail}")).unwrap_or_default();
    NodeEvent {
        key: key(&[&attempt.boot_id, &attempt.id.to_string(), "ended"]),
        is_warning: !is_good,
        reason: if is_good { "RepairSucceeded" } else { "RepairFailed" }.to_owned(),
        message: format!("{} for {}: {outcome:?}{detail}", attempt.repair, attempt.reason),
        at: attempt.ended.as_ref().map_or(wall, |ended| ended.at),
    }
}

/// Sixteen digits that are the same for the same parts.
fn key(parts: &[&str]) -> String {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
