//! Repairs by the real binary, of real processes: what hangs or stays down comes back, and nobody is asked for another node meanwhile.
//!
//! What a repair does not change reaches the end of its ladder after ten minutes; that is told by the model's own tests, in its own time.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nap_e2e::node::{NAME, Node, api_options, free_port, text};
use nap_host::root::Root;
use nap_host::units::{UnitStatus, Units};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::{Instant, sleep};

const KUBELET: &str = "kubelet.service";
const CONTAINERD: &str = "containerd.service";

/// Grace after a boot, the time to find a fault, its repair, and a minute until its signals have cleared.
const LIMIT: Duration = Duration::from_secs(300);

/// From a finding to its repair; who repairs nothing has had his chance then.
const REPAIRED_WITHIN: Duration = Duration::from_secs(10);

/// From systemd's giving up to our repair; usually a second and a half. systemd is heard, or it would be ten.
const BEGUN_WITHIN: Duration = Duration::from_secs(5);

const JOURNAL: &str = "/var/lib/nap-agent/repairs.jsonl";

struct Guarded {
    node: Node,
    guard: Child,
    port: u16,
    /// `/proc` of the node's services, as the kernel has it.
    is_over: Arc<AtomicBool>,
    /// Verdicts in the order in which they came.
    told: Vec<String>,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// A booted node with a guard, when it is healthy.
async fn guarded(node: Node, flags: &[&str]) -> Guarded {
    node.hand_over(node.bootstrap().to_string().as_bytes());
    let boot = node.agent(&["boot"]).await;
    assert_eq!(boot.status.code(), Some(0), "{}", text(&boot));
    let is_over = Arc::new(AtomicBool::new(false));
    mirror_processes(&node, &is_over);
    let port = free_port();
    let guard = guard(&node, port, flags);
    let mut guarded = Guarded { node, guard, port, is_over, told: Vec::new() };
    guarded.until("a healthy node", |document| document["verdict"]["state"] == "Healthy").await;
    guarded.told.clear();
    guarded
}

fn guard(node: &Node, port: u16, flags: &[&str]) -> Child {
    let listen = format!("127.0.0.1:{port}");
    let mut command = node.command(&["guard", "--interval", "0.5", "--listen", &listen]);
    command.args(flags).spawn().unwrap()
}

/// Below a scratch root there is no kernel: what it says of the services' processes is copied there, as it changes.
fn mirror_processes(node: &Node, is_over: &Arc<AtomicBool>) {
    let (root, is_over) = (node.path("/"), Arc::clone(is_over));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            while !is_over.load(Ordering::Relaxed) {
                for unit in [KUBELET, CONTAINERD] {
                    let Ok(status) = status_below(&root, unit).await else { continue };
                    let path = format!("proc/{}/stat", status.main_pid);
                    let copy = root.join(&path);
                    match std::fs::read(PathBuf::from("/").join(&path)) {
                        Ok(stat) => {
                            std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
                            std::fs::write(copy, stat).unwrap();
                        }
                        Err(_) => drop(std::fs::remove_file(copy)), // neither here nor there
                    }
                }
                sleep(Duration::from_secs(1)).await;
            }
        });
    });
}

async fn status_below(root: &std::path::Path, unit: &str) -> anyhow::Result<UnitStatus> {
    Ok(Units::connect(&Root::open(root)?).await?.status(unit).await?)
}

impl Guarded {
    async fn document(&mut self) -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        stream.write_all(b"GET /v1/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let document: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        let state = document["verdict"]["state"].as_str()?.to_owned();
        if self.told.last() != Some(&state) {
            self.told.push(state);
        }
        Some(document)
    }

    async fn until(&mut self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        let mut last = None;
        loop {
            if let Some(document) = self.document().await {
                if is_so(&document) {
                    return document;
                }
                last = Some(document);
            }
            assert!(start.elapsed() < LIMIT, "{what}: {last:#?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Looks until it is so; the deadline is what fails.
    async fn until_unit(&self, what: &str, unit: &str, is_so: impl Fn(&UnitStatus) -> bool) -> UnitStatus {
        let start = Instant::now();
        loop {
            let status = status_below(self.node.root.directory(), unit).await.unwrap();
            if is_so(&status) {
                return status;
            }
            assert!(start.elapsed() < LIMIT, "{what}: {status}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn signal(&self, unit: &str, signal: Signal) -> u32 {
        let status = self.until_unit("a process", unit, |status| status.main_pid > 0 && status.is_active()).await;
        kill(Pid::from_raw(status.main_pid.try_into().unwrap()), signal).unwrap();
        status.main_pid
    }

    /// What was done to a unit by systemd's callers, after so many calls.
    fn calls(&self, after: usize, unit: &str) -> Vec<String> {
        let history = self.node.systemd.as_ref().unwrap().history();
        history[after..].iter().filter(|call| call.unit == unit).map(|call| call.verb.clone()).collect()
    }

    fn calls_so_far(&self) -> usize {
        self.node.systemd.as_ref().unwrap().history().len()
    }

    /// The journal of repairs, line by line: the attempt's number, and how it ended.
    fn journal(&self) -> Vec<(u64, Option<String>)> {
        let text = std::fs::read_to_string(self.node.path(JOURNAL)).unwrap_or_default(); // nothing was repaired
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let of = |line: Value| (line["id"].as_u64().unwrap(), line["ended"]["outcome"].as_str().map(str::to_owned));
        lines.map(of).collect()
    }

    async fn until_journal(&self, lines: usize) {
        let start = Instant::now();
        while self.journal().len() < lines {
            assert!(start.elapsed() < LIMIT, "{:?}", self.journal());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn subsystem<'a>(document: &'a Value, name: &str) -> &'a Value {
    document["subsystems"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap()
}

fn reasons(document: &Value) -> BTreeSet<&str> {
    let subsystems = document["subsystems"].as_array().into_iter().flatten();
    let findings = subsystems.flat_map(|one| one["findings"].as_array().into_iter().flatten());
    findings.filter_map(|finding| finding["reason"].as_str()).collect()
}

fn note(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{text}"); // nobody listens: nobody needs to know
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containerd_that_hangs_is_restarted_and_the_verdict_says_so_until_it_is_well() {
    let mut guarded = guarded(Node::new(api_options()).await, &[]).await;
    let before = guarded.calls_so_far();
    let hung = guarded.signal(CONTAINERD, Signal::SIGSTOP).await;
    let start = Instant::now();
    guarded.until("the finding", |document| reasons(document).contains("ContainerdUnresponsive")).await;
    let found = start.elapsed();
    let document = guarded.until("a repair", |document| document["verdict"]["state"] == "Repairing").await;
    let repair = &document["verdict"]["repair"];
    assert_eq!((&repair["action"], &repair["attempt"]), (&"RestartContainerd".into(), &1.into()), "{document:#}");
    assert!(repair["deadline"].is_string() && document["verdict"]["next"]["by"].is_string(), "{document:#}");
    guarded
        .until_unit("another process", CONTAINERD, |unit| unit.is_active() && ![0, hung].contains(&unit.main_pid))
        .await;
    let back = start.elapsed();
    let document = guarded.until("a healthy node", |document| document["verdict"]["state"] == "Healthy").await;
    note(&format!("containerd: hung, found {found:.1?}, back {back:.1?}, healthy {:.1?}", start.elapsed()));
    assert_eq!(guarded.told, ["Healthy", "Degraded", "Repairing", "Healthy"]);
    assert!(back - found < Duration::from_secs(60));

    // Told to write its stacks, and let go on, or it could not.
    assert_eq!(guarded.calls(before, CONTAINERD), ["KillUnit", "KillUnit", "ResetFailedUnit", "RestartUnit"]);
    assert_eq!(guarded.calls(before, KUBELET), [] as [String; 0], "nothing was wrong with it");
    let log = guarded.node.root.read("/var/log/pretend/containerd.service.log");
    assert!(log.contains("BEGIN goroutine stack dump"), "{log}");
    guarded.until_journal(2).await;
    assert_eq!(guarded.journal(), [(1, None), (1, Some("Succeeded".to_owned()))]);
    let runtime = subsystem(&document, "runtime");
    assert_eq!(runtime["repairs"][0]["result"], "Succeeded", "{runtime:#}");
    assert_eq!(runtime["budgets"][0]["remaining"], 1, "{runtime:#}");
    // Pods notice such a repair, so evidence was kept before it.
    let bundles = text(&guarded.node.agent(&["bundle", "--list"]).await);
    assert!(bundles.trim_end().ends_with("-RestartContainerd.tar.gz"), "{bundles}");

    // What people see of it.
    let start = Instant::now();
    loop {
        let mut events = guarded.node.api.events();
        events.retain(|event| event["source"]["component"] == "nap-agent");
        let mut told: Vec<_> = events.iter().map(|event| event["reason"].as_str().unwrap()).collect();
        told.sort_unstable();
        if told.contains(&"Recovered") {
            assert_eq!(told, ["ContainerdUnresponsive", "Recovered", "RepairBegun", "RepairSucceeded"]);
            assert!(events.iter().all(|event| event["involvedObject"]["name"] == NAME), "{events:#?}");
            break;
        }
        assert!(start.elapsed() < LIMIT, "{events:#?}");
        sleep(Duration::from_millis(100)).await;
    }
    let shown = text(&guarded.node.agent(&["repairs"]).await);
    assert!(shown.contains("RestartContainerd") && shown.contains("Succeeded"), "{shown}");
}

/// A kubelet that systemd gives up after two starts, and whose next start waits while `/run/hold` is there.
async fn node_with_a_kubelet_that_is_given_up() -> Node {
    let node = Node::new(api_options()).await;
    let drop_in = "[Unit]\nStartLimitIntervalSec=1000\nStartLimitBurst=2\n[Service]\nExecStartPre=/opt/bin/gate\n";
    node.root.write("/etc/systemd/system/kubelet.service.d/99-test.conf", drop_in);
    node.root.write("/opt/bin/gate", "#!/bin/sh\nwhile test -e \"$PRETEND_ROOT/run/hold\"; do sleep 0.05; done\n");
    std::fs::set_permissions(node.path("/opt/bin/gate"), std::fs::Permissions::from_mode(0o755)).unwrap();
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_systemd_gave_up_is_back_also_when_the_agent_dies_in_the_middle() {
    let mut guarded = guarded(node_with_a_kubelet_that_is_given_up().await, &[]).await;
    let before = guarded.calls_so_far();
    let start = Instant::now();
    // Once systemd starts it again, the second time not.
    for _ in 0..2 {
        let pid = guarded.signal(KUBELET, Signal::SIGKILL).await;
        guarded.until_unit("its end", KUBELET, |status| status.main_pid != pid).await;
    }
    guarded.until_unit("its failure", KUBELET, |status| status.active == "failed" && status.main_pid == 0).await;
    let failed = Instant::now();
    guarded.node.root.write("/run/hold", "");

    // Recorded, and in the middle of it: its start waits at the gate.
    guarded.until_journal(1).await;
    let begun = failed.elapsed();
    assert!(begun < BEGUN_WITHIN, "{begun:?}");
    guarded.until("the finding", |document| reasons(document).contains("KubeletDown")).await;
    guarded.until_unit("the repair", KUBELET, |status| status.sub == "start-pre").await;
    guarded.guard.kill().await.unwrap();
    guarded.guard = guard(&guarded.node, guarded.port, &[]);
    let document = guarded.until("a document", |_| true).await;
    assert_eq!(document["verdict"]["state"], "Repairing", "{document:#}");
    std::fs::remove_file(guarded.node.path("/run/hold")).unwrap();
    guarded.until_unit("kubelet", KUBELET, UnitStatus::is_active).await;
    let back = start.elapsed();
    let document = guarded.until("a healthy node", |document| document["verdict"]["state"] == "Healthy").await;
    note(&format!(
        "kubelet: given up, its repair begun {begun:.1?} later; since the first kill back {back:.1?}, healthy {:.1?}",
        start.elapsed()
    ));

    // What came before was over within a second or two, and may not have been seen.
    let told: Vec<_> = guarded.told.iter().skip_while(|state| *state != "Repairing").collect();
    assert_eq!(told, ["Repairing", "Healthy"], "{:?}", guarded.told);
    assert_eq!(guarded.calls(before, KUBELET), ["ResetFailedUnit", "RestartUnit"], "once, and by nobody else");
    guarded.until_journal(2).await;
    assert_eq!(guarded.journal(), [(1, None), (1, Some("Succeeded".to_owned()))]);
    assert_eq!(subsystem(&document, "kubelet")["budgets"][0]["remaining"], 2, "{document:#}");
    assert_that_what_somebody_stops_stays_stopped(&mut guarded).await;
}

async fn assert_that_what_somebody_stops_stays_stopped(guarded: &mut Guarded) {
    let root = Root::open(guarded.node.root.directory()).unwrap();
    Units::connect(&root).await.unwrap().stop(KUBELET, LIMIT).await.unwrap();
    let before = guarded.calls_so_far();
    guarded.until("the finding", |document| reasons(document).contains("KubeletStopped")).await;
    sleep(REPAIRED_WITHIN).await; // there is nothing to wait for
    assert_eq!((guarded.calls_so_far(), guarded.journal().len()), (before, 2));
    assert_eq!(guarded.told.last().unwrap(), "Degraded");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_observes_touches_nothing() {
    let mut guarded = guarded(Node::new(api_options()).await, &["--observe-only"]).await;
    let before = guarded.calls_so_far();
    let hung = guarded.signal(CONTAINERD, Signal::SIGSTOP).await;
    let proven = |document: &Value| {
        let runtime = subsystem(document, "runtime");
        let found =
            runtime["findings"].as_array().into_iter().flatten().find(|one| one["reason"] == "ContainerdUnresponsive");
        found.is_some_and(|finding| finding["confidencePercent"].as_u64() >= Some(80))
    };
    let document = guarded.until("the finding", proven).await;
    // What it would be without repairs, and when.
    assert_eq!(document["verdict"]["next"]["state"], "NeedsReplacement", "{document:#}");
    guarded.node.root.write("/etc/kubernetes/azure.json", "drifted\n");
    guarded.until("the drift", |document| reasons(document).contains("ConfigurationDrift")).await;
    sleep(REPAIRED_WITHIN).await; // there is nothing to wait for
    let status = status_below(guarded.node.root.directory(), CONTAINERD).await.unwrap();
    assert_eq!((status.main_pid, guarded.calls_so_far()), (hung, before));
    assert_eq!(guarded.node.root.read("/etc/kubernetes/azure.json"), "drifted\n");
    assert_eq!(guarded.journal(), []);
    assert_eq!(guarded.told, ["Healthy", "Degraded"]);
    let shown = text(&guarded.node.agent(&["repairs", "--observe-only"]).await);
    assert!(shown.contains("RestartContainerd is not allowed: nap-agent only observes"), "{shown}");
    let shown = text(&guarded.node.agent(&["repairs"]).await);
    assert!(shown.contains("RestartContainerd") && !shown.contains("not allowed"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_certificate_expired_joins_again_by_its_bootstrap_token() {
    const TOKEN: &str = "/var/lib/kubelet/bootstrap-kubeconfig";
    let mut guarded = guarded(Node::new(api_options()).await, &[]).await;
    let current = "/var/lib/kubelet/pki/kubelet-client-current.pem";
    let first = guarded.node.root.read(current);
    assert!(!guarded.node.path(TOKEN).exists(), "it has joined");
    let before = guarded.calls_so_far();
    let ago = |hours: u64| std::time::SystemTime::now() - Duration::from_secs(3600 * hours);
    let expired = guarded.node.api.mint_client_certificate_valid(NAME, ago(48), ago(24));
    let written = format!("{}{}", expired.certificate_pem, expired.key_pem);
    guarded.node.root.write(current, &written);
    let start = Instant::now();
    guarded.until("the finding", |document| reasons(document).contains("ClientCertificateExpired")).await;
    let found = start.elapsed();
    guarded.until_journal(2).await; // it begins, and has ended well
    let told = guarded.until("a healthy node", |document| document["verdict"]["state"] == "Healthy").await;
    note(&format!("an expired certificate: found after {found:?}, healthy after {:?}", start.elapsed()));
    assert_eq!(guarded.calls(before, KUBELET), ["ResetFailedUnit", "RestartUnit"], "{told:#}");
    assert_eq!(guarded.journal(), [(1, None), (1, Some("Succeeded".to_owned()))]);
    let now = guarded.node.root.read(current);
    assert!(now != first && now != written, "kubelet has a third one");
    assert!(!guarded.told.iter().any(|verdict| verdict.starts_with("Needs")), "{:?}", guarded.told);
    let gone = Instant::now();
    while guarded.node.path(TOKEN).exists() {
        assert!(gone.elapsed() < LIMIT, "the token stays on the disk");
        sleep(Duration::from_millis(100)).await;
    }
}
