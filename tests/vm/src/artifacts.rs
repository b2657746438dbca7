//! Where the things lie that go into a VM: the workspace, and the binaries that `make` built.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::VmError;

/// A binary built beforehand.
pub type Artifact = PathBuf;

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).expect("the crate lies two folders below the workspace")
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The newest build of a binary of the workspace, release or debug; `$NAP_VM_BINARIES` names another folder.
///
/// Errors: [`VmError::NotBuilt`]. Tests do not build binaries of other crates themselves; `make` does.
pub fn artifact(name: &str) -> Result<Artifact, VmError> {
    let folders = match std::env::var_os("NAP_VM_BINARIES") {
        Some(folder) => vec![PathBuf::from(folder)],
        None => vec![target().join("release"), target().join("debug")],
    };
    let looked_in: Vec<_> = folders.iter().map(|folder| folder.join(name)).collect();
    let newest = looked_in.iter().filter_map(|path| Some((built_at(path)?, path))).max();
    match newest {
        Some((_, path)) => Ok(path.clone()),
        None => Err(VmError::NotBuilt { name: name.to_owned(), looked_in }),
    }
}

fn built_at(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}
