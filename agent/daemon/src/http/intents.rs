//! `POST /v1/intents`: what a provisioner asks of the node. Only behind TLS, and only of clients whose certificate bears an operator's name or
//! who may by their token.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode};
use nap_model::intent::Intent;
use nap_model::verdict::Taken;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{info, warn};

use super::route::{Answer, text, whole};

/// Largest intent, in bytes.
const MAX_BODY: usize = 4096;

/// Longest time for the body, and for the watch to take the intent; a hung disk holds it up for half a second.
const SLOW: Duration = Duration::from_secs(5);

/// Intents that wait for the watch.
const QUEUE: usize = 8;

/// An intent, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) intent: Intent,
    pub(crate) answer: oneshot::Sender<Result<Taken, String>>,
}

pub(super) fn channel() -> (mpsc::Sender<Asked>, mpsc::Receiver<Asked>) {
    mpsc::channel(QUEUE)
}

/// `name` is that of the client, when he may.
pub(super) async fn take(request: Request<Incoming>, name: Option<&str>, watch: &mpsc::Sender<Asked>) -> Answer {
    if *request.method() != Method::POST {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return answer;
    }
    let Some(name) = name else {
        return text(StatusCode::FORBIDDEN, "the name in this certificate is no --tls-operator\n");
    };
    let body = match timeout(SLOW, Limited::new(request.into_body(), MAX_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return text(StatusCode::PAYLOAD_TOO_LARGE, "at most 4096 bytes\n"),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n"),
    };
    let intent = match Intent::parse(&body) {
        Ok(intent) => intent,
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    let (id, ask) = (intent.id.clone(), format!("{:?}", intent.ask));
    let (answer, taken) = oneshot::channel();
    let asked = async {
        watch.send(Asked { intent, answer }).await.ok()?;
        taken.await.ok()
    };
    match timeout(SLOW, asked).await {
        Ok(Some(Ok(taken))) => {
            info!(id, ask, of = name, ?taken, "intent");
            let mut answer = whole(json!({"id": id, "taken": format!("{taken:?}")}).to_string());
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            answer
        }
        Ok(Some(Err(why))) => {
            warn!(id, ask, of = name, why, "intent refused");
            text(StatusCode::CONFLICT, format!("{why}\n"))
        }
        // It may be taken yet: the same id does it once.
        Ok(None) | Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "not taken in time; send it again\n"),
    }
}
