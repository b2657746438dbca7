//! The provisioning disc that Azure inserts at first boot.
//!
//! Only optical drives are ever mounted (SCSI type 5, read from sysfs), read-only and without devices, programs or set-uid bits.

use nap_model::config::ovf::{self, OvfEnvironment};
use nap_model::plan::AbsPath;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use thiserror::Error;

use crate::root::{FileError, Root};

const MOUNT_POINT: &str = "/run/nap-agent/ovf";

/// SCSI peripheral device type of CD-ROMs. Source: `TYPE_ROM`, include/scsi/scsi_proto.h.
const TYPE_ROM: &str = "5";

/// Why the disc gave no document.
#[derive(Debug, Error)]
pub enum MediaError {
    /// There is no optical drive.
    #[error("no optical drive")]
    NoDrive,
    /// The drive is empty, or what is in it has no file system we read.
    #[error("cannot mount {device} read-only")]
    Mount {
        /// The drive.
        device: String,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The disc has no `ovf-env.xml`.
    #[error("{device} has no ovf-env.xml")]
    NoDocument {
        /// The drive.
        device: String,
    },
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The document is broken.
    #[error(transparent)]
    Ovf(#[from] ovf::OvfError),
}

/// Reads the disc's document.
///
/// # Errors
/// When there is no drive, no disc, or no good document.
pub fn read(root: &Root) -> Result<OvfEnvironment, MediaError> {
    let mut last = MediaError::NoDrive;
    for name in root.names("/sys/block")? {
        let kind = root.read_text(&format!("/sys/block/{name}/device/type"))?;
        if kind.as_deref() != Some(TYPE_ROM) {
            continue;
        }
        match read_drive(root, &format!("/dev/{name}")) {
            Ok(found) => return Ok(found),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn read_drive(root: &Root, device: &str) -> Result<OvfEnvironment, MediaError> {
    root.make_directory(&AbsPath::literal(MOUNT_POINT), 0o700)?;
    let mount_point = root.outside(MOUNT_POINT);
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let try_mount = |kind: &str| mount(Some(device), &mount_point, Some(kind), flags, None::<&str>);
    let mounted = try_mount("udf").or_else(|_| try_mount("iso9660"));
    mounted.map_err(|source| MediaError::Mount { device: device.to_owned(), source })?;
    let document = root.read(&format!("{MOUNT_POINT}/ovf-env.xml"));
    // A drive that stays mounted could not be ejected; lazily, so that this cannot fail for a reader that is still there.
    let _ = umount2(&mount_point, MntFlags::MNT_DETACH);
    match document? {
        Some(xml) => Ok(ovf::parse(&xml)?),
        None => Err(MediaError::NoDocument { device: device.to_owned() }),
    }
}
