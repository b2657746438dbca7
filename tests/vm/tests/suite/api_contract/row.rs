//! A request and the answer it must get.

use serde_json::{Value, json};

use super::Answer;

pub(super) const NODES: &str = "/api/v1/nodes";
pub(super) const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
pub(super) const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// The node's name, and that of another node.
pub(super) const OWN: &str = "contract-1";
pub(super) const OTHER: &str = "contract-2";
/// The users that their certificates make.
pub(super) const USER: &str = "system:node:contract-1";
pub(super) const OTHER_USER: &str = "system:node:contract-2";

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Anonymous,
    /// With a token whose id is known and whose secret is wrong.
    Stranger,
    Bootstrapper,
    /// With the certificate that this server signed.
    Node,
    /// Another node, with its certificate.
    OtherNode,
}

impl Who {
    /// The signing request for the certificate, when it takes one.
    pub(super) fn signing_request(self) -> Option<&'static str> {
        match self {
            Self::Anonymous | Self::Stranger | Self::Bootstrapper => None,
            Self::Node => Some("/apis/certificates.k8s.io/v1/certificatesigningrequests/node-request"),
            Self::OtherNode => Some("/apis/certificates.k8s.io/v1/certificatesigningrequests/other-request"),
        }
    }
}

/// The body and what it is. Where an object has a `resourceVersion`, it is the name of the row whose answer has the version.
pub(super) enum Payload {
    None,
    /// With the content type of an object, whatever it is.
    Text(&'static str),
    Object(Value),
    Strategic(Value),
    Merge(Value),
}

impl Payload {
    /// The content type and the text.
    pub(super) fn wire(&self) -> (&'static str, String) {
        match self {
            Self::None => ("application/json", String::new()),
            Self::Text(text) => ("application/json", (*text).to_owned()),
            Self::Object(object) => ("application/json", object.to_string()),
            Self::Strategic(patch) => ("application/strategic-merge-patch+json", patch.to_string()),
            Self::Merge(patch) => ("application/merge-patch+json", patch.to_string()),
        }
    }
}

/// One request and its answer.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) who: Who,
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) payload: Payload,
    status: u16,
    /// Of the Status document; empty when the answer is none.
    reason: &'static str,
    /// JSON pointers into the answer and what is there; null when nothing is.
    fields: Vec<(&'static str, Value)>,
    /// A condition of the Node, and which field managers have a part of it.
    writers: Option<(&'static str, &'static [&'static str])>,
}

impl Row {
    /// And these field managers have a part of this condition.
    pub(super) fn written_by(mut self, condition: &'static str, managers: &'static [&'static str]) -> Self {
        self.writers = Some((condition, managers));
        self
    }

    /// And in the answer there is this.
    pub(super) fn has(mut self, pointer: &'static str, value: impl Into<Value>) -> Self {
        self.fields.push((pointer, value.into()));
        self
    }

    /// What in the answer is not as it should be.
    pub(super) fn difference(&self, answer: &Answer) -> Option<String> {
        let body = &answer.body;
        let is_status = body["kind"] == "Status";
        let reason = if is_status { body["reason"].as_str().unwrap_or_default() } else { "" };
        let mut wanted = vec![
            ("HTTP status", json!(self.status), json!(answer.status)),
            ("reason", json!(self.reason), json!(reason)),
            ("is an error", json!(self.status >= 400), json!(is_status && body["status"] == "Failure")),
        ];
        if is_status {
            wanted.push(("code", json!(self.status), body["code"].clone()));
        }
        let there = |pointer: &str| body.pointer(pointer).cloned().unwrap_or_default();
        wanted.extend(self.fields.iter().map(|(pointer, value)| (*pointer, value.clone(), there(pointer))));
        if let Some((condition, managers)) = self.writers {
            wanted.push(("writers", json!(managers), json!(writers(body, condition))));
        }
        wanted.retain(|(_, want, got)| want != got);
        let texts: Vec<_> = wanted.iter().map(|(what, want, got)| format!("{what}: want {want}, got {got}")).collect();
        (!texts.is_empty()).then(|| format!("{} in {body}", texts.join("; ")))
    }
}

/// Source: FieldsV1 of k8s.io/apimachinery's meta/v1.
fn writers<'a>(node: &'a Value, condition: &str) -> Vec<&'a str> {
    let key = format!("k:{}", json!({"type": condition}));
    let entries = node["metadata"]["managedFields"].as_array().into_iter().flatten();
    let has_it = entries.filter(|entry| entry["fieldsV1"]["f:status"]["f:conditions"].get(&key).is_some());
    let mut managers: Vec<_> = has_it.filter_map(|entry| entry["manager"].as_str()).collect();
    managers.sort_unstable();
    managers
}

/// Method, path and body.
type Request<'a> = (&'static str, &'a str, Payload);

pub(super) fn row(name: &'static str, who: Who, request: Request<'_>, (status, reason): (u16, &'static str)) -> Row {
    let (method, path, payload) = request;
    Row { name, who, method, path: path.to_owned(), payload, status, reason, fields: Vec::new(), writers: None }
}

pub(super) fn get(path: &str) -> Request<'_> {
    ("GET", path, Payload::None)
}

pub(super) fn post(path: &str, object: Value) -> Request<'_> {
    ("POST", path, Payload::Object(object))
}

pub(super) fn put(path: &str, object: Value) -> Request<'_> {
    ("PUT", path, Payload::Object(object))
}

pub(super) fn strategic(path: &str, patch: Value) -> Request<'_> {
    ("PATCH", path, Payload::Strategic(patch))
}

pub(super) fn merge(path: &str, patch: Value) -> Request<'_> {
    ("PATCH", path, Payload::Merge(patch))
}

pub(super) const OK: (u16, &str) = (200, "");
pub(super) const CREATED: (u16, &str) = (201, "");
pub(super) const BAD_REQUEST: (u16, &str) = (400, "BadRequest");
pub(super) const UNAUTHORIZED: (u16, &str) = (401, "Unauthorized");
pub(super) const FORBIDDEN: (u16, &str) = (403, "Forbidden");
pub(super) const NOT_FOUND: (u16, &str) = (404, "NotFound");
pub(super) const NO_METHOD: (u16, &str) = (405, "MethodNotAllowed");
pub(super) const EXISTS: (u16, &str) = (409, "AlreadyExists");
pub(super) const CONFLICT: (u16, &str) = (409, "Conflict");
pub(super) const INVALID: (u16, &str) = (422, "Invalid");

/// What a kubelet registers, in small.
pub(super) fn new_node(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "nap-vm.test/pool": "blue"}},
        "spec": {"unschedulable": false, "taints": [{"key": "nap-vm.test/starting", "effect": "NoExecute"}]},
        "status": {
            "capacity": {"cpu": "2", "memory": "4Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "False", "reason": "Starting"}],
        },
    })
}
