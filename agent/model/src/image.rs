//! What an image has, as its builder wrote it down, and what a configuration needs that it lacks.
//!
//! A node whose image lacks something that kubelet, containerd or the pod network cannot do without would come up half and hang until
//! the provisioner gives up on it. With the inventory that is said before anything is changed. What the inventory does not mention is
//! unknown, and unknown is not missing; a node that has joined before has proved its image and is not asked again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::config::{CniMode, NodeConfig};
use crate::facts::{Os, Programs};
use crate::os::Distribution;
use crate::report::{Failure, Reason};

/// Where the inventory is in the image.
pub const INVENTORY: &str = "/etc/nap-agent/image.json";

/// Plugins that the conflist of node-subnet mode names. The other modes bring their own.
pub const NODE_SUBNET_PLUGINS: &[&str] = &["azure-vnet", "azure-vnet-ipam", "portmap"];

/// What an image has. A field that is absent was not looked at; fields that are not known come from a newer builder.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Image {
    /// `/etc/os-release`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<Os>,
    /// The processor it is for, as the kernel names it: `x86_64` or `aarch64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Versions that the plan depends on.
    pub programs: Programs,
    /// Other programs by path, with what they say of their version; empty when it does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<BTreeMap<String, String>>,
    /// Which of [`crate::os::OPTIONAL_FILES`] are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub present: Option<BTreeSet<String>>,
    /// Names of the CNI plugins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cni_plugins: Option<BTreeSet<String>>,
    /// Kernels by release, with those of the modules that a node may need.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernels: Option<BTreeMap<String, BTreeSet<String>>>,
    /// Units, and whether they start with the machine: `enabled`, `disabled`, `masked`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units: Option<BTreeMap<String, String>>,
}

/// Something that an image lacks and a configuration cannot do without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// The reason for which a boot with that image fails.
    pub reason: Reason,
    /// What is missing, and who needs it.
    pub what: String,
}

/// Everything that this image lacks for this configuration.
pub fn lacks(image: &Image, config: &NodeConfig, os: &Distribution) -> Vec<Lack> {
    let mut lacks = Vec::new();
    let mut lack = |reason, what| lacks.push(Lack { reason, what });
    let wanted = config.cluster.kubernetes_version;
    if let Some(kubelet) = image.programs.kubelet
        && (kubelet.major, kubelet.minor) != (wanted.major, wanted.minor)
    {
        let what = format!("the image has kubelet {kubelet}, the configuration wants Kubernetes {wanted}");
        lack(Reason::ImageLacksKubernetesVersion, what);
    }
    if image.tools.as_ref().is_some_and(|tools| !tools.contains_key(os.runc)) {
        lack(
            Reason::ImageLacksProgram,
            format!("the image has no {}; containerd starts no container without it", os.runc),
        );
    }
    if let (CniMode::NodeSubnet, Some(plugins)) = (config.cni, &image.cni_plugins) {
        for plugin in NODE_SUBNET_PLUGINS.iter().filter(|plugin| !plugins.contains(**plugin)) {
            let path = format!("{}/{plugin}", os.cni_bin);
            lack(
                Reason::ImageLacksCniPlugin,
                format!("the image has no {path}; the pod network of mode nodeSubnet calls it"),
            );
        }
    }
    lacks
}

/// A failure that names everything that is missing, with the reason of the first.
pub(crate) fn refuse(image: &Image, config: &NodeConfig, os: &Distribution) -> Result<(), Failure> {
    let lacks = lacks(image, config, os);
    let Some((first, others)) = lacks.split_first() else { return Ok(()) };
    let failure = Failure::new(first.reason, "plan", first.what.clone());
    let seen = format!("{INVENTORY} is what the image's builder found in it");
    Err(others.iter().fold(failure.seen(seen), |failure, lack| failure.seen(format!("{}: {}", lack.reason, lack.what))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::decode;

    fn config(mode: &str) -> NodeConfig {
        let text = include_str!("../testdata/nothing.yaml").replace("MODE", mode).replace("VERSION", "1.34.2");
        decode(text.as_bytes()).unwrap().config.unwrap()
    }

    fn image() -> Image {
        let os = Distribution::named("ubuntu-24.04").unwrap();
        Image {
            programs: Programs { kubelet: "1.34.0".try_into().ok(), containerd: None },
            tools: Some([(os.runc.to_owned(), "1.3.0".to_owned())].into()),
            cni_plugins: Some(NODE_SUBNET_PLUGINS.iter().map(|name| (*name).to_owned()).collect()),
            ..Image::default()
        }
    }

    fn reasons(image: &Image, mode: &str) -> Vec<Reason> {
        let os = Distribution::named("ubuntu-24.04").unwrap();
        lacks(image, &config(mode), os).into_iter().map(|lack| lack.reason).collect()
    }

    #[test]
    fn nothing_is_missing_in_an_image_that_has_it_or_does_not_tell() {
        for mode in ["overlay", "cilium", "nodeSubnet", "none"] {
            assert_eq!(reasons(&image(), mode), []);
            assert_eq!(reasons(&Image::default(), mode), []);
        }
    }

    #[test]
    fn each_piece_is_missed_by_name() {
        let mut image = image();
        image.programs.kubelet = "1.33.9".try_into().ok();
        assert_eq!(reasons(&image, "none"), [Reason::ImageLacksKubernetesVersion]);
        image.tools = Some(BTreeMap::new());
        image.cni_plugins.as_mut().unwrap().remove("portmap");
        assert_eq!(reasons(&image, "none"), [Reason::ImageLacksKubernetesVersion, Reason::ImageLacksProgram]);
        let os = Distribution::named("ubuntu-24.04").unwrap();
        let failure = refuse(&image, &config("nodeSubnet"), os).unwrap_err();
        assert_eq!(failure.reason, Reason::ImageLacksKubernetesVersion);
        assert_eq!(failure.message, "the image has kubelet 1.33.9, the configuration wants Kubernetes 1.34.2");
        assert_eq!(failure.evidence.len(), 3);
        assert!(
            failure.evidence[2].starts_with("ImageLacksCniPlugin: the image has no /opt/cni/bin/portmap"),
            "{failure:?}"
        );
    }

    #[test]
    fn a_newer_builders_inventory_and_an_older_ones_are_read() {
        let read = |text: &str| serde_json::from_str::<Image>(text).unwrap();
        let old = read(r#"{"programs": {"kubelet": "1.34.0", "containerd": "1.7.24"}}"#);
        assert_eq!(old.cni_plugins, None);
        assert_eq!(read(r#"{"firmware": "x", "programs": {}}"#), Image::default());
    }
}
