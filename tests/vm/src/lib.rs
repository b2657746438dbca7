//! A real VM for the tests of nap-agent: Debian 13 in QEMU (software emulation) on a pretend Azure.
//!
//! [`Image::build`] makes the disk image once and caches it. [`Vm::start`] boots a copy of it, with what the test adds in an
//! [`Overlay`] (nap-agent, kubelet, units), custom data on a [`ProvisioningDisc`], and [`Forward`]s from the addresses a node
//! on Azure talks to (IMDS, wireserver, API server) to servers of the test on this machine's loopback.
//!
//! Everything the VM says arrives as an event: the console on QEMU's standard output, the root shell and the monitor on unix
//! sockets that QEMU connects to. So nothing here sleeps; every wait has a time limit.
//! One VM runs at a time on a machine (a file lock): two at once on two cores are slower than one after the other.

mod artifacts;
mod console;
mod disk;
mod error;
mod image;
mod lines;
mod media;
mod monitor;
mod overlay;
mod program;
mod qemu;
mod search;
mod shell;
mod vm;

pub use artifacts::{Artifact, artifact, target, workspace};
pub use disk::{Disk, Entry};
pub use error::VmError;
pub use image::Image;
pub use media::ProvisioningDisc;
pub use overlay::Overlay;
pub use qemu::{Bus, DataDisk, Forward, GUEST_ADDRESS, GUEST_MAC, OS_DISK, VmOptions};
pub use search::{Finding, Needle, found_in, needles};
pub use shell::Output;
pub use vm::{Stopped, Vm, VmLock};
