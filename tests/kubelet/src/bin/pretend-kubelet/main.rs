//! A kubelet that joins a cluster, keeps its Node alive and answers `/healthz`; it runs no pods.
//!
//! Not here: pods, certificate rotation, the serving certificate, the API on port 10250, reserved resources, drop-in
//! configuration (`--config-dir`), and the effect of flags that only repeat the configuration.

mod certificate;
mod client;
mod config;
mod flags;
mod health;
mod kubeconfig;
mod node;
mod schema;

use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use pretend_kubelet::{Root, answer, feed_watchdog, log};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use crate::certificate::Bootstrap;
use crate::config::{Config, check_kernel};
use crate::flags::Flags;
use crate::node::Node;

/// How long containerd may take to listen. Source: the default of `runtimeRequestTimeout`.
const RUNTIME_WITHIN: Duration = Duration::from_secs(120);
const RUNTIME_LOOK_EVERY: Duration = Duration::from_millis(100);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let version = std::env::var("PRETEND_KUBELET_VERSION").unwrap_or_else(|_| "1.36.2".to_owned());
    match start(version.trim_start_matches('v')).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&format!("Error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Reads the command line and runs until SIGTERM or a failure.
async fn start(version: &str) -> anyhow::Result<()> {
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse().ok());
    let minor = minor.with_context(|| format!("PRETEND_KUBELET_VERSION {version:?} is no version such as 1.36.2"))?;
    let flags = Flags::parse(std::env::args().skip(1), minor)?;
    if flags.switch("version") == Some(true) {
        answer(&format!("Kubernetes v{version}"));
        return Ok(());
    }
    let root = Root::from_env();
    let config = Config::load(&root, &flags, minor)?;
    for flag in flags.idle() {
        log(&format!("flag --{flag} has no effect in this pretend kubelet"));
    }
    let mut ended = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    tokio::select! {
        // Both may be dropped at any point: the process ends.
        _ = ended.recv() => Ok(()),
        failure = run(&root, &config, &flags, version) => {
            failure.map(|never| match never {}).context("failed to run Kubelet")
        }
    }
}

async fn run(root: &Root, config: &Config, flags: &Flags, version: &str) -> anyhow::Result<Infallible> {
    if config.protect_kernel_defaults {
        check_kernel(root)?;
    }
    let name = node_name(root, flags)?;
    wait_for_runtime(root, config).await?;
    let client = Bootstrap { root, flags, node: &name, version }.client().await?;
    let address = flags.get("node-ip").map(str::to_owned);
    let node = Node { root, config, client, name, address, version };
    tokio::select! {
        // Whichever ends, all are dropped: the process ends.
        never = health::serve(config.healthz) => match never {},
        failure = feed_watchdog() => Ok(failure.context("cannot feed the watchdog")?),
        failure = node.live() => failure,
    }
}

/// The node's name: what it is told to be, else the machine's.
fn node_name(root: &Root, flags: &Flags) -> anyhow::Result<String> {
    let path = "/proc/sys/kernel/hostname";
    let name = match flags.get("hostname-override") {
        Some(name) => name.to_owned(),
        None => std::fs::read_to_string(root.at(path)).with_context(|| format!("cannot read {path}"))?,
    };
    let name = name.trim().to_lowercase();
    if name.is_empty() {
        bail!("empty hostname is invalid");
    }
    Ok(name)
}

/// Waits until containerd accepts connections.
async fn wait_for_runtime(root: &Root, config: &Config) -> anyhow::Result<()> {
    let deadline = Instant::now() + RUNTIME_WITHIN;
    let socket = &config.runtime_socket;
    loop {
        match UnixStream::connect(root.at(socket)).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("validate service connection: dial unix {socket}"));
            }
            Err(_) => sleep(RUNTIME_LOOK_EVERY).await,
        }
    }
}
