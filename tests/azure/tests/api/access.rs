//! Who may do what.

use std::time::{Duration, SystemTime};

use pretend_azure::{ApiOptions, ApiServer};
use serde_json::json;

use crate::client::{Api, CSRS, LEASES, NODES, node, options, start};

#[tokio::test]
async fn an_unknown_token_is_unauthorized_everywhere() {
    let server = start().await;
    let stranger = Api::bearer(&server, "abcdef.fedcba9876543210");
    for path in [NODES, CSRS, "/version", "/nowhere"] {
        let refusal = stranger.get(path).await;
        assert_eq!(
            (refusal.code, refusal.reason(), refusal.message()),
            (401, "Unauthorized", "Unauthorized"),
            "{path}"
        );
        assert_eq!(refusal.document["kind"], "Status");
    }
    server.set_bootstrap_tokens(Vec::new());
    assert_eq!(Api::bootstrap(&server).get(CSRS).await.code, 401);
}

#[tokio::test]
async fn anonymous_clients_read_the_version_and_nothing_else() {
    let server = start().await;
    let anonymous = Api::anonymous(&server);
    assert_eq!(anonymous.get("/version").await.document["gitVersion"], "v1.36.2");
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(anonymous.get(path).await.document, "ok");
    }
    let refusal = anonymous.get(NODES).await;
    assert_eq!((refusal.code, refusal.reason()), (403, "Forbidden"));
    let message = "nodes is forbidden: User \"system:anonymous\" cannot list resource \"nodes\" in API group \"\" at the cluster scope";
    assert_eq!(refusal.message(), message);
    assert_eq!(
        anonymous.get("/metrics").await.message(),
        "forbidden: User \"system:anonymous\" cannot get path \"/metrics\""
    );
}

#[tokio::test]
async fn anonymous_clients_get_nothing_when_switched_off() {
    let server = ApiServer::start(ApiOptions { anonymous: false, ..options() }).await.unwrap();
    assert_eq!(Api::anonymous(&server).get("/version").await.code, 401);
    assert_eq!(Api::bootstrap(&server).get("/version").await.code, 200);
}

#[tokio::test]
async fn a_bootstrap_token_may_only_request_certificates() {
    let server = start().await;
    let bootstrap = Api::bootstrap(&server);
    assert_eq!(bootstrap.get(CSRS).await.code, 200);
    let path = format!("{NODES}/a");
    let refused = [
        bootstrap.get(&path).await,
        bootstrap.post(NODES, &node("a")).await,
        bootstrap.patch(&format!("{path}/status"), &json!({})).await,
        bootstrap.get(&format!("{LEASES}/a")).await,
        bootstrap.get("/api/v1/pods").await,
    ];
    for refusal in refused {
        assert_eq!((refusal.code, refusal.reason()), (403, "Forbidden"), "{refusal:?}");
    }
}

#[tokio::test]
async fn a_node_reads_and_writes_itself_and_no_other() {
    let server = start().await;
    let [node_1, node_2] = ["node-1", "node-2"].map(|name| Api::node(&server, name));
    assert_eq!(node_1.post(NODES, &node("node-1")).await.code, 201);
    assert_eq!(node_1.get(&format!("{NODES}/node-1")).await.code, 200);
    assert_eq!(node_1.get(&format!("{NODES}/node-3")).await.code, 403);
    assert_eq!(node_1.get(NODES).await.code, 403);
    assert_eq!(node_1.send("DELETE", &format!("{NODES}/node-1"), "application/json", String::new()).await.code, 403);

    let foreign = node_2.patch(&format!("{NODES}/node-1/status"), &json!({"status": {}})).await;
    assert_eq!(
        foreign.message(),
        "nodes \"node-1\" is forbidden: node \"node-2\" is not allowed to modify node \"node-1\""
    );
    assert_eq!(node_2.post(NODES, &node("node-4")).await.code, 403);
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "node-1"}});
    assert_eq!(node_2.post(LEASES, &lease).await.code, 403);
    assert_eq!(node_2.get(&format!("{LEASES}/node-1")).await.code, 403);
    assert_eq!(node_1.get(&format!("{LEASES}/node-1")).await.code, 404);
    assert_eq!(node_1.get("/apis/coordination.k8s.io/v1/namespaces/default/leases/node-1").await.code, 403);
}

#[tokio::test]
async fn reserved_labels_are_refused_at_registration_and_later() {
    let server = start().await;
    let node_1 = Api::node(&server, "node-1");
    for label in ["node-restriction.kubernetes.io/team", "kubernetes.io/role", "node-role.kubernetes.io/agent"] {
        let mut labelled = node("node-1");
        labelled["metadata"]["labels"][label] = json!("x");
        let refusal = node_1.post(NODES, &labelled).await;
        assert_eq!(refusal.code, 403);
        assert!(refusal.message().contains(label), "{}", refusal.message());
    }
    node_1.post(NODES, &node("node-1")).await;
    let path = format!("{NODES}/node-1");
    let reserved = json!({"metadata": {"labels": {"kubernetes.io/role": "x"}}});
    assert_eq!(node_1.patch(&path, &reserved).await.code, 403);
    assert_eq!(node_1.patch(&path, &json!({"spec": {"taints": []}})).await.code, 403);
    assert_eq!(node_1.patch(&path, &json!({"metadata": {"labels": {"pool": "b"}}})).await.code, 200);
    assert_eq!(Api::admin(&server).patch(&path, &json!({"spec": {"taints": []}})).await.code, 200);
}

#[tokio::test]
async fn an_expired_or_foreign_certificate_is_unauthorized() {
    let server = start().await;
    let now = SystemTime::now();
    let hours = |count: u64| Duration::from_secs(count * 3600);
    let expired = server.mint_client_certificate_valid("node-1", now - hours(2), now - hours(1));
    let early = server.mint_client_certificate_valid("node-1", now + hours(1), now + hours(2));
    let foreign = start().await.mint_client_certificate("node-1");
    for identity in [expired, early, foreign] {
        let refusal = Api::identity(&server, &identity).get("/version").await;
        assert_eq!((refusal.code, refusal.reason()), (401, "Unauthorized"));
    }
}

#[tokio::test]
async fn whoami_tells_the_user_and_the_groups() {
    let server = start().await;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}});
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let told = Api::node(&server, "node-1").post(path, &review).await;
    let want = json!({"username": "system:node:node-1", "groups": ["system:nodes", "system:authenticated"]});
    assert_eq!((told.code, &told.document["status"]["userInfo"]), (201, &want));
    assert_eq!(Api::anonymous(&server).post(path, &review).await.code, 403);
}
