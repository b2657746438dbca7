//! Clients with every kind of credential, and the objects they send.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::client::Body;
use kube::config::AuthInfo;
use kube::{Client, Config};
use pretend_azure::{ApiOptions, ApiServer, BootstrapToken, ClientIdentity};
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};

pub(crate) const TOKEN: &str = "abcdef.0123456789abcdef";

pub(crate) fn options() -> ApiOptions {
    ApiOptions { bootstrap_tokens: vec![BootstrapToken::try_from(TOKEN).unwrap()], ..ApiOptions::default() }
}

pub(crate) async fn start() -> ApiServer {
    ApiServer::start(options()).await.unwrap()
}

/// A status code and a document.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) date: String,
    pub(crate) document: Value,
}

impl Answer {
    pub(crate) fn reason(&self) -> &str {
        self.document["reason"].as_str().unwrap_or_default()
    }

    pub(crate) fn message(&self) -> &str {
        self.document["message"].as_str().unwrap_or_default()
    }
}

/// One user's client.
pub(crate) struct Api(pub(crate) Client);

impl Api {
    pub(crate) fn with(server: &ApiServer, auth_info: AuthInfo) -> Self {
        Self::trusting(server, &server.ca_pem(), auth_info)
    }

    pub(crate) fn trusting(server: &ApiServer, ca_pem: &str, auth_info: AuthInfo) -> Self {
        let body = ca_pem.lines().filter(|line| !line.starts_with("-----")).collect::<String>();
        let mut config = Config::new(server.url().parse().unwrap());
        config.root_cert = Some(vec![STANDARD.decode(body).unwrap()]);
        config.auth_info = auth_info;
        config.proxy_url = None;
        Self(Client::try_from(config).unwrap())
    }

    pub(crate) fn anonymous(server: &ApiServer) -> Self {
        Self::with(server, AuthInfo::default())
    }

    pub(crate) fn bearer(server: &ApiServer, token: &str) -> Self {
        Self::with(server, bearer(token))
    }

    pub(crate) fn admin(server: &ApiServer) -> Self {
        Self::bearer(server, server.admin_token())
    }

    pub(crate) fn bootstrap(server: &ApiServer) -> Self {
        Self::bearer(server, TOKEN)
    }

    pub(crate) fn node(server: &ApiServer, name: &str) -> Self {
        Self::identity(server, &server.mint_client_certificate(name))
    }

    pub(crate) fn identity(server: &ApiServer, identity: &ClientIdentity) -> Self {
        let auth_info = AuthInfo {
            client_certificate_data: Some(STANDARD.encode(&identity.certificate_pem)),
            client_key_data: Some(STANDARD.encode(&identity.key_pem).into()),
            ..AuthInfo::default()
        };
        Self::with(server, auth_info)
    }

    pub(crate) async fn send(&self, method: &str, path: &str, content_type: &str, body: String) -> Answer {
        let request = hyper::Request::builder().method(method).uri(path).header("content-type", content_type);
        let response = self.0.send(request.body(Body::from(body.into_bytes())).unwrap()).await.unwrap();
        let code = response.status().as_u16();
        let date = response.headers()["date"].to_str().unwrap().to_owned();
        let bytes = response.into_body().collect_bytes().await.unwrap();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        Answer { code, date, document: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()) }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "application/json", String::new()).await
    }

    pub(crate) async fn post(&self, path: &str, object: &Value) -> Answer {
        self.send("POST", path, "application/json", object.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, object: &Value) -> Answer {
        self.send("PUT", path, "application/json", object.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, object: &Value) -> Answer {
        self.send("PATCH", path, "application/strategic-merge-patch+json", object.to_string()).await
    }
}

pub(crate) fn bearer(token: &str) -> AuthInfo {
    AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() }
}

pub(crate) fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "karpenter.sh/nodepool": "default"}},
        "spec": {"taints": [{"key": "karpenter.sh/unregistered", "effect": "NoExecute"}]},
        "status": {"conditions": [{"type": "Ready", "status": "False", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]},
    })
}

pub(crate) const NODES: &str = "/api/v1/nodes";
pub(crate) const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
pub(crate) const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
pub(crate) const EVENTS: &str = "/api/v1/namespaces/default/events";

/// A signing request for `common_name` and its key.
pub(crate) fn signing_request(name: &str, common_name: &str) -> (Value, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, common_name);
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {
            "request": STANDARD.encode(pem),
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"],
        },
    });
    (object, key)
}

/// The conditions of a signing request by type.
pub(crate) fn conditions(csr: &Value) -> Vec<&str> {
    let conditions = csr["status"]["conditions"].as_array().into_iter().flatten();
    conditions.map(|condition| condition["type"].as_str().unwrap()).collect()
}

/// The certificate of a signing request, PEM.
pub(crate) fn certificate(csr: &Value) -> String {
    String::from_utf8(STANDARD.decode(csr["status"]["certificate"].as_str().unwrap()).unwrap()).unwrap()
}
