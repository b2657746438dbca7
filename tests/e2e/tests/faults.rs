//! Faults, done to real file systems of this machine's kernel and to real processes: seen, named, and forgotten when they are gone.
//!
//! Needs root and loop devices; says SKIPPED without. GPUs are pretend ones, with a management library of the tests, and real ones where
//! there are some.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nap_e2e::node::{Node, api_options, free_port, text};
use nap_model::verdict::NODE_HEALTHY;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_secs(240);

fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}"); // nobody listens: nobody needs to know
}

/// Runs a program, which must succeed.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A small ext4 on a loop device, mounted over a directory of the node.
struct Disk {
    image: PathBuf,
    at: PathBuf,
    device: String,
}

impl Disk {
    /// With what the directory holds.
    fn over(at: PathBuf, folder: &Path, name: &str) -> Self {
        let image = folder.join(name);
        std::fs::File::create(&image).unwrap().set_len(48 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-N", "512", "-m", "0", &image.display().to_string()]);
        let device = run("losetup", &["--find", "--show", &image.display().to_string()]);
        let disk = Self { image, at, device };
        std::fs::create_dir_all(&disk.at).unwrap();
        let before = folder.join("before");
        run("cp", &["-a", &disk.at.display().to_string(), &before.display().to_string()]);
        disk.mount();
        run("cp", &["-a", &format!("{}/.", before.display()), &disk.at.display().to_string()]);
        std::fs::remove_dir_all(before).unwrap();
        disk
    }

    fn mount(&self) {
        let options = Some("errors=remount-ro");
        mount(Some(self.device.as_str()), &self.at, Some("ext4"), MsFlags::empty(), options).unwrap();
    }

    fn break_it(&self) {
        let name = self.device.strip_prefix("/dev/").unwrap();
        std::fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "injected").unwrap();
    }

    /// What an administrator does: unmount, check, mount.
    fn mend(&self) {
        umount2(&self.at, MntFlags::MNT_DETACH).unwrap();
        // 1: errors were corrected.
        let status = Command::new("e2fsck").args(["-fy", &self.device]).output().unwrap().status;
        assert!(status.code().is_some_and(|code| code <= 1), "{status}");
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.at).output(); // usually it is not frozen
        let _ = umount2(&self.at, MntFlags::MNT_DETACH); // it may be gone
        let _ = Command::new("losetup").args(["-d", &self.device]).output(); // as above
        let _ = std::fs::remove_file(&self.image); // as above
    }
}

struct Watched {
    node: Node,
    _guard: Child,
    port: u16,
}

impl Watched {
    /// A booted node with a guard, when it is healthy.
    async fn start(node: Node) -> Self {
        let port = free_port();
        let guard =
            node.command(&["guard", "--interval", "0.5", "--listen", &format!("127.0.0.1:{port}")]).spawn().unwrap();
        let watched = Self { node, _guard: guard, port };
        watched.until("a healthy node", |document| document["verdict"]["state"] == "Healthy").await;
        watched
    }

    async fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    }

    async fn document(&self) -> Value {
        let body = self.get("/v1/health").await.unwrap_or_default();
        serde_json::from_str(&body).unwrap_or(Value::Null)
    }

    async fn until(&self, what: &str, mut is_so: impl FnMut(&Value) -> bool) {
        let start = Instant::now();
        loop {
            let document = self.document().await;
            if is_so(&document) {
                return;
            }
            assert!(start.elapsed() < LIMIT, "{what}: {document:#}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until a condition of the Node is there, or is not.
    async fn until_on_node(&self, kind: &str, is_so: fn(&Option<Value>) -> bool) -> Option<Value> {
        let start = Instant::now();
        loop {
            let condition = self.node.condition(kind);
            if is_so(&condition) {
                return condition;
            }
            assert!(start.elapsed() < LIMIT, "{kind}: {condition:?}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until each of these is there, and says after how long.
    async fn see(&self, reasons: &[&str]) {
        let start = Instant::now();
        let mut seen: BTreeMap<String, (Duration, String)> = BTreeMap::new();
        self.until(&format!("{reasons:?}"), |document| {
            for finding in findings(document).filter(|finding| finding["held"] != true) {
                let evidence = finding["evidence"].as_array().into_iter().flatten();
                let evidence: Vec<_> = evidence.map(|one| format!("{}: {}", one["signal"], one["sample"])).collect();
                let reason = finding["reason"].as_str().unwrap_or_default().to_owned();
                seen.entry(reason).or_insert_with(|| (start.elapsed(), evidence.join("; ")));
            }
            reasons.iter().all(|reason| seen.contains_key(*reason))
        })
        .await;
        for (reason, (after, evidence)) in seen {
            note(&format!("seen: {reason} after {:.1} s by {evidence}", after.as_secs_f32()));
        }
    }

    /// Waits until none of these is there, and says after how long.
    async fn forget(&self, reasons: &[&str]) {
        let start = Instant::now();
        let mut left: Vec<&str> = reasons.to_vec();
        self.until(&format!("the end of {reasons:?}"), |document| {
            left.retain(|reason| {
                let is_there = findings(document).any(|finding| finding["reason"] == **reason);
                if !is_there {
                    note(&format!("forgotten: {reason} after {:.1} s", start.elapsed().as_secs_f32()));
                }
                is_there
            });
            !document.is_null() && left.is_empty()
        })
        .await;
    }

    fn signal_containerd(&self, signal: &str) {
        let status = self.node.path("/run/containerd/containerd.sock");
        let listeners = run("ss", &["-xlpH", "src", &status.display().to_string()]);
        let pid = listeners.split("pid=").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
        run("kill", &[signal, pid]);
    }
}

fn findings(document: &Value) -> impl Iterator<Item = &Value> {
    let subsystems = document["subsystems"].as_array().into_iter().flatten();
    subsystems.flat_map(|subsystem| subsystem["findings"].as_array().into_iter().flatten())
}

fn is_possible() -> bool {
    nix::unistd::geteuid().is_root()
        && Command::new("losetup").arg("--find").output().is_ok_and(|output| output.status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn real_faults_are_seen_named_and_forgotten() {
    if !is_possible() {
        return note("SKIPPED: faults need root and loop devices");
    }
    let node = Node::new(api_options()).await;
    node.hand_over(node.bootstrap().to_string().as_bytes());
    let boot = node.agent(&["boot"]).await;
    assert_eq!(boot.status.code(), Some(0), "{}", text(&boot));
    let images = tempfile::tempdir_in("/var/tmp").unwrap();
    let data = Disk::over(node.path("/var/lib/containerd"), images.path(), "data.img");
    let own = Disk::over(node.path("/var/lib/nap-agent"), images.path(), "own.img");
    // The kernel's own log, and nothing else of this machine.
    std::fs::create_dir_all(node.path("/dev")).unwrap();
    let _ = std::fs::remove_file(node.path("/dev/kmsg")); // usually there is none
    mknod(&node.path("/dev/kmsg"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(1, 11)).unwrap();

    let watched = Watched::start(node).await;
    let generation = watched.document().await["generation"].clone();
    std::fs::write("/dev/kmsg", "<2>EXT4-fs error (device loop0): forged\n").unwrap();
    let users = |metrics: String| {
        metrics.lines().any(|line| line.starts_with("nap_kmsg_of_users_total") && !line.ends_with(" 0"))
    };
    let start = Instant::now();
    while !users(watched.get("/metrics").await.unwrap()) {
        assert!(start.elapsed() < LIMIT, "the forged line is not counted");
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(watched.document().await["generation"], generation, "a forged line is counted, and that is all");

    // Our own state cannot be written, the data disk is full in both ways, containerd hangs.
    own.break_it();
    watched.see(&["DataFilesystemReadOnly"]).await;
    watched.signal_containerd("-STOP");
    for number in 0..600 {
        if std::fs::write(data.at.join(format!("file-{number}")), "").is_err() {
            break;
        }
    }
    watched.see(&["ContainerdUnresponsive", "InodesExhausted"]).await;
    assert_eq!(watched.document().await["verdict"]["state"], "Degraded");

    own.mend();
    watched.signal_containerd("-CONT");
    for number in 0..600 {
        let _ = std::fs::remove_file(data.at.join(format!("file-{number}"))); // not all were made
    }
    watched.forget(&["DataFilesystemReadOnly", "ContainerdUnresponsive", "InodesExhausted"]).await;

    std::fs::write(data.at.join("fill"), vec![1; 64 << 20]).unwrap_err();
    watched.see(&["DiskFull"]).await;
    std::fs::remove_file(data.at.join("fill")).unwrap();
    watched.forget(&["DiskFull"]).await;

    run("fsfreeze", &["-f", &data.at.display().to_string()]);
    watched.see(&["DiskStalled"]).await;
    run("fsfreeze", &["-u", &data.at.display().to_string()]);
    watched.forget(&["DiskStalled"]).await;
    watched.until("a healthy node", |document| document["verdict"]["state"] == "Healthy").await;
}

/// Vendor and device, command and status.
const IS_THERE: [u8; 8] = [0xde, 0x10, 0x35, 0x23, 0x06, 0x00, 0x10, 0x00];
/// As Hyper-V's virtual bus shows a device that is gone: the numbers of vendor and device are from its own books.
const IS_GONE: [u8; 8] = [0xde, 0x10, 0x35, 0x23, 0xff, 0xff, 0xff, 0xff];

/// Two GPUs below the node's root, with a driver and its library.
fn install_gpus(node: &Node) {
    for address in ["0001:00:00.0", "0002:00:00.0"] {
        node.root.write(&format!("/sys/bus/pci/devices/{address}/vendor"), "0x10de\n");
        node.root.write(&format!("/sys/bus/pci/devices/{address}/class"), "0x030200\n");
        std::fs::write(node.path(&format!("/sys/bus/pci/devices/{address}/config")), IS_THERE).unwrap();
        node.root.write(&format!("/proc/driver/nvidia/gpus/{address}/information"), "");
    }
    node.root.write("/sys/module/nvidia/version", "580.159.04\n");
    node.root.write("/dev/nvidiactl", "");
    node.root.write("/usr/lib64/libnvidia-ml.so.580.159.04", "");
    let library = node.path("/usr/lib64/libnvidia-ml.so.580.159.04").display().to_string();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/pretend-nvml.c");
    run("cc", &["-shared", "-fPIC", "-Wall", "-Werror", "-o", &library, source]);
}

#[tokio::test(flavor = "multi_thread")]
async fn gpus_that_are_lost_hot_or_silent_are_told_apart() {
    let node = Node::new(api_options()).await;
    install_gpus(&node);
    let mut bootstrap = node.bootstrap();
    bootstrap["node"]["labels"]["karpenter.azure.com/sku-gpu-manufacturer"] = "nvidia".into();
    bootstrap["node"]["labels"]["karpenter.azure.com/sku-gpu-count"] = "2".into();
    node.hand_over(bootstrap.to_string().as_bytes());
    let boot = node.agent(&["boot"]).await;
    assert_eq!(boot.status.code(), Some(0), "{}", text(&boot));
    node.root.write("/etc/nap-agent/nap-agent.toml", "[conditions]\nnode-healthy = true\n");
    let watched = Watched::start(node).await;
    let condition = |document: &Value| {
        let of = |one: &&Value| one["type"] == "AcceleratedHardwareReady";
        let conditions = document["conditions"].as_array().into_iter().flatten();
        conditions.clone().find(of).map(|one| one["status"].as_str().unwrap_or_default().to_owned())
    };
    watched.until("GPUs that are well", |document| condition(document).as_deref() == Some("True")).await;
    let is = |state: &str| watched.node.root.write("/usr/lib64/pretend-nvml", state);
    let first = watched.node.path("/sys/bus/pci/devices/0001:00:00.0/config");

    is("lost remap-pending hot");
    std::fs::write(&first, IS_GONE).unwrap();
    watched.see(&["GpuFallenOffBus", "GpuResetPending"]).await;
    watched.until("a verdict", |document| document["verdict"]["state"] == "NeedsReplacement").await;
    let document = watched.document().await;
    assert_eq!(document["verdict"]["reason"], "GpuFallenOffBus", "{document:#}");
    assert_eq!(condition(&document).as_deref(), Some("False"), "{document:#}");
    watched.see(&["GpuThrottled"]).await;
    let told = watched.until_on_node(NODE_HEALTHY, Option::is_some).await.unwrap();
    assert_eq!((&told["status"], &told["reason"]), (&"False".into(), &"GpuFallenOffBus".into()), "{told}");

    is("hang");
    std::fs::write(&first, IS_THERE).unwrap();
    watched.see(&["GpuManagementFailing"]).await;
    is("");
    watched.forget(&["GpuFallenOffBus", "GpuResetPending", "GpuThrottled", "GpuManagementFailing"]).await;
    watched.until("a healthy node", |document| document["verdict"]["state"] == "Healthy").await;
    watched.until_on_node(NODE_HEALTHY, Option::is_none).await;
}

/// What the kernel of this machine says of its GPUs, below the node's root; and the version of their driver. Nothing without any.
fn copy_gpus(node: &Node) -> Option<String> {
    let version = std::fs::read_to_string("/sys/module/nvidia/version").ok()?.trim().to_owned();
    for gpu in std::fs::read_dir("/proc/driver/nvidia/gpus").ok()?.flatten() {
        let address = gpu.file_name().into_string().unwrap();
        node.root.write(&format!("/proc/driver/nvidia/gpus/{address}/information"), "");
        let device = format!("/sys/bus/pci/devices/{address}");
        std::fs::create_dir_all(node.path(&device)).unwrap();
        std::os::unix::fs::symlink("../../../bus/pci/drivers/nvidia", node.path(&device).join("driver")).unwrap();
        for file in ["vendor", "class", "config"] {
            let file = format!("{device}/{file}");
            std::fs::write(node.path(&file), std::fs::read(&file).unwrap()).unwrap();
        }
    }
    node.root.write("/sys/module/nvidia/version", &version);
    node.root.write("/dev/nvidiactl", "");
    Some(version)
}

/// A library that asks for another driver than its own.
fn of_another_version(mut library: Vec<u8>, version: &str) -> (Vec<u8>, String) {
    let mut other = version.as_bytes().to_vec();
    let last = other.last_mut().unwrap();
    *last = if *last == b'9' { b'8' } else { *last + 1 };
    let is_there = |at: &usize| library[*at..].starts_with(version.as_bytes());
    let places: Vec<_> = (0..library.len()).filter(is_there).collect();
    assert!(!places.is_empty(), "the library does not name its version");
    places.iter().for_each(|at| library[*at..*at + other.len()].copy_from_slice(&other));
    (library, String::from_utf8(other).unwrap())
}

/// As after an upgrade without a reboot. Nobody else on the machine notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_driver_with_a_library_of_another_version_is_told() {
    let node = Node::new(api_options()).await;
    let Some(version) = copy_gpus(&node) else { return note("SKIPPED: no NVIDIA GPU with a driver here") };
    let directories = ["/usr/local/nvidia/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64"];
    let mut real = directories.iter().map(|at| format!("{at}/libnvidia-ml.so.{version}"));
    let real = std::fs::read(real.find(|path| Path::new(path).exists()).unwrap()).unwrap();
    let (other, other_version) = of_another_version(real.clone(), &version);
    let library = |version: &str| node.path(&format!("/usr/lib64/libnvidia-ml.so.{version}"));
    let (own, others) = (library(&version), library(&other_version));
    std::fs::create_dir_all(own.parent().unwrap()).unwrap();
    std::fs::write(&own, &real).unwrap();
    node.hand_over(node.bootstrap().to_string().as_bytes());
    let boot = node.agent(&["boot"]).await;
    assert_eq!(boot.status.code(), Some(0), "{}", text(&boot));
    let watched = Watched::start(node).await;
    watched.until("the GPUs", |document| document["subsystems"].to_string().contains("accelerators")).await;
    std::fs::remove_file(&own).unwrap();
    std::fs::write(&others, other).unwrap();
    let both = |document: &Value| {
        let finding = findings(document).find(|finding| finding["reason"] == "GpuDriverMismatch");
        finding.is_some_and(|finding| finding["evidence"].as_array().is_some_and(|evidence| evidence.len() == 2))
    };
    watched.see(&["GpuDriverMismatch"]).await;
    watched.until("both signals", both).await;
    std::fs::remove_file(&others).unwrap();
    std::fs::write(&own, &real).unwrap();
    watched.forget(&["GpuDriverMismatch"]).await;
}
