//! Looks at the machine, each thing in its own time, and starts no program for it.
//!
//! [`Watch::sweep`] never waits. What answers late is a task, and what may hang with a disk is a thread; a sweep takes what has come back.
//! When the kernel or systemd says something, what it is about is looked at at once, which is all that their words can do.

mod aside;
mod filesystems;
mod gpus;
pub(crate) mod kmsg;
mod proc;
mod services;
mod smart;
mod streamed_devices;
mod unit_changes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nap_model::config::ApiServer;
use nap_model::facts::Certificate;
use nap_model::monitor::kernel_line::Topic;
use nap_model::monitor::{
    Answer, BootSeen, CONTAINERD, FABRIC_MANAGER, GPU_SERVICES, GpusExpected, History, ImagesSeen, KUBELET, Observed,
    RuntimeCondition, SYSTEM_SERVICES, ScheduledEvent, Seen, Tick, Used, WriteSeen, media_errors_of,
};
use nap_model::os::STREAMING_SNAPSHOTTER;
use nap_model::plan::SNAPSHOTTER_SOCKET;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::imds::Imds;
use crate::root::Root;
use crate::routes::Routes;
use crate::units::UnitStatus;
use crate::{api, chain, observe, persist, snapshotter};
pub use aside::Aside;
use filesystems::Filesystems;
pub(crate) use filesystems::space;
use gpus::Gpus;
use kmsg::Kmsg;
use proc::StuckTasks;
use smart::Smart;
use streamed_devices::StreamedDevices;
use unit_changes::UnitChanges;

/// containerd's socket.
pub(crate) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// What kubelet runs with.
const KUBELET_CONFIG: &str = "/etc/default/kubeletconfig.json";
/// What containerd runs with.
pub(crate) const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";
const KUBECONFIG: &str = "/var/lib/kubelet/kubeconfig";

/// Whose units are followed, and how often each is looked at when systemd says nothing.
const UNITS: [(&str, Duration); 9] = {
    let [a, b, c, d] = SYSTEM_SERVICES;
    let [e, f] = GPU_SERVICES;
    [
        (KUBELET, SERVICES_EVERY),
        (CONTAINERD, SERVICES_EVERY),
        (STREAMING_SNAPSHOTTER, SERVICES_EVERY),
        (a, SYSTEM_EVERY),
        (b, SYSTEM_EVERY),
        (c, SYSTEM_EVERY),
        (d, SYSTEM_EVERY),
        (e, SYSTEM_EVERY),
        (f, SYSTEM_EVERY),
    ]
};
/// Least time between two looks at a unit, however often systemd says that it has changed.
const UNIT_LEAST: Duration = Duration::from_millis(250);

const SERVICES_EVERY: Duration = Duration::from_secs(10);
const SYSTEM_EVERY: Duration = Duration::from_secs(30);
/// systemd has given it up: a second look makes sure of it.
const FAILED_AGAIN: Duration = Duration::from_secs(1);
const CONDITIONS_EVERY: Duration = Duration::from_secs(30);
const FILES_EVERY: Duration = Duration::from_secs(5);
const WRITE_EVERY: Duration = Duration::from_secs(30);
/// For how long a file system that was bad is looked at more often, and how often.
const SUSPECT: Duration = Duration::from_secs(120);
const SUSPECT_EVERY: Duration = Duration::from_secs(6);
const DEVICES_EVERY: Duration = Duration::from_secs(15);
const COUNTERS_EVERY: Duration = Duration::from_secs(10);
const STUCK_EVERY: Duration = Duration::from_secs(20);
const SLOW_EVERY: Duration = Duration::from_secs(30);
const API_SERVER_EVERY: Duration = Duration::from_secs(30);
const EVENTS_EVERY: Duration = Duration::from_secs(1);

/// What the kernel's log gave so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KernelLog {
    /// The number of the next record.
    pub next: u64,
    /// Records read.
    pub records: u64,
    /// Records that were overwritten before they were read.
    pub lost: u64,
    /// Records that users wrote, which are not read.
    pub of_users: u64,
}

/// What is read of files that may lie on a hung disk.
#[derive(Debug)]
struct Files {
    boot: BootSeen,
    healthz_port: u16,
    api_server: Option<ApiServer>,
    certificate: Option<Certificate>,
    vm_name: Option<String>,
    /// `/etc/resolv.conf` names a server; nothing when it cannot be read.
    name_servers: Option<bool>,
    /// containerd is told of the snapshotter of artifact streaming, and uses it.
    streams: bool,
    /// containerd is told of it, and it may serve containers that are still there.
    knows_snapshotter: bool,
}

type Events = Result<(Vec<ScheduledEvent>, Option<i64>), String>;

/// Everything that looks. Needs a runtime with I/O and time.
#[derive(Debug)]
pub struct Watch {
    root: Arc<Root>,
    imds: Arc<Imds>,
    /// Told of whatever should not wait for the next sweep.
    news: Arc<Notify>,
    kmsg: Option<Kmsg>,
    last: Option<Instant>,
    urgent: BTreeSet<Topic>,
    filesystems: Filesystems,
    write: Turn,
    suspect_until: Option<Instant>,
    files: Option<Aside<Option<Files>>>,
    files_turn: Turn,
    known: Option<Files>,
    counters: Turn,
    slow: Option<Aside<BTreeMap<String, Used>>>,
    slow_turn: Turn,
    smart: Option<Smart>,
    routes: Routes,
    had_name_servers: bool,
    stuck: Turn,
    stuck_tasks: StuckTasks,
    units: [Asked<Result<UnitStatus, String>>; UNITS.len()],
    /// Main processes of kubelet and containerd.
    processes: Arc<Mutex<BTreeMap<&'static str, u32>>>,
    unit_changes: UnitChanges,
    /// Which of them systemd had given up at the last look.
    failures: [Failure; UNITS.len()],
    kubelet: Asked<Answer>,
    runtime: Asked<Answer>,
    conditions: Asked<Option<Vec<RuntimeCondition>>>,
    snapshotter: Asked<(Result<(), String>, Option<ImagesSeen>)>,
    /// It was asked before.
    streamed: bool,
    streamed_devices: Option<StreamedDevices>,
    devices_turn: Turn,
    gpus: Option<Gpus>,
    api_server: Asked<Result<(), String>>,
    events: Asked<Events>,
}

/// Least time between two looks, however much the kernel says.
const URGENT_EVERY: Duration = Duration::from_secs(2);

/// When something is looked at next.
#[derive(Debug)]
struct Turn {
    every: Duration,
    next: Instant,
    last: Option<Instant>,
}

impl Turn {
    fn every(every: Duration) -> Self {
        Self { every, next: Instant::now(), last: None }
    }

    fn has_come(&mut self) -> bool {
        let now = Instant::now();
        let has_come = now >= self.next;
        if has_come {
            self.next = now + self.every;
            self.last = Some(now);
        }
        has_come
    }

    /// At once; when the last look was a moment ago, as soon as it may be after that.
    fn hurry(&mut self, least: Duration) {
        let now = Instant::now();
        self.next = self.next.min(self.last.map_or(now, |last| last + least));
    }

    /// At the earliest then.
    fn not_before(&mut self, then: Instant) {
        self.next = self.next.max(then);
    }

    /// At the latest then.
    fn by(&mut self, then: Instant) {
        self.next = self.next.min(then);
    }
}

/// Since when a unit has been given up by systemd.
#[derive(Debug, Default)]
struct Failure {
    since: Option<Instant>,
}

impl Failure {
    /// When the look that makes sure of it is due. Looks before that one make sure of nothing, and after it he is asked in his turn.
    fn look_again(&mut self, is_failed: bool, now: Instant) -> Option<Instant> {
        self.since = is_failed.then(|| self.since.unwrap_or(now));
        self.since.map(|since| since + FAILED_AGAIN).filter(|then| *then > now)
    }
}

/// A question that is asked again and again, never twice at a time.
#[derive(Debug)]
struct Asked<T> {
    turn: Turn,
    task: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Asked<T> {
    fn every(every: Duration) -> Self {
        Self { turn: Turn::every(every), task: None }
    }

    /// The answer that has come since, and the next question when it is its turn.
    async fn take(&mut self, ask: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let answer = match self.task.take_if(|task| task.is_finished()) {
            Some(task) => task.await.ok(), // a question that panicked has no answer
            None => None,
        };
        if self.task.is_none() && self.turn.has_come() {
            self.task = Some(tokio::spawn(ask));
        }
        answer
    }
}

impl Watch {
    /// Starts to look; `log` is where an earlier run stopped reading the kernel's log in this boot.
    pub fn start(root: Arc<Root>, imds: Arc<Imds>, log: KernelLog) -> Self {
        let news = Arc::new(Notify::new());
        let kmsg = Kmsg::open(&root, log, Arc::clone(&news)).unwrap_or_else(|error| {
            warn!(error = chain(&error), "cannot follow the kernel's log; faults are seen at the next look instead");
            None
        });
        let of_thread = Arc::clone(&root);
        let files = Aside::start("files", Arc::default(), move || read_files(&of_thread));
        let files = files.map_err(|error| warn!(error = %error, "cannot read files")).ok();
        let processes: Arc<Mutex<BTreeMap<&'static str, u32>>> = Arc::default();
        let (of_thread, theirs) = (Arc::clone(&root), Arc::clone(&processes));
        let slow = Aside::start("limits", Arc::default(), move || {
            let processes = theirs.lock().unwrap_or_else(PoisonError::into_inner).clone();
            proc::slow_limits(&of_thread, &processes)
        });
        let slow = slow.map_err(|error| warn!(error = %error, "what takes long is not counted")).ok();
        Self {
            kmsg,
            last: None,
            urgent: BTreeSet::new(),
            filesystems: Filesystems::start(&root, &news),
            write: Turn::every(WRITE_EVERY),
            suspect_until: None,
            files,
            files_turn: Turn::every(FILES_EVERY),
            known: None,
            counters: Turn::every(COUNTERS_EVERY),
            slow,
            slow_turn: Turn::every(SLOW_EVERY),
            smart: None,
            routes: Routes::default(),
            had_name_servers: false,
            stuck: Turn::every(STUCK_EVERY),
            stuck_tasks: StuckTasks::default(),
            units: UNITS.map(|(_, every)| Asked::every(every)),
            processes,
            unit_changes: UnitChanges::start(&root, &news),
            failures: Default::default(),
            kubelet: Asked::every(SERVICES_EVERY),
            runtime: Asked::every(SERVICES_EVERY),
            conditions: Asked::every(CONDITIONS_EVERY),
            snapshotter: Asked::every(SERVICES_EVERY),
            streamed: false,
            streamed_devices: None,
            devices_turn: Turn::every(DEVICES_EVERY),
            gpus: None,
            api_server: Asked::every(API_SERVER_EVERY),
            events: Asked::every(EVENTS_EVERY),
            news,
            root,
            imds,
        }
    }

    /// Ends when something should not wait for the next sweep. Can be dropped at any point: the news waits.
    pub async fn has_news(&self) {
        self.news.notified().await;
    }

    /// Has every disk written to as soon as may be.
    pub fn look_at_disks(&mut self) {
        self.urgent.insert(Topic::Storage);
        self.news.notify_one();
    }

    /// GPUs that there should be are looked at from now on.
    pub fn expect_gpus(&mut self, expected: GpusExpected) {
        self.gpus = self.gpus.take().or_else(|| Gpus::start(&self.root, &self.news, expected));
    }

    /// How far the kernel's log was read.
    pub fn kernel_log(&self) -> KernelLog {
        self.kmsg.as_ref().map(Kmsg::log).unwrap_or_default()
    }

    /// What has been seen since the last sweep; `planned` is the time that should lie between two.
    pub async fn sweep(&mut self, planned: Duration) -> Observed {
        let kernel_lines = self.kmsg.as_ref().map(Kmsg::take).unwrap_or_default();
        self.urgent.extend(kernel_lines.iter().map(|line| line.topic));
        let mut seen = Observed { tick: self.tick(planned), kernel_lines, ..Observed::default() };
        self.see_files(&mut seen);
        self.see_storage(&mut seen);
        self.see_kernel(&mut seen);
        self.see_services(&mut seen).await;
        self.see_world(&mut seen).await;
        self.urgent.clear();
        seen
    }

    fn tick(&mut self, planned: Duration) -> Tick {
        let now = Instant::now();
        let late = self.last.replace(now).map(|last| (now - last).saturating_sub(planned));
        Tick { since_boot: since_boot(), wall: Timestamp::now(), late: late.unwrap_or_default() }
    }

    fn see_files(&mut self, seen: &mut Observed) {
        let Some(files) = &self.files else { return };
        if self.files_turn.has_come() {
            files.ask();
        }
        if let Some(Some(read)) = files.take() {
            seen.boot = Some(read.boot.clone());
            seen.client_certificate = read.certificate;
            // Below a root without any, nobody asks for names.
            self.had_name_servers |= read.name_servers == Some(true);
            seen.name_servers = read.name_servers.filter(|_| self.had_name_servers);
            self.known = Some(read);
        }
    }

    fn see_storage(&mut self, seen: &mut Observed) {
        if self.urgent.contains(&Topic::Storage) {
            self.write.hurry(URGENT_EVERY);
        }
        if self.write.has_come() {
            self.filesystems.ask();
        }
        seen.filesystems = self.filesystems.take();
        // What was bad is asked for again soon: a file system that refuses is known after two, and a good one after a minute.
        if seen.filesystems.iter().any(|seen| !matches!(seen.write, Some(WriteSeen::Done(_)) | None)) {
            self.suspect_until = Some(Instant::now() + SUSPECT);
        }
        if self.suspect_until.is_some_and(|until| Instant::now() < until) {
            self.write.by(Instant::now() + SUSPECT_EVERY);
        }
    }

    fn see_kernel(&mut self, seen: &mut Observed) {
        seen.pressure = proc::pressure(&self.root);
        let is_urgent = |topics: &[Topic]| topics.iter().any(|topic| self.urgent.contains(topic));
        if is_urgent(&[Topic::Storage, Topic::Kernel, Topic::Memory, Topic::Pids, Topic::Network]) {
            self.counters.hurry(URGENT_EVERY);
        }
        if is_urgent(&[Topic::Tasks]) {
            self.stuck.hurry(URGENT_EVERY);
        }
        if self.counters.has_come() {
            seen.counters = proc::counters(&self.root);
            seen.limits = proc::limits(&self.root);
            seen.busiest_cgroup = proc::busiest_cgroup(&self.root, &seen.limits);
            seen.tainted = proc::tainted(&self.root);
            seen.watchdogs = Some(proc::watchdogs(&self.root));
            seen.nvme = proc::nvme(&self.root);
            seen.canary = Some(canary());
            seen.missing_controllers = proc::missing_controllers(&self.root);
            seen.default_route = self.routes.look(&self.root);
        }
        let is_of_gpus = is_urgent(&[Topic::Gpus]);
        if let Some(gpus) = &mut self.gpus {
            if is_of_gpus {
                gpus.hurry();
            }
            (seen.gpus, seen.nvml) = gpus.take();
        }
        if self.stuck.has_come() {
            let stuck = self.stuck_tasks.look(&self.root);
            seen.stuck_tasks = Some(stuck);
            seen.limits.extend(proc::zombies(&self.root, self.stuck_tasks.zombies()));
        }
        if let Some(slow) = &self.slow {
            if self.slow_turn.has_come() {
                slow.ask();
            }
            seen.limits.extend(slow.take().unwrap_or_default());
        }
        if !seen.nvme.is_empty() && self.smart.is_none() {
            self.smart = Smart::start(&self.root);
        }
        if let Some(smart) = &mut self.smart {
            seen.smart = smart.take();
            let errors = seen.smart.iter().map(|(name, smart)| (media_errors_of(name), smart.media_errors));
            seen.counters.extend(errors.collect::<Vec<_>>());
        }
    }

    async fn see_services(&mut self, seen: &mut Observed) {
        let streams = self.known.as_ref().is_some_and(|known| known.streams);
        for (index, (asked, (name, _))) in self.units.iter_mut().zip(UNITS).enumerate() {
            let has_no_use = (name == STREAMING_SNAPSHOTTER && !streams)
                || (GPU_SERVICES.contains(&name) && self.gpus.is_none())
                || (name == FABRIC_MANAGER && !self.gpus.as_ref().is_some_and(Gpus::are_switched));
            if has_no_use {
                continue;
            }
            if self.unit_changes.take(index) {
                asked.turn.hurry(UNIT_LEAST);
            }
            let (root, news) = (Arc::clone(&self.root), Arc::clone(&self.news));
            let ask = async move {
                let status = services::unit(&root, name).await;
                if status.as_ref().is_ok_and(|status| status.active == "failed") {
                    news.notify_one();
                }
                status
            };
            let Some(status) = asked.take(ask).await else { continue };
            if let Ok(status) = &status {
                see_unit(&self.root, name, status, seen);
                if [KUBELET, CONTAINERD].contains(&name) {
                    self.processes.lock().unwrap_or_else(PoisonError::into_inner).insert(name, status.main_pid);
                }
                if let Some(then) = self.failures[index].look_again(status.active == "failed", Instant::now()) {
                    asked.turn.by(then);
                }
            }
            seen.units.insert(name.to_owned(), status.as_ref().map(services::unit_seen).map_err(Clone::clone));
        }
        let Some(port) = self.known.as_ref().map(|known| known.healthz_port) else { return };
        let socket = self.root.outside(CONTAINERD_SOCKET);
        let of_conditions = socket.clone();
        let is_strained = Seen { now: seen, history: &History::default() }.is_strained();
        seen.kubelet = self.kubelet.take(services::kubelet(port, is_strained)).await;
        seen.runtime = self.runtime.take(async move { services::runtime(&socket, is_strained).await }).await;
        let ask = async move { services::runtime_conditions(&of_conditions).await.ok() }; // Version says that it does not answer
        seen.runtime_conditions = self.conditions.take(ask).await.flatten();
        if streams {
            let (socket, containerd) = (self.root.outside(SNAPSHOTTER_SOCKET), self.root.outside(CONTAINERD_SOCKET));
            let look = async move { snapshotter::look(&socket, &containerd).await };
            if let Some((answer, images)) = self.snapshotter.take(look).await {
                (seen.snapshotter, seen.images) = (Some(answer), images);
            }
        } else if self.streamed {
            // The node has left streaming, and nobody waits for an answer.
            seen.snapshotter = Some(Ok(()));
        }
        // Those of containers are there until they end, also when the node has left streaming.
        self.streamed |= self.known.as_ref().is_some_and(|known| known.knows_snapshotter);
        if self.streamed {
            let (root, news) = (&self.root, &self.news);
            self.streamed_devices = self.streamed_devices.take().or_else(|| StreamedDevices::start(root, news));
            if let Some(devices) = &self.streamed_devices {
                if self.devices_turn.has_come() {
                    devices.ask();
                }
                seen.streamed_devices = devices.take();
                seen.streamed_caches = devices.take_caches();
            }
        }
    }

    async fn see_world(&mut self, seen: &mut Observed) {
        let Some(known) = &self.known else { return };
        if let Some(server) = known.api_server.clone() {
            let reach = async move { api::reach(&server).await.map_err(|error| chain(&error)) };
            seen.api_server = self.api_server.take(reach).await;
        }
        if let Some(vm_name) = known.vm_name.clone() {
            let imds = Arc::clone(&self.imds);
            let ask = async move { imds.scheduled_events(&vm_name).await };
            if let Some(answer) = self.events.take(ask).await {
                let ahead = answer.as_ref().ok().and_then(|(_, ahead)| *ahead);
                seen.clock_ahead_seconds = ahead.map(|ahead| ("IMDS".to_owned(), ahead)).into_iter().collect();
                seen.scheduled_events = Some(answer.map(|(events, _)| events));
            }
        }
    }
}

fn see_unit(root: &Root, name: &str, status: &UnitStatus, seen: &mut Observed) {
    seen.counters.insert(format!("restarts/{name}"), u64::from(status.restarts));
    if status.main_pid == 0 {
        return;
    }
    if let Some((process, cpu)) = proc::process(root, status.main_pid) {
        seen.processes.insert(name.to_owned(), process);
        seen.counters.insert(format!("cpu/{name}"), cpu);
    }
}

/// Time since the machine started, suspends included.
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default() // every Linux since 2.6.39 has it
}

/// Whether a thread can be started: who has no processes left cannot do even that.
fn canary() -> Result<(), String> {
    let thread = std::thread::Builder::new().name("canary".to_owned()).stack_size(16 * 1024).spawn(|| {});
    thread.map_err(|error| error.to_string())?.join().map_err(|_| "it panicked".to_owned())
}

/// Source: resolv.conf(5). No file is an answer: then programs ask a server on this machine, which there is not.
fn name_servers(root: &Root) -> Option<bool> {
    let text = root.read_text("/etc/resolv.conf").ok()?.unwrap_or_default();
    Some(text.lines().any(|line| line.split_ascii_whitespace().next() == Some("nameserver")))
}

fn read_files(root: &Root) -> Option<Files> {
    let boot_id = observe::boot_id(root).ok()?;
    let boot = match persist::read_complete_report(root).ok()? {
        Some(report) if report.boot_id != boot_id => BootSeen::Running,
        Some(report) if report.exit_code == "0" => BootSeen::Done,
        Some(report) => BootSeen::Failed(report.reason),
        None => BootSeen::Running,
    };
    let config: Value =
        serde_json::from_slice(&root.read(KUBELET_CONFIG).ok()?.unwrap_or_default()).unwrap_or_default();
    let port = config["healthzPort"].as_u64().and_then(|port| u16::try_from(port).ok());
    let kubeconfig = root.read_text(KUBECONFIG).ok()?.unwrap_or_default();
    let server = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("server:"));
    let facts = persist::read_facts(root).ok()?;
    let containerd = root.read_text(CONTAINERD_CONFIG).ok()?.unwrap_or_default();
    Some(Files {
        streams: containerd.lines().any(|line| line == "snapshotter = \"overlaybd\""),
        knows_snapshotter: containerd.lines().any(|line| line == "[proxy_plugins.overlaybd]"),
        name_servers: name_servers(root),
        boot,
        healthz_port: port.unwrap_or(nap_model::plan::HEALTHZ_PORT),
        api_server: server.and_then(|server| ApiServer::try_from(server.trim().trim_matches('"')).ok()),
        certificate: observe::client_certificate(root).ok()?,
        vm_name: facts.and_then(|facts| facts.instance).map(|instance| instance.name).filter(|name| !name.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_urgent_look_that_comes_too_soon_is_not_lost() {
        let mut turn = Turn::every(Duration::from_secs(3600));
        assert!(turn.has_come(), "the first is at once");
        turn.hurry(URGENT_EVERY);
        assert!(!turn.has_come(), "a moment ago");
        assert!(turn.next <= Instant::now() + URGENT_EVERY);
        turn.last = Instant::now().checked_sub(URGENT_EVERY);
        turn.hurry(URGENT_EVERY);
        assert!(turn.has_come());
        assert!(!turn.has_come());
    }

    #[test]
    fn a_look_in_between_does_not_put_off_the_one_that_makes_sure() {
        let mut failure = Failure::default();
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(failure.look_again(false, start), None);
        assert_eq!(failure.look_again(true, start), Some(start + FAILED_AGAIN));
        assert_eq!(
            failure.look_again(true, after(300)),
            Some(start + FAILED_AGAIN),
            "systemd said that something changed"
        );
        assert_eq!(failure.look_again(true, start + FAILED_AGAIN), None, "it stays failed");
        assert_eq!(failure.look_again(false, after(2000)), None);
        assert_eq!(failure.look_again(true, after(3000)), Some(after(3000) + FAILED_AGAIN), "another time");
    }
}
