//! kubelet and containerd: what PID 1 says of them, and what they answer.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use nap_model::monitor::{Answer, NoAnswer, RuntimeCondition, UnitSeen};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::chain;
use crate::grpc::{self, CallError, Value, fields};
use crate::root::Root;
use crate::units::{UnitStatus, Units};

/// Longest wait for PID 1.
const UNIT_LIMIT: Duration = Duration::from_secs(5);

/// Longest wait for kubelet and containerd. A machine under pressure may take four times as long.
const KUBELET_LIMIT: Duration = Duration::from_secs(3);
const RUNTIME_LIMIT: Duration = Duration::from_secs(5);

fn limit(limit: Duration, is_strained: bool) -> Duration {
    if is_strained { 4 * limit } else { limit }
}

/// Largest answer that is read, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// A unit's state, its restarts, and its main process.
pub(super) async fn unit(root: &Root, name: &str) -> Result<UnitStatus, String> {
    let look = async {
        let units = Units::connect(root).await.map_err(|error| chain(&error))?;
        units.status(name).await.map_err(|error| chain(&error))
    };
    timeout(UNIT_LIMIT, look).await.unwrap_or_else(|_| Err("systemd does not answer".to_owned()))
}

pub(super) fn unit_seen(status: &UnitStatus) -> UnitSeen {
    UnitSeen { active: status.active.clone(), sub: status.sub.clone(), result: status.result.clone() }
}

/// kubelet's `/healthz`.
pub(super) async fn kubelet(port: u16, is_strained: bool) -> Answer {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    within(limit(KUBELET_LIMIT, is_strained), async {
        let stream = TcpStream::connect(address).await.map_err(|error| NoAnswer::Refused(error.to_string()))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| bad(&error))?;
        let request = Request::get("/healthz").header(header::HOST, "localhost").body(Empty::<Bytes>::new());
        let request = request.map_err(|error| NoAnswer::Bad(error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| bad(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
            let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default(); // the status says enough
            if status.is_success() {
                return Ok(());
            }
            let text: String = String::from_utf8_lossy(&body).chars().take(120).collect();
            Err(NoAnswer::Bad(format!("{}: {}", status.as_u16(), text.trim())))
        };
        // Both ends of this exchange are awaited together; dropping either ends the other.
        tokio::select! {
            answer = exchange => answer,
            ended = connection => Err(NoAnswer::Bad(format!("nothing and closed the connection ({ended:?})"))),
        }
    })
    .await
}

/// CRI's Version: whether containerd is there at all.
pub(super) async fn runtime(socket: &Path, is_strained: bool) -> Answer {
    within(limit(RUNTIME_LIMIT, is_strained), async { call(socket, "Version").await.map(drop) }).await
}

/// The conditions of CRI's Status.
pub(super) async fn runtime_conditions(socket: &Path) -> Result<Vec<RuntimeCondition>, NoAnswer> {
    let answer = timeout(4 * RUNTIME_LIMIT, call(socket, "Status")).await.unwrap_or(Err(NoAnswer::Late))?;
    conditions(&answer).ok_or_else(|| NoAnswer::Bad("a status that cannot be read".to_owned()))
}

async fn within(limit: Duration, ask: impl Future<Output = Result<(), NoAnswer>>) -> Answer {
    let start = Instant::now();
    let result = timeout(limit, ask).await.unwrap_or(Err(NoAnswer::Late));
    Answer { took: start.elapsed(), result }
}

fn bad(error: &hyper::Error) -> NoAnswer {
    NoAnswer::Bad(chain(error))
}

/// Calls a method of the CRI that takes an empty message.
async fn call(socket: &Path, method: &str) -> Result<Bytes, NoAnswer> {
    let method = format!("runtime.v1.RuntimeService/{method}");
    match grpc::call(socket, &method, &[], MAX_BODY).await {
        Ok(messages) => Ok(messages.into_iter().next().unwrap_or_default()),
        Err(CallError::Refused(why)) => Err(NoAnswer::Refused(why)),
        Err(error) => Err(NoAnswer::Bad(error.to_string())),
    }
}

/// `StatusResponse{status: 1{conditions: 1 repeated{type: 1, status: 2, reason: 3, message: 4}}}`.
fn conditions(message: &[u8]) -> Option<Vec<RuntimeCondition>> {
    let mut conditions = Vec::new();
    for (_, status) in fields(message)?.into_iter().filter(|(number, _)| *number == 1) {
        for (_, condition) in fields(status.bytes()?)?.into_iter().filter(|(number, _)| *number == 1) {
            let fields = fields(condition.bytes()?)?;
            let find = |wanted: u64| fields.iter().find(|(number, _)| *number == wanted).map(|(_, value)| value);
            let text = |wanted| find(wanted).and_then(|value| value.bytes()).map(String::from_utf8_lossy);
            let text = |wanted| text(wanted).unwrap_or_default().chars().take(200).collect::<String>();
            let status = matches!(find(2), Some(Value::Number(1)));
            conditions.push(RuntimeCondition { kind: text(1), status, reason: text(3), message: text(4) });
        }
    }
    Some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read() {
        // status{conditions{type: "NetworkReady", reason: "N", message: "no"}, conditions{type: "RuntimeReady", status: true}}
        let mut network = vec![0x0a, 12];
        network.extend(b"NetworkReady");
        network.extend([0x1a, 1, b'N', 0x22, 2, b'n', b'o']);
        let mut runtime = vec![0x0a, 12];
        runtime.extend(b"RuntimeReady");
        runtime.extend([0x10, 1]);
        let mut status = Vec::new();
        for condition in [network, runtime] {
            status.extend([0x0a, u8::try_from(condition.len()).unwrap()]);
            status.extend(condition);
        }
        let mut message = vec![0x0a, u8::try_from(status.len()).unwrap()];
        message.extend(status);
        let read = conditions(&message).unwrap();
        let told: Vec<_> = read.iter().map(|one| (one.kind.as_str(), one.status, one.message.as_str())).collect();
        assert_eq!(told, [("NetworkReady", false, "no"), ("RuntimeReady", true, "")]);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes: Vec<u8>) {
            let _ = conditions(&bytes); // must not panic
        }
    }
}
