//! Rules that both wire formats share: labels, taints, certificates, tokens, kubelet flags.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;

use serde_json::{Map, Value};

use super::document::Checked;
use super::problem::{Findings, entry, join};
use crate::facts::Certificate;
use crate::kubernetes::{LabelKey, LabelValue, Taint, UNREGISTERED};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

pub(super) fn labels<'a>(
    entries: impl Iterator<Item = (&'a str, &'a str)>,
    path: &str,
    findings: &mut Findings,
) -> BTreeMap<LabelKey, LabelValue> {
    let mut labels = BTreeMap::new();
    for (key, value) in entries {
        let path = entry(path, key);
        let key = findings.parse::<LabelKey>(&path, key);
        let value = findings.parse::<LabelValue>(&path, value);
        if let (Some(key), Some(value)) = (key, value) {
            labels.insert(key, value);
        }
    }
    labels
}

/// The taints at `path`, sorted, always with the one that Karpenter waits for.
pub(super) fn taints<'a>(entries: impl Iterator<Item = (String, &'a str)>, findings: &mut Findings) -> Vec<Taint> {
    let mut taints: Vec<Taint> = entries.filter_map(|(path, text)| findings.parse(&path, text)).collect();
    taints.push(Taint::try_from(UNREGISTERED).expect("our own constant is a taint"));
    taints.sort();
    taints.dedup();
    taints
}

/// Those that stand more than once, once for each time too many.
pub(super) fn repeated(mut names: Vec<&str>) -> Vec<&str> {
    names.sort_unstable();
    names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect()
}

/// PEM certificates, given as PEM or as base64 of PEM.
pub(super) fn certificates(text: &str, path: &str, findings: &mut Findings) -> String {
    let dense: String = text.split_ascii_whitespace().collect();
    let decoded = BASE64.decode(dense).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pem = decoded.unwrap_or_else(|| text.to_owned());
    if !is_certificates(&pem) {
        let found = format!("a text of {} characters", text.len());
        findings.problem(path, found, "one or more PEM certificates, or base64 of them");
    }
    pem.trim_end().to_owned() + "\n"
}

fn is_certificates(pem: &str) -> bool {
    let mut blocks = pem.split(BEGIN).skip(1).peekable();
    blocks.peek().is_some()
        && blocks.all(|block| {
            let body = block.split_once(END).map_or("", |(body, _)| body);
            let dense: String = body.split_ascii_whitespace().collect();
            // A DER certificate is a SEQUENCE.
            BASE64.decode(dense).is_ok_and(|der| der.first() == Some(&0x30))
        })
}

/// Most lists of certificates. Source: AKS, custom certificate authorities.
const MAX_TRUSTED: usize = 10;

/// Certificates that the whole machine is to trust, each one PEM block, in order, each once.
pub(super) fn trusted_certificates<'a>(
    given: impl Iterator<Item = (String, &'a str)>,
    findings: &mut Findings,
) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    for (i, (path, text)) in given.enumerate() {
        if i == MAX_TRUSTED {
            findings.problem(
                &path,
                format!("more than {MAX_TRUSTED} lists of certificates"),
                format!("at most {MAX_TRUSTED}"),
            );
            break;
        }
        for block in pem_blocks(&certificates(text, &path, findings)) {
            if certificate_validity(&block).is_none() {
                findings.problem(&path, "a PEM block that holds no X.509 certificate", "X.509 certificates");
            } else if !blocks.contains(&block) {
                blocks.push(block);
            }
        }
    }
    blocks
}

/// Whether the certificate in a PEM block is an authority's (basicConstraints).
pub(crate) fn is_authority(pem: &str) -> bool {
    der_of(pem)
        .is_some_and(|der| x509_parser::parse_x509_certificate(&der).is_ok_and(|(_, certificate)| certificate.is_ca()))
}

fn der_of(pem: &str) -> Option<Vec<u8>> {
    let body = pem.split_once(BEGIN)?.1.split_once(END)?.0;
    BASE64.decode(body.split_ascii_whitespace().collect::<String>()).ok()
}

/// Subject and validity of a certificate in a PEM block; nothing when it is none.
pub(crate) fn certificate_validity(pem: &str) -> Option<(String, Certificate)> {
    let der = der_of(pem)?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    let time = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    let validity = certificate.validity();
    let validity = Certificate { not_before: time(validity.not_before)?, not_after: time(validity.not_after)? };
    Some((certificate.subject().to_string(), validity))
}

fn pem_blocks(pem: &str) -> Vec<String> {
    let bodies = pem.split(BEGIN).skip(1).filter_map(|block| block.split_once(END));
    bodies
        .map(|(body, _)| {
            let lines: Vec<&str> = body.split_ascii_whitespace().collect();
            format!("{BEGIN}\n{}\n{END}\n", lines.join("\n"))
        })
        .collect()
}

/// What a limit of systemd looks like, for errors.
pub(super) const LIMIT: &str = "a number, soft:hard or infinity, as systemd.exec(5) has it";

/// A limit as systemd.exec(5) writes it; sizes may have K, M, G or T behind them.
pub(super) fn is_limit(text: &str) -> bool {
    let is_one = |one: &str| {
        let number = one.strip_suffix(['K', 'M', 'G', 'T']).unwrap_or(one);
        one == "infinity"
            || (!number.is_empty() && number.len() <= 19 && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    text.split_once(':').map_or_else(|| is_one(text), |(soft, hard)| is_one(soft) && is_one(hard))
}

/// Labels of letters, digits and `-`, joined by dots.
pub(super) fn is_domain(text: &str) -> bool {
    text.len() <= 253 && text != "." && super::local_dns::is_zone(text)
}

pub(super) fn is_suffix(text: &str) -> bool {
    text.strip_prefix('.').is_some_and(is_domain)
}

pub(super) fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// `10.0.0.0/16`, `fd00::/108`.
pub(super) fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let most = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= most)
}

/// Twelve hexadecimal digits, upper case, as IMDS writes a MAC.
pub(super) fn is_mac(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte))
}

/// Source: useradd(8), `NAME_REGEX` of Debian's adduser.
pub(super) fn is_user_name(text: &str) -> bool {
    text.len() <= 32
        && text.starts_with(|letter: char| letter.is_ascii_lowercase() || letter == '_')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'))
}

/// A URL of a proxy that can stand in an environment file of systemd and in apt's configuration.
pub(super) fn is_proxy_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && rest != "/" && !rest.contains(';')) && is_flag_value(text)
}

/// An image that can stand in a unit's command line. Source: distribution/reference, `ReferenceRegexp`, without what it says of each part.
pub(super) fn is_image(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/@".contains(&byte);
    text.len() <= 512
        && text.bytes().all(is_part)
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
}

/// A host with an optional port and path.
pub(super) fn is_registry(text: &str) -> bool {
    let (host, path) = text.split_once('/').unwrap_or((text, ""));
    let (name, port) = host.split_once(':').unwrap_or((host, "443"));
    let plain = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '-' | '_' | '.' | '/')
    };
    is_domain(name) && port.parse::<u16>().is_ok_and(|port| port != 0) && path.chars().all(plain)
}

/// A registry's host and port, or the word for all of them.
pub(super) fn is_mirrored_registry(text: &str) -> bool {
    text == "_default" || (is_registry(text) && !text.contains('/'))
}

/// `https://mirror.example:5000/path`.
pub(super) fn is_mirror_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| is_registry(rest.strip_suffix('/').unwrap_or(rest)) && !rest.contains("//"))
}

/// `abcdef.0123456789abcdef`. Source: `BootstrapTokenPattern`, k8s.io/cluster-bootstrap/token/api.
pub(super) fn is_bootstrap_token(text: &str) -> bool {
    let is = |part: &str, length: usize| {
        part.len() == length && part.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit())
    };
    text.split_once('.').is_some_and(|(id, secret)| is(id, 6) && is(secret, 16))
}

/// Whether a value can stand in `$KUBELET_FLAGS`, which systemd splits at white space and unquotes.
pub(crate) fn is_flag_value(text: &str) -> bool {
    let breaks =
        |letter: char| letter.is_whitespace() || letter.is_control() || matches!(letter, '"' | '\'' | '\\' | '$');
    !text.is_empty() && !text.contains(breaks)
}

/// Takes out what the agent sets itself.
pub(super) fn kubelet_config(config: &mut Map<String, Value>, path: &str, findings: &mut Findings) {
    // Karpenter counts on its taint being there at first registration.
    if config.remove("registerWithTaints").is_some() {
        findings.warn(&join(path, "registerWithTaints"), "nap-agent sets this field itself, from node.taints; ignored");
    }
}

/// Objects are merged, everything else is replaced.
pub(crate) fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                merge(base.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// A text that a format carries as base64; absent when empty.
pub(super) fn base64_text(checked: Checked<'_>, path: &str, findings: &mut Findings) -> Option<String> {
    let encoded = checked.text(path)?;
    let text = unbase64_text(encoded);
    if text.is_none() {
        findings.problem(path, "a value that is not shown", "base64 of a text");
    }
    text.filter(|text| !text.is_empty())
}

pub(super) fn unbase64_text(encoded: &str) -> Option<String> {
    let dense: String = encoded.split_ascii_whitespace().collect();
    String::from_utf8(BASE64.decode(dense).ok()?).ok()
}

/// A JSON object, or base64 of one.
pub(super) fn json_object(text: &str) -> Option<Map<String, Value>> {
    let decoded = unbase64_text(text);
    let json = decoded.as_deref().unwrap_or(text);
    serde_json::from_str(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_come_as_pem_or_base64_of_pem() {
        let pem = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----";
        let mut findings = Findings::default();
        assert_eq!(certificates(pem, "ca", &mut findings), format!("{pem}\n"));
        assert_eq!(certificates(&BASE64.encode(pem), "ca", &mut findings), format!("{pem}\n"));
        assert_eq!(findings.problems, []);
        for bad in
            ["", "sesame", "-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"]
        {
            let mut findings = Findings::default();
            certificates(bad, "ca", &mut findings);
            assert_eq!(findings.problems.len(), 1, "{bad}");
        }
    }

    #[test]
    fn each_trusted_certificate_is_one_block_and_there_once() {
        let good = include_str!("../../testdata/certificates/example-root-ca.pem");
        let old = include_str!("../../testdata/certificates/old-root-ca.pem");
        let two = format!("# a comment\n{good}{old}");
        let mut findings = Findings::default();
        let given = [("a".to_owned(), two.as_str()), ("b".to_owned(), &BASE64.encode(good))];
        assert_eq!(trusted_certificates(given.into_iter(), &mut findings), [good, old]);
        assert_eq!(findings.problems, []);
        trusted_certificates((0..11).map(|i| (format!("c[{i}]"), two.as_str())), &mut findings);
        let no_certificate = format!("{BEGIN}\nMAA=\n{END}\n");
        trusted_certificates([("d".to_owned(), no_certificate.as_str())].into_iter(), &mut findings);
        let paths: Vec<_> = findings.problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["c[10]", "d"]);
    }

    #[test]
    fn texts_with_rules_keep_them() {
        type Rule = fn(&str) -> bool;
        let rules: [(Rule, &[&str], &[&str]); 10] = [
            (is_limit, &["1024", "1024:4096", "infinity", "64M"], &["", "x", "1:", "1 2", "-1"]),
            (is_domain, &["corp.example", "a"], &["", ".", "a..b", "a b", "-a"]),
            (is_cidr, &["10.0.0.0/16", "fd00::/108"], &["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/-1"]),
            (is_mac, &["000D3A1B2C3D"], &["00:0d:3a:1b:2c:3d", "000d3a1b2c3d", ""]),
            (is_user_name, &["azureuser", "_x-1"], &["", "Root", "a b", "-a", "a:b"]),
            (
                is_proxy_url,
                &["http://p:3128", "http://u:p@h:1/"],
                &["p:3128", "http://", "http://a b", "http://a\";x", "ftp://a"],
            ),
            (is_registry, &["a.azurecr.io", "a.b:5000/x/y"], &["", "https://a.b", "a.b:0", "A/B C"]),
            (is_mirrored_registry, &["_default", "a.b:5000"], &["a.b/c", ""]),
            (
                is_mirror_url,
                &["http://a.b:5000", "https://a.b/c/d"],
                &["a.b", "ftp://a.b", "https://", "https://a.b//c", "https://a.b\"]"],
            ),
            (is_suffix, &[".azurecr.example"], &["azurecr.example", "."]),
        ];
        for (rule, right, wrong) in rules {
            right.iter().for_each(|text| assert!(rule(text), "{text}"));
            wrong.iter().for_each(|text| assert!(!rule(text), "{text}"));
        }
    }

    #[test]
    fn the_unregistered_taint_is_always_there_once() {
        let mut findings = Findings::default();
        let taints =
            taints([("a".to_owned(), UNREGISTERED), ("b".to_owned(), "x=y:NoSchedule")].into_iter(), &mut findings);
        let taints: Vec<_> = taints.iter().map(ToString::to_string).collect();
        assert_eq!(taints, [UNREGISTERED, "x=y:NoSchedule"]);
    }
}
