//! The packet filter against a real kernel: in network and mount namespaces of the test's own making, with the plan's own rules.
//!
//! Needs root, `nft` and `ip`; without them each test says SKIPPED and passes. Nothing outside the namespaces is touched: `/etc`,
//! `/run` and `/var` are empty file systems of the test's thread, and go with it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nap_host::cmd::programs_started;
use nap_host::executor::{Executor, compare};
use nap_host::journal::Journal;
use nap_host::root::Root;
use nap_model::config::{NodeConfig, decode};
use nap_model::facts::Facts;
use nap_model::os;
use nap_model::plan::{Plan, keep};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

const METADATA: &str = "169.254.169.254:80";
const WIRE_SERVER: [&str; 2] = ["168.63.129.16:80", "168.63.129.16:32526"];
/// Pods may ask Azure's DNS.
const AZURE_DNS: &str = "168.63.129.16:53";
const NODE: &str = "10.224.0.7";
const STAMP: &str = "/run/nap-agent/stamps/packet-filter";

/// One at a time: the count of started programs is the process's.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs a test on a machine of its own, in a thread that is the only one to live there.
#[expect(clippy::print_stderr, reason = "a test that was not done says so")]
fn on_a_machine(test: impl FnOnce(&Machine) + Send + 'static) {
    let missing = ["/usr/sbin/nft", "/usr/sbin/ip"].into_iter().find(|program| !Path::new(program).exists());
    if let Some(program) = missing {
        return eprintln!("SKIPPED: {program} is missing (tests/setup.sh installs it)");
    }
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(|failed| failed.into_inner());
    let tested = thread::spawn(|| {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS) {
            return eprintln!("SKIPPED: a namespace of its own needs root: {errno}");
        }
        test(&Machine::new());
    });
    let result = tested.join();
    drop(guard);
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

struct Machine {
    root: Arc<Root>,
    runtime: tokio::runtime::Runtime,
}

impl Machine {
    fn new() -> Self {
        let nothing: Option<&str> = None;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
        let libraries = fs::read("/etc/ld.so.cache").unwrap_or_default();
        for directory in ["/etc", "/run", "/var"] {
            mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), nothing).unwrap();
        }
        fs::write("/etc/ld.so.cache", libraries).unwrap();
        let root = Arc::new(Root::open(Path::new("/")).unwrap());
        assert!(root.is_machine());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        run("ip link set lo up");
        run("nft add table ip foreign");
        run("nft add chain ip foreign input { type filter hook input priority 0; }");
        run("nft add rule ip foreign input ct state established accept");
        Self { root, runtime }
    }

    /// What applying changed.
    fn apply(&self, plan: &Plan) -> Vec<String> {
        let journal = Arc::new(Journal::open(&self.root, "b", "boot").unwrap());
        let executor = Executor::new(Arc::clone(&self.root), journal, Duration::from_secs(5));
        let mut changed = Vec::new();
        for stage in &plan.stages {
            let applied = self.runtime.block_on(executor.apply(stage)).unwrap();
            assert_eq!(applied.degraded, []);
            changed.extend(applied.changed);
        }
        changed
    }

    /// What a look finds, and that it starts no program.
    fn drift(&self, plan: &Plan) -> Vec<String> {
        let before = programs_started();
        let found = self.runtime.block_on(compare(&self.root, plan));
        assert_eq!(programs_started(), before);
        assert!(found.unknown.is_empty(), "{:?}", found.unknown);
        found.differences.into_iter().map(|difference| format!("{}: {}", difference.step, difference.summary)).collect()
    }
}

/// The plan's packet filter for a node with LocalDNS.
fn plan(restrict_imds: bool) -> Plan {
    let document =
        include_str!("../../model/testdata/none.yaml").replace("maxPods", "localDNS: {mode: Required}, maxPods");
    let decoded = decode(document.as_bytes()).unwrap().config.unwrap();
    let mut config: NodeConfig = decoded;
    config.network.restrict_imds = restrict_imds;
    let mut facts: Facts = serde_json::from_str(include_str!("../../model/testdata/debian-13.json")).unwrap();
    facts.present = [os::NFT, os::COREDNS].map(str::to_owned).into();
    facts.primary_address = Some(NODE.parse().unwrap());
    let mut plan = keep(&config, &facts).unwrap();
    for stage in &mut plan.stages {
        stage.steps.retain(|step| step.id.starts_with("packet-filter."));
    }
    plan
}

/// Runs a program with blanks between its arguments; its output.
fn run(line: &str) -> String {
    let mut words = line.split(' ');
    let program = words.next().unwrap();
    let output = Command::new(format!("/usr/sbin/{program}")).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Does something in a network namespace that `ip netns` made. A socket stays where it was made.
fn within<T: Send>(namespace: &str, action: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    thread::scope(|scope| {
        let there = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            action()
        });
        there.join().unwrap()
    })
}

/// Whether a connection comes about; packets that are dropped end in a timeout and in nothing else.
fn reaches(address: &str) -> bool {
    let address: SocketAddr = address.parse().unwrap();
    match TcpStream::connect_timeout(&address, Duration::from_millis(700)) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::TimedOut => false,
        Err(error) => panic!("{address}: {error}"),
    }
}

#[test]
fn whatever_is_changed_in_the_table_is_seen_and_put_back() {
    on_a_machine(|machine| {
        let plan = plan(true);
        assert_eq!(machine.apply(&plan), ["packet-filter.rules", "packet-filter.loaded"]);
        assert_eq!(machine.drift(&plan), [""; 0]);
        assert_eq!(machine.apply(&plan), [""; 0]);
        let foreign = run("nft list table ip foreign");
        let table = run("nft list table inet nap_agent");

        let listed = run("nft -a list chain inet nap_agent forward");
        let imds = listed.lines().find(|line| line.contains("169.254.169.254")).unwrap();
        let delete = format!("nft delete rule inet nap_agent forward handle {}", imds.rsplit(' ').next().unwrap());
        let changed = "somebody changed table inet nap_agent";
        for (command, why) in [
            (delete.as_str(), changed),
            ("nft add rule inet nap_agent forward accept", changed),
            ("nft insert rule inet nap_agent forward accept", changed),
            ("nft add chain inet nap_agent more", changed),
            ("nft add chain inet nap_agent forward { policy drop; }", changed),
            ("nft add table inet nap_agent { flags dormant; }", changed),
            ("nft flush chain inet nap_agent output", changed),
            ("nft flush table inet nap_agent", changed),
            ("nft delete table inet nap_agent", "there is no table inet nap_agent"),
        ] {
            run(command);
            let drift = format!("packet-filter.loaded: load /etc/nap-agent/packet-filter.nft: {why}");
            assert_eq!(machine.drift(&plan), [drift], "{command}");
            assert_eq!(machine.apply(&plan), ["packet-filter.loaded"], "{command}");
            assert_eq!(machine.drift(&plan), [""; 0], "{command}");
            assert_eq!(run("nft list table inet nap_agent"), table, "{command}");
        }
        assert_eq!(run("nft list table ip foreign"), foreign);

        // Neither other people's tables nor the same rules loaded by hand are drift.
        run("nft add rule ip foreign input accept");
        run("nft add table inet foreign");
        run("nft add chain inet foreign forward { type filter hook forward priority 0; }");
        run("nft -f /etc/nap-agent/packet-filter.nft");
        assert_eq!(machine.drift(&plan), [""; 0]);
    });
}

#[test]
fn what_was_not_loaded_by_us_is_loaded_again() {
    on_a_machine(|machine| {
        let plan = plan(true);
        machine.apply(&plan);
        fs::remove_file(STAMP).unwrap(); // killed between the load and the note
        assert_eq!(machine.apply(&plan), ["packet-filter.loaded"]);
        // Killed between the file and the load, with other rules from before.
        let other = self::plan(false);
        let files = other.stages.iter().filter(|stage| stage.name == "files").cloned();
        assert_eq!(machine.apply(&Plan { stages: files.collect(), notes: Vec::new() }), ["packet-filter.rules"]);
        let drift = "packet-filter.loaded: load /etc/nap-agent/packet-filter.nft: other rules were loaded";
        assert_eq!(machine.drift(&other), [drift]);
        assert_eq!(machine.apply(&other), ["packet-filter.loaded"]);
        assert!(!run("nft list table inet nap_agent").contains("169.254.169.254"));
    });
}

#[test]
fn pods_reach_neither_the_metadata_service_nor_the_wire_server_and_the_node_does() {
    on_a_machine(|machine| {
        for line in [
            "ip netns add pod",
            "ip netns add azure",
            "ip link add pod0 type veth peer name eth0 netns pod",
            "ip link add azure0 type veth peer name eth0 netns azure",
            "ip addr add 10.244.0.1/24 dev pod0",
            "ip addr add 10.224.0.7/24 dev azure0",
            "ip link set pod0 up",
            "ip link set azure0 up",
            "ip -n pod addr add 10.244.0.2/24 dev eth0",
            "ip -n pod link set eth0 up",
            "ip -n pod route add default via 10.244.0.1",
            "ip -n azure link set lo up",
            "ip -n azure addr add 169.254.169.254/32 dev lo",
            "ip -n azure addr add 168.63.129.16/32 dev lo",
            "ip -n azure addr add 10.224.0.1/24 dev eth0",
            "ip -n azure link set eth0 up",
            "ip -n azure route add 10.244.0.0/24 via 10.224.0.7",
            "ip route add default via 10.224.0.1",
        ] {
            run(line);
        }
        // Of this thread's network namespace, as all of /proc/sys/net.
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let all = [METADATA, WIRE_SERVER[0], WIRE_SERVER[1], AZURE_DNS];
        let _servers = within("azure", || all.map(|address| TcpListener::bind(address).unwrap()));
        let pod = || within("pod", || all.map(reaches));
        assert_eq!(pod(), [true; 4], "without the filter");

        machine.apply(&plan(true));
        assert_eq!(pod(), [false, false, false, true]);
        assert_eq!(all.map(reaches), [true; 4], "the node itself");
        let mapped = within("pod", || reaches("[::ffff:169.254.169.254]:80"));
        assert!(!mapped, "an IPv4 address in IPv6's notation");

        machine.apply(&plan(false));
        assert_eq!(pod(), [true, false, false, true]);
        assert_eq!(all.map(reaches), [true; 4], "the node itself");
    });
}

#[test]
fn questions_to_local_dns_leave_no_trace_in_the_connection_table() {
    on_a_machine(|machine| {
        run("ip addr add 169.254.10.10/32 dev lo");
        let server = UdpSocket::bind("169.254.10.10:53").unwrap();
        let tracked = || -> usize {
            // All open at once: one that is closed may leave its port, and with it its entry, to the next.
            let clients: Vec<_> = (0..50).map(|_| UdpSocket::bind("0.0.0.0:0").unwrap()).collect();
            for client in &clients {
                client.send_to(b"question", "169.254.10.10:53").unwrap();
                let (_, asker) = server.recv_from(&mut [0; 16]).unwrap();
                server.send_to(b"answer", asker).unwrap();
                client.recv(&mut [0; 16]).unwrap();
            }
            fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap().trim().parse().unwrap()
        };
        assert_eq!(tracked(), 50);
        machine.apply(&plan(true));
        assert_eq!(tracked(), 50, "the entries of before, and no more");
    });
}
