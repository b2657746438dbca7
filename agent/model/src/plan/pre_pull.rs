//! Images that are pulled before pods ask for them, by a unit of their own: kubelet waits for none of them, and a boot only starts it. One that
//! cannot be pulled is a line in the unit's log and its exit status, and no failure of the unit: kubelet pulls it when a pod asks.

use super::cloud;
use super::proxy::ENVIRONMENT as PROXY;
use super::resource::{Digest, Readiness, Stage, Step, Want, public_file};
use crate::config::NodeConfig;

const UNIT: &str = "nap-pre-pull.service";

pub(super) fn files(config: &NodeConfig) -> Vec<Step> {
    unit(config).map(|unit| Step::new("pre-pull.unit", WHY, public_file(PATH, unit))).into_iter().collect()
}

const WHY: &str = "images that are large are there before pods ask for them";

const PATH: &str = "/etc/systemd/system/nap-pre-pull.service";

/// Last, after kubelet.
pub(super) fn running(config: &NodeConfig) -> Option<Stage> {
    let inputs = Digest::of_parts([unit(config)?]);
    let want = Want::Unit { name: UNIT, inputs, readiness: Readiness::Started };
    Some(Stage { name: "pre-pull", steps: vec![Step::new("pre-pull.running", WHY, want).desired()] })
}

fn unit(config: &NodeConfig) -> Option<String> {
    let pulls = &config.containerd.pre_pull;
    if pulls.images.is_empty() {
        return None;
    }
    let environment = cloud::environment_variable(&config.cloud).map(|variable| format!("Environment={variable}"));
    Some(format!(
        "# Written by nap-agent.\n\
         [Unit]\n\
         Description=Pull images before pods ask for them\n\
         After=containerd.service kubelet.service\n\
         \n\
         [Service]\n\
         Type=exec\n\
         RemainAfterExit=yes\n\
         SuccessExitStatus=1\n\
         Nice=10\n\
         NoNewPrivileges=yes\n\
         ProtectSystem=strict\n\
         ProtectHome=yes\n\
         PrivateTmp=yes\n\
         EnvironmentFile=-{PROXY}\n\
         {environment}\
         ExecStart=/usr/bin/nap-agent pre-pull --parallel {parallel} {images}\n",
        environment = environment.unwrap_or_default(),
        parallel = pulls.parallel,
        images = pulls.images.join(" "),
    ))
}
