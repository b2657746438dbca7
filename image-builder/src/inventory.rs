//! Finds out what an image has.
//!
//! Everything is read from files but versions: those only the programs know, and they are asked in confinement. A program that cannot
//! be asked, as one for another processor, is there without a version, and the node asks it again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nap_host::root::{FileError, Kind, Root};
use nap_host::{chain, confined, observe};
use nap_model::facts::Programs;
use nap_model::image::Image;
use nap_model::kubernetes::KubernetesVersion;
use nap_model::os::{self, Distribution};
use nap_model::plan::AbsPath;

use crate::progress::Progress;

/// A cold Go program of 100 MB takes seconds to print its version; under emulation many.
const VERSION_LIMIT: Duration = Duration::from_secs(60);

/// Modules that a node may need.
pub(crate) const MODULES: &[&str] = &["br_netfilter", "nf_conntrack", "nf_tables", "nvme", "overlay", "raid0", "xfs"];

/// Where a program is whose place is the same in every distribution, and how it is asked for its version. A program that says its
/// version among many other words is not asked.
const TOOLS: &[(&str, &[&str])] = &[
    ("/opt/bin/kubectl", &["version", "--client"]),
    (os::COREDNS, &["-version"]),
    (os::NFT, &[]),
    (os::NVIDIA_RUNTIME, &[]),
    (os::SECURE_TLS_BOOTSTRAP_CLIENT, &[]),
    ("/opt/acr/bin/acr-config", &[]),
    ("/usr/bin/chage", &[]),
    (os::MDADM, &[]),
    (os::MKFS_EXT4, &[]),
    (os::MKFS_XFS, &[]),
    ("/usr/sbin/modprobe", &[]),
    ("/usr/sbin/nvme", &[]),
    (os::CREDENTIAL_PROVIDER, &["--version"]),
];

/// Units whose state an image is judged by.
const UNITS: &[&str] = &[
    "acr-mirror.service",
    "containerd.service",
    "kubelet.service",
    "nap-agent.service",
    "nap-boot.service",
    "overlaybd-snapshotter.service",
    "overlaybd-tcmu.service",
    "systemd-networkd.service",
];

/// Where units are, the administrator's first.
const UNIT_DIRECTORIES: &[&str] = &["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// Looks at an image.
///
/// # Errors
/// When a file is there and cannot be read.
pub async fn look(root: &Root, os: &Distribution, progress: &Progress) -> Result<Image, FileError> {
    let kubelet = ask(root, os.kubelet, &["--version"], progress).await?;
    let containerd = ask(root, os.containerd, &["--version"], progress).await?;
    let known = |version: &Option<Option<KubernetesVersion>>| version.flatten();
    let mut tools = BTreeMap::new();
    let of_distribution: [(&str, &[&str]); 2] = [(os.runc, &["--version"]), (os.trust.program[0], &[])];
    for (path, arguments) in of_distribution.iter().chain(TOOLS) {
        if let Some(version) = ask(root, path, arguments, progress).await? {
            tools.insert((*path).to_owned(), version.map(|version| version.to_string()).unwrap_or_default());
        }
    }
    // A program that is there and does not tell is no reason to call it missing.
    for (path, version) in [(os.kubelet, &kubelet), (os.containerd, &containerd)] {
        if let Some(version) = version {
            tools.insert(path.to_owned(), version.map(|version| version.to_string()).unwrap_or_default());
        }
    }
    Ok(Image {
        os: Some(observe::os(root)?),
        architecture: architecture(root)?,
        programs: Programs { kubelet: known(&kubelet), containerd: known(&containerd) },
        tools: Some(tools),
        present: Some(observe::present(root)?),
        cni_plugins: Some(root.names(os.cni_bin)?.into_iter().collect()),
        kernels: Some(kernels(root)?),
        units: Some(units(root)?),
    })
}

/// Nothing when the program is not there, and no version when it does not tell or is not asked.
async fn ask(
    root: &Root,
    program: &str,
    arguments: &[&str],
    progress: &Progress,
) -> Result<Option<Option<KubernetesVersion>>, FileError> {
    let entry = root.target(&path(program))?;
    if !entry.is_some_and(|entry| entry.kind == Kind::File && entry.mode & 0o111 != 0) {
        return Ok(None);
    }
    if arguments.is_empty() {
        return Ok(Some(None));
    }
    progress.now(&format!("asking {program} for its version"));
    match confined::ask(root, program, arguments, VERSION_LIMIT).await {
        // CoreDNS says CoreDNS-1.12.0.
        Ok(output) => Ok(Some(observe::version_in(&output.replace("CoreDNS-", "")))),
        Err(error) => {
            progress.say(&format!("{program} does not tell its version: {}", chain(&error)));
            Ok(Some(None))
        }
    }
}

fn path(text: &str) -> AbsPath {
    AbsPath::try_from(text).expect("paths here are absolute, and names of kernels and units have no slash")
}

/// The processor of the image's own shell. Source: elf(5), `e_machine` at byte 18.
fn architecture(root: &Root) -> Result<Option<String>, FileError> {
    let shell = root.read("/bin/sh")?.unwrap_or_default();
    Ok(match shell.get(18..20) {
        Some([62, 0]) => Some("x86_64".to_owned()),
        Some([183, 0]) => Some("aarch64".to_owned()),
        _ => None,
    })
}

fn kernels(root: &Root) -> Result<BTreeMap<String, BTreeSet<String>>, FileError> {
    let mut kernels = BTreeMap::new();
    for release in root.names("/usr/lib/modules")?.into_iter().chain(root.names("/lib/modules")?) {
        let mut files = String::new();
        for list in ["modules.dep", "modules.builtin"] {
            for directory in ["/usr/lib/modules", "/lib/modules"] {
                files += &root.read_text(&format!("{directory}/{release}/{list}"))?.unwrap_or_default();
                files.push('\n');
            }
        }
        // Left behind by a kernel that is gone.
        if files.trim().is_empty() {
            continue;
        }
        let names: BTreeSet<String> = files.lines().filter_map(module_name).collect();
        let known = MODULES.iter().filter(|name| names.contains(**name)).map(|name| (*name).to_owned());
        kernels.insert(release, known.collect());
    }
    Ok(kernels)
}

/// `nf_conntrack` of `kernel/net/netfilter/nf-conntrack.ko.xz: ...`.
fn module_name(line: &str) -> Option<String> {
    let file = line.split(':').next()?.rsplit('/').next()?;
    Some(file.split_once(".ko")?.0.replace('-', "_"))
}

fn units(root: &Root) -> Result<BTreeMap<String, String>, FileError> {
    let mut wanted = BTreeSet::new();
    for directory in root.names("/etc/systemd/system")? {
        if directory.ends_with(".wants") || directory.ends_with(".requires") {
            wanted.extend(root.names(&format!("/etc/systemd/system/{directory}"))?);
        }
    }
    let mut units = BTreeMap::new();
    for unit in UNITS {
        for directory in UNIT_DIRECTORIES {
            let file = path(&format!("{directory}/{unit}"));
            let Some(entry) = root.entry(&file)? else { continue };
            let masked = entry.kind == Kind::Symlink && root.link(&file)? == "/dev/null";
            let state = if masked {
                "masked"
            } else if wanted.contains(*unit) {
                "enabled"
            } else {
                "disabled"
            };
            units.insert((*unit).to_owned(), state.to_owned());
            break;
        }
    }
    Ok(units)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root_with(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = Root::open(directory.path()).unwrap();
        (directory, root)
    }

    #[test]
    fn kernels_have_the_modules_that_they_list_and_those_that_are_gone_none() {
        let dep =
            "kernel/net/netfilter/nf_conntrack.ko.xz: kernel/lib/libcrc32c.ko.xz\nkernel/fs/overlayfs/overlay.ko:\n";
        let (_directory, root) = root_with(&[
            ("usr/lib/modules/6.8.0/modules.dep", dep),
            ("usr/lib/modules/6.8.0/modules.builtin", "kernel/net/bridge/br-netfilter.ko\n"),
            ("usr/lib/modules/6.5.0/updates/left", ""),
        ]);
        let modules = ["br_netfilter", "nf_conntrack", "overlay"].map(str::to_owned);
        assert_eq!(kernels(&root).unwrap(), [("6.8.0".to_owned(), modules.into())].into());
    }

    #[test]
    fn a_unit_is_enabled_when_somebody_wants_it_and_masked_when_nobody_can() {
        let (directory, root) = root_with(&[
            ("usr/lib/systemd/system/nap-boot.service", ""),
            ("usr/lib/systemd/system/nap-agent.service", ""),
            ("usr/lib/systemd/system/containerd.service", ""),
        ]);
        let etc = directory.path().join("etc/systemd/system");
        fs::create_dir_all(etc.join("multi-user.target.wants")).unwrap();
        let unit = "/usr/lib/systemd/system/nap-boot.service";
        symlink(unit, etc.join("multi-user.target.wants/nap-boot.service")).unwrap();
        symlink("/dev/null", etc.join("containerd.service")).unwrap();
        let states =
            [("containerd.service", "masked"), ("nap-agent.service", "disabled"), ("nap-boot.service", "enabled")];
        let states = states.map(|(unit, state)| (unit.to_owned(), state.to_owned()));
        assert_eq!(units(&root).unwrap(), states.into());
    }
}
