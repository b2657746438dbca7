//! The guard by the real binary: what drifts comes back, what was stopped stays stopped, /livez answers.

use std::time::Duration;

use nap_e2e::node::{Node, api_options, free_port, text};
use nap_e2e::terminate;
use pretend_azure::{ApiOptions, CsrPolicy};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_secs(30);

struct Guarded {
    node: Node,
    guard: Child,
    port: u16,
}

async fn guarded() -> Guarded {
    let node = Node::new(api_options()).await;
    node.hand_over(node.bootstrap().to_string().as_bytes());
    guarding(node).await
}

/// Boots a node, and leaves it to its guard.
async fn guarding(node: Node) -> Guarded {
    let boot = node.agent(&["boot"]).await;
    assert_eq!(boot.status.code(), Some(0), "{}", text(&boot));
    let port = free_port();
    let guard =
        node.command(&["guard", "--interval", "0.2", "--listen", &format!("127.0.0.1:{port}")]).spawn().unwrap();
    let guarded = Guarded { node, guard, port };
    guarded.until("readyz", async |guarded| guarded.get("/readyz").await).await;
    guarded
}

impl Guarded {
    async fn get(&self, path: &str) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)).await else { return false };
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        let exchange = async {
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_string(&mut answer).await
        };
        exchange.await.is_ok() && answer.starts_with("HTTP/1.1 200")
    }

    /// Looks until it is so; the deadline is what fails.
    async fn until(&self, what: &str, is_so: impl AsyncFn(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self).await {
            assert!(start.elapsed() < LIMIT, "{what} did not happen");
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn file_is(&self, path: &str, wanted: &str) -> bool {
        std::fs::read_to_string(self.node.path(path)).is_ok_and(|text| text == wanted)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_drifts_comes_back() {
    let guarded = guarded().await;
    for path in ["/etc/default/kubeletconfig.json", "/etc/kubernetes/azure.json", "/proc/sys/vm/swappiness"] {
        let wanted = guarded.node.root.read(path);
        std::fs::write(guarded.node.path(path), "drifted\n").unwrap();
        guarded.until(path, async |guarded| guarded.file_is(path, &wanted)).await;
    }
    let [certificate, key] = ["crt", "key"].map(|end| format!("/etc/kubernetes/certs/kubeletserver.{end}"));
    let first = guarded.node.root.read(&certificate);
    std::fs::remove_file(guarded.node.path(&key)).unwrap();
    let is_anew = async |guarded: &Guarded| !guarded.file_is(&certificate, &first) && guarded.node.path(&key).exists();
    guarded.until("another pair", is_anew).await;
    let path = "/etc/containerd/config.toml";
    let wanted = guarded.node.root.read(path);
    std::fs::remove_file(guarded.node.path(path)).unwrap();
    guarded.until(path, async |guarded| guarded.file_is(path, &wanted)).await;
    assert!(guarded.get("/livez").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_writer_is_not_fought_for_ever() {
    let guarded = guarded().await;
    let path = "/etc/modules-load.d/nap-agent.conf";
    let wanted = guarded.node.root.read(path);
    for _ in 0..5 {
        std::fs::write(guarded.node.path(path), "another writer\n").unwrap();
        guarded.until(path, async |guarded| guarded.file_is(path, &wanted)).await;
    }
    std::fs::write(guarded.node.path(path), "another writer\n").unwrap();
    guarded.until("giving up", async |guarded| !guarded.get("/readyz").await).await;
    assert_eq!(guarded.node.root.read(path), "another writer\n");
    assert!(guarded.get("/livez").await, "the agent itself is fine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_before_the_boot_waits_and_is_live() {
    let node = Node::new(api_options()).await;
    let port = free_port();
    let guard =
        node.command(&["guard", "--interval", "0.2", "--listen", &format!("127.0.0.1:{port}")]).spawn().unwrap();
    let guarded = Guarded { node, guard, port };
    guarded.until("livez", async |guarded| guarded.get("/livez").await).await;
    assert!(!guarded.get("/readyz").await);
    assert!(!guarded.node.path("/etc/default/kubelet").exists(), "it does not boot the node by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_guard_ends_well() {
    let mut guarded = guarded().await;
    terminate(guarded.guard.id().unwrap()).unwrap();
    let status = tokio::time::timeout(LIMIT, guarded.guard.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_registers_late_is_completed_and_kept() {
    let node = Node::new(ApiOptions { csr_policy: CsrPolicy::Never, ..api_options() }).await;
    let mut document = node.bootstrap();
    document["boot"]["registrationSeconds"] = json!(2);
    node.hand_over(document.to_string().as_bytes());
    let boot = node.agent(&["boot"]).await;
    assert_eq!(boot.status.code(), Some(34), "{}", text(&boot));
    assert!(node.path("/var/lib/kubelet/bootstrap-kubeconfig").exists(), "kubelet still needs it");

    node.api.set_csr_policy(CsrPolicy::Approve);
    let port = free_port();
    let guard =
        node.command(&["guard", "--interval", "0.2", "--listen", &format!("127.0.0.1:{port}")]).spawn().unwrap();
    let guarded = Guarded { node, guard, port };
    guarded.until("readyz", async |guarded| guarded.get("/readyz").await).await;
    assert_eq!(guarded.node.report()["ExitCode"], "0");
    assert!(!guarded.node.path("/var/lib/kubelet/bootstrap-kubeconfig").exists(), "the token has done its work");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_api_server_that_moves_is_followed() {
    let tag = |address: &str| vec![("AKSapiServerIPAddress".to_owned(), address.to_owned())];
    let node = Node::new(api_options()).await;
    node.imds.update(|instance| instance.tags = tag("127.0.0.5"));
    let mut document = node.bootstrap();
    document["cluster"]["apiServer"] = json!(node.api.url().replace("127.0.0.1", "localhost"));
    document["network"]["privateAPIServer"] = json!(true);
    node.hand_over(document.to_string().as_bytes());
    let guarded = guarding(node).await;
    let names = |guarded: &Guarded, address: &str| {
        guarded.node.root.read("/etc/hosts").lines().any(|line| line == format!("{address} localhost"))
    };
    assert!(names(&guarded, "127.0.0.5"));

    let questions = |guarded: &Guarded| {
        guarded.node.imds.requests().iter().filter(|request| request.path.starts_with("/metadata/instance")).count()
    };
    let before = questions(&guarded);
    guarded.node.imds.update(|instance| instance.tags = tag("127.0.0.6"));
    guarded.until("the other address", async |guarded| names(guarded, "127.0.0.6")).await;
    assert!(!names(&guarded, "127.0.0.5"), "the old one is gone");
    let asked = questions(&guarded) - before;
    assert!((1..=3).contains(&asked), "a look every 200 ms asks for the tags only every 15 s: {asked} requests");
    guarded.until("readyz", async |guarded| guarded.get("/readyz").await).await;
}
