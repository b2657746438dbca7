//! Budgets over random histories, with a true clock that nobody in them knows; and when nothing is done.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::ledger::{DAY, HOUR, Symptoms};
use super::*;
use crate::monitor::{CONTAINERD, KUBELET, ScheduledEvent, UnitSeen};

const FAULTS: [(&str, &str); 4] =
    [("KubeletDown", ""), ("KubeletUnresponsive", ""), ("ContainerdUnresponsive", ""), ("ContainerdDown", "")];

struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

fn reboots() -> Policy {
    Policy::parse("[repairs]\nmaximum-risk = \"high\"").unwrap()
}

/// A machine with its true time, what its wall clock says, and its disk.
struct World {
    dice: Dice,
    true_ms: u64,
    boot_ms: u64,
    boot: u64,
    wall_off_s: i64,
    policy: Policy,
    ledger: Ledger,
    /// health.json: older than what we know, or gone.
    kept: Ledger,
    journal: Vec<Attempt>,
    /// When each repair was begun, by the true time.
    begun: BTreeMap<String, Vec<u64>>,
    sick: u64,
    under_way: Option<Attempt>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            true_ms: 0,
            boot_ms: 0,
            boot: 0,
            wall_off_s: 0,
            policy: if seed.is_multiple_of(2) { reboots() } else { Policy::default() },
            ledger: Ledger::default(),
            kept: Ledger::default(),
            journal: Vec::new(),
            begun: BTreeMap::new(),
            sick: 0,
            under_way: None,
        }
    }

    fn up(&self) -> Duration {
        Duration::from_millis(self.true_ms - self.boot_ms)
    }

    fn wall(&self) -> Timestamp {
        let now = i64::try_from(self.true_ms / 1000).unwrap() + self.wall_off_s;
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_800_000_000 + now)
    }

    /// We die, and start again: with what is on disk.
    fn restart(&mut self, is_same_boot: bool) {
        self.under_way = None;
        self.ledger = if self.dice.one_in(12) { Ledger::default() } else { self.kept.clone() };
        // A state that is gone knows no boot.
        let is_known = self.ledger != Ledger::default();
        self.ledger.resume(is_same_boot && is_known, self.up(), self.wall());
        self.ledger.learn(&self.boot.to_string(), self.up(), self.wall(), self.journal.clone());
        self.kept = self.ledger.clone();
        // What was ended by that is in the journal, unless we die again.
        self.record_ends();
    }

    fn record(&mut self, attempt: Attempt) {
        self.journal.retain(|known| known.id != attempt.id);
        self.journal.push(attempt);
        let excess = self.journal.len().saturating_sub(24);
        self.journal.drain(..excess);
    }

    fn record_ends(&mut self) {
        for attempt in self.ledger.take_unrecorded() {
            self.record(attempt);
        }
    }

    fn step(&mut self) {
        self.true_ms += match self.dice.below(8) {
            0 => self.dice.below(600_000),
            1 => self.dice.below(60_000),
            _ => self.dice.below(5_000),
        };
        if self.dice.one_in(30) {
            self.sick = self.dice.below(16);
        }
        if self.dice.one_in(50) {
            let step = i64::try_from(self.dice.below(400 * 24 * 3600)).unwrap();
            self.wall_off_s = (self.wall_off_s + step - 200 * 24 * 3600).clamp(-1_000_000_000, 1_000_000_000);
        }
        match self.dice.below(500) {
            0..3 => return self.restart(true),
            3 => {
                self.true_ms += if self.dice.one_in(3) { self.dice.below(90_000_000) } else { self.dice.below(60_000) };
                return self.reboot();
            }
            _ => {}
        }
        self.ledger.advance(self.up());
        let (sick, is_bad_now) = (self.sick, !self.dice.one_in(10));
        let is_there =
            |reason: &str| FAULTS.iter().position(|fault| fault.0 == reason).is_some_and(|at| sick >> at & 1 == 1);
        let is_paused = self.dice.one_in(20);
        self.ledger.verify(self.wall(), is_paused, |reason, _| Symptoms { is_active: is_there(reason), is_bad_now });
        self.ledger.follow(&self.policy, FAULTS.into_iter().filter(|fault| is_there(fault.0)));
        self.record_ends();
        self.act();
        if self.dice.one_in(3) {
            self.kept = self.ledger.clone();
        }
    }

    fn act(&mut self) {
        if self.under_way.is_some() {
            if self.dice.one_in(4) {
                let result = if self.dice.one_in(3) { Err("no".to_owned()) } else { Ok(()) };
                self.ledger.has_acted(self.wall(), result);
                self.under_way = None;
            }
            return;
        }
        let units = BTreeMap::new();
        let situation = Situation { written_ms: Ok(1), ..calm(&units) };
        let sick = (0..FAULTS.len()).filter(|at| self.sick >> at & 1 == 1).map(|at| ill(FAULTS[at].0));
        let is_fatal_since_ms = (!self.dice.one_in(3)).then_some(0);
        let sick: Vec<Sick<'_>> = sick.map(|sick| Sick { is_fatal_since_ms, ..sick }).collect();
        let proposals = decide(&self.policy, &self.ledger, situation, &sick);
        let act: Vec<_> = proposals
            .iter()
            .filter_map(|one| match one.what {
                Proposed::Do(row) => Some((row, one.reason.clone())),
                Proposed::Hold(_) => None,
            })
            .collect();
        assert!(act.len() < 2, "one at a time");
        let Some((row, reason)) = act.into_iter().next() else { return };
        let order = self.ledger.order(attempt(row, &reason, &self.boot.to_string(), self.wall(), self.up()));
        match self.dice.below(10) {
            0 => return self.ledger.was_refused("busy".to_owned()),
            1 => return self.ledger.has_acted(self.wall(), Err("cannot record".to_owned())),
            _ => {}
        }
        let took = self.dice.below(20_000);
        self.true_ms += took;
        let begun = order.begun_after(Duration::from_millis(took));
        assert!(
            !self.journal.iter().any(|known| known.ended.is_none() && known.boot_id == begun.boot_id),
            "two at a time"
        );
        self.record(begun.clone());
        self.has_begun(row);
        if self.dice.one_in(10) {
            // Killed between the record and everything else.
            return self.restart(true);
        }
        self.ledger.has_begun(begun.clone());
        if row.act == Act::Reboot && !self.dice.one_in(5) {
            self.kept = self.ledger.clone();
            return self.reboot();
        }
        self.under_way = Some(begun);
    }

    fn reboot(&mut self) {
        self.boot_ms = self.true_ms;
        self.true_ms += self.dice.below(30_000);
        self.boot += 1;
        self.restart(false);
    }

    fn has_begun(&mut self, row: &Repair) {
        let now = self.true_ms;
        let begun = self.begun.entry(row.name.to_owned()).or_default();
        if let Some(last) = begun.last() {
            assert!(now - last >= millis(row.pause.0), "{} again after {} ms", row.name, now - last);
        }
        begun.push(now);
        let within = |window: Duration| begun.iter().filter(|at| now - **at < millis(window)).count();
        let (hour, day) = row.budget;
        assert!(within(HOUR) <= hour, "{}: {} in an hour", row.name, within(HOUR));
        assert!(within(DAY) <= day, "{}: {} in a day", row.name, within(DAY));
    }
}

fn calm(units: &BTreeMap<String, UnitSeen>) -> Situation<'_> {
    Situation {
        time_ms: 1_000_000,
        is_booted: true,
        suppressed: None,
        events: &[],
        is_strained: false,
        units,
        written_ms: Ok(900_000),
        held: None,
        lottery: Some(Duration::ZERO),
    }
}

fn ill(reason: &str) -> Sick<'_> {
    Sick {
        reason,
        target: "",
        caused_by: None,
        is_proven: true,
        is_bad_now: true,
        entered_ms: 0,
        is_fatal_since_ms: None,
    }
}

fn attempt(row: &Repair, reason: &str, boot_id: &str, at: Timestamp, up: Duration) -> Attempt {
    Attempt {
        id: 0,
        repair: row.name.to_owned(),
        reason: reason.to_owned(),
        target: String::new(),
        boot_id: boot_id.to_owned(),
        at,
        up_ms: millis(up),
        at_ms: 0,
        evidence: Vec::new(),
        ended: None,
    }
}

#[test]
fn no_history_exceeds_a_budget() {
    let (mut begun, mut reboots) = (0, 0);
    for seed in 1..=100 {
        let mut world = World::new(seed);
        for _ in 0..10_000 {
            world.step();
        }
        begun += world.begun.values().map(Vec::len).sum::<usize>();
        reboots += world.begun.get("Reboot").map_or(0, Vec::len);
    }
    // A test in which nothing is repaired would pass, too.
    assert!(begun > 2_000 && reboots > 50, "{begun} attempts, {reboots} reboots among them, in a million steps");
}

fn unit(active: &str, sub: &str, result: &str) -> UnitSeen {
    UnitSeen { active: active.to_owned(), sub: sub.to_owned(), result: result.to_owned() }
}

fn units(kubelet: UnitSeen, containerd: UnitSeen) -> BTreeMap<String, UnitSeen> {
    [(KUBELET.to_owned(), kubelet), (CONTAINERD.to_owned(), containerd)].into()
}

fn one(policy: &Policy, ledger: &Ledger, situation: Situation<'_>, faults: &[Sick<'_>]) -> Result<&'static str, Hold> {
    match decide(policy, ledger, situation, faults).remove(0).what {
        Proposed::Do(row) => Ok(row.name),
        Proposed::Hold(hold) => Err(hold),
    }
}

#[test]
fn what_is_done_and_what_keeps_it_from_being_done() {
    let (policy, ledger) = (Policy::default(), Ledger::default());
    let running = units(unit("active", "running", "success"), unit("active", "running", "success"));
    let calm = calm(&running);
    let hung = ill("ContainerdUnresponsive");
    let of = |situation: Situation<'_>, faults: &[Sick<'_>]| one(&policy, &ledger, situation, faults);
    assert_eq!(of(calm, &[hung]), Ok("RestartContainerd"));
    assert_eq!(of(calm, &[ill("KubeletUnresponsive")]), Ok("RestartKubelet"));
    assert_eq!(of(calm, &[ill("KernelOops")]), Err(Hold::NoRepair));
    let suspected = Sick { is_proven: false, ..hung };
    assert_eq!(of(calm, &[suspected]), Ok("RestartContainerd"), "for long enough");
    let left = Duration::from_secs(20);
    let soon = Sick { entered_ms: 900_000, ..suspected };
    assert_eq!(of(calm, &[soon]), Err(Hold::Suspected("RestartContainerd", left)));
    assert_eq!(of(calm, &[Sick { is_proven: false, ..ill("ContainerdDown") }]), Err(Hold::NotProven));
    assert_eq!(of(calm, &[Sick { is_bad_now: false, ..hung }]), Err(Hold::Recovering));
    assert_eq!(
        of(calm, &[Sick { caused_by: Some("DiskFull"), ..hung }]),
        Err(Hold::Consequence("DiskFull".to_owned()))
    );
    for forbidding in ["DiskStalled", "RootFilesystemReadOnly", "DataFilesystemReadOnly", "PidsExhausted"] {
        assert_eq!(of(calm, &[hung, ill(forbidding)]), Err(Hold::Forbidding(forbidding.to_owned())));
    }
    assert_eq!(of(Situation { is_booted: false, ..calm }, &[hung]), Err(Hold::Booting));
    assert_eq!(
        of(Situation { suppressed: Some("VmPause"), ..calm }, &[hung]),
        Err(Hold::Suppressed("VmPause".to_owned()))
    );
    assert_eq!(of(Situation { is_strained: true, ..calm }, &[hung]), Err(Hold::Strained));
    assert_eq!(
        of(Situation { written_ms: Err("/: EROFS"), ..calm }, &[hung]),
        Err(Hold::DiskNotWritable("/: EROFS".to_owned()))
    );
    let entered = Sick { entered_ms: 950_000, ..hung };
    assert_eq!(
        of(calm, &[entered]),
        Err(Hold::DiskNotProbed("RestartContainerd")),
        "the last good write was before the fault"
    );
    for (kind, is_held) in
        [("Preempt", true), ("Terminate", true), ("Reboot", true), ("Redeploy", true), ("Freeze", false)]
    {
        let event = ScheduledEvent {
            id: "e".to_owned(),
            kind: kind.to_owned(),
            not_before: None,
            source: "Platform".to_owned(),
            has_started: false,
        };
        let held = of(Situation { events: &[event], ..calm }, &[hung]);
        assert_eq!(held.is_err(), is_held, "{kind}");
    }
}

#[test]
fn what_others_do_to_a_unit_is_theirs() {
    let (policy, ledger) = (Policy::default(), Ledger::default());
    let up = unit("active", "running", "success");
    let of = |kubelet: UnitSeen, is_strained: bool, entered_ms: u64| {
        let units = units(kubelet, up.clone());
        one(&policy, &ledger, Situation { is_strained, ..calm(&units) }, &[Sick { entered_ms, ..ill("KubeletDown") }])
    };
    let done = Ok("RestartKubelet");
    assert_eq!(of(unit("inactive", "dead", "success"), false, 0), Err(Hold::StoppedOnPurpose(KUBELET)));
    assert_eq!(of(unit("deactivating", "stop-sigterm", "success"), false, 0), Err(Hold::InTransition(KUBELET)));
    assert_eq!(of(unit("activating", "start-pre", "success"), false, 890_000), Err(Hold::InTransition(KUBELET)));
    assert_eq!(of(unit("activating", "start-pre", "success"), false, 0), done, "a start that never ends");
    assert_eq!(of(unit("activating", "auto-restart", "exit-code"), false, 890_000), done);
    assert_eq!(of(unit("failed", "failed", "start-limit-hit"), true, 0), done, "pressure does not make a unit fail");
    assert_eq!(of(unit("inactive", "dead", "exit-code"), false, 0), done);
    let failed = units(unit("failed", "failed", "exit-code"), up.clone());
    let suspected = Sick { is_proven: false, ..ill("KubeletDown") };
    assert_eq!(one(&policy, &ledger, calm(&failed), &[suspected]), done, "systemd gave it up");
    let running = units(up.clone(), up);
    assert_eq!(one(&policy, &ledger, calm(&running), &[suspected]), Err(Hold::NotProven));
}

#[test]
fn a_policy_decides_what_is_left_of_a_ladder() {
    let running = BTreeMap::new();
    let of = |text: &str| {
        one(&Policy::parse(text).unwrap(), &Ledger::default(), calm(&running), &[ill("KubeletUnresponsive")])
    };
    let forbidden = |name: &'static str, why: &str| Err(Hold::Forbidden(name, why.to_owned()));
    assert_eq!(of("[repairs]\nobserve-only = true"), forbidden("RestartKubelet", "nap-agent only observes"));
    assert_eq!(of("[repairs.switches]\nRestartKubelet = false"), Ok("RestartContainerd"));
    let none = "[repairs]\nmaximum-risk = \"low\"\n[repairs.switches]\nRestartKubelet = false";
    assert_eq!(of(none), forbidden("RestartKubelet", "it is switched off"));
}

/// One who climbs a ladder: everything takes its longest and changes nothing.
fn climb(reason: &str) -> Vec<(&'static str, u64)> {
    let (policy, mut ledger) = (Policy::default(), Ledger::default());
    let none = BTreeMap::new();
    let mut climbed = Vec::new();
    for second in 1..4 * 3600 {
        let (up, wall) =
            (Duration::from_secs(second), Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second as i64));
        ledger.advance(up);
        ledger.verify(wall, false, |_, _| Symptoms { is_active: true, is_bad_now: true });
        ledger.follow(&policy, [(reason, "")].into_iter());
        if let Proposed::Do(row) = decide(&policy, &ledger, calm(&none), &[ill(reason)]).remove(0).what {
            climbed.push((row.name, second));
            let begun = ledger.order(attempt(row, reason, "b", wall, up));
            ledger.has_begun(begun);
            ledger.has_acted(wall, Ok(()));
        }
    }
    assert!(matches!(standing(&policy, &ledger, reason, ""), Standing::Spent), "hours later, too");
    climbed
}

#[test]
fn a_rung_that_changed_nothing_twice_is_left_for_the_next() {
    // 121 s to see that nothing changed; then the pause, or the next rung at once.
    let told = [("RestartKubelet", 1), ("RestartKubelet", 152), ("RestartContainerd", 273), ("RestartContainerd", 514)];
    assert_eq!(climb("KubeletUnresponsive"), told);
    assert_eq!(climb("ContainerdDown"), [("RestartContainerd", 1), ("RestartContainerd", 242)]);
}

#[test]
fn what_helped_is_tried_again_until_the_budget_is_spent() {
    let (policy, mut ledger) = (Policy::default(), Ledger::default());
    let none = BTreeMap::new();
    let mut done = Vec::new();
    let mut is_there = true;
    for second in 1..24 * 3600 {
        let (up, wall) =
            (Duration::from_secs(second), Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second as i64));
        // It comes back every five minutes.
        is_there |= second.is_multiple_of(300);
        ledger.advance(up);
        ledger.verify(wall, false, |_, _| Symptoms { is_active: is_there, is_bad_now: is_there });
        ledger.follow(&policy, [("KubeletDown", "")].into_iter().filter(|_| is_there));
        let sick = [ill("KubeletDown")];
        let proposals = decide(&policy, &ledger, calm(&none), &sick[..usize::from(is_there)]);
        if let Some(Proposed::Do(row)) = proposals.into_iter().next().map(|one| one.what) {
            done.push(second);
            let begun = ledger.order(attempt(row, "KubeletDown", "b", wall, up));
            ledger.has_begun(begun);
            ledger.has_acted(wall, Ok(()));
            is_there = false;
        }
    }
    // Then it is there without a gap, its ladder is spent, and an hour later it is not tried again.
    assert_eq!(done, [1, 300, 600]);
    assert_eq!(
        ledger.attempts().filter(|one| one.ended.as_ref().is_some_and(|end| end.outcome == Outcome::Succeeded)).count(),
        3
    );
}

#[test]
fn every_repair_is_a_row_that_can_be_used() {
    let mut names: Vec<_> = REPAIRS.iter().map(|row| row.name).collect();
    names.dedup();
    assert_eq!(names.len(), REPAIRS.len());
    assert!(REPAIRS.is_sorted_by_key(|row| row.risk), "the mildest first");
    for row in REPAIRS {
        for reason in row.against.iter().chain(row.not_while).chain(row.on_suspicion) {
            assert!(crate::monitor::fault(reason).is_some(), "{}: no fault {reason}", row.name);
        }
        assert!(row.budget.0 <= row.budget.1 && row.pause.0 <= row.pause.1, "{}", row.name);
        // What docs/provisioners.md promises of a deadline: of an attempt, and of the longest pause between two of a day.
        assert!(row.limit + seconds(30) + MOST_VERIFY <= minutes(10), "{}", row.name);
        if row.is_last_resort() {
            continue; // nobody waits for the next
        }
        let longest = row.pause.0 * 2_u32.pow(u32::try_from(row.budget.1).unwrap() - 2);
        assert!(longest.min(row.pause.1) + seconds(30) <= minutes(10), "{}", row.name);
    }
}

/// An attempt at this moment that succeeds at once.
fn succeed(ledger: &mut Ledger, second: u64, boot_id: &str) {
    let (up, wall) = (Duration::from_secs(second), Timestamp::UNIX_EPOCH);
    ledger.advance(up);
    let begun = ledger.order(attempt(repair("RestartKubelet").unwrap(), "KubeletDown", boot_id, wall, up));
    ledger.has_begun(begun);
    ledger.has_acted(wall, Ok(()));
    ledger.verify(wall, false, |_, _| Symptoms { is_active: false, is_bad_now: false });
}

#[test]
fn cool_downs_double_up_to_their_limit() {
    let (mut ledger, row) = (Ledger::default(), repair("RestartKubelet").unwrap());
    let pauses: Vec<_> = (1..=6)
        .map(|hour| {
            succeed(&mut ledger, hour * 3600, "b");
            (ledger.cooled_ms(row) - ledger.now_ms()) / 1000
        })
        .collect();
    assert_eq!(pauses, [30, 60, 120, 240, 480, 600]);
}

#[test]
fn who_lost_all_but_the_journal_goes_on_from_it() {
    let mut ledger = Ledger::default();
    succeed(&mut ledger, 10_000, "b");
    let journal = ledger.take_unrecorded();
    let row = repair("RestartKubelet").unwrap();
    let after = |boot_id: &str, up: u64| {
        let mut lost = Ledger::default();
        lost.resume(false, Duration::from_secs(up), Timestamp::UNIX_EPOCH);
        lost.learn(boot_id, Duration::from_secs(up), Timestamp::UNIX_EPOCH, journal.clone());
        (lost.now_ms() / 1000, lost.cooled_ms(row) / 1000, lost.attempts().count())
    };
    assert_eq!(after("b", 10_020), (10_020, 10_030, 1), "the same boot: its clock has gone on");
    assert_eq!(after("c", 20), (10_020, 10_030, 1), "another: the machine was off for nobody knows how long");
    assert_eq!(after("c", 24 * 3600).2, 0, "a day later it is forgotten");
}

#[test]
fn an_attempt_that_we_did_not_see_end_is_verified_and_not_made_again() {
    let mut ledger = Ledger::default();
    let (up, wall) = (Duration::from_secs(100), Timestamp::UNIX_EPOCH);
    ledger.advance(up);
    let begun = ledger.order(attempt(repair("RestartKubelet").unwrap(), "KubeletDown", "b", wall, up));
    for (boot_id, standing_is, outcome) in [("b", "UnderWay", None), ("c", "Next", Some(Outcome::Interrupted))] {
        let mut again = Ledger::default();
        again.resume(boot_id == "b", Duration::from_secs(130), wall);
        again.learn(boot_id, Duration::from_secs(130), wall, vec![begun.clone()]);
        again.advance(Duration::from_secs(200));
        let stands = standing(&Policy::default(), &again, "KubeletDown", "");
        assert!(format!("{stands:?}").starts_with(standing_is), "{boot_id}: {stands:?}");
        let ends: Vec<_> = again.attempts().map(|one| one.ended.as_ref().map(|end| end.outcome)).collect();
        assert_eq!(ends, [outcome], "{boot_id}");
    }
}

#[test]
fn the_page_has_every_repair_as_it_is() {
    let page = include_str!("../../../../docs/health.md");
    for row in REPAIRS {
        let ((hour, day), (first, most)) = (row.budget, row.pause);
        let start = format!("| {} | {} | {:?}: ", row.name, row.against.join(", "), row.risk);
        let (first, most, limit) = (first.as_secs(), most.as_secs(), row.limit.as_secs());
        let end = format!(" | {hour} an hour, {day} a day | {first} s to {most} s | {limit} s |");
        let is_there = page.lines().any(|line| line.starts_with(&start) && line.ends_with(&end));
        assert!(is_there, "docs/health.md wants a line {start}...{end}");
    }
}
