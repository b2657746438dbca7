//! The guard: look, compare with the plan, put back what drifted. Monitors, verdicts and budgets come on top of this loop.
//!
//! Two rules keep it from doing harm already now. What an administrator stopped (a unit that is inactive and ended well) stays
//! stopped. And a step that drifts again and again has another writer: after [`MAX_REPAIRS`] in an hour it is left alone and said so.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use nap_host::executor::{Executor, compare};
use nap_host::journal::Journal;
use nap_host::units::Units;
use nap_host::{chain, notify, observe, persist, sources};
use nap_model::config::NodeConfig;
use nap_model::plan::{Plan, Stage, Step, Want, plan};
use nap_model::report::Failure;
use tokio::time::{Instant, interval};
use tracing::{debug, info, warn};

use crate::context::{Context, config_of};
use crate::http::Health;

/// Most repairs of one step in [`REPAIR_WINDOW`].
const MAX_REPAIRS: usize = 5;

const REPAIR_WINDOW: Duration = Duration::from_secs(3600);

/// Watches for ever.
pub(crate) async fn guard(context: &Context, every: Duration, health: &Health) -> Infallible {
    // The watchdog is fed by this loop and no other, so it tells systemd that looks get done.
    let feed = notify::watchdog_interval().map_or(every, |watchdog| every.min(watchdog / 3));
    let mut ticks = interval(feed);
    let mut last_look: Option<Instant> = None;
    let mut guard = Guard { context, config: None, repairs: HashMap::new(), said: String::new() };
    notify::ready("guarding");
    loop {
        ticks.tick().await;
        if last_look.is_none_or(|look| look.elapsed() + feed / 2 >= every) {
            let state = guard.look().await;
            last_look = Some(Instant::now());
            guard.say(&state);
            health.looked(state);
        }
        notify::alive(&guard.said);
    }
}

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// No successful boot in this boot of the machine yet.
    NotBooted(String),
    /// Everything is as planned.
    InSync,
    /// This was put back.
    Repaired(Vec<String>),
    /// This is not as planned and stays so.
    Left(Vec<String>),
    /// The look itself failed.
    Failed(String),
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            State::NotBooted(why) => write!(f, "waiting for a successful boot: {why}"),
            State::InSync => f.write_str("in sync"),
            State::Repaired(steps) => write!(f, "repaired: {}", steps.join(", ")),
            State::Left(why) => write!(f, "left alone: {}", why.join("; ")),
            State::Failed(why) => write!(f, "cannot look: {why}"),
        }
    }
}

struct Guard<'a> {
    context: &'a Context,
    config: Option<NodeConfig>,
    repairs: HashMap<String, Vec<Instant>>,
    said: String,
}

impl Guard<'_> {
    fn say(&mut self, state: &State) {
        let text = state.to_string();
        if text != self.said {
            info!(state = text, "guard");
            self.said = text;
        }
    }

    async fn look(&mut self) -> State {
        match booted_now(self.context) {
            Ok(()) => {}
            Err(why) => return State::NotBooted(why),
        }
        match self.put_back().await {
            Ok(state) => state,
            Err(failure) => State::Failed(failure.to_string()),
        }
    }

    async fn put_back(&mut self) -> Result<State, Failure> {
        let plan = self.plan().await?;
        let root = &self.context.root;
        let found = compare(root, &plan).await.differences;
        if found.is_empty() {
            return Ok(State::InSync);
        }
        for difference in &found {
            info!(step = difference.step, "drifted: {}", difference.summary);
        }
        let (stages, left) =
            self.allowed(plan, &found.iter().map(|difference| difference.step.as_str()).collect::<Vec<_>>()).await;
        let repaired = match self.apply(&stages).await {
            Ok(repaired) => repaired,
            Err(message) => return Ok(State::Failed(message)),
        };
        Ok(if left.is_empty() { State::Repaired(repaired) } else { State::Left(left) })
    }

    /// The boot's plan, with the time and the client certificate of now. No program is started for it.
    async fn plan(&mut self) -> Result<Plan, Failure> {
        let root = &self.context.root;
        let config = match &self.config {
            Some(config) => config,
            None => {
                let found = self.context.find(sources::IMDS_LIMIT).await?;
                self.config.insert(config_of(&found)?.clone())
            }
        };
        let read = persist::read_facts(root).and_then(|facts| Ok((facts, observe::client_certificate(root)?)));
        let step_failed = |message| Failure::new(nap_model::report::Reason::StepFailed, "guard", message);
        let (facts, client_certificate) = read.map_err(|error| step_failed(chain(&error)))?;
        let mut facts =
            facts.ok_or_else(|| step_failed("the boot's facts are gone; the next boot writes them".to_owned()))?;
        facts.observed_at = jiff::Timestamp::now();
        facts.client_certificate = client_certificate;
        plan(config, &facts)
    }

    /// The differing steps that may be put back, and why the others may not.
    async fn allowed(&mut self, plan: Plan, differing: &[&str]) -> (Vec<Stage>, Vec<String>) {
        let mut stages = Vec::new();
        let mut left = Vec::new();
        for stage in plan.stages {
            let mut steps = Vec::new();
            for step in stage.steps.into_iter().filter(|step| differing.contains(&step.id.as_str())) {
                match self.refusal(&step).await {
                    Some(why) => left.push(format!("{}: {why}", step.id)),
                    None => steps.push(step),
                }
            }
            stages.push(Stage { name: stage.name, steps });
        }
        (stages, left)
    }

    async fn refusal(&mut self, step: &Step) -> Option<String> {
        if let Want::Unit { name, .. } = &step.want
            && was_stopped(self.context, name).await
        {
            return Some(format!("{name} was stopped on purpose"));
        }
        let repairs = self.repairs.entry(step.id.clone()).or_default();
        repairs.retain(|at| at.elapsed() < REPAIR_WINDOW);
        if repairs.len() >= MAX_REPAIRS {
            warn!(step = step.id, "drifts again and again; another writer must be found");
            return Some(format!("put back {MAX_REPAIRS} times in an hour; another writer changes it"));
        }
        repairs.push(Instant::now());
        None
    }

    async fn apply(&self, stages: &[Stage]) -> Result<Vec<String>, String> {
        let root = &self.context.root;
        let boot_id = observe::boot_id(root).map_err(|error| chain(&error))?;
        let journal = Journal::open(root, &boot_id, "guard").map_err(|error| chain(&error))?;
        let limit = self.config.as_ref().map_or(Duration::from_secs(90), |config| config.boot.unit_start);
        let executor = Executor::new(Arc::clone(root), Arc::new(journal), limit);
        let mut repaired = Vec::new();
        for stage in stages.iter().filter(|stage| !stage.steps.is_empty()) {
            let applied = executor.apply(stage).await.map_err(|error| chain(&error))?;
            repaired.extend(applied.changed);
        }
        Ok(repaired)
    }
}

/// Whether the boot of this boot of the machine ended well; what it left is the guard's to keep.
fn booted_now(context: &Context) -> Result<(), String> {
    let root = &context.root;
    let read = persist::read_report(root).and_then(|report| Ok((report, observe::boot_id(root)?)));
    match read {
        Ok((Some(report), boot_id)) if report.boot_id == boot_id && report.exit_code == "0" => Ok(()),
        Ok((Some(report), boot_id)) if report.boot_id == boot_id => {
            Err(format!("the boot failed with {}", report.reason))
        }
        Ok(_) => Err("no report yet".to_owned()),
        Err(error) => Err(chain(&error)),
    }
}

async fn was_stopped(context: &Context, unit: &str) -> bool {
    let Ok(units) = Units::connect(&context.root).await else { return false };
    match units.status(unit).await {
        Ok(status) => status.active == "inactive" && status.result == "success",
        Err(error) => {
            debug!(unit, error = chain(&error), "cannot tell whether it was stopped");
            false
        }
    }
}
