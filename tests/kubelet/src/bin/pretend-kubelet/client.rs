//! A client of the API server: one connection a request, so that no answer depends on an older connection.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::kubeconfig::Kubeconfig;

/// Longest time for a connection and its answer. Source: the dialer of client-go's transport.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// An answer of the API server.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    /// The body of a success, else the server's message.
    pub(crate) fn success(self) -> anyhow::Result<Value> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        match self.body["message"].as_str().filter(|message| !message.is_empty()) {
            Some(message) => bail!("{message}"),
            None if self.status == 401 => bail!("Unauthorized"),
            None => bail!("the server answered with {}", self.status),
        }
    }
}

/// Speaks to one API server as one user.
#[derive(Clone)]
pub(crate) struct Client {
    server: Uri,
    token: Option<String>,
    tls: Arc<ClientConfig>,
    agent: String,
}

impl Client {
    /// A client with the token of the kubeconfig, or with a certificate and key when given as PEM.
    pub(crate) fn new(kubeconfig: &Kubeconfig, identity: Option<&str>, version: &str) -> anyhow::Result<Self> {
        let server: Uri = kubeconfig.server.parse().with_context(|| format!("server {:?}", kubeconfig.server))?;
        if server.scheme_str() != Some("https") || server.host().is_none() {
            bail!("server {:?}: want https:// and a host", kubeconfig.server);
        }
        let token = if identity.is_some() { None } else { kubeconfig.token.clone() };
        let tls = Arc::new(tls(&kubeconfig.ca_pem, identity)?);
        Ok(Self { server, token, tls, agent: format!("kubelet/v{version} (linux/amd64) kubernetes/pretend") })
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send("GET", path, "application/json", None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send("POST", path, "application/json", Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send("PUT", path, "application/json", Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send("PATCH", path, "application/strategic-merge-patch+json", Some(body)).await
    }

    async fn send(&self, method: &str, path: &str, kind: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let authority = self.server.authority().context("the server has no host")?;
        let mut request = Request::builder().method(method).uri(path).header(HOST, authority.as_str());
        request = request.header(USER_AGENT, &self.agent).header(CONTENT_TYPE, kind);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let exchange = self.exchange(request.body(Full::new(Bytes::from(body)))?);
        let answer = tokio::time::timeout(ANSWER_WITHIN, exchange).await;
        let answer = answer.unwrap_or_else(|_| Err(anyhow!("context deadline exceeded")));
        answer.with_context(|| format!("{method} \"https://{authority}{path}\""))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await?)).await?;
        let answering = async {
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            let bytes = response.into_body().collect().await?.to_bytes();
            Ok(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or_default() })
        };
        tokio::pin!(answering);
        tokio::select! {
            // Dropped only when the answer failed or is complete.
            answer = &mut answering => answer,
            // The connection ended first; what was received is still to be read.
            closed = connection => { closed?; answering.await }
        }
    }

    async fn connect(&self) -> anyhow::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let host = self.server.host().context("the server has no host")?.trim_matches(['[', ']']).to_owned();
        let stream =
            TcpStream::connect((host.as_str(), self.server.port_u16().unwrap_or(443))).await.context("dial tcp")?;
        let name = ServerName::try_from(host)?;
        TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, stream)
            .await
            .context("tls: failed to verify certificate")
    }
}

fn tls(ca_pem: &str, identity: Option<&str>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots
            .add(certificate.context("unable to load root certificates")?)
            .context("unable to load root certificates")?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots);
    let Some(pem) = identity else { return Ok(builder.with_no_client_auth()) };
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).context("tls: failed to find PEM data in key input")?;
    Ok(builder.with_client_auth_cert(chain.context("tls: failed to find certificate PEM data")?, key)?)
}
