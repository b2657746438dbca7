//! The pod network's share of the node.
//!
//! For overlay, cilium and none the node prepares directories, modules and labels and writes no conflist: the DaemonSets (or the user)
//! bring it, and kubelet stays NotReady until then. Only the node-subnet mode has its conflist written here.

use serde_json::json;

use super::resource::{AbsPath, Content, Step, Want, directory};
use crate::config::CniMode;
use crate::os::Distribution;

/// Labels that azure-cns and cilium select nodes by; without them no DaemonSet comes and pods never start.
/// Source: karpenter-provider-azure `pkg/providers/labels`.
pub(super) fn labels(mode: CniMode) -> &'static [(&'static str, &'static str)] {
    match mode {
        CniMode::Overlay => {
            &[("kubernetes.azure.com/azure-cni-overlay", "true"), ("kubernetes.azure.com/podnetwork-type", "overlay")]
        }
        CniMode::Cilium => &[
            ("kubernetes.azure.com/azure-cni-overlay", "true"),
            ("kubernetes.azure.com/ebpf-dataplane", "cilium"),
            ("kubernetes.azure.com/podnetwork-type", "overlay"),
        ],
        CniMode::NodeSubnet | CniMode::None => &[],
    }
}

pub(super) fn directories(os: &Distribution) -> Vec<Step> {
    vec![
        Step::new("cni.bin", "CNI plugins are installed here", directory(os.cni_bin, 0o755)).at_bake(),
        Step::new("cni.conf", "containerd looks for the conflist here", directory("/etc/cni/net.d", 0o755)).at_bake(),
        Step::new("cni.state", "host-local and portmap keep their state here", directory("/var/lib/cni", 0o755))
            .at_bake(),
    ]
}

pub(super) fn files(mode: CniMode) -> Vec<Step> {
    if mode != CniMode::NodeSubnet {
        return Vec::new();
    }
    let conflist = json!({
        "cniVersion": "0.3.0",
        "name": "azure",
        "plugins": [
            {"type": "azure-vnet", "mode": "transparent", "ipsToRouteViaHost": ["169.254.20.10"], "ipam": {"type": "azure-vnet-ipam"}},
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    });
    let path = AbsPath::literal("/etc/cni/net.d/10-azure.conflist");
    let content = Content::public(format!("{conflist:#}\n"));
    let why = "in node-subnet mode the node itself names the plugin";
    vec![Step::new("cni.conflist", why, Want::File { path, mode: 0o600, content })]
}
