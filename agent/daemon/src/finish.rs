//! How a boot's end leaves the node: `provision.json` and its marker, the journal, the serial console.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nap_host::root::Root;
use nap_host::units::Units;
use nap_host::{chain, cmd, observe, persist};
use nap_model::report::{Failure, ProvisionReport, Timeline};
use tokio::time::timeout;
use tracing::{debug, error, info};

use crate::boot::Booted;
use crate::logging::{OUTCOME, Tail};
use crate::progress::Progress;

/// Units whose start the report has a key for.
const UNITS: &[&str] = &[
    "cloud-init-local.service",
    "cloud-init.service",
    "cloud-final.service",
    "systemd-networkd.service",
    "walinuxagent.service",
    "kubelet.service",
];

/// Writes the report and says on every channel how the boot ended. Returns the exit code.
pub(crate) async fn finish(root: &Root, progress: &Progress, tail: &Tail, outcome: Result<Booted, Failure>) -> u8 {
    let outcome = outcome.map_err(|failure| progress.scrub_failure(failure));
    let line = match &outcome {
        Ok(booted) => {
            let seconds = progress.elapsed().as_secs_f32();
            info!(
                target: OUTCOME,
                took_ms = progress.elapsed().as_millis(),
                changed = booted.changed,
                in_sync = booted.in_sync,
                degraded = booted.degraded,
                cpu_ms = cmd::cpu_time().as_millis(),
                programs_started = cmd::programs_started(),
                "boot done: the node has registered after {seconds:.1} s"
            );
            format!("nap-agent: the node has registered after {seconds:.1} s\n")
        }
        Err(failure) => {
            let (reason, exit_code) = (failure.reason, failure.reason.exit_code());
            error!(target: OUTCOME, %reason, step = failure.step, exit_code, "boot failed: {failure}");
            for seen in &failure.evidence {
                error!("seen: {seen}");
            }
            let evidence: String =
                failure.evidence.iter().take(8).map(|seen| format!("nap-agent:   seen: {seen}\n")).collect();
            format!("nap-agent: BOOT FAILED {failure}\n{evidence}nap-agent:   do: {}\n", failure.reason.row().hint)
        }
    };
    to_console(root, &line);
    let mut report = ProvisionReport::new(
        outcome.as_ref().map(|_| ()),
        &timeline(root, progress).await,
        &progress.scrub(&tail.text()),
    );
    report.boot_id = observe::boot_id(root).unwrap_or_default();
    report.stages = progress.stage_times();
    if let Err(error) = persist::write_report(root, &report) {
        error!(error = chain(&error), "cannot write the report");
    }
    outcome.err().map_or(0, |failure| failure.reason.exit_code())
}

/// The console outlives the network and the disk, and Azure shows it as boot diagnostics.
fn to_console(root: &Root, text: &str) {
    if let Err(error) = root.write_to_device("/dev/console", text) {
        // Containers and scratch roots have none.
        info!(error = chain(&error), "no console");
    }
}

async fn timeline(root: &Root, progress: &Progress) -> Timeline {
    let now = Timestamp::now();
    let elapsed = SignedDuration::try_from(progress.elapsed()).unwrap_or_default();
    Timeline {
        kernel: kernel_start(root, now).map(|at| at.to_string()).unwrap_or_default(),
        boot: (now - elapsed).to_string(),
        units: unit_starts(root).await,
        seconds: progress.elapsed().as_secs().to_string(),
    }
}

fn kernel_start(root: &Root, now: Timestamp) -> Option<Timestamp> {
    let uptime = root.read_text("/proc/uptime").ok()??;
    let seconds: f64 = uptime.split(' ').next()?.parse().ok()?;
    now.checked_sub(SignedDuration::try_from_secs_f64(seconds).ok()?).ok()
}

/// The report does not wait for a systemd that hangs.
const UNIT_TIMES_LIMIT: Duration = Duration::from_secs(5);

async fn unit_starts(root: &Root) -> Vec<(String, String)> {
    timeout(UNIT_TIMES_LIMIT, ask_unit_starts(root)).await.unwrap_or_default()
}

async fn ask_unit_starts(root: &Root) -> Vec<(String, String)> {
    let Ok(units) = Units::connect(root).await else { return Vec::new() };
    let mut starts = Vec::new();
    for name in UNITS {
        match units.started_at(name).await {
            Ok(Some(at)) => starts.push(((*name).to_owned(), at.to_string())),
            Ok(None) => {}
            Err(error) => debug!(unit = name, error = chain(&error), "no start time for the report"),
        }
    }
    starts
}
