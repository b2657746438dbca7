//! A node's life: containerd, bootstrap, registration, a network, a restart.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pretend_azure::{ApiOptions, ApiServer, BootstrapToken};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const TOKEN: &str = "abcdef.0123456789abcdef";
const KUBELET: &str = env!("CARGO_BIN_EXE_pretend-kubelet");
const CONTAINERD: &str = env!("CARGO_BIN_EXE_pretend-containerd");
const PATIENCE: Duration = Duration::from_secs(60);

/// A child that ends with its test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended by itself
        let _ = self.0.wait();
    }
}

impl Program {
    /// Asks it to end, and returns its exit code.
    fn stop(mut self) -> Option<i32> {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        self.0.wait().unwrap().code()
    }
}

/// A node below a folder, with its service manager's socket.
struct Machine {
    folder: tempfile::TempDir,
    messages: UnixDatagram,
    health_port: u16,
}

impl Machine {
    async fn new(server: &ApiServer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let messages = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        messages.set_read_timeout(Some(PATIENCE)).unwrap();
        let health_port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let machine = Self { folder, messages, health_port };
        machine.write("etc/containerd/config.toml", "version = 2\n");
        machine.write("proc/sys/kernel/hostname", "Node-1\n");
        machine.write("etc/kubernetes/certs/ca.crt", &server.ca_pem());
        let config = json!({
            "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1", "maxPods": 50,
            "healthzPort": machine.health_port, "nodeStatusUpdateFrequency": "1s",
            "registerWithTaints": [{"key": "karpenter.sh/unregistered", "effect": "NoExecute"}],
        });
        machine.write("etc/default/kubeletconfig.json", &config.to_string());
        let bootstrap = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster:\n    \
             certificate-authority: /etc/kubernetes/certs/ca.crt\n    server: {}\nusers:\n- name: u\n  user:\n    \
             token: {TOKEN}\ncontexts:\n- name: x\n  context: {{cluster: c, user: u}}\ncurrent-context: x\n",
            server.url()
        );
        machine.write("var/lib/kubelet/bootstrap-kubeconfig", &bootstrap);
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn start(&self, program: &str, arguments: &[&str]) -> Program {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("PRETEND_ROOT", self.folder.path());
        command.env("NOTIFY_SOCKET", self.path("notify")).env("WATCHDOG_USEC", "60000000");
        Program(command.spawn().unwrap())
    }

    fn start_kubelet(&self) -> Program {
        self.start(
            KUBELET,
            &[
                "--config=/etc/default/kubeletconfig.json",
                "--node-labels=karpenter.sh/nodepool=default",
                "--bootstrap-kubeconfig=/var/lib/kubelet/bootstrap-kubeconfig",
                "--kubeconfig=/var/lib/kubelet/kubeconfig",
                "--cloud-provider=external",
                "--provider-id",
                "azure:///subscriptions/s/vm",
                "--node-ip=10.0.0.4",
                "--v=2",
            ],
        )
    }

    /// Waits until a program says that it is ready.
    fn ready(&self) {
        let mut buffer = [0; 100];
        loop {
            let length = self.messages.recv(&mut buffer).unwrap();
            match &buffer[..length] {
                b"READY=1" => return,
                other => assert_eq!(other, b"WATCHDOG=1"),
            }
        }
    }

    async fn health(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.health_port)).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

async fn server() -> ApiServer {
    let bootstrap_tokens = vec![BootstrapToken::try_from(TOKEN).unwrap()];
    ApiServer::start(ApiOptions { bootstrap_tokens, ..ApiOptions::default() }).await.unwrap()
}

/// Status and reason of the Ready condition.
fn readiness(node: &Node) -> Option<(String, String)> {
    let status = serde_json::to_value(node).unwrap()["status"].clone();
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
    Some((ready["status"].as_str()?.to_owned(), ready["reason"].as_str()?.to_owned()))
}

/// Waits for the Node with this Ready condition.
async fn node_with(server: &ApiServer, status: &str, reason: &str) -> Node {
    let wanted = Some((status.to_owned(), reason.to_owned()));
    let waiting = server.node_matching(|node| readiness(node) == wanted);
    tokio::time::timeout(PATIENCE, waiting).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_becomes_ready_and_keeps_its_identity() {
    let server = server().await;
    let machine = Machine::new(&server).await;
    let containerd = machine.start(CONTAINERD, &[]);
    machine.ready();
    let kubelet = machine.start_kubelet();
    machine.ready();

    let node = serde_json::to_value(&server.nodes()[0]).unwrap();
    assert_eq!(node["metadata"]["name"], "node-1");
    assert_eq!(node["metadata"]["labels"]["karpenter.sh/nodepool"], "default");
    assert_eq!(node["spec"]["providerID"], "azure:///subscriptions/s/vm");
    let taints: Vec<_> = node["spec"]["taints"].as_array().unwrap().iter().map(|taint| &taint["key"]).collect();
    assert_eq!(taints, ["karpenter.sh/unregistered", "node.cloudprovider.kubernetes.io/uninitialized"]);
    node_with(&server, "False", "KubeletNotReady").await;
    assert!(machine.health().await.ends_with("ok"));
    machine.write("etc/cni/net.d/10-test.conflist", "{}");
    let ready = node_with(&server, "True", "KubeletReady").await;
    let status = serde_json::to_value(ready).unwrap()["status"].clone();
    assert_eq!((&status["capacity"]["pods"], &status["addresses"][0]["address"]), (&json!("50"), &json!("10.0.0.4")));

    assert_credentials(&machine.path("var/lib/kubelet"));
    // The Lease comes after the status that said Ready.
    tokio::time::timeout(PATIENCE, lease(&server)).await.unwrap();
    assert_eq!(kubelet.stop(), Some(0));
    std::fs::remove_file(machine.path("var/lib/kubelet/bootstrap-kubeconfig")).unwrap();
    let (uid, requests) = (server.nodes()[0].metadata.uid.clone(), server.csrs().len());
    let kubelet = machine.start_kubelet();
    machine.ready();
    assert_eq!((server.nodes()[0].metadata.uid.clone(), server.csrs().len()), (uid, requests));
    assert_eq!((kubelet.stop(), containerd.stop()), (Some(0), Some(0)));
    assert_eq!(server.leases()[0].metadata.name.as_deref(), Some("node-1"));
}

/// Looks until there is a Lease.
async fn lease(server: &ApiServer) {
    while server.leases().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn assert_credentials(folder: &Path) {
    let current = folder.join("pki/kubelet-client-current.pem");
    let pem = std::fs::read_to_string(&current).unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----") && pem.contains("PRIVATE KEY-----"));
    assert!(std::fs::read_link(&current).unwrap().to_str().unwrap().starts_with("kubelet-client-20"));
    assert_eq!(std::fs::metadata(&current).unwrap().permissions().mode() & 0o777, 0o600);
    let kubeconfig = std::fs::read_to_string(folder.join("kubeconfig")).unwrap();
    assert!(kubeconfig.contains("client-key: /var/lib/kubelet/pki/kubelet-client-current.pem\n"), "{kubeconfig}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_token_joins_as_soon_as_it_is_accepted() {
    let server = server().await;
    server.set_bootstrap_tokens(Vec::new());
    let machine = Machine::new(&server).await;
    let _containerd = machine.start(CONTAINERD, &[]);
    machine.ready();
    let _kubelet = machine.start_kubelet();
    tokio::time::timeout(PATIENCE, server.log().reached(2)).await.unwrap();
    assert_eq!(server.requests()[0].status, Some(401), "and it asks again");
    assert!(TcpStream::connect(("127.0.0.1", machine.health_port)).await.is_err(), "healthy only with a certificate");
    server.set_bootstrap_tokens(vec![BootstrapToken::try_from(TOKEN).unwrap()]);
    machine.ready();
    assert_eq!(server.nodes().len(), 1);
}

#[test]
fn what_a_real_kubelet_refuses_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = r#"{"kind":"KubeletConfiguration","apiVersion":"kubelet.config.k8s.io/v1beta1","x":1}"#;
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let run = |program: &str, argument: &str| {
        let mut command = Command::new(program);
        command
            .arg(argument)
            .env_clear()
            .env("PRETEND_ROOT", folder.path())
            .stderr(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = Program(command.spawn().unwrap());
        let mut text = String::new();
        child.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        child.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (child.0.wait().unwrap().code(), text)
    };
    assert_eq!(run(KUBELET, "--x=1"), (Some(1), "Error: unknown flag: --x\n".to_owned()));
    let (code, text) = run(KUBELET, "--config=/config.json");
    assert!(code == Some(1) && text.contains("strict decoding error: unknown field \"x\""), "{text}");
    assert_eq!(run(KUBELET, "--version"), (Some(0), "Kubernetes v1.36.2\n".to_owned()));
    let version = "containerd github.com/containerd/containerd 1.7.24 unknown\n";
    assert_eq!(run(CONTAINERD, "--version"), (Some(0), version.to_owned()));
}
