//! Sends Kubernetes Events: few, each once, and none that is old.
//!
//! A budget of ten and one more every three minutes: a fault that flickers must not fill the API server's store. While the server fails an event
//! waits, with full jitter, for ten minutes; then it is dropped, because the health document has said it all the while. On a thread of
//! its own, because kubelet's credential is read from a disk that may hang.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use nap_host::root::Root;
use nap_host::{node_events, random};
use nap_model::verdict::NodeEvent;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

const BURST: f64 = 10.0;
const REFILL: Duration = Duration::from_secs(180);

/// Oldest event that is still sent.
const MAX_AGE: Duration = Duration::from_secs(600);

const LEAST_BACKOFF: Duration = Duration::from_secs(1);
const MOST_BACKOFF: Duration = Duration::from_secs(120);

/// Events that wait; more are dropped.
const QUEUE: usize = 16;

/// An event, and the name of the Node that it is about.
type Named = (String, NodeEvent);

/// Where they are handed in.
pub(crate) type NodeEvents = Sender<Named>;

/// Sends until the process ends.
pub(crate) fn start(root: &Arc<Root>) -> anyhow::Result<NodeEvents> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let root = Arc::clone(root);
    let (sender, events) = channel(QUEUE);
    let thread = std::thread::Builder::new().name("events".to_owned());
    thread.spawn(move || runtime.block_on(send(&root, events)))?;
    Ok(sender)
}

async fn send(root: &Root, mut events: Receiver<Named>) {
    let mut budget = Budget { left: BURST, at: Instant::now() };
    while let Some((node, event)) = events.recv().await {
        if !budget.take(Instant::now()) {
            debug!(reason = event.reason, "no event: there were too many");
            continue;
        }
        send_one(root, &node, &event).await;
    }
}

async fn send_one(root: &Root, node: &str, event: &NodeEvent) {
    let mut backoff = LEAST_BACKOFF;
    loop {
        let error = match node_events::write(root, node, event).await {
            Ok(()) => return info!(reason = event.reason, message = event.message, "event written"),
            Err(error) => error,
        };
        let age = Timestamp::now().duration_since(event.at).unsigned_abs();
        if !error.may_do_later || age > MAX_AGE {
            return info!(reason = event.reason, error = error.why, "event dropped");
        }
        debug!(error = error.why, "event not written; trying again");
        sleep(random::up_to(backoff)).await;
        backoff = (backoff * 2).min(MOST_BACKOFF);
    }
}

#[derive(Debug)]
struct Budget {
    left: f64,
    at: Instant,
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        self.left = (self.left + (now - self.at).as_secs_f64() / REFILL.as_secs_f64()).min(BURST);
        self.at = now;
        let is_left = self.left >= 1.0;
        if is_left {
            self.left -= 1.0;
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_flickers_for_a_day_makes_few_events() {
        let start = Instant::now();
        let mut budget = Budget { left: BURST, at: start };
        let sent = (0..24 * 3600).filter(|second| budget.take(start + Duration::from_secs(*second))).count();
        assert_eq!(sent, 10 + 479, "ten, and one every three minutes");
    }
}
