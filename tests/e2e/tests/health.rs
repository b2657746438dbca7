//! The health endpoint by the real binary and real sockets: polls, waits, and those who do not behave.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nap_e2e::node::{NAME, Node, api_options, free_port, text};
use nap_host::reviews::AUDIENCE;
use pretend_azure::ScheduledEvent;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// From the boot to the first healthy verdict: a minute of grace, and a few looks.
const LIMIT: Duration = Duration::from_secs(120);

/// A client that is slower than five seconds is dropped.
const SLOW: Duration = Duration::from_secs(20);

/// Who may send intents.
const OPERATOR: &str = "node-provisioner";

struct Watched {
    node: Node,
    /// Ends with it.
    guard: Child,
    port: u16,
    tls_port: u16,
    authority: Authority,
}

/// An answer: its status, its head in lower case, its body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_default()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.body))
    }
}

async fn watched() -> Watched {
    watched_with("").await
}

/// The same with this in its nap-agent.toml.
async fn watched_with(settings: &str) -> Watched {
    let node = Node::new(api_options()).await;
    node.hand_over(node.bootstrap().to_string().as_bytes());
    std::fs::create_dir_all(node.path("/etc/nap-agent")).unwrap();
    std::fs::write(node.path("/etc/nap-agent/nap-agent.toml"), settings).unwrap();
    let boot = node.agent(&["boot"]).await;
    assert_eq!(boot.status.code(), Some(0), "{}", text(&boot));
    let authority = Authority::new("health");
    let folder = node.path("/tls");
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, pem: &str| std::fs::write(folder.join(name), pem).unwrap();
    let (certificate, key) = authority.sign(ExtendedKeyUsagePurpose::ServerAuth);
    file("cert.pem", &certificate);
    file("key.pem", &key);
    file("ca.pem", &authority.pem());
    let (port, tls_port) = (free_port(), free_port());
    let guard = guard(&node, port, tls_port, &[]);
    Watched { node, guard, port, tls_port, authority }
}

fn guard(node: &Node, port: u16, tls_port: u16, more: &[&str]) -> Child {
    let file = |name: &str| node.path("/tls").join(name).display().to_string();
    let mut command = node.command(&["guard", "--interval", "0.2"]);
    command
        .args(["--listen", &format!("127.0.0.1:{port}"), "--tls-listen", &format!("127.0.0.1:{tls_port}")])
        .args(["--tls-certificate", &file("cert.pem"), "--tls-key", &file("key.pem")])
        .args(["--tls-client-ca", &file("ca.pem"), "--tls-operator", OPERATOR])
        .args(more);
    command.spawn().unwrap()
}

impl Watched {
    fn restart_guard(&mut self) {
        self.restart_guard_with(&[]);
    }

    fn restart_guard_with(&mut self, more: &[&str]) {
        self.guard = guard(&self.node, self.port, self.tls_port, more);
    }

    async fn connect(&self) -> TcpStream {
        let start = Instant::now();
        loop {
            match TcpStream::connect(("127.0.0.1", self.port)).await {
                Ok(stream) => return stream,
                Err(error) => assert!(start.elapsed() < LIMIT, "{error}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn get(&self, target: &str, headers: &str) -> Answer {
        exchange(&mut self.connect().await, &format!("GET {target} HTTP/1.1"), headers).await.unwrap()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let answer = self.get("/v1/health", "").await;
            if answer.status == 200 && is_so(&answer.json()) {
                return answer.json();
            }
            assert!(start.elapsed() < LIMIT, "{what}: {}", answer.body);
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn tls(&self, client: Option<&(String, String)>) -> std::io::Result<Answer> {
        exchange(&mut self.connect_tls(client).await?, "GET /v1/health?view=verdict HTTP/1.1", "").await
    }

    /// Sends a text to /v1/intents; the endpoint may come up a moment after the other one.
    async fn intent(&self, client: &(String, String), body: &str) -> Answer {
        let start = Instant::now();
        let mut stream = loop {
            match self.connect_tls(Some(client)).await {
                Ok(stream) => break stream,
                Err(error) => assert!(start.elapsed() < LIMIT, "{error}"),
            }
            sleep(Duration::from_millis(50)).await;
        };
        let headers = format!("content-length: {}\r\n\r\n{body}", body.len());
        exchange(&mut stream, "POST /v1/intents HTTP/1.1", &headers).await.unwrap()
    }

    async fn connect_tls(&self, client: Option<&(String, String)>) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        let config = match client {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
        };
        let stream = TcpStream::connect(("127.0.0.1", self.tls_port)).await?;
        let name = ServerName::try_from("node.test").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

/// One request, and all that comes back until the connection ends.
async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    line: &str,
    headers: &str,
) -> std::io::Result<Answer> {
    stream.write_all(format!("{line}\r\nhost: x\r\nconnection: close\r\n{headers}\r\n").as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    let text = String::from_utf8(bytes).unwrap();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Err(std::io::Error::other(format!("no answer: {text}")));
    };
    let status = head.split(' ').nth(1).unwrap_or_default().parse().unwrap();
    Ok(Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
}

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![format!("{name}.test")]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate and its key.
    fn sign(&self, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        self.sign_as("somebody", usage)
    }

    fn sign_as(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["node.test".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_polled_from_its_boot_to_its_preemption() {
    let watched = watched().await;
    let document = watched.until("a document", |document| document["phase"] == "Ready").await;
    assert_eq!(document["kind"], "NodeHealth");
    assert_eq!(document["suppressions"][0]["reason"], "BootGrace", "{document:#}");
    let healthy = watched.until("a healthy node", |document| document["verdict"]["state"] == "Healthy").await;
    assert_eq!(healthy["node"]["name"], "aks-default-1");
    let state = |name: &str| {
        let all = healthy["subsystems"].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap()["state"].clone()
    };
    for name in ["kernel", "storage", "runtime", "kubelet", "network", "platform", "configuration"] {
        assert_eq!(state(name), "Ok", "{name}: {healthy:#}");
    }

    // Polls: the second has no body, and stands for the first as long as nothing changes.
    let first = watched.get("/v1/health", "").await;
    let tag = first.header("etag").to_owned();
    assert!(first.body.len() < 2048, "{}", first.body);
    let again = watched.get("/v1/health", &format!("if-none-match: {tag}\r\n")).await;
    assert_eq!((again.status, again.body.as_str(), again.header("node-health-verdict")), (304, "", "healthy"));
    assert!(again.head.len() < 200, "{}", again.head);
    assert!(again.header("node-health-age").parse::<u64>().unwrap() < 5);
    let head = exchange(&mut watched.connect().await, "HEAD /v1/health HTTP/1.1", "").await.unwrap();
    assert_eq!((head.status, head.body.as_str(), head.header("etag")), (200, "", tag.as_str()));
    let view = watched.get("/v1/health?view=verdict", "").await;
    assert!(view.body.len() < 400 && view.json()["verdict"]["state"] == "Healthy", "{}", view.body);
    let metrics = watched.get("/metrics", "").await.body;
    assert!(metrics.contains("nap_health_verdict{verdict=\"Healthy\"} 1\n"), "{metrics}");

    // A wait that nothing ends, and one that a preemption ends.
    let since = first.json()["generation"].clone();
    let waited = watched.get(&format!("/v1/health?wait=1s&since={since}"), "").await;
    assert_eq!(waited.status, 304);
    let target = format!("/v1/health?wait=30s&since={since}");
    let wait = watched.get(&target, "");
    let preempt = async {
        sleep(Duration::from_millis(200)).await;
        watched.node.imds.schedule(event("Preempt", "aks-default-1"));
    };
    let start = Instant::now();
    let (answer, ()) = tokio::join!(wait, preempt);
    assert_eq!(answer.json()["verdict"]["reason"], "PreemptScheduled", "{}", answer.body);
    assert_eq!(answer.json()["scheduledEvents"][0]["type"], "Preempt");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

fn event(kind: &str, vm: &str) -> ScheduledEvent {
    ScheduledEvent {
        event_id: format!("{kind}-{vm}"),
        event_type: kind.to_owned(),
        resources: vec![vm.to_owned()],
        not_before: "Mon, 19 Sep 2050 18:29:47 GMT".to_owned(),
        description: String::new(),
        event_source: "Platform".to_owned(),
        duration_in_seconds: -1,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_vms_preemption_and_a_restart_change_nothing() {
    let mut watched = watched().await;
    watched.node.imds.schedule(event("Preempt", "aks-default-2"));
    watched.node.imds.schedule(event("Redeploy", "aks-default-1"));
    let before = watched.until("the event", |document| document["verdict"]["reason"] == "MaintenanceScheduled").await;
    assert_eq!(before["verdict"]["state"], "Degraded");
    // Killed, not asked: what is known is on disk all the same.
    watched.guard.kill().await.unwrap();
    watched.restart_guard();
    let after = watched.until("a document", |_| true).await;
    assert_eq!((&after["verdict"], &after["node"]["bootSeq"]), (&before["verdict"], &before["node"]["bootSeq"]));
    assert!(after["generation"].as_u64() >= before["generation"].as_u64());
    let status = watched.node.agent(&["status"]).await;
    assert!(text(&status).contains("finding: MaintenanceScheduled"), "{}", text(&status));
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_do_not_behave_get_what_a_careful_server_gives() {
    let watched = watched().await;
    watched.until("a document", |_| true).await;
    for (line, headers, status) in [
        ("POST /v1/health HTTP/1.1", "content-length: 0\r\n".to_owned(), 405),
        ("DELETE /v1/health HTTP/1.1", String::new(), 405),
        ("GET /v1/nothing HTTP/1.1", String::new(), 404),
        ("GET /v1/health?wait=1d HTTP/1.1", String::new(), 400),
        ("GET /../etc/shadow HTTP/1.1", String::new(), 404),
        ("GET /v1/health HTTP/1.1", format!("x: {}\r\n", "y".repeat(20_000)), 431),
        ("GET /v1/health HTTP/1.1", "x: y\r\n".repeat(100), 431),
        ("no request at all", String::new(), 400),
    ] {
        let answer = exchange(&mut watched.connect().await, line, &headers).await.unwrap();
        assert_eq!(answer.status, status, "{line}: {}", answer.body);
    }

    // A big body is not read: the answer comes, and the connection ends.
    let mut stream = watched.connect().await;
    let head = "POST /v1/health HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    timeout(SLOW, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 405");

    // Slow ones, in every place, and one who got his answer and stays; others are answered meanwhile.
    let mut slow = Vec::new();
    for start in ["", "GET /v1/hea", "GET /v1/health HTTP/1.1\r\nhost: x\r\n", "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"]
    {
        for _ in 0..7 {
            let mut stream = watched.connect().await;
            stream.write_all(start.as_bytes()).await.unwrap();
            slow.push(stream);
        }
    }
    assert_eq!(watched.get("/livez", "").await.status, 200);
    for mut stream in slow {
        let mut rest = Vec::new();
        let ended = timeout(SLOW, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "a slow client is still there: {}", String::from_utf8_lossy(&rest));
    }

    // Those who wait have few places.
    let waits: Vec<_> = (0..12).map(|_| watched.get("/v1/health?wait=2s", "")).collect();
    let statuses = futures(waits).await;
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 4, "{statuses:?}");
}

/// All at once; their statuses.
async fn futures(waits: Vec<impl Future<Output = Answer>>) -> Vec<u16> {
    let mut waits: Vec<_> = waits.into_iter().map(Box::pin).collect();
    let mut statuses = vec![0; waits.len()];
    std::future::poll_fn(|context| {
        for (wait, status) in waits.iter_mut().zip(&mut statuses).filter(|(_, status)| **status == 0) {
            if let std::task::Poll::Ready(answer) = wait.as_mut().poll(context) {
                *status = answer.status;
            }
        }
        if statuses.contains(&0) { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_certificate_of_the_configured_authority_opens_the_other_door() {
    let watched = watched().await;
    watched.until("a document", |_| true).await;
    let good = watched.authority.sign(ExtendedKeyUsagePurpose::ClientAuth);
    let start = Instant::now();
    // It may come up a moment after the other one.
    let answer = loop {
        match watched.tls(Some(&good)).await {
            Ok(answer) => break answer,
            Err(error) => assert!(start.elapsed() < LIMIT, "{error}"),
        }
        sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((answer.status, answer.header("node-health-verdict").is_empty()), (200, false), "{}", answer.body);
    let refused = [
        ("no certificate", None),
        ("one of another authority", Some(Authority::new("another").sign(ExtendedKeyUsagePurpose::ClientAuth))),
        ("a server's", Some(watched.authority.sign(ExtendedKeyUsagePurpose::ServerAuth))),
    ];
    for (who, client) in &refused {
        assert!(watched.tls(client.as_ref()).await.is_err(), "{who} is let in");
    }
    // Plain HTTP at that door.
    let mut stream = TcpStream::connect(("127.0.0.1", watched.tls_port)).await.unwrap();
    assert!(exchange(&mut stream, "GET /v1/health HTTP/1.1", "").await.is_err());
    // Too often.
    let mut statuses = Vec::new();
    for _ in 0..40 {
        statuses.push(watched.tls(Some(&good)).await.unwrap().status);
    }
    assert!(statuses.contains(&429) && statuses[0] == 200, "{statuses:?}");
    let other = watched.authority.sign(ExtendedKeyUsagePurpose::ClientAuth);
    assert_eq!(watched.tls(Some(&other)).await.unwrap().status, 200, "another client has a rate of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_token_instead_is_known_by_the_api_server() {
    let mut watched = watched().await;
    watched.until("a document", |document| document["phase"] == "Ready").await;
    watched.guard.kill().await.unwrap();
    watched.restart_guard_with(&["--tls-token-review"]);
    watched.until("a document", |_| true).await;
    let api = &watched.node.api;
    api.add_service_token("good", AUDIENCE, "provisioner", &["system:masters"]);
    api.add_service_token("weak", AUDIENCE, "reader", &["system:serviceaccounts"]);
    api.add_service_token("foreign", "vault", "provisioner", &["system:masters"]);
    let good = "authorization: Bearer good\r\n";
    let ask = async |client: Option<&(String, String)>, line: &str, headers: &str| {
        let start = Instant::now();
        let mut stream = loop {
            match watched.connect_tls(client).await {
                Ok(stream) => break stream,
                Err(error) => assert!(start.elapsed() < LIMIT, "{error}"),
            }
            sleep(Duration::from_millis(50)).await;
        };
        exchange(&mut stream, line, headers).await.unwrap()
    };
    let get = async |headers: &str| ask(None, "GET /v1/health?view=verdict HTTP/1.1", headers).await;
    assert_eq!(get(good).await.status, 200);
    let nobody = get("").await;
    assert_eq!((nobody.status, nobody.header("www-authenticate")), (401, "bearer"));
    // A token that is good for the API server itself, or for somebody else, is none for every node to see.
    for token in ["abc", "foreign", api.admin_token()] {
        assert_eq!(get(&format!("authorization: Bearer {token}\r\n")).await.status, 401, "{token}");
    }
    let forbidden = get("authorization: Bearer weak\r\n").await;
    let why = "system:serviceaccount:default:reader may not get /v1/health\n";
    assert_eq!((forbidden.status, forbidden.body.as_str()), (403, why));
    let intent = async |headers: &str| {
        let headers = format!("{headers}content-length: 2\r\n\r\n{{}}");
        ask(None, "POST /v1/intents HTTP/1.1", &headers).await.status
    };
    assert_eq!(intent("authorization: Bearer weak\r\n").await, 403);
    assert_eq!(intent(good).await, 400, "he may, and says nothing that makes sense");

    // Whom the API server has vouched for a moment ago is known without it, and so is who has a certificate.
    api.refuse_connections(Duration::from_secs(30)).await;
    assert_eq!(get(good).await.status, 200);
    assert_eq!(get("authorization: Bearer new\r\n").await.status, 503);
    let certified = watched.authority.sign(ExtendedKeyUsagePurpose::ClientAuth);
    assert_eq!(ask(Some(&certified), "GET /v1/health HTTP/1.1", "").await.status, 200);
    let foreign = Authority::new("another").sign(ExtendedKeyUsagePurpose::ClientAuth);
    assert!(watched.tls(Some(&foreign)).await.is_err(), "a wrong certificate is not no certificate");
}

async fn until_condition(node: &Node, kind: &str, status: &str, reason: &str) -> Value {
    let start = Instant::now();
    loop {
        if let Some(found) = node.condition(kind).filter(|found| found["status"] == status && found["reason"] == reason)
        {
            return found;
        }
        assert!(start.elapsed() < 2 * LIMIT, "{kind} is {:?}", node.condition(kind));
        sleep(Duration::from_millis(100)).await;
    }
}

/// Our own writes of the Node's status, with their answers.
fn writes(node: &Node) -> Vec<Option<u16>> {
    let all = node.api.requests();
    all.iter().filter(|one| one.query("fieldManager") == Some("nap-agent")).map(|one| one.status).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_are_written_when_they_change_and_only_ours() {
    let mut watched = watched().await;
    let ready = watched.node.condition("Ready").expect("kubelet writes its own");
    let tainted = watched.node.path("/proc/sys/kernel/tainted");
    std::fs::write(&tainted, "0").unwrap();
    let good = until_condition(&watched.node, "KernelReady", "True", "NoFaultFound").await;
    until_condition(&watched.node, "StorageReady", "True", "NoFaultFound").await;
    until_condition(&watched.node, "ContainerRuntimeReady", "True", "NoFaultFound").await;
    let before = writes(&watched.node).len();

    // 128: an oops.
    std::fs::write(&tainted, "128").unwrap();
    let bad = until_condition(&watched.node, "KernelReady", "False", "KernelOops").await;
    assert!(bad["lastTransitionTime"].as_str() > good["lastTransitionTime"].as_str(), "{bad}");
    assert_eq!(writes(&watched.node).len(), before + 1, "one change, one write");

    // A restart of ours moves no time and writes nothing.
    watched.guard.kill().await.unwrap();
    watched.guard =
        watched.node.command(&["guard", "--listen", &format!("127.0.0.1:{}", watched.port)]).spawn().unwrap();
    watched.until("what was known before", |document| document["verdict"]["reason"] == "KernelOops").await;
    // Times on a Node are whole seconds; the next change must not fall into the same.
    sleep(Duration::from_millis(1100)).await;
    std::fs::write(&tainted, "0").unwrap();
    let cleared = until_condition(&watched.node, "KernelReady", "True", "NoFaultFound").await;
    assert!(cleared["lastTransitionTime"].as_str() > bad["lastTransitionTime"].as_str(), "{cleared}");
    assert_eq!(writes(&watched.node).len(), before + 2, "the restart wrote nothing");
    assert!(writes(&watched.node).iter().all(|status| *status == Some(200)), "{:?}", writes(&watched.node));
    let still = watched.node.condition("Ready").unwrap();
    assert_eq!(still["lastTransitionTime"], ready["lastTransitionTime"], "kubelet's own is untouched");

    // What a removal of the package does.
    watched.guard.kill().await.unwrap();
    let removed = watched.node.agent(&["remove-conditions"]).await;
    let all = "KernelReady, StorageReady, NetworkingReady, ContainerRuntimeReady";
    assert_eq!((removed.status.code(), text(&removed)), (Some(0), format!("{NAME}: removed {all}\n")));
    assert!(all.split(", ").all(|kind| watched.node.condition(kind).is_none()));
    assert_eq!(watched.node.condition("Ready").unwrap()["lastTransitionTime"], ready["lastTransitionTime"]);
    let again = watched.node.agent(&["remove-conditions"]).await;
    assert_eq!(
        (again.status.code(), text(&again)),
        (Some(0), format!("{NAME}: no condition of the agent was there\n"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_condition_is_written_where_it_may_be_and_nobody_else_has_it() {
    let watched = watched_with("[conditions]\npreemption-scheduled = true\n").await;
    let node = &watched.node;
    watched.until("a healthy node", |document| document["verdict"]["state"] == "Healthy").await;
    assert_eq!(node.condition("PreemptionScheduled"), None, "there is nothing bad to say");
    let preempt = event("Preempt", NAME);
    let start = Instant::now();
    node.imds.schedule(preempt.clone());
    let told = until_condition(node, "PreemptionScheduled", "True", "SpotEvictionIncoming").await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let wanted = "Preempt Scheduled: Mon, 19 Sep 2050 18:29:47 GMT. Azure takes this spot VM away. EventId: ";
    assert_eq!(told["message"], format!("{wanted}{}", preempt.event_id));
    assert!(node.path("/var/lib/nap-agent/shared-conditions").exists());
    node.imds.complete_event(&preempt.event_id);
    until_gone(node, "PreemptionScheduled").await;

    // Who writes it, too, has it.
    let theirs = json!({"type": "PreemptionScheduled", "status": "False", "reason": "NoPreempt", "message": "theirs"});
    node.api.set_condition(NAME, "node-problem-detector", &theirs);
    let looks = || node.api.requests().iter().filter(|one| one.method == "GET" && one.path.ends_with(NAME)).count();
    let before = looks();
    node.imds.schedule(event("Preempt", NAME));
    watched.until("the event", |document| document["verdict"]["reason"] == "PreemptScheduled").await;
    let start = Instant::now();
    while looks() == before {
        assert!(start.elapsed() < LIMIT, "nobody looked at the Node");
        sleep(Duration::from_millis(100)).await;
    }
    // A write would follow that look at once.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        assert_eq!(node.condition("PreemptionScheduled").unwrap()["message"], "theirs");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn until_gone(node: &Node, kind: &str) {
    let start = Instant::now();
    while node.condition(kind).is_some() {
        assert!(start.elapsed() < LIMIT, "{kind} is {:?}", node.condition(kind));
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_listens_hears_of_a_change_at_once() {
    let watched = watched().await;
    watched.until("a healthy node", |document| document["verdict"]["state"] == "Healthy").await;
    let listen = async |headers: &str| {
        let mut stream = watched.connect().await;
        let head =
            format!("GET /v1/health?view=verdict HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        Listener { stream, heard: String::new() }
    };
    let mut listener = listen("").await;
    let first = listener.next("data: ").await;
    assert!(listener.heard.contains("content-type: text/event-stream"), "{}", listener.heard);
    let document: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(document["verdict"]["state"], "Healthy");
    watched.node.imds.schedule(event("Preempt", "aks-default-1"));
    let start = Instant::now();
    let second: Value = serde_json::from_str(&listener.next("data: ").await).unwrap();
    assert_eq!(second["verdict"]["reason"], "PreemptScheduled");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());

    // Who comes again with the tag that he saw hears nothing twice, and that somebody is there.
    let tag = watched.get("/v1/health", "").await.header("etag").to_owned();
    let mut again = listen(&format!("last-event-id: {tag}\r\n")).await;
    let sign = again.next(": looked ").await;
    assert!(sign.ends_with(" s ago") && !again.heard.contains("data:"), "{}", again.heard);

    // A listener has one of the places of those who wait, until he goes.
    let mut listeners = vec![listener, again];
    while listeners.len() < 8 {
        let mut one = listen("").await;
        one.next("data: ").await;
        listeners.push(one);
    }
    assert_eq!(watched.get("/v1/health?wait=1s", "").await.status, 429);
    drop(listeners);
    let start = Instant::now();
    while watched.get("/v1/health?wait=0s", "").await.status == 429 {
        assert!(start.elapsed() < SLOW, "those who went still have their places");
        sleep(Duration::from_millis(50)).await;
    }
}

struct Listener {
    stream: TcpStream,
    heard: String,
}

impl Listener {
    /// The rest of the next line that begins so.
    async fn next(&mut self, start: &str) -> String {
        let from = self.heard.len();
        loop {
            let new = &self.heard[from..];
            let lines = new.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            if let Some(rest) = lines.filter_map(|line| line.strip_prefix(start)).next() {
                return rest.to_owned();
            }
            let mut bytes = [0; 4096];
            let count = timeout(LIMIT, self.stream.read(&mut bytes)).await.unwrap().unwrap();
            assert!(count > 0, "the connection ended: {}", self.heard);
            self.heard += std::str::from_utf8(&bytes[..count]).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provisioner_holds_a_node_and_nobody_else_does() {
    let mut watched = watched().await;
    let document = watched.until("a document", |document| document["node"]["vmId"].is_string()).await;
    let usage = || ExtendedKeyUsagePurpose::ClientAuth;
    let (operator, reader) = (watched.authority.sign_as(OPERATOR, usage()), watched.authority.sign(usage()));
    let intent = |id: &str, rest: &str| {
        let (vm, boot) = (&document["node"]["vmId"], &document["node"]["bootId"]);
        format!(r#"{{"id": "{id}", "node": {{"vmId": {vm}, "bootId": {boot}}}, {rest}}}"#)
    };
    let until = Timestamp::now() + SignedDuration::from_mins(10);
    let hold = intent("h-1", &format!(r#""intent": "Hold", "until": "{until}""#));

    assert_eq!(watched.intent(&reader, &hold).await.status, 403);
    let plain = exchange(&mut watched.connect().await, "POST /v1/intents HTTP/1.1", "content-length: 0\r\n").await;
    assert_eq!(plain.unwrap().status, 405, "not for who can reach this machine's own address");
    let get = exchange(&mut watched.connect_tls(Some(&operator)).await.unwrap(), "GET /v1/intents HTTP/1.1", "").await;
    assert_eq!(get.unwrap().status, 405);
    for (body, status, why) in [
        ("{", 400, "not JSON"),
        (&intent("x", r#""intent": "Reboot""#), 400, "intent: found"),
        (&intent("x", r#""intent": "Release", "unless": 1"#), 400, "unless"),
        (&" ".repeat(5000), 413, "4096"),
        (&intent("x", r#""intent": "GrantReboot""#), 409, "only NeedsReboot"),
        (
            &intent("x", r#""intent": "Release""#).replace(document["node"]["bootId"].as_str().unwrap(), "b"),
            409,
            "boot",
        ),
    ] {
        let answer = watched.intent(&operator, body).await;
        assert!(answer.status == status && answer.body.contains(why), "{body}: {} {}", answer.status, answer.body);
    }
    assert!(watched.get("/v1/health", "").await.json()["intents"].is_null());

    let taken = watched.intent(&operator, &hold).await;
    assert_eq!((taken.status, taken.json()["taken"].clone()), (200, "Now".into()), "{}", taken.body);
    // The answer comes after it is in the document, and on disk.
    assert_eq!(watched.get("/v1/health", "").await.json()["intents"]["held"]["by"], "h-1");
    watched.guard.kill().await.unwrap();
    watched.restart_guard();
    watched.until("a document", |document| document["intents"]["held"]["by"] == "h-1").await;
    let again = watched.intent(&operator, &hold).await;
    assert_eq!((again.status, again.json()["taken"].clone()), (200, "Before".into()), "{}", again.body);
    let shown = text(&watched.node.agent(&["repairs"]).await);
    assert!(shown.contains("asked for Hold"), "{shown}");
    assert_eq!(watched.intent(&operator, &intent("r-1", r#""intent": "Release""#)).await.status, 200);
    watched.until("no hold", |document| document["intents"].is_null()).await;

    assert_eq!(watched.intent(&operator, &intent("c-1", r#""intent": "CollectDiagnostics""#)).await.status, 200);
    let start = Instant::now();
    while !text(&watched.node.agent(&["bundle", "--list"]).await).contains("-Intent.tar.gz") {
        assert!(start.elapsed() < LIMIT, "no bundle");
        sleep(Duration::from_millis(100)).await;
    }
}
