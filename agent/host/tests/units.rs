//! The executor's units against the pretend systemd, which passes the same contract as the real one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nap_host::executor::{Executor, StepError, compare};
use nap_host::journal::{self, Event, Journal};
use nap_host::root::Root;
use nap_host::units::{Changes, UnitError, Units};
use nap_model::plan::{AbsPath, Content, Digest, Plan, Readiness, Stage, Step, Want};
use pretend_node::systemd::{PretendSystemd, Runner};

struct Machine {
    directory: tempfile::TempDir,
    root: Arc<Root>,
    systemd: PretendSystemd,
}

fn machine() -> Machine {
    let directory = tempfile::tempdir().unwrap();
    let unit = directory.path().join("usr/lib/systemd/system/x.service");
    std::fs::create_dir_all(unit.parent().unwrap()).unwrap();
    std::fs::write(unit, "[Service]\nType=notify\nExecStart=/usr/bin/x\n").unwrap();
    let systemd = PretendSystemd::start(directory.path(), Runner::Nothing).unwrap();
    let root = Arc::new(Root::open(directory.path()).unwrap());
    Machine { directory, root, systemd }
}

fn executor(root: &Arc<Root>) -> Executor {
    let journal = Arc::new(Journal::open(root, "b", "boot").unwrap());
    Executor::new(Arc::clone(root), journal, Duration::from_secs(5))
}

/// A file and the unit that reads it.
fn plan(text: &str, unit: &'static str) -> Plan {
    let path = AbsPath::try_from("/etc/systemd/system/x.service.d/10.conf").unwrap();
    let file = Step::new("x.config", "test", Want::File { path, mode: 0o600, content: Content::public(text) });
    let inputs = Digest::of_files([&file]);
    let running = Step::new("x.running", "test", Want::Unit { name: unit, inputs, readiness: Readiness::Active });
    Plan {
        stages: vec![Stage { name: "files", steps: vec![file] }, Stage { name: "units", steps: vec![running] }],
        notes: Vec::new(),
    }
}

async fn apply(root: &Arc<Root>, plan: &Plan) -> Vec<String> {
    let mut changed = Vec::new();
    for stage in &plan.stages {
        changed.extend(executor(root).apply(stage).await.unwrap().changed);
    }
    changed
}

#[tokio::test]
async fn a_unit_is_started_once_and_restarted_when_its_inputs_change() {
    let machine = machine();
    let first = plan("[Service]\nLimitNOFILE=1\n", "x.service");
    assert_eq!(apply(&machine.root, &first).await, ["x.config", "x.running"]);
    assert_eq!(apply(&machine.root, &first).await, [""; 0]);
    let second = plan("[Service]\nLimitNOFILE=2\n", "x.service");
    assert_eq!(apply(&machine.root, &second).await, ["x.config", "x.running"]);
    let restarts = machine.systemd.history().iter().filter(|call| call.unit == "x.service").count();
    assert!(restarts >= 2, "{:?}", machine.systemd.history());
}

#[tokio::test]
async fn unit_files_are_read_when_one_was_written_and_not_for_each_unit() {
    let machine = machine();
    let reloads = || machine.systemd.history().iter().filter(|call| call.verb == "Reload").count();
    let first = plan("[Service]\nLimitNOFILE=1\n", "x.service");
    apply(&machine.root, &first).await;
    assert_eq!(reloads(), 1);
    let units = Units::connect(&machine.root).await.unwrap();
    units.restart("x.service", true, Duration::from_secs(5)).await.unwrap();
    assert_eq!(reloads(), 1, "nothing was written");
    apply(&machine.root, &plan("[Service]\nLimitNOFILE=2\n", "x.service")).await;
    assert_eq!(reloads(), 2);
    // Somebody else's hand on a file that systemd knows.
    let unit = machine.directory.path().join("usr/lib/systemd/system/x.service");
    std::fs::write(unit, "[Service]\nType=simple\nExecStart=/usr/bin/x --other\n").unwrap();
    units.restart("x.service", true, Duration::from_secs(5)).await.unwrap();
    assert_eq!(reloads(), 3);
}

#[tokio::test]
async fn a_unit_whose_inputs_an_earlier_run_wrote_and_died_is_restarted() {
    let machine = machine();
    let first = plan("[Service]\nLimitNOFILE=1\n", "x.service");
    apply(&machine.root, &first).await;
    let second = plan("[Service]\nLimitNOFILE=2\n", "x.service");
    executor(&machine.root).apply(&second.stages[0]).await.unwrap(); // and here it dies
    assert_eq!(apply(&machine.root, &second).await, ["x.running"]);
}

#[tokio::test]
async fn a_dry_run_touches_nothing_and_names_exactly_what_changes() {
    let machine = machine();
    let plan = plan("[Service]\nLimitNOFILE=1\n", "x.service");
    let files = || walk(machine.directory.path());
    let (before, calls) = (files(), machine.systemd.history().len());
    let would: Vec<_> =
        compare(&machine.root, &plan).await.differences.into_iter().map(|difference| difference.step).collect();
    assert_eq!((files(), machine.systemd.history().len()), (before, calls));
    assert_eq!(apply(&machine.root, &plan).await, would);
}

fn walk(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries
        .flat_map(|path| if path.is_dir() { [vec![path.clone()], walk(&path)].concat() } else { vec![path] })
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn a_unit_that_is_not_there_is_an_error_with_its_name() {
    let machine = machine();
    let plan = plan("", "nope.service");
    executor(&machine.root).apply(&plan.stages[0]).await.unwrap();
    let error = executor(&machine.root).apply(&plan.stages[1]).await.unwrap_err();
    assert_eq!(error.step, "x.running");
    assert!(matches!(error.source, StepError::Unit(UnitError::NotFound { .. })), "{error:?}");
    let events: Vec<_> =
        journal::read(&machine.root).unwrap().into_iter().map(|line| (line.step, line.event)).collect();
    let wanted = [
        ("x.config", Event::Attempt),
        ("x.config", Event::Changed),
        ("x.running", Event::Attempt),
        ("x.running", Event::Failed),
    ];
    assert_eq!(events, wanted.map(|(step, event)| (step.to_owned(), event)));
}

#[tokio::test]
async fn without_a_systemd_there_is_an_error_that_says_where_it_was_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::open(directory.path()).unwrap();
    let error = Units::connect(&root).await.unwrap_err();
    assert!(
        nap_host::chain(&error).contains("run/systemd/private: I/O error: No such file or directory"),
        "{}",
        nap_host::chain(&error)
    );
}

#[tokio::test]
async fn a_change_of_a_unit_is_heard() {
    let machine = machine();
    let mut changes = Changes::of(&machine.root, &["y.service", "x.service"]).await.unwrap();
    let units = Units::connect(&machine.root).await.unwrap();
    units.restart("x.service", true, Duration::from_secs(5)).await.unwrap();
    assert_eq!(changes.next().await, Some(1));
    drop(machine.systemd);
    while let Some(index) = changes.next().await {
        assert_eq!(index, 1, "what it still had to say before the connection was gone");
    }
}
