//! The node's own network: search domains, a private API server's address, more NICs, IPv6.
//!
//! Everything goes into files of systemd-networkd and systemd-resolved, which all our distributions have; netplan only writes such files.

use std::net::IpAddr;

use super::node_address;
use super::resource::{AbsPath, Content, Place, Step, Want, public_file};
use crate::config::{NodeConfig, SecondaryNics};
use crate::facts::{Facts, Nic};
use crate::os::Distribution;

/// A NIC beside the primary one must lose against it when both have a default route.
const FIRST_METRIC: usize = 2000;
const METRIC_STEP: usize = 100;

/// The tag by which AKS tells a private API server's address. Source: AgentBaker, `reconcilePrivateHosts.sh`.
const API_SERVER_TAG: &str = "aksAPIServerIPAddress";

pub(super) fn files(config: &NodeConfig, facts: &Facts, os: &Distribution, notes: &mut Vec<String>) -> Vec<Step> {
    let mut steps = search_domains(config);
    steps.extend(hosts_entry(config, facts, notes));
    steps.extend(network_files(config, facts, os, notes));
    steps
}

/// What has to read those files anew.
pub(super) fn units(config: &NodeConfig, facts: &Facts, os: &Distribution) -> Vec<Step> {
    let why = "a running service knows only what it has read";
    let domains = search_domains(config);
    let networks = network_files(config, facts, os, &mut Vec::new());
    [
        ("network.resolved", "systemd-resolved.service", domains),
        ("network.networkd", "systemd-networkd.service", networks),
    ]
    .into_iter()
    .filter(|(_, _, files)| !files.is_empty())
    .map(|(id, name, files)| Step::new(id, why, reread(name, &files)).desired())
    .collect()
}

fn reread(name: &'static str, steps: &[Step]) -> Want {
    let files = steps.iter().filter_map(|step| match &step.want {
        Want::File { path, .. } => Some(path.clone()),
        _ => None,
    });
    Want::Reread { name, files: files.collect() }
}

fn search_domains(config: &NodeConfig) -> Vec<Step> {
    let domains = &config.network.search_domains;
    if domains.is_empty() {
        return Vec::new();
    }
    let text = format!("[Resolve]\nDomains={}\n", domains.join(" "));
    let want = public_file("/etc/systemd/resolved.conf.d/50-nap-agent.conf", text);
    vec![Step::new("network.search-domains", "short names are looked up there", want).desired()]
}

/// An address needs no entry.
fn wants_hosts_entry(config: &NodeConfig) -> bool {
    config.network.private_api_server && config.cluster.api_server.host.parse::<IpAddr>().is_err()
}

/// The VM's tag that the hosts entry of a private API server comes from; nothing where the configuration has the address, or nobody
/// asked for an entry. Azure changes it when the API server moves.
pub fn api_server_tag(config: &NodeConfig) -> Option<&'static str> {
    (wants_hosts_entry(config) && config.network.api_server_address.is_none()).then_some(API_SERVER_TAG)
}

fn hosts_entry(config: &NodeConfig, facts: &Facts, notes: &mut Vec<String>) -> Option<Step> {
    let server = &config.cluster.api_server;
    if !wants_hosts_entry(config) {
        return None;
    }
    let of_tag = || facts.instance.as_ref()?.tag(API_SERVER_TAG)?.trim().parse().ok();
    let Some(address) = config.network.api_server_address.or_else(of_tag) else {
        notes.push(format!(
            "PrivateApiServerAddressUnknown: no hosts entry: neither the configuration nor the VM's tag {API_SERVER_TAG} has its address"
        ));
        return None;
    };
    let lines = format!("{address} {}\n", server.host);
    let want = Want::Block { path: AbsPath::literal("/etc/hosts"), place: Place::Top, mode: 0o644, lines };
    Some(Step::new("network.api-server-address", "no DNS server here knows the private API server", want))
}

fn network_files(config: &NodeConfig, facts: &Facts, os: &Distribution, notes: &mut Vec<String>) -> Vec<Step> {
    let nics = secondary_nics(config, facts, notes);
    let mut steps: Vec<Step> = nics.iter().enumerate().map(|(i, nic)| secondary_nic(i, nic)).collect();
    if config.network.dual_stack {
        // Azure's routers advertise no managed addresses, so a client must ask by itself.
        let text = "[Network]\nDHCP=yes\n\n[DHCPv6]\nWithoutRA=solicit\n";
        let path = format!("/etc/systemd/network/{}.d/50-nap-agent-ipv6.conf", os.network_file);
        let path = AbsPath::try_from(path.as_str()).expect("a file's name below /etc is a path");
        let want = Want::File { path, mode: 0o644, content: Content::public(text) };
        steps.push(Step::new("network.ipv6", "the node asks for its IPv6 address", want).desired());
    }
    steps
}

fn secondary_nic(i: usize, nic: &Nic) -> Step {
    let colons: Vec<&str> = (0..nic.mac.len() / 2).filter_map(|at| nic.mac.get(2 * at..2 * at + 2)).collect();
    let text = format!(
        "# Written by nap-agent.\n[Match]\nMACAddress={}\nDriver={}\n\n[Link]\nRequiredForOnline=no\n\n[Network]\nDHCP=yes\n\n\
         [DHCPv4]\nUseDNS=no\nUseDomains=no\nRouteMetric={metric}\n\n[DHCPv6]\nUseDNS=no\nUseDomains=no\n\n\
         [IPv6AcceptRA]\nUseDNS=no\nRouteMetric={metric}\n",
        colons.join(":").to_ascii_lowercase(),
        // A virtual function has the same MAC and must not be configured.
        if nic.driver.is_empty() { "*" } else { &nic.driver },
        metric = FIRST_METRIC + METRIC_STEP * i,
    );
    // Before netplan's 10-netplan-*.
    let path = format!("/etc/systemd/network/05-nap-agent-{}.network", nic.mac.to_ascii_lowercase());
    let path = AbsPath::try_from(path.as_str()).expect("a MAC makes a file name");
    let want = Want::File { path, mode: 0o644, content: Content::public(text) };
    Step::new(format!("network.nic.{}", nic.mac.to_ascii_lowercase()), "a NIC beside the primary one", want).desired()
}

/// The wanted NICs, in the order of the configuration or of their names.
fn secondary_nics(config: &NodeConfig, facts: &Facts, notes: &mut Vec<String>) -> Vec<Nic> {
    if config.network.secondary_nics != SecondaryNics::None && !facts.nics.iter().any(|nic| is_primary(nic, facts)) {
        // A guess would take the node's own address away.
        notes.push("SecondaryNicsSkipped: IMDS does not tell which interface is the primary one".to_owned());
        return Vec::new();
    }
    match &config.network.secondary_nics {
        SecondaryNics::None => Vec::new(),
        SecondaryNics::Macs(macs) => {
            let mut found = Vec::new();
            for mac in macs {
                match facts.nics.iter().find(|nic| nic.mac == *mac) {
                    Some(nic) if is_primary(nic, facts) => {
                        notes.push(format!("the NIC {mac} is the primary one; its settings are left alone"));
                    }
                    Some(nic) => found.push(nic.clone()),
                    None => notes.push(format!("SecondaryNicMissing: no interface has the MAC {mac}")),
                }
            }
            found
        }
        SecondaryNics::Count(count) => {
            let wanted = usize::try_from(*count).unwrap_or(usize::MAX);
            let mut others: Vec<Nic> = facts.nics.iter().filter(|nic| !is_primary(nic, facts)).cloned().collect();
            others.truncate(wanted);
            if others.len() < wanted {
                notes.push(format!("SecondaryNicMissing: {wanted} more NICs are wanted, there are {}", others.len()));
            }
            others
        }
    }
}

/// Whether the node's own address is on this NIC.
fn is_primary(nic: &Nic, facts: &Facts) -> bool {
    let addresses = facts.instance.as_ref().and_then(|instance| instance.interfaces.get(&nic.mac));
    node_address(facts).is_some_and(|address| addresses.is_some_and(|addresses| addresses.contains(&address)))
}
