//! What was asked of a server, for assertions and for the demo's log file. Credentials are masked on the way in.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::locked;

impl std::fmt::Debug for RequestLog {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RequestLog").field("seen", &locked(&self.inner.seen).len()).finish()
    }
}

/// One request as it arrived, and how it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `imds`, `wireserver` or `api`.
    pub server: &'static str,
    /// The HTTP method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The decoded query parameters, in order, repeated ones too.
    pub query: Vec<(String, String)>,
    /// Header names in lower case and their values; the value of `authorization` is masked.
    pub headers: Vec<(String, String)>,
    /// Who asked, as the API server sees it; `None` elsewhere.
    pub user: Option<String>,
    /// The status of the answer; `None` while there is none, and for ever when a fault ate it.
    pub status: Option<u16>,
    /// When it arrived.
    pub at: Instant,
}

impl Request {
    /// The value of a query parameter.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value of a header; `name` in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn line(&self) -> String {
        let query: Vec<String> = self.query.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        let status = self.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
        let user = self.user.as_deref().unwrap_or("-");
        let took_ms = self.at.elapsed().as_millis();
        let now = jiff::Timestamp::now();
        let Self { server, method, path, .. } = self;
        format!("{now:.3} {server} {method} {path}{mark}{} {status} {user} {took_ms}ms", query.join("&"))
    }
}

/// The requests one or more servers have seen. Clones share one list.
#[derive(Clone, Default)]
pub struct RequestLog {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    seen: Mutex<Vec<Request>>,
    sink: Option<Mutex<Box<dyn Write + Send>>>,
    count: watch::Sender<usize>,
}

impl RequestLog {
    /// A log that also writes one line to `sink` for each answered request.
    #[must_use]
    pub fn with_sink(sink: Box<dyn Write + Send>) -> Self {
        Self { inner: Arc::new(Inner { sink: Some(Mutex::new(sink)), ..Inner::default() }) }
    }

    /// Everything seen so far, in order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        locked(&self.inner.seen).clone()
    }

    /// Waits until at least `count` requests have arrived.
    pub async fn reached(&self, count: usize) {
        let mut arrivals = self.inner.count.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = arrivals.wait_for(|seen| *seen >= count).await;
    }

    /// Notes an arrival; the ticket names it when the answer is known.
    pub(crate) fn arrived(&self, mut request: Request) -> usize {
        for (name, value) in &mut request.headers {
            if name == "authorization" {
                *value = masked(value);
            }
        }
        let ticket = {
            let mut seen = locked(&self.inner.seen);
            seen.push(request);
            seen.len() - 1
        };
        self.inner.count.send_replace(ticket + 1);
        ticket
    }

    /// Notes who asked.
    pub(crate) fn identified(&self, ticket: usize, user: &str) {
        locked(&self.inner.seen)[ticket].user = Some(user.to_owned());
    }

    /// Notes the answer to an arrival; `None` when the client got none.
    pub(crate) fn answered(&self, ticket: usize, status: Option<u16>) {
        let line = {
            let mut seen = locked(&self.inner.seen);
            seen[ticket].status = status;
            seen[ticket].line()
        };
        if let Some(sink) = &self.inner.sink {
            // A full disk must not stop the pretend Azure: the log is a convenience.
            let _ = writeln!(locked(sink), "{line}");
        }
    }
}

/// Keeps the scheme, and of a bootstrap token its public id.
fn masked(authorization: &str) -> String {
    let scheme = authorization.split(' ').next().unwrap_or_default();
    format!("{scheme} ***")
}

/// The largest number of requests that arrived within one second of each other.
#[must_use]
pub fn busiest_second(requests: &[Request]) -> usize {
    let within = |start: Instant| {
        let end = start + Duration::from_secs(1);
        requests.iter().filter(|request| request.at >= start && request.at < end).count()
    };
    requests.iter().map(|request| within(request.at)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(at: Instant) -> Request {
        let headers = vec![("authorization".to_owned(), "Bearer abcdef.0123456789abcdef".to_owned())];
        let (method, path) = ("GET".to_owned(), "/version".to_owned());
        Request { server: "api", method, path, query: Vec::new(), headers, user: None, status: None, at }
    }

    #[test]
    fn a_credential_is_not_kept() {
        let log = RequestLog::default();
        log.arrived(request(Instant::now()));
        assert_eq!(log.requests()[0].header("authorization"), Some("Bearer ***"));
    }

    #[test]
    fn the_busiest_second_slides() {
        let start = Instant::now();
        let at = [0, 900, 1100, 1200, 3000].map(|ms| request(start + Duration::from_millis(ms)));
        assert_eq!(busiest_second(&at), 3);
        assert_eq!(busiest_second(&[]), 0);
    }
}
