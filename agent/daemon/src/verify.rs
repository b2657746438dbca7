//! Is it true? Success means that the node has registered, not that something was started.

use std::time::Duration;

use nap_host::root::Root;
use nap_host::units::{UnitStatus, Units};
use nap_host::wait::{Try, until};
use nap_host::{api, observe};
use nap_model::config::NodeConfig;
use nap_model::facts::Facts;
use nap_model::plan::{healthz_port, node_name};
use nap_model::report::{Failure, Reason};
use tokio::net::UnixStream;
use tracing::info;

const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// systemd says containerd is up; its socket should answer at once.
const SOCKET_LIMIT: Duration = Duration::from_secs(15);

/// A kubelet that systemd had to start this often does not stay up.
const MAX_RESTARTS: u32 = 5;

/// containerd's socket takes a connection.
pub(crate) async fn containerd(root: &Root) -> Result<(), String> {
    let path = root.outside(CONTAINERD);
    until("containerd's socket", SOCKET_LIMIT, || async {
        match UnixStream::connect(&path).await {
            Ok(_) => Try::Done(()),
            Err(error) => Try::Again(format!("{CONTAINERD} takes no connection: {error}")),
        }
    })
    .await
}

/// kubelet has its certificate, is healthy, and its Node is in the API server.
pub(crate) async fn registered(root: &Root, config: &NodeConfig, facts: &Facts) -> Result<(), Failure> {
    let restarts = kubelet(root).await.map_or(0, |status| status.restarts);
    let watch = Watch { root, restarts };
    // kubelet gets its certificate before it opens its health endpoint, and registers after.
    watch
        .wait("kubelet's client certificate", config.boot.registration, Reason::ClientCertificateNotIssued, || {
            certificate(root)
        })
        .await?;
    let port = healthz_port(config);
    let healthz = || async move {
        api::kubelet_healthz(port).await.map_err(|error| format!("127.0.0.1:{port}/healthz: {error}"))
    };
    watch.wait("kubelet's health", config.boot.kubelet_healthy, Reason::KubeletUnhealthy, healthz).await?;
    let name = node_name(config, facts)?;
    let node = || async { api::node(root, name.as_str()).await.map_err(|error| error.to_string()) };
    let node = watch.wait("the Node object", config.boot.registration, Reason::NodeNotRegistered, node).await?;
    info!(
        node = name.as_str(),
        uid = node.metadata.uid,
        provider_id = node.spec.and_then(|spec| spec.provider_id),
        "node registered"
    );
    Ok(())
}

async fn certificate(root: &Root) -> Result<(), String> {
    match observe::client_certificate(root) {
        Ok(Some(certificate)) if certificate.is_valid_at(jiff::Timestamp::now()) => Ok(()),
        Ok(Some(certificate)) => Err(format!(
            "the client certificate is valid only from {} to {}",
            certificate.not_before, certificate.not_after
        )),
        Ok(None) => Err("kubelet has no client certificate yet".to_owned()),
        Err(error) => Err(nap_host::chain(&error)),
    }
}

struct Watch<'a> {
    root: &'a Root,
    restarts: u32,
}

impl Watch<'_> {
    /// Waits for something that kubelet does, and stops when kubelet itself does not stay up.
    async fn wait<T, F>(
        &self,
        what: &str,
        limit: Duration,
        reason: Reason,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, String>>,
    {
        until(what, limit, || {
            let attempt = attempt();
            async {
                let message = match attempt.await {
                    Ok(value) => return Try::Done(value),
                    Err(message) => message,
                };
                match kubelet(self.root).await {
                    Some(status) if status.restarts >= self.restarts + MAX_RESTARTS => {
                        let failure =
                            Failure::new(Reason::KubeletStartFailed, "kubelet.running", "kubelet does not stay up");
                        Try::Stop(failure.seen(status.to_string()).seen(message))
                    }
                    status => {
                        let failure = Failure::new(reason, format!("verify: {what}"), message)
                            .seen(format!("waited for up to {} s", limit.as_secs()));
                        Try::Again(match status {
                            Some(status) => failure.seen(format!("kubelet.service is {status}")),
                            None => failure,
                        })
                    }
                }
            }
        })
        .await
    }
}

async fn kubelet(root: &Root) -> Option<UnitStatus> {
    Units::connect(root).await.ok()?.status("kubelet.service").await.ok()
}
