//! The packages in real roots, from the first installation to the purge.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use nap_packages::{Changed, assert_golden, built, package, workspace};
use tempfile::TempDir;

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
    apt(&["install", &now]);
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

/// Debian's rpm in a root that is Debian's: files and scripts are tried for real; what the rpm requires is compared as text, because
/// no rpm of a distribution is there that could provide it.
#[test]
fn the_rpm_in_a_root() {
    let changed = Changed::root("debian-13");
    let [before, now] = versions().map(|[_, rpm]| rpm.to_string_lossy().into_owned());
    let mounted = changed.mounted().to_string_lossy().into_owned();
    let rpm = |arguments: &[&str]| {
        changed.run_outside(&[&["rpm", "--root", &mounted, "--dbpath", "/var/lib/rpm", "--nodeps"], arguments].concat())
    };
    let mut text = String::new();
    rpm(&["--install", &before]);
    chapter(&mut text, "installed", &changed);
    changed.run(&["systemctl", "disable", "nap-agent.service"]);
    rpm(&["--upgrade", &now]);
    chapter(&mut text, "upgraded, nap-agent.service was disabled by hand", &changed);
    assert_eq!(rpm(&["--verify", "nap-agent"]), "", "rpm finds every file as it was packaged");
    rpm(&["--erase", "nap-agent"]);
    chapter(&mut text, "removed", &changed);
    for query in ["--requires", "--recommends", "--provides", "--scripts"] {
        let output = Command::new("rpm").args(["--query", "--package", query, &now]).output().unwrap();
        writeln!(text, "# {query}\n{}", String::from_utf8_lossy(&output.stdout)).unwrap();
    }
    assert_golden("rpm.txt", &text);
}

#[test]
fn a_package_is_the_same_bytes_again() {
    let folder = tempfile::tempdir().unwrap();
    let again = package("amd64", "0.1.0").write(folder.path()).unwrap();
    for (one, other) in versions()[1].iter().zip(&again) {
        assert!(std::fs::read(one).unwrap() == std::fs::read(other).unwrap(), "{} differs", one.display());
    }
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
