//! The NodeRestriction admission rule: a kubelet writes its own Node and Lease, chooses no labels that steer other
//! people's workloads, and never touches its taints after registration.

use serde_json::Value;

use super::identity::User;
use super::route::Kind;
use super::status::ApiError;

/// Labels below `kubernetes.io` and `k8s.io` that a kubelet may set.
/// Source: IsKubeletLabel in k8s.io/kubelet/pkg/apis.
const KUBELET_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// Label namespaces, with everything below them, that a kubelet may use.
const KUBELET_NAMESPACES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Judges what a node writes; other users are none of its business. `old` is `None` when `new` is being created.
pub(crate) fn admit(user: &User, kind: Kind, old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
    let Some(node) = user.node() else { return Ok(()) };
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    let refuse = |why: String| {
        let resource = kind.qualified();
        let message = format!("{resource} \"{name}\" is forbidden: {why}");
        Err(ApiError::forbidden_object(&resource, name, message))
    };
    if kind == Kind::Lease && name != node {
        return refuse("can only access node lease with the same name as the requesting node".to_owned());
    }
    if kind != Kind::Node {
        return Ok(());
    }
    if name != node {
        return refuse(format!("node \"{node}\" is not allowed to modify node \"{name}\""));
    }
    let labels = forbidden_labels(old, new);
    if !labels.is_empty() {
        let labels = labels.join(", ");
        return refuse(match old {
            Some(_) => format!("is not allowed to modify labels: {labels}"),
            None => format!("node \"{node}\" is not allowed to set the following labels: {labels}"),
        });
    }
    match old {
        Some(old) if old["spec"]["taints"] != new["spec"]["taints"] => {
            refuse(format!("node \"{node}\" is not allowed to modify taints"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Labels that differ and are not the kubelet's to set.
fn forbidden_labels(old: Option<&Value>, new: &Value) -> Vec<String> {
    let labels = |object: Option<&Value>| object.and_then(|object| object["metadata"]["labels"].as_object()).cloned();
    let (old, new) = (labels(old).unwrap_or_default(), labels(Some(new)).unwrap_or_default());
    let mut names: Vec<String> = old.keys().chain(new.keys()).cloned().collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| old.get(name) != new.get(name) && !may_set(name));
    names
}

fn may_set(label: &str) -> bool {
    let namespace = label.split_once('/').map_or("", |(namespace, _)| namespace);
    let below =
        |domain: &str| namespace == domain || namespace.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    let reserved = below("kubernetes.io") || below("k8s.io");
    !reserved || KUBELET_LABELS.contains(&label) || KUBELET_NAMESPACES.iter().any(|domain| below(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_sets_its_own_labels_and_those_of_other_domains() {
        let mine = [
            "pool",
            "karpenter.sh/nodepool",
            "kubernetes.azure.com/mode",
            "kubernetes.io/hostname",
            "node.kubernetes.io/exclude-from-external-load-balancers",
            "x.kubelet.kubernetes.io/a",
            "mykubernetes.io/a",
        ];
        for label in mine {
            assert!(may_set(label), "{label}");
        }
    }

    #[test]
    fn a_kubelet_does_not_set_reserved_labels() {
        let reserved =
            ["node-restriction.kubernetes.io/a", "kubernetes.io/role", "node-role.kubernetes.io/agent", "x.k8s.io/a"];
        for label in reserved {
            assert!(!may_set(label), "{label}");
        }
    }
}
