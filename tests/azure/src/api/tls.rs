//! TLS as kube-apiserver does it: any client certificate is accepted in the handshake and judged with each request,
//! so that an expired or foreign certificate ends in 401 instead of a broken handshake.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme};

use super::clock::Clock;

/// Judges client certificates against the cluster's authority.
pub(crate) fn client_verifier(authority: CertificateDer<'static>) -> Arc<dyn ClientCertVerifier> {
    let mut roots = RootCertStore::empty();
    roots.add(authority).expect("our own authority is a certificate");
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()))
        .allow_unauthenticated()
        .build()
        .expect("there is one root and there are no revocation lists")
}

/// The server's side of TLS.
pub(crate) fn server_config(
    (certificate, key): (CertificateDer<'static>, PrivateKeyDer<'static>),
    verifier: Arc<dyn ClientCertVerifier>,
    clock: Clock,
) -> ServerConfig {
    let mut config = ServerConfig::builder_with_details(Arc::new(default_provider()), Arc::new(clock))
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .with_client_cert_verifier(Arc::new(Deferred { inner: verifier }))
        .with_single_cert(vec![certificate], key)
        .expect("the key was made for the certificate");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Takes any certificate whose key the client holds; trust is decided later.
#[derive(Debug)]
struct Deferred {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for Deferred {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
