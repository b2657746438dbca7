//! Writes our own NodeConditions, and takes them away again, under kubelet's identity.
//!
//! By strategic merge of only the types that changed: lists of conditions merge by type, so nobody else's is touched and nothing has to
//! be read first. The Node's uid goes along, so a Node that was deleted and made anew under the same name is not written to unseen.
//!
//! Of types that others write, too, the Node is read first: its managed fields say who has which. What another one has is left to him, and
//! the write goes with the version that was read, so who came in between wins.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use nap_model::verdict::{Condition, NODE_HEALTHY, PREEMPTION_SCHEDULED};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::timeout;

use crate::api::{self, NodeError};
use crate::root::Root;

/// Who writes, in the Node's managed fields.
const FIELD_MANAGER: &str = "nap-agent";

const LIMIT: Duration = Duration::from_secs(10);

/// The types that others write, too.
const SHARED: [&str; 2] = [NODE_HEALTHY, PREEMPTION_SCHEDULED];

/// What came of shared conditions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shared {
    /// Of which types the Node has something else now.
    pub changed: Vec<&'static str>,
    /// Which were left to another writer, though something is to be said.
    pub left: Vec<&'static str>,
}

/// Why conditions were not written.
#[derive(Debug, Error)]
pub enum ConditionError {
    /// There is no credential, or no Node.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The Node is another one than we knew, or was written to meanwhile: it must be read again.
    #[error("the Node {0} was made anew, or changed meanwhile")]
    Recreated(String),
    /// Not allowed: a credential that was renewed may be.
    #[error("the API server forbids it: {0}")]
    Forbidden(String),
    /// The server asks to be left alone for so long.
    #[error("the API server is busy for {0:?}")]
    Busy(Duration),
    /// Anything else; another time may do.
    #[error("cannot write the conditions: {0}")]
    Failed(String),
}

/// The Node's uid, and those of these conditions that it does not have as they should be.
///
/// # Errors
/// When the Node cannot be read.
pub async fn missing(
    root: &Root,
    node: &str,
    wanted: &[Condition],
) -> Result<(String, Vec<Condition>), ConditionError> {
    let found = api::node(root, node).await?;
    let has: Vec<Value> = found
        .status
        .and_then(|status| status.conditions)
        .into_iter()
        .flatten()
        .map(|condition| json!([condition.type_, condition.status, condition.reason, condition.message]))
        .collect();
    let is_missing = |one: &&Condition| !has.contains(&json!([one.kind, one.status, one.reason, one.message]));
    let missing = wanted.iter().filter(is_missing).cloned().collect();
    Ok((found.metadata.uid.unwrap_or_default(), missing))
}

/// Writes these conditions.
///
/// # Errors
/// When they are not on the Node afterwards.
pub async fn write(root: &Root, node: &str, uid: &str, conditions: &[Condition]) -> Result<(), ConditionError> {
    let now = jiff::Timestamp::now();
    let list = conditions.iter().map(|condition| entry(condition, now)).collect();
    patch(root, node, json!({"uid": uid}), list).await
}

/// Has these of the shared conditions on the Node and no others of ours, as far as no other writer has them.
///
/// # Errors
/// When the Node cannot be read, or is not so afterwards.
pub async fn share(root: &Root, node: &str, wanted: &[Condition]) -> Result<Shared, ConditionError> {
    let found = api::node(root, node).await?;
    let (list, shared) = changes(&found, wanted, jiff::Timestamp::now());
    if !list.is_empty() {
        let metadata = json!({"uid": found.metadata.uid, "resourceVersion": found.metadata.resource_version});
        patch(root, node, metadata, list).await?;
    }
    Ok(shared)
}

/// What is to be written of the shared conditions.
fn changes(found: &Node, wanted: &[Condition], now: jiff::Timestamp) -> (Vec<Value>, Shared) {
    let (mut list, mut shared) = (Vec::new(), Shared::default());
    let conditions = found.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    for kind in SHARED {
        let present = conditions.iter().find(|condition| condition.type_ == kind);
        let wanted = wanted.iter().find(|condition| condition.kind == kind);
        let are_ours = |writers: &[&str]| !writers.is_empty() && writers.iter().all(|name| *name == FIELD_MANAGER);
        match (present, wanted) {
            (None, None) => {}
            // Whose status it is, his word it is, whoever else has touched the rest.
            (Some(_), None) if !are_ours(&writers(found, kind, "/f:status")) => {}
            (Some(_), Some(_)) if !are_ours(&writers(found, kind, "")) => shared.left.push(kind),
            (Some(_), None) => {
                list.push(json!({"type": kind, "$patch": "delete"}));
                shared.changed.push(kind);
            }
            (present, Some(wanted)) => {
                let same = present.filter(|present| present.status == wanted.status.to_string());
                let says = (Some(wanted.reason.as_str()), Some(wanted.message.as_str()));
                if same.is_none_or(|same| (same.reason.as_deref(), same.message.as_deref()) != says) {
                    // Its time moves with its status, and never else.
                    let since = same.and_then(|same| Some(same.last_transition_time.as_ref()?.0)).unwrap_or(now);
                    list.push(entry(&Condition { last_transition_time: since, ..wanted.clone() }, now));
                    shared.changed.push(kind);
                }
            }
        }
    }
    (list, shared)
}

/// Who has a condition, or what is below this pointer of it, by the Node's managed fields. Source: FieldsV1 of k8s.io/apimachinery's meta/v1.
fn writers<'a>(node: &'a Node, kind: &str, part: &str) -> Vec<&'a str> {
    let key = format!("k:{}", json!({"type": kind}));
    let entries = node.metadata.managed_fields.iter().flatten();
    let has_it = entries.filter(|entry| {
        let fields = entry.fields_v1.as_ref().and_then(|fields| fields.0["f:status"]["f:conditions"].get(&key));
        fields.is_some_and(|fields| fields.pointer(part).is_some())
    });
    has_it.map(|entry| entry.manager.as_deref().unwrap_or_default()).collect()
}

/// Takes the conditions of these types off the Node, and returns those that were there.
///
/// # Errors
/// When they are on the Node afterwards, or nobody can tell.
pub async fn remove(root: &Root, node: &str, types: &[&'static str]) -> Result<Vec<&'static str>, ConditionError> {
    let found = api::node(root, node).await?;
    let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
    let is_there = |kind: &&&'static str| conditions.iter().any(|condition| condition.type_ == **kind);
    let there: Vec<&'static str> = types.iter().filter(is_there).copied().collect();
    if !there.is_empty() {
        let list = there.iter().map(|kind| json!({"type": kind, "$patch": "delete"})).collect();
        patch(root, node, json!({"uid": found.metadata.uid}), list).await?;
    }
    Ok(there)
}

/// `metadata` is what the Node must have.
async fn patch(root: &Root, node: &str, metadata: Value, conditions: Vec<Value>) -> Result<(), ConditionError> {
    let client = api::client(root).await?;
    let patch = json!({"metadata": metadata, "status": {"conditions": conditions}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let nodes = Api::<Node>::all(client);
    let sent = timeout(LIMIT, nodes.patch_status(node, &params, &Patch::Strategic(patch))).await;
    match sent {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) => Err(refusal(node, &status)),
        Ok(Err(error)) => Err(ConditionError::Failed(crate::chain(&error))),
        Err(_) => Err(ConditionError::Failed("no answer in time".to_owned())),
    }
}

fn refusal(node: &str, status: &kube::core::Status) -> ConditionError {
    let seconds = status.details.as_ref().map(|details| details.retry_after_seconds);
    let message = format!("{} {}", status.code, status.message);
    match status.code {
        404 | 409 => ConditionError::Recreated(node.to_owned()),
        // A uid that differs is refused as a change of what cannot change.
        422 if status.message.contains("uid") => ConditionError::Recreated(node.to_owned()),
        401 | 403 => ConditionError::Forbidden(message),
        429 => ConditionError::Busy(Duration::from_secs(u64::from(seconds.unwrap_or_default().max(1)))),
        _ => ConditionError::Failed(message),
    }
}

fn entry(condition: &Condition, now: jiff::Timestamp) -> Value {
    // RFC 3339 in whole seconds, as everybody writes it there.
    let seconds = |time: jiff::Timestamp| jiff::Timestamp::from_second(time.as_second()).unwrap_or(time).to_string();
    json!({
        "type": condition.kind,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": seconds(condition.last_transition_time),
        "lastHeartbeatTime": seconds(now),
    })
}

#[cfg(test)]
mod tests {
    use nap_model::verdict::ConditionStatus;

    use super::*;

    fn wanted() -> Vec<Condition> {
        vec![Condition {
            kind: NODE_HEALTHY.to_owned(),
            status: ConditionStatus::False,
            reason: "DiskStalled".to_owned(),
            message: "A small write does not come to an end.".to_owned(),
            last_transition_time: jiff::Timestamp::UNIX_EPOCH,
        }]
    }

    /// A Node with a condition of that status and reason, which these have.
    fn node(status: &str, reason: &str, writers: &[&str]) -> Node {
        let fields = json!({"f:status": {"f:conditions": {
            r#"k:{"type":"kubernetes.azure.com/NodeHealthy"}"#: {".": {}, "f:status": {}},
        }}});
        let others = json!({"f:status": {"f:conditions": {r#"k:{"type":"Ready"}"#: {"f:status": {}}}}});
        let entry = |manager: &str, fields: &Value| json!({"manager": manager, "operation": "Update", "subresource": "status", "fieldsV1": fields});
        let mut managed: Vec<_> = writers.iter().map(|manager| entry(manager, &fields)).collect();
        managed.push(entry("kubelet", &others));
        let message = "A small write does not come to an end.";
        let conditions = match status {
            "" => json!([]),
            _ => json!([{"type": NODE_HEALTHY, "status": status, "reason": reason, "message": message}]),
        };
        let node = json!({"metadata": {"managedFields": managed}, "status": {"conditions": conditions}});
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn a_shared_condition_is_ours_only_while_nobody_else_has_it() {
        let of = |node: &Node, wanted: &[Condition]| {
            let (list, Shared { changed, left }) = changes(node, wanted, jiff::Timestamp::UNIX_EPOCH);
            let does = |entry: &Value| entry.get("$patch").map_or("write", |_| "delete").to_owned();
            (list.iter().map(does).collect::<Vec<_>>().join(" "), changed.len(), left.len())
        };
        let (written, deleted, nothing, left) =
            (("write".to_owned(), 1, 0), ("delete".to_owned(), 1, 0), (String::new(), 0, 0), (String::new(), 0, 1));
        let (bad, good) = (wanted(), Vec::new());
        assert_eq!(of(&node("", "", &[]), &bad), written);
        assert_eq!(of(&node("", "", &[]), &good), nothing);
        let ours = node("False", "DiskStalled", &["nap-agent"]);
        assert_eq!(of(&ours, &bad), nothing, "it is so already");
        assert_eq!(of(&ours, &good), deleted);
        assert_eq!(of(&node("False", "KubeletDown", &["nap-agent"]), &bad), written, "another reason");
        let mut touched = node("False", "DiskStalled", &["nap-agent"]);
        let message = json!({"f:status": {"f:conditions": {r#"k:{"type":"kubernetes.azure.com/NodeHealthy"}"#: {"f:message": {}}}}});
        let edit =
            json!({"manager": "kubectl-edit", "operation": "Update", "subresource": "status", "fieldsV1": message});
        touched.metadata.managed_fields.as_mut().unwrap().push(serde_json::from_value(edit).unwrap());
        assert_eq!(of(&touched, &good), deleted, "the word is ours");
        for others in [&["chm"][..], &["nap-agent", "chm"], &[]] {
            let theirs = node("True", "CheckPassed", others);
            assert_eq!(of(&theirs, &bad), left, "{others:?}");
            assert_eq!(of(&theirs, &good), nothing, "{others:?}");
        }
    }
}
