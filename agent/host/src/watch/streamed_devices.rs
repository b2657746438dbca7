//! Block devices that overlaybd-tcmu serves to streamed images: whether each still gives a sector.
//!
//! A service that dies or hangs leaves whoever reads from them in the kernel for weeks, and us, too, if we asked on the watch's own thread; so one
//! of their own asks, one device after the other, past the page cache. Source: the kernel's drivers/target/loopback/tcm_loop.c;
//! accelerated-container-image, `pkg/snapshot/storage.go`. One that hangs for ever keeps this process's sockets and locks when the process is killed: then only a
//! reboot helps.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nap_model::monitor::Space;
use nap_model::plan::AbsPath;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::sync::Notify;
use tracing::warn;

use super::aside::Aside;
use super::filesystems::space;
use crate::observe;
use crate::root::Root;

/// The name of the kernel's own SCSI target where it is on this machine; a target elsewhere has the vendor, too.
const HOST: &str = "tcm_loopback";

/// Where the services keep what they have read of images.
const CACHES: &str = "/opt/overlaybd";

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
    caches: Arc<Mutex<Option<Space>>>,
}

impl StreamedDevices {
    pub(super) fn start(root: &Arc<Root>, news: &Arc<Notify>) -> Option<Self> {
        let reading = Arc::new(Mutex::new(String::new()));
        let caches = Arc::new(Mutex::new(None));
        let (root, now, room) = (Arc::clone(root), Arc::clone(&reading), Arc::clone(&caches));
        let work = Aside::start("streamed-disks", Arc::clone(news), move || {
            let directory = root.open_for_reading(CACHES).ok().flatten();
            *locked(&room) = directory.and_then(space);
            read_all(&root, &now)
        });
        let work = work.map_err(|error| warn!(error = %error, "devices of streamed images are not read")).ok()?;
        Some(Self { work, reading, caches })
    }

    pub(super) fn ask(&self) {
        self.work.ask();
    }

    /// What came back since, and what has been away for too long.
    pub(super) fn take(&self) -> Option<Result<(), String>> {
        let away = || self.work.away_for().filter(|away| *away >= TELL_AFTER);
        self.work.take().or_else(|| {
            let away = away()?;
            let name = locked(&self.reading).clone();
            Some(Err(format!("{name}: no sector in {} s", away.as_secs())))
        })
    }

    /// What is left for the caches, once for each look.
    pub(super) fn take_caches(&self) -> Option<Space> {
        locked(&self.caches).take()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a device is served on this machine: `/sys/block/sdc/device` leads to `7:0:1:0` of host 7.
fn is_served_here(root: &Root, name: &str) -> bool {
    let device = AbsPath::try_from(format!("/sys/block/{name}/device").as_str()).ok();
    let address = device.and_then(|device| root.link(&device).ok());
    let host = address.as_deref().and_then(|address| address.rsplit('/').next()?.split(':').next());
    let names = |host| root.read_text(&format!("/sys/class/scsi_host/host{host}/proc_name")).ok().flatten();
    host.and_then(names).is_some_and(|name| name.trim() == HOST)
}

/// The first that gives none is the answer.
fn read_all(root: &Root, reading: &Mutex<String>) -> Result<(), String> {
    for name in root.names("/sys/block").unwrap_or_default() {
        if !is_served_here(root, &name) {
            continue;
        }
        name.clone_into(&mut locked(reading));
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
        let device = |name: &str, address: &str| {
            fs::create_dir_all(directory.path().join(format!("sys/block/{name}"))).unwrap();
            let link = directory.path().join(format!("sys/block/{name}/device"));
            std::os::unix::fs::symlink(format!("../../../{address}"), link).unwrap();
        };
        put("sys/class/scsi_host/host1/proc_name", b"storvsc_host\n");
        put("sys/class/scsi_host/host7/proc_name", b"tcm_loopback\n");
        device("sda", "1:0:0:0");
        put("dev/sda", b"short");
        device("sdc", "7:0:1:0");
        assert_eq!(read(), Ok(()), "it has gone");
        put("dev/sdc", &[1; 8192]);
        assert_eq!(read(), Ok(()));
        put("dev/sdc", b"short");
        assert_eq!(read(), Err("sdc: failed to fill whole buffer".to_owned()));
    }
}
