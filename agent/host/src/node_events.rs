//! Writes Kubernetes Events about our Node, under kubelet's identity.
//!
//! With kubelet's own manners, so that `kubectl describe node` shows them: in the namespace `default`, and with the Node's name in place of its
//! uid. Source: kubelet's `makeEventRecorder`, kubectl's `NodeDescriber`.

use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::PostParams;
use nap_model::verdict::NodeEvent;
use serde_json::json;
use tokio::time::timeout;

use crate::api;
use crate::root::Root;

const NAMESPACE: &str = "default";
const LIMIT: Duration = Duration::from_secs(10);

/// Writes one; that it is there already is as good.
///
/// # Errors
/// When it is not there afterwards, and whether another time may do.
pub async fn write(root: &Root, node: &str, event: &NodeEvent) -> Result<(), NotWritten> {
    let again = |why: String| NotWritten { why, may_do_later: true };
    let client = api::client(root).await.map_err(|error| again(crate::chain(&error)))?;
    let at = jiff::Timestamp::from_second(event.at.as_second()).unwrap_or(event.at).to_string();
    let object = json!({
        "metadata": {"name": format!("{node}.{}", event.key), "namespace": NAMESPACE},
        "involvedObject": {"kind": "Node", "apiVersion": "v1", "name": node, "uid": node},
        "type": if event.is_warning { "Warning" } else { "Normal" },
        "reason": event.reason,
        "message": event.message,
        "source": {"component": "nap-agent", "host": node},
        "reportingComponent": "nap-agent",
        "reportingInstance": node,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    });
    let object: Event =
        serde_json::from_value(object).map_err(|error| NotWritten { why: error.to_string(), may_do_later: false })?;
    let events = Api::<Event>::namespaced(client, NAMESPACE);
    match timeout(LIMIT, events.create(&PostParams::default(), &object)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(()),
        Ok(Err(kube::Error::Api(status))) => {
            let may_do_later = status.code == 429 || status.code >= 500;
            Err(NotWritten { why: format!("{} {}", status.code, status.message), may_do_later })
        }
        Ok(Err(error)) => Err(again(crate::chain(&error))),
        Err(_) => Err(again("no answer in time".to_owned())),
    }
}

/// Why an event is not there.
#[derive(Debug)]
pub struct NotWritten {
    /// In words.
    pub why: String,
    /// The server may take it later.
    pub may_do_later: bool,
}
