//! The nap-agent binary.
fn main() {}
