//! Work that may hang, on a thread of its own. Nobody waits for it: one looks whether it has come back, and since when it is away.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// One piece of work that is done again and again, never twice at a time.
#[derive(Debug)]
pub struct Aside<T> {
    ask: SyncSender<()>,
    shared: Arc<Mutex<Shared<T>>>,
    came_back: Arc<Notify>,
}

#[derive(Debug)]
struct Shared<T> {
    since: Option<Instant>,
    done: Option<T>,
}

impl<T: Send + 'static> Aside<T> {
    /// A thread that does this work whenever it is asked to, and tells `came_back` each time that it is done. It ends with its asker, or
    /// with its work.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        name: &str,
        came_back: Arc<Notify>,
        mut work: impl FnMut() -> T + Send + 'static,
    ) -> std::io::Result<Self> {
        let (ask, asked) = sync_channel::<()>(1);
        let shared = Arc::new(Mutex::new(Shared { since: None, done: None }));
        let (of_thread, notify) = (Arc::clone(&shared), Arc::clone(&came_back));
        std::thread::Builder::new().name(name.to_owned()).stack_size(256 * 1024).spawn(move || {
            while asked.recv().is_ok() {
                let done = work();
                let mut shared = locked(&of_thread);
                shared.since = None;
                shared.done = Some(done);
                drop(shared);
                notify.notify_one();
            }
        })?;
        Ok(Self { ask, shared, came_back })
    }

    /// Asks for the work, unless it is under way.
    pub fn ask(&self) {
        let mut shared = locked(&self.shared);
        if shared.since.is_none() && self.ask.try_send(()).is_ok() {
            shared.since = Some(Instant::now());
        }
    }

    /// What came back since it was last taken.
    pub fn take(&self) -> Option<T> {
        locked(&self.shared).done.take()
    }

    /// Waits until the work has come back. Can be dropped at any point; for one who waits, and alone has `came_back`.
    pub async fn back(&self) {
        while self.away_for().is_some() {
            self.came_back.notified().await;
        }
    }

    /// For how long the work has been away; nothing when it is not under way.
    pub fn away_for(&self) -> Option<Duration> {
        locked(&self.shared).since.map(|since| since.elapsed())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn work_that_hangs_is_seen_and_not_waited_for() {
        let (go, gate) = channel::<()>();
        let aside = Aside::start("hangs", Arc::default(), move || gate.recv().is_ok()).unwrap();
        assert_eq!(aside.away_for(), None);
        aside.ask();
        aside.ask();
        assert!(aside.away_for().is_some());
        assert_eq!(aside.take(), None);
        go.send(()).unwrap();
        while aside.away_for().is_some() {
            std::thread::yield_now();
        }
        assert_eq!(aside.take(), Some(true));
        assert_eq!(aside.take(), None, "taken once; and the second question was not kept");
    }
}
