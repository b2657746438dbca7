//! Jobs: what was asked for, in which order it may happen, and how it ended.

use super::events::Signal;
use super::machine::{BusError, Machine, Phase};
use super::service::Outcome;
use super::unit::{self, LoadState};
use tokio::time::Instant;

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Start,
    Stop,
    Restart,
}

/// Something asked of a unit that has not ended yet.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) unit: String,
    pub(crate) verb: Verb,
    pub(crate) running: bool,
    /// The restart of a service that ended by itself keeps its restart counter.
    pub(crate) automatic: bool,
}

/// How a job ended. Source: `JobRemoved` in org.freedesktop.systemd1(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobResult {
    Done,
    Failed,
    Canceled,
    Dependency,
    Assert,
}

impl JobResult {
    fn name(self) -> &'static str {
        match self {
            JobResult::Done => "done",
            JobResult::Failed => "failed",
            JobResult::Canceled => "canceled",
            JobResult::Dependency => "dependency",
            JobResult::Assert => "assert",
        }
    }
}

impl Machine {
    /// The job a unit has; it has one at most.
    pub(crate) fn job_of(&self, unit: &str) -> Option<u32> {
        self.jobs.iter().find(|(_, job)| job.unit == unit).map(|(id, _)| *id)
    }

    /// Puts a job, and those it implies, into the queue. Returns the job's number at once.
    pub(crate) fn enqueue(&mut self, name: &str, verb: Verb) -> Result<u32, BusError> {
        self.load(name)?;
        let mut wanted = Vec::new();
        match verb {
            Verb::Stop => {
                let live = &self.units[name];
                let no_file = matches!(live.unit.load, LoadState::NotFound | LoadState::BadSetting | LoadState::Error);
                if no_file && live.phase == Phase::Dead {
                    return Err(BusError::not_loaded(name));
                }
                self.collect_dependants(name, Verb::Stop, &mut wanted);
            }
            Verb::Start | Verb::Restart => {
                self.collect_needed(name, verb, &mut wanted)?;
                if verb == Verb::Restart {
                    self.collect_dependants(name, Verb::Restart, &mut wanted);
                }
            }
        }
        let mut anchor = 0;
        for (unit, verb) in wanted {
            let id = self.install(&unit, verb, false);
            if unit == name {
                anchor = id;
            }
        }
        Ok(anchor)
    }

    /// The unit, what it needs and what it wants, each of which must be startable unless it is only wanted.
    fn collect_needed(&mut self, name: &str, verb: Verb, out: &mut Vec<(String, Verb)>) -> Result<(), BusError> {
        if out.iter().any(|(unit, _)| unit == name) {
            return Ok(());
        }
        startable(name, self.load(name)?.unit.load)?;
        out.push((name.to_owned(), verb));
        let dependencies = self.units[name].unit.dependencies.clone();
        for needed in dependencies.needed() {
            self.load(needed)?;
            if !self.units[needed].phase.is_active() {
                self.collect_needed(needed, Verb::Start, out)?;
            }
        }
        for wanted in &dependencies.wants {
            let active = self.load(wanted).is_ok_and(|live| live.phase.is_active());
            if !active {
                let before = out.len();
                if self.collect_needed(wanted, Verb::Start, out).is_err() {
                    out.truncate(before);
                }
            }
        }
        for other in &dependencies.conflicts {
            if self.units.get(other).is_some_and(|live| !live.phase.is_stopped()) {
                out.push((other.clone(), Verb::Stop));
            }
        }
        Ok(())
    }

    /// The unit and those that stop, or restart, when it does.
    fn collect_dependants(&mut self, name: &str, verb: Verb, out: &mut Vec<(String, Verb)>) {
        if !out.iter().any(|(unit, _)| unit == name) {
            out.push((name.to_owned(), verb));
        }
        let follows = |live: &super::machine::Live| live.unit.dependencies.stopped_with().any(|unit| unit == name);
        let units = self.units.iter().filter(|(_, live)| !live.phase.is_stopped() && follows(live));
        let names: Vec<String> = units.map(|(unit, _)| unit.clone()).collect();
        for dependant in names {
            if !out.iter().any(|(unit, _)| *unit == dependant) {
                self.collect_dependants(&dependant, verb, out);
            }
        }
    }

    /// Gives the unit a job: joins one that fits, replaces one that contradicts.
    pub(crate) fn install(&mut self, unit: &str, verb: Verb, automatic: bool) -> u32 {
        if let Some(id) = self.job_of(unit) {
            let job = self.jobs.get_mut(&id).expect("job_of looked it up");
            let contradicts = (job.verb == Verb::Stop) != (verb == Verb::Stop);
            if !contradicts {
                if job.verb == Verb::Start && verb == Verb::Restart {
                    (job.verb, job.running) = (Verb::Restart, false);
                }
                return id;
            }
            self.finish(id, JobResult::Canceled);
        }
        self.last_job += 1;
        self.jobs.insert(self.last_job, Job { unit: unit.to_owned(), verb, running: false, automatic });
        self.last_job
    }

    /// Runs every job that may run now, until none is left that may.
    pub(crate) fn run_jobs(&mut self) {
        while let Some(id) =
            self.jobs.iter().find(|(id, job)| !job.running && self.may_run(**id, job)).map(|(id, _)| *id)
        {
            let job = self.jobs.get_mut(&id).expect("it was found just now");
            job.running = true;
            let (unit, verb, automatic) = (job.unit.clone(), job.verb, job.automatic);
            match verb {
                Verb::Start => self.run_start(id, &unit, automatic),
                Verb::Stop => self.stop(&unit),
                Verb::Restart if self.units.get(&unit).is_some_and(|live| !live.phase.is_stopped()) => self.stop(&unit),
                Verb::Restart => self.turn_into_start(id),
            }
            self.finish_stopped(&unit);
        }
    }

    fn may_run(&self, id: u32, job: &Job) -> bool {
        let Some(live) = self.units.get(&job.unit) else { return true };
        let busy = match job.verb {
            // A service that waits for its restart starts when that is due, not before.
            Verb::Start => {
                matches!(live.phase, Phase::AutoRestart | Phase::Stop | Phase::StopSigterm | Phase::StopSigkill)
            }
            Verb::Stop | Verb::Restart => false,
        };
        !busy && !self.jobs.iter().any(|(other, before)| *other != id && self.waits_for(job, before))
    }

    fn waits_for(&self, job: &Job, other: &Job) -> bool {
        let follows = |later: &str, earlier: &str| {
            let after = self.units.get(later).is_some_and(|l| l.unit.dependencies.after.iter().any(|u| u == earlier));
            after || self.units.get(earlier).is_some_and(|l| l.unit.dependencies.before.iter().any(|u| u == later))
        };
        match (job.verb, other.verb) {
            (Verb::Start, _) => follows(&job.unit, &other.unit),
            (Verb::Stop | Verb::Restart, Verb::Stop | Verb::Restart) => follows(&other.unit, &job.unit),
            (Verb::Stop | Verb::Restart, Verb::Start) => false,
        }
    }

    fn run_start(&mut self, id: u32, name: &str, automatic: bool) {
        let Some(live) = self.units.get_mut(name) else { return self.finish(id, JobResult::Failed) };
        if live.phase.is_active() {
            return self.finish(id, JobResult::Done);
        }
        if !live.phase.is_stopped() {
            return; // already starting: the job ends when that does
        }
        self.changed.insert(name.to_owned());
        live.condition = unit::hold(&live.unit.conditions, &self.root);
        if !live.condition {
            return self.finish(id, JobResult::Done);
        }
        if !unit::hold(&live.unit.asserts, &self.root) {
            return self.finish(id, JobResult::Assert);
        }
        if self.is_over_start_limit(name) {
            self.fail_for_start_limit(name);
            return self.finish_started(name);
        }
        self.start(name, automatic);
        self.finish_started(name);
    }

    fn is_over_start_limit(&mut self, name: &str) -> bool {
        let Some(live) = self.units.get_mut(name) else { return false };
        let limit = live.unit.start_limit;
        if limit.burst == 0 || limit.interval.is_some_and(|i| i.is_zero()) {
            return false;
        }
        let now = Instant::now();
        if let Some(interval) = limit.interval {
            live.starts.retain(|then| now.duration_since(*then) < interval);
        }
        if live.starts.len() >= limit.burst {
            return true;
        }
        live.starts.push_back(now);
        false
    }

    fn fail_for_start_limit(&mut self, name: &str) {
        let Some(live) = self.units.get_mut(name) else { return };
        // An earlier failure stays the reason; systemd does not overwrite it.
        if live.outcome == Outcome::Success {
            live.outcome = Outcome::StartLimitHit;
        }
        self.enter(name, Phase::Failed);
    }

    fn turn_into_start(&mut self, id: u32) {
        if let Some(job) = self.jobs.get_mut(&id) {
            (job.verb, job.running) = (Verb::Start, false);
        }
    }

    /// Ends the start job of a unit that has reached an end.
    pub(crate) fn finish_started(&mut self, name: &str) {
        let Some(id) = self.job_of(name).filter(|id| self.jobs[id].verb == Verb::Start && self.jobs[id].running) else {
            return;
        };
        match self.units.get(name).map(|live| live.phase) {
            Some(phase) if phase.is_active() => self.finish(id, JobResult::Done),
            Some(Phase::Dead) => self.finish(id, JobResult::Done),
            Some(Phase::Failed) | None => self.finish(id, JobResult::Failed),
            Some(_) => {}
        }
    }

    /// Ends the stop job of a unit that has stopped, and lets a restart go on.
    pub(crate) fn finish_stopped(&mut self, name: &str) {
        if !self.units.get(name).is_none_or(|live| live.phase.is_stopped()) {
            return;
        }
        let Some(id) = self.job_of(name).filter(|id| self.jobs[id].running) else { return };
        match self.jobs[&id].verb {
            Verb::Stop => self.finish(id, JobResult::Done),
            Verb::Restart => self.turn_into_start(id),
            Verb::Start => {}
        }
    }

    fn finish(&mut self, id: u32, result: JobResult) {
        let Some(job) = self.jobs.remove(&id) else { return };
        self.announce(&job.unit);
        self.signals.push(Signal::JobRemoved { id, unit: job.unit.clone(), result: result.name() });
        if result == JobResult::Done || job.verb != Verb::Start {
            return;
        }
        let needs = |waiting: &Job| {
            let live = self.units.get(&waiting.unit);
            waiting.verb == Verb::Start && live.is_some_and(|l| l.unit.dependencies.needed().any(|u| *u == job.unit))
        };
        let failed: Vec<u32> = self.jobs.iter().filter(|(_, waiting)| needs(waiting)).map(|(id, _)| *id).collect();
        for id in failed {
            self.finish(id, JobResult::Dependency);
        }
    }
}

/// Whether a unit in this load state can be started.
fn startable(name: &str, load: LoadState) -> Result<(), BusError> {
    let (error, text) = match load {
        LoadState::Loaded => return Ok(()),
        LoadState::NotFound => ("org.freedesktop.systemd1.NoSuchUnit", format!("Unit {name} not found.")),
        LoadState::BadSetting => {
            ("org.freedesktop.systemd1.BadUnitSetting", format!("Unit {name} has a bad unit file setting."))
        }
        LoadState::Error => {
            let text = "failed to load properly, please adjust/correct and reload service manager";
            // The error's name is that of EBADMSG: a file whose text is no unit's is the only such failure here.
            ("org.freedesktop.DBus.Error.InconsistentMessage", format!("Unit {name} {text}"))
        }
        LoadState::Masked => ("org.freedesktop.systemd1.UnitMasked", format!("Unit {name} is masked.")),
    };
    Err(BusError::new(error, text))
}
