//! The kubelet's command line: every flag of the real one by its name, and the few that mean something here.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};

/// Flags with a value that change what this kubelet does or that a node of ours carries.
const USED: &str = "bootstrap-kubeconfig cert-dir cloud-provider config hostname-override \
    image-credential-provider-bin-dir image-credential-provider-config kubeconfig max-pods node-ip node-labels \
    provider-id register-node root-dir runtime-cgroups v vmodule";

/// The real kubelet's other flags: accepted, noted in the log, without effect here.
/// Source: `tests/kubernetes/kubelet-flags.txt`; a test compares.
const IDLE: &str = "address allowed-unsafe-sysctls anonymous-auth application-metrics-count-limit \
    authentication-token-webhook authentication-token-webhook-cache-ttl authorization-mode \
    authorization-webhook-cache-authorized-ttl authorization-webhook-cache-unauthorized-ttl boot-id-file \
    cgroup-driver cgroup-root cgroups-per-qos client-ca-file cluster-dns cluster-domain config-dir container-hints \
    container-log-max-files container-log-max-size container-runtime-endpoint containerd containerd-namespace \
    contention-profiling cpu-cfs-quota cpu-cfs-quota-period cpu-manager-policy cpu-manager-policy-options \
    cpu-manager-reconcile-period enable-controller-attach-detach enable-debugging-handlers enable-load-reader \
    enable-server enforce-node-allocatable event-burst event-qps event-storage-age-limit event-storage-event-limit \
    eviction-hard eviction-max-pod-grace-period eviction-minimum-reclaim eviction-pressure-transition-period \
    eviction-soft eviction-soft-grace-period exit-on-lock-contention experimental-allocatable-ignore-eviction \
    experimental-mounter-path fail-swap-on feature-gates file-check-frequency \
    global-housekeeping-interval hairpin-mode healthz-bind-address healthz-port help housekeeping-interval \
    http-check-frequency image-gc-high-threshold image-gc-low-threshold image-service-endpoint \
    kernel-memcg-notification kube-api-burst kube-api-content-type kube-api-qps kube-reserved kube-reserved-cgroup \
    kubelet-cgroups local-storage-capacity-isolation lock-file log-cadvisor-usage log-flush-frequency \
    log-json-info-buffer-size log-json-split-stream log-text-info-buffer-size log-text-split-stream logging-format \
    machine-id-file make-iptables-util-chains manifest-url manifest-url-header max-housekeeping-interval \
    max-open-files maximum-dead-containers maximum-dead-containers-per-container memory-manager-policy \
    minimum-container-ttl-duration minimum-image-ttl-duration node-status-max-images node-status-update-frequency \
    oom-score-adj pod-cidr pod-manifest-path pod-max-pids pods-per-core port protect-kernel-defaults qos-reserved \
    read-only-port register-with-taints registry-burst registry-qps reserved-cpus reserved-memory resolv-conf \
    rotate-certificates rotate-server-certificates runonce runtime-request-timeout seccomp-default \
    serialize-image-pulls storage-driver-buffer-duration storage-driver-db storage-driver-host \
    storage-driver-password storage-driver-secure storage-driver-table storage-driver-user \
    streaming-connection-idle-timeout sync-frequency system-cgroups system-reserved system-reserved-cgroup \
    tls-cert-file tls-cipher-suites tls-min-version tls-private-key-file topology-manager-policy \
    topology-manager-policy-options topology-manager-scope volume-plugin-dir volume-stats-agg-period";

/// Flags that need no value: without one they are true.
const SWITCHES: &str = "anonymous-auth authentication-token-webhook cgroups-per-qos contention-profiling cpu-cfs-quota \
    enable-controller-attach-detach enable-debugging-handlers enable-load-reader enable-server \
    exit-on-lock-contention experimental-allocatable-ignore-eviction fail-cgroupv1 fail-swap-on help \
    keep-terminated-pod-volumes kernel-memcg-notification local-storage-capacity-isolation log-cadvisor-usage log-json-split-stream \
    log-text-split-stream make-iptables-util-chains protect-kernel-defaults register-node register-schedulable \
    rotate-certificates rotate-server-certificates runonce seccomp-default serialize-image-pulls storage-driver-secure version";

/// Flags that went away, and the first minor version without them. Their values have no effect here.
const REMOVED: &[(&str, u32)] = &[
    ("cloud-config", 34),
    ("iptables-drop-bit", 31),
    ("iptables-masquerade-bit", 31),
    ("keep-terminated-pod-volumes", 31),
    ("pod-infra-container-image", 35),
    ("register-schedulable", 34),
];

/// Flags that came, and the first minor version with them. Their values have no effect here.
const ADDED: &[(&str, u32)] = &[("fail-cgroupv1", 31)];

/// The flags that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(BTreeMap<String, String>);

impl Flags {
    /// Reads a command line as a kubelet of this minor version does.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = String>, minor: u32) -> anyhow::Result<Self> {
        let mut flags = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let long = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-').filter(|it| is_v(it)));
            let Some(long) = long else { bail!("unknown command {argument:?}") };
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            if !is_known(name, minor) {
                bail!("unknown flag: --{name}");
            }
            let switch = has(SWITCHES, name).then(|| "true".to_owned());
            let value = value.or(switch).or_else(|| arguments.next());
            flags.add(name, value.with_context(|| format!("flag needs an argument: --{name}"))?)?;
        }
        Ok(flags)
    }

    fn add(&mut self, name: &str, value: String) -> anyhow::Result<()> {
        if has("v max-pods", name) && value.parse::<i32>().is_err() {
            bail!(
                "invalid argument {value:?} for \"--{name}\" flag: strconv.ParseInt: parsing {value:?}: invalid syntax"
            );
        }
        if has(SWITCHES, name) && !has("true false 1 0 t f True False TRUE FALSE", &value) {
            bail!("invalid argument {value:?} for \"--{name}\" flag: strconv.ParseBool: invalid syntax");
        }
        match self.0.get_mut(name).filter(|_| name == "node-labels") {
            Some(labels) => *labels = format!("{labels},{value}"),
            None => drop(self.0.insert(name.to_owned(), value)),
        }
        Ok(())
    }

    /// The value of a flag, unless it is empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether a switch is on; `None` when it was not given.
    pub(crate) fn switch(&self, name: &str) -> Option<bool> {
        self.get(name).map(|value| has("true 1 t True TRUE", value))
    }

    /// Flags that were given and have no effect here.
    pub(crate) fn idle(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str).filter(|name| !has(USED, name) && *name != "version")
    }

    /// The labels of `--node-labels`.
    pub(crate) fn labels(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let pairs =
            self.get("node-labels").unwrap_or_default().split(',').map(str::trim).filter(|pair| !pair.is_empty());
        let mut labels = BTreeMap::new();
        for pair in pairs {
            let (key, value) = pair.split_once('=').with_context(|| {
                format!("invalid argument {pair:?} for \"--node-labels\" flag: malformed pair, expect string=string")
            })?;
            labels.insert(key.trim().to_owned(), value.trim().to_owned());
        }
        check_labels(&labels)?;
        Ok(labels)
    }
}

fn is_v(flag: &str) -> bool {
    flag == "v" || flag.starts_with("v=")
}

fn has(words: &str, word: &str) -> bool {
    words.split_whitespace().any(|known| known == word)
}

fn is_known(name: &str, minor: u32) -> bool {
    let not_yet_removed = REMOVED.iter().any(|(known, gone)| *known == name && minor < *gone);
    let already_there = ADDED.iter().any(|(known, since)| *known == name && minor >= *since);
    not_yet_removed || already_there || name == "version" || has(USED, name) || has(IDLE, name)
}

/// Labels below `kubernetes.io` and `k8s.io` that a kubelet may set.
/// Source: kubelet's reference, `--node-labels`.
const LABELS: &str = "beta.kubernetes.io/arch beta.kubernetes.io/instance-type beta.kubernetes.io/os \
    failure-domain.beta.kubernetes.io/region failure-domain.beta.kubernetes.io/zone kubernetes.io/arch \
    kubernetes.io/hostname kubernetes.io/os node.kubernetes.io/instance-type topology.kubernetes.io/region \
    topology.kubernetes.io/zone";

/// Prefixes below which a kubelet may set any label.
const LABEL_PREFIXES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

fn check_labels(labels: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let unknown: Vec<&str> = labels.keys().map(String::as_str).filter(|label| !may_set(label)).collect();
    if !unknown.is_empty() {
        let (unknown, prefixes) = (unknown.join(" "), LABEL_PREFIXES.join(", "));
        bail!(
            "unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [{unknown}]\n--node-labels in the \
             'kubernetes.io' namespace must begin with an allowed prefix ({prefixes}) or be in the specifically allowed \
             set ({LABELS})"
        );
    }
    Ok(())
}

fn may_set(label: &str) -> bool {
    let namespace = label.split_once('/').map_or("", |(namespace, _)| namespace);
    let below =
        |domain: &&str| namespace.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let reserved = ["kubernetes.io", "k8s.io"].iter().any(below);
    !reserved || has(LABELS, label) || LABEL_PREFIXES.iter().any(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str, minor: u32) -> Result<Flags, String> {
        Flags::parse(words.split(' ').map(str::to_owned), minor).map_err(|error| error.to_string())
    }

    #[test]
    fn values_come_after_an_equals_sign_or_a_space() {
        let flags =
            parse("--node-ip=10.0.0.4 --max-pods 50 --register-node --v=2 --node-labels a=b,c= --node-labels=d=e", 36);
        let flags = flags.unwrap();
        assert_eq!((flags.get("node-ip"), flags.get("max-pods")), (Some("10.0.0.4"), Some("50")));
        assert_eq!(flags.switch("register-node"), Some(true));
        let labels: Vec<_> = flags.labels().unwrap().into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(labels, ["a=b", "c=", "d=e"]);
    }

    #[test]
    fn unknown_and_removed_flags_are_refused_by_name() {
        assert_eq!(parse("--no-such=1", 36), Err("unknown flag: --no-such".to_owned()));
        assert!(parse("--pod-infra-container-image=pause", 34).is_ok());
        assert_eq!(
            parse("--pod-infra-container-image=pause", 35),
            Err("unknown flag: --pod-infra-container-image".to_owned())
        );
        assert!(parse("--cloud-config=/etc/kubernetes/azure.json", 33).is_ok());
        assert_eq!(parse("--cloud-config=a", 34), Err("unknown flag: --cloud-config".to_owned()));
        assert_eq!(parse("--node-ip", 36), Err("flag needs an argument: --node-ip".to_owned()));
        assert!(parse("--max-pods=many", 36).is_err());
    }

    #[test]
    fn each_version_has_the_flags_of_the_real_one() {
        let text = include_str!("../../../../kubernetes/kubelet-flags.txt");
        let number = |text: &str| text.strip_prefix("1.").unwrap().parse::<u32>().unwrap();
        let rows: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ')).collect();
        let mut real = BTreeMap::new();
        for mut row in rows {
            let mut next = || row.next().unwrap();
            real.insert(next(), number(next())..=number(next()));
        }
        let ours = [USED, IDLE].into_iter().flat_map(str::split_whitespace);
        let ours = ours.chain(REMOVED.iter().chain(ADDED).map(|(name, _)| *name));
        let unreal: Vec<_> = ours.filter(|name| !real.contains_key(name)).collect();
        assert_eq!(unreal, [""; 0]);
        for minor in 30..=37 {
            let different: Vec<_> =
                real.iter().filter(|(name, minors)| is_known(name, minor) != minors.contains(&minor)).collect();
            assert_eq!(different, [], "1.{minor}");
        }
    }

    #[test]
    fn labels_that_steer_other_workloads_are_refused() {
        for good in ["karpenter.sh/nodepool=a", "kubernetes.azure.com/mode=user", "a.node.kubernetes.io/b=c"] {
            assert!(parse(&format!("--node-labels={good}"), 36).unwrap().labels().is_ok(), "{good}");
        }
        for bad in ["node-role.kubernetes.io/agent=", "x.k8s.io/y=z", "no-value"] {
            assert!(parse(&format!("--node-labels={bad}"), 36).unwrap().labels().is_err(), "{bad}");
        }
    }
}
