//! The API server, looked at stage by stage: does its name resolve, does it answer, is it the right one, do the clocks agree, does it
//! accept our token. And later: is our Node there.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use nap_model::config::{ApiServer, Cluster};
use nap_model::report::Reason;
use nap_model::secret::SecretString;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::root::Root;
use crate::wait::Try;

/// Time for one stage of one try.
const STAGE_LIMIT: Duration = Duration::from_secs(5);

/// Clocks further apart than this break certificates: issuers date them back by five minutes.
const MAX_SKEW: Duration = Duration::from_secs(5 * 60);

const KUBECONFIG: &str = "/var/lib/kubelet/kubeconfig";

/// At which stage the API server was lost.
#[derive(Debug, Error)]
pub enum ApiError {
    /// The CA of the configuration cannot be used.
    #[error("the cluster's CA certificate cannot be used: {0}")]
    BadCa(String),
    /// Its name does not resolve.
    #[error("{host} does not resolve: {message}")]
    Dns {
        /// The name.
        host: String,
        /// What the resolver said.
        message: String,
    },
    /// Nothing answers.
    #[error("no connection to {server}: {message}")]
    Connect {
        /// Where.
        server: ApiServer,
        /// What the kernel said.
        message: String,
    },
    /// Its certificate is not good.
    #[error("{server} is not the cluster's API server: {message}")]
    Untrusted {
        /// Where.
        server: ApiServer,
        /// What TLS said.
        message: String,
    },
    /// The clocks disagree.
    #[error("this machine's clock says {here}, {message}")]
    Clock {
        /// Our time.
        here: Timestamp,
        /// What contradicts it.
        message: String,
    },
    /// It refuses the token.
    #[error("the API server answers 401 to the bootstrap token {token_id}")]
    TokenRejected {
        /// The public half of the token.
        token_id: String,
    },
    /// It answers, badly.
    #[error("the API server answers {0}")]
    Unhealthy(String),
}

impl ApiError {
    /// The boot's reason.
    pub fn reason(&self) -> Reason {
        match self {
            ApiError::BadCa(_) | ApiError::Untrusted { .. } => Reason::ApiServerUntrusted,
            ApiError::Dns { .. } => Reason::ApiServerDnsFailed,
            ApiError::Connect { .. } => Reason::ApiServerUnreachable,
            ApiError::Clock { .. } => Reason::ClockSkewed,
            ApiError::TokenRejected { .. } => Reason::BootstrapTokenRejected,
            ApiError::Unhealthy(_) => Reason::ApiServerUnhealthy,
        }
    }

    /// Whether waiting can help. Clocks get set, names get linked, tokens reach every replica; a CA stays what it is.
    pub fn retryable(&self) -> bool {
        match self {
            ApiError::BadCa(_) => false,
            ApiError::Dns { .. }
            | ApiError::Connect { .. }
            | ApiError::Untrusted { .. }
            | ApiError::Clock { .. }
            | ApiError::TokenRejected { .. }
            | ApiError::Unhealthy(_) => true,
        }
    }
}

/// Goes through all stages, with the token when there is one, again and again until `limit`.
///
/// # Errors
/// The stage at which the last try ended.
pub async fn check(cluster: &Cluster, token: Option<&SecretString>, limit: Duration) -> Result<(), ApiError> {
    crate::wait::until("the API server", limit, || async {
        match check_once(cluster, token).await {
            Ok(()) => Try::Done(()),
            Err(error) if error.retryable() => Try::Again(error),
            Err(error) => Try::Stop(error),
        }
    })
    .await
}

async fn check_once(cluster: &Cluster, token: Option<&SecretString>) -> Result<(), ApiError> {
    let stream = connect(&cluster.api_server).await?;
    let stream = handshake(cluster, stream).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(unhealthy)?;
    let mut request = Request::get("/version").header(header::HOST, &cluster.api_server.host);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.reveal()));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| ApiError::Unhealthy(error.to_string()))?;
    // Both ends of this exchange are awaited together; dropping either ends the other.
    let exchange = async {
        tokio::select! {
            response = sender.send_request(request) => response.map_err(unhealthy),
            ended = connection => Err(ApiError::Unhealthy(format!("nothing and closed the connection ({ended:?})"))),
        }
    };
    let response =
        timeout(STAGE_LIMIT, exchange).await.map_err(|_| ApiError::Unhealthy("nothing in time".to_owned()))??;
    refuse_skew(response.headers().get(header::DATE).and_then(|date| date.to_str().ok()))?;
    match (response.status(), token) {
        (StatusCode::UNAUTHORIZED, Some(token)) => {
            let token_id = token.reveal().split('.').next().unwrap_or_default().to_owned();
            Err(ApiError::TokenRejected { token_id })
        }
        (status, _) if status.is_server_error() => Err(ApiError::Unhealthy(status.to_string())),
        _ => Ok(()),
    }
}

fn unhealthy(error: hyper::Error) -> ApiError {
    ApiError::Unhealthy(crate::chain(&error))
}

/// Whether a server's name resolves and its port answers, tried once.
///
/// # Errors
/// At which of the two it was lost.
pub async fn reach(server: &ApiServer) -> Result<(), ApiError> {
    connect(server).await.map(drop)
}

async fn connect(server: &ApiServer) -> Result<TcpStream, ApiError> {
    let lost = |message: String| ApiError::Dns { host: server.host.clone(), message };
    let lookup = timeout(STAGE_LIMIT, tokio::net::lookup_host((server.host.as_str(), server.port))).await;
    let addresses: Vec<_> = match lookup {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(lost(error.to_string())),
        Err(_) => return Err(lost("no answer in time".to_owned())),
    };
    let mut last = lost("no address".to_owned());
    for address in addresses {
        let message = match timeout(STAGE_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => format!("{address}: {error}"),
            Err(_) => format!("{address}: no answer in time"),
        };
        last = ApiError::Connect { server: server.clone(), message };
    }
    Err(last)
}

async fn handshake(
    cluster: &Cluster,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ApiError> {
    let config = tls(&cluster.ca_certificate)?;
    let name =
        ServerName::try_from(cluster.api_server.host.clone()).map_err(|error| ApiError::BadCa(error.to_string()))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    match timeout(STAGE_LIMIT, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(tls_error(&cluster.api_server, &error)),
        Err(_) => Err(ApiError::Connect {
            server: cluster.api_server.clone(),
            message: "no TLS handshake in time".to_owned(),
        }),
    }
}

fn tls(ca: &str) -> Result<ClientConfig, ApiError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.map_err(|error| ApiError::BadCa(error.to_string()))?;
        roots.add(certificate).map_err(|error| ApiError::BadCa(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| ApiError::BadCa(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// A certificate that is not valid *now* says more about clocks than about trust.
fn tls_error(server: &ApiServer, error: &std::io::Error) -> ApiError {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. },
        )) => ApiError::Clock {
            here: Timestamp::now(),
            message: format!("at which the API server's certificate is not valid: {error}"),
        },
        Some(rustls_error) => ApiError::Untrusted { server: server.clone(), message: rustls_error.to_string() },
        None => ApiError::Connect { server: server.clone(), message: format!("TLS handshake: {error}") },
    }
}

fn refuse_skew(date: Option<&str>) -> Result<(), ApiError> {
    let Some(there) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) else { return Ok(()) };
    let here = Timestamp::now();
    let skew = here.duration_since(there.timestamp()).unsigned_abs();
    if skew <= MAX_SKEW {
        return Ok(());
    }
    Err(ApiError::Clock {
        here,
        message: format!("the API server's {}, {} s apart", there.timestamp(), skew.as_secs()),
    })
}

/// Why the Node could not be seen.
#[derive(Debug, Error)]
pub enum NodeError {
    /// kubelet has not written its kubeconfig yet.
    #[error("no {KUBECONFIG} yet")]
    NoKubeconfig,
    /// The kubeconfig cannot be used.
    #[error("{KUBECONFIG} cannot be used: {0}")]
    BadKubeconfig(String),
    /// The API server does not know the Node.
    #[error("the API server has no Node {0}")]
    NotFound(String),
    /// The API server did not answer as it should.
    #[error("cannot get Node {name}: {message}")]
    Api {
        /// The node's name.
        name: String,
        /// What was answered.
        message: String,
    },
}

/// Reads a Node with kubelet's own credential.
///
/// # Errors
/// When there is no credential yet, or no such Node.
pub async fn node(root: &Root, name: &str) -> Result<Node, NodeError> {
    let client = client(root).await?;
    let found = timeout(STAGE_LIMIT, Api::<Node>::all(client).get_opt(name)).await;
    let lost = |message: String| NodeError::Api { name: name.to_owned(), message };
    match found {
        Ok(Ok(Some(node))) => Ok(node),
        Ok(Ok(None)) => Err(NodeError::NotFound(name.to_owned())),
        Ok(Err(kube::Error::Api(status))) => Err(lost(format!("{} {}", status.code, status.message))),
        Ok(Err(error)) => Err(lost(crate::chain(&error))),
        Err(_) => Err(lost("no answer in time".to_owned())),
    }
}

pub(crate) async fn client(root: &Root) -> Result<Client, NodeError> {
    let bad = |message: String| NodeError::BadKubeconfig(message);
    let text = root.read_text(KUBECONFIG).map_err(|error| bad(crate::chain(&error)))?.ok_or(NodeError::NoKubeconfig)?;
    let mut kubeconfig = Kubeconfig::from_yaml(&text).map_err(|error| bad(error.to_string()))?;
    // Its files are read inside the root, where its links lead.
    let read = |path: &mut Option<String>| -> Result<Option<String>, NodeError> {
        let Some(path) = path.take() else { return Ok(None) };
        let bytes = root.read(&path).map_err(|error| bad(crate::chain(&error)))?;
        let bytes = bytes.ok_or_else(|| bad(format!("no {path} yet")))?;
        Ok(Some(base64::engine::general_purpose::STANDARD.encode(bytes)))
    };
    for user in kubeconfig.auth_infos.iter_mut().filter_map(|user| user.auth_info.as_mut()) {
        user.client_certificate_data = read(&mut user.client_certificate)?.or(user.client_certificate_data.take());
        user.client_key_data = read(&mut user.client_key)?.map(Into::into).or(user.client_key_data.take());
    }
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|cluster| cluster.cluster.as_mut()) {
        let data = cluster.certificate_authority_data.take();
        cluster.certificate_authority_data = read(&mut cluster.certificate_authority)?.or(data);
    }
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    Client::try_from(config.map_err(|error| bad(crate::chain(&error)))?).map_err(|error| bad(crate::chain(&error)))
}

/// kubelet's own word on its health.
///
/// # Errors
/// What it said instead of `ok`.
pub async fn kubelet_healthz(port: u16) -> Result<(), String> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(3))
        .build()
        .map_err(|error| error.to_string())?;
    let response =
        client.get(format!("http://127.0.0.1:{port}/healthz")).send().await.map_err(|error| crate::chain(&error))?;
    let status = response.status();
    if status.is_success() { Ok(()) } else { Err(format!("{status}: {}", response.text().await.unwrap_or_default())) }
}
