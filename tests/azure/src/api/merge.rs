//! The two patch formats nodes use: strategic merge and JSON merge (RFC 7386).

use serde_json::{Map, Value};

use super::status::ApiError;

/// Lists that merge item by item, and the field that identifies an item. All other lists are replaced.
/// Source: the `patchMergeKey` tags of Kubernetes' Node, Event, Lease and ObjectMeta types.
const MERGED_LISTS: &[(&str, &str)] = &[("conditions", "type"), ("addresses", "type"), ("ownerReferences", "uid")];

/// Lists of plain values that merge as sets.
const MERGED_SETS: &[&str] = &["finalizers", "podCIDRs"];

/// Applies an RFC 7386 merge patch.
pub(crate) fn json_merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    for (name, change) in fields {
        let object = as_object(target);
        if change.is_null() {
            object.remove(name);
        } else {
            json_merge(object.entry(name.clone()).or_insert(Value::Null), change);
        }
    }
}

/// Applies a strategic merge patch.
pub(crate) fn strategic_merge(target: &mut Value, patch: &Value) -> Result<(), ApiError> {
    let fields = patch.as_object().ok_or_else(|| malformed("a patch must be an object"))?;
    match fields.get("$patch").map(|directive| directive.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            *target = Value::Object(without_directives(fields));
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some(other) => return Err(ApiError::internal(format!("unknown patch type: {other}"))),
    }
    for (name, change) in fields.iter().filter(|(name, _)| !name.starts_with('$')) {
        merge_field(as_object(target), name, change)?;
    }
    apply_directives(as_object(target), fields)
}

fn merge_field(object: &mut Map<String, Value>, name: &str, change: &Value) -> Result<(), ApiError> {
    if change.is_null() {
        object.remove(name);
        return Ok(());
    }
    let merge_key = MERGED_LISTS.iter().find(|(list, _)| *list == name).map(|(_, key)| *key);
    match (change, merge_key) {
        (Value::Object(_), _) => strategic_merge(object.entry(name).or_insert(Value::Null), change),
        (Value::Array(items), Some(key)) => merge_list(as_list(object.entry(name).or_insert(Value::Null)), items, key),
        (Value::Array(items), None) if MERGED_SETS.contains(&name) => {
            let list = as_list(object.entry(name).or_insert(Value::Null));
            list.extend(items.iter().filter(|item| !list.contains(item)).cloned().collect::<Vec<_>>());
            Ok(())
        }
        (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_), _) => {
            object.insert(name.to_owned(), change.clone());
            Ok(())
        }
    }
}

fn merge_list(list: &mut Vec<Value>, items: &[Value], key: &str) -> Result<(), ApiError> {
    if items.iter().any(|item| item["$patch"] == "replace") {
        *list = items.iter().filter(|item| item["$patch"] != "replace").cloned().collect();
        return Ok(());
    }
    for item in items {
        let id = item
            .get(key)
            .ok_or_else(|| ApiError::internal(format!("map: {item} does not contain declared merge key: {key}")))?;
        let position = list.iter().position(|known| known.get(key) == Some(id));
        match (position, item["$patch"] == "delete") {
            (Some(at), true) => drop(list.remove(at)),
            (None, true) => {}
            (Some(at), false) => strategic_merge(&mut list[at], item)?,
            (None, false) => list.push(Value::Object(without_directives(as_object(&mut item.clone())))),
        }
    }
    Ok(())
}

fn apply_directives(object: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), ApiError> {
    for (name, value) in patch {
        let items = || value.as_array().ok_or_else(|| malformed(&format!("{name} must be a list")));
        if let Some(list) = name.strip_prefix("$setElementOrder/") {
            set_order(object, list, items()?);
        } else if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            let doomed = items()?;
            if let Some(list) = object.get_mut(list).and_then(Value::as_array_mut) {
                list.retain(|item| !doomed.contains(item));
            }
        } else if name == "$retainKeys" {
            let keys = items()?;
            object.retain(|field, _| keys.iter().any(|key| key == field));
        } else if name.starts_with('$') && name != "$patch" {
            return Err(malformed(&format!("unknown directive {name}")));
        }
    }
    Ok(())
}

/// Orders a merged list as the client has it; items the client does not know keep their order and come last.
fn set_order(object: &mut Map<String, Value>, name: &str, order: &[Value]) {
    let key = MERGED_LISTS.iter().find(|(list, _)| *list == name).map(|(_, key)| *key);
    let identity = |item: &Value| match key {
        Some(key) => item[key].clone(),
        None => item.clone(),
    };
    let wanted: Vec<Value> = order.iter().map(identity).collect();
    if let Some(list) = object.get_mut(name).and_then(Value::as_array_mut) {
        list.sort_by_key(|item| wanted.iter().position(|id| *id == identity(item)).unwrap_or(usize::MAX));
    }
}

fn without_directives(fields: &Map<String, Value>) -> Map<String, Value> {
    fields
        .iter()
        .filter(|(name, _)| !name.starts_with('$'))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn as_object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("just made an object")
}

fn as_list(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().expect("just made a list")
}

fn malformed(why: &str) -> ApiError {
    ApiError::bad_request(format!("invalid strategic merge patch: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn merged(mut target: Value, patch: Value) -> Value {
        strategic_merge(&mut target, &patch).unwrap();
        target
    }

    #[test]
    fn conditions_merge_by_type() {
        let old = json!({"conditions": [{"type": "Ready", "status": "False", "reason": "x"}, {"type": "Other", "status": "True"}]});
        let patch = json!({"conditions": [{"type": "Ready", "status": "True"}, {"type": "New", "status": "True"}]});
        let want = json!({"conditions": [
            {"type": "Ready", "status": "True", "reason": "x"}, {"type": "Other", "status": "True"}, {"type": "New", "status": "True"},
        ]});
        assert_eq!(merged(old, patch), want);
    }

    #[test]
    fn element_order_is_the_clients() {
        let old = json!({"conditions": [{"type": "A"}, {"type": "B"}, {"type": "C"}]});
        let patch = json!({"$setElementOrder/conditions": [{"type": "C"}, {"type": "A"}], "conditions": [{"type": "A", "status": "True"}]});
        assert_eq!(
            merged(old, patch),
            json!({"conditions": [{"type": "C"}, {"type": "A", "status": "True"}, {"type": "B"}]})
        );
    }

    #[test]
    fn taints_and_unknown_lists_are_replaced() {
        let old = json!({"spec": {"taints": [{"key": "a"}, {"key": "b"}]}, "images": [1, 2]});
        let patch = json!({"spec": {"taints": [{"key": "c"}]}, "images": []});
        assert_eq!(merged(old, patch), json!({"spec": {"taints": [{"key": "c"}]}, "images": []}));
    }

    #[test]
    fn directives_delete_and_replace() {
        let old = json!({"addresses": [{"type": "InternalIP", "address": "1"}, {"type": "Hostname", "address": "h"}]});
        let delete = json!({"addresses": [{"type": "Hostname", "$patch": "delete"}]});
        assert_eq!(merged(old.clone(), delete), json!({"addresses": [{"type": "InternalIP", "address": "1"}]}));
        let replace = json!({"addresses": [{"$patch": "replace"}, {"type": "InternalIP", "address": "2"}]});
        assert_eq!(merged(old, replace), json!({"addresses": [{"type": "InternalIP", "address": "2"}]}));
        let finalizers = json!({"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]});
        assert_eq!(merged(json!({"finalizers": ["a", "b"]}), finalizers), json!({"finalizers": ["b", "c"]}));
    }

    #[test]
    fn null_removes_a_field_in_both_formats() {
        let old = json!({"labels": {"a": "1", "b": "2"}});
        let patch = json!({"labels": {"a": null}});
        assert_eq!(merged(old.clone(), patch.clone()), json!({"labels": {"b": "2"}}));
        let mut target = old;
        json_merge(&mut target, &patch);
        assert_eq!(target, json!({"labels": {"b": "2"}}));
    }

    #[test]
    fn a_json_merge_patch_replaces_lists() {
        let mut target = json!({"conditions": [{"type": "Ready"}]});
        json_merge(&mut target, &json!({"conditions": [{"type": "Other"}]}));
        assert_eq!(target, json!({"conditions": [{"type": "Other"}]}));
    }

    #[test]
    fn an_item_without_its_key_is_refused() {
        let error = strategic_merge(&mut json!({}), &json!({"conditions": [{"status": "True"}]})).unwrap_err();
        assert_eq!(error.code, 500, "as the real server says it");
    }
}
