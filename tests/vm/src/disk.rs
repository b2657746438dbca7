//! A VM's disk as a file of this machine: written before the boot and read after power-off by debugfs, never mounted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::overlay::{Addition, Overlay};
use crate::{VmError, program};

const LIMIT: Duration = Duration::from_secs(120);

/// A raw ext4 image.
#[derive(Clone, Debug)]
pub struct Disk {
    path: PathBuf,
}

/// What a directory of the disk holds under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Kind and permissions, as in `stat`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// In bytes.
    pub size: u64,
}

impl Disk {
    /// Copies the image (its holes stay holes) and writes the overlay into the copy.
    pub(crate) fn create(image: &Path, path: PathBuf, overlay: &Overlay) -> Result<Self, VmError> {
        let arguments = [image.to_string_lossy(), path.to_string_lossy()];
        let copy = ["--sparse=always", "--reflink=auto", &arguments[0], &arguments[1]];
        program::run(Path::new("cp"), &copy, LIMIT)?;
        let disk = Self { path };
        disk.write(overlay)?;
        Ok(disk)
    }

    /// The file that holds the disk.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content of a file. `None`: there is no such file.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, VmError> {
        if self.entry(path)?.is_none() {
            return Ok(None);
        }
        Ok(Some(self.ask(&format!("cat {path}"))?))
    }

    /// Mode, owner and size of what lies at `path`. `None`: nothing does.
    pub fn entry(&self, path: &str) -> Result<Option<Entry>, VmError> {
        let answer = self.ask(&format!("stat {path}"))?;
        Ok(parse_stat(&String::from_utf8_lossy(&answer)))
    }

    /// Copies a folder of the disk, with all below it, into the folder `into` of this machine.
    pub fn extract(&self, path: &str, into: &Path) -> Result<(), VmError> {
        self.ask(&format!("rdump {path} {}", into.display()))?;
        Ok(())
    }

    /// One read-only request to debugfs, and what it printed.
    pub fn ask(&self, request: &str) -> Result<Vec<u8>, VmError> {
        let disk = self.path.to_string_lossy();
        program::run(Path::new("/usr/sbin/debugfs"), &["-R", request, &disk], LIMIT)
    }

    /// Replays the file system's journal. Needed before reading when the VM was killed and not powered off.
    pub fn replay_journal(&self) -> Result<(), VmError> {
        let disk = self.path.to_string_lossy();
        program::run(Path::new("/usr/sbin/e2fsck"), &["-E", "journal_only", "-p", &disk], LIMIT)?;
        Ok(())
    }

    /// Fails when the file system is not sound.
    pub fn check(&self) -> Result<(), VmError> {
        let disk = self.path.to_string_lossy();
        program::run(Path::new("/usr/sbin/e2fsck"), &["-f", "-n", &disk], LIMIT)?;
        Ok(())
    }

    fn write(&self, overlay: &Overlay) -> Result<(), VmError> {
        if overlay.entries.is_empty() {
            return Ok(());
        }
        let scratch = tempfile::tempdir().map_err(VmError::file("create a folder for", &self.path))?;
        let script = scratch.path().join("debugfs");
        std::fs::write(&script, requests(overlay, scratch.path())?).map_err(VmError::file("write", &script))?;
        let arguments = ["-w", "-f", &script.to_string_lossy(), &self.path.to_string_lossy()];
        program::run(Path::new("/usr/sbin/debugfs"), &arguments, LIMIT)?;
        // debugfs exits 0 whatever happened, so the result is looked at.
        overlay.entries.iter().try_for_each(|(path, addition)| self.verify(path, addition))
    }

    fn verify(&self, path: &str, addition: &Addition) -> Result<(), VmError> {
        let wanted = expected(addition)?;
        let found = self.entry(path)?;
        if found.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let (path, wanted, found) = (path.to_owned(), format!("{wanted:?}"), format!("{found:?}"));
        Err(VmError::NotWritten { path, wanted, found })
    }
}

/// The debugfs requests that put an overlay on a disk. Folders that exist already make a harmless complaint.
fn requests(overlay: &Overlay, scratch: &Path) -> Result<String, VmError> {
    let mut script = String::new();
    for (number, (path, addition)) in overlay.entries.iter().enumerate() {
        for folder in folders_above(path) {
            script += &format!("mkdir {folder}\n");
        }
        script += &format!("rm {path}\n");
        match addition {
            Addition::Link { target } => script += &format!("symlink {path} {target}\n"),
            Addition::Copy { from, mode } => script += &copy_requests(from, path, *mode),
            Addition::Text { content, mode } => {
                let from = scratch.join(number.to_string());
                std::fs::write(&from, content).map_err(VmError::file("write", &from))?;
                script += &copy_requests(&from, path, *mode);
            }
        }
    }
    Ok(script)
}

fn copy_requests(from: &Path, path: &str, mode: u32) -> String {
    let (folder, name) = path.rsplit_once('/').expect("a path in an overlay is absolute");
    let mode = 0o100_000 | mode;
    // `write` takes its second argument for a name in the current folder, slashes and all.
    format!(
        "cd {folder}/\nwrite {} {name}\nsif {name} mode 0{mode:o}\nsif {name} uid 0\nsif {name} gid 0\n",
        from.display()
    )
}

fn folders_above(path: &str) -> Vec<&str> {
    path.match_indices('/').skip(1).map(|(end, _)| &path[..end]).collect()
}

fn expected(addition: &Addition) -> Result<Entry, VmError> {
    Ok(match addition {
        Addition::Link { target } => Entry { mode: 0o120_777, uid: 0, size: target.len() as u64 },
        Addition::Text { content, mode } => Entry { mode: 0o100_000 | mode, uid: 0, size: content.len() as u64 },
        Addition::Copy { from, mode } => {
            let metadata = std::fs::metadata(from).map_err(VmError::file("look at", from))?;
            Entry { mode: 0o100_000 | mode, uid: 0, size: metadata.len() }
        }
    })
}

/// Reads `Inode: 12 Type: regular Mode: 0644 … User: 0 … Size: 5` as debugfs prints it over several lines.
fn parse_stat(text: &str) -> Option<Entry> {
    let words: Vec<_> = text.split_whitespace().collect();
    let after = |label: &str| words.iter().position(|word| *word == label).and_then(|at| words.get(at + 1)).copied();
    let kind = match after("Type:")? {
        "regular" => 0o100_000,
        "directory" => 0o040_000,
        "symlink" => 0o120_000,
        _ => 0,
    };
    let permissions = u32::from_str_radix(after("Mode:")?, 8).ok()?;
    Some(Entry { mode: kind | permissions, uid: after("User:")?.parse().ok()?, size: after("Size:")?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::{Entry, folders_above, parse_stat};

    #[test]
    fn every_folder_above_a_file_is_made_first() {
        assert_eq!(folders_above("/opt/bin/kubelet"), ["/opt", "/opt/bin"]);
    }

    #[test]
    fn stat_of_debugfs_is_understood() {
        // debugfs 1.47.0, Debian 12, 2026-11.
        let text = "Inode: 12   Type: regular    Mode:  0755   Flags: 0x80000\nGeneration: 0    Version: 0x00000000\n\
            User:     0   Group:     0   Project:     0   Size: 12345\nFile ACL: 0\n";
        assert_eq!(parse_stat(text), Some(Entry { mode: 0o100_755, uid: 0, size: 12345 }));
        assert_eq!(parse_stat(""), None);
    }
}
