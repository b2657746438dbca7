//! Keeps the conditions on the Node that its owner lets us share with others.
//!
//! Apart from our own ([`crate::conditions`]), because these are rare, urgent and not only ours: no pause and no heartbeat, but the Node is
//! read before each write. A file says that one of them may be on the Node by us, so it is taken away also when the setting has gone since.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use nap_host::conditions::{self, ConditionError, Shared};
use nap_host::root::Root;
use nap_host::{chain, persist, random};
use nap_model::repair::SharedConditions;
use nap_model::verdict::Condition;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::conditions::Backoff;
use crate::http::{Health, Published};

/// Longest wait before the first look at the Node when there is nothing to say.
const FIRST: Duration = Duration::from_secs(60);

/// How soon it is looked again whether another writer has left, give or take a fifth. Azure's Cluster Health Monitor takes its own away after
/// half an hour.
const LEFT: Duration = Duration::from_secs(600);

/// Longest wait for the disk.
const NOTE_LIMIT: Duration = Duration::from_secs(1);

/// Keeps them until the process ends, where the owner allows any or one may be left from when he did.
pub(crate) fn start(root: &Arc<Root>, health: &Health, allowed: SharedConditions) -> anyhow::Result<()> {
    if allowed == SharedConditions::default() && !persist::may_have_shared(root)? {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut keeper = Keeper::new(Arc::clone(root), health.subscribe());
    let thread = std::thread::Builder::new().name("shared-cond".to_owned());
    thread.spawn(move || match runtime.block_on(keeper.keep()) {})?;
    Ok(())
}

/// Takes ours off the Node: for a machine that the agent leaves.
pub(crate) async fn take_away(root: &Root, node: &str) -> anyhow::Result<()> {
    conditions::share(root, node, &[]).await?;
    Ok(persist::note_shared(root, false)?)
}

/// Who has the Node.
trait Server {
    /// As [`conditions::share`], with a note of it.
    async fn share(&self, node: &str, wanted: &[Condition]) -> Result<Shared, ConditionError>;
}

/// By kubelet's credential below a root.
impl Server for Arc<Root> {
    async fn share(&self, node: &str, wanted: &[Condition]) -> Result<Shared, ConditionError> {
        if !wanted.is_empty() {
            note(self, true).await;
        }
        let shared = conditions::share(self, node, wanted).await?;
        if wanted.is_empty() {
            note(self, false).await;
        }
        Ok(shared)
    }
}

/// A disk that takes no note is often just what there is to say, and does not hold it up.
async fn note(root: &Arc<Root>, may_be: bool) {
    let root = Arc::clone(root);
    let noted = spawn_blocking(move || persist::note_shared(&root, may_be));
    match timeout(NOTE_LIMIT, noted).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => warn!(error = chain(&error), "cannot note what is on the Node"),
        Ok(Err(_)) | Err(_) => warn!("the disk does not take a note of what is on the Node"),
    }
}

struct Keeper<S> {
    server: S,
    published: watch::Receiver<Arc<Published>>,
    /// What we know to be so on the Node.
    on_node: Option<Vec<Condition>>,
    left: Vec<&'static str>,
    backoff: Backoff,
}

impl<S: Server> Keeper<S> {
    fn new(server: S, published: watch::Receiver<Arc<Published>>) -> Self {
        Self { server, published, on_node: None, left: Vec::new(), backoff: Backoff::default() }
    }

    async fn keep(&mut self) -> Infallible {
        let is_calm = |now: &Arc<Published>| now.shared_conditions().is_some_and(<[_]>::is_empty);
        // Until there is a Node there is nothing to write to; the endpoint is gone when the process ends.
        let is_known = |now: &Arc<Published>| now.shared_conditions().is_some() && !now.node_name().is_empty();
        let is_calm = match self.published.wait_for(is_known).await {
            Ok(now) => is_calm(&now),
            Err(_) => std::future::pending().await,
        };
        if is_calm {
            let _ = timeout(random::up_to(FIRST), self.published.wait_for(|now| !is_empty(now))).await; // bad news comes first
        }
        loop {
            let news = self.published.borrow_and_update().clone();
            let wanted = news.shared_conditions().filter(|wanted| self.on_node.as_deref() != Some(*wanted));
            let again = match wanted {
                None => None,
                Some(wanted) => match self.server.share(news.node_name(), wanted).await {
                    Ok(shared) => self.take(wanted, shared),
                    // A server in trouble is not asked again before its time, whatever there is to say.
                    Err(error) => {
                        sleep(self.backoff.after(&error)).await;
                        continue;
                    }
                },
            };
            match again {
                // Whichever comes first; either can be taken up again.
                Some(pause) => drop(timeout(pause, self.published.changed()).await),
                None => drop(self.published.changed().await),
            }
        }
    }

    /// What is so now, and after which time to look again.
    fn take(&mut self, wanted: &[Condition], Shared { changed, left }: Shared) -> Option<Duration> {
        self.backoff = Backoff::default();
        for kind in changed {
            let now = wanted.iter().find(|condition| condition.kind == kind);
            info!(kind, status = now.map(|condition| condition.status.to_string()), "shared condition written");
        }
        for kind in left.iter().filter(|kind| !self.left.contains(kind)) {
            warn!(kind, "another writer has this condition; it is left to him");
        }
        self.left = left;
        self.on_node = self.left.is_empty().then(|| wanted.to_vec());
        (!self.left.is_empty()).then(|| random::about(LEFT, 0.2))
    }
}

fn is_empty(now: &Published) -> bool {
    now.shared_conditions().is_none_or(<[_]>::is_empty)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use jiff::Timestamp;
    use nap_model::verdict::{ConditionStatus, NODE_HEALTHY};
    use tokio::task::{LocalSet, spawn_local};
    use tokio::time::Instant;

    use super::*;

    /// A Node: what was asked for and when, in seconds, and what comes of it.
    struct Pretend {
        start: Instant,
        asked: Mutex<Vec<(u64, usize)>>,
        answer: Mutex<Result<Shared, ()>>,
    }

    impl Server for Arc<Pretend> {
        async fn share(&self, _node: &str, wanted: &[Condition]) -> Result<Shared, ConditionError> {
            self.asked.lock().unwrap().push((self.start.elapsed().as_secs(), wanted.len()));
            self.answer.lock().unwrap().clone().map_err(|()| ConditionError::Failed("refused".to_owned()))
        }
    }

    fn news(is_bad: bool) -> Arc<Published> {
        let bad = Condition {
            kind: NODE_HEALTHY.to_owned(),
            status: ConditionStatus::False,
            reason: "r".to_owned(),
            message: "m".to_owned(),
            last_transition_time: Timestamp::UNIX_EPOCH,
        };
        Arc::new(Published::sharing("node", Some(if is_bad { vec![bad] } else { Vec::new() })))
    }

    #[tokio::test(start_paused = true)]
    async fn bad_news_go_at_once_and_another_writer_is_looked_after_now_and_then() {
        LocalSet::new().run_until(lives()).await;
    }

    async fn lives() {
        let answer = Mutex::new(Ok(Shared::default()));
        let node = Arc::new(Pretend { start: Instant::now(), asked: Mutex::default(), answer });
        let (published, receiver) = watch::channel(Arc::new(Published::sharing("node", None)));
        let mut keeper = Keeper::new(Arc::clone(&node), receiver);
        spawn_local(async move { keeper.keep().await });
        let until = async |seconds: u64| tokio::time::sleep_until(node.start + Duration::from_secs(seconds)).await;
        let asked = |from: u64, to: u64| {
            let asked = node.asked.lock().unwrap();
            asked.iter().filter(|(at, _)| (from..to).contains(at)).copied().collect::<Vec<_>>()
        };

        until(100).await;
        assert_eq!(asked(0, 100), [], "before anything is verified, what is on the Node stands");
        published.send_replace(news(false));
        until(200).await;
        assert_eq!(asked(100, 200).len(), 1, "what an earlier run left is looked for once");
        published.send_replace(news(true));
        until(300).await;
        assert_eq!(asked(200, 300), [(200, 1)], "at once, and once");
        published.send_replace(news(false));
        until(400).await;
        assert_eq!(asked(300, 400), [(300, 0)]);

        *node.answer.lock().unwrap() = Ok(Shared { changed: Vec::new(), left: vec![NODE_HEALTHY] });
        published.send_replace(news(true));
        until(4000).await;
        assert!((5..=9).contains(&asked(400, 4000).len()), "{:?}", asked(400, 4000));
        *node.answer.lock().unwrap() = Ok(Shared::default());
        until(4800).await;
        let settled = asked(4000, 4800).len();
        until(9000).await;
        assert_eq!((settled, asked(4800, 9000)), (1, Vec::new()), "it is ours now");

        *node.answer.lock().unwrap() = Err(());
        published.send_replace(news(false));
        until(9600).await;
        published.send_replace(news(true));
        until(10_200).await;
        assert!((2..=40).contains(&asked(9000, 10_200).len()), "{:?}", asked(9000, 10_200));
    }
}
