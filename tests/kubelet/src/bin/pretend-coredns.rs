//! A CoreDNS that reads its Corefile strictly, answers its own zone, forwards the rest over UDP, and keeps nothing.
//!
//! `pretend-coredns -conf FILE`. nap-agent starts it with an empty environment, so the root is what comes before the Corefile's usual
//! place. It has no modes: a test that wants it to hang sends SIGSTOP.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use pretend_kubelet::corefile::{self, Server};
use pretend_kubelet::{Root, answer, log};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::timeout;

const COREFILE: &str = "/etc/nap-agent/localdns/Corefile";
const UPSTREAM_LIMIT: Duration = Duration::from_secs(2);

/// Response codes. Source: RFC 1035, section 4.1.1.
const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const REFUSED: u8 = 5;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&format!("pretend-coredns: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [flag, path] = arguments.as_slice() else { bail!("usage: -conf FILE") };
    if flag != "-conf" {
        bail!("flag provided but not defined: {flag}");
    }
    let mut ended = signal(SignalKind::terminate())?;
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let root = path.strip_suffix(COREFILE).filter(|root| !root.is_empty());
    let root = root.map_or_else(Root::default, |root| Root::scratch(root.as_ref()));
    let mut servers = corefile::read(&text)?;
    for server in &mut servers {
        server.forward = destinations(&root, &server.forward)?;
    }
    let mut tasks = listen(Arc::new(servers)).await?;
    answer("pretend-coredns serves");
    tokio::select! {
        // Both may be dropped: the process ends.
        _ = ended.recv() => Ok(()),
        failed = tasks.join_next() => failed.context("nothing to serve")??.map(|never| match never {}),
    }
}

/// Addresses, with those of a resolver file in its place.
fn destinations(root: &Root, forward: &[String]) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for to in forward {
        if to.starts_with('/') {
            let text =
                std::fs::read_to_string(root.at(to)).with_context(|| format!("not an IP address or file {to}"))?;
            found.extend(text.lines().filter_map(|line| line.strip_prefix("nameserver ")).map(str::to_owned));
        } else {
            found.push(to.clone());
        }
    }
    Ok(found)
}

async fn listen(servers: Arc<Vec<Server>>) -> anyhow::Result<JoinSet<anyhow::Result<Infallible>>> {
    let mut tasks = JoinSet::new();
    let mut addresses: Vec<IpAddr> = servers.iter().flat_map(|server| server.addresses.clone()).collect();
    addresses.sort();
    addresses.dedup();
    for address in addresses {
        let socket = UdpSocket::bind((address, 53)).await.with_context(|| format!("listen udp {address}:53"))?;
        tasks.spawn(serve(Arc::new(socket), address, Arc::clone(&servers)));
    }
    for address in servers.iter().filter_map(|server| server.ready) {
        let listener = TcpListener::bind(address).await.with_context(|| format!("listen tcp {address}"))?;
        tasks.spawn(ready(listener));
    }
    Ok(tasks)
}

async fn ready(listener: TcpListener) -> anyhow::Result<Infallible> {
    loop {
        let (mut client, _) = listener.accept().await?;
        // The request is read first: closing a connection with unread bytes resets it, and the answer is lost with it.
        let _ = timeout(UPSTREAM_LIMIT, client.read(&mut [0; 1024])).await;
        let _ = client.write_all(b"HTTP/1.0 200 OK\r\n\r\nOK").await; // a client that is gone needs no answer
    }
}

async fn serve(socket: Arc<UdpSocket>, address: IpAddr, servers: Arc<Vec<Server>>) -> anyhow::Result<Infallible> {
    let mut questions = JoinSet::new();
    let mut packet = [0; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut packet).await?;
        let question = packet[..length].to_vec();
        let (socket, servers) = (Arc::clone(&socket), Arc::clone(&servers));
        questions.spawn(async move {
            let answer = answer_to(&question, address, &servers).await;
            let _ = socket.send_to(&answer, from).await; // a client that is gone needs no answer
        });
        while questions.try_join_next().is_some() {}
    }
}

async fn answer_to(question: &[u8], address: IpAddr, servers: &[Server]) -> Vec<u8> {
    let Some(name) = name(question) else { return code(question, SERVER_FAILURE) };
    let below = |zone: &str| zone.is_empty() || name == zone || name.ends_with(&format!(".{zone}"));
    let here = servers.iter().filter(|server| server.addresses.contains(&address) && below(&server.zone));
    match here.max_by_key(|server| server.zone.len()) {
        None => code(question, REFUSED),
        Some(server) if server.whoami => code(question, NO_ERROR),
        Some(server) => forwarded(question, &server.forward).await.unwrap_or_else(|| code(question, SERVER_FAILURE)),
    }
}

/// The first destination's answer.
async fn forwarded(question: &[u8], to: &[String]) -> Option<Vec<u8>> {
    let to = SocketAddr::from((to.first()?.parse::<IpAddr>().ok()?, 53));
    let socket = UdpSocket::bind("0.0.0.0:0").await.ok()?;
    socket.connect(to).await.ok()?;
    socket.send(question).await.ok()?;
    let mut packet = [0; 4096];
    let length = timeout(UPSTREAM_LIMIT, socket.recv(&mut packet)).await.ok()?.ok()?;
    Some(packet[..length].to_vec())
}

/// The name that is asked for, in lower case.
fn name(packet: &[u8]) -> Option<String> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*packet.get(at)?);
        if length == 0 {
            return Some(labels.join("."));
        }
        labels.push(String::from_utf8(packet.get(at + 1..at + 1 + length)?.to_ascii_lowercase()).ok()?);
        at += 1 + length;
    }
}

/// The question, as an answer without records.
fn code(question: &[u8], code: u8) -> Vec<u8> {
    let mut packet = question.to_vec();
    if let [_, _, flags, last, ..] = packet.as_mut_slice() {
        *flags |= 0x80;
        *last = 0x80 | code;
    }
    packet
}
