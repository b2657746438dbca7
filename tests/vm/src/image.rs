//! The image every VM is a copy of. `nap-image-builder test-image` builds and caches it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::artifacts::target;
use crate::{VmError, artifact, program};

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
        build("base", &[])
    }

    /// The same with a kubelet and a package installed, as an image pipeline makes it; baked, checked and generalized, too, when it is so
    /// wanted. Made anew each time.
    pub fn with_package(name: &str, kubelet: &Path, deb: &Path, is_baked: bool) -> Result<Self, VmError> {
        let mut arguments: Vec<&OsStr> = ["--name", name, "--kubelet"].map(OsStr::new).to_vec();
        arguments.extend([kubelet.as_os_str(), OsStr::new("--deb"), deb.as_os_str()]);
        if is_baked {
            arguments.push(OsStr::new("--bake"));
        }
        build(name, &arguments)
    }
}

fn build(name: &str, more: &[&OsStr]) -> Result<Image, VmError> {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR"));
    program::run::<&str>(&scripts.join("setup.sh"), &[], BUILD_LIMIT)?;
    let mirror = program::run::<&str>(&scripts.join("mirror.sh"), &[], BUILD_LIMIT)?;
    let mirror = String::from_utf8_lossy(&mirror);
    let (recipe, folder) = (scripts.join("image"), folder());
    let mut arguments: Vec<&OsStr> = vec![OsStr::new("test-image"), OsStr::new("--recipe"), recipe.as_os_str()];
    arguments.extend([OsStr::new("--mirror"), OsStr::new(mirror.trim()), OsStr::new("--out"), folder.as_os_str()]);
    arguments.extend(more);
    program::run(&artifact("nap-image-builder")?, &arguments, BUILD_LIMIT)?;
    Ok(Image { disk: folder.join(format!("{name}.raw")), kernel: folder.join("vmlinuz") })
}

/// Where images, disks of VMs and their logs lie.
pub(crate) fn folder() -> PathBuf {
    target().join("vm")
}
