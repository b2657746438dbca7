//! `GET /v1/health` with `Accept: text/event-stream`: the document at once, and again at every change, until the connection has lived its
//! time. The client comes again by itself, with the tag that it saw last. Source: "Server-sent events" in the HTML standard.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame};
use nap_host::random;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{sleep, timeout};

use super::{Health, Published};

/// Longest silence: a client that hears nothing for longer knows that nobody is there.
const SILENCE: Duration = Duration::from_secs(15);

/// Least time between two events: a fault that flickers must not drown who listens.
const SPACING: Duration = Duration::from_millis(200);

/// Events that wait for a slow client; he gets the newest after them.
const QUEUE: usize = 2;

/// The body of such an answer.
#[derive(Debug)]
pub(super) struct Stream {
    events: mpsc::Receiver<Bytes>,
}

impl Stream {
    /// Follows the document for as long as somebody reads; `place` is his, until then. `known` is the tag that he has seen.
    pub(super) fn follow(
        health: &Health,
        is_verdict_only: bool,
        known: Option<String>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        let (health, mut published) = (health.clone(), health.subscribe());
        tokio::spawn(async move {
            let _place = place;
            let mut known = known;
            loop {
                let now = published.borrow_and_update().clone();
                let is_news = !now.document.is_empty() && known.as_deref() != Some(now.tag.as_str());
                let text = match is_news {
                    true => event(&now, is_verdict_only),
                    false => format!(": looked {} s ago\n\n", health.age().as_secs()),
                };
                known = Some(now.tag.clone());
                if sender.send(Bytes::from(text)).await.is_err() {
                    return; // he has gone
                }
                sleep(SPACING).await;
                // A change, or time for a sign of life; the sender of changes lives as long as the process.
                let changed = timeout(random::about(SILENCE, 0.1), published.changed());
                tokio::select! {
                    _ = changed => {}
                    () = sender.closed() => return,
                }
            }
        });
        Self { events }
    }
}

fn event(now: &Published, is_verdict_only: bool) -> String {
    let document = if is_verdict_only { &now.verdict_view } else { &now.document };
    // It is JSON on one line.
    format!("event: health\nid: {}\ndata: {}\n\n", now.tag, String::from_utf8_lossy(document))
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.events.poll_recv(context).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

/// Whether a client wants one.
pub(super) fn is_wanted(accept: Option<&str>) -> bool {
    let kinds = accept.unwrap_or_default().split(',').map(|kind| kind.split(';').next().unwrap_or_default().trim());
    kinds.into_iter().any(|kind| kind.eq_ignore_ascii_case("text/event-stream"))
}

/// Somebody's place among those who wait.
pub(super) fn place(waiters: &Arc<tokio::sync::Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(waiters).try_acquire_owned().ok()
}
