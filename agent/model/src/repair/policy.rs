//! What the people who own the node allow: `/etc/nap-agent/nap-agent.toml`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Act, REPAIRS, Repair, Risk, repair};

/// Which repairs may be done, and what may be said to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    /// Nothing is done, whatever else is said.
    pub observe_only: bool,
    /// Nothing that costs more is done.
    pub maximum_risk: Risk,
    /// Repairs that were switched on or off, by name.
    pub switches: BTreeMap<String, bool>,
    /// Which of the conditions that others write, too, may be written.
    pub shared_conditions: SharedConditions,
    /// Whether the machine is shut down in order when Azure announces that it takes it away, so that its pods are told to end.
    pub power_off_when_preempted: bool,
    /// The provisioner lets the node reboot itself once: no word of the owner's, so not in his file.
    pub is_reboot_granted: bool,
}

/// Conditions at which Karpenter replaces a node at once, each with writers of its own in some clusters; so none unless its owner says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SharedConditions {
    /// `kubernetes.azure.com/NodeHealthy`.
    pub node_healthy: bool,
    /// `PreemptionScheduled`.
    pub preemption_scheduled: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            observe_only: false,
            maximum_risk: Risk::Medium,
            switches: BTreeMap::new(),
            shared_conditions: SharedConditions::default(),
            power_off_when_preempted: false,
            is_reboot_granted: false,
        }
    }
}

/// Why a policy cannot be read.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// It is no TOML of the expected shape.
    #[error("not a policy: {0}")]
    Shape(String),
    /// A repair that does not exist.
    #[error(
        "repairs.switches.{name}: there is no such repair; want one of {}",
        REPAIRS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
    )]
    NoSuchRepair {
        /// Its name.
        name: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    repairs: Repairs,
    #[serde(default)]
    conditions: Conditions,
    #[serde(default)]
    preempt: Preempt,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Preempt {
    #[serde(default)]
    power_off: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Conditions {
    #[serde(default)]
    node_healthy: bool,
    #[serde(default)]
    preemption_scheduled: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Repairs {
    #[serde(default)]
    observe_only: bool,
    maximum_risk: Option<Risk>,
    #[serde(default)]
    switches: BTreeMap<String, bool>,
}

impl Policy {
    /// Where it lies.
    pub const PATH: &str = "/etc/nap-agent/nap-agent.toml";

    /// Nothing is allowed.
    pub fn observe_only() -> Self {
        Self { observe_only: true, ..Self::default() }
    }

    /// The same, or nothing at all when that is wanted.
    pub fn or_observe_only(self, is_wanted: bool) -> Self {
        Self { observe_only: self.observe_only || is_wanted, ..self }
    }

    /// Reads the file. Stricter than custom data, which a newer provisioner may have written: a mistake here would allow what its author
    /// meant to forbid.
    ///
    /// # Errors
    /// When there is anything in it that is not understood.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let File { repairs, conditions, preempt } =
            toml::from_str(text).map_err(|error| PolicyError::Shape(error.to_string()))?;
        if let Some(name) = repairs.switches.keys().find(|name| repair(name).is_none_or(|row| row.name != **name)) {
            return Err(PolicyError::NoSuchRepair { name: name.clone() });
        }
        let Conditions { node_healthy, preemption_scheduled } = conditions;
        let usual = Self::default();
        Ok(Self {
            observe_only: repairs.observe_only,
            maximum_risk: repairs.maximum_risk.unwrap_or(usual.maximum_risk),
            switches: repairs.switches,
            shared_conditions: SharedConditions { node_healthy, preemption_scheduled },
            power_off_when_preempted: preempt.power_off,
            ..usual
        })
    }

    /// Why no provisioner may have the node reboot itself; nothing when it may.
    pub(crate) fn refuses_grant(&self) -> Option<String> {
        let granted = Self { is_reboot_granted: true, ..self.clone() };
        REPAIRS.iter().filter(|row| row.act == Act::Reboot).find_map(|row| granted.forbids(row))
    }

    /// Why a repair may not be done; nothing when it may.
    pub(super) fn forbids(&self, row: &Repair) -> Option<String> {
        match self.switches.get(row.name) {
            _ if self.observe_only => Some("nap-agent only observes".to_owned()),
            Some(false) => Some("it is switched off".to_owned()),
            // Who switches one on by its name has said yes to its risk.
            Some(true) => None,
            None if row.act == Act::Reboot && self.is_reboot_granted => None,
            None if row.risk > self.maximum_risk => {
                Some(format!("its risk is {:?} and at most {:?} is allowed", row.risk, self.maximum_risk))
            }
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_whole_or_not_at_all() {
        let text =
            "[repairs]\nobserve-only = false\nmaximum-risk = \"low\"\n[repairs.switches]\nRestartContainerd = true\n";
        let policy = Policy::parse(text).unwrap();
        assert_eq!(policy.maximum_risk, Risk::Low);
        assert!(policy.switches["RestartContainerd"]);
        assert_eq!(Policy::parse("").unwrap(), Policy::default());
        let shared = Policy::parse("[conditions]\nnode-healthy = true\n").unwrap().shared_conditions;
        assert_eq!(shared, SharedConditions { node_healthy: true, preemption_scheduled: false });
        assert!(Policy::parse("[preempt]\npower-off = true\n").unwrap().power_off_when_preempted);
        for wrong in [
            "[repairs]\nobserve_only = true\n",
            "[repair]\nobserve-only = true\n",
            "[repairs]\nmaximum-risk = \"Low\"\n",
            "[repairs]\nobserve-only = \"yes\"\n",
            "[conditions]\nNodeHealthy = true\n",
            "[repairs.switches]\nrestartkubelet = false\n",
        ] {
            assert!(Policy::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_file_in_the_packages_changes_nothing_and_has_every_setting() {
        let shipped = include_str!("../../../../packaging/nap-agent.toml");
        assert_eq!(Policy::parse(shipped).unwrap(), Policy::default());
        let is_prose = |rest: &str| rest.is_empty() || rest.starts_with(' ');
        let settings: String = shipped
            .lines()
            .filter_map(|line| line.strip_prefix('#').filter(|rest| !is_prose(rest)))
            .map(|line| format!("{line}\n"))
            .collect();
        let policy = Policy::parse(&settings).unwrap();
        let allowed = REPAIRS.iter().filter(|row| row.risk <= policy.maximum_risk);
        let switches = allowed.map(|row| (row.name.to_owned(), true)).collect();
        assert_eq!(policy, Policy { switches, ..Policy::default() }, "each setting is there with its usual value");
        assert!(REPAIRS.iter().all(|row| shipped.contains(&format!("{} = ", row.name))));
        for key in ["observe-only", "maximum-risk", "node-healthy", "preemption-scheduled", "power-off"] {
            assert!(settings.contains(&format!("\n{key} = ")), "{key}");
        }
    }

    #[test]
    fn risk_and_switches_forbid_and_a_switch_is_stronger() {
        let row = repair("RestartContainerd").unwrap();
        let of = |text: &str| Policy::parse(text).unwrap().forbids(row).is_some();
        assert!(!of(""));
        assert!(of("[repairs]\nmaximum-risk = \"low\""));
        assert!(!of("[repairs]\nmaximum-risk = \"low\"\n[repairs.switches]\nRestartContainerd = true"));
        assert!(of("[repairs.switches]\nRestartContainerd = false"));
        assert!(of("[repairs]\nobserve-only = true\n[repairs.switches]\nRestartContainerd = true"));
    }
}
