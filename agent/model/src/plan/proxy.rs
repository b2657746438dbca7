//! The HTTP proxy: for containerd, kubelet, the package manager, and people.
//!
//! Not for every unit of the machine (systemd's `DefaultEnvironment`), as AKS does today: the guest agent and cloud-init must reach the
//! host, never a proxy. A proxy's URL may hold a password; then only root may read the files, and `/etc/environment`, which everybody
//! reads, is left alone.

use super::resource::{AbsPath, Content, Place, Step, Want, public_file};
use crate::config::{NodeConfig, Proxy};
use crate::os::{Distribution, Upgrades};

/// Names the proxy to who reads it.
pub(super) const ENVIRONMENT: &str = "/etc/nap-agent/proxy.env";

/// Never through a proxy: this machine, the instance metadata service, the host's wireserver.
const ALWAYS_DIRECT: &[&str] = &["localhost", "127.0.0.1", "::1", "169.254.169.254", "168.63.129.16"];

pub(super) fn files(config: &NodeConfig, os: &Distribution, notes: &mut Vec<String>) -> Vec<Step> {
    let Some(proxy) = &config.proxy else { return Vec::new() };
    let variables = variables(proxy, &no_proxy(proxy, config));
    let lines: String = variables.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    let why = "containerd and kubelet reach the outside through the proxy";
    let mut steps = vec![Step::new("proxy.environment", why, file(proxy, ENVIRONMENT, lines.clone()))];
    let drop_in = format!("[Service]\nEnvironmentFile={ENVIRONMENT}\n");
    for (unit, path) in drop_ins(os) {
        let why = "its environment names the proxy";
        steps.push(Step::new(format!("proxy.{unit}"), why, public_file(path, drop_in.clone())));
    }
    if os.upgrades == Upgrades::Apt {
        let apt = [("http", &proxy.http), ("https", &proxy.https)]
            .into_iter()
            .filter_map(|(scheme, url)| Some(format!("Acquire::{scheme}::Proxy \"{}\";\n", url.as_ref()?.reveal())));
        let want = file(proxy, "/etc/apt/apt.conf.d/95proxy", apt.collect());
        steps.push(Step::new("proxy.apt", "apt reaches the outside through the proxy", want));
    }
    if has_password(proxy) {
        notes.push(
            "/etc/environment left alone: the proxy's URL holds a password, and everybody reads that file".into(),
        );
    } else {
        let path = AbsPath::literal("/etc/environment");
        let want = Want::Block { path, place: Place::Bottom, mode: 0o644, lines };
        steps.push(Step::new("proxy.people", "who logs in finds the proxy in the environment", want).desired());
    }
    steps
}

fn drop_ins(os: &Distribution) -> Vec<(&'static str, &'static str)> {
    let mut drop_ins = vec![
        ("containerd", "/etc/systemd/system/containerd.service.d/20-nap-agent-proxy.conf"),
        ("kubelet", "/etc/systemd/system/kubelet.service.d/20-nap-agent-proxy.conf"),
    ];
    if os.upgrades == Upgrades::DnfAutomatic {
        drop_ins.push(("dnf", "/etc/systemd/system/dnf-automatic-install.service.d/20-nap-agent-proxy.conf"));
    }
    drop_ins
}

fn file(proxy: &Proxy, path: &'static str, text: String) -> Want {
    let path = AbsPath::literal(path);
    if has_password(proxy) {
        Want::File { path, mode: 0o600, content: Content::secret(text) }
    } else {
        Want::File { path, mode: 0o644, content: Content::public(text) }
    }
}

fn has_password(proxy: &Proxy) -> bool {
    [&proxy.http, &proxy.https].into_iter().flatten().any(|url| url.reveal().contains('@'))
}

/// Both spellings: Go reads either, curl only small letters for `http_proxy`.
fn variables(proxy: &Proxy, no_proxy: &str) -> Vec<(&'static str, String)> {
    let url = |url: &Option<crate::secret::SecretString>| url.as_ref().map(|url| url.reveal().to_owned());
    let all = [
        (["HTTP_PROXY", "http_proxy"], url(&proxy.http)),
        (["HTTPS_PROXY", "https_proxy"], url(&proxy.https)),
        (["NO_PROXY", "no_proxy"], Some(no_proxy.to_owned())),
    ];
    let each = all.into_iter().filter_map(|(names, value)| Some((names, value?)));
    each.flat_map(|(names, value)| names.map(|name| (name, value.clone()))).collect()
}

/// What the provisioner gave, and what must never go through a proxy.
fn no_proxy(proxy: &Proxy, config: &NodeConfig) -> String {
    let cluster = &config.cluster;
    let ours = ALWAYS_DIRECT.iter().map(|entry| (*entry).to_owned());
    let ours = ours.chain([cluster.api_server.host.clone(), ".svc".to_owned(), format!(".{}", cluster.dns_domain)]);
    let ours = ours.chain(cluster.dns_service_ips.iter().map(ToString::to_string));
    let ours = ours.chain(config.network.service_cidrs.iter().cloned());
    let mut entries: Vec<String> = proxy.no_proxy.clone();
    for entry in ours {
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    entries.join(",")
}
