//! Faults, done to a real machine: seen in time, named rightly, and gone when they are gone.
//!
//! Several at once where they do not touch, because each needs a minute to clear. Prints the table of `docs/health.md`. For who works on a
//! late round, NAP_VM_FAULTS_FROM=N starts with the one of that number, from 0, and leaves out what comes before them.

mod injections;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use nap_vm::{Image, OS_DISK, Vm, VmLock};
use serde_json::Value;

use crate::azure::Azure;
use crate::guest::{
    self, COMMAND, VERDICT, endpoint, finding, note, now, seconds, text, told, until_health, wait_for_agent,
};
use crate::repairs::{CNI, GIVES_UP, ROUTER, ROUTER_FILE};
use injections::{Clears, EXPIRED, HOLD, Injection, ROUNDS, SETUP};

/// A repair would end what is looked at.
const OBSERVE: &str = "[repairs]\nobserve-only = true\n";

/// A time service that systemd gives up.
const CHRONYD: &str = "[Service]\nExecStart=/bin/false\n";

/// What grew within ten minutes is forgotten, and its signals clear.
const LATE: Duration = Duration::from_secs(1200);

#[test]
fn faults_are_seen_named_and_forgotten() {
    if !guest::is_wanted("NAP_VM_LONG", "make vm-long") {
        return;
    }
    let (lock, image) = (VmLock::take().unwrap(), Image::build().unwrap());
    let azure = Azure::start();
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(64 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-N", "1024"]).arg(disk.path()).status().unwrap();
    assert!(made.success(), "mkfs.ext4: {made}");
    let mut overlay = guest::node()
        .text("/etc/cni/net.d/10-nap-vm.conflist", CNI, 0o644)
        .text("/etc/nap-agent/nap-agent.toml", OBSERVE, 0o644)
        .text(ROUTER_FILE, ROUTER, 0o644)
        .text("/etc/systemd/system/chronyd.service", CHRONYD, 0o644)
        .text(HOLD, include_str!("faults/hold.py"), 0o644)
        .text(EXPIRED, guest::expired_certificate(), 0o600)
        .file("/disk.img", disk.path(), 0o600);
    for unit in ["systemd-journald", "systemd-networkd", "systemd-resolved"] {
        overlay = overlay.text(&format!("/etc/systemd/system/{unit}.service.d/99-gives-up.conf"), GIVES_UP, 0o644);
    }
    let options = azure.vm("faults", overlay, &azure.bootstrap());
    let mut vm = Vm::start_with(lock, &image, &options).unwrap();
    assert_eq!(wait_for_agent(&mut vm), 0);
    note(format_args!("a small disk for containerd: {}", told(&mut vm, SETUP)));
    until_health(&mut vm, |document| document["verdict"]["state"] == "Healthy");
    let idle =
        told(&mut vm, "systemctl show --property CPUUsageNSec,MemoryCurrent,TasksCurrent nap-agent.service | xargs");
    note(format_args!(
        "healthy: {idle}; {}",
        told(&mut vm, "grep -E 'VmRSS|Threads' /proc/$(pidof -s nap-agent)/status | xargs")
    ));

    let from = std::env::var("NAP_VM_FAULTS_FROM").map_or(0, |round| round.parse::<usize>().unwrap());
    if from == 0 {
        assert_forged_words_change_nothing(&mut vm);
        for (event, state, reason) in EVENTS {
            assert_an_event_is_seen(&mut vm, &azure, event, state, reason);
        }
        assert_a_wrong_clock_is_seen(&mut vm);
        assert_a_disk_that_warns_is_seen(&mut vm);
    }
    let mut faults = Faults::of(&mut vm);
    for round in &ROUNDS[from..] {
        faults.make(round);
    }
    faults.until(LATE, |faults| faults.removed.keys().all(|reason| faults.cleared.contains_key(reason)));
    let forked = told(&mut vm, "grep -c . /sys/fs/cgroup/system.slice/nap-agent.service/cgroup.procs");
    assert_eq!(forked, "1", "the guard starts no program");
    assert_oom_kill_of_a_service_is_seen(&mut vm);
}

fn health(vm: &mut Vm) -> Value {
    until_health(vm, |_| true)
}

/// How far each fault has come, by its reason. Times are the guest's, in seconds.
struct Faults<'a> {
    vm: &'a mut Vm,
    injected: BTreeMap<&'static str, f64>,
    seen: BTreeSet<&'static str>,
    removed: BTreeMap<&'static str, f64>,
    cleared: BTreeMap<&'static str, f64>,
}

impl<'a> Faults<'a> {
    fn of(vm: &'a mut Vm) -> Self {
        let (injected, removed, cleared) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { vm, injected, seen: BTreeSet::new(), removed, cleared }
    }

    /// Does a round's faults, waits until all are named, undoes them, waits until those are gone that go soon.
    fn make(&mut self, round: &[Injection]) {
        for fault in round {
            let at = now(self.vm);
            told(self.vm, fault.inject);
            self.injected.extend(fault.reasons.iter().map(|reason| (*reason, at)));
        }
        self.until(VERDICT, |faults| faults.injected.keys().all(|reason| faults.seen.contains(reason)));
        for fault in round {
            let at = now(self.vm);
            told(self.vm, fault.remove);
            match fault.clears {
                Clears::Not(how) => note(format_args!("{:?} go {how}", fault.reasons)),
                _ => self.removed.extend(fault.reasons.iter().map(|reason| (*reason, at))),
            }
        }
        let soon = round.iter().filter(|fault| fault.clears == Clears::Soon).flat_map(|fault| fault.reasons);
        let soon: Vec<_> = soon.collect();
        self.until(VERDICT, |faults| soon.iter().all(|reason| faults.cleared.contains_key(*reason)));
    }

    fn until(&mut self, limit: Duration, mut is_so: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            // Who looks without a pause is work that goes on, and not all tasks wait.
            told(self.vm, "sleep 2");
            let document = self.look();
            assert!(start.elapsed() < limit, "{:?} seen, {:?} gone: {document:#}", self.seen, self.cleared.keys());
        }
    }

    fn look(&mut self) -> Value {
        let (document, at) = (health(self.vm), now(self.vm));
        // Two minutes of that are enough, and the others may take longer to be named.
        let is_early = document["verdict"]["reason"] != "DataFilesystemFailing";
        let state = text(&document["verdict"]["state"]);
        assert!(!is_early || !state.starts_with("Needs"), "{document:#}");
        for (reason, injected) in &self.injected {
            match finding(&document, reason) {
                Some(finding) if !self.seen.contains(reason) => {
                    let after = seconds(&finding["since"]) - injected;
                    note(format_args!("| {reason} | {} | seen after {after:.0} s", evidence(finding)));
                    self.seen.insert(reason);
                }
                None => {
                    if let Some(removed) = self.removed.get(reason).filter(|_| !self.cleared.contains_key(reason)) {
                        note(format_args!("| {reason} | gone after {:.0} s", at - removed));
                        self.cleared.insert(reason, at);
                    }
                }
                Some(_) => {}
            }
        }
        document
    }
}

fn evidence(finding: &Value) -> String {
    let evidence = finding["evidence"].as_array().into_iter().flatten();
    let evidence: Vec<_> = evidence.map(|one| format!("{}: {}", text(&one["signal"]), text(&one["sample"]))).collect();
    format!("{}, by {}", evidence.join("; "), finding["causedBy"])
}

fn assert_forged_words_change_nothing(vm: &mut Vm) {
    told(
        vm,
        "echo '<2>EXT4-fs error (device sda1): forged' >/dev/kmsg; echo '<0>Oops: 0002 [#1] PREEMPT SMP' >/dev/kmsg",
    );
    let start = Instant::now();
    loop {
        let metrics = endpoint(vm, "/metrics");
        let users = metrics.lines().find(|line| line.starts_with("nap_kmsg_of_users_total")).unwrap_or_default();
        if users.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count >= 2) {
            break;
        }
        assert!(start.elapsed() < VERDICT, "forged lines are not counted: {users}");
    }
    let document = health(vm);
    assert_eq!(guest::findings(&document).count(), 0, "{document:#}");
}

/// What Azure announces, and what it makes of the node.
const EVENTS: [(&str, &str, &str); 2] =
    [("Preempt", "NeedsReplacement", "PreemptScheduled"), ("Reboot", "Degraded", "MaintenanceScheduled")];

fn assert_an_event_is_seen(vm: &mut Vm, azure: &Azure, event: &str, state: &str, reason: &str) {
    let start = now(vm);
    azure.schedule(event, event);
    let seen = until_health(vm, |document| document["verdict"]["reason"] == reason);
    assert_eq!(seen["verdict"]["state"], state);
    let after = seconds(&seen["verdict"]["since"]) - start;
    azure.complete(event);
    let start = now(vm);
    until_health(vm, |document| document["verdict"]["state"] == "Healthy");
    note(format_args!("| {reason} | imds.events | seen after {after:.0} s | gone after {:.0} s", now(vm) - start));
}

/// By this machine's clock, as the guest's is the wrong one.
fn assert_a_wrong_clock_is_seen(vm: &mut Vm) {
    let start = Instant::now();
    told(vm, "date --set '+40 seconds'");
    until_health(vm, |document| finding(document, "ClockSkewed").is_some());
    let (after, start) = (start.elapsed().as_secs(), Instant::now());
    told(vm, "date --set '-40 seconds'");
    until_health(vm, |document| document["verdict"]["state"] == "Healthy");
    note(format_args!(
        "| ClockSkewed | clock.offset | seen after {after} s | gone after {} s",
        start.elapsed().as_secs()
    ));
}

/// QEMU's disk says that its media makes it unreliable.
fn assert_a_disk_that_warns_is_seen(vm: &mut Vm) {
    let warn = |vm: &mut Vm, warning: u8| {
        vm.set_property(OS_DISK, "smart_critical_warning", &warning.into(), COMMAND).unwrap();
        now(vm)
    };
    let start = warn(vm, 0b100);
    let seen = until_health(vm, |document| finding(document, "NvmeSmartCritical").is_some());
    let finding = finding(&seen, "NvmeSmartCritical").unwrap();
    let (after, evidence) = (seconds(&finding["since"]) - start, evidence(finding));
    let start = warn(vm, 0);
    until_health(vm, |document| document["verdict"]["state"] == "Healthy");
    note(format_args!(
        "| NvmeSmartCritical | {evidence} | seen after {after:.0} s | gone after {:.0} s",
        now(vm) - start
    ));
}

fn assert_oom_kill_of_a_service_is_seen(vm: &mut Vm) {
    let start = now(vm);
    vm.run("systemd-run --wait --quiet --property MemoryMax=20M --property MemorySwapMax=0 tail /dev/zero", COMMAND)
        .unwrap();
    let seen = until_health(vm, |document| finding(document, "SystemOom").is_some());
    let after = seconds(&finding(&seen, "SystemOom").unwrap()["since"]) - start;
    note(format_args!("| SystemOom | system.oom.kills | {after:.0} s | after 30 minutes |"));
    let lines =
        told(vm, "journalctl -u nap-agent -b --grep 'the kernel says' --output cat | cut -c 1-160 | tail -n 12");
    note(format_args!("the kernel's words: {lines}"));
}
