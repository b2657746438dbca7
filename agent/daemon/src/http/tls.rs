//! TLS 1.3 with certificates of clients: who has none of the configured authority gets no handshake, unless he may show a token instead.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Where the endpoint for clients with certificates is, and its files.
#[derive(Debug, Clone)]
pub(crate) struct TlsFiles {
    pub(crate) address: SocketAddr,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Nobody has a certificate where there is none.
    pub(crate) client_authority: Option<PathBuf>,
    /// Who has no certificate may show a bearer token, by which the API server knows him.
    pub(crate) has_token_review: bool,
    /// Common names of those who may send intents.
    pub(crate) operators: Vec<String>,
}

/// The endpoint for clients with certificates.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) address: SocketAddr,
    acceptor: TlsAcceptor,
    operators: Arc<[String]>,
    pub(super) has_token_review: bool,
}

/// Who speaks.
#[derive(Debug)]
pub(super) struct Client {
    /// What tells one from another: the whole certificate, by which nobody else can speak; nothing where he shows tokens instead.
    pub(super) certificate: Option<String>,
    pub(super) address: IpAddr,
    /// His name, when he may send intents.
    pub(super) operator: Option<String>,
}

impl TlsFiles {
    /// # Errors
    /// When a file cannot be read or holds something else.
    pub(super) fn read(&self) -> anyhow::Result<Tls> {
        let chain = certificates(&self.certificate)?;
        let key = std::fs::read(&self.key).with_context(|| format!("cannot read {}", self.key.display()))?;
        let key = PrivateKeyDer::from_pem_slice(&key).with_context(|| format!("no key in {}", self.key.display()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = match &self.client_authority {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(path)? {
                    roots.add(authority).with_context(|| format!("{} holds no authority", path.display()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
                if self.has_token_review { verifier.allow_unauthenticated() } else { verifier }.build()?
            }
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .with_context(|| format!("{} does not belong to {}", self.key.display(), self.certificate.display()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Early data could be replayed; nothing here would do harm twice, and nobody needs it.
        config.max_early_data_size = 0;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (operators, has_token_review) = (self.operators.as_slice().into(), self.has_token_review);
        Ok(Tls { address: self.address, acceptor, operators, has_token_review })
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.with_context(|| format!("{} is no PEM", path.display()))?;
    ensure!(!all.is_empty(), "no certificate in {}", path.display());
    Ok(all)
}

impl Tls {
    /// # Errors
    /// When the handshake fails: no certificate, or one of another authority, for one.
    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<(Client, TlsStream<TcpStream>)> {
        let address = stream.peer_addr()?.ip();
        let stream = self.acceptor.accept(stream).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let client = certificate.map(|certificate| Client {
            certificate: Some(format!("{:x?}", &certificate[certificate.len().saturating_sub(32)..])),
            address,
            operator: common_name(certificate).filter(|name| self.operators.contains(name)),
        });
        let unknown = || Client { certificate: None, address, operator: None };
        let client = client.or_else(|| self.has_token_review.then(unknown));
        let client = client.ok_or_else(|| std::io::Error::other("no certificate"))?;
        Ok((client, stream))
    }
}

/// The name that Kubernetes, too, takes for that of the client.
fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}
