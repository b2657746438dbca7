//! Every field of AgentBaker's `AKSNodeConfig` v1: its shape, and why nap-agent leaves some of them alone.
//!
//! Source of names: AgentBaker `aks-node-controller/proto/aksnodeconfig/v1`.

use super::aks_kubelet::CONFIG_FILE;
use super::node_class::{HUGE_PAGES_DEFRAG, HUGE_PAGES_ENABLED};
use super::shape::Shape::{Any, Bool, Integer, List, Map as MapOf, Object, ProtobufEnum, Text, TextThat, Word};
use super::shape::{Field, Shape, field};
use super::{local_dns, rules, secure_tls, sysctls};

const INT32: Shape = Integer(i32::MIN as i64, i32::MAX as i64);
const COUNT: Shape = Integer(0, i32::MAX as i64);

const NO_DOWNLOAD: &str = "nothing is downloaded at boot; the image brings it";
const UNUSED: &str = "nothing reads it at its owner's either";
const MANAGED_GPU: &str = "managed GPU nodes (MIG, DCGM, DRA) come in a later version";
const HOSTS_PLUGIN: &str = "the hosts cache of LocalDNS comes in a later version";
const CLIENT_CERTIFICATE: &str = "kubelet gets its client certificate with the bootstrap token";

/// The format as a table.
pub(super) const SHAPE: Shape = Object(&[
    field("version", Word(&["v0", "v1"]), "Version of the format.").required(),
    field("api_server_config", Object(API_SERVER), "API server.").required(),
    field("kubernetes_ca_cert", Text, "Cluster CA, base64 of PEM.").required(),
    field("kubernetes_version", Text, "Version of kubelet.").required(),
    field("bootstrapping_config", Object(BOOTSTRAPPING), "How the node gets its certificate."),
    field("auth_config", Object(AUTH), "Identity."),
    field("cluster_config", Object(CLUSTER), "Where in Azure the node is."),
    field("kubelet_config", Object(KUBELET), "kubelet."),
    field("network_config", Object(NETWORK), "Pod network."),
    field("containerd_config", Object(CONTAINERD), "containerd's package."),
    field("custom_linux_os_config", Object(LINUX_OS), "Operating system."),
    field("kube_binary_config", Object(KUBE_BINARY), "Binaries."),
    field("custom_cloud_config", Object(CUSTOM_CLOUD), "Custom clouds."),
    field("cse_timeout", INT32, "Seconds for the whole boot; 900 when out of 1 to 21600."),
    field("needs_cgroupv2", Bool, "Whether the node has cgroup v2.")
        .ignored("cgroup v2 is observed on the node, not told"),
    field("runc_config", Object(RUNC), "runc's package."),
    field("custom_search_domain_config", Object(SEARCH_DOMAIN), "DNS search domain."),
    field("http_proxy_config", Object(HTTP_PROXY), "HTTP proxy."),
    field("gpu_config", Object(GPU), "GPU."),
    field("kube_proxy_url", Text, "Image of kube-proxy.")
        .ignored("kube-proxy is a DaemonSet's; no image is deleted at boot"),
    field("vm_size", Text, "Size of the VM.")
        .ignored("the node's hardware is observed, not looked up by the name of its size"),
    field("linux_admin_username", TextThat("a user name", rules::is_user_name), "User whose account never expires."),
    field("is_vhd", Bool, "Whether the image is baked.").ignored("nap-agent comes with a baked image only"),
    field("enable_ssh", Bool, "Whether the SSH server may run; true when absent."),
    field("enable_unattended_upgrade", Bool, "Whether the distribution installs its updates by itself."),
    field("message_of_the_day", Text, "What people see who log in, base64."),
    field("enable_hosts_config_agent", Bool, "Whether a hosts entry names the API server of a private cluster."),
    field("custom_ca_certs", List(&Text), "Certificate authorities for the whole machine, base64 of PEM."),
    field("provision_output", Text, "Path of a log.").ignored(UNUSED),
    field(
        "workload_runtime",
        ProtobufEnum(&[("WORKLOAD_RUNTIME_UNSPECIFIED", 0), ("WORKLOAD_RUNTIME_OCI_CONTAINER", 1)]),
        "Kind of the workloads.",
    )
    .ignored(UNUSED),
    field("ipv6_dual_stack_enabled", Bool, "Whether the node has an IPv6 address beside IPv4."),
    field("outbound_command", Text, "A shell command that tests egress.")
        .ignored("no command from outside is ever run; the way to the API server is tested instead"),
    field("azure_private_registry_server", Text, "A registry to log in to.")
        .ignored("it is for the login of a container runtime that nodes no longer have"),
    field("private_egress_proxy_address", Text, "Egress proxy.").ignored("its owner only prints it"),
    field(
        "enable_artifact_streaming",
        Bool,
        "Whether images are streamed, on machines that can; others pull them whole.",
    ),
    field(
        "is_kata",
        Bool,
        "Kata containers, for which this version sets up no runtime; they exclude artifact streaming.",
    ),
    field("disable_custom_data", Bool, "How the provisioner delivers.")
        .ignored("it says how the configuration travels, not what the node is"),
    field(
        "bootstrap_profile_container_registry_server",
        TextThat("a registry such as example.azurecr.io", rules::is_registry),
        "Registry of a network-isolated cluster.",
    ),
    field("imds_restriction_config", Object(IMDS_RESTRICTION), "Who may ask the instance metadata service."),
    field("pre_provision_only", Bool, "Whether this is the first of two stages; nap-agent has one."),
    field("local_dns_profile", Object(LOCAL_DNS), "LocalDNS."),
    field("disable_pubkey_auth", Bool, "Whether the SSH server refuses public keys."),
    field("service_account_image_pull_profile", Object(IMAGE_PULL), "Image pulls by service account."),
    field("enabled_features", MapOf(&Text), "Switches of AgentBaker's launcher.")
        .ignored("they switch parts of AgentBaker's launcher, which nap-agent replaces"),
]);

const API_SERVER: &[Field] = &[
    field("api_server_name", Text, "DNS name or address.").required(),
    field("api_server_public_key", Text, "The API server's certificate, base64.")
        .ignored("kubelet trusts the cluster's CA, not one certificate"),
];

const AUTH_METHODS: Shape = ProtobufEnum(&[
    ("BOOTSTRAPPING_AUTH_METHOD_UNSPECIFIED", 0),
    ("BOOTSTRAPPING_AUTH_METHOD_BOOTSTRAP_TOKEN", 1),
    ("BOOTSTRAPPING_AUTH_METHOD_SECURE_TLS_BOOTSTRAPPING", 2),
    ("BOOTSTRAPPING_AUTH_METHOD_ARC_MSI", 3),
    ("BOOTSTRAPPING_AUTH_METHOD_AZURE_MSI", 4),
]);

const JOIN_METHODS: Shape = ProtobufEnum(&[
    ("CLUSTER_JOIN_METHOD_UNSPECIFIED", 0),
    ("CLUSTER_JOIN_METHOD_GENERATE_CSR", 1),
    ("CLUSTER_JOIN_METHOD_USE_BOOTSTRAPPING_AUTH", 2),
]);

const BOOTSTRAPPING: &[Field] = &[
    field(
        "bootstrapping_auth_method",
        AUTH_METHODS,
        "Whether secure TLS bootstrapping is tried before the bootstrap token; other methods are not known.",
    ),
    field("cluster_join_method", JOIN_METHODS, "What the node joins with.").ignored(UNUSED),
    field(
        "tls_bootstrapping_token",
        TextThat("a bootstrap token such as abcdef.0123456789abcdef", rules::is_bootstrap_token),
        "Bootstrap token.",
    )
    .secret(),
    field(
        "secure_tls_bootstrapping_aad_resource",
        TextThat("the id or URI of an Entra application", rules::is_flag_value),
        "Entra application that the identity asks a token for; AKS' own when absent.",
    ),
    field(
        "secure_tls_bootstrapping_user_assigned_identity_id",
        TextThat("the client id of a managed identity", rules::is_flag_value),
        "Managed identity that asks; kubelet's when absent.",
    ),
    field("secure_tls_bootstrapping_custom_client_download_url", Text, "Another client.").ignored(NO_DOWNLOAD),
    field(
        "secure_tls_bootstrapping_validate_kubeconfig_timeout",
        TextThat(secure_tls::DURATION, secure_tls::is_duration),
        "Longest look at a certificate that is there already; 15s when absent.",
    ),
    field(
        "secure_tls_bootstrapping_get_access_token_timeout",
        TextThat(secure_tls::DURATION, secure_tls::is_duration),
        "Longest wait for the identity's token; 1m when absent.",
    ),
    field(
        "secure_tls_bootstrapping_get_instance_data_timeout",
        TextThat(secure_tls::DURATION, secure_tls::is_duration),
        "Longest wait for IMDS' description of the VM; 15s when absent.",
    ),
    field(
        "secure_tls_bootstrapping_get_nonce_timeout",
        TextThat(secure_tls::DURATION, secure_tls::is_duration),
        "Longest wait for the API server's nonce; 15s when absent.",
    ),
    field(
        "secure_tls_bootstrapping_get_attested_data_timeout",
        TextThat(secure_tls::DURATION, secure_tls::is_duration),
        "Longest wait for IMDS' attestation; 15s when absent.",
    ),
    field(
        "secure_tls_bootstrapping_get_credential_timeout",
        TextThat(secure_tls::DURATION, secure_tls::is_duration),
        "Longest wait for the certificate; 6m when absent.",
    ),
];

const AUTH: &[Field] = &[
    field("tenant_id", Text, "Entra tenant."),
    field("subscription_id", Text, "Subscription."),
    field("service_principal_id", Text, "Service principal, or msi."),
    field("service_principal_secret", Text, "Its secret, base64.").secret(),
    field("assigned_identity_id", Text, "Client id of the kubelet identity."),
    field("use_managed_identity_extension", Bool, "Managed identity."),
];

const VM_TYPES: Shape = ProtobufEnum(&[("VM_TYPE_UNSPECIFIED", 0), ("VM_TYPE_STANDARD", 1), ("VM_TYPE_VMSS", 2)]);
const LOAD_BALANCER_SKUS: Shape = ProtobufEnum(&[
    ("LOAD_BALANCER_SKU_UNSPECIFIED", 0),
    ("LOAD_BALANCER_SKU_BASIC", 1),
    ("LOAD_BALANCER_SKU_STANDARD", 2),
]);

pub(super) const CLUSTER: &[Field] = &[
    field("resource_group", Text, "Resource group of the nodes."),
    field("location", Text, "Region."),
    field("vm_type", VM_TYPES, "Kind of VM."),
    field("cluster_network_config", Object(CLUSTER_NETWORK), "Virtual network."),
    field("load_balancer_config", Object(LOAD_BALANCER), "Load balancer."),
    field("primary_availability_set", Text, "Availability set.").also("primaryAvailabilitySetName"),
    field("primary_scale_set", Text, "Scale set.").also("primaryScaleSetName"),
    field("use_instance_metadata", Bool, "Whether cloud drivers use IMDS.").also("useInstanceMetadata"),
    field("cloud_provider_config", Object(CLOUD_PROVIDER), "Limits of the cloud drivers."),
];

const CLUSTER_NETWORK: &[Field] = &[
    field("vnet_name", Text, "Virtual network."),
    field("vnet_resource_group", Text, "Its resource group."),
    field("subnet", Text, "Subnet."),
    field("security_group_name", Text, "Network security group."),
    field("route_table", Text, "Route table."),
    field("core_dns_service_ip", Text, "Cluster DNS; from the flag --cluster-dns, else 10.0.0.10, when absent."),
];

pub(super) const LOAD_BALANCER: &[Field] = &[
    field("load_balancer_sku", LOAD_BALANCER_SKUS, "Kind."),
    field("exclude_master_from_standard_load_balancer", Bool, "Kept for azure.json.")
        .also("excludeMasterFromStandardLB"),
    field("max_load_balancer_rule_count", INT32, "Most rules.").also("maximumLoadBalancerRuleCount"),
    field("disable_outbound_snat", Bool, "Outbound SNAT.").also("disableOutboundSNAT"),
];

const BACKOFF_V1: &str = "only back-off mode v1 knows it, and AKS' mode is v2";

pub(super) const CLOUD_PROVIDER: &[Field] = &[
    field("cloud_provider_backoff", Bool, "Back-off.").also("cloudProviderBackoff"),
    field("cloud_provider_backoff_mode", Text, "Its mode.").also("cloudProviderBackoffMode"),
    field("cloud_provider_backoff_retries", INT32, "Its retries.").also("cloudProviderBackoffRetries"),
    field("cloud_provider_backoff_duration", INT32, "Its seconds.").also("cloudProviderBackoffDuration"),
    field("cloud_provider_backoff_exponent", Any, "Its growth.").ignored(BACKOFF_V1),
    field("cloud_provider_backoff_jitter", Any, "Its jitter.").ignored(BACKOFF_V1),
    field("cloud_provider_rate_limit", Bool, "Rate limit.").also("cloudProviderRateLimit"),
    field("cloud_provider_rate_limit_qps", INT32, "Reads a second.").also("cloudProviderRateLimitQPS"),
    field("cloud_provider_rate_limit_qps_write", INT32, "Writes a second.").also("cloudProviderRateLimitQPSWrite"),
    field("cloud_provider_rate_limit_bucket", INT32, "Burst of reads.").also("cloudProviderRateLimitBucket"),
    field("cloud_provider_rate_limit_bucket_write", INT32, "Burst of writes.")
        .also("cloudProviderRateLimitBucketWrite"),
];

const KUBELET_DISKS: Shape =
    ProtobufEnum(&[("KUBELET_DISK_UNSPECIFIED", 0), ("KUBELET_DISK_OS_DISK", 1), ("KUBELET_DISK_TEMP_DISK", 2)]);

const KUBELET: &[Field] = &[
    field("kubelet_flags", MapOf(&Text), "Flags, with their dashes."),
    field("kubelet_node_labels", MapOf(&Text), "Labels."),
    field("kubelet_config_file_config", Object(CONFIG_FILE), "Fields of KubeletConfiguration."),
    field("enable_kubelet_config_file", Bool, "Whether those fields count."),
    field("container_data_dir", TextThat("an absolute path", |path| path.starts_with('/')), "containerd's root."),
    field("kubelet_disk_type", KUBELET_DISKS, "Which disk kubelet and containerd use."),
    field("kubelet_client_key", Text, "Client key instead of a token, base64.").secret().ignored(CLIENT_CERTIFICATE),
    field("kubelet_client_cert_content", Text, "Client certificate instead of a token, base64.")
        .ignored(CLIENT_CERTIFICATE),
];

const NETWORK_PLUGINS: Shape = ProtobufEnum(&[
    ("NETWORK_PLUGIN_UNSPECIFIED", 0),
    ("NETWORK_PLUGIN_NONE", 1),
    ("NETWORK_PLUGIN_AZURE", 2),
    ("NETWORK_PLUGIN_KUBENET", 3),
]);

const NETWORK_POLICIES: Shape = ProtobufEnum(&[
    ("NETWORK_POLICY_UNSPECIFIED", 0),
    ("NETWORK_POLICY_NONE", 1),
    ("NETWORK_POLICY_AZURE", 2),
    ("NETWORK_POLICY_CALICO", 3),
]);

const NETWORK: &[Field] = &[
    field("network_plugin", NETWORK_PLUGINS, "Whether the node writes the conflist."),
    field("network_policy", NETWORK_POLICIES, "Network policy.")
        .ignored("DaemonSets enforce network policies, not the node"),
    field("vnet_cni_plugins_url", Text, "Archive of Azure's CNI plugins.").ignored(NO_DOWNLOAD),
    field("cni_plugins_url", Text, "Archive of the CNI reference plugins.").ignored(NO_DOWNLOAD),
    field("standard_secondary_nic_count", COUNT, "NICs beside the primary one, in the order of their names."),
];

const CONTAINERD: &[Field] = &[
    field("containerd_download_url_base", Text, "Where packages are.").ignored(NO_DOWNLOAD),
    field("containerd_version", Text, "Version of the package.").ignored(NO_DOWNLOAD),
    field("containerd_package_url", Text, "The package.").ignored(NO_DOWNLOAD),
];

const RUNC: &[Field] = &[
    field("runc_version", Text, "Version of the package.").ignored(NO_DOWNLOAD),
    field("runc_package_url", Text, "The package.").ignored(NO_DOWNLOAD),
];

const LINUX_OS: &[Field] = &[
    field("sysctl_config", Object(sysctls::PROTOBUF_FIELDS), "Kernel settings."),
    field("ulimit_config", Object(ULIMITS), "Limits of containerd, and so of containers."),
    field("enable_swap_config", Bool, "Whether there is a swap file."),
    field("swap_file_size", COUNT, "Its size in MiB; needs kubelet's failSwapOn false."),
    // The comments in the proto file swap the two sets of words; these are the kernel's.
    field("transparent_hugepage_support", Word(HUGE_PAGES_ENABLED), "Transparent huge pages."),
    field("transparent_defrag", Word(HUGE_PAGES_DEFRAG), "Their defragmentation."),
];

const ULIMITS: &[Field] = &[
    field("no_file", TextThat(rules::LIMIT, rules::is_limit), "Open files of a container (LimitNOFILE)."),
    field("max_locked_memory", TextThat(rules::LIMIT, rules::is_limit), "Locked memory of a container (LimitMEMLOCK)."),
];

const KUBE_BINARY: &[Field] = &[
    field("pod_infra_container_image_url", Text, "Image of the pause container."),
    field("kube_binary_url", Text, "Archive of kubelet.").ignored(NO_DOWNLOAD),
    field("custom_kube_binary_url", Text, "Archive of kubelet.").ignored(NO_DOWNLOAD),
    field("private_kube_binary_url", Text, "Archive of kubelet.").ignored(NO_DOWNLOAD),
    field("linux_credential_provider_url", Text, "Archive of the credential provider.").ignored(NO_DOWNLOAD),
];

const CUSTOM_CLOUD: &[Field] = &[
    field("custom_cloud_env_name", Text, "akscustom for a custom cloud; otherwise the region tells the cloud."),
    field("repo_depot_endpoint", Text, "Mirror of packages.").ignored(NO_DOWNLOAD),
    field("custom_env_json_content", Text, "The custom cloud's endpoints: a JSON object, or base64 of one."),
    field(
        "container_registry_dns_suffix",
        TextThat("a DNS suffix such as .azurecr.example", rules::is_suffix),
        "What the names of a custom cloud's registries end with.",
    ),
];

const REALM: &str = "nap-agent joins no realm: that takes packages installed at boot";

const SEARCH_DOMAIN: &[Field] = &[
    field("domain_name", TextThat("a DNS domain such as corp.example", rules::is_domain), "The domain."),
    field("realm_user", Text, "User that joins the realm.").ignored(REALM),
    field("realm_password", Text, "The user's password.").secret().ignored(REALM),
];

const HTTP_PROXY: &[Field] = &[
    field("http_proxy", TextThat("a URL such as http://proxy:3128", rules::is_proxy_url), "HTTP_PROXY.").secret(),
    field("https_proxy", TextThat("a URL such as http://proxy:3128", rules::is_proxy_url), "HTTPS_PROXY.").secret(),
    field("no_proxy_entries", List(&TextThat("a host, domain or range", rules::is_flag_value)), "NO_PROXY."),
    field("proxy_trusted_ca", Text, "The proxy's certificate authority, base64 of PEM."),
];

const GPU: &[Field] = &[
    field("enable_nvidia", Bool, "Whether anything is done for an NVIDIA GPU; whether there is one is observed."),
    field("config_gpu_driver", Bool, "Whether the image's GPU driver is used."),
    field("gpu_device_plugin", Bool, "Whether the image's device plugin is started."),
    field("gpu_instance_profile", Text, "MIG profile.").ignored(MANAGED_GPU),
    field("enable_amd_gpu", Bool, "AMD GPU.").ignored(UNUSED),
    field("managed_gpu_experience_afec_enabled", Bool, "Managed GPU.").ignored(MANAGED_GPU),
    field("enable_managed_gpu", Bool, "Managed GPU.").ignored(MANAGED_GPU),
    field("mig_strategy", Text, "Managed GPU.").ignored(MANAGED_GPU),
    field("mig_profile_layout", List(&Text), "Managed GPU.").ignored(MANAGED_GPU),
    field("enable_managed_gpu_dra", Bool, "Managed GPU.").ignored(MANAGED_GPU),
];

const IMDS_RESTRICTION: &[Field] = &[
    field("enable_imds_restriction", Bool, "Whether pods are kept from the instance metadata service."),
    field("insert_imds_restriction_rule_to_mangle_table", Bool, "Where the rule goes.")
        .ignored("nap-agent chooses the table itself"),
];

const LOCAL_DNS: &[Field] = &[
    field("enable_local_dns", Bool, "Whether the cache runs."),
    field("cpu_limit_in_milli_cores", COUNT, "Processor time; 2000 when absent."),
    field("memory_limit_in_mb", COUNT, "Memory in MiB; 128 when absent."),
    field("vnet_dns_overrides", MapOf(&Object(ZONE)), "Zones for the node and for pods with dnsPolicy Default."),
    field("kube_dns_overrides", MapOf(&Object(ZONE)), "Zones for pods."),
    field("enable_hosts_plugin", Bool, "Hosts cache.").ignored(HOSTS_PLUGIN),
    field("critical_fqdns", List(&Text), "Names in the hosts cache.").ignored(HOSTS_PLUGIN),
    field("hosts_plugin_refresh_interval_in_seconds", INT32, "How often it is renewed.").ignored(HOSTS_PLUGIN),
];

const COREDNS_DEFAULT: &str = "CoreDNS' own default is kept; the CoreDNS of an image may not know the option";

const ZONE: &[Field] = &[
    field("query_logging", Word(local_dns::QUERY_LOGGING), "What is logged."),
    field("protocol", Word(local_dns::PROTOCOLS), "How the upstream is spoken to."),
    field("forward_destination", Word(local_dns::FORWARDS), "The upstream."),
    field("forward_policy", Word(local_dns::POLICIES), "Which upstream is asked first."),
    field("max_concurrent", COUNT, "Most questions upstream at a time."),
    field("cache_duration_in_seconds", COUNT, "How long answers are kept."),
    field("serve_stale_duration_in_seconds", COUNT, "How old an answer may be while the upstream is away."),
    field("serve_stale", Word(local_dns::SERVE_STALE), "Whether old answers are given."),
    field("failfast_all_unhealthy_upstreams", Bool, "What happens when no upstream works.").ignored(COREDNS_DEFAULT),
    field("health_check", Object(HEALTH_CHECK), "How upstreams are probed."),
    field("serve_stale_policy", Text, "Which old answer is given.").ignored(COREDNS_DEFAULT),
];

const HEALTH_CHECK: &[Field] = &[
    field("duration", Text, "How often.").ignored(COREDNS_DEFAULT),
    field("no_rec", Bool, "Without recursion.").ignored(COREDNS_DEFAULT),
    field("domain", Text, "By which name.").ignored(COREDNS_DEFAULT),
];

const IMAGE_PULL: &[Field] = &[
    field("enabled", Bool, "Whether it is on."),
    field(
        "default_client_id",
        TextThat("a client id", rules::is_flag_value),
        "Client id of the identity of accounts that name none.",
    ),
    field("default_tenant_id", TextThat("a tenant id", rules::is_flag_value), "Tenant of that identity."),
    field(
        "local_authority_sni",
        TextThat("a host name", rules::is_domain),
        "Name of the cluster's own token authority.",
    ),
];
