//! Local disks that were unmounted under a running node: mounted again, unless that takes more away than it brings back.
//!
//! With its mount a directory shows what the OS disk has below it, which is what the image had: containerd misses its images, kubelet its pods.
//! What was open stays open, so pods go on for a while, and mounting again puts the same file system back under them. But what was written
//! to the OS disk meanwhile would be hidden by it; then only a boot, which mounts before anything runs, brings the node back. And who stopped
//! kubelet or containerd before he unmounted is at work on this machine.

use std::sync::Arc;
use std::time::Duration;

use nap_host::root::Root;
use nap_host::units::Units;
use nap_host::{chain, covered};
use nap_model::monitor::{CONTAINERD, KUBELET};
use nap_model::plan::{DISKS_READY, KUBELET_KEYS, KUBELET_MOUNT, MOUNTED, disk_units};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

/// Longest restart of kubelet: systemd gives it 90 s to end.
const RESTART_LIMIT: Duration = Duration::from_secs(120);

/// Whether what those steps mount may be mounted again; why not.
pub(crate) async fn may_mount(root: &Arc<Root>, differing: &[&str]) -> Result<(), String> {
    let is_missing = |unit: &str| differing.iter().any(|step| step.strip_prefix(MOUNTED) == Some(unit));
    let missing: Vec<_> = disk_units().filter(|(unit, _)| is_missing(unit)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let units = Units::connect(root).await.map_err(|error| chain(&error))?;
    for unit in [KUBELET, CONTAINERD] {
        let status = units.status(unit).await.map_err(|error| chain(&error))?;
        if status.is_stopped_on_purpose() {
            return Err(format!("{unit} was stopped on purpose, so whoever unmounted it is at work here"));
        }
    }
    let root = Arc::clone(root);
    let looked = spawn_blocking(move || {
        // What lies in another one that is missing comes with that.
        let is_inner = |at: &str| {
            missing.iter().any(|(_, other)| at.strip_prefix(other).is_some_and(|rest| rest.starts_with('/')))
        };
        for (unit, at) in missing.iter().filter(|(_, at)| !is_inner(at)) {
            // kubelet's keys are on the OS disk, mounted or not.
            let keys = if *unit == KUBELET_MOUNT { KUBELET_KEYS } else { "" };
            match covered::changed_since(&root, at, DISKS_READY, keys) {
                Ok(None) => {}
                Ok(Some(changed)) => {
                    return Err(format!(
                        "{changed} was written without it, and mounting would hide that; a reboot mounts it"
                    ));
                }
                Err(error) => return Err(chain(&error)),
            }
        }
        Ok(())
    });
    looked.await.map_err(|error| error.to_string())?
}

/// kubelet takes in its pods' directories, and mounts what it had mounted there, only when it starts.
pub(crate) async fn have_remounted(root: &Root, repaired: &[String]) {
    if !repaired.iter().any(|step| step.strip_prefix(MOUNTED) == Some(KUBELET_MOUNT)) {
        return;
    }
    let restarted = async { Units::connect(root).await?.revive(KUBELET, RESTART_LIMIT).await };
    match restarted.await {
        Ok(()) => info!("kubelet restarted: its directory was put back"),
        Err(error) => warn!(error = chain(&error), "kubelet does not restart after its directory was put back"),
    }
}
