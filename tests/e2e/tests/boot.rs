//! The whole boot by the real binary below a scratch root.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nap_e2e::node::{NAME, Node, api_options, text};
use nap_model::os::CREDENTIAL_PROVIDER;
use pretend_azure::Fault;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_boots_registers_and_a_second_boot_changes_nothing_that_is_true() {
    let mut node = Node::new(api_options()).await;
    node.hand_over(node.bootstrap().to_string().as_bytes());
    let boot = node.agent(&["boot"]).await;
    assert_eq!(boot.status.code(), Some(0), "{}", text(&boot));

    let registered = node.api.node_matching(|node| node.metadata.name.as_deref() == Some(NAME)).await;
    let uid = registered.metadata.uid.clone();
    let labels = registered.metadata.labels.clone().unwrap_or_default();
    assert_eq!(labels["karpenter.sh/nodepool"], "default");
    let spec = registered.spec.unwrap_or_default();
    let taints: Vec<_> = spec.taints.into_iter().flatten().map(|taint| (taint.key, taint.effect)).collect();
    for taint in [("dedicated", "NoSchedule"), ("karpenter.sh/unregistered", "NoExecute")] {
        assert!(taints.contains(&(taint.0.to_owned(), taint.1.to_owned())), "{taints:?}");
    }
    let id = spec.provider_id.unwrap_or_default();
    assert!(id.starts_with("azure:///subscriptions/") && id.ends_with(&format!("/virtualMachines/{NAME}")), "{id}");

    let report = node.report();
    assert_eq!((report["ExitCode"].as_str(), report["Error"].as_str()), (Some("0"), Some("")));
    assert!(!node.path("/var/lib/kubelet/bootstrap-kubeconfig").exists());
    assert_eq!(node.agent(&["wait"]).await.status.code(), Some(0));
    let status = node.agent(&["status"]).await;
    assert_eq!(status.status.code(), Some(0), "{}", text(&status));
    assert!(node.root.read("/dev/console").contains("the node has registered"));

    node.reboot(2);
    let wait = node.agent(&["wait", "--timeout", "0.2"]).await;
    assert_eq!(wait.status.code(), Some(124), "yesterday's report is not today's");
    let boot = node.agent(&["boot"]).await;
    assert_eq!(boot.status.code(), Some(0), "{}", text(&boot));
    let changed: Vec<_> = node.journal(2).into_iter().filter(|(_, event)| event != "in-sync").collect();
    let wanted = [
        ("containerd.running", "attempt"),
        ("containerd.running", "changed"),
        ("kubelet.running", "attempt"),
        ("kubelet.running", "changed"),
    ];
    assert_eq!(changed, wanted.map(|(step, event)| (step.to_owned(), event.to_owned())));
    assert_eq!(node.api.nodes()[0].metadata.uid, uid, "the node is the same");
    assert_eq!(node.api.csrs().len(), 1, "and has kept its certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelet_is_told_of_a_credential_provider_that_runs_and_of_no_other() {
    let mut node = Node::new(api_options()).await;
    let mut document = node.bootstrap();
    document["registries"] = json!({"dnsSuffix": ".azurecr.example"});
    node.hand_over(document.to_string().as_bytes());
    let broken = "this is no program";
    let programs = [("#!/bin/sh\necho v1.34.0\n", None), (broken, Some("Exec format error"))];
    for ((program, failure), boot) in programs.into_iter().zip(2..) {
        node.root.write(CREDENTIAL_PROVIDER, program);
        std::fs::set_permissions(node.path(CREDENTIAL_PROVIDER), std::fs::Permissions::from_mode(0o755)).unwrap();
        let booted = node.agent(&["boot"]).await;
        assert_eq!(booted.status.code(), Some(0), "{}", text(&booted));
        let flags = node.root.read("/etc/default/kubelet");
        assert_eq!(flags.contains("--image-credential-provider-config="), failure.is_none(), "{flags}");
        let notes = node.report()["Notes"].to_string();
        assert_eq!(notes.contains("CredentialProviderUnavailable"), failure.is_some(), "{notes}");
        assert!(notes.contains(failure.unwrap_or_default()), "{notes}");
        node.reboot(boot);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_from_the_disc_does_not_wait_for_imds() {
    let node = Node::new(api_options()).await;
    node.imds.set_faults(vec![Fault::Forever(Box::new(Fault::AcceptAndHang))]).await;
    node.hand_over(node.bootstrap().to_string().as_bytes());
    let start = Instant::now();
    let boot = node.agent(&["boot"]).await;
    assert_eq!(boot.status.code(), Some(0), "{}", text(&boot));
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    let id = node.api.nodes()[0].spec.clone().unwrap_or_default().provider_id;
    let wanted =
        format!("azure:///subscriptions/s/resourceGroups/mc_test/providers/Microsoft.Compute/virtualMachines/{NAME}");
    assert_eq!(id.as_deref(), Some(wanted.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_data_comes_from_imds_when_there_is_no_disc_and_never_through_a_proxy() {
    let node = Node::new(api_options()).await;
    let document = node.bootstrap().to_string();
    node.imds.update(|instance| instance.user_data = document.into_bytes());
    let proxy = [
        ("HTTP_PROXY", "http://127.0.0.1:1"),
        ("http_proxy", "http://127.0.0.1:1"),
        ("ALL_PROXY", "http://127.0.0.1:1"),
    ];
    let boot = node.agent_with(&["boot"], &proxy).await;
    assert_eq!(boot.status.code(), Some(0), "{}", text(&boot));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_about_another_vm_is_not_used() {
    let node = Node::new(api_options()).await;
    node.root.write("/sys/class/dmi/id/product_uuid", "11111111-2222-3333-4444-555555555555\n");
    node.hand_over(node.bootstrap().to_string().as_bytes());
    let boot = node.agent(&["boot"]).await;
    assert_eq!(boot.status.code(), Some(0), "{}", text(&boot));
    assert!(text(&boot).contains("IMDS describes another VM"), "{}", text(&boot));
    let id = node.api.nodes()[0].spec.clone().unwrap_or_default().provider_id.unwrap_or_default();
    assert!(id.contains("/resourceGroups/mc_test/"), "{id}");
}

#[tokio::test(flavor = "multi_thread")]
async fn decode_reports_every_mistake_with_its_path() {
    let node = Node::new(api_options()).await;
    let mut document = node.bootstrap();
    document["cluster"]["apiServer"] = json!("ftp://x");
    document["cluster"]["kubernetesVersion"] = json!("1.12.0");
    document["node"]["labels"] = json!({"kubernetes.io/role": "x"});
    document["node"]["taints"] = json!(["a:Never"]);
    document["nodeClass"]["maxPods"] = json!("many");
    node.hand_over(document.to_string().as_bytes());
    let decode = node.agent(&["decode", "--output", "json"]).await;
    assert_eq!(decode.status.code(), Some(240));
    let shown: Value = serde_json::from_slice(&decode.stdout).unwrap();
    let paths: Vec<_> = shown["decoded"]["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| problem["path"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        paths,
        [
            "nodeClass.maxPods",
            "cluster.apiServer",
            "cluster.kubernetesVersion",
            "node.labels[\"kubernetes.io/role\"]",
            "node.taints[0]"
        ]
    );
    assert!(!text(&decode).contains("0123456789abcdef"));

    let start = Instant::now();
    let boot = node.agent(&["boot"]).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(boot.status.code(), Some(240));
    let report = node.report();
    assert_eq!(report["Reason"], "ConfigInvalid");
    for path in paths {
        assert!(report["Error"].as_str().unwrap().contains(&path), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_writes_nothing_and_the_boot_changes_what_it_said() {
    let node = Node::new(api_options()).await;
    node.hand_over(node.bootstrap().to_string().as_bytes());
    let dry = node.agent(&["boot", "--dry-run", "--output", "json"]).await;
    assert_eq!(dry.status.code(), Some(0), "{}", text(&dry));
    assert!(!node.path("/var/lib/nap-agent").exists() && !node.path("/etc/default/kubelet").exists());
    let said: Value = serde_json::from_slice(&dry.stdout).unwrap();
    let mut said: Vec<String> =
        said["differences"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap().to_owned()).collect();
    node.agent(&["boot"]).await;
    let mut done: Vec<String> =
        node.journal(1).into_iter().filter(|(_, event)| event == "changed").map(|(step, _)| step).collect();
    done.sort();
    done.dedup(); // the bootstrap kubeconfig is written and, at the end, removed
    said.sort();
    assert_eq!(done, said);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_acted_on_is_one_line_of_the_log_and_whole_in_the_report() {
    let node = Node::new(api_options()).await;
    let mut document = node.bootstrap();
    document["storage"] = json!({"a": 1});
    document["fromTheFuture"] = json!(1);
    node.hand_over(document.to_string().as_bytes());
    let boot = node.agent(&["boot"]).await;
    assert_eq!(boot.status.code(), Some(0), "{}", text(&boot));
    let said = text(&boot);
    let lines: Vec<_> =
        said.lines().filter(|line| line.contains("storage") || line.contains("fromTheFuture")).collect();
    let [line] = lines[..] else { panic!("{lines:?}") };
    assert!(line.contains("count=2") && line.contains("fromTheFuture, storage"), "{line}");
    let decoded = text(&node.agent(&["decode"]).await);
    let mut warnings = decoded.lines().filter_map(|line| line.strip_prefix("warning: ")).collect::<Vec<_>>();
    assert_eq!(warnings.len(), 2, "{decoded}");
    warnings.sort_unstable();
    let report = node.report();
    let mut told: Vec<_> = report["Warnings"].as_array().unwrap().iter().filter_map(|text| text.as_str()).collect();
    told.sort_unstable();
    assert_eq!(told, warnings);
}
