//! kubelet's flags: what KubeletConfiguration can hold goes there, the rest stays a flag.
//!
//! Provisioners still send most of kubelet's configuration as flags, which Kubernetes deprecates one by one. As fields they
//! have types, so that a mistake is found before kubelet exits at it, and the defaults for what a provisioner leaves out
//! still hold.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::problem::{Findings, entry, join, quoted};
use super::rules::merge;

/// Flags that this agent sets itself, from other fields of the configuration.
const OWN_FLAGS: &[&str] = &[
    "config",
    "kubeconfig",
    "bootstrap-kubeconfig",
    "node-labels",
    "register-with-taints",
    "cert-dir",
    "hostname-override",
];

/// How a flag's value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Bool,
    Number,
    List,
    /// `name=value,name=value`, with this character between name and value.
    Pairs(char),
    Gates,
}

/// A flag, its field in KubeletConfiguration, and how it is read.
type Row = (&'static str, &'static str, Kind);

/// Source: AgentBaker `TranslatedKubeletConfigFlags`; k8s.io/kubernetes `cmd/kubelet/app/options`.
const ROWS: &[Row] = &[
    ("address", "address", Kind::Text),
    ("allowed-unsafe-sysctls", "allowedUnsafeSysctls", Kind::List),
    ("anonymous-auth", "authentication.anonymous.enabled", Kind::Bool),
    ("authentication-token-webhook", "authentication.webhook.enabled", Kind::Bool),
    ("authorization-mode", "authorization.mode", Kind::Text),
    ("cgroups-per-qos", "cgroupsPerQOS", Kind::Bool),
    ("client-ca-file", "authentication.x509.clientCAFile", Kind::Text),
    ("cluster-dns", "clusterDNS", Kind::List),
    ("cluster-domain", "clusterDomain", Kind::Text),
    ("container-log-max-files", "containerLogMaxFiles", Kind::Number),
    ("container-log-max-size", "containerLogMaxSize", Kind::Text),
    ("cpu-cfs-quota", "cpuCFSQuota", Kind::Bool),
    ("cpu-cfs-quota-period", "cpuCFSQuotaPeriod", Kind::Text),
    ("cpu-manager-policy", "cpuManagerPolicy", Kind::Text),
    ("enforce-node-allocatable", "enforceNodeAllocatable", Kind::List),
    ("event-qps", "eventRecordQPS", Kind::Number),
    ("eviction-hard", "evictionHard", Kind::Pairs('<')),
    ("eviction-max-pod-grace-period", "evictionMaxPodGracePeriod", Kind::Number),
    ("eviction-soft", "evictionSoft", Kind::Pairs('<')),
    ("eviction-soft-grace-period", "evictionSoftGracePeriod", Kind::Pairs('=')),
    ("fail-swap-on", "failSwapOn", Kind::Bool),
    ("feature-gates", "featureGates", Kind::Gates),
    ("image-gc-high-threshold", "imageGCHighThresholdPercent", Kind::Number),
    ("image-gc-low-threshold", "imageGCLowThresholdPercent", Kind::Number),
    ("kube-reserved", "kubeReserved", Kind::Pairs('=')),
    ("kube-reserved-cgroup", "kubeReservedCgroup", Kind::Text),
    ("max-pods", "maxPods", Kind::Number),
    ("node-status-report-frequency", "nodeStatusReportFrequency", Kind::Text),
    ("node-status-update-frequency", "nodeStatusUpdateFrequency", Kind::Text),
    ("pod-manifest-path", "staticPodPath", Kind::Text),
    ("pod-max-pids", "podPidsLimit", Kind::Number),
    ("protect-kernel-defaults", "protectKernelDefaults", Kind::Bool),
    ("read-only-port", "readOnlyPort", Kind::Number),
    ("resolv-conf", "resolvConf", Kind::Text),
    ("rotate-certificates", "rotateCertificates", Kind::Bool),
    ("rotate-server-certificates", "serverTLSBootstrap", Kind::Bool),
    ("serialize-image-pulls", "serializeImagePulls", Kind::Bool),
    ("streaming-connection-idle-timeout", "streamingConnectionIdleTimeout", Kind::Text),
    ("system-reserved", "systemReserved", Kind::Pairs('=')),
    ("system-reserved-cgroup", "systemReservedCgroup", Kind::Text),
    ("tls-cert-file", "tlsCertFile", Kind::Text),
    ("tls-cipher-suites", "tlsCipherSuites", Kind::List),
    ("tls-private-key-file", "tlsPrivateKeyFile", Kind::Text),
    ("topology-manager-policy", "topologyManagerPolicy", Kind::Text),
];

/// AKS' thresholds of hard eviction for the node's file system.
/// Source: AgentBaker's flag baseline; karpenter-provider-azure `staticvalues.go`.
const DISK_THRESHOLDS: &[(&str, &str)] = &[("nodefs.available", "10%"), ("nodefs.inodesFree", "5%")];

/// Where flags and fields stand in a document.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paths<'a> {
    /// The map of flags.
    pub(super) flags: &'a str,
    /// The fields of KubeletConfiguration.
    pub(super) config: &'a str,
}

/// Flags without their dashes, save those that became fields of `config` and those that this agent sets itself.
pub(super) fn read<'a>(
    entries: impl Iterator<Item = (&'a str, &'a str)>,
    paths: Paths<'_>,
    config: &mut Map<String, Value>,
    findings: &mut Findings,
) -> BTreeMap<String, String> {
    let mut eviction_path = join(paths.config, "evictionHard");
    let mut flags = BTreeMap::new();
    for (given, value) in entries {
        let path = entry(paths.flags, given);
        let name = given.trim_start_matches('-');
        if !is_right(name, value, &path, findings) {
            continue;
        }
        match ROWS.iter().find(|(flag, _, _)| *flag == name) {
            None => _ = flags.insert(name.to_owned(), value.to_owned()),
            Some(row) => {
                if name == "eviction-hard" {
                    eviction_path.clone_from(&path);
                }
                translate(row, value, &path, config, findings);
            }
        }
    }
    complete_eviction(config, &eviction_path, findings);
    flags
}

fn is_right(name: &str, value: &str, path: &str, findings: &mut Findings) -> bool {
    let is_name = !name.is_empty()
        && name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-');
    // systemd splits $KUBELET_FLAGS at white space and expands $, so a value cannot hold any.
    let is_value = !value
        .chars()
        .any(|letter| letter.is_whitespace() || letter.is_control() || matches!(letter, '"' | '\'' | '\\' | '$'));
    if !is_name {
        findings.problem(path, quoted(name), "a flag's name, such as max-pods");
    } else if !is_value {
        findings.problem(path, quoted(value), "a value without white space, quotes, backslashes and $");
    } else if OWN_FLAGS.contains(&name) {
        findings.warn(path, "nap-agent sets this flag itself; ignored");
    }
    is_name && is_value && !OWN_FLAGS.contains(&name)
}

/// kubelet lets a flag win over its file; feature gates it merges one by one.
fn translate((_, field, kind): &Row, text: &str, path: &str, config: &mut Map<String, Value>, findings: &mut Findings) {
    let value = match kind.read(text) {
        Ok(Some(value)) => value,
        Ok(None) => return,
        Err(wanted) => return findings.problem(path, quoted(text), wanted),
    };
    let mut names: Vec<&str> = field.split('.').collect();
    let last = names.pop().unwrap_or_default();
    let Some(parent) =
        names.iter().try_fold(config, |object, name| object.entry(*name).or_insert_with(|| json!({})).as_object_mut())
    else {
        // The file holds no object where kubelet has one; kubelet would exit at it.
        return findings.problem(path, format!("no object around {field} in the configuration file"), "an object");
    };
    let before = parent.get(last).cloned();
    if *kind == Kind::Gates {
        merge(parent.entry(last).or_insert_with(|| json!({})), &value);
    } else {
        parent.insert(last.to_owned(), value);
    }
    if before.is_some_and(|before| contradicts(&before, &parent[last])) {
        findings.warn(path, format!("wins over {field} of the configuration file, which says something else"));
    }
}

fn contradicts(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            before.iter().any(|(name, value)| after.get(name) != Some(value))
        }
        (before, after) => before != after,
    }
}

impl Kind {
    /// The typed value; nothing for an empty text, which sets nothing.
    fn read(self, text: &str) -> Result<Option<Value>, &'static str> {
        let value = match self {
            Kind::Text if text.is_empty() => return Ok(None),
            Kind::Text => json!(text),
            Kind::Bool => json!(boolean(text).ok_or("true or false")?),
            Kind::Number => json!(text.parse::<i64>().map_err(|_| "a whole number")?),
            Kind::List => json!(items(text).collect::<Vec<_>>()),
            Kind::Pairs('<') => Value::Object(pairs(text, '<').ok_or("signal<threshold, joined by commas")?),
            Kind::Pairs(between) => Value::Object(pairs(text, between).ok_or("name=value, joined by commas")?),
            Kind::Gates => {
                let wanted = "Gate=true or Gate=false, joined by commas";
                let gate = |(name, value): (String, Value)| Some((name, json!(boolean(value.as_str()?)?)));
                let gates = pairs(text, '=').ok_or(wanted)?.into_iter().map(gate);
                Value::Object(gates.collect::<Option<_>>().ok_or(wanted)?)
            }
        };
        Ok(Some(value))
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|item| !item.is_empty())
}

fn pairs(text: &str, between: char) -> Option<Map<String, Value>> {
    let pair = |item: &str| {
        let (name, value) = item.split_once(between)?;
        (!name.is_empty() && !value.is_empty()).then(|| (name.to_owned(), json!(value)))
    };
    items(text).map(pair).collect()
}

/// As Go's `strconv.ParseBool`, which kubelet's flags go through.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "t" | "T" | "1" => Some(true),
        "false" | "False" | "FALSE" | "f" | "F" | "0" => Some(false),
        _ => None,
    }
}

/// kubelet takes evictionHard as a whole: a provisioner that names only memory switches disk pressure off, and the node fills
/// up. Source: karpenter-provider-azure issue 988.
fn complete_eviction(config: &mut Map<String, Value>, path: &str, findings: &mut Findings) {
    let Some(thresholds) = config.get_mut("evictionHard").and_then(Value::as_object_mut) else { return };
    for (signal, default) in DISK_THRESHOLDS {
        if !thresholds.contains_key(*signal) {
            findings.warn(path, format!("no threshold for {signal}; AKS' {default} is used"));
            thresholds.insert((*signal).to_owned(), json!(default));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATHS: Paths<'_> = Paths { flags: "flags", config: "config" };

    fn translated(given: &[(&str, &str)], config: Value) -> (BTreeMap<String, String>, Value, Findings) {
        let mut findings = Findings::default();
        let mut config = config.as_object().cloned().unwrap();
        let flags = read(given.iter().copied(), PATHS, &mut config, &mut findings);
        (flags, Value::Object(config), findings)
    }

    #[test]
    fn flags_become_fields_of_their_type_and_the_rest_stay_flags() {
        let (flags, config, findings) = translated(
            &[
                ("--anonymous-auth", "false"),
                ("--max-pods", "30"),
                ("--cluster-dns", "10.0.0.10,fd00::a"),
                ("--eviction-hard", "memory.available<750Mi,nodefs.available<10%,nodefs.inodesFree<5%"),
                ("--feature-gates", "A=true,B=false"),
                ("--kube-reserved", "cpu=100m,memory=1Gi"),
                ("--tls-cipher-suites", "a,b"),
                ("--resolv-conf", "/r"),
                ("--tls-cert-file", ""),
                ("--v", "4"),
            ],
            json!({}),
        );
        assert_eq!(flags, BTreeMap::from([("v".into(), "4".into())]));
        assert_eq!(
            config,
            json!({
                "authentication": {"anonymous": {"enabled": false}},
                "clusterDNS": ["10.0.0.10", "fd00::a"],
                "evictionHard": {"memory.available": "750Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%"},
                "featureGates": {"A": true, "B": false},
                "kubeReserved": {"cpu": "100m", "memory": "1Gi"},
                "maxPods": 30,
                "resolvConf": "/r",
                "tlsCipherSuites": ["a", "b"],
            })
        );
        assert_eq!(findings, Findings::default());
    }

    #[test]
    fn a_value_of_the_wrong_type_is_a_problem_at_the_flag() {
        let (_, _, findings) = translated(
            &[("--max-pods", "many"), ("--feature-gates", "A=maybe"), ("kube-reserved", "cpu"), ("anonymous-auth", "")],
            json!({}),
        );
        let problems: Vec<_> = findings.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "flags[\"--max-pods\"]: found \"many\", want a whole number",
                "flags[\"--feature-gates\"]: found \"A=maybe\", want Gate=true or Gate=false, joined by commas",
                "flags[\"kube-reserved\"]: found \"cpu\", want name=value, joined by commas",
                "flags[\"anonymous-auth\"]: found \"\", want true or false",
            ]
        );
    }

    #[test]
    fn a_flag_wins_over_the_file_and_feature_gates_are_merged() {
        let file = json!({"maxPods": 30, "featureGates": {"A": true, "B": true}, "podPidsLimit": 5});
        let flags = [("max-pods", "40"), ("feature-gates", "B=false,C=true"), ("pod-max-pids", "5")];
        let (_, config, findings) = translated(&flags, file);
        assert_eq!(
            config,
            json!({"maxPods": 40, "featureGates": {"A": true, "B": false, "C": true}, "podPidsLimit": 5})
        );
        let warned: Vec<_> = findings.warnings.iter().map(|warning| warning.path.as_str()).collect();
        assert_eq!(warned, ["flags[\"max-pods\"]", "flags[\"feature-gates\"]"]);
    }

    #[test]
    fn hard_eviction_by_memory_alone_keeps_aks_thresholds_for_the_disk() {
        let wanted = json!({"memory.available": "750Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%"});
        let (_, config, findings) = translated(&[("--eviction-hard", "memory.available<750Mi")], json!({}));
        assert_eq!(config["evictionHard"], wanted);
        assert_eq!(findings.warnings[0].path, "flags[\"--eviction-hard\"]");
        let (_, config, findings) = translated(&[], json!({"evictionHard": {"memory.available": "750Mi"}}));
        assert_eq!(config["evictionHard"], wanted);
        assert_eq!(findings.warnings.len(), 2);
        assert_eq!(findings.warnings[0].path, "config.evictionHard");
        assert_eq!(translated(&[], json!({})).1, json!({}), "without any, the plan has AKS' own");
    }

    #[test]
    fn flags_of_our_own_are_ignored_and_unsafe_ones_refused() {
        let given = [("--v", "4"), ("kubeconfig", "/x"), ("--a", "b c"), ("--A", "1"), ("--b", "$HOME")];
        let (flags, _, findings) = translated(&given, json!({}));
        assert_eq!(flags, BTreeMap::from([("v".into(), "4".into())]));
        assert_eq!((findings.problems.len(), findings.warnings.len()), (3, 1));
    }

    #[test]
    fn every_row_of_the_table_is_there_once() {
        let mut flags: Vec<_> = ROWS.iter().map(|(flag, _, _)| flag).collect();
        let count = flags.len();
        flags.dedup();
        assert_eq!((flags.len(), count), (44, 44));
        assert!(flags.is_sorted());
    }
}
