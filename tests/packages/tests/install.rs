//! The packages in real roots, from the first installation to the purge.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use nap_packages::{Changed, assert_golden, built, package, target, workspace};
use rpm::{Dependency, PackageBuilder};
use tempfile::TempDir;

/// The administrator's file.
const SETTINGS: &str = "/etc/nap-agent/nap-agent.toml";

/// What an administrator does to it.
const BY_HAND: &str = "echo '# by hand' >>/etc/nap-agent/nap-agent.toml";

/// Units that the package, the program or its preset has a word about.
const UNITS: [&str; 2] = ["nap-boot.service", "nap-agent.service"];

/// The deb and the rpm of an older and a newer version; making them takes seconds.
fn versions() -> [&'static [PathBuf; 2]; 2] {
    static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
    static OLD: LazyLock<[PathBuf; 2]> = LazyLock::new(|| package("amd64", "0.0.9").write(FOLDER.path()).unwrap());
    static NEW: LazyLock<[PathBuf; 2]> = LazyLock::new(|| package("amd64", "0.1.0").write(FOLDER.path()).unwrap());
    [&OLD, &NEW]
}

fn chapter(text: &mut String, title: &str, root: &Changed) {
    writeln!(text, "# {title}").unwrap();
    root.paths().iter().for_each(|line| writeln!(text, "{line}").unwrap());
    for unit in UNITS {
        let output = root.try_run(&["systemctl", "is-enabled", unit]);
        let said = String::from_utf8_lossy(if output.stdout.is_empty() { &output.stderr } else { &output.stdout });
        // Debian 12 and 13 have different words for a unit that is not there.
        let state = if said.contains("No such file") { "not-found" } else { said.trim() };
        writeln!(text, "{unit} is {state}").unwrap();
    }
    text.push('\n');
}

fn deb_lives(root: &str) {
    let changed = Changed::root(root);
    let [before, now] = versions().map(|[deb, _]| {
        let name = deb.file_name().unwrap();
        std::fs::copy(deb, changed.given().join(name)).unwrap();
        format!("/tmp/given/{}", name.to_string_lossy())
    });
    let mut text = String::new();
    let apt = |arguments: &[&str]| changed.run(&[&["apt-get", "--quiet", "--yes"], arguments].concat());
    apt(&["install", &before]);
    let version = concat!("nap-agent ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(changed.run(&["nap-agent", "--version"]), version, "it starts with this distribution's libraries");
    chapter(&mut text, "installed", &changed);
    let installed = changed.paths();
    changed.run(&["systemctl", "disable", "nap-agent.service"]);
    changed.run(&["sh", "-c", BY_HAND]);
    apt(&["install", &now]);
    assert_eq!(changed.run(&["tail", "-n", "1", SETTINGS]), "# by hand\n", "what the administrator changed stays");
    let packaged = fs::read(workspace().join("packaging/nap-agent.toml")).unwrap();
    fs::write(changed.given().join("nap-agent.toml"), packaged).unwrap();
    changed.run(&["cp", "/tmp/given/nap-agent.toml", SETTINGS]);
    chapter(&mut text, "upgraded, nap-agent.service was disabled by hand", &changed);
    assert_eq!(changed.run(&["dpkg", "--verify", "nap-agent"]), "", "dpkg finds every file as it was packaged");
    apt(&["remove", "nap-agent"]);
    chapter(&mut text, "removed", &changed);
    apt(&["install", &now]);
    assert_eq!(changed.paths(), installed, "installed again after a removal, it is as after the first time");
    changed.run(&["sh", "-c", "mkdir -p /etc/nap-agent /etc/kubernetes && echo {} >/etc/nap-agent/image.json && touch /etc/kubernetes/ours /var/lib/nap-agent/journal.jsonl"]);
    apt(&["purge", "nap-agent"]);
    chapter(&mut text, "purged; /etc/kubernetes/ours is the node's", &changed);
    assert_golden(&format!("{root}.txt"), &text);
}

#[test]
fn the_deb_on_debian_12() {
    deb_lives("debian-12");
}

#[test]
fn the_deb_on_debian_13() {
    deb_lives("debian-13");
}

/// Versions of what the base image of Azure Linux 3 has, for dnf, which installs nothing whose needs are not met.
const AZURE_LINUX_3: [(&str, &str); 2] = [("systemd", "255"), ("kmod", "30")];
const GLIBC: &[&str] = &["2.2.5", "2.3", "2.3.2", "2.3.3", "2.3.4"];
const NEWEST_GLIBC: u32 = 38;
const OTHER_SYMBOLS: [(&str, &[&str]); 2] = [
    ("libgcc_s.so.1", &["GCC_3.0", "GCC_3.3", "GCC_4.2.0", "GCC_13.0.0"]),
    ("libsystemd.so.0", &["LIBSYSTEMD_209", "LIBSYSTEMD_219", "LIBSYSTEMD_255"]),
];

/// An rpm without files that provides what that base image does.
fn base_image(folder: &Path) -> PathBuf {
    let mut base = PackageBuilder::new("base-image", "3.0", "MIT", "x86_64", "Stands for the packages of a base image");
    base.provides(Dependency::any("/bin/sh"));
    for (name, version) in AZURE_LINUX_3 {
        base.provides(Dependency::eq(name, version));
    }
    let later = (4..=NEWEST_GLIBC).map(|minor| format!("2.{minor}"));
    let glibc: Vec<String> = GLIBC.iter().map(|version| (*version).to_owned()).chain(later).collect();
    for library in ["libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"] {
        base.provides(Dependency::any(format!("{library}()(64bit)")));
        for version in &glibc {
            base.provides(Dependency::any(format!("{library}(GLIBC_{version})(64bit)")));
        }
    }
    for (library, versions) in OTHER_SYMBOLS {
        base.provides(Dependency::any(format!("{library}()(64bit)")));
        for version in versions {
            base.provides(Dependency::any(format!("{library}({version})(64bit)")));
        }
    }
    let path = folder.join("base-image.rpm");
    base.build().unwrap().write_file(&path).unwrap();
    path
}

/// A program that installs, upgrades and removes rpms below a root.
trait Installer {
    fn install(&self, root: &Changed, rpm: &str);
    fn upgrade(&self, root: &Changed, rpm: &str);
    fn remove(&self, root: &Changed, name: &str);
}

struct Rpm;

impl Rpm {
    /// Nothing is there that could provide what the package requires. HOME, as in some of Debian's rpms the database is there.
    fn run(root: &Changed, arguments: &[&str]) -> String {
        let mounted = root.mounted().to_string_lossy().into_owned();
        root.run_outside(&[&["env", "HOME=/root", "rpm", "--root", &mounted, "--nodeps"], arguments].concat())
    }
}

impl Installer for Rpm {
    fn install(&self, root: &Changed, rpm: &str) {
        Self::run(root, &["--install", rpm]);
    }

    fn upgrade(&self, root: &Changed, rpm: &str) {
        Self::run(root, &["--upgrade", rpm]);
    }

    fn remove(&self, root: &Changed, name: &str) {
        Self::run(root, &["--erase", name]);
    }
}

struct Dnf {
    folder: TempDir,
}

impl Dnf {
    /// dnf with no repository: all that it may install is named.
    fn run(root: &Changed, arguments: &[&str]) -> Output {
        let mounted = format!("--installroot={}", root.mounted().display());
        let alone = ["--setopt=reposdir=/nonexistent", "--noplugins", "--releasever=3", "--assumeyes", &mounted];
        root.try_run_outside(&[&["env", "HOME=/root", "dnf"], &alone[..], arguments].concat())
    }

    fn must(root: &Changed, arguments: &[&str]) {
        let output = Self::run(root, arguments);
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "dnf {arguments:?}: {}", String::from_utf8_lossy(&said));
    }
}

impl Installer for Dnf {
    fn install(&self, root: &Changed, rpm: &str) {
        let alone = Self::run(root, &["install", rpm]);
        let said = String::from_utf8_lossy(&alone.stderr).into_owned();
        assert!(!alone.status.success() && said.contains("nothing provides libsystemd.so.0"), "{said}");
        let base = base_image(self.folder.path());
        Self::must(root, &["install", &base.to_string_lossy(), rpm]);
    }

    fn upgrade(&self, root: &Changed, rpm: &str) {
        Self::must(root, &["upgrade", rpm]);
    }

    fn remove(&self, root: &Changed, name: &str) {
        Self::must(root, &["remove", name]);
    }
}

/// The rpm in a root that is Debian's, where systemd's programs and a shell are: files and scripts are tried for real.
fn rpm_lives(installer: &impl Installer) {
    let changed = Changed::root("debian-13");
    let [before, now] = versions().map(|[_, rpm]| rpm.to_string_lossy().into_owned());
    let mut text = String::new();
    installer.install(&changed, &before);
    chapter(&mut text, "installed", &changed);
    changed.run(&["systemctl", "disable", "nap-agent.service"]);
    changed.run(&["sh", "-c", BY_HAND]);
    installer.upgrade(&changed, &now);
    chapter(&mut text, "upgraded, nap-agent.service was disabled by hand", &changed);
    assert_eq!(changed.run(&["tail", "-n", "1", SETTINGS]), "# by hand\n", "what the administrator changed stays");
    let verified = Rpm::run(&changed, &["--verify", "--noconfig", "nap-agent"]);
    assert_eq!(verified, "", "rpm finds every file but the administrator's as it was packaged");
    installer.remove(&changed, "nap-agent");
    chapter(&mut text, "removed", &changed);
    for query in ["--requires", "--recommends", "--provides", "--scripts", "--configfiles"] {
        let output = Command::new("rpm").args(["--query", "--package", query, &now]).output().unwrap();
        writeln!(text, "# {query}\n{}", String::from_utf8_lossy(&output.stdout)).unwrap();
    }
    assert_golden("rpm.txt", &text);
}

#[test]
fn the_rpm_by_rpm() {
    rpm_lives(&Rpm);
}

#[test]
fn the_rpm_by_dnf() {
    rpm_lives(&Dnf { folder: tempfile::tempdir().unwrap() });
}

/// Two copies of the tree as two machines have them: in other folders, with other modes, in another time zone.
#[test]
fn packages_and_sbom_of_a_tree_in_two_directories_are_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] =
        [("one", 0o644, "UTC"), ("another, longer/place", 0o600, "Pacific/Auckland")].map(|(name, mode, zone)| {
            let tree = folder.path().join(name);
            copy_tree(&tree, mode);
            made_in(&tree, zone)
        });
    assert_eq!(
        one.keys().collect::<Vec<_>>(),
        ["nap-agent-0.1.0-1.x86_64.rpm", "nap-agent.cdx.json", "nap-agent_0.1.0_amd64.deb"]
    );
    for (name, bytes) in &one {
        assert!(other.get(name) == Some(bytes), "{name} differs");
    }
}

/// What git knows of, as it is now, and what build.sh built; with this mode where it is no program.
fn copy_tree(to: &Path, mode: u32) {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(workspace())
        .output()
        .unwrap();
    let tracked = String::from_utf8(output.stdout).unwrap();
    let mut files: Vec<(PathBuf, PathBuf)> = tracked
        .split_terminator('\0')
        .map(|name| (workspace().join(name), to.join(name)))
        .filter(|(from, _)| from.exists())
        .collect();
    files.extend(
        fs::read_dir(built("amd64"))
            .unwrap()
            .flatten()
            .map(|entry| (entry.path(), to.join("built").join(entry.file_name()))),
    );
    // A small program: bytes are bytes, and a debug build compresses the real one for ten seconds.
    files.retain(|(_, to)| !to.ends_with("built/nap-agent.debug"));
    files.iter_mut().filter(|(_, to)| to.ends_with("built/nap-agent")).for_each(|(from, _)| *from = "/bin/true".into());
    for (from, to) in files {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&from, &to).unwrap();
        fs::set_permissions(&to, Permissions::from_mode(mode)).unwrap();
    }
}

/// The packages and the SBOM, by name, made as release.sh does it.
fn made_in(tree: &Path, zone: &str) -> BTreeMap<String, Vec<u8>> {
    let builder = target().join("debug/nap-image-builder");
    let out = tree.join("out");
    fs::create_dir(&out).unwrap();
    let run = |program: &Path, arguments: &[&str], stdin: Stdio| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(tree).env("TZ", zone).env("SOURCE_DATE_EPOCH", "1764158400").stdin(stdin);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    run(&builder, &["package", "--built", "built", "--out", "out"], Stdio::null());
    let metadata = [
        "metadata",
        "--quiet",
        "--locked",
        "--offline",
        "--format-version=1",
        "--filter-platform=x86_64-unknown-linux-gnu",
    ];
    let metadata = run(Path::new("cargo"), &metadata, Stdio::null());
    fs::write(tree.join("metadata"), metadata).unwrap();
    let sbom = run(&builder, &["sbom"], fs::File::open(tree.join("metadata")).unwrap().into());
    fs::write(out.join("nap-agent.cdx.json"), sbom).unwrap();
    fs::read_dir(out)
        .unwrap()
        .flatten()
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

/// Debian 12 is where it is built, and Ubuntu 22.04 is where it has to start.
#[test]
fn the_program_starts_with_the_libraries_of_ubuntu_22_04() {
    const UBUNTU_22_04: &[(&str, &str, &str)] = &[
        ("libc.so.6", "GLIBC_", "2.35"),
        ("libgcc_s.so.1", "GCC_", "12.0.0"),
        ("libsystemd.so.0", "LIBSYSTEMD_", "249"),
    ];
    let package = package("amd64", "0.1.0");
    let numbers = |version: &str| version.split('.').map(|part| part.parse().unwrap()).collect::<Vec<u32>>();
    for library in &package.program().libraries {
        let row = UBUNTU_22_04.iter().find(|(name, ..)| *name == library.name);
        let Some((_, prefix, has)) = row else {
            assert!(
                library.name.starts_with("ld-linux-") || library.name == "libm.so.6",
                "{library:?} is not in Ubuntu 22.04's base"
            );
            continue;
        };
        let needed = library.newest(prefix).unwrap();
        assert!(numbers(&needed) <= numbers(has), "{} is needed in {needed}, Ubuntu 22.04 has {has}", library.name);
    }
}

#[test]
fn lintian_and_rpmlint_find_nothing_that_is_not_explained() {
    let [deb, rpm] = versions()[1];
    let lintian =
        Command::new("lintian").args(["--allow-root", "--fail-on", "error,warning"]).arg(deb).output().unwrap();
    let said = String::from_utf8_lossy(&lintian.stdout);
    assert!(lintian.status.success() && said.is_empty(), "lintian: {said}");
    let config = workspace().join("packaging/rpmlint.toml");
    let rpmlint = Command::new("rpmlint").arg("--config").arg(config).arg(rpm).output().unwrap();
    let said = String::from_utf8_lossy(&rpmlint.stdout);
    assert!(rpmlint.status.success() && said.contains("0 errors, 0 warnings"), "rpmlint: {said}");
}

#[test]
fn the_symbols_that_the_program_does_not_carry_are_kept_beside_it() {
    let sections = |name: &str| {
        let output = Command::new("readelf").args(["--wide", "--sections"]).arg(built("amd64").join(name)).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let (program, beside) = (sections("nap-agent"), sections("nap-agent.debug"));
    assert!(program.contains(".gnu_debuglink") && beside.contains(".symtab"), "{program}{beside}");
    assert!(!program.contains(".symtab") && !program.contains(".debug_info"), "not stripped: {program}");
}
