//! Node hardening: kubelet and containerd in a slice of their own, so that kubelet can hold them to `kubeReserved`.
//!
//! kubelet refuses to start when it is told to enforce a control group that is not there. Two are: `/system.slice` is systemd's, and
//! `/kubereserved.slice` is made here when it is asked for. Any other name is a mistake that would only show as a crash loop.

use serde_json::{Map, Value};

use super::resource::{Step, public_file};
use crate::report::{Failure, Reason};

const KUBE_RESERVED: &str = "/kubereserved.slice";
const SYSTEM_RESERVED: &str = "/system.slice";

/// What kubelet may be told to enforce, the field that names its control group, and the one that is there.
const ENFORCED: &[(&str, &str, &str)] = &[
    ("kube-reserved", "kubeReservedCgroup", KUBE_RESERVED),
    ("system-reserved", "systemReservedCgroup", SYSTEM_RESERVED),
];

/// Refuses what kubelet would refuse later.
///
/// # Errors
/// When a control group is enforced that is not named, or that nobody makes.
pub(super) fn refuse_missing(kubelet: &Map<String, Value>) -> Result<(), Failure> {
    let enforced = kubelet.get("enforceNodeAllocatable").and_then(Value::as_array);
    let is_enforced = |what: &str| enforced.is_some_and(|list| list.iter().any(|item| item == what));
    let wrong = ENFORCED.iter().filter(|(what, field, there)| {
        let named = kubelet.get(*field).and_then(Value::as_str).filter(|name| !name.is_empty());
        is_enforced(what) && named.is_none_or(|name| name.trim_start_matches('/') != there.trim_start_matches('/'))
    });
    let evidence: Vec<String> = wrong
        .map(|(what, field, there)| {
            let found = kubelet.get(*field).map_or("nothing".to_owned(), Value::to_string);
            format!("{field}: found {found}, want \"{there}\" where {what} is enforced")
        })
        .collect();
    if evidence.is_empty() {
        return Ok(());
    }
    let failure =
        Failure::new(Reason::ConfigInvalid, "plan", "kubelet would not find a control group that it is to enforce");
    Err(evidence.into_iter().fold(failure, Failure::seen))
}

pub(super) fn files(kubelet: &Map<String, Value>) -> Vec<Step> {
    let named = kubelet.get("kubeReservedCgroup").and_then(Value::as_str).unwrap_or_default();
    if named.trim_start_matches('/') != KUBE_RESERVED.trim_start_matches('/') {
        return Vec::new();
    }
    let slice = "# Written by nap-agent.\n[Unit]\nDescription=kubelet and containerd, held to kubeReserved\nBefore=slices.target\n";
    let why = "kubelet enforces what is reserved for itself there";
    let mut steps =
        vec![Step::new("slices.kube-reserved", why, public_file("/etc/systemd/system/kubereserved.slice", slice))];
    for (unit, path) in [
        ("containerd", "/etc/systemd/system/containerd.service.d/20-nap-agent-slice.conf"),
        ("kubelet", "/etc/systemd/system/kubelet.service.d/20-nap-agent-slice.conf"),
    ] {
        let text = "[Service]\nSlice=kubereserved.slice\n";
        steps.push(Step::new(
            format!("slices.{unit}"),
            "it counts as reserved for Kubernetes",
            public_file(path, text),
        ));
    }
    steps
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_control_groups_that_are_there_may_be_enforced() {
        for (config, holds) in [
            (json!({}), true),
            (json!({"enforceNodeAllocatable": ["pods"]}), true),
            (json!({"enforceNodeAllocatable": ["pods", "kube-reserved"]}), false),
            (json!({"enforceNodeAllocatable": ["kube-reserved"], "kubeReservedCgroup": "/kubereserved.slice"}), true),
            (json!({"enforceNodeAllocatable": ["kube-reserved"], "kubeReservedCgroup": "kubereserved.slice"}), true),
            (json!({"enforceNodeAllocatable": ["kube-reserved"], "kubeReservedCgroup": "/podruntime.slice"}), false),
            (json!({"kubeReservedCgroup": "/podruntime.slice"}), true),
            (json!({"enforceNodeAllocatable": ["system-reserved"], "systemReservedCgroup": "/system.slice"}), true),
        ] {
            assert_eq!(refuse_missing(config.as_object().unwrap()).is_ok(), holds, "{config}");
        }
    }
}
