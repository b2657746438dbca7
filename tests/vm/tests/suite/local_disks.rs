//! Local disks on a real kernel: NVMe namespaces with Azure's model (the kernel's NVMe target over virtio disks), real mdadm, mkfs and
//! udev, resets in between. The boot matrix of issue "Local disks", row by row, in the life of one VM.

use nap_vm::{Bus, DataDisk, Image, Overlay, Vm, VmLock, workspace};
use serde_json::Value;

use crate::azure::Azure;
use crate::guest::{self, BOOT, json, note, now, told, wait_for_agent};

const GIB: u64 = 1 << 30;

const RECORD: &str = "/var/lib/nap-agent/disks.json";

/// Local disks are wanted.
pub(crate) const AUTO: &str = "storage:\n  localDisks: auto\n";

/// A node with such disks; `with` adds to its image.
pub(crate) fn start(
    name: &str,
    azure: &Azure,
    lock: VmLock,
    disks: &[(&str, u64)],
    storage: &str,
    with: Overlay,
) -> Vm {
    let image = Image::build().unwrap();
    let mut options = azure.vm(name, with, &azure.bootstrap_with(storage));
    let disk = |(name, gib): &(&str, u64)| DataDisk {
        name: (*name).to_owned(),
        bytes: gib * GIB,
        content: Vec::new(),
        bus: Bus::Virtio,
    };
    options.disks = disks.iter().map(disk).chain(namespaces()).collect();
    Vm::start_with(lock, &image, &options).unwrap()
}

pub(crate) fn overlay() -> Overlay {
    let folder = workspace().join("tests/vm/tests/suite/local_disks");
    let overlay = guest::node().file("/usr/lib/nap-vm/nvme-target.sh", folder.join("nvme-target.sh"), 0o755);
    // What an image has baked in goes along.
    let overlay = overlay.text("/var/lib/containerd/baked", "an image of the machine image\n", 0o600);
    overlay.enabled_unit(&folder.join("nap-vm-nvme-target.service")).unwrap()
}

/// Namespaces 1, 2 and 9 of one real controller: as Azure attaches remote disks with the LUNs 0 and 7.
pub(crate) fn namespaces() -> impl Iterator<Item = DataDisk> {
    let disk = |namespace| DataDisk {
        name: format!("remote-{namespace}"),
        bytes: u64::from(namespace) << 20,
        content: Vec::new(),
        bus: Bus::Nvme { controller: 7, namespace },
    };
    [1, 2, 9].into_iter().map(disk)
}

/// The facts have each namespace by its id, which the kernel's names do not tell; sizes of as many MiB give them away.
pub(crate) fn assert_namespaces_are_told_apart(vm: &mut Vm, facts: &str) {
    let facts = json(vm, facts);
    let of_qemu = |disk: &&Value| disk["model"].as_str().is_some_and(|model| model.starts_with("QEMU"));
    let disks = facts["disks"].as_array().unwrap().iter().filter(of_qemu).filter(|disk| disk["system"] == false);
    let mut seen: Vec<_> =
        disks.map(|disk| (disk["namespace"].as_u64(), disk["bytes"].as_u64().map(|bytes| bytes >> 20))).collect();
    // The kernel names them in the order in which it found them: nvme1n2 was seen to be namespace 9.
    seen.sort_unstable();
    assert_eq!(seen, [(Some(1), Some(1)), (Some(2), Some(2)), (Some(9), Some(9))], "{facts:#}");
}

/// The record's one file system: phase, UUID, serials.
pub(crate) fn recorded(vm: &mut Vm) -> (String, String, String) {
    let record = json(vm, RECORD);
    let volumes = record["volumes"].as_array().unwrap();
    assert_eq!(volumes.len(), 1, "{record:#}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let members: Vec<_> = volumes[0]["members"].as_array().unwrap().iter().map(text).collect();
    (text(&volumes[0]["phase"]), text(&volumes[0]["fileSystem"]), members.join(" "))
}

/// kubelet, containerd and the logs of pods are on the file system with this UUID; kubelet's keys are on the OS disk.
pub(crate) fn assert_on_local_disks(vm: &mut Vm, uuid: &str) {
    for directory in ["/var/lib/ephemeral", "/var/lib/kubelet", "/var/lib/containerd", "/var/log/pods"] {
        let found = told(vm, &format!("findmnt --noheadings --output UUID --mountpoint {directory}"));
        assert_eq!(found, uuid, "{directory}");
    }
    let os = told(vm, "findmnt --noheadings --output UUID --mountpoint /");
    assert_eq!(told(vm, "findmnt --noheadings --output UUID --mountpoint /var/lib/kubelet/pki"), os);
    told(vm, "test -s /var/lib/kubelet/pki/kubelet-client-current.pem");
    // Two mount points of one file system, one group of peers each: what a pod mounts shows once.
    let shared = told(vm, "findmnt --noheadings --output PROPAGATION --mountpoint /var/lib/kubelet");
    let private = told(vm, "findmnt --noheadings --output PROPAGATION --mountpoint /var/lib/ephemeral");
    assert_eq!((shared.as_str(), private.as_str()), ("shared", "private"));
    told(vm, "systemctl is-active containerd kubelet");
}

/// Nothing of the node's is on a local disk, and the report says why.
fn assert_on_os_disk(vm: &mut Vm, reason: &str) {
    let mounts = told(vm, "findmnt --raw --noheadings --output TARGET");
    assert!(!mounts.contains("/var/lib/ephemeral") && !mounts.contains("/var/lib/containerd"), "{mounts}");
    let report = json(vm, "/var/log/azure/aks/provision.json");
    let notes = report["Notes"].as_array().unwrap();
    assert!(notes.iter().any(|note| note.as_str().unwrap().starts_with(reason)), "{report:#}");
    told(vm, "systemctl is-active containerd kubelet");
}

/// Unmounted under the node: told, and mounted by the next boot and by nobody before.
fn assert_unmounted_disks_are_told(vm: &mut Vm) {
    told(vm, "umount --lazy /var/log/pods");
    let start = now(vm);
    let seen = guest::until_health(vm, |document| guest::finding(document, "LocalDiskUnmounted").is_some());
    let found = guest::finding(&seen, "LocalDiskUnmounted").unwrap();
    assert_eq!(found["evidence"][0]["sample"], "not mounted: /var/log/pods", "{seen:#}");
    note(format_args!("| LocalDiskUnmounted | seen after {:.0} s |", guest::seconds(&found["since"]) - start));
    told(vm, "! mountpoint -q /var/log/pods");
}

/// The reset button, after writing to a disk beneath everybody; and the next boot, which registers.
fn reset_after(vm: &mut Vm, command: &str) {
    told(vm, &format!("{command}; sync"));
    vm.reset(BOOT).unwrap();
    assert_eq!(wait_for_agent(vm), 0, "after {command}");
}

/// The virtio disk with this serial number.
fn device(vm: &mut Vm, serial: &str) -> String {
    format!("/dev/{}", told(vm, &format!("basename $(dirname $(grep -l {serial} /sys/block/vd*/serial))")))
}

#[test]
fn local_disks_are_used_kept_remade_and_left_alone() {
    let lock = VmLock::take().unwrap();
    let azure = Azure::start();
    let disks = [("local-b", 20), ("local-a", 20), ("data", 1)];
    let mut vm = start("local-disks", &azure, lock, &disks, AUTO, overlay());
    assert_eq!(wait_for_agent(&mut vm), 0);

    // All blank.
    let (phase, first, members) = recorded(&mut vm);
    assert_eq!((phase.as_str(), members.as_str()), ("ready", "local-a local-b"));
    assert_on_local_disks(&mut vm, &first);
    assert_eq!(told(&mut vm, "findmnt --noheadings --output FSTYPE --mountpoint /var/lib/ephemeral"), "xfs");
    assert_eq!(told(&mut vm, "cat /var/lib/containerd/baked"), "an image of the machine image");
    assert_eq!(told(&mut vm, "ls /var/lib/ephemeral/kubelet/pki"), "", "keys are on no local disk");
    let status = told(&mut vm, "nap-agent status");
    assert!(status.contains("local; part of an array of xfs at /var/lib/ephemeral, has /var/lib/kubelet"), "{status}");
    assert!(status.contains("the system is on it"), "{status}");
    note(format_args!("{status}"));
    guest::note_figures(&mut vm, "boot with two blank local disks");
    assert_namespaces_are_told_apart(&mut vm, "/var/lib/nap-agent/facts.json");
    let certificate = told(&mut vm, "sha256sum </var/lib/kubelet/pki/kubelet-client-current.pem");
    let data = vm.data_disk_digest("data").unwrap();

    // Ours, whole: an orderly reboot keeps everything.
    told(&mut vm, "echo kept >/var/lib/containerd/of-a-pod");
    vm.reboot(BOOT).unwrap();
    assert_eq!(wait_for_agent(&mut vm), 0);
    assert_eq!(recorded(&mut vm).1, first);
    assert_on_local_disks(&mut vm, &first);
    assert_eq!(told(&mut vm, "cat /var/lib/containerd/of-a-pod"), "kept");
    guest::assert_nothing_drifted(&mut vm);
    if guest::is_wanted("NAP_VM_LONG", "make vm-long") {
        assert_unmounted_disks_are_told(&mut vm);
    }

    // Blank again, as after a redeployment on a managed OS disk: remade, and the node still has its keys.
    let (a, b) = (device(&mut vm, "local-a"), device(&mut vm, "local-b"));
    reset_after(&mut vm, &format!("blkdiscard -f {a}; blkdiscard -f {b}"));
    let (phase, second, _) = recorded(&mut vm);
    assert_eq!(phase, "ready");
    assert_ne!(second, first);
    assert_on_local_disks(&mut vm, &second);
    assert_eq!(told(&mut vm, "sha256sum </var/lib/kubelet/pki/kubelet-client-current.pem"), certificate);
    assert_eq!(told(&mut vm, "cat /var/lib/containerd/baked"), "an image of the machine image");

    // A member is blank, and udev has made an inactive array of the other: what is left of ours is stale, and remade.
    reset_after(&mut vm, &format!("blkdiscard -f {a}"));
    let (_, third, members) = recorded(&mut vm);
    assert_eq!(members, "local-a local-b");
    assert_ne!(third, second);
    assert_on_local_disks(&mut vm, &third);

    // Somebody's file system on one: all are left alone.
    told(&mut vm, &format!("blkdiscard -f {a}; mkfs.ext4 -q -F -L precious {a}; sync"));
    let foreign = ["local-a", "local-b"].map(|name| vm.data_disk_digest(name).unwrap());
    reset_after(&mut vm, "true");
    assert_on_os_disk(&mut vm, "LocalDiskForeignData");
    let status = told(&mut vm, "nap-agent status");
    assert!(status.contains("holds ext4 labelled \"precious\""), "{status}");
    told(&mut vm, "sync");
    assert_eq!(["local-a", "local-b"].map(|name| vm.data_disk_digest(name).unwrap()), foreign);
    assert_eq!(told(&mut vm, "sha256sum </var/lib/kubelet/pki/kubelet-client-current.pem"), certificate);

    // It is gone: used again.
    reset_after(&mut vm, &format!("blkdiscard -f {a}"));
    let (_, fourth, _) = recorded(&mut vm);
    assert_on_local_disks(&mut vm, &fourth);

    // The disk that is not local was never written to.
    assert_eq!(vm.data_disk_digest("data").unwrap(), data);
}

#[test]
fn without_mdadm_one_disk_is_used_and_its_loss_needs_another_node() {
    if !guest::is_wanted("NAP_VM_LONG", "make vm-long") {
        return;
    }
    let lock = VmLock::take().unwrap();
    let azure = Azure::start();
    // Each as large as what the provisioner advertised, 30 GiB, or kubelet would stay on the OS disk.
    let disks = [("local-b", 32), ("local-a", 32)];
    let mut vm = start("one-local-disk", &azure, lock, &disks, AUTO, overlay());
    assert_eq!(wait_for_agent(&mut vm), 0);
    let (a, b) = (device(&mut vm, "local-a"), device(&mut vm, "local-b"));

    // As on Azure Linux, which has neither program.
    reset_after(&mut vm, &format!("mv /usr/sbin/mdadm /usr/sbin/mkfs.xfs /root; blkdiscard -f {a}; blkdiscard -f {b}"));
    let (_, file_system, member) = recorded(&mut vm);
    assert!(["local-a", "local-b"].contains(&member.as_str()), "one of them: {member}");
    assert_on_local_disks(&mut vm, &file_system);
    assert_eq!(told(&mut vm, "findmnt --noheadings --output FSTYPE --mountpoint /var/lib/ephemeral"), "ext4");

    // It goes under the running node. Nothing here can bring it back, and the provisioner is told.
    let off =
        format!("echo 0 >/sys/kernel/config/nvmet/subsystems/nqn.2026-11.test.nap-vm:{member}/namespaces/1/enable");
    told(&mut vm, &off);
    let lost = guest::until_health(&mut vm, |document| document["verdict"]["state"] == "NeedsReplacement");
    assert_eq!(lost["verdict"]["reason"], "DataFilesystemFailing", "{lost:#}");
    note(format_args!("a lost disk: {}", lost["verdict"]));
}
