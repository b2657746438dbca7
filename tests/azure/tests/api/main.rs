//! What a node relies on in a Kubernetes API server, with kube as the client.

mod access;
mod client;
mod failures;
mod registration;
mod writes;
