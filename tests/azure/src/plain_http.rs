//! HTTP/1.1 without a library: one request a connection.
//!
//! The faults of IMDS are broken answers (half a body, no length, a reset), which an HTTP library rightly refuses to
//! write. So the plain servers read a request and write bytes themselves.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::request_log::Request;

const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_BODY_BYTES: usize = 1024 * 1024;
const MAX_HEADERS: usize = 64;

/// A request and its body.
pub(crate) struct Call {
    pub(crate) request: Request,
    pub(crate) body: Vec<u8>,
}

/// An answer before it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![("Content-Type", content_type.to_owned())], body: body.into() }
    }

    pub(crate) fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, "application/json; charset=utf-8", body.to_string())
    }

    pub(crate) fn text(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body)
    }

    pub(crate) fn xml(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::new(status, "text/xml; charset=utf-8", body)
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, phrase(self.status));
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        // The host's clock, by which a guest may see that its own is wrong. Source: RFC 9110, 6.6.1.
        let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %T GMT");
        head + &format!("Date: {date}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", self.body.len())
    }

    /// Writes the whole answer and closes our side.
    pub(crate) async fn send(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        stream.write_all(self.head().as_bytes()).await?;
        stream.write_all(&self.body).await?;
        stream.shutdown().await
    }

    /// Writes the body in `chunk`s of bytes with a pause before each.
    pub(crate) async fn drip(&self, stream: &mut TcpStream, chunk: usize, pause: Duration) -> std::io::Result<()> {
        stream.write_all(self.head().as_bytes()).await?;
        for part in self.body.chunks(chunk.max(1)) {
            tokio::time::sleep(pause).await;
            stream.write_all(part).await?;
        }
        stream.shutdown().await
    }

    /// Promises the whole body, writes half of it, and resets the connection.
    pub(crate) async fn reset_mid_body(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        stream.write_all(self.head().as_bytes()).await?;
        stream.write_all(&self.body[..self.body.len() / 2]).await?;
        stream.flush().await?;
        // Closing with linger 0 sends RST instead of FIN.
        stream.set_zero_linger()
    }

    /// Answers as HTTP/1.0 does: the end of the connection is the end of the body.
    pub(crate) async fn send_http_1_0(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let head =
            format!("HTTP/1.0 {} {}\r\nContent-Type: application/json\r\n\r\n", self.status, phrase(self.status));
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&self.body).await?;
        stream.shutdown().await
    }
}

fn phrase(status: u16) -> &'static str {
    hyper::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Unknown")
}

/// Reads one request; `None` when the client sent nothing we understand.
pub(crate) async fn read_call(stream: &mut TcpStream, server: &'static str) -> Option<Call> {
    let mut bytes = Vec::new();
    let head_length = loop {
        match parse_head(&bytes, server) {
            Head::Complete(request, length) => break (request, length),
            Head::Partial if bytes.len() < MAX_HEAD_BYTES => {}
            Head::Partial | Head::Broken => return None,
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let (request, length) = head_length;
    let wanted: usize = request.header("content-length").map_or(Ok(0), str::parse).ok()?;
    if wanted > MAX_BODY_BYTES {
        return None;
    }
    let mut body = bytes.split_off(length);
    while body.len() < wanted {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Call { request, body })
}

enum Head {
    Complete(Request, usize),
    Partial,
    Broken,
}

fn parse_head(bytes: &[u8], server: &'static str) -> Head {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Head::Partial,
        Err(_) => return Head::Broken,
    };
    let (path, query) = split_target(parsed.path.unwrap_or_default());
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = parsed.headers.iter().map(|header| (header.name.to_ascii_lowercase(), text(header.value))).collect();
    let method = parsed.method.unwrap_or_default().to_owned();
    let request = Request { server, method, path, query, headers, user: None, status: None, at: Instant::now() };
    Head::Complete(request, length)
}

/// Splits a request target into its decoded path and query parameters.
pub(crate) fn split_target(target: &str) -> (String, Vec<(String, String)>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (percent_decoded(name), percent_decoded(value))
    };
    (percent_decoded(path), query.split('&').filter(|part| !part.is_empty()).map(pair).collect())
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'%').then(|| tail.get(..2)).flatten();
        match code.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_split_and_decoded() {
        let (path, query) = split_target("/a%20b?x=1&x=%3D&flag");
        assert_eq!(path, "/a b");
        let pairs: Vec<(&str, &str)> = query.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("x", "1"), ("x", "="), ("flag", "")]);
    }
}
