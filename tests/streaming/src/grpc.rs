//! gRPC on both sides: what a server answers and what a client asks, each a few lines over HTTP/2.

use std::convert::Infallible;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// What a call ends with when not with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its code. Source: grpc.io, status codes.
    pub code: u32,
    /// For people.
    pub message: String,
}

impl Status {
    /// The client's own time is over.
    pub const DEADLINE_EXCEEDED: u32 = 4;
    /// There is no such thing.
    pub const NOT_FOUND: u32 = 5;
    /// There is one already.
    pub const ALREADY_EXISTS: u32 = 6;
    /// It cannot be done as things are.
    pub const FAILED_PRECONDITION: u32 = 9;
    /// There is no such method.
    pub const UNIMPLEMENTED: u32 = 12;
    /// Something broke.
    pub const INTERNAL: u32 = 13;
    /// Nobody is there.
    pub const UNAVAILABLE: u32 = 14;

    /// A status with a text.
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}: {}", self.code, self.message)
    }
}

impl std::error::Error for Status {}

/// One who answers calls by their path, such as `/package.Service/Method`.
pub trait Service: Send + Sync + 'static {
    /// The answer's message.
    ///
    /// # Errors
    /// The status with which the call ends instead.
    fn answer(&self, path: &str, message: &[u8]) -> impl Future<Output = Result<Vec<u8>, Status>> + Send;
}

/// Serves for ever.
///
/// # Errors
/// When no connection can be taken.
pub async fn serve(listener: UnixListener, service: Arc<impl Service>) -> std::io::Result<Infallible> {
    loop {
        let (client, _) = listener.accept().await?;
        let service = Arc::clone(&service);
        let handler = service_fn(move |request| respond(Arc::clone(&service), request));
        let connection = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(client), handler);
        tokio::spawn(async move {
            let _ = connection.await; // a client that goes away, or speaks something else
        });
    }
}

async fn respond(
    service: Arc<impl Service>,
    request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let answer = service.answer(&path, body.get(5..).unwrap_or_default()).await;
    let (code, message, frame) = match answer {
        Ok(message) => (0, String::new(), framed(&message)),
        Err(status) => (status.code, status.message, Vec::new()),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    if let Ok(message) = HeaderValue::from_str(&message) {
        trailers.insert("grpc-message", message);
    }
    let body = Full::new(Bytes::from(frame)).with_trailers(async { Some(Ok(trailers)) });
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("messages are small");
    [&[0][..], &length.to_be_bytes(), message].concat()
}

/// Calls a method of whoever listens at a socket, and reads the one message of its answer.
///
/// # Errors
/// The status of the call; [`Status::DEADLINE_EXCEEDED`] when it has none within `limit`.
pub async fn call<A: Message + Default>(
    socket: &Path,
    path: &str,
    question: &impl Message,
    limit: Duration,
) -> Result<A, Status> {
    let late = |_| Err(Status::new(Status::DEADLINE_EXCEEDED, format!("no answer in {limit:?}")));
    timeout(limit, exchange(socket, path, question)).await.unwrap_or_else(late)
}

async fn exchange<A: Message + Default>(socket: &Path, path: &str, question: &impl Message) -> Result<A, Status> {
    let gone = |error: &dyn fmt::Display| Status::new(Status::UNAVAILABLE, error.to_string());
    let stream = UnixStream::connect(socket).await.map_err(|error| gone(&error))?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| gone(&error))?;
    tokio::spawn(connection);
    let request = Request::post(format!("http://localhost{path}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header("containerd-namespace", "k8s.io")
        .body(Full::new(Bytes::from(framed(&question.encode_to_vec()))))
        .expect("a path makes a request");
    let (head, body) = sender.send_request(request).await.map_err(|error| gone(&error))?.into_parts();
    let body = body.collect().await.map_err(|error| gone(&error))?;
    let said = |name: &str| {
        let value = head.headers.get(name).or(body.trailers().and_then(|trailers| trailers.get(name)));
        value.and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    match said("grpc-status").as_deref() {
        Some("0") => {}
        code => {
            let code = code.and_then(|code| code.parse().ok()).unwrap_or(Status::INTERNAL);
            return Err(Status::new(code, said("grpc-message").unwrap_or_default()));
        }
    }
    let message = body.to_bytes();
    A::decode(message.get(5..).unwrap_or_default()).map_err(|error| Status::new(Status::INTERNAL, error.to_string()))
}
