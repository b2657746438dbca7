//! kubelet: down, stopped, crash-looping, hung. Facts: catalogue F65 to F67.
//!
//! AKS restarts a kubelet for ever every 2 s, so its unit never fails: the restarts are counted. From 1.32 on systemd's own watchdog
//! kills a hung kubelet after a minute; what hangs for ten has outlived that.

use super::service::{KUBELET, Service};
use super::{Class, Fault, Monitor, Scope, Signal, Subsystem, Verdict, degrading, minutes, seconds, signal};

/// What makes a kubelet fail that is itself in order.
const CAUSES: &[&str] = &[
    "KubeletStopped",
    "ContainerdDown",
    "ContainerdStopped",
    "ContainerdCrashLooping",
    "ContainerdUnresponsive",
    "RootFilesystemReadOnly",
    "RootFilesystemFailing",
    "DataFilesystemReadOnly",
    "DataFilesystemFailing",
    "DiskStalled",
    "DiskFull",
    "PidsExhausted",
    "ClientCertificateExpired",
];

const fn fatal(reason: &'static str, meaning: &'static str, hint: &'static str) -> Fault {
    Fault {
        reason,
        subsystem: Subsystem::Kubelet,
        worst: Verdict::NeedsReplacement,
        scope: Scope::Local,
        persist: minutes(10),
        explained_by: CAUSES,
        meaning,
        hint,
    }
}

static DOWN: Fault = fatal(
    "KubeletDown",
    "kubelet's unit is not running and nobody stopped it.",
    "Look at `systemctl status kubelet` and `journalctl -u kubelet -n 100`.",
);

static CRASH_LOOPING: Fault = fatal(
    "KubeletCrashLooping",
    "systemd restarts kubelet again and again, and it does not answer in between.",
    "The last lines before each exit say why: `journalctl -u kubelet -n 200`.",
);

static UNRESPONSIVE: Fault = fatal(
    "KubeletUnresponsive",
    "kubelet runs and its /healthz does not answer well.",
    "Look at `curl -m 5 127.0.0.1:10248/healthz`; `kill -ABRT` on its process writes all stacks to the journal.",
);

static STOPPED: Fault = degrading(
    "KubeletStopped",
    Subsystem::Kubelet,
    "Somebody stopped kubelet on purpose; it is left so.",
    "`systemctl start kubelet` when the work is done.",
);

static DOWN_UNIT: Signal = signal("unit.state", &DOWN, Class::Kernel, (3, 4), seconds(10), 5);
static DOWN_FAILED: Signal = signal("unit.failed", &DOWN, Class::Kernel, (2, 2), seconds(1), 5);
static DOWN_CONNECT: Signal = signal("healthz.connect", &DOWN, Class::Probe, (3, 4), seconds(10), 5);
static STOPPED_UNIT: Signal = signal("unit.state", &STOPPED, Class::Kernel, (3, 4), seconds(10), 2);
static LOOP_RESTARTS: Signal = signal("unit.restarts", &CRASH_LOOPING, Class::Counter, (2, 2), seconds(10), 5);
static LOOP_HEALTHZ: Signal = signal("healthz.answer", &CRASH_LOOPING, Class::Probe, (3, 4), seconds(10), 5);
static SILENT_HEALTHZ: Signal = signal("healthz.answer", &UNRESPONSIVE, Class::Probe, (3, 4), seconds(10), 5);
static SILENT_PROCESS: Signal = signal("process.state", &UNRESPONSIVE, Class::Kernel, (3, 3), seconds(10), 3);
static SILENT_CPU: Signal = signal("process.cpu", &UNRESPONSIVE, Class::Counter, (2, 2), seconds(10), 3);

static SERVICE: Service = Service {
    unit: KUBELET,
    answer_limit: seconds(3),
    down: &DOWN_UNIT,
    failed: &DOWN_FAILED,
    refused: &DOWN_CONNECT,
    stopped: &STOPPED_UNIT,
    restarts: &LOOP_RESTARTS,
    unanswered: &LOOP_HEALTHZ,
    silent: &SILENT_HEALTHZ,
    halted: &SILENT_PROCESS,
    idle: &SILENT_CPU,
};

pub(super) const MONITOR: Monitor = Monitor {
    signals: &[
        &DOWN_UNIT,
        &DOWN_FAILED,
        &DOWN_CONNECT,
        &STOPPED_UNIT,
        &LOOP_RESTARTS,
        &LOOP_HEALTHZ,
        &SILENT_HEALTHZ,
        &SILENT_PROCESS,
        &SILENT_CPU,
    ],
    read: |seen, readings| SERVICE.read(seen, seen.now.kubelet.as_ref(), readings),
};
