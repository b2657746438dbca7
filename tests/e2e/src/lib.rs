//! A scratch root that looks like a freshly booted VM, for tests that run the real agent below it.

pub mod corpus;
pub mod network;
pub mod node;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nap_model::plan::{Plan, Want};
use tempfile::TempDir;

/// A root directory below which an agent runs.
#[derive(Debug)]
pub struct ScratchRoot {
    directory: TempDir,
}

/// `containerd.service` as distributions ship it, as far as it matters here.
const CONTAINERD_UNIT: &str = "[Unit]\nDescription=containerd container runtime\n\n[Service]\nType=notify\nExecStart=/usr/bin/containerd\n\
                               Restart=always\nRestartSec=1\n\n[Install]\nWantedBy=multi-user.target\n";

/// Units of a distribution that a plan may enable, disable or let read their files.
const UNITS: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dnf-automatic-install.timer",
    "nvidia-device-plugin.service",
    "ssh.service",
    "ssh.socket",
    "sshd.service",
    "sshd.socket",
    "systemd-networkd.service",
    "systemd-resolved.service",
];

/// What the distributions' programs do, for a root that the script finds by its own place. The VM has the real ones.
fn trust_script(anchors: &str, bundle: &str) -> String {
    format!(
        "#!/bin/sh\nset -e\ncd \"${{0%/*}}/../..\"\nmkdir -p \"$(dirname {bundle})\"\ncat {anchors}/*.crt >{bundle}.new\nmv {bundle}.new {bundle}\n"
    )
}

/// Only the call that the agent makes.
const CHAGE: &str = "#!/bin/sh\nset -e\ntest \"$*\" = \"-E -1 -I -1 -m 0 -M 99999 -- azureuser\"\n\
                     sed -i 's/^\\(azureuser:[^:]*:[^:]*\\):.*/\\1:0:99999:7:::/' \"${0%/*}/../../etc/shadow\"\n";

/// Sysctls that every plan may set; a kernel has them with other values first.
const SYSCTLS: &[&str] = &[
    "kernel.keys.root_maxbytes",
    "kernel.keys.root_maxkeys",
    "kernel.panic",
    "kernel.panic_on_oops",
    "net.bridge.bridge-nf-call-iptables",
    "net.core.message_burst",
    "net.core.message_cost",
    "net.core.somaxconn",
    "net.ipv4.conf.all.forwarding",
    "net.ipv4.ip_forward",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.neigh.default.gc_thresh1",
    "net.ipv4.neigh.default.gc_thresh2",
    "net.ipv4.neigh.default.gc_thresh3",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_retries2",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv6.conf.all.forwarding",
    "net.netfilter.nf_conntrack_max",
    "vm.max_map_count",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "vm.swappiness",
];

impl ScratchRoot {
    /// A Debian 13 with an empty kubelet and containerd in their places, in memory where the machine has a `/dev/shm`.
    pub fn new(host_name: &str) -> Self {
        match tempfile::Builder::new().prefix("nap-").tempdir_in("/dev/shm") {
            Ok(directory) => Self::filled(directory, host_name),
            Err(_) => Self::on_disk(host_name),
        }
    }

    /// The same on the disk of the temporary directory.
    pub fn on_disk(host_name: &str) -> Self {
        Self::filled(tempfile::tempdir().expect("a temporary directory can be made"), host_name)
    }

    fn filled(directory: TempDir, host_name: &str) -> Self {
        let root = Self { directory };
        root.write("/etc/os-release", "ID=debian\nVERSION_ID=\"13\"\n");
        root.write("/etc/hostname", &format!("{host_name}\n"));
        root.write("/proc/sys/kernel/hostname", &format!("{host_name}\n"));
        root.write("/usr/lib/systemd/system/containerd.service", CONTAINERD_UNIT);
        for module in ["overlay", "br_netfilter", "nf_conntrack"] {
            fs::create_dir_all(root.path(&format!("/sys/module/{module}"))).expect("a directory can be made");
        }
        for key in SYSCTLS {
            root.write(&format!("/proc/sys/{}", key.replace('.', "/")), "0\n");
        }
        for unit in UNITS {
            root.write(
                &format!("/usr/lib/systemd/system/{unit}"),
                "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n",
            );
        }
        for choice in ["enabled", "defrag"] {
            root.write(
                &format!("/sys/kernel/mm/transparent_hugepage/{choice}"),
                "always defer defer+madvise madvise [never]\n",
            );
        }
        root.write("/etc/hosts", "127.0.0.1 localhost\n");
        root.write("/etc/ssh/sshd_config", "PubkeyAuthentication yes\n");
        root.write("/etc/shadow", "root:*:20000:0:99999:7:::\nazureuser:!:20000:1:90:7:30:21000:\n");
        root.install_script(
            "/usr/sbin/update-ca-certificates",
            &trust_script("usr/local/share/ca-certificates", "etc/ssl/certs/ca-certificates.crt"),
        );
        root.install_script(
            "/usr/bin/update-ca-trust",
            &trust_script("etc/pki/ca-trust/source/anchors", "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),
        );
        root.install_script("/usr/bin/chage", CHAGE);
        root.write("/dev/console", "");
        root.write("/var/lib/hyperv/.kvp_pool_1", "");
        root.machine_starts(1);
        root.write("/opt/bin/kubelet", "");
        root.write("/usr/bin/containerd", "");
        root
    }

    fn install_script(&self, path: &str, text: &str) {
        self.write(path, text);
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    }

    /// Puts a kubelet and a containerd that run in their places.
    pub fn install_programs(&self) {
        self.install("pretend-kubelet", "/opt/bin/kubelet");
        self.install("pretend-containerd", "/usr/bin/containerd");
    }

    /// What a reboot does: another boot id, an empty `/run`.
    pub fn machine_starts(&self, count: u32) {
        self.write("/proc/sys/kernel/random/boot_id", &format!("00000000-0000-0000-0000-{count:012}\n"));
        let run = self.path("/run");
        if run.exists() {
            fs::remove_dir_all(&run).expect("/run can be emptied");
        }
        fs::create_dir_all(run).expect("/run can be made");
    }

    /// Where the root is.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A path below the root.
    pub fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path.trim_start_matches('/'))
    }

    /// Writes a file below the root.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a file has a directory")).expect("a directory can be made");
        fs::write(path, text).expect("a file can be written");
    }

    /// Reads a file below the root.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
    }

    /// Puts one of our programs in its place.
    pub fn install(&self, program: &str, path: &str) {
        let path = self.path(path);
        // A copy: a link would lead out of the root.
        fs::copy(binary(program), path).expect("a program can be copied");
    }

    /// Every file and directory that a plan is about: bytes, mode, owner.
    pub fn state(&self, plan: &Plan) -> BTreeMap<String, String> {
        let mut state = BTreeMap::new();
        for step in plan.steps() {
            match &step.want {
                Want::Directory { path, .. }
                | Want::File { path, .. }
                | Want::Absent { path }
                | Want::Choice { path, .. }
                | Want::Block { path, .. }
                | Want::FileIfAbsent { path, .. }
                | Want::Copied { to: path, .. }
                | Want::SwapFile { path, .. }
                | Want::Hosts { path, .. }
                | Want::TrustStore { bundle: path, .. } => {
                    state.insert(path.to_string(), self.describe(path.as_str()));
                }
                Want::Sysctl { key, .. } => {
                    state.insert(key.clone(), self.describe(&format!("/proc/sys/{}", key.replace('.', "/"))));
                }
                Want::Unit { name, .. } => {
                    state.insert((*name).to_owned(), self.describe(&format!("/run/nap-agent/stamps/{name}")));
                }
                // Two runs make two keys; that both files are there is what is the same. Whether they fit, the executor has looked.
                Want::SelfSigned { certificate, key, .. } => {
                    for path in [certificate, key] {
                        let described = self.describe(path.as_str());
                        let mode = described.split(' ').next().unwrap_or_default();
                        state.insert(path.to_string(), mode.to_owned());
                    }
                }
                Want::NoExpiry { .. } => _ = state.insert("shadow".to_owned(), self.describe("/etc/shadow")),
                // Below a scratch root there is no kernel whose filter would be ours.
                Want::Volume { .. }
                | Want::Reread { .. }
                | Want::Enabled { .. }
                | Want::Module { .. }
                | Want::SnapshotterAnswers { .. }
                | Want::MirrorAnswers { .. }
                | Want::WholeImages { .. }
                | Want::KeptSnapshots { .. }
                | Want::PacketFilter { .. } => {}
            }
        }
        state
    }

    fn describe(&self, path: &str) -> String {
        let path = self.path(path);
        let Ok(metadata) = fs::symlink_metadata(&path) else { return "absent".to_owned() };
        let bytes = if metadata.is_file() { fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        format!("{:o} {}:{} {bytes}", metadata.permissions().mode(), metadata.uid(), metadata.gid())
    }

    /// Names that our executor leaves beside files when it is killed in the middle.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut directories = vec![self.directory().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let kind = entry.file_type().expect("an entry has a type");
                if kind.is_dir() {
                    directories.push(entry.path());
                } else if entry.file_name().to_string_lossy().ends_with(".nap-agent") {
                    found.push(entry.path());
                }
            }
        }
        found
    }
}

/// Asks a process of ours to end. A bare Debian has no `kill` program.
pub fn terminate(id: u32) -> anyhow::Result<()> {
    let id = nix::unistd::Pid::from_raw(i32::try_from(id)?);
    Ok(nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM)?)
}

/// One of the workspace's programs, built beforehand (`make` does).
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test
        .ancestors()
        .find(|path| path.ends_with("debug") || path.ends_with("release"))
        .expect("tests run below target/");
    let path = profile.join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace --bins` first (make does)", path.display());
    path
}

/// The golden scenarios: name, wire document, facts.
pub const SCENARIOS: &[(&str, &str, &str)] = &[
    (
        "overlay",
        include_str!("../../../agent/model/testdata/overlay.yaml"),
        include_str!("../../../agent/model/testdata/ubuntu-2404.json"),
    ),
    (
        "cilium",
        include_str!("../../../agent/model/testdata/cilium.yaml"),
        include_str!("../../../agent/model/testdata/azurelinux-3.json"),
    ),
    (
        "node-subnet",
        include_str!("../../../agent/model/testdata/node-subnet.json"),
        include_str!("../../../agent/model/testdata/ubuntu-2204.json"),
    ),
    (
        "none",
        include_str!("../../../agent/model/testdata/none.yaml"),
        include_str!("../../../agent/model/testdata/debian-13.json"),
    ),
    (
        "joined",
        include_str!("../../../agent/model/testdata/none.yaml"),
        include_str!("../../../agent/model/testdata/debian-13-joined.json"),
    ),
];

/// The plan of a golden scenario.
pub fn scenario_plan(name: &str) -> Plan {
    let (_, config, facts) = SCENARIOS.iter().find(|(scenario, _, _)| *scenario == name).expect("a known scenario");
    let config =
        nap_model::config::decode(config.as_bytes()).expect("a scenario decodes").config.expect("a scenario is right");
    let facts = serde_json::from_str(facts).expect("facts are facts");
    nap_model::plan::plan(&config, &facts).expect("a scenario has a plan")
}
