//! What every wire format becomes: one checked description of the node that is wanted.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::carrier::Format;
use super::local_dns::LocalDns;
use super::machine::{Claims, Gpu, Network, OperatingSystem, Proxy, Registries};
use super::secure_tls::SecureTls;
use super::storage::Storage;
use crate::kubernetes::{KubernetesVersion, LabelKey, LabelValue, NodeName, Taint};
use crate::secret::SecretString;

/// The node that the provisioner wants. Everything in it has been checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeConfig {
    /// The format it came in.
    pub format: Format,
    /// The cluster to join.
    pub cluster: Cluster,
    /// The bootstrap token; absent once the node has its certificate.
    pub bootstrap_token: Option<SecretString>,
    /// Secure TLS bootstrapping, which comes before the token; absent when nobody asked for it.
    pub secure_tls: Option<SecureTls>,
    /// The node's name; the host name when absent.
    pub node_name: Option<NodeName>,
    /// The provider id, byte for byte as the NodeClaim has it; derived when absent.
    pub provider_id: Option<String>,
    /// Labels, without those that the CNI mode adds.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Taints to register with, sorted, always with `karpenter.sh/unregistered:NoExecute`.
    pub taints: Vec<Taint>,
    /// What kubelet is told beyond our defaults.
    pub kubelet: Kubelet,
    /// Who makes the pod network.
    pub cni: CniMode,
    /// The container runtime's settings.
    pub containerd: Containerd,
    /// Kernel settings beyond our defaults: key to value.
    pub sysctls: BTreeMap<String, String>,
    /// What the machine must be; the node can only check it.
    pub claims: Claims,
    /// Settings of the operating system beside the kernel's.
    pub os: OperatingSystem,
    /// The node's own network.
    pub network: Network,
    /// HTTP proxy for containerd, kubelet and the package manager.
    pub proxy: Option<Proxy>,
    /// Certificate authorities that the whole machine trusts beside its own, each one PEM block.
    pub trusted_certificates: Vec<String>,
    /// LocalDNS; absent when disabled.
    pub local_dns: Option<LocalDns>,
    /// GPU driver.
    pub gpu: Gpu,
    /// Local disks.
    pub storage: Storage,
    /// Where images come from.
    pub registries: Registries,
    /// What `azure.json` says.
    pub cloud: Cloud,
    /// How long things may take.
    pub boot: BootTimes,
}

impl NodeConfig {
    /// Every secret in it, for those who must not let one out.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretString> {
        let proxy = self.proxy.iter().flat_map(|proxy| [&proxy.http, &proxy.https]).flatten();
        self.bootstrap_token.iter().chain([&self.cloud.client_secret]).chain(proxy)
    }
}

/// The cluster to join.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cluster {
    /// Where the API server is.
    pub api_server: ApiServer,
    /// PEM certificates that sign the API server's certificate.
    pub ca_certificate: String,
    /// Version of kubelet.
    pub kubernetes_version: KubernetesVersion,
    /// Address of the cluster's DNS service.
    pub dns_service_ips: Vec<IpAddr>,
    /// DNS domain of the cluster.
    pub dns_domain: String,
}

/// Host and port of the API server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiServer {
    /// DNS name or IP address (IPv6 without brackets).
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Why a text names no API server.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an API server such as https://name:443 or a plain host name")]
pub struct ApiServerError;

impl TryFrom<&str> for ApiServer {
    type Error = ApiServerError;

    fn try_from(text: &str) -> Result<Self, ApiServerError> {
        let authority = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, port.strip_prefix(':')),
            None if authority.matches(':').count() > 1 => (authority, None),
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(443), |port| port.parse::<u16>().map_err(|_| ApiServerError))?;
        let is_address = host.parse::<IpAddr>().is_ok();
        let is_name = host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-')
        });
        if port == 0 || !(is_address || is_name) {
            return Err(ApiServerError);
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "https://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "https://{}:{}", self.host, self.port)
        }
    }
}

/// What kubelet is told beyond our defaults.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Kubelet {
    /// Fields of KubeletConfiguration, laid over our defaults.
    pub config: Map<String, Value>,
    /// Command-line flags, without the leading dashes.
    pub flags: BTreeMap<String, String>,
    /// Most pods on the node; by CNI mode when absent.
    pub max_pods: Option<u32>,
}

/// Who makes the pod network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CniMode {
    /// Azure CNI Overlay: azure-cns brings plugin and conflist.
    Overlay,
    /// Azure CNI powered by Cilium: the DaemonSets bring plugin and conflist.
    Cilium,
    /// Azure CNI node subnet: the node writes the conflist.
    NodeSubnet,
    /// Bring your own.
    None,
}

impl CniMode {
    /// The default for the most pods on a node. Source: karpenter-provider-azure, AKSNodeClass `maxPods`.
    pub fn default_max_pods(self) -> u32 {
        match self {
            CniMode::NodeSubnet => 30,
            CniMode::Overlay | CniMode::Cilium | CniMode::None => 250,
        }
    }
}

/// The container runtime's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Containerd {
    /// Directory of images and snapshots; containerd's own default when absent.
    pub root: Option<String>,
    /// Image of the pause container.
    pub sandbox_image: String,
    /// Images that are pulled before pods ask for them.
    pub pre_pull: PrePull,
}

/// Images that are pulled before pods ask for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PrePull {
    /// In this order.
    pub images: Vec<String>,
    /// How many at a time.
    pub parallel: u32,
}

impl Default for PrePull {
    fn default() -> Self {
        Self { images: Vec::new(), parallel: 2 }
    }
}

/// What `azure.json` says: the file that the credential provider and storage drivers read.
/// Source of the keys: sigs.k8s.io/cloud-provider-azure `Config`.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Cloud {
    /// `AzurePublicCloud` and the like.
    pub environment: String,
    /// Endpoints of a custom cloud, as Azure's clients read them from a file; absent for the clouds that they know.
    pub environment_document: Option<Map<String, Value>>,
    /// Entra tenant.
    pub tenant_id: String,
    /// Subscription.
    pub subscription_id: String,
    /// Resource group of the nodes.
    pub resource_group: String,
    /// Azure region.
    pub location: String,
    /// `standard` or `vmss`.
    pub vm_type: String,
    /// Virtual network.
    pub vnet_name: String,
    /// Its resource group.
    pub vnet_resource_group: String,
    /// Subnet.
    pub subnet_name: String,
    /// Network security group.
    pub security_group_name: String,
    /// Route table.
    pub route_table_name: String,
    /// Service principal, or `msi`.
    pub client_id: String,
    /// Its secret, or `msi`.
    pub client_secret: SecretString,
    /// Whether a managed identity is used.
    pub use_managed_identity: bool,
    /// Client id of the kubelet identity.
    pub user_assigned_identity_id: String,
    /// `basic` or `standard`.
    pub load_balancer_sku: String,
    /// Fields of `azure.json` that a format gives beyond these, as they go into the file.
    pub more: Map<String, Value>,
}

/// How long parts of the boot may take. The defaults leave Karpenter's 15 minutes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BootTimes {
    /// The whole boot.
    pub budget: Duration,
    /// Finding, reaching, trusting the API server, and having the token accepted.
    pub api_server: Duration,
    /// A unit's start.
    pub unit_start: Duration,
    /// kubelet's own health endpoint answering.
    pub kubelet_healthy: Duration,
    /// The client certificate and the Node object being there.
    pub registration: Duration,
}

impl Default for BootTimes {
    fn default() -> Self {
        Self {
            budget: Duration::from_secs(12 * 60),
            api_server: Duration::from_secs(60),
            unit_start: Duration::from_secs(90),
            kubelet_healthy: Duration::from_secs(120),
            registration: Duration::from_secs(300),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_servers_are_read_in_every_usual_spelling() {
        for (text, url) in [
            ("api.example.com", "https://api.example.com:443"),
            ("https://api.example.com:6443", "https://api.example.com:6443"),
            ("https://api.example.com/", "https://api.example.com:443"),
            ("10.0.0.1", "https://10.0.0.1:443"),
            ("fd00::1", "https://[fd00::1]:443"),
            ("https://[fd00::1]:6443", "https://[fd00::1]:6443"),
        ] {
            assert_eq!(ApiServer::try_from(text).unwrap().to_string(), url);
        }
        for text in ["", "http://a", "a:b", "a:0", "a b", "https://a/b", "a:99999"] {
            assert_eq!(ApiServer::try_from(text), Err(ApiServerError), "{text}");
        }
    }
}
