//! Waiting for the world: with a deadline, with back-off, and never silently.

use std::fmt::Display;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;

/// How often a wait says what it is waiting for.
const REMIND_EVERY: Duration = Duration::from_secs(15);

/// First pause between two tries; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(2);

static LAST: Mutex<String> = Mutex::new(String::new());

/// What was waited for last, and why it was not there: the evidence of a boot that ran out of time.
pub fn last_waited_for() -> String {
    LAST.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// One try's answer.
#[derive(Debug)]
pub enum Try<T, E> {
    /// It is there.
    Done(T),
    /// Not yet; try again.
    Again(E),
    /// It will never be; trying again is pointless.
    Stop(E),
}

/// Tries until done, until pointless, or until `limit` has passed; then the last reason is the error.
///
/// # Errors
/// The last try's.
pub async fn until<T, E, F>(what: &str, limit: Duration, mut attempt: impl FnMut() -> F) -> Result<T, E>
where
    E: Display,
    F: Future<Output = Try<T, E>>,
{
    let start = Instant::now();
    let mut reminded = start;
    let mut pause = FIRST_PAUSE;
    loop {
        let reason = match attempt().await {
            Try::Done(value) => return Ok(value),
            Try::Stop(reason) => return Err(reason),
            Try::Again(reason) => reason,
        };
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = format!("waited for {what}: {reason}");
        if start.elapsed() + pause > limit {
            return Err(reason);
        }
        if reminded.elapsed() >= REMIND_EVERY {
            reminded = Instant::now();
            info!(what, waited_s = start.elapsed().as_secs(), limit_s = limit.as_secs(), error = %reason, "still waiting");
        }
        sleep(pause).await;
        pause = MAX_PAUSE.min(pause * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_its_limit_with_the_last_reason() {
        let start = Instant::now();
        let mut tries = 0;
        let result: Result<(), String> = until("x", Duration::from_secs(60), || {
            tries += 1;
            let reason = format!("try {tries}");
            async { Try::Again(reason) }
        })
        .await;
        assert_eq!(result, Err(format!("try {tries}")));
        assert!((Duration::from_secs(55)..=Duration::from_secs(60)).contains(&start.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_pointless_is_not_tried_again() {
        let result: Result<(), &str> = until("x", Duration::from_secs(60), || async { Try::Stop("no") }).await;
        assert_eq!(result, Err("no"));
    }
}
