//! What is parsed is used: every field changes something, or says why not. `docs/fields.md` is the whole answer.
//!
//! Each field is set to other values, and what comes of the document before and after is compared. A field that changes
//! nothing fails the test. `NAP_BLESS=1` writes the page.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::script_variables::{Meaning, ROWS};
use super::shape::{Field, Shape};
use super::tests::{aks_node_config, decoded, node_bootstrap};
use super::{aks_node_config, node_bootstrap, problem};
use crate::facts::{Facts, Gpu, Instance, Trust};
use crate::os::{CREDENTIAL_PROVIDER, DEVICE_PLUGIN_UNIT, Distribution, NVIDIA_RUNTIME};
use crate::plan::{Want, plan};

/// Parts of the configuration that no step shows, because the boot itself reads them.
const READ_BY_THE_BOOT: &str = "boot";

const OTHER_CA: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1BRT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";

const AUTHORITY: &str = include_str!("../../testdata/certificates/example-root-ca.pem");

/// Values for texts whose shape has no example that differs from what the document says already.
const TEXTS: &[(&str, &str)] = &[
    ("cluster.apiServer", "other.example.com"),
    ("api_server_config.api_server_name", "other.example.com"),
    ("cluster.caCertificate", OTHER_CA),
    ("kubernetes_ca_cert", OTHER_CA),
    ("cluster.dnsServiceIP", "10.9.9.9"),
    ("cluster_config.cluster_network_config.core_dns_service_ip", "10.9.9.9"),
    ("cluster.kubernetesVersion", "1.35.1"),
    ("kubernetes_version", "1.35.1"),
    ("identity.bootstrapToken", "zzzzzz.0123456789abcdef"),
    ("bootstrapping_config.tls_bootstrapping_token", "zzzzzz.0123456789abcdef"),
    ("containerd.root", "/elsewhere"),
    ("kubelet_config.container_data_dir", "/elsewhere"),
    ("network.apiServerAddress", "10.9.9.9"),
    ("nodeClass.kubelet.cpuCFSQuotaPeriod", "50ms"),
    ("nodeClass.kubelet.containerLogMaxSize", "7Mi"),
    ("nodeClass.linuxOSConfig.swapFileSize", "1500Mi"),
    ("nodeClass.linuxOSConfig.sysctls.netIPv4IPLocalPortRange", "2000 50000"),
    ("custom_linux_os_config.sysctl_config.net_ipv4_ip_local_port_range", "2000 50000"),
    ("auth_config.service_principal_secret", "b3RoZXI="),
    ("cluster_config.location", "chinaeast2"),
    ("kubelet_config.kubelet_config_file_config.kube_reserved_cgroup", "/kubereserved.slice"),
    ("kubelet_config.kubelet_config_file_config.system_reserved_cgroup", "/system.slice"),
    ("os.ulimits.noFile", "1024"),
    ("os.ulimits.maxLockedMemory", "1024"),
    ("custom_linux_os_config.ulimit_config.no_file", "1024"),
    ("custom_linux_os_config.ulimit_config.max_locked_memory", "1024"),
    ("trust.certificates", AUTHORITY),
    ("proxy.caCertificate", AUTHORITY),
    ("custom_ca_certs", AUTHORITY),
    ("http_proxy_config.proxy_trusted_ca", AUTHORITY),
    ("message_of_the_day", "aGk="),
    ("custom_cloud_config.custom_env_json_content", "{\"b\":2}"),
    ("nodeClass.localDNS.vnetDNSOverrides[].zone", "other.example"),
    ("nodeClass.localDNS.kubeDNSOverrides[].zone", "other.example"),
    ("nodeClass.localDNS.vnetDNSOverrides[].cacheDuration", "7m"),
    ("nodeClass.localDNS.kubeDNSOverrides[].cacheDuration", "7m"),
    ("nodeClass.localDNS.vnetDNSOverrides[].serveStaleDuration", "7m"),
    ("nodeClass.localDNS.kubeDNSOverrides[].serveStaleDuration", "7m"),
    (
        "nodeClass.vnetSubnetID",
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/n",
    ),
];

/// Fields that say what the document is.
const KIND_OF_DOCUMENT: &[&str] = &["apiVersion", "kind", "version"];

/// Fields whose whole effect is that a document is refused, or a warning.
const ONLY_SAID: &[&str] = &[
    // The node's own zones have one right upstream each.
    "nodeClass.localDNS.vnetDNSOverrides[].forwardDestination",
    "local_dns_profile.vnet_dns_overrides.*.forward_destination",
    "pre_provision_only",
];

/// What must stand beside a field for it to count: the field's beginning, and the neighbour.
fn neighbours() -> Vec<(&'static str, &'static str, Value)> {
    let ours = |name: &str| {
        json!({
            "zone": name, "queryLogging": "Error", "protocol": "PreferUDP", "forwardPolicy": "Sequential", "maxConcurrent": 9,
            "forwardDestination": if name == "cluster.local" { "ClusterCoreDNS" } else { "VnetDNS" },
            "cacheDuration": "1h", "serveStaleDuration": "1h", "serveStale": "Immediate",
        })
    };
    let ours = json!([ours(ZONE), ours("."), ours("cluster.local")]);
    let theirs = json!({ZONE: {"serve_stale": "Immediate"}, ".": {}, "cluster.local": {}});
    vec![
        ("nodeClass.linuxOSConfig.swapFileSize", "nodeClass.kubelet.failSwapOn", json!(false)),
        ("identity.secureTLSBootstrap.", "identity.secureTLSBootstrap", json!({"enabled": true})),
        (
            "bootstrapping_config.secure_tls_bootstrapping_",
            "bootstrapping_config.bootstrapping_auth_method",
            json!("BOOTSTRAPPING_AUTH_METHOD_SECURE_TLS_BOOTSTRAPPING"),
        ),
        ("nodeClass.fipsMode", "nodeClass.imageFamily", json!("Ubuntu2204")),
        ("nodeClass.fipsMode", "nodeClass.security.trustedLaunch.vtpm", json!(true)),
        (
            "nodeClass.localDNS.",
            "nodeClass.localDNS",
            json!({"mode": "Required", "vnetDNSOverrides": ours, "kubeDNSOverrides": ours}),
        ),
        ("storage.use", "storage.localDisks", json!("auto")),
        ("storage.copyLimitMiB", "storage.localDisks", json!("auto")),
        ("cloud.environmentDocument", "cloud.environment", json!("AzureStackCloud")),
        ("cloud.environment", "containerd.sandboxImage", json!("registry.example/pause:1")),
        ("proxy.noProxy", "proxy.http", json!("http://p:1")),
        ("cluster.serviceCIDRs", "proxy.http", json!("http://p:1")),
        ("kubelet_config.", "kubelet_config.enable_kubelet_config_file", json!(true)),
        (
            "kubelet_config.enable_kubelet_config_file",
            "kubelet_config.kubelet_config_file_config",
            json!({"maxPods": 7}),
        ),
        (
            "registries.mirrors",
            "registries.mirrors",
            json!([{"registry": "other.example", "endpoints": ["http://other.example"]}]),
        ),
        ("containerd.parallelPrePulls", "containerd.prePull", json!(["registry.example/app:1"])),
        ("registries.serviceAccountPulls.", "registries.serviceAccountPulls", json!({"localAuthority": "a.example"})),
        (
            "service_account_image_pull_profile.",
            "service_account_image_pull_profile",
            json!({"enabled": true, "local_authority_sni": "a.example"}),
        ),
        ("is_kata", "enable_artifact_streaming", json!(true)),
        ("custom_linux_os_config.", "kubelet_config.kubelet_flags.--fail-swap-on", json!("false")),
        ("custom_linux_os_config.swap_file_size", "custom_linux_os_config.enable_swap_config", json!(true)),
        ("custom_linux_os_config.enable_swap_config", "custom_linux_os_config.swap_file_size", json!(5)),
        ("http_proxy_config.no_proxy_entries", "http_proxy_config.http_proxy", json!("http://p:1")),
        ("gpu_config.", "gpu_config", json!({"config_gpu_driver": true})),
        (
            "custom_cloud_config.",
            "custom_cloud_config",
            json!({"custom_cloud_env_name": "akscustom", "custom_env_json_content": "{}"}),
        ),
        ("custom_cloud_config.", "kube_binary_config.pod_infra_container_image_url", json!("registry.example/pause:1")),
        (
            "local_dns_profile.",
            "local_dns_profile",
            json!({"enable_local_dns": true, "vnet_dns_overrides": theirs, "kube_dns_overrides": theirs}),
        ),
    ]
}

/// The zone that a field of a zone is changed in.
const ZONE: &str = "example.com";

struct Leaf {
    /// `[]` stands for an item of a list, `*` for an entry of a map.
    path: String,
    field: &'static Field,
    ignored: Option<&'static str>,
}

fn leaves(shape: &'static Shape, path: &str, found: &mut Vec<Leaf>) {
    let Shape::Object(fields) = shape else { panic!("{path} has no fields") };
    for field in *fields {
        let path = problem::join(path, field.name);
        match &field.shape {
            shape @ Shape::Object(_) => leaves(shape, &path, found),
            Shape::List(inner @ Shape::Object(_)) => leaves(inner, &format!("{path}[]"), found),
            Shape::Map(inner @ Shape::Object(_)) => leaves(inner, &format!("{path}.*"), found),
            _ => found.push(Leaf { path, field, ignored: field.why_ignored() }),
        }
    }
}

fn values(path: &str, shape: &Shape) -> Vec<Value> {
    let given = TEXTS.iter().find(|(known, _)| *known == path).map(|(_, text)| *text);
    match shape {
        Shape::Object(_) => panic!("{path} is no leaf"),
        Shape::Map(inner) => values(path, inner).into_iter().map(|value| json!({"example": value})).collect(),
        Shape::List(_) if path.ends_with("aints") => vec![json!(["other:NoSchedule"])],
        Shape::List(inner) => values(path, inner).into_iter().map(|value| json!([value])).collect(),
        Shape::Text => vec![json!(given.unwrap_or("other"))],
        Shape::TextThat(wanted, _) => vec![json!(given.or_else(|| example(wanted)).unwrap_or("other"))],
        Shape::Word(words) => words.iter().map(|word| json!(word)).collect(),
        Shape::Integer(min, max) => vec![json!(min), json!(600.clamp(*min, *max)), json!(max)],
        Shape::Bool => vec![json!(true), json!(false)],
        Shape::ProtobufEnum(rows) => rows.iter().map(|(name, _)| json!(name)).collect(),
        Shape::Any => vec![json!({"k": "v"})],
    }
}

/// `X` of "something such as X or Y".
fn example(wanted: &'static str) -> Option<&'static str> {
    wanted.split_once("such as ")?.1.split(' ').next()
}

fn set(document: &mut Value, path: &str, value: Value) {
    let place = path.split('.').fold(document, |place, name| match (name, name.strip_suffix("[]")) {
        ("*", _) => &mut place[ZONE],
        (_, Some(list)) => &mut place[list][0],
        _ => &mut place[name],
    });
    *place = value;
}

/// What comes of a document.
struct Outcome {
    refused: bool,
    config: Value,
    steps: BTreeMap<String, String>,
    notes: Vec<String>,
    warnings: Vec<String>,
}

fn outcome(document: &Value, facts: &Facts) -> Outcome {
    let decoded = decoded(document);
    let warnings = decoded.findings.warnings.iter().map(ToString::to_string).collect();
    let refused =
        |warnings| Outcome { refused: true, config: Value::Null, steps: BTreeMap::new(), notes: Vec::new(), warnings };
    let Some(config) = decoded.config else { return refused(warnings) };
    let Ok(plan) = plan(&config, facts) else { return refused(warnings) };
    let content = |want: &Want| match want {
        Want::File { content, .. } => content.reveal().to_owned(),
        other => format!("{other:?}"),
    };
    Outcome {
        refused: false,
        steps: plan.steps().map(|step| (step.id.to_string(), content(&step.want))).collect(),
        config: serde_json::to_value(&config).unwrap(),
        notes: plan.notes,
        warnings,
    }
}

/// Where two outcomes differ, in words.
fn differences(before: &Outcome, after: &Outcome) -> BTreeSet<String> {
    if before.refused || after.refused {
        return (before.refused != after.refused).then(|| REFUSED.to_owned()).into_iter().collect();
    }
    let ids: BTreeSet<&String> = before.steps.keys().chain(after.steps.keys()).collect();
    let mut found: BTreeSet<String> = ids
        .into_iter()
        .filter(|id| before.steps.get(*id) != after.steps.get(*id))
        .map(|id| format!("`{id}`"))
        .collect();
    if before.notes != after.notes {
        found.insert("notes".to_owned());
    }
    if before.config[READ_BY_THE_BOOT] != after.config[READ_BY_THE_BOOT] {
        found.insert("the boot's times".to_owned());
    }
    if found.is_empty() && before.warnings != after.warnings {
        found.insert(WARNED.to_owned());
    }
    found
}

const REFUSED: &str = "refused unless right";
const WARNED: &str = "a warning";

/// A machine on which every question about it has an answer.
fn facts() -> Facts {
    let mut facts: Facts = serde_json::from_str(include_str!("../../testdata/ubuntu-2404-local-disks.json")).unwrap();
    facts.programs.kubelet = "1.34.2".try_into().ok();
    facts.trust = Trust::default();
    facts.streaming = Distribution::named("ubuntu-24.04").unwrap().typical_facts().streaming;
    facts.gpu = Some(Gpu { devices: 1, switches: 1, module: Some("1.2".into()), library: Some("1.2".into()) });
    facts.present.extend([CREDENTIAL_PROVIDER, NVIDIA_RUNTIME, DEVICE_PLUGIN_UNIT].map(str::to_owned));
    facts.instance = facts.instance.map(|instance| Instance { vtpm: None, ..instance });
    facts
}

/// What each field of a format does, by path.
fn effects(shape: &'static Shape, base: &Value) -> Vec<(Leaf, String)> {
    let facts = facts();
    let neighbours = neighbours();
    let mut found = Vec::new();
    leaves(shape, "", &mut found);
    assert!(found.len() > 100, "{} leaves", found.len());
    let mut useless = Vec::new();
    let mut rows = Vec::new();
    for leaf in found {
        let effect = if let Some(why) = leaf.ignored {
            format!("ignored: {why}")
        } else if KIND_OF_DOCUMENT.contains(&leaf.path.as_str()) {
            "says what the document is".to_owned()
        } else {
            let mut base = base.clone();
            for (beginning, path, value) in &neighbours {
                if leaf.path.starts_with(beginning) {
                    set(&mut base, path, value.clone());
                }
            }
            let before = outcome(&base, &facts);
            assert!(!before.refused, "{}: the document around it is refused", leaf.path);
            let mut different = BTreeSet::new();
            for value in values(&leaf.path, &leaf.field.shape) {
                let mut document = base.clone();
                set(&mut document, &leaf.path, value);
                different.extend(differences(&before, &outcome(&document, &facts)));
            }
            // Nearly every field refuses something and warns of something; that alone is no use of it.
            if !ONLY_SAID.contains(&leaf.path.as_str()) {
                different.retain(|effect| effect != REFUSED && effect != WARNED);
            }
            if different.is_empty() {
                useless.push(leaf.path.clone());
            }
            different.into_iter().collect::<Vec<_>>().join(", ")
        };
        rows.push((leaf, effect));
    }
    assert!(useless.is_empty(), "nothing changes with any value of {}", useless.join(", "));
    rows
}

fn table(page: &mut String, title: &str, rows: &[(Leaf, String)]) {
    write!(page, "\n## {title}\n\n| Field | Meaning | Effect |\n|---|---|---|\n").unwrap();
    for (leaf, effect) in rows {
        let kubelets = || format!("`{}` of KubeletConfiguration.", leaf.field.also.unwrap_or(leaf.field.name));
        let meaning = if leaf.field.doc.is_empty() { kubelets() } else { cell(leaf.field.doc) };
        writeln!(page, "| `{}` | {meaning} | {} |", leaf.path, cell(effect)).unwrap();
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn script_table(page: &mut String, fields: &[(Leaf, String)]) {
    page.push_str("\n## Scriptless script\n\n| Variable | Field of AKSNodeConfig | Effect |\n|---|---|---|\n");
    for row in ROWS {
        let (field, effect) = match row.meaning {
            Meaning::Ignored(why) => (String::new(), format!("ignored: {why}")),
            Meaning::Switch(fields) => (fields.join(", "), "when `false`, these do not count".to_owned()),
            Meaning::Corefile(fields) => {
                let fields = fields.map(|field| format!("`{field}`"));
                (fields.join(", "), "as the fields below them; the first of such variables counts".to_owned())
            }
            Meaning::Field(field, _) => {
                let below = format!("{field}.");
                let mut of_field =
                    fields.iter().filter(|(leaf, _)| leaf.path == field || leaf.path.starts_with(&below));
                let (leaf, effect) = of_field.next().unwrap_or_else(|| panic!("{}: no field {field}", row.variable));
                let effect = if leaf.path == field { effect.clone() } else { "as the fields below it".to_owned() };
                (format!("`{field}`"), effect)
            }
        };
        writeln!(page, "| `{}` | {field} | {} |", row.variable, cell(&effect)).unwrap();
    }
    page.push_str("| `CUSTOM_CA_CERT_0` and so on | `custom_ca_certs` | as that field |\n");
    page.push_str("| `CSE_..._FILEPATH` |  | ignored: where AKS' scripts find each other |\n");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test reads its golden file, and `NAP_BLESS=1` writes it")]
fn every_field_counts_and_the_page_says_how() {
    let ours = effects(&node_bootstrap::SHAPE, &node_bootstrap());
    let theirs = effects(&aks_node_config::SHAPE, &aks_node_config());
    let mut page = "# Fields\n\n\
        Every field of the three wire formats, and what it does. This page is generated: `NAP_BLESS=1 cargo test -p nap-model \
        every_field_counts` writes it, and a test compares it.\n\n\
        *Effect* names the steps of the plan that change with the field on an Ubuntu 24.04 node with a GPU; `notes` are the plan's \
        remarks. \
        An ignored field comes out as a warning. `[]` stands for an item of a list, `*` for an entry of a map.\n"
        .to_owned();
    table(&mut page, "NodeBootstrap", &ours);
    table(&mut page, "AKSNodeConfig", &theirs);
    script_table(&mut page, &theirs);
    let path = format!("{}/../../docs/fields.md", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("NAP_BLESS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(old == page, "docs/fields.md differs (NAP_BLESS=1 updates it):\n{}", crate::plan::text_diff(&old, &page));
}
