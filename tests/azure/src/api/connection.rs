//! One client's connection: TLS, then HTTP/1.1 requests one after the other.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, DATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request as HttpRequest, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::access::authorize_path;
use super::cluster::Cluster;
use super::identity::{Credentials, User};
use super::objects::{Ask, Reply, perform};
use super::route::Route;
use super::status::ApiError;
use super::watch::WatchBody;
use crate::plain_http::split_target;
use crate::request_log::Request;

/// The real server's limit for one request.
const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

type Body = Either<Full<Bytes>, WatchBody>;

/// Serves one connection until the client leaves.
pub(crate) async fn serve(stream: TcpStream, acceptor: TlsAcceptor, cluster: Arc<Cluster>) {
    // A failed handshake is the client's finding (a wrong authority, a wrong name), not ours.
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let certificates: Arc<[CertificateDer<'static>]> = match stream.get_ref().1.peer_certificates() {
        Some(chain) => chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
        None => Arc::default(),
    };
    let service = service_fn(move |request| answer(Arc::clone(&cluster), Arc::clone(&certificates), request));
    // The only errors here are clients that leave in the middle of something.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    cluster: Arc<Cluster>,
    certificates: Arc<[CertificateDer<'static>]>,
    request: HttpRequest<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let noted = noted(&request);
    let ticket = cluster.log.arrived(noted.clone());
    let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let user = cluster.identify(&Credentials { certificates: &certificates, authorization });
    if let Ok(user) = &user {
        cluster.log.identified(ticket, &user.name);
    }
    let payload = match user {
        Ok(_) if cluster.unavailable => Err(ApiError::unavailable()),
        Ok(user) => respond(&cluster, &user, &noted, request.into_body()).await,
        Err(error) => Err(error),
    };
    let response = written(&cluster, payload);
    cluster.log.answered(ticket, Some(response.status().as_u16()));
    Ok(response)
}

/// An answer before it has headers.
enum Payload {
    Text(&'static str),
    Reply(Reply),
}

async fn respond(cluster: &Cluster, user: &User, request: &Request, body: Incoming) -> Result<Payload, ApiError> {
    let Some(route) = Route::parse(&request.path) else { return open_path(cluster, user, request) };
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|_| ApiError::too_large())?.to_bytes();
    let content_type = request.header("content-type").unwrap_or_default();
    let ask = Ask { user, method: &request.method, route: &route, query: &request.query, content_type, body: &body };
    perform(cluster, &ask).map(Payload::Reply)
}

fn open_path(cluster: &Cluster, user: &User, request: &Request) -> Result<Payload, ApiError> {
    authorize_path(user, &request.path)?;
    match (request.method.as_str(), request.path.trim_end_matches('/')) {
        ("GET", "/version") => Ok(Payload::Reply(Reply::Object(200, cluster.version_document()))),
        ("GET", "/healthz" | "/livez" | "/readyz") => Ok(Payload::Text("ok")),
        _ => Err(ApiError::no_such_resource()),
    }
}

fn written(cluster: &Cluster, payload: Result<Payload, ApiError>) -> Response<Body> {
    let full = |text: String| Either::Left(Full::new(Bytes::from(text)));
    let (status, content_type, body) = match payload {
        Ok(Payload::Text(text)) => (200, "text/plain; charset=utf-8", full(text.to_owned())),
        Ok(Payload::Reply(Reply::Object(status, object))) => (status, "application/json", full(object.to_string())),
        Ok(Payload::Reply(Reply::Watch(stream))) => (200, "application/json", Either::Right(stream)),
        Err(error) => (error.code, "application/json", full(error.document().to_string())),
    };
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, content_type)
        .header(CACHE_CONTROL, "no-cache, private")
        .header(DATE, cluster.clock.http_date())
        .body(body)
        .expect("every status and header here is well-formed")
}

fn noted(request: &HttpRequest<Incoming>) -> Request {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let (path, query) = split_target(target);
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = request.headers().iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    let method = request.method().to_string();
    Request { server: "api", method, path, query, headers, user: None, status: None, at: Instant::now() }
}
