//! `/healthz`, as monitors of a node ask for it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use pretend_kubelet::log;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long until another try to listen. Source: the kubelet's healthz loop.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Answers on the address for ever, and tries again when it is taken: the kubelet lives on without.
pub(crate) async fn serve(address: Option<SocketAddr>) -> Infallible {
    let Some(address) = address else { return std::future::pending().await };
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => answer_all(&listener).await,
            Err(error) => log(&format!("Failed to start healthz server: listen tcp {address}: {error}")),
        }
        sleep(LISTEN_AGAIN_AFTER).await;
    }
}

async fn answer_all(listener: &TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => return log(&format!("Failed to accept on healthz: {error}")),
        };
        connections.spawn(async move {
            let serving =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(reply));
            let _ = serving.await; // the client went away: nobody is left to tell
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn reply(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match request.uri().path() {
        "/healthz" | "/healthz/" | "/healthz/ping" => (StatusCode::OK, "ok"),
        _ => (StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    Ok(response)
}
