//! What watching a node costs, beside node-problem-detector in the same VM at the same time: a benchmark, run by `make bench-watch` alone.
//!
//! node-problem-detector is built from its public repository by whoever runs this: `$NAP_NPD` (default `/opt/nap-npd`) holds
//! `node-problem-detector` and its `config`. Without it only the agent is measured, and that is said.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nap_vm::{Image, Overlay, Vm, VmLock};
use serde_json::Value;

use crate::azure::{API_SERVER, Azure, NODE};
use crate::guest::{self, VERDICT, note, told, until_health, wait_for_agent};
use crate::repairs::CNI;

/// How long nothing happens.
const IDLE_SECONDS: u64 = 600;

/// Lines of the kernel's own in a second, and for how long.
const STORM_LINES: u64 = 5000;
const STORM_SECONDS: u64 = 60;

/// What its own deployment gives it.
const MONITORS: [&str; 3] = ["kernel-monitor.json", "readonly-monitor.json", "docker-monitor.json"];

const OURS: &str = "nap-agent";
const PEER: &str = "node-problem-detector";

/// A packet to nobody is a line of the kernel's, by its packet filter; the console is spared them, as it is slow.
const LOG: &str = "dmesg --console-level 1; nft 'table ip storm { chain output { type filter hook output priority 0; udp dport 9 log prefix \"storm \"; }; }'";

const STORM: &str = include_str!("watch_cost/storm.py");

#[test]
fn what_watching_costs() {
    if !guest::is_wanted("NAP_VM_BENCH", "make bench-watch") {
        return;
    }
    let (lock, image) = (VmLock::take().unwrap(), Image::build().unwrap());
    let azure = Azure::start();
    let overlay = guest::node().text("/etc/cni/net.d/10-nap-vm.conflist", CNI, 0o644).text(
        "/usr/lib/nap-vm/storm.py",
        STORM,
        0o644,
    );
    let peer = peer();
    if peer.is_none() {
        note(format_args!("SKIPPED: no node-problem-detector in $NAP_NPD; nap-agent is measured alone"));
    }
    let overlay = match &peer {
        Some(folder) => with_peer(overlay, folder),
        None => overlay,
    };
    let options = azure.vm("watch-cost", overlay, &azure.bootstrap());
    let mut vm = Vm::start_with(lock, &image, &options).unwrap();
    assert_eq!(wait_for_agent(&mut vm), 0);
    let mut units = vec![OURS];
    if peer.is_some() {
        told(&mut vm, "systemctl start node-problem-detector");
        until_condition(&azure, "ReadonlyFilesystem", "False");
        units.push(PEER);
    }
    until_health(&mut vm, |document| document["verdict"]["state"] == "Healthy");

    // What somebody wrote. node-problem-detector reads five minutes of the past when it starts: it is started anew after the next ten.
    told(&mut vm, "echo '<2>EXT4-fs (loop0): Remounting filesystem read-only' >/dev/kmsg; sleep 30");
    let of_peer = peer.as_ref().map(|_| condition(&azure, "ReadonlyFilesystem"));
    let ours = condition(&azure, "StorageReady");
    note(format_args!(
        "30 s after a forged line: {OURS}'s StorageReady {ours:?}, {PEER}'s ReadonlyFilesystem {of_peer:?}"
    ));

    measure(&mut vm, &units, "idle", &format!("sleep {IDLE_SECONDS}"), IDLE_SECONDS);
    told(&mut vm, LOG);
    let storm = format!("python3 /usr/lib/nap-vm/storm.py {STORM_LINES} {STORM_SECONDS}");
    measure(&mut vm, &units, "storm", &storm, STORM_SECONDS);
    told(&mut vm, "nft delete table ip storm");
    let metrics = guest::endpoint(&mut vm, "/metrics");
    let of_kmsg = metrics.lines().filter(|line| line.starts_with("nap_kmsg_"));
    note(format_args!("{}", of_kmsg.collect::<Vec<_>>().join("; ")));
    until_health(&mut vm, |document| document["verdict"]["state"] == "Healthy");

    if peer.is_some() {
        told(&mut vm, "systemctl restart node-problem-detector");
        until_condition(&azure, "ReadonlyFilesystem", "False");
    }
    break_a_file_system(&mut vm, &azure, peer.is_some());
}

fn peer() -> Option<PathBuf> {
    let folder = std::env::var_os("NAP_NPD").map_or_else(|| PathBuf::from("/opt/nap-npd"), PathBuf::from);
    folder.join(PEER).exists().then_some(folder)
}

/// As its own deployment runs it, under kubelet's identity.
fn with_peer(overlay: Overlay, folder: &Path) -> Overlay {
    let configs = MONITORS.map(|name| format!("/etc/npd/{name}"));
    let unit = format!(
        "[Service]\nEnvironment=NODE_NAME={NODE}\nExecStart=/usr/bin/{PEER} --logtostderr --config.system-log-monitor={} \
         \"--apiserver-override=https://{API_SERVER}?inClusterConfig=false&auth=/var/lib/kubelet/kubeconfig\"\n",
        configs.join(",")
    );
    let overlay = overlay.file(&format!("/usr/bin/{PEER}"), folder.join(PEER), 0o755).text(
        &format!("/etc/systemd/system/{PEER}.service"),
        unit,
        0o644,
    );
    MONITORS
        .iter()
        .zip(&configs)
        .fold(overlay, |overlay, (name, path)| overlay.file(path, folder.join("config").join(name), 0o644))
}

/// What each unit uses while something is done.
fn measure(vm: &mut Vm, units: &[&str], what: &str, command: &str, seconds: u64) {
    let before: Vec<f64> = units.iter().map(|unit| cpu_seconds(vm, unit)).collect();
    let limit = Duration::from_secs(3 * seconds + 60);
    let output = vm.run(command, limit).unwrap();
    assert_eq!(output.status, 0, "{command}: {}", output.text);
    let after: Vec<f64> = units.iter().map(|unit| cpu_seconds(vm, unit)).collect();
    for ((unit, before), after) in units.iter().zip(before).zip(after) {
        let memory = told(
            vm,
            &format!(
                "pid=$(systemctl show --property MainPID --value {unit}); grep -h -E '^(Rss|Pss|VmHWM|Threads)' /proc/$pid/smaps_rollup /proc/$pid/status | \
                 tr -s ' \\t' ' ' | xargs; grep -c . /sys/fs/cgroup/system.slice/{unit}.service/cgroup.procs"
            ),
        );
        note(format_args!(
            "{what}, {seconds} s: {unit}: {:.2} s of a processor; {}; {}",
            after - before,
            memory.replace('\n', "; processes "),
            output.text.trim()
        ));
    }
}

fn cpu_seconds(vm: &mut Vm, unit: &str) -> f64 {
    let nanoseconds = told(vm, &format!("systemctl show --property CPUUsageNSec --value {unit}"));
    nanoseconds.parse::<f64>().unwrap() / 1e9
}

fn condition(azure: &Azure, name: &str) -> Option<String> {
    let node = azure.node()?;
    let conditions = node["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == name)?;
    found["status"].as_str().map(str::to_owned)
}

fn until_condition(azure: &Azure, name: &str, status: &str) {
    let start = Instant::now();
    while condition(azure, name).as_deref() != Some(status) {
        let conditions = azure.node().map(|node: Value| node["status"]["conditions"].clone());
        assert!(start.elapsed() < VERDICT, "{name} is not {status}: {conditions:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// containerd's file system finds an error in itself, is remounted read-only, and the kernel says so. Times are from the word that makes it so,
/// which is written in the same moment.
fn break_a_file_system(vm: &mut Vm, azure: &Azure, has_peer: bool) {
    told(
        vm,
        "systemctl stop kubelet containerd && truncate --size 200M /disk.img && mkfs.ext4 -q /disk.img \
         && mount -o loop,errors=remount-ro /disk.img /var/lib/containerd && systemctl start containerd kubelet",
    );
    until_health(vm, |document| document["verdict"]["state"] == "Healthy");
    let mut wanted = vec![(OURS, "StorageReady", "False")];
    if has_peer {
        wanted.push((PEER, "ReadonlyFilesystem", "True"));
    }
    for (who, kind, status) in &wanted {
        assert_ne!(condition(azure, kind).as_deref(), Some(*status), "{who} says it before it is so");
    }
    let start = Instant::now();
    told(vm, "echo injected >/sys/fs/ext4/$(basename $(findmnt -n -o SOURCE /var/lib/containerd))/trigger_fs_error");
    while !wanted.is_empty() {
        wanted.retain(|(who, kind, status)| {
            let is_so = condition(azure, kind).as_deref() == Some(*status);
            if is_so {
                note(format_args!(
                    "{who}: published at most {:.1} s after the kernel's line",
                    start.elapsed().as_secs_f64()
                ));
            }
            !is_so
        });
        assert!(start.elapsed() < VERDICT, "not published: {wanted:?}");
        std::thread::sleep(Duration::from_millis(50)); // between two looks
    }
}
