//! The reset button, pressed at any moment of a first boot: the next boot registers the node all the same. Every other time the node
//! makes an array of local disks in that boot.
//!
//! Once in every run. `NAP_VM_RESETS=200` (`make resets`) does more; what is done is in `target/vm/resets.done`, so that a run
//! that was stopped goes on where it was, until that file is removed.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use nap_vm::{Image, Vm, VmLock, target};

use crate::azure::Azure;
use crate::guest::{self, BOOT, json, note, told, wait_for_agent};
use crate::local_disks::{self, AUTO, assert_on_local_disks, recorded};

const IN_CI: u32 = 1;

/// Milliseconds after power-on, from before the agent starts to after the node has registered, on a quiet machine.
const MOMENTS: Range<u64> = 30_000..60_000;
/// With local disks milliseconds after the agent's first step: disks are made in the first twenty seconds of it.
const AFTER_FIRST_STEP: Range<u64> = 0..30_000;

#[test]
fn a_reset_at_any_moment_of_the_first_boot_costs_only_that_boot() {
    let wanted = std::env::var("NAP_VM_RESETS").ok().map(|count| count.parse().expect("NAP_VM_RESETS is a number"));
    let first = wanted.map_or(0, |_| done());
    let (mut lock, image) = (Some(VmLock::take().unwrap()), Image::build().unwrap());
    for number in first..wanted.unwrap_or(IN_CI) {
        let lock = lock.take().unwrap_or_else(|| VmLock::take().unwrap());
        let has_disks = number % 2 == 1;
        let moment = moment(number, if has_disks { AFTER_FIRST_STEP } else { MOMENTS });
        let state = reset_once(lock, &image, moment, has_disks);
        let since = if has_disks { "the first step of a boot with local disks" } else { "power-on" };
        note(format_args!(
            "reset {number} {moment:?} after {since}, in the middle of: {state}; the next boot registered"
        ));
        if wanted.is_some() {
            fs::write(done_file(), (number + 1).to_string()).unwrap();
        }
    }
}

/// Powers a fresh machine on, resets it at a moment, and returns what the agent's journal says it had been doing.
fn reset_once(lock: VmLock, image: &Image, moment: Duration, has_disks: bool) -> String {
    let azure = Azure::start();
    let mut vm = if has_disks {
        let disks = [("local-b", 20), ("local-a", 20)];
        local_disks::start("resets", &azure, lock, &disks, AUTO, local_disks::overlay())
    } else {
        let options = azure.vm("resets", guest::node(), &azure.bootstrap());
        Vm::start_with(lock, image, &options).unwrap()
    };
    if has_disks {
        vm.wait_for_shell(BOOT).unwrap();
        let first_step = "until test -s /var/lib/nap-agent/journal.jsonl; do sleep 0.1; done";
        assert_eq!(vm.run(first_step, BOOT).unwrap().status, 0);
    }
    std::thread::sleep(moment); // not to wait for anything: the moment is what is tried
    vm.reset(BOOT).unwrap();
    assert_eq!(wait_for_agent(&mut vm), 0, "after a reset at {moment:?}");
    assert_eq!(json(&mut vm, "/var/log/azure/aks/provision.json")["ExitCode"], "0", "after a reset at {moment:?}");
    assert!(azure.node().is_some(), "the node is registered after a reset at {moment:?}");
    told(&mut vm, "test ! -e /var/lib/kubelet/bootstrap-kubeconfig");
    told(&mut vm, "nap-agent status");
    if has_disks {
        let (phase, file_system, members) = recorded(&mut vm);
        assert_eq!((phase.as_str(), members.as_str()), ("ready", "local-a local-b"), "after a reset at {moment:?}");
        assert_on_local_disks(&mut vm, &file_system);
    }
    let boot_id = vm.boot_id().expect("the shell answered").replace('-', "");
    let journal = told(&mut vm, "cat /var/lib/nap-agent/journal.jsonl");
    // What was not synced the reset may have left as zeroes or half a line.
    let lines = journal.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut of_first_boot =
        lines.filter(|line| line["bootId"].as_str().is_some_and(|id| id.replace('-', "") != boot_id));
    of_first_boot.next_back().map_or("nothing yet".to_owned(), |line| format!("{} {}", line["step"], line["event"]))
}

/// Another moment for each number, the same in every run (a linear congruential generator; Knuth's numbers).
fn moment(number: u32, within: Range<u64>) -> Duration {
    let random =
        (u64::from(number) + 1).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    Duration::from_millis(within.start + (random >> 33) % (within.end - within.start))
}

fn done_file() -> PathBuf {
    target().join("vm/resets.done")
}

fn done() -> u32 {
    fs::read_to_string(done_file()).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}
