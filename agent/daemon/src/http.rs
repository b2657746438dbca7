//! The agent's own health over HTTP, served from a thread of its own, so that it answers while the guard waits for a disk.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use crate::guard::State;

/// Most connections at once; more wait.
const MAX_CONNECTIONS: usize = 32;

/// A client that sends its request more slowly than this is dropped.
const SLOW_CLIENT: Duration = Duration::from_secs(5);

/// A guard that missed this many looks is stuck.
const MISSED_LOOKS: u32 = 3;

/// What the guard saw last, and when.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    every: Duration,
    last: Arc<Mutex<(Instant, Option<State>)>>,
}

impl Health {
    pub(crate) fn new(every: Duration) -> Self {
        Self { every, last: Arc::new(Mutex::new((Instant::now(), None))) }
    }

    /// The guard has looked.
    pub(crate) fn looked(&self, state: State) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), Some(state));
    }

    fn live(&self) -> (StatusCode, String) {
        let (at, _) = &*self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = (self.every * MISSED_LOOKS).max(Duration::from_secs(30));
        match at.elapsed() {
            age if age > limit => {
                (StatusCode::SERVICE_UNAVAILABLE, format!("the guard last looked {} s ago\n", age.as_secs()))
            }
            _ => (StatusCode::OK, "ok\n".to_owned()),
        }
    }

    fn ready(&self) -> (StatusCode, String) {
        match &self.last.lock().unwrap_or_else(PoisonError::into_inner).1 {
            Some(state @ (State::InSync | State::Repaired(_))) => (StatusCode::OK, format!("{state}\n")),
            Some(state) => (StatusCode::SERVICE_UNAVAILABLE, format!("{state}\n")),
            None => (StatusCode::SERVICE_UNAVAILABLE, "not looked yet\n".to_owned()),
        }
    }
}

/// How often an address that is taken is tried again. The guard does its work meanwhile.
const BIND_EVERY: Duration = Duration::from_secs(5);

/// Serves the endpoint until the process ends.
pub(crate) fn serve(address: SocketAddr, health: Health) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("http".to_owned());
    thread.spawn(move || {
        runtime.block_on(async {
            let listener = bind(address).await;
            accept(listener, health).await;
        });
    })?;
    Ok(())
}

async fn bind(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                info!(%address, "serving /livez and /readyz");
                return listener;
            }
            Err(error) => {
                warn!(%address, error = %error, "cannot serve /livez; somebody else has the address");
                tokio::time::sleep(BIND_EVERY).await;
            }
        }
    }
}

async fn accept(listener: TcpListener, health: Health) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely; others close theirs meanwhile.
                debug!(error = %error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let health = health.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = answer(&request, &health);
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut connection = http1::Builder::new();
            connection.timer(TokioTimer::new()).header_read_timeout(SLOW_CLIENT).keep_alive(false);
            if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
                debug!(error = %error, "connection ended");
            }
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>, health: &Health) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/livez") => health.live(),
        (&Method::GET, "/readyz") => health.ready(),
        (&Method::GET, _) => (StatusCode::NOT_FOUND, "there are /livez and /readyz\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
