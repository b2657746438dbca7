//! What a kubelet of this version may be given.
//!
//! A kubelet exits at the first flag and at the first feature gate that it does not know, and at the first file that it is told to read
//! and that is not there. Provisioners send one list to every version, so what this one does not know is left out of theirs, with a note.
//! The flags and fields of a NodeBootstrap are the user's own: leaving one out would be another node than the one that was asked for.
//! What this version is known not to take is an error there, that names the version. What no version takes is passed on with a note: it
//! may be newer than we are.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::kubelet_names::{FIELDS, FLAGS, GATES, NEWEST, Names};
use crate::config::Kubelet;
use crate::config::carrier::Format;
use crate::kubernetes::KubernetesVersion;
use crate::report::{Failure, Reason};

/// Fields of KubeletConfiguration that do nothing any more and that kubelet warns about, and since which minor version.
/// Source: k8s.io/kubelet/config/v1beta1; AgentBaker removes it from what the provisioner sends.
const IDLE_FIELDS: &[(&str, u32)] = &[("streamingConnectionIdleTimeout", 34)];

/// Flags and fields that name a file which the provisioner expects an image's scripts to write, and nap-agent does not.
const WITHOUT_FILE: &[(&str, &str, &str)] = &[
    ("tls-cert-file", "tlsCertFile", "the node makes its own serving certificate"),
    ("tls-private-key-file", "tlsPrivateKeyFile", "the node makes its own serving certificate"),
];

/// The gate without which a kubelet before 1.36 refuses a CPU quota period other than 100ms. Since then it is open by itself, and naming
/// it is a warning. Source: `ValidateKubeletConfiguration` and `kube_features.go`, Kubernetes 1.36.
const QUOTA_PERIOD_GATE: (&str, u32) = ("CustomCPUCFSQuotaPeriod", 36);

/// What the configuration says to kubelet, as far as this version takes it.
pub(super) struct Accepted {
    pub(super) flags: BTreeMap<String, String>,
    pub(super) fields: Map<String, Value>,
    pub(super) notes: Vec<String>,
}

/// # Errors
/// When the user's own flags or fields are not for this version.
pub(super) fn accept(given: &Kubelet, format: Format, version: KubernetesVersion) -> Result<Accepted, Failure> {
    let mut sieve = Sieve { version, users_own: format == Format::NodeBootstrap, notes: Vec::new(), wrong: Vec::new() };
    let mut flags = given.flags.clone();
    flags.retain(|name, _| sieve.lets_through(Kind::Flag, name));
    if let Some(gates) = flags.get_mut("feature-gates") {
        let let_through = gates.split(',').filter(|gate| sieve.lets_through(Kind::Gate, gate_name(gate)));
        *gates = let_through.collect::<Vec<_>>().join(",");
    }
    flags.retain(|name, value| name != "feature-gates" || !value.is_empty());
    let mut fields = given.config.clone();
    fields.retain(|name, _| sieve.lets_through(Kind::Field, name));
    if let Some(gates) = fields.get_mut("featureGates").and_then(Value::as_object_mut) {
        gates.retain(|name, _| sieve.lets_through(Kind::Gate, name));
    }
    set_quota_period_gate(&mut fields, version);
    let Sieve { notes, wrong, .. } = sieve;
    if wrong.is_empty() {
        return Ok(Accepted { flags, fields, notes });
    }
    let message = format!("kubelet {version} does not take {}; take it out of the configuration", wrong.join(", nor "));
    Err(Failure::new(Reason::ConfigInvalid, "plan", message))
}

/// `Name=true` or `Name`.
fn gate_name(gate: &str) -> &str {
    gate.split_once('=').map_or(gate, |(name, _)| name).trim()
}

fn set_quota_period_gate(fields: &mut Map<String, Value>, version: KubernetesVersion) {
    let (gate, open_since) = QUOTA_PERIOD_GATE;
    let is_needed = fields.get("cpuCFSQuotaPeriod").is_some_and(|period| period != "100ms");
    if is_needed && !version.at_least(open_since) {
        let gates = fields.entry("featureGates").or_insert_with(|| json!({}));
        if let Some(gates) = gates.as_object_mut() {
            gates.entry(gate).or_insert(Value::Bool(true));
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Flag,
    Field,
    Gate,
}

impl Kind {
    fn names(self) -> &'static [Names] {
        match self {
            Kind::Flag => FLAGS,
            Kind::Field => FIELDS,
            Kind::Gate => GATES,
        }
    }

    /// As the user finds it in a NodeBootstrap.
    fn path(self, name: &str) -> String {
        match self {
            Kind::Flag => format!("node.kubeletFlags.{name}"),
            Kind::Field => format!("node.kubeletConfig.{name}"),
            Kind::Gate => format!("the feature gate {name}"),
        }
    }

    fn described(self, name: &str) -> String {
        match self {
            Kind::Flag => format!("kubelet flag --{name}"),
            Kind::Field => format!("kubelet field {name}"),
            Kind::Gate => format!("kubelet feature gate {name}"),
        }
    }

    /// Why a provisioner's one list for every node does not count here, although this kubelet knows the name.
    fn needless(self, name: &str, version: KubernetesVersion) -> Option<String> {
        let no_file = |row: &(&str, &str, &str), name: &str| match self {
            Kind::Flag => row.0 == name,
            Kind::Field => row.1 == name,
            Kind::Gate => false,
        };
        let no_file = WITHOUT_FILE.iter().find(|row| no_file(row, name)).map(|(_, _, why)| (*why).to_owned());
        let idle = match self {
            Kind::Field => IDLE_FIELDS.iter().find(|(idle, since)| *idle == name && version.at_least(*since)),
            Kind::Flag | Kind::Gate => None,
        };
        no_file.or_else(|| idle.map(|(_, since)| format!("it does nothing since Kubernetes 1.{since}")))
    }
}

/// Whether a version knows a name.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Known,
    NotKnown(String),
    NeverHeardOf,
}

fn standing(names: &[Names], name: &str, version: KubernetesVersion) -> Standing {
    let Some((first, last, _)) = names.iter().find(|(_, _, names)| names.split(' ').any(|known| known == name)) else {
        return Standing::NeverHeardOf;
    };
    if *last < NEWEST && version.at_least(last + 1) {
        Standing::NotKnown(format!("Kubernetes 1.{} removed it", last + 1))
    } else if version.at_least(*first) {
        Standing::Known
    } else {
        Standing::NotKnown(format!("it came with Kubernetes 1.{first}"))
    }
}

struct Sieve {
    version: KubernetesVersion,
    users_own: bool,
    notes: Vec<String>,
    wrong: Vec<String>,
}

impl Sieve {
    fn lets_through(&mut self, kind: Kind, name: &str) -> bool {
        let unheard = format!("no kubelet from 1.30 to 1.{NEWEST} knows it");
        let why = match standing(kind.names(), name, self.version) {
            Standing::NotKnown(why) if self.users_own => {
                self.wrong.push(format!("{}: {why}", kind.path(name)));
                return true;
            }
            Standing::NeverHeardOf if self.users_own || self.version.at_least(NEWEST + 1) => {
                self.notes.push(format!("{} passed on as it is: {unheard}", kind.described(name)));
                return true;
            }
            Standing::NotKnown(why) => Some(why),
            Standing::NeverHeardOf => Some(unheard),
            Standing::Known if self.users_own => None,
            Standing::Known => kind.needless(name, self.version),
        };
        if let Some(why) = &why {
            self.notes.push(format!("{} left out: {why}", kind.described(name)));
        }
        why.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::super::kubelet_names::sources;
    use super::*;

    fn version(text: &str) -> KubernetesVersion {
        KubernetesVersion::try_from(text).unwrap()
    }

    fn given(flags: &[(&str, &str)], config: Value) -> Kubelet {
        let flags = flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Kubelet { flags, config: config.as_object().cloned().unwrap(), max_pods: None }
    }

    fn of_user(given: &Kubelet, to: &str) -> Result<Accepted, String> {
        accept(given, Format::NodeBootstrap, version(to)).map_err(|failure| failure.to_string())
    }

    fn of_provisioner(given: &Kubelet, to: &str) -> Accepted {
        accept(given, Format::AksNodeConfig, version(to)).unwrap()
    }

    #[test]
    fn a_users_own_flag_passes_until_a_version_removed_it() {
        for (flag, last, first_without) in
            [("cloud-config", "1.33.9", "1.34.0"), ("pod-infra-container-image", "1.34.5", "1.35.0")]
        {
            let given = given(&[(flag, "x")], json!({}));
            let accepted = of_user(&given, last).unwrap();
            assert_eq!((accepted.flags, accepted.notes.len()), (given.flags.clone(), 0), "{flag}");
            let minor = &first_without[..4];
            assert_eq!(
                of_user(&given, first_without).err().unwrap(),
                format!(
                    "ConfigInvalid: kubelet {first_without} does not take node.kubeletFlags.{flag}: Kubernetes {minor} \
                     removed it; take it out of the configuration (plan)"
                )
            );
        }
    }

    #[test]
    fn all_of_a_users_mistakes_are_told_at_once() {
        let config = json!({"failCgroupV1": true, "featureGates": {"SeccompDefault": true, "NodeSwap": true}});
        let given = given(&[("cloud-config", "x"), ("feature-gates", "AppArmor=true,KubeletPSI=true")], config);
        assert_eq!(
            of_user(&given, "1.30.0").err().unwrap(),
            "ConfigInvalid: kubelet 1.30.0 does not take the feature gate KubeletPSI: it came with Kubernetes 1.33, nor \
             node.kubeletConfig.failCgroupV1: it came with Kubernetes 1.31, nor the feature gate SeccompDefault: Kubernetes \
             1.29 removed it; take it out of the configuration (plan)"
        );
    }

    #[test]
    fn what_a_user_names_and_nobody_knows_is_passed_on_with_a_note() {
        let given = given(&[("from-the-future", "1")], json!({"fromTheFuture": 1, "tlsCertFile": "/mine"}));
        let accepted = of_user(&given, "1.37.0").unwrap();
        assert_eq!((accepted.flags, accepted.fields), (given.flags.clone(), given.config.clone()));
        assert_eq!(
            accepted.notes,
            [
                "kubelet flag --from-the-future passed on as it is: no kubelet from 1.30 to 1.37 knows it",
                "kubelet field fromTheFuture passed on as it is: no kubelet from 1.30 to 1.37 knows it",
            ]
        );
    }

    #[test]
    fn what_a_provisioner_sends_to_every_version_is_left_out_where_it_does_not_fit() {
        let config = json!({
            "tlsCertFile": "/x", "streamingConnectionIdleTimeout": "4h", "failCgroupV1": true,
            "featureGates": {"RotateKubeletServerCertificate": true, "SeccompDefault": true},
        });
        let flags = [("cloud-config", "x"), ("dynamic-config-dir", "x"), ("feature-gates", "CSIMigrationRBD=false")];
        let given = given(&flags, config);
        let old = of_provisioner(&given, "1.30.0");
        assert_eq!(old.flags.keys().collect::<Vec<_>>(), ["cloud-config", "feature-gates"]);
        assert_eq!(
            Value::Object(old.fields),
            json!({"streamingConnectionIdleTimeout": "4h", "featureGates": {"RotateKubeletServerCertificate": true}})
        );
        let new = of_provisioner(&given, "1.34.0");
        assert_eq!(new.flags, BTreeMap::new());
        assert_eq!(
            new.notes,
            [
                "kubelet flag --cloud-config left out: Kubernetes 1.34 removed it",
                "kubelet flag --dynamic-config-dir left out: no kubelet from 1.30 to 1.37 knows it",
                "kubelet feature gate CSIMigrationRBD left out: Kubernetes 1.31 removed it",
                "kubelet field streamingConnectionIdleTimeout left out: it does nothing since Kubernetes 1.34",
                "kubelet field tlsCertFile left out: the node makes its own serving certificate",
                "kubelet feature gate SeccompDefault left out: Kubernetes 1.29 removed it",
            ]
        );
        assert!(
            of_provisioner(&given, "1.38.0").flags.contains_key("dynamic-config-dir"),
            "1.38 may know more than we"
        );
    }

    #[test]
    fn a_quota_period_has_its_gate_as_long_as_kubelet_asks_for_it() {
        for (period, to, gates) in [
            ("50ms", "1.35.9", json!({"CustomCPUCFSQuotaPeriod": true})),
            ("50ms", "1.36.0", Value::Null),
            ("100ms", "1.30.0", Value::Null),
        ] {
            let fields = of_user(&given(&[], json!({"cpuCFSQuotaPeriod": period})), to).unwrap().fields;
            assert_eq!(fields.get("featureGates").unwrap_or(&Value::Null), &gates, "{period} {to}");
        }
    }

    #[test]
    fn our_names_are_those_of_the_sources() {
        const OLDEST: u32 = 30;
        for (names, text) in [(FLAGS, sources::FLAGS), (FIELDS, sources::FIELDS), (GATES, sources::GATES)] {
            let in_sources = sources::read(text);
            let ours =
                names.iter().flat_map(|(first, last, names)| names.split(' ').map(|name| (name, (*first, *last))));
            let top = in_sources.iter().filter(|(name, _)| !name.contains('.'));
            let top = top.map(|(name, (first, last))| {
                (name.trim_end_matches("[]"), (if *first <= OLDEST { 0 } else { *first }, *last))
            });
            assert_eq!(ours.collect::<BTreeMap<_, _>>(), top.collect::<BTreeMap<_, _>>());
            for (name, (first, _)) in &in_sources {
                let Some((parent, _)) = name.split_once('.') else { continue };
                let (parents_first, _) =
                    in_sources.get(parent.trim_end_matches("[]")).or(in_sources.get(parent)).unwrap();
                assert!(*first <= OLDEST || first == parents_first, "{name} came later than what it is in");
            }
        }
    }
}
