//! What is wanted of the machine around kubelet: operating system, network, proxy, GPU, registries.

use std::net::IpAddr;

use serde::Serialize;

use crate::secret::SecretString;

/// What the machine must be. Placement and image are chosen before the VM exists; the node can only say when they are others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Claims {
    /// The image family that the node class names.
    pub image_family: Option<ImageFamily>,
    /// Whether the kernel must run in FIPS mode; absent when nobody asked.
    pub fips: Option<bool>,
    /// Whether the VM must have a virtual TPM.
    pub vtpm: Option<bool>,
    /// Whether the firmware must enforce signatures.
    pub secure_boot: Option<bool>,
    /// Whether the host must encrypt local disks and caches.
    pub encryption_at_host: Option<bool>,
    /// Size of the OS disk in GB as Azure counts (GiB).
    pub os_disk_gb: Option<u32>,
    /// Whether pods run in virtual machines of their own.
    pub kata: bool,
}

/// Source: karpenter-provider-azure, AKSNodeClass `imageFamily`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ImageFamily {
    /// Whatever Ubuntu the provider chose.
    Ubuntu,
    /// Ubuntu 22.04.
    Ubuntu2204,
    /// Ubuntu 24.04.
    Ubuntu2404,
    /// Whatever Azure Linux the provider chose.
    AzureLinux,
}

/// Settings of the operating system.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct OperatingSystem {
    /// Transparent huge pages.
    pub huge_pages: HugePages,
    /// Size of the swap file in bytes; absent for none.
    pub swap_file_bytes: Option<u64>,
    /// Limits of containerd and so of every container.
    pub ulimits: Ulimits,
    /// What people see who log in.
    pub message_of_the_day: Option<String>,
    /// Remote login.
    pub ssh: Ssh,
    /// A user whose password and account never expire.
    pub admin_user: Option<String>,
    /// Whether the distribution installs its updates by itself; the image's choice when absent.
    pub unattended_upgrades: Option<bool>,
}

/// Words of `/sys/kernel/mm/transparent_hugepage`; absent leaves the kernel's choice.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct HugePages {
    /// `always`, `madvise` or `never`.
    pub enabled: Option<String>,
    /// `always`, `defer`, `defer+madvise`, `madvise` or `never`.
    pub defrag: Option<String>,
}

/// systemd's limits, as systemd.exec(5) writes them: a number, `soft:hard`, or `infinity`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Ulimits {
    /// `LimitNOFILE`.
    pub no_file: Option<String>,
    /// `LimitMEMLOCK`.
    pub max_locked_memory: Option<String>,
}

/// Remote login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ssh {
    /// Whether the SSH server may run.
    pub enabled: bool,
    /// Whether it takes public keys (off where Entra ID logs people in).
    pub public_keys: bool,
}

impl Default for Ssh {
    fn default() -> Self {
        Self { enabled: true, public_keys: true }
    }
}

/// The node's own network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Network {
    /// DNS search domains beside the virtual network's.
    pub search_domains: Vec<String>,
    /// Whether a hosts entry names the API server of a private cluster: by [`Network::api_server_address`], else by the
    /// VM's tag `aksAPIServerIPAddress`.
    pub private_api_server: bool,
    /// Address of a private API server.
    pub api_server_address: Option<IpAddr>,
    /// Whether the node has an IPv6 address beside IPv4.
    pub dual_stack: bool,
    /// NICs beside the primary one.
    pub secondary_nics: SecondaryNics,
    /// Whether pods are kept from the instance metadata service.
    pub restrict_imds: bool,
    /// Address ranges of services, for `NO_PROXY`.
    pub service_cidrs: Vec<String>,
}

/// NICs beside the primary one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub enum SecondaryNics {
    /// None is configured.
    #[default]
    None,
    /// So many, in the order of their names.
    Count(u32),
    /// These, by MAC: twelve upper-case hexadecimal digits, as IMDS writes it.
    Macs(Vec<String>),
}

/// HTTP proxy. The URLs may hold a password.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Proxy {
    /// `HTTP_PROXY`.
    pub http: Option<SecretString>,
    /// `HTTPS_PROXY`.
    pub https: Option<SecretString>,
    /// `NO_PROXY` as the provisioner has it; the plan adds what must never go through a proxy.
    pub no_proxy: Vec<String>,
}

/// GPU driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Whether the driver in the image is used when there is a GPU; otherwise nothing is touched.
    pub driver: bool,
    /// Whether the device plugin of the image is started.
    pub device_plugin: bool,
}

impl Default for Gpu {
    fn default() -> Self {
        Self { driver: true, device_plugin: true }
    }
}

/// Who is asked for a registry's images before itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mirror {
    /// Whose images: a host, with a port where it has one; `_default` for every registry without mirrors of its own.
    pub registry: String,
    /// Who is asked, in order: `http` or `https` URLs, with a path where the images are below one.
    pub endpoints: Vec<String>,
    /// Whether the registry itself is never asked.
    pub only: bool,
}

/// Where images come from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Registries {
    /// Registry of a network-isolated cluster: host, or host and path, that stands for the cloud's public one.
    pub bootstrap: Option<String>,
    /// Mirrors that the user names, in order.
    pub mirrors: Vec<Mirror>,
    /// What the names of a custom cloud's registries end with.
    pub dns_suffix: Option<String>,
    /// How pods pull by their own service accounts; absent when they pull as the node.
    pub service_account_pulls: Option<ServiceAccountPulls>,
    /// Whether images are streamed where their registry has them in that form.
    pub streaming: bool,
}

/// Image pulls by the pod's service account, through AKS' identity bindings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceAccountPulls {
    /// Name (SNI) of the cluster's own token authority.
    pub local_authority: String,
    /// Client id of the identity of accounts that name none.
    pub client_id: Option<String>,
    /// Its tenant.
    pub tenant_id: Option<String>,
}
