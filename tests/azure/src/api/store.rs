//! The objects, their versions, and the history that watches read.

use std::collections::BTreeMap;
use std::sync::Mutex;

use rustls::crypto::ring::default_provider;
use serde_json::Value;
use tokio::sync::watch;

use super::clock::Clock;
use super::route::Kind;
use super::status::ApiError;
use crate::locked;

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
}

/// One entry of the history.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) kind: Kind,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(crate) what: &'static str,
    pub(crate) object: Value,
}

/// All objects of one cluster.
pub(crate) struct Store {
    clock: Clock,
    state: Mutex<State>,
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<Key, Value>,
    history: Vec<Change>,
}

impl Store {
    pub(crate) fn new(clock: Clock) -> Self {
        // A list must not have version 0: watching from 0 means "from anywhere".
        let state = State { version: 1, ..State::default() };
        Self { clock, state: Mutex::new(state), version: watch::Sender::new(1) }
    }

    pub(crate) fn get(&self, key: &Key) -> Result<Value, ApiError> {
        locked(&self.state).objects.get(key).cloned().ok_or_else(|| missing(key))
    }

    /// The objects of a kind, of one namespace or of all, and the version of the list.
    pub(crate) fn list(&self, kind: Kind, namespace: Option<&str>) -> (Vec<Value>, u64) {
        let state = locked(&self.state);
        let wanted = |key: &Key| key.kind == kind && (namespace.is_none() || key.namespace.as_deref() == namespace);
        let objects = state.objects.iter().filter(|(key, _)| wanted(key)).map(|(_, object)| object.clone()).collect();
        (objects, state.version)
    }

    /// Adds an object that has a name.
    pub(crate) fn create(&self, key: Key, mut object: Value) -> Result<Value, ApiError> {
        let mut state = locked(&self.state);
        if state.objects.contains_key(&key) {
            return Err(ApiError::already_exists(&key.kind.qualified(), &key.name));
        }
        let metadata = &mut object["metadata"];
        metadata["uid"] = new_uid().into();
        metadata["creationTimestamp"] = self.clock.object_time().into();
        metadata["name"] = key.name.clone().into();
        if let Some(namespace) = &key.namespace {
            metadata["namespace"] = namespace.clone().into();
        }
        self.record(&mut state, key, "ADDED", object)
    }

    /// Replaces an object by what `edit` makes of it; a result without a difference is not a change.
    pub(crate) fn change(
        &self,
        key: &Key,
        edit: impl FnOnce(&Value) -> Result<Value, ApiError>,
    ) -> Result<Value, ApiError> {
        let mut state = locked(&self.state);
        let old = state.objects.get(key).cloned().ok_or_else(|| missing(key))?;
        let mut new = edit(&old)?;
        check_preconditions(key, &old, &new)?;
        for field in ["resourceVersion", "uid", "creationTimestamp", "name", "namespace"] {
            if let Some(value) = old["metadata"].get(field) {
                new["metadata"][field] = value.clone();
            }
        }
        if new == old { Ok(old) } else { self.record(&mut state, key.clone(), "MODIFIED", new) }
    }

    pub(crate) fn delete(&self, key: &Key) -> Result<Value, ApiError> {
        let mut state = locked(&self.state);
        let object = state.objects.get(key).cloned().ok_or_else(|| missing(key))?;
        let last = self.record(&mut state, key.clone(), "DELETED", object)?;
        state.objects.remove(key);
        Ok(last)
    }

    fn record(&self, state: &mut State, key: Key, what: &'static str, mut object: Value) -> Result<Value, ApiError> {
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        let change = Change { version: state.version, kind: key.kind, what, object: object.clone() };
        state.history.push(change);
        state.objects.insert(key, object.clone());
        self.version.send_replace(state.version);
        Ok(object)
    }

    /// The changes of a kind after `version`, and the version they reach.
    pub(crate) fn changes_after(&self, kind: Kind, version: u64) -> (Vec<Change>, u64) {
        let state = locked(&self.state);
        let start = state.history.partition_point(|change| change.version <= version);
        let changes = state.history[start..].iter().filter(|change| change.kind == kind).cloned().collect();
        (changes, state.version)
    }

    /// Follows the version of the newest change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

fn missing(key: &Key) -> ApiError {
    ApiError::not_found(&key.kind.qualified(), &key.name)
}

fn check_preconditions(key: &Key, old: &Value, new: &Value) -> Result<(), ApiError> {
    let differs = |field: &str| {
        let wanted = new["metadata"][field].as_str().unwrap_or_default();
        !wanted.is_empty() && old["metadata"][field].as_str() != Some(wanted)
    };
    let conflict = |why: &str| Err(ApiError::conflict(&key.kind.qualified(), &key.name, why));
    if differs("uid") {
        return conflict("Precondition failed: UID in precondition differs from UID in object meta");
    }
    if differs("resourceVersion") {
        return conflict("the object has been modified; please apply your changes to the latest version and try again");
    }
    Ok(())
}

/// Random bytes as hexadecimal digits.
pub(crate) fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    default_provider().secure_random.fill(&mut buffer).expect("the kernel has random bytes");
    buffer.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn new_uid() -> String {
    let hex = random_hex(16);
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;
    use serde_json::json;

    fn store() -> Store {
        Store::new(Clock::ahead_by(SignedDuration::ZERO))
    }

    fn key(name: &str) -> Key {
        Key { kind: Kind::Node, namespace: None, name: name.to_owned() }
    }

    #[test]
    fn a_change_without_a_difference_keeps_the_version() {
        let store = store();
        let first = store.create(key("a"), json!({"metadata": {}, "spec": {}})).unwrap();
        let same = store.change(&key("a"), |old| Ok(old.clone())).unwrap();
        assert_eq!(first["metadata"]["resourceVersion"], same["metadata"]["resourceVersion"]);
        let other = store
            .change(&key("a"), |old| {
                let mut new = old.clone();
                new["spec"]["providerID"] = json!("azure://x");
                Ok(new)
            })
            .unwrap();
        assert_eq!(other["metadata"]["resourceVersion"], "3");
    }

    #[test]
    fn an_outdated_version_is_a_conflict() {
        let store = store();
        store.create(key("a"), json!({"metadata": {}})).unwrap();
        let error = store.change(&key("a"), |_| Ok(json!({"metadata": {"resourceVersion": "7"}}))).unwrap_err();
        assert_eq!(error.document()["reason"], "Conflict");
        assert_eq!(error.code, 409);
    }

    #[test]
    fn history_tells_what_happened_after_a_version() {
        let store = store();
        store.create(key("a"), json!({"metadata": {}})).unwrap();
        store.create(key("b"), json!({"metadata": {}})).unwrap();
        store.delete(&key("a")).unwrap();
        let (changes, version) = store.changes_after(Kind::Node, 2);
        assert_eq!(changes.iter().map(|change| change.what).collect::<Vec<_>>(), ["ADDED", "DELETED"]);
        assert_eq!(version, 4);
        assert_eq!(store.get(&key("a")).unwrap_err().code, 404);
    }
}
