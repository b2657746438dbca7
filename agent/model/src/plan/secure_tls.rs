//! Secure TLS bootstrapping: before kubelet starts, AKS' client gets its client certificate by the node's attested identity.
//!
//! Whether that works, only the boot finds out, and a boot must not be lost to it when there is a bootstrap token. So it goes as with
//! LocalDNS: the client is a step that the node can do without; when it fails, the boot notes why as a fact
//! ([`Facts::secure_tls_failure`]) and plans again. With that fact the plan has the token's kubeconfig, which before it has not: a
//! token that nobody needs is never on the disk. With neither, the plan is refused and says what was tried.
//!
//! The client runs at most for its own deadline, which is the sum of the limits of its phases (8 minutes when nobody says less), and
//! never for more than half of the boot: what comes after it needs the other half.
//!
//! A certificate that expired later makes the client's inputs others, so the guard runs it again.

use std::time::Duration;

use super::cloud;
use super::credentials::{CA, KUBECONFIG};
use super::resource::{Digest, Readiness, Step, Want, public_file};
use crate::config::{self, NodeConfig};
use crate::facts::Facts;
use crate::os::SECURE_TLS_BOOTSTRAP_CLIENT;

/// The step whose failure means the bootstrap token.
pub const SECURE_TLS_RUN: &str = "secure-tls.run";

/// Its unit. Source of name and command: AgentBaker, `secure-tls-bootstrap.service`.
pub const SECURE_TLS_UNIT: &str = "secure-tls-bootstrap.service";

/// What becomes of the client on this machine.
pub(super) enum SecureTls<'a> {
    /// Nobody asked for it.
    Unwanted,
    /// It was asked for and gives no certificate, for this reason.
    Unavailable(String),
    /// It is what gives kubelet a certificate.
    Available(&'a config::SecureTls),
}

/// Whether the node's certificate is to come from secure TLS bootstrapping: it was asked for and nothing speaks against it yet.
pub fn tries_secure_tls(config: &NodeConfig, facts: &Facts) -> bool {
    matches!(SecureTls::new(config, facts), SecureTls::Available(_))
}

impl<'a> SecureTls<'a> {
    pub(super) fn new(config: &'a NodeConfig, facts: &Facts) -> Self {
        match (&config.secure_tls, &facts.secure_tls_failure) {
            (None, _) => Self::Unwanted,
            (Some(_), _) if !facts.present.contains(SECURE_TLS_BOOTSTRAP_CLIENT) => {
                Self::Unavailable(format!("the image has no {SECURE_TLS_BOOTSTRAP_CLIENT}"))
            }
            (Some(_), Some(why)) => Self::Unavailable(why.clone()),
            (Some(client), None) => Self::Available(client),
        }
    }

    /// The order in which credentials were tried, where it is not the wanted one.
    pub(super) fn note(&self, config: &NodeConfig) -> Option<String> {
        let Self::Unavailable(why) = self else { return None };
        let next =
            config.bootstrap_token.as_ref().map_or("and there is no bootstrap token", |_| "then the bootstrap token");
        Some(format!(
            "SecureTlsBootstrapFailed: kubelet's credential was tried by secure TLS bootstrapping first ({why}), {next}"
        ))
    }
}

pub(super) fn files(config: &NodeConfig, facts: &Facts) -> Vec<Step> {
    let SecureTls::Available(client) = SecureTls::new(config, facts) else { return Vec::new() };
    let path = "/etc/systemd/system/secure-tls-bootstrap.service";
    let why = "AKS' client asks for kubelet's certificate by the node's attested identity";
    vec![Step::new("secure-tls.unit", why, public_file(path, unit(client, config)))]
}

/// Nothing once kubelet has a certificate.
pub(super) fn run(config: &NodeConfig, facts: &Facts) -> Option<Step> {
    let SecureTls::Available(client) = SecureTls::new(config, facts) else { return None };
    if facts.has_joined() {
        return None;
    }
    let expired = facts.client_certificate.map(|certificate| certificate.not_after.to_string());
    let inputs = Digest::of_parts([unit(client, config), expired.unwrap_or_default()]);
    let readiness = Readiness::Done { within: deadline(client, config) };
    let want = Want::Unit { name: SECURE_TLS_UNIT, inputs, readiness };
    Some(Step::new(SECURE_TLS_RUN, "kubelet gets its certificate without a token", want).desired())
}

fn deadline(client: &config::SecureTls, config: &NodeConfig) -> Duration {
    client.deadline.min(config.boot.budget / 2)
}

fn unit(client: &config::SecureTls, config: &NodeConfig) -> String {
    let mut arguments = vec![
        "--verbose".to_owned(),
        "--ensure-authorized".to_owned(),
        "--next-proto=aks-tls-bootstrap".to_owned(),
        format!("--aad-resource={}", client.aad_resource),
        format!("--apiserver-fqdn={}", config.cluster.api_server.host),
        "--cloud-provider-config=/etc/kubernetes/azure.json".to_owned(),
        format!("--cluster-ca-file={CA}"),
        format!("--kubeconfig={KUBECONFIG}"),
        "--cert-dir=/var/lib/kubelet/pki".to_owned(),
        "--log-file=/var/log/azure/aks/secure-tls-bootstrap.log".to_owned(),
    ];
    arguments.extend(client.identity.iter().map(|id| format!("--user-assigned-identity-id={id}")));
    arguments.extend(client.limits.iter().map(|(flag, limit)| format!("--{flag}={}ms", limit.as_millis())));
    let environment = cloud::environment_variable(&config.cloud).map(|variable| format!("Environment={variable}"));
    format!(
        "# Written by nap-agent.\n\
         [Unit]\n\
         Description=AKS secure TLS bootstrap client\n\
         Before=kubelet.service\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         LogsDirectory=azure/aks\n\
         TimeoutStartSec={milliseconds}ms\n\
         TimeoutStartFailureMode=kill\n\
         TimeoutStopSec=5s\n\
         {environment}\
         ExecStart={SECURE_TLS_BOOTSTRAP_CLIENT} {arguments}\n",
        milliseconds = deadline(client, config).as_millis(),
        environment = environment.unwrap_or_default(),
        // systemd's own sign in the provisioner's words.
        arguments = arguments.join(" ").replace('%', "%%"),
    )
}
