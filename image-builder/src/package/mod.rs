//! The deb and the rpm, from one description.
//!
//! Both are written here and not by dpkg-deb and rpmbuild: so that the same file makes both on any distribution, nothing of the
//! building machine gets in (names, times, umask), and two builds give the same bytes. dpkg, rpm, lintian and rpmlint say in the
//! tests whether what was written is what they understand.

pub mod changelog;
mod deb;
mod elf;
mod rpm;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use jiff::Timestamp;
use serde::Deserialize;
use thiserror::Error;

use changelog::{ChangelogError, Release};
pub use elf::{Architecture, ElfError, Library, Program};

/// Where the program is in the package; its symbols say what the package needs.
const PROGRAM: &str = "/usr/bin/nap-agent";

/// Why there is no package.
#[derive(Debug, Error)]
pub enum PackageError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The description is not one.
    #[error("{} is no description of a package", path.display())]
    Description {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: toml::de::Error,
    },
    /// A mode is no octal number.
    #[error("{path}: found mode {found:?}, want four octal digits")]
    Mode {
        /// The file in the package.
        path: String,
        /// The mode.
        found: String,
    },
    /// The description has no program at its place.
    #[error("the description has no file {PROGRAM}")]
    NoProgram,
    /// The program is none.
    #[error("{PROGRAM} of the package cannot be used")]
    Program(#[from] ElfError),
    /// A library that we know no package for.
    #[error("the program needs {0}, and no package that has it is known; add it to LIBRARIES")]
    UnknownLibrary(String),
    /// The changelog is not one.
    #[error("the changelog cannot be used")]
    Changelog(#[from] ChangelogError),
    /// The rpm could not be made.
    #[error("cannot make the rpm")]
    Rpm(#[from] ::rpm::Error),
}

/// The description, as its file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    name: String,
    summary: String,
    description: String,
    maintainer: String,
    license: String,
    section: String,
    depends: BTreeMap<String, String>,
    recommends: BTreeMap<String, String>,
    #[serde(rename = "file")]
    files: Vec<FileRow>,
    #[serde(rename = "link", default)]
    links: Vec<LinkRow>,
    scripts: Scripts,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRow {
    path: String,
    from: String,
    #[serde(default)]
    mode: Option<String>,
    #[serde(default)]
    gzip: bool,
    #[serde(default)]
    config: bool,
    #[serde(default)]
    only: Option<Format>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkRow {
    path: String,
    target: String,
}

/// What happens when, without the words of either format.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scripts {
    installed: String,
    upgraded: String,
    removing: String,
    removed: String,
    purged: String,
}

/// A kind of package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Debian, Ubuntu.
    Deb,
    /// Azure Linux.
    Rpm,
}

/// What goes into a package, and where it comes from.
#[derive(Debug)]
pub struct Sources<'a> {
    /// The description; its `from` paths start at the folder above its own.
    pub description: &'a Path,
    /// Folder of what is built: the program, its manual page and completions.
    pub built: &'a Path,
    /// What is new in which version.
    pub changelog: &'a Path,
    /// Version of the package.
    pub version: &'a str,
    /// Time of everything in it: the last commit's, not now.
    pub at: Timestamp,
}

/// One thing that a package installs; all of it is root's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Absolute path.
    pub path: String,
    /// What is there.
    pub what: What,
}

/// A file or a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A regular file.
    File {
        /// Its content.
        bytes: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// The administrator's: an upgrade does not write over what he changed, and a removal leaves it.
        is_config: bool,
    },
    /// A symbolic link.
    Link {
        /// Where it leads.
        target: String,
    },
}

/// A package with all its content, not yet written in either format.
#[derive(Debug)]
pub struct Package {
    description: Description,
    version: String,
    at: Timestamp,
    program: Program,
    releases: Vec<Release>,
    entries: Vec<(Entry, Option<Format>)>,
}

impl Package {
    /// Reads the description and everything that it names.
    ///
    /// # Errors
    /// When one of them is not there or not as it should be.
    pub fn read(sources: &Sources<'_>) -> Result<Self, PackageError> {
        let path = sources.description;
        let description: Description = toml::from_str(&read_text(path)?)
            .map_err(|source| PackageError::Description { path: path.to_owned(), source })?;
        let repository = path.parent().and_then(Path::parent).unwrap_or(Path::new("."));
        let releases = changelog::read(&read_text(sources.changelog)?)?;
        changelog::of(&releases, sources.version)?;
        let mut entries = Vec::new();
        for row in &description.files {
            entries.push((row.entry(repository, sources.built)?, row.only));
        }
        for row in &description.links {
            let what = What::Link { target: row.target.clone() };
            entries.push((Entry { path: row.path.clone(), what }, None));
        }
        let text = changelog::debian(&releases, &description.name, &description.maintainer);
        let path = format!("/usr/share/doc/{}/changelog.gz", description.name);
        let what = What::File { bytes: gzipped(text.as_bytes()), mode: 0o644, is_config: false };
        entries.push((Entry { path, what }, Some(Format::Deb)));
        entries.sort_by(|(one, _), (other, _)| one.path.cmp(&other.path));
        let program = entries.iter().find_map(|(entry, _)| match &entry.what {
            What::File { bytes, .. } if entry.path == PROGRAM => Some(bytes),
            _ => None,
        });
        let program = Program::read(program.ok_or(PackageError::NoProgram)?)?;
        Ok(Self { description, version: sources.version.to_owned(), at: sources.at, program, releases, entries })
    }

    /// What a format's package installs, sorted by path.
    pub fn entries(&self, format: Format) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |(_, only)| only.is_none_or(|only| only == format)).map(|(entry, _)| entry)
    }

    /// The program's processor and libraries.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Writes both packages into a folder and returns their paths.
    ///
    /// # Errors
    /// When one cannot be made or written.
    pub fn write(&self, folder: &Path) -> Result<[PathBuf; 2], PackageError> {
        let (name, version, architecture) = (&self.description.name, &self.version, self.program.architecture);
        let deb = folder.join(format!("{name}_{version}_{}.deb", architecture.deb()));
        let rpm = folder.join(format!("{name}-{version}-{}.{}.rpm", rpm::RELEASE, architecture.rpm()));
        write(&deb, &deb::bytes(self)?)?;
        write(&rpm, &rpm::bytes(self)?)?;
        Ok([deb, rpm])
    }

    /// Every directory above what a format installs, but neither `/` nor `/opt`: dpkg takes away what it was given when it is empty,
    /// and that one is the distribution's.
    fn directories(&self, format: Format) -> Vec<String> {
        let mut directories: Vec<String> = Vec::new();
        for entry in self.entries(format) {
            let above = Path::new(&entry.path)
                .ancestors()
                .skip(1)
                .filter(|path| ![Path::new("/"), Path::new("/opt")].contains(path));
            directories.extend(above.map(|path| path.to_string_lossy().into_owned()));
        }
        directories.sort();
        directories.dedup();
        directories
    }
}

impl FileRow {
    fn entry(&self, repository: &Path, built: &Path) -> Result<Entry, PackageError> {
        let from = match self.from.strip_prefix("built:") {
            Some(name) => built.join(name),
            None => repository.join(&self.from),
        };
        let bytes = std::fs::read(&from).map_err(|source| PackageError::Read { path: from, source })?;
        let mode = match &self.mode {
            None => 0o644,
            Some(digits) => u32::from_str_radix(digits, 8)
                .map_err(|_| PackageError::Mode { path: self.path.clone(), found: digits.clone() })?,
        };
        let bytes = if self.gzip { gzipped(&bytes) } else { bytes };
        Ok(Entry { path: self.path.clone(), what: What::File { bytes, mode, is_config: self.config } })
    }
}

/// A script as the body of a condition.
fn indented(script: &str) -> String {
    script.trim().lines().map(|line| format!("    {line}\n")).collect()
}

/// Compressed without name and time.
fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut writer = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    writer.write_all(bytes).and_then(|()| writer.finish()).expect("memory takes what is written to it")
}

fn read_text(path: &Path) -> Result<String, PackageError> {
    std::fs::read_to_string(path).map_err(|source| PackageError::Read { path: path.to_owned(), source })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), PackageError> {
    std::fs::write(path, bytes).map_err(|source| PackageError::Write { path: path.to_owned(), source })
}
