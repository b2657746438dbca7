//! Who is asking: a client certificate, else a bearer token, else nobody. A credential that is presented and wrong is
//! 401 everywhere; it never falls back to anonymous.

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;

use super::options::BootstrapToken;
use super::status::ApiError;

/// An authenticated user, or `system:anonymous`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
}

impl User {
    fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        Self { name: name.into(), groups: groups.iter().map(|&group| group.to_owned()).collect() }
    }

    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|known| known == group)
    }

    /// The node's name, when this is a node.
    pub(crate) fn node(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|_| self.is_in("system:nodes"))
    }
}

/// What a client presents.
pub(crate) struct Credentials<'a> {
    pub(crate) certificates: &'a [CertificateDer<'static>],
    pub(crate) authorization: Option<&'a str>,
}

/// What the server compares it with.
pub(crate) struct Trust<'a> {
    pub(crate) verifier: &'a dyn ClientCertVerifier,
    pub(crate) now: UnixTime,
    pub(crate) tokens: &'a [BootstrapToken],
    pub(crate) admin_token: &'a str,
    pub(crate) anonymous: bool,
}

/// The user behind the credentials.
pub(crate) fn authenticate(credentials: &Credentials<'_>, trust: &Trust<'_>) -> Result<User, ApiError> {
    let by_certificate = credentials.certificates.split_first().map(|(leaf, chain)| by_certificate(leaf, chain, trust));
    let by_token = credentials.authorization.and_then(bearer).map(|token| by_token(token, trust));
    match (by_certificate.flatten(), by_token.flatten()) {
        (Some(user), _) | (None, Some(user)) => Ok(user),
        (None, None) => {
            let presented = !credentials.certificates.is_empty() || credentials.authorization.is_some();
            if presented || !trust.anonymous {
                return Err(ApiError::unauthorized());
            }
            Ok(User::new("system:anonymous", &["system:unauthenticated"]))
        }
    }
}

fn by_certificate(leaf: &CertificateDer<'_>, chain: &[CertificateDer<'_>], trust: &Trust<'_>) -> Option<User> {
    trust.verifier.verify_client_cert(leaf, chain, trust.now).ok()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    let mut user = User::new(name, &[]);
    let organizations = parsed.subject().iter_organization().filter_map(|part| part.as_str().ok());
    user.groups = organizations.map(str::to_owned).collect();
    user.groups.push("system:authenticated".to_owned());
    Some(user)
}

fn by_token(token: &str, trust: &Trust<'_>) -> Option<User> {
    if token == trust.admin_token {
        return Some(User::new("pretend-azure:admin", &["system:masters", "system:authenticated"]));
    }
    let known = trust.tokens.iter().find(|known| known.matches(token))?;
    let name = format!("system:bootstrap:{}", known.id());
    Some(User::new(name, &["system:bootstrappers", "system:authenticated"]))
}

fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
