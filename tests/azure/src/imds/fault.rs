//! Faults on demand: what goes wrong with IMDS in reality, one request at a time.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::rules::too_many;
use crate::plain_http::Answer;

/// One thing that goes wrong. All but the first and [`Fault::Gone`] last for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing listens for this long: the host agent restarts.
    ConnectRefused(Duration),
    /// The request is read and never answered: a black hole behind an accepted connection.
    AcceptAndHang,
    /// The body comes in pieces of `chunk` bytes with a `pause` before each.
    SlowBody {
        /// Bytes in a piece.
        chunk: usize,
        /// Time before each piece.
        pause: Duration,
    },
    /// Half the promised body, then a TCP reset.
    ResetMidBody,
    /// This status, with `Retry-After` in seconds when given.
    Status(u16, Option<u32>),
    /// 410 from the first request on for this long: the host is being updated.
    Gone(Duration),
    /// 429, with `Retry-After` in seconds when given.
    TooManyRequests(Option<u32>),
    /// 200 with half a JSON document, complete as far as HTTP is concerned.
    BadJson,
    /// 200 with nothing in it.
    EmptyBody,
    /// 200 with 10 MB of well-formed JSON.
    HugeBody,
    /// 302 to this place.
    Redirect(String),
    /// The right document of another VM.
    WrongVmId(String),
    /// An HTTP/1.0 answer that ends with the connection.
    Http10NoLength,
    /// This fault for every request from now on.
    Forever(Box<Fault>),
    /// No fault for one request: spacing between others.
    None,
}

/// What a fault does to one answer.
pub(crate) enum Effect {
    None,
    Instead(Answer),
    WrongVmId(String),
    Drip { chunk: usize, pause: Duration },
    ResetMidBody,
    Http10NoLength,
    Hang,
}

const HUGE_BODY_BYTES: usize = 10 * 1000 * 1000;

/// Long enough to be for ever in a test, short enough to add to a clock.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The faults to come.
#[derive(Default)]
pub(crate) struct FaultQueue {
    faults: VecDeque<Fault>,
    gone_until: Option<Instant>,
}

impl FaultQueue {
    /// Takes new faults; the time to refuse connections, when that is the first.
    pub(crate) fn replace(&mut self, faults: Vec<Fault>) -> Option<Duration> {
        self.faults = faults.into();
        self.gone_until = None;
        self.take_refusal()
    }

    /// The effect on this request, and the time to refuse connections after it.
    pub(crate) fn next(&mut self) -> (Effect, Option<Duration>) {
        let effect = match self.faults.pop_front() {
            Some(Fault::Gone(time)) => return self.gone(time),
            Some(Fault::Forever(fault)) => {
                let effect = effect_of((*fault).clone());
                self.faults.push_front(Fault::Forever(fault));
                effect
            }
            Some(fault) => effect_of(fault),
            None => Effect::None,
        };
        (effect, self.take_refusal())
    }

    /// 410 while the time runs, which the first request starts; then whatever comes after.
    fn gone(&mut self, time: Duration) -> (Effect, Option<Duration>) {
        let now = Instant::now();
        if now >= *self.gone_until.get_or_insert(now + time) {
            self.gone_until = None;
            return self.next();
        }
        self.faults.push_front(Fault::Gone(time));
        (Effect::Instead(status(410, None)), None)
    }

    fn take_refusal(&mut self) -> Option<Duration> {
        let time = refusal(self.faults.front()?)?;
        self.faults.pop_front();
        Some(time)
    }
}

fn refusal(fault: &Fault) -> Option<Duration> {
    if let Fault::ConnectRefused(time) = fault {
        return Some(*time);
    }
    if let Fault::Forever(inner) = fault { refusal(inner).map(|_| FOR_EVER) } else { None }
}

fn effect_of(fault: Fault) -> Effect {
    match fault {
        // A refusal takes effect when it comes to the front, before there is a request.
        Fault::None | Fault::ConnectRefused(_) => Effect::None,
        Fault::AcceptAndHang => Effect::Hang,
        Fault::SlowBody { chunk, pause } => Effect::Drip { chunk, pause },
        Fault::ResetMidBody => Effect::ResetMidBody,
        Fault::Status(code, retry_after) => Effect::Instead(status(code, retry_after)),
        Fault::Gone(_) => Effect::Instead(status(410, None)),
        Fault::TooManyRequests(retry_after) => Effect::Instead(too_many(retry_after)),
        Fault::BadJson => Effect::Instead(Answer::new(200, JSON, r#"{"compute":{"vmId":"#)),
        Fault::EmptyBody => Effect::Instead(Answer::new(200, JSON, "")),
        Fault::HugeBody => Effect::Instead(huge()),
        Fault::Redirect(place) => Effect::Instead(Answer::text(302, "").header("Location", place)),
        Fault::WrongVmId(vm_id) => Effect::WrongVmId(vm_id),
        Fault::Http10NoLength => Effect::Http10NoLength,
        Fault::Forever(inner) => effect_of(*inner),
    }
}

const JSON: &str = "application/json; charset=utf-8";

fn status(code: u16, retry_after: Option<u32>) -> Answer {
    let answer = Answer::json(code, &json!({"error": format!("pretend fault {code}")}));
    match retry_after {
        Some(seconds) => answer.header("Retry-After", seconds.to_string()),
        None => answer,
    }
}

fn huge() -> Answer {
    Answer::json(200, &json!({"compute": {"filler": "x".repeat(HUGE_BODY_BYTES)}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(effect: &Effect) -> Option<u16> {
        if let Effect::Instead(answer) = effect { Some(answer.status) } else { None }
    }

    #[test]
    fn each_fault_lasts_for_one_request_and_the_last_may_stay() {
        let mut queue = FaultQueue::default();
        queue.replace(vec![Fault::Status(500, None), Fault::None, Fault::Forever(Box::new(Fault::Status(503, None)))]);
        let seen: Vec<Option<u16>> = (0..5).map(|_| status_of(&queue.next().0)).collect();
        assert_eq!(seen, [Some(500), None, Some(503), Some(503), Some(503)]);
    }

    #[tokio::test(start_paused = true)]
    async fn gone_ends_when_its_time_is_up_and_the_next_fault_follows() {
        let mut queue = FaultQueue::default();
        queue.replace(vec![Fault::Gone(Duration::from_secs(65)), Fault::Status(503, None)]);
        assert_eq!(status_of(&queue.next().0), Some(410));
        tokio::time::advance(Duration::from_secs(64)).await;
        assert_eq!(status_of(&queue.next().0), Some(410));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(status_of(&queue.next().0), Some(503));
        assert_eq!(status_of(&queue.next().0), None);
    }

    #[test]
    fn a_refusal_is_due_as_soon_as_it_is_next() {
        let mut queue = FaultQueue::default();
        let (second, third) = (Duration::from_secs(1), Duration::from_secs(3));
        assert_eq!(
            queue.replace(vec![Fault::ConnectRefused(second), Fault::None, Fault::ConnectRefused(third)]),
            Some(second)
        );
        assert_eq!(queue.next().1, Some(third));
        assert_eq!(queue.next().1, None);
    }
}
