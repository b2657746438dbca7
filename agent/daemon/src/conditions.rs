//! Keeps our NodeConditions on the Node, and the API server unbothered.
//!
//! A write happens when a condition changed, and every half hour or so. After a start the Node is read once and written to only where it
//! differs. When the server fails, full jitter from a second to five minutes: five thousand nodes that lost their server together do not
//! come back together. A thread of its own, because kubelet's credential is read from a disk that may hang.

use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use nap_host::api::NodeError;
use nap_host::conditions::{self, ConditionError};
use nap_host::root::Root;
use nap_host::{chain, persist, random};
use nap_model::plan::node_name;
use nap_model::verdict::{Condition, ConditionStatus, condition_types};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::context::{Context, config_of};
use crate::http::{Health, Published};
use crate::shared_conditions;

/// Least time between two writes.
const LEAST: Duration = Duration::from_secs(10);

/// Time between two writes of what has not changed, give or take a fifth.
const HEARTBEAT: Duration = Duration::from_secs(30 * 60);

/// Longest wait before the first look at the Node, unless there is bad news.
const FIRST: Duration = Duration::from_secs(60);

const LEAST_BACKOFF: Duration = Duration::from_secs(1);
const MOST_BACKOFF: Duration = Duration::from_secs(300);

/// Writes until the process ends.
pub(crate) fn start(root: &Arc<Root>, health: &Health) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let root = Arc::clone(root);
    let published = health.subscribe();
    let thread = std::thread::Builder::new().name("conditions".to_owned());
    thread.spawn(move || {
        let mut writer = Writer::new(root, published);
        match runtime.block_on(writer.keep()) {}
    })?;
    Ok(())
}

/// Takes them off the Node: for a machine that the agent leaves. Nobody would change them any more.
pub(crate) async fn remove(context: &Context, out: &mut impl Write) -> anyhow::Result<u8> {
    let Some(facts) = persist::read_facts(&context.root)? else {
        writeln!(out, "this machine has not booted as a node: there is no Node to take conditions from")?;
        return Ok(0);
    };
    let found = context.look_for().await?;
    let node = node_name(config_of(&found)?, &facts)?;
    let gone = |error: &ConditionError| {
        matches!(error, ConditionError::Node(NodeError::NoKubeconfig | NodeError::NotFound(_)))
    };
    // One does not hold the other up.
    let own = conditions::remove(&context.root, node.as_str(), &condition_types()).await;
    let shared = shared_conditions::take_away(&context.root, node.as_str()).await;
    match own.and_then(|own| Ok([own, shared?].concat())) {
        Ok(removed) if removed.is_empty() => writeln!(out, "{node}: no condition of the agent was there")?,
        Ok(removed) => writeln!(out, "{node}: removed {}", removed.join(", "))?,
        Err(error) if gone(&error) => writeln!(out, "{error}: there is nothing to take conditions from")?,
        Err(error) => {
            return Err(anyhow::Error::new(error).context(format!("conditions of {node} stay as they are")));
        }
    }
    Ok(0)
}

/// Who has the Node.
trait Server {
    /// As [`conditions::missing`].
    async fn missing(&self, node: &str, wanted: &[Condition]) -> Result<(String, Vec<Condition>), ConditionError>;
    /// As [`conditions::write`].
    async fn write(&self, node: &str, uid: &str, conditions: &[Condition]) -> Result<(), ConditionError>;
}

/// By kubelet's credential below a root.
impl Server for Arc<Root> {
    async fn missing(&self, node: &str, wanted: &[Condition]) -> Result<(String, Vec<Condition>), ConditionError> {
        conditions::missing(self, node, wanted).await
    }

    async fn write(&self, node: &str, uid: &str, conditions: &[Condition]) -> Result<(), ConditionError> {
        conditions::write(self, node, uid, conditions).await
    }
}

struct Writer<S> {
    server: S,
    published: watch::Receiver<Arc<Published>>,
    /// Of the Node that was read.
    uid: Option<String>,
    /// What we know to be on it.
    on_node: Vec<Condition>,
    backoff: Backoff,
}

/// How often in a row the server failed us.
#[derive(Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl<S: Server> Writer<S> {
    fn new(server: S, published: watch::Receiver<Arc<Published>>) -> Self {
        Self { server, published, uid: None, on_node: Vec::new(), backoff: Backoff::default() }
    }

    async fn keep(&mut self) -> Infallible {
        // Until there is a Node there is nothing to write to, and no credential.
        let news = self.news().await;
        if news.conditions().iter().all(|condition| condition.status != ConditionStatus::False) {
            sleep(random::up_to(FIRST)).await;
        }
        let mut heartbeat = next_heartbeat();
        loop {
            let news = self.published.borrow_and_update().clone();
            let is_heartbeat = Instant::now() >= heartbeat;
            let pause = match self.write(&news, is_heartbeat).await {
                Ok(count) => {
                    self.backoff = Backoff::default();
                    if is_heartbeat {
                        heartbeat = next_heartbeat();
                    }
                    if count == 0 { Duration::ZERO } else { LEAST }
                }
                Err(error) => {
                    if matches!(error, ConditionError::Recreated(_)) {
                        self.uid = None;
                    }
                    self.backoff.after(&error)
                }
            };
            sleep(pause).await;
            if self.backoff.failures == 0 {
                // Whichever comes first; either can be taken up again.
                let _ = timeout(heartbeat.saturating_duration_since(Instant::now()), self.published.changed()).await;
            }
        }
    }

    /// The first document with conditions in it.
    async fn news(&mut self) -> Arc<Published> {
        match self.published.wait_for(|now| !now.conditions().is_empty() && !now.node_name().is_empty()).await {
            Ok(now) => Arc::clone(&now),
            // The endpoint is gone: the process ends.
            Err(_) => std::future::pending().await,
        }
    }

    /// Writes what the Node has not, or everything; returns how many.
    async fn write(&mut self, news: &Published, is_heartbeat: bool) -> Result<usize, ConditionError> {
        let (node, wanted) = (news.node_name(), news.conditions());
        if node.is_empty() || wanted.is_empty() {
            return Ok(0);
        }
        let (uid, missing) = match &self.uid {
            Some(uid) => {
                let is_new = |one: &&Condition| is_heartbeat || !self.on_node.contains(one);
                (uid.clone(), wanted.iter().filter(is_new).cloned().collect())
            }
            None => self.server.missing(node, wanted).await?,
        };
        if !missing.is_empty() {
            self.server.write(node, &uid, &missing).await?;
            for one in &missing {
                info!(kind = one.kind, status = %one.status, finding = one.reason, "condition written");
            }
        }
        self.uid = Some(uid);
        self.on_node = wanted.to_vec();
        Ok(missing.len())
    }
}

impl Backoff {
    /// How long to wait after a failure.
    pub(crate) fn after(&mut self, error: &ConditionError) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let backoff = (LEAST_BACKOFF * 2u32.saturating_pow(self.failures)).min(MOST_BACKOFF);
        // Once is nothing to tell anybody.
        if self.failures == 3 {
            warn!(error = chain(error), "cannot write the node's conditions; trying again");
        } else {
            debug!(error = chain(error), failures = self.failures, "conditions not written");
        }
        match error {
            ConditionError::Forbidden(_) => MOST_BACKOFF + random::up_to(MOST_BACKOFF),
            ConditionError::Busy(wait) => *wait + random::up_to(backoff),
            ConditionError::Node(_) | ConditionError::Recreated(_) | ConditionError::Failed(_) => {
                random::up_to(backoff)
            }
        }
    }
}

fn next_heartbeat() -> Instant {
    Instant::now() + random::about(HEARTBEAT, 0.2)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use jiff::Timestamp;
    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    const NODES: usize = 5000;
    const MINUTE: u64 = 60;

    /// A server that counts what each second brings, and is away at times.
    struct Counting {
        start: Instant,
        seconds: Mutex<Vec<u32>>,
        is_down: AtomicBool,
    }

    impl Counting {
        fn ask(&self) -> Result<(), ConditionError> {
            let second = usize::try_from(self.start.elapsed().as_secs()).unwrap();
            let mut seconds = self.seconds.lock().unwrap();
            let length = seconds.len().max(second + 1);
            seconds.resize(length, 0);
            seconds[second] += 1;
            if self.is_down.load(Ordering::Relaxed) {
                return Err(ConditionError::Failed("connection refused".to_owned()));
            }
            Ok(())
        }

        /// Requests a second on average, and in the busiest second, from one minute to another.
        fn rate(&self, from: u64, to: u64) -> (f64, u32) {
            let seconds = self.seconds.lock().unwrap();
            let of =
                (from * MINUTE..to * MINUTE).map(|at| seconds.get(usize::try_from(at).unwrap()).copied().unwrap_or(0));
            (f64::from(of.clone().sum::<u32>()) / ((to - from) * MINUTE) as f64, of.max().unwrap_or(0))
        }
    }

    impl Server for Arc<Counting> {
        async fn missing(&self, _node: &str, wanted: &[Condition]) -> Result<(String, Vec<Condition>), ConditionError> {
            self.ask().map(|()| ("uid".to_owned(), wanted.to_vec()))
        }

        async fn write(&self, _node: &str, _uid: &str, _conditions: &[Condition]) -> Result<(), ConditionError> {
            self.ask()
        }
    }

    fn news(status: ConditionStatus) -> Arc<Published> {
        let condition = Condition {
            kind: "NapRuntimeReady".to_owned(),
            status,
            reason: "r".to_owned(),
            message: "m".to_owned(),
            last_transition_time: Timestamp::UNIX_EPOCH,
        };
        Arc::new(Published::of("node", vec![condition]))
    }

    /// What the facts (7.1) promise of five thousand nodes, in a time of its own: all start at once, are left alone for an hour, lose the server
    /// for ten minutes in which each has something new to say, and have it back.
    #[tokio::test(start_paused = true)]
    async fn five_thousand_nodes_leave_the_server_alone() {
        LocalSet::new().run_until(fleet()).await;
    }

    async fn fleet() {
        let server = Counting { start: Instant::now(), seconds: Mutex::default(), is_down: AtomicBool::new(false) };
        let server = Arc::new(server);
        let mut nodes = Vec::new();
        for _ in 0..NODES {
            let (published, receiver) = watch::channel(news(ConditionStatus::True));
            let mut writer = Writer::new(Arc::clone(&server), receiver);
            spawn_local(async move { writer.keep().await });
            nodes.push(published);
        }
        let until =
            async |minute: u64| tokio::time::sleep_until(server.start + Duration::from_secs(minute * MINUTE)).await;
        until(70).await;
        let started = server.rate(0, 1);
        let steady = server.rate(10, 70);

        server.is_down.store(true, Ordering::Relaxed);
        // Each learns of it within half a minute, as the watch asks.
        for published in &nodes {
            let (published, wait) = (published.clone(), random::up_to(Duration::from_secs(30)));
            spawn_local(async move {
                sleep(wait).await;
                published.send_replace(news(ConditionStatus::Unknown));
            });
        }
        until(80).await;
        let (first, later) = (server.rate(70, 71), server.rate(75, 80));
        server.is_down.store(false, Ordering::Relaxed);
        until(100).await;
        let (back, after) = (server.rate(80, 86), server.rate(87, 100));
        assert!(started.1 <= 300, "{started:?}");
        assert!(steady.0 <= 3.1 && steady.1 <= 40, "{steady:?}");
        assert!(first.1 <= 1200 && later.0 <= 40.0, "{first:?} {later:?}");
        assert!(back.0 <= 20.0 && back.1 <= 60, "{back:?}");
        assert!(after.0 <= 5.0, "all have written, and are left alone again: {after:?}");
    }
}
