//! Everything the requests of one server share.

use std::sync::{Arc, Mutex};

use rustls::server::danger::ClientCertVerifier;
use serde_json::{Value, json};

use super::authority::Authority;
use super::clock::Clock;
use super::identity::{Credentials, Trust, User, authenticate};
use super::options::{BootstrapToken, CsrPolicy};
use super::route::Kind;
use super::signing::review;
use super::status::ApiError;
use super::store::{Key, Store};
use crate::locked;
use crate::request_log::RequestLog;

/// One pretend cluster.
pub(crate) struct Cluster {
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Clock,
    pub(crate) authority: Authority,
    pub(crate) verifier: Arc<dyn ClientCertVerifier>,
    pub(crate) policy: Mutex<Policy>,
    pub(crate) admin_token: String,
    pub(crate) unavailable: bool,
    pub(crate) anonymous: bool,
    pub(crate) version: String,
    pub(crate) log: RequestLog,
}

/// What may change while the server runs.
pub(crate) struct Policy {
    pub(crate) csr: CsrPolicy,
    pub(crate) tokens: Vec<BootstrapToken>,
    pub(crate) reject_node_creation: bool,
    pub(crate) service_tokens: Vec<ServiceToken>,
}

/// A service account's token for somebody else than the API server.
pub(crate) struct ServiceToken {
    pub(crate) token: String,
    pub(crate) audience: String,
    pub(crate) user: User,
}

impl Cluster {
    pub(crate) fn identify(&self, credentials: &Credentials<'_>) -> Result<User, ApiError> {
        let policy = locked(&self.policy);
        let trust = Trust {
            verifier: self.verifier.as_ref(),
            now: self.clock.unix_time(),
            tokens: &policy.tokens,
            admin_token: &self.admin_token,
            anonymous: self.anonymous,
        };
        authenticate(credentials, &trust)
    }

    pub(crate) fn rejects_nodes(&self) -> bool {
        locked(&self.policy).reject_node_creation
    }

    /// Lets the controllers look at one signing request.
    pub(crate) fn review_request(&self, name: &str) {
        let key = Key { kind: Kind::Csr, namespace: None, name: name.to_owned() };
        let policy = locked(&self.policy).csr;
        let Ok(object) = self.store.get(&key) else { return };
        for version in review(&object, policy, &self.authority, self.clock) {
            let written = self.store.change(&key, |old| {
                let mut new = old.clone();
                new["status"] = version["status"].clone();
                Ok(new)
            });
            written.expect("nobody deletes signing requests");
        }
    }

    /// Lets the controllers look at every signing request again.
    pub(crate) fn review_all_requests(&self) {
        for object in self.store.list(Kind::Csr, None).0 {
            self.review_request(object["metadata"]["name"].as_str().unwrap_or_default());
        }
    }

    pub(crate) fn version_document(&self) -> Value {
        let mut parts = self.version.split('.');
        let mut number = || parts.next().unwrap_or_default().to_owned();
        json!({
            "major": number(), "minor": number(), "gitVersion": format!("v{}", self.version),
            "gitCommit": "0000000000000000000000000000000000000000", "gitTreeState": "clean",
            "buildDate": "2026-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
        })
    }
}
