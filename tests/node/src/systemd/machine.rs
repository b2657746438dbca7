//! Units in memory: loading them, forgetting them, answering questions about them.

use super::events::{Event, Signal};
use super::jobs::Job;
use super::processes::{ProcessId, Processes};
use super::search::Root;
use super::service::{Command, End, Outcome};
use super::unit::{LoadState, Unit};
use super::{Call, install};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

/// What a unit is doing: `ActiveState` and `SubState` in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Dead,
    Failed,
    StartPre,
    Start,
    StartPost,
    Running,
    Exited,
    Stop,
    StopSigterm,
    StopSigkill,
    AutoRestart,
    /// A unit that is no service: started is all it can be.
    Active,
}

impl Phase {
    pub(crate) fn active_state(self) -> &'static str {
        match self {
            Phase::Dead => "inactive",
            Phase::Failed => "failed",
            Phase::StartPre | Phase::Start | Phase::StartPost | Phase::AutoRestart => "activating",
            Phase::Running | Phase::Exited | Phase::Active => "active",
            Phase::Stop | Phase::StopSigterm | Phase::StopSigkill => "deactivating",
        }
    }

    pub(crate) fn sub_state(self, unit: &str) -> &'static str {
        match self {
            Phase::Dead => "dead",
            Phase::Failed => "failed",
            Phase::StartPre => "start-pre",
            Phase::Start => "start",
            Phase::StartPost => "start-post",
            Phase::Running => "running",
            Phase::Exited => "exited",
            Phase::Stop => "stop",
            Phase::StopSigterm => "stop-sigterm",
            Phase::StopSigkill => "stop-sigkill",
            Phase::AutoRestart => "auto-restart",
            Phase::Active => match unit.rsplit_once('.').map(|(_, suffix)| suffix) {
                Some("mount") => "mounted",
                Some("socket") => "listening",
                Some("timer" | "path" | "automount") => "waiting",
                _ => "active",
            },
        }
    }

    pub(crate) fn is_active(self) -> bool {
        self.active_state() == "active"
    }

    pub(crate) fn is_stopped(self) -> bool {
        matches!(self, Phase::Dead | Phase::Failed)
    }
}

/// A unit in memory.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) unit: Unit,
    pub(crate) phase: Phase,
    pub(crate) outcome: Outcome,
    pub(crate) end: Option<End>,
    pub(crate) restarts: u32,
    pub(crate) condition: bool,
    pub(crate) starts: VecDeque<Instant>,
    pub(crate) main: Option<ProcessId>,
    pub(crate) control: Option<(ProcessId, bool)>,
    pub(crate) queue: VecDeque<Command>,
    /// Someone asked it to stop, so its end is no reason to restart it.
    pub(crate) asked_to_stop: bool,
    /// Grows with each phase: a timer set in an earlier one is void.
    pub(crate) epoch: u64,
    /// Grows with each sign of life: a watchdog set before it is void.
    pub(crate) watchdog_epoch: u64,
}

impl Live {
    fn new(unit: Unit) -> Live {
        Live {
            unit,
            phase: Phase::Dead,
            outcome: Outcome::Success,
            end: None,
            restarts: 0,
            condition: false,
            starts: VecDeque::new(),
            main: None,
            control: None,
            queue: VecDeque::new(),
            asked_to_stop: false,
            epoch: 0,
            watchdog_epoch: 0,
        }
    }
}

/// An error as it goes over the bus.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BusError {
    pub(crate) name: &'static str,
    pub(crate) text: String,
}

impl BusError {
    pub(crate) fn new(name: &'static str, text: String) -> BusError {
        BusError { name, text }
    }

    pub(crate) fn not_loaded(unit: &str) -> BusError {
        BusError::new("org.freedesktop.systemd1.NoSuchUnit", format!("Unit {unit} not loaded."))
    }
}

/// Everything the service manager knows. All its methods are called from one task.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) root: Root,
    pub(crate) units: BTreeMap<String, Live>,
    /// Names that a target wanted when units were last read: systemd keeps these in memory.
    wanted: BTreeSet<String>,
    /// Folders of drop-ins there were when a unit was last read: systemd does not look into others.
    pub(crate) known_folders: BTreeSet<String>,
    pub(crate) jobs: BTreeMap<u32, Job>,
    pub(crate) last_job: u32,
    pub(crate) signals: Vec<Signal>,
    pub(crate) changed: BTreeSet<String>,
    /// Absent when units only change state and nothing runs.
    pub(crate) processes: Option<Processes>,
    events: UnboundedSender<Event>,
    history: Arc<Mutex<Vec<Call>>>,
}

impl Machine {
    pub(crate) fn new(
        root: Root,
        processes: Option<Processes>,
        events: UnboundedSender<Event>,
        history: Arc<Mutex<Vec<Call>>>,
    ) -> Machine {
        let wanted = root.linked_by_targets().into_iter().collect();
        Machine {
            root,
            units: BTreeMap::new(),
            wanted,
            known_folders: BTreeSet::new(),
            jobs: BTreeMap::new(),
            last_job: 0,
            signals: Vec::new(),
            changed: BTreeSet::new(),
            processes,
            events,
            history,
        }
    }

    /// Notes a call for the tests that look at it later.
    pub(crate) fn note(&self, unit: &str, verb: &str) {
        let call = Call { unit: unit.to_owned(), verb: verb.to_owned() };
        self.history.lock().expect("no holder of this lock panics").push(call);
    }

    /// Has an event delivered later.
    pub(crate) fn later(&self, after: Duration, event: Event) {
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let _ = events.send(event); // receiver gone means we are shutting down
        });
    }

    /// Loads a unit unless it is in memory; one that was missing is looked for again.
    pub(crate) fn load(&mut self, name: &str) -> Result<&mut Live, BusError> {
        if !is_unit_name(name) {
            let text = format!("Unit name {name} is not valid.");
            return Err(BusError::new("org.freedesktop.DBus.Error.InvalidArgs", text));
        }
        let stale =
            self.units.get(name).is_none_or(|live| live.unit.load == LoadState::NotFound && live.phase.is_stopped());
        if stale {
            self.known_folders = self.root.drop_in_folders();
            self.units.insert(name.to_owned(), Live::new(Unit::load(&self.root, name)));
        }
        Ok(self.units.get_mut(name).expect("it was there or has just been put there"))
    }

    /// Reads every unit's files again; what runs goes on running.
    pub(crate) fn reload(&mut self) {
        self.wanted = self.root.linked_by_targets().into_iter().collect();
        self.known_folders = self.root.drop_in_folders();
        for (name, live) in &mut self.units {
            live.unit = Unit::load(&self.root, name);
            self.changed.insert(name.clone());
        }
        for name in self.wanted.clone() {
            let _ = self.load(&name); // a link whose name is no unit's is no unit
        }
    }

    /// Forgets units that are stopped and that nothing in memory names, as systemd's garbage collector does.
    pub(crate) fn forget_unused(&mut self) {
        let holds = |machine: &Machine, name: &String, live: &Live| {
            live.phase != Phase::Dead || machine.wanted.contains(name) || machine.job_of(name).is_some()
        };
        let mut kept: BTreeSet<String> =
            self.units.iter().filter(|(name, live)| holds(self, name, live)).map(|(name, _)| name.clone()).collect();
        loop {
            let named = kept.iter().filter_map(|name| self.units.get(name)).flat_map(|l| l.unit.dependencies.all());
            let more: Vec<String> =
                named.filter(|name| self.units.contains_key(*name) && !kept.contains(*name)).cloned().collect();
            if more.is_empty() {
                break;
            }
            kept.extend(more);
        }
        self.units.retain(|name, _| kept.contains(name));
    }

    /// Clears the failure of a unit, its restart counter and its start limit.
    pub(crate) fn reset_failed(&mut self, name: &str) -> Result<(), BusError> {
        let live = self.units.get_mut(name).ok_or_else(|| BusError::not_loaded(name))?;
        if live.phase == Phase::Failed {
            live.phase = Phase::Dead;
        }
        live.outcome = Outcome::Success;
        live.restarts = 0;
        live.starts.clear();
        self.changed.insert(name.to_owned());
        Ok(())
    }

    /// Sends a signal to a unit's main process alone.
    pub(crate) fn kill(&mut self, name: &str, whom: &str, signal: i32) -> Result<(), BusError> {
        let invalid = |text: String| BusError::new("org.freedesktop.DBus.Error.InvalidArgs", text);
        if whom != "main" {
            return Err(invalid(format!("Whom {whom} invalid: this stand-in knows only main")));
        }
        let signal = signal.try_into().map_err(|_| invalid("Signal number out of range.".to_owned()))?;
        let live = self.units.get(name).ok_or_else(|| BusError::not_loaded(name))?;
        let nobody = || BusError::new("org.freedesktop.systemd1.NoSuchProcess", "No main process to kill".to_owned());
        let main = live.main.ok_or_else(nobody)?;
        self.processes.as_mut().ok_or_else(nobody)?.signal_leader(main, signal);
        Ok(())
    }

    /// `UnitFileState` of a unit that may have no file.
    pub(crate) fn unit_file_state(&self, name: &str) -> Option<&'static str> {
        install::state(&self.root, name)
    }

    /// A signal that announces the unit's present state, if it changed.
    pub(crate) fn announce(&mut self, name: &str) {
        if self.changed.remove(name) {
            self.signals.push(Signal::Changed { unit: name.to_owned() });
        }
    }

    /// Ends the handling of one event: starts what can start, announces what changed, forgets what is unused.
    pub(crate) fn settle(&mut self) {
        self.run_jobs();
        for name in self.changed.clone() {
            self.announce(&name);
        }
    }
}

/// Whether systemd takes this for the name of a unit.
fn is_unit_name(name: &str) -> bool {
    const SUFFIXES: [&str; 11] =
        ["service", "socket", "target", "device", "mount", "automount", "swap", "timer", "path", "slice", "scope"];
    let Some((stem, suffix)) = name.rsplit_once('.') else { return false };
    let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    name.len() < 256
        && !stem.is_empty()
        && !stem.starts_with('@')
        && stem.chars().all(allowed)
        && SUFFIXES.contains(&suffix)
}
