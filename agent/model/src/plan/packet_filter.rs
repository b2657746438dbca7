//! The node's packet filter: what pods must not reach, and what is not worth tracking.
//!
//! **What.** Forwarded traffic to the wire server, whose port 80 hands out the VM's goal state and certificates and whose port
//! 32526 is the guest agent's, is dropped on every node. Forwarded traffic to the instance metadata service, which hands out
//! tokens of the node's identities, is dropped where the cluster asks for it. Pods are forwarded; the node's own programs,
//! kubelet and this agent among them, and pods with `hostNetwork` are not. Where LocalDNS runs, its questions and answers are kept
//! out of connection tracking, because a busy resolver fills that table and a full one drops packets of everybody.
//!
//! **Why a native nftables table, not iptables.** Today these are iptables rules, put in front of others by kubelet's unit, and
//! lost when somebody restores a saved rule set. Here they are one table, `inet nap_agent`, that only we write, replaced as a whole
//! in one transaction: there is no moment without it, no lock to wait for, and no order to keep towards kube-proxy, Cilium or
//! azure-npm. Their tables are not touched, so `iptables -S` lists nothing of ours and the list of iptables rules that Cilium's eBPF
//! host routing tolerates holds. The drops are safe beside any other rule set: a packet that one table drops is dropped, whatever
//! another accepts. AKS itself loads a native table (`azureSLBProbe`) on nodes with IPv6.
//!
//! **What it costs.** Who looks with `iptables -S` alone does not see why a packet is gone: `nft list table inet nap_agent` shows
//! it, and each rule says in a comment whose it is. The image must have `nft`; without it the plan says what is not enforced. A
//! distribution's `nftables.service` flushes every table when it is reloaded, and the guard then loads ours again. And as with
//! iptables: with eBPF host routing pods' packets do not pass the host's hooks at all, so there a network policy of the CNI must do
//! the same.
//!
//! **IPv6.** The table is of the family `inet`, and every rule in it is about IPv4, because the three services have IPv4 addresses
//! only: Azure documents no IPv6 address for its metadata service or its wire server, and LocalDNS listens on two IPv4 ones. An
//! address such as `::ffff:169.254.169.254` is a way for a program to write an IPv4 destination: what leaves its socket is an
//! IPv4 packet, which these rules see. Once Azure gives one of them an IPv6 address, a rule belongs beside the IPv4 one.
//!
//! **No sets.** A rule with `{ 80, 32526 }` refers to a set that the kernel keeps beside the rules. Our check reads the rules alone,
//! so each rule has one port and one address, and nothing can change without a rule that changes.
//!
//! Source of what is filtered today: AgentBaker, kubelet's `ExecStartPre`, `ensure_imds_restriction.sh`, `localdns.sh`.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::kubelet::node_address;
use super::local_dns::LocalDns;
use super::resource::{AbsPath, Step, Want, public_file};
use crate::config::NodeConfig;
use crate::facts::Facts;
use crate::os;

/// The table's name; its family is `inet`.
pub const PACKET_FILTER_TABLE: &str = "nap_agent";

const RULES: &str = "/etc/nap-agent/packet-filter.nft";

/// Azure's wire server. Source: Azure, "What is IP address 168.63.129.16?".
const WIRE_SERVER: &str = "168.63.129.16";
/// Ports of the wire server that pods must not reach: the goal state and HostGAPlugin.
const WIRE_SERVER_PORTS: [u16; 2] = [80, 32526];
/// The instance metadata service, on port 80. Source: Azure, "Azure Instance Metadata Service".
const METADATA_SERVICE: &str = "169.254.169.254";
/// LocalDNS' listeners: the node's and the pods'. Source: AgentBaker `localdns.sh`.
const LOCAL_DNS: [&str; 2] = ["169.254.10.10", "169.254.10.11"];

/// Where the rules are written; loading reads them there.
pub fn packet_filter_rules() -> AbsPath {
    AbsPath::literal(RULES)
}

/// The rules, or why there are none.
pub(super) struct PacketFilter {
    rules: Option<String>,
    notes: Vec<String>,
}

impl PacketFilter {
    pub(super) fn new(config: &NodeConfig, facts: &Facts, local_dns: &LocalDns<'_>) -> Self {
        let local_dns = local_dns.pod_dns().is_some();
        if facts.present.contains(os::NFT) {
            Self { rules: Some(rules(config, facts, local_dns)), notes: Vec::new() }
        } else {
            Self { rules: None, notes: vec![not_enforced(config, local_dns)] }
        }
    }

    pub(super) fn files(&self) -> Vec<Step> {
        let why = "the packet filter's rules can be read, and are what is loaded";
        let step = |rules: &String| Step::new("packet-filter.rules", why, public_file(RULES, rules.clone())).desired();
        self.rules.iter().map(step).collect()
    }

    pub(super) fn loaded(&self) -> Vec<Step> {
        let why = "pods must not reach what belongs to the node";
        let step = |rules: &String| {
            Step::new("packet-filter.loaded", why, Want::PacketFilter { rules: rules.clone() }).desired()
        };
        self.rules.iter().map(step).collect()
    }

    pub(super) fn into_notes(self) -> Vec<String> {
        self.notes
    }
}

fn not_enforced(config: &NodeConfig, local_dns: bool) -> String {
    let mut missed = vec!["pods can reach the wire server"];
    if config.network.restrict_imds {
        missed.push("pods can reach the instance metadata service, which the cluster forbids");
    }
    if local_dns {
        missed.push("LocalDNS' questions fill the connection table");
    }
    format!("packet filter left out: {} is not there, so {}", os::NFT, missed.join(", "))
}

/// The whole file. `add` before `delete` because deleting a table that is not there is an error.
fn rules(config: &NodeConfig, facts: &Facts, local_dns: bool) -> String {
    let mut text = format!(
        "# Written by nap-agent. Loading it replaces this table in one transaction and touches no other.\n\
         add table inet {PACKET_FILTER_TABLE}\n\
         delete table inet {PACKET_FILTER_TABLE}\n\
         table inet {PACKET_FILTER_TABLE} {{\n"
    );
    let mut forwarded = WIRE_SERVER_PORTS
        .map(|port| {
            format!("ip daddr {WIRE_SERVER} tcp dport {port} drop comment \"nap-agent: no wire server for pods\"")
        })
        .to_vec();
    forwarded.extend(config.network.restrict_imds.then(|| metadata_rule(facts)));
    chain(&mut text, "forward", "forward priority filter", &forwarded);
    if local_dns {
        let questions = untracked("daddr", "dport", "LocalDNS question");
        // An answer that is tracked costs the entry that its question was spared: measured, one for each question over UDP.
        let answers = untracked("saddr", "sport", "LocalDNS answer");
        chain(&mut text, "prerouting", "prerouting priority raw", &questions);
        chain(&mut text, "output", "output priority raw", &[questions.clone(), answers].concat());
    }
    text.push_str("}\n");
    text
}

/// The node's own address is let through as today's rule does, for what is forwarded in its name. With no IPv4 address known, all
/// that is forwarded is dropped: that takes nothing from the node, whose own traffic is not forwarded, and kubelet need not wait.
fn metadata_rule(facts: &Facts) -> String {
    let but_the_node = match node_address(facts) {
        Some(IpAddr::V4(address)) => format!(" ip saddr != {address}"),
        Some(IpAddr::V6(_)) | None => String::new(),
    };
    format!(
        "ip daddr {METADATA_SERVICE} tcp dport 80{but_the_node} drop comment \"nap-agent: no metadata service for pods\""
    )
}

fn untracked(address: &str, port: &str, what: &str) -> Vec<String> {
    let rule = |listener: &str, protocol: &str| {
        format!("ip {address} {listener} {protocol} {port} 53 notrack comment \"nap-agent: {what}\"")
    };
    LOCAL_DNS.iter().flat_map(|listener| ["udp", "tcp"].map(|protocol| rule(listener, protocol))).collect()
}

fn chain(text: &mut String, name: &str, hook: &str, rules: &[String]) {
    let lines: String = rules.iter().map(|rule| format!("\t\t{rule}\n")).collect();
    writeln!(text, "\tchain {name} {{\n\t\ttype filter hook {hook}; policy accept;\n{lines}\t}}")
        .expect("a String takes any text");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::decode;
    use crate::plan::keep;

    /// The node of the test image, with these optional files, with or without LocalDNS.
    fn node(present: &[&str], local_dns: bool) -> (NodeConfig, Facts) {
        let asked = if local_dns { "localDNS: {mode: Required}, maxPods" } else { "maxPods" };
        let document = include_str!("../../testdata/none.yaml").replace("maxPods", asked);
        let decoded = decode(document.as_bytes()).unwrap();
        assert_eq!(decoded.findings.problems, []);
        let mut facts: Facts = serde_json::from_str(include_str!("../../testdata/debian-13.json")).unwrap();
        facts.present = present.iter().map(|path| (*path).to_owned()).collect();
        facts.primary_address = Some("10.224.0.7".parse().unwrap());
        (decoded.config.unwrap(), facts)
    }

    fn rules_of(config: &NodeConfig, facts: &Facts) -> String {
        rules(config, facts, LocalDns::new(config, facts).pod_dns().is_some())
    }

    const HEAD: &str = "\
# Written by nap-agent. Loading it replaces this table in one transaction and touches no other.
add table inet nap_agent
delete table inet nap_agent
table inet nap_agent {
\tchain forward {
\t\ttype filter hook forward priority filter; policy accept;
\t\tip daddr 168.63.129.16 tcp dport 80 drop comment \"nap-agent: no wire server for pods\"
\t\tip daddr 168.63.129.16 tcp dport 32526 drop comment \"nap-agent: no wire server for pods\"
";

    #[test]
    fn the_wire_server_is_kept_from_pods_on_every_node() {
        let (mut config, facts) = node(&[os::NFT], false);
        config.network.restrict_imds = false;
        assert_eq!(rules_of(&config, &facts), format!("{HEAD}\t}}\n}}\n"));
    }

    #[test]
    fn the_metadata_service_is_kept_from_pods_where_it_is_asked_for() {
        let (mut config, mut facts) = node(&[os::NFT], false);
        config.network.restrict_imds = true;
        let rule = |but_the_node: &str| {
            format!(
                "{HEAD}\t\tip daddr 169.254.169.254 tcp dport 80{but_the_node} drop \
                 comment \"nap-agent: no metadata service for pods\"\n\t}}\n}}\n"
            )
        };
        assert_eq!(rules_of(&config, &facts), rule(" ip saddr != 10.224.0.7"));
        facts.instance = None;
        for unknown in [None, Some("fd00::7".parse().unwrap())] {
            facts.primary_address = unknown;
            assert_eq!(rules_of(&config, &facts), rule(""), "{unknown:?}");
        }
    }

    #[test]
    fn local_dns_is_not_tracked_where_it_runs() {
        let (config, mut facts) = node(&[os::NFT, os::COREDNS], true);
        let wanted = format!(
            "{HEAD}\t}}
\tchain prerouting {{
\t\ttype filter hook prerouting priority raw; policy accept;
\t\tip daddr 169.254.10.10 udp dport 53 notrack comment \"nap-agent: LocalDNS question\"
\t\tip daddr 169.254.10.10 tcp dport 53 notrack comment \"nap-agent: LocalDNS question\"
\t\tip daddr 169.254.10.11 udp dport 53 notrack comment \"nap-agent: LocalDNS question\"
\t\tip daddr 169.254.10.11 tcp dport 53 notrack comment \"nap-agent: LocalDNS question\"
\t}}
\tchain output {{
\t\ttype filter hook output priority raw; policy accept;
\t\tip daddr 169.254.10.10 udp dport 53 notrack comment \"nap-agent: LocalDNS question\"
\t\tip daddr 169.254.10.10 tcp dport 53 notrack comment \"nap-agent: LocalDNS question\"
\t\tip daddr 169.254.10.11 udp dport 53 notrack comment \"nap-agent: LocalDNS question\"
\t\tip daddr 169.254.10.11 tcp dport 53 notrack comment \"nap-agent: LocalDNS question\"
\t\tip saddr 169.254.10.10 udp sport 53 notrack comment \"nap-agent: LocalDNS answer\"
\t\tip saddr 169.254.10.10 tcp sport 53 notrack comment \"nap-agent: LocalDNS answer\"
\t\tip saddr 169.254.10.11 udp sport 53 notrack comment \"nap-agent: LocalDNS answer\"
\t\tip saddr 169.254.10.11 tcp sport 53 notrack comment \"nap-agent: LocalDNS answer\"
\t}}
}}
"
        );
        assert_eq!(rules_of(&config, &facts), wanted);
        facts.present.remove(os::COREDNS);
        assert_eq!(rules_of(&config, &facts), format!("{HEAD}\t}}\n}}\n"), "an image without the server");
    }

    #[test]
    fn what_is_loaded_is_what_is_written_and_holds_no_set() {
        let (mut config, facts) = node(&[os::NFT, os::COREDNS], true);
        config.network.restrict_imds = true;
        let plan = keep(&config, &facts).unwrap();
        let texts: Vec<_> = plan
            .steps()
            .filter(|step| step.id.starts_with("packet-filter."))
            .map(|step| match &step.want {
                Want::File { path, content, .. } if *path == packet_filter_rules() => content.reveal(),
                Want::PacketFilter { rules } => rules.as_str(),
                other => panic!("{other:?}"),
            })
            .collect();
        let [written, loaded] = texts.as_slice() else { panic!("{texts:?}") };
        assert_eq!(written, loaded);
        let in_rules = written.lines().filter(|line| line.contains("comment"));
        assert!(in_rules.clone().count() > 10 && in_rules.clone().all(|rule| !rule.contains(['{', '@'])), "{written}");
    }

    #[test]
    fn an_image_without_nft_is_told_what_is_not_enforced() {
        let (mut config, facts) = node(&[os::COREDNS], true);
        config.network.restrict_imds = true;
        let plan = keep(&config, &facts).unwrap();
        assert_eq!(plan.steps().filter(|step| step.id.starts_with("packet-filter.")).count(), 0);
        let note = "packet filter left out: /usr/sbin/nft is not there, so pods can reach the wire server, pods can reach the \
                    instance metadata service, which the cluster forbids, LocalDNS' questions fill the connection table";
        assert!(plan.notes.iter().any(|found| found == note), "{:?}", plan.notes);
    }
}
