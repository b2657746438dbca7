//! kubelet's serving certificate where the cluster signs none: a key of the node's own and a certificate that it signed itself.
//!
//! kubelet makes such a pair, too, for its host name alone; who reaches the node by an address, as the API server does, could not even
//! check the name. This one names all of the node's names and addresses. What counts is in the two files: whoever they are from, they
//! stay as long as they fit each other, the names, and the time.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use nap_model::plan::AbsPath;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PublicKeyData};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;

use crate::root::{FileError, Root};

/// Nobody renews it for a kubelet that runs, so it is as long as today's. Source: AgentBaker, `configureKubeletServing`.
const VALID_FOR: Duration = Duration::from_secs(7300 * 24 * 3600);

/// Made anew when less than this is left.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A peer's clock may be behind.
const BACKDATE: Duration = Duration::from_secs(3600);

const KEY_MODE: u32 = 0o600;

/// What is not true of the pair, in words; nothing when all is.
///
/// # Errors
/// When a file is there and cannot be read.
pub(crate) fn difference(
    root: &Root,
    certificate: &AbsPath,
    key: &AbsPath,
    names: &[String],
) -> Result<Option<String>, FileError> {
    let (Some(pem), Some(key_pem)) = (root.read(certificate.as_str())?, root.read(key.as_str())?) else {
        return Ok(Some(format!("make {certificate} for {}, and its key", names.join(", "))));
    };
    let why = match root.entry(key)? {
        Some(entry) if entry.mode != KEY_MODE || !entry.owned => Some("others may read its key".to_owned()),
        _ => wrong(&pem, &key_pem, names, Timestamp::now()),
    };
    Ok(why.map(|why| format!("make {certificate} and its key anew: {why}")))
}

fn wrong(pem: &[u8], key: &[u8], names: &[String], now: Timestamp) -> Option<String> {
    let der = CertificateDer::from_pem_slice(pem).ok();
    let parsed = der.as_ref().and_then(|der| x509_parser::parse_x509_certificate(der).ok());
    let Some((_, certificate)) = parsed else { return Some("it is no certificate".to_owned()) };
    let validity = certificate.validity();
    if now.as_second() < validity.not_before.timestamp() {
        return Some(format!("it is valid only from {}", validity.not_before));
    }
    if (now + RENEW_BEFORE).as_second() > validity.not_after.timestamp() {
        return Some(format!("it expires {}", validity.not_after));
    }
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let found: BTreeSet<_> =
        alternatives.iter().flat_map(|names| &names.value.general_names).filter_map(name_of).collect();
    if found != names.iter().cloned().collect() {
        let found: Vec<_> = found.into_iter().collect();
        return Some(format!("it is for {}, not for {}", found.join(", "), names.join(", ")));
    }
    let key = PrivateKeyDer::from_pem_slice(key).ok().and_then(|key| KeyPair::try_from(&key).ok());
    match key {
        None => Some("its key cannot be read".to_owned()),
        Some(key) if key.subject_public_key_info() != certificate.public_key().raw => {
            Some("the key is of another certificate".to_owned())
        }
        Some(_) => None,
    }
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).ok().map(IpAddr::from);
            let address = four.or_else(|| <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from));
            address.map(|address| address.to_string())
        }
        other => Some(format!("{other:?}")),
    }
}

/// Makes the pair. The key comes first: a run that ends between the two leaves a pair that does not fit, which is made anew.
pub(crate) fn make(root: &Root, certificate: &AbsPath, key: &AbsPath, names: &[String]) -> Result<(), FileError> {
    let (certificate_pem, key_pem) = signed_by_itself(names).map_err(|error| FileError {
        action: "make",
        path: certificate.to_string(),
        source: io::Error::other(error),
    })?;
    root.write(key, key_pem.as_bytes(), KEY_MODE)?;
    root.write(certificate, certificate_pem.as_bytes(), 0o644)
}

fn signed_by_itself(names: &[String]) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let host = names.iter().find(|name| name.parse::<IpAddr>().is_err());
    params.distinguished_name.push(DnType::CommonName, host.map_or("node", String::as_str));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + VALID_FOR).into();
    let certificate = params.self_signed(&key)?;
    Ok((pem("CERTIFICATE", certificate.der()), pem("PRIVATE KEY", key.serialized_der())))
}

/// Bytes of a line of base64. Source: RFC 7468.
const PEM_LINE: usize = 48;

fn pem(label: &str, der: &[u8]) -> String {
    let lines: String = der.chunks(PEM_LINE).map(|line| STANDARD.encode(line) + "\n").collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = "/etc/kubernetes/certs/kubeletserver.crt";
    const KEY: &str = "/etc/kubernetes/certs/kubeletserver.key";

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    struct Pair {
        directory: tempfile::TempDir,
        root: Root,
        names: Vec<String>,
    }

    impl Pair {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let root = Root::open(directory.path()).unwrap();
            Self { directory, root, names: names(&["node-1", "10.224.0.7", "fd00::7"]) }
        }

        fn difference(&self) -> Option<String> {
            difference(&self.root, &AbsPath::literal(CERTIFICATE), &AbsPath::literal(KEY), &self.names).unwrap()
        }

        fn make(&self) {
            make(&self.root, &AbsPath::literal(CERTIFICATE), &AbsPath::literal(KEY), &self.names).unwrap();
        }

        fn read(&self, path: &'static str) -> Vec<u8> {
            self.root.read(path).unwrap().unwrap()
        }

        fn write(&self, path: &'static str, bytes: &[u8], mode: u32) {
            self.root.write(&AbsPath::literal(path), bytes, mode).unwrap();
        }
    }

    #[test]
    fn a_pair_that_was_made_is_as_wanted_and_kept() {
        let pair = Pair::new();
        let first = pair.difference().unwrap();
        assert_eq!(first, format!("make {CERTIFICATE} for node-1, 10.224.0.7, fd00::7, and its key"));
        pair.make();
        assert_eq!(pair.difference(), None);
        let entry = pair.root.entry(&AbsPath::literal(KEY)).unwrap().unwrap();
        assert_eq!(entry.mode, 0o600);
        assert_eq!(std::fs::read_dir(pair.directory.path().join("etc/kubernetes/certs")).unwrap().count(), 2);
    }

    #[test]
    fn whatever_is_not_true_of_it_is_seen() {
        let mut pair = Pair::new();
        pair.make();
        let (certificate, key) = (pair.read(CERTIFICATE), pair.read(KEY));
        let seen = |pair: &Pair, what: &str| {
            let difference = pair.difference();
            assert!(difference.as_ref().is_some_and(|text| text.contains(what)), "{what}: {difference:?}");
            let key = String::from_utf8(pair.read(KEY)).unwrap();
            let secret = key.lines().nth(1).unwrap_or("nothing");
            assert!(!difference.unwrap().contains(secret), "the key is in the difference");
        };
        pair.write(CERTIFICATE, b"x", 0o644);
        seen(&pair, "it is no certificate");
        pair.write(CERTIFICATE, &certificate, 0o644);
        pair.write(KEY, &key, 0o644);
        seen(&pair, "others may read its key");
        pair.write(KEY, &certificate, 0o600);
        seen(&pair, "its key cannot be read");
        pair.make();
        pair.write(CERTIFICATE, &certificate, 0o644);
        seen(&pair, "the key is of another certificate");
        pair.write(KEY, &key, 0o600);
        assert_eq!(pair.difference(), None);
        pair.names.pop();
        seen(&pair, "it is for 10.224.0.7, fd00::7, node-1, not for node-1, 10.224.0.7");
        pair.make();
        assert_eq!(pair.difference(), None);
        std::fs::remove_file(pair.directory.path().join(&KEY[1..])).unwrap();
        assert!(pair.difference().is_some());
    }

    #[test]
    fn it_is_made_anew_before_it_expires() {
        let wanted = names(&["node-1"]);
        let (certificate, key) = signed_by_itself(&wanted).unwrap();
        let after = |days: i64| {
            let then = Timestamp::now() + SignedDuration::from_hours(24 * days);
            wrong(certificate.as_bytes(), key.as_bytes(), &wanted, then)
        };
        assert_eq!((after(0), after(7200)), (None, None));
        assert!(after(7280).is_some_and(|why| why.starts_with("it expires ")));
        assert!(after(-1).is_some_and(|why| why.starts_with("it is valid only from ")));
    }
}
