//! `provision.json`, the contract that AgentBaker's `provision-wait` and support tooling read.
//!
//! Same path and same keys as AgentBaker's `cse_start.sh` writes, every value a string; `Error` is filled at last, and keys of
//! ours come after theirs.

use serde::{Deserialize, Serialize};

use super::reason::Failure;

/// The report of one boot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProvisionReport {
    /// `"0"`, or AgentBaker's code for the class of failure.
    pub exit_code: String,
    /// The last lines of our own log, at most [`ProvisionReport::MAX_OUTPUT_BYTES`].
    pub output: String,
    /// What is wrong, what was seen, what to do; empty on success.
    pub error: String,
    /// Seconds from the start of our boot to its end.
    pub exec_duration: String,
    /// When the kernel started.
    pub kernel_start_time: String,
    /// When cloud-init's local stage started.
    pub cloud_init_local_start_time: String,
    /// When cloud-init's network stage started.
    pub cloud_init_start_time: String,
    /// When cloud-init's final stage started.
    pub cloud_final_start_time: String,
    /// When systemd-networkd started.
    pub networkd_start_time: String,
    /// When our boot started, in the place of the custom script extension.
    #[serde(rename = "CSEStartTime")]
    pub cse_start_time: String,
    /// When the guest agent started.
    pub guest_agent_start_time: String,
    /// What `systemd-analyze` would say; the same figures are in the timeline.
    pub systemd_summary: String,
    /// The four points that dashboards use.
    pub boot_datapoints: BootDatapoints,
    /// The stable reason; empty on success. Ours.
    #[serde(default)]
    pub reason: String,
    /// The step in which it failed. Ours.
    #[serde(default)]
    pub step: String,
    /// What to do. Ours.
    #[serde(default)]
    pub hint: String,
    /// The boot this report is about, so that nobody takes yesterday's for today's. Ours.
    #[serde(default)]
    pub boot_id: String,
    /// What did not keep the node from coming up and should be known all the same. Ours.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What the configuration asks for and does not get, each with its field and the reason. Ours.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Milliseconds that each stage took, in order. Ours.
    #[serde(default)]
    pub stages: Vec<(String, String)>,
}

/// The four points in time that dashboards use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BootDatapoints {
    /// When the kernel started.
    pub kernel_start_time: String,
    /// When our boot started.
    #[serde(rename = "CSEStartTime")]
    pub cse_start_time: String,
    /// When the guest agent started.
    pub guest_agent_start_time: String,
    /// When kubelet started.
    pub kubelet_start_time: String,
}

/// Points in time that the report carries, as text; empty when not known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Timeline {
    /// When the kernel started.
    pub kernel: String,
    /// When our boot started.
    pub boot: String,
    /// Start of units, by unit name.
    pub units: Vec<(String, String)>,
    /// Seconds that our boot took.
    pub seconds: String,
}

impl ProvisionReport {
    /// Where the report lies on the node.
    pub const PATH: &'static str = "/var/log/azure/aks/provision.json";
    /// The marker that says the report is there.
    pub const COMPLETE: &'static str = "/opt/azure/containers/provision.complete";
    /// Longest `Output`, in bytes. Source: AgentBaker `cse_start.sh`.
    pub const MAX_OUTPUT_BYTES: usize = 3000;

    /// The report of a boot that ended with `outcome`.
    pub fn new(outcome: Result<(), &Failure>, timeline: &Timeline, log: &str) -> Self {
        let unit = |name: &str| {
            let found = timeline.units.iter().find(|(unit, _)| unit == name);
            found.map(|(_, at)| at.clone()).unwrap_or_default()
        };
        let failure = outcome.err();
        Self {
            exit_code: failure.map_or(0, |failure| failure.reason.exit_code()).to_string(),
            output: tail(log, Self::MAX_OUTPUT_BYTES).to_owned(),
            error: failure.map(error_text).unwrap_or_default(),
            exec_duration: timeline.seconds.clone(),
            kernel_start_time: timeline.kernel.clone(),
            cloud_init_local_start_time: unit("cloud-init-local.service"),
            cloud_init_start_time: unit("cloud-init.service"),
            cloud_final_start_time: unit("cloud-final.service"),
            networkd_start_time: unit("systemd-networkd.service"),
            cse_start_time: timeline.boot.clone(),
            guest_agent_start_time: unit("walinuxagent.service"),
            systemd_summary: String::new(),
            boot_datapoints: BootDatapoints {
                kernel_start_time: timeline.kernel.clone(),
                cse_start_time: timeline.boot.clone(),
                guest_agent_start_time: unit("walinuxagent.service"),
                kubelet_start_time: unit("kubelet.service"),
            },
            reason: failure.map(|failure| failure.reason.to_string()).unwrap_or_default(),
            step: failure.map(|failure| failure.step.clone()).unwrap_or_default(),
            hint: failure.map(|failure| failure.reason.row().hint.to_owned()).unwrap_or_default(),
            boot_id: String::new(),
            notes: Vec::new(),
            warnings: Vec::new(),
            stages: Vec::new(),
        }
    }
}

fn error_text(failure: &Failure) -> String {
    let evidence: String = failure.evidence.iter().map(|line| format!("\n  seen: {line}")).collect();
    format!("{failure}{evidence}\n  do: {}", failure.reason.row().hint)
}

/// The last `bytes` of a text, cut at a character.
fn tail(text: &str, bytes: usize) -> &str {
    let start = text.len().saturating_sub(bytes);
    let start = (start..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::super::Reason;
    use super::*;

    #[test]
    fn the_report_has_todays_keys_and_fills_the_error() {
        let failure =
            Failure::new(Reason::ApiServerDnsFailed, "verify.api-server", "no such name").seen("tried 3 times");
        let report = ProvisionReport::new(Err(&failure), &Timeline::default(), "log");
        let json = serde_json::to_value(&report).unwrap();
        for key in [
            "ExitCode",
            "Output",
            "Error",
            "ExecDuration",
            "KernelStartTime",
            "CloudInitLocalStartTime",
            "CloudInitStartTime",
            "CloudFinalStartTime",
            "NetworkdStartTime",
            "CSEStartTime",
            "GuestAgentStartTime",
            "SystemdSummary",
        ] {
            assert!(json[key].is_string(), "{key}");
        }
        assert!(json["BootDatapoints"]["KubeletStartTime"].is_string());
        assert_eq!(json["ExitCode"], "52");
        assert_eq!(json["Reason"], "ApiServerDnsFailed");
        assert!(json["Error"].as_str().unwrap().contains("seen: tried 3 times"));
        assert_eq!(ProvisionReport::new(Ok(()), &Timeline::default(), "").exit_code, "0");
    }

    #[test]
    fn the_tail_is_cut_at_a_character() {
        assert_eq!(tail("aäb", 2), "b");
        assert_eq!(tail("ab", 5), "ab");
    }
}
