//! Kubernetes' own words under Kubernetes' own rules.

mod label;
mod quantity;
mod taint;
mod version;

pub use label::{LabelError, LabelKey, LabelValue, NodeName, NodeNameError, Qualified};
pub use quantity::{ByteQuantity, ByteQuantityError};
pub use taint::{Taint, TaintEffect, TaintError, UNREGISTERED};
pub use version::{KubernetesVersion, VersionError};
