//! LocalDNS: a DNS cache on the node, for the node itself and for its pods.
//!
//! Source of names and rules: karpenter-provider-azure, AKSNodeClass `localDNS`; AgentBaker `LocalDnsProfile`.

use std::time::Duration;

use serde::Serialize;

use super::problem::Findings;
use super::rules;

/// The cache and its zones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LocalDns {
    /// Share of one processor, in percent (200 is two processors).
    pub cpu_percent: u32,
    /// Most memory, in megabytes of systemd's counting (MiB).
    pub memory_mb: u32,
    /// Zones of the listener that the node itself (and pods with `dnsPolicy: Default`) ask.
    pub node_zones: Vec<Zone>,
    /// Zones of the listener that pods ask.
    pub pod_zones: Vec<Zone>,
}

/// How questions about names below a zone are answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Zone {
    /// The zone in lower case, without a dot at its end; `.` for all others.
    pub name: String,
    /// Whether every question is logged; otherwise only errors.
    pub log_queries: bool,
    /// How the upstream is spoken to.
    pub protocol: Protocol,
    /// The upstream.
    pub forward: Forward,
    /// Which of several upstreams is asked first.
    pub policy: ForwardPolicy,
    /// Most questions upstream at a time; 0 for no limit.
    pub max_concurrent: u32,
    /// How long answers are kept.
    pub cache_for: Duration,
    /// Whether and how old answers are given while the upstream is away.
    pub serve_stale: ServeStale,
    /// How old such an answer may be.
    pub serve_stale_for: Duration,
}

/// How the upstream is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Protocol {
    /// UDP, unless the client came by TCP.
    PreferUdp,
    /// TCP always.
    ForceTcp,
}

/// The upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Forward {
    /// The DNS service of the cluster.
    ClusterCoreDns,
    /// The DNS servers of the virtual network.
    VnetDns,
}

/// Which of several upstreams is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ForwardPolicy {
    /// The first that works.
    Sequential,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
}

/// Whether and how old answers are given while the upstream is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ServeStale {
    /// After the upstream was tried.
    Verify,
    /// At once, and the upstream is asked behind it.
    Immediate,
    /// Never.
    Disable,
}

pub(super) const QUERY_LOGGING: &[&str] = &["Error", "Log"];
pub(super) const PROTOCOLS: &[&str] = &["PreferUDP", "ForceTCP"];
pub(super) const FORWARDS: &[&str] = &["ClusterCoreDNS", "VnetDNS"];
pub(super) const POLICIES: &[&str] = &["Sequential", "RoundRobin", "Random"];
pub(super) const SERVE_STALE: &[&str] = &["Verify", "Immediate", "Disable"];

/// Most zones of one listener. Source: AKSNodeClass `localDNS`.
const MAX_ZONES: usize = 100;

/// The zone that the cache answers by itself, so that its health is not that of its upstreams. Source: AgentBaker, `localdns.sh`.
pub const HEALTH_ZONE: &str = "health-check.localdns.local";

/// AKS' defaults for what a profile leaves open.
const CPU_PERCENT: u32 = 200;
const MEMORY_MB: u32 = 128;
const MAX_CONCURRENT: u32 = 1000;
const HOUR: Duration = Duration::from_secs(3600);

/// A zone as a wire format spells it; absent words take AKS' defaults.
#[derive(Default)]
pub(super) struct Words<'a> {
    pub(super) name: &'a str,
    pub(super) query_logging: Option<&'a str>,
    pub(super) protocol: Option<&'a str>,
    pub(super) forward: Option<&'a str>,
    pub(super) policy: Option<&'a str>,
    pub(super) max_concurrent: Option<i64>,
    pub(super) cache_for: Option<Duration>,
    pub(super) serve_stale: Option<&'a str>,
    pub(super) serve_stale_for: Option<Duration>,
}

impl Words<'_> {
    /// The zone at `path`, its contradictions among the findings.
    pub(super) fn zone(&self, path: &str, findings: &mut Findings) -> Zone {
        let name = normal(self.name);
        let is_cluster = name == "cluster.local" || name.ends_with(".cluster.local");
        let zone = Zone {
            name,
            log_queries: self.query_logging == Some("Log"),
            protocol: if self.protocol == Some("ForceTCP") { Protocol::ForceTcp } else { Protocol::PreferUdp },
            forward: match self.forward {
                Some("VnetDNS") => Forward::VnetDns,
                Some(_) => Forward::ClusterCoreDns,
                None if is_cluster => Forward::ClusterCoreDns,
                None => Forward::VnetDns,
            },
            policy: match self.policy {
                Some("RoundRobin") => ForwardPolicy::RoundRobin,
                Some("Random") => ForwardPolicy::Random,
                _ => ForwardPolicy::Sequential,
            },
            max_concurrent: self.max_concurrent.and_then(|most| u32::try_from(most).ok()).unwrap_or(MAX_CONCURRENT),
            cache_for: self.cache_for.unwrap_or(HOUR),
            serve_stale: match self.serve_stale {
                Some("Verify") => ServeStale::Verify,
                Some("Disable") => ServeStale::Disable,
                _ => ServeStale::Immediate,
            },
            serve_stale_for: self.serve_stale_for.unwrap_or(HOUR),
        };
        if is_cluster && zone.forward == Forward::VnetDns {
            let wanted = "ClusterCoreDNS: only the cluster knows its own names";
            findings.problem(path, format!("zone {} forwarded to VnetDNS", zone.name), wanted);
        }
        if zone.serve_stale == ServeStale::Verify && zone.protocol == Protocol::ForceTcp {
            findings.problem(path, "serveStale Verify with protocol ForceTCP", "another of either");
        }
        zone
    }
}

impl LocalDns {
    /// The cache with these zones, each listener's list at its path; an empty list takes AKS' defaults.
    pub(super) fn new(node: Vec<Zone>, pods: Vec<Zone>, paths: [&str; 2], findings: &mut Findings) -> Self {
        for (zones, path) in [(&node, paths[0]), (&pods, paths[1])] {
            refuse_incomplete(zones, path, findings);
        }
        for zone in node.iter().filter(|zone| zone.forward == Forward::ClusterCoreDns) {
            if zone.name != "cluster.local" && !zone.name.ends_with(".cluster.local") {
                // The node's own questions must not wait for pods that need the node.
                let found = format!("zone {} forwarded to ClusterCoreDNS", zone.name);
                findings.problem(paths[0], found, "VnetDNS for all but cluster.local");
            }
        }
        let or_default = |zones: Vec<Zone>, root: Forward| if zones.is_empty() { default_zones(root) } else { zones };
        Self {
            cpu_percent: CPU_PERCENT,
            memory_mb: MEMORY_MB,
            node_zones: or_default(node, Forward::VnetDns),
            pod_zones: or_default(pods, Forward::ClusterCoreDns),
        }
    }
}

fn refuse_incomplete(zones: &[Zone], path: &str, findings: &mut Findings) {
    if zones.is_empty() {
        return;
    }
    if zones.len() > MAX_ZONES {
        findings.problem(path, format!("{} zones", zones.len()), format!("at most {MAX_ZONES}"));
    }
    for needed in [".", "cluster.local"] {
        if !zones.iter().any(|zone| zone.name == needed) {
            findings.problem(path, format!("no zone \"{needed}\""), "the zones . and cluster.local among them");
        }
    }
    if zones.iter().any(|zone| zone.name == HEALTH_ZONE) {
        findings.problem(path, format!("zone {HEALTH_ZONE}"), "another: by this one the cache is asked how it is");
    }
    for name in rules::repeated(zones.iter().map(|zone| zone.name.as_str()).collect()) {
        findings.problem(path, format!("zone \"{name}\" twice"), "each zone once");
    }
}

/// AKS' zones for a listener that lists none.
fn default_zones(root: Forward) -> Vec<Zone> {
    let zone = |name, protocol, forward| {
        let words = Words { name, protocol: Some(protocol), forward: Some(forward), ..Words::default() };
        words.zone("", &mut Findings::default())
    };
    let root = match root {
        Forward::VnetDns => "VnetDNS",
        Forward::ClusterCoreDns => "ClusterCoreDNS",
    };
    vec![zone(".", "PreferUDP", root), zone("cluster.local", "ForceTCP", "ClusterCoreDNS")]
}

/// DNS names have no case, and the root may be written or not; CoreDNS refuses a zone that comes twice either way.
fn normal(zone: &str) -> String {
    match zone.strip_suffix('.') {
        Some("") | None => zone.to_ascii_lowercase(),
        Some(relative) => relative.to_ascii_lowercase(),
    }
}

/// `.`, or names of letters, digits, `-` and `_` joined by dots; 254 characters at most.
pub(super) fn is_zone(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    text == "." || (text.len() <= 254 && text.strip_suffix('.').unwrap_or(text).split('.').all(is_label))
}

pub(super) fn is_duration(text: &str) -> bool {
    duration(text).is_some()
}

/// `1h30m`, `90s`. Source: AKSNodeClass `^([0-9]+(s|m|h))+$`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut seconds = 0_u64;
    let mut number = String::new();
    for letter in text.chars() {
        let unit = match letter {
            digit if digit.is_ascii_digit() => {
                number.push(digit);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return None,
        };
        let count: u64 = number.parse().ok()?;
        seconds = seconds.checked_add(count.checked_mul(unit)?)?;
        number.clear();
    }
    // A day and more is no cache, and CoreDNS counts in 32 bits.
    (number.is_empty() && !text.is_empty() && seconds <= u64::from(u32::MAX)).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_and_durations_have_their_rules() {
        for (text, holds) in
            [(".", true), ("a.b", true), ("cluster.local.", true), ("", false), ("a..b", false), ("-a", false)]
        {
            assert_eq!(is_zone(text), holds, "{text}");
        }
        for (text, seconds) in
            [("90s", Some(90)), ("1h30m", Some(5400)), ("0s", Some(0)), ("", None), ("5", None), ("h", None)]
        {
            assert_eq!(duration(text), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn contradictions_between_zones_are_problems() {
        let zone = |name, forward| Words { name, forward: Some(forward), ..Words::default() };
        let mut findings = Findings::default();
        let node = vec![
            zone(".", "ClusterCoreDNS").zone("a", &mut findings),
            zone("cluster.local", "VnetDNS").zone("b", &mut findings),
            zone("x.y", "VnetDNS").zone("c", &mut findings),
            zone("X.Y.", "VnetDNS").zone("d", &mut findings),
        ];
        let pods = vec![zone(HEALTH_ZONE, "VnetDNS").zone("e", &mut findings)];
        LocalDns::new(node, pods, ["node", "pods"], &mut findings);
        let paths: Vec<_> = findings.problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["b", "node", "pods", "pods", "pods", "node"]);
    }
}
