//! Connections and their limits: how many, how slow, how big, how often.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::Health;
use super::route::{self, Caller};
use super::tls::{Client, Tls};
use super::tokens::Tokens;

/// Most connections at once, for each endpoint; more wait.
const MAX_CONNECTIONS: usize = 32;

/// Most of those without a certificate, so that there is always room for one with.
const MAX_STRANGERS: usize = 16;

/// Most of those that wait for a change of the document; more are told to come again.
const MAX_WAITERS: usize = 8;

/// A client that sends its request, or its handshake, more slowly than this is dropped; one that says nothing, too.
const SLOW_CLIENT: Duration = Duration::from_secs(5);

/// Longest life of a connection: nobody holds a place for ever, however well he behaves.
const MAX_LIFE: Duration = Duration::from_secs(300);

/// Largest head of a request, in bytes. hyper takes no less.
const MAX_HEAD: usize = 8192;

/// Requests a second of one client with a certificate, and how many he may have saved up.
const RATE: f64 = 10.0;
const BURST: f64 = 20.0;

/// How often an address that is taken is tried again. The guard does its work meanwhile.
const BIND_EVERY: Duration = Duration::from_secs(5);

/// Most clients whose rate is known; who comes as one more shares the oldest's place.
const MAX_CLIENTS: usize = 64;

/// Behind the endpoint with TLS, `tokens` are those that the API server knows.
pub(super) async fn serve(address: SocketAddr, tls: Option<Tls>, tokens: Option<Tokens>, health: Health) {
    let listener = bind(address, tls.is_some()).await;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let waiters = Arc::new(Semaphore::new(MAX_WAITERS));
    let rates = Arc::new(Rates::default());
    let strangers = Arc::new(Strangers::default());
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
        let (tls, tokens, health) = (tls.clone(), tokens.clone(), health.clone());
        let (waiters, rates, strangers) = (Arc::clone(&waiters), Arc::clone(&rates), Arc::clone(&strangers));
        tokio::spawn(async move {
            let life = async {
                match tls {
                    None => exchange(stream, None, None, health, waiters, rates).await,
                    Some(tls) => match timeout(SLOW_CLIENT, tls.accept(stream)).await {
                        Ok(Ok((client, stream))) if client.certificate.is_some() => {
                            exchange(stream, Some(client), None, health, waiters, rates).await;
                        }
                        Ok(Ok((client, stream))) => match strangers.places.try_acquire() {
                            Ok(_place) => {
                                let rates = Arc::clone(&strangers.rates);
                                exchange(stream, Some(client), tokens, health, waiters, rates).await;
                            }
                            Err(_) => debug!("too many without a certificate already"),
                        },
                        Ok(Err(error)) => debug!(error = %error, "no handshake"),
                        Err(_) => debug!("a handshake took too long"),
                    },
                }
            };
            if timeout(MAX_LIFE, life).await.is_err() {
                debug!("a connection was open for too long");
            }
            drop(place);
        });
    }
}

async fn bind(address: SocketAddr, is_tls: bool) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                info!(%address, is_tls, "serving /v1/health, /livez, /readyz, /metrics");
                return listener;
            }
            Err(error) => {
                warn!(%address, error = %error, "cannot serve /v1/health; somebody else has the address");
                tokio::time::sleep(BIND_EVERY).await;
            }
        }
    }
}

/// Answers one connection's requests; a client is one from another machine, and who has no certificate is known by `tokens`.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    client: Option<Client>,
    tokens: Option<Tokens>,
    health: Health,
    waiters: Arc<Semaphore>,
    rates: Arc<Rates>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let is_allowed = client.as_ref().is_none_or(|client| match &client.certificate {
            Some(certificate) => rates.take(certificate),
            None => rates.take(&client.address.to_string()),
        });
        let operator = client.as_ref().and_then(|client| client.operator.clone());
        let mut caller = Caller { is_remote: client.is_some(), operator, is_allowed };
        let tokens = tokens.clone().zip(client.as_ref().map(|client| client.address));
        let (health, waiters) = (health.clone(), Arc::clone(&waiters));
        async move {
            if let Some((tokens, address)) = tokens.filter(|_| is_allowed) {
                match tokens.client(address, request.method(), request.uri().path(), request.headers()).await {
                    Ok(name) => caller.operator = Some(name),
                    Err(refused) => return Ok(refused),
                }
            }
            Ok::<_, Infallible>(route::answer(request, caller, &health, &waiters).await)
        }
    });
    let mut connection = http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(SLOW_CLIENT).max_buf_size(MAX_HEAD).max_headers(32);
    if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
        debug!(error = %error, "connection ended");
    }
}

/// Those without a certificate: what they use up is not taken from those with one.
struct Strangers {
    places: Semaphore,
    rates: Arc<Rates>,
}

impl Default for Strangers {
    fn default() -> Self {
        Self { places: Semaphore::new(MAX_STRANGERS), rates: Arc::default() }
    }
}

/// How much each client may still ask.
#[derive(Debug, Default)]
struct Rates {
    clients: Mutex<Vec<(String, f64, Instant)>>,
}

impl Rates {
    fn take(&self, name: &str) -> bool {
        let now = Instant::now();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let place = clients.iter().position(|(known, _, _)| known == name).unwrap_or_else(|| {
            if clients.len() >= MAX_CLIENTS {
                // The newcomer gets no more than the one who leaves had.
                clients[0].0 = name.to_owned();
                return 0;
            }
            clients.push((name.to_owned(), BURST, now));
            clients.len() - 1
        });
        let (_, left, at) = &mut clients[place];
        *left = (*left + (now - *at).as_secs_f64() * RATE).min(BURST);
        *at = now;
        let is_allowed = *left >= 1.0;
        if is_allowed {
            *left -= 1.0;
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_a_rate_of_its_own() {
        let rates = Rates::default();
        let allowed = (0..100).filter(|_| rates.take("a")).count();
        assert!((20..30).contains(&allowed), "{allowed}");
        assert!(rates.take("b"));
        for number in 0..1000 {
            rates.take(&number.to_string());
        }
        assert!(rates.clients.lock().unwrap().len() <= MAX_CLIENTS);
    }
}
