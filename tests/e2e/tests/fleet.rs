//! A thousand nodes in a virtual clock, under a provisioner that follows Karpenter's rules: which of their faults would destroy them?
//!
//! The nodes are the real decisions (verdict, hysteresis, repairs, document); what a host looks at, and what its repairs do, is
//! made up here, as are time and the provisioner.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nap_model::monitor::{
    Answer, BootSeen, FilesystemSeen, NoAnswer, Observed, ProcessSeen, RuntimeCondition, ScheduledEvent, Space, Tick,
    UnitSeen, Used, WriteSeen,
};
use nap_model::repair::Policy;
use nap_model::report::{AgentSeen, Identity, NodeHealth};
use nap_model::verdict::State;
use pretend_azure::provisioner::{Decision, Provisioner, SeenNode};

/// Time between two sweeps: what counts is spaced wider.
const STEP: Duration = Duration::from_secs(5);

/// The provisioner's own interval.
const LOOK_EVERY: u64 = 6;

/// From a fault that nothing helps against to the decision; Karpenter's own tolerance of a dead kubelet is ten minutes.
const LONGEST: Duration = Duration::from_secs(12 * 60);

/// What a repair does to its fault.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Effect {
    Heals,
    Nothing,
}

type Injection = fn(&mut Observed);

struct Node {
    state: State,
    seen: Observed,
    effect: Effect,
    policy: &'static str,
}

fn now(step: u64) -> Tick {
    let since_boot = Duration::from_secs(30) + STEP * u32::try_from(step).unwrap();
    let start: Timestamp = "2026-11-27T12:00:00Z".parse().unwrap();
    let wall = start + SignedDuration::try_from(since_boot).unwrap();
    Tick { since_boot, wall, late: Duration::ZERO }
}

fn unit(active: &str, sub: &str, result: &str) -> Result<UnitSeen, String> {
    Ok(UnitSeen { active: active.to_owned(), sub: sub.to_owned(), result: result.to_owned() })
}

fn answers() -> Option<Answer> {
    Some(Answer { took: Duration::from_millis(3), result: Ok(()) })
}

fn filesystem(path: &str) -> FilesystemSeen {
    FilesystemSeen {
        path: path.to_owned(),
        is_root: path == "/",
        space: Some(Space { bytes: 100 << 30, free_bytes: 50 << 30, inodes: 1000, free_inodes: 900 }),
        write: Some(WriteSeen::Done(Duration::from_millis(2))),
    }
}

/// What a sweep of a healthy node sees.
fn healthy() -> Observed {
    let services = ["kubelet.service", "containerd.service"];
    let condition = |kind: &str| RuntimeCondition {
        kind: kind.to_owned(),
        status: true,
        reason: String::new(),
        message: String::new(),
    };
    Observed {
        boot: Some(BootSeen::Done),
        units: services.map(|name| (name.to_owned(), unit("active", "running", "success"))).into(),
        processes: services.map(|name| (name.to_owned(), ProcessSeen { pid: 812, state: 'S' })).into(),
        kubelet: answers(),
        runtime: answers(),
        runtime_conditions: Some(["RuntimeReady", "NetworkReady"].map(condition).into()),
        filesystems: vec![filesystem("/"), filesystem("/var/lib/containerd")],
        limits: ["tasks", "files"].map(|name| (name.to_owned(), Used { count: 10, limit: 1000 })).into(),
        canary: Some(Ok(())),
        tainted: Some(0),
        stuck_tasks: Some(Vec::new()),
        drift: Some(Vec::new()),
        api_server: Some(Ok(())),
        scheduled_events: Some(Ok(Vec::new())),
        ..Observed::default()
    }
}

fn hung(seen: &mut Observed, service: &str) {
    seen.processes.insert(service.to_owned(), ProcessSeen { pid: 812, state: 'T' });
}

fn late() -> Option<Answer> {
    Some(Answer { took: Duration::from_secs(12), result: Err(NoAnswer::Late) })
}

fn refused() -> Option<Answer> {
    Some(Answer { took: Duration::ZERO, result: Err(NoAnswer::Refused("connection refused".to_owned())) })
}

fn given_up(seen: &mut Observed, service: &str) {
    seen.units.insert(service.to_owned(), unit("failed", "failed", "start-limit-hit"));
    seen.processes.remove(service);
}

/// Faults that a repair may help against, and for which another node would help when it does not.
const REPAIRABLE: [(&str, Injection); 4] = [
    ("ContainerdUnresponsive", |seen| {
        hung(seen, "containerd.service");
        seen.runtime = late();
    }),
    ("ContainerdDown", |seen| {
        given_up(seen, "containerd.service");
        seen.runtime = refused();
    }),
    ("KubeletDown", |seen| {
        given_up(seen, "kubelet.service");
        seen.kubelet = refused();
    }),
    ("KubeletUnresponsive", |seen| {
        hung(seen, "kubelet.service");
        seen.kubelet = late();
    }),
];

/// Faults that nothing here helps against.
const FATAL: [(&str, Injection); 3] = [
    ("DataFilesystemReadOnly", |seen| seen.filesystems[1].write = Some(WriteSeen::Failed("EROFS".to_owned()))),
    ("DataFilesystemFailing", |seen| seen.filesystems[1].write = Some(WriteSeen::Failed("EIO".to_owned()))),
    ("PreemptScheduled", |seen| {
        let event = ScheduledEvent {
            id: "e".to_owned(),
            kind: "Preempt".to_owned(),
            not_before: None,
            source: "Platform".to_owned(),
            has_started: false,
        };
        seen.scheduled_events = Some(Ok(vec![event]));
    }),
];

/// Faults of the world, and what costs the node something and not its life.
const HARMLESS: [(&str, Injection); 4] = [
    ("ApiServerUnreachable", |seen| seen.api_server = Some(Err("connection refused".to_owned()))),
    ("DiskFull", |seen| {
        seen.filesystems[1].space = Some(Space { bytes: 100, free_bytes: 0, inodes: 1000, free_inodes: 900 });
        seen.filesystems[1].write = Some(WriteSeen::Failed("ENOSPC".to_owned()));
    }),
    ("ConfigurationDrift", |seen| seen.drift = Some(vec!["kernel.sysctl".to_owned()])),
    ("KubeletStopped", |seen| {
        seen.units.insert("kubelet.service".to_owned(), unit("inactive", "dead", "success"));
        seen.kubelet = refused();
    }),
];

impl Node {
    fn new(number: usize) -> Self {
        let state = State::default().resume(&format!("boot-{number}"), now(0));
        let mut node = Self { state, seen: healthy(), effect: Effect::Heals, policy: "" };
        node.state.allow(Policy::parse(node.policy).unwrap());
        node
    }

    fn sweep(&mut self, tick: Tick) {
        self.state.advance(&Observed { tick, ..self.seen.clone() });
        let proposals = self.state.decide();
        let Some(order) = proposals.iter().find_map(|proposal| self.state.order(proposal, tick)) else { return };
        self.state.repair_has_begun(order.attempt);
        self.state.repair_has_acted(tick, Ok(()));
        if self.effect == Effect::Heals {
            self.seen = healthy();
        }
    }

    fn seen_by_provisioner(&self, number: usize) -> SeenNode {
        let document = NodeHealth::of(&self.state, &Identity::default(), &AgentSeen::default());
        SeenNode {
            name: name(number),
            pool: pool(number),
            image: "ubuntu-24.04-202611".to_owned(),
            document: Some(serde_json::to_value(document).unwrap()),
            // kubelet's lease is made up by nobody here.
            not_ready_since: None,
        }
    }
}

fn name(number: usize) -> String {
    format!("node-{number}")
}

fn pool(number: usize) -> String {
    format!("pool-{}", number / 10)
}

/// Many at once, on every processor.
fn sweep(nodes: &mut [(usize, Node)], tick: Tick) {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let length = nodes.len().div_ceil(processors).max(50);
    std::thread::scope(|scope| {
        for part in nodes.chunks_mut(length) {
            scope.spawn(move || part.iter_mut().for_each(|(_, node)| node.sweep(tick)));
        }
    });
}

/// What the provisioner decided, and how long after the fault.
type Decided = Vec<(Duration, Decision)>;

/// A fleet in which some nodes get a fault after two minutes, for so long; the same nodes under Karpenter alone beside it. Who stays
/// healthy says the same all the time, so one speaks for all of them.
fn live(
    count: usize,
    is_ill: impl Fn(usize) -> bool,
    inject: Injection,
    effect: Effect,
    minutes: u64,
) -> (Decided, Decided) {
    let numbers = (0..count).filter(|number| is_ill(*number));
    let mut ill: Vec<(usize, Node)> = numbers.map(|number| (number, Node::new(number))).collect();
    let mut healthy = Node::new(count);
    let (mut ours, mut karpenter) = (Provisioner::default(), Provisioner::karpenter_alone());
    let (mut by_ours, mut by_karpenter) = (Vec::new(), Vec::new());
    let begins = 120 / STEP.as_secs();
    for step in 1..begins + minutes * 60 / STEP.as_secs() {
        let tick = now(step);
        if step == begins {
            for (_, node) in &mut ill {
                node.effect = effect;
                inject(&mut node.seen);
            }
        }
        healthy.sweep(tick);
        sweep(&mut ill, tick);
        if step.is_multiple_of(LOOK_EVERY) {
            let of_healthy = healthy.seen_by_provisioner(count);
            let of = |number| SeenNode { name: name(number), pool: pool(number), ..of_healthy.clone() };
            let mut seen: Vec<_> = (0..count).map(of).collect();
            ill.iter().for_each(|(number, node)| seen[*number] = node.seen_by_provisioner(*number));
            let after = STEP * u32::try_from(step.saturating_sub(begins)).unwrap();
            by_ours.extend(ours.look(tick.wall, &seen).into_iter().map(|decision| (after, decision)));
            by_karpenter.extend(karpenter.look(tick.wall, &seen).into_iter().map(|decision| (after, decision)));
        }
    }
    (by_ours, by_karpenter)
}

fn note(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{text}"); // nobody listens: nobody needs to know
}

#[test]
fn what_can_be_repaired_never_destroys_a_node_and_what_cannot_does() {
    let third = |number: usize| number == 3;
    for (reason, inject) in REPAIRABLE {
        let (ours, karpenter) = live(10, third, inject, Effect::Heals, 20);
        assert_eq!((ours, karpenter), (Vec::new(), Vec::new()), "{reason}");
    }
    for (reason, inject) in HARMLESS {
        let (ours, karpenter) = live(10, third, inject, Effect::Nothing, 60);
        assert_eq!((ours, karpenter), (Vec::new(), Vec::new()), "{reason}");
    }
    for (reason, inject) in REPAIRABLE.into_iter().chain(FATAL) {
        let (ours, _) = live(10, third, inject, Effect::Nothing, 20);
        let (after, decision) = ours.first().unwrap_or_else(|| panic!("{reason}: nothing was decided"));
        assert_eq!(*decision, Decision::Replace { node: "node-3".to_owned(), reason: reason.to_owned() });
        assert!(*after <= LONGEST, "{reason}: {after:?}");
        note(&format!("| {reason} | nothing helps: replaced after {} s |", after.as_secs()));
    }
}

#[test]
fn an_image_that_breaks_a_thousand_nodes_is_told_of_and_destroys_none() {
    let (reason, inject) = REPAIRABLE[0];
    // Every node; and one or two of each pool of ten, which Karpenter's own breaker lets through.
    for (what, is_ill, ill) in
        [("every node", (|_| true) as fn(usize) -> bool, 1000), ("one node of seven", |number| number % 7 == 0, 143)]
    {
        let (ours, karpenter) = live(1000, is_ill, inject, Effect::Nothing, 12);
        let decisions: Vec<_> = ours.iter().map(|(_, decision)| decision.clone()).collect();
        let told =
            Decision::ImageWide { reason: reason.to_owned(), image: "ubuntu-24.04-202611".to_owned(), nodes: ill };
        assert_eq!(decisions, [told], "{what}");
        let replaced = |decided: &Decided| {
            let names = decided.iter().filter_map(|(_, decision)| match decision {
                Decision::Replace { node, .. } => Some(node.clone()),
                _ => None,
            });
            names.collect::<std::collections::BTreeSet<_>>().len()
        };
        note(&format!(
            "| {what} | told once, none replaced | Karpenter's rules alone: {} replaced |",
            replaced(&karpenter)
        ));
        assert_eq!(replaced(&karpenter), if ill == 1000 { 0 } else { ill });
    }
}
