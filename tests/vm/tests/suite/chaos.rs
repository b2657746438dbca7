//! Faults at random, one after another and two at a time, on one node with a pod: in the end the node is healthy, the journal explains every
//! action, no budget was exceeded, and the pod lived through it.
//!
//! `NAP_VM_CHAOS=60` (`make chaos`) goes on for so many minutes, `make vm-long` for ten. `NAP_VM_CHAOS_SEED` plays the same faults again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nap_model::repair::{REPAIRS, repair};
use nap_vm::{Image, Vm, VmLock};
use serde_json::Value;

use crate::azure::Azure;
use crate::guest::{self, BOOT, VERDICT, give_up, note, told, until_health, wait_for_agent};
use crate::repairs::{CNI, GIVES_UP};

/// Longest pause between two rounds.
const PAUSE_SECONDS: usize = 120;

/// The short form, in minutes.
const SHORT: u64 = 10;

/// A fault, how it is made, and what it uses up.
struct Fault {
    name: &'static str,
    make: &'static str,
    costs: Costs,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Costs {
    /// An attempt of this repair.
    Repair(&'static str),
    /// One of [`PUT_BACK`] in an hour.
    Patience,
    Nothing,
}
use Costs::{Nothing, Patience, Repair};

impl Costs {
    fn repair(self) -> Option<&'static str> {
        if let Repair(name) = self { Some(name) } else { None }
    }
}

const fn fault(name: &'static str, costs: Costs, make: &'static str) -> Fault {
    Fault { name, make, costs }
}

const FAULTS: &[Fault] = &[
    fault(
        "containerd hangs",
        Repair("RestartContainerd"),
        "kill -STOP $(systemctl show --property MainPID --value containerd)",
    ),
    fault("containerd is killed", Patience, "systemctl kill --kill-whom=main --signal=KILL containerd"),
    fault("kubelet is given up", Repair("RestartKubelet"), give_up!("kubelet")),
    fault("kubelet hangs", Repair("RestartKubelet"), "kill -STOP $(systemctl show --property MainPID --value kubelet)"),
    fault("kubelet is killed", Patience, "systemctl kill --kill-whom=main --signal=KILL kubelet"),
    fault("networkd is given up", Repair("RestartNetworkd"), give_up!("systemd-networkd")),
    fault("resolved is given up", Repair("RestartResolved"), give_up!("systemd-resolved")),
    fault("a file is overwritten", Patience, "echo drifted >/etc/kubernetes/azure.json"),
    fault("a sysctl is changed", Patience, "sysctl -q -w net.ipv4.ip_forward=0"),
    fault("kubelet's configuration is gone", Patience, "rm /etc/default/kubeletconfig.json"),
    fault("the kubeconfig can be read by all", Patience, "chmod 0644 /var/lib/kubelet/kubeconfig"),
    fault("the guard is killed", Patience, "systemctl kill --kill-whom=main --signal=KILL nap-agent"),
    // It is started again by who needs it, so it may be away already.
    fault("the bus is killed", Patience, "systemctl kill --kill-whom=main --signal=KILL dbus || true"),
    fault(
        "a burst of work",
        Nothing,
        "timeout 20 sh -c 'while :; do head -c 20M /dev/urandom | sha256sum; done' >/dev/null || true",
    ),
];

impl Fault {
    /// What it is done to: its first word.
    fn what(&self) -> &str {
        let word = self.name.split(' ').next().unwrap_or_default();
        if word == "a" || word == "the" { self.name } else { word.trim_end_matches("'s") }
    }
}

/// Numbers at random that the same seed gives again.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

#[test]
fn a_node_lives_through_faults_at_random() {
    let minutes = std::env::var("NAP_VM_CHAOS").ok().map(|text| text.parse().expect("NAP_VM_CHAOS is a number"));
    let minutes: u64 = match minutes {
        Some(minutes) => minutes,
        None if guest::is_wanted("NAP_VM_LONG", "make vm-long") => SHORT,
        None => return,
    };
    let seed = std::env::var("NAP_VM_CHAOS_SEED").ok().map(|text| text.parse().expect("NAP_VM_CHAOS_SEED is a number"));
    let seed = seed.unwrap_or_else(|| std::process::id().into());
    note(format_args!("chaos: {minutes} minutes; NAP_VM_CHAOS_SEED={seed} plays the same"));
    let mut dice = Dice::new(seed);

    let (lock, image) = (VmLock::take().unwrap(), Image::build().unwrap());
    let azure = Azure::start();
    let mut overlay = guest::node().text("/etc/cni/net.d/10-nap-vm.conflist", CNI, 0o644);
    for unit in ["kubelet", "systemd-networkd", "systemd-resolved"] {
        overlay = overlay.text(&format!("/etc/systemd/system/{unit}.service.d/99-gives-up.conf"), GIVES_UP, 0o644);
    }
    let options = azure.vm("chaos", overlay, &azure.bootstrap());
    let mut vm = Vm::start_with(lock, &image, &options).unwrap();
    assert_eq!(wait_for_agent(&mut vm), 0);
    until_health(&mut vm, |document| document["verdict"]["state"] == "Healthy");
    // A container without an image: what matters is that its process is not touched.
    told(
        &mut vm,
        "mkdir /run/pod && mount --bind / /run/pod && \
         ctr --namespace k8s.io run --detach --rootfs /run/pod pod /usr/bin/sleep 1000000",
    );
    let pod = told(&mut vm, "ctr --namespace k8s.io task ls | grep ^pod");

    let (start, mut rounds, mut made) = (Instant::now(), 0, Made::new());
    while start.elapsed() < Duration::from_secs(60 * minutes) {
        rounds += 1;
        let faults = choose(&mut vm, &mut dice, &made);
        let names: Vec<_> = faults.iter().map(|fault| fault.name).collect();
        let began = Instant::now();
        for fault in &faults {
            let output = vm.run(fault.make, BOOT).unwrap();
            assert_eq!(output.status, 0, "{}: {}", fault.name, output.text);
            made.entry(fault.name).or_default().push(Instant::now());
        }
        let mut worst = String::new();
        // Healthy is also who has not noticed yet. Who comes first, the guard or systemd's watchdog, is theirs to settle.
        loop {
            until_health(&mut vm, |document| {
                let state = document["verdict"]["state"].as_str().unwrap_or_default().to_owned();
                assert!(!state.starts_with("Needs"), "{names:?}: {document:#}");
                if state != "Healthy" {
                    worst = state;
                }
                is_well(document)
            });
            if faults.iter().all(|fault| is_sound(&mut vm, fault)) {
                break;
            }
            assert!(began.elapsed() < VERDICT, "{names:?} are not repaired: {}", told(&mut vm, "nap-agent repairs"));
        }
        until_in_sync(&mut vm);
        note(format_args!("chaos: {names:?}: well after {} s; {worst}", began.elapsed().as_secs()));
        told(&mut vm, &format!("sleep {}", dice.below(PAUSE_SECONDS)));
    }
    let counts: Vec<_> = made.iter().map(|(name, times)| format!("{name} {}", times.len())).collect();
    note(format_args!("chaos: {rounds} rounds in {} minutes: {}", start.elapsed().as_secs() / 60, counts.join(", ")));
    until_nothing_is_held(&mut vm);
    assert_eq!(told(&mut vm, "ctr --namespace k8s.io task ls | grep ^pod"), pod, "the pod was not touched");
    assert_every_action_is_explained(&mut vm, &made);
    assert_eq!(told(&mut vm, "systemctl show nap-agent --property Result --value"), "success");
}

/// When each fault was made.
type Made = BTreeMap<&'static str, Vec<Instant>>;

/// What the guard puts back so often within an hour has another writer, whom it leaves alone; what is killed as often flaps.
const PUT_BACK: usize = 5;
const HOUR: Duration = Duration::from_secs(3600);
/// Half an hour, and the looks that clear it.
const HELD: Duration = Duration::from_secs(2400);

/// Nothing is wrong now; what came back three times within half an hour is held for as long.
fn is_well(document: &Value) -> bool {
    let mut findings = guest::findings(document).peekable();
    let is_held = findings.peek().is_some() && findings.all(|one| one["held"] == true);
    document["verdict"]["state"] == "Healthy" || is_held
}

/// What came back too often is held for half an hour; then the node is healthy without a reserve.
fn until_nothing_is_held(vm: &mut Vm) {
    let start = Instant::now();
    loop {
        let document = until_health(vm, is_well);
        if document["verdict"]["state"] == "Healthy" {
            break;
        }
        assert!(start.elapsed() < HELD, "{document:#}");
        told(vm, "sleep 10");
    }
    note(format_args!("chaos: healthy {} s after the last round", start.elapsed().as_secs()));
}

/// One fault or two, of those whose repair has attempts left.
fn choose<'a>(vm: &mut Vm, dice: &mut Dice, made: &Made) -> Vec<&'a Fault> {
    let document = until_health(vm, is_well);
    let budgets = document["subsystems"].as_array().into_iter().flatten();
    let budgets: Vec<&Value> = budgets.flat_map(|one| one["budgets"].as_array().into_iter().flatten()).collect();
    let is_spent = |repair: &str| budgets.iter().any(|budget| budget["action"] == repair && budget["remaining"] == 0);
    // systemd gives a kubelet up that is killed too often, and then it is the repair's, too.
    let needs_kubelets = |fault: &Fault| fault.what() == "kubelet" && is_spent("RestartKubelet");
    let has_left = |fault: &&Fault| !fault.costs.repair().is_some_and(is_spent) && !needs_kubelets(fault);
    let is_rare = |fault: &&Fault| {
        let times = made.get(fault.name).into_iter().flatten();
        fault.costs != Patience || times.filter(|time| time.elapsed() < HOUR).count() < PUT_BACK
    };
    let mut possible: Vec<&Fault> = FAULTS.iter().filter(has_left).filter(is_rare).collect();
    let mut chosen = Vec::new();
    for _ in 0..=dice.below(2).min(possible.len() - 1) {
        let fault = possible.remove(dice.below(possible.len()));
        // Two of one service may undo each other. What costs nothing is always left.
        possible.retain(|other| other.what() != fault.what());
        chosen.push(fault);
    }
    chosen
}

/// Whether the service that a fault was done to runs.
fn is_sound(vm: &mut Vm, fault: &Fault) -> bool {
    let unit = match fault.what() {
        unit @ ("containerd" | "kubelet") => unit.to_owned(),
        unit @ ("networkd" | "resolved") => format!("systemd-{unit}"),
        _ => return true,
    };
    let look = format!(
        "systemctl is-active --quiet {unit} && ! grep -q '^State:.*stopped' /proc/$(systemctl show --property MainPID --value {unit})/status"
    );
    vm.run(&look, guest::COMMAND).unwrap().status == 0
}

fn journal(vm: &mut Vm) -> Vec<Value> {
    let journal = told(vm, "cat /var/lib/nap-agent/repairs.jsonl 2>/dev/null || true");
    // The last line may be in the middle of being written.
    journal.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn until_in_sync(vm: &mut Vm) {
    let start = Instant::now();
    while vm.run("nap-agent status", guest::COMMAND).unwrap().status != 0 {
        assert!(start.elapsed() < VERDICT, "{}", vm.run("nap-agent status", guest::COMMAND).unwrap().text);
    }
}

/// Every attempt has its cause, its evidence and its end, and there are no more of them than the budgets allow.
fn assert_every_action_is_explained(vm: &mut Vm, made: &Made) {
    let mut attempts: BTreeMap<u64, Value> = BTreeMap::new();
    for line in journal(vm) {
        attempts.insert(line["id"].as_u64().unwrap(), line);
    }
    for attempt in attempts.values() {
        assert!(repair(attempt["repair"].as_str().unwrap()).is_some(), "{attempt}");
        assert!(attempt["reason"].is_string() && attempt["evidence"].is_array(), "{attempt}");
        assert!(attempt["ended"]["outcome"].is_string(), "its end is missing: {attempt}");
    }
    for fault in FAULTS.iter().filter(|fault| fault.name.ends_with("is given up") && made.contains_key(fault.name)) {
        // Nobody else starts it again.
        let repair = fault.costs.repair();
        assert!(attempts.values().any(|attempt| attempt["repair"].as_str() == repair), "{}", fault.name);
    }
    for row in REPAIRS {
        let of_it = || attempts.values().filter(|attempt| attempt["repair"] == row.name);
        let begun: Vec<u64> = of_it().map(|attempt| attempt["upMs"].as_u64().unwrap()).collect();
        let within_hour = |at: u64| begun.iter().filter(|other| (at..at + 3_600_000).contains(*other)).count();
        let most = begun.iter().map(|at| within_hour(*at)).max().unwrap_or_default();
        assert!(most <= row.budget.0, "{}: {most} in an hour", row.name);
        if !begun.is_empty() {
            note(format_args!("chaos: {}: {} attempts, at most {most} in an hour", row.name, begun.len()));
        }
    }
}
