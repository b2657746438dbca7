//! What goes wrong on a node leaves it by every channel, with its own reason; and what is put right then boots.

use nap_model::report::Reason;
use nap_vm::{Image, Vm, VmLock, VmOptions, artifact};

use crate::azure::{Azure, VM_ID, custom_data};
use crate::guest::{self, BOOT, COMMAND, json, told, wait_for_agent};

#[test]
fn each_failure_has_its_reason_everywhere_and_its_cure_boots_the_node() {
    let (lock, image) = (VmLock::take().unwrap(), Image::build().unwrap());
    let azure = Azure::start();
    let mut options = VmOptions::new("failures", VM_ID);
    // kubelet lies where the agent does not look for it.
    options.overlay = guest::agent()
        .unwrap()
        .file("/opt/nap-vm/kubelet", artifact("pretend-kubelet").unwrap(), 0o755)
        .text("/opt/nap-vm/ovf-env.xml", azure.disc(Some(custom_data(&azure.bootstrap()))).ovf, 0o600);
    options.disc = Some(azure.disc(None));
    options.forwards = azure.forwards();
    let mut vm = Vm::start_with(lock, &image, &options).unwrap();

    assert_eq!(wait_for_agent(&mut vm), i32::from(Reason::CustomDataMissing.exit_code()));
    assert_reported(&mut vm, Reason::CustomDataMissing);

    told(&mut vm, "cp /opt/nap-vm/ovf-env.xml /var/lib/waagent/ovf-env.xml");
    assert_boot_fails(&mut vm, Reason::KubeletBinaryMissing);

    told(&mut vm, "cp /opt/nap-vm/kubelet /opt/bin/kubelet");
    let dropin = "/etc/systemd/system/containerd.service.d/99-broken.conf";
    let broken = "[Service]\\nExecStart=\\nExecStart=/bin/false\\n";
    told(&mut vm, &format!("mkdir -p $(dirname {dropin}); printf '{broken}' >{dropin}; systemctl daemon-reload"));
    assert_boot_fails(&mut vm, Reason::ContainerdUnhealthy);

    told(&mut vm, &format!("rm {dropin}; systemctl daemon-reload"));
    let boot = vm.run("systemctl restart nap-boot.service", BOOT).unwrap();
    assert_eq!((boot.status, boot.text.as_str()), (0, ""));
    assert_eq!(wait_for_agent(&mut vm), 0);
    assert_eq!(json(&mut vm, "/var/log/azure/aks/provision.json")["ExitCode"], "0");
    assert!(azure.node().is_some(), "the boot succeeded, so the node is registered");
}

/// Runs the boot again, which fails for this reason, and looks for it in every channel.
fn assert_boot_fails(vm: &mut Vm, reason: Reason) {
    let boot = vm.run("systemctl restart nap-boot.service", BOOT).unwrap();
    assert_ne!(boot.status, 0, "{}", boot.text);
    assert_eq!(wait_for_agent(vm), i32::from(reason.exit_code()));
    assert_reported(vm, reason);
}

fn assert_reported(vm: &mut Vm, reason: Reason) {
    let name = reason.to_string();
    let report = json(vm, "/var/log/azure/aks/provision.json");
    assert_eq!(report["Reason"], name, "{report:#}");
    assert_eq!(report["ExitCode"], reason.exit_code().to_string());
    assert!(report["Error"].as_str().is_some_and(|error| error.contains(&name)), "{report:#}");
    let journal = told(vm, "journalctl --unit nap-boot.service --boot --output cat");
    assert!(journal.contains(&name), "{journal}");
    vm.wait_for_console(&name, COMMAND).unwrap();
}
