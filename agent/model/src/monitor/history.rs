//! Counters over time: how much one grew within the last minutes. Time here is the verdict's, which stands still while suppressed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Values closer together than this are not kept apart.
const SPACING_MS: u64 = 20_000;

/// Most values of one counter: an hour.
const MAX_VALUES: usize = 180;

/// Most counters; a machine with more is not made to hold them all.
const MAX_COUNTERS: usize = 64;

/// Counters and their past, in milliseconds of the verdict's time.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct History {
    now_ms: u64,
    values: BTreeMap<String, VecDeque<(u64, u64)>>,
}

impl History {
    /// Takes over what the counters say now. One that went backwards was reset, and starts anew.
    pub(crate) fn add(&mut self, now_ms: u64, counters: &BTreeMap<String, u64>) {
        self.now_ms = now_ms;
        for (name, &value) in counters {
            if !self.values.contains_key(name) && self.values.len() >= MAX_COUNTERS {
                continue;
            }
            let past = self.values.entry(name.clone()).or_default();
            if past.back().is_some_and(|(_, last)| *last > value) {
                past.clear();
            }
            // The newest value stands last; it replaces one that is too near to the one before it.
            if past.len() >= 2 && past[past.len() - 1].0 - past[past.len() - 2].0 < SPACING_MS {
                past.pop_back();
            }
            past.push_back((now_ms, value));
            while past.len() > MAX_VALUES {
                past.pop_front();
            }
        }
    }

    /// By how much a counter grew within `window`; nothing when it was never read.
    pub fn growth(&self, name: &str, window: Duration) -> Option<u64> {
        let past = self.values.get(name)?;
        let start = self.now_ms.saturating_sub(millis(window));
        // What it was when the window began is the last value before it, or the first we know.
        let before = past.iter().rev().find(|(at, _)| *at <= start).or(past.front())?;
        Some(past.back()?.1 - before.1)
    }

    /// For how long a counter has not moved; nothing when it was read only once.
    pub fn still_for(&self, name: &str) -> Option<Duration> {
        let past = self.values.get(name)?;
        let last = past.back()?;
        let since = past.iter().rev().take_while(|(_, value)| *value == last.1).last()?.0;
        (past.len() > 1).then(|| Duration::from_millis(last.0 - since))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[(u64, u64)]) -> History {
        let mut history = History::default();
        for &(second, value) in values {
            history.add(second * 1000, &BTreeMap::from([("x".to_owned(), value)]));
        }
        history
    }

    #[test]
    fn growth_is_counted_from_the_window_on() {
        let history = of(&[(0, 5), (60, 6), (120, 8), (125, 9)]);
        assert_eq!(history.growth("x", Duration::from_secs(65)), Some(3));
        assert_eq!(history.growth("x", Duration::from_secs(600)), Some(4));
        assert_eq!(history.growth("y", Duration::from_secs(600)), None);
    }

    #[test]
    fn a_counter_that_starts_anew_has_not_grown() {
        assert_eq!(of(&[(0, 900), (60, 2)]).growth("x", Duration::from_secs(600)), Some(0));
    }

    #[test]
    fn the_first_value_is_where_counting_starts() {
        assert_eq!(of(&[(0, 37)]).growth("x", Duration::from_secs(600)), Some(0));
    }

    #[test]
    fn standing_still_is_measured() {
        assert_eq!(of(&[(0, 1), (30, 2), (31, 2), (60, 2), (95, 2)]).still_for("x"), Some(Duration::from_secs(65)));
        assert_eq!(of(&[(0, 1)]).still_for("x"), None);
    }

    #[test]
    fn an_hour_each_second_stays_small() {
        let mut history = History::default();
        for second in 0..7200 {
            history.add(second * 1000, &BTreeMap::from([("x".to_owned(), second)]));
        }
        assert!(history.values["x"].len() <= MAX_VALUES);
        let grown = history.growth("x", Duration::from_secs(600)).unwrap();
        assert!((600..=640).contains(&grown), "{grown}");
    }
}
