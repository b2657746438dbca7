//! AgentBaker's wire format, `AKSNodeConfig` v1: protobuf's JSON of `aksnodeconfig.v1.Configuration`.
//!
//! Names come in `snake_case` or `lowerCamelCase`, enumerations by name or number. Fields that this version does not act on
//! are in the table all the same, so that they are told apart from spelling mistakes.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::aks_kubelet::CONFIG_FILE;
use super::carrier::Format;
use super::document::Checked;
use super::machine::{Claims, Gpu, Network, OperatingSystem, Registries};
use super::node_bootstrap::{refuse_crossed_thresholds, supported_version};
use super::node_config::{ApiServer, BootTimes, Cloud, Cluster, CniMode, Containerd, Kubelet, NodeConfig};
use super::problem::{Findings, quoted};
use super::shape::Shape::{Any, Bool, Integer, List, Map as MapOf, Object, ProtobufEnum, Text, Word};
use super::shape::{Field, Shape, field};
use super::{rules, sysctls};
use crate::clouds;

const INT32: Shape = Integer(i32::MIN as i64, i32::MAX as i64);

/// The format as a table. Source of names: AgentBaker `aks-node-controller/proto/aksnodeconfig/v1`.
pub(super) const SHAPE: Shape = Object(&[
    field("version", Word(&["v0", "v1"]), "Version of the format.").required(),
    field("api_server_config", Object(API_SERVER), "API server.").required(),
    field("kubernetes_ca_cert", Text, "Cluster CA, base64 of PEM.").required(),
    field("kubernetes_version", Text, "Version of kubelet.").required(),
    field("bootstrapping_config", Object(BOOTSTRAPPING), "How the node gets its certificate."),
    field("auth_config", Object(AUTH), "Identity."),
    field("cluster_config", Object(CLUSTER), "Where in Azure the node is."),
    field("kubelet_config", Object(KUBELET), "kubelet."),
    field("network_config", Object(NETWORK), "Pod network."),
    field("containerd_config", Any, "containerd package.").ignored("not read yet"),
    field("custom_linux_os_config", Object(LINUX_OS), "Operating system."),
    field("kube_binary_config", Object(KUBE_BINARY), "Binaries."),
    field("custom_cloud_config", Object(CUSTOM_CLOUD), "Sovereign and custom clouds."),
    field("cse_timeout", INT32, "Seconds for the whole boot; 900 when out of 1 to 21600."),
    field("needs_cgroupv2", Bool, "cgroup v2; observed on the node instead.").ignored("not read yet"),
    field("runc_config", Any, "runc package.").ignored("not read yet"),
    field("custom_search_domain_config", Object(SEARCH_DOMAIN), "Search domain.").ignored("not read yet"),
    field("http_proxy_config", Any, "HTTP proxy.").ignored("not read yet"),
    field("gpu_config", Any, "GPU.").ignored("not read yet"),
    field("kube_proxy_url", Text, "kube-proxy image.").ignored("not read yet"),
    field("vm_size", Text, "VM size.").ignored("not read yet"),
    field("linux_admin_username", Text, "Admin user.").ignored("not read yet"),
    field("is_vhd", Bool, "Baked image.").ignored("not read yet"),
    field("enable_ssh", Bool, "SSH.").ignored("not read yet"),
    field("enable_unattended_upgrade", Bool, "Unattended upgrades.").ignored("not read yet"),
    field("message_of_the_day", Text, "Message of the day.").ignored("not read yet"),
    field("enable_hosts_config_agent", Bool, "Private cluster hosts.").ignored("not read yet"),
    field("custom_ca_certs", List(&Text), "Custom CAs.").ignored("not read yet"),
    field("provision_output", Text, "Unused by its owner, too.").ignored("not read yet"),
    field(
        "workload_runtime",
        ProtobufEnum(&[("WORKLOAD_RUNTIME_UNSPECIFIED", 0), ("WORKLOAD_RUNTIME_OCI_CONTAINER", 1)]),
        "Unused by its owner, too.",
    )
    .ignored("not read yet"),
    field("ipv6_dual_stack_enabled", Bool, "Dual stack.").ignored("not read yet"),
    field("outbound_command", Text, "A shell command; never run.").ignored("not read yet"),
    field("azure_private_registry_server", Text, "Private registry.").ignored("not read yet"),
    field("private_egress_proxy_address", Text, "Egress proxy.").ignored("not read yet"),
    field("enable_artifact_streaming", Bool, "Artifact streaming.").ignored("not read yet"),
    field("is_kata", Bool, "Kata.").ignored("not read yet"),
    field("disable_custom_data", Bool, "Custom data.").ignored("not read yet"),
    field("bootstrap_profile_container_registry_server", Text, "Network-isolated registry.").ignored("not read yet"),
    field("imds_restriction_config", Any, "IMDS restriction.").ignored("not read yet"),
    field("pre_provision_only", Bool, "First stage of two.").ignored("not read yet"),
    field("local_dns_profile", Any, "LocalDNS.").ignored("not read yet"),
    field("disable_pubkey_auth", Bool, "SSH public keys.").ignored("not read yet"),
    field("service_account_image_pull_profile", Any, "Image pull identity.").ignored("not read yet"),
    field("enabled_features", MapOf(&Text), "Feature flags of the launcher.").ignored("not read yet"),
]);

const API_SERVER: &[Field] = &[
    field("api_server_name", Text, "DNS name or address.").required(),
    field("api_server_public_key", Text, "Unused by kubelet.").ignored("not read yet"),
];

const AUTH_METHODS: Shape = ProtobufEnum(&[
    ("BOOTSTRAPPING_AUTH_METHOD_UNSPECIFIED", 0),
    ("BOOTSTRAPPING_AUTH_METHOD_BOOTSTRAP_TOKEN", 1),
    ("BOOTSTRAPPING_AUTH_METHOD_SECURE_TLS_BOOTSTRAPPING", 2),
    ("BOOTSTRAPPING_AUTH_METHOD_ARC_MSI", 3),
    ("BOOTSTRAPPING_AUTH_METHOD_AZURE_MSI", 4),
]);

const BOOTSTRAPPING: &[Field] = &[
    field("bootstrapping_auth_method", AUTH_METHODS, "Method; the token is used.").ignored("not read yet"),
    field("cluster_join_method", Any, "Unused by its owner, too.").ignored("not read yet"),
    field(
        "tls_bootstrapping_token",
        Shape::TextThat("a bootstrap token such as abcdef.0123456789abcdef", rules::is_bootstrap_token),
        "Bootstrap token.",
    )
    .secret(),
    field("secure_tls_bootstrapping_aad_resource", Text, "Secure TLS bootstrap.").ignored("not read yet"),
    field("secure_tls_bootstrapping_user_assigned_identity_id", Text, "Secure TLS bootstrap.").ignored("not read yet"),
    field("secure_tls_bootstrapping_custom_client_download_url", Text, "Secure TLS bootstrap.").ignored("not read yet"),
    field("secure_tls_bootstrapping_validate_kubeconfig_timeout", Text, "Secure TLS bootstrap.")
        .ignored("not read yet"),
    field("secure_tls_bootstrapping_get_access_token_timeout", Text, "Secure TLS bootstrap.").ignored("not read yet"),
    field("secure_tls_bootstrapping_get_instance_data_timeout", Text, "Secure TLS bootstrap.").ignored("not read yet"),
    field("secure_tls_bootstrapping_get_nonce_timeout", Text, "Secure TLS bootstrap.").ignored("not read yet"),
    field("secure_tls_bootstrapping_get_attested_data_timeout", Text, "Secure TLS bootstrap.").ignored("not read yet"),
    field("secure_tls_bootstrapping_get_credential_timeout", Text, "Secure TLS bootstrap.").ignored("not read yet"),
];

const AUTH: &[Field] = &[
    field("tenant_id", Text, "Entra tenant."),
    field("subscription_id", Text, "Subscription."),
    field("service_principal_id", Text, "Service principal, or msi."),
    field("service_principal_secret", Text, "Its secret, base64.").secret(),
    field("assigned_identity_id", Text, "Client id of the kubelet identity."),
    field("use_managed_identity_extension", Bool, "Managed identity."),
];

const VM_TYPES: Shape = ProtobufEnum(&[("VM_TYPE_UNSPECIFIED", 0), ("VM_TYPE_STANDARD", 1), ("VM_TYPE_VMSS", 2)]);
const LOAD_BALANCER_SKUS: Shape = ProtobufEnum(&[
    ("LOAD_BALANCER_SKU_UNSPECIFIED", 0),
    ("LOAD_BALANCER_SKU_BASIC", 1),
    ("LOAD_BALANCER_SKU_STANDARD", 2),
]);

const CLUSTER: &[Field] = &[
    field("resource_group", Text, "Resource group of the nodes."),
    field("location", Text, "Region."),
    field("vm_type", VM_TYPES, "Kind of VM."),
    field("cluster_network_config", Object(CLUSTER_NETWORK), "Virtual network."),
    field("load_balancer_config", Object(LOAD_BALANCER), "Load balancer."),
    field("primary_availability_set", Text, "Availability set.").also("primaryAvailabilitySetName"),
    field("primary_scale_set", Text, "Scale set.").also("primaryScaleSetName"),
    field("use_instance_metadata", Bool, "Whether cloud drivers use IMDS.").also("useInstanceMetadata"),
    field("cloud_provider_config", Object(CLOUD_PROVIDER), "Limits of the cloud drivers."),
];

const CLUSTER_NETWORK: &[Field] = &[
    field("vnet_name", Text, "Virtual network."),
    field("vnet_resource_group", Text, "Its resource group."),
    field("subnet", Text, "Subnet."),
    field("security_group_name", Text, "Network security group."),
    field("route_table", Text, "Route table."),
    field("core_dns_service_ip", Text, "Cluster DNS; 10.0.0.10 when absent."),
];

const LOAD_BALANCER: &[Field] = &[
    field("load_balancer_sku", LOAD_BALANCER_SKUS, "Kind."),
    field("exclude_master_from_standard_load_balancer", Bool, "Kept for azure.json.")
        .also("excludeMasterFromStandardLB"),
    field("max_load_balancer_rule_count", INT32, "Most rules.").also("maximumLoadBalancerRuleCount"),
    field("disable_outbound_snat", Bool, "Outbound SNAT.").also("disableOutboundSNAT"),
];

const CLOUD_PROVIDER: &[Field] = &[
    field("cloud_provider_backoff", Bool, "Back-off.").also("cloudProviderBackoff"),
    field("cloud_provider_backoff_mode", Text, "Its mode.").also("cloudProviderBackoffMode"),
    field("cloud_provider_backoff_retries", INT32, "Its retries.").also("cloudProviderBackoffRetries"),
    field("cloud_provider_backoff_duration", INT32, "Its seconds.").also("cloudProviderBackoffDuration"),
    field("cloud_provider_backoff_exponent", Any, "Only in mode v1.").ignored("not read yet"),
    field("cloud_provider_backoff_jitter", Any, "Only in mode v1.").ignored("not read yet"),
    field("cloud_provider_rate_limit", Bool, "Rate limit.").also("cloudProviderRateLimit"),
    field("cloud_provider_rate_limit_qps", INT32, "Reads a second.").also("cloudProviderRateLimitQPS"),
    field("cloud_provider_rate_limit_qps_write", INT32, "Writes a second.").also("cloudProviderRateLimitQPSWrite"),
    field("cloud_provider_rate_limit_bucket", INT32, "Burst of reads.").also("cloudProviderRateLimitBucket"),
    field("cloud_provider_rate_limit_bucket_write", INT32, "Burst of writes.")
        .also("cloudProviderRateLimitBucketWrite"),
];

const KUBELET: &[Field] = &[
    field("kubelet_flags", MapOf(&Text), "Flags, with their dashes."),
    field("kubelet_node_labels", MapOf(&Text), "Labels."),
    field("kubelet_config_file_config", Object(CONFIG_FILE), "Fields of KubeletConfiguration."),
    field("enable_kubelet_config_file", Bool, "Whether those fields count."),
    field("container_data_dir", Text, "containerd's root."),
    field("kubelet_disk_type", Any, "Which disk kubelet uses.").ignored("not read yet"),
    field("kubelet_client_key", Text, "Client key instead of a token.").secret().ignored("not read yet"),
    field("kubelet_client_cert_content", Text, "Client certificate instead of a token.").ignored("not read yet"),
];

const NETWORK_PLUGINS: Shape = ProtobufEnum(&[
    ("NETWORK_PLUGIN_UNSPECIFIED", 0),
    ("NETWORK_PLUGIN_NONE", 1),
    ("NETWORK_PLUGIN_AZURE", 2),
    ("NETWORK_PLUGIN_KUBENET", 3),
]);

const NETWORK: &[Field] = &[
    field("network_plugin", NETWORK_PLUGINS, "Whether the node writes the conflist."),
    field("network_policy", Any, "Network policy.").ignored("not read yet"),
    field("vnet_cni_plugins_url", Text, "Download.").ignored("not read yet"),
    field("cni_plugins_url", Text, "Download.").ignored("not read yet"),
    field("standard_secondary_nic_count", INT32, "More NICs.").ignored("not read yet"),
];

const LINUX_OS: &[Field] = &[
    field("sysctl_config", Object(sysctls::PROTOBUF_FIELDS), "Kernel settings."),
    field("ulimit_config", Any, "Limits of containerd.").ignored("not read yet"),
    field("enable_swap_config", Bool, "Swap.").ignored("not read yet"),
    field("swap_file_size", INT32, "Swap.").ignored("not read yet"),
    field("transparent_hugepage_support", Text, "Transparent huge pages.").ignored("not read yet"),
    field("transparent_defrag", Text, "Transparent huge pages.").ignored("not read yet"),
];

const KUBE_BINARY: &[Field] = &[
    field("pod_infra_container_image_url", Text, "Image of the pause container."),
    field("kube_binary_url", Text, "Download.").ignored("not read yet"),
    field("custom_kube_binary_url", Text, "Download.").ignored("not read yet"),
    field("private_kube_binary_url", Text, "Download.").ignored("not read yet"),
    field("linux_credential_provider_url", Text, "Download.").ignored("not read yet"),
];

const CUSTOM_CLOUD: &[Field] = &[
    field("custom_cloud_env_name", Text, "Name of a custom cloud.").ignored("not read yet"),
    field("repo_depot_endpoint", Text, "Package mirror.").ignored("not read yet"),
    field("custom_env_json_content", Text, "Endpoints.").ignored("not read yet"),
    field("container_registry_dns_suffix", Text, "Registry suffix.").ignored("not read yet"),
];

const SEARCH_DOMAIN: &[Field] = &[
    field("domain_name", Text, "Domain."),
    field("realm_user", Text, "User that joins the realm."),
    field("realm_password", Text, "Its password.").secret(),
];

/// What a checked document asks for. Problems go to `findings`; the result counts only when there are none.
pub(super) fn read(document: &Value, findings: &mut Findings) -> Option<NodeConfig> {
    let checked = Checked(document);
    let cluster = cluster(checked, findings);
    let flags_path = "kubelet_config.kubelet_flags";
    let taints = checked.texts(flags_path).filter(|(name, _)| name.trim_start_matches('-') == "register-with-taints");
    let taints = taints.flat_map(|(name, value)| {
        value
            .split(',')
            .filter(|taint| !taint.is_empty())
            .map(move |taint| (format!("{flags_path}[\"{name}\"]"), taint))
    });
    let labels_path = "kubelet_config.kubelet_node_labels";
    Some(NodeConfig {
        format: Format::AksNodeConfig,
        bootstrap_token: checked.text("bootstrapping_config.tls_bootstrapping_token").map(Into::into),
        node_name: None,
        provider_id: None,
        labels: rules::labels(checked.texts(labels_path), labels_path, findings),
        taints: rules::taints(taints, findings),
        kubelet: kubelet(checked, findings),
        cni: cni(checked, findings),
        containerd: Containerd {
            root: checked.text("kubelet_config.container_data_dir").map(str::to_owned),
            sandbox_image: checked.text("kube_binary_config.pod_infra_container_image_url").map_or_else(
                || clouds::pause_image(clouds::of_region(&checked.owned("cluster_config.location")).registry),
                str::to_owned,
            ),
        },
        sysctls: sysctls::read(
            checked.object("custom_linux_os_config.sysctl_config"),
            "custom_linux_os_config.sysctl_config",
            findings,
        ),
        claims: Claims::default(),
        os: OperatingSystem::default(),
        network: Network::default(),
        proxy: None,
        trusted_certificates: Vec::new(),
        local_dns: None,
        gpu: Gpu::default(),
        registries: Registries::default(),
        cloud: cloud(checked, findings),
        boot: boot(checked, findings),
        cluster: cluster?,
    })
}

fn cluster(checked: Checked<'_>, findings: &mut Findings) -> Option<Cluster> {
    let name = "api_server_config.api_server_name";
    let api_server = checked.text(name).and_then(|text| findings.parse::<ApiServer>(name, text));
    let version =
        checked.text("kubernetes_version").and_then(|text| supported_version("kubernetes_version", text, findings));
    let ca_certificate =
        checked.text("kubernetes_ca_cert").map(|text| rules::certificates(text, "kubernetes_ca_cert", findings));
    let path = "cluster_config.cluster_network_config.core_dns_service_ip";
    let dns = checked.text(path).unwrap_or("10.0.0.10");
    if dns.parse::<std::net::IpAddr>().is_err() {
        findings.problem(path, quoted(dns), "an IP address");
    }
    Some(Cluster {
        api_server: api_server?,
        ca_certificate: ca_certificate?,
        kubernetes_version: version?,
        dns_service_ips: dns.parse().into_iter().collect(),
        dns_domain: "cluster.local".to_owned(),
    })
}

fn kubelet(checked: Checked<'_>, findings: &mut Findings) -> Kubelet {
    let path = "kubelet_config.kubelet_config_file_config";
    let given = checked.at(path).filter(|_| checked.flag("kubelet_config.enable_kubelet_config_file") == Some(true));
    let config = given.map(|config| Object(CONFIG_FILE).under_second_names(config));
    let config = config.and_then(|config| config.as_object().cloned()).unwrap_or_default();
    let mut config = config;
    rules::kubelet_config(&mut config, path, findings);
    refuse_crossed_thresholds(&config, path, findings);
    let flags = checked
        .texts("kubelet_config.kubelet_flags")
        .filter(|(name, _)| name.trim_start_matches('-') != "register-with-taints");
    Kubelet { config, flags: rules::kubelet_flags(flags, "kubelet_config.kubelet_flags", findings), max_pods: None }
}

/// AgentBaker knows "azure" and "none"; which kind of none it is, the labels tell.
fn cni(checked: Checked<'_>, findings: &mut Findings) -> CniMode {
    let label =
        |name: &str| checked.object("kubelet_config.kubelet_node_labels").and_then(|labels| labels.get(name)?.as_str());
    match checked.text("network_config.network_plugin") {
        Some("NETWORK_PLUGIN_AZURE") => CniMode::NodeSubnet,
        Some("NETWORK_PLUGIN_KUBENET") => {
            findings.problem(
                "network_config.network_plugin",
                "\"NETWORK_PLUGIN_KUBENET\"",
                "NETWORK_PLUGIN_NONE or NETWORK_PLUGIN_AZURE",
            );
            CniMode::None
        }
        _ if label("kubernetes.azure.com/ebpf-dataplane") == Some("cilium") => CniMode::Cilium,
        _ if label("kubernetes.azure.com/azure-cni-overlay") == Some("true") => CniMode::Overlay,
        _ => CniMode::None,
    }
}

fn cloud(checked: Checked<'_>, findings: &mut Findings) -> Cloud {
    let location = checked.owned("cluster_config.location");
    let principal = checked.text("auth_config.service_principal_id");
    let network = |name: &str| checked.owned(&format!("cluster_config.cluster_network_config.{name}"));
    Cloud {
        environment: clouds::of_region(&location).name.to_owned(),
        tenant_id: checked.owned("auth_config.tenant_id"),
        subscription_id: checked.owned("auth_config.subscription_id"),
        resource_group: checked.owned("cluster_config.resource_group"),
        vm_type: match checked.text("cluster_config.vm_type") {
            Some("VM_TYPE_VMSS") => "vmss".to_owned(),
            _ => "standard".to_owned(),
        },
        vnet_name: network("vnet_name"),
        vnet_resource_group: network("vnet_resource_group"),
        subnet_name: network("subnet"),
        security_group_name: network("security_group_name"),
        route_table_name: network("route_table"),
        client_id: principal.unwrap_or("msi").to_owned(),
        client_secret: principal_secret(checked, findings).as_str().into(),
        use_managed_identity: checked
            .flag("auth_config.use_managed_identity_extension")
            .unwrap_or(principal.is_none_or(|id| id == "msi")),
        user_assigned_identity_id: checked.owned("auth_config.assigned_identity_id"),
        load_balancer_sku: match checked.text("cluster_config.load_balancer_config.load_balancer_sku") {
            Some("LOAD_BALANCER_SKU_BASIC") => "basic".to_owned(),
            _ => "standard".to_owned(),
        },
        more: more_of_azure_json(checked),
        location,
    }
}

fn principal_secret(checked: Checked<'_>, findings: &mut Findings) -> String {
    use base64::Engine;
    let path = "auth_config.service_principal_secret";
    let Some(encoded) = checked.text(path) else { return "msi".to_owned() };
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).ok();
    decoded.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_else(|| {
        findings.problem(path, "a value that is not shown", "base64 of a text");
        String::new()
    })
}

/// The fields that go into azure.json under the name that their rows give.
fn more_of_azure_json(checked: Checked<'_>) -> Map<String, Value> {
    let mut more = Map::new();
    for (path, fields) in [
        ("cluster_config", CLUSTER),
        ("cluster_config.load_balancer_config", LOAD_BALANCER),
        ("cluster_config.cloud_provider_config", CLOUD_PROVIDER),
    ] {
        for field in fields {
            if let (Some(key), Some(value)) = (field.also, checked.at(&format!("{path}.{}", field.name))) {
                more.insert(key.to_owned(), value.clone());
            }
        }
    }
    // "standard" VMs have no scale set; drivers take an empty name for one called "".
    more.retain(|_, value| *value != json!(""));
    more
}

/// Longest budget, in seconds: nap-boot.service ends at 14 minutes, and Karpenter gives up on the node at 15.
const MAX_BUDGET_SECONDS: i64 = 780;

fn boot(checked: Checked<'_>, findings: &mut Findings) -> BootTimes {
    let seconds = checked.number("cse_timeout").filter(|seconds| (1..=21600).contains(seconds));
    // The report needs its time, too: AgentBaker's wrapper kills at cse_timeout.
    let wanted = seconds.map(|seconds| seconds * 4 / 5);
    if wanted.is_some_and(|wanted| wanted > MAX_BUDGET_SECONDS) {
        findings.warn("cse_timeout", format!("the boot ends after {MAX_BUDGET_SECONDS} s all the same"));
    }
    let budget = wanted.and_then(|wanted| u64::try_from(wanted.min(MAX_BUDGET_SECONDS)).ok()).map(Duration::from_secs);
    let defaults = BootTimes::default();
    BootTimes { budget: budget.unwrap_or(defaults.budget), ..defaults }
}
