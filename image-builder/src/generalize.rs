//! Takes out of an image what belongs to the machine that it was made on.

use nap_host::root::{FileError, Kind, Root};
use nap_model::plan::AbsPath;

use crate::progress::Progress;

/// What goes, and why. A name that ends in `*` is every name in its directory that begins so; a directory goes with all that is in it.
const GONE: &[(&str, &str)] = &[
    ("/etc/ssh/ssh_host_*", "every machine makes its own"),
    ("/etc/kubernetes/azure.json", "credentials of a cluster"),
    ("/etc/kubernetes/certs/*", "a cluster's"),
    ("/var/lib/cloud/data", "cloud-init takes the next start for the first"),
    ("/var/lib/cloud/handlers", "cloud-init's, of this machine"),
    ("/var/lib/cloud/instance", "cloud-init's, of this machine"),
    ("/var/lib/cloud/instances/*", "cloud-init's, of this machine, custom data among it"),
    ("/var/lib/cloud/scripts", "cloud-init's, of this machine"),
    ("/var/lib/cloud/sem", "cloud-init's, of this machine"),
    ("/var/lib/dbus/machine-id", "follows /etc/machine-id"),
    ("/var/lib/dhcp/*", "leases"),
    ("/var/lib/kubelet/bootstrap-kubeconfig", "a token"),
    ("/var/lib/kubelet/kubeconfig", "a node's"),
    ("/var/lib/kubelet/pki/*", "a node's keys"),
    ("/var/lib/nap-agent/*", "what was tried and kept on this machine"),
    ("/var/lib/NetworkManager/*", "leases"),
    ("/var/lib/systemd/credential.secret", "every machine makes its own"),
    ("/var/lib/systemd/network/*", "leases"),
    ("/var/lib/systemd/random-seed", "two machines must not start with the same"),
    ("/var/lib/waagent/*", "the guest agent's, of this machine, certificates and custom data among it"),
    ("/var/log/azure/*", "reports of this machine"),
    ("/var/log/cloud-init*", "of this machine"),
    ("/var/log/journal/*", "of this machine"),
    ("/var/log/waagent*", "of this machine"),
    ("/opt/azure/containers/provision.complete", "says that a boot has ended"),
];

/// Emptied, not removed: an empty one is made anew at each machine's first start and does not count as the first start of the
/// distribution, which would run all presets. Source: machine-id(5).
const MACHINE_ID: &str = "/etc/machine-id";

/// Generalizes an image and returns what was changed, sorted. Run again, it changes nothing.
///
/// # Errors
/// When something is there and cannot be removed.
pub fn run(root: &Root, progress: &Progress) -> Result<Vec<String>, FileError> {
    let mut changed = Vec::new();
    for (pattern, _) in GONE {
        for path in matching(root, pattern)? {
            progress.now(&format!("removing {path}"));
            if remove(root, &path)? {
                changed.push(path);
            }
        }
    }
    let id = AbsPath::literal(MACHINE_ID);
    if root.entry(&id)?.is_some() && root.read(MACHINE_ID)?.is_some_and(|bytes| !bytes.is_empty()) {
        root.write(&id, b"", 0o444)?;
        changed.push(MACHINE_ID.to_owned());
    }
    progress.end();
    changed.sort();
    Ok(changed)
}

fn matching(root: &Root, pattern: &str) -> Result<Vec<String>, FileError> {
    let Some(start) = pattern.strip_suffix('*') else { return Ok(vec![pattern.to_owned()]) };
    let (directory, name) = start.rsplit_once('/').unwrap_or(("", start));
    let names = root.names(directory)?.into_iter().filter(|found| found.starts_with(name));
    Ok(names.map(|found| format!("{directory}/{found}")).collect())
}

/// Whether there was something.
fn remove(root: &Root, text: &str) -> Result<bool, FileError> {
    let path = AbsPath::try_from(text).expect("patterns are absolute, and no name has a slash");
    match root.entry(&path)? {
        None => Ok(false),
        Some(entry) if entry.kind == Kind::Directory => {
            for name in root.names(text)? {
                remove(root, &format!("{text}/{name}"))?;
            }
            root.remove_directory(&path)?;
            Ok(true)
        }
        Some(_) => {
            root.remove(&path)?;
            Ok(true)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_the_machines_goes_and_what_is_the_images_stays() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("precious"), "").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        for (path, text) in [
            ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
            ("etc/ssh/ssh_host_rsa_key", "x"),
            ("etc/ssh/sshd_config", "x"),
            ("etc/nap-agent/image.json", "{}"),
            ("var/lib/cloud/instances/i-1/user-data.txt", "x"),
            ("var/lib/cloud/seed/nocloud/meta-data", "x"),
            ("var/lib/nap-agent/config.json", "x"),
            ("var/lib/kubelet/pki/kubelet.key", "x"),
        ] {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), text).unwrap();
        }
        symlink(outside.path(), at("var/lib/cloud/instance")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        let changed = run(&root, &Progress::new()).unwrap();
        let wanted = [
            "/etc/machine-id",
            "/etc/ssh/ssh_host_rsa_key",
            "/var/lib/cloud/instance",
            "/var/lib/cloud/instances/i-1",
            "/var/lib/kubelet/pki/kubelet.key",
            "/var/lib/nap-agent/config.json",
        ];
        assert_eq!(changed, wanted);
        assert_eq!(run(&root, &Progress::new()).unwrap(), [""; 0]);
        assert_eq!(fs::read(at("etc/machine-id")).unwrap(), b"");
        for kept in [
            "etc/ssh/sshd_config",
            "etc/nap-agent/image.json",
            "var/lib/cloud/seed/nocloud/meta-data",
            "var/lib/nap-agent",
        ] {
            assert!(at(kept).exists(), "{kept}");
        }
        assert!(outside.path().join("precious").exists(), "a link goes, what it leads to stays");
    }
}
