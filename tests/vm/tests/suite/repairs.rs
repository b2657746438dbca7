//! Repairs on a real machine: what hangs, is given up by systemd, or drifts comes back by itself, in the time that is noted.

use std::time::{Duration, Instant};

use nap_vm::{Image, Vm, VmLock};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};

use crate::azure::Azure;
use crate::guest::{self, BOOT, finding, note, now, seconds, text, told, until_health, wait_for_agent};
use crate::noise;

/// systemd gives these services up after three starts; our kubelet never is.
pub(crate) const GIVES_UP: &str = "[Unit]\nStartLimitIntervalSec=1000\nStartLimitBurst=3\n";

/// A time service, as far as systemd can tell; the image has none.
const CHRONYD: &str = "[Service]\nExecStart=/usr/bin/sleep infinity\nRestart=always\nRestartSec=0\n";

/// From the finding to the service that is back, on a machine that emulates its own.
const BACK_WITHIN: f64 = 60.0;

/// How long a disk may be full before the node makes room: ten minutes by the rules.
const ROOM: Duration = Duration::from_secs(900);

/// The guard with a door for the provisioner.
const TLS: &str = "[Service]\nExecStart=\nExecStart=/usr/bin/nap-agent guard --tls-listen 127.0.0.1:20267 \
    --tls-certificate /etc/nap-agent/tls/guard.pem --tls-key /etc/nap-agent/tls/guard-key.pem \
    --tls-client-ca /etc/nap-agent/tls/ca.pem --tls-operator node-provisioner\n";

/// A client certificate of long ago.
const EXPIRED: &str = "/expired.pem";

/// A pod network that is there, as far as containerd looks.
pub(crate) const CNI: &str = r#"{"cniVersion": "1.0.0", "name": "nap-vm", "plugins": [{"type": "bridge", "bridge": "vm0", "ipam": {"type": "host-local", "subnet": "10.99.0.0/24"}}]}"#;

/// A way out of the node's own network; QEMU offers none.
pub(crate) const ROUTER: &str = "[Route]\nGateway=168.63.129.16\n";
pub(crate) const ROUTER_FILE: &str = "/etc/systemd/network/10-cloud-init-eth0.network.d/router.conf";

#[test]
fn what_hangs_fails_or_drifts_is_repaired_by_the_node_itself() {
    let (lock, image) = (VmLock::take().unwrap(), Image::build().unwrap());
    let azure = Azure::start();
    let mut overlay = noise::with_noise(guest::node().text("/etc/cni/net.d/10-nap-vm.conflist", CNI, 0o644));
    overlay = overlay.text(ROUTER_FILE, ROUTER, 0o644);
    overlay = overlay.text("/etc/systemd/system/chronyd.service", CHRONYD, 0o644);
    for unit in ["kubelet", "systemd-networkd", "systemd-resolved", "systemd-journald", "chronyd"] {
        overlay = overlay.text(&format!("/etc/systemd/system/{unit}.service.d/99-gives-up.conf"), GIVES_UP, 0o644);
    }
    let certificates = certificates();
    for (name, pem) in &certificates {
        overlay = overlay.text(&format!("/etc/nap-agent/tls/{name}.pem"), pem.as_str(), 0o600);
    }
    overlay = overlay
        .text("/etc/systemd/system/nap-agent.service.d/50-tls.conf", TLS, 0o644)
        .text(EXPIRED, guest::expired_certificate(), 0o600)
        .text("/usr/lib/nap-vm/image.py", include_str!("repairs/image.py"), 0o644);
    let options = azure.vm("repairs", overlay, &azure.bootstrap());
    let mut vm = Vm::start_with(lock, &image, &options).unwrap();
    assert_eq!(wait_for_agent(&mut vm), 0);
    until_health(&mut vm, |document| document["verdict"]["state"] == "Healthy");

    assert_a_drifted_file_is_put_back(&mut vm);
    assert_a_hung_containerd_is_restarted(&mut vm);
    assert_a_kubelet_that_was_given_up_is_started(&mut vm);
    assert_a_system_service_that_was_given_up_is_started(&mut vm, "systemd-networkd", "network", "NetworkdDown");
    assert_a_route_that_is_gone_comes_back(&mut vm);

    let locked: u64 =
        told(&mut vm, "awk '/VmLck/ {print $2}' /proc/$(systemctl show --property MainPID --value nap-agent)/status")
            .parse()
            .unwrap();
    let resident: u64 =
        told(&mut vm, "awk '/VmRSS/ {print $2}' /proc/$(systemctl show --property MainPID --value nap-agent)/status")
            .parse()
            .unwrap();
    assert!(locked >= resident, "{locked} KiB of {resident} are locked");
    let forked = told(&mut vm, "grep -c . /sys/fs/cgroup/system.slice/nap-agent.service/cgroup.procs");
    assert_eq!(forked, "1", "no repair starts a program of ours");
    note(format_args!("{}", told(&mut vm, "nap-agent repairs")));
    let ended = told(&mut vm, "grep -c '\"outcome\":\"Succeeded\"' /var/lib/nap-agent/repairs.jsonl");
    let begun = told(&mut vm, "grep -vc '\"ended\"' /var/lib/nap-agent/repairs.jsonl");
    assert_eq!((begun.as_str(), ended.as_str()), ("4", "4"));
    noise::assert_load_is_no_fault(&mut vm);

    if guest::is_wanted("NAP_VM_LONG", "make vm-long") {
        told(&mut vm, "systemctl start chronyd");
        for (unit, subsystem, reason) in [
            ("systemd-resolved", "network", "ResolvedDown"),
            ("chronyd", "time", "ChronydDown"),
            ("systemd-journald", "kernel", "JournaldDown"),
        ] {
            assert_a_system_service_that_was_given_up_is_started(&mut vm, unit, subsystem, reason);
        }
        assert_an_expired_certificate_is_replaced(&mut vm);
        assert_room_is_made_on_a_full_disk(&mut vm);
        assert_a_granted_reboot_mends_a_read_only_root(&mut vm);
    }
}

/// The authority, the guard's certificate and key, the operator's: what `openssl s_client` and the guard read.
fn certificates() -> [(&'static str, String); 5] {
    let mut authority = CertificateParams::new(["nap-vm".to_owned()]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let sign = |name: &str, usage| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([format!("{name}.test")]).unwrap();
        params.extended_key_usages = vec![usage];
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, &authority).unwrap().pem(), key.serialize_pem())
    };
    let (guard, guard_key) = sign("guard", ExtendedKeyUsagePurpose::ServerAuth);
    let (operator, operator_key) = sign("node-provisioner", ExtendedKeyUsagePurpose::ClientAuth);
    [
        ("ca", authority.pem()),
        ("guard", guard),
        ("guard-key", guard_key),
        ("operator", operator),
        ("operator-key", operator_key),
    ]
}

/// With the bootstrap token that is in cloud-init's copy of the custom data and no more in ours.
fn assert_an_expired_certificate_is_replaced(vm: &mut Vm) {
    const CURRENT: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";
    let certificate = format!("sha256sum <$(readlink -f {CURRENT})");
    let before = told(vm, &certificate);
    let start = now(vm);
    told(vm, &format!("cat {EXPIRED} >$(readlink -f {CURRENT})"));
    let expired = told(vm, &certificate);
    // It is left a minute to get one by itself.
    assert_repaired(vm, start, "kubelet", "ClientCertificateExpired", None);
    let after = told(vm, &certificate);
    assert!(after != before && after != expired, "kubelet has another certificate");
    told(vm, "until ! test -e /var/lib/kubelet/bootstrap-kubeconfig; do sleep 0.2; done");
}

/// containerd on a disk that an image which nobody uses and something else fill; kubelet, which is none, collects no images.
fn assert_room_is_made_on_a_full_disk(vm: &mut Vm) {
    told(
        vm,
        "systemctl stop kubelet containerd && truncate -s 256M /var/tmp/images.img && mkfs.ext4 -q /var/tmp/images.img \
         && mount -o loop /var/tmp/images.img /var/lib/containerd && systemctl start containerd kubelet",
    );
    told(
        vm,
        "python3 /usr/lib/nap-vm/image.py /var/tmp/image.tar && ctr --namespace k8s.io images import /var/tmp/image.tar >/dev/null",
    );
    let image = "ctr --namespace k8s.io images list --quiet | grep -q example.test/unused";
    told(vm, image);
    until_health(vm, |document| document["verdict"]["state"] == "Healthy");
    let start = now(vm);
    told(vm, "dd if=/dev/zero of=/var/lib/containerd/fill bs=1M 2>/dev/null; true");
    until_health(vm, |document| finding(document, "DiskFull").is_some());
    // kubelet's own collection comes first.
    assert_eq!(vm.run(&format!("while {image}; do sleep 1; done"), ROOM).unwrap().status, 0);
    assert_repaired(vm, start, "storage", "DiskFull", None);
    note(format_args!(
        "room: {}",
        told(vm, "df -h /var/lib/containerd | tail -n 1; tail -n 1 /var/lib/nap-agent/repairs.jsonl")
    ));
}

/// No record of it can be made on that disk: the provisioner's grant is for this boot, and is enough.
fn assert_a_granted_reboot_mends_a_read_only_root(vm: &mut Vm) {
    let boot_id = vm.boot_id().unwrap().to_owned();
    // The kernel's own way: what writes does not hold it up.
    told(vm, "echo u >/proc/sysrq-trigger; while touch /var/tmp/probe 2>/dev/null; do sleep 0.2; done");
    let start = now(vm);
    let document = until_health(vm, |document| document["verdict"]["state"] == "NeedsReboot");
    assert_eq!(document["verdict"]["reason"], "RootFilesystemReadOnly", "{document:#}");
    let needs_reboot = now(vm) - start;
    let (vm_id, boot) = (text(&document["node"]["vmId"]), text(&document["node"]["bootId"]));
    let intent = format!(r#"{{"id":"g-1","node":{{"vmId":"{vm_id}","bootId":"{boot}"}},"intent":"GrantReboot"}}"#);
    let request = format!(
        r"POST /v1/intents HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{intent}",
        intent.len()
    );
    let grant = format!(
        "cd /etc/nap-agent/tls; printf '{request}' | openssl s_client -quiet -connect 127.0.0.1:20267 -tls1_3 -CAfile ca.pem \
         -cert operator.pem -key operator-key.pem >/dev/ttyS0 2>&1"
    );
    let granted = Instant::now();
    vm.run_into_next_boot(&grant, BOOT).unwrap();
    let console = vm.console();
    assert!(console.contains(r#""taken":"Now""#), "{}", &console[console.len().saturating_sub(3000)..]);
    assert_ne!(vm.boot_id().unwrap(), boot_id);
    assert_eq!(wait_for_agent(vm), 0);
    until_health(vm, |document| document["verdict"]["state"] == "Healthy");
    note(format_args!(
        "| RootFilesystemReadOnly | NeedsReboot after {needs_reboot:.0} s | granted, and healthy after the reboot {:.0} s later |",
        granted.elapsed().as_secs_f64()
    ));
}

fn assert_a_drifted_file_is_put_back(vm: &mut Vm) {
    let path = "/etc/kubernetes/azure.json";
    let wanted = told(vm, &format!("sha256sum {path}"));
    told(vm, &format!("echo drifted >{path}"));
    let start = Instant::now();
    while told(vm, &format!("sha256sum {path}")) != wanted {
        assert!(start.elapsed() < BOOT, "{path} stays as it was made");
    }
    note(format_args!("| drifted file | put back after {:.0} s |", start.elapsed().as_secs_f64()));
}

fn assert_a_hung_containerd_is_restarted(vm: &mut Vm) {
    let start = now(vm);
    told(vm, "kill -STOP $(systemctl show --property MainPID --value containerd)");
    assert_repaired(vm, start, "runtime", "ContainerdUnresponsive", Some("containerd"));
    let stacks = "journalctl --unit containerd --boot --output cat --grep 'BEGIN goroutine stack dump' | head -n 1";
    assert!(!told(vm, stacks).is_empty(), "containerd wrote no stacks");
    let bundle = told(vm, "nap-agent bundle --list | tail -n 1");
    assert!(bundle.ends_with("-RestartContainerd.tar.gz"), "{bundle}");
    for (part, wanted) in [("journal.txt", "nap-agent"), ("kernel.txt", "Linux version"), ("tasks.txt", "containerd T")]
    {
        told(vm, &format!("tar -xzOf {bundle} {part} | grep -q '{wanted}'"));
    }
    note(format_args!("{}", told(vm, &format!("tar -tzvf {bundle}; ls -l {bundle}"))));
}

fn assert_a_kubelet_that_was_given_up_is_started(vm: &mut Vm) {
    let start = now(vm);
    let kill = "while ! systemctl is-failed --quiet kubelet || systemctl show kubelet --property SubState | grep -q auto-restart; \
                do systemctl kill --kill-whom=main --signal=KILL kubelet 2>/dev/null; sleep 0.2; done; systemctl show kubelet --property Result,NRestarts | xargs";
    let failed = vm.run(kill, BOOT).unwrap();
    note(format_args!("kubelet: {}", failed.text.trim_end()));
    assert_repaired(vm, start, "kubelet", "KubeletDown", Some("kubelet"));
}

fn assert_a_system_service_that_was_given_up_is_started(vm: &mut Vm, unit: &str, subsystem: &str, reason: &str) {
    let start = now(vm);
    let kill = format!(
        "until systemctl is-failed --quiet {unit}; do systemctl kill --signal=KILL {unit} 2>/dev/null; sleep 0.2; done"
    );
    assert_eq!(vm.run(&kill, BOOT).unwrap().status, 0);
    assert_repaired(vm, start, subsystem, reason, Some(unit));
}

/// networkd runs and knows of nothing.
fn assert_a_route_that_is_gone_comes_back(vm: &mut Vm) {
    // Who added it, and that its gateway needs no proof, is not part of what counts.
    let routes = "ip -4 -o route show default | sed 's/ proto [a-z]*//; s/ onlink//' | xargs";
    let before = told(vm, routes);
    assert!(before.starts_with("default via"), "{before}");
    let start = now(vm);
    told(vm, "while ip -4 route del default 2>/dev/null; do :; done");
    assert_eq!(told(vm, routes), "");
    assert_repaired(vm, start, "network", "DefaultRouteMissing", None);
    assert_eq!(told(vm, routes), before);
}

/// Waits until the node is healthy again, and looks how it came to that, and when the unit was back. Times are the guest's own.
fn assert_repaired(vm: &mut Vm, start: f64, subsystem: &str, reason: &str, unit: Option<&str>) {
    let mut told_states = Vec::new();
    let mut found = None;
    let document = until_health(vm, |document| {
        let state = text(&document["verdict"]["state"]).to_owned();
        if told_states.last() != Some(&state) {
            told_states.push(state);
        }
        found = found.or_else(|| finding(document, reason).map(|finding| seconds(&finding["since"])));
        found.is_some() && document["verdict"]["state"] == "Healthy"
    });
    let part = document["subsystems"].as_array().unwrap().iter().find(|one| one["name"] == subsystem).unwrap();
    let repair = part["repairs"].as_array().unwrap().last().unwrap();
    assert_eq!((&repair["reason"], &repair["result"]), (&reason.into(), &"Succeeded".into()), "{document:#}");
    assert!(told_states.contains(&"Repairing".to_owned()), "{told_states:?}");
    assert!(!told_states.contains(&"NeedsReplacement".to_owned()), "{told_states:?}");
    let found = found.expect("it was found");
    note(format_args!(
        "| {reason} | found after {:.0} s | repair begun {:.0} s later | healthy after {:.0} s | {told_states:?} |",
        found - start,
        seconds(&repair["startedAt"]) - found,
        seconds(&repair["finishedAt"]) - start,
    ));
    let Some(unit) = unit else { return };
    let active = told(vm, &format!("systemctl show {unit} --property ActiveEnterTimestamp --value --timestamp=unix"));
    let back: f64 = active.trim_start_matches('@').parse().unwrap();
    note(format_args!("{unit}: back {:.0} s after the finding", back - found));
    assert!(back - found < BACK_WITHIN, "{unit} was back {} s after the finding", back - found);
}
