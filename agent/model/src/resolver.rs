//! What LocalDNS' supervisor decides: which servers are upstream, what the node's resolver file says, what a probe asks, and when to
//! give up.
//!
//! A probe asks both listeners for a name that CoreDNS answers by itself. So it tells whether the cache works and never whether the
//! world does: with the virtual network's DNS away, the cache still gives stale answers, and a restart would throw them away.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::config::HEALTH_ZONE;

/// The listener of the node and of pods with `dnsPolicy: Default`. Source: AKS, LocalDNS.
pub const NODE_LISTENER: Ipv4Addr = Ipv4Addr::new(169, 254, 10, 10);

/// The listener of all other pods. Source: AKS, LocalDNS.
pub const POD_LISTENER: Ipv4Addr = Ipv4Addr::new(169, 254, 10, 11);

/// The port where CoreDNS says on [`NODE_LISTENER`] that it is ready. Source: AgentBaker, `localdns.sh`.
pub const READY_PORT: u16 = 8181;

/// The resolver file with the virtual network's servers, for CoreDNS alone.
pub const UPSTREAMS: &str = "/run/nap-agent/localdns/upstream.conf";

/// Azure's DNS, when nobody names another. Source: learn.microsoft.com, "What is IP address 168.63.129.16?".
pub const AZURE_DNS: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// Most upstreams that CoreDNS takes. Source: coredns.io/plugins/forward.
const MAX_UPSTREAMS: usize = 15;

/// First line of a resolver file that we wrote.
const MARK: &str = "# Written by nap-agent for LocalDNS; `nap-agent local-dns clean` brings back the file before it.";

/// The servers of a resolver file that the cache may forward to: without itself and without loopback, where a stub of this machine
/// would ask us again. Without any, Azure's own.
pub fn upstreams(resolv_conf: &str) -> Vec<IpAddr> {
    let mut seen = BTreeSet::new();
    let mut servers: Vec<IpAddr> = nameservers(resolv_conf)
        .filter(|server| !server.is_loopback() && !server.is_unspecified())
        .filter(|server| *server != NODE_LISTENER && *server != POD_LISTENER)
        .filter(|server| seen.insert(*server))
        .take(MAX_UPSTREAMS)
        .collect();
    if servers.is_empty() {
        servers.push(AZURE_DNS.into());
    }
    servers
}

fn nameservers(resolv_conf: &str) -> impl Iterator<Item = IpAddr> {
    resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        // fe80::1%eth0: CoreDNS drops the interface, too, and then cannot send.
        (!address.contains('%')).then(|| address.parse().ok())?
    })
}

/// [`UPSTREAMS`]' text.
pub fn upstream_file(servers: &[IpAddr]) -> String {
    servers.iter().map(|server| format!("nameserver {server}\n")).collect()
}

/// The node's resolver file while the cache serves: the file before it, with one server.
pub fn pointed(before: &str) -> String {
    let kept = before.lines().filter(|line| !line.trim_start().starts_with("nameserver"));
    let kept: String = kept.map(|line| format!("{line}\n")).collect();
    format!("{MARK}\n{kept}nameserver {NODE_LISTENER}\n")
}

/// Whether we wrote that resolver file.
pub fn is_pointed(resolv_conf: &str) -> bool {
    resolv_conf.starts_with(MARK)
}

/// The node's resolver file when the one before ours is lost.
pub fn plain() -> String {
    format!("nameserver {AZURE_DNS}\n")
}

/// systemd-resolved's settings while the cache serves: `~.` takes every name away from the interfaces' servers.
/// Source: resolved.conf(5).
pub fn resolved_drop_in() -> String {
    format!("# Written by nap-agent for LocalDNS.\n[Resolve]\nDNS={NODE_LISTENER}\nDomains=~.\n")
}

/// A question for the address of the cache's own name. Source: RFC 1035, section 4.1.
pub fn question(id: u16) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]); // recursion desired, one question
    for label in HEALTH_ZONE.split('.') {
        packet.push(u8::try_from(label.len()).expect("its labels are short"));
        packet.extend(label.bytes());
    }
    packet.extend([0, 0, 1, 0, 1]); // the root, A, IN
    packet
}

/// Whether a packet answers that question, and not with a failure.
pub fn is_answer(id: u16, packet: &[u8]) -> bool {
    let same_id = packet.first_chunk::<2>() == Some(&id.to_be_bytes());
    let (response, code) =
        (packet.get(2).is_some_and(|flags| flags & 0x80 != 0), packet.get(3).map(|flags| flags & 15));
    same_id && response && code == Some(0)
}

/// Failures of the cache over time: enough of them end it, few do not. Source: AgentBaker, `localdns.sh`.
#[derive(Debug, Default)]
pub struct Patience {
    in_a_row: usize,
    failures: VecDeque<Duration>,
}

/// Failures one after the other.
const MAX_IN_A_ROW: usize = 5;

/// Failures within [`WINDOW`].
const MAX_IN_WINDOW: usize = 10;

const WINDOW: Duration = Duration::from_secs(600);

impl Patience {
    /// It answered.
    pub fn succeeded(&mut self) {
        self.in_a_row = 0;
    }

    /// It did not, at this time of a clock that only goes forward. What was too much, once it is.
    pub fn failed(&mut self, at: Duration) -> Option<String> {
        self.in_a_row += 1;
        self.failures.push_back(at);
        while self.failures.front().is_some_and(|first| at.saturating_sub(*first) > WINDOW) {
            self.failures.pop_front();
        }
        if self.in_a_row >= MAX_IN_A_ROW {
            Some(format!("{MAX_IN_A_ROW} failures in a row"))
        } else if self.failures.len() >= MAX_IN_WINDOW {
            Some(format!("{MAX_IN_WINDOW} failures within {} s", WINDOW.as_secs()))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_forwards_neither_to_itself_nor_to_loopback() {
        let text = "# x\nsearch a.b\nnameserver 127.0.0.53\nnameserver 169.254.10.10\nnameserver 10.0.0.4 \n nameserver 10.0.0.5\n\
                    nameserver fe80::1%eth0\nnameserver 10.0.0.4\nnameserver fd00::1\nnameserver ::1\nnameserver x\noptions ndots:1\n";
        let servers: Vec<String> = upstreams(text).iter().map(IpAddr::to_string).collect();
        assert_eq!(servers, ["10.0.0.4", "10.0.0.5", "fd00::1"]);
        assert_eq!(upstream_file(&upstreams("nameserver 169.254.10.11\n")), "nameserver 168.63.129.16\n");
        assert_eq!(upstreams(&upstream_file(&upstreams(text))), upstreams(text));
    }

    #[test]
    fn the_nodes_resolver_file_keeps_all_but_its_servers() {
        let before = "search a.b\nnameserver 10.0.0.4\noptions edns0";
        let after = pointed(before);
        assert!(is_pointed(&after) && !is_pointed(before));
        assert_eq!(after, format!("{MARK}\nsearch a.b\noptions edns0\nnameserver 169.254.10.10\n"));
    }

    #[test]
    fn only_a_good_answer_to_the_same_question_counts() {
        let mut packet = question(0x1234);
        assert_eq!(packet.len(), 12 + HEALTH_ZONE.len() + 2 + 4);
        assert!(!is_answer(0x1234, &packet), "a question");
        packet[2] |= 0x80;
        assert!(is_answer(0x1234, &packet) && !is_answer(0x1235, &packet));
        packet[3] |= 2;
        assert!(!is_answer(0x1234, &packet), "SERVFAIL");
        assert!(!is_answer(0x1234, &[0x12]));
    }

    #[test]
    fn five_failures_in_a_row_or_ten_in_ten_minutes_are_too_many() {
        let seconds = Duration::from_secs;
        let mut patience = Patience::default();
        let row: Vec<_> = (0..5).map(|at| patience.failed(seconds(at)).is_some()).collect();
        assert_eq!(row, [false, false, false, false, true]);

        // Each failure is followed by a success.
        let gives_up_at = |step: u64| {
            let mut patience = Patience::default();
            (1..=20).find(|i| {
                patience.succeeded();
                patience.failed(seconds(i * step)).is_some()
            })
        };
        assert_eq!([60, 70].map(gives_up_at), [Some(10), None]);
    }
}
