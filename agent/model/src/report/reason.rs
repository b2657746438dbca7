//! Why a boot failed, in one stable word.
//!
//! A reason is an API: dashboards, alerts and people match on it, so a name never changes its meaning. Beside it stands the exit code
//! that AgentBaker gives that class of failure, because support tooling greps for those.

use std::fmt;

use serde::Serialize;

/// Every way in which a boot can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Reason {
    /// No source had a custom data.
    CustomDataMissing,
    /// A custom data is there and holds no configuration.
    CustomDataUnreadable,
    /// The configuration has mistakes.
    ConfigInvalid,
    /// The configuration was needed from IMDS, and IMDS did not answer.
    ImdsUnreachable,
    /// No way to a client certificate is left.
    BootstrapCredentialMissing,
    /// The image has no kubelet where it should be.
    KubeletBinaryMissing,
    /// The image has no containerd where it should be.
    ContainerdBinaryMissing,
    /// The image has another minor version of kubelet.
    ImageLacksKubernetesVersion,
    /// The image lacks a program that the node cannot do without.
    ImageLacksProgram,
    /// The image lacks a plugin of the pod network.
    ImageLacksCniPlugin,
    /// This distribution is in no row of our table.
    OsUnsupported,
    /// A file, directory, sysctl or module could not be brought into its state.
    StepFailed,
    /// The machine's bundle of trusted certificates could not be made.
    TrustStoreFailed,
    /// containerd does not start, or starts and dies.
    ContainerdUnhealthy,
    /// systemd could not be reached.
    SystemdUnreachable,
    /// The API server's name does not resolve.
    ApiServerDnsFailed,
    /// Nothing answers at the API server's address and port.
    ApiServerUnreachable,
    /// The API server's certificate is not signed by the cluster's CA.
    ApiServerUntrusted,
    /// The API server answers with an error of its own.
    ApiServerUnhealthy,
    /// This machine's clock is far from the API server's.
    ClockSkewed,
    /// The API server says 401 to the bootstrap token.
    BootstrapTokenRejected,
    /// kubelet's unit does not stay up.
    KubeletStartFailed,
    /// kubelet's health endpoint does not answer well.
    KubeletUnhealthy,
    /// kubelet asked for a certificate and got none.
    ClientCertificateNotIssued,
    /// kubelet runs with a certificate and its Node is not in the API server.
    NodeNotRegistered,
    /// The budget of the whole boot is spent.
    BootDeadlineExceeded,
}

/// What is known about a reason.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReasonRow {
    /// The reason.
    pub reason: Reason,
    /// AgentBaker's exit code for that class of failure. Source: AgentBaker `cse_helpers.sh`.
    pub exit_code: u8,
    /// The time within which a boot ends with it, by default.
    pub within: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What to do.
    pub hint: &'static str,
}

const fn row(
    reason: Reason,
    exit_code: u8,
    within: &'static str,
    meaning: &'static str,
    hint: &'static str,
) -> ReasonRow {
    ReasonRow { reason, exit_code, within, meaning, hint }
}

/// One row for each reason.
pub const REASONS: &[ReasonRow] = &[
    row(
        Reason::CustomDataMissing,
        240,
        "95 s",
        "No source had a custom data.",
        "Check that the provisioner set osProfile.customData; the sources tried are listed in the evidence.",
    ),
    row(
        Reason::CustomDataUnreadable,
        240,
        "1 s",
        "A custom data is there and holds no configuration that nap-agent reads.",
        "Run `nap-agent decode` on it; it must hold a NodeBootstrap or an AKSNodeConfig.",
    ),
    row(
        Reason::ConfigInvalid,
        240,
        "1 s",
        "The configuration has mistakes, all of them listed.",
        "Correct the listed fields; `nap-agent decode --custom-data FILE` checks a file anywhere.",
    ),
    row(
        Reason::ImdsUnreachable,
        234,
        "95 s",
        "The configuration had to come from IMDS, and IMDS did not answer.",
        "Check the route to 169.254.169.254 and that no proxy or firewall is in between.",
    ),
    row(
        Reason::BootstrapCredentialMissing,
        34,
        "1 s, or the limit of secure TLS bootstrapping",
        "Nothing gives kubelet a client certificate: no secure TLS bootstrapping that works, no bootstrap token, none from before.",
        "Give identity.bootstrapToken; a node that was off for longer than its certificate lives must be replaced.",
    ),
    row(
        Reason::KubeletBinaryMissing,
        121,
        "1 s",
        "The image has no kubelet where it should be.",
        "Use an image that has the Kubernetes version of the cluster.",
    ),
    row(
        Reason::ContainerdBinaryMissing,
        28,
        "1 s",
        "The image has no containerd where it should be.",
        "Use an image with containerd 1.7 or later.",
    ),
    row(
        Reason::ImageLacksKubernetesVersion,
        65,
        "1 s",
        "The image's inventory has a kubelet of another minor version than the configuration wants.",
        "Use an image of that Kubernetes version; `nap-image-builder check` tells what an image can serve.",
    ),
    row(
        Reason::ImageLacksProgram,
        65,
        "1 s",
        "The image's inventory lacks a program that the node cannot do without.",
        "Install it and bake the image again; `nap-image-builder check` tells everything that is missing.",
    ),
    row(
        Reason::ImageLacksCniPlugin,
        65,
        "1 s",
        "The image's inventory lacks a plugin that the pod network's mode calls.",
        "Install it and bake the image again, or choose a mode whose DaemonSet brings its plugins.",
    ),
    row(
        Reason::OsUnsupported,
        240,
        "1 s",
        "nap-agent does not know this distribution.",
        "Use Ubuntu 22.04, Ubuntu 24.04, Azure Linux 3 (or Debian, for tests).",
    ),
    row(
        Reason::StepFailed,
        4,
        "90 s",
        "A file, directory, sysctl, module or unit could not be brought into its state.",
        "The evidence names the step and the error of the system call; check disk space and read-only mounts.",
    ),
    row(
        Reason::TrustStoreFailed,
        161,
        "90 s",
        "The machine's bundle of trusted certificates could not be made.",
        "The evidence has what the distribution's program said; is ca-certificates in the image?",
    ),
    row(
        Reason::ContainerdUnhealthy,
        4,
        "95 s",
        "containerd does not start, or starts and dies.",
        "See `journalctl -u containerd`; its last lines are in the evidence.",
    ),
    row(
        Reason::SystemdUnreachable,
        4,
        "90 s",
        "systemd does not answer on its private socket.",
        "nap-agent boot must run as root on a machine that systemd booted.",
    ),
    row(
        Reason::ApiServerDnsFailed,
        52,
        "60 s",
        "The API server's name does not resolve.",
        "Check the DNS servers of the virtual network and the private DNS zone's links.",
    ),
    row(
        Reason::ApiServerUnreachable,
        51,
        "60 s",
        "Nothing answers at the API server's address and port.",
        "Check network security groups, route tables, firewalls and authorized IP ranges.",
    ),
    row(
        Reason::ApiServerUntrusted,
        51,
        "60 s",
        "The API server's certificate is not signed by the cluster's CA, or names another server.",
        "Check cluster.caCertificate and whether something intercepts TLS.",
    ),
    row(
        Reason::ApiServerUnhealthy,
        51,
        "60 s",
        "The API server answers with an error of its own.",
        "Check the health of the control plane.",
    ),
    row(
        Reason::ClockSkewed,
        51,
        "60 s",
        "This machine's clock is far from the API server's, so that certificates do not count.",
        "Check chrony and the host's PTP clock.",
    ),
    row(
        Reason::BootstrapTokenRejected,
        51,
        "60 s",
        "The API server rejects the bootstrap token.",
        "The token expired or was deleted; the provisioner must send a fresh one.",
    ),
    row(
        Reason::KubeletStartFailed,
        34,
        "90 s",
        "kubelet's unit does not stay up.",
        "See `journalctl -u kubelet`; its last lines are in the evidence.",
    ),
    row(
        Reason::KubeletUnhealthy,
        34,
        "120 s",
        "kubelet's health endpoint does not answer well.",
        "See `journalctl -u kubelet`; its last lines are in the evidence.",
    ),
    row(
        Reason::ClientCertificateNotIssued,
        34,
        "300 s",
        "kubelet asked for a certificate and got none.",
        "Check that the CSR approver runs and that bootstrap tokens may create CSRs.",
    ),
    row(
        Reason::NodeNotRegistered,
        34,
        "300 s",
        "kubelet runs with a certificate and its Node is not in the API server.",
        "See `journalctl -u kubelet`; an admission webhook may refuse the Node.",
    ),
    row(
        Reason::BootDeadlineExceeded,
        124,
        "720 s",
        "The budget of the whole boot is spent.",
        "The evidence names what it was waiting for.",
    ),
];

impl Reason {
    /// Its row.
    pub fn row(self) -> &'static ReasonRow {
        REASONS.iter().find(|row| row.reason == self).expect("every reason has a row: a test compares the two lists")
    }

    /// AgentBaker's exit code for that class of failure.
    pub fn exit_code(self) -> u8 {
        self.row().exit_code
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A boot's failure: the reason, where, and what was seen. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The reason.
    pub reason: Reason,
    /// The step or stage in which it happened.
    pub step: String,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What was seen: attempts, answers, last lines of a journal.
    pub evidence: Vec<String>,
}

impl Failure {
    /// A failure without evidence yet.
    pub fn new(reason: Reason, step: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason, step: step.into(), message: message.into(), evidence: Vec::new() }
    }

    /// The same with one more thing that was seen, if there is one.
    pub fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self.evidence.retain(|evidence| !evidence.is_empty());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.reason, self.message, self.step)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails to compile when a reason is added, so that its author comes here and adds the row.
    fn position(reason: Reason) -> usize {
        use Reason::*;
        let all = [
            CustomDataMissing,
            CustomDataUnreadable,
            ConfigInvalid,
            ImdsUnreachable,
            BootstrapCredentialMissing,
            KubeletBinaryMissing,
            ContainerdBinaryMissing,
            ImageLacksKubernetesVersion,
            ImageLacksProgram,
            ImageLacksCniPlugin,
            OsUnsupported,
            StepFailed,
            TrustStoreFailed,
            ContainerdUnhealthy,
            SystemdUnreachable,
            ApiServerDnsFailed,
            ApiServerUnreachable,
            ApiServerUntrusted,
            ApiServerUnhealthy,
            ClockSkewed,
            BootstrapTokenRejected,
            KubeletStartFailed,
            KubeletUnhealthy,
            ClientCertificateNotIssued,
            NodeNotRegistered,
            BootDeadlineExceeded,
        ];
        match reason {
            CustomDataMissing
            | CustomDataUnreadable
            | ConfigInvalid
            | ImdsUnreachable
            | BootstrapCredentialMissing
            | KubeletBinaryMissing
            | ContainerdBinaryMissing
            | ImageLacksKubernetesVersion
            | ImageLacksProgram
            | ImageLacksCniPlugin
            | OsUnsupported
            | StepFailed
            | TrustStoreFailed
            | ContainerdUnhealthy
            | SystemdUnreachable
            | ApiServerDnsFailed
            | ApiServerUnreachable
            | ApiServerUntrusted
            | ApiServerUnhealthy
            | ClockSkewed
            | BootstrapTokenRejected
            | KubeletStartFailed
            | KubeletUnhealthy
            | ClientCertificateNotIssued
            | NodeNotRegistered
            | BootDeadlineExceeded => all.iter().position(|other| *other == reason).unwrap(),
        }
    }

    #[test]
    fn every_reason_has_one_row_with_a_failing_exit_code() {
        for (at, row) in REASONS.iter().enumerate() {
            assert_eq!(position(row.reason), at);
            assert!(row.exit_code != 0 && !row.hint.is_empty() && !row.meaning.is_empty());
        }
    }
}
