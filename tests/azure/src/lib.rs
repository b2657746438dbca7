//! A pretend Azure: what is outside a node and that a booting node talks to.
//!
//! * [`Imds`]: the instance metadata service, with every fault seen in the field on demand.
//! * [`Wireserver`]: as much of the host's agent as cloud-init's Azure datasource needs.
//! * [`ApiServer`]: a Kubernetes API server over real TLS with a real certificate authority, for one node's life.
//! * [`BlackHole`]: an address behind a firewall that drops.
//! * [`provisioner::Provisioner`]: Karpenter's rules of node repair, to say what a health document would lead to.
//! * [`OvfDocument`]: the provisioning document on the disc that Azure attaches at first boot.
//!
//! It is small, strict, and knows what it is. Strict: what the real service refuses, this one refuses, with the same
//! status and body shape, so that a client which works here does not fail there. Small: what no client of ours uses
//! is not here, and answers 404 rather than something plausible. Every server runs on tasks of its own on the
//! loopback interface and ends with its handle.

mod api;
mod black_hole;
mod door;
mod imds;
mod ovf;
mod plain_http;
pub mod provisioner;
mod relay;
mod request_log;
mod wireserver;

pub use api::{ApiOptions, ApiServer, ApiStartError, BootstrapToken, ClientIdentity, CsrPolicy, InvalidToken};
pub use black_hole::BlackHole;
pub use door::ListenError;
pub use imds::{
    API_VERSIONS as IMDS_API_VERSIONS, DataDisk, Fault, Imds, ImdsOptions, Instance, Interface, ScheduledEvent,
};
pub use jiff::SignedDuration;
pub use ovf::OvfDocument;
pub use relay::{RelayError, relay};
pub use request_log::{Request, RequestLog, busiest_second};
pub use wireserver::{HealthReport, HealthState, Wireserver};

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The address that stands for "any free port of the loopback interface".
pub const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Locks, also after another holder panicked: a failed assertion in one test task must not hide behind a second panic.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
