//! Everything that a node can be asked for beside kubelet: applied by the real programs of a real Debian, kept over a reboot, and put
//! right by the guard when somebody changes it by hand.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nap_vm::{Image, Overlay, Vm, VmLock, artifact};

use crate::azure::{API_SERVER, API_SERVER_NAME, Azure};
use crate::guest::{self, BOOT, COMMAND, json, note, told, wait_for_agent};

/// The guard looks twice a minute; a look here takes seconds, and what fails at first is tried again.
const REPAIR: Duration = Duration::from_secs(240);

/// What the guard is to put back, each with the command that shows how it is and what that must say.
const SETTINGS: &[(&str, &str)] = &[
    ("sysctl -n vm.swappiness", "10"),
    ("sed 's/.*\\[//;s/\\].*//' /sys/kernel/mm/transparent_hugepage/enabled", "madvise"),
    ("sed 's/.*\\[//;s/\\].*//' /sys/kernel/mm/transparent_hugepage/defrag", "never"),
    ("awk 'NR > 1 { print $1, $3 }' /proc/swaps", "/swapfile 16380"),
    ("systemctl is-active swapfile.swap", "active"),
    ("tr '\\0' '\\n' </proc/$(pidof containerd)/environ | grep -c '^HTTPS_PROXY=http://proxy.example:3128$'", "1"),
    (
        "tr '\\0' '\\n' </proc/$(pidof containerd)/environ | grep -c '^NO_PROXY=.*169.254.169.254,168.63.129.16,api.nap-vm.test'",
        "1",
    ),
    ("cat /etc/apt/apt.conf.d/95proxy | head -n 1", "Acquire::http::Proxy \"http://proxy.example:3128\";"),
    ("grep -c '^HTTPS_PROXY=' /etc/environment", "1"),
    ("mkdir -p /run/sshd; sshd -T -C user=azureuser | grep -i '^pubkeyauthentication'", "pubkeyauthentication no"),
    ("systemctl is-active ssh.service; systemctl is-enabled ssh.service", "inactive\ndisabled"),
    ("chage -l azureuser | grep -c never", "3"),
    ("cat /etc/motd", "Property of Example Corp."),
    ("grep '^search' /run/systemd/resolve/resolv.conf", "search corp.example lab.example"),
    ("getent hosts api.nap-vm.test | awk '{ print $1 }'", "168.61.0.10"),
    ("grep -c Periodic /etc/apt/apt.conf.d/99periodic", "4"),
    ("nft list table inet nap_agent | grep -c 'no .* for pods'", "3"),
    ("nft list table inet nap_agent | grep -c notrack", "12"),
    ("systemctl is-active localdns.service", "active"),
    ("ip -brief address show localdns | grep -o '169.254.10.1[01]/32' | xargs", "169.254.10.10/32 169.254.10.11/32"),
    ("grep '^nameserver' /etc/resolv.conf", "nameserver 169.254.10.10"),
    ("grep -A 2 clusterDNS /etc/default/kubeletconfig.json | grep -o '169.254.10.11'", "169.254.10.11"),
    ("systemctl show --property ControlGroup localdns.service", "ControlGroup=/localdns.slice/localdns.service"),
];

/// The same of a node whose resolver is systemd-resolved, as distributions for Azure have it.
const OF_RESOLVED: &[(&str, &str)] = &[
    ("readlink /etc/resolv.conf", STUB),
    ("systemctl is-active systemd-resolved.service localdns.service", "active\nactive"),
    ("grep '^nameserver' /etc/resolv.conf", "nameserver 127.0.0.53"),
    ("grep '^search' /etc/resolv.conf", "search corp.example lab.example"),
    ("resolvectl dns | grep '^Global'", "Global: 169.254.10.10"),
    ("resolvectl domain | grep '^Global' | tr ' ' '\\n' | sort | xargs", "Global: corp.example lab.example ~."),
    ("cat /run/nap-agent/localdns/upstream.conf", "nameserver 168.61.0.2"),
    ("grep -A 2 clusterDNS /etc/default/kubeletconfig.json | grep -o '169.254.10.11'", "169.254.10.11"),
];

const STUB: &str = "../run/systemd/resolve/stub-resolv.conf";

#[test]
fn a_node_with_systemd_resolved_asks_the_cache_and_searches_its_domains() {
    if !guest::is_wanted("NAP_VM_LONG", "make vm-long") {
        return;
    }
    let (lock, image) = (VmLock::take().unwrap(), Image::build().unwrap());
    let azure = Azure::start();
    // QEMU's DHCP names no server; a virtual network's does.
    let overlay = with_programs().link("/etc/resolv.conf", STUB).text(
        "/etc/systemd/network/10-cloud-init-eth0.network.d/dns.conf",
        "[Network]\nDNS=168.61.0.2\n",
        0o644,
    );
    let document = azure
        .bootstrap_with("nodeClass:\n  localDNS: {mode: Required}\n")
        .replace("network:\n  mode: none\n", "network:\n  mode: none\n  searchDomains: [corp.example, lab.example]\n");
    let options = azure.vm("resolved", overlay, &document);
    let mut vm = Vm::start_with(lock, &image, &options).unwrap();

    assert_eq!(wait_for_agent(&mut vm), 0);
    wait_for_resolved(&mut vm);
    guest::assert_nothing_drifted(&mut vm);

    vm.reboot(BOOT).unwrap();
    assert_eq!(wait_for_agent(&mut vm), 0);
    wait_for_resolved(&mut vm);

    // Without the cache, resolved asks whom it asked before.
    told(&mut vm, "systemctl stop nap-agent.service localdns.service");
    let without = told(&mut vm, "resolvectl dns | grep '^Global'; ls /run/systemd/resolved.conf.d");
    assert_eq!(without, "Global:");
    told(&mut vm, "systemctl start localdns.service nap-agent.service");
    wait_for_resolved(&mut vm);

    let both = "rm /etc/systemd/resolved.conf.d/50-nap-agent.conf /run/systemd/resolved.conf.d/90-nap-agent-localdns.conf && \
                systemctl restart systemd-resolved.service && resolvectl domain | grep '^Global'";
    // LocalDNS may be that quick with its own; the guard is not.
    assert!(!told(&mut vm, both).contains("corp.example"), "nobody is as quick as that");
    let took = wait_for_resolved(&mut vm);
    note(format_args!("resolved's settings were put back after {} s", took.as_secs()));
    wait_until_put_back(&mut vm);
}

/// resolved restarts when its settings change, and says nothing meanwhile.
fn wait_for_resolved(vm: &mut Vm) -> Duration {
    let start = Instant::now();
    loop {
        let wrong: Vec<_> = OF_RESOLVED.iter().filter_map(|(command, wanted)| wrong(vm, command, wanted)).collect();
        if wrong.is_empty() {
            return start.elapsed();
        }
        assert!(start.elapsed() < REPAIR, "{wrong:#?}");
    }
}

fn with_programs() -> Overlay {
    let coredns = "/opt/azure/containers/localdns/binary/coredns";
    guest::node().file(coredns, artifact("pretend-coredns").unwrap(), 0o755)
}

#[test]
fn what_a_node_is_asked_for_is_applied_kept_and_put_back() {
    let (lock, image) = (VmLock::take().unwrap(), Image::build().unwrap());
    let azure = Azure::start();
    let certificate = rcgen::generate_simple_self_signed(["nap-vm root".to_owned()]).unwrap().cert.pem();
    let options = azure.vm("settings", with_programs(), &document(&azure, &certificate));
    let mut vm = Vm::start_with(lock, &image, &options).unwrap();

    assert_eq!(wait_for_agent(&mut vm), 0);
    let report = json(&mut vm, "/var/log/azure/aks/provision.json");
    note(format_args!("notes of the boot: {:#}", report["Notes"]));
    assert_settings(&mut vm, &certificate);
    guest::assert_nothing_drifted(&mut vm);
    assert_pods_are_kept_from_the_host(&mut vm);

    vm.reboot(BOOT).unwrap();
    assert_eq!(wait_for_agent(&mut vm), 0);
    assert_settings(&mut vm, &certificate);

    assert_dns_outlives_its_server(&mut vm);
    change_everything_by_hand(&mut vm);
    let took = wait_until_put_back(&mut vm);
    note(format_args!("everything was put back after {} s", took.as_secs()));
    assert_settings(&mut vm, &certificate);
}

fn document(azure: &Azure, certificate: &str) -> String {
    let certificate = STANDARD.encode(certificate);
    let more = format!(
        "proxy: {{http: \"http://proxy.example:3128\", https: \"http://proxy.example:3128\"}}
trust: {{certificates: [{certificate}]}}
os:
  messageOfTheDay: Property of Example Corp.
  ssh: {{enabled: false, publicKeys: false}}
  adminUser: azureuser
  unattendedUpgrades: false
nodeClass:
  localDNS: {{mode: Required}}
  kubelet: {{failSwapOn: false}}
  linuxOSConfig:
    sysctls: {{vmSwappiness: 10}}
    swapFileSize: 16Mi
    transparentHugePageEnabled: madvise
    transparentHugePageDefrag: never
"
    );
    let network = format!(
        "network:\n  mode: none\n  restrictIMDS: true\n  searchDomains: [corp.example, lab.example]\n  apiServerAddress: {}\n",
        API_SERVER.ip()
    );
    let document = azure.bootstrap_with(&more);
    document
        .replace(&format!("https://{API_SERVER}"), &format!("https://{API_SERVER_NAME}:{}", API_SERVER.port()))
        .replace("network:\n  mode: none\n", &network)
}

fn assert_settings(vm: &mut Vm, certificate: &str) {
    let wrong: Vec<_> = SETTINGS.iter().filter_map(|(command, wanted)| wrong(vm, command, wanted)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The second line of a PEM block is as good as its name.
    let line = certificate.lines().nth(1).unwrap();
    assert_eq!(told(vm, &format!("grep -c -F '{line}' /etc/ssl/certs/ca-certificates.crt")), "1");
}

fn wrong(vm: &mut Vm, command: &str, wanted: &str) -> Option<String> {
    let output = vm.run(command, COMMAND).unwrap();
    let found = output.text.trim_end();
    (found != wanted).then(|| format!("{command}: found {found:?}, want {wanted:?}"))
}

/// A network namespace of the guest stands for a pod: what it sends to the host is forwarded.
fn assert_pods_are_kept_from_the_host(vm: &mut Vm) {
    let pod = "ip netns add pod && ip link add veth0 type veth peer name eth0 netns pod && ip addr add 10.99.0.1/24 dev veth0 && \
               ip link set veth0 up && ip -n pod addr add 10.99.0.2/24 dev eth0 && ip -n pod link set eth0 up && \
               ip -n pod route add default via 10.99.0.1 && nft add table ip pod && \
               nft 'add chain ip pod post { type nat hook postrouting priority srcnat; }' && \
               nft add rule ip pod post ip saddr 10.99.0.2 masquerade";
    told(vm, pod);
    let reach =
        |vm: &mut Vm, from: &str| vm.run(&format!("{from} nc -z -w 5 169.254.169.254 80"), COMMAND).unwrap().status;
    assert_eq!(reach(vm, ""), 0, "the node itself reaches the metadata service");
    assert_ne!(reach(vm, "ip netns exec pod"), 0, "a pod does not");
    // The same way is open without the table, so it is the table that closes it.
    told(vm, "systemctl stop nap-agent.service; nft delete table inet nap_agent");
    assert_eq!(reach(vm, "ip netns exec pod"), 0, "without the table a pod does");
    told(vm, "systemctl start nap-agent.service");
    wait_until_put_back(vm);
    assert_ne!(reach(vm, "ip netns exec pod"), 0, "the guard closes it again");
    told(vm, "ip netns del pod; nft delete table ip pod");
}

/// A cache that is killed is back within seconds; one that is stopped leaves the node the resolver that it had.
fn assert_dns_outlives_its_server(vm: &mut Vm) {
    let killed = told(vm, "pidof pretend-coredns coredns");
    told(vm, &format!("kill -9 {killed}"));
    let back =
        "until ss -Hlun 'src 169.254.10.10:53' | grep -q .; do sleep 0.2; done; systemctl is-active localdns.service";
    assert_eq!(told(vm, back), "active");
    told(vm, "systemctl stop nap-agent.service localdns.service");
    assert_eq!(told(vm, "grep '^nameserver' /etc/resolv.conf"), "nameserver 168.61.0.2");
    told(vm, "systemctl start localdns.service nap-agent.service");
}

fn change_everything_by_hand(vm: &mut Vm) {
    let script = "systemctl stop nap-agent.service
         sysctl -q -w vm.swappiness=77
         echo always >/sys/kernel/mm/transparent_hugepage/enabled
         echo always >/sys/kernel/mm/transparent_hugepage/defrag
         swapoff /swapfile && rm /swapfile
         rm /etc/nap-agent/proxy.env /etc/apt/apt.conf.d/95proxy /usr/local/share/ca-certificates/nap-agent-*
         update-ca-certificates >/dev/null 2>&1
         : >/etc/environment
         sed -i /PubkeyAuthentication/d /etc/ssh/sshd_config
         systemctl enable --now --quiet ssh.service
         chage -M 90 -E 2099-01-01 azureuser
         echo hello >/etc/motd
         rm /etc/systemd/resolved.conf.d/50-nap-agent.conf && systemctl restart systemd-resolved.service
         sed -i /api.nap-vm.test/d /etc/hosts
         echo >/etc/apt/apt.conf.d/99periodic
         nft flush table inet nap_agent
         systemctl kill --kill-whom=main --signal=KILL localdns.service
         systemctl start nap-agent.service";
    // update-ca-certificates alone takes half a minute under emulation.
    let changed = vm.run(script, BOOT).unwrap();
    assert_eq!(changed.status, 0, "{}", changed.text);
}

/// How long it took until nothing is drifted.
fn wait_until_put_back(vm: &mut Vm) -> Duration {
    let start = Instant::now();
    loop {
        let status = vm.run("nap-agent status", COMMAND).unwrap();
        if status.status == 0 {
            return start.elapsed();
        }
        assert!(start.elapsed() < REPAIR, "not put back: {}", status.text);
    }
}
