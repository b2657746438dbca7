//! systemd's word that a unit has changed, so that it is looked at at once. Without it each is looked at in its turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::debug;

use super::UNITS;
use crate::chain;
use crate::root::Root;
use crate::units::Changes;

/// systemd closes the connection when it executes itself anew.
const CONNECT_EVERY: Duration = Duration::from_secs(10);

/// Which units have changed since they were looked at.
#[derive(Debug)]
pub(super) struct UnitChanges {
    changed: Arc<[AtomicBool; UNITS.len()]>,
}

impl UnitChanges {
    /// Follows them for as long as the runtime lives; `news` is told of each change.
    pub(super) fn start(root: &Arc<Root>, news: &Arc<Notify>) -> Self {
        let changed: Arc<[AtomicBool; UNITS.len()]> = Arc::default();
        let (root, news, of_task) = (Arc::clone(root), Arc::clone(news), Arc::clone(&changed));
        tokio::spawn(async move {
            loop {
                match Changes::of(&root, &UNITS.map(|(name, _)| name)).await {
                    Ok(mut changes) => {
                        while let Some(index) = changes.next().await {
                            of_task[index].store(true, Ordering::Relaxed);
                            news.notify_one();
                        }
                    }
                    Err(error) => debug!(error = chain(&error), "systemd's signals are not heard now"),
                }
                sleep(CONNECT_EVERY).await;
            }
        });
        Self { changed }
    }

    /// Whether one has changed since this was last asked.
    pub(super) fn take(&self, index: usize) -> bool {
        self.changed[index].swap(false, Ordering::Relaxed)
    }
}
