//! Objects that are questions: who am I, whose token is this, may he do that. Nothing of them is stored.

use serde_json::{Value, json};

use super::access::authorize_path;
use super::cluster::Cluster;
use super::identity::{Credentials, User};
use super::route::Kind;
use super::status::ApiError;
use crate::locked;

/// The object's status.
pub(crate) fn answer(cluster: &Cluster, user: &User, kind: Kind, object: &Value) -> Result<Value, ApiError> {
    match kind {
        Kind::TokenReview => whose_token(cluster, &object["spec"]),
        Kind::SubjectAccessReview => may_he(&object["spec"]),
        _ => Ok(json!({"userInfo": info(user)})),
    }
}

fn info(user: &User) -> Value {
    json!({"username": user.name, "groups": user.groups})
}

fn whose_token(cluster: &Cluster, spec: &Value) -> Result<Value, ApiError> {
    let token = spec["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences: Vec<&str> = spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if let Some(found) = locked(&cluster.policy).service_tokens.iter().find(|known| known.token == token) {
        return Ok(if audiences.contains(&found.audience.as_str()) {
            json!({"authenticated": true, "user": info(&found.user), "audiences": [found.audience]})
        } else {
            json!({"user": {}, "error": "token audiences is invalid for the target audiences"})
        });
    }
    // The others know no audiences, and say none.
    let authorization = format!("Bearer {token}");
    let user = cluster.identify(&Credentials { certificates: &[], authorization: Some(&authorization) });
    Ok(user.map_or_else(
        |_| json!({"user": {}, "error": "invalid bearer token"}),
        |user| json!({"authenticated": true, "user": info(&user)}),
    ))
}

/// Of paths outside the object tree; of objects nobody asks here.
fn may_he(spec: &Value) -> Result<Value, ApiError> {
    let attributes = &spec["nonResourceAttributes"];
    let (Some(path), Some(verb)) = (attributes["path"].as_str(), attributes["verb"].as_str()) else {
        return Err(ApiError::bad_request("this pretend server reviews only nonResourceAttributes with path and verb"));
    };
    let groups = spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let name = spec["user"].as_str().unwrap_or_default().to_owned();
    let user = User { name, groups: groups.map(str::to_owned).collect() };
    let is_read = matches!(verb, "get" | "head");
    Ok(json!({"allowed": user.is_in("system:masters") || (is_read && authorize_path(&user, path).is_ok())}))
}
