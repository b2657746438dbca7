//! The rig itself: that the VM is what the other tests take it for, without nap-agent in it.

use std::time::Duration;

use nap_vm::{Image, Overlay, Vm, VmLock, VmOptions};
use pretend_azure::HealthState;

use crate::azure::{Azure, NODE, VM_ID, custom_data};
use crate::guest::{BOOT, COMMAND, json, note, told};

#[test]
fn vm_boots_runs_commands_reboots_and_leaves_its_disk() {
    let (lock, image) = (VmLock::take().unwrap(), Image::build().unwrap());
    let mut options = VmOptions::new("rig", VM_ID);
    options.overlay =
        Overlay::new().text("/opt/nap-vm/added", "by the overlay\n", 0o600).link("/opt/added", "nap-vm/added");
    let mut vm = Vm::start_with(lock, &image, &options).unwrap();

    vm.wait_for_shell(BOOT).unwrap();
    let added = vm.run("cat /opt/added; stat -c '%a %U' /opt/nap-vm/added; exit 3", COMMAND).unwrap();
    assert_eq!((added.status, added.text.as_str()), (3, "by the overlay\n600 root\n"));
    assert_eq!(vm.run("sleep 60", Duration::from_secs(1)).unwrap().status, 124);

    let first_boot = vm.boot_id().unwrap().to_owned();
    told(&mut vm, "echo kept >/var/kept");
    vm.reboot(BOOT).unwrap();
    assert_ne!(vm.boot_id().unwrap(), first_boot);
    assert_eq!(told(&mut vm, "cat /var/kept"), "kept");
    vm.reset(BOOT).unwrap();
    assert_eq!(told(&mut vm, "cat /var/kept"), "kept");

    let stopped = vm.power_off(BOOT).unwrap();
    stopped.disk.check().unwrap();
    assert_eq!(stopped.disk.read("/var/kept").unwrap().unwrap(), b"kept\n");
    assert_eq!(stopped.disk.read("/var/nothing").unwrap(), None);
}

#[test]
fn cloud_init_provisions_the_vm_from_the_pretend_azure() {
    let (lock, image) = (VmLock::take().unwrap(), Image::build().unwrap());
    let azure = Azure::start();
    let mut options = VmOptions::new("cloud-init", VM_ID);
    options.disc = Some(azure.disc(Some(custom_data(&azure.bootstrap()))));
    options.forwards = azure.forwards();
    let mut vm = Vm::start_with(lock, &image, &options).unwrap();

    let done = vm.wait_for_console("Datasource DataSourceAzure [seed=/dev/sr0]", BOOT).unwrap();
    assert_eq!(vm.run("systemctl is-system-running --wait", BOOT).unwrap().text, "running\n");
    note(format_args!("cloud-init finished after {done:?}"));
    note(format_args!(
        "{}",
        told(&mut vm, "systemd-analyze; systemd-analyze critical-chain cloud-init.target --no-pager")
    ));

    let status = json(&mut vm, "/run/cloud-init/result.json");
    assert_eq!(
        (&status["v1"]["datasource"], &status["v1"]["errors"]),
        (&"DataSourceAzure [seed=/dev/sr0]".into(), &serde_json::json!([]))
    );
    told(&mut vm, "test -e /run/nap-vm-cloud-config-ran");
    assert_eq!(told(&mut vm, "hostname"), NODE);
    let reports: Vec<_> = azure.health_reports().iter().map(|report| report.state).collect();
    assert_eq!(reports, [HealthState::Ready]);
}
