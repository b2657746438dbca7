//! What makes an object acceptable: its shape as Kubernetes' types have it, and the rules a node can break.

use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenReview};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event as CoreEvent, Node};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::serde::Serialize;
use k8s_openapi::serde::de::DeserializeOwned;
use serde_json::Value;

use super::route::Kind;
use super::status::{ApiError, Cause};

/// Checks `kind`, `apiVersion` and the type of every field; unknown fields are dropped, as the real server does. A missing `kind`
/// or `apiVersion` is the one of the address.
pub(crate) fn decode(kind: Kind, mut object: Value) -> Result<Value, ApiError> {
    let (name, version) = (kind.name(), kind.api_version());
    let Some(fields) = object.as_object_mut() else {
        return Err(ApiError::bad_request("the object provided is unrecognized: it is no JSON object"));
    };
    for (field, value) in [("kind", name), ("apiVersion", version.as_str())] {
        let found = fields.entry(field).or_insert(Value::Null);
        if found.is_null() || found == "" {
            *found = value.into();
        }
    }
    let found = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    if (found("kind").as_str(), found("apiVersion").as_str()) != (name, version.as_str()) {
        let text = format!(
            "the object provided is unrecognized (must be of type {name}, {version}): found {}, {}",
            found("kind"),
            found("apiVersion")
        );
        return Err(ApiError::bad_request(text));
    }
    let fail =
        |error| ApiError::bad_request(format!("{name} in version \"v1\" cannot be handled as a {name}: json: {error}"));
    typed(kind, object).map_err(fail)
}

/// The same for what a patch made of a stored object.
pub(crate) fn decode_patched(kind: Kind, object: Value) -> Result<Value, ApiError> {
    typed(kind, object).map_err(|error| ApiError::invalid_patch(&error.to_string()))
}

fn typed(kind: Kind, object: Value) -> Result<Value, serde_json::Error> {
    let mut typed = match kind {
        Kind::Node => through::<Node>(object),
        Kind::Csr => through::<CertificateSigningRequest>(object),
        Kind::Lease => through::<Lease>(object),
        Kind::CoreEvent => through::<CoreEvent>(object),
        Kind::Event => through::<Event>(object),
        Kind::SelfSubjectReview => through::<SelfSubjectReview>(object),
        Kind::TokenReview => through::<TokenReview>(object),
        Kind::SubjectAccessReview => through::<SubjectAccessReview>(object),
    }?;
    if let Some(metadata) = typed["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    Ok(typed)
}

fn through<T: DeserializeOwned + Serialize>(object: Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_value::<T>(object)?)
}

/// Checks the rules of a decoded object that has its name.
pub(crate) fn validate(kind: Kind, object: &Value) -> Result<(), ApiError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let mut causes = Vec::new();
    if !is_subdomain(name) {
        causes.push(Cause::invalid("metadata.name", name, "a lowercase RFC 1123 subdomain is wanted"));
    }
    check_labels(object, &mut causes);
    match kind {
        Kind::Node => check_taints(object, &mut causes),
        Kind::CoreEvent => check_event_namespace(object, "involvedObject", &mut causes),
        Kind::Event => {
            check_event_namespace(object, "regarding", &mut causes);
            check_new_event(object, &mut causes);
        }
        Kind::Lease if object["spec"]["leaseDurationSeconds"].as_i64().is_some_and(|seconds| seconds <= 0) => {
            causes.push(Cause::invalid("spec.leaseDurationSeconds", "", "must be greater than 0"));
        }
        Kind::Csr | Kind::Lease => {}
        Kind::SelfSubjectReview | Kind::TokenReview | Kind::SubjectAccessReview => {}
    }
    if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, name, &causes)) }
}

fn check_labels(object: &Value, causes: &mut Vec<Cause>) {
    let labels = object["metadata"]["labels"].as_object();
    for (label, value) in labels.into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        if !is_label_key(label) {
            causes.push(Cause::invalid("metadata.labels", label, "a qualified name is wanted"));
        }
        if !value.is_empty() && !is_label_text(value) {
            causes.push(Cause::invalid("metadata.labels", value, "a valid label value is wanted"));
        }
    }
}

/// The real server, too, says that they are in the metadata.
fn check_taints(node: &Value, causes: &mut Vec<Cause>) {
    let mut seen = Vec::new();
    for (index, taint) in node["spec"]["taints"].as_array().into_iter().flatten().enumerate() {
        let field = |name: &str| format!("metadata.taints[{index}].{name}");
        let text = |name: &str| taint[name].as_str().unwrap_or_default();
        let (key, value, effect) = (text("key"), text("value"), text("effect"));
        if !is_label_key(key) {
            causes.push(Cause::invalid(field("key"), key, "a qualified name is wanted"));
        }
        if !value.is_empty() && !is_label_text(value) {
            causes.push(Cause::invalid(field("value"), value, "a valid label value is wanted"));
        }
        if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            causes.push(Cause::unsupported(
                field("effect"),
                effect,
                "\"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ));
        }
        if seen.contains(&(key, effect)) {
            causes.push(Cause::invalid(
                format!("metadata.taints[{index}]"),
                key,
                "taints must be unique by key and effect pair",
            ));
        }
        seen.push((key, effect));
    }
}

fn check_event_namespace(event: &Value, subject: &str, causes: &mut Vec<Cause>) {
    let found = event[subject]["namespace"].as_str().unwrap_or_default();
    let wanted = event["metadata"]["namespace"].as_str().unwrap_or_default();
    let cluster_scoped = found.is_empty() && wanted == "default";
    if found != wanted && !cluster_scoped {
        causes.push(Cause::invalid(format!("{subject}.namespace"), found, "does not match event.namespace"));
    }
}

/// What `events.k8s.io` demands and the core group does not.
fn check_new_event(event: &Value, causes: &mut Vec<Cause>) {
    for field in ["eventTime", "reportingController", "reportingInstance", "action", "reason"] {
        if event[field].as_str().unwrap_or_default().is_empty() {
            causes.push(Cause::required(field));
        }
    }
    let found = event["type"].as_str().unwrap_or_default();
    if !["Normal", "Warning"].contains(&found) {
        causes.push(Cause::unsupported("type", found, "\"Normal\", \"Warning\""));
    }
}

fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_label_text(name),
        None => is_label_text(key),
    }
}

/// A label value, or the name part of a label key.
fn is_label_text(text: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let plain = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte));
    (1..=63).contains(&bytes.len()) && plain && ends(bytes.first()) && ends(bytes.last())
}

fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let ends = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let bytes = part.as_bytes();
        let plain = bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-');
        plain && ends(bytes.first()) && ends(bytes.last())
    };
    text.len() <= 253 && text.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(extra: Value) -> Value {
        let mut node = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "a"}});
        super::super::merge::json_merge(&mut node, &extra);
        node
    }

    #[test]
    fn a_field_of_the_wrong_type_is_refused_and_an_unknown_one_dropped() {
        let error = decode(Kind::Node, node(json!({"spec": {"unschedulable": "yes"}}))).unwrap_err();
        assert_eq!((error.code, error.document()["reason"].clone()), (400, json!("BadRequest")));
        let kept = decode(Kind::Node, node(json!({"spec": {"nonsense": 1, "podCIDR": "10.0.0.0/24"}}))).unwrap();
        assert_eq!(kept["spec"], json!({"podCIDR": "10.0.0.0/24"}));
        assert_eq!(decode(Kind::Lease, node(json!({}))).unwrap_err().code, 400);
        assert_eq!(decode_patched(Kind::Node, node(json!({"spec": 1}))).unwrap_err().code, 422);
    }

    #[test]
    fn an_object_without_a_kind_is_of_the_kind_of_its_address() {
        let found = decode(Kind::Lease, json!({"kind": "", "metadata": {"name": "a"}})).unwrap();
        assert_eq!((&found["kind"], &found["apiVersion"]), (&json!("Lease"), &json!("coordination.k8s.io/v1")));
        assert_eq!(decode(Kind::Lease, json!([])).unwrap_err().code, 400);
    }

    #[test]
    fn every_broken_rule_is_named() {
        let broken = node(json!({
            "metadata": {"name": "UPPER", "labels": {"a b": "ok", "fine": "-bad"}},
            "spec": {"taints": [{"key": "k", "effect": "Never"}, {"key": "k", "effect": "Never"}]},
        }));
        let status = validate(Kind::Node, &broken).unwrap_err().document();
        let causes = status["details"]["causes"].as_array().unwrap();
        let fields: Vec<&str> = causes.iter().map(|cause| cause["field"].as_str().unwrap()).collect();
        assert_eq!(status["code"], 422);
        let want = [
            "metadata.name",
            "metadata.labels",
            "metadata.labels",
            "metadata.taints[0].effect",
            "metadata.taints[1].effect",
            "metadata.taints[1]",
        ];
        assert_eq!(fields, want);
    }

    #[test]
    fn an_event_about_a_node_belongs_to_the_default_namespace() {
        let event = |namespace: &str| json!({"metadata": {"name": "e", "namespace": namespace}, "involvedObject": {"kind": "Node"}});
        assert_eq!(validate(Kind::CoreEvent, &event("default")), Ok(()));
        assert_eq!(validate(Kind::CoreEvent, &event("kube-system")).unwrap_err().code, 422);
    }

    #[test]
    fn an_event_of_the_new_group_must_be_complete() {
        let status = validate(Kind::Event, &json!({"metadata": {"name": "e", "namespace": "default"}})).unwrap_err();
        assert_eq!(status.document()["details"]["causes"].as_array().unwrap().len(), 6);
        let complete = json!({
            "metadata": {"name": "e", "namespace": "default"}, "regarding": {"kind": "Node", "name": "a"},
            "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "nap-agent", "reportingInstance": "a",
            "action": "Boot", "reason": "Started", "type": "Normal",
        });
        assert_eq!(validate(Kind::Event, &complete), Ok(()));
    }
}
