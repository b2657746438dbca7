//! A preemption on a node whose owner wants it to go down in order: the provisioner hears of it, pods get their signal, the machine is off.

use std::time::Instant;

use nap_vm::{Image, Vm, VmLock};

use crate::azure::Azure;
use crate::guest::{self, BOOT, note, text, told, until_health, wait_for_agent};
use crate::repairs::CNI;

const POLICY: &str = "[preempt]\npower-off = true\n[conditions]\npreemption-scheduled = true\n";

/// Says that it was told to end.
const POD: &str = "mkdir /run/pod && mount --bind / /run/pod && ctr --namespace k8s.io run --detach --rootfs /run/pod pod \
    /bin/sh -c 'trap \"echo told >/var/tmp/told; sync; exit\" TERM; while :; do sleep 1; done'";

#[test]
fn a_preempted_node_ends_its_pods_in_order() {
    if !guest::is_wanted("NAP_VM_LONG", "make vm-long") {
        return;
    }
    let (lock, image) = (VmLock::take().unwrap(), Image::build().unwrap());
    let azure = Azure::start();
    let overlay = guest::node().text("/etc/cni/net.d/10-nap-vm.conflist", CNI, 0o644).text(
        "/etc/nap-agent/nap-agent.toml",
        POLICY,
        0o644,
    );
    let options = azure.vm("preempt", overlay, &azure.bootstrap());
    let mut vm = Vm::start_with(lock, &image, &options).unwrap();
    assert_eq!(wait_for_agent(&mut vm), 0);
    told(&mut vm, POD);
    until_health(&mut vm, |document| document["verdict"]["state"] == "Healthy");
    let start = Instant::now();
    azure.schedule("p-1", "Preempt");
    let stopped = vm.wait_for_power_off(BOOT).unwrap();
    note(format_args!("| PreemptScheduled | powered off after {:.0} s |", start.elapsed().as_secs_f64()));
    let node = azure.node().unwrap();
    let conditions = node["status"]["conditions"].as_array().unwrap();
    let said = conditions.iter().find(|condition| condition["type"] == "PreemptionScheduled");
    assert_eq!(said.map(|said| text(&said["status"])), Some("True"), "{conditions:#?}");
    let told = stopped.disk.read("/var/tmp/told").unwrap().expect("the pod was told to end");
    assert_eq!(told, b"told\n");
}
