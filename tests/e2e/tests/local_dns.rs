//! LocalDNS by the real binary: the supervisor in a network of its own, and boots with and without a cache that comes up.
//!
//! The supervisor's tests run in a network of their own: [`nap_e2e::network`].

use std::io::Read as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nap_e2e::node::{Node, api_options, text};
use nap_e2e::{ScratchRoot, binary};
use nap_model::plan::{COREFILE, Plan, Want};
use nap_model::resolver::{self, NODE_LISTENER, POD_LISTENER};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, read};
use pretend_kubelet::corefile;
use proptest::prelude::*;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
const RESOLV_CONF: &str = "/etc/resolv.conf";
const BEFORE: &str = "search a.b\nnameserver 10.9.0.53\n";
const UPSTREAMS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 53), Ipv4Addr::new(10, 9, 0, 54)];

/// The upstreams' addresses.
const ADDRESSES: &str = "ip link set lo up && ip address add 10.9.0.53/32 dev lo && ip address add 10.9.0.54/32 dev lo";

fn in_own_network(name: &str, test: fn()) {
    nap_e2e::network::in_own_network(name, ADDRESSES, test);
}

#[expect(clippy::print_stdout, reason = "whoever reads a test's output should know that it did not run")]
fn say(line: &str) {
    println!("{line}");
}

/// Looks until it is so; the deadline is what fails.
fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Some(found) => return found,
            None => assert!(start.elapsed() < LIMIT, "{what} did not happen"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A supervisor below a root, and its systemd's socket.
struct Machine {
    root: ScratchRoot,
    messages: UnixDatagram,
    supervisor: Child,
}

impl Machine {
    /// A machine whose supervisor has said that it is ready. Its watchdog is so short that it probes every 50 ms.
    fn start() -> Self {
        UPSTREAMS.into_iter().for_each(serve_upstream);
        let root = ScratchRoot::new("node-1");
        let coredns = "/opt/azure/containers/localdns/binary/coredns";
        std::fs::create_dir_all(root.path(coredns).parent().unwrap()).unwrap();
        root.install("pretend-coredns", coredns);
        root.write(COREFILE, file(&nap_e2e::scenario_plan("cilium"), COREFILE));
        root.write(RESOLV_CONF, BEFORE);
        let messages = UnixDatagram::bind(root.path("/run/notify")).unwrap();
        messages.set_read_timeout(Some(LIMIT)).unwrap();
        let supervisor = run(&root);
        let machine = Self { root, messages, supervisor };
        machine.wait_for_message("READY=1");
        machine
    }

    fn wait_for_message(&self, wanted: &str) {
        let mut bytes = [0; 4096];
        loop {
            let length =
                self.messages.recv(&mut bytes).unwrap_or_else(|error| panic!("no {wanted}: {error}; {}", self.log()));
            if String::from_utf8_lossy(&bytes[..length]).lines().any(|line| line == wanted) {
                return;
            }
        }
    }

    /// What the supervisor has written so far, for a test that fails.
    fn log(&self) -> String {
        let pipe = self.supervisor.stderr.as_ref().expect("nobody took it");
        fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut bytes = vec![0; 1 << 16];
        let length = read(pipe, &mut bytes).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.supervisor.id().try_into().unwrap()), signal).unwrap();
    }

    /// CoreDNS' process.
    fn coredns(&self) -> Option<Pid> {
        let wanted = self.root.path(COREFILE);
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let mut found = ids.filter(|id| {
            let line = std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
            line.contains("coredns\0") && line.contains(wanted.to_str().unwrap())
        });
        found.next().map(Pid::from_raw)
    }

    fn clean(&self) {
        let output = agent(&self.root, "clean").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    }

    fn is_pointed(&self) -> bool {
        resolver::is_pointed(&self.root.read(RESOLV_CONF))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.supervisor.kill(); // it may have ended by itself
        let _ = self.supervisor.wait();
        if let Some(coredns) = self.coredns() {
            let _ = kill(coredns, Signal::SIGKILL); // systemd would end the control group
        }
    }
}

fn agent(root: &ScratchRoot, action: &str) -> Command {
    let mut command = Command::new(binary("nap-agent"));
    command.arg("--root").arg(root.directory()).args(["local-dns", action]);
    command
}

fn run(root: &ScratchRoot) -> Child {
    let mut command = agent(root, "run");
    command.env("NOTIFY_SOCKET", root.path("/run/notify")).env("WATCHDOG_USEC", "600000");
    command.stderr(Stdio::piped()).spawn().unwrap()
}

/// A server that answers every question for an address with its own.
fn serve_upstream(address: Ipv4Addr) {
    let socket = UdpSocket::bind((address, 53)).unwrap();
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            let mut answer = packet[..length].to_vec();
            answer[2] |= 0x80;
            answer[7] = 1;
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(address.octets());
            let _ = socket.send_to(&answer, from); // a client that is gone needs no answer
        }
    });
}

/// The address of `www.example` as a listener says.
fn lookup(listener: Ipv4Addr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket.connect((listener, 53)).unwrap();
    socket.send(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01").ok()?;
    let mut packet = [0; 512];
    let length = socket.recv(&mut packet).ok()?;
    let answer: [u8; 4] = *packet[..length].last_chunk()?;
    (packet[3] & 15 == 0 && packet[7] == 1).then(|| answer.into())
}

fn file<'p>(plan: &'p Plan, wanted: &str) -> &'p str {
    let found = plan.steps().find_map(|step| match &step.want {
        Want::File { path, content, .. } if path.as_str() == wanted => Some(content.reveal()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no {wanted}"))
}

#[test]
fn the_node_asks_the_cache_and_gets_its_resolver_back() {
    in_own_network("the_node_asks_the_cache_and_gets_its_resolver_back", || {
        let mut machine = Machine::start();
        assert_eq!(machine.root.read(RESOLV_CONF), resolver::pointed(BEFORE));
        assert_eq!(lookup(NODE_LISTENER), Some(UPSTREAMS[0]));
        machine.wait_for_message("WATCHDOG=1");
        machine.signal(Signal::SIGTERM);
        assert_eq!(machine.supervisor.wait().unwrap().code(), Some(0));
        assert_eq!(machine.root.read(RESOLV_CONF), BEFORE);
        assert_eq!((machine.coredns(), lookup(NODE_LISTENER)), (None, None));
        machine.clean();
        assert_eq!(machine.root.read(RESOLV_CONF), BEFORE);
    });
}

#[test]
fn a_killed_supervisor_leaves_what_clean_puts_right() {
    in_own_network("a_killed_supervisor_leaves_what_clean_puts_right", || {
        let mut machine = Machine::start();
        machine.signal(Signal::SIGKILL);
        machine.supervisor.wait().unwrap();
        assert!(machine.is_pointed(), "nobody could put it back");
        kill(machine.coredns().unwrap(), Signal::SIGKILL).unwrap(); // as systemd does with the control group
        machine.clean();
        machine.clean();
        assert_eq!(machine.root.read(RESOLV_CONF), BEFORE);
        machine.supervisor = run(&machine.root);
        machine.wait_for_message("READY=1");
        assert_eq!((machine.is_pointed(), lookup(NODE_LISTENER)), (true, Some(UPSTREAMS[0])));
    });
}

#[test]
fn a_killed_coredns_is_back_within_seconds() {
    in_own_network("a_killed_coredns_is_back_within_seconds", || {
        let machine = Machine::start();
        let first = machine.coredns().unwrap();
        let start = Instant::now();
        kill(first, Signal::SIGKILL).unwrap();
        until("another CoreDNS", || machine.coredns().filter(|id| *id != first));
        for listener in [NODE_LISTENER, POD_LISTENER] {
            // Pods' questions go to a cluster that is not here; that there is an answer is enough.
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            socket.connect((listener, 53)).unwrap();
            until("an answer", || {
                let mut packet = [0; 512];
                socket.send(&resolver::question(7)).ok()?;
                socket.recv(&mut packet).ok().filter(|length| resolver::is_answer(7, &packet[..*length]))
            });
        }
        say(&format!("both listeners answered {} ms after CoreDNS was killed", start.elapsed().as_millis()));
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(machine.is_pointed());
    });
}

#[test]
fn a_coredns_that_hangs_starves_the_watchdog_and_the_node_goes_on_without() {
    in_own_network("a_coredns_that_hangs_starves_the_watchdog_and_the_node_goes_on_without", || {
        let mut machine = Machine::start();
        machine.wait_for_message("WATCHDOG=1");
        kill(machine.coredns().unwrap(), Signal::SIGSTOP).unwrap();
        let start = Instant::now();
        assert_eq!(machine.supervisor.wait().unwrap().code(), Some(1));
        say(&format!("the supervisor gave up {} ms after CoreDNS hung", start.elapsed().as_millis()));
        let mut log = String::new();
        machine.supervisor.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert!(log.contains("5 failures in a row"), "{log}");
        assert_eq!(machine.root.read(RESOLV_CONF), BEFORE);
        assert_eq!(machine.coredns(), None, "a CoreDNS that is stopped is killed");
        // Fed at most by a probe that was under way.
        machine.messages.set_nonblocking(true).unwrap();
        let mut bytes = [0; 4096];
        let mut said = Vec::new();
        while let Ok(length) = machine.messages.recv(&mut bytes) {
            said.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
        let fed = said.iter().filter(|message| message.contains("WATCHDOG=1")).count();
        assert!(fed <= 2 && said.last().is_some_and(|last| last.contains("STOPPING=1")), "{said:?}");
    });
}

#[test]
fn other_upstreams_and_another_writer_of_the_resolver_file_are_followed() {
    in_own_network("other_upstreams_and_another_writer_of_the_resolver_file_are_followed", || {
        let mut machine = Machine::start();
        let after = BEFORE.replace("10.9.0.53", "10.9.0.54");
        machine.root.write(RESOLV_CONF, &after);
        until("the other upstream", || lookup(NODE_LISTENER).filter(|address| *address == UPSTREAMS[1]));
        until("the resolver file", || machine.is_pointed().then_some(()));
        machine.signal(Signal::SIGTERM);
        assert_eq!(machine.supervisor.wait().unwrap().code(), Some(0));
        assert_eq!(machine.root.read(RESOLV_CONF), after);
    });
}

fn local_dns_node(node: &Node) -> Value {
    let mut document = node.bootstrap();
    document["nodeClass"]["localDNS"] = json!({"mode": "Required"});
    document["node"]["labels"]["kubernetes.azure.com/localdns-state"] = json!("enabled");
    document
}

async fn booted_with_plain_dns(node: &Node, wanted: &str) {
    node.hand_over(local_dns_node(node).to_string().as_bytes());
    let boot = node.agent(&["boot"]).await;
    assert_eq!(boot.status.code(), Some(0), "{}", text(&boot));
    let said = text(&boot);
    assert!(said.contains(&format!("LocalDnsUnavailable: {wanted}")), "{said}");
    let config: Value = serde_json::from_str(&node.root.read("/etc/default/kubeletconfig.json")).unwrap();
    assert_eq!(config["clusterDNS"], json!(["10.0.0.10"]));
    let environment = node.root.read("/etc/default/kubelet");
    assert!(environment.contains("kubernetes.azure.com/localdns-state=disabled"), "{environment}");
}

#[tokio::test]
async fn an_image_without_coredns_boots_with_plain_dns() {
    let node = Node::new(api_options()).await;
    booted_with_plain_dns(&node, "the image has no ").await;
}

#[tokio::test]
async fn a_cache_that_does_not_come_up_means_plain_dns_for_the_guard_too() {
    let node = Node::new(api_options()).await;
    node.root.write("/opt/azure/containers/localdns/binary/coredns", ""); // there is no /usr/bin/nap-agent to start it either
    booted_with_plain_dns(&node, "localdns.service").await;
    let facts: Value = serde_json::from_str(&node.root.read("/var/lib/nap-agent/facts.json")).unwrap();
    assert!(facts["localDnsFailure"].is_string(), "{facts}");
    let status = node.agent(&["status"]).await;
    assert_eq!(status.status.code(), Some(0), "nothing has drifted: {}", text(&status));
}

fn zone() -> impl Strategy<Value = Value> {
    let names = prop_oneof!["[a-zA-Z0-9_]{1,12}(\\.[a-z0-9]{1,5}){0,3}\\.?", Just("Sub.cluster.local".to_owned())];
    let words = (
        prop_oneof![Just("Error"), Just("Log")],
        prop_oneof![Just("PreferUDP"), Just("ForceTCP")],
        prop_oneof![Just("Sequential"), Just("RoundRobin"), Just("Random")],
        prop_oneof![Just("Immediate"), Just("Verify"), Just("Disable")],
    );
    let numbers = (0..5000_u32, 0..9000_u32, 0..9000_u32);
    (names, words, numbers).prop_map(|(zone, (log, protocol, policy, stale), (most, cache, old))| {
        let cluster = zone.to_lowercase().trim_end_matches('.').ends_with("cluster.local");
        let verifies_by_tcp = stale == "Verify" && protocol == "ForceTCP";
        json!({
            "zone": zone, "queryLogging": log, "forwardPolicy": policy, "maxConcurrent": most,
            "protocol": if verifies_by_tcp { "PreferUDP" } else { protocol }, "serveStale": stale,
            "forwardDestination": if cluster { "ClusterCoreDNS" } else { "VnetDNS" },
            "cacheDuration": format!("{cache}s"), "serveStaleDuration": format!("{old}s"),
        })
    })
}

/// A list of zones, with the two that must be in it.
fn zones() -> impl Strategy<Value = Vec<Value>> {
    (proptest::collection::vec(zone(), 0..8), zone(), zone()).prop_map(|(mut zones, mut root, mut cluster)| {
        root["zone"] = json!(".");
        root["forwardDestination"] = json!("VnetDNS");
        cluster["zone"] = json!("cluster.local");
        cluster["forwardDestination"] = json!("ClusterCoreDNS");
        zones.extend([root, cluster]);
        zones
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_profile_that_is_accepted_gives_a_corefile_that_is(node in zones(), pods in zones()) {
        let (_, document, facts) = nap_e2e::SCENARIOS[1];
        let lists = json!({"mode": "Required", "vnetDNSOverrides": node, "kubeDNSOverrides": pods});
        let document = document.split("nodeClass:").next().unwrap();
        let document = format!("{document}nodeClass: {}\n", json!({"localDNS": lists}));
        let decoded = nap_model::config::decode(document.as_bytes()).unwrap();
        // Zones that are the same for DNS are refused, and nothing else that is drawn here.
        let problems = decoded.findings.problems;
        prop_assert!(problems.iter().all(|problem| problem.to_string().contains("twice")), "{problems:?}");
        if let Some(config) = decoded.config.filter(|_| problems.is_empty()) {
            let plan = nap_model::plan::plan(&config, &serde_json::from_str(facts).unwrap()).unwrap();
            let servers = corefile::read(file(&plan, COREFILE)).unwrap();
            prop_assert_eq!(servers.len(), 1 + node.len() + pods.len());
        }
    }
}
