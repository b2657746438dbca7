//! The cluster's certificate authority: one for the server's and for the nodes' certificates, as in AKS.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::clock::Clock;
use super::store::random_hex;

/// A certificate is valid from a little before it is made, as Kubernetes' signer does.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A client certificate and its key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key, PKCS #8.
    pub key_pem: String,
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validity {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Validity {
    pub(crate) fn from_now(clock: Clock, time: Duration) -> Self {
        let now = clock.system_time();
        Self { not_before: now - BACKDATE, not_after: now + time }
    }

    pub(crate) fn a_year(clock: Clock) -> Self {
        Self::from_now(clock, YEAR)
    }

    fn apply(self, params: &mut CertificateParams) {
        params.not_before = self.not_before.into();
        params.not_after = self.not_after.into();
        params.serial_number = Some(SerialNumber::from(random_hex(8).into_bytes()));
    }
}

/// A certificate authority with its key.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// What goes wrong when certificates are made; always a wrong name, as everything else is ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("cannot make the certificate authority {name}")]
    Authority {
        name: String,
        #[source]
        source: rcgen::Error,
    },
    #[error("cannot make a certificate for {names:?}")]
    Issue {
        names: Vec<String>,
        #[source]
        source: rcgen::Error,
    },
}

impl Authority {
    pub(crate) fn new(name: &str, clock: Clock) -> Result<Self, CertificateError> {
        Self::make(name, clock).map_err(|source| CertificateError::Authority { name: name.to_owned(), source })
    }

    fn make(name: &str, clock: Clock) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let now = clock.system_time();
        // A cluster is older than its nodes: a node whose clock is an hour off still accepts the authority itself.
        Validity { not_before: now - DAY, not_after: now + 10 * YEAR }.apply(&mut params);
        let certificate = params.self_signed(&key)?;
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    /// A server certificate for exactly `names`, and its key.
    pub(crate) fn server_certificate(
        &self,
        names: &[String],
        validity: Validity,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), CertificateError> {
        let make = || {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(names)?;
            params.distinguished_name = subject("apiserver", None);
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.use_authority_key_identifier_extension = true;
            validity.apply(&mut params);
            let certificate = params.signed_by(&key, &self.issuer)?;
            Ok((certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
        };
        make().map_err(|source| CertificateError::Issue { names: names.to_vec(), source })
    }

    /// A client certificate of `group` for `name`, with a new key.
    pub(crate) fn client_identity(&self, name: &str, group: &str, validity: Validity) -> ClientIdentity {
        let make = || {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::default();
            params.distinguished_name = subject(name, Some(group));
            as_client(&mut params, validity);
            let certificate = params.signed_by(&key, &self.issuer)?;
            Ok::<_, rcgen::Error>(ClientIdentity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
        };
        make().expect("a subject of plain text can always be certified")
    }

    /// The certificate for a request whose subject and signature were checked.
    pub(crate) fn sign(
        &self,
        mut request: CertificateSigningRequestParams,
        validity: Validity,
    ) -> Result<String, rcgen::Error> {
        as_client(&mut request.params, validity);
        Ok(request.signed_by(&self.issuer)?.pem())
    }
}

fn as_client(params: &mut CertificateParams, validity: Validity) {
    params.is_ca = IsCa::NoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    validity.apply(params);
}

fn subject(common_name: &str, organization: Option<&str>) -> rcgen::DistinguishedName {
    let mut subject = rcgen::DistinguishedName::new();
    if let Some(organization) = organization {
        subject.push(DnType::OrganizationName, organization);
    }
    subject.push(DnType::CommonName, common_name);
    subject
}
