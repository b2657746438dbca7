//! The kernel settings that an AKSNodeClass and an AKSNodeConfig may ask for: one row each.
//!
//! Source of names and ranges: karpenter-provider-azure `SysctlConfiguration` (v1beta1); AgentBaker `SysctlConfig`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::problem::{Findings, join, quoted};
use super::shape::{Field, Shape, field};

macro_rules! rows {
    ($($crd:literal $proto:literal $key:literal $min:literal..=$max:literal,)*) => {
        /// Fields of `linuxOSConfig.sysctls` in an AKSNodeClass, the two that are not numbers apart.
        pub(super) const CRD_FIELDS: &[Field] = &[
            $(field($crd, Shape::Integer($min, $max), concat!("sysctl ", $key, ".")),)*
            field("netIPv4TCPTwReuse", Shape::Bool, "sysctl net.ipv4.tcp_tw_reuse."),
            field("netIPv4IPLocalPortRange", Shape::Text, "sysctl net.ipv4.ip_local_port_range, \"first last\"."),
        ];
        /// Fields of `custom_linux_os_config.sysctl_config` in an AKSNodeConfig.
        pub(super) const PROTOBUF_FIELDS: &[Field] = &[
            $(field($proto, Shape::Integer($min, $max), concat!("sysctl ", $key, ".")),)*
            field("net_ipv4_tcp_tw_reuse", Shape::Bool, "sysctl net.ipv4.tcp_tw_reuse."),
            field("net_ipv4_ip_local_port_range", Shape::Text, "sysctl net.ipv4.ip_local_port_range, \"first last\"."),
        ];
        /// Field name in either format, and the kernel's name.
        const KEYS: &[(&str, &str)] = &[
            $(($crd, $key), ($proto, $key),)*
            ("netIPv4TCPTwReuse", "net.ipv4.tcp_tw_reuse"),
            ("net_ipv4_tcp_tw_reuse", "net.ipv4.tcp_tw_reuse"),
            ("netIPv4IPLocalPortRange", "net.ipv4.ip_local_port_range"),
            ("net_ipv4_ip_local_port_range", "net.ipv4.ip_local_port_range"),
        ];
    };
}

rows! {
    "fsAioMaxNr" "fs_aio_max_nr" "fs.aio-max-nr" 65536..=6553500,
    "fsFileMax" "fs_file_max" "fs.file-max" 8192..=12000500,
    "fsInotifyMaxUserWatches" "fs_inotify_max_user_watches" "fs.inotify.max_user_watches" 781250..=2097152,
    "fsNrOpen" "fs_nr_open" "fs.nr_open" 8192..=20000500,
    "kernelThreadsMax" "kernel_threads_max" "kernel.threads-max" 20..=513785,
    "netCoreNetdevMaxBacklog" "net_core_netdev_max_backlog" "net.core.netdev_max_backlog" 1000..=3240000,
    "netCoreOptmemMax" "net_core_optmem_max" "net.core.optmem_max" 20480..=4194304,
    "netCoreRmemDefault" "net_core_rmem_default" "net.core.rmem_default" 212992..=134217728,
    "netCoreRmemMax" "net_core_rmem_max" "net.core.rmem_max" 212992..=134217728,
    "netCoreSomaxconn" "net_core_somaxconn" "net.core.somaxconn" 4096..=3240000,
    "netCoreWmemDefault" "net_core_wmem_default" "net.core.wmem_default" 212992..=134217728,
    "netCoreWmemMax" "net_core_wmem_max" "net.core.wmem_max" 212992..=134217728,
    "netIPv4NeighDefaultGcThresh1" "net_ipv4_neigh_default_gc_thresh1" "net.ipv4.neigh.default.gc_thresh1" 128..=80000,
    "netIPv4NeighDefaultGcThresh2" "net_ipv4_neigh_default_gc_thresh2" "net.ipv4.neigh.default.gc_thresh2" 512..=90000,
    "netIPv4NeighDefaultGcThresh3" "net_ipv4_neigh_default_gc_thresh3" "net.ipv4.neigh.default.gc_thresh3" 1024..=100000,
    "netIPv4TCPFinTimeout" "net_ipv4_tcp_fin_timeout" "net.ipv4.tcp_fin_timeout" 5..=120,
    "netIPv4TCPKeepaliveProbes" "net_ipv4_tcp_keepalive_probes" "net.ipv4.tcp_keepalive_probes" 1..=15,
    "netIPv4TCPKeepaliveTime" "net_ipv4_tcp_keepalive_time" "net.ipv4.tcp_keepalive_time" 30..=432000,
    "netIPv4TCPKeepaliveIntvl" "net_ipv4_tcpkeepalive_intvl" "net.ipv4.tcp_keepalive_intvl" 10..=90,
    "netIPv4TCPMaxSynBacklog" "net_ipv4_tcp_max_syn_backlog" "net.ipv4.tcp_max_syn_backlog" 128..=3240000,
    "netIPv4TCPMaxTwBuckets" "net_ipv4_tcp_max_tw_buckets" "net.ipv4.tcp_max_tw_buckets" 8000..=1440000,
    "netNetfilterNfConntrackBuckets" "net_netfilter_nf_conntrack_buckets" "net.netfilter.nf_conntrack_buckets" 65536..=524288,
    "netNetfilterNfConntrackMax" "net_netfilter_nf_conntrack_max" "net.netfilter.nf_conntrack_max" 131072..=2097152,
    "vmMaxMapCount" "vm_max_map_count" "vm.max_map_count" 65530..=262144,
    "vmSwappiness" "vm_swappiness" "vm.swappiness" 0..=100,
    "vmVfsCachePressure" "vm_vfs_cache_pressure" "vm.vfs_cache_pressure" 0..=100,
}

/// The kernel rounds the number of buckets up to whole pages of them.
/// Source: `nf_ct_alloc_hashtable`, net/netfilter/nf_conntrack_core.c, with pages of 4 KiB and buckets of 8 bytes.
const BUCKETS_STEP: u64 = 512;

/// Pairs of which the first must not exceed the second.
const ORDERED: &[(&str, &str)] = &[
    ("net.core.rmem_default", "net.core.rmem_max"),
    ("net.core.wmem_default", "net.core.wmem_max"),
    ("net.ipv4.neigh.default.gc_thresh1", "net.ipv4.neigh.default.gc_thresh2"),
    ("net.ipv4.neigh.default.gc_thresh2", "net.ipv4.neigh.default.gc_thresh3"),
];

/// The name of a kernel setting in an AKSNodeConfig.
pub(super) fn protobuf_field(key: &str) -> Option<&'static str> {
    KEYS.iter().find(|(field, kernel)| *kernel == key && field.contains('_')).map(|(field, _)| *field)
}

/// The kernel's keys and values of a checked `sysctls` object at `path`.
pub(super) fn read(
    object: Option<&Map<String, Value>>,
    path: &str,
    findings: &mut Findings,
) -> BTreeMap<String, String> {
    let mut sysctls = BTreeMap::new();
    for (name, value) in object.into_iter().flatten() {
        let Some((_, key)) = KEYS.iter().find(|(field, _)| field == name) else { continue };
        let value = match value {
            Value::Bool(value) => u8::from(*value).to_string(),
            Value::Number(number) if *key == "net.netfilter.nf_conntrack_buckets" => {
                let asked = number.as_u64().unwrap_or_default();
                let rounded = asked.next_multiple_of(BUCKETS_STEP);
                if rounded != asked {
                    findings.warn(&join(path, name), format!("the kernel rounds {asked} up to {rounded}"));
                }
                rounded.to_string()
            }
            Value::Number(number) => number.to_string(),
            Value::String(range) => match port_range(range) {
                Some(range) => range,
                None => {
                    findings.problem(
                        &join(path, name),
                        quoted(range),
                        "\"first last\", first 1024..60999, last 32768..65535",
                    );
                    continue;
                }
            },
            _ => continue,
        };
        sysctls.insert((*key).to_owned(), value);
    }
    refuse_disorder(&sysctls, path, findings);
    sysctls
}

fn port_range(text: &str) -> Option<String> {
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    let (first, last): (u16, u16) = (first.parse().ok()?, last.trim().parse().ok()?);
    let holds = (1024..=60999).contains(&first) && last >= 32768 && first <= last;
    holds.then(|| format!("{first} {last}"))
}

fn refuse_disorder(sysctls: &BTreeMap<String, String>, path: &str, findings: &mut Findings) {
    let number = |key: &str| sysctls.get(key).and_then(|value| value.parse::<u64>().ok());
    for (low, high) in ORDERED {
        if let (Some(low_value), Some(high_value)) = (number(low), number(high))
            && low_value > high_value
        {
            findings.problem(
                path,
                format!("{low} {low_value} above {high} {high_value}"),
                format!("{low} at most {high}"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sysctls(value: &Value) -> (BTreeMap<String, String>, Vec<String>) {
        let mut findings = Findings::default();
        let sysctls = read(value.as_object(), "sysctls", &mut findings);
        (sysctls, findings.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn both_spellings_give_the_kernels_key() {
        let (crd, _) =
            sysctls(&json!({"netIPv4TCPTwReuse": true, "vmSwappiness": 10, "netIPv4IPLocalPortRange": "1024  60000"}));
        let (protobuf, _) = sysctls(
            &json!({"net_ipv4_tcp_tw_reuse": true, "vm_swappiness": 10, "net_ipv4_ip_local_port_range": "1024 60000"}),
        );
        assert_eq!(crd, protobuf);
        assert_eq!(crd["net.ipv4.ip_local_port_range"], "1024 60000");
    }

    #[test]
    fn contradictions_are_problems() {
        let (_, problems) = sysctls(
            &json!({"netCoreRmemDefault": 300000, "netCoreRmemMax": 212992, "netIPv4IPLocalPortRange": "9 10"}),
        );
        assert_eq!(
            problems,
            [
                "sysctls.netIPv4IPLocalPortRange: found \"9 10\", want \"first last\", first 1024..60999, last 32768..65535",
                "sysctls: found net.core.rmem_default 300000 above net.core.rmem_max 212992, want net.core.rmem_default at most net.core.rmem_max",
            ]
        );
    }
}
