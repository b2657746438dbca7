//! The life of a node, from its token to its Lease.

use hyper::Request;
use kube::client::Body;
use pretend_azure::{ClientIdentity, CsrPolicy};
use serde_json::{Value, json};

use crate::client::{Api, CSRS, EVENTS, LEASES, NODES, certificate, conditions, node, signing_request, start};

#[tokio::test]
async fn a_node_goes_from_token_to_ready() {
    let server = start().await;
    let bootstrap = Api::bootstrap(&server);
    let (request, key) = signing_request("csr-1", "system:node:node-1");
    let created = bootstrap.post(CSRS, &request).await;
    assert_eq!((created.code, conditions(&created.document)), (201, vec![]));
    assert_eq!(created.document["spec"]["username"], "system:bootstrap:abcdef");
    let signed = bootstrap.get(&format!("{CSRS}/csr-1")).await.document;
    assert_eq!(conditions(&signed), ["Approved"]);

    let identity = ClientIdentity { certificate_pem: certificate(&signed), key_pem: key.serialize_pem() };
    let node_1 = Api::identity(&server, &identity);
    let registered = node_1.post(NODES, &node("node-1")).await;
    assert_eq!((registered.code, &registered.document["kind"]), (201, &json!("Node")));
    assert_eq!(node_1.post(NODES, &node("node-1")).await.reason(), "AlreadyExists");
    server.node_changed().await;

    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let patched = node_1.patch(&format!("{NODES}/node-1/status"), &ready).await;
    assert_eq!(patched.code, 200);
    server.node_changed().await;
    let known = server.nodes().remove(0);
    let conditions = known.status.unwrap().conditions.unwrap();
    assert_eq!((conditions.len(), conditions[0].status.as_str()), (1, "True"));
    assert!(conditions[0].last_heartbeat_time.is_some(), "the rest of the condition stays");
    assert_eq!(server.requests().last().unwrap().user.as_deref(), Some("system:node:node-1"));
}

#[tokio::test]
async fn a_node_keeps_its_lease_and_sends_events() {
    let server = start().await;
    let node_1 = Api::node(&server, "node-1");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "node-1"},
        "spec": {"holderIdentity": "node-1", "leaseDurationSeconds": 40},
    });
    let mut held = node_1.post(LEASES, &lease).await.document;
    held["spec"]["renewTime"] = json!("2026-01-01T00:00:00.000000Z");
    let path = format!("{LEASES}/node-1");
    let renewed = node_1.put(&path, &held).await;
    assert_eq!(renewed.code, 200);
    assert_eq!(node_1.put(&path, &held).await.reason(), "Conflict", "its version is outdated now");
    assert_eq!(node_1.put(&path, &lease).await.reason(), "Invalid", "a lease update needs a version");
    assert_eq!(server.leases()[0].spec.as_ref().unwrap().holder_identity.as_deref(), Some("node-1"));

    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "node-1.1", "namespace": "default"},
        "involvedObject": {"kind": "Node", "name": "node-1"}, "reason": "Starting", "type": "Normal",
    });
    assert_eq!(node_1.post(EVENTS, &event).await.code, 201);
    assert_eq!(server.events()[0]["reason"], "Starting");
}

#[tokio::test]
async fn a_watch_by_name_tells_of_approval_and_certificate() {
    let server = start().await;
    server.set_csr_policy(CsrPolicy::Never);
    let bootstrap = Api::bootstrap(&server);
    bootstrap.post(CSRS, &signing_request("other", "system:node:other").0).await;
    let pending = bootstrap.post(CSRS, &signing_request("mine", "system:node:mine").0).await.document;

    let version = pending["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{CSRS}?watch=1&fieldSelector=metadata.name%3Dmine&resourceVersion={version}&timeoutSeconds=60");
    let request = Request::get(path).body(Body::empty()).unwrap();
    let mut watch = bootstrap.0.send(request).await.unwrap().into_body();
    server.set_csr_policy(CsrPolicy::Approve);
    let mut seen: Vec<Value> = Vec::new();
    while seen.len() < 2 {
        let frame = http_body_util::BodyExt::frame(&mut watch).await.unwrap().unwrap().into_data().unwrap();
        seen.extend(
            frame
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(|line| serde_json::from_slice::<Value>(line).unwrap()),
        );
    }
    assert!(seen.iter().all(|event| event["type"] == "MODIFIED" && event["object"]["metadata"]["name"] == "mine"));
    assert_eq!(conditions(&seen[0]["object"]), ["Approved"]);
    assert_eq!(seen[0]["object"]["status"]["certificate"], Value::Null);
    assert!(certificate(&seen[1]["object"]).starts_with("-----BEGIN CERTIFICATE-----"));
}

#[tokio::test]
async fn a_watch_without_a_version_begins_with_what_exists_and_ends_in_time() {
    let server = start().await;
    let node_1 = Api::node(&server, "node-1");
    node_1.post(NODES, &node("node-1")).await;
    Api::node(&server, "node-2").post(NODES, &node("node-2")).await;
    let watched = node_1.get(&format!("{NODES}?watch=true&fieldSelector=metadata.name=node-1&timeoutSeconds=1")).await;
    assert_eq!((watched.code, &watched.document["type"]), (200, &json!("ADDED")));
    assert_eq!(watched.document["object"]["metadata"]["name"], "node-1");
    let listed = node_1.get(&format!("{NODES}?fieldSelector=metadata.name=node-1")).await.document;
    assert_eq!((&listed["kind"], listed["items"].as_array().unwrap().len()), (&json!("NodeList"), 1));
}

#[tokio::test]
async fn requests_the_controllers_do_not_recognise_stay_pending() {
    let server = start().await;
    let bootstrap = Api::bootstrap(&server);
    let mut wrong_usages = signing_request("usages", "system:node:a").0;
    wrong_usages["spec"]["usages"] = json!(["server auth", "digital signature"]);
    let mut wrong_signer = signing_request("signer", "system:node:a").0;
    wrong_signer["spec"]["signerName"] = json!("kubernetes.io/kubelet-serving");
    let wrong_subject = signing_request("subject", "system:masters").0;
    for request in [wrong_usages, wrong_signer, wrong_subject] {
        assert_eq!(bootstrap.post(CSRS, &request).await.code, 201);
    }
    let (for_another, _) = signing_request("another", "system:node:another");
    assert_eq!(Api::node(&server, "node-1").post(CSRS, &for_another).await.code, 201);
    assert!(server.csrs().iter().all(|csr| csr.status.as_ref().is_none_or(|status| status.conditions.is_none())));
}

#[tokio::test]
async fn a_node_renews_its_own_certificate() {
    let server = start().await;
    let node_1 = Api::node(&server, "node-1");
    node_1.post(CSRS, &signing_request("renewal", "system:node:node-1").0).await;
    assert_eq!(conditions(&node_1.get(&format!("{CSRS}/renewal")).await.document), ["Approved"]);
}

#[tokio::test]
async fn a_request_that_is_none_is_invalid() {
    let server = start().await;
    let bootstrap = Api::bootstrap(&server);
    let (good, _) = signing_request("a", "system:node:a");
    let mut junk = good.clone();
    junk["spec"]["request"] = json!("anVuaw==");
    let mut brief = good.clone();
    brief["spec"]["expirationSeconds"] = json!(60);
    let mut useless = good;
    useless["spec"]["usages"] = json!([]);
    for request in [junk, brief, useless] {
        let refusal = bootstrap.post(CSRS, &request).await;
        assert_eq!((refusal.code, refusal.reason()), (422, "Invalid"));
    }
    assert_eq!(server.csrs(), []);
}

#[tokio::test]
async fn a_denied_request_says_so() {
    let server = start().await;
    server.set_csr_policy(CsrPolicy::Deny);
    let bootstrap = Api::bootstrap(&server);
    bootstrap.post(CSRS, &signing_request("a", "system:node:a").0).await;
    let denied = bootstrap.get(&format!("{CSRS}/a")).await.document;
    assert_eq!((conditions(&denied), &denied["status"]["certificate"]), (vec!["Denied"], &Value::Null));
}
