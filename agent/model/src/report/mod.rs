//! What leaves the node when a boot ends: a stable reason, and `provision.json` as support tooling knows it.

mod provision;
mod reason;

pub use provision::{ProvisionReport, Timeline};
pub use reason::{Failure, REASONS, Reason, ReasonRow};
