//! From readings to a fault that is there: N of M spaced bad ones raise a signal, good ones and time clear it; signals of several kinds, or
//! one that cannot err, prove the fault, and what comes back again and again is held.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::monitor::{self, Fault, Scope, Signal, Verdict};
use crate::repair::millis;

/// Least time without a bad reading before a signal clears.
const LEAST_CLEAR_MS: u64 = 60_000;

/// Faults that came so often within this time are held for as long.
const FLAPS: usize = 3;
const FLAP_WINDOW_MS: u64 = 30 * 60_000;

/// Least confidence, in percent, for more than `Degraded`.
pub(super) const LEAST_CONFIDENCE: u8 = 80;

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct FaultState {
    pub(super) reason: String,
    pub(super) target: String,
    pub(super) signals: BTreeMap<String, SignalState>,
    pub(super) since: Option<Timestamp>,
    pub(super) entered_ms: VecDeque<u64>,
    pub(super) proven_ms: Option<u64>,
    pub(super) proven_at: Option<Timestamp>,
    pub(super) is_escalated: bool,
    pub(super) confidence: u8,
    pub(super) held_until_ms: Option<u64>,
    pub(super) cause: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct SignalState {
    /// Spaced readings, bad ones true; as many as the signal's row says.
    pub(super) window: VecDeque<bool>,
    pub(super) is_active: bool,
    pub(super) good_run: u8,
    pub(super) last_good_ms: Option<u64>,
    pub(super) last_bad_ms: Option<u64>,
    pub(super) first_seen: Option<Timestamp>,
    pub(super) sample: String,
}

impl SignalState {
    pub(super) fn good(&mut self, signal: &Signal, now: u64) {
        let spacing = millis(signal.spacing);
        if self.last_good_ms.is_none_or(|last| self.good_run == 0 || now - last >= spacing) {
            self.push(signal, false);
            self.good_run = self.good_run.saturating_add(1);
            self.last_good_ms = Some(now);
        }
        let is_clear = self
            .last_bad_ms
            .is_none_or(|last| signal.leave == 1 || signal.is_immediate || now - last >= LEAST_CLEAR_MS);
        if self.good_run >= signal.leave && is_clear {
            *self = Self { last_good_ms: self.last_good_ms, ..Self::default() };
        }
    }

    pub(super) fn bad(&mut self, signal: &Signal, now: u64, wall: Timestamp, sample: String) {
        let is_first_of_run = self.good_run > 0;
        self.good_run = 0;
        self.first_seen.get_or_insert(wall);
        self.sample = cut(sample);
        if is_first_of_run || self.last_bad_ms.is_none_or(|last| now - last >= millis(signal.spacing)) {
            self.push(signal, true);
            self.last_bad_ms = Some(now);
        }
        let bad = self.window.iter().filter(|is_bad| **is_bad).count();
        self.is_active |= bad >= usize::from(signal.enter.0);
    }

    fn push(&mut self, signal: &Signal, is_bad: bool) {
        self.window.push_back(is_bad);
        while self.window.len() > usize::from(signal.enter.1) {
            self.window.pop_front();
        }
    }

    pub(super) fn last_read_ms(&self) -> u64 {
        self.last_good_ms.max(self.last_bad_ms).unwrap_or_default()
    }

    /// Nothing in it that could still matter.
    pub(super) fn is_forgotten(&self) -> bool {
        !self.is_active && !self.window.contains(&true)
    }
}

impl FaultState {
    pub(super) fn is_active(&self) -> bool {
        self.signals.values().any(|signal| signal.is_active)
    }

    pub(super) fn was_here_lately(&self, now: u64) -> bool {
        self.entered_ms.back().is_some_and(|at| now - at < FLAP_WINDOW_MS)
    }

    /// Whether its signals are bad at this moment, as sure as it is.
    pub(super) fn is_bad_now(&self) -> bool {
        if self.proven_ms.is_none() {
            return self.signals.values().any(|state| state.is_active && state.good_run == 0);
        }
        let mut classes = BTreeSet::new();
        let bad = monitor::signals()
            .filter(|signal| signal.fault.reason == self.reason)
            .filter(|signal| self.signals.get(signal.name).is_some_and(|state| state.is_active && state.good_run == 0));
        bad.fold(false, |is_sure, signal| {
            classes.insert(signal.class);
            is_sure || signal.is_authoritative || classes.len() > 1
        })
    }

    pub(super) fn enter_or_leave(&mut self, now: u64, wall: Timestamp) {
        if self.is_active() {
            if self.since.is_none() || self.held_until_ms.is_some() {
                self.entered_ms.push_back(now);
                self.entered_ms.retain(|at| now - at < FLAP_WINDOW_MS);
            }
            self.since.get_or_insert(wall);
            self.held_until_ms = None;
            return;
        }
        if self.since.is_none() {
            return;
        }
        let comes_again = self.entered_ms.iter().filter(|at| now - **at < FLAP_WINDOW_MS).count() >= FLAPS;
        let held_until = match self.held_until_ms {
            None if comes_again => now + FLAP_WINDOW_MS,
            None => now,
            Some(until) => until,
        };
        self.held_until_ms = Some(held_until);
        if now >= held_until {
            self.since = None;
            self.held_until_ms = None;
        }
    }

    pub(super) fn prove(&mut self, row: &Fault, now: u64, wall: Timestamp, is_strained: bool) {
        let active = monitor::signals()
            .filter(|signal| std::ptr::eq(signal.fault, row))
            .filter(|signal| self.signals.get(signal.name).is_some_and(|state| state.is_active));
        let mut classes = BTreeSet::new();
        let mut is_authoritative = false;
        for signal in active {
            classes.insert(signal.class);
            is_authoritative |= signal.is_authoritative;
        }
        let calm = match (is_authoritative, classes.len()) {
            (_, 0) => 50,
            (true, _) => 95,
            (false, 1) => 60,
            (false, 2) => 90,
            (false, _) => 97,
        };
        // A measurement on a machine under pressure is worth less; what cannot err keeps just enough.
        self.confidence = if is_strained { calm - 15 } else { calm };
        if calm < LEAST_CONFIDENCE || self.cause.is_some() {
            self.proven_ms = None;
            self.proven_at = None;
            self.is_escalated = false;
            return;
        }
        self.proven_at.get_or_insert(wall);
        let proven_for = now - *self.proven_ms.get_or_insert(now);
        // Once reached it stays until the signals clear: pressure that comes and goes must not make it flap.
        self.is_escalated |= row.worst > Verdict::Degraded
            && row.scope == Scope::Local
            && proven_for >= millis(row.persist)
            && self.confidence >= LEAST_CONFIDENCE;
    }
}

/// Longest text of evidence, in bytes.
const MAX_SAMPLE: usize = 256;

fn cut(mut text: String) -> String {
    if text.len() > MAX_SAMPLE {
        text.truncate((0..=MAX_SAMPLE).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0));
    }
    text
}
