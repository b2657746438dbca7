//! The guard: look, compare with the plan, put back what drifted. The watch over the node's health ([`crate::health`]) runs beside it.
//!
//! Three rules keep it from doing harm. What an administrator stopped (a unit that is inactive and ended well) stays stopped. A step that
//! drifts again and again has another writer: after [`MAX_REPAIRS`] in an hour it is left alone and said so. And a kubelet or a containerd
//! that is down did not drift: it is ill, and that is the watch's, with its budgets ([`nap_model::repair`]).

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nap_host::executor::{Comparison, Difference, Executor, compare};
use nap_host::journal::{self, Event, Journal};
use nap_host::root::Root;
use nap_host::units::Units;
use nap_host::{alone, api, chain, mirror, notify, observe, persist, random};
use nap_model::config::NodeConfig;
use nap_model::facts::Facts;
use nap_model::monitor::{CONTAINERD, KUBELET};
use nap_model::plan::{
    MIRROR_ANSWERS, MIRROR_PORT, Plan, Readiness, SECURE_TLS_RUN, SNAPSHOTTER_ANSWERS, Stage, Step, WHOLE_IMAGES, Want,
    after_containerd, api_server_tag, disk_units, gpus_expected, keep, node_mount_point, node_name, tries_secure_tls,
    whole_images,
};
use nap_model::report::{Failure, Reason};
use tokio::time::{Instant, interval};
use tracing::{debug, info, warn};

use crate::context::{Context, config_of};
use crate::http::Health;
use crate::logging::Tail;
use crate::progress::Progress;
use crate::{boot, finish};

/// Most repairs of one step in [`REPAIR_WINDOW`].
const MAX_REPAIRS: usize = 5;

const REPAIR_WINDOW: SignedDuration = SignedDuration::from_hours(1);

/// The guard's name in the journal.
const RUN: &str = "guard";

/// Longest look during which the watchdog is fed: a unit's start and a search for the configuration have limits of their own, and
/// this is more than all of them together.
const MAX_LOOK: Duration = Duration::from_secs(600);

/// Steps of files that say where containerd asks for images.
const HOSTS: &str = "registries.hosts.";

/// How many looks in a row a streaming mirror that was silent must answer before it is used again.
const MIRROR_ANSWERS_NEEDED: u32 = 2;

/// When a containerd that did not tell of its images is asked again.
const IMAGES_AGAIN: Duration = Duration::from_secs(60);

/// How often a node whose certificate has expired looks for a bootstrap token.
const TOKEN_AGAIN: Duration = Duration::from_secs(60);

/// Longest restart of kubelet: systemd gives it 90 s to end.
const RESTART_LIMIT: Duration = Duration::from_secs(120);

/// How often the tag with a private API server's address is read, give or take a half.
/// Source: AgentBaker, `reconcilePrivateHosts.sh`.
const TAG_EVERY: Duration = Duration::from_secs(15);

/// The guard's repairs of the last hour, from the journal: a restart of ours does not give a fresh budget.
fn past_repairs(context: &Context) -> HashMap<String, Vec<Timestamp>> {
    let mut repairs: HashMap<String, Vec<Timestamp>> = HashMap::new();
    let lines = journal::read(&context.root).unwrap_or_default(); // without a journal there were none
    for line in lines.into_iter().filter(|line| line.run == RUN && line.event == Event::Attempt) {
        repairs.entry(line.step).or_default().push(line.at);
    }
    repairs
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

/// One who keeps the node as the boot left it.
pub(crate) struct Guard<'a> {
    context: &'a Context,
    tail: &'a Tail,
    health: &'a Health,
    config: Option<NodeConfig>,
    repairs: HashMap<String, Vec<Timestamp>>,
    said: String,
    /// When the tag of a private API server is read next.
    tag_at: Instant,
    /// When a bootstrap token is looked for next.
    token_at: Instant,
    /// How many looks in a row the streaming mirror has answered after it was silent.
    mirror_answered: u32,
    /// On a node that has left streaming: when the images are looked through for those that lack what was streamed; never, once none does.
    images_at: Option<Instant>,
    observe_only: bool,
}

impl<'a> Guard<'a> {
    pub(crate) fn new(context: &'a Context, tail: &'a Tail, health: &'a Health, observe_only: bool) -> Self {
        let repairs = past_repairs(context);
        let (said, tag_at) = (String::new(), Instant::now());
        let (token_at, config, mirror_answered, images_at) = (tag_at, None, 0, Some(tag_at));
        Self {
            context,
            tail,
            health,
            config,
            repairs,
            said,
            tag_at,
            token_at,
            mirror_answered,
            images_at,
            observe_only,
        }
    }

    /// Watches for ever.
    pub(crate) async fn keep(mut self, every: Duration) -> Infallible {
        // The watchdog is fed by this loop and no other, so it tells systemd that looks get done.
        let feed = notify::watchdog_interval().map_or(every, |watchdog| every.min(watchdog / 3));
        let mut ticks = interval(feed);
        let mut last_look: Option<Instant> = None;
        notify::ready(if self.observe_only { "observing" } else { "guarding" });
        loop {
            ticks.tick().await;
            notify::alive(&self.said);
            if last_look.is_some_and(|look| look.elapsed() + feed / 2 < every) {
                continue;
            }
            let state = {
                let started = Instant::now();
                let look = self.look();
                tokio::pin!(look);
                loop {
                    tokio::select! {
                        state = &mut look => break state,
                        // The look goes on; only a tick is taken.
                        _ = ticks.tick() => if started.elapsed() < MAX_LOOK { notify::alive("looking") },
                    }
                }
            };
            last_look = Some(Instant::now());
            self.say(&state);
            self.health.looked(state);
        }
    }

    fn say(&mut self, state: &State) {
        let text = state.to_string();
        if text != self.said {
            info!(state = text, "guard");
            self.said = text;
        }
    }

    async fn look(&mut self) -> State {
        let _alone = match alone::now(&self.context.root) {
            Ok(Some(alone)) => alone,
            Ok(None) => return State::NotBooted("a boot or a repair is under way".to_owned()),
            Err(error) => return State::Failed(chain(&error)),
        };
        match booted_now(self.context) {
            Ok(()) => {}
            Err(why) => {
                if !self.observe_only && self.has_registered_late().await {
                    info!("the node has registered after all; booting again to complete it");
                    let progress = Progress::new();
                    let outcome = boot::boot(self.context, &progress).await;
                    finish::finish(&self.context.root, &progress, self.tail, outcome).await;
                }
                return State::NotBooted(why);
            }
        }
        match self.put_back().await {
            Ok(state) => state,
            Err(failure) => State::Failed(failure.to_string()),
        }
    }

    /// A boot that ran out of time while kubelet went on: the Node is there now, and the boot, which changes nothing that is true,
    /// removes the token and corrects the report.
    async fn has_registered_late(&self) -> bool {
        let root = &self.context.root;
        let report = persist::read_complete_report(root).ok().flatten();
        let boot_id = observe::boot_id(root).unwrap_or_default();
        let late = [
            Reason::NodeNotRegistered,
            Reason::KubeletUnhealthy,
            Reason::ClientCertificateNotIssued,
            Reason::BootDeadlineExceeded,
        ];
        let was_late = report.is_some_and(|report| {
            report.boot_id == boot_id && late.iter().any(|reason| report.reason == reason.to_string())
        });
        if !was_late {
            return false;
        }
        let Ok(Some(facts)) = persist::read_facts(root) else { return false };
        let Ok(found) = self.context.look_for().await else { return false };
        let Ok(name) = config_of(&found).and_then(|config| node_name(config, &facts)) else { return false };
        api::node(root, name.as_str()).await.is_ok()
    }

    async fn put_back(&mut self) -> Result<State, Failure> {
        let (plan, whole_images) = self.plan().await?;
        let root = &self.context.root;
        let Comparison { differences: mut found, unknown } = compare(root, &plan).await;
        if let Some(unknown) = unknown.iter().find(|unknown| unknown.essential) {
            return Ok(State::Failed(format!("{}: {}", unknown.step, unknown.why)));
        }
        let unmounted = |difference: &Difference| node_mount_point(&difference.step).filter(|_| difference.is_down);
        self.health.misses(found.iter().filter_map(unmounted).map(str::to_owned).collect());
        found.retain(|difference| !is_ill(&plan, difference) && unmounted(difference).is_none());
        let is_due = self.images_at.is_some_and(|at| Instant::now() >= at) && !self.observe_only;
        let whole_images = whole_images.filter(|_| is_due);
        if found.is_empty() && whole_images.is_none() {
            return Ok(State::InSync);
        }
        if self.observe_only {
            let left =
                found.iter().map(|difference| format!("{}: {} (only observed)", difference.step, difference.summary));
            return Ok(State::Left(left.collect()));
        }
        for difference in &found {
            info!(step = difference.step, "drifted: {}", difference.summary);
        }
        let (mut stages, left) =
            self.allowed(plan, &found.iter().map(|difference| difference.step.as_str()).collect::<Vec<_>>()).await;
        // A containerd that has not changed yet would stream again what is forgotten.
        if let Some(stage) = whole_images.filter(|_| !left.iter().any(|why| why.starts_with("containerd."))) {
            stages.insert(after_containerd(&stages), stage);
        }
        let repaired = match self.apply(&stages).await {
            Ok(repaired) => repaired,
            Err(message) => return Ok(State::Failed(message)),
        };
        if found.is_empty() && repaired.is_empty() {
            return Ok(State::InSync);
        }
        Ok(match (left.is_empty(), repaired.is_empty()) {
            (false, _) => State::Left(left),
            (true, false) => State::Repaired(repaired),
            (true, true) => State::Left(vec!["what the node can do without could not be put back".to_owned()]),
        })
    }

    /// A node whose certificate has expired needs its bootstrap token again, which our own copy of the custom data has no more; any other node
    /// has no use for one.
    async fn follow_certificate(&mut self, facts: &Facts) {
        let has_expired =
            facts.client_certificate.is_some_and(|certificate| facts.observed_at >= certificate.not_after);
        let Some(config) = &mut self.config else { return };
        if !has_expired {
            config.bootstrap_token = None;
        } else if config.bootstrap_token.is_none()
            && !tries_secure_tls(config, facts)
            && !self.observe_only
            && Instant::now() >= self.token_at
        {
            self.token_at = Instant::now() + TOKEN_AGAIN;
            config.bootstrap_token = self.context.find_token(config).await;
        }
    }

    /// The boot's plan, with the time, the client certificate and the private API server's address of now, and what follows a restart of
    /// containerd. No program is started for it.
    async fn plan(&mut self) -> Result<(Plan, Option<Stage>), Failure> {
        let mut facts = self.context.kept_facts("guard")?;
        if self.config.is_none() {
            let found = self.context.look_for().await?;
            self.config = Some(config_of(&found)?.clone());
        }
        self.follow_certificate(&facts).await;
        let config = self.config.as_ref().expect("it was put there");
        if let Some(tag) = api_server_tag(config).filter(|_| Instant::now() >= self.tag_at) {
            self.tag_at = Instant::now() + random::about(TAG_EVERY, 0.5);
            follow_tag(self.context, tag, &mut facts).await;
        }
        if config.registries.streaming && facts.streaming_failure.is_none() {
            follow_mirror(self.context, &mut self.mirror_answered, &mut facts).await;
        }
        if let Ok(name) = node_name(config, &facts) {
            self.health.is_named(name.as_str());
        }
        if let Some(gpus) = gpus_expected(config, &facts) {
            self.health.expects_gpus(gpus);
        }
        Ok((keep(config, &facts)?, whole_images(config, &facts)))
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
                    None => steps.push(without_mkfs(step)),
                }
            }
            stages.push(Stage { name: stage.name, steps });
        }
        (stages, left)
    }

    async fn refusal(&mut self, step: &Step) -> Option<String> {
        if let Want::Copied { to, .. } = &step.want {
            return Some(format!("{to} is gone; only a boot makes it, before anything runs in it"));
        }
        if let Want::Unit { name, .. } = &step.want
            && disk_units().any(|unit| unit == *name)
        {
            return Some(format!(
                "{name} is not as the boot left it; mounting over running pods would hide what they wrote"
            ));
        }
        // One that only has to run to its end is inactive before it has.
        if let Want::Unit { name, readiness: Readiness::Active | Readiness::Started, .. } = &step.want
            && let Some(why) = hands_off(self.context, name).await
        {
            return Some(why);
        }
        // It follows the mirror, which has its own patience.
        if step.id.starts_with(HOSTS) {
            return None;
        }
        let repairs = self.repairs.entry(step.id.clone()).or_default();
        let now = Timestamp::now();
        repairs.retain(|at| now.duration_since(*at) < REPAIR_WINDOW);
        if repairs.len() >= MAX_REPAIRS {
            warn!(step = step.id, "drifts again and again; another writer must be found");
            return Some(format!("put back {MAX_REPAIRS} times in an hour; another writer changes it"));
        }
        repairs.push(now);
        None
    }

    async fn apply(&mut self, stages: &[Stage]) -> Result<Vec<String>, String> {
        let root = &self.context.root;
        let boot_id = observe::boot_id(root).map_err(|error| chain(&error))?;
        let journal = Journal::open(root, &boot_id, RUN).map_err(|error| chain(&error))?;
        let limit = self.config.as_ref().map_or(Duration::from_secs(90), |config| config.boot.unit_start);
        let executor = Executor::new(Arc::clone(root), Arc::new(journal), limit);
        let mut repaired = Vec::new();
        for stage in stages.iter().filter(|stage| !stage.steps.is_empty()) {
            let applied = executor.apply(stage).await.map_err(|error| chain(&error))?;
            // A kubelet that runs does not look for another certificate.
            if applied.changed.iter().any(|step| step == SECURE_TLS_RUN) {
                restart_kubelet(root).await;
            }
            if stage.name == WHOLE_IMAGES {
                self.images_at = (!applied.degraded.is_empty()).then(|| Instant::now() + IMAGES_AGAIN);
            }
            repaired.extend(applied.changed);
        }
        Ok(repaired)
    }
}

async fn restart_kubelet(root: &Root) {
    let restart = async {
        let units = Units::connect(root).await?;
        match units.status(KUBELET).await?.is_stopped_on_purpose() {
            true => Ok(()),
            false => units.revive(KUBELET, RESTART_LIMIT).await,
        }
    };
    match restart.await {
        Ok(()) => info!("kubelet restarted for its other client certificate"),
        Err(error) => warn!(error = chain(&error), "kubelet does not restart for its other client certificate"),
    }
}

/// Takes over the address in a tag of the VM, when IMDS answers at once and there is another one: the node must find its API server,
/// and the next look and the next boot must, too. No answer, no tag and no address in it change nothing.
async fn follow_tag(context: &Context, tag: &str, facts: &mut Facts) {
    let asked = match context.imds.instance(Duration::ZERO).await {
        Ok(instance) if facts.dmi.is_vm(&instance.vm_id) => instance,
        Ok(_) => return,
        Err(error) => return debug!(tag, error = chain(&error), "cannot read the tag now"),
    };
    let Some(new) = asked.tag(tag).filter(|value| value.trim().parse::<IpAddr>().is_ok()) else { return };
    let Some(instance) = facts.instance.as_mut().filter(|instance| instance.tag(tag) != Some(new)) else { return };
    info!(tag, from = instance.tag(tag), to = new, "the private API server has another address");
    instance.set_tag(tag, new);
    if let Err(error) = persist::write_facts(&context.root, facts) {
        warn!(tag, error = chain(&error), "cannot keep the new address");
    }
}

/// Asks the streaming mirror. One that does not answer is withdrawn with this look, for it would hold every pull; one that answers again
/// is trusted after [`MIRROR_ANSWERS_NEEDED`] looks. containerd reads its files at every pull and is not restarted.
async fn follow_mirror(context: &Context, answered: &mut u32, facts: &mut Facts) {
    let answer = match mirror::ask(MIRROR_PORT).await {
        Ok(()) => Ok(()),
        // Once more: a machine under pressure may be late once.
        Err(_) => mirror::ask(MIRROR_PORT).await,
    };
    let failure = match (answer, &facts.mirror_failure) {
        (Ok(()), None) => return,
        (Ok(()), Some(_)) => {
            *answered += 1;
            if *answered < MIRROR_ANSWERS_NEEDED {
                return;
            }
            info!("the streaming mirror answers again; containerd asks it");
            None
        }
        (Err(why), known) => {
            *answered = 0;
            if known.is_some() {
                return;
            }
            warn!(error = why, "the streaming mirror is withdrawn; images are pulled whole");
            Some(why)
        }
    };
    facts.mirror_failure = failure;
    if let Err(error) = persist::write_facts(&context.root, facts) {
        warn!(error = chain(&error), "cannot keep how the mirror is");
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

/// Whether this is no drift but an illness, which is the watch's: a kubelet or containerd that is down, not one that only has other inputs
/// than it was started with; a snapshotter or a mirror that is silent. By the same look as the difference: a service that crashes again
/// and again is up a moment later.
fn is_ill(plan: &Plan, difference: &Difference) -> bool {
    let is_service =
        |step: &Step| matches!(&step.want, Want::Unit { name, .. } if [KUBELET, CONTAINERD].contains(name));
    [SNAPSHOTTER_ANSWERS, MIRROR_ANSWERS].contains(&difference.step.as_str())
        || (difference.is_down && plan.steps().any(|step| step.id == difference.step && is_service(step)))
}

/// Only a boot makes file systems, before anything runs on them; what is ready the guard may put together again.
fn without_mkfs(mut step: Step) -> Step {
    if let Want::Volume { volume } = &mut step.want {
        volume.make = false;
    }
    step
}

/// Why a unit is not to be touched now.
async fn hands_off(context: &Context, unit: &str) -> Option<String> {
    let units = Units::connect(&context.root).await.ok()?;
    match units.status(unit).await {
        Ok(status) if status.is_in_transition() => Some(format!("{unit} is {} ({})", status.active, status.sub)),
        Ok(status) if status.active == "inactive" && status.result == "success" => {
            Some(format!("{unit} was stopped on purpose"))
        }
        Ok(_) => None,
        Err(error) => {
            debug!(unit, error = chain(&error), "cannot tell how it is");
            None
        }
    }
}
