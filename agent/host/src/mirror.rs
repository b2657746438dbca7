//! Asks the streaming mirror whether it answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::chain;
use crate::wait::{Try, until};

/// Longest time for one answer. containerd itself would wait for a mirror that hangs as long as kubelet lets it.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Longest wait for one that is just starting.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(5);

/// Asks for the API's root. Any status is an answer: who may pull what is the registry's to say.
///
/// # Errors
/// What it does instead.
pub async fn ask(port: u16) -> Result<(), String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let exchange = async {
        let stream = TcpStream::connect(address).await.map_err(|error| format!("nobody listens ({error})"))?;
        let bad = |error: hyper::Error| format!("it answered with something else than HTTP ({})", chain(&error));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(bad)?;
        let request = Request::get("/v2/").header(header::HOST, "localhost").body(Empty::<Bytes>::new());
        let request = request.map_err(|error| error.to_string())?;
        // Both ends of this exchange are awaited together; dropping either ends the other.
        tokio::select! {
            answer = sender.send_request(request) => answer.map(drop).map_err(bad),
            ended = connection => Err(format!("it answered nothing and closed the connection ({ended:?})")),
        }
    };
    let late = || format!("it takes the question and gives no answer in {} s", ANSWER_LIMIT.as_secs());
    let answer = timeout(ANSWER_LIMIT, exchange).await.unwrap_or_else(|_| Err(late()));
    answer.map_err(|why| format!("{address}: {why}"))
}

/// Waits until it answers.
///
/// # Errors
/// What it did last, when it does not within `limit`.
pub(crate) async fn answers(port: u16, limit: Duration) -> Result<(), String> {
    until("the streaming mirror", limit, || async {
        match ask(port).await {
            Ok(()) => Try::Done(()),
            Err(why) => Try::Again(why),
        }
    })
    .await
}
