//! A kernel that survived what it should not have. Facts: catalogue F21, F23, F25, F26.
//!
//! The kernel marks itself as tainted, and no text can do that. One signal, so the node is degraded and not more: most kernels with
//! `panic_on_oops` reboot long before anybody reads this.

use super::{Class, Fault, Monitor, Outcome, Reading, Seen, Signal, Subsystem, degrading, seconds, signal};

static OOPS: Fault = degrading(
    "KernelOops",
    Subsystem::Kernel,
    "The kernel had an oops or found a bug in itself, and went on.",
    "`journalctl -k | grep -A30 -E 'BUG:|Oops'`; a reboot clears it.",
);
static BAD_PAGE: Fault = degrading(
    "MemoryCorruption",
    Subsystem::Kernel,
    "The kernel found a page of memory in a state that cannot be.",
    "`journalctl -k | grep 'Bad page'`; a reboot clears it, a second time means bad memory.",
);
static MACHINE_CHECK: Fault = degrading(
    "HardwareError",
    Subsystem::Kernel,
    "The CPU reported a machine check.",
    "`journalctl -k | grep -iE 'mce|Hardware Error'`.",
);
static LOCKUP: Fault = degrading(
    "SoftLockup",
    Subsystem::Kernel,
    "A CPU did not schedule for more than twenty seconds. Common when the hypervisor pauses the VM.",
    "`journalctl -k | grep 'soft lockup'`; it matters when it comes again.",
);

static OOPS_TAINT: Signal = signal("kernel.tainted", &OOPS, Class::Kernel, (2, 2), seconds(5), 1);
static BAD_PAGE_TAINT: Signal = signal("kernel.tainted", &BAD_PAGE, Class::Kernel, (2, 2), seconds(5), 1);
static MACHINE_CHECK_TAINT: Signal = signal("kernel.tainted", &MACHINE_CHECK, Class::Kernel, (2, 2), seconds(5), 1);
static LOCKUP_TAINT: Signal = signal("kernel.tainted", &LOCKUP, Class::Kernel, (2, 2), seconds(5), 1);

/// Bits of `/proc/sys/kernel/tainted`. Source: Documentation/admin-guide/tainted-kernels.rst.
static BITS: [(u32, char, &Signal); 4] =
    [(4, 'M', &MACHINE_CHECK_TAINT), (5, 'B', &BAD_PAGE_TAINT), (7, 'D', &OOPS_TAINT), (14, 'L', &LOCKUP_TAINT)];

pub(super) const MONITOR: Monitor =
    Monitor { signals: &[&OOPS_TAINT, &BAD_PAGE_TAINT, &MACHINE_CHECK_TAINT, &LOCKUP_TAINT], read };

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    let Some(tainted) = seen.now.tainted else { return };
    for &(bit, letter, signal) in &BITS {
        let is_set = tainted & (1 << bit) != 0;
        let outcome = if is_set { Outcome::Bad(format!("the kernel is tainted {letter}")) } else { Outcome::Good };
        readings.push(Reading { signal, target: String::new(), outcome });
    }
}
