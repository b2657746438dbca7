//! Which object or collection a path names.

/// The kinds of object this server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Node,
    Csr,
    Lease,
    /// The core event.
    CoreEvent,
    /// The event of `events.k8s.io`.
    Event,
    SelfSubjectReview,
    TokenReview,
    SubjectAccessReview,
}

struct Row {
    kind: Kind,
    name: &'static str,
    group: &'static str,
    plural: &'static str,
    namespaced: bool,
}

const fn row(kind: Kind, name: &'static str, group: &'static str, plural: &'static str, namespaced: bool) -> Row {
    Row { kind, name, group, plural, namespaced }
}

const KINDS: &[Row] = &[
    row(Kind::Node, "Node", "", "nodes", false),
    row(Kind::Csr, "CertificateSigningRequest", "certificates.k8s.io", "certificatesigningrequests", false),
    row(Kind::Lease, "Lease", "coordination.k8s.io", "leases", true),
    row(Kind::CoreEvent, "Event", "", "events", true),
    row(Kind::Event, "Event", "events.k8s.io", "events", true),
    row(Kind::SelfSubjectReview, "SelfSubjectReview", "authentication.k8s.io", "selfsubjectreviews", false),
    row(Kind::TokenReview, "TokenReview", "authentication.k8s.io", "tokenreviews", false),
    row(Kind::SubjectAccessReview, "SubjectAccessReview", "authorization.k8s.io", "subjectaccessreviews", false),
];

impl Kind {
    /// Whether it is a question, of which nothing is stored.
    pub(crate) fn is_review(self) -> bool {
        matches!(self, Self::SelfSubjectReview | Self::TokenReview | Self::SubjectAccessReview)
    }

    fn row(self) -> &'static Row {
        KINDS.iter().find(|row| row.kind == self).expect("every kind has a row")
    }

    pub(crate) fn name(self) -> &'static str {
        self.row().name
    }

    pub(crate) fn plural(self) -> &'static str {
        self.row().plural
    }

    pub(crate) fn group(self) -> &'static str {
        self.row().group
    }

    pub(crate) fn api_version(self) -> String {
        match self.group() {
            "" => "v1".to_owned(),
            group => format!("{group}/v1"),
        }
    }

    /// `nodes`, or `leases.coordination.k8s.io`.
    pub(crate) fn qualified(self) -> String {
        match self.group() {
            "" => self.plural().to_owned(),
            group => format!("{}.{group}", self.plural()),
        }
    }
}

/// A place below `/api` or `/apis`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) kind: Kind,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl Route {
    /// The place that `path` names; `None` when this server has nothing there.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let mut parts = path.trim_matches('/').split('/').map(str::to_owned);
        let group = match parts.next()?.as_str() {
            "api" => String::new(),
            "apis" => parts.next()?,
            _ => return None,
        };
        if parts.next()? != "v1" {
            return None;
        }
        let mut rest: Vec<String> = parts.collect();
        let namespace = (rest.first().map(String::as_str) == Some("namespaces") && rest.len() > 2).then(|| {
            let namespace = rest.remove(1);
            rest.remove(0);
            namespace
        });
        let mut rest = rest.into_iter();
        let plural = rest.next()?;
        let row = KINDS.iter().find(|row| row.group == group && row.plural == plural)?;
        let (name, subresource) = (rest.next(), rest.next());
        let fits = if row.namespaced { namespace.is_some() || name.is_none() } else { namespace.is_none() };
        (fits && rest.next().is_none()).then_some(Self { kind: row.kind, namespace, name, subresource })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(kind: Kind, parts: [Option<&str>; 3]) -> Option<Route> {
        let [namespace, name, subresource] = parts.map(|part| part.map(str::to_owned));
        Some(Route { kind, namespace, name, subresource })
    }

    #[test]
    fn paths_lead_to_kinds() {
        assert_eq!(Route::parse("/api/v1/nodes"), route(Kind::Node, [None, None, None]));
        assert_eq!(Route::parse("/api/v1/nodes/a/status"), route(Kind::Node, [None, Some("a"), Some("status")]));
        assert_eq!(
            Route::parse("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a"),
            route(Kind::Lease, [Some("kube-node-lease"), Some("a"), None])
        );
        assert_eq!(
            Route::parse("/api/v1/namespaces/default/events"),
            route(Kind::CoreEvent, [Some("default"), None, None])
        );
    }

    #[test]
    fn other_paths_lead_nowhere() {
        let nowhere =
            ["/", "/api/v1/pods", "/api/v1/namespaces/x/nodes", "/api/v2/nodes", "/api/v1/nodes/a/b/c", "/api/v1"];
        for path in nowhere {
            assert_eq!(Route::parse(path), None, "{path}");
        }
    }
}
