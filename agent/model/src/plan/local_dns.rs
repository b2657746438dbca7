//! LocalDNS: CoreDNS on the node, as a cache for the node (169.254.10.10) and for its pods (169.254.10.11).
//!
//! kubelet writes the address of the cache into every pod's resolver file, and a pod keeps it for life. So the address must be in
//! kubelet's configuration only on a node where the cache has come up. The plan cannot know that; the boot can. Hence the order: the
//! stages of LocalDNS come before kubelet's files. When its unit does not become active, the boot stops it, notes why as a fact
//! ([`Facts::local_dns_failure`]) and plans again: the same plan with the cluster's own DNS address, without the label and with a
//! note. The guard plans with the same facts, so it does not try again behind kubelet's back; the next boot of the machine does.
//!
//! Considered and left: both addresses in `clusterDNS` (musl asks all at once, so the cache would be half used, and a resolver that
//! waits for the dead one takes 5 s a question); the plan for plain DNS first and LocalDNS after kubelet (the first pods of the node
//! would miss the cache for life). The cost of this order is that a boot waits for CoreDNS, a second or less; and for
//! `TimeoutStartSec` when it hangs.
//!
//! Where the virtual network's DNS servers are is known only at run time and may change, so the supervisor (`nap-agent local-dns run`)
//! writes them to a resolver file of ours, and the Corefile names that file.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::resource::{Digest, Readiness, Step, Want, public_file};
use crate::config::{self, Forward, ForwardPolicy, HEALTH_ZONE, NodeConfig, Protocol, ServeStale, Zone};
use crate::facts::Facts;
use crate::os::COREDNS;
use crate::resolver::{NODE_LISTENER, POD_LISTENER, READY_PORT, UPSTREAMS};

/// CoreDNS' configuration.
pub const COREFILE: &str = "/etc/nap-agent/localdns/Corefile";

/// The step whose failure means plain DNS.
pub const LOCAL_DNS_RUNNING: &str = "local-dns.running";

/// Its unit.
pub const LOCAL_DNS_UNIT: &str = "localdns.service";

/// Where AKS' operators scrape it. Source: AgentBaker, `localdns.sh`.
const METRICS: &str = ":9253";

/// CoreDNS' own default number of answers of each kind that are kept. Source: coredns.io/plugins/cache.
const CACHE_ANSWERS: u32 = 9984;

/// What a node without the cache says in its label, and one with it.
const STATE_LABEL: &str = "kubernetes.azure.com/localdns-state";

/// What becomes of LocalDNS on this machine.
pub(super) enum LocalDns<'a> {
    /// Nobody asked for it.
    Unwanted,
    /// It was asked for and cannot be, for this reason.
    Unavailable(String),
    /// It runs.
    Serves { profile: &'a config::LocalDns, cluster: &'a [IpAddr] },
}

impl<'a> LocalDns<'a> {
    pub(super) fn new(config: &'a NodeConfig, facts: &Facts) -> Self {
        let Some(profile) = &config.local_dns else { return Self::Unwanted };
        let cluster = &config.cluster.dns_service_ips;
        if !facts.present.contains(COREDNS) {
            Self::Unavailable(format!("the image has no {COREDNS}"))
        } else if cluster.is_empty() {
            Self::Unavailable("the cluster has no address of a DNS service".to_owned())
        } else if let Some(why) = &facts.local_dns_failure {
            Self::Unavailable(why.clone())
        } else {
            Self::Serves { profile, cluster }
        }
    }

    /// The addresses that pods ask when they do not ask the cluster's own.
    pub(super) fn pod_dns(&self) -> Option<[IpAddr; 1]> {
        matches!(self, Self::Serves { .. }).then_some([IpAddr::V4(POD_LISTENER)])
    }

    /// What the node's labels must say of it, whatever the provisioner thought. Only who mentions the label gets a `disabled`.
    pub(super) fn label(&self, given: Option<&str>) -> Option<(&'static str, &'static str)> {
        match (self, given) {
            (Self::Serves { .. }, _) => Some((STATE_LABEL, "enabled")),
            (Self::Unavailable(_) | Self::Unwanted, Some(_)) => Some((STATE_LABEL, "disabled")),
            (Self::Unavailable(_) | Self::Unwanted, None) => None,
        }
    }

    /// The label among the provisioner's own.
    pub(super) fn given_label(config: &NodeConfig) -> Option<&str> {
        config.labels.iter().find(|(key, _)| key.as_str() == STATE_LABEL).map(|(_, value)| value.as_str())
    }

    pub(super) fn notes(&self, config: &NodeConfig) -> Vec<String> {
        let mut notes = Vec::new();
        if let Self::Unavailable(why) = self {
            notes.push(format!("LocalDnsUnavailable: {why}; the node and its pods use plain DNS"));
        }
        let given = Self::given_label(config);
        if let (Some(given), Some((key, value))) = (given, self.label(given))
            && given != value
        {
            notes.push(format!("label {key} is {value} and not {given}: it says what runs"));
        }
        notes
    }

    pub(super) fn files(&self) -> Vec<Step> {
        let Self::Serves { profile, cluster } = self else { return Vec::new() };
        vec![
            Step::new(
                "local-dns.corefile",
                "what the DNS cache forwards where",
                public_file(COREFILE, corefile(profile, cluster)),
            ),
            Step::new(
                "local-dns.slice",
                "the DNS cache may not take what pods need",
                public_file("/etc/systemd/system/localdns.slice", slice(profile)),
            ),
            Step::new(
                "local-dns.unit",
                "a node whose DNS cache dies gets its resolver back",
                public_file("/etc/systemd/system/localdns.service", unit()),
            ),
        ]
    }

    pub(super) fn running(&self) -> Option<Step> {
        let files = self.files();
        let inputs = Digest::of_files(&files);
        let want = Want::Unit { name: LOCAL_DNS_UNIT, inputs, readiness: Readiness::Active };
        (!files.is_empty()).then(|| Step::new(LOCAL_DNS_RUNNING, "the node class asks for a DNS cache", want).desired())
    }
}

/// The whole Corefile. Zones are sorted, so that the order in which a provisioner lists them restarts nothing.
fn corefile(profile: &config::LocalDns, cluster: &[IpAddr]) -> String {
    let mut text = format!(
        "# Written by nap-agent from the node class' localDNS.\n\
         {HEALTH_ZONE}:53 {{\n    \
             bind {NODE_LISTENER} {POD_LISTENER}\n    \
             errors\n    \
             ready {NODE_LISTENER}:{READY_PORT}\n    \
             whoami\n\
         }}\n"
    );
    let listeners = [(NODE_LISTENER, &profile.node_zones), (POD_LISTENER, &profile.pod_zones)];
    for (listener, zones) in listeners {
        let mut zones: Vec<_> = zones.iter().collect();
        zones.sort_by(|one, other| one.name.cmp(&other.name));
        for zone in zones {
            let _ = write!(text, "{}:53 {{\n    bind {listener}\n{}}}\n", zone.name, plugins(zone, cluster)); // to a String
        }
    }
    text
}

fn plugins(zone: &Zone, cluster: &[IpAddr]) -> String {
    let mut lines = vec!["errors".to_owned(), format!("prometheus {METRICS}")];
    if zone.log_queries {
        lines.push("log".to_owned());
    }
    if zone.name == "." {
        // A cache that is its own upstream stops at once instead of melting: it does not come up, and plain DNS stays.
        lines.push("loop".to_owned());
    }
    lines.extend(cache(zone));
    lines.extend(forward(zone, cluster));
    lines.iter().map(|line| format!("    {line}\n")).collect()
}

/// CoreDNS refuses a lifetime of 0: then nothing is kept.
fn cache(zone: &Zone) -> Vec<String> {
    let seconds = zone.cache_for.as_secs();
    if seconds == 0 {
        return Vec::new();
    }
    let mut lines = vec![
        "cache {".to_owned(),
        format!("    success {CACHE_ANSWERS} {seconds}"),
        format!("    denial {CACHE_ANSWERS} {seconds}"),
    ];
    let stale = zone.serve_stale_for.as_secs();
    let mode = match zone.serve_stale {
        ServeStale::Verify => Some("verify"),
        ServeStale::Immediate => Some("immediate"),
        ServeStale::Disable => None,
    };
    lines.extend(mode.filter(|_| stale > 0).map(|mode| format!("    serve_stale {stale}s {mode}")));
    lines.push("}".to_owned());
    lines
}

fn forward(zone: &Zone, cluster: &[IpAddr]) -> Vec<String> {
    let to = match zone.forward {
        Forward::ClusterCoreDns => cluster.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "),
        Forward::VnetDns => UPSTREAMS.to_owned(),
    };
    let policy = match zone.policy {
        ForwardPolicy::Sequential => "sequential",
        ForwardPolicy::RoundRobin => "round_robin",
        ForwardPolicy::Random => "random",
    };
    let protocol = match zone.protocol {
        Protocol::PreferUdp => "prefer_udp",
        Protocol::ForceTcp => "force_tcp",
    };
    let mut lines = vec![format!("forward . {to} {{"), format!("    policy {policy}"), format!("    {protocol}")];
    if zone.max_concurrent > 0 {
        lines.push(format!("    max_concurrent {}", zone.max_concurrent));
    }
    lines.push("}".to_owned());
    lines
}

fn slice(profile: &config::LocalDns) -> String {
    format!(
        "# Written by nap-agent.\n\
         [Unit]\n\
         Description=LocalDNS\n\
         \n\
         [Slice]\n\
         CPUQuota={}%\n\
         MemoryMax={}M\n",
        profile.cpu_percent, profile.memory_mb
    )
}

/// systemd ends what is left in the control group, then runs `clean`, whatever way the supervisor ended; and starts it again for
/// ever, because pods know no other address.
fn unit() -> String {
    "# Written by nap-agent; drop-ins beside it are kept.\n\
     [Unit]\n\
     Description=LocalDNS: a DNS cache for this node and its pods\n\
     Documentation=man:nap-agent(1)\n\
     DefaultDependencies=no\n\
     Conflicts=shutdown.target\n\
     Before=shutdown.target kubelet.service\n\
     After=local-fs.target systemd-journald.socket systemd-resolved.service\n\
     StartLimitIntervalSec=0\n\
     \n\
     [Service]\n\
     Type=notify\n\
     ExecStart=/usr/bin/nap-agent local-dns run\n\
     ExecStopPost=/usr/bin/nap-agent local-dns clean\n\
     KillMode=mixed\n\
     Restart=always\n\
     RestartSec=1\n\
     WatchdogSec=60\n\
     TimeoutStartSec=60\n\
     TimeoutStopSec=30\n\
     Slice=localdns.slice\n\
     OOMScoreAdjust=-900\n\
     LimitNOFILE=1048576\n\
     CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_NET_ADMIN CAP_NET_BIND_SERVICE\n\
     NoNewPrivileges=yes\n\
     ProtectHome=yes\n\
     RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n\
     RestrictRealtime=yes\n\
     SystemCallArchitectures=native\n"
        .to_owned()
}
