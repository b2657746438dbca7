//! What leaves the node: when a boot ends, a stable reason and the forms in which each channel takes it; afterwards, its health.

mod guest_agent;
mod health;
mod kvp;
mod provision;
mod reason;

pub use guest_agent::{EVENTS_DIRECTORY, GuestAgentEvent};
#[cfg(test)]
pub(crate) use health::problems;
pub use health::{AgentSeen, Identity, NodeHealth, health_schema};
pub use kvp::{KVP_KEY, kvp_value};
pub use provision::{ProvisionReport, Timeline};
pub use reason::{Failure, REASONS, Reason, ReasonRow};
