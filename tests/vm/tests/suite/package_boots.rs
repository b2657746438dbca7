//! The package as image pipelines use it: installed into an image that nap-image-builder then bakes and checks, and into one that is left
//! as it is. Both boot. Then the running node gets a newer package, and loses it.

use nap_vm::{Image, Overlay, Vm, VmLock, artifact};

use crate::azure::Azure;
use crate::guest::{self, BOOT, json, note, told, wait_for_agent};

#[test]
fn a_node_boots_from_the_package_baked_or_not() {
    if !guest::is_wanted("NAP_VM_LONG", "make vm-long") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [older, newer] = ["0.0.9", "0.1.0"].map(|version| {
        let [deb, _] = nap_packages::package("amd64", version).write(folder.path()).unwrap();
        deb
    });
    let mut lock = Some(VmLock::take().unwrap());
    for name in ["unbaked", "baked"] {
        let lock = lock.take().unwrap_or_else(|| VmLock::take().unwrap());
        let kubelet = artifact("pretend-kubelet").unwrap();
        let image = Image::with_package(name, &kubelet, &older, name == "baked").unwrap();
        let azure = Azure::start();
        let overlay = Overlay::new().file("/root/newer.deb", &newer, 0o644);
        let options = azure.vm("package", overlay, &azure.bootstrap());
        let mut vm = Vm::start_with(lock, &image, &options).unwrap();
        assert_eq!(wait_for_agent(&mut vm), 0);
        let report = json(&mut vm, "/var/log/azure/aks/provision.json");
        note(format_args!("{name} image: {}", report["Stages"]));
        guest::note_figures(&mut vm, name);
        told(&mut vm, &format!("test {} /etc/nap-agent/image.json", if name == "baked" { "-s" } else { "! -e" }));
        assert!(azure.node().is_some(), "the node is registered");
        if name == "baked" {
            assert_the_newer_package_only_restarts_the_guard(&mut vm);
            assert_a_removal_leaves_the_node_without_our_conditions(&mut vm, &azure);
        }
    }
}

fn assert_a_removal_leaves_the_node_without_our_conditions(vm: &mut Vm, azure: &Azure) {
    let has = |kind: &str| {
        let node = azure.node().expect("the node is registered");
        node["status"]["conditions"].as_array().unwrap().iter().any(|condition| condition["type"] == kind)
    };
    guest::until_health(vm, |_| has("KernelReady"));
    let services = "systemctl show --property InvocationID --value kubelet containerd | xargs";
    let untouched = told(vm, services);
    let removed = vm.run("dpkg --remove nap-agent", BOOT).unwrap();
    assert_eq!(removed.status, 0, "{}", removed.text);
    assert!(!has("KernelReady"), "{}", removed.text);
    assert!(has("Ready"), "kubelet's own stays");
    assert_eq!(told(vm, services), untouched);
}

fn assert_the_newer_package_only_restarts_the_guard(vm: &mut Vm) {
    let ids = "systemctl show --property InvocationID --value nap-boot kubelet containerd | xargs";
    let guard = "systemctl show --property InvocationID --value nap-agent";
    let (untouched, old_guard) = (told(vm, ids), told(vm, guard));
    let kept = told(vm, "grep -c '\"run\":\"boot\"' /var/lib/nap-agent/journal.jsonl");
    let installed = vm.run("dpkg --install /root/newer.deb", BOOT).unwrap();
    assert_eq!(installed.status, 0, "{}", installed.text);
    assert_ne!(told(vm, guard), old_guard, "the new program guards");
    assert_eq!(told(vm, "systemctl is-active nap-agent"), "active");
    assert_eq!(told(vm, ids), untouched, "no boot, no kubelet and no containerd was started again");
    assert_eq!(told(vm, "grep -c '\"run\":\"boot\"' /var/lib/nap-agent/journal.jsonl"), kept);
    guest::assert_nothing_drifted(vm);
}
