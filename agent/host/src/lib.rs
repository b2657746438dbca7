//! Touches the machine: files below a root, kernel settings, units, programs, IMDS, the API server.
//!
//! The only crate with effects. What to do is decided in `nap-model`; here it is done, one kind of thing a file.

pub mod alone;
pub mod api;
mod block;
pub mod bundle;
pub mod channels;
pub mod checkpoint;
pub mod cmd;
pub mod conditions;
pub mod confined;
pub mod executor;
mod expiry;
mod free_space;
mod grpc;
mod hosts;
pub mod images;
pub mod imds;
pub mod journal;
mod kernel;
pub mod local_dns;
pub mod logs;
pub mod media;
pub mod memory;
pub mod mirror;
mod netlink;
pub mod node_events;
pub mod notify;
mod nvme;
pub mod observe;
pub mod packet_filter;
pub mod persist;
pub mod private_socket;
pub mod pull;
pub mod random;
pub mod reboot;
pub mod repairs;
pub mod reviews;
pub mod root;
mod routes;
mod serving_certificate;
pub mod snapshotter;
pub mod sources;
mod swap;
mod tree;
mod trust_store;
pub mod units;
mod volume;
pub mod wait;
pub mod watch;

/// The error and everything beneath it, joined by `: `, as logs and reports show it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        // Some libraries repeat their cause in their own message.
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}
