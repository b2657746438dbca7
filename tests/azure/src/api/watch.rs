//! The body of a watch: one JSON document a line, for as long as the client stays or asked for.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame};
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::Instant;

use super::route::Kind;
use super::store::Store;

/// What to watch.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) kind: Kind,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
}

impl Watched {
    pub(crate) fn includes(&self, object: &Value) -> bool {
        let fits = |field: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| object["metadata"][field] == wanted.as_str())
        };
        fits("namespace", &self.namespace) && fits("name", &self.name)
    }
}

/// A stream of changes.
pub(crate) struct WatchBody {
    next: Next,
}

/// The lines to come and the place after them.
type Next = Pin<Box<dyn Future<Output = Option<(Bytes, Cursor)>> + Send>>;

struct Cursor {
    store: Arc<Store>,
    versions: Receiver<u64>,
    watched: Watched,
    version: u64,
    ends: Option<Instant>,
    /// What exists already, to be told first.
    existing: Vec<Value>,
}

impl WatchBody {
    /// Watches from `version` on; without one, everything that exists comes first as `ADDED`.
    pub(crate) fn new(store: Arc<Store>, watched: Watched, version: Option<u64>, ends: Option<Instant>) -> Self {
        let versions = store.subscribe();
        let (existing, version) = match version {
            Some(version) => (Vec::new(), version),
            None => store.list(watched.kind, None),
        };
        let cursor = Cursor { store, versions, watched, version, ends, existing };
        Self { next: Box::pin(cursor.advance()) }
    }
}

impl Cursor {
    /// The next lines, or `None` when the watch is over.
    async fn advance(mut self) -> Option<(Bytes, Self)> {
        loop {
            let lines = self.take_lines();
            if !lines.is_empty() {
                return Some((Bytes::from(lines), self));
            }
            match self.ends {
                Some(ends) => tokio::time::timeout_at(ends, self.versions.changed()).await.ok()?.ok()?,
                None => self.versions.changed().await.ok()?,
            }
        }
    }

    fn take_lines(&mut self) -> String {
        let mut lines: String = std::mem::take(&mut self.existing)
            .iter()
            .filter(|object| self.watched.includes(object))
            .map(|object| line("ADDED", object))
            .collect();
        let (changes, version) = self.store.changes_after(self.watched.kind, self.version);
        self.version = self.version.max(version);
        let seen = changes.iter().filter(|change| self.watched.includes(&change.object));
        lines.extend(seen.map(|change| line(change.what, &change.object)));
        lines
    }
}

fn line(what: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": what, "object": object}))
}

impl Body for WatchBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        this.next.as_mut().poll(context).map(|next| {
            next.map(|(bytes, cursor)| {
                this.next = Box::pin(cursor.advance());
                Ok(Frame::data(bytes))
            })
        })
    }
}
