//! Makes the repairs that the watch orders, on a thread of its own: a disk or systemd may keep it waiting, and the watch goes on meanwhile.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use nap_host::reboot::Then;
use nap_host::repairs::{self, NotBegun};
use nap_host::root::Root;
use nap_host::units::Units;
use nap_host::{bundle, chain, persist, reboot};
use nap_model::monitor::Tick;
use nap_model::repair::{Act, Attempt, Hold, Policy, Proposal, Proposed, Risk};
use nap_model::verdict::{Order, State};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, error, info, info_span, warn};

/// Longest time for what is written before a repair.
const DISK_LIMIT: Duration = Duration::from_secs(30);

/// What the thread is to do.
#[derive(Debug)]
enum Job {
    Repair(Order, Instant),
    Record(Attempt),
    /// Evidence is to be kept, for this reason.
    Bundle(String),
    /// Azure takes the machine away.
    PowerOff,
}

/// What the thread did.
#[derive(Debug)]
enum Told {
    Begun(Attempt),
    Refused(String),
    Ended(Result<(), String>),
}

/// What a decision waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Nothing,
    /// A write to every disk, now.
    DiskProbe,
}

/// The hands of the watch.
pub(crate) struct Repairer {
    policy: Policy,
    jobs: UnboundedSender<Job>,
    told: UnboundedReceiver<Told>,
    is_busy: bool,
    is_powered_off: bool,
}

/// What people allow. Nothing, when that cannot be understood: who wrote the file meant to forbid something.
pub(crate) fn policy(root: &Root, observe_only: bool) -> Policy {
    let read = persist::read_policy(root);
    let policy = read.unwrap_or_else(|why| {
        error!(error = why, "{} cannot be read; nothing is repaired", Policy::PATH);
        Policy::observe_only()
    });
    policy.or_observe_only(observe_only)
}

/// The same as the repair [`Act::LeaveStreaming`], by somebody's own hand.
pub(crate) async fn leave_streaming(root: &Root) -> anyhow::Result<()> {
    let act = Act::LeaveStreaming;
    let ready = match repairs::prepare(root, act).await {
        Ok(ready) => ready,
        Err(NotBegun::Refused(why) | NotBegun::CannotBegin(why)) => bail!("not now: {why}"),
    };
    ready.act(root, act, "", DISK_LIMIT).await.map_err(anyhow::Error::msg)
}

impl Repairer {
    pub(crate) fn start(root: &Arc<Root>, policy: Policy) -> std::io::Result<Self> {
        let (jobs, mut received) = unbounded_channel::<Job>();
        let (tell, told) = unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let root = Arc::clone(root);
        std::thread::Builder::new().name("repairs".to_owned()).spawn(move || {
            runtime.block_on(async {
                while let Some(job) = received.recv().await {
                    match job {
                        Job::Repair(order, at) => {
                            let span = info_span!("repair", repair = order.repair.name, attempt = order.attempt.id);
                            repair(&root, order, at, &tell).instrument(span).await;
                        }
                        Job::Record(attempt) => record(&root, &attempt),
                        Job::Bundle(why) => keep_evidence(&root, &why).await,
                        Job::PowerOff => power_off(&root).await,
                    }
                }
            });
        })?;
        Ok(Self { policy, jobs, told, is_busy: false, is_powered_off: false })
    }

    /// Tells the state what was tried before, and what is allowed.
    pub(crate) fn take_over(&self, root: &Root, state: &mut State, tick: Tick) {
        match repairs::shorten_journal(root).and_then(|()| repairs::read_journal(root)) {
            Ok(journal) => {
                state.learn(tick, journal);
                state.allow(self.policy.clone());
            }
            Err(error) => {
                error!(error = chain(&error), "what was repaired before is not known; nothing is repaired");
                state.allow(Policy::observe_only());
            }
        }
    }

    /// Tells the state what became of its last order.
    pub(crate) fn tell(&mut self, state: &mut State, tick: Tick) {
        while let Ok(told) = self.told.try_recv() {
            match told {
                Told::Begun(attempt) => state.repair_has_begun(attempt),
                Told::Refused(why) => {
                    self.is_busy = false;
                    state.repair_was_refused(why);
                }
                Told::Ended(result) => {
                    self.is_busy = false;
                    state.repair_has_acted(tick, result);
                }
            }
        }
    }

    /// Has the ends recorded, and gives out the next order when there is one.
    pub(crate) fn go_on(&mut self, state: &mut State, tick: Tick) -> Wish {
        for attempt in state.take_ended_repairs() {
            let ended = attempt.ended.as_ref();
            let (outcome, why) = (ended.map(|ended| ended.outcome), ended.map_or("", |ended| ended.detail.as_str()));
            info!(
                repair = attempt.repair,
                finding = attempt.reason,
                attempt = attempt.id,
                ?outcome,
                why,
                "repair ended"
            );
            self.send(Job::Record(attempt));
        }
        if self.is_busy {
            return Wish::Nothing;
        }
        let proposals = state.decide();
        if let Some(order) = proposals.iter().find_map(|proposal| state.order(proposal, tick)) {
            self.is_busy = true;
            self.send(Job::Repair(order, Instant::now()));
        }
        let waits = |proposal: &Proposal| matches!(proposal.what, Proposed::Hold(Hold::DiskNotProbed(_)));
        if proposals.iter().any(waits) { Wish::DiskProbe } else { Wish::Nothing }
    }

    /// Has the evidence of now kept: the node asks for what would take it away.
    pub(crate) fn keep_evidence(&self, why: &str) {
        self.send(Job::Bundle(why.to_owned()));
    }

    /// Has the machine shut down, once.
    pub(crate) fn power_off(&mut self) {
        if !std::mem::replace(&mut self.is_powered_off, true) {
            self.send(Job::PowerOff);
        }
    }

    fn send(&self, job: Job) {
        let _ = self.jobs.send(job); // the thread ends with the process
    }
}

/// One attempt: whether it may be made, its record, the act.
async fn repair(root: &Arc<Root>, order: Order, at: Instant, tell: &UnboundedSender<Told>) {
    let act = order.repair.act;
    let say = |told: Told| {
        let _ = tell.send(told); // the watch ends with the process
    };
    let ready = match repairs::prepare(root, act).await {
        Ok(ready) => ready,
        Err(NotBegun::Refused(why)) => {
            info!(finding = order.attempt.reason, why, "not begun");
            return say(Told::Refused(why));
        }
        Err(NotBegun::CannotBegin(why)) => {
            warn!(finding = order.attempt.reason, error = why, "cannot begin");
            return say(Told::Ended(Err(format!("it could not be begun: {why}"))));
        }
    };
    let attempt = order.attempt.begun_after(at.elapsed());
    // Before the act, or a crash of ours could hide it and give its budget back.
    match begin_record(root, &attempt).await {
        Ok(()) => {}
        Err(why) if order.is_granted => {
            warn!(error = why, "cannot record it; the grant is for this boot, and it is made")
        }
        Err(why) => {
            warn!(error = why, "cannot record it, so it is not made");
            return say(Told::Ended(Err(format!("it could not be recorded: {why}"))));
        }
    }
    let target = attempt.target.clone();
    info!(
        finding = attempt.reason,
        unit = act.unit(),
        on = target,
        evidence = attempt.evidence.join("; "),
        "repairing"
    );
    say(Told::Begun(attempt));
    // What a mild repair takes away is in the journal.
    if order.repair.risk > Risk::Low {
        keep_evidence(root, order.repair.name).await;
    }
    let result = ready.act(root, act, &target, order.repair.limit).await;
    match &result {
        Ok(()) => info!(took_ms = at.elapsed().as_millis(), "done; its signals have the word"),
        Err(error) => warn!(took_ms = at.elapsed().as_millis(), error, "failed"),
    }
    say(Told::Ended(result));
}

/// In order, so that pods are told to end.
async fn power_off(root: &Root) {
    let told = async {
        let units = Units::connect(root).await.map_err(|error| chain(&error))?;
        reboot::go_down(root, &units, Then::PowerOff).await
    };
    match told.await {
        Ok(()) => info!("Azure takes this VM away; shutting it down in order, as nap-agent.toml says"),
        Err(error) => error!(error, "Azure takes this VM away, and it cannot be shut down in order"),
    }
}

/// Records that an attempt begins; a disk that hangs must not keep the thread.
async fn begin_record(root: &Arc<Root>, attempt: &Attempt) -> Result<(), String> {
    let (root, attempt) = (Arc::clone(root), attempt.clone());
    in_time(move || repairs::record(&root, &attempt).map_err(|error| chain(&error))).await
}

async fn keep_evidence(root: &Arc<Root>, why: &str) {
    let (root, why, runtime) = (Arc::clone(root), why.to_owned(), Handle::current());
    let collected = move || runtime.block_on(bundle::collect(&root, &why)).map_err(|error| chain(&error));
    match in_time(collected).await {
        Ok(path) => info!(path, "evidence kept"),
        Err(error) => warn!(error, "cannot keep evidence"),
    }
}

/// Does what may hang on a disk, and gives it up when it does.
async fn in_time<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    match timeout(DISK_LIMIT, spawn_blocking(work)).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the disk did not take it in {} s", DISK_LIMIT.as_secs())),
    }
}

fn record(root: &Root, attempt: &Attempt) {
    if let Err(error) = repairs::record(root, attempt) {
        warn!(error = chain(&error), attempt = attempt.id, "cannot record how it ended; a restart verifies it again");
    }
}
