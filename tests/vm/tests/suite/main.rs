//! Tests that need a real machine: a real systemd, a real cloud-init, a real reboot.
//!
//! One binary, because one VM runs at a time anyway, and few boots, because each costs half a minute: a test here is the life of
//! one VM. They take nap-agent and the pretend kubelet as `make` built them.

mod api_contract;
mod azure;
mod boot_fails;
mod chaos;
mod cluster;
mod faults;
mod foreign_disks;
mod guest;
mod local_disks;
mod local_disks_cost;
mod node_boots;
mod node_settings;
mod noise;
mod package_boots;
mod preempt;
mod real_cluster;
mod repairs;
mod resets;
mod rig;
mod secrets;
mod streaming;
mod watch_cost;
