//! Our own wire format, `NodeBootstrap`: the AKSNodeClass spec verbatim, and beside it what the CRD does not carry.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::carrier::Format;
use super::document::Checked;
use super::node_config::{ApiServer, BootTimes, Cloud, Cluster, CniMode, Containerd, Kubelet, NodeConfig};
use super::problem::Findings;
use super::rules;
use super::shape::Shape::{Any, Bool, Integer, List, Map as MapOf, Object, Text, TextThat, Word};
use super::shape::{Field, Shape, field};
use super::sysctls;
use crate::kubernetes::{KubernetesVersion, NodeName};

/// The format as a table.
pub(super) const SHAPE: Shape = Object(&[
    field("apiVersion", Word(&["nap-agent/v1"]), "Version of this format.").required(),
    field("kind", Word(&["NodeBootstrap"]), "Always NodeBootstrap."),
    field("cluster", Object(CLUSTER), "The cluster to join.").required(),
    field("identity", Object(IDENTITY), "Who the node is before and after it joined."),
    field("network", Object(NETWORK), "The pod network."),
    field("node", Object(NODE), "The Node object and kubelet."),
    field("containerd", Object(CONTAINERD), "The container runtime."),
    field("cloud", Object(CLOUD), "Where in Azure the node is; goes into /etc/kubernetes/azure.json."),
    field("boot", Object(BOOT), "How long parts of the boot may take, in seconds."),
    field("nodeClass", Object(NODE_CLASS), "The spec of the AKSNodeClass, verbatim."),
    field("storage", Any, "Local disks.").not_acted_on(),
    field("registries", Any, "Registry mirrors and credentials.").not_acted_on(),
    field("trust", Any, "Additional certificate authorities.").not_acted_on(),
    field("proxy", Any, "HTTP proxy.").not_acted_on(),
    field("health", Any, "The health endpoint.").not_acted_on(),
]);

const CLUSTER: &[Field] = &[
    field("apiServer", Text, "Where the API server is: a name, an address or an https URL; port 443 when absent.")
        .required(),
    field("caCertificate", Text, "PEM certificates of the cluster's CA, or base64 of them.").required(),
    field("kubernetesVersion", Text, "Version of kubelet, such as 1.34.2; 1.30 to 1.37.").required(),
    field("dnsServiceIP", Text, "Address of the cluster's DNS service; 10.0.0.10 when absent."),
    field("dnsDomain", Text, "DNS domain of the cluster; cluster.local when absent."),
];

const IDENTITY: &[Field] = &[
    field(
        "bootstrapToken",
        TextThat("a bootstrap token such as abcdef.0123456789abcdef", rules::is_bootstrap_token),
        "Token with which kubelet asks for its certificate.",
    )
    .secret(),
    field("kubeletIdentityClientID", Text, "Client id of the managed identity of kubelet."),
    field("servicePrincipalID", Text, "Service principal instead of a managed identity."),
    field("servicePrincipalSecret", Text, "Its secret.").secret(),
];

const NETWORK: &[Field] = &[field(
    "mode",
    Word(&["overlay", "cilium", "nodeSubnet", "none"]),
    "Who makes the pod network; overlay when absent.",
)];

const NODE: &[Field] = &[
    field("name", Text, "Name of the Node; the host name when absent."),
    field(
        "providerID",
        TextThat("a provider id such as azure:///subscriptions/...", rules::is_flag_value),
        "Provider id as the NodeClaim has it; from IMDS, else from cloud and name, when absent.",
    ),
    field("labels", MapOf(&Text), "Labels."),
    field("taints", List(&Text), "Taints, as key=value:effect."),
    field("startupTaints", List(&Text), "Taints that somebody removes later, as key=value:effect."),
    field("kubeletConfig", MapOf(&Any), "Fields of KubeletConfiguration, laid over everything else."),
    field("kubeletFlags", MapOf(&Text), "Flags of kubelet, without dashes."),
];

const CONTAINERD: &[Field] = &[
    field("root", TextThat("an absolute path", |path| path.starts_with('/')), "Directory of images and snapshots."),
    field("sandboxImage", Text, "Image of the pause container."),
];

const CLOUD: &[Field] = &[
    field("environment", Text, "Name of the Azure cloud; AzurePublicCloud when absent."),
    field("tenantID", Text, "Entra tenant."),
    field("subscriptionID", Text, "Subscription."),
    field("resourceGroup", Text, "Resource group of the nodes."),
    field("location", Text, "Region."),
    field("vmType", Word(&["standard", "vmss"]), "Kind of the VM; standard when absent."),
    field("vnetName", Text, "Virtual network; from nodeClass.vnetSubnetID when absent."),
    field("vnetResourceGroup", Text, "Resource group of the virtual network."),
    field("subnetName", Text, "Subnet; from nodeClass.vnetSubnetID when absent."),
    field("securityGroupName", Text, "Network security group."),
    field("routeTableName", Text, "Route table."),
    field("loadBalancerSKU", Word(&["basic", "standard"]), "Kind of the load balancer; standard when absent."),
];

const BOOT: &[Field] = &[
    field("budgetSeconds", Integer(10, 780), "The whole boot; 720 when absent."),
    field(
        "apiServerSeconds",
        Integer(1, 3600),
        "Reaching the API server and having the token accepted; 60 when absent.",
    ),
    field("unitStartSeconds", Integer(1, 3600), "Start of one unit; 90 when absent."),
    field("kubeletHealthySeconds", Integer(1, 3600), "kubelet's health endpoint; 120 when absent."),
    field("registrationSeconds", Integer(1, 3600), "Client certificate and Node object; 300 when absent."),
];

const NODE_CLASS: &[Field] = &[
    field("vnetSubnetID", TextThat("the id of a subnet", is_subnet_id), "ARM id of the subnet."),
    field("maxPods", Integer(10, 250), "Most pods; 30 with nodeSubnet, else 250, when absent."),
    field("kubelet", Object(CLASS_KUBELET), "Settings of kubelet."),
    field("linuxOSConfig", Object(LINUX_OS), "Settings of the operating system."),
    field("osDiskSizeGB", Integer(30, 2048), "Size of the OS disk.").not_acted_on(),
    field("imageFamily", Word(&["Ubuntu", "Ubuntu2204", "Ubuntu2404", "AzureLinux"]), "Image family.").not_acted_on(),
    field("fipsMode", Word(&["FIPS", "Disabled"]), "FIPS.").not_acted_on(),
    field("tags", MapOf(&Text), "Azure tags.").not_acted_on(),
    field("security", Any, "Trusted launch, encryption at host.").not_acted_on(),
    field("localDNS", Any, "LocalDNS.").not_acted_on(),
    field("gpu", Any, "GPU driver.").not_acted_on(),
    field("artifactStreaming", Any, "Artifact streaming.").not_acted_on(),
];

/// Named as KubeletConfiguration names them, so they go there as they are.
/// Source: karpenter-provider-azure `KubeletConfiguration` (v1beta1).
const CLASS_KUBELET: &[Field] = &[
    field("cpuManagerPolicy", Word(&["none", "static"]), "CPU manager."),
    field("cpuCFSQuota", Bool, "CPU quota."),
    field(
        "cpuCFSQuotaPeriod",
        TextThat("a duration from 1ms to 1s, such as 100ms", is_cfs_period),
        "Period of the CPU quota.",
    ),
    field("imageGCHighThresholdPercent", Integer(0, 100), "Disk use that starts image garbage collection."),
    field("imageGCLowThresholdPercent", Integer(0, 100), "Disk use that ends it."),
    field(
        "topologyManagerPolicy",
        Word(&["restricted", "best-effort", "none", "single-numa-node"]),
        "Topology manager.",
    ),
    field("allowedUnsafeSysctls", List(&Text), "Unsafe sysctls that pods may set."),
    field("containerLogMaxSize", TextThat("a size such as 50Mi", is_size), "Size at which a log is rotated."),
    field("containerLogMaxFiles", Integer(2, i32::MAX as i64), "Log files kept per container."),
    field("podPidsLimit", Integer(-1, i64::MAX), "Most processes in a pod; -1 for no limit."),
    field("failSwapOn", Bool, "Whether kubelet refuses to start with swap."),
];

const LINUX_OS: &[Field] = &[
    field("sysctls", Object(sysctls::CRD_FIELDS), "Kernel settings."),
    field("swapFileSize", Text, "Swap file.").not_acted_on(),
    field("transparentHugePageEnabled", Word(&["always", "madvise", "never"]), "Transparent huge pages.")
        .not_acted_on(),
    field(
        "transparentHugePageDefrag",
        Word(&["always", "defer", "defer+madvise", "madvise", "never"]),
        "Their defragmentation.",
    )
    .not_acted_on(),
];

/// What a checked document asks for. Problems go to `findings`; the result counts only when there are none.
pub(super) fn read(document: &Value, findings: &mut Findings) -> Option<NodeConfig> {
    let checked = Checked(document);
    let cluster = cluster(checked, findings);
    let taints = ["node.taints", "node.startupTaints"]
        .into_iter()
        .flat_map(|path| checked.items(path).enumerate().map(move |(i, text)| (format!("{path}[{i}]"), text)));
    Some(NodeConfig {
        format: Format::NodeBootstrap,
        bootstrap_token: checked.text("identity.bootstrapToken").map(Into::into),
        node_name: checked.text("node.name").and_then(|name| findings.parse::<NodeName>("node.name", name)),
        provider_id: checked.text("node.providerID").map(str::to_owned),
        labels: rules::labels(checked.texts("node.labels"), "node.labels", findings),
        taints: rules::taints(taints, findings),
        kubelet: kubelet(checked, findings),
        cni: cni(checked.text("network.mode")),
        containerd: Containerd {
            root: checked.text("containerd.root").map(str::to_owned),
            sandbox_image: checked
                .text("containerd.sandboxImage")
                .map_or(Containerd::default().sandbox_image, str::to_owned),
        },
        sysctls: sysctls::read(
            checked.object("nodeClass.linuxOSConfig.sysctls"),
            "nodeClass.linuxOSConfig.sysctls",
            findings,
        ),
        cloud: cloud(checked),
        boot: boot(checked),
        cluster: cluster?,
    })
}

fn cluster(checked: Checked<'_>, findings: &mut Findings) -> Option<Cluster> {
    let api_server =
        checked.text("cluster.apiServer").and_then(|text| findings.parse::<ApiServer>("cluster.apiServer", text));
    let version = checked
        .text("cluster.kubernetesVersion")
        .and_then(|text| supported_version("cluster.kubernetesVersion", text, findings));
    let ca_certificate =
        checked.text("cluster.caCertificate").map(|text| rules::certificates(text, "cluster.caCertificate", findings));
    let dns = checked.text("cluster.dnsServiceIP").unwrap_or("10.0.0.10");
    if dns.parse::<IpAddr>().is_err() {
        findings.problem("cluster.dnsServiceIP", super::problem::quoted(dns), "an IP address");
    }
    Some(Cluster {
        dns_service_ips: dns.parse().into_iter().collect(),
        dns_domain: checked.text("cluster.dnsDomain").unwrap_or("cluster.local").to_owned(),
        api_server: api_server?,
        ca_certificate: ca_certificate?,
        kubernetes_version: version?,
    })
}

/// Oldest and newest minor version of Kubernetes 1 that we know the flags of.
const SUPPORTED_MINORS: std::ops::RangeInclusive<u32> = 30..=37;

pub(super) fn supported_version(path: &str, text: &str, findings: &mut Findings) -> Option<KubernetesVersion> {
    let version = findings.parse::<KubernetesVersion>(path, text)?;
    if version.major != 1 || version.minor < *SUPPORTED_MINORS.start() {
        let wanted = format!("1.{} to 1.{}", SUPPORTED_MINORS.start(), SUPPORTED_MINORS.end());
        findings.problem(path, version.to_string(), wanted);
    } else if version.minor > *SUPPORTED_MINORS.end() {
        findings.warn(path, format!("{version} is newer than this nap-agent; treated as 1.{}", SUPPORTED_MINORS.end()));
    }
    Some(version)
}

fn kubelet(checked: Checked<'_>, findings: &mut Findings) -> Kubelet {
    let mut config = checked.object("nodeClass.kubelet").cloned().unwrap_or_default();
    // kubelet refuses a period other than 100ms without its feature gate.
    if config.get("cpuCFSQuotaPeriod").is_some_and(|period| period != "100ms") {
        config.insert("featureGates".to_owned(), json!({"CustomCPUCFSQuotaPeriod": true}));
    }
    clamp_to_int32(&mut config, "podPidsLimit", findings);
    let given = checked.object("node.kubeletConfig").cloned().unwrap_or_default();
    let mut merged = Value::Object(config);
    rules::merge(&mut merged, &Value::Object(given));
    let mut config = merged.as_object().cloned().unwrap_or_default();
    rules::kubelet_config(&mut config, "node.kubeletConfig", findings);
    refuse_crossed_thresholds(&config, "nodeClass.kubelet", findings);
    let flags = rules::kubelet_flags(checked.texts("node.kubeletFlags"), "node.kubeletFlags", findings);
    refuse_static_without_reservation(&config, &flags, findings);
    Kubelet { config, flags, max_pods: checked.number("nodeClass.maxPods").and_then(|pods| u32::try_from(pods).ok()) }
}

/// kubelet: "the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero".
fn refuse_static_without_reservation(
    config: &Map<String, Value>,
    flags: &BTreeMap<String, String>,
    findings: &mut Findings,
) {
    let is_static = config.get("cpuManagerPolicy").is_some_and(|policy| policy == "static");
    let in_config = ["kubeReserved", "systemReserved"]
        .iter()
        .any(|name| config.get(*name).is_some_and(|reserved| reserved.get("cpu").is_some()));
    let in_flags = ["kube-reserved", "system-reserved"]
        .iter()
        .any(|name| flags.get(*name).is_some_and(|reserved| reserved.contains("cpu=")));
    let listed = config.contains_key("reservedSystemCPUs") || flags.contains_key("reserved-cpus");
    if is_static && !(in_config || in_flags || listed) {
        let wanted = "node.kubeletConfig.kubeReserved.cpu beside it: kubelet refuses static without reserved CPU";
        findings.problem("nodeClass.kubelet.cpuManagerPolicy", "\"static\"", wanted);
    }
}

/// AKSNodeClass and KubeletConfiguration have an int64, the provisioner's wire an int32, and no kernel more PIDs than that.
fn clamp_to_int32(config: &mut Map<String, Value>, field: &str, findings: &mut Findings) {
    if config.get(field).and_then(Value::as_i64).is_some_and(|number| number > i64::from(i32::MAX)) {
        findings.warn(&format!("nodeClass.kubelet.{field}"), format!("lowered to {}", i32::MAX));
        config.insert(field.to_owned(), json!(i32::MAX));
    }
}

pub(super) fn refuse_crossed_thresholds(config: &Map<String, Value>, path: &str, findings: &mut Findings) {
    let number = |name: &str| config.get(name).and_then(Value::as_i64);
    // Where only one is given, the other is AKS' default.
    let (high, low) =
        (number("imageGCHighThresholdPercent").unwrap_or(85), number("imageGCLowThresholdPercent").unwrap_or(80));
    if high <= low {
        findings.problem(
            path,
            format!("imageGCHighThresholdPercent {high}, imageGCLowThresholdPercent {low}"),
            "high above low",
        );
    }
}

fn cni(mode: Option<&str>) -> CniMode {
    match mode {
        Some("cilium") => CniMode::Cilium,
        Some("nodeSubnet") => CniMode::NodeSubnet,
        Some("none") => CniMode::None,
        _ => CniMode::Overlay,
    }
}

fn cloud(checked: Checked<'_>) -> Cloud {
    let subnet = checked.text("nodeClass.vnetSubnetID").map(|id| id.split('/').collect::<Vec<_>>()).unwrap_or_default();
    let or_subnet = |path: &str, position: usize| {
        checked.text(path).or(subnet.get(position).copied()).unwrap_or_default().to_owned()
    };
    let principal = checked.text("identity.servicePrincipalID");
    Cloud {
        environment: checked.text("cloud.environment").unwrap_or("AzurePublicCloud").to_owned(),
        tenant_id: checked.owned("cloud.tenantID"),
        subscription_id: checked.owned("cloud.subscriptionID"),
        resource_group: checked.owned("cloud.resourceGroup"),
        location: checked.owned("cloud.location"),
        vm_type: checked.text("cloud.vmType").unwrap_or("standard").to_owned(),
        vnet_name: or_subnet("cloud.vnetName", 8),
        vnet_resource_group: or_subnet("cloud.vnetResourceGroup", 4),
        subnet_name: or_subnet("cloud.subnetName", 10),
        security_group_name: checked.owned("cloud.securityGroupName"),
        route_table_name: checked.owned("cloud.routeTableName"),
        client_id: principal.unwrap_or("msi").to_owned(),
        client_secret: checked.text("identity.servicePrincipalSecret").unwrap_or("msi").into(),
        use_managed_identity: principal.is_none_or(|id| id == "msi"),
        user_assigned_identity_id: checked.owned("identity.kubeletIdentityClientID"),
        load_balancer_sku: checked.text("cloud.loadBalancerSKU").unwrap_or("standard").to_owned(),
        more: Map::new(),
    }
}

fn boot(checked: Checked<'_>) -> BootTimes {
    let defaults = BootTimes::default();
    let seconds = |name: &str, default: Duration| {
        let given = checked.number(&format!("boot.{name}")).and_then(|seconds| u64::try_from(seconds).ok());
        given.map_or(default, Duration::from_secs)
    };
    BootTimes {
        budget: seconds("budgetSeconds", defaults.budget),
        api_server: seconds("apiServerSeconds", defaults.api_server),
        unit_start: seconds("unitStartSeconds", defaults.unit_start),
        kubelet_healthy: seconds("kubeletHealthySeconds", defaults.kubelet_healthy),
        registration: seconds("registrationSeconds", defaults.registration),
    }
}

/// `/subscriptions/S/resourceGroups/G/providers/Microsoft.Network/virtualNetworks/V/subnets/N`.
fn is_subnet_id(text: &str) -> bool {
    let parts: Vec<_> = text.split('/').collect();
    let is = |position: usize, word: &str| parts.get(position).is_some_and(|part| part.eq_ignore_ascii_case(word));
    parts.len() == 11
        && is(0, "")
        && is(1, "subscriptions")
        && is(3, "resourceGroups")
        && is(7, "virtualNetworks")
        && is(9, "subnets")
}

fn is_cfs_period(text: &str) -> bool {
    let microseconds = [("ms", 1000.0), ("us", 1.0), ("s", 1_000_000.0)].into_iter().find_map(|(unit, factor)| {
        text.strip_suffix(unit).and_then(|number| number.parse::<f64>().ok()).map(|number| number * factor)
    });
    microseconds.is_some_and(|microseconds| (1000.0..=1_000_000.0).contains(&microseconds))
}

fn is_size(text: &str) -> bool {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    digits > 0 && ["E", "P", "T", "G", "M", "K", "Ei", "Pi", "Ti", "Gi", "Mi", "Ki"].contains(&&text[digits..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_texts_hold() {
        for (period, holds) in [
            ("100ms", true),
            ("1ms", true),
            ("1s", true),
            ("5s", false),
            ("500us", false),
            ("1000us", true),
            ("ms", false),
        ] {
            assert_eq!(is_cfs_period(period), holds, "{period}");
        }
        for (size, holds) in [("50Mi", true), ("1G", true), ("Mi", false), ("5", false), ("5mb", false)] {
            assert_eq!(is_size(size), holds, "{size}");
        }
        assert!(is_subnet_id(
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/n"
        ));
        assert!(!is_subnet_id("/subscriptions/s/resourceGroups/g"));
    }
}
