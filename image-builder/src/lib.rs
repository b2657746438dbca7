//! Makes nap-agent's packages, bakes it into an image root, checks images, and builds the image of the VM tests.
//!
//! `image-builder -> {host, model}`: it knows nothing of the daemon, and takes its program as a file. Baking is the model's plan and the
//! host's executor on a mounted image; what the image has is read from its files, and its programs are asked for their versions only in
//! confinement.

pub mod bake;
pub mod check;
pub mod generalize;
pub mod inventory;
pub mod package;
pub mod progress;
pub mod sbom;
pub mod test_image;
