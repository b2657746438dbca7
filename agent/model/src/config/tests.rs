//! The wire formats, from text to [`NodeConfig`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use super::*;

pub(super) const CA: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1BQT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";

/// A certificate authority that is one, in base64 as every format takes it.
pub(super) fn authority() -> String {
    BASE64.encode(include_str!("../../testdata/certificates/example-root-ca.pem"))
}
const TOKEN: &str = "abcdef.0123456789abcdef";

pub(super) fn node_bootstrap() -> Value {
    json!({
        "apiVersion": "nap-agent/v1",
        "cluster": {"apiServer": "api.example.com", "caCertificate": CA, "kubernetesVersion": "1.34.2"},
        "identity": {"bootstrapToken": TOKEN, "kubeletIdentityClientID": "kubelet-id"},
        "network": {"mode": "overlay"},
        "node": {"labels": {"a": "b"}, "taints": ["x=y:NoSchedule"], "startupTaints": ["s:NoExecute"]},
        "cloud": {"subscriptionID": "sub", "tenantID": "ten", "resourceGroup": "MC_rg", "location": "westeurope"},
    })
}

pub(super) fn aks_node_config() -> Value {
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

pub(super) fn decoded(value: &Value) -> Decoded {
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
    // Only that format has an administrator whom nobody named.
    assert_eq!(theirs.os.admin_user.take().as_deref(), Some("azureuser"));
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
fn the_kept_copy_has_no_token_in_any_spelling_that_is_read() {
    let mut value = node_bootstrap();
    let identity = value.as_object_mut().unwrap().remove("identity").unwrap();
    value["Identity"] = json!({"BootstrapToken": identity["bootstrapToken"]});
    let decoded = decoded(&value);
    assert_eq!(decoded.config.as_ref().unwrap().bootstrap_token, Some(TOKEN.into()));
    assert!(!decoded.without_token().to_string().contains(TOKEN));
}

#[test]
fn a_document_that_could_not_be_kept_is_refused() {
    let mut deep = node_bootstrap();
    deep["node"]["kubeletConfig"] = json!({"a": (0..98).fold(json!([]), |inner, _| json!([inner]))});
    assert_eq!(problems(&deep), ["the document: found 102 objects and lists inside each other, want at most 100"]);
    let quotes = format!("apiVersion: nap-agent/v1\nproxy: '{}'\n", "\"".repeat(600_000));
    let problems = decode(quotes.as_bytes()).unwrap().findings.problems;
    assert_eq!(problems[0].to_string(), "the document: found 1200040 bytes as JSON, want at most 1048576");
}

#[test]
fn a_domain_brings_no_second_line_into_a_file() {
    let mut value = node_bootstrap();
    value["cluster"]["dnsDomain"] = json!("a\nLD_PRELOAD=b");
    assert_eq!(
        problems(&value),
        ["cluster.dnsDomain: found \"a\\nLD_PRELOAD=b\", want a DNS domain such as corp.example"]
    );
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
fn an_unknown_format_version_is_a_problem() {
    assert_eq!(
        problems(&json!({"version": "v2", "kubelet_config": {}}))[0],
        "version: found \"v2\", want one of v0, v1"
    );
}

#[test]
fn an_aks_node_config_asks_of_the_machine_what_a_node_bootstrap_asks() {
    let mut ours = node_bootstrap();
    ours["os"] = json!({
        "messageOfTheDay": "hi", "ssh": {"enabled": false, "publicKeys": false}, "adminUser": "azureuser",
        "unattendedUpgrades": true, "ulimits": {"noFile": "1024", "maxLockedMemory": "infinity"},
    });
    ours["nodeClass"] = json!({
        "kubelet": {"failSwapOn": false},
        "linuxOSConfig": {"swapFileSize": "1500Mi", "transparentHugePageEnabled": "madvise", "transparentHugePageDefrag": "defer"},
        "localDNS": {"mode": "Required"},
        "gpu": {"mode": "None"},
    });
    ours["network"]["searchDomains"] = json!(["corp.example"]);
    ours["network"]["privateAPIServer"] = json!(true);
    ours["network"]["dualStack"] = json!(true);
    ours["network"]["restrictIMDS"] = json!(true);
    ours["proxy"] = json!({"http": "http://u:p@proxy:1", "noProxy": ["a", "b"], "caCertificate": authority()});
    ours["registries"] = json!({
        "bootstrap": "x.azurecr.io", "dnsSuffix": ".azurecr.example",
        "serviceAccountPulls": {"localAuthority": "sni.example", "defaultClientID": "c", "defaultTenantID": "t"},
    });
    ours["cloud"]["environmentDocument"] = json!({"name": "akscustom"});
    let mut theirs = aks_node_config();
    for (name, value) in [
        ("message_of_the_day", json!("aGk=")),
        ("enable_ssh", json!(false)),
        ("disable_pubkey_auth", json!(true)),
        ("linux_admin_username", json!("azureuser")),
        ("enable_unattended_upgrade", json!(true)),
        ("ipv6_dual_stack_enabled", json!(true)),
        ("enable_hosts_config_agent", json!(true)),
        ("imds_restriction_config", json!({"enable_imds_restriction": true})),
        ("custom_search_domain_config", json!({"domain_name": "corp.example"})),
        ("local_dns_profile", json!({"enable_local_dns": true})),
        ("gpu_config", json!({})),
        ("bootstrap_profile_container_registry_server", json!("x.azurecr.io")),
        (
            "service_account_image_pull_profile",
            json!({"enabled": true, "local_authority_sni": "sni.example", "default_client_id": "c", "default_tenant_id": "t"}),
        ),
        (
            "http_proxy_config",
            json!({"http_proxy": "http://u:p@proxy:1", "https_proxy": "", "no_proxy_entries": ["a", "b"], "proxy_trusted_ca": authority()}),
        ),
        (
            "custom_linux_os_config",
            json!({
                "enable_swap_config": true, "swap_file_size": 1500,
                "transparent_hugepage_support": "madvise", "transparent_defrag": "defer",
                "ulimit_config": {"no_file": "1024", "max_locked_memory": "infinity"},
            }),
        ),
        (
            "custom_cloud_config",
            json!({
                "custom_cloud_env_name": "AKSCustom", "container_registry_dns_suffix": ".azurecr.example",
                "custom_env_json_content": "eyJuYW1lIjoiYWtzY3VzdG9tIn0=",
            }),
        ),
    ] {
        theirs[name] = value;
    }
    theirs["kubelet_config"]["kubelet_flags"]["--fail-swap-on"] = json!("false");
    assert_eq!((problems(&ours), problems(&theirs)), (vec![], vec![]));
    let ours = decoded(&ours).config.unwrap();
    let theirs = decoded(&theirs).config.unwrap();
    let theirs = NodeConfig { format: ours.format, labels: ours.labels.clone(), boot: ours.boot, ..theirs };
    assert_eq!(ours, theirs);
}

#[test]
fn zones_and_limits_of_local_dns_are_read() {
    let mut value = aks_node_config();
    let zone = json!({"query_logging": "Log", "protocol": "ForceTCP", "serve_stale": "Disable", "cache_duration_in_seconds": 60, "max_concurrent": 5});
    value["local_dns_profile"] = json!({
        "enable_local_dns": true, "cpu_limit_in_milli_cores": 1500, "memory_limit_in_mb": 64,
        "vnet_dns_overrides": {".": zone, "cluster.local": {}}, "kube_dns_overrides": {},
    });
    let local_dns = decoded(&value).config.unwrap().local_dns.unwrap();
    assert_eq!((local_dns.cpu_percent, local_dns.memory_mb), (150, 64));
    let root = &local_dns.node_zones[0];
    assert_eq!((root.log_queries, root.max_concurrent, root.cache_for.as_secs()), (true, 5, 60));
    value["local_dns_profile"]["vnet_dns_overrides"]["-"] = json!({});
    assert_eq!(
        problems(&value),
        ["local_dns_profile.vnet_dns_overrides[\"-\"]: found \"-\", want a DNS zone such as . or example.com"]
    );
}

#[test]
fn what_an_aks_node_config_cannot_mean_is_a_problem() {
    for (path, value, wanted) in [
        ("pre_provision_only", json!(true), "pre_provision_only"),
        ("message_of_the_day", json!("!"), "message_of_the_day"),
        (
            "custom_cloud_config",
            json!({"custom_cloud_env_name": "akscustom"}),
            "custom_cloud_config.custom_env_json_content",
        ),
        (
            "custom_cloud_config",
            json!({"custom_cloud_env_name": "akscustom", "custom_env_json_content": "[]"}),
            "custom_cloud_config.custom_env_json_content",
        ),
        (
            "custom_linux_os_config",
            json!({"enable_swap_config": true, "swap_file_size": 1}),
            "custom_linux_os_config.swap_file_size",
        ),
        ("http_proxy_config", json!({"http_proxy": "u:sesame@proxy"}), "http_proxy_config.http_proxy"),
    ] {
        let mut document = aks_node_config();
        document[path] = value;
        document["kube_binary_config"] = json!({"pod_infra_container_image_url": "registry.example/pause:1"});
        let decoded = decoded(&document);
        let paths: Vec<_> = decoded.findings.problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, [wanted]);
        assert!(!format!("{:?}", decoded.findings).contains("sesame"));
    }
}

#[test]
fn what_protobuf_would_leave_out_is_left_alone() {
    let mut value = aks_node_config();
    let quiet = decoded(&value);
    for name in [
        "linux_admin_username",
        "message_of_the_day",
        "bootstrap_profile_container_registry_server",
        "outbound_command",
    ] {
        value[name] = json!("");
    }
    value["bootstrapping_config"]["tls_bootstrapping_token"] = json!("");
    value["enable_artifact_streaming"] = json!(false);
    value["containerd_config"] = json!({"containerd_version": ""});
    value["custom_cloud_config"] = json!({"custom_env_json_content": "", "container_registry_dns_suffix": ""});
    let decoded = decoded(&value);
    assert_eq!(decoded.findings, quiet.findings);
    assert_eq!(decoded.config.unwrap(), NodeConfig { bootstrap_token: None, ..quiet.config.unwrap() });
}

#[test]
fn a_second_nic_stands_once() {
    let mut value = node_bootstrap();
    value["network"]["secondaryNICs"] = json!(["000D3A123457", "000D3AFFFFFF", "000D3A123457"]);
    assert_eq!(problems(&value), ["network.secondaryNICs: found 000D3A123457 twice, want each MAC once"]);
}

#[test]
fn local_dns_does_not_become_its_own_upstream() {
    for (flag, wanted) in [("10.1.0.10", "10.1.0.10"), ("169.254.10.11", "10.0.0.10")] {
        let mut value = aks_node_config();
        value["kubelet_config"]["kubelet_flags"]["--cluster-dns"] = json!(flag);
        assert_eq!(
            decoded(&value).config.unwrap().cluster.dns_service_ips,
            [wanted.parse::<std::net::IpAddr>().unwrap()]
        );
    }
}

/// The shape of what karpenter-provider-azure sends, in our own words.
fn script() -> String {
    include_str!("../../testdata/scriptless.sh").replace("CERTIFICATES", CA).replace("TOKEN_VALUE", TOKEN)
}

fn read_script(script: &str) -> Decoded {
    let decoded = decode(script.as_bytes()).unwrap();
    assert_eq!(decoded.document.format, Format::ScriptlessScript);
    decoded
}

#[test]
fn the_script_describes_the_same_node() {
    let script = read_script(&script());
    assert_eq!(script.findings.problems, []);
    let ours = decoded(&node_bootstrap()).config.unwrap();
    let mut theirs = script.config.unwrap();
    theirs.format = ours.format;
    theirs.labels.retain(|key, _| key.as_str() == "a");
    assert_eq!(theirs.kubelet.config["maxPods"], 110);
    assert_eq!(theirs.kubelet.config["evictionHard"]["nodefs.available"], "10%");
    assert_eq!(theirs.sysctls["vm.swappiness"], "10");
    assert_eq!((theirs.gpu.driver, theirs.os.admin_user.take().as_deref()), (true, Some("azureuser")));
    assert_eq!(theirs.boot.budget.as_secs(), 720);
    let cloud = Cloud { more: Default::default(), use_managed_identity: true, ..theirs.cloud.clone() };
    assert_eq!(
        (cloud.vnet_name.as_str(), theirs.cloud.more["maximumLoadBalancerRuleCount"].as_i64()),
        ("vnet", Some(250))
    );
    let os = OperatingSystem { unattended_upgrades: None, ..theirs.os.clone() };
    let ours_cloud = Cloud { vnet_name: "vnet".into(), subnet_name: "subnet".into(), ..ours.cloud.clone() };
    let ours = NodeConfig {
        kubelet: theirs.kubelet.clone(),
        sysctls: theirs.sysctls.clone(),
        gpu: theirs.gpu.clone(),
        cloud: ours_cloud,
        ..ours
    };
    assert_eq!(ours, NodeConfig { cloud, os, ..theirs });
}

#[test]
fn a_cse_command_is_the_same_on_one_line() {
    let mut line = script().lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join(" ");
    line.insert_str(0, "PROVISION_OUTPUT=\"/x\"; ");
    assert_eq!(read_script(&line).config, read_script(&script()).config);
}

#[test]
fn a_scripts_findings_name_its_variables() {
    let script = script()
        .replace("API_SERVER_NAME=api.example.com", "API_SERVER_NAME=$(hostname)")
        .replace("KUBERNETES_VERSION=1.34.2", "")
        .replace("--max-pods=110", "--max-pods=many")
        .replace(
            "CSE_TIMEOUT=15m",
            "CSE_TIMEOUT=soon SURPRISE=open-sesame KUBEPROXY_URL=x\nif true; then LOCATION=x; fi\nopen-sesame",
        );
    let found = read_script(&script).findings;
    let mut problems: Vec<_> = found.problems.iter().map(ToString::to_string).collect();
    problems.sort();
    assert_eq!(
        problems,
        [
            "API_SERVER_NAME: found a value in line 11 that a shell would have to expand, want the value itself: a script is read, not run",
            "API_SERVER_NAME: found nothing, want an object",
            "CSE_TIMEOUT: found \"soon\", want seconds, or a duration such as 15m",
            "KUBELET_FLAGS[\"--max-pods\"]: found \"many\", want a whole number",
            "KUBERNETES_VERSION: found nothing, want a text",
        ]
    );
    let warnings = found.warnings.iter().map(|warning| warning.path.as_str());
    for name in ["SURPRISE", "KUBEPROXY_URL", "LOCATION", "OUTBOUND_COMMAND", "KUBELET_FLAGS[\"--eviction-hard\"]", ""]
    {
        assert!(warnings.clone().any(|path| path == name), "{name} in {:?}", found.warnings);
    }
    assert!(!format!("{found:?}").contains("open-sesame"));
}

#[test]
fn a_scripts_secrets_are_neither_shown_nor_kept() {
    let script = format!(
        "{}KUBELET_CLIENT_CONTENT=b3Blbi1zZXNhbWU= HTTP_PROXY_URLS=http://u:open-sesame@proxy:1\n\
         CUSTOM_SEARCH_REALM_PASSWORD='open-sesame' SERVICE_PRINCIPAL_FILE_CONTENT=b3Blbi1zZXNhbWU= NEW_SECRET=open-sesame\n",
        script()
    );
    let decoded = read_script(&script);
    assert_eq!(decoded.findings.problems, []);
    let shown = format!("{} {decoded:?}", serde_json::to_string(&decoded.shown()).unwrap());
    for secret in [TOKEN, "open-sesame", "b3Blbi1zZXNhbWU="] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    let kept = decoded.without_token();
    assert!(!kept.to_string().contains(TOKEN));
    let again = self::decoded(&kept).config.unwrap();
    assert_eq!(again, NodeConfig { format: Format::AksNodeConfig, bootstrap_token: None, ..decoded.config.unwrap() });
}

#[test]
fn a_missing_quote_shows_no_secret_of_the_lines_below() {
    let token = format!("TLS_BOOTSTRAP_TOKEN={TOKEN}");
    for variable in
        ["API_SERVER_NAME", "TENANT_ID", "NO_PROXY_URLS", "CSE_TIMEOUT", "CUSTOM_CA_CERT_0", "CONTAINERD_ULIMITS"]
    {
        for (between, closed) in [("\n", ""), ("\n", "\""), (" ", ""), ("x ", "\"")] {
            let script = format!("{}{variable}=\"{between}{token}{closed}\n", script().replace(TOKEN, ""));
            let decoded = read_script(&script);
            let text = format!("{} {decoded:?}", serde_json::to_string(&decoded.shown()).unwrap());
            assert!(!text.contains(TOKEN), "{TOKEN} in {text}");
            assert!(decoded.config.is_none(), "{variable}");
        }
    }
}

#[test]
fn switches_of_a_script_that_are_off_switch_off() {
    let with = |switch: &str| {
        let script = format!(
            "{}THP_ENABLED=always CUSTOM_CA_CERT_1={} CONTAINERD_ULIMITS=\"[Service]\nLimitNOFILE=1024 LimitMEMLOCK=2048\"\n\
             HTTPS_PROXY_URLS=http://p:1 NO_PROXY_URLS=a,b\n\
             SHOULD_CONFIG_TRANSPARENT_HUGE_PAGE={switch} SHOULD_CONFIGURE_CUSTOM_CA_TRUST={switch} \
             SHOULD_CONFIG_CONTAINERD_ULIMITS={switch} SHOULD_CONFIGURE_HTTP_PROXY={switch}\n",
            script(),
            authority()
        );
        read_script(&script).config.unwrap()
    };
    let (on, off, plain) = (with("true"), with("false"), read_script(&script()).config.unwrap());
    assert_eq!(off, plain);
    assert_eq!(on.os.huge_pages.enabled.as_deref(), Some("always"));
    assert_eq!(
        (on.os.ulimits.no_file.as_deref(), on.os.ulimits.max_locked_memory.as_deref()),
        (Some("1024"), Some("2048"))
    );
    assert_eq!((on.trusted_certificates.len(), on.proxy.unwrap().no_proxy.len()), (1, 2));
}

#[test]
fn an_aks_node_config_beside_a_script_wins() {
    use base64::Engine;
    let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let boothook = format!(
        "#cloud-boothook\n#!/bin/bash\necho {} | base64 -d > /a.sh\necho {} | base64 -d > /b.json\n",
        encoded(&script()),
        encoded(&aks_node_config().to_string())
    );
    assert_eq!(decode(boothook.as_bytes()).unwrap().document.format, Format::AksNodeConfig);
}

proptest::proptest! {
    #[test]
    fn no_script_makes_it_panic(text in "[A-Za-z0-9_=+$(){}<>'\"`\\\\;|&#., \n-]{0,120}") {
        let script = format!("KUBELET_FLAGS={text} API_SERVER_NAME={text}\n{text}");
        let _ = decode(script.as_bytes()); // only a panic would be wrong
        for row in script_variables::ROWS {
            let _ = decode(format!("KUBELET_FLAGS= API_SERVER_NAME= {}='{}'", row.variable, text.replace('\'', "")).as_bytes());
        }
    }

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

/// A Corefile as AgentBaker's template writes it for one zone of the user's beside AKS' own two.
const COREFILE: &str = "# WARNING: Changes to this file will be overwritten.
health-check.localdns.local:53 {
    bind 169.254.10.10 169.254.10.11
    whoami
}
.:53 {
    errors
    bind 169.254.10.10
    forward . 168.63.129.16 {
        policy sequential
        max_concurrent 1000
    }
    ready 169.254.10.10:8181
    cache 3600 {
        success 9984
        denial 9984
        serve_stale 3600s immediate
        servfail 0
    }
    loop
    nsid localdns
    prometheus :9253
}
cluster.local:53 {
    errors
    bind 169.254.10.10
    forward . 10.0.0.10 {
        force_tcp
        policy sequential
        max_concurrent 1000
    }
    cache 3600 {
        serve_stale 3600s immediate
    }
}
corp.example:53 {
    log
    bind 169.254.10.10
    forward . 168.63.129.16 {
        policy random
        max_concurrent 7
    }
    cache 30 {
        serve_stale 60s verify
    }
}
";

/// The script with LocalDNS and these variables.
fn script_with(variables: &[(&str, &str)]) -> String {
    use base64::Engine as _;
    let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let lines = variables.iter().map(|(name, corefile)| format!("{name}=\"{}\"\n", encoded(corefile)));
    format!("{}SHOULD_ENABLE_LOCALDNS=\"true\"\n{}", script(), lines.collect::<String>())
}

fn zones_of_node(decoded: &Decoded) -> Vec<Zone> {
    let mut zones = decoded.config.as_ref().unwrap().local_dns.clone().unwrap().node_zones;
    zones.sort_by(|one, other| one.name.cmp(&other.name));
    zones
}

fn warnings_about(decoded: &Decoded, variable: &str) -> Vec<String> {
    let warnings = decoded.findings.warnings.iter().filter(|warning| warning.path == variable);
    warnings.map(|warning| warning.message.clone()).collect()
}

#[test]
fn a_scripts_corefile_has_the_same_zones_as_the_overrides_it_was_made_of() {
    let mut theirs = aks_node_config();
    theirs["local_dns_profile"] = json!({
        "enable_local_dns": true,
        "vnet_dns_overrides": {
            ".": {},
            "cluster.local": {"protocol": "ForceTCP"},
            "corp.example": {
                "query_logging": "Log", "forward_policy": "Random", "max_concurrent": 7, "cache_duration_in_seconds": 30,
                "serve_stale": "Verify", "serve_stale_duration_in_seconds": 60,
            },
        },
    });
    let wanted = decoded(&theirs).config.unwrap().local_dns.unwrap();
    let script =
        read_script(&script_with(&[("LOCALDNS_COREFILE_BASE", COREFILE), ("LOCALDNS_GENERATED_COREFILE", "old")]));
    assert_eq!(script.findings.problems, []);
    assert_eq!(zones_of_node(&script), wanted.node_zones);
    assert_eq!(
        script.config.as_ref().unwrap().local_dns.as_ref().unwrap().pod_zones,
        wanted.pod_zones,
        "AKS' defaults"
    );
    let left = ["not acted on: the statements cache denial, cache servfail, cache success"];
    assert_eq!(warnings_about(&script, "LOCALDNS_COREFILE_BASE"), left);
    let kept = self::decoded(&script.without_token());
    assert_eq!(zones_of_node(&kept), wanted.node_zones, "the node's own copy has them, too");
}

#[test]
fn a_corefile_that_cannot_be_read_costs_the_zones_and_not_the_boot() {
    let defaults = zones_of_node(&read_script(&script_with(&[])));
    for (corefile, why) in [
        ("corp.example:53 {\n", "not acted on, AKS' default zones are used: a { that nothing closes"),
        (
            "corp.example:53 {\n bind 169.254.10.10\n forward . 10.9.9.9\n}\n",
            "not acted on: the block \"corp.example:53\": it forwards to neither Azure's nor the cluster's DNS",
        ),
    ] {
        let script = read_script(&script_with(&[("LOCALDNS_GENERATED_COREFILE", corefile)]));
        assert_eq!(script.findings.problems, []);
        assert_eq!(zones_of_node(&script), defaults);
        assert_eq!(warnings_about(&script, "LOCALDNS_GENERATED_COREFILE"), [why]);
    }
}
