//! The boot: a node that will never join says so before anybody waits fifteen minutes for it.
//!
//! A boot that failed of this machine's own doing ends here. One that the world held up may still come: the guard completes it when the
//! node registers late.

use super::{
    BootSeen, Class, Fault, Monitor, Outcome, Reading, Scope, Seen, Signal, Subsystem, Verdict, minutes, seconds,
    signal,
};
use crate::report::{REASONS, Reason};

static FAILED: Fault = Fault {
    reason: "BootFailed",
    subsystem: Subsystem::Bootstrap,
    worst: Verdict::NeedsReplacement,
    scope: Scope::Local,
    persist: minutes(1),
    explained_by: &[],
    meaning: "The boot failed of this machine's own doing; the node will never join.",
    hint: "`nap-agent status` has the boot's reason; `nap-agent reasons` what to do about it.",
};

static HELD_UP: Fault = Fault {
    reason: "BootHeldUp",
    subsystem: Subsystem::Bootstrap,
    worst: Verdict::Degraded,
    scope: Scope::Upstream,
    persist: minutes(0),
    explained_by: &[],
    meaning: "The boot failed because something outside this machine did not answer; the node may still join.",
    hint: "`nap-agent status` has the boot's reason; another node of this pool would fare the same.",
};

static FAILED_REPORT: Signal = Signal {
    is_authoritative: true,
    is_immediate: true,
    ..signal("boot.report", &FAILED, Class::Probe, (1, 1), seconds(1), 1)
};
static HELD_UP_REPORT: Signal =
    Signal { is_immediate: true, ..signal("boot.report", &HELD_UP, Class::Probe, (1, 1), seconds(1), 1) };

pub(super) const MONITOR: Monitor = Monitor { signals: &[&FAILED_REPORT, &HELD_UP_REPORT], read };

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    let Some(boot) = &seen.now.boot else { return };
    let (failed, held_up) = match boot {
        BootSeen::Running | BootSeen::Done => (Outcome::Good, Outcome::Good),
        // A reason that a newer agent wrote is not held against the node.
        BootSeen::Failed(reason) => match REASONS.iter().find(|row| format!("{}", row.reason) == *reason) {
            Some(row) if is_local(row.reason) => (Outcome::Bad(reason.clone()), Outcome::Good),
            _ => (Outcome::Good, Outcome::Bad(reason.clone())),
        },
    };
    readings.push(Reading { signal: &FAILED_REPORT, target: String::new(), outcome: failed });
    readings.push(Reading { signal: &HELD_UP_REPORT, target: String::new(), outcome: held_up });
}

/// Whether a boot that failed so can never come to a good end here.
fn is_local(reason: Reason) -> bool {
    match reason {
        Reason::CustomDataMissing
        | Reason::CustomDataUnreadable
        | Reason::ConfigInvalid
        | Reason::BootstrapCredentialMissing
        | Reason::KubeletBinaryMissing
        | Reason::ContainerdBinaryMissing
        | Reason::ImageLacksKubernetesVersion
        | Reason::ImageLacksProgram
        | Reason::ImageLacksCniPlugin
        | Reason::OsUnsupported
        | Reason::StepFailed
        | Reason::TrustStoreFailed
        | Reason::ContainerdUnhealthy
        | Reason::SystemdUnreachable
        | Reason::BootstrapTokenRejected
        | Reason::KubeletStartFailed => true,
        Reason::ImdsUnreachable
        | Reason::ApiServerDnsFailed
        | Reason::ApiServerUnreachable
        | Reason::ApiServerUntrusted
        | Reason::ApiServerUnhealthy
        | Reason::ClockSkewed
        | Reason::KubeletUnhealthy
        | Reason::ClientCertificateNotIssued
        | Reason::NodeNotRegistered
        | Reason::BootDeadlineExceeded => false,
    }
}
