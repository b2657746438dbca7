//! A containerd that reads its configuration strictly, holds connections to its socket and answers CRI's Version and Status; it runs nothing.

use std::convert::Infallible;
use std::io;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName};
use hyper::http::{HeaderMap, HeaderValue};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pretend_kubelet::{Root, answer, log, notify};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use toml::{Table, Value};

const DEFAULT_CONFIG: &str = "/etc/containerd/config.toml";
const DEFAULT_SOCKET: &str = "/run/containerd/containerd.sock";

/// Top-level keys and whether they are tables, numbers, lists or texts.
/// Source: `Config` in services/server/config of containerd 1.7 and cmd/containerd/server/config of 2.x.
const KEYS: &[(&str, &str)] = &[
    ("version", "integer"),
    ("root", "string"),
    ("state", "string"),
    ("temp", "string"),
    ("plugin_dir", "string"),
    ("oom_score", "integer"),
    ("grpc", "table"),
    ("ttrpc", "table"),
    ("debug", "table"),
    ("metrics", "table"),
    ("cgroup", "table"),
    ("plugins", "table"),
    ("proxy_plugins", "table"),
    ("timeouts", "table"),
    ("stream_processors", "table"),
    ("imports", "array"),
    ("disabled_plugins", "array"),
    ("required_plugins", "array"),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let version = std::env::var("PRETEND_CONTAINERD_VERSION").unwrap_or_else(|_| "1.7.24".to_owned());
    let version = version.trim_start_matches('v');
    let config = match config_path(std::env::args().skip(1)) {
        Ok(Some(config)) => config,
        Ok(None) => {
            answer(&format!("containerd github.com/containerd/containerd {version} unknown"));
            return ExitCode::SUCCESS;
        }
        Err(error) => return fail(&error),
    };
    let signals = signal(SignalKind::terminate()).and_then(|ended| Ok((ended, signal(SignalKind::user_defined1())?)));
    let (ended, dump) = match signals {
        Ok(signals) => signals,
        Err(error) => return fail(&error.into()),
    };
    match until(ended, dump, run(&Root::from_env(), &config, version)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    log(&format!("containerd: {error:#}"));
    ExitCode::FAILURE
}

/// Runs until SIGTERM or a failure; tells its stacks, of which it has none, at SIGUSR1.
async fn until(
    mut ended: tokio::signal::unix::Signal,
    mut dump: tokio::signal::unix::Signal,
    work: impl Future<Output = anyhow::Result<Infallible>>,
) -> anyhow::Result<()> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            // The real one takes its signals from one queue: who sends both gets both.
            biased;
            _ = dump.recv() => log("=== BEGIN goroutine stack dump ===\n=== END goroutine stack dump ==="),
            // Dropped at any point: the process ends.
            _ = ended.recv() => return Ok(()),
            failure = &mut work => return failure.map(|never| match never {}),
        }
    }
}

/// Which configuration to read; `None` when only the version is wanted.
fn config_path(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Option<String>> {
    let mut config = DEFAULT_CONFIG.to_owned();
    while let Some(argument) = arguments.next() {
        let (flag, value) = match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        match flag {
            "--version" | "-version" | "-v" => return Ok(None),
            "--config" | "-config" | "-c" => {
                config = value.or_else(|| arguments.next()).context("flag needs an argument: -config")?;
            }
            "--log-level" | "-log-level" | "-l" => {
                value.or_else(|| arguments.next()).context("flag needs an argument: -log-level")?;
            }
            _ => bail!("flag provided but not defined: {flag}"),
        }
    }
    Ok(Some(config))
}

async fn run(root: &Root, config: &str, version: &str) -> anyhow::Result<Infallible> {
    let text = std::fs::read_to_string(root.at(config)).with_context(|| format!("failed to load TOML: {config}"))?;
    let config = read_config(&text, version).with_context(|| format!("failed to load TOML: {config}"))?;
    let address = config.get("grpc").and_then(|grpc| grpc.get("address")).and_then(Value::as_str);
    let listener = listen(root, address.filter(|address| !address.is_empty()).unwrap_or(DEFAULT_SOCKET))?;
    notify("READY=1").context("cannot tell the service manager")?;
    let mut held = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.context("cannot accept connections")?;
        let connection =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(client), service_fn(cri));
        held.spawn(async move {
            let _ = connection.await; // a client that speaks something else, or nothing, is only held
        });
        while held.try_join_next().is_some() {}
    }
}

/// Answers a call of the CRI. Source: gRPC over HTTP/2, and runtime.v1.RuntimeService.
async fn cri(request: Request<Incoming>) -> Result<Response<impl Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let text = |number: u8, text: &str| [&[number << 3 | 2, text.len() as u8], text.as_bytes()].concat();
    let message = match request.uri().path() {
        "/runtime.v1.RuntimeService/Version" => Some([text(1, "0.1.0"), text(2, "containerd"), text(4, "v1")].concat()),
        "/runtime.v1.RuntimeService/Status" => {
            let is_true = [0x10, 1];
            let conditions = ["RuntimeReady", "NetworkReady"].map(|kind| [&text(1, kind), &is_true[..]].concat());
            let inside = |message: &[u8]| [&[0x0a, message.len() as u8], message].concat();
            Some(inside(&conditions.map(|condition| inside(&condition)).concat()))
        }
        _ => None,
    };
    // 12 is UNIMPLEMENTED.
    let status = HeaderValue::from_static(if message.is_some() { "0" } else { "12" });
    let message = message.unwrap_or_default();
    let frame = [&[0, 0, 0, 0, message.len() as u8], &message[..]].concat();
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), status)]);
    let body = Full::new(Bytes::from(frame)).with_trailers(async { Some(Ok(trailers)) });
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

fn listen(root: &Root, socket: &str) -> anyhow::Result<UnixListener> {
    let path = root.at(socket);
    let folder = path.parent().context("the socket has no folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", path.display()));
        }
        Ok(()) | Err(_) => {}
    }
    UnixListener::bind(&path).with_context(|| format!("failed to get listener for main endpoint {socket}"))
}

/// Reads a configuration as this version of containerd does, and refuses what it would ignore.
fn read_config(text: &str, version: &str) -> anyhow::Result<Table> {
    let config: Table = text.parse()?;
    for (key, value) in &config {
        let Some((_, kind)) = KEYS.iter().find(|(known, _)| known == key) else { bail!("unknown key {key:?}") };
        ensure!(value.type_str() == *kind, "{key}: found {}, want {kind}", value.type_str());
    }
    let newest = if version.starts_with("1.") { 2 } else { 3 };
    match config.get("version").and_then(Value::as_integer) {
        Some(found) if (2..=newest).contains(&found) => {}
        Some(found) => bail!("expected containerd config version equal to or less than `{newest}`, got `{found}`"),
        None => bail!("containerd config version `1` is no longer supported: there is no `version`"),
    }
    for plugin in config.get("plugins").and_then(Value::as_table).into_iter().flat_map(Table::keys) {
        ensure!(plugin.starts_with("io.containerd."), "invalid plugin key URI {plugin:?} expect io.containerd.x.vx");
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_version_is_one_that_this_containerd_knows() {
        let accepted = |text, version| read_config(text, version).is_ok();
        assert!(accepted("version = 2\noom_score = -999\n[grpc]\n[plugins.\"io.containerd.grpc.v1.cri\"]\n", "1.7.24"));
        assert!(!accepted("version = 3", "1.7.24"));
        assert!(accepted("version = 3", "2.0.1"));
        assert!(!accepted("oom_score = 1", "2.0.1"));
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_refused() {
        let error = |text| read_config(text, "1.7.24").unwrap_err().to_string();
        assert_eq!(error("version = 2\nverbose = true"), "unknown key \"verbose\"");
        assert_eq!(error("version = \"2\""), "version: found string, want integer");
        assert!(error("version = 2\n[plugins.cri]").starts_with("invalid plugin key URI \"cri\""));
    }

    #[test]
    fn unknown_flags_are_refused() {
        let parse = |words: &str| config_path(words.split(' ').map(str::to_owned)).map_err(|error| error.to_string());
        assert_eq!(parse("--config /a"), Ok(Some("/a".to_owned())));
        assert_eq!(parse("--version"), Ok(None));
        assert_eq!(parse("--confg=/a"), Err("flag provided but not defined: --confg".to_owned()));
    }
}
