//! Our own wire format, `NodeBootstrap`: the AKSNodeClass spec verbatim, and beside it what the CRD does not carry.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Map, Value};

use super::carrier::Format;
use super::document::Checked;
use super::machine::{
    Mirror, Network, OperatingSystem, Proxy, Registries, SecondaryNics, ServiceAccountPulls, Ssh, Ulimits,
};
use super::node_config::{ApiServer, BootTimes, Cloud, Cluster, CniMode, Containerd, Kubelet, NodeConfig, PrePull};
use super::problem::{Findings, quoted};
use super::rules;
use super::secure_tls::SecureTls;
use super::shape::Shape::{Any, Bool, Integer, List, Map as MapOf, Object, Text, TextThat, Word};
use super::shape::{Field, Shape, field};
use super::{kubelet_flags, node_class, storage, sysctls};
use crate::clouds;
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
    field("nodeClass", Object(node_class::FIELDS), "The spec of the AKSNodeClass, verbatim."),
    field("os", Object(OS), "The operating system, beside what the AKSNodeClass has."),
    field("trust", Object(TRUST), "Additional certificate authorities, for the whole machine."),
    field("proxy", Object(PROXY), "HTTP proxy of containerd, kubelet and the package manager."),
    field("registries", Object(REGISTRIES), "Where images come from."),
    field("storage", Object(storage::FIELDS), "Local disks of the VM."),
    field("health", Any, "The health endpoint.").ignored("the endpoint's settings are flags of `nap-agent guard`"),
]);

const CLUSTER: &[Field] = &[
    field("apiServer", Text, "Where the API server is: a name, an address or an https URL; port 443 when absent.")
        .required(),
    field("caCertificate", Text, "PEM certificates of the cluster's CA, or base64 of them.").required(),
    field("kubernetesVersion", Text, "Version of kubelet, such as 1.34.2; 1.30 to 1.37.").required(),
    field("dnsServiceIP", Text, "Address of the cluster's DNS service; 10.0.0.10 when absent."),
    field(
        "dnsDomain",
        TextThat("a DNS domain such as corp.example", rules::is_domain),
        "DNS domain of the cluster; cluster.local when absent.",
    ),
    field(
        "serviceCIDRs",
        List(&TextThat("an address range such as 10.0.0.0/16", rules::is_cidr)),
        "Address ranges of services; never reached through a proxy.",
    ),
];

const IDENTITY: &[Field] = &[
    field(
        "bootstrapToken",
        TextThat("a bootstrap token such as abcdef.0123456789abcdef", rules::is_bootstrap_token),
        "Token with which kubelet asks for its certificate.",
    )
    .secret(),
    field(
        "secureTLSBootstrap",
        Object(&[
            field(
                "enabled",
                Bool,
                "Whether kubelet gets its certificate by the node's attested identity, by AKS' client in the image; the bootstrap token is what is left when that fails.",
            ),
            field(
                "aadResource",
                TextThat("the id or URI of an Entra application", rules::is_flag_value),
                "Entra application that the identity asks a token for; AKS' own when absent.",
            ),
            field(
                "identityClientID",
                TextThat("the client id of a managed identity", rules::is_flag_value),
                "Managed identity that asks; kubelet's when absent.",
            ),
            field(
                "deadlineSeconds",
                Integer(1, 480),
                "Longest run of the client, at most half of the boot; 480 when absent, as the client's own limits are.",
            ),
        ]),
        "Secure TLS bootstrapping.",
    ),
    field("kubeletIdentityClientID", Text, "Client id of the managed identity of kubelet."),
    field("servicePrincipalID", Text, "Service principal instead of a managed identity."),
    field("servicePrincipalSecret", Text, "Its secret.").secret(),
];

const NETWORK: &[Field] = &[
    field(
        "mode",
        Word(&["overlay", "cilium", "nodeSubnet", "none"]),
        "Who makes the pod network; overlay when absent.",
    ),
    field(
        "searchDomains",
        List(&TextThat("a DNS domain such as corp.example", rules::is_domain)),
        "DNS search domains beside the virtual network's.",
    ),
    field("privateAPIServer", Bool, "Whether a hosts entry names the API server of a private cluster."),
    field(
        "apiServerAddress",
        TextThat("an IP address", rules::is_address),
        "Its address; the VM's tag aksAPIServerIPAddress when absent.",
    ),
    field("dualStack", Bool, "Whether the node has an IPv6 address beside IPv4."),
    field(
        "secondaryNICs",
        List(&TextThat("a MAC such as 000D3A1B2C3D", rules::is_mac)),
        "MACs of NICs beside the primary one.",
    ),
    field("restrictIMDS", Bool, "Whether pods are kept from the instance metadata service."),
];

const OS: &[Field] = &[
    field("messageOfTheDay", Text, "What people see who log in."),
    field(
        "ssh",
        Object(&[
            field("enabled", Bool, "Whether the SSH server may run; true when absent."),
            field("publicKeys", Bool, "Whether it takes public keys; true when absent."),
        ]),
        "Remote login.",
    ),
    field("adminUser", TextThat("a user name", rules::is_user_name), "User whose password and account never expire."),
    field(
        "unattendedUpgrades",
        Bool,
        "Whether the distribution installs its updates by itself; the image's choice when absent.",
    ),
    field(
        "ulimits",
        Object(&[
            field("noFile", TextThat(rules::LIMIT, rules::is_limit), "Open files of a container (LimitNOFILE)."),
            field(
                "maxLockedMemory",
                TextThat(rules::LIMIT, rules::is_limit),
                "Locked memory of a container (LimitMEMLOCK).",
            ),
        ]),
        "Limits of containerd, and so of containers.",
    ),
];

const TRUST: &[Field] = &[field(
    "certificates",
    List(&Text),
    "PEM certificates, or base64 of them, one or more an item; at most 10 items.",
)];

const PROXY: &[Field] = &[
    field("http", TextThat("a URL such as http://proxy:3128", rules::is_proxy_url), "HTTP_PROXY.").secret(),
    field("https", TextThat("a URL such as http://proxy:3128", rules::is_proxy_url), "HTTPS_PROXY.").secret(),
    field(
        "noProxy",
        List(&TextThat("a host, domain or range", rules::is_flag_value)),
        "NO_PROXY; what must never go through a proxy is added.",
    ),
    field("caCertificate", Text, "PEM certificate of the proxy, or base64 of it."),
];

const REGISTRIES: &[Field] = &[
    field(
        "bootstrap",
        TextThat("a registry such as example.azurecr.io", rules::is_registry),
        "Registry of a network-isolated cluster, which stands for the public one.",
    ),
    field("mirrors", List(&Object(MIRROR)), "Mirrors of registries."),
    field(
        "dnsSuffix",
        TextThat("a DNS suffix such as .azurecr.example", rules::is_suffix),
        "What the names of a custom cloud's registries end with.",
    ),
    field(
        "serviceAccountPulls",
        Object(SERVICE_ACCOUNT_PULLS),
        "Image pulls by the pod's service account (identity bindings).",
    ),
];

const SERVICE_ACCOUNT_PULLS: &[Field] = &[
    field(
        "localAuthority",
        TextThat("a host name", rules::is_domain),
        "Name (SNI) of the cluster's own token authority.",
    )
    .required(),
    field(
        "defaultClientID",
        TextThat("a client id", rules::is_flag_value),
        "Client id of the identity of accounts that name none.",
    ),
    field("defaultTenantID", TextThat("a tenant id", rules::is_flag_value), "Tenant of that identity."),
];

const MIRROR: &[Field] = &[
    field(
        "registry",
        TextThat("a registry such as docker.example or _default", rules::is_mirrored_registry),
        "Whose images; _default for every registry without mirrors of its own.",
    )
    .required(),
    field(
        "endpoints",
        List(&TextThat("a URL such as https://mirror.example/path", rules::is_mirror_url)),
        "Who is asked, in order.",
    )
    .required(),
    field("onlyMirrors", Bool, "Whether the registry itself is never asked, even when no mirror has the image."),
];

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
    field(
        "prePull",
        List(&TextThat("an image such as registry.example/app:1", rules::is_image)),
        "Images that are pulled before pods ask for them, beside kubelet.",
    ),
    field("parallelPrePulls", Integer(1, 10), "How many of them at a time; 2 when absent."),
];

const CLOUD: &[Field] = &[
    field(
        "environment",
        Text,
        "Name of the Azure cloud; AzureStackCloud with a document of its endpoints, else that of the region, when absent.",
    ),
    field("environmentDocument", MapOf(&Any), "Endpoints of a custom cloud, as Azure's clients read them from a file."),
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

/// What a checked document asks for. Problems go to `findings`; the result counts only when there are none.
pub(super) fn read(document: &Value, findings: &mut Findings) -> Option<NodeConfig> {
    let checked = Checked(document);
    let cluster = cluster(checked, findings);
    let class = "nodeClass.linuxOSConfig.sysctls";
    let taints = ["node.taints", "node.startupTaints"]
        .into_iter()
        .flat_map(|path| checked.items(path).enumerate().map(move |(i, text)| (format!("{path}[{i}]"), text)));
    Some(NodeConfig {
        format: Format::NodeBootstrap,
        bootstrap_token: checked.text("identity.bootstrapToken").map(Into::into),
        secure_tls: secure_tls(checked),
        node_name: checked.text("node.name").and_then(|name| findings.parse::<NodeName>("node.name", name)),
        provider_id: checked.text("node.providerID").map(str::to_owned),
        labels: rules::labels(checked.texts("node.labels"), "node.labels", findings),
        taints: rules::taints(taints, findings),
        kubelet: kubelet(checked, findings),
        cni: cni(checked.text("network.mode")),
        containerd: Containerd {
            root: checked.text("containerd.root").map(str::to_owned),
            sandbox_image: sandbox_image(checked, findings),
            pre_pull: pre_pull(checked),
        },
        sysctls: sysctls::read(checked.object(class), class, findings),
        claims: node_class::claims(checked, findings),
        os: os(checked, findings),
        network: network(checked, findings),
        proxy: proxy(checked),
        trusted_certificates: trusted_certificates(checked, findings),
        local_dns: node_class::local_dns(checked, findings),
        gpu: node_class::gpu(checked),
        storage: storage::read(checked),
        registries: Registries {
            bootstrap: checked.text("registries.bootstrap").map(str::to_owned),
            mirrors: mirrors(checked, findings),
            dns_suffix: checked.text("registries.dnsSuffix").map(str::to_owned),
            service_account_pulls: service_account_pulls(checked),
            streaming: checked.flag("nodeClass.artifactStreaming.enabled") == Some(true),
        },
        cloud: cloud(checked),
        boot: boot(checked),
        cluster: cluster?,
    })
}

fn pre_pull(checked: Checked<'_>) -> PrePull {
    let default = PrePull::default();
    let parallel = checked.number("containerd.parallelPrePulls").and_then(|number| u32::try_from(number).ok());
    let images = checked.items("containerd.prePull").map(str::to_owned).collect();
    PrePull { images, parallel: parallel.unwrap_or(default.parallel) }
}

fn service_account_pulls(checked: Checked<'_>) -> Option<ServiceAccountPulls> {
    let text = |name: &str| checked.text(&format!("registries.serviceAccountPulls.{name}")).map(str::to_owned);
    Some(ServiceAccountPulls {
        local_authority: text("localAuthority")?,
        client_id: text("defaultClientID"),
        tenant_id: text("defaultTenantID"),
    })
}

fn mirrors(checked: Checked<'_>, findings: &mut Findings) -> Vec<Mirror> {
    let path = "registries.mirrors";
    let mut mirrors: Vec<Mirror> = Vec::new();
    for (i, item) in checked.at(path).and_then(Value::as_array).into_iter().flatten().enumerate() {
        let item = Checked(item);
        let registry = item.owned("registry");
        if mirrors.iter().any(|mirror| mirror.registry == registry) {
            findings.problem(&format!("{path}[{i}].registry"), quoted(&registry), "each registry once");
        }
        let endpoints: Vec<String> = item.items("endpoints").map(str::to_owned).collect();
        if endpoints.is_empty() {
            findings.problem(&format!("{path}[{i}].endpoints"), "none", "one URL at least");
        }
        mirrors.push(Mirror { registry, endpoints, only: item.flag("onlyMirrors") == Some(true) });
    }
    mirrors
}

fn secure_tls(checked: Checked<'_>) -> Option<SecureTls> {
    if checked.flag("identity.secureTLSBootstrap.enabled") != Some(true) {
        return None;
    }
    let text = |name: &str| checked.text(&format!("identity.secureTLSBootstrap.{name}"));
    let mut client = SecureTls::new(text("aadResource"), text("identityClientID"), |_| None);
    let seconds = checked.number("identity.secureTLSBootstrap.deadlineSeconds");
    if let Some(seconds) = seconds.and_then(|seconds| u64::try_from(seconds).ok()) {
        client.deadline = Duration::from_secs(seconds);
    }
    Some(client)
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
        findings.problem("cluster.dnsServiceIP", quoted(dns), "an IP address");
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

fn os(checked: Checked<'_>, findings: &mut Findings) -> OperatingSystem {
    OperatingSystem {
        huge_pages: node_class::huge_pages(checked),
        swap_file_bytes: node_class::swap_file(checked, findings),
        ulimits: Ulimits {
            no_file: checked.text("os.ulimits.noFile").map(str::to_owned),
            max_locked_memory: checked.text("os.ulimits.maxLockedMemory").map(str::to_owned),
        },
        message_of_the_day: checked.text("os.messageOfTheDay").map(str::to_owned),
        ssh: Ssh {
            enabled: checked.flag("os.ssh.enabled").unwrap_or(true),
            public_keys: checked.flag("os.ssh.publicKeys").unwrap_or(true),
        },
        admin_user: checked.text("os.adminUser").map(str::to_owned),
        unattended_upgrades: checked.flag("os.unattendedUpgrades"),
    }
}

fn network(checked: Checked<'_>, findings: &mut Findings) -> Network {
    let list = |path: &str| checked.items(path).map(str::to_owned).collect::<Vec<_>>();
    let macs = list("network.secondaryNICs");
    for mac in rules::repeated(macs.iter().map(String::as_str).collect()) {
        findings.problem("network.secondaryNICs", format!("{mac} twice"), "each MAC once");
    }
    Network {
        search_domains: list("network.searchDomains"),
        private_api_server: checked.flag("network.privateAPIServer") == Some(true)
            || checked.text("network.apiServerAddress").is_some(),
        api_server_address: checked.text("network.apiServerAddress").and_then(|address| address.parse().ok()),
        dual_stack: checked.flag("network.dualStack") == Some(true),
        secondary_nics: if macs.is_empty() { SecondaryNics::None } else { SecondaryNics::Macs(macs) },
        restrict_imds: checked.flag("network.restrictIMDS") == Some(true),
        service_cidrs: list("cluster.serviceCIDRs"),
    }
}

fn proxy(checked: Checked<'_>) -> Option<Proxy> {
    let url = |path: &str| checked.text(path).map(Into::into);
    let proxy = Proxy {
        http: url("proxy.http"),
        https: url("proxy.https"),
        no_proxy: checked.items("proxy.noProxy").map(str::to_owned).collect(),
    };
    (proxy.http.is_some() || proxy.https.is_some()).then_some(proxy)
}

fn trusted_certificates(checked: Checked<'_>, findings: &mut Findings) -> Vec<String> {
    let given = checked.items("trust.certificates").enumerate();
    let of_proxy = checked.text("proxy.caCertificate").map(|pem| ("proxy.caCertificate".to_owned(), pem));
    let all = given.map(|(i, pem)| (format!("trust.certificates[{i}]"), pem)).chain(of_proxy);
    rules::trusted_certificates(all, findings)
}

fn kubelet(checked: Checked<'_>, findings: &mut Findings) -> Kubelet {
    let config = node_class::kubelet(checked, findings);
    let given = checked.object("node.kubeletConfig").cloned().unwrap_or_default();
    let mut merged = Value::Object(config);
    rules::merge(&mut merged, &Value::Object(given));
    let mut config = merged.as_object().cloned().unwrap_or_default();
    rules::kubelet_config(&mut config, "node.kubeletConfig", findings);
    let paths = kubelet_flags::Paths { flags: "node.kubeletFlags", config: "node.kubeletConfig" };
    let flags = kubelet_flags::read(checked.texts("node.kubeletFlags"), paths, &mut config, findings);
    refuse_crossed_thresholds(&config, "nodeClass.kubelet", findings);
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
    let listed = config.contains_key("reservedSystemCPUs") || flags.contains_key("reserved-cpus");
    if is_static && !(in_config || listed) {
        let wanted = "node.kubeletConfig.kubeReserved.cpu beside it: kubelet refuses static without reserved CPU";
        findings.problem("nodeClass.kubelet.cpuManagerPolicy", "\"static\"", wanted);
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
    let environment_document = checked.object("cloud.environmentDocument").cloned();
    Cloud {
        environment: environment(checked).to_owned(),
        environment_document,
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

fn environment(checked: Checked<'_>) -> &str {
    let derived = || match checked.object("cloud.environmentDocument") {
        Some(_) => clouds::CUSTOM_CLOUD,
        None => clouds::of_region(checked.text("cloud.location").unwrap_or_default()).name,
    };
    checked.text("cloud.environment").unwrap_or_else(derived)
}

/// In a cloud that is not in our table only its own registry can have the image.
fn sandbox_image(checked: Checked<'_>, findings: &mut Findings) -> String {
    let path = "containerd.sandboxImage";
    let of_cloud = || clouds::named(environment(checked)).map(|cloud| cloud.registry);
    match (checked.text(path), of_cloud().or(checked.text("registries.bootstrap"))) {
        (Some(image), _) => image.to_owned(),
        (None, Some(registry)) => clouds::pause_image(registry),
        (None, None) => {
            let found = format!("nothing, in the cloud {}", quoted(environment(checked)));
            findings.problem(path, found, "the image of the pause container, or registries.bootstrap");
            String::new()
        }
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
