//! The instance metadata service: `http://169.254.169.254/metadata`.
//!
//! The rules, documents and faults follow `facts/disks-imds-streaming.md`, sections 1.1 to 1.4, 1.8 and 7.5. Not here:
//! managed identity tokens, attested documents, load balancer data and the long poll of pre-provisioned VMs.

mod document;
mod events;
mod fault;
mod instance;
mod rules;
mod versions;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::TcpStream;

pub use events::ScheduledEvent;
pub use fault::Fault;
pub use instance::{DataDisk, Instance, Interface};
pub use versions::API_VERSIONS;

use crate::door::{Door, ListenError, Running, Shutter};
use crate::locked;
use crate::plain_http::{Answer, read_call};
use crate::request_log::{Request, RequestLog};
use events::ScheduledEvents;
use fault::{Effect, FaultQueue};
use rules::RateLimit;

/// How the service behaves, apart from what it says about the VM.
#[derive(Clone)]
pub struct ImdsOptions {
    /// Answer 429 to what exceeds this many requests in any second. Azure: 5 a VM. `None` counts nothing.
    pub requests_per_second: Option<usize>,
    /// The `api-version`s known to this host, oldest first. Azure Stack and edge sites lag behind.
    pub api_versions: Vec<&'static str>,
    /// Serve `customData`, which Azure never does but emulators do.
    pub serve_custom_data: bool,
    /// Where requests are noted.
    pub log: RequestLog,
}

impl Default for ImdsOptions {
    fn default() -> Self {
        Self {
            requests_per_second: None,
            api_versions: API_VERSIONS.to_vec(),
            serve_custom_data: false,
            log: RequestLog::default(),
        }
    }
}

/// A running instance metadata service.
pub struct Imds {
    address: SocketAddr,
    state: Arc<State>,
    shutter: Shutter,
    running: Running,
}

pub(crate) struct State {
    pub(crate) options: ImdsOptions,
    pub(crate) instance: Mutex<Instance>,
    pub(crate) events: Mutex<ScheduledEvents>,
    faults: Mutex<FaultQueue>,
    rate: Mutex<RateLimit>,
}

impl Imds {
    /// Starts with the behaviour of Azure's public cloud, without a rate limit.
    ///
    /// # Errors
    /// When `address` cannot be listened on.
    pub async fn start(address: SocketAddr, instance: Instance) -> Result<Self, ListenError> {
        Self::start_with(address, instance, ImdsOptions::default()).await
    }

    /// Starts with the given behaviour.
    ///
    /// # Errors
    /// When `address` cannot be listened on.
    pub async fn start_with(
        address: SocketAddr,
        instance: Instance,
        options: ImdsOptions,
    ) -> Result<Self, ListenError> {
        let door = Door::reserve(address)?;
        let address = door.address();
        let rate = Mutex::new(RateLimit::new(options.requests_per_second));
        let instance = Mutex::new(instance);
        let (events, faults) = (Mutex::default(), Mutex::default());
        let state = Arc::new(State { options, instance, events, faults, rate });
        let shared = Arc::clone(&state);
        let (running, shutter) = door.run(move |stream, shutter| serve(stream, shutter, Arc::clone(&shared)))?;
        Ok(Self { address, state, shutter, running })
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

    /// Every request so far, faulty or not.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.state.options.log.requests()
    }

    /// The log, to wait on.
    #[must_use]
    pub fn log(&self) -> &RequestLog {
        &self.state.options.log
    }

    /// Changes what is said about the VM: `userData` and tags change during a VM's life.
    pub fn update(&self, change: impl FnOnce(&mut Instance)) {
        change(&mut locked(&self.state.instance));
    }

    /// Replaces the faults to come. Each is used by one request, in order; then the service is well again.
    /// Returns when a leading [`Fault::ConnectRefused`] has closed the port.
    pub async fn set_faults(&self, faults: Vec<Fault>) {
        let refuse = locked(&self.state.faults).replace(faults);
        match refuse {
            Some(time) => self.shutter.close_for(time).await,
            None => self.shutter.open().await,
        }
    }

    /// Announces a scheduled event.
    pub fn schedule(&self, event: ScheduledEvent) {
        locked(&self.state.events).schedule(event);
    }

    /// Takes a completed or cancelled event off the list.
    pub fn complete_event(&self, event_id: &str) {
        locked(&self.state.events).complete(event_id);
    }

    /// Stops and waits until every connection is closed.
    pub async fn stop(self) {
        self.running.stop().await;
    }
}

async fn serve(mut stream: TcpStream, shutter: Shutter, state: Arc<State>) {
    let Some(call) = read_call(&mut stream, "imds").await else { return };
    let ticket = state.options.log.arrived(call.request.clone());
    let (effect, refuse_next) = locked(&state.faults).next();
    if let Some(time) = refuse_next {
        shutter.close_for(time).await;
    }
    let in_budget = locked(&state.rate).admit(call.request.at);
    let answer = if in_budget { rules::answer(&state, &call) } else { rules::too_many(Some(1)) };
    let status = deliver(&mut stream, effect, answer, &state).await;
    state.options.log.answered(ticket, status);
}

/// Lets the fault have its way with the answer; returns the status the client saw.
async fn deliver(stream: &mut TcpStream, effect: Effect, answer: Answer, state: &State) -> Option<u16> {
    let sent = match effect {
        Effect::None => (answer.status, answer.send(stream).await),
        Effect::Instead(other) => (other.status, other.send(stream).await),
        Effect::WrongVmId(vm_id) => {
            let original = locked(&state.instance).vm_id.clone();
            let lie = Answer { body: replace(&answer.body, &original, &vm_id), ..answer };
            (lie.status, lie.send(stream).await)
        }
        Effect::Drip { chunk, pause } => (answer.status, answer.drip(stream, chunk, pause).await),
        Effect::ResetMidBody => (answer.status, answer.reset_mid_body(stream).await),
        Effect::Http10NoLength => (answer.status, answer.send_http_1_0(stream).await),
        Effect::Hang => {
            until_client_leaves(stream).await;
            return None;
        }
    };
    sent.1.is_ok().then_some(sent.0)
}

fn replace(body: &[u8], from: &str, to: &str) -> Vec<u8> {
    String::from_utf8_lossy(body).replace(from, to).into_bytes()
}

async fn until_client_leaves(stream: &mut TcpStream) {
    // Any end of the connection, orderly or not, is the client leaving.
    let _ = tokio::io::copy(stream, &mut tokio::io::sink()).await;
}
