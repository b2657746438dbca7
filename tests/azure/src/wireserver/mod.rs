//! The host's agent at 168.63.129.16, as far as cloud-init's Azure datasource talks to it: the goal state and the
//! health report. Not here: certificates, extension configuration, the host GA plugin.

mod health;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::TcpStream;
use tokio::sync::watch;

pub use health::{HealthReport, HealthState};

use crate::door::{Door, ListenError, Running};
use crate::locked;
use crate::plain_http::{Answer, Call, read_call};
use crate::request_log::{Request, RequestLog};
use health::parse;

const CONTAINER_ID: &str = "c2e1d1f3-9c3b-4a58-8f0e-5a1f6f3f7a11";
const INSTANCE_ID: &str = "b6a7c5d2.node";
const INCARNATION: &str = "1";

/// A running wireserver.
pub struct Wireserver {
    address: SocketAddr,
    state: Arc<State>,
    running: Running,
}

#[derive(Default)]
struct State {
    log: RequestLog,
    reports: Mutex<Vec<HealthReport>>,
    count: watch::Sender<usize>,
}

impl Wireserver {
    /// Starts with a log of its own.
    ///
    /// # Errors
    /// When `address` cannot be listened on.
    pub async fn start(address: SocketAddr) -> Result<Self, ListenError> {
        Self::start_with(address, RequestLog::default()).await
    }

    /// Starts and notes requests in `log`.
    ///
    /// # Errors
    /// When `address` cannot be listened on.
    pub async fn start_with(address: SocketAddr, log: RequestLog) -> Result<Self, ListenError> {
        let door = Door::reserve(address)?;
        let address = door.address();
        let state = Arc::new(State { log, ..State::default() });
        let shared = Arc::clone(&state);
        let (running, _) = door.run(move |stream, _| serve(stream, Arc::clone(&shared)))?;
        Ok(Self { address, state, running })
    }

    /// The base URL, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What provisioning agents reported, in order.
    #[must_use]
    pub fn health_reports(&self) -> Vec<HealthReport> {
        locked(&self.state.reports).clone()
    }

    /// Waits for at least `count` health reports.
    pub async fn reported(&self, count: usize) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.state.count.subscribe().wait_for(|seen| *seen >= count).await;
    }

    /// Every request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.state.log.requests()
    }

    /// Stops and waits until every connection is closed.
    pub async fn stop(self) {
        self.running.stop().await;
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    let Some(call) = read_call(&mut stream, "wireserver").await else { return };
    let ticket = state.log.arrived(call.request.clone());
    let answer = answer(&state, &call);
    let status = answer.send(&mut stream).await.is_ok().then_some(answer.status);
    state.log.answered(ticket, status);
}

fn answer(state: &State, call: &Call) -> Answer {
    let request = &call.request;
    let path = request.path.trim_end_matches('/');
    match (request.method.as_str(), path, request.query("comp")) {
        ("GET", "", Some("versions")) => Answer::xml(200, VERSIONS),
        (_, "/machine", _) if request.header("x-ms-version").is_none() => {
            Answer::xml(400, "<Error><Code>MissingRequiredHeader</Code><Message>x-ms-version</Message></Error>")
        }
        ("GET", "/machine", Some("goalstate")) => Answer::xml(200, goal_state()),
        ("POST", "/machine", Some("health")) => report_health(state, &call.body),
        _ => Answer::xml(404, "<Error><Code>ResourceNotAvailable</Code></Error>"),
    }
}

fn report_health(state: &State, body: &[u8]) -> Answer {
    match parse(body) {
        Some(report) if report.is_about(INCARNATION, CONTAINER_ID, INSTANCE_ID) => {
            let count = {
                let mut reports = locked(&state.reports);
                reports.push(report);
                reports.len()
            };
            state.count.send_replace(count);
            Answer::xml(200, "")
        }
        Some(_) => {
            Answer::xml(410, "<Error><Code>ResourceGone</Code><Message>not the current goal state</Message></Error>")
        }
        None => Answer::xml(400, "<Error><Code>InvalidInput</Code></Error>"),
    }
}

const VERSIONS: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<Versions><Preferred><Version>2015-04-05</Version></Preferred><Supported><Version>2015-04-05</Version><Version>2012-11-30</Version></Supported></Versions>"#;

fn goal_state() -> String {
    format!(
        r#"<?xml version="1.0" encoding="utf-8"?>
<GoalState xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xsi:noNamespaceSchemaLocation="goalstate10.xsd">
 <Version>2012-11-30</Version><Incarnation>{INCARNATION}</Incarnation>
 <Machine><ExpectedState>Started</ExpectedState><StopRolesDeadlineHint>300000</StopRolesDeadlineHint></Machine>
 <Container><ContainerId>{CONTAINER_ID}</ContainerId>
  <RoleInstanceList><RoleInstance><InstanceId>{INSTANCE_ID}</InstanceId><State>Started</State><Configuration/></RoleInstance></RoleInstanceList>
 </Container>
</GoalState>"#
    )
}
