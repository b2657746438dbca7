//! gRPC over a socket of this machine, as far as containerd and its snapshotter are asked something.
//!
//! A handful of methods with a handful of fields: HTTP/2 is hyper's (two crates: h2 and fnv) and the rest is here; tonic and prost would
//! bring a dozen crates and a compiler.

use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::chain;

/// containerd takes a request for the things of one of its tenants; Kubernetes' are in this one.
pub(crate) const KUBERNETES: &str = "k8s.io";

/// `NOT_FOUND`. Source: grpc.io, status codes.
pub(crate) const NOT_FOUND: u32 = 5;

/// `FAILED_PRECONDITION`. Source: the same.
pub(crate) const FAILED_PRECONDITION: u32 = 9;

/// Why a call had no answer.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    /// Nobody listens.
    #[error("nobody listens: {0}")]
    Refused(String),
    /// It answered, and said no.
    #[error("it answered with gRPC status {code}{}{message}", if message.is_empty() { "" } else { ": " })]
    Status {
        /// Its code.
        code: u32,
        /// What it said.
        message: String,
    },
    /// What came is no answer.
    #[error("it answered {0}")]
    Bad(String),
}

/// Calls a method and reads all messages of the answer, up to `most` bytes together. Waits for ever: whoever calls has the deadline.
pub(crate) async fn call(socket: &Path, method: &str, message: &[u8], most: usize) -> Result<Vec<Bytes>, CallError> {
    let stream = UnixStream::connect(socket).await.map_err(|error| CallError::Refused(error.to_string()))?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let bad = |error: hyper::Error| CallError::Bad(chain(&error));
    let (mut sender, connection) = handshake.await.map_err(bad)?;
    let request = Request::post(format!("http://localhost/{method}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header("containerd-namespace", KUBERNETES)
        .body(Full::<Bytes>::from(framed(message)));
    let request = request.map_err(|error| CallError::Bad(error.to_string()))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(bad)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, most).collect().await;
        let body = body.map_err(|error| CallError::Bad(error.to_string()))?;
        let said = |name: &str| {
            let value = head.headers.get(name).or(body.trailers().and_then(|trailers| trailers.get(name)));
            value.and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        match said("grpc-status").map(|code| code.parse()) {
            Some(Ok(0)) => {}
            Some(Ok(code)) => {
                let message = said("grpc-message").unwrap_or_default().chars().take(200).collect();
                return Err(CallError::Status { code, message });
            }
            _ => return Err(CallError::Bad(format!("without a gRPC status, HTTP status {}", head.status.as_u16()))),
        }
        messages(body.to_bytes()).ok_or_else(|| CallError::Bad("a message that is cut off".to_owned()))
    };
    // Both ends of this exchange are awaited together; dropping either ends the other.
    tokio::select! {
        answer = exchange => answer,
        ended = connection => Err(CallError::Bad(format!("nothing and closed the connection ({ended:?})"))),
    }
}

/// A question of the CRI, such as `ImageService/PullImage`, that has one message for an answer; in words, why there is none.
pub(crate) async fn ask_cri(
    socket: &Path,
    method: &str,
    message: &[u8],
    (most, limit): (usize, Duration),
) -> Result<Bytes, String> {
    let method = format!("runtime.v1.{method}");
    match timeout(limit, call(socket, &method, message, most)).await {
        Ok(Ok(messages)) => Ok(messages.into_iter().next().unwrap_or_default()),
        Ok(Err(error)) => Err(format!("containerd's {method}: {error}")),
        Err(_) => Err(format!("containerd's {method}: no answer in {} s", limit.as_secs())),
    }
}

/// Not compressed, its length, itself.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("questions are short");
    [&[0][..], &length.to_be_bytes(), message].concat()
}

fn messages(mut body: Bytes) -> Option<Vec<Bytes>> {
    let mut messages = Vec::new();
    while !body.is_empty() {
        let (_, length) = body.get(..5)?.split_first()?;
        let length = usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?;
        let end = length.checked_add(5).filter(|end| *end <= body.len())?;
        messages.push(body.slice(5..end));
        body = body.split_off(end);
    }
    Some(messages)
}

/// A text as a field of a protobuf message.
pub(crate) fn text_field(number: u8, text: &str) -> Vec<u8> {
    message_field(number, text.as_bytes())
}

/// A message as a field of another.
pub(crate) fn message_field(number: u8, message: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = message.len();
    while length >= 0x80 {
        field.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
        length >>= 7;
    }
    field.push(u8::try_from(length).expect("seven bits"));
    field.extend(message);
    field
}

/// A field's value.
#[derive(Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub(crate) fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Value::Number(_) => None,
            Value::Bytes(bytes) => Some(bytes),
        }
    }
}

/// The fields of a protobuf message: their numbers and values. Source: the encoding's page at protobuf's documentation.
pub(crate) fn fields(mut message: &[u8]) -> Option<Vec<(u64, Value<'_>)>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut message)?),
            1 => Value::Bytes(split(&mut message, 8)?),
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                Value::Bytes(split(&mut message, length)?)
            }
            5 => Value::Bytes(split(&mut message, 4)?),
            _ => return None,
        };
        fields.push((key >> 3, value));
    }
    Some(fields)
}

fn split<'a>(message: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (first, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some(first)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *split(message, 1)?.first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes: Vec<u8>) {
            let _ = fields(&bytes); // must not panic
            let _ = messages(Bytes::from(bytes)); // as above
        }

        #[test]
        fn what_is_written_is_read(text in ".{0,300}", number in 1u8..16) {
            let field = text_field(number, &text);
            assert_eq!(fields(&field).unwrap(), [(number.into(), Value::Bytes(text.as_bytes()))]);
            let twice = Bytes::from([framed(&field), framed(b"")].concat());
            assert_eq!(messages(twice).unwrap(), [Bytes::from(field), Bytes::new()]);
        }
    }
}
