//! Writes our own NodeConditions, and takes them away again, under kubelet's identity.
//!
//! By strategic merge of only the types that changed: lists of conditions merge by type, so nobody else's is touched and nothing has to
//! be read first. The Node's uid goes along, so a Node that was deleted and made anew under the same name is not written to unseen.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use nap_model::verdict::Condition;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::timeout;

use crate::api::{self, NodeError};
use crate::root::Root;

/// Who writes, in the Node's managed fields.
const FIELD_MANAGER: &str = "nap-agent";

const LIMIT: Duration = Duration::from_secs(10);

/// Why conditions were not written.
#[derive(Debug, Error)]
pub enum ConditionError {
    /// There is no credential, or no Node.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The Node is another one than we knew: it must be read again.
    #[error("the Node {0} was made anew")]
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
    patch(root, node, uid, list).await
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
        patch(root, node, &found.metadata.uid.unwrap_or_default(), list).await?;
    }
    Ok(there)
}

async fn patch(root: &Root, node: &str, uid: &str, conditions: Vec<Value>) -> Result<(), ConditionError> {
    let client = api::client(root).await?;
    let patch = json!({"metadata": {"uid": uid}, "status": {"conditions": conditions}});
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
