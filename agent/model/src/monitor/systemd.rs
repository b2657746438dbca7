//! PID 1: it does not answer, or was started with cgroups that lack what kubelet needs. Facts: catalogue F100, F104.

use super::{Class, Fault, KUBELET, Monitor, Outcome, Reading, Seen, Signal, Subsystem, degrading, seconds, signal};

static SILENT: Fault = degrading(
    "SystemdUnresponsive",
    Subsystem::Kernel,
    "systemd does not answer: no service can be started, stopped or asked for. What runs goes on.",
    "`systemctl status` and `dmesg | grep 'systemd\\[1\\]'`; `kill -TERM 1` makes it start itself anew, a frozen one needs a reboot.",
);
static CONTROLLERS: Fault = degrading(
    "CgroupControllersMissing",
    Subsystem::Kernel,
    "The kernel was started without a cgroup controller that kubelet needs; limits of pods are not kept.",
    "`cat /sys/fs/cgroup/cgroup.controllers /proc/cmdline`; look for cgroup_disable.",
);

static ANSWER: Signal = signal("systemd.answer", &SILENT, Class::Probe, (3, 4), seconds(10), 2);
static PRESENT: Signal = signal("cgroup.controllers", &CONTROLLERS, Class::Kernel, (2, 2), seconds(10), 1);

pub(super) const MONITOR: Monitor = Monitor { signals: &[&ANSWER, &PRESENT], read };

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    let mut say = |signal, outcome| readings.push(Reading { signal, target: String::new(), outcome });
    match seen.now.units.get(KUBELET) {
        None => {}
        Some(Ok(_)) => say(&ANSWER, Outcome::Good),
        Some(Err(why)) if seen.is_strained() => say(&ANSWER, Outcome::Unknown(why.clone())),
        Some(Err(why)) => say(&ANSWER, Outcome::Bad(why.clone())),
    }
    match seen.now.missing_controllers.as_deref() {
        None => {}
        Some([]) => say(&PRESENT, Outcome::Good),
        Some(missing) => say(&PRESENT, Outcome::Bad(format!("there is no {}", missing.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::{History, Observed};

    #[test]
    fn a_silent_systemd_and_missing_controllers_are_told() {
        let mut now = Observed { missing_controllers: Some(Vec::new()), ..Observed::default() };
        let bad = |now: &Observed| {
            let mut readings = Vec::new();
            read(Seen { now, history: &History::default() }, &mut readings);
            let bad = readings.iter().filter(|one| matches!(one.outcome, Outcome::Bad(_)));
            bad.map(|one| one.signal.fault.reason).collect::<Vec<_>>()
        };
        assert_eq!(bad(&now), [""; 0]);
        now.missing_controllers = Some(vec!["pids".to_owned()]);
        now.units.insert(KUBELET.to_owned(), Err("no answer within 60 s".to_owned()));
        assert_eq!(bad(&now), ["SystemdUnresponsive", "CgroupControllersMissing"]);
    }
}
