//! A Kubernetes API server for the life of one node: token, signing request, certificate, Node, status, Lease, events.
//!
//! TLS and the certificates are real, errors are Kubernetes' Status documents, and who may do what follows the Node
//! authorizer and NodeRestriction. Not here: discovery, other kinds, label selectors, server-side apply, JSON patch,
//! protobuf, HTTP/2, controllers other than the signer (nothing removes a dead node or adds taints), and pagination.
//! `tests/vm/tests/suite/api_contract.rs` holds its answers against those of a real server.

mod access;
mod authority;
mod clock;
mod cluster;
mod connection;
mod identity;
mod managed_fields;
mod merge;
mod node_restriction;
mod objects;
mod options;
mod reviews;
mod route;
mod signing;
mod status;
mod store;
mod tls;
mod validate;
mod watch;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

pub use authority::ClientIdentity;
pub use options::{ApiOptions, BootstrapToken, CsrPolicy, InvalidToken};

use crate::door::{Door, ListenError, Running, Shutter};
use crate::locked;
use crate::request_log::{Request, RequestLog};
use authority::{Authority, CertificateError, Validity};
use clock::Clock;
use cluster::{Cluster, Policy, ServiceToken};
use identity::User;
use merge::strategic_merge;
use route::Kind;
use store::{Key, Store, random_hex};

/// Why an API server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ApiStartError {
    /// The address is not to be had.
    #[error("cannot start the API server")]
    Listen(#[source] ListenError),
    /// A name is neither a DNS name nor an IP address.
    #[error("cannot make the API server's certificates")]
    Certificate(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A running API server.
pub struct ApiServer {
    address: SocketAddr,
    cluster: Arc<Cluster>,
    shutter: Shutter,
    running: Running,
    last_seen: AtomicU64,
}

impl ApiServer {
    /// Makes the authority and the server's certificate, and listens.
    ///
    /// # Errors
    /// When a name in the options cannot be certified or the address cannot be listened on.
    pub async fn start(options: ApiOptions) -> Result<Self, ApiStartError> {
        let door = Door::reserve(options.address).map_err(ApiStartError::Listen)?;
        let address = door.address();
        let (cluster, acceptor) = assemble(options).map_err(|error| ApiStartError::Certificate(error.into()))?;
        let shared = Arc::clone(&cluster);
        let serve = move |stream, _| connection::serve(stream, acceptor.clone(), Arc::clone(&shared));
        let (running, shutter) = door.run(serve).map_err(ApiStartError::Listen)?;
        Ok(Self { address, cluster, shutter, running, last_seen: AtomicU64::new(0) })
    }

    /// `https://` and the address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The authority clients should trust, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> String {
        self.cluster.authority.pem()
    }

    /// A bearer token that may do everything.
    #[must_use]
    pub fn admin_token(&self) -> &str {
        &self.cluster.admin_token
    }

    /// A valid client certificate of a node, as if its signing request had been approved.
    #[must_use]
    pub fn mint_client_certificate(&self, node: &str) -> ClientIdentity {
        self.mint(node, Validity::a_year(self.cluster.clock))
    }

    /// A client certificate of a node with this validity: an expired one, one from the future.
    #[must_use]
    pub fn mint_client_certificate_valid(
        &self,
        node: &str,
        not_before: SystemTime,
        not_after: SystemTime,
    ) -> ClientIdentity {
        self.mint(node, Validity { not_before, not_after })
    }

    fn mint(&self, node: &str, validity: Validity) -> ClientIdentity {
        self.cluster.authority.client_identity(&format!("system:node:{node}"), "system:nodes", validity)
    }

    /// The Nodes, by name.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        self.typed(Kind::Node)
    }

    /// The signing requests, by name.
    #[must_use]
    pub fn csrs(&self) -> Vec<CertificateSigningRequest> {
        self.typed(Kind::Csr)
    }

    /// The Leases, by namespace and name.
    #[must_use]
    pub fn leases(&self) -> Vec<Lease> {
        self.typed(Kind::Lease)
    }

    /// The events of both API groups, as they were sent.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        let of = |kind| self.cluster.store.list(kind, None).0;
        [of(Kind::CoreEvent), of(Kind::Event)].concat()
    }

    fn typed<T: DeserializeOwned>(&self, kind: Kind) -> Vec<T> {
        let decode = |object| serde_json::from_value(object).expect("only decoded objects are stored");
        self.cluster.store.list(kind, None).0.into_iter().map(decode).collect()
    }

    /// Every request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.cluster.log.requests()
    }

    /// The log, to wait on.
    #[must_use]
    pub fn log(&self) -> &RequestLog {
        &self.cluster.log
    }

    /// Waits until a Node has changed since the last call: added, modified or deleted.
    pub async fn node_changed(&self) {
        let mut versions = self.cluster.store.subscribe();
        loop {
            let (changes, version) =
                self.cluster.store.changes_after(Kind::Node, self.last_seen.load(Ordering::Relaxed));
            self.last_seen.store(version, Ordering::Relaxed);
            if !changes.is_empty() {
                return;
            }
            // The store lives in `self`, so its sender cannot be gone.
            let _ = versions.wait_for(|newest| *newest > version).await;
        }
    }

    /// Waits until one of the Nodes is as wanted, and returns it.
    pub async fn node_matching(&self, wanted: impl Fn(&Node) -> bool) -> Node {
        let mut versions = self.cluster.store.subscribe();
        loop {
            versions.mark_unchanged();
            if let Some(node) = self.nodes().into_iter().find(&wanted) {
                return node;
            }
            // The store lives in `self`, so its sender cannot be gone.
            let _ = versions.changed().await;
        }
    }

    /// Deletes a Node, as Karpenter does; whether there was one.
    pub fn delete_node(&self, name: &str) -> bool {
        self.cluster.store.delete(&Key { kind: Kind::Node, namespace: None, name: name.to_owned() }).is_ok()
    }

    /// Another writer, by its field manager, has this condition on a Node; its `$patch` may be `delete`.
    ///
    /// # Panics
    /// When there is no such Node, or the condition is none.
    pub fn set_condition(&self, node: &str, manager: &str, condition: &Value) {
        let key = Key { kind: Kind::Node, namespace: None, name: node.to_owned() };
        let changed = self.cluster.store.change(&key, |old| {
            let mut new = old.clone();
            strategic_merge(&mut new, &json!({"status": {"conditions": [condition]}}))?;
            new["metadata"]["managedFields"] = managed_fields::after(old, &new, manager);
            Ok(new)
        });
        changed.unwrap_or_else(|error| panic!("{condition} of {node}: {error:?}"));
    }

    /// From now on, and for the requests that are pending.
    pub fn set_csr_policy(&self, policy: CsrPolicy) {
        locked(&self.cluster.policy).csr = policy;
        self.cluster.review_all_requests();
    }

    /// Replaces the accepted bootstrap tokens: rotation, expiry.
    pub fn set_bootstrap_tokens(&self, tokens: Vec<BootstrapToken>) {
        locked(&self.cluster.policy).tokens = tokens;
    }

    /// Makes a token that is for this audience alone, of a service account of the namespace `default` in these groups.
    pub fn add_service_token(&self, token: &str, audience: &str, name: &str, groups: &[&str]) {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let user = User { name: format!("system:serviceaccount:default:{name}"), groups };
        let (token, audience) = (token.to_owned(), audience.to_owned());
        locked(&self.cluster.policy).service_tokens.push(ServiceToken { token, audience, user });
    }

    /// Whether creating a Node is refused from now on.
    pub fn set_reject_node_creation(&self, reject: bool) {
        locked(&self.cluster.policy).reject_node_creation = reject;
    }

    /// Refuses connections for a time; those that are open stay open. Returns when the port is closed.
    pub async fn refuse_connections(&self, time: Duration) {
        self.shutter.close_for(time).await;
    }

    /// Listens again at once.
    pub async fn accept_connections(&self) {
        self.shutter.open().await;
    }

    /// Stops and waits until every connection is closed.
    pub async fn stop(self) {
        self.running.stop().await;
    }
}

fn assemble(options: ApiOptions) -> Result<(Arc<Cluster>, TlsAcceptor), CertificateError> {
    let clock = Clock::ahead_by(options.clock_offset);
    let authority = Authority::new("ca", clock)?;
    let foreign = options.foreign_server_certificate.then(|| Authority::new("another-ca", clock)).transpose()?;
    let signer = foreign.as_ref().unwrap_or(&authority);
    let certificate = signer.server_certificate(&options.names, Validity::a_year(clock))?;
    let verifier = tls::client_verifier(authority.der());
    let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(certificate, Arc::clone(&verifier), clock)));
    let policy = Policy {
        csr: options.csr_policy,
        tokens: options.bootstrap_tokens,
        reject_node_creation: options.reject_node_creation,
        service_tokens: Vec::new(),
    };
    let cluster = Cluster {
        store: Arc::new(Store::new(clock)),
        clock,
        authority,
        verifier,
        policy: Mutex::new(policy),
        admin_token: random_hex(16),
        unavailable: options.unavailable,
        anonymous: options.anonymous,
        version: options.kubernetes_version,
        log: options.log,
    };
    Ok((Arc::new(cluster), acceptor))
}
