//! System services that systemd has given up: names, addresses, logs and time are theirs. Facts: catalogue F81, F101, F102.
//!
//! One that is inactive was stopped, or never wanted, and is nobody's fault. PID 1's word that one has failed cannot be a mistake.

use super::service::{given_up, read_given_up};
use super::{Fault, Monitor, Reading, Seen, Signal, Subsystem, degrading};

/// The names of their units, as every image has them: Debian's chrony.service answers to chronyd.service, too.
pub const SYSTEM_SERVICES: [&str; 4] = [RESOLVED, NETWORKD, CHRONYD, JOURNALD];

pub(crate) const RESOLVED: &str = "systemd-resolved.service";
pub(crate) const NETWORKD: &str = "systemd-networkd.service";
pub(crate) const CHRONYD: &str = "chronyd.service";
pub(crate) const JOURNALD: &str = "systemd-journald.service";

static RESOLVED_DOWN: Fault = degrading(
    "ResolvedDown",
    Subsystem::Network,
    "systemd gave systemd-resolved up; names are not resolved where it is asked.",
    "Look at `journalctl -u systemd-resolved -n 50`.",
);

static NETWORKD_DOWN: Fault = degrading(
    "NetworkdDown",
    Subsystem::Network,
    "systemd gave systemd-networkd up; addresses and routes stay as they are until a lease ends.",
    "Look at `journalctl -u systemd-networkd -n 50` and `networkctl`.",
);

static CHRONYD_DOWN: Fault = degrading(
    "ChronydDown",
    Subsystem::Time,
    "systemd gave chronyd up; the clock runs free.",
    "Look at `journalctl -u chronyd -n 50`.",
);

static JOURNALD_DOWN: Fault = degrading(
    "JournaldDown",
    Subsystem::Kernel,
    "systemd gave systemd-journald up; services that log may be blocked.",
    "Look at `dmesg` and at the space in /var/log/journal.",
);

static RESOLVED_FAILED: Signal = given_up(&RESOLVED_DOWN);
static NETWORKD_FAILED: Signal = given_up(&NETWORKD_DOWN);
static CHRONYD_FAILED: Signal = given_up(&CHRONYD_DOWN);
static JOURNALD_FAILED: Signal = given_up(&JOURNALD_DOWN);

const SIGNALS: [&Signal; 4] = [&RESOLVED_FAILED, &NETWORKD_FAILED, &CHRONYD_FAILED, &JOURNALD_FAILED];

pub(super) const MONITOR: Monitor = Monitor { signals: &SIGNALS, read };

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    read_given_up(SYSTEM_SERVICES, SIGNALS, seen, readings);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::{History, Observed, Outcome, UnitSeen};

    #[test]
    fn only_what_failed_is_down() {
        let unit = |active: &str, result: &str| {
            Ok(UnitSeen { active: active.to_owned(), sub: String::new(), result: result.to_owned() })
        };
        let mut now = Observed::default();
        now.units.insert(RESOLVED.to_owned(), unit("failed", "signal"));
        now.units.insert(NETWORKD.to_owned(), unit("inactive", "success"));
        now.units.insert(CHRONYD.to_owned(), unit("active", "success"));
        now.units.insert(JOURNALD.to_owned(), Err("systemd does not answer".to_owned()));
        let mut readings = Vec::new();
        read(Seen { now: &now, history: &History::default() }, &mut readings);
        let bad: Vec<_> = readings
            .iter()
            .map(|reading| (reading.signal.fault.reason, matches!(reading.outcome, Outcome::Bad(_))))
            .collect();
        assert_eq!(bad, [("ResolvedDown", true), ("NetworkdDown", false), ("ChronydDown", false)]);
    }
}
