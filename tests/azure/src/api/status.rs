//! Kubernetes' error document: what a client's library turns into its error type.

use serde_json::{Value, json};

use super::route::Kind;

/// An error as the API server reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) code: u16,
    reason: &'static str,
    message: String,
    details: Option<Value>,
}

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    /// Which object it is about.
    pub(crate) fn forbidden_object(resource: &str, name: &str, message: impl Into<String>) -> Self {
        Self::forbidden(message).about(resource, name)
    }

    /// What the real server did not foresee; it gives no reason then.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    /// A path that leads nowhere, as opposed to an object that does not exist.
    pub(crate) fn no_such_resource() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub(crate) fn not_found(resource: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{resource} \"{name}\" not found")).about(resource, name)
    }

    pub(crate) fn already_exists(resource: &str, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{resource} \"{name}\" already exists")).about(resource, name)
    }

    pub(crate) fn conflict(resource: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}");
        Self::new(409, "Conflict", message).about(resource, name)
    }

    pub(crate) fn invalid(kind: Kind, name: &str, causes: &[Cause]) -> Self {
        Self::unprocessable((kind.name(), kind.group()), name, causes)
    }

    /// What a patch makes of an object cannot be read as one.
    pub(crate) fn invalid_patch(why: &str) -> Self {
        Self::unprocessable(("", ""), "", &[Cause::invalid("patch", "", why)])
    }

    /// An option of a list or watch that this server does not take.
    pub(crate) fn invalid_option(option: &str, why: &str) -> Self {
        Self::unprocessable(("ListOptions", "meta.k8s.io"), "", &[Cause::forbidden(option, why)])
    }

    fn unprocessable((kind, group): (&str, &str), name: &str, causes: &[Cause]) -> Self {
        let texts: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let list = if texts.len() == 1 { texts[0].clone() } else { format!("[{}]", texts.join(", ")) };
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut error =
            Self::new(422, "Invalid", format!("{qualified} \"{name}\" is invalid: {list}")).about(&qualified, name);
        let causes: Vec<Value> = causes
            .iter()
            .map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}))
            .collect();
        if let Some(details) = &mut error.details {
            details["causes"] = causes.into();
        }
        error
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub(crate) fn unsupported_media_type(accepted: &str) -> Self {
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub(crate) fn unavailable() -> Self {
        Self::new(503, "ServiceUnavailable", "the server is currently unable to handle the request")
    }

    pub(crate) fn too_large() -> Self {
        Self::new(413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728")
    }

    fn about(mut self, resource: &str, name: &str) -> Self {
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        let fields = [("name", name), ("group", group), ("kind", plural)];
        let told = fields.into_iter().filter(|(_, value)| !value.is_empty());
        self.details = Some(told.map(|(field, value)| (field.to_owned(), Value::from(value))).collect());
        self
    }

    pub(crate) fn document(&self) -> Value {
        let mut document = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            document["reason"] = self.reason.into();
        }
        if let Some(details) = &self.details {
            document["details"] = details.clone();
        }
        document
    }
}

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    field: String,
    reason: &'static str,
    message: String,
}

impl Cause {
    pub(crate) fn required(field: &str) -> Self {
        Self { field: field.to_owned(), reason: "FieldValueRequired", message: "Required value".to_owned() }
    }

    pub(crate) fn invalid(field: impl Into<String>, found: &str, why: &str) -> Self {
        let message = format!("Invalid value: {found:?}: {why}");
        Self { field: field.into(), reason: "FieldValueInvalid", message }
    }

    pub(crate) fn forbidden(field: &str, why: &str) -> Self {
        let message = format!("Forbidden: {why}");
        Self { field: field.to_owned(), reason: "FieldValueForbidden", message }
    }

    pub(crate) fn unsupported(field: impl Into<String>, found: &str, wanted: &str) -> Self {
        let message = format!("Unsupported value: {found:?}: supported values: {wanted}");
        Self { field: field.into(), reason: "FieldValueNotSupported", message }
    }
}
