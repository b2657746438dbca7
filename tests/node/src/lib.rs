//! A small, strict stand-in for systemd, below a root directory.
//!
//! It does only what nap-agent and its tests need, and where it does something it does it as systemd does, errors included.
//! [`systemd::contract`] is the proof: the same checks run against the stand-in here and against the real one in the VM.

pub mod systemd;
