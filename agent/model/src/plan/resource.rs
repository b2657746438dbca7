//! The few resources that a plan is made of.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::disks::Volume;
use crate::secret::MASK;

/// Stages in order; the steps of one stage are independent of each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The stages.
    pub stages: Vec<Stage>,
    /// What a person should know and the machine does not care about.
    pub notes: Vec<String>,
}

impl Plan {
    /// All steps, in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.stages.iter().flat_map(|stage| &stage.steps)
    }
}

/// Steps that may run at the same time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage {
    /// One word for logs.
    pub name: &'static str,
    /// The steps.
    pub steps: Vec<Step>,
}

/// One wanted state of one thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Stable and unique, such as `kubelet.config`.
    pub id: String,
    /// Why the node needs it.
    pub why: &'static str,
    /// Who may do it.
    pub when: When,
    /// Whether the boot fails with it; otherwise the node comes up without it and says so.
    pub essential: bool,
    /// The state.
    pub want: Want,
}

impl Step {
    /// A step that must succeed, at boot.
    pub fn new(id: impl Into<String>, why: &'static str, want: Want) -> Self {
        Self { id: id.into(), why, when: When::Boot, essential: true, want }
    }

    /// The same, and the image builder may already do it.
    pub fn at_bake(mut self) -> Self {
        self.when = When::Bake;
        self
    }

    /// The same, and the node comes up without it if need be.
    pub fn desired(mut self) -> Self {
        self.essential = false;
        self
    }
}

/// When a step can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum When {
    /// When the image is built, or later.
    Bake,
    /// Only on the node.
    Boot,
}

/// A wanted state. The list is closed: whoever adds one answers for it in check, change, diff and golden files.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Want {
    /// A directory, owned by root.
    Directory {
        /// Where.
        path: AbsPath,
        /// Permission bits.
        #[serde(serialize_with = "octal")]
        mode: u32,
    },
    /// A regular file, owned by root.
    File {
        /// Where.
        path: AbsPath,
        /// Permission bits.
        #[serde(serialize_with = "octal")]
        mode: u32,
        /// What is in it.
        content: Content,
    },
    /// No file.
    Absent {
        /// Where.
        path: AbsPath,
    },
    /// A kernel setting.
    Sysctl {
        /// Key with dots.
        key: String,
        /// Value; white space inside counts as one blank.
        value: String,
    },
    /// A choice of the kernel below `/sys`, whose file shows all words and the chosen one in brackets.
    Choice {
        /// Where.
        path: AbsPath,
        /// The word.
        value: String,
    },
    /// Lines of ours in a file that others write to as well.
    Block {
        /// Where.
        path: AbsPath,
        /// At which end of it.
        place: Place,
        /// Permission bits when the file is not there yet; otherwise it keeps its own.
        #[serde(serialize_with = "octal")]
        mode: u32,
        /// The lines, each with its end.
        lines: String,
    },
    /// A file to swap to, with its header; a `.swap` unit puts it to use.
    SwapFile {
        /// Where.
        path: AbsPath,
        /// Size in bytes, a whole number of pages.
        bytes: u64,
    },
    /// A file that is written only where there is none: whoever writes it later has the word.
    FileIfAbsent {
        /// Where.
        path: AbsPath,
        /// Permission bits.
        #[serde(serialize_with = "octal")]
        mode: u32,
        /// What is in it at first.
        content: Content,
    },
    /// A directory that was made as a copy of another.
    Copied {
        /// The other; it may be missing or empty.
        from: AbsPath,
        /// The directory. When it is there it stays as it is.
        to: AbsPath,
        /// Its permission bits.
        #[serde(serialize_with = "octal")]
        mode: u32,
        /// An entry of the other that is left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        without: Option<&'static str>,
        /// A unit that may write to the other, and does not run while it is copied.
        #[serde(skip_serializing_if = "Option::is_none")]
        stopped: Option<&'static str>,
    },
    /// A file system on local disks, whole, with our UUID.
    Volume {
        /// Which.
        volume: Volume,
    },
    /// Certificates in the bundle that the machine's programs trust.
    TrustStore {
        /// The bundle.
        bundle: AbsPath,
        /// The certificates, each one PEM block. They are in files of their own already.
        certificates: Vec<String>,
        /// Program and arguments that make the bundle of the files.
        program: &'static [&'static str],
    },
    /// A key, and a certificate that it has signed itself for these names. Whose they are does not matter, and nobody sees the key.
    SelfSigned {
        /// The certificate, PEM.
        certificate: AbsPath,
        /// The private key, PEM, for root alone.
        key: AbsPath,
        /// Names and addresses, sorted.
        names: Vec<String>,
    },
    /// A user whose password and account never expire.
    NoExpiry {
        /// Its name.
        user: String,
    },
    /// A unit that runs now and at every boot, or neither.
    Enabled {
        /// Its name with suffix.
        name: &'static str,
        /// Whether it runs.
        enabled: bool,
    },
    /// A unit that, if it runs, has read its files.
    Reread {
        /// Its name with suffix.
        name: &'static str,
        /// The files.
        files: Vec<AbsPath>,
    },
    /// A loaded (or built-in) kernel module.
    Module {
        /// Its name, with underscores.
        name: &'static str,
    },
    /// Our table of the packet filter, loaded from the file that another step writes.
    PacketFilter {
        /// The whole text of that file.
        rules: String,
    },
    /// A snapshotter of containerd's kind that answers.
    SnapshotterAnswers {
        /// Its socket.
        socket: AbsPath,
    },
    /// No image of pods in containerd's books without its layers; one that is, is forgotten.
    WholeImages {
        /// containerd's socket.
        socket: AbsPath,
    },
    /// No snapshot in containerd's books that the snapshotter has lost; one that is, is struck out.
    KeptSnapshots {
        /// containerd's socket.
        socket: AbsPath,
        /// The snapshotter's name in containerd.
        snapshotter: &'static str,
    },
    /// The mirror of streamed images, which answers.
    MirrorAnswers {
        /// Its port on loopback.
        port: u16,
    },
    /// Where containerd asks for a registry's images. A file that somebody else wrote stays as it is.
    Hosts {
        /// Where.
        path: AbsPath,
        /// What is in it; absent when there is to be none of ours, and none of others that names the mirror.
        content: Option<String>,
        /// What names the mirror in a file of others, which is then set aside and comes back with the mirror.
        mirror: String,
    },
    /// A systemd unit that runs with these inputs.
    Unit {
        /// Its name with suffix.
        name: &'static str,
        /// Digest of everything it reads at start; when it differs from the running unit's, the unit is restarted.
        inputs: Digest,
        /// How far it must have come.
        readiness: Readiness,
    },
}

/// An end of a file: where its readers take the word that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// Before all other lines.
    Top,
    /// After all other lines.
    Bottom,
}

/// How far a unit must have come for its step to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Readiness {
    /// systemd says active.
    Active,
    /// systemd has started it; what comes after is watched elsewhere.
    Started,
    /// It has run to its end, and well.
    Done {
        /// Longest run, by its own unit.
        within: Duration,
    },
}

fn octal<S: Serializer>(mode: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{mode:04o}"))
}

/// The bytes of a file, and whether they may be seen.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    text: String,
    secret: bool,
}

impl Content {
    /// A text that may be seen.
    pub fn public(text: impl Into<String>) -> Self {
        Self { text: text.into(), secret: false }
    }

    /// A text that must not be seen.
    pub fn secret(text: impl Into<String>) -> Self {
        Self { text: text.into(), secret: true }
    }

    /// The bytes, for the one place that writes them.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Whether they must not be seen.
    pub fn is_secret(&self) -> bool {
        self.secret
    }

    /// The text, or that there is one.
    pub fn shown(&self) -> String {
        if self.secret { format!("{MASK} ({} bytes)\n", self.text.len()) } else { self.text.clone() }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown())
    }
}

/// SHA-256 of what a unit reads, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    /// The digest of files, by path and content.
    pub fn of_files<'s>(steps: impl IntoIterator<Item = &'s Step>) -> Self {
        let mut hash = Sha256::new();
        for step in steps {
            let (path, text) = match &step.want {
                Want::File { path, content, .. } => (path, Cow::Borrowed(content.reveal())),
                Want::Block { path, lines, .. } => (path, Cow::Borrowed(lines.as_str())),
                // Its bytes are not planned; for which names it is, is.
                Want::SelfSigned { certificate, names, .. } => (certificate, Cow::Owned(names.join(" "))),
                _ => continue,
            };
            hash.update(path.as_str());
            hash.update([0]);
            hash.update(text.as_bytes());
            hash.update([0]);
        }
        Self::finish(hash)
    }

    /// The digest of byte strings, each by length and content, in this order.
    pub fn of_parts(parts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            let part = part.as_ref();
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self::finish(hash)
    }

    fn finish(hash: Sha256) -> Self {
        Self(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An absolute path without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct AbsPath(String);

/// Why a text is no such path.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("an absolute path without . and ..")]
pub struct AbsPathError;

impl TryFrom<&str> for AbsPath {
    type Error = AbsPathError;

    fn try_from(text: &str) -> Result<Self, AbsPathError> {
        let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
        let holds = text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain));
        if holds { Ok(Self(text.to_owned())) } else { Err(AbsPathError) }
    }
}

impl AbsPath {
    /// A path written in this program.
    pub fn literal(text: &'static str) -> Self {
        Self::try_from(text).expect("paths in this program are absolute: the golden plans contain each of them")
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AbsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A directory, owned by root.
pub(super) fn directory(path: &'static str, mode: u32) -> Want {
    Want::Directory { path: AbsPath::literal(path), mode }
}

/// A file that everybody may read.
pub(super) fn public_file(path: &'static str, text: impl Into<String>) -> Want {
    Want::File { path: AbsPath::literal(path), mode: 0o644, content: Content::public(text) }
}

/// A file that only root may read, and whose content is not shown.
pub(super) fn secret_file(path: &'static str, text: impl Into<String>) -> Want {
    Want::File { path: AbsPath::literal(path), mode: 0o600, content: Content::secret(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_cannot_climb() {
        for bad in ["", "a", "/", "/a/../b", "/a//b", "/./a", "/a/"] {
            assert_eq!(AbsPath::try_from(bad), Err(AbsPathError), "{bad}");
        }
        assert_eq!(AbsPath::try_from("/etc/x").unwrap().as_str(), "/etc/x");
    }

    #[test]
    fn a_secret_content_is_never_shown() {
        let want = secret_file("/x", "sesame");
        assert!(!format!("{want:?} {}", serde_json::to_string(&want).unwrap()).contains("sesame"));
    }
}
