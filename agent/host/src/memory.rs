//! Keeps in memory what this process has used once: a watch whose pages must be read again from a disk that hangs cannot tell that it hangs.

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall};

/// Locks every page that this process has touched, and those that it will touch, from then on. What it has never done, a repair for one, may
/// still have to be read first; that happens on threads of their own. To have the whole program in memory would double what the guard holds. Source: mlockall(2), `MCL_ONFAULT`, since Linux 4.4.
///
/// # Errors
/// `EPERM` or `ENOMEM` without the right to lock so much (`LimitMEMLOCK=`).
pub fn lock() -> Result<(), Errno> {
    let once_touched = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | once_touched)
}
