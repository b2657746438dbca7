//! Label keys, label values and node names.

use std::fmt;

use serde::Serialize;
use thiserror::Error;

/// Longest label value and longest name part of a key, in bytes.
/// Source: `LabelValueMaxLength`, `qualifiedNameMaxLength`, k8s.io/apimachinery/pkg/util/validation.
const MAX_NAME_BYTES: usize = 63;

/// Longest DNS subdomain, in bytes. Source: `DNS1123SubdomainMaxLength`, same place.
const MAX_SUBDOMAIN_BYTES: usize = 253;

/// Labels below `kubernetes.io` and `k8s.io` that a kubelet may set on its own node; any other makes it exit.
/// Source: `kubeletLabels`, k8s.io/kubelet/pkg/apis/well_known_labels.go.
const KUBELET_LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// Domains below which a kubelet may set any label. Source: `kubeletLabelNamespaces`, same place.
const KUBELET_LABEL_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Labels that only Karpenter's controllers write.
const CONTROLLER_LABELS: &[&str] = &["karpenter.sh/registered", "karpenter.sh/initialized"];

/// Why a label cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LabelError {
    /// The key's name part breaks the rules.
    #[error(
        "a label key whose name is 1 to 63 letters, digits, '-', '_' or '.', starting and ending with a letter or digit"
    )]
    Name,
    /// The key's prefix is no DNS subdomain.
    #[error("a label key whose prefix is a DNS subdomain of at most 253 characters")]
    Prefix,
    /// The value breaks the rules.
    #[error("a label value of at most 63 letters, digits, '-', '_' or '.', starting and ending with a letter or digit")]
    Value,
    /// kubelet would refuse to start with it.
    #[error("a label that a kubelet may set on its own node (below kubernetes.io and k8s.io only a few)")]
    Forbidden,
    /// It belongs to Karpenter.
    #[error("a label that is not written by Karpenter itself")]
    ControllerOwned,
}

/// A qualified name: an optional DNS subdomain and `/`, then a name. The key of labels and taints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Qualified(String);

impl TryFrom<&str> for Qualified {
    type Error = LabelError;

    fn try_from(text: &str) -> Result<Self, LabelError> {
        let (prefix, name) = match text.split_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, text),
        };
        if prefix.is_some_and(|prefix| !is_subdomain(prefix)) {
            return Err(LabelError::Prefix);
        }
        if name.is_empty() || !is_label_text(name) {
            return Err(LabelError::Name);
        }
        Ok(Self(text.to_owned()))
    }
}

impl Qualified {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The key of a label that a kubelet may set on its own node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct LabelKey(Qualified);

impl TryFrom<&str> for LabelKey {
    type Error = LabelError;

    fn try_from(text: &str) -> Result<Self, LabelError> {
        let key = Qualified::try_from(text)?;
        if CONTROLLER_LABELS.contains(&text) {
            return Err(LabelError::ControllerOwned);
        }
        let domain = text.split_once('/').map_or("", |(domain, _)| domain);
        let is_below =
            |parent: &str| domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
        let reserved = is_below("kubernetes.io") || is_below("k8s.io");
        let allowed = KUBELET_LABELS.contains(&text) || KUBELET_LABEL_DOMAINS.iter().any(|domain| is_below(domain));
        if reserved && !allowed { Err(LabelError::Forbidden) } else { Ok(Self(key)) }
    }
}

impl LabelKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// The value of a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct LabelValue(String);

impl TryFrom<&str> for LabelValue {
    type Error = LabelError;

    fn try_from(text: &str) -> Result<Self, LabelError> {
        if text.is_empty() || is_label_text(text) { Ok(Self(text.to_owned())) } else { Err(LabelError::Value) }
    }
}

impl LabelValue {
    /// The value as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no node name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a node name: a DNS subdomain of at most 253 lower-case letters, digits, '-' and '.'")]
pub struct NodeNameError;

/// The name of a Node, which on Azure is the VM's name in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct NodeName(String);

impl TryFrom<&str> for NodeName {
    type Error = NodeNameError;

    fn try_from(text: &str) -> Result<Self, NodeNameError> {
        if is_subdomain(text) { Ok(Self(text.to_owned())) } else { Err(NodeNameError) }
    }
}

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_label_text(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES
        && text.starts_with(|letter: char| letter.is_ascii_alphanumeric())
        && text.ends_with(|letter: char| letter.is_ascii_alphanumeric())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.'))
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= MAX_SUBDOMAIN_BYTES && text.split('.').all(is_dns_label)
}

fn is_dns_label(text: &str) -> bool {
    let inner = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    text.starts_with(inner) && text.ends_with(inner) && text.chars().all(|letter| inner(letter) || letter == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(key: &str) -> Option<LabelError> {
        LabelKey::try_from(key).err()
    }

    #[test]
    fn keys_follow_kubernetes_rules() {
        for key in
            ["a", "A.b_c-d", "kubernetes.azure.com/role", "karpenter.sh/nodepool", "node.kubernetes.io/instance-type"]
        {
            assert_eq!(refused(key), None, "{key}");
        }
        assert_eq!(refused(""), Some(LabelError::Name));
        assert_eq!(refused("-a"), Some(LabelError::Name));
        assert_eq!(refused("a/b/c"), Some(LabelError::Name));
        assert_eq!(refused("/a"), Some(LabelError::Prefix));
        assert_eq!(refused("A.b/c"), Some(LabelError::Prefix));
        assert_eq!(refused(&"a".repeat(64)), Some(LabelError::Name));
        assert_eq!(refused(&format!("{}/a", "a.".repeat(126) + "ab")), Some(LabelError::Prefix));
    }

    #[test]
    fn keys_that_make_kubelet_exit_are_refused() {
        assert_eq!(refused("kubernetes.io/role"), Some(LabelError::Forbidden));
        assert_eq!(refused("node-restriction.kubernetes.io/x"), Some(LabelError::Forbidden));
        assert_eq!(refused("x.k8s.io/y"), Some(LabelError::Forbidden));
        assert_eq!(refused("kubelet.kubernetes.io/x"), None);
        assert_eq!(refused("notkubernetes.io/x"), None);
        assert_eq!(refused("karpenter.sh/registered"), Some(LabelError::ControllerOwned));
    }

    #[test]
    fn values_follow_kubernetes_rules() {
        assert!(LabelValue::try_from("").is_ok());
        assert_eq!(LabelValue::try_from("a b"), Err(LabelError::Value));
        assert_eq!(LabelValue::try_from(&*"a".repeat(64)), Err(LabelError::Value));
    }

    #[test]
    fn node_names_are_lower_case_subdomains() {
        assert!(NodeName::try_from("aks-np1-7x2k").is_ok());
        assert_eq!(NodeName::try_from("AKS-1"), Err(NodeNameError));
        assert_eq!(NodeName::try_from("a..b"), Err(NodeNameError));
    }
}
