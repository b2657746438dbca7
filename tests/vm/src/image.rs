//! The image every VM is a copy of. `image.sh` builds and caches it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::artifacts::target;
use crate::{VmError, program};

/// Time for installing packages and building the image on a slow machine with a slow mirror. 45 s when nothing is cached.
const BUILD_LIMIT: Duration = Duration::from_secs(15 * 60);

/// The Debian 13 image: one ext4 file system without partitions, and the kernel taken out of it.
#[derive(Clone, Debug)]
pub struct Image {
    pub(crate) disk: PathBuf,
    pub(crate) kernel: PathBuf,
}

impl Image {
    /// Installs what is missing on this machine, and builds the image unless it is cached.
    pub fn build() -> Result<Self, VmError> {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = folder();
        program::run::<&str>(&scripts.join("setup.sh"), &[], BUILD_LIMIT)?;
        program::run(&scripts.join("image.sh"), &[&folder], BUILD_LIMIT)?;
        Ok(Self { disk: folder.join("base.raw"), kernel: folder.join("vmlinuz") })
    }

    /// The same with what a program does to its root, which it gets as its last argument. Made anew each time.
    pub fn changed_by(name: &str, program: &Path, arguments: &[&Path]) -> Result<Self, VmError> {
        let image = Self::build()?;
        let folder = folder();
        let all: Vec<&Path> =
            [folder.as_path(), Path::new(name), program].into_iter().chain(arguments.iter().copied()).collect();
        program::run(&Path::new(env!("CARGO_MANIFEST_DIR")).join("image.sh"), &all, BUILD_LIMIT)?;
        Ok(Self { disk: folder.join(format!("{name}.raw")), ..image })
    }
}

/// Where images, disks of VMs and their logs lie.
pub(crate) fn folder() -> PathBuf {
    target().join("vm")
}
