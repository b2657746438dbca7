//! The endpoint: the node's health for provisioners, the agent's own for probes, both for Prometheus.
//!
//! Served from a thread of its own, so that it answers while the guard waits for a disk. The document is made when it changes and not
//! when it is asked for; a poll of a healthy node is a comparison of two short texts and an answer without a body.

mod connection;
mod intents;
mod route;
mod stream;
mod tls;
mod tokens;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::body::Bytes;
use nap_host::root::Root;
use nap_host::watch::KernelLog;
use nap_model::monitor::{GpusExpected, Verdict};
use nap_model::repair::{Outcome, REPAIRS};
use nap_model::report::NodeHealth;
use nap_model::verdict::{Condition, State as HealthState};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::guard::State;
pub(crate) use intents::Asked;
pub(crate) use tls::TlsFiles;
use tokens::Tokens;

/// A guard that missed this many looks is stuck.
const MISSED_LOOKS: u32 = 3;

/// A watch that did not sweep for so long is stuck.
const STUCK: Duration = Duration::from_secs(30);

/// What the guard and the watch saw last, and when.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    every: Duration,
    seen: Arc<Mutex<Seen>>,
    published: Arc<watch::Sender<Arc<Published>>>,
    intents: mpsc::Sender<Asked>,
}

#[derive(Debug)]
struct Seen {
    looked: Instant,
    state: Option<State>,
    drift: Option<Vec<String>>,
    unmounted: Option<Vec<String>>,
    node_name: Option<String>,
    gpus: Option<GpusExpected>,
    swept: Instant,
    kernel_log: KernelLog,
}

/// The document as it goes out.
#[derive(Debug, Default)]
pub(crate) struct Published {
    generation: u64,
    tag: String,
    verdict: String,
    document: Bytes,
    verdict_view: Bytes,
    metrics: String,
    node_name: String,
    conditions: Vec<Condition>,
    shared_conditions: Option<Vec<Condition>>,
}

impl Published {
    #[cfg(test)]
    pub(crate) fn of(node_name: &str, conditions: Vec<Condition>) -> Self {
        Self { node_name: node_name.to_owned(), conditions, ..Self::default() }
    }

    #[cfg(test)]
    pub(crate) fn sharing(node_name: &str, shared: Option<Vec<Condition>>) -> Self {
        Self { node_name: node_name.to_owned(), shared_conditions: shared, ..Self::default() }
    }

    /// Empty before it is known.
    pub(crate) fn node_name(&self) -> &str {
        &self.node_name
    }

    /// As they should be on the Node.
    pub(crate) fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// Those that others write, too; nothing while what is on the Node stands.
    pub(crate) fn shared_conditions(&self) -> Option<&[Condition]> {
        self.shared_conditions.as_deref()
    }
}

impl Health {
    /// And what provisioners ask for.
    pub(crate) fn new(every: Duration) -> (Self, mpsc::Receiver<Asked>) {
        let now = Instant::now();
        let seen = Seen {
            looked: now,
            state: None,
            drift: None,
            unmounted: None,
            node_name: None,
            gpus: None,
            swept: now,
            kernel_log: KernelLog::default(),
        };
        let published = watch::Sender::new(Arc::default());
        let (intents, asked) = intents::channel();
        (Self { every, seen: Arc::new(Mutex::new(seen)), published: Arc::new(published), intents }, asked)
    }

    /// The guard has looked.
    pub(crate) fn looked(&self, state: State) {
        let mut seen = self.seen();
        seen.drift = match &state {
            State::InSync | State::Repaired(_) => Some(Vec::new()),
            State::Left(why) => Some(why.clone()),
            State::NotBooted(_) | State::Failed(_) => None,
        };
        seen.looked = Instant::now();
        seen.state = Some(state);
    }

    /// The guard knows the node's name.
    pub(crate) fn is_named(&self, name: &str) {
        self.seen().node_name = Some(name.to_owned());
    }

    /// The guard knows what GPUs there should be.
    pub(crate) fn expects_gpus(&self, expected: GpusExpected) {
        self.seen().gpus = Some(expected);
    }

    pub(crate) fn take_gpus(&self) -> Option<GpusExpected> {
        self.seen().gpus.take()
    }

    /// What the guard could not put back, once for each look.
    pub(crate) fn take_drift(&self) -> Option<Vec<String>> {
        self.seen().drift.take()
    }

    /// The guard knows what of the node's own is not mounted.
    pub(crate) fn misses(&self, unmounted: Vec<String>) {
        self.seen().unmounted = Some(unmounted);
    }

    pub(crate) fn take_unmounted(&self) -> Option<Vec<String>> {
        self.seen().unmounted.take()
    }

    pub(crate) fn take_node_name(&self) -> Option<String> {
        self.seen().node_name.take()
    }

    /// The watch has swept.
    pub(crate) fn swept(&self, kernel_log: KernelLog) {
        let mut seen = self.seen();
        seen.swept = Instant::now();
        seen.kernel_log = kernel_log;
    }

    /// The document has changed.
    pub(crate) fn publish(&self, document: &NodeHealth, state: &HealthState, node_name: &str) {
        let published = Published {
            generation: state.generation(),
            tag: format!("\"{}\"", state.tag()),
            verdict: format!("{:?}", state.current().state),
            document: json(document),
            verdict_view: json(&document.verdict_view()),
            metrics: metrics(state),
            node_name: node_name.to_owned(),
            conditions: state.conditions(),
            shared_conditions: state.shared_conditions(),
        };
        self.published.send_replace(Arc::new(published));
    }

    /// Whether these are the shared conditions that were published last.
    pub(crate) fn shares(&self, conditions: Option<&[Condition]>) -> bool {
        self.published.borrow().shared_conditions() == conditions
    }

    /// The document, and every change of it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Published>> {
        self.published.subscribe()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How old the last sweep is.
    fn age(&self) -> Duration {
        self.seen().swept.elapsed()
    }

    fn live(&self) -> (StatusCode, String) {
        let seen = self.seen();
        let limit = (self.every * MISSED_LOOKS).max(Duration::from_secs(30));
        let stuck = |who: &str, age: Duration| {
            (StatusCode::SERVICE_UNAVAILABLE, format!("the {who} last looked {} s ago\n", age.as_secs()))
        };
        match (seen.looked.elapsed(), seen.swept.elapsed()) {
            (guard, _) if guard > limit => stuck("guard", guard),
            (_, watch) if watch > STUCK => stuck("watch over the node's health", watch),
            _ => (StatusCode::OK, "ok\n".to_owned()),
        }
    }

    fn ready(&self) -> (StatusCode, String) {
        match &self.seen().state {
            Some(state @ (State::InSync | State::Repaired(_))) => (StatusCode::OK, format!("{state}\n")),
            Some(state) => (StatusCode::SERVICE_UNAVAILABLE, format!("{state}\n")),
            None => (StatusCode::SERVICE_UNAVAILABLE, "not looked yet\n".to_owned()),
        }
    }

    /// Prometheus' text format.
    fn metrics(&self) -> String {
        let log = self.seen().kernel_log;
        let age = self.age().as_secs_f64();
        let published = self.published.borrow().metrics.clone();
        format!(
            "{published}\
             # HELP nap_health_last_look_age_seconds Time since the node was last looked at.\n\
             # TYPE nap_health_last_look_age_seconds gauge\nnap_health_last_look_age_seconds {age:.3}\n\
             # HELP nap_kmsg_records_total Records of the kernel's log that were read.\n\
             # TYPE nap_kmsg_records_total counter\nnap_kmsg_records_total {}\n\
             # HELP nap_kmsg_lost_total Records of the kernel's log that were overwritten before they were read.\n\
             # TYPE nap_kmsg_lost_total counter\nnap_kmsg_lost_total {}\n\
             # HELP nap_kmsg_of_users_total Records that users wrote into the kernel's log; they are not believed.\n\
             # TYPE nap_kmsg_of_users_total counter\nnap_kmsg_of_users_total {}\n",
            log.records, log.lost, log.of_users
        )
    }
}

fn json(value: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("it is plain data with texts for keys"))
}

fn metrics(state: &HealthState) -> String {
    use std::fmt::Write;
    let mut text = "# HELP nap_health_verdict The node's verdict: 1 for the one that stands.\n\
                    # TYPE nap_health_verdict gauge\n"
        .to_owned();
    let all = [
        Verdict::Unknown,
        Verdict::Healthy,
        Verdict::Degraded,
        Verdict::Repairing,
        Verdict::NeedsReboot,
        Verdict::NeedsReplacement,
    ];
    let current = state.current().state;
    for verdict in all {
        let _ = writeln!(text, "nap_health_verdict{{verdict=\"{verdict:?}\"}} {}", u8::from(verdict == current)); // a String takes all
    }
    text.push_str("# HELP nap_health_fault Faults that are there now.\n# TYPE nap_health_fault gauge\n");
    let findings = state.findings();
    for fault in nap_model::monitor::faults() {
        let count = findings.iter().filter(|finding| finding.fault.reason == fault.reason).count();
        let _ = writeln!(text, "nap_health_fault{{reason=\"{}\"}} {count}", fault.reason); // as above
    }
    text.push_str("# HELP nap_repair_attempts Attempts of repairs within a day.\n# TYPE nap_repair_attempts gauge\n");
    for row in REPAIRS {
        let of_it = || state.repairs().filter(|attempt| attempt.repair == row.name);
        for outcome in Outcome::ALL {
            let count = of_it().filter(|attempt| attempt.is(outcome)).count();
            let _ = writeln!(text, "nap_repair_attempts{{repair=\"{}\",outcome=\"{outcome:?}\"}} {count}", row.name); // as above
        }
    }
    let _ = writeln!(
        text,
        "# HELP nap_health_generation Changes of the health document.\n# TYPE nap_health_generation counter\n\
         nap_health_generation {}",
        state.generation()
    ); // as above
    text
}

/// Serves the endpoints until the process ends: one for this machine, and one for clients with a certificate or a token.
pub(crate) fn serve(
    root: &Arc<Root>,
    address: SocketAddr,
    tls: Option<TlsFiles>,
    health: Health,
) -> anyhow::Result<()> {
    let tls = tls.map(|files| files.read()).transpose()?;
    let reviews = tls.as_ref().is_some_and(|tls| tls.has_token_review);
    let tokens = reviews.then(|| Tokens::start(Arc::clone(root))).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("http".to_owned());
    thread.spawn(move || {
        runtime.block_on(async {
            let plain = connection::serve(address, None, None, health.clone());
            match tls {
                Some(tls) => {
                    // Neither ends.
                    tokio::join!(plain, connection::serve(tls.address, Some(tls), tokens, health.clone()));
                }
                None => plain.await,
            }
        });
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Words of a text that are, or look like, names of metrics of ours.
    fn names(text: &str) -> BTreeSet<&str> {
        let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
        words.filter(|word| word.starts_with("nap_")).collect()
    }

    #[test]
    fn the_rules_and_the_dashboard_in_the_packages_name_only_what_is_served() {
        let rules = include_str!("../../../packaging/nap-agent.rules.yaml");
        let dashboard = include_str!("../../../packaging/nap-agent.dashboard.json");
        let served = metrics(&HealthState::default()) + &Health::new(Duration::from_secs(30)).0.metrics();
        let told = served.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
        assert_eq!(names(dashboard), names(&told), "the dashboard shows everything, and nothing else");
        assert!(names(rules).len() > 3 && names(rules).is_subset(&names(&told)), "{:?}", names(rules));
        let queries = [rules, dashboard].concat().replace("\\\"", "\"");
        for verdicts in queries.split("verdict=").skip(1) {
            for verdict in verdicts.split('"').nth(1).unwrap().split('|') {
                assert!(told.contains(&format!("verdict=\"{verdict}\"")), "{verdict}");
            }
        }
        let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        assert!(panels.iter().all(|panel| panel["targets"][0]["expr"].is_string()), "each panel asks for something");
    }
}
