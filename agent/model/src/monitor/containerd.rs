//! containerd: down, stopped, crash-looping, hung; and what it says of itself. Facts: catalogue F50 to F53.
//!
//! It has no watchdog, so a hung containerd stays hung. CRI's Version is asked, which needs neither its store nor a shim.

use super::service::{CONTAINERD, Service};
use super::{
    Class, Fault, Monitor, Outcome, Reading, Scope, Seen, Signal, Subsystem, Verdict, degrading, minutes, seconds,
    signal,
};

const CAUSES: &[&str] = &[
    "ContainerdStopped",
    "RootFilesystemReadOnly",
    "RootFilesystemFailing",
    "DataFilesystemReadOnly",
    "DataFilesystemFailing",
    "DiskStalled",
    "DiskFull",
    "PidsExhausted",
];

const fn fatal(reason: &'static str, meaning: &'static str, hint: &'static str) -> Fault {
    Fault {
        reason,
        subsystem: Subsystem::Runtime,
        worst: Verdict::NeedsReplacement,
        scope: Scope::Local,
        persist: minutes(10),
        explained_by: CAUSES,
        meaning,
        hint,
    }
}

static DOWN: Fault = fatal(
    "ContainerdDown",
    "containerd's unit is not running and nobody stopped it.",
    "Look at `systemctl status containerd` and `journalctl -u containerd -n 100`.",
);

static CRASH_LOOPING: Fault = fatal(
    "ContainerdCrashLooping",
    "systemd restarts containerd again and again, and it does not answer in between.",
    "The last lines before each exit say why: `journalctl -u containerd -n 200`.",
);

static UNRESPONSIVE: Fault = fatal(
    "ContainerdUnresponsive",
    "containerd runs and does not answer CRI's Version.",
    "`kill -USR1` on its process writes all stacks to the journal; a restart leaves the pods running.",
);

static STOPPED: Fault = degrading(
    "ContainerdStopped",
    Subsystem::Runtime,
    "Somebody stopped containerd on purpose; it is left so.",
    "`systemctl start containerd` when the work is done.",
);

static NOT_READY: Fault = Fault {
    explained_by: &["ContainerdDown", "ContainerdUnresponsive"],
    ..degrading(
        "RuntimeNotReady",
        Subsystem::Runtime,
        "containerd says of itself that it cannot run pods.",
        "`crictl info` has the condition RuntimeReady and its message.",
    )
};

static CNI_NOT_READY: Fault = Fault {
    explained_by: &["ContainerdDown", "ContainerdUnresponsive"],
    ..degrading(
        "CniNotReady",
        Subsystem::Network,
        "containerd has no pod network.",
        "Look for a configuration in /etc/cni/net.d and at the pods of the network plugin on this node.",
    )
};

static DOWN_UNIT: Signal = signal("unit.state", &DOWN, Class::Kernel, (3, 4), seconds(10), 5);
static DOWN_FAILED: Signal = signal("unit.failed", &DOWN, Class::Kernel, (2, 2), seconds(1), 5);
static DOWN_CONNECT: Signal = signal("cri.connect", &DOWN, Class::Probe, (3, 4), seconds(10), 5);
static STOPPED_UNIT: Signal = signal("unit.state", &STOPPED, Class::Kernel, (3, 4), seconds(10), 2);
static LOOP_RESTARTS: Signal = signal("unit.restarts", &CRASH_LOOPING, Class::Counter, (2, 2), seconds(10), 5);
static LOOP_VERSION: Signal = signal("cri.version", &CRASH_LOOPING, Class::Probe, (3, 4), seconds(10), 5);
static SILENT_VERSION: Signal = signal("cri.version", &UNRESPONSIVE, Class::Probe, (3, 4), seconds(10), 5);
static SILENT_PROCESS: Signal = signal("process.state", &UNRESPONSIVE, Class::Kernel, (3, 3), seconds(10), 3);
static SILENT_CPU: Signal = signal("process.cpu", &UNRESPONSIVE, Class::Counter, (2, 2), seconds(10), 3);
static STATUS_RUNTIME: Signal = signal("cri.status", &NOT_READY, Class::Probe, (3, 3), seconds(30), 3);
static STATUS_NETWORK: Signal = signal("cri.status", &CNI_NOT_READY, Class::Probe, (3, 3), seconds(30), 3);

static SERVICE: Service = Service {
    unit: CONTAINERD,
    answer_limit: seconds(5),
    down: &DOWN_UNIT,
    failed: &DOWN_FAILED,
    refused: &DOWN_CONNECT,
    stopped: &STOPPED_UNIT,
    restarts: &LOOP_RESTARTS,
    unanswered: &LOOP_VERSION,
    silent: &SILENT_VERSION,
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
        &LOOP_VERSION,
        &SILENT_VERSION,
        &SILENT_PROCESS,
        &SILENT_CPU,
        &STATUS_RUNTIME,
        &STATUS_NETWORK,
    ],
    read,
};

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    SERVICE.read(seen, seen.now.runtime.as_ref(), readings);
    for condition in seen.now.runtime_conditions.iter().flatten() {
        let signal = match condition.kind.as_str() {
            "RuntimeReady" => &STATUS_RUNTIME,
            "NetworkReady" => &STATUS_NETWORK,
            _ => continue,
        };
        let outcome = if condition.status {
            Outcome::Good
        } else {
            Outcome::Bad(format!("{}: {}", condition.reason, condition.message))
        };
        readings.push(Reading { signal, target: String::new(), outcome });
    }
}
