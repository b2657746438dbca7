//! What kubelet joins with: the cluster's CA and, until it has its own certificate, the bootstrap token.

use serde_json::json;

use super::resource::{AbsPath, Content, Step, Want, public_file, secret_file};
use super::secure_tls::SecureTls;
use crate::config::{NodeConfig, Use};
use crate::facts::Facts;
use crate::report::{Failure, Reason};

/// The cluster's CA.
pub(super) const CA: &str = "/etc/kubernetes/certs/ca.crt";
/// Holds the token; gone once the client certificate is valid.
pub const BOOTSTRAP_KUBECONFIG: &str = "/var/lib/kubelet/bootstrap-kubeconfig";
/// kubelet's keys and certificates.
pub(super) const KUBELET_KEYS: &str = "/var/lib/kubelet/pki";
/// kubelet's client certificate and its key; kubelet turns the link to the newest.
pub const CLIENT_CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";
/// Written by kubelet.
pub(super) const KUBECONFIG: &str = "/var/lib/kubelet/kubeconfig";

pub(super) fn refuse_missing(config: &NodeConfig, facts: &Facts) -> Result<(), Failure> {
    let secure_tls = SecureTls::new(config, facts);
    if config.bootstrap_token.is_some() || facts.has_joined() || matches!(secure_tls, SecureTls::Available(_)) {
        return Ok(());
    }
    let message = match &secure_tls {
        SecureTls::Unavailable(_) => {
            "neither secure TLS bootstrapping nor a bootstrap token gives a client certificate"
        }
        _ => "there is neither a bootstrap token nor a valid client certificate",
    };
    let mut failure = Failure::new(Reason::BootstrapCredentialMissing, "plan", message);
    if let SecureTls::Unavailable(why) = &secure_tls {
        failure = failure
            .seen(format!("first, secure TLS bootstrapping: {why}"))
            .seen("second, the bootstrap token: the configuration has none");
    }
    Err(match facts.client_certificate {
        Some(certificate) => failure
            .seen(format!("client certificate valid from {} to {}", certificate.not_before, certificate.not_after)),
        None => failure.seen(format!("no client certificate that can be read in {KUBELET_KEYS}")),
    })
}

pub(super) fn files(config: &NodeConfig, facts: &Facts) -> Vec<Step> {
    let mut steps = vec![ca(config), bootstrap_kubeconfig(config, facts)];
    if facts.has_joined() && config.storage.uses.contains(&Use::Kubelet) {
        steps.push(kubeconfig(config));
    }
    steps
}

/// kubelet writes it once, when it joins, and needs it ever after. On a local disk that came back blank it is gone, while the keys
/// that it names are not.
fn kubeconfig(config: &NodeConfig) -> Step {
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default-cluster", "cluster": {"server": config.cluster.api_server.to_string(), "certificate-authority": CA}}],
        "users": [{"name": "default-auth", "user": {"client-certificate": CLIENT_CERTIFICATE, "client-key": CLIENT_CERTIFICATE}}],
        "contexts": [{"name": "default-context", "context": {"cluster": "default-cluster", "user": "default-auth"}}],
        "current-context": "default-context",
    });
    let content = Content::public(format!("{kubeconfig:#}\n"));
    let want = Want::FileIfAbsent { path: AbsPath::literal(KUBECONFIG), mode: 0o600, content };
    Step::new("kubelet.kubeconfig", "kubelet has its keys and does not know for which cluster", want)
}

pub(super) fn ca(config: &NodeConfig) -> Step {
    Step::new(
        "kubelet.ca",
        "kubelet trusts this cluster and no other",
        public_file(CA, config.cluster.ca_certificate.clone()),
    )
}

fn bootstrap_kubeconfig(config: &NodeConfig, facts: &Facts) -> Step {
    match &config.bootstrap_token {
        Some(token) if !facts.has_joined() && !matches!(SecureTls::new(config, facts), SecureTls::Available(_)) => {
            let kubeconfig = json!({
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "cluster", "cluster": {"server": config.cluster.api_server.to_string(), "certificate-authority": CA}}],
                "users": [{"name": "kubelet-bootstrap", "user": {"token": token.reveal()}}],
                "contexts": [{"name": "bootstrap", "context": {"cluster": "cluster", "user": "kubelet-bootstrap"}}],
                "current-context": "bootstrap",
            });
            let why = "kubelet asks for its certificate with the bootstrap token";
            Step::new(
                "kubelet.bootstrap-kubeconfig",
                why,
                secret_file(BOOTSTRAP_KUBECONFIG, format!("{kubeconfig:#}\n")),
            )
        }
        _ => {
            let why = "a token that is not needed must not be on the disk";
            Step::new(
                "kubelet.bootstrap-kubeconfig",
                why,
                Want::Absent { path: AbsPath::literal(BOOTSTRAP_KUBECONFIG) },
            )
        }
    }
}
