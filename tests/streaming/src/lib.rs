//! What the tests of artifact streaming have around a real containerd: a snapshotter and a registry of ours, and a client in kubelet's
//! place. HTTP/2 is hyper's and the messages are prost's; there is no code generator.

pub mod containerd;
pub mod cri;
pub mod grpc;
pub mod registry;
pub mod snapshotter;
