//! Block devices that overlaybd-tcmu serves to streamed images: whether each still gives a sector.
//!
//! A service that dies or hangs leaves whoever reads from them in the kernel for weeks, and us, too, if we asked on the watch's own thread; so one
//! of their own asks, one device after the other, past the page cache. Source of the names: the kernel's drivers/target, `LIO-ORG`;
//! accelerated-container-image, `pkg/snapshot/storage.go`.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::sync::Notify;
use tracing::warn;

use super::aside::Aside;
use crate::observe;
use crate::root::Root;

/// The vendor of every device of the kernel's own SCSI target.
const VENDOR: &str = "LIO-ORG";

/// A sector that has not come for so long is told of.
const TELL_AFTER: Duration = Duration::from_secs(10);

/// Reads past the page cache go to whole, aligned blocks of memory.
#[repr(align(4096))]
struct Block([u8; 4096]);

/// One thread for all of them.
#[derive(Debug)]
pub(super) struct StreamedDevices {
    work: Aside<Result<(), String>>,
    reading: Arc<Mutex<String>>,
}

impl StreamedDevices {
    pub(super) fn start(root: &Arc<Root>, news: &Arc<Notify>) -> Option<Self> {
        let reading = Arc::new(Mutex::new(String::new()));
        let (root, now) = (Arc::clone(root), Arc::clone(&reading));
        let work = Aside::start("streamed-disks", Arc::clone(news), move || read_all(&root, &now));
        let work = work.map_err(|error| warn!(error = %error, "devices of streamed images are not read")).ok()?;
        Some(Self { work, reading })
    }

    pub(super) fn ask(&self) {
        self.work.ask();
    }

    /// What came back since, and what has been away for too long.
    pub(super) fn take(&self) -> Option<Result<(), String>> {
        let away = || self.work.away_for().filter(|away| *away >= TELL_AFTER);
        self.work.take().or_else(|| {
            let away = away()?;
            let name = self.reading.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Some(Err(format!("{name}: no sector in {} s", away.as_secs())))
        })
    }
}

/// The first that gives none is the answer.
fn read_all(root: &Root, reading: &Mutex<String>) -> Result<(), String> {
    for name in root.names("/sys/block").unwrap_or_default() {
        let vendor = root.read_text(&format!("/sys/block/{name}/device/vendor")).ok().flatten().unwrap_or_default();
        if vendor.trim() != VENDOR {
            continue;
        }
        name.clone_into(&mut reading.lock().unwrap_or_else(PoisonError::into_inner));
        match read(root, &name) {
            Ok(()) => {}
            // Its container ended meanwhile.
            Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENXIO | nix::libc::ENODEV)) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{name}: {error}")),
        }
    }
    Ok(())
}

fn read(root: &Root, name: &str) -> io::Result<()> {
    let device = observe::open_disk(root, name).map_err(|error| error.source)?;
    fcntl(&device, FcntlArg::F_SETFL(OFlag::O_DIRECT))?;
    let mut block = Block([0; 4096]);
    device.read_exact_at(&mut block.0, 0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn devices_of_the_kernels_target_are_read_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let put = |path: &str, text: &[u8]| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let read = || read_all(&root, &Mutex::default());
        assert_eq!(read(), Ok(()), "there is none");
        put("sys/block/sda/device/vendor", b"Msft    \n");
        put("dev/sda", b"short");
        put("sys/block/sdc/device/vendor", b"LIO-ORG \n");
        assert_eq!(read(), Ok(()), "it has gone");
        put("dev/sdc", &[1; 8192]);
        assert_eq!(read(), Ok(()));
        put("dev/sdc", b"short");
        assert_eq!(read(), Err("sdc: failed to fill whole buffer".to_owned()));
    }
}
