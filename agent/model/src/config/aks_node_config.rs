//! AgentBaker's wire format, `AKSNodeConfig` v1: protobuf's JSON of `aksnodeconfig.v1.Configuration`.
//!
//! Names come in `snake_case` or `lowerCamelCase`, enumerations by name or number. protobuf has no absence: an empty text,
//! a zero and a `false` say nothing, unless the field is `optional`.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::aks_fields::{CLOUD_PROVIDER, CLUSTER, LOAD_BALANCER};
use super::aks_kubelet::CONFIG_FILE;
use super::aks_machine;
use super::carrier::Format;
use super::document::Checked;
use super::machine::Claims;
use super::node_bootstrap::{refuse_crossed_thresholds, supported_version};
use super::node_config::{ApiServer, BootTimes, Cloud, Cluster, CniMode, Containerd, Kubelet, NodeConfig, PrePull};
use super::problem::{Findings, quoted};
use super::secure_tls::{self, SecureTls};
use super::shape::Shape::Object;
use super::{kubelet_flags, rules, sysctls};
use crate::clouds;

pub(super) use super::aks_fields::SHAPE;

/// What a checked document asks for. Problems go to `findings`; the result counts only when there are none.
pub(super) fn read(document: &Value, findings: &mut Findings) -> Option<NodeConfig> {
    let checked = Checked(document);
    refuse_half_a_boot(checked, findings);
    warn_of_other_methods(checked, findings);
    let kubelet = kubelet(checked, findings);
    let cluster = cluster(checked, &kubelet, findings);
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
        secure_tls: secure_tls(checked),
        node_name: None,
        provider_id: None,
        labels: rules::labels(checked.texts(labels_path), labels_path, findings),
        taints: rules::taints(taints, findings),
        cni: cni(checked, findings),
        containerd: Containerd {
            root: checked.text("kubelet_config.container_data_dir").map(str::to_owned),
            sandbox_image: sandbox_image(checked, findings),
            pre_pull: PrePull::default(),
        },
        sysctls: sysctls::read(
            checked.object("custom_linux_os_config.sysctl_config"),
            "custom_linux_os_config.sysctl_config",
            findings,
        ),
        // The format says nothing else about what the VM must be.
        claims: Claims { kata: checked.flag("is_kata") == Some(true), ..Claims::default() },
        os: aks_machine::os(checked, &kubelet.config, findings),
        network: aks_machine::network(checked),
        proxy: aks_machine::proxy(checked),
        trusted_certificates: aks_machine::trusted_certificates(checked, findings),
        local_dns: aks_machine::local_dns(checked, findings),
        gpu: aks_machine::gpu(checked),
        storage: aks_machine::storage(checked),
        registries: aks_machine::registries(checked, findings),
        kubelet,
        cloud: cloud(checked, findings),
        boot: boot(checked, findings),
        cluster: cluster?,
    })
}

/// A first stage prepares the machine and leaves joining to a second one; nap-agent would join at once.
fn refuse_half_a_boot(checked: Checked<'_>, findings: &mut Findings) {
    if checked.flag("pre_provision_only") == Some(true) {
        let wanted = "false: nap-agent boots a node in one stage, and its image builder prepares images";
        findings.problem("pre_provision_only", "true", wanted);
    }
}

fn warn_of_other_methods(checked: Checked<'_>, findings: &mut Findings) {
    let path = "bootstrapping_config.bootstrapping_auth_method";
    let method = checked.text(path).and_then(|method| method.strip_prefix("BOOTSTRAPPING_AUTH_METHOD_"));
    if method.is_some_and(|method| !["UNSPECIFIED", "BOOTSTRAP_TOKEN", SECURE_TLS].contains(&method)) {
        findings.warn(path, "its owner does nothing with this method either; the bootstrap token is used");
    }
}

const SECURE_TLS: &str = "SECURE_TLS_BOOTSTRAPPING";

fn secure_tls(checked: Checked<'_>) -> Option<SecureTls> {
    let method = checked.text("bootstrapping_config.bootstrapping_auth_method")?;
    if method.strip_prefix("BOOTSTRAPPING_AUTH_METHOD_") != Some(SECURE_TLS) {
        return None;
    }
    let text = |name: &str| checked.text(&format!("bootstrapping_config.secure_tls_bootstrapping_{name}"));
    let limit = |flag: &str| text(&flag.replace('-', "_")).and_then(secure_tls::duration);
    Some(SecureTls::new(text("aad_resource"), text("user_assigned_identity_id"), limit))
}

fn cluster(checked: Checked<'_>, kubelet: &Kubelet, findings: &mut Findings) -> Option<Cluster> {
    let name = "api_server_config.api_server_name";
    let api_server = checked.text(name).and_then(|text| findings.parse::<ApiServer>(name, text));
    let version =
        checked.text("kubernetes_version").and_then(|text| supported_version("kubernetes_version", text, findings));
    let ca_certificate =
        checked.text("kubernetes_ca_cert").map(|text| rules::certificates(text, "kubernetes_ca_cert", findings));
    let path = "cluster_config.cluster_network_config.core_dns_service_ip";
    let given = checked.text(path);
    if given.is_some_and(|dns| dns.parse::<IpAddr>().is_err()) {
        findings.problem(path, quoted(given.unwrap_or_default()), "an IP address");
    }
    let dns = given.or(cluster_dns(kubelet)).unwrap_or("10.0.0.10");
    Some(Cluster {
        api_server: api_server?,
        ca_certificate: ca_certificate?,
        kubernetes_version: version?,
        dns_service_ips: dns.parse().into_iter().collect(),
        dns_domain: "cluster.local".to_owned(),
    })
}

/// The cluster's DNS service as kubelet is told it. With LocalDNS kubelet is told the node's own link-local cache, which must
/// not become its own upstream.
fn cluster_dns(kubelet: &Kubelet) -> Option<&str> {
    let first = kubelet.config.get("clusterDNS")?.as_array()?.first()?.as_str()?;
    let is_service = match first.parse() {
        Ok(IpAddr::V4(address)) => !address.is_link_local(),
        Ok(IpAddr::V6(address)) => !address.is_unicast_link_local(),
        Err(_) => false,
    };
    is_service.then_some(first)
}

fn kubelet(checked: Checked<'_>, findings: &mut Findings) -> Kubelet {
    let path = "kubelet_config.kubelet_config_file_config";
    let given = checked.at(path).filter(|_| checked.flag("kubelet_config.enable_kubelet_config_file") == Some(true));
    let config = given.map(|config| Object(CONFIG_FILE).under_second_names(config));
    let config = config.and_then(|config| config.as_object().cloned()).unwrap_or_default();
    let mut config = config;
    rules::kubelet_config(&mut config, path, findings);
    let flags = checked
        .texts("kubelet_config.kubelet_flags")
        .filter(|(name, _)| name.trim_start_matches('-') != "register-with-taints");
    let paths = kubelet_flags::Paths { flags: "kubelet_config.kubelet_flags", config: path };
    let flags = kubelet_flags::read(flags, paths, &mut config, findings);
    refuse_crossed_thresholds(&config, path, findings);
    Kubelet { config, flags, max_pods: None }
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
    let environment_document = environment_document(checked, findings);
    Cloud {
        environment: cloud_name(checked, &location).to_owned(),
        environment_document,
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
    rules::base64_text(checked, "auth_config.service_principal_secret", findings).unwrap_or_else(|| "msi".to_owned())
}

fn cloud_name(checked: Checked<'_>, location: &str) -> &'static str {
    if is_custom_cloud(checked) { clouds::CUSTOM_CLOUD } else { clouds::of_region(location).name }
}

/// In a custom cloud only a registry of its own can have the image.
fn sandbox_image(checked: Checked<'_>, findings: &mut Findings) -> String {
    let path = "kube_binary_config.pod_infra_container_image_url";
    let location = checked.owned("cluster_config.location");
    let of_cloud = || clouds::named(cloud_name(checked, &location)).map(|cloud| cloud.registry);
    let bootstrap = checked.text("bootstrap_profile_container_registry_server");
    match (checked.text(path), of_cloud().or(bootstrap)) {
        (Some(image), _) => image.to_owned(),
        (None, Some(registry)) => clouds::pause_image(registry),
        (None, None) => {
            let wanted = "the image of the pause container, or bootstrap_profile_container_registry_server";
            findings.problem(path, "nothing, in a custom cloud", wanted);
            String::new()
        }
    }
}

/// Source: AgentBaker `getIsAksCustomCloud`.
fn is_custom_cloud(checked: Checked<'_>) -> bool {
    checked.text("custom_cloud_config.custom_cloud_env_name").is_some_and(|name| name.eq_ignore_ascii_case("akscustom"))
}

fn environment_document(checked: Checked<'_>, findings: &mut Findings) -> Option<Map<String, Value>> {
    let path = "custom_cloud_config.custom_env_json_content";
    let name = "custom_cloud_config.custom_cloud_env_name";
    let is_custom = is_custom_cloud(checked);
    if let Some(other) = checked.text(name).filter(|_| !is_custom) {
        findings.warn(name, format!("{} is no custom cloud; the region tells the cloud", quoted(other)));
    }
    match checked.text(path) {
        Some(_) if !is_custom => {
            findings.warn(path, "not acted on: only a custom cloud has endpoints of its own");
            None
        }
        Some(text) => {
            let document = rules::json_object(text);
            if document.is_none() {
                findings.problem(
                    path,
                    format!("a text of {} characters", text.len()),
                    "a JSON object, or base64 of one",
                );
            }
            document
        }
        None if is_custom => {
            findings.problem(path, "nothing", "the endpoints of the custom cloud beside its name");
            None
        }
        None => None,
    }
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
