//! A reboot of the node's own, and what else a provisioner may ask for.

use super::*;
use crate::intent::{Ask, Intent};
use crate::repair::{Hold, LOTTERY, Proposed};
use crate::verdict::Taken;

const VM: &str = "5cbf3d1a";

impl Node {
    fn allowed() -> Self {
        Self::with(Policy::parse("[repairs.switches]\nReboot = true").unwrap())
    }

    fn stall_disk(&mut self) {
        self.seen.filesystems[0].write = Some(WriteSeen::Hanging(Duration::from_secs(90)));
        self.seen.stuck_tasks = Some(vec![("jbd2/sda1-8".to_owned(), Duration::from_secs(90))]);
    }

    fn run_out_of_pids(&mut self) {
        self.seen.limits.insert("tasks".to_owned(), Used { count: 999, limit: 1000 });
        self.seen.canary = Some(Err("EAGAIN".to_owned()));
    }

    /// Seconds until a reboot is decided on, and what would have it begun.
    fn until_reboot(&mut self, most: u64) -> Option<(u64, Order)> {
        for second in 0..most {
            self.run(1);
            for proposal in self.state.decide() {
                if let Some(order) = self.state.order(&proposal, self.tick) {
                    assert_eq!(order.repair.name, "Reboot");
                    self.state.repair_has_begun(order.attempt.clone());
                    return Some((second, order));
                }
            }
        }
        None
    }

    /// The machine starts again; its disk has the state and the journal, or only the journal.
    fn reboot(&mut self, boot_id: &str, journal: Vec<crate::repair::Attempt>, is_state_kept: bool) {
        let policy = self.state.policy.clone();
        let state = if is_state_kept { self.state.clone() } else { State::default() };
        self.tick = Tick {
            since_boot: Duration::from_secs(20),
            wall: self.tick.wall + SignedDuration::from_secs(60),
            late: Duration::ZERO,
        };
        self.state = state.resume(boot_id, self.tick);
        self.state.learn(self.tick, journal);
        self.state.allow(policy);
    }

    fn ask(&mut self, id: &str, ask: Ask) -> Result<Taken, String> {
        let boot_id = self.state.boot_id.clone();
        let intent = Intent { id: id.to_owned(), vm_id: VM.to_owned(), boot_id, ask };
        self.state.take_intent(&intent, VM, self.tick)
    }

    fn holds(&self) -> Vec<Hold> {
        let holds = self.state.decide().into_iter().filter_map(|one| match one.what {
            Proposed::Hold(hold) => Some(hold),
            Proposed::Do(_) => None,
        });
        holds.collect()
    }
}

#[test]
fn an_owner_who_allows_it_has_his_node_reboot_once_for_a_fault_and_then_replaced() {
    for is_state_kept in [true, false] {
        let mut node = Node::allowed();
        node.run_out_of_pids();
        let (second, order) = node.until_reboot(1800).expect("it is allowed");
        assert!(!order.is_granted);
        let least = 600;
        assert!((least..least + 60 + LOTTERY.as_secs()).contains(&second), "{second}");
        node.run(1);
        assert_eq!(node.verdict(), (Verdict::Repairing, Some("PidsExhausted")));
        let document = serde_json::to_value(node.document()).unwrap();
        assert_eq!(document["verdict"]["repair"]["action"], "Reboot");

        node.reboot("boot-2", vec![order.attempt], is_state_kept);
        let ended = node.state.take_ended_repairs();
        assert_eq!(ended.len(), 1);
        assert_eq!(ended[0].ended.as_ref().unwrap().detail, "the machine started again");
        assert_eq!(node.until_reboot(4000).map(|(second, _)| second), None, "it did not help");
        assert_eq!(node.verdict(), (Verdict::NeedsReplacement, Some("PidsExhausted")));
    }
}

#[test]
fn a_reboot_that_helped_leaves_a_healthy_node() {
    let mut node = Node::allowed();
    node.run_out_of_pids();
    let (_, order) = node.until_reboot(1800).unwrap();
    node.reboot("boot-2", vec![order.attempt], true);
    node.seen = healthy();
    node.run(120);
    assert_eq!(node.verdict(), (Verdict::Healthy, None));
    assert_eq!(crate::report::problems(&node.document()), Vec::<String>::new());
}

#[test]
fn it_is_the_last_rung_of_a_service_too() {
    let mut node = Node::allowed();
    node.hang_containerd();
    let mut made = Vec::new();
    for _ in 0..3600 {
        node.run(1);
        assert_ne!(node.verdict().0, Verdict::NeedsReplacement);
        for proposal in node.state.decide() {
            let Some(order) = node.state.order(&proposal, node.tick) else { continue };
            made.push((order.repair.name, node.verdict().0));
            node.state.repair_has_begun(order.attempt);
            node.state.repair_has_acted(node.tick, Ok(()));
        }
        if made.last().is_some_and(|(name, _)| *name == "Reboot") {
            break;
        }
    }
    let verdicts = made.iter().map(|(name, verdict)| format!("{name} {verdict:?}")).collect::<Vec<_>>();
    assert_eq!(verdicts, ["RestartContainerd Degraded", "RestartContainerd Repairing", "Reboot NeedsReboot"]);
}

#[test]
fn machines_that_fail_together_do_not_reboot_together() {
    let waits: BTreeSet<_> = (0..1000)
        .map(|number| {
            let mut state = State { boot_id: format!("boot-{number}"), ..State::default() };
            state.allow(Policy::default());
            state.lottery().unwrap()
        })
        .collect();
    assert!(waits.len() > 990 && *waits.last().unwrap() < LOTTERY, "{}", waits.len());
    let in_first_minute = waits.iter().filter(|wait| wait.as_secs() < 60).count();
    assert!((70..130).contains(&in_first_minute), "{in_first_minute} of a thousand");
}

#[test]
fn nobody_reboots_a_node_whose_owner_did_not_allow_it_until_the_provisioner_grants_it() {
    let mut node = Node::with(Policy::default());
    let refused = node.ask("g-0", Ask::GrantReboot).unwrap_err();
    assert!(refused.contains("Healthy"), "{refused}");
    node.stall_disk();
    assert!(node.until_reboot(900).is_none());
    assert_eq!(node.verdict(), (Verdict::NeedsReboot, Some("DiskStalled")));
    assert!(matches!(node.holds()[..], [Hold::Forbidden("Reboot", _)]), "{:?}", node.holds());
    assert_eq!(node.ask("g-1", Ask::GrantReboot), Ok(Taken::Now));
    let generation = node.state.generation;
    // A restart of ours does not lose the grant.
    node.restart_agent(Duration::from_secs(2));
    node.state.allow(Policy::default());
    let (second, order) = node.until_reboot(10).expect("granted: no lottery, and the stalled disk is what it is for");
    assert!(second == 0 && order.is_granted);
    node.run(1);
    assert!(node.state.generation > generation);
    assert_eq!(node.state.intents().reboot_granted_by, None, "a grant is for one attempt");
    // The machine did not go down.
    node.state.repair_has_acted(node.tick, Err("it is still up".to_owned()));
    assert!(node.until_reboot(3600).is_none());
    assert_eq!(node.verdict().0, Verdict::NeedsReboot);
}

#[test]
fn a_grant_ends_with_what_it_was_for() {
    let mut node = Node::with(Policy::default());
    node.stall_disk();
    node.run(900);
    assert_eq!(node.ask("h", Ask::Hold(node.tick.wall + SignedDuration::from_mins(30))), Ok(Taken::Now));
    assert_eq!(node.ask("g", Ask::GrantReboot), Ok(Taken::Now));
    assert!(node.until_reboot(60).is_none(), "{:?}", node.holds());
    assert_eq!(node.holds(), [Hold::Asked("Hold")]);
    node.seen = healthy();
    node.run(120);
    assert_eq!(node.state.intents().reboot_granted_by, None);
    node.stall_disk();
    assert!(node.until_reboot(3600).is_none(), "a later fault needs a grant of its own");
}

#[test]
fn an_owner_has_the_last_word() {
    for text in ["[repairs]\nobserve-only = true", "[repairs.switches]\nReboot = false"] {
        let mut node = Node::with(Policy::parse(text).unwrap());
        node.stall_disk();
        node.run(900);
        assert_eq!(node.verdict().0, Verdict::NeedsReboot);
        let refused = node.ask("g", Ask::GrantReboot).unwrap_err();
        assert!(refused.contains("owner"), "{refused}");
        assert!(node.until_reboot(600).is_none());
    }
}

#[test]
fn while_a_provisioner_holds_a_node_nothing_is_repaired() {
    for (ask, word) in [(Ask::Hold as fn(Timestamp) -> Ask, "Hold"), (Ask::Drain, "Drain")] {
        let mut node = Node::with(Policy::default());
        let until = node.tick.wall + SignedDuration::from_mins(5);
        assert_eq!(node.ask("h", ask(until)), Ok(Taken::Now));
        node.hang_containerd();
        node.run(299);
        assert_eq!(node.holds(), [Hold::Asked(word)]);
        let document = serde_json::to_value(node.document()).unwrap();
        assert_eq!(document["intents"]["held"]["intent"], word);
        assert_eq!(crate::report::problems(&node.document()), Vec::<String>::new());
        // By the time that passes, and not by a clock that is set.
        node.tick.wall -= SignedDuration::from_hours(5);
        node.run(200);
        assert_eq!(node.state.intents().held, None);
    }
    let mut node = Node::with(Policy::default());
    for minutes in [-1, 0, 24 * 60 + 1] {
        assert!(node.ask("h", Ask::Hold(node.tick.wall + SignedDuration::from_mins(minutes))).is_err(), "{minutes}");
    }
    assert_eq!(node.ask("h", Ask::Hold(node.tick.wall + SignedDuration::from_mins(60))), Ok(Taken::Now));
    assert_eq!(node.ask("r", Ask::Release), Ok(Taken::Now));
    assert_eq!(node.state.intents().held, None);
}

#[test]
fn an_intent_is_for_one_machine_and_one_boot_and_is_done_once() {
    let mut node = Node::with(Policy::default());
    let until = node.tick.wall + SignedDuration::from_mins(5);
    let intent = Intent { id: "a".to_owned(), vm_id: VM.to_owned(), boot_id: BOOT.to_owned(), ask: Ask::Hold(until) };
    let other_vm = Intent { vm_id: "x".to_owned(), ..intent.clone() };
    let other_boot = Intent { boot_id: "x".to_owned(), ..intent.clone() };
    for wrong in [&other_vm, &other_boot] {
        assert!(node.state.take_intent(wrong, VM, node.tick).is_err());
    }
    assert!(node.state.take_intent(&Intent { vm_id: String::new(), ..intent.clone() }, "", node.tick).is_err());
    assert_eq!(node.state.take_intent(&intent, VM, node.tick), Ok(Taken::Now));
    assert_eq!(node.ask("r", Ask::Release), Ok(Taken::Now));
    node.restart_agent(Duration::from_secs(1));
    assert_eq!(node.state.take_intent(&intent, VM, node.tick), Ok(Taken::Before), "sent again by who saw no answer");
    assert_eq!(node.state.intents().held, None, "and not done again");
    assert!(node.ask("a", Ask::Release).is_err(), "another intent under the same id");
    node.reboot("boot-2", Vec::new(), true);
    assert!(node.state.take_intent(&intent, VM, node.tick).is_err(), "replayed after a reboot");
}

#[test]
fn a_latch_is_cleared_for_a_fault_that_is_gone() {
    let mut node = Node::new();
    for _ in 0..3 {
        node.hang_containerd();
        node.run(60);
        node.seen = healthy();
        node.run(120);
    }
    assert_eq!(node.verdict(), (Verdict::Degraded, Some("ContainerdUnresponsive")), "it came three times");
    assert!(node.ask("c", Ask::ClearLatch("KubeletDown".to_owned())).is_err());
    assert_eq!(node.ask("c", Ask::ClearLatch("ContainerdUnresponsive".to_owned())), Ok(Taken::Now));
    node.run(1);
    assert_eq!(node.verdict(), (Verdict::Healthy, None));
}
