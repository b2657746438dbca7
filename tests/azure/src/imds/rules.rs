//! Which requests the service accepts, and where each path leads.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::State;
use super::document::{View, instance_document};
use super::versions::EVENT_API_VERSIONS;
use crate::locked;
use crate::plain_http::{Answer, Call};
use crate::request_log::Request;

/// The answer of a healthy service.
pub(crate) fn answer(state: &State, call: &Call) -> Answer {
    let request = &call.request;
    if let Some(refusal) = refused(request) {
        return refusal;
    }
    let path = request.path.trim_end_matches('/');
    let Some(rest) = path.strip_prefix("/metadata") else { return not_found() };
    match rest.split('/').nth(1).unwrap_or_default() {
        "versions" => Answer::json(200, &json!({"apiVersions": state.options.api_versions})),
        "instance" => instance(state, request, rest.strip_prefix("/instance").unwrap_or_default()),
        "scheduledevents" => scheduled_events(state, call),
        _ => not_found(),
    }
}

/// 429, as the service says it.
pub(crate) fn too_many(retry_after_seconds: Option<u32>) -> Answer {
    let answer = Answer::json(429, &json!({"error": "Too many requests"}));
    match retry_after_seconds {
        Some(seconds) => answer.header("Retry-After", seconds.to_string()),
        None => answer,
    }
}

fn refused(request: &Request) -> Option<Answer> {
    let is_events = request.path.trim_end_matches('/') == "/metadata/scheduledevents";
    if request.method != "GET" && !(is_events && request.method == "POST") {
        return Some(error(405, "Method not allowed."));
    }
    if request.header("x-forwarded-for").is_some() {
        return Some(error(403, "Requests must not contain the header X-Forwarded-For."));
    }
    if !request.header("metadata").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Some(error(400, "Bad request. Required metadata header not specified"));
    }
    let mut names = HashSet::new();
    let repeated = request.query.iter().any(|(name, _)| !names.insert(name.to_ascii_lowercase()));
    repeated.then(|| error(400, "Bad request. Query parameters must not be repeated."))
}

fn instance(state: &State, request: &Request, below: &str) -> Answer {
    let known = &state.options.api_versions;
    let Some(version) = request.query("api-version").filter(|version| known.contains(version)) else {
        return bad_version(known);
    };
    let extended = request.query("extended").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let view = View { version, extended, custom_data: state.options.serve_custom_data };
    let document = instance_document(&locked(&state.instance), &view);
    match document.pointer(below) {
        Some(node) => formatted(node, request.query("format")),
        None => not_found(),
    }
}

/// Branches are JSON by default, leaves are text and must be asked for as text.
fn formatted(node: &Value, format: Option<&str>) -> Answer {
    let leaf = match node {
        Value::Object(_) | Value::Array(_) => None,
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) | Value::Null => Some(node.to_string()),
    };
    match (leaf, format) {
        (Some(text), Some("text")) => Answer::text(200, text),
        (Some(_), _) => error(400, "Bad request. A leaf must be requested with format=text."),
        (None, None | Some("json")) => Answer::json(200, node),
        (None, Some(_)) => error(400, "Bad request. A branch must be requested with format=json."),
    }
}

fn scheduled_events(state: &State, call: &Call) -> Answer {
    if !call.request.query("api-version").is_some_and(|version| EVENT_API_VERSIONS.contains(&version)) {
        return bad_version(EVENT_API_VERSIONS);
    }
    let mut events = locked(&state.events);
    if call.request.method == "GET" {
        return Answer::json(200, &events.document());
    }
    match events.acknowledge(&call.body) {
        Ok(()) => Answer::text(200, ""),
        Err(_) => error(400, "Bad request. StartRequests must name known events."),
    }
}

fn bad_version(known: &[&str]) -> Answer {
    let newest: Vec<&&str> = known.iter().rev().take(3).collect();
    let text = "Bad request. api-version is invalid or was not specified in the request.";
    Answer::json(400, &json!({"error": text, "newest-versions": newest}))
}

fn not_found() -> Answer {
    error(404, "Not found")
}

fn error(status: u16, text: &str) -> Answer {
    Answer::json(status, &json!({"error": text}))
}

/// How many requests were admitted in the last second.
pub(crate) struct RateLimit {
    allowed: Option<usize>,
    admitted: VecDeque<Instant>,
}

impl RateLimit {
    pub(crate) fn new(allowed: Option<usize>) -> Self {
        Self { allowed, admitted: VecDeque::new() }
    }

    pub(crate) fn admit(&mut self, at: Instant) -> bool {
        let Some(allowed) = self.allowed else { return true };
        self.admitted.retain(|earlier| at.duration_since(*earlier) < Duration::from_secs(1));
        let admit = self.admitted.len() < allowed;
        if admit {
            self.admitted.push_back(at);
        }
        admit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_limit_slides_and_refused_requests_do_not_count() {
        let start = Instant::now();
        let mut limit = RateLimit::new(Some(2));
        let at = |ms| start + Duration::from_millis(ms);
        let admitted = [0, 100, 200, 900, 1001, 1050].map(|ms| limit.admit(at(ms)));
        assert_eq!(admitted, [true, true, false, false, true, false]);
    }
}
