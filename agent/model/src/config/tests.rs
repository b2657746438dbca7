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
