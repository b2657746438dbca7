//! Bakes nap-agent into an image root and checks images.
//!
//! This room is empty on purpose: its door is the [`bake_steps`] of a plan, which the image builder will apply to a mounted image
//! with the same executor that boots a node.

use nap_model::plan::{Plan, Step, When};

/// The steps of a plan that may be done when the image is built.
pub fn bake_steps(plan: &Plan) -> impl Iterator<Item = &Step> {
    plan.steps().filter(|step| step.when == When::Bake)
}
