//! The watch over the node: sweeps each second, and at once when there is news; takes what was seen into the verdict; publishes.
//!
//! On a thread of its own with a runtime of its own. The guard may wait minutes for a disk or for systemd, and just then the verdict is
//! wanted. Repairs that it decides on are made by another ([`crate::repairs`]). What is known is kept on disk by yet another thread, which may hang; a restart of ours goes on from there.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use nap_host::imds::Imds;
use nap_host::root::Root;
use nap_host::watch::{Aside, KernelLog, Watch, since_boot};
use nap_host::{chain, observe, persist};
use nap_model::intent::{Ask, Intent};
use nap_model::monitor::{Tick, Verdict};
use nap_model::repair::Policy;
use nap_model::report::{AgentSeen, Identity, NodeHealth};
use nap_model::verdict::{State, Taken};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::context::Context;
use crate::http::{Asked, Health};
use crate::node_events::NodeEvents;
use crate::repairs::{Repairer, Wish};

/// Time between two sweeps.
const EVERY: Duration = Duration::from_secs(1);

/// Least time between two sweeps when there is news.
const AT_ONCE: Duration = Duration::from_millis(100);

/// What is known is kept at every change of the document, and at least so often.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// Longest wait for the disk before something new is said.
const SETTLE: Duration = Duration::from_millis(500);

/// What is kept on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kept {
    pub(crate) state: State,
    pub(crate) kept_at: Timestamp,
    pub(crate) boot_id: String,
    kernel_log: KernelLog,
}

/// Watches until the process ends.
pub(crate) fn start(
    context: &Context,
    health: Health,
    asked: Receiver<Asked>,
    events: Option<NodeEvents>,
    policy: Policy,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (root, imds) = (Arc::clone(&context.root), Arc::clone(&context.imds));
    let repairer = Repairer::start(&root, policy)?;
    let thread = std::thread::Builder::new().name("health".to_owned());
    thread.spawn(move || match runtime.block_on(watch(root, imds, health, asked, events, repairer)) {})?;
    Ok(())
}

async fn watch(
    root: Arc<Root>,
    imds: Arc<Imds>,
    health: Health,
    mut asked: Receiver<Asked>,
    events: Option<NodeEvents>,
    repairer: Repairer,
) -> Infallible {
    let mut keeper = Keeper::start(&root);
    let mut watcher = Watcher::new(&root, imds, health, events, repairer);
    let mut ticks = interval(EVERY);
    // After a pause of the machine one sweep is enough, and its lateness is what tells of the pause.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut not_before = Instant::now();
    loop {
        let mut answer = None;
        tokio::select! {
            // Each can be taken up again.
            _ = ticks.tick() => {}
            () = watcher.watch.has_news() => sleep_until(not_before).await,
            Some(asked) = asked.recv() => answer = Some((watcher.take_intent(&asked.intent), asked.answer)),
        }
        not_before = Instant::now() + AT_ONCE;
        let has_changed = watcher.sweep().await;
        keeper.keep(has_changed || answer.is_some(), || watcher.kept());
        if has_changed || answer.is_some() {
            // First on disk, then said: a restart right now must not take it back. A disk that hangs does not make us silent.
            keeper.settled().await;
            watcher.publish();
        }
        if let Some((taken, answer)) = answer {
            let _ = answer.send(taken); // who asked has gone
        }
    }
}

struct Watcher {
    root: Arc<Root>,
    watch: Watch,
    state: State,
    identity: Identity,
    agent: AgentSeen,
    health: Health,
    events: Option<NodeEvents>,
    repairer: Repairer,
    said: String,
}

/// Azure's id of the VM, as the boot learned it; empty before that.
fn vm_id(root: &Root) -> String {
    let facts = persist::read_facts(root).ok().flatten();
    facts.and_then(|facts| facts.instance).map(|instance| instance.vm_id).unwrap_or_default()
}

impl Watcher {
    fn new(root: &Arc<Root>, imds: Arc<Imds>, health: Health, events: Option<NodeEvents>, repairer: Repairer) -> Self {
        let boot_id = observe::boot_id(root).unwrap_or_else(|error| {
            warn!(error = chain(&error), "no boot id; what was known of the node's health is not taken over");
            String::new()
        });
        let kept: Kept = persist::read_health(root)
            .unwrap_or_else(|error| {
                warn!(error = chain(&error), "cannot read what was known of the node's health");
                None
            })
            .unwrap_or_default();
        let log = if kept.boot_id == boot_id { kept.kernel_log } else { KernelLog::default() };
        let now = Timestamp::now();
        let tick = Tick { since_boot: since_boot(), wall: now, late: Duration::ZERO };
        let kernel = root.read_text("/proc/sys/kernel/osrelease").ok().flatten();
        let mut state = kept.state.resume(&boot_id, tick);
        repairer.take_over(root, &mut state, tick);
        Self {
            root: Arc::clone(root),
            state,
            identity: Identity { name: String::new(), vm_id: vm_id(root), boot_id, kernel: kernel.unwrap_or_default() },
            agent: AgentSeen { version: env!("CARGO_PKG_VERSION").to_owned(), started_at: now },
            watch: Watch::start(Arc::clone(root), imds, log),
            health,
            events,
            repairer,
            said: String::new(),
        }
    }

    /// Takes in what was seen. True when there is something new to say.
    async fn sweep(&mut self) -> bool {
        if let Some(gpus) = self.health.take_gpus() {
            self.watch.expect_gpus(gpus);
        }
        let mut observed = self.watch.sweep(EVERY).await;
        observed.drift = self.health.take_drift();
        observed.unmounted = self.health.take_unmounted();
        for line in &observed.kernel_lines {
            info!(finding = line.name, "the kernel says: {line}");
        }
        self.repairer.tell(&mut self.state, observed.tick);
        let mut has_changed = self.state.advance(&observed);
        if self.repairer.go_on(&mut self.state, observed.tick) == Wish::DiskProbe {
            self.watch.look_at_disks();
        }
        if let Some(name) = self.health.take_node_name() {
            has_changed |= name != self.identity.name;
            self.identity.name = name;
            self.identity.vm_id = vm_id(&self.root);
        }
        // They come to stand by the time alone, too.
        has_changed |= !self.health.shares(self.state.shared_conditions().as_deref());
        if self.state.is_to_be_powered_off() {
            self.repairer.power_off();
        }
        self.tell_events();
        self.health.swept(self.watch.kernel_log());
        has_changed || self.said.is_empty()
    }

    /// Before the Node's name is known there is nobody to tell of.
    fn tell_events(&mut self) {
        if self.identity.name.is_empty() {
            return;
        }
        for event in self.state.take_node_events() {
            if let Some(events) = &self.events {
                let _ = events.try_send((self.identity.name.clone(), event)); // too many wait already
            }
        }
    }

    fn take_intent(&mut self, intent: &Intent) -> Result<Taken, String> {
        let tick = Tick { since_boot: since_boot(), wall: Timestamp::now(), late: Duration::ZERO };
        let taken = self.state.take_intent(intent, &self.identity.vm_id, tick)?;
        if taken == Taken::Now && intent.ask == Ask::CollectDiagnostics {
            self.repairer.keep_evidence("Intent");
        }
        Ok(taken)
    }

    fn publish(&mut self) {
        let current = self.state.current();
        let said = format!("{:?} {}", current.state, current.reason.as_deref().unwrap_or_default());
        if said != self.said {
            let reason = current.reason.as_deref().unwrap_or_default();
            info!(verdict = ?current.state, finding = reason, on = current.target, "health");
            if matches!(current.state, Verdict::NeedsReboot | Verdict::NeedsReplacement) {
                self.repairer.keep_evidence(reason);
            }
            self.said = said;
        }
        debug!(generation = self.state.generation(), "the document changed");
        self.health.publish(
            &NodeHealth::of(&self.state, &self.identity, &self.agent),
            &self.state,
            &self.identity.name,
        );
    }

    fn kept(&self) -> Kept {
        Kept {
            state: self.state.clone(),
            kept_at: Timestamp::now(),
            boot_id: self.identity.boot_id.clone(),
            kernel_log: self.watch.kernel_log(),
        }
    }
}

/// Writes what is known, on a thread that may hang.
struct Keeper {
    next: Arc<Mutex<Vec<u8>>>,
    work: Option<Aside<Result<(), String>>>,
    due: Instant,
    is_waiting: bool,
}

impl Keeper {
    fn start(root: &Arc<Root>) -> Self {
        let next = Arc::new(Mutex::new(Vec::new()));
        let (of_thread, root) = (Arc::clone(&next), Arc::clone(root));
        let work = Aside::start("health-state", Arc::default(), move || {
            let json = of_thread.lock().unwrap_or_else(PoisonError::into_inner).clone();
            persist::write_health(&root, &json).map_err(|error| chain(&error))
        });
        let work = work.map_err(|error| warn!(error = %error, "the node's health will not survive a restart")).ok();
        Self { next, work, due: Instant::now() + KEEP_EVERY, is_waiting: false }
    }

    /// Waits until what was to be kept is on disk, for a while.
    async fn settled(&self) {
        if let Some(work) = &self.work {
            let _ = timeout(SETTLE, work.back()).await; // it hangs, and will be kept when it does not
        }
    }

    fn keep(&mut self, has_changed: bool, kept: impl FnOnce() -> Kept) {
        let Some(work) = &self.work else { return };
        if let Some(Err(error)) = work.take() {
            warn!(error, "cannot keep what is known of the node's health");
        }
        self.is_waiting |= has_changed || Instant::now() >= self.due;
        // While an older one is being written the newest waits.
        if !self.is_waiting || work.away_for().is_some() {
            return;
        }
        let json = serde_json::to_vec(&kept()).expect("it is plain data with texts for keys");
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = json;
        work.ask();
        self.is_waiting = false;
        self.due = Instant::now() + KEEP_EVERY;
    }
}
