//! Rules that both wire formats share: labels, taints, certificates, tokens, kubelet flags.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use serde_json::{Map, Value};

use super::problem::{Findings, entry, join, quoted};
use crate::kubernetes::{LabelKey, LabelValue, Taint, UNREGISTERED};

/// Flags that this agent sets itself, from other fields of the configuration.
const OWN_FLAGS: &[&str] = &[
    "config",
    "kubeconfig",
    "bootstrap-kubeconfig",
    "node-labels",
    "register-with-taints",
    "cert-dir",
    "hostname-override",
];

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
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut blocks = pem.split(BEGIN).skip(1).peekable();
    blocks.peek().is_some()
        && blocks.all(|block| {
            let body = block.split_once(END).map_or("", |(body, _)| body);
            let dense: String = body.split_ascii_whitespace().collect();
            // A DER certificate is a SEQUENCE.
            BASE64.decode(dense).is_ok_and(|der| der.first() == Some(&0x30))
        })
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

/// kubelet's flags, without their dashes and without those that this agent sets itself.
pub(super) fn kubelet_flags<'a>(
    entries: impl Iterator<Item = (&'a str, &'a str)>,
    path: &str,
    findings: &mut Findings,
) -> BTreeMap<String, String> {
    let mut flags = BTreeMap::new();
    for (name, value) in entries {
        let path = entry(path, name);
        let name = name.trim_start_matches('-');
        let is_name = !name.is_empty()
            && name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-');
        // systemd splits $KUBELET_FLAGS at white space, so a value cannot hold any.
        let is_value = !value
            .chars()
            .any(|letter| letter.is_whitespace() || letter.is_control() || matches!(letter, '"' | '\'' | '\\'));
        if !is_name {
            findings.problem(&path, quoted(name), "a flag's name, such as max-pods");
        } else if !is_value {
            findings.problem(&path, quoted(value), "a value without white space, quotes and backslashes");
        } else if OWN_FLAGS.contains(&name) {
            findings.warn(&path, "nap-agent sets this flag itself; ignored");
        } else {
            flags.insert(name.to_owned(), value.to_owned());
        }
    }
    flags
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
    fn the_unregistered_taint_is_always_there_once() {
        let mut findings = Findings::default();
        let taints =
            taints([("a".to_owned(), UNREGISTERED), ("b".to_owned(), "x=y:NoSchedule")].into_iter(), &mut findings);
        let taints: Vec<_> = taints.iter().map(ToString::to_string).collect();
        assert_eq!(taints, [UNREGISTERED, "x=y:NoSchedule"]);
    }

    #[test]
    fn flags_of_our_own_are_ignored_and_unsafe_ones_refused() {
        let mut findings = Findings::default();
        let given = [("--v", "4"), ("kubeconfig", "/x"), ("--a", "b c"), ("--A", "1")];
        assert_eq!(
            kubelet_flags(given.into_iter(), "flags", &mut findings),
            BTreeMap::from([("v".into(), "4".into())])
        );
        assert_eq!((findings.problems.len(), findings.warnings.len()), (2, 1));
    }
}
