//! Who may do what: the Node authorizer and the role of `system:bootstrappers`, in small.

use super::identity::User;
use super::route::{Kind, Route};
use super::status::ApiError;

/// What a request does to the place it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
}

impl Verb {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }

    fn reads(self) -> bool {
        matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// What a user wants to do. `selected` is the name in the field selector of a list or watch.
pub(crate) struct Access<'a> {
    pub(crate) verb: Verb,
    pub(crate) route: &'a Route,
    pub(crate) selected: Option<&'a str>,
}

pub(crate) const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Permits or refuses with the message of the real server.
pub(crate) fn authorize(user: &User, access: &Access<'_>) -> Result<(), ApiError> {
    if user.is_in("system:masters") {
        return Ok(());
    }
    let mut why = None;
    let permitted = if access.route.kind == Kind::SelfSubjectReview {
        access.verb == Verb::Create && user.is_in("system:authenticated")
    } else if let Some(node) = user.node() {
        match node_may(node, access) {
            Ok(permitted) => permitted,
            Err(text) => {
                why = Some(text);
                false
            }
        }
    } else {
        user.is_in("system:bootstrappers") && may_request_certificates(access)
    };
    if permitted { Ok(()) } else { Err(forbidden(user, access, why.as_deref())) }
}

/// Permits reading an address outside the object tree.
pub(crate) fn authorize_path(user: &User, path: &str) -> Result<(), ApiError> {
    let public = ["/version", "/healthz", "/livez", "/readyz"];
    if user.is_in("system:masters") || public.contains(&path.trim_end_matches('/')) {
        return Ok(());
    }
    Err(ApiError::forbidden(format!("forbidden: User \"{}\" cannot get path \"{path}\"", user.name)))
}

fn may_request_certificates(access: &Access<'_>) -> bool {
    let plain = access.route.kind == Kind::Csr && access.route.subresource.is_none();
    plain && (access.verb == Verb::Create || access.verb.reads())
}

fn node_may(node: &str, access: &Access<'_>) -> Result<bool, String> {
    let Access { verb, route, selected } = *access;
    let own = |name: Option<&str>| name == Some(node);
    let name = route.name.as_deref();
    match route.kind {
        Kind::Node => match verb {
            Verb::Get if own(name) => Ok(true),
            Verb::List | Verb::Watch if own(selected) => Ok(true),
            Verb::Get | Verb::List | Verb::Watch => {
                let what = name.or(selected).map_or_else(|| "all nodes".to_owned(), |name| format!("'{name}'"));
                Err(format!("node '{node}' cannot read {what}, only its own Node object"))
            }
            // Which Node a node may write is NodeRestriction's question.
            Verb::Create => Ok(true),
            Verb::Update | Verb::Patch => Ok(matches!(route.subresource.as_deref(), None | Some("status"))),
            Verb::Delete => Ok(false),
        },
        Kind::Csr => Ok(may_request_certificates(access)),
        Kind::Lease if route.namespace.as_deref() != Some(LEASE_NAMESPACE) => {
            Err(format!("can only access leases in the \"{LEASE_NAMESPACE}\" system namespace"))
        }
        Kind::Lease => match verb {
            Verb::Create => Ok(true),
            Verb::Get | Verb::Update | Verb::Patch | Verb::Delete if own(name) => Ok(true),
            Verb::List | Verb::Watch => Err("can only get, create, update, patch, or delete a node lease".to_owned()),
            Verb::Get | Verb::Update | Verb::Patch | Verb::Delete => {
                Err("can only access node lease with the same name as the requesting node".to_owned())
            }
        },
        Kind::CoreEvent | Kind::Event => Ok(matches!(verb, Verb::Create | Verb::Update | Verb::Patch)),
        // The role system:node has these two; the third is everybody's.
        Kind::TokenReview | Kind::SubjectAccessReview => Ok(verb == Verb::Create),
        Kind::SelfSubjectReview => Ok(false),
    }
}

fn forbidden(user: &User, access: &Access<'_>, why: Option<&str>) -> ApiError {
    let route = access.route;
    let (plural, group) = (route.kind.plural(), route.kind.group());
    let resource = match &route.subresource {
        Some(subresource) => format!("{plural}/{subresource}"),
        None => plural.to_owned(),
    };
    let name = route.name.as_deref().or(access.selected);
    let object = name.map_or_else(String::new, |name| format!(" \"{name}\""));
    let place = match &route.namespace {
        Some(namespace) => format!("in the namespace \"{namespace}\""),
        None => "at the cluster scope".to_owned(),
    };
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    let qualified = route.kind.qualified();
    let message = format!(
        "{qualified}{object} is forbidden: User \"{}\" cannot {} resource \"{resource}\" in API group \"{group}\" {place}{why}",
        user.name,
        access.verb.name(),
    );
    ApiError::forbidden_object(&qualified, name.unwrap_or_default(), message)
}
