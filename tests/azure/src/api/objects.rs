//! The verbs on objects, in the real server's order: may the user, can it be read, may it be so, is it valid, store it.

use std::time::Duration;

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::access::{Access, Verb, authorize};
use super::cluster::Cluster;
use super::identity::User;
use super::managed_fields;
use super::merge::{json_merge, strategic_merge};
use super::node_restriction::admit;
use super::reviews;
use super::route::{Kind, Route};
use super::signing;
use super::status::{ApiError, Cause};
use super::store::{Key, random_hex};
use super::validate::{decode, decode_patched, validate};
use super::watch::{WatchBody, Watched};

/// One request to an object or collection.
pub(crate) struct Ask<'a> {
    pub(crate) user: &'a User,
    pub(crate) method: &'a str,
    pub(crate) route: &'a Route,
    pub(crate) query: &'a [(String, String)],
    pub(crate) content_type: &'a str,
    pub(crate) body: &'a Bytes,
}

/// What to send back.
pub(crate) enum Reply {
    Object(u16, Value),
    Watch(WatchBody),
}

/// Does what is asked, if it may be done.
pub(crate) fn perform(cluster: &Cluster, ask: &Ask<'_>) -> Result<Reply, ApiError> {
    let verb = ask.verb()?;
    let selected = ask.selected_name();
    let name = selected.as_ref().ok().and_then(Option::as_deref);
    authorize(ask.user, &Access { verb, route: ask.route, selected: name })?;
    ask.exists(verb)?;
    let selected = selected?;
    match verb {
        Verb::Get => Ok(Reply::Object(200, cluster.store.get(&ask.key()?)?)),
        Verb::List => Ok(Reply::Object(200, list(cluster, &ask.watched(selected)))),
        Verb::Watch => watch(cluster, ask, ask.watched(selected)),
        Verb::Create => create(cluster, ask),
        Verb::Update => update(cluster, ask),
        Verb::Patch => patch(cluster, ask),
        Verb::Delete => delete(cluster, &ask.key()?),
    }
}

impl Ask<'_> {
    fn verb(&self) -> Result<Verb, ApiError> {
        let wants_watch = matches!(self.query("watch"), Some("1" | "true"));
        match (self.method, self.route.name.is_some()) {
            ("GET", true) => Ok(Verb::Get),
            ("GET", false) => Ok(if wants_watch { Verb::Watch } else { Verb::List }),
            ("POST", false) => Ok(Verb::Create),
            ("PUT", true) => Ok(Verb::Update),
            ("PATCH", true) => Ok(Verb::Patch),
            ("DELETE", true) => Ok(Verb::Delete),
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    /// Refuses verbs and subresources that the kind does not have.
    fn exists(&self, verb: Verb) -> Result<(), ApiError> {
        if self.route.kind.is_review() && verb != Verb::Create {
            return Err(ApiError::method_not_allowed());
        }
        match (self.route.kind, self.route.subresource.as_deref(), verb) {
            (_, None, _) | (Kind::Node, Some("status"), Verb::Get | Verb::Update | Verb::Patch) => Ok(()),
            (_, Some(_), _) => Err(ApiError::no_such_resource()),
        }
    }

    fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// The name in the field selector: the only selection this server knows.
    fn selected_name(&self) -> Result<Option<String>, ApiError> {
        if self.query("labelSelector").is_some() {
            return Err(ApiError::bad_request("label selectors are not supported by this pretend server"));
        }
        let Some(selector) = self.query("fieldSelector") else { return Ok(None) };
        let (field, value) = selector.split_once('=').unwrap_or((selector, ""));
        if field != "metadata.name" {
            return Err(ApiError::bad_request(format!("field label not supported: {field}")));
        }
        Ok(Some(value.trim_start_matches('=').to_owned()))
    }

    fn watched(&self, name: Option<String>) -> Watched {
        Watched { kind: self.route.kind, namespace: self.route.namespace.clone(), name }
    }

    fn key(&self) -> Result<Key, ApiError> {
        let name = self.route.name.clone().ok_or_else(ApiError::method_not_allowed)?;
        Ok(Key { kind: self.route.kind, namespace: self.route.namespace.clone(), name })
    }

    /// The body as JSON, when the content type is one of `accepted`.
    fn json(&self, accepted: &[&str]) -> Result<Value, ApiError> {
        let media_type = self.content_type.split(';').next().unwrap_or_default().trim();
        if !accepted.contains(&media_type) {
            return Err(ApiError::unsupported_media_type(&accepted.join(", ")));
        }
        serde_json::from_slice(self.body)
            .map_err(|error| ApiError::bad_request(format!("the object provided is unrecognized: {error}")))
    }

    /// The object in the body, with the namespace of the path.
    fn object(&self) -> Result<Value, ApiError> {
        // Without a content type the real server assumes JSON.
        let mut object = decode(self.route.kind, self.json(&["application/json", ""])?)?;
        let Some(namespace) = &self.route.namespace else { return Ok(object) };
        let found = object["metadata"]["namespace"].as_str().unwrap_or(namespace);
        if found != namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        object["metadata"]["namespace"] = json!(namespace);
        Ok(object)
    }
}

fn list(cluster: &Cluster, watched: &Watched) -> Value {
    let (mut items, version) = cluster.store.list(watched.kind, watched.namespace.as_deref());
    items.retain(|item| watched.includes(item));
    for item in items.iter_mut().filter_map(Value::as_object_mut) {
        // As in a real list, whose items are typed by the list itself.
        item.remove("kind");
        item.remove("apiVersion");
    }
    json!({
        "kind": format!("{}List", watched.kind.name()), "apiVersion": watched.kind.api_version(),
        "metadata": {"resourceVersion": version.to_string()}, "items": items,
    })
}

fn watch(cluster: &Cluster, ask: &Ask<'_>, watched: Watched) -> Result<Reply, ApiError> {
    if ask.query("sendInitialEvents").is_some() {
        let why = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        return Err(ApiError::invalid_option("sendInitialEvents", why));
    }
    let number = |name: &str| match ask.query(name).map(str::parse::<u64>) {
        None => Ok(None),
        Some(Ok(number)) => Ok(Some(number)),
        Some(Err(error)) => Err(ApiError::bad_request(format!("{name}: {error}"))),
    };
    let version = number("resourceVersion")?.filter(|version| *version > 0);
    let ends = number("timeoutSeconds")?.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    Ok(Reply::Watch(WatchBody::new(cluster.store.clone(), watched, version, ends)))
}

fn create(cluster: &Cluster, ask: &Ask<'_>) -> Result<Reply, ApiError> {
    let mut object = ask.object()?;
    let kind = ask.route.kind;
    if kind.is_review() {
        object["status"] = reviews::answer(cluster, ask.user, kind, &object)?;
        return Ok(Reply::Object(201, object));
    }
    let name = name_of_new(kind, &mut object)?;
    if object["metadata"].get("resourceVersion").is_some_and(|version| version != "") {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    admit(ask.user, kind, None, &object)?;
    if kind == Kind::Node && cluster.rejects_nodes() {
        let text = "admission webhook \"nodes.pretend-azure\" denied the request: node creation is switched off";
        return Err(ApiError::forbidden(text));
    }
    if kind == Kind::Csr {
        signing::prepare(ask.user, &mut object)?;
    }
    validate(kind, &object)?;
    let key = Key { kind, namespace: ask.route.namespace.clone(), name };
    let created = cluster.store.create(key.clone(), object)?;
    if kind == Kind::Csr {
        cluster.review_request(&key.name);
    }
    Ok(Reply::Object(201, created))
}

fn name_of_new(kind: Kind, object: &mut Value) -> Result<String, ApiError> {
    let metadata = &mut object["metadata"];
    if let Some(name) = metadata["name"].as_str().filter(|name| !name.is_empty()) {
        return Ok(name.to_owned());
    }
    match metadata["generateName"].as_str().filter(|prefix| !prefix.is_empty()) {
        Some(prefix) => {
            let name = format!("{prefix}{}", random_hex(3));
            metadata["name"] = json!(name);
            Ok(name)
        }
        None => Err(ApiError::invalid(kind, "", &[Cause::required("metadata.name")])),
    }
}

fn update(cluster: &Cluster, ask: &Ask<'_>) -> Result<Reply, ApiError> {
    let (key, object) = (ask.key()?, ask.object()?);
    check_name(&key, &object)?;
    if key.kind == Kind::Lease {
        if cluster.store.get(&key).is_err() {
            admit(ask.user, key.kind, None, &object)?;
            validate(key.kind, &object)?;
            return Ok(Reply::Object(201, cluster.store.create(key, object)?));
        }
        if object["metadata"]["resourceVersion"].as_str().unwrap_or_default().is_empty() {
            let cause = Cause::invalid("metadata.resourceVersion", "", "must be specified for an update");
            return Err(ApiError::invalid(key.kind, &key.name, &[cause]));
        }
    }
    write(cluster, ask, &key, |_| Ok(object))
}

fn patch(cluster: &Cluster, ask: &Ask<'_>) -> Result<Reply, ApiError> {
    let merge_types = ["application/strategic-merge-patch+json", "application/merge-patch+json"];
    let patch = ask.json(&merge_types)?;
    if !patch.is_object() {
        return Err(ApiError::bad_request("error decoding patch: a patch must be an object"));
    }
    let strategic = ask.content_type.starts_with(merge_types[0]);
    let key = ask.key()?;
    write(cluster, ask, &key, |old| {
        let mut new = old.clone();
        if strategic {
            strategic_merge(&mut new, &patch)?;
        } else {
            json_merge(&mut new, &patch);
        }
        let new = decode_patched(key.kind, new)?;
        check_name(&key, &new)?;
        Ok(new)
    })
}

fn check_name(key: &Key, object: &Value) -> Result<(), ApiError> {
    let found = object["metadata"]["name"].as_str().unwrap_or_default();
    if found == key.name {
        return Ok(());
    }
    let text = format!("the name of the object ({found}) does not match the name on the URL ({})", key.name);
    Err(ApiError::bad_request(text))
}

fn write(
    cluster: &Cluster,
    ask: &Ask<'_>,
    key: &Key,
    edit: impl FnOnce(&Value) -> Result<Value, ApiError>,
) -> Result<Reply, ApiError> {
    let subresource = ask.route.subresource.as_deref();
    let written = cluster.store.change(key, |old| {
        let mut new = edit(old)?;
        keep_other_half(key.kind, subresource, old, &mut new);
        admit(ask.user, key.kind, Some(old), &new)?;
        validate(key.kind, &new)?;
        check_provider_id(key, old, &new)?;
        if key.kind == Kind::Node {
            let manager = ask.query("fieldManager").unwrap_or("unknown");
            new["metadata"]["managedFields"] = managed_fields::after(old, &new, manager);
        }
        Ok(new)
    })?;
    Ok(Reply::Object(200, written))
}

/// The object's own address writes everything but the status; the status address writes the status and the metadata.
fn keep_other_half(kind: Kind, subresource: Option<&str>, old: &Value, new: &mut Value) {
    let field = match (kind, subresource) {
        (Kind::Node, Some("status")) => "spec",
        (Kind::Node | Kind::Csr, _) => "status",
        _ => return,
    };
    let Some(object) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(half) => drop(object.insert(field.to_owned(), half.clone())),
        None => drop(object.remove(field)),
    }
}

fn check_provider_id(key: &Key, old: &Value, new: &Value) -> Result<(), ApiError> {
    let id = |object: &Value| object["spec"]["providerID"].as_str().unwrap_or_default().to_owned();
    let (old, new) = (id(old), id(new));
    if key.kind == Kind::Node && !old.is_empty() && old != new {
        let why = "node updates may not change providerID except from \"\" to valid";
        let cause = Cause::forbidden("spec.providerID", why);
        return Err(ApiError::invalid(key.kind, &key.name, &[cause]));
    }
    Ok(())
}

fn delete(cluster: &Cluster, key: &Key) -> Result<Reply, ApiError> {
    let last = cluster.store.delete(key)?;
    let details = json!({
        "name": key.name, "group": key.kind.group(), "kind": key.kind.plural(), "uid": last["metadata"]["uid"],
    });
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
    Ok(Reply::Object(200, status))
}
