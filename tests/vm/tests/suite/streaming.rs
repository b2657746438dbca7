//! Artifact streaming on a real machine: real systemd, real containerd, the kernel's own modules, with a snapshotter and a mirror of ours
//! in the units of AKS' packages. What each service does when it is killed, hangs or is missing, and what a reboot does.

use std::time::{Duration, Instant};

use nap_model::os::{STREAMING_DEVICES, STREAMING_MIRROR, STREAMING_SNAPSHOTTER};
use nap_vm::{Image, Overlay, Vm, VmLock, artifact};

use crate::azure::Azure;
use crate::guest::{self, BOOT, json, note, told, until_health, wait_for_agent};

/// What the node class asks for, and a pause image that is in the guest.
const STREAMING: &str =
    "containerd:\n  sandboxImage: 127.0.0.1:5999/test/pause:1\nnodeClass:\n  artifactStreaming: {enabled: true}\n";

const IMAGE: &str = "127.0.0.1:5999/test/app:1";
const HOSTS: &str = "/etc/containerd/certs.d/_default/hosts.toml";

/// The caches have 12 GiB of room, as far as the file system says: the guest's disk has 4.
const CACHES: &str =
    "[Mount]\nWhat=tmpfs\nWhere=/opt/overlaybd\nType=tmpfs\nOptions=size=12G\n[Install]\nWantedBy=local-fs.target\n";

/// A hung snapshotter is found in half a minute, suspected for two minutes at most, restarted, and under emulation all takes longer.
const HUNG_SNAPSHOTTER: Duration = Duration::from_secs(420);

/// systemd restarts what was killed after a second.
const KILLED: Duration = Duration::from_secs(30);

/// Two restarts, what each is watched for, and the guard's look.
const LEFT: Duration = Duration::from_secs(1800);

const SNAPSHOTTER: &str = "/usr/bin/pretend-snapshotter /run/overlaybd-snapshotter/overlaybd.sock \
                           /var/lib/containerd/io.containerd.snapshotter.v1.overlaybd";

/// Removed first, so that there is something to unpack.
const PULL: &str = "ctr --namespace k8s.io images rm --sync 127.0.0.1:5999/test/second:1 >/dev/null 2>&1 || true; \
                    timeout 20 ask-cri pull 127.0.0.1:5999/test/second:1";

/// Two looks of the guard, and two questions in each.
const MIRROR: Duration = Duration::from_secs(120);

fn service(program: &str) -> String {
    // As in the packages: no order among themselves, none against containerd.
    format!(
        "[Unit]\nDefaultDependencies=no\nAfter=local-fs.target\n[Service]\nExecStart={program}\nRestart=always\nRestartSec=1s\n\
         KillMode=process\n[Install]\nWantedBy=multi-user.target\n"
    )
}

fn overlay() -> Overlay {
    let unit = |name: &str| format!("/usr/lib/systemd/system/{name}");
    let mut overlay = guest::node();
    for program in ["pretend-snapshotter", "pretend-registry", "ask-cri"] {
        overlay = overlay.file(&format!("/usr/bin/{program}"), artifact(program).unwrap(), 0o755);
    }
    let registry = service("/usr/bin/pretend-registry 5999 test/app:1 test/pause:1 test/second:1");
    let large = service("/usr/bin/pretend-registry 5998 test/large:1+24 test/larger:1+25");
    overlay
        .text(&unit(STREAMING_DEVICES), service("/usr/bin/sleep infinity"), 0o644)
        .text(&unit(STREAMING_SNAPSHOTTER), service(&format!("{SNAPSHOTTER} plain")), 0o644)
        .text(&unit(STREAMING_MIRROR), service("/usr/bin/pretend-registry 8578 test/mirrored:1"), 0o644)
        .text(&unit("nap-vm-registry.service"), registry, 0o644)
        .link("/etc/systemd/system/multi-user.target.wants/nap-vm-registry.service", &unit("nap-vm-registry.service"))
        .text(&unit("nap-vm-large.service"), large, 0o644)
        .text("/etc/containerd/certs.d/127.0.0.1:5998/hosts.toml", "server = \"http://127.0.0.1:5998\"\n", 0o644)
        .text(&unit("opt-overlaybd.mount"), CACHES, 0o644)
        .link("/etc/systemd/system/local-fs.target.wants/opt-overlaybd.mount", &unit("opt-overlaybd.mount"))
        .text("/etc/containerd/certs.d/127.0.0.1:5999/hosts.toml", "server = \"http://127.0.0.1:5999\"\n", 0o644)
}

#[test]
fn a_node_streams_survives_its_services_and_a_reboot_and_does_without_them() {
    if !guest::is_wanted("NAP_VM_LONG", "make vm-long") {
        return;
    }
    let azure = Azure::start();
    let mut vm = streams("streaming", &azure);
    told(&mut vm, &format!("ask-cri pull {IMAGE}"));
    told(&mut vm, &format!("ask-cri run first {IMAGE}"));

    // Without an order, a containerd that is first would list nothing.
    vm.reboot(BOOT).unwrap();
    assert_eq!(wait_for_agent(&mut vm), 0);
    assert_streams(&mut vm);
    assert!(told(&mut vm, "ask-cri images").contains(IMAGE), "the images are listed after a reboot");

    assert_pulls_come_back(&mut vm, STREAMING_SNAPSHOTTER, "KILL", KILLED);
    assert_pulls_come_back(&mut vm, STREAMING_DEVICES, "KILL", KILLED);
    assert_pulls_come_back(&mut vm, STREAMING_MIRROR, "KILL", KILLED);
    assert_the_mirror_is_withdrawn_and_comes_back(&mut vm);
    assert_pulls_come_back(&mut vm, STREAMING_SNAPSHOTTER, "STOP", HUNG_SNAPSHOTTER);

    assert_streaming_is_left_when_the_snapshotter_stays_silent(&mut vm);

    told(&mut vm, "mv /usr/bin/pretend-snapshotter /usr/bin/pretend-snapshotter.gone");
    vm.reboot(BOOT).unwrap();
    assert_eq!(wait_for_agent(&mut vm), 0, "a node without the program is a node");
    let report = json(&mut vm, "/var/log/azure/aks/provision.json")["Notes"].to_string();
    assert!(report.contains("ArtifactStreamingUnavailable: ServiceMissing"), "{report}");
    let label = told(&mut vm, "grep -c artifactstreaming-enabled /etc/default/kubelet || true");
    assert_eq!(label, "0");
    told(&mut vm, &format!("ask-cri pull {IMAGE}"));
    told(&mut vm, &format!("ask-cri run after {IMAGE}"));
}

#[test]
fn a_device_that_hangs_is_seen_and_streaming_saves_time() {
    if !guest::is_wanted("NAP_VM_LONG", "make vm-long") {
        return;
    }
    let azure = Azure::start();
    let mut vm = streams("streaming-devices", &azure);
    assert_a_device_that_hangs_is_seen(&mut vm);
    measure(&mut vm);
}

/// A node that has booted and streams.
fn streams(name: &str, azure: &Azure) -> Vm {
    let (lock, image) = (VmLock::take().unwrap(), Image::build().unwrap());
    let mut options = azure.vm(name, overlay(), &azure.bootstrap_with(STREAMING));
    (options.cpus, options.memory_mib) = (4, 8192);
    let mut vm = Vm::start_with(lock, &image, &options).unwrap();
    assert_eq!(wait_for_agent(&mut vm), 0);
    assert_streams(&mut vm);
    vm
}

fn assert_streams(vm: &mut Vm) {
    told(vm, "grep -qx 'snapshotter = \"overlaybd\"' /etc/containerd/config.toml");
    told(vm, "grep -q artifactstreaming-enabled=true /etc/default/kubelet");
    told(vm, "grep -q ^target_core_user /proc/modules");
    told(vm, "systemctl show containerd --property ExecStartPre | grep -q 'streaming wait'");
    told(vm, &format!("grep -q localhost:8578 {HOSTS}"));
}

/// Sends a signal to a service's main process, and pulls until it works.
fn assert_pulls_come_back(vm: &mut Vm, unit: &str, signal: &str, limit: Duration) {
    let main = format!("systemctl show {unit} --property MainPID --value");
    let before = told(vm, &main);
    told(vm, &format!("systemctl kill --kill-whom=main --signal={signal} {unit}"));
    // A pull that does without it says nothing of the one that comes after it.
    let pull = format!("pid=$({main}); [ $pid != 0 ] && [ $pid != {before} ] && {{ {PULL}; }}");
    let start = Instant::now();
    while vm.run(&pull, BOOT).unwrap().status != 0 {
        assert!(start.elapsed() < limit, "{unit} {signal}: no pull works: {}", told(vm, "nap-agent repairs"));
    }
    note(format_args!("| {unit} | {signal} | a pull worked after {:.0} s |", start.elapsed().as_secs_f64()));
}

/// A disk of the kernel's own behind the target that serves streamed images, which stops to answer and answers again. Source: scsi_debug(4);
/// the kernel's Documentation/target.
fn assert_a_device_that_hangs_is_seen(vm: &mut Vm) {
    const STALLED: &str = "StreamedDeviceStalled";
    const DISK: &str = "modprobe -a scsi_debug target_core_iblock && udevadm settle && cd /sys/kernel/config/target && \
        disk=$(basename /sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*:*/block/*) && \
        mkdir -p core/iblock_0/disk && echo udev_path=/dev/$disk >core/iblock_0/disk/control && echo 1 >core/iblock_0/disk/enable && \
        port=loopback/naa.5001405000000001/tpgt_1 && mkdir -p $port/lun/lun_0 && echo naa.5001405000000002 >$port/nexus && \
        ln -s $PWD/core/iblock_0/disk $port/lun/lun_0/disk && udevadm settle && grep tcm_loopback /sys/class/scsi_host/*/proc_name";
    note(format_args!("{}", told(vm, DISK)));
    let switch = |opts: u8, every: u8| {
        let at = "/sys/bus/pseudo/drivers/scsi_debug";
        format!("echo {opts} >{at}/opts; echo {every} >{at}/every_nth")
    };
    told(vm, &switch(4, 1));
    let start = guest::now(vm);
    let document = until_health(vm, |document| guest::finding(document, STALLED).is_some());
    assert_eq!(document["verdict"]["state"], "Degraded", "{document:#}");
    let seen = guest::now(vm) - start;
    // The kernel gives up a disk that did not answer for long; somebody has to say that it is back.
    let back = "for state in /sys/class/scsi_device/*/device/state; do grep -q offline $state && echo running >$state; done; true";
    told(vm, &format!("{}; {back}", switch(0, 0)));
    let start = guest::now(vm);
    until_health(vm, |document| {
        document["verdict"]["state"] == "Healthy" || guest::finding(document, STALLED).is_none()
    });
    note(format_args!("| {STALLED} | seen after {seen:.0} s | cleared after {:.0} s |", guest::now(vm) - start));
}

/// From the pull to the first process of a container, of an image of 24 MiB whole, and of one of 25 with its layers there before it is pulled. And
/// small pulls in turn with the guard, which stands in nobody's way, and without.
fn measure(vm: &mut Vm) {
    let start_of = |image: &str| {
        format!(
            "sync; echo 3 >/proc/sys/vm/drop_caches; a=$(date +%s%N); ask-cri pull 127.0.0.1:5998/test/{image}:1 >/dev/null && \
             ask-cri run {image} 127.0.0.1:5998/test/{image}:1 >/dev/null && echo $(( ($(date +%s%N) - a) / 1000000 ))"
        )
    };
    let blobs = "find /var/lib/containerd/io.containerd.content.v1.content/blobs -size +20M | wc -l";
    let milliseconds = |vm: &mut Vm, command: &str| {
        let output = vm.run(command, BOOT).unwrap();
        assert_eq!(output.status, 0, "{command}: {}", output.text);
        output.text.trim().parse::<f64>().unwrap()
    };
    // It makes the bytes up first.
    let start = "systemctl start nap-vm-large; until (exec 3<>/dev/tcp/127.0.0.1/5998) 2>/dev/null; do sleep 0.2; done";
    assert_eq!(vm.run(start, BOOT).unwrap().status, 0);
    let whole = milliseconds(vm, &start_of("large"));
    assert_eq!(told(vm, blobs), "1");
    let remote = format!(
        "pretend-registry lay-out /var/lib/containerd/io.containerd.snapshotter.v1.overlaybd/layers test/larger:1+25; \
         {}; nap-agent streaming wait --timeout 30",
        mode("remote")
    );
    told(vm, &remote);
    let streamed = milliseconds(vm, &start_of("larger"));
    assert_eq!(told(vm, blobs), "1", "the streamed image's layer was not fetched");
    note(format_args!(
        "24 MiB from pull to process: whole {whole} ms; 25 MiB streamed {streamed} ms, ratio {:.2}",
        streamed / whole
    ));
    let pulls = format!(
        "(set -e; a=$(date +%s%N); for i in $(seq 5); do {PULL} >/dev/null; done; echo $(( ($(date +%s%N) - a) / 5000000 )))"
    );
    milliseconds(vm, &pulls); // what is read and started for the first time
    let starts = "systemctl show nap-agent --property NRestarts --value";
    let started = told(vm, starts);
    let used =
        |vm: &mut Vm| told(vm, "systemctl show nap-agent --property CPUUsageNSec --value").parse::<f64>().unwrap();
    let before = used(vm);
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..4 {
        // It stands still, for less than its watchdog allows, and takes up again: no start of its own is measured.
        for (took, signal) in took.iter_mut().zip(["CONT", "STOP"]) {
            told(vm, &format!("systemctl kill --kill-whom=main --signal={signal} nap-agent"));
            took.push(milliseconds(vm, &pulls));
        }
    }
    told(vm, "systemctl kill --kill-whom=main --signal=CONT nap-agent");
    assert_eq!(told(vm, starts), started, "its watchdog ended it");
    let [guarded, alone] = took.each_ref().map(|took| took.iter().sum::<f64>() / 4.0);
    // All that it can cost is its share of the emulated processors: no pull asks it anything.
    let share = (used(vm) - before) / 1e6 / (guarded * 20.0);
    note(format_args!(
        "a small pull, with the guard {guarded:.0} ms, without {alone:.0} ms, ratio {:.2}; {took:?}; the guard used {share:.2} of a processor",
        guarded / alone
    ));
    assert!(guarded < 2.0 * alone, "the guard costs as much as a pull");
}

/// Makes the snapshotter another from its next start on, and starts it.
fn mode(mode: &str) -> String {
    format!(
        "mkdir -p /etc/systemd/system/{STREAMING_SNAPSHOTTER}.d; \
         printf '[Service]\\nExecStart=\\nExecStart={SNAPSHOTTER} {mode}\\n' >/etc/systemd/system/{STREAMING_SNAPSHOTTER}.d/mode.conf; \
         systemctl daemon-reload; systemctl kill --kill-whom=main --signal=KILL {STREAMING_SNAPSHOTTER}"
    )
}

/// Two restarts that help nothing, and the node goes on without; what runs, runs on.
fn assert_streaming_is_left_when_the_snapshotter_stays_silent(vm: &mut Vm) {
    told(vm, &format!("ask-cri run second {IMAGE}"));
    let running = "ctr --namespace k8s.io tasks list --quiet | sort | xargs";
    let before = told(vm, running);
    told(vm, &mode("hang"));
    let start = Instant::now();
    while vm.run("grep -qx 'snapshotter = \"overlaybd\"' /etc/containerd/config.toml", BOOT).unwrap().status == 0 {
        assert!(start.elapsed() < LEFT, "streaming is not left: {}", told(vm, "nap-agent repairs"));
    }
    let left = start.elapsed().as_secs_f64();
    while vm.run(PULL, BOOT).unwrap().status != 0 {
        assert!(start.elapsed() < LEFT, "no pull works: {}", told(vm, "nap-agent status"));
    }
    note(format_args!(
        "| {STREAMING_SNAPSHOTTER} | hangs for ever | left after {left:.0} s | a pull worked after {:.0} s |",
        start.elapsed().as_secs_f64()
    ));
    assert_eq!(told(vm, running), before, "what ran runs on");
    note(format_args!("{}", told(vm, "nap-agent repairs")));
    let succeeded = |vm: &mut Vm| {
        let last = told(vm, "grep LeaveStreaming /var/lib/nap-agent/repairs.jsonl | tail -n 1");
        last.contains(r#""outcome":"Succeeded""#)
    };
    let ended = Instant::now();
    while !succeeded(vm) {
        assert!(ended.elapsed() < LEFT, "{}", told(vm, "nap-agent repairs"));
    }
    let restarts = told(vm, "grep -c 'RestartSnapshotter.*\"outcome\"' /var/lib/nap-agent/repairs.jsonl");
    assert!(restarts.parse::<u32>().unwrap() >= 2, "{restarts} restarts came before it");
}

fn assert_the_mirror_is_withdrawn_and_comes_back(vm: &mut Vm) {
    let before = told(vm, &format!("sha256sum {HOSTS}"));
    for (signal, condition) in [("STOP", format!("test ! -e {HOSTS}")), ("CONT", format!("test -e {HOSTS}"))] {
        told(vm, &format!("systemctl kill --kill-whom=main --signal={signal} {STREAMING_MIRROR}"));
        let start = Instant::now();
        while vm.run(&condition, BOOT).unwrap().status != 0 {
            assert!(start.elapsed() < MIRROR, "{condition}: {}", told(vm, "journalctl --unit nap-agent | tail -n 20"));
        }
        note(format_args!(
            "| {STREAMING_MIRROR} | {signal} | {condition} after {:.0} s |",
            start.elapsed().as_secs_f64()
        ));
    }
    assert_eq!(told(vm, &format!("sha256sum {HOSTS}")), before);
}
