//! The fields of KubeletConfiguration (kubelet.config.k8s.io/v1beta1) and their types.
//!
//! Stricter than the real kubelet, which after a strict decoding error tries again without strictness: here an unknown
//! field is the end.

use std::time::Duration;

use serde_json::Value;

/// Field names of one type, separated by spaces, and the first minor version that knows them (0: all we know).
pub(crate) type Row = (&'static str, Kind, u32);

/// What a field's value has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Bool,
    Int32,
    Int64,
    Float,
    Text,
    Duration,
    Texts,
    Ints,
    Texted,
    Bools,
    Lists,
    Object(&'static [Row]),
    Objects(&'static [Row]),
}

/// Source: `tests/kubernetes/kubelet-fields.txt`; a test compares. Kinds: config/v1beta1/types.go of kubernetes/kubelet.
pub(crate) const KUBELET_CONFIGURATION: &[Row] = &[
    (
        "kind apiVersion staticPodPath podLogsDir staticPodURL address tlsCertFile tlsPrivateKeyFile tlsMinVersion \
         healthzBindAddress clusterDomain kubeletCgroups systemCgroups cgroupRoot cgroupDriver cpuManagerPolicy \
         memoryManagerPolicy topologyManagerPolicy topologyManagerScope hairpinMode podCIDR resolvConf contentType \
         containerLogMaxSize configMapAndSecretChangeDetectionStrategy reservedSystemCPUs \
         showHiddenMetricsForVersion systemReservedCgroup kubeReservedCgroup volumePluginDir providerID \
         containerRuntimeEndpoint imageServiceEndpoint",
        Kind::Text,
        0,
    ),
    (
        "enableServer rotateCertificates serverTLSBootstrap enableDebuggingHandlers enableContentionProfiling \
         cgroupsPerQOS runOnce cpuCFSQuota serializeImagePulls enableControllerAttachDetach protectKernelDefaults \
         makeIPTablesUtilChains failSwapOn kernelMemcgNotification enableSystemLogHandler enableSystemLogQuery \
         enableProfilingHandler enableDebugFlagsHandler seccompDefault registerNode localStorageCapacityIsolation",
        Kind::Bool,
        0,
    ),
    (
        "port readOnlyPort registryPullQPS registryBurst eventRecordQPS eventBurst healthzPort oomScoreAdj \
         nodeLeaseDurationSeconds imageGCHighThresholdPercent imageGCLowThresholdPercent maxPods nodeStatusMaxImages \
         kubeAPIQPS kubeAPIBurst maxParallelImagePulls evictionMaxPodGracePeriod podsPerCore iptablesMasqueradeBit \
         iptablesDropBit containerLogMaxFiles containerLogMaxWorkers",
        Kind::Int32,
        0,
    ),
    (
        "syncFrequency fileCheckFrequency httpCheckFrequency streamingConnectionIdleTimeout \
         nodeStatusUpdateFrequency nodeStatusReportFrequency imageMinimumGCAge imageMaximumGCAge \
         volumeStatsAggPeriod cpuManagerReconcilePeriod runtimeRequestTimeout cpuCFSQuotaPeriod \
         evictionPressureTransitionPeriod containerLogMonitorInterval shutdownGracePeriod \
         shutdownGracePeriodCriticalPods",
        Kind::Duration,
        0,
    ),
    ("podPidsLimit maxOpenFiles", Kind::Int64, 0),
    ("memoryThrottlingFactor", Kind::Float, 0),
    ("tlsCipherSuites clusterDNS enforceNodeAllocatable allowedUnsafeSysctls", Kind::Texts, 0),
    (
        "cpuManagerPolicyOptions topologyManagerPolicyOptions qosReserved evictionHard evictionSoft \
         evictionSoftGracePeriod evictionMinimumReclaim systemReserved kubeReserved",
        Kind::Texted,
        0,
    ),
    ("featureGates", Kind::Bools, 0),
    ("staticPodURLHeader", Kind::Lists, 0),
    ("authentication", Kind::Object(AUTHENTICATION), 0),
    ("authorization", Kind::Object(AUTHORIZATION), 0),
    ("memorySwap", Kind::Object(&[("swapBehavior", Kind::Text, 0)]), 0),
    ("logging", Kind::Object(LOGGING), 0),
    ("shutdownGracePeriodByPodPriority", Kind::Objects(BY_PRIORITY), 0),
    ("reservedMemory", Kind::Objects(&[("numaNode", Kind::Int32, 0), ("limits", Kind::Texted, 0)]), 0),
    ("registerWithTaints", Kind::Objects(&[("key value effect timeAdded", Kind::Text, 0)]), 0),
    ("tracing", Kind::Object(&[("endpoint", Kind::Text, 0), ("samplingRatePerMillion", Kind::Int32, 0)]), 0),
    ("failCgroupV1", Kind::Bool, 31),
    ("singleProcessOOMKill", Kind::Bool, 32),
    ("crashLoopBackOff", Kind::Object(&[("maxContainerRestartPeriod", Kind::Duration, 0)]), 32),
    ("imagePullCredentialsVerificationPolicy", Kind::Text, 33),
    ("preloadedImagesVerificationAllowlist", Kind::Texts, 33),
    ("mergeDefaultEvictionSettings", Kind::Bool, 33),
    ("userNamespaces", Kind::Object(&[("idsPerPod", Kind::Int64, 0)]), 33),
    ("tlsCurvePreferences", Kind::Ints, 36),
    ("memoryReservationPolicy", Kind::Text, 36),
    ("defaultPodSysctls", Kind::Texted, 37),
];

const AUTHENTICATION: &[Row] = &[
    ("x509", Kind::Object(&[("clientCAFile", Kind::Text, 0)]), 0),
    ("webhook", Kind::Object(&[("enabled", Kind::Bool, 0), ("cacheTTL", Kind::Duration, 0)]), 0),
    ("anonymous", Kind::Object(&[("enabled", Kind::Bool, 0)]), 0),
];

const AUTHORIZATION: &[Row] = &[
    ("mode", Kind::Text, 0),
    ("webhook", Kind::Object(&[("cacheAuthorizedTTL cacheUnauthorizedTTL", Kind::Duration, 0)]), 0),
];

const BY_PRIORITY: &[Row] = &[("priority", Kind::Int32, 0), ("shutdownGracePeriodSeconds", Kind::Int64, 0)];

const LOGGING: &[Row] = &[
    ("format", Kind::Text, 0),
    ("flushFrequency", Kind::Duration, 0),
    ("verbosity", Kind::Int32, 0),
    ("vmodule", Kind::Objects(&[("filePattern", Kind::Text, 0), ("verbosity", Kind::Int32, 0)]), 0),
    ("options", Kind::Object(&[("text json", Kind::Object(STREAM), 0)]), 0),
];

const STREAM: &[Row] = &[("splitStream", Kind::Bool, 0), ("infoBufferSize", Kind::Text, 0)];

/// Everything wrong with an object, each fault with the field's path.
pub(crate) fn faults(path: &str, value: &Value, rows: &[Row], minor: u32, out: &mut Vec<String>) {
    let Some(object) = value.as_object() else {
        return out.push(format!("json: cannot unmarshal {value} into Go struct field KubeletConfiguration.{path}"));
    };
    for (name, value) in object {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let row = rows.iter().find(|(names, _, since)| *since <= minor && names.split(' ').any(|known| known == name));
        match row {
            None => out.push(format!("unknown field {path:?}")),
            Some(_) if value.is_null() => {}
            Some((_, kind, _)) => check(&path, value, *kind, minor, out),
        }
    }
}

fn check(path: &str, value: &Value, kind: Kind, minor: u32, out: &mut Vec<String>) {
    let fits = match kind {
        Kind::Object(rows) => return faults(path, value, rows, minor, out),
        Kind::Objects(rows) => match value.as_array() {
            Some(items) => {
                let items = items.iter().enumerate();
                return items.for_each(|(at, item)| faults(&format!("{path}[{at}]"), item, rows, minor, out));
            }
            None => false,
        },
        Kind::Bool => value.is_boolean(),
        Kind::Int32 => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        Kind::Int64 => value.is_i64(),
        Kind::Float => value.is_number(),
        Kind::Text => value.is_string(),
        Kind::Duration => value.as_str().and_then(duration).is_some(),
        Kind::Texts => all(value, Value::is_string),
        Kind::Ints => all(value, Value::is_i64),
        Kind::Texted => each(value, Value::is_string),
        Kind::Bools => each(value, Value::is_boolean),
        Kind::Lists => each(value, |list| all(list, Value::is_string)),
    };
    if !fits {
        let text =
            format!("json: cannot unmarshal {value} into Go struct field KubeletConfiguration.{path} of type {kind:?}");
        out.push(text);
    }
}

fn all(value: &Value, test: impl Fn(&Value) -> bool) -> bool {
    value.as_array().is_some_and(|items| items.iter().all(test))
}

fn each(value: &Value, test: impl Fn(&Value) -> bool) -> bool {
    value.as_object().is_some_and(|map| map.values().all(test))
}

/// Reads a Go duration such as `1h30m` or `0`; negative ones are zero.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.trim_start_matches(['-', '+']);
    let mut total = Duration::ZERO;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let scale = match &rest[..letters] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * scale).ok()?)?;
        rest = &rest[letters..];
        if rest.is_empty() {
            return Some(if text.starts_with('-') { Duration::ZERO } else { total });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Paths of all fields below `rows`, as `tests/kubernetes` writes them, that this minor version has.
    fn paths(rows: &[Row], prefix: &str, minor: u32, out: &mut BTreeSet<String>) {
        for (names, kind, _) in rows.iter().filter(|(_, _, since)| *since <= minor) {
            for name in names.split(' ') {
                let list = if matches!(kind, Kind::Texts | Kind::Ints | Kind::Objects(_)) { "[]" } else { "" };
                let path = format!("{prefix}{name}{list}");
                if let Kind::Object(rows) | Kind::Objects(rows) = kind {
                    paths(rows, &format!("{path}."), minor, out);
                }
                out.insert(path);
            }
        }
    }

    #[test]
    fn each_version_has_the_fields_of_the_real_one() {
        let text = include_str!("../../../../kubernetes/kubelet-fields.txt");
        let number = |text: &str| text.strip_prefix("1.").unwrap().parse::<u32>().unwrap();
        for minor in 30..=37 {
            let rows =
                text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ').collect::<Vec<_>>());
            let rows = rows.filter(|row| (number(row[1])..=number(row[2])).contains(&minor));
            let mut ours = BTreeSet::new();
            paths(KUBELET_CONFIGURATION, "", minor, &mut ours);
            let real: BTreeSet<String> = rows.map(|row| row[0].to_owned()).collect();
            assert_eq!(ours.symmetric_difference(&real).collect::<Vec<_>>(), [""; 0], "1.{minor}");
        }
    }

    #[test]
    fn durations_are_those_of_go() {
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("1.5s"), Some(Duration::from_millis(1500)));
        for bad in ["", "10", "1d", "s", "1 s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
