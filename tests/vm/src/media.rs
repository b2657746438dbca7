//! The provisioning disc: what Azure attaches to a new VM as a virtual DVD, with the custom data in `ovf-env.xml`.

use std::path::Path;
use std::time::Duration;

use crate::{VmError, program};

const LIMIT: Duration = Duration::from_secs(30);

/// The disc.
#[derive(Clone, Debug)]
pub struct ProvisioningDisc {
    /// The content of `ovf-env.xml`.
    pub ovf: String,
}

impl ProvisioningDisc {
    /// Writes the disc image (UDF, with Azure's volume name) to `path`.
    pub(crate) fn write(&self, path: &Path) -> Result<(), VmError> {
        let folder = tempfile::tempdir().map_err(VmError::file("create a folder beside", path))?;
        let document = folder.path().join("ovf-env.xml");
        std::fs::write(&document, &self.ovf).map_err(VmError::file("write", &document))?;
        let path = path.to_string_lossy();
        let source = folder.path().to_string_lossy();
        let arguments = ["-quiet", "-V", "rd_rdfe_stable.1", "-J", "-R", "-udf", "-o", &path, &source];
        program::run(Path::new("genisoimage"), &arguments, LIMIT)?;
        Ok(())
    }
}
