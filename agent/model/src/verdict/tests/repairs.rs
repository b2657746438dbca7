//! Repairs as the verdict tells of them: what a provisioner sees while the node mends itself, and when it does not.

use super::*;
use crate::repair::{Hold, Outcome, Proposed};

/// What a repair does to the node.
#[derive(Clone, Copy, PartialEq)]
enum Effect {
    Heals,
    Nothing,
    Fails,
}

impl Node {
    /// So many seconds with a host that does what is decided; every verdict in the order in which it came, with its time.
    fn run_repairing(&mut self, seconds: u64, effect: Effect) -> Vec<(u64, Verdict)> {
        let mut told: Vec<(u64, Verdict)> = Vec::new();
        for second in 0..seconds {
            self.run(1);
            let now = self.state.current.state;
            if told.last().is_none_or(|(_, last)| *last != now) {
                told.push((second, now));
            }
            self.order_and_act(effect);
        }
        told
    }

    fn order_and_act(&mut self, effect: Effect) -> bool {
        for proposal in self.state.decide() {
            let Some(order) = self.state.order(&proposal, self.tick) else { continue };
            self.state.repair_has_begun(order.attempt);
            let result = if effect == Effect::Fails { Err("job failed".to_owned()) } else { Ok(()) };
            self.state.repair_has_acted(self.tick, result);
            if effect == Effect::Heals {
                self.seen = healthy();
            }
            return true;
        }
        false
    }

    fn hold(&self, reason: &str) -> Option<Hold> {
        self.state.decide().into_iter().find(|proposal| proposal.reason == reason).and_then(|one| match one.what {
            Proposed::Hold(hold) => Some(hold),
            Proposed::Do(_) => None,
        })
    }

    fn outcomes(&self) -> Vec<Option<Outcome>> {
        self.state.repairs().map(|attempt| attempt.ended.as_ref().map(|ended| ended.outcome)).collect()
    }

    fn repairing() -> Self {
        Self::with(Policy::default())
    }
}

fn words(told: &[(u64, Verdict)]) -> Vec<Verdict> {
    told.iter().map(|(_, verdict)| *verdict).collect()
}

#[test]
fn a_hung_service_goes_from_degraded_over_repairing_to_healthy() {
    use Verdict::{Degraded, Healthy, Repairing};
    let mut node = Node::repairing();
    node.hang_containerd();
    let told = node.run_repairing(300, Effect::Heals);
    assert_eq!(words(&told), [Healthy, Degraded, Repairing, Healthy]);
    let (found, begun) = (told[1].0, told[2].0);
    assert!(begun - found <= 2, "found after {found} s, begun after {begun} s");
    assert_eq!(node.outcomes(), [Some(Outcome::Succeeded)]);
    assert_eq!(node.state.take_ended_repairs().len(), 1, "the end is to be recorded");
    assert_eq!(node.state.take_ended_repairs(), []);
}

#[test]
fn people_hear_of_a_fault_its_repair_and_its_end_once() {
    let mut node = Node::repairing();
    assert_eq!(node.state.take_node_events(), [], "a healthy node has nothing to tell");
    let told = |node: &mut Node| {
        let events = node.state.take_node_events().into_iter();
        events.map(|event| format!("{} {}", event.reason, event.is_warning)).collect::<Vec<_>>()
    };
    node.hang_containerd();
    node.run_repairing(300, Effect::Heals);
    let all = ["ContainerdUnresponsive true", "RepairBegun false", "RepairSucceeded false", "Recovered false"];
    assert_eq!(told(&mut node), all);
    // A restart of ours tells nothing again, and what nobody took is still there.
    node.hang_containerd();
    node.run(60);
    node.restart_agent(Duration::from_secs(5));
    node.run(10);
    assert_eq!(told(&mut node), ["ContainerdUnresponsive true"]);
    // The same event has the same key, another one another.
    let mut keys = BTreeSet::new();
    for _ in 0..3 {
        node.seen = healthy();
        node.run_repairing(200, Effect::Nothing);
        node.hang_containerd();
        node.run_repairing(400, Effect::Nothing);
        let events = node.state.take_node_events();
        assert!(events.into_iter().all(|event| keys.insert(event.key)));
    }
    assert!(keys.len() > 4, "{keys:?}");
}

#[test]
fn only_the_end_of_the_ladder_asks_for_another_node() {
    use Verdict::{Degraded, Healthy, NeedsReplacement, Repairing};
    for (effect, outcome) in [(Effect::Nothing, Outcome::ChangedNothing), (Effect::Fails, Outcome::Failed)] {
        let mut node = Node::repairing();
        node.hang_containerd();
        let mut told = Vec::new();
        for _ in 0..1200 {
            told.extend(node.run_repairing(1, effect));
            for finding in node.state.findings().iter().filter(|finding| finding.level == Repairing) {
                let current = finding.repair.clone().expect("what is repaired has a deadline");
                assert!(current.deadline > node.tick.wall, "{current:?}");
                assert!(current.spent_by >= current.deadline, "{current:?}");
            }
        }
        told.dedup_by_key(|(_, verdict)| *verdict);
        assert_eq!(
            words(&told),
            [Healthy, Degraded, Repairing, Degraded, NeedsReplacement],
            "{effect:?}",
            effect = outcome
        );
        assert_eq!(node.outcomes(), [Some(outcome), Some(outcome)]);
        assert_eq!(node.hold("ContainerdUnresponsive"), Some(Hold::Spent));
        // Budgets come back; the verdict does not flap with them.
        node.run_repairing(4000, effect);
        assert_eq!(node.verdict(), (NeedsReplacement, Some("ContainerdUnresponsive")));
        assert_eq!(node.outcomes().len(), 2);
        // Good probes clear it as ever.
        node.seen = healthy();
        node.run(120);
        assert_eq!(node.verdict(), (Healthy, None));
    }
}

#[test]
fn the_document_says_what_is_done_how_often_and_until_when() {
    let mut node = Node::repairing();
    node.hang_containerd();
    node.run(40);
    assert!(node.order_and_act(Effect::Nothing));
    node.run(1);
    let document = serde_json::to_value(node.document()).unwrap();
    let verdict = &document["verdict"];
    assert_eq!((&verdict["state"], &verdict["next"]["state"]), (&"Repairing".into(), &"NeedsReplacement".into()));
    let repair = &verdict["repair"];
    assert_eq!(
        (&repair["action"], &repair["attempt"], &repair["of"]),
        (&"RestartContainerd".into(), &1.into(), &2.into())
    );
    let time = |value: &serde_json::Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
    let minutes = |value: &serde_json::Value| time(value).duration_since(node.tick.wall).as_secs() / 60;
    // An attempt is verified for four minutes; the whole ladder is two of them, their acts and a pause.
    assert_eq!((minutes(&repair["deadline"]), minutes(&verdict["next"]["by"])), (3, 13));
    let runtime = document["subsystems"].as_array().unwrap().iter().find(|one| one["name"] == "runtime").unwrap();
    assert_eq!((&runtime["repairs"][0]["result"], &runtime["repairs"][0]["id"]), (&"Verifying".into(), &1.into()));
    assert_eq!(
        (&runtime["budgets"][0]["remaining"], &runtime["budgets"][0]["windowSeconds"]),
        (&1.into(), &3600.into())
    );
    assert_eq!(crate::report::problems(&node.document()), Vec::<String>::new());
    let view = node.document().verdict_view().to_string();
    assert!(view.len() < 512, "{} bytes: {view}", view.len());
    // While it is verified it stands still, and a day after it there is no word of it.
    let generation = node.state.generation;
    node.run(30);
    assert_eq!(node.state.generation, generation);
    node.seen = healthy();
    for _ in 0..(24 * 3600 + 600) / 5 {
        node.advance(Duration::from_secs(5));
    }
    let document = serde_json::to_string(&node.document()).unwrap();
    assert!(document.len() < 2048 && !document.contains("Restart"), "{document}");
}

#[test]
fn a_service_that_only_does_not_answer_is_restarted_on_suspicion_and_never_replaced() {
    use Verdict::{Degraded, Healthy, Repairing};
    for (effect, end) in [(Effect::Heals, Healthy), (Effect::Nothing, Degraded)] {
        let mut node = Node::repairing();
        node.seen.kubelet = Some(Answer { took: Duration::ZERO, result: Err(NoAnswer::Bad("500: not ok".to_owned())) });
        let told = node.run_repairing(140, effect);
        assert_eq!(words(&told), [Healthy, Degraded], "{:?}", node.hold("KubeletUnresponsive"));
        let mut told = node.run_repairing(7000, effect);
        told.dedup_by_key(|(_, verdict)| *verdict);
        assert_eq!(words(&told), [Degraded, Repairing, end]);
        let made: Vec<_> = node.state.repairs().map(|attempt| attempt.repair.clone()).collect();
        let all = ["RestartKubelet", "RestartKubelet"];
        assert_eq!(made, all[..if effect == Effect::Heals { 1 } else { 2 }]);
    }
}

#[test]
fn a_unit_that_systemd_gave_up_is_repaired_within_seconds() {
    use Verdict::{Degraded, Healthy, Repairing};
    let mut node = Node::repairing();
    node.seen.units.insert("kubelet.service".to_owned(), unit("failed", "failed", "start-limit-hit"));
    node.seen.kubelet = Some(refused());
    let told = node.run_repairing(200, Effect::Heals);
    assert_eq!(words(&told), [Healthy, Degraded, Repairing, Healthy]);
    assert!(told[2].0 <= 4, "{told:?}");
}

#[test]
fn a_repair_that_waits_keeps_the_verdict_at_degraded() {
    let mut node = Node::repairing();
    node.seen.scheduled_events = Some(Ok(vec![ScheduledEvent { not_before: None, ..event("Redeploy") }]));
    node.hang_containerd();
    let told = node.run_repairing(3600, Effect::Heals);
    assert_eq!(told.last().unwrap().1, Verdict::Degraded);
    assert_eq!(node.hold("ContainerdUnresponsive"), Some(Hold::EventComing("Redeploy".to_owned())));
    assert_eq!(node.outcomes(), []);
}

#[test]
fn a_disk_that_hangs_is_seen_before_its_service_is_restarted() {
    let mut node = Node::repairing();
    // The host's probe of the disk hangs with containerd; the fault of the disk is proven only later.
    node.hang_containerd();
    node.seen.filesystems[1].write = None;
    for second in 10..60 {
        node.seen.filesystems[1].write = (second > 40).then(|| WriteSeen::Hanging(Duration::from_secs(second)));
        node.run_repairing(1, Effect::Heals);
    }
    assert_eq!(node.outcomes(), [], "{:?}", node.hold("ContainerdUnresponsive"));
}

#[test]
fn observing_only_is_the_verdict_without_repairs() {
    let mut node = Node::new();
    node.hang_containerd();
    let told = node.run_repairing(700, Effect::Heals);
    assert_eq!(words(&told), [Verdict::Healthy, Verdict::Degraded, Verdict::NeedsReplacement]);
    assert_eq!(node.outcomes(), []);
    let hold = node.hold("ContainerdUnresponsive");
    assert!(matches!(hold, Some(Hold::Forbidden("RestartContainerd", _))), "{hold:?}");
}

#[test]
fn i5_and_i8_a_crash_in_the_middle_neither_loses_nor_repeats_an_attempt() {
    let mut node = Node::repairing();
    node.hang_containerd();
    node.run(40);
    let kept = node.state.clone();
    let proposal = node.state.decide().remove(0);
    let order = node.state.order(&proposal, node.tick).unwrap();
    // Killed after the record was synced: neither the state on disk nor anybody else knows of it.
    node.state = kept;
    node.restart_agent(Duration::from_secs(2));
    node.state.learn(node.tick, vec![order.attempt.clone()]);
    let told = node.run_repairing(60, Effect::Nothing);
    assert_eq!(words(&told), [Verdict::Repairing]);
    assert_eq!(node.outcomes(), [None], "one, and no other");
    node.seen = healthy();
    node.run(120);
    assert_eq!((node.verdict(), node.outcomes()), ((Verdict::Healthy, None), vec![Some(Outcome::Succeeded)]));
    assert_eq!(node.state.take_ended_repairs()[0].id, order.attempt.id);
}

#[test]
fn i5_a_restart_while_it_is_verified_moves_no_deadline() {
    let mut node = Node::repairing();
    node.hang_containerd();
    node.run(40);
    assert!(node.order_and_act(Effect::Nothing));
    node.run(10);
    let before = node.state.findings()[0].repair.clone();
    let generation = node.state.generation;
    for _ in 0..3 {
        node.restart_agent(Duration::from_secs(5));
        node.run(2);
        assert_eq!(node.state.findings()[0].repair, before);
    }
    assert_eq!(node.state.generation, generation);
}

#[test]
fn i7_a_pause_of_the_vm_is_no_time_in_which_a_repair_failed() {
    let mut node = Node::repairing();
    node.hang_containerd();
    node.run(40);
    assert!(node.order_and_act(Effect::Heals));
    node.run(5);
    node.advance(Duration::from_secs(7200));
    node.run(300);
    assert_eq!((node.verdict(), node.outcomes()), ((Verdict::Healthy, None), vec![Some(Outcome::Succeeded)]));
}

#[test]
fn what_is_repaired_on_its_own_is_left_alone() {
    let mut node = Node::repairing();
    node.hang_containerd();
    node.run(40);
    // Found, and it answers again before anything was done.
    assert_eq!(node.hold("ContainerdUnresponsive"), None);
    node.seen = healthy();
    node.run(1);
    assert_eq!(node.hold("ContainerdUnresponsive"), Some(Hold::Recovering));
}

#[test]
fn another_fault_waits_for_the_repair_that_is_under_way() {
    let mut node = Node::repairing();
    node.hang_containerd();
    node.run(40);
    assert!(node.order_and_act(Effect::Heals));
    node.seen.units.insert("kubelet.service".to_owned(), unit("failed", "failed", "exit-code"));
    node.seen.kubelet = Some(refused());
    node.run(40);
    let held = node.hold("KubeletDown");
    assert!(matches!(held, Some(Hold::Consequence(_) | Hold::Busy(_))), "{held:?}");
    node.run_repairing(200, Effect::Heals);
    assert_eq!(node.verdict(), (Verdict::Healthy, None));
    assert_eq!(node.outcomes(), [Some(Outcome::Succeeded); 2]);
}

#[test]
fn room_is_made_on_a_disk_that_kubelet_left_full() {
    let mut node = Node::repairing();
    let fill = |node: &mut Node| {
        node.seen.filesystems[1].space = Some(Space { bytes: 100, free_bytes: 0, inodes: 1000, free_inodes: 900 });
        node.seen.filesystems[1].write = Some(WriteSeen::Failed("ENOSPC".to_owned()));
    };
    fill(&mut node);
    let told = node.run_repairing(590, Effect::Heals);
    assert_eq!(words(&told), [Verdict::Healthy, Verdict::Degraded]);
    assert!(matches!(node.hold("DiskFull"), Some(Hold::Patience("FreeSpace", _))), "{:?}", node.hold("DiskFull"));
    let told = node.run_repairing(300, Effect::Heals);
    assert_eq!(words(&told), [Verdict::Degraded, Verdict::Repairing, Verdict::Healthy]);
    let document = serde_json::to_value(node.document()).unwrap();
    let storage = document["subsystems"].as_array().unwrap().iter().find(|one| one["name"] == "storage").unwrap();
    assert_eq!(storage["repairs"][0]["target"], "/var/lib/containerd");
    // Where nothing was unused it stays what it was: nobody replaces a node for it.
    fill(&mut node);
    node.run_repairing(7200, Effect::Fails);
    assert_eq!((node.verdict().0, node.hold("DiskFull")), (Verdict::Degraded, Some(Hold::Spent)));
}

#[test]
fn a_host_that_is_busy_is_asked_again_and_nothing_is_counted() {
    let mut node = Node::repairing();
    node.hang_containerd();
    node.run(40);
    let proposal = node.state.decide().remove(0);
    assert!(node.state.order(&proposal, node.tick).is_some());
    node.state.repair_was_refused("a boot is running".to_owned());
    assert_eq!(node.hold("ContainerdUnresponsive"), Some(Hold::Refused("a boot is running".to_owned())));
    assert_eq!(node.state.current.state, Verdict::Degraded);
    node.run_repairing(200, Effect::Heals);
    assert_eq!((node.verdict(), node.outcomes()), ((Verdict::Healthy, None), vec![Some(Outcome::Succeeded)]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens: nobody is asked for another node over a service while its ladder is not spent, every repair has a deadline
    /// that has not passed for long, and in the end everything clears.
    #[test]
    fn whatever_happens_repairs_come_before_replacement(happenings in happenings(), effect in 0..3u8) {
        let effect = [Effect::Heals, Effect::Nothing, Effect::Fails][usize::from(effect)];
        let mut node = Node::repairing();
        for happening in &happenings {
            node.happens(happening);
            node.order_and_act(effect);
            node.run(1);
            for finding in node.state.findings() {
                let stands = standing(&node.state.policy, &node.state.ledger, finding.fault.reason, &finding.target);
                if finding.level > Verdict::Repairing {
                    let is_spent = matches!(stands, Standing::Spent | Standing::NoRepair);
                    prop_assert!(is_spent, "{:?} {:?}", finding, stands);
                }
                prop_assert_eq!(finding.level == Verdict::Repairing, finding.repair.is_some(), "{:?}", finding);
            }
            prop_assert_eq!(crate::report::problems(&node.document()), Vec::<String>::new());
            let json = serde_json::to_string(&node.state).unwrap();
            prop_assert_eq!(&serde_json::from_str::<State>(&json).unwrap(), &node.state);
        }
        node.seen = healthy();
        node.run(2400);
        prop_assert_eq!(node.verdict(), (Verdict::Healthy, None));
    }
}
