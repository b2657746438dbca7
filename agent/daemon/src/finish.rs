//! How a boot's end leaves the node: `provision.json` and its marker, the journal, the serial console.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nap_host::root::Root;
use nap_host::units::Units;
use nap_host::{chain, channels, cmd, observe, persist};
use nap_model::report::{Failure, GuestAgentEvent, KVP_KEY, ProvisionReport, Timeline, kvp_value};
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

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
            console_summary(failure)
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
    report.notes = progress.notes();
    report.warnings = progress.warnings();
    if let Err(error) = persist::write_report(root, &report) {
        error!(error = chain(&error), "cannot write the report");
    }
    to_host(root, progress, &outcome);
    outcome.err().map_or(0, |failure| failure.reason.exit_code())
}

/// Most lines of a failure on the console: two for what and what to do, the others for what was seen.
const CONSOLE_LINES: usize = 10;

/// Ten lines at most, each of them one line: Azure shows the end of the console as boot diagnostics.
fn console_summary(failure: &Failure) -> String {
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut lines = vec![format!("nap-agent: BOOT FAILED {}", one_line(&failure.to_string()))];
    let seen = failure.evidence.iter().take(CONSOLE_LINES - 2);
    lines.extend(seen.map(|seen| format!("nap-agent:   seen: {}", one_line(seen))));
    lines.push(format!("nap-agent:   do: {}", failure.reason.row().hint));
    lines.join("\n") + "\n"
}

/// The guest agent and Hyper-V take the outcome out of the VM, whatever its network does.
fn to_host(root: &Root, progress: &Progress, outcome: &Result<Booted, Failure>) {
    let end = Timestamp::now();
    let start = end - SignedDuration::try_from(progress.elapsed()).unwrap_or_default();
    let mut events = stage_events(progress, start);
    let text = format!("the node has registered after {:.1} s", progress.elapsed().as_secs_f32());
    events.push(GuestAgentEvent::new("boot", start, end, outcome.as_ref().map(|_| text.as_str())));
    if let Err(error) = channels::write_events(root, &events) {
        warn!(error = chain(&error), "no events for the guest agent");
    }
    let vm_id = observe::dmi(root).map(|dmi| dmi.vm_id()).unwrap_or_default();
    let agent = concat!("nap-agent/", env!("CARGO_PKG_VERSION"));
    let value = kvp_value(outcome.as_ref().map(|_| ()), agent, &vm_id, end);
    if let Err(error) = channels::set_kvp(root, KVP_KEY, &value) {
        warn!(error = chain(&error), "no key-value pair for the host");
    }
}

fn stage_events(progress: &Progress, start: Timestamp) -> Vec<GuestAgentEvent> {
    let mut at = start;
    let stages = progress.stage_times();
    stages
        .iter()
        .map(|(stage, milliseconds)| {
            let began = at;
            at += SignedDuration::from_millis(milliseconds.parse().unwrap_or_default());
            GuestAgentEvent::new(&format!("boot.{stage}"), began, at, Ok(&format!("{stage} in {milliseconds} ms")))
        })
        .collect()
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
