//! Keeps the conditions on the Node that its owner lets us share with others.
//!
//! Apart from our own ([`crate::conditions`]), because these are rare, urgent and not only ours: no pause and no heartbeat, but the Node is
//! read before each write. A file says that one of them may be on the Node by us, so it is taken away also when the setting has gone since.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nap_host::conditions::{self, ConditionError, Shared};
use nap_host::root::{FileError, Root};
use nap_host::{chain, persist, random};
use nap_model::repair::SharedConditions;
use nap_model::verdict::Condition;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::conditions::Backoff;
use crate::http::{Health, Published};

/// Longest wait before the first look at the Node when there is nothing to say.
const FIRST: Duration = Duration::from_secs(60);

/// How soon the Node is looked at again while there is bad news, give or take a fifth. Azure's Cluster Health Monitor takes what is half an hour
/// old away, whoever wrote it.
const AGAIN: Duration = Duration::from_secs(600);

/// How often a Node is read that is written to by others meanwhile.
const TRIES: usize = 5;

/// Longest wait for the disk.
const NOTE_LIMIT: Duration = Duration::from_secs(1);

/// Keeps them until the process ends, where the owner allows any or one may be left from when he did.
pub(crate) fn start(root: &Arc<Root>, health: &Health, allowed: SharedConditions) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (root, published) = (Arc::clone(root), health.subscribe());
    let thread = std::thread::Builder::new().name("shared-cond".to_owned());
    thread.spawn(move || {
        // A disk that does not say may have the note.
        let may_be_left = || persist::may_have_shared(&root).unwrap_or(true);
        if allowed != SharedConditions::default() || may_be_left() {
            match runtime.block_on(Keeper::new(OnNode::of(root), published).keep()) {}
        }
    })?;
    Ok(())
}

/// Takes ours off the Node: for a machine that the agent leaves. Returns which were there.
pub(crate) async fn take_away(root: &Root, node: &str) -> Result<Vec<&'static str>, ConditionError> {
    let mut tries = 0;
    let shared = loop {
        tries += 1;
        match conditions::share(root, node, &[]).await {
            // kubelet writes the Node, too.
            Err(ConditionError::Recreated(_)) if tries < TRIES => {}
            shared => break shared?,
        }
    };
    if let Err(error) = persist::note_shared(root, false) {
        warn!(error = chain(&error), "cannot forget what was on the Node; a guard that starts will look once more");
    }
    Ok(shared.changed)
}

/// Who has the Node.
trait Server {
    /// As [`conditions::share`], with a note of it.
    async fn share(&self, node: &str, wanted: &[Condition]) -> Result<Shared, ConditionError>;
}

/// By kubelet's credential below a root.
struct OnNode {
    root: Arc<Root>,
    /// The last note, which may not be on disk yet.
    note: Mutex<Option<JoinHandle<Result<(), FileError>>>>,
}

impl OnNode {
    fn of(root: Arc<Root>) -> Self {
        Self { root, note: Mutex::default() }
    }

    /// A disk that takes no note is often just what there is to say, and does not hold it up. While one is under way there is no other, so none
    /// comes after a later one.
    async fn note(&self, may_be: bool) {
        let root = Arc::clone(&self.root);
        let under_way = self.note.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut note = match under_way {
            Some(note) if !note.is_finished() => note,
            _ => spawn_blocking(move || persist::note_shared(&root, may_be)),
        };
        match timeout(NOTE_LIMIT, &mut note).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => warn!(error = chain(&error), "cannot note what is on the Node"),
            Ok(Err(_)) => warn!("the note of what is on the Node was lost"),
            Err(_) => {
                warn!("the disk does not take a note of what is on the Node");
                *self.note.lock().unwrap_or_else(PoisonError::into_inner) = Some(note);
            }
        }
    }
}

impl Server for OnNode {
    async fn share(&self, node: &str, wanted: &[Condition]) -> Result<Shared, ConditionError> {
        if !wanted.is_empty() {
            self.note(true).await;
        }
        let shared = conditions::share(&self.root, node, wanted).await?;
        if wanted.is_empty() {
            self.note(false).await;
        }
        Ok(shared)
    }
}

struct Keeper<S> {
    server: S,
    published: watch::Receiver<Arc<Published>>,
    left: Vec<&'static str>,
    backoff: Backoff,
}

impl<S: Server> Keeper<S> {
    fn new(server: S, published: watch::Receiver<Arc<Published>>) -> Self {
        Self { server, published, left: Vec::new(), backoff: Backoff::default() }
    }

    async fn keep(&mut self) -> Infallible {
        // Until there is a Node there is nothing to write to; the endpoint is gone when the process ends.
        let is_known = |now: &Arc<Published>| now.shared_conditions().is_some() && !now.node_name().is_empty();
        let is_calm = match self.published.wait_for(is_known).await {
            Ok(now) => is_empty(&now),
            Err(_) => std::future::pending().await,
        };
        if is_calm {
            let _ = timeout(random::up_to(FIRST), self.published.wait_for(|now| !is_empty(now))).await; // bad news comes first
        }
        let mut said: Vec<Condition> = Vec::new();
        loop {
            let news = self.published.borrow_and_update().clone();
            if let Some(wanted) = news.shared_conditions() {
                match self.server.share(news.node_name(), wanted).await {
                    Ok(shared) => self.take(wanted, shared),
                    // A server in trouble is not asked again before its time, whatever there is to say.
                    Err(error) => {
                        sleep(self.backoff.after(&error)).await;
                        continue;
                    }
                }
                said = wanted.to_vec();
            }
            // Bad news may be taken off by others, or others may leave: the Node is looked at again now and then. Good news is that there is none.
            let again = if said.is_empty() { Duration::MAX } else { random::about(AGAIN, 0.2) };
            let is_new = |now: &Arc<Published>| now.shared_conditions().is_some_and(|wanted| wanted != said);
            let _ = timeout(again, self.published.wait_for(is_new)).await; // whichever comes first; either can be taken up again
        }
    }

    /// Tells what is so now.
    fn take(&mut self, wanted: &[Condition], Shared { changed, left }: Shared) {
        self.backoff = Backoff::default();
        for kind in changed {
            let now = wanted.iter().find(|condition| condition.kind == kind);
            info!(kind, status = now.map(|condition| condition.status.to_string()), "shared condition written");
        }
        for kind in left.iter().filter(|kind| !self.left.contains(kind)) {
            warn!(kind, "another writer has this condition; it is left to him");
        }
        self.left = left;
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
        until(3000).await;
        let of = asked(200, 3000);
        assert_eq!(of[0], (200, 1), "at once");
        assert!((4..=7).contains(&of.len()), "and now and then, as others may take it away: {of:?}");
        published.send_replace(news(false));
        until(6000).await;
        assert_eq!(asked(3000, 6000), [(3000, 0)], "and then no more");

        *node.answer.lock().unwrap() = Ok(Shared { changed: Vec::new(), left: vec![NODE_HEALTHY] });
        published.send_replace(news(true));
        for _ in 0..30 {
            sleep(Duration::from_secs(100)).await;
            published.send_replace(news(true));
        }
        assert!((4..=7).contains(&asked(6000, 9000).len()), "what else is new is no reason: {:?}", asked(6000, 9000));

        *node.answer.lock().unwrap() = Err(());
        published.send_replace(news(false));
        until(9600).await;
        published.send_replace(news(true));
        until(10_200).await;
        assert!((2..=40).contains(&asked(9001, 10_200).len()), "{:?}", asked(9001, 10_200));
    }
}
