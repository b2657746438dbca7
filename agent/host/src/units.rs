//! systemd's units, over D-Bus.
//!
//! We speak to systemd's private socket, peer to peer, as `systemctl` does for root: it is there before dbus-daemon and
//! still there when dbus-daemon is dead. Below another root the socket is that root's, so tests bring their own systemd.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::signal::Signal;
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use zbus::proxy::CacheProperties;
use zbus::zvariant::OwnedObjectPath;

use crate::private_socket;
use crate::root::Root;

const PRIVATE_SOCKET: &str = "/run/systemd/private";

/// systemd's signal that a job has ended.
const JOB_REMOVED: &str = "JobRemoved";

/// The signal that properties of an object have changed.
const PROPERTIES_CHANGED: &str = "PropertiesChanged";

/// How often a unit that has no job to wait for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Longest time for one answer on the bus; systemd reloads a big machine within this, too.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn reload(&self) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reload_or_try_restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn get_unit_file_state(&self, name: &str) -> zbus::Result<String>;
    fn enable_unit_files(&self, names: &[&str], runtime: bool, force: bool) -> zbus::Result<(bool, Vec<Link>)>;
    fn disable_unit_files(&self, names: &[&str], runtime: bool) -> zbus::Result<Vec<Link>>;
    fn unmask_unit_files(&self, names: &[&str], runtime: bool) -> zbus::Result<Vec<Link>>;
}

/// A link that systemd made or removed: what it did, the link, where it leads.
type Link = (String, String, String);

/// What a job does.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Restart,
    Start,
    Stop,
    /// Reload what can reload, restart what cannot, leave what does not run.
    ReloadOrTryRestart,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Verb::Restart => "restart",
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::ReloadOrTryRestart => "reload",
        }
    }

    async fn of(self, manager: &ManagerProxy<'_>, unit: &str) -> zbus::Result<OwnedObjectPath> {
        match self {
            Verb::Restart => manager.restart_unit(unit, "replace").await,
            Verb::Start => manager.start_unit(unit, "replace").await,
            Verb::Stop => manager.stop_unit(unit, "replace").await,
            Verb::ReloadOrTryRestart => manager.reload_or_try_restart_unit(unit, "replace").await,
        }
    }
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Unit",
    default_service = "org.freedesktop.systemd1",
    gen_blocking = false
)]
trait Unit {
    #[zbus(property)]
    fn load_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn active_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn sub_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn need_daemon_reload(&self) -> zbus::Result<bool>;
    #[zbus(property)]
    fn inactive_exit_timestamp(&self) -> zbus::Result<u64>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Service",
    default_service = "org.freedesktop.systemd1",
    gen_blocking = false
)]
trait Service {
    #[zbus(property)]
    fn result(&self) -> zbus::Result<String>;
    #[zbus(property, name = "NRestarts")]
    fn n_restarts(&self) -> zbus::Result<u32>;
    #[zbus(property)]
    fn exec_main_status(&self) -> zbus::Result<i32>;
    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> zbus::Result<u32>;
}

/// Why a unit is not in its state.
#[derive(Debug, Error)]
pub enum UnitError {
    /// systemd's socket does not answer.
    #[error("cannot reach systemd at {socket}")]
    Connect {
        /// Where.
        socket: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// systemd answered a call with an error.
    #[error("systemd refused to {action} {unit}")]
    Call {
        /// What was asked.
        action: &'static str,
        /// Of which unit.
        unit: String,
        /// Its answer.
        #[source]
        source: Box<zbus::Error>,
    },
    /// There is no such unit.
    #[error("there is no unit {unit} (load state {load_state})")]
    NotFound {
        /// Its name.
        unit: String,
        /// What systemd says of it.
        load_state: String,
    },
    /// The job ended otherwise than done.
    #[error("{unit} did not {action}: job {result}, {status}")]
    JobFailed {
        /// The unit.
        unit: String,
        /// What the job was to do.
        action: &'static str,
        /// systemd's word for it: failed, timeout, dependency, ...
        result: String,
        /// What the unit looked like then.
        status: String,
    },
    /// Nothing happened in time.
    #[error("{unit} did not {action} within {limit:?}: {status}")]
    Timeout {
        /// The unit.
        unit: String,
        /// What it was to do.
        action: &'static str,
        /// The limit.
        limit: Duration,
        /// What the unit looked like then.
        status: String,
    },
}

/// A unit as systemd sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitStatus {
    /// `loaded`, `not-found`, `masked`, ...
    pub load: String,
    /// `active`, `activating`, `failed`, ...
    pub active: String,
    /// `running`, `auto-restart`, ...
    pub sub: String,
    /// Its files changed since systemd read them.
    pub needs_reload: bool,
    /// `success`, `exit-code`, `signal`, ...
    pub result: String,
    /// Exit status of the last main process.
    pub exit_status: i32,
    /// How often systemd restarted it.
    pub restarts: u32,
    /// Its main process; 0 when it has none.
    pub main_pid: u32,
}

impl UnitStatus {
    /// Whether systemd has brought it up.
    pub fn is_active(&self) -> bool {
        self.active == "active"
    }

    /// Whether it is up or coming up. A unit between two crashes is neither.
    pub fn is_started(&self) -> bool {
        self.is_active() || (self.active == "activating" && self.sub != "auto-restart")
    }

    /// Whether somebody stopped it, or will not have it run: it is theirs.
    pub fn is_stopped_on_purpose(&self) -> bool {
        self.load == "masked" || (self.active == "inactive" && self.result == "success")
    }

    /// Whether systemd is at work on it: it starts, stops or reloads, and nobody should come in between.
    pub fn is_in_transition(&self) -> bool {
        matches!(self.active.as_str(), "activating" | "deactivating" | "reloading" | "refreshing")
            && self.sub != "auto-restart"
    }
}

impl std::fmt::Display for UnitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { active, sub, result, exit_status, restarts, .. } = self;
        write!(f, "{active} ({sub}), result {result}, exit status {exit_status}, {restarts} restarts")
    }
}

/// A connection to systemd.
#[derive(Debug)]
pub struct Units {
    connection: zbus::Connection,
    reloads: Arc<Reloads>,
}

/// What systemd has read of the unit files. To read them takes it seconds on a small machine, so it does when a file was written since,
/// and not for each unit: one time is enough for the steps of a stage, which ask at once.
#[derive(Debug, Default)]
struct Reloads {
    /// How many files we wrote.
    written: AtomicU64,
    /// How many of them were there when it last read, and when that was.
    read: Mutex<Option<(u64, Instant)>>,
}

/// For how long we trust that nobody else writes unit files.
const READ_FOR: Duration = Duration::from_secs(60);

/// Of each systemd, by its socket.
static RELOADS: std::sync::Mutex<BTreeMap<PathBuf, Arc<Reloads>>> = std::sync::Mutex::new(BTreeMap::new());

fn reloads(socket: PathBuf) -> Arc<Reloads> {
    Arc::clone(RELOADS.lock().unwrap_or_else(PoisonError::into_inner).entry(socket).or_default())
}

/// Notes that a unit's file was written or removed: systemd reads all of them before it starts the next unit.
pub fn file_changed(root: &Root) {
    reloads(root.outside(PRIVATE_SOCKET)).written.fetch_add(1, Ordering::SeqCst);
}

impl Units {
    /// Connects to the systemd of a root.
    ///
    /// # Errors
    /// When its private socket is not there or does not speak D-Bus within a minute.
    pub async fn connect(root: &Root) -> Result<Self, UnitError> {
        Self::connect_for(root, &[JOB_REMOVED]).await
    }

    async fn connect_for(root: &Root, signals: &'static [&'static str]) -> Result<Self, UnitError> {
        let path = root.outside(PRIVATE_SOCKET);
        let socket = path.display().to_string();
        let wrap =
            |source: Box<dyn std::error::Error + Send + Sync>| UnitError::Connect { socket: socket.clone(), source };
        let connect = timeout(ANSWER_LIMIT, private_socket::connect(&path, signals)).await;
        let connection = connect.map_err(|error| wrap(error.into()))?.map_err(|error| wrap(error.into()))?;
        Ok(Self { connection, reloads: reloads(path) })
    }

    /// Lets systemd read all unit files, unless it has.
    async fn reload(&self, manager: &ManagerProxy<'_>, unit: &str) -> Result<(), UnitError> {
        let mut read = self.reloads.read.lock().await;
        let written = self.reloads.written.load(Ordering::SeqCst);
        if read.is_some_and(|(count, at)| count == written && at.elapsed() < READ_FOR) {
            return Ok(());
        }
        let now = Instant::now();
        answered(manager.reload()).await.map_err(call("reload for", unit))?;
        *read = Some((written, now));
        Ok(())
    }

    /// The same whatever it has read.
    async fn reload_anyway(&self, manager: &ManagerProxy<'_>, unit: &str) -> Result<(), UnitError> {
        self.reloads.written.fetch_add(1, Ordering::SeqCst);
        self.reload(manager, unit).await
    }

    /// What systemd knows of a unit.
    ///
    /// # Errors
    /// When systemd does not say.
    pub async fn status(&self, unit: &str) -> Result<UnitStatus, UnitError> {
        answered(self.read_status(unit)).await.map_err(call("describe", unit))
    }

    /// When a unit last began to start; nothing when it never did in this boot.
    ///
    /// # Errors
    /// When systemd does not say.
    pub async fn started_at(&self, unit: &str) -> Result<Option<Timestamp>, UnitError> {
        let read = async {
            let path = self.manager().await?.load_unit(unit).await?;
            UnitProxy::builder(&self.connection)
                .path(path)?
                .cache_properties(CacheProperties::No)
                .build()
                .await?
                .inactive_exit_timestamp()
                .await
        };
        let microseconds = answered(read).await.map_err(call("describe", unit))?;
        let at =
            i64::try_from(microseconds).ok().and_then(|microseconds| Timestamp::from_microsecond(microseconds).ok());
        Ok(at.filter(|_| microseconds > 0))
    }

    /// Restarts a unit, or starts it, after making systemd read changed unit files. Waits until it is up.
    ///
    /// # Errors
    /// When it does not come up within `limit`.
    pub async fn restart(&self, unit: &str, wait_for_ready: bool, limit: Duration) -> Result<(), UnitError> {
        let manager = self.manager().await.map_err(call("find", unit))?;
        // Also when it says that it needs none: systemd (252) does not notice the first drop-in in a directory that is new to it.
        self.reload(&manager, unit).await?;
        let mut status = self.status(unit).await?;
        if status.needs_reload {
            self.reload_anyway(&manager, unit).await?;
            status = self.status(unit).await?;
        }
        if status.load != "loaded" {
            return Err(UnitError::NotFound { unit: unit.to_owned(), load_state: status.load });
        }
        if status.active == "failed" {
            answered(manager.reset_failed_unit(unit)).await.map_err(call("reset", unit))?;
        }
        if wait_for_ready {
            self.job(&manager, Verb::Restart, unit, limit).await
        } else {
            self.restart_and_look(&manager, unit, limit).await
        }
    }

    /// Forgets that a unit failed, and what counts against its start limit; then restarts it. Its files are not read again.
    ///
    /// # Errors
    /// When there is no such unit, or it does not come up within `limit`.
    pub async fn revive(&self, unit: &str, limit: Duration) -> Result<(), UnitError> {
        let manager = self.manager().await.map_err(call("find", unit))?;
        let status = self.status(unit).await?;
        if status.load != "loaded" {
            return Err(UnitError::NotFound { unit: unit.to_owned(), load_state: status.load });
        }
        match answered(manager.reset_failed_unit(unit)).await {
            // systemd forgot it as soon as we had looked at it: it was stopped, and there is nothing else to forget.
            Err(zbus::Error::MethodError(name, _, _)) if name == NO_SUCH_UNIT => {}
            result => result.map_err(call("reset", unit))?,
        }
        self.job(&manager, Verb::Restart, unit, limit).await
    }

    /// Sends a signal to a unit's main process and to no other of its processes.
    ///
    /// # Errors
    /// When systemd does not; it has no main process, for one.
    pub async fn signal_main(&self, unit: &str, signal: Signal) -> Result<(), UnitError> {
        let manager = self.manager().await.map_err(call("find", unit))?;
        answered(manager.kill_unit(unit, "main", signal as i32)).await.map_err(call("signal", unit))
    }

    /// The state of a unit's file: `enabled`, `disabled`, `masked`, `static`, ...; nothing when it has none.
    ///
    /// # Errors
    /// When systemd does not say.
    pub async fn file_state(&self, unit: &str) -> Result<Option<String>, UnitError> {
        let manager = self.manager().await.map_err(call("find", unit))?;
        match answered(manager.get_unit_file_state(unit)).await {
            Ok(state) => Ok(Some(state).filter(|state| !state.is_empty())),
            Err(zbus::Error::MethodError(name, _, _)) if is_no_file(name.as_str()) => Ok(None),
            Err(error) => Err(call("describe the file of", unit)(error)),
        }
    }

    /// Starts a unit, now and at every boot, whoever masked it.
    ///
    /// # Errors
    /// When there is no such unit, or it does not come up within `limit`.
    pub async fn enable(&self, unit: &str, limit: Duration) -> Result<(), UnitError> {
        let manager = self.manager().await.map_err(call("find", unit))?;
        // A timer whose service is masked is refused; images mask both.
        let service = unit.strip_suffix(".timer").map(|name| format!("{name}.service"));
        for name in [Some(unit), service.as_deref()].into_iter().flatten() {
            if self.file_state(name).await?.is_some_and(|state| state.starts_with("masked")) {
                answered(manager.unmask_unit_files(&[name], false)).await.map_err(call("unmask", name))?;
            }
        }
        answered(manager.enable_unit_files(&[unit], false, false)).await.map_err(call("enable", unit))?;
        self.reload_anyway(&manager, unit).await?;
        self.job(&manager, Verb::Start, unit, limit).await
    }

    /// Stops a unit, now and at every boot.
    ///
    /// # Errors
    /// When it does not stop within `limit`.
    pub async fn disable(&self, unit: &str, limit: Duration) -> Result<(), UnitError> {
        let manager = self.manager().await.map_err(call("find", unit))?;
        if self.file_state(unit).await?.is_some_and(|state| state.starts_with("enabled")) {
            answered(manager.disable_unit_files(&[unit], false)).await.map_err(call("disable", unit))?;
            self.reload_anyway(&manager, unit).await?;
        }
        self.job(&manager, Verb::Stop, unit, limit).await
    }

    /// Lets a running unit read its files: by a reload where it knows how, else by a restart.
    ///
    /// # Errors
    /// When it is not done within `limit`.
    pub async fn reload_or_restart(&self, unit: &str, limit: Duration) -> Result<(), UnitError> {
        let manager = self.manager().await.map_err(call("find", unit))?;
        self.reload(&manager, unit).await?;
        self.job(&manager, Verb::ReloadOrTryRestart, unit, limit).await
    }

    /// Stops a unit, and waits until it has ended.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub async fn stop(&self, unit: &str, limit: Duration) -> Result<(), UnitError> {
        let manager = self.manager().await.map_err(call("find", unit))?;
        self.job(&manager, Verb::Stop, unit, limit).await
    }

    /// Has everything stopped that a target has not, as the targets of a shutdown do. Nothing can stop it any more when this returns.
    ///
    /// # Errors
    /// When systemd does not take the order.
    pub(crate) async fn begin(&self, target: &str) -> Result<(), UnitError> {
        let manager = self.manager().await.map_err(call("find", target))?;
        let begun = answered(manager.start_unit(target, "replace-irreversibly")).await;
        begun.map(drop).map_err(call("start", target))
    }

    /// Queues a job and waits for its end.
    async fn job(&self, manager: &ManagerProxy<'_>, verb: Verb, unit: &str, limit: Duration) -> Result<(), UnitError> {
        let action = verb.word();
        answered(manager.subscribe()).await.map_err(call("watch", unit))?;
        // Listening starts before the job does, or its end could be missed. Only this signal: systemd sends many, and a full
        // queue would hold back the answer. Not by a proxy, which wants the sender's bus name, and here there is no bus.
        let mut messages = signals(&self.connection, JOB_REMOVED).await.map_err(call("watch", unit))?;
        let job = answered(verb.of(manager, unit)).await.map_err(call(action, unit))?;
        let wait = async {
            loop {
                if let Some((ended, result)) = job_removed(&next(&mut messages).await?)
                    && ended == job
                {
                    return Some(result);
                }
            }
        };
        let result = timeout(limit, wait).await;
        let status = self.status(unit).await?.to_string();
        match result {
            Ok(Some(result)) if result == "done" => Ok(()),
            // Nothing ran that could have read anything.
            Ok(Some(result)) if result == "skipped" && matches!(verb, Verb::ReloadOrTryRestart) => Ok(()),
            Ok(result) => {
                let result = result.unwrap_or_else(|| "lost with the connection".to_owned());
                Err(UnitError::JobFailed { unit: unit.to_owned(), action, result, status })
            }
            Err(_) => Err(UnitError::Timeout { unit: unit.to_owned(), action, limit, status }),
        }
    }

    /// For a unit that says it is ready only much later: its process running is enough here.
    async fn restart_and_look(&self, manager: &ManagerProxy<'_>, unit: &str, limit: Duration) -> Result<(), UnitError> {
        let start = Instant::now();
        answered(manager.restart_unit(unit, "replace")).await.map_err(call("restart", unit))?;
        loop {
            let status = self.status(unit).await?;
            if status.is_started() {
                return Ok(());
            }
            if start.elapsed() > limit {
                return Err(UnitError::Timeout {
                    unit: unit.to_owned(),
                    action: "start",
                    limit,
                    status: status.to_string(),
                });
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn manager(&self) -> zbus::Result<ManagerProxy<'_>> {
        ManagerProxy::builder(&self.connection).cache_properties(CacheProperties::No).build().await
    }

    async fn read_status(&self, unit: &str) -> zbus::Result<UnitStatus> {
        let path = self.manager().await?.load_unit(unit).await?;
        let generic = UnitProxy::builder(&self.connection)
            .path(path.clone())?
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        let load = generic.load_state().await?;
        let service =
            ServiceProxy::builder(&self.connection).path(path)?.cache_properties(CacheProperties::No).build().await?;
        // Units that are not loaded, and units that are no services, have no such properties.
        let is_service = load == "loaded" && unit.ends_with(".service");
        Ok(UnitStatus {
            active: generic.active_state().await?,
            sub: generic.sub_state().await?,
            needs_reload: generic.need_daemon_reload().await?,
            result: if is_service { service.result().await? } else { String::new() },
            exit_status: if is_service { service.exec_main_status().await? } else { 0 },
            restarts: if is_service { service.n_restarts().await? } else { 0 },
            main_pid: if is_service { service.main_pid().await? } else { 0 },
            load,
        })
    }
}

/// systemd's word that some units have changed.
#[derive(Debug)]
pub struct Changes {
    messages: zbus::MessageStream,
    paths: Vec<OwnedObjectPath>,
}

impl Changes {
    /// Listens on a connection of its own, so that nobody else waits behind what is not heard yet.
    ///
    /// # Errors
    /// When systemd cannot be asked for them.
    pub async fn of(root: &Root, names: &[&str]) -> Result<Self, UnitError> {
        let units = Units::connect_for(root, &[PROPERTIES_CHANGED]).await?;
        let watch = names.first().copied().unwrap_or_default();
        let messages = signals(&units.connection, PROPERTIES_CHANGED).await.map_err(call("watch", watch))?;
        let manager = units.manager().await.map_err(call("watch", watch))?;
        answered(manager.subscribe()).await.map_err(call("watch", watch))?;
        let mut paths = Vec::new();
        for name in names {
            paths.push(answered(manager.load_unit(name)).await.map_err(call("find", name))?);
        }
        Ok(Self { messages, paths })
    }

    /// The place among the names of the next one that has changed; nothing when the connection is gone. Can be dropped at any point.
    pub async fn next(&mut self) -> Option<usize> {
        loop {
            let message = next(&mut self.messages).await?;
            let header = message.header();
            let changed = header.path().map(|path| path.as_str());
            if let Some(index) = self.paths.iter().position(|path| changed == Some(path.as_str())) {
                return Some(index);
            }
        }
    }
}

/// systemd's word for a unit that it has not loaded.
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// systemd's words for a unit without a file, by version.
fn is_no_file(error: &str) -> bool {
    ["org.freedesktop.DBus.Error.FileNotFound", NO_SUCH_UNIT].contains(&error)
}

async fn signals(connection: &zbus::Connection, member: &'static str) -> zbus::Result<zbus::MessageStream> {
    let rule = zbus::MatchRule::builder().msg_type(zbus::message::Type::Signal).member(member)?.build();
    zbus::MessageStream::for_match_rule(rule, connection, None).await
}

/// The next message, or nothing when the connection is gone.
async fn next(stream: &mut zbus::MessageStream) -> Option<zbus::Message> {
    use zbus::export::ordered_stream::OrderedStreamExt;
    stream.next().await?.ok()
}

/// The job and its result, when the message is systemd's signal that a job has ended.
fn job_removed(message: &zbus::Message) -> Option<(OwnedObjectPath, String)> {
    let header = message.header();
    if header.member().map(zbus::names::MemberName::as_str) != Some(JOB_REMOVED) {
        return None;
    }
    let (_, job, _, result): (u32, OwnedObjectPath, String, String) = message.body().deserialize().ok()?;
    Some((job, result))
}

/// No call waits for ever, even on a systemd that is stuck.
async fn answered<T>(call: impl Future<Output = zbus::Result<T>>) -> zbus::Result<T> {
    let late = || zbus::Error::InputOutput(std::sync::Arc::new(std::io::ErrorKind::TimedOut.into()));
    timeout(ANSWER_LIMIT, call).await.unwrap_or_else(|_| Err(late()))
}

fn call(action: &'static str, unit: &str) -> impl Fn(zbus::Error) -> UnitError {
    let unit = unit.to_owned();
    move |source| UnitError::Call { action, unit: unit.clone(), source: Box::new(source) }
}
