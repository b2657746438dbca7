//! kubelet: its configuration file, its flags, its unit.
//!
//! What kubelet's configuration file can hold goes there; flags are only for what it cannot. Defaults are AKS' own
//! (`facts/bootstrap-today.md` 3.4); the node class lies over them, the provisioner's own fields over both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::credential_provider::CredentialProvider;
use super::credentials::{self, BOOTSTRAP_KUBECONFIG, CA, KUBECONFIG, KUBELET_KEYS};
use super::local_dns::LocalDns;
use super::resource::{AbsPath, Content, Digest, Readiness, Step, Want, directory, public_file};
use super::streaming::Streaming;
use super::{cloud, cni, kubelet_gates, node_provider_id};
use crate::config::NodeConfig;
use crate::config::rules::merge;
use crate::facts::Facts;
use crate::kubernetes::{KubernetesVersion, NodeName};
use crate::os::Distribution;
use crate::report::{Failure, Reason};

const CONFIG: &str = "/etc/default/kubeletconfig.json";
const ENVIRONMENT: &str = "/etc/default/kubelet";

/// Source: AgentBaker, `configureKubeletServing`.
const SERVING_CERTIFICATE: &str = "/etc/kubernetes/certs/kubeletserver.crt";
const SERVING_KEY: &str = "/etc/kubernetes/certs/kubeletserver.key";

/// The port of kubelet's own health endpoint. Source: `KubeletHealthzPort`, k8s.io/kubernetes/pkg/cluster/ports.
pub const HEALTHZ_PORT: u16 = 10248;

/// Cipher suites with forward secrecy of AKS' list; kubelet's default holds weaker ones.
const CIPHER_SUITES: &[&str] = &[
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
];

pub(super) struct Kubelet {
    os: &'static Distribution,
    version: KubernetesVersion,
    /// What it reads when it starts beside its own files.
    reads: Vec<Step>,
    config: Map<String, Value>,
    flags: Vec<String>,
    labels: String,
    credential_provider: CredentialProvider,
    /// Variable that names the cloud's endpoints, with its line's end; empty for a cloud that everybody knows.
    cloud: String,
    /// The names of a serving certificate that the node makes itself; nothing where somebody else sees to it.
    serving_names: Option<Vec<String>>,
    pub(super) notes: Vec<String>,
}

impl Kubelet {
    pub(super) fn new(
        config: &NodeConfig,
        facts: &Facts,
        os: &'static Distribution,
        shared: &[Step],
        (local_dns, streaming): (&LocalDns<'_>, &Streaming),
    ) -> Result<Self, Failure> {
        let version = facts.programs.kubelet.unwrap_or(config.cluster.kubernetes_version);
        let mut notes = Vec::new();
        let wanted = config.cluster.kubernetes_version;
        if (version.major, version.minor) != (wanted.major, wanted.minor) {
            notes.push(format!("the image has kubelet {version}, the cluster wants {wanted}"));
        }
        let mut accepted = kubelet_gates::accept(&config.kubelet, config.format, version)?;
        notes.extend(accepted.notes);
        let credential_provider = CredentialProvider::new(config, facts, version, &mut accepted.flags);
        notes.extend(credential_provider.notes.iter().cloned());
        let given = credential_provider.flags().map(|(flag, value)| (flag.to_owned(), value));
        accepted.flags.extend(given);
        let fields = configuration(config, os, &accepted.fields, local_dns);
        let serving_names = serves_by_our_certificate(&fields).then(|| names(config, facts)).transpose()?;
        Ok(Self {
            os,
            version,
            reads: [&[credentials::ca(config)], shared].concat(),
            config: fields,
            credential_provider,
            serving_names,
            flags: flags(config, facts, &accepted.flags, local_dns, &mut notes)?,
            labels: labels(config, local_dns, streaming),
            cloud: cloud::environment_variable(&config.cloud).unwrap_or_default(),
            notes,
        })
    }

    pub(super) fn files(&self) -> Vec<Step> {
        let environment = format!(
            "KUBELET_NODE_LABELS=\"{}\"\nKUBELET_FLAGS=\"{}\"\n{}",
            self.labels,
            self.flags.join(" "),
            self.cloud
        );
        let mut steps = vec![
            Step::new("kubelet.config", "what kubelet does", public_file(CONFIG, pretty(&self.config))),
            Step::new("kubelet.environment", "what only a flag can say", private_file(ENVIRONMENT, environment)),
            unit_file(self.os),
        ];
        steps.extend(self.credential_provider.file());
        steps.extend(self.serving_names.clone().map(|names| {
            let (certificate, key) = (AbsPath::literal(SERVING_CERTIFICATE), AbsPath::literal(SERVING_KEY));
            let why = "who talks to kubelet can tell by which name or address";
            Step::new("kubelet.serving-certificate", why, Want::SelfSigned { certificate, key, names })
        }));
        if self.version.at_least(32) {
            let watchdog = "[Service]\nWatchdogSec=60s\n";
            let path = "/etc/systemd/system/kubelet.service.d/10-watchdog.conf";
            steps.push(Step::new(
                "kubelet.watchdog",
                "systemd restarts a kubelet that hangs",
                public_file(path, watchdog),
            ));
        }
        steps
    }

    pub(super) fn running(&self) -> Step {
        let inputs = Digest::of_files(self.files().iter().chain(&self.reads));
        let want = Want::Unit { name: "kubelet.service", inputs, readiness: Readiness::Started };
        Step::new("kubelet.running", "the node joins by kubelet", want)
    }
}

pub(super) fn directories() -> Vec<Step> {
    vec![
        Step::new("kubelet.directory", "kubelet's state and credentials", directory("/var/lib/kubelet", 0o755))
            .at_bake(),
        Step::new("kubelet.pki", "kubelet's keys", directory(KUBELET_KEYS, 0o700)).at_bake(),
        Step::new("kubelet.manifests", "static pods", directory("/etc/kubernetes/manifests", 0o755)).at_bake(),
        Step::new("kubelet.volume-plugins", "flex volumes", directory("/etc/kubernetes/volumeplugins", 0o755))
            .at_bake(),
    ]
}

pub(super) fn unit_file(os: &Distribution) -> Step {
    let file = public_file("/etc/systemd/system/kubelet.service", unit(os));
    Step::new("kubelet.unit", "systemd keeps kubelet running", file).at_bake()
}

/// Root alone may read it, as today; there is nothing secret in it.
fn private_file(path: &'static str, text: String) -> Want {
    Want::File { path: AbsPath::literal(path), mode: 0o600, content: Content::public(text) }
}

fn pretty(object: &Map<String, Value>) -> String {
    format!("{:#}\n", Value::Object(object.clone()))
}

fn configuration(
    config: &NodeConfig,
    os: &Distribution,
    given: &Map<String, Value>,
    local_dns: &LocalDns<'_>,
) -> Map<String, Value> {
    let mut fields = defaults(config, os);
    for (name, value) in given {
        merge(fields.entry(name.clone()).or_insert(Value::Null), value);
    }
    // The cluster signs kubelet's certificate, and kubelet refuses to be told another.
    if is_signed_by_cluster(&fields) {
        fields.retain(|name, value| match name.as_str() {
            "tlsCertFile" => value != SERVING_CERTIFICATE,
            "tlsPrivateKeyFile" => value != SERVING_KEY,
            _ => true,
        });
    }
    match local_dns.pod_dns() {
        Some(pod_dns) => _ = fields.insert("clusterDNS".to_owned(), json!(pod_dns)),
        None => plain_dns(&mut fields, &config.cluster.dns_service_ips),
    }
    fields
}

fn is_signed_by_cluster(fields: &Map<String, Value>) -> bool {
    fields.get("serverTLSBootstrap").is_some_and(|signed| signed == true)
}

fn serves_by_our_certificate(fields: &Map<String, Value>) -> bool {
    let is = |name: &str, path: &str| fields.get(name).is_some_and(|value| value == path);
    is("tlsCertFile", SERVING_CERTIFICATE) && is("tlsPrivateKeyFile", SERVING_KEY)
}

/// What the node is called and where it is, sorted. Azure says the same addresses at every boot; the routes have whichever came first,
/// be it IPv6's of the link, and stand in for it only.
fn names(config: &NodeConfig, facts: &Facts) -> Result<Vec<String>, Failure> {
    let host = NodeName::try_from(facts.host_name.to_lowercase().as_str()).ok();
    let names = [Some(node_name(config, facts)?), host].into_iter().flatten().map(|name| name.to_string());
    let mut addresses: Vec<IpAddr> =
        facts.instance.iter().flat_map(|instance| instance.interfaces.values().flatten()).copied().collect();
    if addresses.is_empty() {
        addresses.extend(facts.primary_address);
    }
    let addresses = addresses.iter().map(IpAddr::to_string);
    Ok(names.chain(addresses).collect::<BTreeSet<_>>().into_iter().collect())
}

/// A provisioner that counts on the cache tells kubelet the cache's link-local address. Without the cache nothing listens there, and
/// pods would keep it for life.
fn plain_dns(fields: &mut Map<String, Value>, cluster: &[IpAddr]) {
    let is_link_local = |address: &Value| {
        let address = address.as_str().and_then(|text| text.parse().ok());
        matches!(address, Some(IpAddr::V4(address)) if address.is_link_local())
    };
    let given = fields.get("clusterDNS").and_then(Value::as_array);
    if given.is_some_and(|addresses| addresses.iter().any(is_link_local)) {
        fields.insert("clusterDNS".to_owned(), json!(cluster));
    }
}

/// Fields that every kubelet since 1.30 knows: the matrix of plans looks.
fn defaults(config: &NodeConfig, os: &Distribution) -> Map<String, Value> {
    let cluster = &config.cluster;
    let max_pods = config.kubelet.max_pods.unwrap_or(config.cni.default_max_pods());
    let fields = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": CA}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "systemd",
        "cgroupsPerQOS": true,
        "clusterDNS": cluster.dns_service_ips,
        "clusterDomain": cluster.dns_domain,
        "containerLogMaxFiles": 5,
        "containerLogMaxSize": "50Mi",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "enforceNodeAllocatable": ["pods"],
        "eventRecordQPS": 0,
        "evictionHard": {"memory.available": "750Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%"},
        "imageGCHighThresholdPercent": 85,
        "imageGCLowThresholdPercent": 80,
        "maxPods": max_pods,
        "nodeStatusUpdateFrequency": "10s",
        "podPidsLimit": -1,
        "protectKernelDefaults": true,
        "readOnlyPort": 0,
        "registerWithTaints": config.taints,
        "resolvConf": os.resolv_conf,
        "rotateCertificates": true,
        "runtimeRequestTimeout": "15m",
        "staticPodPath": "/etc/kubernetes/manifests",
        "tlsCertFile": SERVING_CERTIFICATE,
        "tlsCipherSuites": CIPHER_SUITES,
        "tlsPrivateKeyFile": SERVING_KEY,
        "volumePluginDir": "/etc/kubernetes/volumeplugins",
    });
    fields.as_object().cloned().unwrap_or_default()
}

fn flags(
    config: &NodeConfig,
    facts: &Facts,
    given: &BTreeMap<String, String>,
    local_dns: &LocalDns<'_>,
    notes: &mut Vec<String>,
) -> Result<Vec<String>, Failure> {
    let name = node_name(config, facts)?;
    let mut flags = Map::new();
    let mut set = |name: &str, value: String| flags.insert(name.to_owned(), Value::String(value));
    set("bootstrap-kubeconfig", BOOTSTRAP_KUBECONFIG.to_owned());
    set("kubeconfig", KUBECONFIG.to_owned());
    set("cloud-provider", "external".to_owned());
    set("v", "2".to_owned());
    if name.as_str() != facts.host_name.to_lowercase() {
        set("hostname-override", name.to_string());
    }
    match node_address(facts) {
        Some(address) => _ = set("node-ip", node_ip(config, facts, address, notes)),
        None => notes.push(
            "--node-ip left out: no default route and no IMDS; the cloud provider will set the address".to_owned(),
        ),
    }
    match node_provider_id(config, facts, &name) {
        Some(id) => _ = set("provider-id", id),
        None => notes.push("--provider-id left out: neither IMDS nor the configuration tells it".to_owned()),
    }
    // The flag would win over the configuration file.
    let overruled = |flag: &str| flag == "cluster-dns" && local_dns.pod_dns().is_some();
    for (flag, value) in given.iter().filter(|(flag, _)| !overruled(flag)) {
        set(flag, value.clone());
    }
    Ok(flags.iter().map(|(name, value)| format!("--{name}={}", value.as_str().unwrap_or_default())).collect())
}

/// The node's name: the configured one, else the host's in lower case, as kubelet itself does.
///
/// # Errors
/// When the host name is no node name.
pub fn node_name(config: &NodeConfig, facts: &Facts) -> Result<NodeName, Failure> {
    if let Some(name) = &config.node_name {
        return Ok(name.clone());
    }
    NodeName::try_from(facts.host_name.to_lowercase().as_str()).map_err(|error| {
        Failure::new(
            Reason::ConfigInvalid,
            "plan",
            format!("host name \"{}\" cannot name the node: want {error}", facts.host_name.escape_debug()),
        )
    })
}

/// The IPv4 address from which the default route leaves. With none, the only address that IMDS knows; which of several NICs is
/// the primary one IMDS does not say. An IPv6 one comes last: a router's advertisement may be here before the DHCP lease, and who
/// comes first must not choose the node's address.
pub(super) fn node_address(facts: &Facts) -> Option<IpAddr> {
    let of_instance = || {
        let interfaces = &facts.instance.as_ref()?.interfaces;
        (interfaces.len() == 1).then(|| interfaces.values().next()?.first().copied())?
    };
    facts.primary_address.filter(IpAddr::is_ipv4).or_else(of_instance).or(facts.primary_address)
}

/// In a dual-stack cluster the IPv6 address of the same interface stands beside the IPv4 one.
fn node_ip(config: &NodeConfig, facts: &Facts, address: IpAddr, notes: &mut Vec<String>) -> String {
    if !config.network.dual_stack || address.is_ipv6() {
        return address.to_string();
    }
    let interfaces = facts.instance.iter().flat_map(|instance| instance.interfaces.values());
    let mut beside = interfaces.filter(|addresses| addresses.contains(&address)).flatten();
    match beside.find(|address| address.is_ipv6()) {
        Some(second) => format!("{address},{second}"),
        None => {
            notes.push(format!("--node-ip is {address} alone: IMDS knows no IPv6 address beside it"));
            address.to_string()
        }
    }
}

fn labels(config: &NodeConfig, local_dns: &LocalDns<'_>, streaming: &Streaming) -> String {
    // Who talks to kubelet must know which authority signed its certificate.
    let serving =
        is_signed_by_cluster(&config.kubelet.config).then_some(("kubernetes.azure.com/kubelet-serving-ca", "cluster"));
    let mut labels = cni::labels(config.cni)
        .iter()
        .chain(&serving)
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect::<BTreeMap<_, _>>();
    labels.extend(config.labels.iter().map(|(key, value)| (key.as_str().to_owned(), value.as_str().to_owned())));
    let state = local_dns.label(LocalDns::given_label(config));
    labels.extend(state.map(|(key, value)| (key.to_owned(), value.to_owned())));
    streaming.label(&mut labels);
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn unit(os: &Distribution) -> String {
    format!(
        "# Written by nap-agent; drop-ins beside it are kept.\n\
         [Unit]\n\
         Description=Kubernetes node agent (kubelet)\n\
         After=containerd.service\n\
         Wants=containerd.service\n\
         ConditionPathExists={kubelet}\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type=notify\n\
         TimeoutStartSec=infinity\n\
         EnvironmentFile={ENVIRONMENT}\n\
         ExecStart={kubelet} --config={CONFIG} --node-labels=${{KUBELET_NODE_LABELS}} $KUBELET_FLAGS\n\
         Restart=always\n\
         RestartSec=2\n\
         SuccessExitStatus=143\n\
         Delegate=yes\n\
         KillMode=process\n",
        kubelet = os.kubelet
    )
}

/// The port of kubelet's health endpoint, as its configuration says.
pub fn healthz_port(config: &NodeConfig) -> u16 {
    let given = config.kubelet.config.get("healthzPort").and_then(Value::as_u64);
    given.and_then(|port| u16::try_from(port).ok()).unwrap_or(HEALTHZ_PORT)
}
