//! What a test adds to the image: files, links, units. Written into the VM's own copy of the disk by debugfs, so that a newly
//! built binary costs a second and no new image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::VmError;

/// Files and links to put on a disk, by their absolute path in the guest. All belong to root.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    pub(crate) entries: BTreeMap<String, Addition>,
}

/// One thing to put on the disk.
#[derive(Clone, Debug)]
pub(crate) enum Addition {
    Copy { from: PathBuf, mode: u32 },
    Text { content: Vec<u8>, mode: u32 },
    Link { target: String },
}

impl Overlay {
    /// Nothing added.
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy of a file of this machine.
    #[must_use]
    pub fn file(self, path: &str, from: impl Into<PathBuf>, mode: u32) -> Self {
        self.with(path, Addition::Copy { from: from.into(), mode })
    }

    /// A file with this content.
    #[must_use]
    pub fn text(self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.with(path, Addition::Text { content: content.into(), mode })
    }

    /// A symbolic link.
    #[must_use]
    pub fn link(self, path: &str, target: &str) -> Self {
        self.with(path, Addition::Link { target: target.to_owned() })
    }

    /// A unit file below /usr/lib/systemd/system, enabled as its `WantedBy=` says.
    pub fn enabled_unit(self, from: &Path) -> Result<Self, VmError> {
        let text = std::fs::read_to_string(from).map_err(VmError::file("read the unit", from))?;
        let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let installed = format!("/usr/lib/systemd/system/{name}");
        let mut overlay = self.text(&installed, text.clone(), 0o644);
        for (suffix, target) in wanting_units(&text) {
            overlay = overlay.link(&format!("/etc/systemd/system/{target}.{suffix}/{name}"), &installed);
        }
        Ok(overlay)
    }

    fn with(mut self, path: &str, addition: Addition) -> Self {
        assert!(path.starts_with('/') && !path.contains(' '), "{path} is no path for debugfs");
        self.entries.insert(path.to_owned(), addition);
        self
    }
}

/// `("wants", "multi-user.target")` and the like, from a unit's `[Install]` section.
fn wanting_units(unit: &str) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for line in unit.lines() {
        let (suffix, value) = match line.split_once('=') {
            Some(("WantedBy", value)) => ("wants", value),
            Some(("RequiredBy", value)) => ("requires", value),
            _ => continue,
        };
        found.extend(value.split_whitespace().map(|target| (suffix, target.to_owned())));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::wanting_units;

    #[test]
    fn install_section_says_which_units_want_it() {
        let unit =
            "[Unit]\nWants=a.service\n[Install]\nWantedBy=multi-user.target basic.target\nRequiredBy=b.service\n";
        let wanted = [("wants", "multi-user.target"), ("wants", "basic.target"), ("requires", "b.service")];
        assert_eq!(wanting_units(unit), wanted.map(|(suffix, target)| (suffix, target.to_owned())));
    }
}
