//! NVIDIA GPUs: the driver of the image, put to use when its parts agree.
//!
//! A GPU failure never keeps kubelet from starting: what does not fit is a note, and containers run without the GPU.

use super::resource::{Digest, Readiness, Step, Want};
use crate::config::NodeConfig;
use crate::facts::Facts;
use crate::monitor::{DEVICE_PLUGIN, FABRIC_MANAGER, GpusExpected};
use crate::os::{DEVICE_PLUGIN_UNIT, FABRIC_MANAGER_UNIT, NVIDIA_RUNTIME};

/// Labels by which Karpenter says what GPUs the VM's size has. Source: karpenter-provider-azure, pkg/apis/v1beta1/labels.go.
const MANUFACTURER: &str = "karpenter.azure.com/sku-gpu-manufacturer";
const COUNT: &str = "karpenter.azure.com/sku-gpu-count";

/// NVIDIA GPUs that the node should have: as many as the boot saw, or its VM size has. Nothing where there should be none.
pub fn gpus_expected(config: &NodeConfig, facts: &Facts) -> Option<GpusExpected> {
    let label = |wanted: &str| {
        let mut labels = config.labels.iter();
        labels.find(|(key, _)| key.as_str() == wanted).map(|(_, value)| value.as_str())
    };
    let is_nvidia = label(MANUFACTURER).is_some_and(|maker| maker.eq_ignore_ascii_case("nvidia"));
    let of_size = label(COUNT).filter(|_| is_nvidia).and_then(|count| count.parse().ok()).unwrap_or(0);
    let seen = facts.gpu.as_ref().map_or(0, |gpu| gpu.devices);
    let count = u32::max(of_size, seen);
    (count > 0).then_some(GpusExpected { count, driver: config.gpu.driver, switched: is_switched(facts) })
}

/// The fabric manager fails where it finds no switch.
fn is_switched(facts: &Facts) -> bool {
    facts.gpu.as_ref().is_some_and(|gpu| gpu.switches > 0)
}

/// Whether containerd's default runtime is NVIDIA's, and what speaks against it.
pub(super) fn usable(config: &NodeConfig, facts: &Facts) -> Result<bool, String> {
    let Some(gpu) = facts.gpu.as_ref().filter(|_| config.gpu.driver) else { return Ok(false) };
    match (&gpu.module, &gpu.library) {
        (None, _) => Err(format!("GpuDriverMissing: {} GPUs, and the kernel module nvidia is not loaded", gpu.devices)),
        (_, None) => Err(format!("GpuDriverMissing: {} GPUs, and no libnvidia-ml.so in the image", gpu.devices)),
        (Some(module), Some(library)) if module != library => {
            Err(format!("GpuDriverMismatch: kernel module {module}, library {library}"))
        }
        _ if !facts.present.contains(NVIDIA_RUNTIME) => {
            Err(format!("GpuRuntimeMissing: no {NVIDIA_RUNTIME} in the image"))
        }
        _ => Ok(true),
    }
}

/// Units of the image that a GPU needs, as far as they are baked.
pub(super) fn units(config: &NodeConfig, facts: &Facts) -> Vec<Step> {
    if usable(config, facts) != Ok(true) {
        return Vec::new();
    }
    let units = [
        ("gpu.fabric-manager", FABRIC_MANAGER, FABRIC_MANAGER_UNIT, is_switched(facts)),
        ("gpu.device-plugin", DEVICE_PLUGIN, DEVICE_PLUGIN_UNIT, config.gpu.device_plugin),
    ];
    let baked = units.into_iter().filter(|(_, _, file, wanted)| *wanted && facts.present.contains(*file));
    baked
        .map(|(id, name, _, _)| {
            let want = Want::Unit { name, inputs: Digest::of_files([]), readiness: Readiness::Started };
            Step::new(id, "the image has it for machines with a GPU", want).desired()
        })
        .collect()
}
