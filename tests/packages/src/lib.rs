//! Roots of real distributions, of which a test changes nothing: what it writes is beside them, to be looked at.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use jiff::Timestamp;
use nap_image_builder::package::{Package, Sources};
use tempfile::TempDir;

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).expect("the crate lies two folders below the workspace")
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// What `packaging/build.sh` built for a processor, as Debian calls it.
pub fn built(architecture: &str) -> PathBuf {
    let folder = target().join("dist").join(architecture);
    assert!(
        folder.join("nap-agent").exists(),
        "{} has no nap-agent: `packaging/build.sh {architecture}` first",
        folder.display()
    );
    folder
}

/// Time of everything in the packages of the tests.
const AT: i64 = 1_764_158_400;

/// The package in a version, with an entry of its own in the changelog.
pub fn package(architecture: &str, version: &str) -> Package {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let changelog = folder.path().join("CHANGELOG.md");
    fs::write(&changelog, format!("## {version} - 2026-11-26\n\n- Made for a test.\n")).expect("it can be written to");
    let description = workspace().join("packaging/package.toml");
    let at = Timestamp::from_second(AT).expect("a time");
    let sources =
        Sources { description: &description, built: &built(architecture), changelog: &changelog, version, at };
    Package::read(&sources).unwrap_or_else(|error| panic!("no package: {error:?}"))
}

/// A root of a distribution, and beside it everything that was changed.
#[derive(Debug)]
pub struct Changed {
    root: PathBuf,
    directory: TempDir,
}

impl Changed {
    /// The root with this name, as setup.sh made it, unchanged.
    pub fn root(name: &str) -> Self {
        let root = fs::canonicalize(target().join("packages").join(name));
        let root = root.unwrap_or_else(|error| panic!("no root {name} ({error}): `tests/packages/setup.sh` first"));
        // An overlay's upper directory must not be on an overlay, which temporary directories may be.
        let directory = tempfile::tempdir_in(target().join("packages")).expect("a directory can be made");
        fs::create_dir(directory.path().join("given")).expect("a directory can be made");
        Self { root, directory }
    }

    /// The folder that is /tmp/given inside.
    pub fn given(&self) -> PathBuf {
        self.directory.path().join("given")
    }

    /// Runs a program inside, which must succeed, and returns what it said.
    pub fn run(&self, command: &[&str]) -> String {
        let output = self.try_run(command);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
        said
    }

    /// Runs a program inside.
    pub fn try_run(&self, command: &[&str]) -> Output {
        let script = workspace().join("tests/packages/in-root.sh");
        let output = Command::new(script).arg(&self.root).arg(self.directory.path()).args(command).output();
        output.expect("the script can be started")
    }

    /// Where the root is while [`Changed::try_run_outside`] runs a program.
    pub fn mounted(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// Runs a program of this machine, which sees the root at [`Changed::mounted`].
    pub fn try_run_outside(&self, command: &[&str]) -> Output {
        let script = workspace().join("tests/packages/on-root.sh");
        let output = Command::new(script).arg(&self.root).arg(self.directory.path()).args(command).output();
        output.expect("the script can be started")
    }

    /// The same with a program that must succeed; returns what it printed.
    pub fn run_outside(&self, command: &[&str]) -> String {
        let output = self.try_run_outside(command);
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command:?}: {}\n{said}{complained}", output.status);
        said.into_owned()
    }

    /// What is other than in the root, a line each: mode, owner, path. What the package managers note for themselves and what is gone
    /// with the next start of a machine is left out.
    pub fn paths(&self) -> Vec<String> {
        let changed = self.directory.path().join("changed");
        let mut found = BTreeMap::new();
        look(&changed, &changed, &self.root, &mut found);
        found.into_values().collect()
    }
}

/// Directories of package managers and of what does not outlive a machine's start.
const OTHERS: &[&str] = &[
    "/etc/dnf",
    "/run",
    "/tmp",
    "/var/cache",
    "/var/lib/apt",
    "/var/lib/dnf",
    "/var/lib/dpkg",
    "/root/.rpmdb",
    "/var/lib/rpm",
    "/var/log",
];

fn look(directory: &Path, changed: &Path, root: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(directory).expect("it can be read").flatten() {
        let path = entry.path();
        let inside = Path::new("/").join(path.strip_prefix(changed).expect("it is below"));
        if OTHERS.iter().any(|other| inside.starts_with(other)) {
            continue;
        }
        let meta = fs::symlink_metadata(&path).expect("it is there");
        let before = fs::symlink_metadata(root.join(inside.strip_prefix("/").expect("it is absolute")));
        let kind = meta.file_type();
        let word = if kind.is_char_device() && meta.rdev() == 0 {
            "gone".to_owned()
        } else if kind.is_symlink() {
            format!("-> {}", fs::read_link(&path).expect("it is a link").display())
        } else {
            format!("{:04o} {}:{}", meta.permissions().mode() & 0o7777, meta.uid(), meta.gid())
        };
        // A directory that was there and only has more in it now.
        let is_as_before = kind.is_dir()
            && before.is_ok_and(|before| before.is_dir() && before.mode() == meta.mode() && before.uid() == meta.uid());
        if !is_as_before {
            let slash = if kind.is_dir() { "/" } else { "" };
            found.insert(path.clone(), format!("{}{slash} {word}", inside.display()));
        }
        if kind.is_dir() {
            look(&path, changed, root, found);
        }
    }
}

/// Holds a text against a golden file; with `NAP_BLESS=1` writes it.
pub fn assert_golden(name: &str, text: &str) {
    let path = workspace().join("tests/packages/golden").join(name);
    if std::env::var_os("NAP_BLESS").is_some() {
        fs::write(&path, text).expect("it can be written to");
    }
    let wanted = fs::read_to_string(&path).unwrap_or_default();
    assert!(wanted == text, "{} says otherwise; it is now:\n{text}", path.display());
}
