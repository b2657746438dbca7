//! How a node gets its identity, and what each identity may do.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};

use crate::azure::{TOKEN_ID, TOKEN_SECRET};

use super::row::{
    BAD_REQUEST, CREATED, EXISTS, FORBIDDEN, INVALID, LEASES, NODES, NOT_FOUND, OK, OTHER_USER, OWN, REQUESTS, Row,
    UNAUTHORIZED, USER, Who, get, new_node, post, row, strategic,
};

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const TOKEN_REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS_REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// With this key, and servers of this version.
pub(super) fn rows(key: &KeyPair, version: &str) -> Vec<Row> {
    [open_paths(version), wrong_token(), bootstrap(key), signed(), own_rights(key)].into_iter().flatten().collect()
}

fn open_paths(version: &str) -> Vec<Row> {
    let who = Who::Anonymous;
    vec![
        row("version", who, get("/version"), OK).has("/gitVersion", format!("v{version}")).has("/major", "1"),
        row("healthz", who, get("/healthz"), OK).has("", "ok"),
        row("livez", who, get("/livez"), OK).has("", "ok"),
        row("readyz", who, get("/readyz"), OK).has("", "ok"),
        row("anonymous metrics", who, get("/metrics"), FORBIDDEN),
        row("anonymous path to nowhere", who, get("/nowhere"), FORBIDDEN),
        row("anonymous list of nodes", who, get(NODES), FORBIDDEN).has("/details/kind", "nodes"),
        row("anonymous signing request", who, post(REQUESTS, json!({})), FORBIDDEN),
    ]
}

fn wrong_token() -> Vec<Row> {
    let who = Who::Stranger;
    vec![
        row("version by a stranger", who, get("/version"), UNAUTHORIZED).has("/message", "Unauthorized"),
        row("healthz by a stranger", who, get("/healthz"), UNAUTHORIZED),
        row("path to nowhere by a stranger", who, get("/nowhere"), UNAUTHORIZED),
        row("nodes by a stranger", who, get(NODES), UNAUTHORIZED),
        row("Node by a stranger", who, post(NODES, new_node(OWN)), UNAUTHORIZED),
        row("signing request by a stranger", who, post(REQUESTS, json!({})), UNAUTHORIZED),
    ]
}

fn bootstrap(key: &KeyPair) -> Vec<Row> {
    let who = Who::Bootstrapper;
    let path = format!("{REQUESTS}/node-request");
    let own_node = format!("{NODES}/{OWN}");
    let good = || signing_request("node-request", key, USER);
    let with = |name: &str, field: &str, value: Value| {
        let mut request = signing_request(name, key, USER);
        request["spec"][field] = value;
        request
    };
    vec![
        row("version by token", who, get("/version"), OK),
        row("nodes by token", who, get(NODES), FORBIDDEN).has("/details/kind", "nodes"),
        row("Node by token", who, get(&own_node), FORBIDDEN).has("/details/name", OWN),
        row("Node made by token", who, post(NODES, new_node(OWN)), FORBIDDEN),
        row("Node patched by token", who, strategic(&format!("{own_node}/status"), json!({})), FORBIDDEN),
        row("Lease by token", who, get(&format!("{LEASES}/{OWN}")), FORBIDDEN),
        row("missing signing request", who, get(&path), NOT_FOUND)
            .has("/details/name", "node-request")
            .has("/details/group", "certificates.k8s.io")
            .has("/details/kind", "certificatesigningrequests"),
        row("signing request of nobody", who, post(REQUESTS, signing_request("nobody", key, "nobody")), CREATED),
        row(
            "signing request for a server",
            who,
            post(REQUESTS, with("usages", "usages", json!(["server auth"]))),
            CREATED,
        ),
        row("signing request of junk", who, post(REQUESTS, with("junk", "request", json!("anVuaw=="))), INVALID),
        row(
            "signing request for a minute",
            who,
            post(REQUESTS, with("brief", "expirationSeconds", json!(60))),
            INVALID,
        ),
        row("signing request for no use", who, post(REQUESTS, with("useless", "usages", json!([]))), INVALID),
        row("signing request without a signer", who, post(REQUESTS, with("signer", "signerName", json!(""))), INVALID),
        row("signing request", who, post(REQUESTS, good()), CREATED)
            .has("/metadata/name", "node-request")
            .has("/spec/username", "system:bootstrap:napvm1")
            .has("/spec/groups", json!(["system:bootstrappers", "system:authenticated"]))
            .has("/status", json!({})),
        row(
            "another's signing request",
            who,
            post(REQUESTS, signing_request("other-request", key, OTHER_USER)),
            CREATED,
        ),
        row("signing request again", who, post(REQUESTS, good()), EXISTS).has("/details/name", "node-request"),
    ]
}

/// Once the node has its certificate.
fn signed() -> Vec<Row> {
    let who = Who::Bootstrapper;
    let path = format!("{REQUESTS}/node-request");
    let list = format!("{REQUESTS}?fieldSelector=metadata.name%3Dnode-request");
    vec![
        row("path to nowhere by a node", Who::Node, get("/nowhere"), FORBIDDEN),
        row("signed request", who, get(&path), OK)
            .has("/status/conditions/0/type", "Approved")
            .has("/status/conditions/0/status", "True")
            .has("/status/conditions/0/reason", "AutoApproved")
            .has("/status/conditions/1", Value::Null),
        row("request of nobody", who, get(&format!("{REQUESTS}/nobody")), OK).has("/status", json!({})),
        row("request for a server", who, get(&format!("{REQUESTS}/usages")), OK).has("/status", json!({})),
        row("list of one request", who, get(&list), OK)
            .has("/kind", "CertificateSigningRequestList")
            .has("/items/0/metadata/name", "node-request")
            .has("/items/0/kind", Value::Null)
            .has("/items/1", Value::Null),
        row(
            "requests by an unknown field",
            who,
            get(&format!("{REQUESTS}?fieldSelector=spec.nonsense%3D1")),
            BAD_REQUEST,
        ),
        row("watch of one request", who, get(&format!("{list}&watch=true&timeoutSeconds=1")), OK)
            .has("/type", "ADDED")
            .has("/object/kind", "CertificateSigningRequest")
            .has("/object/metadata/name", "node-request"),
    ]
}

fn own_rights(key: &KeyPair) -> Vec<Row> {
    let review = || json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}});
    vec![
        row("who the node is", Who::Node, post(REVIEWS, review()), CREATED)
            .has("/status/userInfo/username", USER)
            .has("/status/userInfo/groups", json!(["system:nodes", "system:authenticated"])),
        row("who the token is", Who::Bootstrapper, post(REVIEWS, review()), CREATED)
            .has("/status/userInfo/username", "system:bootstrap:napvm1"),
        row("whose token it is", Who::Node, post(TOKEN_REVIEWS, token_review(&token())), CREATED)
            .has("/status/authenticated", true)
            .has("/status/user/username", "system:bootstrap:napvm1"),
        row("a token of nobody", Who::Node, post(TOKEN_REVIEWS, token_review("abcdef.0000000000000000")), CREATED)
            .has("/status/authenticated", Value::Null),
        row("no token", Who::Node, post(TOKEN_REVIEWS, token_review("")), BAD_REQUEST),
        row(
            "whose token it is, by a bootstrapper",
            Who::Bootstrapper,
            post(TOKEN_REVIEWS, token_review(&token())),
            FORBIDDEN,
        ),
        row("may he", Who::Node, post(ACCESS_REVIEWS, access_review("system:masters", "/v1/health")), CREATED)
            .has("/status/allowed", true),
        row(
            "may he not",
            Who::Node,
            post(ACCESS_REVIEWS, access_review("system:bootstrappers", "/v1/health")),
            CREATED,
        )
        .has("/status/allowed", false),
        row(
            "may he, by a bootstrapper",
            Who::Bootstrapper,
            post(ACCESS_REVIEWS, access_review("system:masters", "/v1/health")),
            FORBIDDEN,
        ),
        row("who nobody is", Who::Anonymous, post(REVIEWS, review()), FORBIDDEN),
        row("renewal", Who::Node, post(REQUESTS, signing_request("renewal", key, USER)), CREATED)
            .has("/spec/username", USER),
    ]
}

fn token() -> String {
    format!("{TOKEN_ID}.{TOKEN_SECRET}")
}

fn token_review(token: &str) -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {"token": token}})
}

fn access_review(group: &str, path: &str) -> Value {
    json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
        "spec": {"user": "somebody", "groups": [group], "nonResourceAttributes": {"path": path, "verb": "get"}},
    })
}

fn signing_request(name: &str, key: &KeyPair, common_name: &str) -> Value {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, common_name);
    let pem = params.serialize_request(key).unwrap().pem().unwrap();
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {
            "request": STANDARD.encode(pem),
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"],
        },
    })
}
