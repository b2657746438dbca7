//! Kills the executor after and inside every step of every golden plan; the next run must end where an undisturbed one ends.

use std::process::{Command, Output};

use nap_e2e::{SCENARIOS, ScratchRoot, binary, scenario_plan};
use pretend_node::systemd::{PretendSystemd, Runner};

fn apply(scenario: &str, root: &ScratchRoot, crash_at: Option<usize>) -> Output {
    let mut command = Command::new(binary("nap-apply-scenario"));
    command.arg(scenario).arg(root.directory()).args(crash_at.map(|number| number.to_string()));
    command.output().expect("the victim can be started")
}

/// Checkpoints passed and steps changed by a run that must succeed.
fn applied(scenario: &str, root: &ScratchRoot) -> (usize, String) {
    let output = apply(scenario, root, None);
    assert!(output.status.success(), "{scenario}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("its answer is text");
    let (count, changed) = text.trim_end().split_once(' ').unwrap_or((text.trim(), ""));
    (count.parse().expect("its answer begins with a number"), changed.to_owned())
}

#[test]
fn a_run_killed_anywhere_is_finished_by_the_next() {
    // Each scenario is a few hundred runs of the agent; they have nothing to do with each other.
    std::thread::scope(|threads| {
        for (scenario, _, _) in SCENARIOS {
            threads.spawn(|| survives_a_kill_anywhere(scenario));
        }
    });
}

fn survives_a_kill_anywhere(scenario: &str) {
    let plan = scenario_plan(scenario);
    let undisturbed = ScratchRoot::new("node-1");
    let _systemd = PretendSystemd::start(undisturbed.directory(), Runner::Nothing).unwrap();
    let (checkpoints, _) = applied(scenario, &undisturbed);
    let wanted = undisturbed.state(&plan);
    assert!(checkpoints > plan.steps().count(), "every step has a checkpoint at least");
    for number in 0..checkpoints {
        let root = ScratchRoot::new("node-1");
        let _systemd = PretendSystemd::start(root.directory(), Runner::Nothing).unwrap();
        let killed = apply(scenario, &root, Some(number));
        assert!(!killed.status.success(), "{scenario}: checkpoint {number} was not reached");
        applied(scenario, &root);
        assert_eq!(root.state(&plan), wanted, "{scenario} after a kill at checkpoint {number}");
        assert_eq!(
            root.leftovers(),
            Vec::<std::path::PathBuf>::new(),
            "{scenario} after a kill at checkpoint {number}"
        );
        assert_eq!(applied(scenario, &root).1, "", "{scenario}: a third run changes nothing");
    }
}
