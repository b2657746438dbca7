//! Who has which of a Node's conditions: the part of `metadata.managedFields` that several writers of one Node need.
//!
//! As the real server does it for updates and patches: who changes a field has it, nobody else does any more; who adds an item has that, too.
//! Source: FieldsV1 of k8s.io/apimachinery, structured-merge-diff's Updater.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// Of each manager, by condition, its fields.
type Managers = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// The managed fields after `manager` has made `new` of `old`.
pub(crate) fn after(old: &Value, new: &Value, manager: &str) -> Value {
    let mut managers = read(old);
    let (before, now) = (items(old), items(new));
    for (kind, item) in &now {
        let old = before.get(kind).copied();
        let changed = item.keys().filter(|field| old.and_then(|old| old.get(*field)) != item.get(*field));
        let mut changed: Vec<String> = changed.map(|field| format!("f:{field}")).collect();
        let gone = old.into_iter().flat_map(Map::keys).filter(|field| !item.contains_key(*field));
        let gone = gone.map(|field| format!("f:{field}"));
        if old.is_none() {
            changed.push(".".to_owned());
        }
        for field in gone.chain(changed.iter().cloned()) {
            for fields in managers.values_mut().filter_map(|has| has.get_mut(kind)) {
                fields.remove(&field);
            }
        }
        if !changed.is_empty() {
            managers.entry(manager.to_owned()).or_default().entry(kind.clone()).or_default().extend(changed);
        }
    }
    for has in managers.values_mut() {
        has.retain(|kind, fields| now.contains_key(kind) && !fields.is_empty());
    }
    managers.retain(|_, has| !has.is_empty());
    managers.iter().map(|(manager, has)| entry(manager, has)).collect()
}

/// The conditions of a Node by their type.
fn items(node: &Value) -> BTreeMap<String, &Map<String, Value>> {
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    conditions.filter_map(|item| Some((item["type"].as_str()?.to_owned(), item.as_object()?))).collect()
}

fn key(kind: &str) -> String {
    format!("k:{}", json!({"type": kind}))
}

fn entry(manager: &str, has: &BTreeMap<String, BTreeSet<String>>) -> Value {
    let item = |fields: &BTreeSet<String>| fields.iter().map(|field| (field.clone(), json!({}))).collect::<Map<_, _>>();
    let conditions: Map<String, Value> = has.iter().map(|(kind, fields)| (key(kind), item(fields).into())).collect();
    json!({
        "manager": manager,
        "operation": "Update",
        "apiVersion": "v1",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:status": {"f:conditions": conditions}},
        "subresource": "status",
    })
}

fn read(node: &Value) -> Managers {
    let mut managers = Managers::new();
    for entry in node["metadata"]["managedFields"].as_array().into_iter().flatten() {
        let manager = managers.entry(entry["manager"].as_str().unwrap_or_default().to_owned()).or_default();
        for (key, fields) in entry["fieldsV1"]["f:status"]["f:conditions"].as_object().into_iter().flatten() {
            let kind = key.strip_prefix("k:").and_then(|key| serde_json::from_str::<Value>(key).ok());
            let kind = kind.and_then(|key| Some(key["type"].as_str()?.to_owned()));
            let fields = fields.as_object().into_iter().flat_map(Map::keys).cloned();
            manager.extend(kind.map(|kind| (kind, fields.collect())));
        }
    }
    managers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(conditions: Value, managed: Value) -> Value {
        json!({"metadata": {"managedFields": managed}, "status": {"conditions": conditions}})
    }

    /// `one: A{.,status}`
    fn told(managed: &Value) -> Vec<String> {
        let of = |(kind, fields): (&String, &BTreeSet<String>)| {
            let fields: Vec<_> = fields.iter().map(|field| field.trim_start_matches("f:")).collect();
            format!("{kind}{{{}}}", fields.join(","))
        };
        let managers = read(&with(Value::Null, managed.clone()));
        let of =
            managers.iter().map(|(name, has)| format!("{name}: {}", has.iter().map(of).collect::<Vec<_>>().join(" ")));
        of.collect()
    }

    #[test]
    fn who_changes_a_field_has_it() {
        let made = json!([{"type": "A", "status": "True"}]);
        let first = after(&with(json!([]), Value::Null), &with(made.clone(), Value::Null), "one");
        assert_eq!(told(&first), ["one: A{.,status,type}"]);
        let old = with(made.clone(), first.clone());
        assert_eq!(after(&old, &with(made, Value::Null), "two"), first, "who changes nothing gets nothing");

        let changed = json!([{"type": "A", "status": "False"}, {"type": "B", "status": "True"}]);
        let second = after(&old, &with(changed.clone(), Value::Null), "two");
        assert_eq!(told(&second), ["one: A{.,type}", "two: A{status} B{.,status,type}"]);
        let third = after(&with(changed, second), &with(json!([{"type": "B", "status": "True"}]), Value::Null), "one");
        assert_eq!(told(&third), ["two: B{.,status,type}"], "what is gone nobody has");
    }
}
