//! Secure TLS bootstrapping by the real binary, with a pretend client: one that works, and every way in which it does not.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nap_e2e::node::{NAME, Node, api_options, text};
use nap_model::os::SECURE_TLS_BOOTSTRAP_CLIENT;
use serde_json::{Value, json};

const CALLS: &str = "/var/log/pretend/client-calls";

/// Notes its arguments, and refuses to work beside a token that nobody needs.
const NOTE_CALL: &str = "#!/bin/sh\nset -e\ncd \"$PRETEND_ROOT\"\necho \"$@\" >>var/log/pretend/client-calls\n\
                         test ! -e var/lib/kubelet/bootstrap-kubeconfig\n";

/// Puts the certificate and the kubeconfig that the test has laid out where the real client writes them.
const WORK: &str = "mkdir -p var/lib/kubelet/pki\ncp usr/share/identity.pem var/lib/kubelet/pki/kubelet-client-1.pem\n\
                    ln -sf kubelet-client-1.pem var/lib/kubelet/pki/kubelet-client-current.pem\n\
                    cp usr/share/kubeconfig var/lib/kubelet/kubeconfig\n";

/// A node whose image has a client that does this after it has noted its call.
async fn node_with(client: &str) -> Node {
    let node = Node::new(api_options()).await;
    let identity = node.api.mint_client_certificate(NAME);
    node.root.write("/usr/share/identity.pem", &format!("{}{}", identity.certificate_pem, identity.key_pem));
    let pem = "/var/lib/kubelet/pki/kubelet-client-current.pem";
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "default-context",
        "clusters": [{"name": "default-cluster", "cluster": {"server": node.api.url(), "certificate-authority": "/etc/kubernetes/certs/ca.crt"}}],
        "users": [{"name": "default-auth", "user": {"client-certificate": pem, "client-key": pem}}],
        "contexts": [{"name": "default-context", "context": {"cluster": "default-cluster", "user": "default-auth"}}],
    });
    node.root.write("/usr/share/kubeconfig", &kubeconfig.to_string());
    node.root.write(SECURE_TLS_BOOTSTRAP_CLIENT, &format!("{NOTE_CALL}{client}"));
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(node.path(SECURE_TLS_BOOTSTRAP_CLIENT), mode).unwrap();
    node
}

fn hand_over(node: &Node, token: Option<&str>) {
    let mut document = node.bootstrap();
    document["identity"] =
        json!({"secureTLSBootstrap": {"enabled": true, "identityClientID": "someone", "deadlineSeconds": 3}});
    if let Some(token) = token {
        document["identity"]["bootstrapToken"] = json!(token);
    }
    node.hand_over(document.to_string().as_bytes());
}

async fn boots(node: &Node) -> String {
    let boot = node.agent(&["boot"]).await;
    assert_eq!(boot.status.code(), Some(0), "{}", text(&boot));
    assert!(!node.path("/var/lib/kubelet/bootstrap-kubeconfig").exists(), "the token has done its work");
    text(&boot)
}

/// How often kubelet asked for a certificate with the token.
fn requests(node: &Node) -> usize {
    node.api.csrs().len()
}

fn calls(node: &Node) -> Vec<String> {
    std::fs::read_to_string(node.path(CALLS)).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// What the report says of the order in which credentials were tried.
fn tried(node: &Node) -> Vec<String> {
    let notes = node.report()["Notes"].as_array().cloned().unwrap_or_default();
    let notes = notes.iter().filter_map(Value::as_str).filter(|note| note.starts_with("SecureTlsBootstrapFailed"));
    notes.map(str::to_owned).collect()
}

fn note(why: &str) -> String {
    format!(
        "SecureTlsBootstrapFailed: kubelet's credential was tried by secure TLS bootstrapping first ({why}), then the bootstrap token"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_without_a_token_and_asks_once() {
    let mut node = node_with(WORK).await;
    hand_over(&node, None);
    boots(&node).await;
    assert_eq!((requests(&node), node.api.nodes().len(), tried(&node)), (0, 1, vec![]));
    let [call] = calls(&node).try_into().unwrap();
    let host = node.api.address().ip();
    assert_eq!(
        call,
        format!(
            "--verbose --ensure-authorized --next-proto=aks-tls-bootstrap --aad-resource=6dae42f8-4368-4678-94ff-3960e28e3630 \
             --apiserver-fqdn={host} --cloud-provider-config=/etc/kubernetes/azure.json \
             --cluster-ca-file=/etc/kubernetes/certs/ca.crt --kubeconfig=/var/lib/kubelet/kubeconfig \
             --cert-dir=/var/lib/kubelet/pki --log-file=/var/log/azure/aks/secure-tls-bootstrap.log \
             --user-assigned-identity-id=someone"
        )
    );
    let again = boots(&node).await;
    assert!(again.contains("changed=0"), "{again}");
    let status = node.agent(&["status"]).await;
    assert_eq!(status.status.code(), Some(0), "nothing has drifted: {}", text(&status));
    node.reboot(2);
    boots(&node).await;
    assert_eq!(calls(&node).len(), 1, "who has a certificate asks for none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_nobody_needs_may_be_wrong() {
    let node = node_with(WORK).await;
    hand_over(&node, Some("zzzzzz.zzzzzzzzzzzzzzzz"));
    boots(&node).await;
    assert_eq!((requests(&node), tried(&node)), (0, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_fails_leaves_it_to_the_token() {
    let node = node_with("exit 7\n").await;
    hand_over(&node, Some(nap_e2e::node::TOKEN));
    boots(&node).await;
    let why = "secure-tls-bootstrap.service did not restart: job failed, failed (failed), result exit-code, exit status 7, 0 restarts";
    assert_eq!((requests(&node), calls(&node).len(), tried(&node)), (1, 1, vec![note(why)]));
    let status = node.agent(&["status"]).await;
    assert_eq!(status.status.code(), Some(0), "the guard plans with the same facts: {}", text(&status));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_costs_its_deadline_and_no_more() {
    let node = node_with("echo $$ >var/log/pretend/client-id\nexec sleep 1000\n").await;
    hand_over(&node, Some(nap_e2e::node::TOKEN));
    let start = Instant::now();
    boots(&node).await;
    let took = start.elapsed();
    assert!(took > Duration::from_secs(3) && took < Duration::from_secs(12), "{took:?}");
    let [tried] = tried(&node).try_into().unwrap();
    assert!(tried.contains("result timeout") && tried.ends_with("then the bootstrap token"), "{tried}");
    assert_eq!(requests(&node), 1);
    let id = node.root.read("/var/log/pretend/client-id");
    assert!(!std::path::Path::new("/proc").join(id.trim()).exists(), "it is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_only_says_it_did_is_not_believed() {
    let node = node_with("exit 0\n").await;
    hand_over(&node, Some(nap_e2e::node::TOKEN));
    boots(&node).await;
    let why = "the client ended well and left no valid certificate";
    assert_eq!((requests(&node), tried(&node)), (1, vec![note(why)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_the_client_leaves_it_to_the_token() {
    let node = Node::new(api_options()).await;
    hand_over(&node, Some(nap_e2e::node::TOKEN));
    boots(&node).await;
    let why = "the image has no /opt/bin/aks-secure-tls-bootstrap-client";
    assert_eq!((requests(&node), tried(&node)), (1, vec![note(why)]));
}

/// A boot without a credential names everything that was tried.
async fn fails(node: &Node, reason: &str, seen: &[&str]) {
    let boot = node.agent(&["boot"]).await;
    assert_ne!(boot.status.code(), Some(0));
    let report = node.report();
    assert_eq!(report["Reason"], reason, "{}", text(&boot));
    let error = report["Error"].as_str().unwrap();
    seen.iter().for_each(|seen| assert!(error.contains(seen), "{seen}: {error}"));
    assert!(node.api.nodes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_token_left_the_boot_says_what_was_tried() {
    let none = "second, the bootstrap token: the configuration has none";
    let node = node_with("exit 7\n").await;
    hand_over(&node, None);
    fails(
        &node,
        "BootstrapCredentialMissing",
        &["first, secure TLS bootstrapping: secure-tls-bootstrap.service did not", none],
    )
    .await;
    std::fs::remove_file(node.path(SECURE_TLS_BOOTSTRAP_CLIENT)).unwrap();
    fails(&node, "BootstrapCredentialMissing", &["first, secure TLS bootstrapping: the image has no", none]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_needed_must_be_right() {
    let node = node_with("exit 7\n").await;
    hand_over(&node, Some("zzzzzz.zzzzzzzzzzzzzzzz"));
    fails(&node, "BootstrapTokenRejected", &["401"]).await;
    assert_eq!(tried(&node).len(), 1, "the report tells of the client, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_boot_tries_the_client_again() {
    let node = node_with(&format!("test -e usr/share/ready\n{WORK}")).await;
    hand_over(&node, None);
    fails(&node, "BootstrapCredentialMissing", &["exit status 1"]).await;
    node.root.write("/usr/share/ready", "");
    boots(&node).await;
    assert_eq!((calls(&node).len(), requests(&node)), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_gets_another_certificate_for_one_that_expired() {
    let mut node = node_with(WORK).await;
    hand_over(&node, None);
    boots(&node).await;
    node.reboot(2);
    boots(&node).await;
    let _guard = node.command(&["guard", "--interval", "0.2", "--listen", "127.0.0.1:0"]).spawn().unwrap();

    let path = "/var/lib/kubelet/pki/kubelet-client-1.pem";
    let good = node.root.read(path);
    let before = node.systemd.as_ref().unwrap().history().len();
    let ago = |hours: u64| std::time::SystemTime::now() - Duration::from_secs(3600 * hours);
    let expired = node.api.mint_client_certificate_valid(NAME, ago(48), ago(24));
    node.root.write(path, &format!("{}{}", expired.certificate_pem, expired.key_pem));
    let start = Instant::now();
    while node.root.read(path) != good {
        assert!(start.elapsed() < Duration::from_secs(30), "the client was not run again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(calls(&node).len(), 2);
    // A kubelet that runs does not look for it.
    while !node.systemd.as_ref().unwrap().history()[before..]
        .iter()
        .any(|call| call.unit == "kubelet.service" && call.verb == "RestartUnit")
    {
        assert!(start.elapsed() < Duration::from_secs(30), "kubelet was not restarted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
