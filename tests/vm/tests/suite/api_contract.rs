//! The pretend API server answers as the real one does.
//!
//! Every row is a request with the answer it must get: the HTTP status, the `reason` of the Status document, and the
//! fields that nap-agent and a kubelet read. The rows are sent in their order to `pretend_azure::ApiServer` and, where
//! `$NAP_KUBE_BIN` has one (see `cluster.rs`), to a real kube-apiserver with its controller manager. So a difference between the
//! two is a failure of one of them, and the table cannot say what only the pretend one does. No VM is needed.

mod identity;
mod objects;
mod row;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Request;
use kube::client::Body;
use kube::config::AuthInfo;
use kube::{Client, Config};
use pretend_azure::{ApiOptions, ApiServer, BootstrapToken};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::azure::{TOKEN_ID, TOKEN_SECRET};
use crate::cluster::{Cluster, Programs};
use crate::guest::note;
use row::{Payload, REQUESTS, Row, Who};

/// For the controllers of a real cluster to do what they do by themselves. Usually below a second.
const SETTLED: Duration = Duration::from_secs(60);
/// The version to claim when there is no real server to ask.
const VERSION: &str = "1.36.2";

#[test]
fn the_pretend_api_server_answers_as_the_real_one() {
    let runtime = Runtime::new().unwrap();
    let key = KeyPair::generate().unwrap();
    let programs = Programs::find();
    let version = programs.as_ref().map_or_else(|_| VERSION.to_owned(), Programs::version);
    let table = identity::rows(&key, &version).into_iter().chain(objects::rows()).collect::<Vec<_>>();

    let pretend = runtime.block_on(ApiServer::start(options(&version))).unwrap();
    let mut wrong = Server::new("pretend", &runtime, (pretend.url(), pretend.ca_pem()), &key).run(&table);
    match programs {
        Ok(programs) => {
            let cluster = Cluster::start(&programs);
            let address = (format!("https://{}", cluster.address()), cluster.ca_pem().to_owned());
            let server = Server::new("real", &runtime, address, &key);
            server.wait_until_settled(&cluster);
            wrong.extend(server.run(&table));
        }
        Err(missing) => note(format_args!("SKIPPED: real API server in the test of the pretend one: {missing}")),
    }
    assert!(wrong.is_empty(), "{} answers are not as the table has them:\n{}", wrong.len(), wrong.join("\n"));
}

fn options(version: &str) -> ApiOptions {
    let token = BootstrapToken::try_from(token().as_str()).unwrap();
    ApiOptions { bootstrap_tokens: vec![token], kubernetes_version: version.to_owned(), ..ApiOptions::default() }
}

fn token() -> String {
    format!("{TOKEN_ID}.{TOKEN_SECRET}")
}

/// What a server said: the body as JSON, as far as it is JSON.
struct Answer {
    status: u16,
    body: Value,
}

/// One of the two servers, and what it has said so far.
struct Server<'a> {
    name: &'static str,
    runtime: &'a Runtime,
    url: String,
    ca_pem: String,
    /// Of the nodes' certificates.
    key: &'a KeyPair,
    clients: BTreeMap<Who, Client>,
    answers: BTreeMap<&'static str, Value>,
}

impl<'a> Server<'a> {
    fn new(name: &'static str, runtime: &'a Runtime, (url, ca_pem): (String, String), key: &'a KeyPair) -> Self {
        let mut server = Self { name, runtime, url, ca_pem, key, clients: BTreeMap::new(), answers: BTreeMap::new() };
        let bearer = |token: String| AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
        let with_token =
            [(Who::Anonymous, AuthInfo::default()), (Who::Stranger, bearer(format!("{TOKEN_ID}.0000000000000000")))];
        for (who, auth_info) in with_token.into_iter().chain([(Who::Bootstrapper, bearer(token()))]) {
            let client = server.client(auth_info);
            server.clients.insert(who, client);
        }
        server
    }

    /// Sends every row, and tells which answers were wrong.
    fn run(mut self, table: &[Row]) -> Vec<String> {
        let mut wrong = Vec::new();
        for row in table {
            if let (Some(request), false) = (row.who.signing_request(), self.clients.contains_key(&row.who)) {
                let client = self.client(self.certificate(request));
                self.clients.insert(row.who, client);
            }
            let answer = self.send(row.who, (row.method, row.path.as_str()), &self.filled(&row.payload));
            wrong.extend(row.difference(&answer).map(|why| format!("{} server, {}: {why}", self.name, row.name)));
            self.answers.insert(row.name, answer.body);
        }
        wrong
    }

    /// The bootstrap token's Secret, the rights and the namespaces reach the API server's own caches some time after they are made.
    fn wait_until_settled(&self, cluster: &Cluster<'_>) {
        self.wait_for("rights of the bootstrap token", || {
            let answer = self.send(Who::Bootstrapper, ("GET", REQUESTS), &Payload::None);
            (answer.status == 200).then_some(()).ok_or(answer.body)
        });
        self.wait_for("namespaces", || {
            let (exist, text) = cluster.kubectl(&["get", "namespaces", "default", "kube-system", "kube-node-lease"]);
            exist.then_some(()).ok_or(json!(text))
        });
    }

    /// A node's identity, once its request is signed.
    fn certificate(&self, request: &str) -> AuthInfo {
        let certificate = self.wait_for("certificate", || {
            let request = self.send(Who::Bootstrapper, ("GET", request), &Payload::None).body;
            request["status"]["certificate"].as_str().map(str::to_owned).ok_or(request)
        });
        AuthInfo {
            client_certificate_data: Some(certificate),
            client_key_data: Some(STANDARD.encode(self.key.serialize_pem()).into()),
            ..AuthInfo::default()
        }
    }

    fn wait_for<T>(&self, what: &str, look: impl Fn() -> Result<T, Value>) -> T {
        let deadline = Instant::now() + SETTLED;
        loop {
            match look() {
                Ok(found) => return found,
                Err(seen) => assert!(Instant::now() < deadline, "{} server: no {what}: {seen}", self.name),
            }
        }
    }

    fn client(&self, auth_info: AuthInfo) -> Client {
        let certificate: String = self.ca_pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let mut config = Config::new(self.url.parse().unwrap());
        config.root_cert = Some(vec![STANDARD.decode(certificate).unwrap()]);
        config.auth_info = auth_info;
        config.proxy_url = None;
        let _inside = self.runtime.enter();
        Client::try_from(config).unwrap()
    }

    /// A payload with the versions that this server gave its objects.
    fn filled(&self, payload: &Payload) -> Payload {
        let fill = |object: &Value| {
            let mut object = object.clone();
            if let Some(version) = object.pointer_mut("/metadata/resourceVersion") {
                let row = version.as_str().unwrap_or_default();
                *version = self.answers[row]["metadata"]["resourceVersion"].clone();
            }
            object
        };
        match payload {
            Payload::None => Payload::None,
            Payload::Text(text) => Payload::Text(text),
            Payload::Object(object) => Payload::Object(fill(object)),
            Payload::Strategic(patch) => Payload::Strategic(fill(patch)),
            Payload::Merge(patch) => Payload::Merge(fill(patch)),
        }
    }

    fn send(&self, who: Who, (method, path): (&str, &str), payload: &Payload) -> Answer {
        let (content_type, body) = payload.wire();
        let request = Request::builder().method(method).uri(path).header("content-type", content_type);
        let request = request.body(Body::from(body.into_bytes())).unwrap();
        self.runtime.block_on(async {
            let response = self.clients[&who].send(request).await.unwrap();
            let status = response.status().as_u16();
            let bytes = response.into_body().collect_bytes().await.unwrap();
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            // A watch has one document a line, and the first one tells.
            let parsed =
                serde_json::from_str(&text).or_else(|_| serde_json::from_str(text.lines().next().unwrap_or("")));
            Answer { status, body: parsed.unwrap_or(Value::String(text)) }
        })
    }
}
