//! Every way to fail that we can make happen for real: its own reason, in time, on every channel, with AgentBaker's exit code.

use std::time::{Duration, Instant};

use nap_e2e::node::{Node, api_options, free_port, text};
use nap_model::report::REASONS;
use pretend_azure::{BlackHole, CsrPolicy, Fault, SignedDuration};
use serde_json::{Value, json};

/// Boots, and holds the end against what was expected.
async fn fails(node: &Node, reason: &str, exit_code: i32, within: Duration) {
    let start = Instant::now();
    let boot = node.agent(&["boot"]).await;
    let took = start.elapsed();
    let said = text(&boot);
    assert_eq!(boot.status.code(), Some(exit_code), "{said}");
    assert!(took < within, "{reason} took {took:?}, want less than {within:?}");
    let report = node.report();
    assert_eq!(report["Reason"], reason, "{said}");
    assert_eq!(report["ExitCode"], exit_code.to_string());
    assert!(report["Error"].as_str().is_some_and(|error| error.contains(reason) && error.contains("do: ")), "{report}");
    assert!(said.contains(reason), "the log names it: {said}");
    let console = node.root.read("/dev/console");
    assert!(console.contains(&format!("BOOT FAILED {reason}")), "the console names it");
    assert!(console.lines().count() <= 10, "the console has ten lines at most: {console}");
    let pool = node.root.read("/var/lib/hyperv/.kvp_pool_1");
    assert!(
        pool.contains(&format!("result=error|reason={reason}|exit_code={exit_code}|")),
        "the host can read it: {pool:?}"
    );
    assert!(events(node).iter().any(|event| {
        let message = event["Message"].as_str().unwrap_or_default();
        event["EventLevel"] == "Error" && message.starts_with(&format!("Failed: exit code {exit_code}, {reason}: "))
    }));
    let wait = node.agent(&["wait"]).await;
    assert_eq!(wait.status.code(), Some(exit_code), "wait returns it");
    assert!(text(&wait).contains(reason));
}

/// What the guest agent would take.
fn events(node: &Node) -> Vec<Value> {
    let directory = node.path("/var/log/azure/Microsoft.Azure.Extensions.CustomScript/events");
    let files = std::fs::read_dir(directory).unwrap().flatten();
    files.map(|file| serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap()).collect()
}

/// A reason without a test here may be one that nothing leads to.
#[test]
fn every_reason_is_made_to_happen() {
    let tests = include_str!("failures.rs");
    let missing = REASONS
        .iter()
        .map(|row| row.reason.to_string())
        .filter(|reason| !tests.contains(&format!("fails(&node, \"{reason}\"")));
    assert_eq!(missing.collect::<Vec<_>>(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_with_mistakes() {
    let node = Node::new(api_options()).await;
    let mut document = node.bootstrap();
    document["nodeClass"]["maxPods"] = json!("many");
    node.hand_over(document.to_string().as_bytes());
    fails(&node, "ConfigInvalid", 240, Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_missing() {
    let node = Node::new(api_options()).await;
    node.hand_over(node.bootstrap().to_string().as_bytes());
    std::fs::remove_file(node.path("/usr/bin/containerd")).unwrap();
    fails(&node, "ContainerdBinaryMissing", 28, Duration::from_secs(5)).await;
}

/// A node whose image has this inventory.
async fn with_inventory(inventory: Value) -> Node {
    let node = Node::new(api_options()).await;
    node.root.write("/etc/nap-agent/image.json", &inventory.to_string());
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_has_another_kubernetes_version() {
    let node = with_inventory(json!({"programs": {"kubelet": "1.35.4", "containerd": "2.1.9"}})).await;
    node.hand_over(node.bootstrap().to_string().as_bytes());
    fails(&node, "ImageLacksKubernetesVersion", 65, Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_has_no_runc() {
    let node = with_inventory(
        json!({"programs": {"kubelet": "1.36.2", "containerd": "2.1.9"}, "tools": {"/usr/sbin/nft": ""}}),
    )
    .await;
    node.hand_over(node.bootstrap().to_string().as_bytes());
    fails(&node, "ImageLacksProgram", 65, Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_has_no_plugin_of_the_pod_network() {
    let node =
        with_inventory(json!({"programs": {"kubelet": "1.36.2", "containerd": "2.1.9"}, "cniPlugins": ["portmap"]}))
            .await;
    let mut document = node.bootstrap();
    document["network"] = json!({"mode": "nodeSubnet"});
    node.hand_over(document.to_string().as_bytes());
    fails(&node, "ImageLacksCniPlugin", 65, Duration::from_secs(2)).await;
    let error = node.report()["Error"].to_string();
    assert!(
        error.contains("azure-vnet;") && error.contains("azure-vnet-ipam;") && !error.contains("portmap;"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trust_store_cannot_be_made() {
    let node = Node::new(api_options()).await;
    let mut document = node.bootstrap();
    document["trust"] = json!({"certificates": [node.api.ca_pem()]});
    node.hand_over(document.to_string().as_bytes());
    node.root.write("/usr/sbin/update-ca-certificates", "#!/bin/sh\necho 'no space left' >&2\nexit 1\n");
    fails(&node, "TrustStoreFailed", 161, Duration::from_secs(5)).await;
    assert!(node.report()["Error"].as_str().is_some_and(|error| error.contains("no space left")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_without_its_storage() {
    let node = Node::new(pretend_azure::ApiOptions { unavailable: true, ..api_options() }).await;
    node.hand_over(node.bootstrap().to_string().as_bytes());
    fails(&node, "ApiServerUnhealthy", 51, Duration::from_secs(12)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelets_health_endpoint_is_somebody_elses() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let node = Node::new(api_options()).await;
    let mut document = node.bootstrap();
    document["node"]["kubeletConfig"]["healthzPort"] = json!(silent.local_addr().unwrap().port());
    document["boot"]["kubeletHealthySeconds"] = json!(3);
    node.hand_over(document.to_string().as_bytes());
    fails(&node, "KubeletUnhealthy", 34, Duration::from_secs(30)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_rejected() {
    let node = Node::new(api_options()).await;
    let mut document = node.bootstrap();
    document["identity"]["bootstrapToken"] = json!("zzzzzz.zzzzzzzzzzzzzzzz");
    node.hand_over(document.to_string().as_bytes());
    fails(&node, "BootstrapTokenRejected", 51, Duration::from_secs(8)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ca_wrong() {
    let node = Node::new(pretend_azure::ApiOptions { foreign_server_certificate: true, ..api_options() }).await;
    node.hand_over(node.bootstrap().to_string().as_bytes());
    fails(&node, "ApiServerUntrusted", 51, Duration::from_secs(8)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_an_hour_off_either_way() {
    for hours in [1, -1] {
        let node =
            Node::new(pretend_azure::ApiOptions { clock_offset: SignedDuration::from_hours(hours), ..api_options() })
                .await;
        node.hand_over(node.bootstrap().to_string().as_bytes());
        fails(&node, "ClockSkewed", 51, Duration::from_secs(8)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_name_unknown() {
    let node = Node::new(api_options()).await;
    let mut document = node.bootstrap();
    document["cluster"]["apiServer"] = json!("https://no-such-cluster.invalid:443");
    node.hand_over(document.to_string().as_bytes());
    fails(&node, "ApiServerDnsFailed", 52, Duration::from_secs(12)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn port_closed() {
    let node = Node::new(api_options()).await;
    let mut document = node.bootstrap();
    document["cluster"]["apiServer"] = json!(format!("https://127.0.0.1:{}", free_port()));
    node.hand_over(document.to_string().as_bytes());
    fails(&node, "ApiServerUnreachable", 51, Duration::from_secs(8)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn api_server_black_holed() {
    let hole = BlackHole::start().await.unwrap();
    let node = Node::new(api_options()).await;
    let mut document = node.bootstrap();
    document["cluster"]["apiServer"] = json!(format!("https://{}", hole.address()));
    node.hand_over(document.to_string().as_bytes());
    fails(&node, "ApiServerUnreachable", 51, Duration::from_secs(12)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_data_missing() {
    let node = Node::new(api_options()).await;
    fails(&node, "CustomDataMissing", 240, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_data_that_holds_no_configuration() {
    let node = Node::new(api_options()).await;
    node.hand_over(b"#cloud-config\nruncmd: []\n");
    fails(&node, "CustomDataUnreadable", 240, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn imds_black_holed_and_needed() {
    let node = Node::new(api_options()).await;
    node.imds.set_faults(vec![Fault::Forever(Box::new(Fault::AcceptAndHang))]).await;
    fails(&node, "ImdsUnreachable", 234, Duration::from_secs(105)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelet_missing() {
    let node = Node::new(api_options()).await;
    node.hand_over(node.bootstrap().to_string().as_bytes());
    std::fs::remove_file(node.path("/opt/bin/kubelet")).unwrap();
    fails(&node, "KubeletBinaryMissing", 121, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_crash_looping() {
    let node = Node::new(api_options()).await;
    node.hand_over(node.bootstrap().to_string().as_bytes());
    let drop_in = "[Service]\nExecStart=\nExecStart=/usr/bin/containerd --config /nope\n";
    node.root.write("/etc/systemd/system/containerd.service.d/99-broken.conf", drop_in);
    fails(&node, "ContainerdUnhealthy", 4, Duration::from_secs(30)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelet_crash_looping() {
    let node = Node::new(api_options()).await;
    let mut document = node.bootstrap();
    document["node"]["kubeletConfig"]["noSuchField"] = json!(1);
    node.hand_over(document.to_string().as_bytes());
    fails(&node, "KubeletStartFailed", 34, Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_is_issued() {
    let node = Node::new(pretend_azure::ApiOptions { csr_policy: CsrPolicy::Never, ..api_options() }).await;
    let mut document = node.bootstrap();
    document["boot"]["registrationSeconds"] = json!(4);
    node.hand_over(document.to_string().as_bytes());
    fails(&node, "ClientCertificateNotIssued", 34, Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_is_refused() {
    let node = Node::new(pretend_azure::ApiOptions { reject_node_creation: true, ..api_options() }).await;
    let mut document = node.bootstrap();
    document["boot"]["registrationSeconds"] = json!(4);
    node.hand_over(document.to_string().as_bytes());
    fails(&node, "NodeNotRegistered", 34, Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_is_spent() {
    let node = Node::new(pretend_azure::ApiOptions { csr_policy: CsrPolicy::Never, ..api_options() }).await;
    let mut document = node.bootstrap();
    document["boot"] = json!({"budgetSeconds": 10});
    node.hand_over(document.to_string().as_bytes());
    fails(&node, "BootDeadlineExceeded", 124, Duration::from_secs(14)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_token_nor_certificate() {
    let node = Node::new(api_options()).await;
    let mut document = node.bootstrap();
    document["identity"] = json!({});
    node.hand_over(document.to_string().as_bytes());
    fails(&node, "BootstrapCredentialMissing", 34, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_distribution() {
    let node = Node::new(api_options()).await;
    node.hand_over(node.bootstrap().to_string().as_bytes());
    node.root.write("/etc/os-release", "ID=plan9\n");
    fails(&node, "OsUnsupported", 240, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_systemd() {
    let mut node = Node::new(api_options()).await;
    node.hand_over(node.bootstrap().to_string().as_bytes());
    drop(node.systemd.take());
    let _ = std::fs::remove_file(node.path("/run/systemd/private")); // it may have taken its socket along
    node.root.write("/run/systemd/private", "no socket");
    fails(&node, "SystemdUnreachable", 4, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_cannot_be_done_is_named() {
    let node = Node::new(api_options()).await;
    node.hand_over(node.bootstrap().to_string().as_bytes());
    node.root.write("/etc/containerd", "a file where a directory must be");
    fails(&node, "StepFailed", 4, Duration::from_secs(5)).await;
    assert_eq!(node.report()["Step"], "containerd.config");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_is_told_to_stop_still_reports() {
    let node = Node::new(pretend_azure::ApiOptions { csr_policy: CsrPolicy::Never, ..api_options() }).await;
    node.hand_over(node.bootstrap().to_string().as_bytes());
    let mut boot = node.command(&["boot"]).spawn().unwrap();
    let asked = async { node.api.log().reached(2).await }; // it is on its way
    tokio::time::timeout(Duration::from_secs(20), asked).await.unwrap();
    nap_e2e::terminate(boot.id().unwrap()).unwrap();
    let status = tokio::time::timeout(Duration::from_secs(20), boot.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(124));
    assert_eq!(node.report()["Reason"], "BootDeadlineExceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_data_that_is_damaged_ends_the_search_at_once() {
    let node = Node::new(api_options()).await;
    node.imds.set_faults(vec![Fault::Forever(Box::new(Fault::AcceptAndHang))]).await;
    node.root.write("/var/lib/waagent/CustomData", "{\"apiVersion\": \"nap-agent/v1\", ");
    fails(&node, "CustomDataUnreadable", 240, Duration::from_secs(2)).await;
}
