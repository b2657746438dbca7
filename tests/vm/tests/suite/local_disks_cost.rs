//! What local disks cost a boot, beside what nodeadm's script does in the same VM: a benchmark, run by `make bench-disks` alone.

use nap_vm::{VmLock, artifact, workspace};

use crate::azure::Azure;
use crate::guest::{self, COMMAND, note, told, wait_for_agent};
use crate::local_disks::{AUTO, overlay, start};

/// Each does it so often, by turns.
const ROUNDS: usize = 3;

#[test]
fn what_local_disks_cost() {
    if !guest::is_wanted("NAP_VM_BENCH", "make bench-disks") {
        return;
    }
    let lock = VmLock::take().unwrap();
    let azure = Azure::start();
    let mut with = overlay().file("/usr/bin/nap-time-disks", artifact("nap-time-disks").unwrap(), 0o755).text(
        "/usr/lib/nap-vm/node-bootstrap.yaml",
        azure.bootstrap_with(AUTO),
        0o600,
    );
    for script in ["blank.sh", "cost.sh", "peer.sh"] {
        let from = workspace().join("tests/vm/tests/suite/local_disks").join(script);
        with = with.file(&format!("/usr/lib/nap-vm/{script}"), from, 0o755);
    }
    let mut vm = start("local-disks-cost", &azure, lock, &[("local-b", 20), ("local-a", 20)], "", with);
    assert_eq!(wait_for_agent(&mut vm), 0);
    // As at a boot, before either runs.
    told(&mut vm, "systemctl stop nap-agent kubelet containerd");
    let disks = told(
        &mut vm,
        "for disk in /sys/block/nvme*; do [[ ! $disk =~ /nvme[0-9]+n ]] || ! grep -q Direct $disk/device/model || echo /dev/${disk##*/}; done | xargs",
    );
    for _ in 0..ROUNDS {
        for (name, command) in [
            ("nodeadm's script", format!("/usr/lib/nap-vm/peer.sh {disks}")),
            ("nap-agent", "nap-time-disks /usr/lib/nap-vm/node-bootstrap.yaml".to_owned()),
        ] {
            told(&mut vm, &format!("/usr/lib/nap-vm/blank.sh {disks}"));
            let cost =
                vm.run(&format!("/usr/lib/nap-vm/cost.sh \"{name}\" {command}; cat /run/cost.log"), COMMAND).unwrap();
            told(
                &mut vm,
                "for directory in /var/lib/kubelet /var/lib/containerd /var/log/pods; do mountpoint $directory || \
                 { findmnt; journalctl --boot --no-pager --lines 40; cat /run/cost.log; exit 1; }; done",
            );
            let ours = cost.text.lines().filter(|line| name == "nap-agent" || line.starts_with(name));
            note(format_args!("{}", ours.collect::<Vec<_>>().join("; ")));
        }
    }
}
