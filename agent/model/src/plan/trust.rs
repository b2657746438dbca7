//! Certificate authorities that the whole machine trusts beside the distribution's own.
//!
//! They are there before containerd starts, and before anything of ours connects to the outside. Go programs read the bundle once, so
//! containerd and kubelet are started anew when a certificate comes or goes.

use sha2::{Digest as _, Sha256};

use super::resource::{AbsPath, Content, Step, Want};
use crate::config::NodeConfig;
use crate::config::rules::{certificate_validity, is_authority};
use crate::facts::Facts;
use crate::os::Distribution;

pub(super) fn files(config: &NodeConfig, os: &Distribution) -> Vec<Step> {
    let file = |pem: &String| {
        let name = name(pem);
        let path = AbsPath::try_from(format!("{}/nap-agent-{name}.crt", os.trust.anchors).as_str());
        let path = path.expect("anchors of a distribution are an absolute path");
        let want = Want::File { path, mode: 0o644, content: Content::public(pem.clone()) };
        Step::new(format!("trust.certificate.{name}"), "the provisioner wants it trusted", want)
    };
    config.trusted_certificates.iter().map(file).collect()
}

pub(super) fn store(config: &NodeConfig, os: &Distribution) -> Vec<Step> {
    if in_bundle(config, os).next().is_none() {
        return Vec::new();
    }
    let want = Want::TrustStore {
        bundle: AbsPath::literal(os.trust.bundle),
        certificates: in_bundle(config, os).cloned().collect(),
        program: os.trust.program,
    };
    vec![Step::new("trust.store", "programs read the bundle, not the certificates beside it", want)]
}

/// What the distribution's program takes.
fn in_bundle<'c>(config: &'c NodeConfig, os: &Distribution) -> impl Iterator<Item = &'c String> {
    let all = !os.trust.authorities_only;
    config.trusted_certificates.iter().filter(move |pem| all || is_authority(pem))
}

/// A certificate whose time is not now is installed all the same: the provisioner may know a clock better than we do.
pub(super) fn notes(config: &NodeConfig, facts: &Facts, os: &Distribution) -> Vec<String> {
    let left = config.trusted_certificates.len() - in_bundle(config, os).count();
    let no_authority = (left > 0).then(|| {
        format!("TrustedCertificateNotAuthority: {left} certificates are no authority's; this distribution's trust store leaves them out")
    });
    let known = config.trusted_certificates.iter().filter_map(|pem| certificate_validity(pem));
    let outside = known.filter(|(_, validity)| !validity.is_valid_at(facts.observed_at));
    outside
        .map(|(subject, validity)| {
            let (from, to) = (validity.not_before, validity.not_after);
            format!("TrustedCertificateNotValid: {subject} is valid from {from} to {to}")
        })
        .chain(no_authority)
        .collect()
}

/// The same certificate has the same name, wherever it stands in the list.
fn name(pem: &str) -> String {
    Sha256::digest(pem).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
