//! The package as image pipelines use it: installed into an image that nap-image-builder then bakes and checks, and into one that is left
//! as it is. Both boot. Then the running node gets a newer package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nap_vm::{Image, Overlay, Vm, VmLock, VmOptions, artifact, target, workspace};

use crate::azure::{Azure, VM_ID, custom_data};
use crate::guest::{self, BOOT, json, note, told, wait_for_agent};

#[test]
fn a_node_boots_from_the_package_baked_or_not() {
    if !guest::is_wanted("NAP_VM_LONG", "make vm-long") {
        return;
    }
    let built = target().join("dist/amd64");
    if !built.join("nap-agent").exists() {
        note(format_args!("SKIPPED: {} has no program for packages; `make packages` builds it", built.display()));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [older, newer] = ["0.0.9", "0.1.0"].map(|version| deb(&built, folder.path(), version));
    let mut lock = Some(VmLock::take().unwrap());
    for name in ["unbaked", "baked"] {
        let lock = lock.take().unwrap_or_else(|| VmLock::take().unwrap());
        let image = image(name, &older);
        let azure = Azure::start();
        let mut options = VmOptions::new("package", VM_ID);
        options.overlay = Overlay::new().file("/root/newer.deb", &newer, 0o644);
        options.disc = Some(azure.disc(Some(custom_data(&azure.bootstrap()))));
        options.forwards = azure.forwards();
        let mut vm = Vm::start_with(lock, &image, &options).unwrap();
        assert_eq!(wait_for_agent(&mut vm), 0);
        let report = json(&mut vm, "/var/log/azure/aks/provision.json");
        note(format_args!("{name} image: {}", report["Stages"]));
        guest::note_figures(&mut vm, name);
        told(&mut vm, &format!("test {} /etc/nap-agent/image.json", if name == "baked" { "-s" } else { "! -e" }));
        assert!(azure.node().is_some(), "the node is registered");
        if name == "baked" {
            assert_the_newer_package_only_restarts_the_guard(&mut vm);
        }
    }
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

/// The package in a version, with an entry of its own in the changelog.
fn deb(built: &Path, folder: &Path, version: &str) -> PathBuf {
    let changelog = folder.join(format!("{version}.md"));
    fs::write(&changelog, format!("## {version} - 2026-11-26\n\n- Made for a test.\n")).unwrap();
    let mut command = Command::new(artifact("nap-image-builder").unwrap());
    command.current_dir(workspace()).args(["package", "--date", "1764158400", "--version", version]);
    command.arg("--built").arg(built).arg("--changelog").arg(changelog).arg("--out").arg(folder);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder.join(format!("nap-agent_{version}_amd64.deb"))
}

fn image(name: &str, deb: &Path) -> Image {
    let (kubelet, builder) = (artifact("pretend-kubelet").unwrap(), artifact("nap-image-builder").unwrap());
    let mut arguments = vec![kubelet.as_path(), deb];
    if name == "baked" {
        arguments.push(&builder);
    }
    Image::changed_by(name, &workspace().join("tests/vm/install-package.sh"), &arguments).unwrap()
}
