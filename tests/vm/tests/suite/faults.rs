//! Faults, done to a real machine: seen in time, named rightly, and gone when they are gone.
//!
//! Several at once where they do not touch, because each needs a minute to clear. Prints the table of `docs/health.md`.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

use nap_vm::{Image, Vm, VmLock};
use serde_json::Value;

use crate::azure::Azure;
use crate::guest::{
    self, COMMAND, VERDICT, endpoint, finding, note, now, seconds, text, told, until_health, wait_for_agent,
};
use crate::repairs::{CNI, ROUTER, ROUTER_FILE};

/// One fault: how to do it, the reason it must have, how to undo it.
struct Injection {
    reason: &'static str,
    inject: &'static str,
    remove: &'static str,
}

const fn injection(reason: &'static str, inject: &'static str, remove: &'static str) -> Injection {
    Injection { reason, inject, remove }
}

/// containerd's state on a disk of its own, small in every way, that goes read-only at an error.
const SETUP: &str = "systemctl stop kubelet containerd && cp /disk.img /used.img \
    && mount -o loop,errors=remount-ro /used.img /var/lib/containerd \
    && systemctl start containerd kubelet && df -i /var/lib/containerd | tail -n 1";

const DEVICE: &str = "$(basename $(findmnt -n -o SOURCE /var/lib/containerd))";

/// A repair would end what is looked at.
const OBSERVE: &str = "[repairs]\nobserve-only = true\n";

/// What is done at the same time, round by round.
const ROUNDS: &[&[Injection]] = &[
    &[
        injection("ContainerdUnresponsive", "kill -STOP $(pidof -s containerd)", "kill -CONT $(pidof -s containerd)"),
        injection(
            "KubeletDown",
            "mv /opt/bin/kubelet /opt/bin/away && systemctl kill --signal KILL kubelet",
            "mv /opt/bin/away /opt/bin/kubelet && systemctl restart --no-block kubelet",
        ),
        injection(
            "InodesExhausted",
            "cd /var/lib/containerd && mkdir many && cd many && seq 1100 | xargs touch 2>/dev/null; true",
            "rm -r /var/lib/containerd/many",
        ),
    ],
    &[
        injection(
            "CniNotReady",
            "mv /etc/cni/net.d/10-nap-vm.conflist /run",
            "mv /run/10-nap-vm.conflist /etc/cni/net.d",
        ),
        injection(
            "DiskFull",
            "dd if=/dev/zero of=/var/lib/containerd/fill bs=1M 2>/dev/null; true",
            "rm /var/lib/containerd/fill",
        ),
    ],
    // The leak is as good as real where the limit comes down to what is used.
    &[
        injection(
            "MountsLeaking",
            "sysctl -w fs.mount-max=$(($(wc -l </proc/self/mountinfo) + 1))",
            "sysctl -w fs.mount-max=100000",
        ),
        injection(
            "KeysExhausted",
            "sysctl -w kernel.keys.root_maxkeys=$(awk '$1 == \"0:\" {split($4, keys, \"/\"); print keys[1]}' /proc/key-users)",
            "sysctl -w kernel.keys.root_maxkeys=1000000",
        ),
        injection(
            "ZombieProcesses",
            "systemd-run --quiet --unit=zombies sh -c 'for i in $(seq 320); do true & done; exec sleep infinity'; sysctl -w kernel.threads-max=3300",
            "systemctl stop zombies; sysctl -w kernel.threads-max=15000",
        ),
        injection("ResolvConfInvalid", "mv /etc/resolv.conf /run/resolv.away", "mv /run/resolv.away /etc/resolv.conf"),
        injection(
            "DefaultRouteMissing",
            "ip -4 route show default >/run/routes; while ip -4 route del default 2>/dev/null; do :; done",
            "while read -r route; do ip route add $route; done </run/routes",
        ),
    ],
    &[injection("DiskStalled", "fsfreeze -f /var/lib/containerd", "fsfreeze -u /var/lib/containerd")],
    &[
        injection("ContainerdStopped", "systemctl stop containerd", "systemctl start containerd"),
        // What a write gets after such an error is the kernel's to choose: EIO of Debian 13's (6.12), EROFS of older ones.
        injection(
            "DataFilesystemFailing",
            "echo injected >/sys/fs/ext4/$(basename $(findmnt -n -o SOURCE /var/lib/containerd))/trigger_fs_error",
            "umount -l /var/lib/containerd && cp /disk.img /other.img \
             && mount -o loop,errors=remount-ro /other.img /var/lib/containerd && systemctl restart containerd",
        ),
    ],
];

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
    let overlay = guest::node()
        .text("/etc/cni/net.d/10-nap-vm.conflist", CNI, 0o644)
        .text("/etc/nap-agent/nap-agent.toml", OBSERVE, 0o644)
        .text(ROUTER_FILE, ROUTER, 0o644)
        .file("/disk.img", disk.path(), 0o600);
    let options = azure.vm("faults", overlay, &azure.bootstrap());
    let mut vm = Vm::start_with(lock, &image, &options).unwrap();
    assert_eq!(wait_for_agent(&mut vm), 0);
    note(format_args!(
        "a small disk for containerd: {} on {}",
        told(&mut vm, SETUP),
        told(&mut vm, &format!("echo {DEVICE}"))
    ));
    until_health(&mut vm, |document| document["verdict"]["state"] == "Healthy");
    let idle =
        told(&mut vm, "systemctl show --property CPUUsageNSec,MemoryCurrent,TasksCurrent nap-agent.service | xargs");
    note(format_args!(
        "healthy: {idle}; {}",
        told(&mut vm, "grep -E 'VmRSS|Threads' /proc/$(pidof -s nap-agent)/status | xargs")
    ));

    assert_forged_words_change_nothing(&mut vm);
    assert_a_preemption_is_seen(&mut vm, &azure);
    for round in ROUNDS {
        inject(&mut vm, round);
    }
    let forked = told(&mut vm, "grep -c . /sys/fs/cgroup/system.slice/nap-agent.service/cgroup.procs");
    assert_eq!(forked, "1", "the guard starts no program");
    assert_oom_kill_of_a_service_is_seen(&mut vm);
}

fn health(vm: &mut Vm) -> Value {
    until_health(vm, |_| true)
}

/// Does a round's faults, waits until all are named, undoes them, waits until all are gone.
fn inject(vm: &mut Vm, round: &[Injection]) {
    let mut done: BTreeMap<&str, f64> = BTreeMap::new();
    for fault in round {
        done.insert(fault.reason, now(vm));
        told(vm, fault.inject);
    }
    let mut seen: BTreeMap<&str, Value> = BTreeMap::new();
    until_health(vm, |document| {
        for fault in round {
            if let Some(finding) = finding(document, fault.reason) {
                seen.entry(fault.reason).or_insert_with(|| finding.clone());
            }
        }
        // Two minutes of that are enough, and the others may take longer to be named.
        let is_early = document["verdict"]["reason"] != "DataFilesystemFailing";
        assert!(!is_early || document["verdict"]["state"] != "NeedsReplacement", "{document:#}");
        seen.len() == round.len()
    });
    let mut undone = BTreeMap::new();
    for fault in round {
        undone.insert(fault.reason, now(vm));
        told(vm, fault.remove);
    }
    let mut cleared: BTreeMap<&str, f64> = BTreeMap::new();
    let start = Instant::now();
    while cleared.len() < round.len() {
        let document = health(vm);
        let at = now(vm);
        for fault in round.iter().filter(|fault| finding(&document, fault.reason).is_none()) {
            cleared.entry(fault.reason).or_insert(at);
        }
        assert!(start.elapsed() < VERDICT, "not cleared: {document:#}");
    }
    for fault in round {
        let (reason, finding) = (fault.reason, &seen[fault.reason]);
        let after = seconds(&finding["since"]) - done[reason];
        let clear = cleared[reason] - undone[reason];
        let evidence = finding["evidence"].as_array().into_iter().flatten();
        let evidence: Vec<_> =
            evidence.map(|one| format!("{}: {}", text(&one["signal"]), text(&one["sample"]))).collect();
        note(format_args!(
            "| {reason} | {} | {after:.0} s | {clear:.0} s | {}",
            evidence.join("; "),
            finding["causedBy"]
        ));
    }
}

fn assert_forged_words_change_nothing(vm: &mut Vm) {
    let before = health(vm)["generation"].clone();
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
    assert_eq!(health(vm)["generation"], before);
}

fn assert_a_preemption_is_seen(vm: &mut Vm, azure: &Azure) {
    let start = now(vm);
    azure.schedule("event-1", "Preempt");
    let seen = until_health(vm, |document| document["verdict"]["state"] == "NeedsReplacement");
    assert_eq!(seen["verdict"]["reason"], "PreemptScheduled");
    let after = seconds(&seen["verdict"]["since"]) - start;
    azure.complete("event-1");
    let start = now(vm);
    until_health(vm, |document| document["verdict"]["state"] == "Healthy");
    note(format_args!("| PreemptScheduled | imds.events | {after:.0} s | {:.0} s |", now(vm) - start));
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
