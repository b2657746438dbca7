//! What kubelet and containerd have in common: a unit that is down, was stopped, crashes again and again, or hangs.

use std::time::Duration;

use super::{Class, Fault, NoAnswer, Outcome, ProcessSeen, Reading, Seen, Signal, minutes, seconds, signal};

/// kubelet's unit.
pub const KUBELET: &str = "kubelet.service";

/// containerd's unit.
pub const CONTAINERD: &str = "containerd.service";

/// Restarts by systemd within this time that make a crash loop. One in a while is what `Restart=always` is for.
const LOOP_RESTARTS: u64 = 3;
const LOOP_WINDOW: Duration = minutes(10);

/// A process that served somebody would have used 10 ms of CPU within this.
const IDLE_LIMIT: Duration = seconds(60);

/// The signals of one service, each of them a row of that service's monitor.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) unit: &'static str,
    /// Longest time for a good answer; four times that on a strained machine.
    pub(super) answer_limit: Duration,
    /// The unit is not active, and nobody stopped it.
    pub(super) down: &'static Signal,
    /// systemd has given it up.
    pub(super) failed: &'static Signal,
    /// Nobody listens.
    pub(super) refused: &'static Signal,
    /// Somebody stopped it.
    pub(super) stopped: &'static Signal,
    /// systemd restarted it too often.
    pub(super) restarts: &'static Signal,
    /// It does not answer well while it crashes again and again.
    pub(super) unanswered: &'static Signal,
    /// It listens and does not answer well.
    pub(super) silent: &'static Signal,
    /// Its main process is stopped or dead.
    pub(super) halted: &'static Signal,
    /// Its main process uses no CPU while it does not answer.
    pub(super) idle: &'static Signal,
}

impl Service {
    pub(super) fn read(&self, seen: Seen<'_>, answer: Option<&super::Answer>, readings: &mut Vec<Reading>) {
        let mut say = |signal: &'static Signal, outcome: Outcome| {
            readings.push(Reading { signal, target: String::new(), outcome });
        };
        if let Some(unit) = seen.now.units.get(self.unit) {
            let (down, stopped) = unit_outcomes(unit);
            say(self.down, down);
            say(self.failed, failed_outcome(unit));
            say(self.stopped, stopped);
        }
        let restarts = restarts_of(self.unit);
        let grown = seen.now.counters.get(&restarts).and_then(|_| seen.history.growth(&restarts, LOOP_WINDOW));
        let is_looping = grown.is_some_and(|grown| grown >= LOOP_RESTARTS);
        if let Some(grown) = grown {
            say(
                self.restarts,
                if is_looping {
                    Outcome::Bad(format!(
                        "systemd restarted it {grown} times in {} minutes",
                        LOOP_WINDOW.as_secs() / 60
                    ))
                } else {
                    Outcome::Good
                },
            );
        }
        // Its state is looked at with its unit, and a late answer comes in a later sweep than that.
        if let Some(process) = seen.now.processes.get(self.unit) {
            say(self.halted, halted(process).map_or(Outcome::Good, Outcome::Bad));
        }
        let Some(answer) = answer else { return };
        let (listens, answers) = self.answer_outcomes(seen, answer);
        say(self.refused, listens);
        say(self.unanswered, if is_looping { answers.clone() } else { Outcome::Good });
        let is_bad = matches!(answers, Outcome::Bad(_));
        if !matches!(answer.result, Err(NoAnswer::Refused(_))) {
            say(self.silent, answers);
        }
        // Who answers may be idle.
        let idle = seen.history.still_for(&cpu_of(self.unit)).filter(|idle| is_bad && *idle >= IDLE_LIMIT);
        say(
            self.idle,
            match idle {
                Some(idle) => Outcome::Bad(format!("its process used no CPU for {} s", idle.as_secs())),
                None => Outcome::Good,
            },
        );
    }

    /// Whether somebody listens, and whether the answer was good.
    fn answer_outcomes(&self, seen: Seen<'_>, answer: &super::Answer) -> (Outcome, Outcome) {
        let limit = if seen.is_strained() { 4 * self.answer_limit } else { self.answer_limit };
        match &answer.result {
            Ok(()) if answer.took <= limit => (Outcome::Good, Outcome::Good),
            Ok(()) => (Outcome::Good, late(seen, answer)),
            Err(NoAnswer::Refused(why)) => (Outcome::Bad(why.clone()), Outcome::Bad(why.clone())),
            Err(NoAnswer::Late) => (Outcome::Good, late(seen, answer)),
            Err(NoAnswer::Bad(what)) => (Outcome::Good, Outcome::Bad(format!("answered {what}"))),
        }
    }
}

fn late(seen: Seen<'_>, answer: &super::Answer) -> Outcome {
    let text = format!("no answer in {} s", answer.took.as_secs());
    if seen.is_strained() {
        Outcome::Unknown(format!("{text}, on a machine under pressure"))
    } else {
        Outcome::Bad(text)
    }
}

/// Whether a unit is down, and whether it was stopped on purpose. Stopped on purpose is not down.
fn unit_outcomes(unit: &Result<super::UnitSeen, String>) -> (Outcome, Outcome) {
    match unit {
        Err(why) => (Outcome::Unknown(why.clone()), Outcome::Unknown(why.clone())),
        Ok(unit) if matches!(unit.active.as_str(), "active" | "reloading" | "refreshing") => {
            (Outcome::Good, Outcome::Good)
        }
        Ok(unit) if unit.active == "inactive" && unit.result == "success" => {
            (Outcome::Good, Outcome::Bad("inactive after a good end: somebody stopped it".to_owned()))
        }
        Ok(unit) => (Outcome::Bad(format!("{} ({}), result {}", unit.active, unit.sub, unit.result)), Outcome::Good),
    }
}

/// What is wrong with a process that is stopped or dead.
pub(super) fn halted(process: &ProcessSeen) -> Option<String> {
    let is_halted = matches!(process.state, 'T' | 't' | 'Z' | 'X');
    is_halted.then(|| format!("process {} is in state {}", process.pid, process.state))
}

/// A signal that systemd has given a unit up. PID 1's word on that cannot be a mistake.
pub(super) const fn given_up(fault: &'static Fault) -> Signal {
    Signal { is_authoritative: true, ..signal("unit.failed", fault, Class::Kernel, (2, 2), seconds(1), 3) }
}

/// What each unit's signal says. That PID 1 does not answer has a fault of its own.
pub(super) fn read_given_up<const N: usize>(
    units: [&str; N],
    signals: [&'static Signal; N],
    seen: Seen<'_>,
    readings: &mut Vec<Reading>,
) {
    for (unit, signal) in units.into_iter().zip(signals) {
        let Some(unit @ Ok(_)) = seen.now.units.get(unit) else { continue };
        readings.push(Reading { signal, target: String::new(), outcome: failed_outcome(unit) });
    }
}

/// Whether systemd has given a unit up: it will not start it again by itself, and there is nothing to wait for.
fn failed_outcome(unit: &Result<super::UnitSeen, String>) -> Outcome {
    match unit {
        Err(why) => Outcome::Unknown(why.clone()),
        Ok(unit) if unit.active == "failed" => Outcome::Bad(format!("systemd gave it up, result {}", unit.result)),
        Ok(_) => Outcome::Good,
    }
}

/// The counter of systemd's restarts of a unit.
pub(super) fn restarts_of(unit: &str) -> String {
    format!("restarts/{unit}")
}

/// The counter of CPU time of a unit's main process.
pub(super) fn cpu_of(unit: &str) -> String {
    format!("cpu/{unit}")
}
