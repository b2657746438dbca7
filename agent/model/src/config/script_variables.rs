//! The variables of a scriptless script, one row each: the field of an AKSNodeConfig that says the same and how the value is
//! written, or why nothing comes of it.
//!
//! Source of names: karpenter-provider-azure `pkg/providers/imagefamily/bootstrap`; AgentBaker `cse_cmd.sh`, `getCSEEnv`.

/// A variable of the script.
#[derive(Debug)]
pub(super) struct Row {
    /// Its name.
    pub(super) variable: &'static str,
    /// What it becomes.
    pub(super) meaning: Meaning,
}

/// What a variable becomes.
#[derive(Debug)]
pub(super) enum Meaning {
    /// A field of the AKSNodeConfig, written so.
    Field(&'static str, Kind),
    /// When `false`, these fields do not count.
    Switch(&'static [&'static str]),
    /// base64 of a Corefile, whose zones are these two fields; the first of such variables that a script has counts.
    Corefile(&'static [&'static str; 2]),
    /// Nothing, for a reason that a person can read.
    Ignored(&'static str),
}

/// How a value is written.
#[derive(Debug)]
pub(super) enum Kind {
    Text,
    Bool,
    /// `true` where the field is false.
    Not,
    Number,
    /// A duration such as `15m`, or seconds.
    Seconds,
    /// The shell's word, and the field's; an empty one for none.
    Words(&'static [(&'static str, &'static str)]),
    /// Joined by commas.
    List,
    /// `--name=value --name=value`.
    Flags,
    /// `key=value,key=value`.
    Labels,
    /// base64 of `key = value` lines.
    Sysctls,
    /// base64 of KubeletConfiguration as JSON.
    KubeletConfiguration,
    /// `LimitNOFILE=1 LimitMEMLOCK=2`, a section's name among them.
    Ulimits,
    /// `200.0%`, in thousandths of a processor.
    Percent,
    /// `128M`.
    Megabytes,
}

const fn field(variable: &'static str, path: &'static str, kind: Kind) -> Row {
    Row { variable, meaning: Meaning::Field(path, kind) }
}

const fn switch(variable: &'static str, paths: &'static [&'static str]) -> Row {
    Row { variable, meaning: Meaning::Switch(paths) }
}

const fn corefile(variable: &'static str) -> Row {
    Row {
        variable,
        meaning: Meaning::Corefile(&["local_dns_profile.vnet_dns_overrides", "local_dns_profile.kube_dns_overrides"]),
    }
}

const fn ignored(variable: &'static str, why: &'static str) -> Row {
    Row { variable, meaning: Meaning::Ignored(why) }
}

/// Said of variables that every script has and that say nothing about the node.
pub(super) const OF_SCRIPTS: &str = "it is a path or a switch of the scripts that nap-agent replaces";
const OBSERVED: &str = "it is observed on the node";
const OTHER_VARIABLES: &str = "other variables say the same";
const OTHER_COREFILE: &str = "the zones of LocalDNS are read from LOCALDNS_COREFILE_BASE";
const GPU_IMAGE: &str = "the image brings the GPU driver; none is installed at boot";
const GONE: &str = "what it is for is gone from AKS";
const NEWLY_DEPRECATED: &str = "its owner deprecates it";

/// The variables, by subject.
pub(super) const ROWS: &[Row] = &[
    // Cluster and identity.
    field("API_SERVER_NAME", "api_server_config.api_server_name", Kind::Text),
    field("APISERVER_PUBLIC_KEY", "api_server_config.api_server_public_key", Kind::Text),
    field("KUBE_CA_CRT", "kubernetes_ca_cert", Kind::Text),
    field("KUBERNETES_VERSION", "kubernetes_version", Kind::Text),
    field("TLS_BOOTSTRAP_TOKEN", "bootstrapping_config.tls_bootstrapping_token", Kind::Text),
    field(
        "ENABLE_SECURE_TLS_BOOTSTRAPPING",
        "bootstrapping_config.bootstrapping_auth_method",
        Kind::Words(&[("false", ""), ("true", "BOOTSTRAPPING_AUTH_METHOD_SECURE_TLS_BOOTSTRAPPING")]),
    ),
    field(
        "SECURE_TLS_BOOTSTRAPPING_AAD_RESOURCE",
        "bootstrapping_config.secure_tls_bootstrapping_aad_resource",
        Kind::Text,
    ),
    field(
        "SECURE_TLS_BOOTSTRAPPING_USER_ASSIGNED_IDENTITY_ID",
        "bootstrapping_config.secure_tls_bootstrapping_user_assigned_identity_id",
        Kind::Text,
    ),
    field(
        "CUSTOM_SECURE_TLS_BOOTSTRAPPING_CLIENT_DOWNLOAD_URL",
        "bootstrapping_config.secure_tls_bootstrapping_custom_client_download_url",
        Kind::Text,
    ),
    field(
        "SECURE_TLS_BOOTSTRAPPING_VALIDATE_KUBECONFIG_TIMEOUT",
        "bootstrapping_config.secure_tls_bootstrapping_validate_kubeconfig_timeout",
        Kind::Text,
    ),
    field(
        "SECURE_TLS_BOOTSTRAPPING_GET_ACCESS_TOKEN_TIMEOUT",
        "bootstrapping_config.secure_tls_bootstrapping_get_access_token_timeout",
        Kind::Text,
    ),
    field(
        "SECURE_TLS_BOOTSTRAPPING_GET_INSTANCE_DATA_TIMEOUT",
        "bootstrapping_config.secure_tls_bootstrapping_get_instance_data_timeout",
        Kind::Text,
    ),
    field(
        "SECURE_TLS_BOOTSTRAPPING_GET_NONCE_TIMEOUT",
        "bootstrapping_config.secure_tls_bootstrapping_get_nonce_timeout",
        Kind::Text,
    ),
    field(
        "SECURE_TLS_BOOTSTRAPPING_GET_ATTESTED_DATA_TIMEOUT",
        "bootstrapping_config.secure_tls_bootstrapping_get_attested_data_timeout",
        Kind::Text,
    ),
    field(
        "SECURE_TLS_BOOTSTRAPPING_GET_CREDENTIAL_TIMEOUT",
        "bootstrapping_config.secure_tls_bootstrapping_get_credential_timeout",
        Kind::Text,
    ),
    ignored("SECURE_TLS_BOOTSTRAPPING_DEADLINE", NEWLY_DEPRECATED),
    ignored("CUSTOM_SECURE_TLS_BOOTSTRAP_AAD_SERVER_APP_ID", NEWLY_DEPRECATED),
    ignored("ENABLE_TLS_BOOTSTRAPPING", "kubelet joins with the bootstrap token whenever there is one"),
    ignored("ENABLE_KUBELET_SERVING_CERTIFICATE_ROTATION", "the flag --rotate-server-certificates says so"),
    field("TENANT_ID", "auth_config.tenant_id", Kind::Text),
    field("SUBSCRIPTION_ID", "auth_config.subscription_id", Kind::Text),
    field("SERVICE_PRINCIPAL_CLIENT_ID", "auth_config.service_principal_id", Kind::Text),
    field("SERVICE_PRINCIPAL_FILE_CONTENT", "auth_config.service_principal_secret", Kind::Text),
    field("USER_ASSIGNED_IDENTITY_ID", "auth_config.assigned_identity_id", Kind::Text),
    field("USE_MANAGED_IDENTITY_EXTENSION", "auth_config.use_managed_identity_extension", Kind::Bool),
    // Cloud.
    field("RESOURCE_GROUP", "cluster_config.resource_group", Kind::Text),
    field("LOCATION", "cluster_config.location", Kind::Text),
    field(
        "VM_TYPE",
        "cluster_config.vm_type",
        Kind::Words(&[("standard", "VM_TYPE_STANDARD"), ("vmss", "VM_TYPE_VMSS")]),
    ),
    field("VIRTUAL_NETWORK", "cluster_config.cluster_network_config.vnet_name", Kind::Text),
    field("VIRTUAL_NETWORK_RESOURCE_GROUP", "cluster_config.cluster_network_config.vnet_resource_group", Kind::Text),
    field("SUBNET", "cluster_config.cluster_network_config.subnet", Kind::Text),
    field("NETWORK_SECURITY_GROUP", "cluster_config.cluster_network_config.security_group_name", Kind::Text),
    field("ROUTE_TABLE", "cluster_config.cluster_network_config.route_table", Kind::Text),
    field("PRIMARY_AVAILABILITY_SET", "cluster_config.primary_availability_set", Kind::Text),
    field("PRIMARY_SCALE_SET", "cluster_config.primary_scale_set", Kind::Text),
    field("USE_INSTANCE_METADATA", "cluster_config.use_instance_metadata", Kind::Bool),
    field(
        "LOAD_BALANCER_SKU",
        "cluster_config.load_balancer_config.load_balancer_sku",
        Kind::Words(&[("basic", "LOAD_BALANCER_SKU_BASIC"), ("standard", "LOAD_BALANCER_SKU_STANDARD")]),
    ),
    field(
        "EXCLUDE_MASTER_FROM_STANDARD_LB",
        "cluster_config.load_balancer_config.exclude_master_from_standard_load_balancer",
        Kind::Bool,
    ),
    field(
        "MAXIMUM_LOADBALANCER_RULE_COUNT",
        "cluster_config.load_balancer_config.max_load_balancer_rule_count",
        Kind::Number,
    ),
    field(
        "LOAD_BALANCER_DISABLE_OUTBOUND_SNAT",
        "cluster_config.load_balancer_config.disable_outbound_snat",
        Kind::Bool,
    ),
    field("CLOUDPROVIDER_BACKOFF", "cluster_config.cloud_provider_config.cloud_provider_backoff", Kind::Bool),
    field("CLOUDPROVIDER_BACKOFF_MODE", "cluster_config.cloud_provider_config.cloud_provider_backoff_mode", Kind::Text),
    field(
        "CLOUDPROVIDER_BACKOFF_RETRIES",
        "cluster_config.cloud_provider_config.cloud_provider_backoff_retries",
        Kind::Number,
    ),
    field(
        "CLOUDPROVIDER_BACKOFF_DURATION",
        "cluster_config.cloud_provider_config.cloud_provider_backoff_duration",
        Kind::Number,
    ),
    ignored("CLOUDPROVIDER_BACKOFF_EXPONENT", "only back-off mode v1 knows it, and AKS' mode is v2"),
    ignored("CLOUDPROVIDER_BACKOFF_JITTER", "only back-off mode v1 knows it, and AKS' mode is v2"),
    field("CLOUDPROVIDER_RATELIMIT", "cluster_config.cloud_provider_config.cloud_provider_rate_limit", Kind::Bool),
    field(
        "CLOUDPROVIDER_RATELIMIT_QPS",
        "cluster_config.cloud_provider_config.cloud_provider_rate_limit_qps",
        Kind::Number,
    ),
    field(
        "CLOUDPROVIDER_RATELIMIT_QPS_WRITE",
        "cluster_config.cloud_provider_config.cloud_provider_rate_limit_qps_write",
        Kind::Number,
    ),
    field(
        "CLOUDPROVIDER_RATELIMIT_BUCKET",
        "cluster_config.cloud_provider_config.cloud_provider_rate_limit_bucket",
        Kind::Number,
    ),
    field(
        "CLOUDPROVIDER_RATELIMIT_BUCKET_WRITE",
        "cluster_config.cloud_provider_config.cloud_provider_rate_limit_bucket_write",
        Kind::Number,
    ),
    field(
        "IS_CUSTOM_CLOUD",
        "custom_cloud_config.custom_cloud_env_name",
        Kind::Words(&[("false", ""), ("true", "akscustom")]),
    ),
    field("CUSTOM_ENV_JSON", "custom_cloud_config.custom_env_json_content", Kind::Text),
    field(
        "AKS_CUSTOM_CLOUD_CONTAINER_REGISTRY_DNS_SUFFIX",
        "custom_cloud_config.container_registry_dns_suffix",
        Kind::Text,
    ),
    field("REPO_DEPOT_ENDPOINT", "custom_cloud_config.repo_depot_endpoint", Kind::Text),
    ignored("TARGET_CLOUD", "LOCATION and IS_CUSTOM_CLOUD tell the cloud"),
    ignored("TARGET_ENVIRONMENT", "LOCATION and IS_CUSTOM_CLOUD tell the cloud"),
    ignored("AZURE_ENVIRONMENT_FILEPATH", OF_SCRIPTS),
    // kubelet.
    field("KUBELET_FLAGS", "kubelet_config.kubelet_flags", Kind::Flags),
    field("KUBELET_NODE_LABELS", "kubelet_config.kubelet_node_labels", Kind::Labels),
    field("KUBELET_CONFIG_FILE_ENABLED", "kubelet_config.enable_kubelet_config_file", Kind::Bool),
    field("KUBELET_CONFIG_FILE_CONTENT", "kubelet_config.kubelet_config_file_config", Kind::KubeletConfiguration),
    field("KUBELET_CLIENT_CONTENT", "kubelet_config.kubelet_client_key", Kind::Text),
    field("KUBELET_CLIENT_CERT_CONTENT", "kubelet_config.kubelet_client_cert_content", Kind::Text),
    field(
        "HAS_KUBELET_DISK_TYPE",
        "kubelet_config.kubelet_disk_type",
        Kind::Words(&[("false", ""), ("true", "KUBELET_DISK_TEMP_DISK")]),
    ),
    ignored("KUBELET_IMAGE", GONE),
    // Pod network.
    field(
        "NETWORK_PLUGIN",
        "network_config.network_plugin",
        Kind::Words(&[
            ("none", "NETWORK_PLUGIN_NONE"),
            ("azure", "NETWORK_PLUGIN_AZURE"),
            ("kubenet", "NETWORK_PLUGIN_KUBENET"),
        ]),
    ),
    ignored("NETWORK_POLICY", "DaemonSets enforce network policies, not the node"),
    ignored("NETWORK_MODE", "Azure's CNI plugin on AKS has one mode"),
    ignored("ENSURE_NO_DUPE_PROMISCUOUS_BRIDGE", GONE),
    ignored("KUBENET_TEMPLATE", GONE),
    field("VNET_CNI_PLUGINS_URL", "network_config.vnet_cni_plugins_url", Kind::Text),
    field("CNI_PLUGINS_URL", "network_config.cni_plugins_url", Kind::Text),
    field("STANDARD_SECONDARY_NIC_COUNT", "network_config.standard_secondary_nic_count", Kind::Number),
    // Container runtime and packages.
    ignored("CONTAINERD_CONFIG_CONTENT", "nap-agent writes containerd's configuration itself"),
    ignored("CONTAINERD_CONFIG_NO_GPU_CONTENT", "nap-agent writes containerd's configuration itself"),
    field("CONTAINERD_DOWNLOAD_URL_BASE", "containerd_config.containerd_download_url_base", Kind::Text),
    field("CONTAINERD_VERSION", "containerd_config.containerd_version", Kind::Text),
    field("CONTAINERD_PACKAGE_URL", "containerd_config.containerd_package_url", Kind::Text),
    field("RUNC_VERSION", "runc_config.runc_version", Kind::Text),
    field("RUNC_PACKAGE_URL", "runc_config.runc_package_url", Kind::Text),
    field("KUBE_BINARY_URL", "kube_binary_config.kube_binary_url", Kind::Text),
    field("CUSTOM_KUBE_BINARY_URL", "kube_binary_config.custom_kube_binary_url", Kind::Text),
    field("PRIVATE_KUBE_BINARY_URL", "kube_binary_config.private_kube_binary_url", Kind::Text),
    field("CREDENTIAL_PROVIDER_DOWNLOAD_URL", "kube_binary_config.linux_credential_provider_url", Kind::Text),
    field("KUBEPROXY_URL", "kube_proxy_url", Kind::Text),
    field("IS_KATA", "is_kata", Kind::Bool),
    field("ARTIFACT_STREAMING_ENABLED", "enable_artifact_streaming", Kind::Bool),
    ignored("CONTAINER_RUNTIME", "containerd is the only one"),
    ignored("CLI_TOOL", "containerd is the only runtime"),
    ignored("NEEDS_CONTAINERD", "containerd is the only runtime"),
    ignored("NEEDS_DOCKER_LOGIN", GONE),
    ignored("MOBY_VERSION", GONE),
    ignored("HYPERKUBE_URL", GONE),
    ignored("TELEPORT_ENABLED", GONE),
    ignored("TELEPORTD_PLUGIN_DOWNLOAD_URL", GONE),
    ignored("IS_KRUSTLET", GONE),
    field("AZURE_PRIVATE_REGISTRY_SERVER", "azure_private_registry_server", Kind::Text),
    field("BOOTSTRAP_PROFILE_CONTAINER_REGISTRY_SERVER", "bootstrap_profile_container_registry_server", Kind::Text),
    ignored("MCR_REPOSITORY_BASE", "the image of the pause container names its registry"),
    field("SERVICE_ACCOUNT_IMAGE_PULL_ENABLED", "service_account_image_pull_profile.enabled", Kind::Bool),
    field(
        "SERVICE_ACCOUNT_IMAGE_PULL_DEFAULT_CLIENT_ID",
        "service_account_image_pull_profile.default_client_id",
        Kind::Text,
    ),
    field(
        "SERVICE_ACCOUNT_IMAGE_PULL_DEFAULT_TENANT_ID",
        "service_account_image_pull_profile.default_tenant_id",
        Kind::Text,
    ),
    field(
        "IDENTITY_BINDINGS_LOCAL_AUTHORITY_SNI",
        "service_account_image_pull_profile.local_authority_sni",
        Kind::Text,
    ),
    // Operating system.
    field("SYSCTL_CONTENT", "custom_linux_os_config.sysctl_config", Kind::Sysctls),
    switch("SHOULD_CONFIG_CONTAINERD_ULIMITS", &["custom_linux_os_config.ulimit_config"]),
    field("CONTAINERD_ULIMITS", "custom_linux_os_config.ulimit_config", Kind::Ulimits),
    field("SHOULD_CONFIG_SWAP_FILE", "custom_linux_os_config.enable_swap_config", Kind::Bool),
    field("SWAP_FILE_SIZE_MB", "custom_linux_os_config.swap_file_size", Kind::Number),
    switch(
        "SHOULD_CONFIG_TRANSPARENT_HUGE_PAGE",
        &["custom_linux_os_config.transparent_hugepage_support", "custom_linux_os_config.transparent_defrag"],
    ),
    field("THP_ENABLED", "custom_linux_os_config.transparent_hugepage_support", Kind::Text),
    field("THP_DEFRAG", "custom_linux_os_config.transparent_defrag", Kind::Text),
    field("MESSAGE_OF_THE_DAY", "message_of_the_day", Kind::Text),
    field("ADMINUSER", "linux_admin_username", Kind::Text),
    field("DISABLE_SSH", "enable_ssh", Kind::Not),
    field("DISABLE_PUBKEY_AUTH", "disable_pubkey_auth", Kind::Bool),
    field("ENABLE_UNATTENDED_UPGRADES", "enable_unattended_upgrade", Kind::Bool),
    field("NEEDS_CGROUPV2", "needs_cgroupv2", Kind::Bool),
    field("IS_VHD", "is_vhd", Kind::Bool),
    // The node's network.
    switch("HAS_CUSTOM_SEARCH_DOMAIN", &["custom_search_domain_config"]),
    field("CUSTOM_SEARCH_DOMAIN_NAME", "custom_search_domain_config.domain_name", Kind::Text),
    field("CUSTOM_SEARCH_REALM_USER", "custom_search_domain_config.realm_user", Kind::Text),
    field("CUSTOM_SEARCH_REALM_PASSWORD", "custom_search_domain_config.realm_password", Kind::Text),
    ignored("CUSTOM_SEARCH_DOMAIN_FILEPATH", OF_SCRIPTS),
    field("ENABLE_HOSTS_CONFIG_AGENT", "enable_hosts_config_agent", Kind::Bool),
    field("IPV6_DUAL_STACK_ENABLED", "ipv6_dual_stack_enabled", Kind::Bool),
    field("ENABLE_IMDS_RESTRICTION", "imds_restriction_config.enable_imds_restriction", Kind::Bool),
    field(
        "INSERT_IMDS_RESTRICTION_RULE_TO_MANGLE_TABLE",
        "imds_restriction_config.insert_imds_restriction_rule_to_mangle_table",
        Kind::Bool,
    ),
    ignored("DHCPV6_SERVICE_FILEPATH", OF_SCRIPTS),
    ignored("DHCPV6_CONFIG_FILEPATH", OF_SCRIPTS),
    field("OUTBOUND_COMMAND", "outbound_command", Kind::Text),
    ignored("BLOCK_OUTBOUND_NETWORK", "the way to the API server is tested, nothing else is asked for"),
    field("PRIVATE_EGRESS_PROXY_ADDRESS", "private_egress_proxy_address", Kind::Text),
    // Proxy and trust.
    switch(
        "SHOULD_CONFIGURE_HTTP_PROXY",
        &["http_proxy_config.http_proxy", "http_proxy_config.https_proxy", "http_proxy_config.no_proxy_entries"],
    ),
    switch("SHOULD_CONFIGURE_HTTP_PROXY_CA", &["http_proxy_config.proxy_trusted_ca"]),
    field("HTTP_PROXY_URLS", "http_proxy_config.http_proxy", Kind::Text),
    field("HTTPS_PROXY_URLS", "http_proxy_config.https_proxy", Kind::Text),
    field("NO_PROXY_URLS", "http_proxy_config.no_proxy_entries", Kind::List),
    field("HTTP_PROXY_TRUSTED_CA", "http_proxy_config.proxy_trusted_ca", Kind::Text),
    ignored("PROXY_VARS", OTHER_VARIABLES),
    switch("SHOULD_CONFIGURE_CUSTOM_CA_TRUST", &["custom_ca_certs"]),
    ignored("CUSTOM_CA_TRUST_COUNT", "the certificates are counted"),
    // LocalDNS.
    field("SHOULD_ENABLE_LOCALDNS", "local_dns_profile.enable_local_dns", Kind::Bool),
    field("LOCALDNS_CPU_LIMIT", "local_dns_profile.cpu_limit_in_milli_cores", Kind::Percent),
    field("LOCALDNS_MEMORY_LIMIT", "local_dns_profile.memory_limit_in_mb", Kind::Megabytes),
    field("SHOULD_ENABLE_HOSTS_PLUGIN", "local_dns_profile.enable_hosts_plugin", Kind::Bool),
    field("LOCALDNS_CRITICAL_FQDNS", "local_dns_profile.critical_fqdns", Kind::List),
    field(
        "LOCALDNS_HOSTS_PLUGIN_REFRESH_INTERVAL_IN_SECONDS",
        "local_dns_profile.hosts_plugin_refresh_interval_in_seconds",
        Kind::Number,
    ),
    corefile("LOCALDNS_COREFILE_BASE"),
    corefile("LOCALDNS_GENERATED_COREFILE"),
    ignored("LOCALDNS_COREFILE_EXPERIMENTAL", OTHER_COREFILE),
    ignored("LOCALDNS_COREFILE_WITH_HOSTS", OTHER_COREFILE),
    // GPU.
    field("GPU_NODE", "gpu_config.enable_nvidia", Kind::Bool),
    field("CONFIG_GPU_DRIVER_IF_NEEDED", "gpu_config.config_gpu_driver", Kind::Bool),
    field("ENABLE_GPU_DEVICE_PLUGIN_IF_NEEDED", "gpu_config.gpu_device_plugin", Kind::Bool),
    field("GPU_INSTANCE_PROFILE", "gpu_config.gpu_instance_profile", Kind::Text),
    field("MANAGED_GPU_EXPERIENCE_AFEC_ENABLED", "gpu_config.managed_gpu_experience_afec_enabled", Kind::Bool),
    field("ENABLE_MANAGED_GPU", "gpu_config.enable_managed_gpu", Kind::Bool),
    field("NVIDIA_MIG_STRATEGY", "gpu_config.mig_strategy", Kind::Text),
    field("NVIDIA_MIG_PROFILE_LAYOUT", "gpu_config.mig_profile_layout", Kind::List),
    field("ENABLE_MANAGED_GPU_DRA", "gpu_config.enable_managed_gpu_dra", Kind::Bool),
    ignored("MIG_NODE", "GPU_INSTANCE_PROFILE says so"),
    ignored("SGX_NODE", OBSERVED),
    ignored("GPU_NEEDS_FABRIC_MANAGER", OBSERVED),
    ignored("GPU_INSTALL_AMD_DRIVER", GPU_IMAGE),
    ignored("GPU_DRIVER_VERSION", GPU_IMAGE),
    ignored("GPU_DRIVER_TYPE", GPU_IMAGE),
    ignored("GPU_IMAGE_SHA", GPU_IMAGE),
    // The boot itself.
    field("CSE_TIMEOUT", "cse_timeout", Kind::Seconds),
    field("PRE_PROVISION_ONLY", "pre_provision_only", Kind::Bool),
    ignored("PROVISION_OUTPUT", OF_SCRIPTS),
    ignored("CLOUD_INIT_STATUS_SCRIPT", OF_SCRIPTS),
    ignored("cloudInitExitCode", OF_SCRIPTS),
];
