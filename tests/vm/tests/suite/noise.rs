//! Load without a fault: the node never looks worse than `Degraded`, and nothing is repaired.
//!
//! `NAP_VM_SOAK=120` (`make soak`) goes on for so many minutes; the short form is a part of the test of repairs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nap_vm::{Image, Overlay, Vm, VmLock};

use crate::azure::Azure;
use crate::chaos::Dice;
use crate::guest::{self, note, text, told, until_health, wait_for_agent};
use crate::repairs::CNI;

/// One kind of load and what makes it.
const LOADS: [(&str, &str); 7] = [
    ("processors", "sh -c 'for i in 1 2 3 4 5 6; do while :; do :; done & done; wait'"),
    ("disk", "sh -c 'while :; do dd if=/dev/zero of=/var/tmp/noise bs=1M count=200 conv=fdatasync 2>/dev/null; done'"),
    ("memory", "python3 /usr/lib/nap-vm/noise.py memory"),
    ("network", "python3 /usr/lib/nap-vm/noise.py network"),
    ("forged lines", "python3 /usr/lib/nap-vm/noise.py forged"),
    ("the kernel's lines", "python3 /usr/lib/nap-vm/noise.py kernel"),
    ("processes", "python3 /usr/lib/nap-vm/noise.py processes"),
];

/// How long loads of a choice last, in seconds: at least, and how much more at most.
const LASTS: (usize, usize) = (30, 120);

const SHORT: Duration = Duration::from_secs(20);

pub(crate) fn with_noise(overlay: Overlay) -> Overlay {
    overlay.text("/usr/lib/nap-vm/noise.py", include_str!("noise/noise.py"), 0o644)
}

#[test]
fn no_load_makes_a_node_look_broken() {
    let Ok(minutes) = std::env::var("NAP_VM_SOAK") else { return };
    let minutes: u64 = minutes.parse().expect("NAP_VM_SOAK is a number");
    let (lock, image) = (VmLock::take().unwrap(), Image::build().unwrap());
    let azure = Azure::start();
    let overlay = with_noise(guest::node().text("/etc/cni/net.d/10-nap-vm.conflist", CNI, 0o644));
    let options = azure.vm("noise", overlay, &azure.bootstrap());
    let mut vm = Vm::start_with(lock, &image, &options).unwrap();
    assert_eq!(wait_for_agent(&mut vm), 0);
    until_health(&mut vm, |document| document["verdict"]["state"] == "Healthy");
    let start = Instant::now();
    let mut seen = Seen::start(&mut vm);
    let mut dice = Dice::new(1);
    while start.elapsed() < Duration::from_secs(60 * minutes) {
        let loads: Vec<_> = (0..=dice.below(4)).map(|_| LOADS[dice.below(LOADS.len())]).collect();
        let lasts = LASTS.0 + dice.below(LASTS.1);
        seen.under(&mut vm, &loads, Duration::from_secs(lasts as u64));
    }
    seen.assert_nothing_was_broken(&mut vm);
}

/// The short form: each load once, all at the same time.
pub(crate) fn assert_load_is_no_fault(vm: &mut Vm) {
    let mut seen = Seen::start(vm);
    seen.under(vm, &LOADS, SHORT);
    seen.assert_nothing_was_broken(vm);
}

/// What was told, and how often.
struct Seen {
    verdicts: BTreeMap<String, usize>,
    reasons: BTreeMap<String, usize>,
    repairs: String,
}

/// How many lines the journal of repairs has, and how often the guard was started anew.
const REPAIRS: &str =
    "cat /var/lib/nap-agent/repairs.jsonl 2>/dev/null | wc -l; systemctl show nap-agent --property NRestarts";

impl Seen {
    fn start(vm: &mut Vm) -> Self {
        Self { verdicts: BTreeMap::new(), reasons: BTreeMap::new(), repairs: told(vm, REPAIRS) }
    }

    fn under(&mut self, vm: &mut Vm, loads: &[(&str, &str)], lasts: Duration) {
        for (number, (_, command)) in loads.iter().enumerate() {
            told(vm, &format!("systemd-run --quiet --unit=noise-{number} --property=OOMScoreAdjust=1000 {command}"));
        }
        let start = Instant::now();
        while start.elapsed() < lasts {
            until_health(vm, |document| {
                let verdict = text(&document["verdict"]["state"]);
                let names: Vec<_> = loads.iter().map(|(name, _)| *name).collect();
                assert!(["Healthy", "Degraded"].contains(&verdict), "{names:?}: {document:#}");
                *self.verdicts.entry(verdict.to_owned()).or_default() += 1;
                for finding in guest::findings(document) {
                    *self.reasons.entry(text(&finding["reason"]).to_owned()).or_default() += 1;
                }
                true
            });
        }
        told(
            vm,
            "systemctl stop 'noise-*'; systemctl reset-failed 'noise-*' 2>/dev/null; nft delete table ip noise 2>/dev/null; true",
        );
    }

    fn assert_nothing_was_broken(&self, vm: &mut Vm) {
        note(format_args!("under load: {:?}; findings {:?}", self.verdicts, self.reasons));
        let metrics = guest::endpoint(vm, "/metrics");
        let lines = metrics.lines().filter(|line| line.starts_with("nap_kmsg_"));
        note(format_args!("{}", lines.collect::<Vec<_>>().join("; ")));
        assert_eq!(told(vm, REPAIRS), self.repairs);
        until_health(vm, |document| document["verdict"]["state"] == "Healthy");
    }
}
