//! Repairs on a real machine: what hangs, is given up by systemd, or drifts comes back by itself, in the time that is noted.

use std::time::Instant;

use nap_vm::{Image, Vm, VmLock};
use serde_json::Value;

use crate::azure::Azure;
use crate::guest::{self, BOOT, note, told, until_health, wait_for_agent};

/// systemd gives these services up after three starts; our kubelet never is.
const GIVES_UP: &str = "[Unit]\nStartLimitIntervalSec=1000\nStartLimitBurst=3\n";

/// From the finding to the service that is back, on a machine that emulates its own.
const BACK_WITHIN: f64 = 60.0;

/// A pod network that is there, as far as containerd looks.
const CNI: &str = r#"{"cniVersion": "1.0.0", "name": "nap-vm", "plugins": [{"type": "bridge", "bridge": "vm0", "ipam": {"type": "host-local", "subnet": "10.99.0.0/24"}}]}"#;

#[test]
fn what_hangs_fails_or_drifts_is_repaired_by_the_node_itself() {
    let (lock, image) = (VmLock::take().unwrap(), Image::build().unwrap());
    let azure = Azure::start();
    let mut overlay = guest::node().text("/etc/cni/net.d/10-nap-vm.conflist", CNI, 0o644);
    for unit in ["kubelet", "systemd-networkd"] {
        overlay = overlay.text(&format!("/etc/systemd/system/{unit}.service.d/99-gives-up.conf"), GIVES_UP, 0o644);
    }
    let options = azure.vm("repairs", overlay, &azure.bootstrap());
    let mut vm = Vm::start_with(lock, &image, &options).unwrap();
    assert_eq!(wait_for_agent(&mut vm), 0);
    until_health(&mut vm, |document| document["verdict"]["state"] == "Healthy");

    assert_a_drifted_file_is_put_back(&mut vm);
    assert_a_hung_containerd_is_restarted(&mut vm);
    assert_a_kubelet_that_was_given_up_is_started(&mut vm);
    assert_a_system_service_that_was_given_up_is_started(&mut vm);

    let forked = told(&mut vm, "grep -c . /sys/fs/cgroup/system.slice/nap-agent.service/cgroup.procs");
    assert_eq!(forked, "1", "no repair starts a program of ours");
    note(format_args!("{}", told(&mut vm, "nap-agent repairs")));
    let ended = told(&mut vm, "grep -c '\"outcome\":\"Succeeded\"' /var/lib/nap-agent/repairs.jsonl");
    let begun = told(&mut vm, "grep -vc '\"ended\"' /var/lib/nap-agent/repairs.jsonl");
    assert_eq!((begun.as_str(), ended.as_str()), ("3", "3"));
}

fn assert_a_drifted_file_is_put_back(vm: &mut Vm) {
    let path = "/etc/kubernetes/azure.json";
    let wanted = told(vm, &format!("sha256sum {path}"));
    told(vm, &format!("echo drifted >{path}"));
    let start = Instant::now();
    while told(vm, &format!("sha256sum {path}")) != wanted {
        assert!(start.elapsed() < BOOT, "{path} stays as it was made");
    }
    note(format_args!("| drifted file | put back after {:.0} s |", start.elapsed().as_secs_f64()));
}

fn assert_a_hung_containerd_is_restarted(vm: &mut Vm) {
    let start = now(vm);
    told(vm, "kill -STOP $(systemctl show --property MainPID --value containerd)");
    assert_repaired(vm, start, "runtime", "containerd", "ContainerdUnresponsive");
    let stacks = "journalctl --unit containerd --boot --output cat --grep 'BEGIN goroutine stack dump' | head -n 1";
    assert!(!told(vm, stacks).is_empty(), "containerd wrote no stacks");
    let bundle = told(vm, "nap-agent bundle --list | tail -n 1");
    assert!(bundle.ends_with("-RestartContainerd.tar.gz"), "{bundle}");
    for (part, wanted) in [("journal.txt", "nap-agent"), ("kernel.txt", "Linux version"), ("tasks.txt", "containerd T")]
    {
        told(vm, &format!("tar -xzOf {bundle} {part} | grep -q '{wanted}'"));
    }
    note(format_args!("{}", told(vm, &format!("tar -tzvf {bundle}; ls -l {bundle}"))));
}

fn assert_a_kubelet_that_was_given_up_is_started(vm: &mut Vm) {
    let start = now(vm);
    let kill = "while ! systemctl is-failed --quiet kubelet || systemctl show kubelet --property SubState | grep -q auto-restart; \
                do systemctl kill --kill-whom=main --signal=KILL kubelet 2>/dev/null; sleep 0.2; done; systemctl show kubelet --property Result,NRestarts | xargs";
    let failed = vm.run(kill, BOOT).unwrap();
    note(format_args!("kubelet: {}", failed.text.trim_end()));
    assert_repaired(vm, start, "kubelet", "kubelet", "KubeletDown");
}

fn assert_a_system_service_that_was_given_up_is_started(vm: &mut Vm) {
    let start = now(vm);
    let kill = "until systemctl is-failed --quiet systemd-networkd; do systemctl kill --signal=KILL systemd-networkd 2>/dev/null; sleep 0.2; done";
    assert_eq!(vm.run(kill, BOOT).unwrap().status, 0);
    assert_repaired(vm, start, "network", "systemd-networkd", "NetworkdDown");
}

/// Waits until the node is healthy again, and looks how it came to that. Times are the guest's own.
fn assert_repaired(vm: &mut Vm, start: f64, subsystem: &str, unit: &str, reason: &str) {
    let mut told_states = Vec::new();
    let mut found = None;
    let document = until_health(vm, |document| {
        let state = text(&document["verdict"]["state"]).to_owned();
        if told_states.last() != Some(&state) {
            told_states.push(state);
        }
        found = found.or_else(|| finding(document, reason).map(|finding| seconds(&finding["since"])));
        found.is_some() && document["verdict"]["state"] == "Healthy"
    });
    let part = document["subsystems"].as_array().unwrap().iter().find(|one| one["name"] == subsystem).unwrap();
    let repair = part["repairs"].as_array().unwrap().last().unwrap();
    assert_eq!((&repair["reason"], &repair["result"]), (&reason.into(), &"Succeeded".into()), "{document:#}");
    assert!(told_states.contains(&"Repairing".to_owned()), "{told_states:?}");
    assert!(!told_states.contains(&"NeedsReplacement".to_owned()), "{told_states:?}");
    let active = told(vm, &format!("systemctl show {unit} --property ActiveEnterTimestamp --value --timestamp=unix"));
    let back: f64 = active.trim_start_matches('@').parse().unwrap();
    let found = found.expect("it was found");
    note(format_args!(
        "| {reason} | found after {:.0} s | repair begun {:.0} s later | back {:.0} s after the finding | healthy after {:.0} s | {told_states:?} |",
        found - start,
        seconds(&repair["startedAt"]) - found,
        back - found,
        seconds(&repair["finishedAt"]) - start,
    ));
    assert!(back - found < BACK_WITHIN, "{unit} was back {} s after the finding", back - found);
}

/// A finding that is there and not only held.
fn finding<'a>(document: &'a Value, reason: &str) -> Option<&'a Value> {
    let subsystems = document["subsystems"].as_array().into_iter().flatten();
    let mut findings = subsystems.flat_map(|one| one["findings"].as_array().into_iter().flatten());
    findings.find(|finding| finding["reason"] == reason && finding["held"] != true)
}

/// Seconds of the guest's clock.
fn now(vm: &mut Vm) -> f64 {
    told(vm, "date +%s.%N").parse().unwrap()
}

fn seconds(time: &Value) -> f64 {
    let time: jiff::Timestamp = text(time).parse().unwrap();
    time.as_millisecond() as f64 / 1000.0
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
