//! Which request gets what.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use nap_host::random;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::stream::{self, Stream};
use super::{Health, Published, intents};

/// Longest wait for a change.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Most are whole; a stream goes on.
pub(super) type Answer = Response<Either<Full<Bytes>, Stream>>;

/// Who asks.
#[derive(Debug)]
pub(super) struct Caller {
    /// From another machine, with a certificate or a token. The agent's own health is this machine's affair.
    pub(super) is_remote: bool,
    /// His name, when he may send intents.
    pub(super) operator: Option<String>,
    /// He has not asked too often.
    pub(super) is_allowed: bool,
}

pub(super) async fn answer(
    request: Request<Incoming>,
    caller: Caller,
    health: &Health,
    waiters: &Arc<Semaphore>,
) -> Answer {
    if !caller.is_allowed {
        return too_many("at most ten requests a second\n");
    }
    if caller.is_remote && request.uri().path() == "/v1/intents" {
        return intents::take(request, caller.operator.as_deref(), &health.intents).await;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match (request.uri().path(), caller.is_remote) {
        ("/v1/health", _) => document(&request, health, waiters).await,
        ("/metrics", _) => {
            let mut answer = text(StatusCode::OK, health.metrics());
            let kind = HeaderValue::from_static("text/plain; version=0.0.4");
            answer.headers_mut().insert(header::CONTENT_TYPE, kind);
            answer
        }
        ("/livez", false) => {
            let (status, body) = health.live();
            text(status, body)
        }
        ("/readyz", false) => {
            let (status, body) = health.ready();
            text(status, body)
        }
        (_, false) => text(StatusCode::NOT_FOUND, "there are /v1/health, /livez, /readyz and /metrics\n"),
        (_, true) => text(StatusCode::NOT_FOUND, "there are /v1/health, /v1/intents and /metrics\n"),
    }
}

/// What is asked for behind `?`.
#[derive(Debug, Default, PartialEq)]
struct Query {
    wait: Option<Duration>,
    since: Option<u64>,
    is_verdict_only: bool,
}

impl Query {
    /// # Errors
    /// What is wrong with it, for the client.
    fn parse(query: &str) -> Result<Self, String> {
        let mut parsed = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("view", "verdict")) => parsed.is_verdict_only = true,
                Some(("since", number)) => {
                    parsed.since = Some(number.parse().map_err(|_| "since: want a generation\n")?);
                }
                Some(("wait", time)) => {
                    let seconds = time.strip_suffix('s').unwrap_or(time).parse().ok();
                    let wait = seconds.map(Duration::from_secs).filter(|wait| *wait <= MAX_WAIT);
                    parsed.wait = Some(wait.ok_or("wait: want a number of seconds up to 60, such as 55s\n")?);
                }
                _ => return Err("there are view=verdict, wait=SECONDS and since=GENERATION\n".to_owned()),
            }
        }
        Ok(parsed)
    }
}

async fn document(request: &Request<Incoming>, health: &Health, waiters: &Arc<Semaphore>) -> Answer {
    let query = match Query::parse(request.uri().query().unwrap_or_default()) {
        Ok(query) => query,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    if *request.method() == Method::GET && stream::is_wanted(header(header::ACCEPT)) {
        let Some(place) = stream::place(waiters) else { return too_many("too many wait already\n") };
        let known = request.headers().get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = Stream::follow(health, query.is_verdict_only, known, place);
        let mut answer = Response::new(Either::Right(body));
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return answer;
    }
    let mut published = health.subscribe();
    if let Some(wait) = query.wait {
        let Ok(_place) = waiters.try_acquire() else { return too_many("too many wait already\n") };
        let since = query.since.unwrap_or_else(|| published.borrow().generation);
        // Until there is something newer, or it is over; both are answered below.
        let newer = published.wait_for(|now| now.generation > since);
        // A tenth more or less, so that those who wait together do not come again together.
        let _ = timeout(random::about(wait, 0.1), newer).await; // the sender lives as long as the process
    }
    let now = published.borrow().clone();
    if now.document.is_empty() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "not looked yet\n");
    }
    let known = header(header::IF_NONE_MATCH);
    let is_known = known.is_some_and(|tags| tags.split(',').any(|tag| is_tag(tag.trim(), &now.tag)))
        || query.wait.is_some() && query.since.is_some_and(|since| since >= now.generation);
    let body = match (is_known, query.is_verdict_only) {
        (true, _) => Bytes::new(),
        (false, false) => now.document.clone(),
        (false, true) => now.verdict_view.clone(),
    };
    let mut answer = whole(body);
    if is_known {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    add_headers(&mut answer, &now, health.age());
    answer
}

/// Tags compare weakly here, as they should for GET. Source: RFC 9110, 13.1.2.
fn is_tag(given: &str, tag: &str) -> bool {
    given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag
}

fn add_headers(answer: &mut Answer, now: &Published, age: Duration) {
    let headers = answer.headers_mut();
    let mut insert = |name: &'static str, value: &str| {
        // All of them are ASCII of our own making.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    insert("etag", &now.tag);
    insert("cache-control", "max-age=0");
    insert("node-health-verdict", &now.verdict);
    insert("node-health-age", &age.as_secs().to_string());
}

pub(super) fn whole(body: impl Into<Bytes>) -> Answer {
    Response::new(Either::Left(Full::from(body.into())))
}

pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = whole(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

pub(super) fn too_many(why: &'static str) -> Answer {
    let mut answer = text(StatusCode::TOO_MANY_REQUESTS, why);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_or_refused() {
        let wait = |seconds| Query { wait: Some(Duration::from_secs(seconds)), ..Query::default() };
        assert_eq!(Query::parse("wait=55s&since=417"), Ok(Query { since: Some(417), ..wait(55) }));
        assert_eq!(Query::parse("wait=0"), Ok(wait(0)));
        assert_eq!(Query::parse("view=verdict"), Ok(Query { is_verdict_only: true, ..Query::default() }));
        for wrong in ["wait=61s", "wait=-1", "wait=", "since=x", "view=all", "watch", "a=b"] {
            assert!(Query::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tags_compare_weakly() {
        for (given, is_same) in
            [("\"1-4\"", true), ("W/\"1-4\"", true), ("*", true), ("\"1-5\"", false), ("1-4", false)]
        {
            assert_eq!(is_tag(given, "\"1-4\""), is_same, "{given}");
        }
    }
}
