//! Both wire formats, from text to [`NodeConfig`].

use serde_json::json;

use super::*;

const CA: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1BQT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";
const TOKEN: &str = "abcdef.0123456789abcdef";

fn node_bootstrap() -> Value {
    json!({
        "apiVersion": "nap-agent/v1",
        "cluster": {"apiServer": "api.example.com", "caCertificate": CA, "kubernetesVersion": "1.34.2"},
        "identity": {"bootstrapToken": TOKEN, "kubeletIdentityClientID": "kubelet-id"},
        "network": {"mode": "overlay"},
        "node": {"labels": {"a": "b"}, "taints": ["x=y:NoSchedule"], "startupTaints": ["s:NoExecute"]},
        "cloud": {"subscriptionID": "sub", "tenantID": "ten", "resourceGroup": "MC_rg", "location": "westeurope"},
    })
}

fn aks_node_config() -> Value {
    json!({
        "version": "v1",
        "kubernetes_version": "1.34.2",
        "kubernetes_ca_cert": CA,
        "api_server_config": {"api_server_name": "api.example.com"},
        "bootstrapping_config": {"tls_bootstrapping_token": TOKEN, "bootstrapping_auth_method": 1},
        "auth_config": {"tenant_id": "ten", "subscription_id": "sub", "assigned_identity_id": "kubelet-id"},
        "cluster_config": {"resource_group": "MC_rg", "location": "westeurope"},
        "kubelet_config": {
            "kubelet_node_labels": {"a": "b", "kubernetes.azure.com/azure-cni-overlay": "true"},
            "kubelet_flags": {"--register-with-taints": "x=y:NoSchedule,s:NoExecute"},
        },
        "network_config": {"network_plugin": "NETWORK_PLUGIN_NONE"},
    })
}

fn decoded(value: &Value) -> Decoded {
    decode(value.to_string().as_bytes()).unwrap()
}

fn problems(value: &Value) -> Vec<String> {
    decoded(value).findings.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn both_formats_describe_the_same_node() {
    let ours = decoded(&node_bootstrap()).config.unwrap();
    let mut theirs = decoded(&aks_node_config()).config.unwrap();
    theirs.format = Format::NodeBootstrap;
    theirs.labels.retain(|key, _| key.as_str() == "a");
    assert_eq!(ours, NodeConfig { boot: ours.boot, ..theirs });
}

#[test]
fn lower_camel_case_and_numbers_mean_the_same() {
    fn camel(value: &Value) -> Value {
        let name = |name: &String| match name.split_once('_') {
            Some(_) if !name.starts_with("--") && !name.contains('/') => {
                let mut words = name.split('_');
                let first = words.next().unwrap_or_default().to_owned();
                words.fold(first, |all, word| all + &word[..1].to_uppercase() + &word[1..])
            }
            _ => name.clone(),
        };
        match value {
            Value::Object(object) => object.iter().map(|(key, value)| (name(key), camel(value))).collect(),
            other => other.clone(),
        }
    }
    let mut other = camel(&aks_node_config());
    other["networkConfig"]["networkPlugin"] = json!(1);
    assert!(other.get("kubernetesCaCert").is_some(), "{other}");
    assert_eq!(decoded(&other).config, decoded(&aks_node_config()).config);
}

#[test]
fn five_mistakes_are_five_problems_with_paths() {
    let mut value = node_bootstrap();
    value["cluster"]["apiServer"] = json!("http://nope");
    value["cluster"]["kubernetesVersion"] = json!("latest");
    value["node"]["labels"] = json!({"a b": "c"});
    value["nodeClass"] = json!({"maxPods": "many", "kubelet": {"cpuCFSQuotaPeriod": "5s"}});
    assert_eq!(
        problems(&value),
        [
            "nodeClass.kubelet.cpuCFSQuotaPeriod: found \"5s\", want a duration from 1ms to 1s, such as 100ms",
            "nodeClass.maxPods: found \"many\", want a number from 10 to 250",
            "cluster.apiServer: found \"http://nope\", want an API server such as https://name:443 or a plain host name",
            "cluster.kubernetesVersion: found \"latest\", want a version such as 1.34.2",
            "node.labels[\"a b\"]: found \"a b\", want a label key whose name is 1 to 63 letters, digits, '-', '_' or '.', \
             starting and ending with a letter or digit",
        ]
    );
}

#[test]
fn each_missing_required_field_is_named() {
    let missing = problems(&json!({"apiVersion": "nap-agent/v1", "cluster": {}}));
    assert_eq!(
        missing,
        ["apiServer", "caCertificate", "kubernetesVersion"]
            .map(|name| format!("cluster.{name}: found nothing, want a text"))
    );
    assert_eq!(problems(&json!({"apiVersion": "nap-agent/v2"})).len(), 2);
}

#[test]
fn what_is_shown_holds_no_secret() {
    let mut ours = node_bootstrap();
    ours["identity"]["servicePrincipalSecret"] = json!("open-sesame");
    ours["identity"]["bootstrapTokn"] = json!(TOKEN);
    let mut theirs = aks_node_config();
    theirs["auth_config"]["service_principal_secret"] = json!("b3Blbi1zZXNhbWU=");
    theirs["kubelet_config"]["kubelet_client_key"] = json!("open-sesame");
    for value in [ours, theirs] {
        let decoded = decoded(&value);
        let text = format!("{} {decoded:?}", serde_json::to_string(&decoded.shown()).unwrap());
        for secret in [TOKEN, "open-sesame", "b3Blbi1zZXNhbWU="] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[test]
fn a_bad_secret_is_a_problem_that_does_not_show_it() {
    let mut value = node_bootstrap();
    value["identity"]["bootstrapToken"] = json!("Open-Sesame");
    let problems = problems(&value);
    assert_eq!(
        problems,
        [
            "identity.bootstrapToken: found a value that is not shown, want a bootstrap token such as abcdef.0123456789abcdef"
        ]
    );
}

#[test]
fn the_kept_copy_has_no_token() {
    for value in [node_bootstrap(), aks_node_config()] {
        let kept = decoded(&value).without_token();
        assert!(!kept.to_string().contains(TOKEN));
        assert_eq!(decoded(&kept).config.unwrap().bootstrap_token, None);
    }
}

#[test]
fn an_aks_node_config_that_passes_kubelet_fields_keeps_kubelets_names() {
    let mut value = aks_node_config();
    value["kubelet_config"]["enable_kubelet_config_file"] = json!(true);
    value["kubelet_config"]["kubelet_config_file_config"] = json!({
        "authentication": {"webhook": {"cacheTtl": "2m"}, "x509": {"client_ca_file": "/ca"}}, "clusterDNS": ["1.2.3.4"], "event_record_qps": "0",
    });
    assert_eq!(
        Value::Object(decoded(&value).config.unwrap().kubelet.config),
        json!({"authentication": {"webhook": {"cacheTTL": "2m"}, "x509": {"clientCAFile": "/ca"}}, "clusterDNS": ["1.2.3.4"], "eventRecordQPS": 0})
    );
}

#[test]
fn an_unknown_format_version_and_the_script_are_problems() {
    assert_eq!(
        problems(&json!({"version": "v2", "kubelet_config": {}}))[0],
        "version: found \"v2\", want one of v0, v1"
    );
    let script = decode(b"#!/bin/bash\nKUBELET_FLAGS=\nAPI_SERVER_NAME=\n").unwrap();
    assert_eq!(script.findings.problems.len(), 1);
}

proptest::proptest! {
    #[test]
    fn no_document_makes_it_panic(field in "[a-zA-Z_.]{1,20}", text in ".{0,40}", number in proptest::num::i64::ANY) {
        for mut value in [node_bootstrap(), aks_node_config()] {
            let keys: Vec<String> = value.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect();
            for key in keys {
                let old = value[&key].clone();
                for replacement in [json!(text), json!(number), json!([text]), json!({field.clone(): text})] {
                    value[&key] = replacement;
                    let _ = decode(value.to_string().as_bytes()); // only a panic would be wrong
                }
                value[&key] = old;
            }
        }
    }
}

/// Every field that is not marked as not acted on must change something: what is parsed is used.
mod every_field_counts {
    use super::super::shape::Field;
    use super::*;
    use crate::facts::{Facts, Gpu, Instance, Trust};
    use crate::os::{DEVICE_PLUGIN_UNIT, NVIDIA_RUNTIME};
    use crate::plan::plan;

    const CERTIFICATE: &str = include_str!("../../testdata/certificates/example-root-ca.pem");

    /// Values for texts that have rules beyond their shape.
    const TEXTS: &[(&str, &str)] = &[
        ("cluster.apiServer", "other.example.com"),
        ("api_server_config.api_server_name", "other.example.com"),
        ("cluster.dnsServiceIP", "10.9.9.9"),
        ("cluster_config.cluster_network_config.core_dns_service_ip", "10.9.9.9"),
        ("cluster.kubernetesVersion", "1.35.1"),
        ("kubernetes_version", "1.35.1"),
        ("identity.bootstrapToken", "zzzzzz.0123456789abcdef"),
        ("bootstrapping_config.tls_bootstrapping_token", "zzzzzz.0123456789abcdef"),
        ("containerd.root", "/elsewhere"),
        ("kubelet_config.container_data_dir", "/elsewhere"),
        ("nodeClass.kubelet.cpuCFSQuotaPeriod", "50ms"),
        ("nodeClass.kubelet.containerLogMaxSize", "7Mi"),
        ("nodeClass.linuxOSConfig.sysctls.netIPv4IPLocalPortRange", "2000 50000"),
        ("custom_linux_os_config.sysctl_config.net_ipv4_ip_local_port_range", "2000 50000"),
        ("auth_config.service_principal_secret", "b3RoZXI="),
        ("cluster_config.location", "chinaeast2"),
        ("containerd.sandboxImage", "registry.example/pause:1"),
        ("cluster.serviceCIDRs", "10.77.0.0/16"),
        ("network.searchDomains", "corp.example"),
        ("network.apiServerAddress", "10.7.7.7"),
        ("network.secondaryNICs", "000D3A999999"),
        ("os.ulimits.noFile", "4711"),
        ("os.ulimits.maxLockedMemory", "4711"),
        ("proxy.http", "http://other:1"),
        ("proxy.https", "http://other:1"),
        ("trust.certificates", CERTIFICATE),
        ("proxy.caCertificate", CERTIFICATE),
        ("registries.bootstrap", "other.example"),
        ("registries.dnsSuffix", ".registry.example"),
        ("nodeClass.linuxOSConfig.swapFileSize", "8Mi"),
        (
            "nodeClass.vnetSubnetID",
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/n",
        ),
    ];

    /// Fields whose only other value means the same, or which say what the document is.
    const NO_OTHER_VALUE: &[&str] = &["apiVersion", "kind", "version", "kubelet_config.enable_kubelet_config_file"];

    fn values(path: &str, shape: &Shape) -> Vec<Value> {
        let text = TEXTS.iter().find(|(known, _)| *known == path).map_or("other", |(_, text)| text);
        match shape {
            Shape::Object(_) => panic!("{path} is no leaf"),
            Shape::Map(inner) => values(path, inner).into_iter().map(|value| json!({"example": value})).collect(),
            Shape::List(_) if path.ends_with("aints") => vec![json!([format!("{text}:NoSchedule")])],
            Shape::List(inner) => values(path, inner).into_iter().map(|value| json!([value])).collect(),
            Shape::Text | Shape::TextThat(..) => vec![json!(text)],
            Shape::Word(words) => words.iter().map(|word| json!(word)).collect(),
            Shape::Integer(min, max) => vec![json!(min), json!(600.clamp(*min, *max)), json!(max)],
            Shape::Bool => vec![json!(true), json!(false)],
            Shape::ProtobufEnum(rows) => rows.iter().map(|(name, _)| json!(name)).collect(),
            Shape::Any => vec![json!({"k": "v"})],
        }
    }

    fn leaves(fields: &'static [Field], path: &str, found: &mut Vec<(String, &'static Shape)>) {
        for field in fields.iter().filter(|field| field.why_ignored().is_none()) {
            let path = problem::join(path, field.name);
            match &field.shape {
                Shape::Object(fields) => leaves(fields, &path, found),
                shape => found.push((path, shape)),
            }
        }
    }

    fn with(document: &Value, path: &str, value: Value) -> Value {
        let mut document = document.clone();
        let place = path.split('.').fold(&mut document, |value, name| &mut value[name]);
        *place = value;
        document
    }

    /// A machine on which every question about it has an answer.
    fn facts() -> Facts {
        let mut facts: Facts = serde_json::from_str(include_str!("../../testdata/ubuntu-2404.json")).unwrap();
        facts.programs.kubelet = "1.36.2".try_into().ok();
        facts.trust = Trust::default();
        facts.gpu = Some(Gpu { devices: 1, module: Some("1.2".into()), library: Some("1.2".into()) });
        facts.present.extend([NVIDIA_RUNTIME, DEVICE_PLUGIN_UNIT].map(str::to_owned));
        facts.instance = facts.instance.map(|instance| Instance { vtpm: None, ..instance });
        facts
    }

    /// What a document leads to: a plan, or a refusal, which is an effect as well.
    fn outcome(document: &Value) -> String {
        let decoded = decoded(document);
        let Some(config) = decoded.config else { return format!("{:?}", decoded.findings.problems) };
        let plan = plan(&config, &facts()).unwrap();
        let revealed: String = plan
            .steps()
            .map(|step| match &step.want {
                crate::plan::Want::File { content, .. } => content.reveal().to_owned(),
                other => format!("{other:?}"),
            })
            .collect();
        format!("{revealed} {:?} {:?}", config.boot, plan.notes)
    }

    fn check(shape: &'static Shape, base: &Value) {
        let Shape::Object(fields) = shape else { panic!("a document is an object") };
        let mut found = Vec::new();
        leaves(fields, "", &mut found);
        assert!(found.len() > 50, "{} leaves", found.len());
        let without = outcome(base);
        for (path, shape) in found {
            let other = values(&path, shape).into_iter().map(|value| outcome(&with(base, &path, value)));
            let changes = other.filter(|outcome| *outcome != without).count();
            assert!(changes > 0 || NO_OTHER_VALUE.contains(&path.as_str()), "{path}: no value changes anything");
        }
    }

    #[test]
    fn of_a_node_bootstrap() {
        let mut base = node_bootstrap();
        base["proxy"] = json!({"http": "http://proxy:1"});
        check(&node_bootstrap::SHAPE, &base);
    }

    #[test]
    fn of_an_aks_node_config() {
        let mut base = aks_node_config();
        base["kubelet_config"]["enable_kubelet_config_file"] = json!(true);
        check(&aks_node_config::SHAPE, &base);
    }
}
