//! `KubeletConfigFileConfig` of an AKSNodeConfig: every row has kubelet's own name as its second spelling.
//!
//! protobuf marshals `cache_ttl` as `cacheTtl`, which kubelet does not know; here it leaves as `cacheTTL`.

use super::shape::Shape::{Bool, Integer, List, Map, Object, Text};
use super::shape::{Field, Shape, field};

const INT32: Shape = Integer(i32::MIN as i64, i32::MAX as i64);
const TEXTS: Shape = List(&Text);
const TEXT_MAP: Shape = Map(&Text);

const AUTHENTICATION: &[Field] = &[
    field("x509", Object(&[field("client_ca_file", Text, "").also("clientCAFile")]), ""),
    field("webhook", Object(&[field("enabled", Bool, ""), field("cache_ttl", Text, "").also("cacheTTL")]), ""),
    field("anonymous", Object(&[field("enabled", Bool, "")]), ""),
];

const AUTHORIZATION: &[Field] = &[
    field("mode", Text, ""),
    field(
        "webhook",
        Object(&[
            field("cache_authorized_ttl", Text, "").also("cacheAuthorizedTTL"),
            field("cache_unauthorized_ttl", Text, "").also("cacheUnauthorizedTTL"),
        ]),
        "",
    ),
];

/// The rows, in the order of the proto file.
pub(super) const CONFIG_FILE: &[Field] = &[
    field("kind", Text, ""),
    field("api_version", Text, "").also("apiVersion"),
    field("static_pod_path", Text, "").also("staticPodPath"),
    field("address", Text, ""),
    field("read_only_port", INT32, "").also("readOnlyPort"),
    field("tls_cert_file", Text, "").also("tlsCertFile"),
    field("tls_private_key_file", Text, "").also("tlsPrivateKeyFile"),
    field("tls_cipher_suites", TEXTS, "").also("tlsCipherSuites"),
    field("rotate_certificates", Bool, "").also("rotateCertificates"),
    field("server_tls_bootstrap", Bool, "").also("serverTLSBootstrap"),
    field("authentication", Object(AUTHENTICATION), ""),
    field("authorization", Object(AUTHORIZATION), ""),
    field("event_record_qps", INT32, "").also("eventRecordQPS"),
    field("cluster_domain", Text, "").also("clusterDomain"),
    field("cluster_dns", TEXTS, "").also("clusterDNS"),
    field("streaming_connection_idle_timeout", Text, "").also("streamingConnectionIdleTimeout"),
    field("node_status_update_frequency", Text, "").also("nodeStatusUpdateFrequency"),
    field("node_status_report_frequency", Text, "").also("nodeStatusReportFrequency"),
    field("image_gc_high_threshold_percent", INT32, "").also("imageGCHighThresholdPercent"),
    field("image_gc_low_threshold_percent", INT32, "").also("imageGCLowThresholdPercent"),
    field("cgroups_per_qos", Bool, "").also("cgroupsPerQOS"),
    field("cpu_manager_policy", Text, "").also("cpuManagerPolicy"),
    field("topology_manager_policy", Text, "").also("topologyManagerPolicy"),
    field("max_pods", INT32, "").also("maxPods"),
    field("pod_pids_limit", INT32, "").also("podPidsLimit"),
    field("resolv_conf", Text, "").also("resolvConf"),
    field("cpu_cfs_quota", Bool, "").also("cpuCFSQuota"),
    field("cpu_cfs_quota_period", Text, "").also("cpuCFSQuotaPeriod"),
    field("eviction_hard", TEXT_MAP, "").also("evictionHard"),
    field("protect_kernel_defaults", Bool, "").also("protectKernelDefaults"),
    field("feature_gates", Map(&Bool), "").also("featureGates"),
    field("fail_swap_on", Bool, "").also("failSwapOn"),
    field("container_log_max_size", Text, "").also("containerLogMaxSize"),
    field("container_log_max_files", INT32, "").also("containerLogMaxFiles"),
    field("system_reserved", TEXT_MAP, "").also("systemReserved"),
    field("kube_reserved", TEXT_MAP, "").also("kubeReserved"),
    field("enforce_node_allocatable", TEXTS, "").also("enforceNodeAllocatable"),
    field("allowed_unsafe_sysctls", TEXTS, "").also("allowedUnsafeSysctls"),
    field("serialize_image_pulls", Bool, "").also("serializeImagePulls"),
    field("seccomp_default", Bool, "").also("seccompDefault"),
    field("eviction_soft", TEXT_MAP, "").also("evictionSoft"),
    field("eviction_soft_grace_period", TEXT_MAP, "").also("evictionSoftGracePeriod"),
    field("eviction_max_pod_grace_period", INT32, "").also("evictionMaxPodGracePeriod"),
    field("kube_reserved_cgroup", Text, "").also("kubeReservedCgroup"),
    field("system_reserved_cgroup", Text, "").also("systemReservedCgroup"),
];
