//! How objects change: versions, halves, patches, and what is refused.

use serde_json::{Value, json};

use crate::client::{Api, EVENTS, NODES, node, start};

const NODE_1: &str = "/api/v1/nodes/node-1";
const STATUS: &str = "/api/v1/nodes/node-1/status";

async fn registered(server: &pretend_azure::ApiServer) -> (Api, Value) {
    let node_1 = Api::node(server, "node-1");
    let document = node_1.post(NODES, &node("node-1")).await.document;
    (node_1, document)
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_version_grows_with_a_difference_and_only_then() {
    let server = start().await;
    let (node_1, created) = registered(&server).await;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let first = node_1.patch(STATUS, &ready).await.document;
    assert!(version(&first) > version(&created));
    let second = node_1.patch(STATUS, &ready).await.document;
    assert_eq!(first, second);
}

#[tokio::test]
async fn the_status_address_writes_the_status_and_the_other_one_the_rest() {
    let server = start().await;
    let (_, created) = registered(&server).await;
    let admin = Api::admin(&server);
    let both = json!({"spec": {"unschedulable": true}, "status": {"nodeInfo": null, "addresses": [{"type": "InternalIP", "address": "10.0.0.4"}]}});
    let through_status = admin.patch(STATUS, &both).await.document;
    assert_eq!(through_status["spec"], created["spec"]);
    assert_eq!(through_status["status"]["addresses"][0]["address"], "10.0.0.4");
    let through_object =
        admin.patch(NODE_1, &json!({"spec": {"unschedulable": true}, "status": {"addresses": null}})).await.document;
    assert_eq!(through_object["spec"]["unschedulable"], true);
    assert_eq!(through_object["status"], through_status["status"]);
}

#[tokio::test]
async fn addresses_and_conditions_merge_by_type_in_the_clients_order() {
    let server = start().await;
    let (node_1, _) = registered(&server).await;
    let addresses =
        |ip: &str| json!([{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": "node-1"}]);
    node_1.patch(STATUS, &json!({"status": {"addresses": addresses("10.0.0.4")}})).await;
    let patch = json!({"status": {
        "$setElementOrder/conditions": [{"type": "MemoryPressure"}, {"type": "Ready"}],
        "conditions": [{"type": "MemoryPressure", "status": "False"}],
        "addresses": [{"type": "InternalIP", "address": "10.0.0.5"}],
    }});
    let status = node_1.patch(STATUS, &patch).await.document["status"].clone();
    assert_eq!(status["addresses"], addresses("10.0.0.5"));
    let types: Vec<&Value> =
        status["conditions"].as_array().unwrap().iter().map(|condition| &condition["type"]).collect();
    assert_eq!(types, ["MemoryPressure", "Ready"]);
    let merge = node_1
        .send("PATCH", STATUS, "application/merge-patch+json", json!({"status": {"conditions": []}}).to_string())
        .await;
    assert_eq!(merge.document["status"]["conditions"], json!([]));
}

#[tokio::test]
async fn an_outdated_version_conflicts_in_put_and_patch() {
    let server = start().await;
    let (node_1, created) = registered(&server).await;
    node_1.patch(NODE_1, &json!({"metadata": {"labels": {"pool": "a"}}})).await;
    let conflict = node_1.put(NODE_1, &created).await;
    assert_eq!((conflict.code, conflict.reason()), (409, "Conflict"));
    let stale =
        json!({"metadata": {"resourceVersion": created["metadata"]["resourceVersion"], "labels": {"pool": "b"}}});
    assert_eq!(node_1.patch(NODE_1, &stale).await.reason(), "Conflict");
    let mut unconditional = created;
    unconditional["metadata"]["resourceVersion"] = json!("");
    assert_eq!(node_1.put(NODE_1, &unconditional).await.code, 200);
}

#[tokio::test]
async fn a_provider_id_is_set_once() {
    let server = start().await;
    let (node_1, _) = registered(&server).await;
    let set = |id: &str| json!({"spec": {"providerID": id}});
    assert_eq!(node_1.patch(NODE_1, &set("azure:///a")).await.code, 200);
    assert_eq!(node_1.patch(NODE_1, &set("azure:///b")).await.reason(), "Invalid");
}

#[tokio::test]
async fn objects_that_are_wrong_are_refused_with_the_right_reason() {
    let server = start().await;
    let admin = Api::admin(&server);
    let mut wrong_kind = node("a");
    wrong_kind["kind"] = json!("Pod");
    let mut wrong_type = node("a");
    wrong_type["spec"]["unschedulable"] = json!("yes");
    let mut wrong_taint = node("a");
    wrong_taint["spec"]["taints"] = json!([{"key": "k", "effect": "Sometimes"}]);
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"kind": "Node", "namespace": "other"}});
    let refusals = [
        (admin.post(NODES, &wrong_kind).await, 400, "BadRequest"),
        (admin.post(NODES, &wrong_type).await, 400, "BadRequest"),
        (admin.post(NODES, &wrong_taint).await, 422, "Invalid"),
        (admin.post(NODES, &node("UPPER")).await, 422, "Invalid"),
        (admin.post(EVENTS, &event).await, 422, "Invalid"),
        (admin.get(&format!("{NODES}?watch=1&sendInitialEvents=true")).await, 422, "Invalid"),
        (admin.put(NODE_1, &node("node-2")).await, 400, "BadRequest"),
        (admin.put(NODE_1, &node("node-1")).await, 404, "NotFound"),
        (admin.get("/api/v1/pods").await, 404, "NotFound"),
        (admin.get("/api/v1/nodes/node-1/proxy").await, 404, "NotFound"),
        (admin.get(&format!("{NODES}?labelSelector=a=b")).await, 400, "BadRequest"),
        (admin.get(&format!("{NODES}?fieldSelector=spec.unschedulable=true")).await, 400, "BadRequest"),
        (admin.post(NODE_1, &node("node-1")).await, 405, "MethodNotAllowed"),
        (admin.send("PATCH", NODE_1, "application/json-patch+json", "[]".into()).await, 415, "UnsupportedMediaType"),
        (
            admin.send("POST", NODES, "application/vnd.kubernetes.protobuf", "k8s".into()).await,
            415,
            "UnsupportedMediaType",
        ),
    ];
    for (index, (refusal, code, reason)) in refusals.iter().enumerate() {
        assert_eq!((refusal.code, refusal.reason()), (*code, *reason), "request {index}: {}", refusal.message());
        assert_eq!(refusal.document["status"], "Failure");
    }
    assert_eq!(server.nodes(), []);
}

#[tokio::test]
async fn deletion_is_seen_by_those_who_wait() {
    let server = start().await;
    registered(&server).await;
    server.node_changed().await;
    let gone = Api::admin(&server).send("DELETE", NODE_1, "application/json", String::new()).await;
    assert_eq!((gone.code, &gone.document["status"]), (200, &json!("Success")));
    server.node_changed().await;
    assert_eq!(server.nodes(), []);
    assert!(!server.delete_node("node-1"));
}
