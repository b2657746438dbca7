//! What a node does with its objects.

use serde_json::{Value, json};

use super::row::{
    BAD_REQUEST, CONFLICT, CREATED, EXISTS, FORBIDDEN, INVALID, LEASES, NO_METHOD, NODES, NOT_FOUND, OK, OTHER, OWN,
    Payload, Row, USER, Who, get, merge, new_node, post, put, row, strategic,
};

const EVENTS: &str = "/api/v1/namespaces/default/events";
const NEW_EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

/// By a node that has its certificate.
pub(super) fn rows() -> Vec<Row> {
    [reads(), node(), node_changes(), leases(), events()].into_iter().flatten().collect()
}

fn reads() -> Vec<Row> {
    let who = Who::Node;
    let (own, other) = (format!("{NODES}/{OWN}"), format!("{NODES}/{OTHER}"));
    let foreign = |object: &str, verb: &str| {
        format!(
            "{object} is forbidden: User \"{USER}\" cannot {verb} resource \"nodes\" in API group \"\" at the cluster scope: \
             node '{OWN}' cannot read '{OTHER}', only its own Node object"
        )
    };
    let selected = |path: &str, name: &str| format!("{path}?fieldSelector=metadata.name%3D{name}");
    vec![
        row("own Node before it is made", who, get(&own), NOT_FOUND)
            .has("/details/name", OWN)
            .has("/details/kind", "nodes"),
        row("own Lease before it is made", who, get(&format!("{LEASES}/{OWN}")), NOT_FOUND),
        row("another's Node read", who, get(&other), FORBIDDEN).has("/message", foreign("nodes \"contract-2\"", "get")),
        row("all nodes", who, get(NODES), FORBIDDEN),
        row("another's Node by selector", who, get(&selected(NODES, OTHER)), FORBIDDEN)
            .has("/message", foreign("nodes \"contract-2\"", "list")),
        row("own Node by selector", who, get(&selected(NODES, OWN)), OK)
            .has("/kind", "NodeList")
            .has("/items", json!([])),
        row("another's Lease", who, get(&format!("{LEASES}/{OTHER}")), FORBIDDEN),
        row("nodes by an unknown field", who, get(&format!("{NODES}?fieldSelector=spec.nonsense%3D1")), FORBIDDEN),
    ]
}

/// How the Node is made, and how not.
fn node() -> Vec<Row> {
    let who = Who::Node;
    let own = format!("{NODES}/{OWN}");
    let with = |pointer: &str, value: Value| {
        let mut node = new_node(OWN);
        *node.pointer_mut(pointer).unwrap() = value;
        node
    };
    let labelled = |label: &str, value: &str| with("/metadata/labels", json!({label: value}));
    let tainted = |effect: &str| with("/spec/taints", json!([{"key": "nap-vm.test/a", "effect": effect}]));
    vec![
        row(
            "Node with a restricted label",
            who,
            post(NODES, labelled("node-restriction.kubernetes.io/a", "b")),
            FORBIDDEN,
        )
        .has(
            "/message",
            refused("node \"contract-1\" is not allowed to set the following labels: node-restriction.kubernetes.io/a"),
        ),
        row("Node with a label of Kubernetes", who, post(NODES, labelled("kubernetes.io/role", "b")), FORBIDDEN),
        row("Node with a wrong label", who, post(NODES, labelled("nap-vm.test/a", "-")), INVALID),
        row("Node with a wrong effect", who, post(NODES, tainted("Never")), INVALID),
        row("Node of a wrong type", who, post(NODES, with("/spec/unschedulable", json!("yes"))), BAD_REQUEST),
        row("Node of another kind", who, post(NODES, with("/kind", json!("Pod"))), BAD_REQUEST),
        row("Node of no kind", who, post(NODES, with("/kind", json!("Nonsense"))), BAD_REQUEST),
        row("Node of another version", who, post(NODES, with("/apiVersion", json!("v2"))), BAD_REQUEST),
        row("Node that is a list", who, post(NODES, json!([])), BAD_REQUEST),
        row("Node that is no JSON", who, ("POST", NODES, Payload::Text("{\"kind\":")), BAD_REQUEST),
        row("another's Node made", who, post(NODES, new_node(OTHER)), FORBIDDEN).has("/details/name", OTHER),
        row("Node made at a name", who, post(&own, new_node(OWN)), NO_METHOD),
        row("another's Node", Who::OtherNode, post(NODES, new_node(OTHER)), CREATED),
        row("Node made", who, post(NODES, new_node(OWN)), CREATED)
            .has("/kind", "Node")
            .has("/apiVersion", "v1")
            .has("/metadata/name", OWN)
            .has("/metadata/labels/nap-vm.test~1pool", "blue")
            .has("/spec/taints/0/key", "nap-vm.test/starting")
            .has("/spec/taints/0/effect", "NoExecute")
            .has("/status/conditions/0/type", "Ready"),
        row("Node made again", who, post(NODES, new_node(OWN)), EXISTS)
            .has("/details/name", OWN)
            .has("/details/kind", "nodes"),
        row("own Node", who, get(&own), OK)
            .has("/kind", "Node")
            .has("/metadata/name", OWN)
            .has("/spec/providerID", Value::Null)
            .has("/status/capacity/cpu", "2"),
        row("own Node is listed", who, get(&format!("{NODES}?fieldSelector=metadata.name%3D{OWN}")), OK)
            .has("/items/0/metadata/name", OWN),
        row("own Node deleted", who, ("DELETE", &own, Payload::None), FORBIDDEN),
    ]
}

/// How the Node changes.
fn node_changes() -> Vec<Row> {
    let who = Who::Node;
    let own = format!("{NODES}/{OWN}");
    let status = format!("{own}/status");
    let conditions = |list: Value| json!({"status": {"conditions": list}});
    let by = |manager: &str| format!("{status}?fieldManager={manager}");
    let x = |value: &str| json!({"type": "X", "status": value});
    let more =
        || conditions(json!([{"type": "Ready", "status": "True"}, {"type": "MemoryPressure", "status": "False"}]));
    let labels = |label: &str| json!({"metadata": {"labels": {label: "x"}}});
    let mut other_taints = new_node(OWN);
    other_taints["spec"]["taints"][0]["effect"] = json!("NoSchedule");
    let taints = json!({"spec": {"taints": [{"key": "nap-vm.test/b", "effect": "NoSchedule"}]}});
    let provider = |id: &str| json!({"spec": {"providerID": id}});
    let stale = json!({"metadata": {"resourceVersion": "Node made", "labels": {"nap-vm.test/pool": "red"}}});
    vec![
        row("conditions merged by type", who, strategic(&status, more()), OK)
            .has("/status/conditions/0/type", "Ready")
            .has("/status/conditions/0/status", "True")
            .has("/status/conditions/0/reason", "Starting")
            .has("/status/conditions/1/type", "MemoryPressure")
            .has("/status/conditions/2", Value::Null)
            .has("/status/capacity/cpu", "2"),
        row("conditions in the client's order", who, strategic(&status, ordered_conditions()), OK)
            .has("/status/conditions/0/type", "MemoryPressure")
            .has("/status/conditions/1/type", "Ready"),
        row("condition without its type", who, strategic(&status, conditions(json!([{"status": "True"}]))), (500, "")),
        row("conditions replaced", who, merge(&status, conditions(json!([{"type": "Ready", "status": "False"}]))), OK)
            .has("/status/conditions/0/status", "False")
            .has("/status/conditions/1", Value::Null),
        row(
            "condition removed",
            who,
            strategic(&status, conditions(json!([{"type": "Ready", "$patch": "delete"}]))),
            OK,
        )
        .has("/status/conditions/0", Value::Null),
        row("a condition of one writer", who, strategic(&by("one"), conditions(json!([x("True")]))), OK)
            .written_by("X", &["one"]),
        row("a condition of two", who, strategic(&by("two"), conditions(json!([x("False")]))), OK)
            .written_by("X", &["one", "two"]),
        row("and of one again", who, strategic(&by("one"), conditions(json!([x("True")]))), OK)
            .written_by("X", &["one"]),
        row(
            "a condition of nobody",
            who,
            strategic(&by("two"), conditions(json!([{"type": "X", "$patch": "delete"}]))),
            OK,
        )
        .written_by("X", &[]),
        row("status in the wrong place", who, merge(&own, json!({"status": {"capacity": {"cpu": "3"}}})), OK)
            .has("/status/capacity/cpu", "2"),
        row("label added", who, merge(&own, labels("nap-vm.test/b")), OK)
            .has("/metadata/labels/nap-vm.test~1b", "x")
            .has("/metadata/labels/nap-vm.test~1pool", "blue"),
        row("label removed", who, merge(&own, json!({"metadata": {"labels": {"nap-vm.test/b": null}}})), OK)
            .has("/metadata/labels/nap-vm.test~1b", Value::Null),
        row("restricted label added", who, strategic(&own, labels("node-restriction.kubernetes.io/a")), FORBIDDEN)
            .has("/message", refused("is not allowed to modify labels: node-restriction.kubernetes.io/a")),
        row("taints changed by a patch", who, strategic(&own, taints.clone()), FORBIDDEN)
            .has("/message", refused("node \"contract-1\" is not allowed to modify taints")),
        row("taints changed by a merge patch", who, merge(&own, taints), FORBIDDEN),
        row("taints changed by an update", who, put(&own, other_taints), FORBIDDEN),
        row("provider id set", who, strategic(&own, provider("azure:///a")), OK).has("/spec/providerID", "azure:///a"),
        row("provider id changed", who, strategic(&own, provider("azure:///b")), INVALID)
            .has("/details/causes/0/field", "spec.providerID"),
        row("patch of an old version", who, merge(&own, stale), CONFLICT).has("/details/name", OWN),
        row("patch of no known format", who, ("PATCH", &own, Payload::Text("{")), (415, "UnsupportedMediaType")),
        row("patch that is a list", who, merge(&own, json!([])), BAD_REQUEST),
        row("strategic patch that is a list", who, strategic(&own, json!([])), BAD_REQUEST),
        row(
            "patch with a wrong directive",
            who,
            strategic(&own, json!({"metadata": {"$patch": "nonsense"}})),
            (500, ""),
        ),
        row("patch of a wrong type", who, merge(&own, json!({"spec": {"unschedulable": "yes"}})), INVALID)
            .has("/details/causes/0/field", "patch"),
        row("patch of the kind", who, merge(&own, json!({"kind": "Pod"})), INVALID),
        row("patch of the name", who, merge(&own, json!({"metadata": {"name": OTHER}})), BAD_REQUEST),
        row(
            "taints removed from an old version",
            who,
            put(&own, json!({"metadata": {"name": OWN, "resourceVersion": "Node made"}})),
            FORBIDDEN,
        ),
        row("another's status", who, strategic(&format!("{NODES}/{OTHER}/status"), more()), FORBIDDEN),
        row("another's label", who, merge(&format!("{NODES}/{OTHER}"), labels("nap-vm.test/b")), FORBIDDEN),
        row("status of no node", who, strategic(&format!("{NODES}/contract-3/status"), json!({})), NOT_FOUND),
        row("update under another name", who, put(&own, new_node(OTHER)), BAD_REQUEST),
    ]
}

fn leases() -> Vec<Row> {
    let who = Who::Node;
    let own = format!("{LEASES}/{OWN}");
    let elsewhere = LEASES.replace("kube-node-lease", "default");
    let of_version = |row: &str| {
        let mut lease = new_lease(OWN);
        lease["metadata"]["resourceVersion"] = json!(row);
        lease["spec"]["renewTime"] = json!("2026-01-01T00:00:00.000000Z");
        lease
    };
    let mut short = new_lease(OWN);
    short["spec"]["leaseDurationSeconds"] = json!(0);
    vec![
        row("another's Lease made", who, post(LEASES, new_lease(OTHER)), FORBIDDEN),
        row("Lease in another namespace", who, post(&elsewhere, new_lease(OWN)), FORBIDDEN),
        row("Lease for no time", who, post(LEASES, short), INVALID),
        row("Lease made", who, post(LEASES, new_lease(OWN)), CREATED)
            .has("/kind", "Lease")
            .has("/metadata/namespace", "kube-node-lease")
            .has("/spec/holderIdentity", OWN)
            .has("/spec/leaseDurationSeconds", 40),
        row("Lease made again", who, post(LEASES, new_lease(OWN)), EXISTS),
        row("Lease renewed", who, put(&own, of_version("Lease made")), OK)
            .has("/spec/renewTime", "2026-01-01T00:00:00.000000Z"),
        row("Lease renewed from an old version", who, put(&own, of_version("Lease made")), CONFLICT)
            .has("/details/name", OWN)
            .has("/details/group", "coordination.k8s.io")
            .has("/details/kind", "leases"),
        row("Lease renewed without a version", who, put(&own, new_lease(OWN)), INVALID),
        row("Lease renewed again", who, put(&own, of_version("Lease renewed")), OK),
        row("own Lease", who, get(&own), OK).has("/spec/holderIdentity", OWN),
        row("all leases", who, get(LEASES), FORBIDDEN),
    ]
}

fn events() -> Vec<Row> {
    let who = Who::Node;
    let event = |name: &str, subject: Value| {
        json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": "default"},
            "involvedObject": subject, "reason": "Starting", "message": "m", "type": "Normal", "count": 1,
        })
    };
    let node = json!({"kind": "Node", "name": OWN});
    let mut kindless = event("contract.4", node.clone());
    for field in ["kind", "apiVersion"] {
        kindless.as_object_mut().unwrap().remove(field);
    }
    let elsewhere = json!({"kind": "Node", "name": OWN, "namespace": "kube-system"});
    let new_event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "contract.new", "namespace": "default"},
        "regarding": node, "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "nap-agent",
        "reportingInstance": OWN, "action": "Boot", "reason": "Started", "type": "Normal",
    });
    let mut incomplete = new_event.clone();
    incomplete["action"] = json!("");
    vec![
        row("event", who, post(EVENTS, event("contract.1", node.clone())), CREATED)
            .has("/reason", "Starting")
            .has("/metadata/namespace", "default"),
        row("event again", who, post(EVENTS, event("contract.1", node.clone())), EXISTS),
        row("event counted", who, strategic(&format!("{EVENTS}/contract.1"), json!({"count": 2})), OK).has("/count", 2),
        row("event about another namespace", who, post(EVENTS, event("contract.2", elsewhere)), INVALID),
        row(
            "event of another namespace",
            who,
            post(&EVENTS.replace("default", "kube-system"), event("contract.3", node)),
            BAD_REQUEST,
        ),
        row("event without a kind", who, post(EVENTS, kindless), CREATED)
            .has("/kind", "Event")
            .has("/apiVersion", "v1"),
        row("event read", who, get(&format!("{EVENTS}/contract.1")), FORBIDDEN),
        row("new event", who, post(NEW_EVENTS, new_event), CREATED).has("/reportingController", "nap-agent"),
        row("new event that is incomplete", who, post(NEW_EVENTS, incomplete), INVALID),
    ]
}

/// What NodeRestriction says about the own Node.
fn refused(why: &str) -> String {
    format!("nodes \"{OWN}\" is forbidden: {why}")
}

fn ordered_conditions() -> Value {
    json!({"status": {
        "$setElementOrder/conditions": [{"type": "MemoryPressure"}, {"type": "Ready"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }})
}

fn new_lease(name: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40},
    })
}
