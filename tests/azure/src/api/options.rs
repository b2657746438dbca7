//! How an API server is asked to behave.

use std::fmt;
use std::net::SocketAddr;

use jiff::SignedDuration;

use crate::ANY_PORT;
use crate::request_log::RequestLog;

/// What to listen on, whom to trust, and what to do wrong on purpose.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// Where to listen; port 0 picks a free port.
    pub address: SocketAddr,
    /// DNS names and IP addresses in the server's certificate, and no others.
    pub names: Vec<String>,
    /// Tokens of the group `system:bootstrappers`.
    pub bootstrap_tokens: Vec<BootstrapToken>,
    /// How far this server's clock is ahead of the machine's. Affects the `Date` header, the validity of every
    /// certificate, time stamps of objects, and the judgement of client certificates.
    pub clock_offset: SignedDuration,
    /// Present a server certificate of another authority than the one in [`crate::ApiServer::ca_pem`].
    pub foreign_server_certificate: bool,
    /// What happens to a node's certificate signing request.
    pub csr_policy: CsrPolicy,
    /// Refuse to create Nodes, as an admission webhook does.
    pub reject_node_creation: bool,
    /// Answer everything with 503, as a server does whose storage is away.
    pub unavailable: bool,
    /// Let anonymous clients read `/version` and the health endpoints; otherwise they get 401.
    pub anonymous: bool,
    /// The version to claim, without `v`.
    pub kubernetes_version: String,
    /// Where requests are noted.
    pub log: RequestLog,
}

impl Default for ApiOptions {
    fn default() -> Self {
        Self {
            address: ANY_PORT,
            names: vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
            bootstrap_tokens: Vec::new(),
            clock_offset: SignedDuration::ZERO,
            foreign_server_certificate: false,
            csr_policy: CsrPolicy::Approve,
            reject_node_creation: false,
            unavailable: false,
            anonymous: true,
            kubernetes_version: "1.36.2".to_owned(),
            log: RequestLog::default(),
        }
    }
}

/// What the approving and signing controllers do with a request they recognise. What they do not recognise stays
/// pending under every policy, as in a real cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CsrPolicy {
    /// Approve and sign at once.
    Approve,
    /// Leave it pending.
    Never,
    /// Deny it.
    Deny,
}

/// A bootstrap token, `id.secret`.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken(String);

/// Why a text is no bootstrap token. Does not repeat the text, which may be a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a bootstrap token is six, a dot, and sixteen characters of a-z and 0-9")]
pub struct InvalidToken;

impl BootstrapToken {
    /// The public half, part of the user's name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0[..6]
    }

    pub(crate) fn matches(&self, token: &str) -> bool {
        self.0 == token
    }
}

impl TryFrom<&str> for BootstrapToken {
    type Error = InvalidToken;

    fn try_from(text: &str) -> Result<Self, InvalidToken> {
        let plain = |part: &str, length| {
            part.len() == length && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        match text.split_once('.') {
            Some((id, secret)) if plain(id, 6) && plain(secret, 16) => Ok(Self(text.to_owned())),
            _ => Err(InvalidToken),
        }
    }
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.***", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_an_id_and_hides_its_secret() {
        let token = BootstrapToken::try_from("abcdef.0123456789abcdef").unwrap();
        assert_eq!(format!("{token:?}"), "abcdef.***");
        for wrong in ["", "abcdef", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcde"] {
            assert_eq!(BootstrapToken::try_from(wrong), Err(InvalidToken), "{wrong}");
        }
    }
}
