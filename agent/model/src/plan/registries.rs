//! Where containerd pulls the cloud's own images from, when not from the cloud's own registry.

use super::resource::{AbsPath, Content, Step, Want};
use crate::clouds;
use crate::config::{ApiServer, NodeConfig};

/// The registry that this node reaches by itself: not through a proxy, not in a network-isolated cluster, not in a cloud that nobody
/// knows.
pub fn public_registry(config: &NodeConfig) -> Option<ApiServer> {
    if config.proxy.is_some() || config.registries.bootstrap.is_some() {
        return None;
    }
    ApiServer::try_from(clouds::named(&config.cloud.environment)?.registry).ok()
}

/// In a network-isolated cluster one registry of the user's stands for the cloud's public one.
///
/// There is no `server` line: containerd asks the original only when the mirror does not have the image, and there nothing answers.
pub(super) fn files(config: &NodeConfig) -> Vec<Step> {
    let (Some(mirror), Some(cloud)) = (&config.registries.bootstrap, clouds::named(&config.cloud.environment)) else {
        return Vec::new();
    };
    let (host, path) = mirror.split_once('/').map_or((mirror.as_str(), None), |(host, path)| (host, Some(path)));
    let base = path.map_or_else(|| format!("{host}/v2"), |path| format!("{host}/v2/{path}"));
    let text = format!("[host.\"https://{base}\"]\ncapabilities = [\"pull\", \"resolve\"]\noverride_path = true\n");
    let file = format!("/etc/containerd/certs.d/{}/hosts.toml", cloud.registry);
    let path = AbsPath::try_from(file.as_str()).expect("a registry's name makes a directory's");
    let want = Want::File { path, mode: 0o644, content: Content::public(text) };
    vec![Step::new("registries.bootstrap", "this cluster reaches no public registry", want)]
}
