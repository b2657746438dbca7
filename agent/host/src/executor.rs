//! Makes a plan true.
//!
//! For each step: check; in sync, next; note the attempt in the journal; change; check again. A stage's steps run at once,
//! its attempts are synced to the disk together before the first change. Nothing is believed that was not checked, and no
//! marker file lets a step be skipped.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nap_model::plan::{AbsPath, Digest, Plan, Readiness, Stage, Step, Want, text_diff};
use nap_model::secret::MASK;
use serde::Serialize;
use thiserror::Error;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::cmd::CmdError;
use crate::images::ImagesError;
use crate::journal::{Event, Journal};
use crate::packet_filter::PacketFilterError;
use crate::root::{Entry, FileError, Kind, Root};
use crate::tree::CopyError;
use crate::units::{self, UnitError, Units};
use crate::volume::VolumeError;
use crate::{
    block, chain, checkpoint, expiry, hosts, images, kernel, mirror, packet_filter, serving_certificate, snapshotter,
    swap, tree, trust_store, volume,
};

/// Directory of stamps: which inputs a running unit was started with. In `/run`, so a reboot forgets them with the units.
const STAMPS: &str = "/run/nap-agent/stamps";

/// Where plans put unit files.
const UNIT_FILES: &str = "/etc/systemd/system/";

/// How long systemd may take to end what ran out of its own time.
const KILL_TAKES: Duration = Duration::from_secs(10);

/// Why a step is not in its state.
#[derive(Debug, Error)]
pub enum StepError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// systemd did not do it.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// A program did not do it.
    #[error(transparent)]
    Cmd(#[from] CmdError),
    /// The packet filter could not be loaded or looked at.
    #[error(transparent)]
    PacketFilter(#[from] PacketFilterError),
    /// A directory could not be copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// There is no such file system on local disks, and none could be made.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// containerd does not tell of its images, or keeps them.
    #[error(transparent)]
    Images(#[from] ImagesError),
    /// A service does not answer; what it does instead.
    #[error("{0}")]
    NoAnswer(String),
    /// The change succeeded and the check afterwards says it is not true.
    #[error("changed without an error, and still {0}")]
    NotTrue(String),
    /// The kernel does not have the key or the file.
    #[error("this kernel has no {0}")]
    NotInKernel(String),
}

/// How a step differs from the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// The step.
    pub step: String,
    /// In one line.
    pub summary: String,
    /// Line by line, where there are lines; a secret's content is never in it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// It is a unit that is not up, whatever else is to be said of it.
    #[serde(skip)]
    pub is_down: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "~ {}: {}", self.step, self.summary)?;
        self.detail.lines().try_for_each(|line| writeln!(f, "    {line}"))
    }
}

/// What became of a stage.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Steps that were already as wanted.
    pub in_sync: Vec<String>,
    /// Steps that were changed.
    pub changed: Vec<String>,
    /// Steps that failed and that the node can come up without: id and reason.
    pub degraded: Vec<(String, String)>,
}

/// An essential step that failed.
#[derive(Debug, Error)]
#[error("step {step} failed")]
pub struct ApplyError {
    /// The step.
    pub step: String,
    /// Why.
    #[source]
    pub source: StepError,
}

/// Makes plans true on one machine.
#[derive(Debug, Clone)]
pub struct Executor {
    root: Arc<Root>,
    journal: Arc<Journal>,
    unit_limit: Duration,
}

impl Executor {
    /// An executor that gives each unit `unit_limit` to come up.
    pub fn new(root: Arc<Root>, journal: Arc<Journal>, unit_limit: Duration) -> Self {
        Self { root, journal, unit_limit }
    }

    /// Makes one stage true.
    ///
    /// # Errors
    /// The first essential step that failed, after all steps of the stage have ended.
    pub async fn apply(&self, stage: &Stage) -> Result<Applied, ApplyError> {
        let mut applied = Applied::default();
        let mut attempts = Vec::new();
        let mut log = Vec::new();
        let mut first_failure = Ok(());
        for (step, check) in check_all(&self.root, &stage.steps).await {
            match check {
                Ok(None) => {
                    debug!(step = step.id, "in sync");
                    log.push((step.id.clone(), Event::InSync, String::new()));
                    applied.in_sync.push(step.id.clone());
                }
                Ok(Some(difference)) => {
                    log.push((step.id.clone(), Event::Attempt, difference.summary));
                    attempts.push(step);
                }
                Err(source) => first_failure = first_failure.and(self.failed(&step, source, &mut applied)),
            }
        }
        let sync = !attempts.is_empty();
        self.journal
            .write(&log, sync)
            .map_err(|error| ApplyError { step: stage.name.to_owned(), source: error.into() })?;
        checkpoint::pass("attempts in the journal");
        let changed = self.change_all(attempts, &mut applied).await;
        first_failure.and(changed).map(|()| applied)
    }

    async fn change_all(&self, attempts: Vec<Step>, applied: &mut Applied) -> Result<(), ApplyError> {
        let mut running = JoinSet::new();
        for step in attempts {
            let executor = self.clone();
            running.spawn(async move {
                let result = executor.change_and_check(&step).await;
                (step, result)
            });
        }
        let mut first_failure = Ok(());
        while let Some(joined) = running.join_next().await {
            let (step, result) = joined.expect("no step panics: a panic in one is a bug to be seen");
            match result {
                Ok(()) => {
                    info!(step = step.id, "step changed");
                    self.note(&step.id, Event::Changed, String::new());
                    applied.changed.push(step.id);
                }
                Err(source) => first_failure = first_failure.and(self.failed(&step, source, applied)),
            }
        }
        applied.changed.sort();
        first_failure
    }

    async fn change_and_check(&self, step: &Step) -> Result<(), StepError> {
        let changed = change(&self.root, &step.want, self.unit_limit).await;
        if let Want::File { path, .. } | Want::FileIfAbsent { path, .. } | Want::Absent { path } = &step.want
            && path.as_str().starts_with(UNIT_FILES)
        {
            units::file_changed(&self.root);
        }
        changed?;
        checkpoint::pass("changed");
        match check(&self.root, step).await? {
            None => Ok(()),
            Some(difference) => Err(StepError::NotTrue(difference.summary)),
        }
    }

    /// An essential step ends the boot; any other is named and left.
    fn failed(&self, step: &Step, source: StepError, applied: &mut Applied) -> Result<(), ApplyError> {
        let reason = chain(&source);
        self.note(&step.id, Event::Failed, reason.clone());
        if step.essential {
            return Err(ApplyError { step: step.id.clone(), source });
        }
        warn!(step = step.id, error = reason, "step failed, going on without it");
        applied.degraded.push((step.id.clone(), reason));
        Ok(())
    }

    /// What was done is true whether or not it can be noted; only an attempt must be noted first.
    fn note(&self, step: &str, event: Event, detail: String) {
        if let Err(error) = self.journal.write(&[(step.to_owned(), event, detail)], false) {
            warn!(step, error = chain(&error), "cannot note in the journal");
        }
    }
}

/// A step that cannot be checked.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unknown {
    /// The step.
    pub step: String,
    /// Why.
    pub why: String,
    /// Whether the node needs it.
    pub essential: bool,
}

/// A plan beside the machine.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// What applying the plan would change.
    pub differences: Vec<Difference>,
    /// Steps that cannot be checked.
    pub unknown: Vec<Unknown>,
}

/// Compares a plan with the machine, and touches nothing.
pub async fn compare(root: &Arc<Root>, plan: &Plan) -> Comparison {
    let mut comparison = Comparison::default();
    for stage in &plan.stages {
        for (step, check) in check_all(root, &stage.steps).await {
            match check {
                Ok(difference) => comparison.differences.extend(difference),
                Err(error) => {
                    comparison.unknown.push(Unknown { step: step.id, why: chain(&error), essential: step.essential });
                }
            }
        }
    }
    comparison
}

async fn check_all(root: &Arc<Root>, steps: &[Step]) -> Vec<(Step, Result<Option<Difference>, StepError>)> {
    let mut checked = Vec::with_capacity(steps.len());
    for step in steps {
        // One after the other: a check is a few system calls, and order keeps journals readable.
        checked.push((step.clone(), check(root, step).await));
    }
    checked
}

/// Compares a step with the machine.
async fn check(root: &Root, step: &Step) -> Result<Option<Difference>, StepError> {
    let differs =
        |summary: String, detail: String| Some(Difference { step: step.id.clone(), summary, detail, is_down: false });
    let plain = |summary: Option<String>| summary.and_then(|summary| differs(summary, String::new()));
    Ok(match &step.want {
        Want::Directory { path, mode } => plain(directory_difference(root.target(path)?, path, *mode)),
        Want::Absent { path } => plain(root.entry(path)?.map(|_| format!("remove {path}"))),
        Want::File { path, mode, content } => {
            let old = root.read(path.as_str())?;
            let entry = root.entry(path)?;
            match file_difference(entry, old.as_deref(), path, *mode, content.reveal()) {
                None => None,
                Some(summary) if content.is_secret() => differs(summary, String::new()),
                Some(summary) => {
                    let old = old.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
                    differs(summary, text_diff(&without_passwords(&old), content.reveal()))
                }
            }
        }
        Want::Sysctl { key, value } => match kernel::read_sysctl(root, key)? {
            None => return Err(StepError::NotInKernel(format!("sysctl {key}"))),
            Some(now) => plain((now != kernel::normal(value)).then(|| format!("set {key} from {now} to {value}"))),
        },
        Want::Choice { path, value } => match kernel::read_choice(root, path)? {
            None => return Err(StepError::NotInKernel(path.to_string())),
            Some(now) => plain((now != *value).then(|| format!("set {path} from {now} to {value}"))),
        },
        Want::Block { path, place, lines, .. } => match block::difference(root, path, *place, lines)? {
            None => None,
            Some((old, _)) => differs(format!("put our lines into {path}"), text_diff(block::ours(&old), lines)),
        },
        Want::FileIfAbsent { path, mode, content } => {
            let write = || format!("write {path} {mode:04o}, {} bytes", content.reveal().len());
            plain(root.entry(path)?.is_none().then(write))
        }
        Want::Copied { from, to, .. } => plain(tree::difference(root, from, to)?),
        Want::Volume { volume } => plain(volume::difference(root, volume)?),
        Want::SwapFile { path, bytes } => plain(swap::difference(root, path, *bytes)?),
        Want::TrustStore { bundle, certificates, .. } => plain(trust_store::difference(root, bundle, certificates)?),
        Want::SelfSigned { certificate, key, names } => {
            plain(serving_certificate::difference(root, certificate, key, names)?)
        }
        Want::NoExpiry { user } => plain(expiry::difference(root, user)?),
        Want::Enabled { name, enabled } => plain(enabled_difference(root, name, *enabled).await?),
        Want::Reread { name, files } => plain(reread_difference(root, name, files).await?),
        Want::Module { name } => plain((!kernel::has_module(root, name)?).then(|| format!("load {name}"))),
        Want::PacketFilter { rules } => plain(packet_filter::difference(root, rules)?),
        Want::SnapshotterAnswers { socket } => plain(snapshotter::difference(root, socket).await),
        Want::MirrorAnswers { port } => plain(mirror::ask(*port).await.err()),
        Want::Hosts { path, content, mirror } => plain(hosts::difference(root, path, content.as_deref(), mirror)?),
        Want::WholeImages { socket } => plain(images::difference(root, socket).await?),
        Want::KeptSnapshots { socket, snapshotter } => {
            plain(images::snapshots_difference(root, socket, snapshotter).await?)
        }
        Want::Unit { name, inputs, readiness } => {
            let found = unit_difference(root, name, inputs, *readiness).await?;
            found.and_then(|(summary, is_down)| Some(Difference { is_down, ..differs(summary, String::new())? }))
        }
    })
}

/// What stood there may be somebody else's, a proxy's password in it.
fn without_passwords(text: &str) -> String {
    let mask = |word: &str| match (word.split_once("://"), word.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{MASK}@{host}"),
        _ => word.to_owned(),
    };
    text.split_inclusive(char::is_whitespace).map(mask).collect()
}

fn directory_difference(entry: Option<Entry>, path: &AbsPath, mode: u32) -> Option<String> {
    match entry {
        None => Some(format!("make directory {path} {mode:04o}")),
        Some(entry) if entry.kind != Kind::Directory => Some(format!("{path} is no directory")),
        Some(entry) if !entry.owned => Some(format!("give {path} to root")),
        Some(entry) if entry.mode != mode => Some(format!("set mode of {path} from {:04o} to {mode:04o}", entry.mode)),
        Some(_) => None,
    }
}

fn file_difference(entry: Option<Entry>, old: Option<&[u8]>, path: &AbsPath, mode: u32, text: &str) -> Option<String> {
    match entry {
        None => Some(format!("write {path} {mode:04o}, {} bytes", text.len())),
        Some(entry) if entry.kind != Kind::File => Some(format!("replace {path}, which is no regular file")),
        Some(_) if old != Some(text.as_bytes()) => Some(format!("rewrite {path}, {} bytes", text.len())),
        Some(entry) if entry.mode != mode => Some(format!("set mode of {path} from {:04o} to {mode:04o}", entry.mode)),
        Some(entry) if !entry.owned => Some(format!("give {path} to root")),
        Some(_) => None,
    }
}

/// systemd, or nothing below an image root, which has none.
async fn systemd(root: &Root) -> Result<Option<Units>, StepError> {
    match Units::connect(root).await {
        Ok(units) => Ok(Some(units)),
        Err(UnitError::Connect { .. })
            if !root.is_machine() && root.entry(&AbsPath::literal("/run/systemd/private"))?.is_none() =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

async fn enabled_difference(root: &Root, name: &str, enabled: bool) -> Result<Option<String>, StepError> {
    let word = if enabled { "start" } else { "stop" };
    let Some(units) = systemd(root).await? else { return Ok(Some(format!("{word} {name}"))) };
    let status = units.status(name).await?;
    let known = units.file_state(name).await?;
    let starts = matches!(known.as_deref(), Some("enabled" | "enabled-runtime" | "alias" | "linked"));
    // A static unit is started by others alone, and a generated one by its generator.
    let can_change = !matches!(known.as_deref(), None | Some("static" | "generated" | "transient" | "indirect"));
    Ok(match (enabled, status.load.as_str()) {
        (true, "not-found") => {
            return Err(UnitError::NotFound { unit: name.to_owned(), load_state: status.load }.into());
        }
        // What is not there does not run.
        (false, "not-found" | "masked") => None,
        (true, _) if !status.is_started() => Some(format!("start {name}, which is {}", status.active)),
        (false, _) if status.is_started() => Some(format!("stop {name}, which is {}", status.active)),
        (wanted, _) if can_change && starts != wanted => Some(format!(
            "{} {name}, which is {}",
            if enabled { "enable" } else { "disable" },
            known.unwrap_or_default()
        )),
        _ => None,
    })
}

/// Where it is noted that a unit was told to read its files.
fn reread_stamp(name: &str) -> String {
    format!("{STAMPS}/{name}.read")
}

async fn reread_difference(root: &Root, name: &str, files: &[AbsPath]) -> Result<Option<String>, StepError> {
    let Some(units) = systemd(root).await? else { return Ok(None) };
    // What does not run will read them when it starts.
    if !units.status(name).await?.is_active() {
        return Ok(None);
    }
    // When it last read: at its start, or when it was told to. The stamp's own time is that moment.
    let stamp = AbsPath::try_from(reread_stamp(name).as_str()).expect("unit names have no slash");
    let read_at = units.started_at(name).await?.max(root.changed_at(&stamp)?);
    for file in files {
        // The same moment counts as before: systemd starts a unit and then the unit reads.
        if root.changed_at(file)? > read_at {
            return Ok(Some(format!("let {name} read {file} anew")));
        }
    }
    Ok(None)
}

/// What is to be done about a unit, and whether it is down.
async fn unit_difference(
    root: &Root,
    name: &str,
    inputs: &Digest,
    readiness: Readiness,
) -> Result<Option<(String, bool)>, StepError> {
    // What units of an image will need is to be started.
    let Some(units) = systemd(root).await? else { return Ok(Some((format!("start {name}"), true))) };
    let status = units.status(name).await?;
    let up = match readiness {
        Readiness::Active | Readiness::Done { .. } => status.is_active(),
        Readiness::Started => status.is_started(),
    };
    let stamp = root.read_text(&format!("{STAMPS}/{name}"))?;
    let todo = if !up {
        format!("start {name}, which is {}", if status.load == "loaded" { &status.active } else { &status.load })
    } else if stamp.as_deref() != Some(inputs.as_str()) {
        format!("restart {name}: its inputs are not those it was started with")
    } else if status.needs_reload {
        format!("restart {name}: its unit files changed")
    } else {
        return Ok(None);
    };
    Ok(Some((todo, !up)))
}

async fn change(root: &Arc<Root>, want: &Want, unit_limit: Duration) -> Result<(), StepError> {
    match want.clone() {
        Want::Unit { name, inputs, readiness } => {
            let units = Units::connect(root).await?;
            let (wait_for_ready, limit) = match readiness {
                Readiness::Active => (true, unit_limit),
                Readiness::Started => (false, unit_limit),
                Readiness::Done { within } => (true, within + KILL_TAKES),
            };
            units.restart(name, wait_for_ready, limit).await?;
            checkpoint::pass("unit restarted");
            let stamp = AbsPath::try_from(format!("{STAMPS}/{name}").as_str()).expect("unit names have no slash");
            Ok(root.write(&stamp, inputs.as_str().as_bytes(), 0o644)?)
        }
        Want::Choice { path, value } => blocking(root, move |root| kernel::write_choice(root, &path, &value)).await,
        Want::Block { path, place, mode, lines } => {
            blocking(root, move |root| block::write(root, &path, place, mode, &lines)).await
        }
        Want::SwapFile { path, bytes } => blocking(root, move |root| swap::make(root, &path, bytes)).await,
        Want::TrustStore { bundle, program, .. } => Ok(trust_store::update(root, &bundle, program).await?),
        Want::SelfSigned { certificate, key, names } => {
            blocking(root, move |root| serving_certificate::make(root, &certificate, &key, &names)).await
        }
        Want::NoExpiry { user } => Ok(expiry::never(root, &user).await?),
        Want::Enabled { name, enabled } => {
            let units = Units::connect(root).await?;
            let changed =
                if enabled { units.enable(name, unit_limit).await } else { units.disable(name, unit_limit).await };
            Ok(changed?)
        }
        Want::Reread { name, .. } => {
            Units::connect(root).await?.reload_or_restart(name, unit_limit).await?;
            let stamp = AbsPath::try_from(reread_stamp(name).as_str()).expect("unit names have no slash");
            blocking(root, move |root| root.write(&stamp, b"", 0o644)).await
        }
        Want::PacketFilter { rules } => Ok(packet_filter::load(root, &rules).await?),
        Want::Module { name } => Ok(kernel::load_module(root, name).await?),
        Want::Directory { path, mode } => blocking(root, move |root| root.make_directory(&path, mode)).await,
        Want::Copied { from, to, mode, without, stopped } => {
            Ok(tree::copy(root, (&from, &to), mode, without, stopped).await?)
        }
        Want::Volume { volume } => Ok(volume::make(root, &volume).await?),
        Want::File { path, mode, content } | Want::FileIfAbsent { path, mode, content } => {
            blocking(root, move |root| root.write(&path, content.reveal().as_bytes(), mode)).await
        }
        Want::MirrorAnswers { port } => mirror::answers(port, mirror::START_LIMIT).await.map_err(StepError::NoAnswer),
        Want::Hosts { path, content, mirror } => {
            blocking(root, move |root| hosts::write(root, &path, content.as_deref(), &mirror)).await
        }
        Want::WholeImages { socket } => Ok(images::forget_hollow(root, &socket).await?),
        Want::KeptSnapshots { socket, snapshotter } => Ok(images::strike_out(root, &socket, snapshotter).await?),
        Want::SnapshotterAnswers { socket } => {
            snapshotter::answers(root, socket.as_str(), snapshotter::START_LIMIT).await.map_err(StepError::NoAnswer)
        }
        Want::Absent { path } => blocking(root, move |root| root.remove(&path)).await,
        Want::Sysctl { key, value } => blocking(root, move |root| kernel::write_sysctl(root, &key, &value)).await,
    }
}

/// Syncing a file blocks its thread; the steps of a stage sync at the same time.
async fn blocking(
    root: &Arc<Root>,
    change: impl FnOnce(&Root) -> Result<(), FileError> + Send + 'static,
) -> Result<(), StepError> {
    let root = Arc::clone(root);
    let joined = tokio::task::spawn_blocking(move || change(&root)).await;
    Ok(joined.expect("no change panics: a panic in one is a bug to be seen")?)
}
