//! Where secrets may be on a node, and the search for where they are.

use std::collections::BTreeSet;

use nap_vm::{Disk, Finding, Needle, Overlay, Vm, needles};

use crate::azure::{CLIENT_SECRET, TOKEN_SECRET};
use crate::guest::{note, told};

/// Where what is not on the disk by itself is put for the search: the journal uncompressed, `/run`, the samples.
const EXPORTS: &str = "/var/nap-vm";

/// Files that hold the custom data or a part of it and are not ours to change; all readable by root only.
const OF_CLOUD_INIT: &[&str] = &[
    "/var/lib/waagent/ovf-env.xml",
    "/var/lib/cloud/instances/*/user-data.txt",
    "/var/lib/cloud/instances/*/user-data.txt.i",
    "/var/lib/cloud/instances/*/obj.pkl",
    "/var/nap-vm/run/cloud-init/instance-data-sensitive.json",
];

/// Where a secret of the configuration belongs.
const OURS: &[(&str, &str)] = &[
    ("client secret", "/etc/kubernetes/azure.json"),
    ("kubelet key", "/var/lib/kubelet/pki/*"),
    // The agent's copy of the custom data, from which azure.json is put back; the token is taken out of it.
    ("client secret", "/var/lib/nap-agent/config.json"),
];

/// A unit that notes every program, its arguments and its environment, from early boot on.
pub(crate) fn watching_programs(overlay: Overlay) -> Overlay {
    let unit = "[Unit]\nDefaultDependencies=no\nAfter=systemd-remount-fs.service\nBefore=sysinit.target\n\
        [Service]\nExecStart=/usr/lib/nap-vm/watch-programs /run/nap-vm-programs\n";
    overlay
        .text("/usr/lib/nap-vm/watch-programs", include_str!("watch-programs.sh"), 0o755)
        .text("/etc/systemd/system/nap-vm-programs.service", unit, 0o644)
        .link(
            "/etc/systemd/system/sysinit.target.wants/nap-vm-programs.service",
            "/etc/systemd/system/nap-vm-programs.service",
        )
}

/// What to look for: the token's secret half, the service principal's secret, the middle of kubelet's private key.
pub(crate) fn seeded(vm: &mut Vm) -> Vec<Needle> {
    let key = told(vm, "sed -n '/PRIVATE KEY/{n;p;q}' /var/lib/kubelet/pki/kubelet-client-current.pem");
    let mut all = needles("token", TOKEN_SECRET);
    all.extend(needles("client secret", CLIENT_SECRET));
    all.push(Needle { name: "kubelet key (plain)".to_owned(), bytes: key.into_bytes() });
    all
}

/// Puts the journal, `/run` and the samples on the disk, where the search comes by.
pub(crate) fn export(vm: &mut Vm) {
    let samples = told(vm, "wc -l </run/nap-vm-programs; grep -c nap-agent /run/nap-vm-programs");
    assert!(!samples.ends_with("\n0"), "the samples never saw nap-agent: {samples}");
    let copy_run = format!("cd /run && find . -xdev -type f -size -4M -exec cp -a --parents {{}} {EXPORTS}/run/ \\;");
    told(vm, &format!("mkdir -m 700 {EXPORTS} {EXPORTS}/run && {copy_run}"));
    told(vm, &format!("journalctl --sync && journalctl -o export >{EXPORTS}/journal"));
}

/// Asserts that secrets are only where they must be, and that nobody but root can read them there.
pub(crate) fn assert_secrets_are_where_they_belong(disk: &Disk, needles: &[Needle], console: &str) {
    assert_eq!(nap_vm::found_in(console.as_bytes(), needles), BTreeSet::new(), "on the serial console");
    let findings = disk.find(needles).unwrap();
    let held = |path: &str| findings.iter().any(|finding| finding.path.as_deref().is_some_and(|at| matches(path, at)));
    assert!(held(OF_CLOUD_INIT[0]) && held(OURS[0].1) && held(OURS[1].1), "the search is blind: {findings:?}");

    let freed = findings.iter().filter(|finding| finding.path.is_none()).count();
    note(format_args!("{} findings, {freed} of them in blocks that belong to no file any more", findings.len()));
    let elsewhere: Vec<_> = findings.iter().filter(|finding| !is_allowed(finding)).collect();
    assert!(elsewhere.is_empty(), "secrets where they do not belong: {elsewhere:#?}");
    let paths: BTreeSet<_> = findings.iter().filter_map(|finding| finding.path.as_deref()).collect();
    for path in paths {
        let entry = disk.entry(path).unwrap().unwrap_or_else(|| panic!("{path} is gone"));
        assert_eq!((entry.mode & 0o7077, entry.uid), (0, 0), "{path} can be read by others: {entry:?}");
    }
}

fn is_allowed(finding: &Finding) -> bool {
    // What a deleted file leaves in free blocks is out of reach of whoever cannot read the raw disk, which is root.
    let Some(path) = finding.path.as_deref() else { return true };
    let ours = OURS.iter().any(|(secret, place)| finding.name.starts_with(secret) && matches(place, path));
    ours || OF_CLOUD_INIT.iter().any(|place| matches(place, path))
}

/// A pattern with at most one star, which stands for one name.
fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((before, after)) => path
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after))
            .is_some_and(|name| !name.is_empty() && !name.contains('/')),
    }
}

#[test]
fn a_star_is_one_name() {
    assert!(matches("/a/*/b", "/a/x/b"));
    assert!(!matches("/a/*/b", "/a/x/y/b"));
    assert!(!matches("/a/*", "/a/"));
}
