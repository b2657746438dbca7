//! Where containerd asks for images: `certs.d/REGISTRY/hosts.toml`, composed of who wants a say.
//!
//! In this order: the streaming mirror, for every registry while it answers; the user's mirrors; then the registry itself, which
//! containerd asks when no mirror has the image. A registry with a file of its own is not looked up in `_default`, so the streaming
//! mirror stands in such a file, too, where the registry is one that can have streamable images.

use std::collections::BTreeMap;

use super::resource::{AbsPath, Content, Step, Want};
use super::streaming::{MIRROR_PORT, MirrorUse};
use crate::clouds;
use crate::config::{ApiServer, Mirror, NodeConfig};

/// How a file of ours begins; any other is somebody else's.
pub const HOSTS_OF_OURS: &str = "# Written by nap-agent";

/// The file for every registry that has none.
const DEFAULT: &str = "_default";

/// The registry that this node reaches by itself: not through a proxy, not in a network-isolated cluster, not in a cloud that nobody
/// knows.
pub fn public_registry(config: &NodeConfig) -> Option<ApiServer> {
    if config.proxy.is_some() || config.registries.bootstrap.is_some() {
        return None;
    }
    ApiServer::try_from(clouds::named(&config.cloud.environment)?.registry).ok()
}

/// One file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hosts {
    /// Who is asked last instead of the registry itself.
    server: Option<String>,
    /// Who is asked first.
    mirrors: Vec<String>,
}

pub(super) fn files(config: &NodeConfig, streaming: MirrorUse) -> Vec<Step> {
    let mut steps: Vec<Step> = isolated(config).into_iter().collect();
    let mut files: BTreeMap<&str, Hosts> = BTreeMap::new();
    for (old, new) in clouds::named(&config.cloud.environment).iter().flat_map(|cloud| cloud.moved_registries) {
        files.entry(old).or_default().mirrors.push(format!("https://{new}"));
    }
    for Mirror { registry, endpoints, only } in &config.registries.mirrors {
        let hosts = files.entry(registry).or_default();
        hosts.mirrors.extend(endpoints.iter().map(|endpoint| with_api_path(endpoint)));
        hosts.server = hosts.mirrors.first().filter(|_| *only).cloned();
    }
    if streaming == MirrorUse::Asked {
        files.entry(DEFAULT).or_default();
        let streamed = files.iter_mut().filter(|(registry, _)| can_stream(registry));
        streamed.for_each(|(_, hosts)| hosts.mirrors.insert(0, format!("http://localhost:{MIRROR_PORT}")));
    }
    if streaming == MirrorUse::NotAsked && !files.contains_key(DEFAULT) {
        steps.push(step(DEFAULT, None));
    }
    steps.extend(files.iter().map(|(registry, hosts)| step(registry, Some(hosts))));
    steps
}

fn can_stream(registry: &str) -> bool {
    registry == DEFAULT || clouds::CLOUDS.iter().any(|cloud| registry.ends_with(cloud.container_registries))
}

fn step(registry: &str, hosts: Option<&Hosts>) -> Step {
    let path = AbsPath::try_from(format!("/etc/containerd/certs.d/{registry}/hosts.toml").as_str());
    let want = Want::Hosts {
        path: path.expect("a registry's name makes a directory's"),
        content: hosts.map(text),
        mirror: format!(":{MIRROR_PORT}"),
    };
    Step::new(format!("registries.hosts.{registry}"), "where containerd asks for images first", want)
}

fn text(hosts: &Hosts) -> String {
    let mut text = format!("{HOSTS_OF_OURS}; a file that begins otherwise is left alone.\n");
    if let Some(server) = &hosts.server {
        text.push_str(&format!("server = \"{server}\"\n"));
    }
    for mirror in &hosts.mirrors {
        text.push_str(&format!("\n[host.\"{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"));
        if mirror.contains("/v2/") {
            text.push_str("override_path = true\n");
        }
    }
    text
}

/// A path below a mirror stands after the API's own root.
fn with_api_path(endpoint: &str) -> String {
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("https", endpoint));
    match rest.trim_end_matches('/').split_once('/') {
        Some((host, path)) => format!("{scheme}://{host}/v2/{path}"),
        None => format!("{scheme}://{}", rest.trim_end_matches('/')),
    }
}

/// In a network-isolated cluster one registry of the user's stands for the cloud's public one.
///
/// There is no `server` line: containerd asks the original only when the mirror does not have the image, and there nothing answers.
/// The cluster cannot work without this file, so it is written whoever wrote another.
fn isolated(config: &NodeConfig) -> Option<Step> {
    let (mirror, cloud) = (config.registries.bootstrap.as_ref()?, clouds::named(&config.cloud.environment)?);
    let (host, path) = mirror.split_once('/').map_or((mirror.as_str(), None), |(host, path)| (host, Some(path)));
    let base = path.map_or_else(|| format!("{host}/v2"), |path| format!("{host}/v2/{path}"));
    let text = format!("[host.\"https://{base}\"]\ncapabilities = [\"pull\", \"resolve\"]\noverride_path = true\n");
    let file = format!("/etc/containerd/certs.d/{}/hosts.toml", cloud.registry);
    let path = AbsPath::try_from(file.as_str()).expect("a registry's name makes a directory's");
    let want = Want::File { path, mode: 0o644, content: Content::public(text) };
    Some(Step::new("registries.bootstrap", "this cluster reaches no public registry", want))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::decode;

    fn config(registries: &str, location: &str) -> NodeConfig {
        let text = include_str!("../../testdata/nothing.yaml").replace("MODE", "none").replace("VERSION", "1.34.2");
        let text = format!("{text}registries: {registries}\ncloud: {{location: {location}}}\n");
        let decoded = decode(text.as_bytes()).unwrap();
        assert_eq!(decoded.findings.problems, []);
        decoded.config.unwrap()
    }

    /// Registries with a file of ours, and who is asked in which order; `-` where the file is to be gone.
    fn asked(config: &NodeConfig, streaming: MirrorUse) -> Vec<String> {
        let hosts = |step: Step| {
            let registry = step.id.strip_prefix("registries.hosts.")?.to_owned();
            let Want::Hosts { content, .. } = step.want else { panic!("{}", step.id) };
            let Some(text) = content else { return Some(format!("{registry} -")) };
            let table: toml::Table = text.parse().unwrap();
            let server = table.get("server").map(|server| format!(" then {}", server.as_str().unwrap()));
            let names = text.lines().filter_map(|line| line.strip_prefix("[host.\"")?.strip_suffix("\"]"));
            Some(format!("{registry} {}{}", names.collect::<Vec<_>>().join(" "), server.unwrap_or_default()))
        };
        files(config, streaming).into_iter().filter_map(hosts).collect()
    }

    #[test]
    fn who_has_a_say_is_asked_in_order() {
        let plain = config("{}", "westeurope");
        assert_eq!(asked(&plain, MirrorUse::Unwanted), [""; 0]);
        assert_eq!(asked(&plain, MirrorUse::Asked), ["_default http://localhost:8578"]);
        assert_eq!(asked(&plain, MirrorUse::NotAsked), ["_default -"]);
        let mirrors = "{mirrors: [{registry: docker.example, endpoints: [\"https://m.example/hub\", \"http://n.example:5000\"]}, \
                       {registry: a.azurecr.io, endpoints: [\"https://m.example\"], onlyMirrors: true}, \
                       {registry: _default, endpoints: [\"https://all.example\"]}]}";
        let users = config(mirrors, "westeurope");
        let without = [
            "_default https://all.example",
            "a.azurecr.io https://m.example then https://m.example",
            "docker.example https://m.example/v2/hub http://n.example:5000",
        ];
        assert_eq!(asked(&users, MirrorUse::Unwanted), without);
        assert_eq!(asked(&users, MirrorUse::NotAsked), without, "the mirror is gone, the user's are not");
        let with = [
            "_default http://localhost:8578 https://all.example",
            "a.azurecr.io http://localhost:8578 https://m.example then https://m.example",
            "docker.example https://m.example/v2/hub http://n.example:5000",
        ];
        assert_eq!(asked(&users, MirrorUse::Asked), with);
    }

    #[test]
    fn chinas_old_registry_leads_to_its_new_one() {
        assert_eq!(asked(&config("{}", "chinaeast2"), MirrorUse::Unwanted), ["mcr.azk8s.cn https://mcr.azure.cn"]);
    }

    #[test]
    fn the_isolated_clusters_file_is_beside_them() {
        let steps = files(&config("{bootstrap: r.azurecr.io/mcr}", "westeurope"), MirrorUse::Asked);
        let ids: Vec<_> = steps.iter().map(|step| step.id.as_str()).collect();
        assert_eq!(ids, ["registries.bootstrap", "registries.hosts._default"]);
    }
}
