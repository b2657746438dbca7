//! The invariants of the contract (facts, 8.1) with a virtual clock: a second a sweep, hours in milliseconds.

use proptest::prelude::*;

use super::*;
use crate::monitor::{
    Answer, FilesystemSeen, NoAnswer, Pressure, ProcessSeen, RuntimeCondition, Space, UnitSeen, Used, WriteSeen,
};
use crate::report::{AgentSeen, Identity, NodeHealth};

mod reboot;
mod repairs;

const BOOT: &str = "boot-1";

/// A node, its clock, and what a host would look at.
#[derive(Clone)]
struct Node {
    state: State,
    tick: Tick,
    seen: Observed,
}

fn start() -> Timestamp {
    "2026-11-26T12:00:00Z".parse().unwrap()
}

fn good_answer() -> Answer {
    Answer { took: Duration::from_millis(3), result: Ok(()) }
}

fn late() -> Answer {
    Answer { took: Duration::from_secs(12), result: Err(NoAnswer::Late) }
}

fn refused() -> Answer {
    Answer { took: Duration::ZERO, result: Err(NoAnswer::Refused("connection refused".to_owned())) }
}

fn unit(active: &str, sub: &str, result: &str) -> Result<UnitSeen, String> {
    Ok(UnitSeen { active: active.to_owned(), sub: sub.to_owned(), result: result.to_owned() })
}

fn event(kind: &str) -> ScheduledEvent {
    ScheduledEvent {
        id: "e".to_owned(),
        kind: kind.to_owned(),
        not_before: Some(start()),
        source: "Platform".to_owned(),
        has_started: false,
    }
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
    let units = ["kubelet.service", "containerd.service"];
    Observed {
        boot: Some(BootSeen::Done),
        units: units.map(|name| (name.to_owned(), unit("active", "running", "success"))).into(),
        processes: units.map(|name| (name.to_owned(), ProcessSeen { pid: 812, state: 'S' })).into(),
        kubelet: Some(good_answer()),
        runtime: Some(good_answer()),
        runtime_conditions: Some(
            ["RuntimeReady", "NetworkReady"]
                .map(|kind| RuntimeCondition {
                    kind: kind.to_owned(),
                    status: true,
                    reason: String::new(),
                    message: String::new(),
                })
                .into(),
        ),
        filesystems: vec![filesystem("/"), filesystem("/var/lib/containerd")],
        nvme: [("nvme0".to_owned(), "live".to_owned())].into(),
        counters: [
            "restarts/kubelet.service",
            "restarts/containerd.service",
            "ext4.errors/sda1",
            "oom.kills/system.slice",
        ]
        .map(|name| (name.to_owned(), 0))
        .into(),
        limits: ["tasks", "files", "conntrack"].map(|name| (name.to_owned(), Used { count: 10, limit: 1000 })).into(),
        canary: Some(Ok(())),
        pressure: Some(Pressure::default()),
        tainted: Some(0),
        stuck_tasks: Some(Vec::new()),
        clock_ahead_seconds: [("IMDS".to_owned(), 0)].into(),
        client_certificate: None,
        drift: Some(Vec::new()),
        api_server: Some(Ok(())),
        scheduled_events: Some(Ok(Vec::new())),
        ..Observed::default()
    }
}

impl Node {
    /// One that has been healthy for a while, and repairs nothing.
    fn new() -> Self {
        Self::with(Policy::observe_only())
    }

    fn with(policy: Policy) -> Self {
        let tick = Tick { since_boot: Duration::from_secs(30), wall: start(), late: Duration::ZERO };
        let mut state = State::default().resume(BOOT, tick);
        state.allow(policy);
        let mut node = Self { state, tick, seen: healthy() };
        node.run(300);
        assert_eq!(node.state.current.state, Verdict::Healthy, "{:?}", node.state.current);
        node
    }

    fn advance(&mut self, step: Duration) -> bool {
        self.tick.since_boot += step;
        self.tick.wall += SignedDuration::try_from(step).unwrap();
        let observed = Observed { tick: self.tick, ..self.seen.clone() };
        self.state.advance(&observed)
    }

    /// So many seconds.
    fn run(&mut self, seconds: u64) -> &mut Self {
        for _ in 0..seconds {
            self.advance(Duration::from_secs(1));
        }
        self
    }

    fn restart_agent(&mut self, away: Duration) {
        let json = serde_json::to_string(&self.state).unwrap();
        self.tick.since_boot += away;
        self.tick.wall += SignedDuration::try_from(away).unwrap();
        self.state = serde_json::from_str::<State>(&json).unwrap().resume(BOOT, self.tick);
    }

    fn verdict(&self) -> (Verdict, Option<&str>) {
        (self.state.current.state, self.state.current.reason.as_deref())
    }

    fn document(&self) -> NodeHealth {
        let identity = Identity { name: "aks-1".to_owned(), ..Identity::default() };
        NodeHealth::of(&self.state, &identity, &AgentSeen { version: "1".to_owned(), ..AgentSeen::default() })
    }

    fn hang_containerd(&mut self) {
        self.seen.runtime = Some(late());
        self.seen.processes.insert("containerd.service".to_owned(), ProcessSeen { pid: 812, state: 'T' });
    }

    /// The longest that anything needs to get worse.
    fn run_long(&mut self) -> &mut Self {
        self.run(1800)
    }
}

#[test]
fn a_fault_is_degraded_soon_and_worse_only_after_its_time() {
    let mut node = Node::new();
    node.hang_containerd();
    node.run(20);
    assert_eq!(node.verdict(), (Verdict::Healthy, None), "two bad answers are no fault");
    node.run(15);
    assert_eq!(node.verdict(), (Verdict::Degraded, Some("ContainerdUnresponsive")));
    node.run(550);
    assert_eq!(node.verdict(), (Verdict::Degraded, Some("ContainerdUnresponsive")));
    node.run(60);
    assert_eq!(node.verdict(), (Verdict::NeedsReplacement, Some("ContainerdUnresponsive")));
}

#[test]
fn a_hung_service_is_proven_also_when_its_late_answer_comes_in_another_sweep_than_its_state() {
    let mut node = Node::new();
    node.hang_containerd();
    let (answer, processes) = (node.seen.runtime.take(), std::mem::take(&mut node.seen.processes));
    for second in 0..700 {
        // As the host sees it: units each ten seconds, and an answer that took five.
        node.seen.processes = if second % 10 == 0 { processes.clone() } else { BTreeMap::new() };
        node.seen.runtime = answer.clone().filter(|_| second % 10 == 5);
        node.run(1);
    }
    assert_eq!(node.verdict(), (Verdict::NeedsReplacement, Some("ContainerdUnresponsive")));
}

#[test]
fn i1_and_i6_the_worlds_faults_never_make_a_node_worse_than_degraded() {
    let mut node = Node::new();
    node.seen.api_server = Some(Err("connection refused".to_owned()));
    node.seen.scheduled_events = Some(Err("no answer".to_owned()));
    node.run(24 * 3600 / 10);
    assert_eq!(node.state.current.state, Verdict::Degraded);
    assert!(node.state.conditions().iter().all(|one| one.status == ConditionStatus::True), "not the node's fault");
}

#[test]
fn i2_one_signal_is_not_enough() {
    let mut node = Node::new();
    node.seen.runtime = Some(late());
    node.run_long();
    assert_eq!(node.verdict(), (Verdict::Degraded, Some("ContainerdUnresponsive")));
}

#[test]
fn i2_what_cannot_err_is_enough() {
    for (error, root, data) in [
        ("EROFS", "RootFilesystemReadOnly", "DataFilesystemReadOnly"),
        ("EIO", "RootFilesystemFailing", "DataFilesystemFailing"),
    ] {
        for (index, reason, verdict) in [(0, root, Verdict::NeedsReboot), (1, data, Verdict::NeedsReplacement)] {
            let mut node = Node::new();
            node.seen.filesystems[index].write = Some(WriteSeen::Failed(error.to_owned()));
            node.run(10);
            assert_eq!(node.verdict(), (Verdict::Degraded, Some(reason)));
            node.run(150);
            assert_eq!(node.verdict(), (verdict, Some(reason)));
        }
    }
}

#[test]
fn i3_no_line_of_the_kernel_changes_anything() {
    let mut node = Node::new();
    let generation = node.state.generation;
    let texts = include_str!("../../testdata/kmsg.txt").lines().filter_map(|line| line.split_once(';'));
    node.seen.kernel_lines = texts.filter_map(|(_, text)| monitor::kernel_line::classify(text)).collect();
    assert!(node.seen.kernel_lines.len() > 40);
    node.run_long();
    assert_eq!((node.verdict(), node.state.generation), ((Verdict::Healthy, None), generation));
}

#[test]
fn i4_good_probes_clear_every_verdict() {
    let mut node = Node::new();
    node.hang_containerd();
    node.run(700);
    assert_eq!(node.state.current.state, Verdict::NeedsReplacement);
    node.seen = healthy();
    node.run(45);
    assert_ne!(node.verdict(), (Verdict::Healthy, None), "four good answers are not five");
    node.run(30);
    assert_eq!(node.verdict(), (Verdict::Healthy, None));
    assert_eq!(node.state.current.replace_after, None);
}

#[test]
fn i5_a_restart_changes_neither_time_nor_verdict() {
    let mut node = Node::new();
    node.hang_containerd();
    node.run(700);
    let before = node.state.current.clone();
    let conditions = node.state.conditions();
    let tag = node.state.tag();
    for away in [1, 30, 3000] {
        node.restart_agent(Duration::from_secs(away));
        assert_eq!(
            (&node.state.current, node.state.conditions(), node.state.tag()),
            (&before, conditions.clone(), tag.clone())
        );
        // Nothing measured yet.
        node.seen = Observed::default();
        node.run(10);
        assert_eq!(node.state.current, before);
    }
}

#[test]
fn i5_a_restart_makes_nothing_older() {
    let mut node = Node::new();
    node.hang_containerd();
    node.run(60);
    for _ in 0..20 {
        node.restart_agent(Duration::from_secs(600));
        node.run(2);
    }
    assert_eq!(node.state.current.state, Verdict::Degraded, "an agent that did not run has seen nothing");
}

#[test]
fn i7_nothing_counts_while_the_machine_boots() {
    let mut node = Node::new();
    node.seen.boot = Some(BootSeen::Running);
    node.hang_containerd();
    node.seen.counters.insert("restarts/kubelet.service".to_owned(), 40);
    node.run_long();
    assert_eq!(node.state.faults, BTreeMap::new());
    // And a minute after it; the restarts of the boot are not held against kubelet.
    node.seen.boot = Some(BootSeen::Done);
    node.run(55);
    assert_eq!(node.state.faults, BTreeMap::new());
    node.run(300);
    assert_eq!(node.verdict(), (Verdict::Degraded, Some("ContainerdUnresponsive")));
    assert!(node.state.findings().iter().all(|finding| finding.fault.reason != "KubeletCrashLooping"));
}

#[test]
fn i7_a_pause_of_the_vm_makes_nothing_older() {
    for by_wall_only in [false, true] {
        let mut node = Node::new();
        node.hang_containerd();
        node.run(400);
        let since = node.state.current.since;
        for _ in 0..20 {
            if by_wall_only {
                node.tick.wall += SignedDuration::from_secs(3600);
                node.run(100);
            } else {
                node.advance(Duration::from_secs(3600));
                node.run(100);
            }
            assert_eq!(node.state.suppressed.as_ref().unwrap().reason, "VmPause");
            assert_eq!(node.state.current.state, Verdict::Degraded);
        }
        node.run(20 + 600);
        assert_eq!(node.state.current.state, Verdict::NeedsReplacement, "it goes on afterwards");
        assert_ne!(since, node.state.current.since);
    }
}

#[test]
fn i7_an_announced_freeze_suppresses_from_its_time_on() {
    let mut node = Node::new();
    let mut freeze = event("Freeze");
    freeze.not_before = Some(node.tick.wall + SignedDuration::from_secs(60));
    node.seen.scheduled_events = Some(Ok(vec![freeze]));
    node.run(50);
    assert_eq!(node.state.suppressed, None);
    node.hang_containerd();
    node.run_long();
    assert_eq!(node.state.suppressed.as_ref().unwrap().reason, "PlannedMaintenance");
    assert_eq!(node.verdict(), (Verdict::Healthy, None));
    node.seen = healthy();
    node.run(119);
    assert!(node.state.suppressed.is_some());
    node.run(2);
    assert_eq!(node.state.suppressed, None);
}

#[test]
fn a_preemption_counts_at_once_also_when_nothing_else_does() {
    for boot in [BootSeen::Done, BootSeen::Running] {
        let mut node = Node::new();
        node.seen.boot = Some(boot);
        node.run(3);
        node.seen.scheduled_events = Some(Ok(vec![event("Preempt")]));
        node.run(1);
        assert_eq!(node.verdict(), (Verdict::NeedsReplacement, Some("PreemptScheduled")));
        assert_eq!(node.state.current.replace_after, Some(node.tick.wall));
    }
}

#[test]
fn i9_what_cannot_be_measured_is_not_unhealthy() {
    let without = |units: BTreeMap<String, Result<UnitSeen, String>>| {
        let mut node = Node::new();
        node.seen.units = units;
        // A process is looked at with its unit, or not at all.
        node.seen.processes.clear();
        node.seen.kubelet = None;
        node.seen.runtime = None;
        node.seen.runtime_conditions = None;
        node.seen.counters.clear();
        node.run_long();
        let findings = node.state.findings();
        assert_eq!(node.state.subsystem(Subsystem::Kubelet, &findings), SubsystemState::Unknown);
        let (verdict, reason) = node.verdict();
        (verdict, reason.map(str::to_owned))
    };
    assert_eq!(without(BTreeMap::new()), (Verdict::Degraded, Some(CANNOT_MEASURE.to_owned())));
    let silent = Node::new().seen.units.keys().map(|name| (name.clone(), Err("no answer".to_owned()))).collect();
    assert_eq!(without(silent), (Verdict::Degraded, Some("SystemdUnresponsive".to_owned())));
}

#[test]
fn i9_late_answers_of_a_machine_under_pressure_say_nothing() {
    let mut node = Node::new();
    node.seen.runtime = Some(late());
    node.seen.kubelet = Some(late());
    node.seen.filesystems[0].write = Some(WriteSeen::Hanging(Duration::from_secs(40)));
    node.seen.pressure = Some(Pressure { cpu_some: 97.0, io_full: 60.0, memory_full: 0.0 });
    node.run_long();
    assert_eq!(node.verdict(), (Verdict::Healthy, None));
}

#[test]
fn a_throttled_disk_is_no_hung_disk() {
    let mut node = Node::new();
    node.seen.pressure = Some(Pressure { cpu_some: 5.0, io_full: 95.0, memory_full: 0.0 });
    node.seen.stuck_tasks = Some(vec![("fio".to_owned(), Duration::from_secs(30))]);
    for _ in 0..60 {
        for second in 1..=90 {
            node.seen.filesystems[0].write = (second >= 10).then(|| WriteSeen::Hanging(Duration::from_secs(second)));
            node.run(1);
        }
        node.seen.filesystems[0].write = Some(WriteSeen::Done(Duration::from_secs(90)));
        node.run(1);
        assert!(node.state.current.state <= Verdict::Degraded);
    }
}

#[test]
fn a_slow_disk_is_told_though_all_wait_for_it() {
    let after = |pressure| {
        let mut node = Node::new();
        node.seen.pressure = Some(pressure);
        node.seen.filesystems[0].write = Some(WriteSeen::Done(Duration::from_secs(14)));
        node.run_long();
        (node.state.current.state, node.state.current.reason)
    };
    let calm = Pressure { cpu_some: 5.0, io_full: 95.0, memory_full: 0.0 };
    assert_eq!(after(calm), (Verdict::Degraded, Some("DiskSlow".to_owned())));
    assert_eq!(after(Pressure { cpu_some: 95.0, ..calm }), (Verdict::Healthy, None));
    assert_eq!(after(Pressure { memory_full: 45.0, ..calm }), (Verdict::Healthy, None));
}

#[test]
fn a_hung_disk_needs_a_reboot_and_then_a_replacement() {
    let mut node = Node::new();
    node.seen.stuck_tasks = Some(vec![("jbd2/sda1-8".to_owned(), Duration::from_secs(60))]);
    let hang = |node: &mut Node, seconds: u64| {
        for second in 10..seconds {
            node.seen.filesystems[0].write = Some(WriteSeen::Hanging(Duration::from_secs(second)));
            node.run(1);
        }
    };
    hang(&mut node, 330);
    assert_eq!(node.verdict(), (Verdict::Degraded, Some("DiskStalled")));
    hang(&mut node, 380);
    assert_eq!(node.verdict(), (Verdict::NeedsReboot, Some("DiskStalled")));
    // The reboot.
    node.tick.since_boot = Duration::from_secs(20);
    node.state = node.state.resume("boot-2", node.tick);
    assert_eq!(node.verdict(), (Verdict::Unknown, None));
    node.seen = healthy();
    node.run(200);
    assert_eq!(node.verdict(), (Verdict::Healthy, None));
    node.seen.stuck_tasks = Some(vec![("jbd2/sda1-8".to_owned(), Duration::from_secs(60))]);
    hang(&mut node, 380);
    assert_eq!(node.verdict(), (Verdict::NeedsReplacement, Some("DiskStalled")), "a reboot did not help");
}

#[test]
fn consequences_are_folded_and_start_anew_without_their_cause() {
    let mut node = Node::new();
    node.seen.units.insert("containerd.service".to_owned(), unit("failed", "failed", "exit-code"));
    node.seen.runtime = Some(refused());
    node.seen.units.insert("kubelet.service".to_owned(), unit("activating", "start-pre", "success"));
    node.seen.kubelet = Some(refused());
    node.run(590);
    let findings = node.state.findings();
    let told: Vec<_> = findings.iter().map(|finding| (finding.fault.reason, finding.caused_by.as_deref())).collect();
    assert_eq!(told, [("ContainerdDown", None), ("KubeletDown", Some("ContainerdDown"))]);
    // containerd comes back; kubelet needs a while, and does not inherit ten minutes.
    node.seen.units.insert("containerd.service".to_owned(), unit("active", "running", "success"));
    node.seen.runtime = Some(good_answer());
    node.run(500);
    assert_eq!(node.verdict(), (Verdict::Degraded, Some("KubeletDown")));
}

#[test]
fn disks_that_were_unmounted_need_a_reboot_unless_somebody_is_at_work_there() {
    let unmounted = || Some(vec!["/var/lib/kubelet".to_owned()]);
    let mut node = Node::new();
    node.seen.unmounted = unmounted();
    node.run(590);
    assert_eq!(node.verdict(), (Verdict::Degraded, Some("LocalDiskUnmounted")));
    node.run(60);
    assert_eq!(node.verdict(), (Verdict::NeedsReboot, Some("LocalDiskUnmounted")));

    let mut node = Node::new();
    node.seen.units.insert("kubelet.service".to_owned(), unit("inactive", "dead", "success"));
    node.seen.kubelet = Some(refused());
    node.run(60);
    node.seen.unmounted = unmounted();
    node.run(900);
    assert_eq!(node.state.current.state, Verdict::Degraded);
}

#[test]
fn a_fault_that_comes_and_goes_is_held_at_degraded() {
    let mut node = Node::new();
    for _ in 0..3 {
        node.seen.drift = Some(vec!["x".to_owned()]);
        node.run(60);
        assert_eq!(node.state.current.state, Verdict::Degraded);
        node.seen.drift = Some(Vec::new());
        node.run(150);
    }
    assert_eq!(node.verdict(), (Verdict::Degraded, Some("ConfigurationDrift")));
    assert!(node.state.findings()[0].is_held);
    node.run(1500);
    assert_eq!(node.state.current.state, Verdict::Degraded);
    node.run(400);
    assert_eq!(node.verdict(), (Verdict::Healthy, None));
}

#[test]
fn what_somebody_stopped_is_nobodys_reason_to_replace_the_node() {
    let mut node = Node::new();
    for name in ["kubelet.service", "containerd.service"] {
        node.seen.units.insert(name.to_owned(), unit("inactive", "dead", "success"));
    }
    node.seen.kubelet = Some(refused());
    node.seen.runtime = Some(refused());
    node.run(4 * 3600);
    assert_eq!(node.state.current.state, Verdict::Degraded);
}

#[test]
fn pressure_that_comes_and_goes_does_not_make_a_verdict_flap() {
    let mut node = Node::new();
    node.hang_containerd();
    node.run(700);
    let since = node.state.current.since;
    for round in 0..10 {
        node.seen.pressure =
            Some(Pressure { memory_full: if round % 2 == 0 { 90.0 } else { 0.0 }, ..Pressure::default() });
        node.run(30);
        assert_eq!((node.state.current.state, node.state.current.since), (Verdict::NeedsReplacement, since));
    }
}

#[test]
fn i12_a_healthy_document_is_small_and_stands_still() {
    let mut node = Node::new();
    let document = serde_json::to_vec(&node.document()).unwrap();
    assert!(document.len() < 2048, "{} bytes", document.len());
    for second in 0..3600 {
        node.seen.counters.insert("cpu/kubelet.service".to_owned(), second);
        assert!(!node.advance(Duration::from_secs(1)));
    }
    assert_eq!(serde_json::to_vec(&node.document()).unwrap(), document);
}

#[test]
fn the_document_keeps_to_its_schema_and_its_size() {
    let mut node = Node::new();
    assert_eq!(crate::report::problems(&node.document()), Vec::<String>::new());
    let long = "x".repeat(10_000);
    node.hang_containerd();
    node.seen.filesystems = (0..40)
        .map(|number| {
            let mut one = filesystem(&format!("/data/{number}"));
            one.write = Some(WriteSeen::Failed("EIO".to_owned()));
            one
        })
        .collect();
    node.seen.drift = Some(vec![long.clone()]);
    node.seen.api_server = Some(Err(long));
    node.seen.scheduled_events = Some(Ok(vec![event("Terminate")]));
    node.run(700);
    assert_eq!(crate::report::problems(&node.document()), Vec::<String>::new());
    let size = serde_json::to_vec(&node.document()).unwrap().len();
    assert!(size < 16 * 1024, "{size} bytes");
}

#[test]
fn a_watchdog_that_is_fed_is_told_of() {
    let mut node = Node::new();
    let fencing = |node: &Node| serde_json::to_value(node.document()).unwrap()["fencing"].to_string();
    assert_eq!(fencing(&node), r#"{"watchdogArmed":false}"#);
    let generation = node.state.generation;
    node.seen.watchdogs = Some(vec![600, 60]);
    node.run(1);
    assert_eq!(fencing(&node), r#"{"safeAfterSeconds":90,"watchdogArmed":true}"#);
    assert_eq!(node.state.generation, generation + 1);
    // A sweep that did not look takes nothing back.
    node.seen.watchdogs = None;
    node.run(1);
    assert_eq!(node.state.generation, generation + 1);
}

#[test]
fn conditions_move_their_time_only_with_their_status() {
    let mut node = Node::new();
    let of =
        |node: &Node, kind: &str| node.state.conditions().into_iter().find(|condition| condition.kind == kind).unwrap();
    let before = of(&node, "StorageReady");
    node.run(100);
    assert_eq!(of(&node, "StorageReady"), before);
    node.seen.filesystems[1].write = Some(WriteSeen::Failed("EROFS".to_owned()));
    node.run(10);
    let bad = of(&node, "StorageReady");
    assert_eq!((bad.status, bad.reason.as_str()), (ConditionStatus::False, "DataFilesystemReadOnly"));
    // Another fault of the same part: another reason, the same time.
    node.seen.filesystems[1].write = Some(WriteSeen::Failed("EIO".to_owned()));
    node.run(100);
    let worse = of(&node, "StorageReady");
    assert_eq!(worse.reason, "DataFilesystemFailing");
    assert_eq!(worse.last_transition_time, bad.last_transition_time);
    assert_eq!(of(&node, "KernelReady").status, ConditionStatus::True);
}

#[test]
fn a_preempted_machine_is_shut_down_only_where_its_owner_wants_it_and_when_others_have_heard() {
    let event = || ScheduledEvent {
        id: "e".to_owned(),
        kind: "Preempt".to_owned(),
        not_before: None,
        source: "Platform".to_owned(),
        has_started: false,
    };
    let power_off = "[preempt]\npower-off = true\n";
    let after_ten_seconds = |text: &str, kind: &str| {
        let mut node = Node::with(Policy::parse(text).unwrap());
        assert!(!node.state.is_to_be_powered_off());
        node.seen.scheduled_events = Some(Ok(vec![ScheduledEvent { kind: kind.to_owned(), ..event() }]));
        node.run(1);
        assert!(!node.state.is_to_be_powered_off(), "nobody has heard of it");
        node.run(9);
        node.state.is_to_be_powered_off()
    };
    assert!(after_ten_seconds(power_off, "Preempt"));
    assert!(!after_ten_seconds(power_off, "Terminate"));
    assert!(!after_ten_seconds("", "Preempt"));
    assert!(!after_ten_seconds(&format!("{power_off}[repairs]\nobserve-only = true\n"), "Preempt"));
}

#[test]
fn shared_conditions_stand_only_with_bad_news_and_where_they_are_allowed() {
    let with = |text: &str| Node::with(Policy::parse(text).unwrap());
    let both = "[conditions]\nnode-healthy = true\npreemption-scheduled = true";
    let told = |node: &Node| {
        let conditions = node.state.shared_conditions().unwrap().into_iter();
        conditions.map(|one| format!("{} {} {}", one.kind, one.status, one.reason)).collect::<Vec<_>>()
    };
    let broken = |node: &mut Node| {
        node.seen.filesystems[1].write = Some(WriteSeen::Failed("EIO".to_owned()));
        node.run(60);
        assert_eq!(told(node), [""; 0], "degraded is no reason to lose a node");
        node.run(600);
        assert_eq!(node.state.current.state, Verdict::NeedsReplacement);
    };
    let mut node = with(both);
    assert_eq!(told(&node), [""; 0], "a good word would hide another writer's");
    broken(&mut node);
    assert_eq!(told(&node), ["kubernetes.azure.com/NodeHealthy False DataFilesystemFailing"]);
    let before = node.state.shared_conditions().unwrap();
    assert_eq!(before[0].last_transition_time, node.state.current.since);
    node.restart_agent(Duration::from_secs(5));
    node.run(60);
    assert_eq!(node.state.shared_conditions(), None, "what is on the Node stands until it is verified");
    node.run(200);
    assert_eq!(node.state.shared_conditions().unwrap(), before);
    // Mended while the agent was away: nothing is written that nobody has seen.
    let mut mended = with(both);
    broken(&mut mended);
    mended.seen = healthy();
    mended.restart_agent(Duration::from_secs(5));
    for _ in 0..600 {
        mended.run(1);
        assert!(mended.state.shared_conditions().is_none_or(|conditions| conditions.is_empty()));
    }
    assert_eq!(mended.state.shared_conditions(), Some(Vec::new()));
    node.seen = healthy();
    node.run_long();
    assert_eq!(told(&node), [""; 0]);

    let mut node = with(both);
    let at = "2026-09-19T18:29:47Z".parse().unwrap();
    node.seen.scheduled_events = Some(Ok(vec![ScheduledEvent { not_before: Some(at), ..event("Preempt") }]));
    node.run(2);
    assert_eq!(told(&node), ["PreemptionScheduled True SpotEvictionIncoming"], "the node is not ill");
    let message = node.state.shared_conditions().unwrap().remove(0).message;
    let id = event("Preempt").id;
    assert_eq!(
        message,
        format!("Preempt Scheduled: Sat, 19 Sep 2026 18:29:47 GMT. Azure takes this spot VM away. EventId: {id}")
    );

    node.restart_agent(Duration::from_secs(5));
    node.seen.scheduled_events = None;
    node.run(1);
    assert_eq!(node.state.shared_conditions(), None, "IMDS has not said yet that it still stands");
    node.seen.scheduled_events = Some(Ok(vec![event("Preempt")]));
    node.run(1);
    assert_eq!(told(&node), ["PreemptionScheduled True SpotEvictionIncoming"], "and that is soon enough");

    for text in ["", "[repairs]\nobserve-only = true\n[conditions]\nnode-healthy = true"] {
        let mut silent = with(text);
        broken(&mut silent);
        assert_eq!(told(&silent), [""; 0], "{text}");
    }
}

#[test]
fn a_boot_that_failed_here_asks_for_another_node_and_one_that_the_world_held_up_does_not() {
    for (reason, verdict) in
        [("BootstrapTokenRejected", Verdict::NeedsReplacement), ("ApiServerDnsFailed", Verdict::Degraded)]
    {
        let tick = Tick { since_boot: Duration::from_secs(9), wall: start(), late: Duration::ZERO };
        let mut node = Node { state: State::default().resume(BOOT, tick), tick, seen: Observed::default() };
        node.seen.boot = Some(BootSeen::Failed(reason.to_owned()));
        node.run(90);
        assert_eq!(node.state.current.state, verdict);
        assert_eq!(node.state.conditions(), [], "there is no Node to write them to");
        node.seen = healthy();
        node.run(200);
        assert_eq!(node.verdict(), (Verdict::Healthy, None), "registered late");
    }
}

#[test]
fn a_target_that_is_gone_is_forgotten() {
    let mut node = Node::new();
    node.seen.nvme.insert("nvme1".to_owned(), "dead".to_owned());
    node.run(60);
    assert_eq!(node.verdict(), (Verdict::Degraded, Some("NvmeControllerDead")));
    node.seen.nvme.remove("nvme1");
    node.run(700);
    assert_eq!(node.verdict(), (Verdict::Healthy, None));
}

/// What noise can do to one sweep: each sense fails now and then, for a while, independently of the others.
fn noisy(seen: &mut Observed, dice: &mut impl FnMut(u32) -> bool) {
    *seen = healthy();
    if dice(40) {
        seen.kubelet = Some(late());
    }
    if dice(60) {
        seen.kubelet = Some(refused());
    }
    if dice(40) {
        seen.runtime = Some(late());
    }
    if dice(200) {
        seen.units.insert("kubelet.service".to_owned(), unit("activating", "auto-restart", "exit-code"));
    }
    if dice(200) {
        seen.units.insert("containerd.service".to_owned(), Err("no answer".to_owned()));
    }
    if dice(50) {
        seen.filesystems[0].write = Some(WriteSeen::Hanging(Duration::from_secs(15)));
    }
    if dice(400) {
        seen.filesystems[0].write = Some(WriteSeen::Failed("EIO".to_owned()));
    }
    if dice(30) {
        seen.pressure = Some(Pressure { cpu_some: 99.0, io_full: 80.0, memory_full: 60.0 });
    }
    if dice(30) {
        seen.stuck_tasks = Some(vec![("x".to_owned(), Duration::from_secs(40))]);
    }
    if dice(20) {
        seen.api_server = Some(Err("no answer".to_owned()));
    }
    if dice(20) {
        seen.scheduled_events = Some(Err("no answer".to_owned()));
    }
    if dice(60) {
        seen.clock_ahead_seconds.insert("IMDS".to_owned(), 30);
    }
    if dice(100) {
        seen.canary = Some(Err("EAGAIN".to_owned()));
    }
    if dice(100) {
        seen.drift = Some(vec!["x".to_owned()]);
    }
}

/// So many nodes for so many hours; each sweep stands for ten seconds. None may ever be worse than degraded, or be repaired.
fn a_time_of_noise(policy: &Policy, nodes: u64, hours: u64) {
    for number in 0..nodes {
        let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let mut node = Node::with(policy.clone());
        for sweep in 0..hours * 360 {
            let mut dice = |one_in: u32| next().is_multiple_of(u64::from(one_in));
            noisy(&mut node.seen, &mut dice);
            if dice(3000) {
                node.advance(Duration::from_secs(40));
            }
            if dice(9000) {
                node.restart_agent(Duration::from_secs(20));
            }
            node.advance(Duration::from_secs(10));
            let worst = node.state.current.state;
            assert!(worst <= Verdict::Degraded, "node {number}, sweep {sweep}: {:?}", node.state.findings());
            let is_done = |one: &crate::repair::Proposal| matches!(one.what, crate::repair::Proposed::Do(_));
            assert!(
                !node.state.decide().iter().any(is_done),
                "node {number}, sweep {sweep}: {:?}",
                node.state.findings()
            );
        }
    }
}

#[test]
fn noise_never_destroys_or_repairs_a_node() {
    // Built with NAP_NOISE_NODES=1000 NAP_NOISE_HOURS=8760 this is a year of a big cluster, and takes days.
    let of = |setting: Option<&str>, short: u64| setting.map_or(short, |text| text.parse().unwrap());
    for policy in [Policy::observe_only(), Policy::default()] {
        a_time_of_noise(&policy, of(option_env!("NAP_NOISE_NODES"), 2), of(option_env!("NAP_NOISE_HOURS"), 24));
    }
}

/// What may happen to a node between two looks of a test.
#[derive(Debug, Clone)]
enum Happening {
    Kubelet(u8),
    Runtime(u8),
    Write(u8),
    Units(u8),
    Strain(bool),
    Boot(bool),
    Wait(u16),
    Jump(i32),
    Away(u16),
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        (0..3u8).prop_map(Happening::Kubelet),
        (0..3u8).prop_map(Happening::Runtime),
        (0..5u8).prop_map(Happening::Write),
        (0..3u8).prop_map(Happening::Units),
        any::<bool>().prop_map(Happening::Strain),
        any::<bool>().prop_map(Happening::Boot),
        (1..400u16).prop_map(Happening::Wait),
        (-7200..7200i32).prop_map(Happening::Jump),
        (1..5000u16).prop_map(Happening::Away),
    ];
    proptest::collection::vec(one, 1..40)
}

impl Node {
    fn happens(&mut self, happening: &Happening) {
        let answer = |which: u8| Some([good_answer(), late(), refused()][usize::from(which)].clone());
        match happening {
            Happening::Kubelet(which) => self.seen.kubelet = answer(*which),
            Happening::Runtime(which) => self.seen.runtime = answer(*which),
            Happening::Write(which) => {
                let failed = |error: &str| WriteSeen::Failed(error.to_owned());
                self.seen.filesystems[1].write = match which {
                    0 => Some(WriteSeen::Done(Duration::from_millis(1))),
                    1 => Some(failed("EROFS")),
                    2 => Some(failed("ENOSPC")),
                    3 => Some(WriteSeen::Hanging(Duration::from_secs(90))),
                    _ => None,
                }
            }
            Happening::Units(which) => {
                let seen = [
                    unit("active", "running", "success"),
                    unit("failed", "failed", "exit-code"),
                    Err("no answer".to_owned()),
                ];
                for seen_unit in self.seen.units.values_mut() {
                    seen_unit.clone_from(&seen[usize::from(*which)]);
                }
            }
            Happening::Strain(is_on) => {
                self.seen.pressure =
                    Some(Pressure { memory_full: if *is_on { 90.0 } else { 0.0 }, ..Pressure::default() });
            }
            Happening::Boot(is_done) => {
                self.seen.boot = Some(if *is_done { BootSeen::Done } else { BootSeen::Running });
            }
            Happening::Wait(seconds) => {
                self.run(u64::from(*seconds));
            }
            Happening::Jump(seconds) => self.tick.wall += SignedDuration::from_secs(i64::from(*seconds)),
            Happening::Away(seconds) => self.restart_agent(Duration::from_secs(u64::from(*seconds))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    /// I2, I4, I6 and I7 over whatever may happen: more than degraded is always proven, its own, and not older than what was watched.
    #[test]
    fn whatever_happens_a_bad_verdict_is_proven(happenings in happenings()) {
        let mut node = Node::new();
        for happening in &happenings {
            node.happens(happening);
            let before = node.state.time_ms;
            let was_suppressed = node.state.suppressed.is_some();
            let faults = node.state.faults.len();
            node.run(1);
            prop_assert!(node.state.time_ms - before <= 5000);
            if was_suppressed && node.state.suppressed.is_some() {
                prop_assert_eq!(node.state.time_ms, before);
                prop_assert!(node.state.faults.len() <= faults);
            }
            for finding in node.state.findings().iter().filter(|finding| finding.level > Verdict::Degraded) {
                let classes: BTreeSet<_> = finding.evidence.iter().map(|seen| seen.class).collect();
                let authoritative = monitor::signals().any(|signal| {
                    signal.is_authoritative && std::ptr::eq(signal.fault, finding.fault)
                        && finding.evidence.iter().any(|seen| seen.signal == signal.name)
                });
                prop_assert!(authoritative || classes.len() > 1, "{:?}", finding);
                prop_assert_eq!(finding.fault.scope, Scope::Local);
                prop_assert!(finding.caused_by.is_none());
            }
            let json = serde_json::to_string(&node.state).unwrap();
            prop_assert_eq!(&serde_json::from_str::<State>(&json).unwrap(), &node.state);
        }
        // I4: whatever it was, it clears.
        node.seen = healthy();
        node.run(2400);
        prop_assert_eq!(node.verdict(), (Verdict::Healthy, None));
    }
}
