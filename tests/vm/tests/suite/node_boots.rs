//! A node's life in a VM: it boots from its custom data, registers, is rebooted, and keeps its secrets to itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nap_vm::{GUEST_ADDRESS, Image, Overlay, Vm, VmLock, artifact};
use serde_json::Value;

use crate::azure::{Azure, PROVIDER_ID};
use crate::guest::{self, BOOT, json, note, told, wait_for_agent};
use crate::secrets;

#[test]
fn node_registers_survives_a_reboot_and_keeps_its_secrets() {
    let (lock, image) = (VmLock::take().unwrap(), Image::build().unwrap());
    let azure = Azure::start();
    let options = azure.vm("node", overlay(), &azure.bootstrap());
    let mut vm = Vm::start_with(lock, &image, &options).unwrap();

    assert_eq!(wait_for_agent(&mut vm), 0);
    assert_first_boot_registered(&mut vm, &azure);
    guest::note_figures(&mut vm, "first boot");
    assert_no_unit_failed(&mut vm);
    assert_units_are_clean(&mut vm);
    assert_systemd_keeps_the_contract(&mut vm);
    let uid = azure.node().expect("registered above")["metadata"]["uid"].clone();

    vm.reboot(BOOT).unwrap();
    assert_eq!(wait_for_agent(&mut vm), 0);
    assert_second_boot_changed_nothing(&mut vm);
    guest::note_figures(&mut vm, "second boot");
    assert_no_unit_failed(&mut vm);
    assert_eq!(azure.node().expect("still there")["metadata"]["uid"], uid);

    guest::assert_nothing_drifted(&mut vm);

    let needles = secrets::seeded(&mut vm);
    secrets::export(&mut vm);
    let stopped = vm.power_off(BOOT).unwrap();
    stopped.disk.check().unwrap();
    secrets::assert_secrets_are_where_they_belong(&stopped.disk, &needles, &stopped.console);
}

fn overlay() -> Overlay {
    let overlay = guest::node().file("/opt/nap-vm/pretend-systemd", artifact("pretend-systemd").unwrap(), 0o755);
    secrets::watching_programs(overlay)
}

fn assert_first_boot_registered(vm: &mut Vm, azure: &Azure) {
    let node = azure.node().expect("`nap-agent wait` says that the node is registered");
    assert_eq!(node["spec"]["providerID"], PROVIDER_ID);
    assert_eq!(node["metadata"]["labels"]["nap-vm.test/pool"], "blue", "{node:#}");
    let taints: Vec<_> = node["spec"]["taints"].as_array().into_iter().flatten().map(taint).collect();
    assert!(taints.contains(&"karpenter.sh/unregistered:NoExecute".to_owned()), "{taints:?}");
    assert!(taints.contains(&"nap-vm.test/starting:NoExecute".to_owned()), "{taints:?}");

    let report = json(vm, "/var/log/azure/aks/provision.json");
    assert_eq!((&report["ExitCode"], &report["Error"]), (&"0".into(), &"".into()), "{report:#}");
    told(vm, "test -e /opt/azure/containers/provision.complete");
    told(vm, "test ! -e /var/lib/kubelet/bootstrap-kubeconfig");
    assert_eq!(told(vm, "stat -L -c %a /var/lib/kubelet/pki/kubelet-client-current.pem"), "600");
    // QEMU's router advertises an IPv6 default route, which may be here before the DHCP lease.
    let node_ip = told(vm, "grep -o -e '--node-ip=[^ ]*' /etc/default/kubelet");
    assert_eq!(node_ip, format!("--node-ip={GUEST_ADDRESS}"));
    assert_eq!(told(vm, "systemctl is-active nap-boot nap-agent kubelet containerd"), ["active"; 4].join("\n"));
}

fn taint(taint: &Value) -> String {
    format!("{}:{}", taint["key"].as_str().unwrap_or_default(), taint["effect"].as_str().unwrap_or_default())
}

/// A machine with anything failed is "degraded".
fn assert_no_unit_failed(vm: &mut Vm) {
    let state = vm.run("systemctl is-system-running --wait", BOOT).unwrap();
    let failed = told(vm, "systemctl list-units --failed --plain --no-legend");
    assert_eq!((state.text.trim(), failed.as_str()), ("running", ""));
}

fn assert_units_are_clean(vm: &mut Vm) {
    // The image has no man-db to find our manual page with.
    let verify = "systemd-analyze verify --man=no nap-boot.service nap-agent.service kubelet.service";
    let verified = vm.run(verify, guest::COMMAND);
    let verified = verified.unwrap();
    assert_eq!((verified.status, verified.text.as_str()), (0, ""));
}

/// The same checks that the pretend systemd passes in the tests without a VM.
fn assert_systemd_keeps_the_contract(vm: &mut Vm) {
    // Thirty checks, each with a reload or more, and at each systemd runs its generators. cloud-init's is a long shell script, and has no
    // part in the contract.
    let generators = "/run/systemd/system-generators";
    told(vm, &format!("mkdir {generators} && ln -s /dev/null {generators}/cloud-init-generator"));
    let start = Instant::now();
    let contract = "/opt/nap-vm/pretend-systemd contract --socket /run/systemd/private --deadline 120";
    let output = vm.run(contract, Duration::from_secs(1800)).unwrap();
    assert_eq!(output.status, 0, "{}", output.text);
    note(format_args!("systemd's contract: {} s", start.elapsed().as_secs()));
    told(vm, &format!("rm -r {generators} && systemctl daemon-reload"));
}

fn assert_second_boot_changed_nothing(vm: &mut Vm) {
    let boot_id = vm.boot_id().expect("the shell answered").to_owned();
    let journal = told(vm, "cat /var/lib/nap-agent/journal.jsonl");
    let mut steps: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in journal.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        if line["run"] == "boot" && same_id(line["bootId"].as_str().unwrap_or_default(), &boot_id) {
            let event = line["event"].as_str().unwrap_or_default().to_owned();
            steps.entry(line["step"].as_str().unwrap_or_default().to_owned()).or_default().push(event);
        }
    }
    note(format_args!("second boot, step by step: {steps:#?}"));
    assert!(steps.len() > 20, "the journal of the second boot is short: {steps:?}");
    let changed = steps.iter().filter(|(_, events)| events.iter().any(|event| event != "in-sync"));
    let changed: Vec<_> = changed.map(|(step, events)| format!("{step}: {}", events.join(", "))).collect();
    // What a reboot forgets: running units, and the kernel's packet filter.
    let forgotten = ["containerd.running", "kubelet.running", "packet-filter.loaded"];
    assert_eq!(changed, forgotten.map(|step| format!("{step}: attempt, changed")));
}

/// The kernel writes a boot id with dashes, systemd without.
fn same_id(one: &str, other: &str) -> bool {
    one.replace('-', "") == other.replace('-', "")
}
