//! NVIDIA GPUs: the driver of the image, put to use when its parts agree.
//!
//! A GPU failure never keeps kubelet from starting: what does not fit is a note, and containers run without the GPU.

use super::resource::{Digest, Readiness, Step, Want};
use crate::config::NodeConfig;
use crate::facts::Facts;
use crate::os::{DEVICE_PLUGIN_UNIT, FABRIC_MANAGER_UNIT, NVIDIA_RUNTIME};

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
        ("gpu.fabric-manager", "nvidia-fabricmanager.service", FABRIC_MANAGER_UNIT, true),
        ("gpu.device-plugin", "nvidia-device-plugin.service", DEVICE_PLUGIN_UNIT, config.gpu.device_plugin),
    ];
    let baked = units.into_iter().filter(|(_, _, file, wanted)| *wanted && facts.present.contains(*file));
    baked
        .map(|(id, name, _, _)| {
            let want = Want::Unit { name, inputs: Digest::of_files([]), readiness: Readiness::Started };
            Step::new(id, "the image has it for machines with a GPU", want).desired()
        })
        .collect()
}
