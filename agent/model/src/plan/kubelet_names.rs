//! Every flag, field and feature gate of kubelet by name, and the minor versions that know it: `(first, last, names)`.
//!
//! First 0 means the oldest version that we know or earlier; last [`NEWEST`] means that nobody has removed it yet.
//! `tests/kubernetes/*.txt` says the same one name a line, and where it was read; a test compares. To take in a new version,
//! change those files and let the test say what differs.

/// A first and a last minor version, and the names that these versions know, separated by spaces.
pub(super) type Names = (u32, u32, &'static str);

/// The newest minor version whose names are here.
pub(super) const NEWEST: u32 = 37;

/// Command-line flags.
pub(super) const FLAGS: &[Names] = &[
    (0, 26, "container-runtime master-service-namespace"),
    (0, 29, "azure-container-registry-config"),
    (0, 30, "iptables-drop-bit iptables-masquerade-bit keep-terminated-pod-volumes"),
    (0, 33, "cloud-config register-schedulable"),
    (0, 34, "pod-infra-container-image"),
    (
        0,
        NEWEST,
        "address allowed-unsafe-sysctls anonymous-auth application-metrics-count-limit authentication-token-webhook \
         authentication-token-webhook-cache-ttl authorization-mode authorization-webhook-cache-authorized-ttl \
         authorization-webhook-cache-unauthorized-ttl boot-id-file bootstrap-kubeconfig cert-dir cgroup-driver \
         cgroup-root cgroups-per-qos client-ca-file cloud-provider cluster-dns cluster-domain config config-dir \
         container-hints container-log-max-files container-log-max-size container-runtime-endpoint containerd \
         containerd-namespace contention-profiling cpu-cfs-quota cpu-cfs-quota-period cpu-manager-policy \
         cpu-manager-policy-options cpu-manager-reconcile-period enable-controller-attach-detach \
         enable-debugging-handlers enable-load-reader enable-server enforce-node-allocatable event-burst event-qps \
         event-storage-age-limit event-storage-event-limit eviction-hard eviction-max-pod-grace-period \
         eviction-minimum-reclaim eviction-pressure-transition-period eviction-soft eviction-soft-grace-period \
         exit-on-lock-contention experimental-allocatable-ignore-eviction experimental-mounter-path fail-swap-on \
         feature-gates file-check-frequency global-housekeeping-interval hairpin-mode healthz-bind-address \
         healthz-port help hostname-override housekeeping-interval http-check-frequency \
         image-credential-provider-bin-dir image-credential-provider-config image-gc-high-threshold \
         image-gc-low-threshold image-service-endpoint kernel-memcg-notification kube-api-burst kube-api-content-type \
         kube-api-qps kube-reserved kube-reserved-cgroup kubeconfig kubelet-cgroups local-storage-capacity-isolation \
         lock-file log-cadvisor-usage log-flush-frequency log-json-info-buffer-size log-json-split-stream \
         log-text-info-buffer-size log-text-split-stream logging-format machine-id-file make-iptables-util-chains \
         manifest-url manifest-url-header max-housekeeping-interval max-open-files max-pods maximum-dead-containers \
         maximum-dead-containers-per-container memory-manager-policy minimum-container-ttl-duration \
         minimum-image-ttl-duration node-ip node-labels node-status-max-images node-status-update-frequency \
         oom-score-adj pod-cidr pod-manifest-path pod-max-pids pods-per-core port protect-kernel-defaults provider-id \
         qos-reserved read-only-port register-node register-with-taints registry-burst registry-qps reserved-cpus \
         reserved-memory resolv-conf root-dir rotate-certificates rotate-server-certificates runonce runtime-cgroups \
         runtime-request-timeout seccomp-default serialize-image-pulls storage-driver-buffer-duration \
         storage-driver-db storage-driver-host storage-driver-password storage-driver-secure storage-driver-table \
         storage-driver-user streaming-connection-idle-timeout sync-frequency system-cgroups system-reserved \
         system-reserved-cgroup tls-cert-file tls-cipher-suites tls-min-version tls-private-key-file \
         topology-manager-policy topology-manager-policy-options topology-manager-scope v version vmodule \
         volume-plugin-dir volume-stats-agg-period",
    ),
    (31, NEWEST, "fail-cgroupv1"),
];

/// Fields at the top of KubeletConfiguration. Those below them came and went with them.
pub(super) const FIELDS: &[Names] = &[
    (
        0,
        NEWEST,
        "address allowedUnsafeSysctls apiVersion authentication authorization cgroupDriver cgroupRoot cgroupsPerQOS \
         clusterDNS clusterDomain configMapAndSecretChangeDetectionStrategy containerLogMaxFiles containerLogMaxSize \
         containerLogMaxWorkers containerLogMonitorInterval containerRuntimeEndpoint contentType cpuCFSQuota \
         cpuCFSQuotaPeriod cpuManagerPolicy cpuManagerPolicyOptions cpuManagerReconcilePeriod \
         enableContentionProfiling enableControllerAttachDetach enableDebugFlagsHandler enableDebuggingHandlers \
         enableProfilingHandler enableServer enableSystemLogHandler enableSystemLogQuery enforceNodeAllocatable \
         eventBurst eventRecordQPS evictionHard evictionMaxPodGracePeriod evictionMinimumReclaim \
         evictionPressureTransitionPeriod evictionSoft evictionSoftGracePeriod failSwapOn featureGates \
         fileCheckFrequency hairpinMode healthzBindAddress healthzPort httpCheckFrequency imageGCHighThresholdPercent \
         imageGCLowThresholdPercent imageMaximumGCAge imageMinimumGCAge imageServiceEndpoint iptablesDropBit \
         iptablesMasqueradeBit kernelMemcgNotification kind kubeAPIBurst kubeAPIQPS kubeReserved kubeReservedCgroup \
         kubeletCgroups localStorageCapacityIsolation logging makeIPTablesUtilChains maxOpenFiles \
         maxParallelImagePulls maxPods memoryManagerPolicy memorySwap memoryThrottlingFactor nodeLeaseDurationSeconds \
         nodeStatusMaxImages nodeStatusReportFrequency nodeStatusUpdateFrequency oomScoreAdj podCIDR podLogsDir \
         podPidsLimit podsPerCore port protectKernelDefaults providerID qosReserved readOnlyPort registerNode \
         registerWithTaints registryBurst registryPullQPS reservedMemory reservedSystemCPUs resolvConf \
         rotateCertificates runOnce runtimeRequestTimeout seccompDefault serializeImagePulls serverTLSBootstrap \
         showHiddenMetricsForVersion shutdownGracePeriod shutdownGracePeriodByPodPriority \
         shutdownGracePeriodCriticalPods staticPodPath staticPodURL staticPodURLHeader streamingConnectionIdleTimeout \
         syncFrequency systemCgroups systemReserved systemReservedCgroup tlsCertFile tlsCipherSuites tlsMinVersion \
         tlsPrivateKeyFile topologyManagerPolicy topologyManagerPolicyOptions topologyManagerScope tracing \
         volumePluginDir volumeStatsAggPeriod",
    ),
    (31, NEWEST, "failCgroupV1"),
    (32, NEWEST, "crashLoopBackOff singleProcessOOMKill"),
    (
        33,
        NEWEST,
        "imagePullCredentialsVerificationPolicy mergeDefaultEvictionSettings preloadedImagesVerificationAllowlist \
         userNamespaces",
    ),
    (36, NEWEST, "memoryReservationPolicy tlsCurvePreferences"),
    (37, NEWEST, "defaultPodSysctls"),
];

/// Feature gates.
pub(super) const GATES: &[Names] = &[
    (
        0,
        25,
        "CSIMigrationOpenStack CSRDuration DefaultPodTopologySpread DynamicKubeletConfig IndexedJob \
         NonPreemptingPriority PodAffinityNamespaceSelector PodOverhead PreferNominatedNode ServiceLBNodePortControl \
         ServiceLoadBalancerClass SuspendJob",
    ),
    (
        0,
        26,
        "CSIInlineVolume CSIMigration CSIMigrationAWS CSIMigrationAzureDisk ControllerManagerLeaderMigration \
         DaemonSetUpdateSurge EphemeralContainers ExpandCSIVolumes ExpandInUsePersistentVolumes \
         ExpandPersistentVolumes IPv6DualStack IdentifyPodOS LocalStorageCapacityIsolation NetworkPolicyEndPort \
         StatefulSetMinReadySeconds",
    ),
    (
        0,
        27,
        "AdvancedAuditing CSIMigrationGCE CSIStorageCapacity DelegateFSGroupToCSIDriver DevicePlugins \
         DisableAcceleratorUsageMetrics DryRun EndpointSliceTerminatingCondition KubeletCredentialProviders \
         MixedProtocolLBService NetworkPolicyStatus PodHasNetworkCondition PodSecurity ServiceIPStaticSubrange \
         ServiceInternalTrafficPolicy UserNamespacesStatelessPodsSupport WindowsHostProcessContainers",
    ),
    (
        0,
        28,
        "CSIMigrationvSphere CronJobTimeZone DownwardAPIHugePages GRPCContainerProbe \
         JobMutableNodeSchedulingDirectives JobTrackingWithFinalizers KubeletPodResourcesGetAllocatable \
         LegacyServiceAccountTokenNoAutoGeneration MultiCIDRRangeAllocator OpenAPIV3 ProbeTerminationGracePeriod \
         RetroactiveDefaultStorageClass SeccompDefault TopologyManager",
    ),
    (
        0,
        29,
        "APISelfSubjectReview CSIMigrationAzureFile ExpandedDNSConfig ExperimentalHostUserNamespaceDefaulting \
         IPTablesOwnershipCleanup KubeletPodResources LegacyServiceAccountTokenTracking MinimizeIPTablesRestore \
         ProxyTerminatingEndpoints RemoveSelfLink SecurityContextDeny",
    ),
    (
        0,
        30,
        "APIPriorityAndFairness CSIMigrationRBD CSINodeExpandSecret ConsistentHTTPGetHandlers \
         CustomResourceValidationExpressions DefaultHostNetworkHostPortsInPodTemplates InTreePluginAWSUnregister \
         InTreePluginAzureDiskUnregister InTreePluginAzureFileUnregister InTreePluginGCEUnregister \
         InTreePluginOpenStackUnregister InTreePluginRBDUnregister InTreePluginvSphereUnregister JobReadyPods \
         ReadWriteOncePod ServiceNodePortStaticSubrange SkipReadOnlyValidationGCE",
    ),
    (
        0,
        31,
        "CloudDualStackNodeIPs HPAContainerMetrics KMSv2 KMSv2KDF LegacyServiceAccountTokenCleanUp \
         MinDomainsInPodTopologySpread NewVolumeManagerReconstruction NodeOutOfServiceVolumeDetach PodHostIPs \
         ServerSideApply ServerSideFieldValidation StableLoadBalancerNodeSet ValidatingAdmissionPolicy \
         ZeroLimitedNominalConcurrencyShares",
    ),
    (
        0,
        32,
        "APIListChunking AdmissionWebhookMatchConditions AggregatedDiscoveryEndpoint AppArmor AppArmorFields \
         CPUManager DisableCloudProviders DisableKubeletCloudCredentialProviders EfficientWatchResumption \
         JobPodFailurePolicy KubeProxyDrainingTerminatingNodes PDBUnhealthyPodEvictionPolicy \
         PersistentVolumeLastPhaseTransitionTime RemainingItemCount VolumeCapacityPriority WatchBookmark",
    ),
    (0, 33, "DevicePluginCDIDevices ElasticIndexedJob PodDisruptionConditions StatefulSetStartOrdinal"),
    (
        0,
        34,
        "AllowServiceLBStatusOnNonLB ComponentSLIs CronJobsScheduledAnnotation LoadBalancerIPMode PodIndexLabel \
         SizeMemoryBackedVolumes StatefulSetAutoDeletePVC StrictCostEnforcementForVAP \
         StrictCostEnforcementForWebhooks UserNamespacesPodSecurityStandards",
    ),
    (
        0,
        35,
        "CSIMigrationPortworx HonorPVReclaimPolicy InTreePluginPortworxUnregister MemoryManager \
         ServiceTrafficDistribution StructuredAuthorizationConfiguration TopologyAwareHints \
         WatchFromStorageWithoutResourceVersion",
    ),
    (
        0,
        NEWEST,
        "APIResponseCompression APIServerIdentity APIServerTracing APIServingWithRoutine AllAlpha AllBeta \
         AnyVolumeDataSource CPUManagerPolicyAlphaOptions CPUManagerPolicyBetaOptions CPUManagerPolicyOptions \
         CRDValidationRatcheting CSIVolumeHealth CloudControllerManagerWebhook ClusterTrustBundle \
         ClusterTrustBundleProjection ConsistentListFromCache ContainerCheckpoint ContextualLogging \
         CrossNamespaceVolumeDataSource CustomCPUCFSQuotaPeriod CustomResourceFieldSelectors \
         DisableNodeKubeProxyVersion DynamicResourceAllocation EventedPLEG ExecProbeTimeout GracefulNodeShutdown \
         GracefulNodeShutdownBasedOnPodPriority HPAScaleToZero ImageMaximumGCAge InPlacePodVerticalScaling \
         InformerResourceVersion JobBackoffLimitPerIndex JobManagedBy JobPodReplacementPolicy JobSuccessPolicy KMSv1 \
         KubeletCgroupDriverFromCRI KubeletInUserNamespace KubeletPodResourcesDynamicResources KubeletPodResourcesGet \
         KubeletSeparateDiskGC KubeletTracing License LocalStorageCapacityIsolationFSQuotaMonitoring \
         LogarithmicScaleDown LoggingAlphaOptions LoggingBetaOptions LoggingStableOptions MatchLabelKeysInPodAffinity \
         MatchLabelKeysInPodTopologySpread MaxUnavailableStatefulSet MemoryQoS MultiCIDRServiceAllocator \
         MutatingAdmissionPolicy NFTablesProxyMode NodeInclusionPolicyInPodTopologySpread NodeLogQuery NodeSwap \
         OpenAPIEnums OrderedNamespaceDeletion PodAndContainerStatsFromCRI PodDeletionCost PodLifecycleSleepAction \
         PodReadyToStartContainersCondition PodSchedulingReadiness PortForwardWebsockets ProcMountType QOSReserved \
         RecoverVolumeExpansionFailure RecursiveReadOnlyMounts RelaxedEnvironmentVariableValidation RetryGenerateName \
         RotateKubeletServerCertificate RuntimeClassInImageCriApi SELinuxMount SELinuxMountReadWriteOncePod \
         SchedulerQueueingHints SeparateCacheWatchRPC SeparateTaintEvictionController ServiceAccountTokenJTI \
         ServiceAccountTokenNodeBinding ServiceAccountTokenNodeBindingValidation ServiceAccountTokenPodNodeInfo \
         SidecarContainers StorageNamespaceIndex StorageVersionAPI StorageVersionHash StorageVersionMigrator \
         StreamingCollectionEncodingToJSON StreamingCollectionEncodingToProtobuf \
         StructuredAuthenticationConfiguration TopologyManagerPolicyAlphaOptions TopologyManagerPolicyBetaOptions \
         TopologyManagerPolicyOptions TranslateStreamCloseWebsocketRequests UnauthenticatedHTTP2DOSMitigation \
         UnknownVersionInteroperabilityProxy UserNamespacesSupport VolumeAttributesClass WatchList WatchListClient \
         WinDSR WinOverlay WindowsHostNetwork mapStringBool",
    ),
    (31, 31, "DRAControlPlaneController"),
    (
        31,
        NEWEST,
        "AllowDNSOnlyNodeCSR AllowInsecureKubeletCertificateSigningRequests AnonymousAuthConfigurableEndpoints \
         AuthorizeNodeWithSelectors AuthorizeWithSelectors ConcurrentWatchObjectDecode CoordinatedLeaderElection \
         DisableAllocatorDualWrite ImageVolume ReloadKubeletServerCertificateFile ResilientWatchCacheInitialization \
         ResourceHealthStatus SupplementalGroupsPolicy WatchCacheInitializationPostStartHook",
    ),
    (32, 35, "InPlacePodVerticalScalingAllocatedStatus"),
    (
        32,
        NEWEST,
        "AllowOverwriteTerminationGracePeriodSeconds AllowUnsafeMalformedObjectDeletion BtreeWatchCache \
         CBORServingAndStorage ClientsAllowCBOR ClientsPreferCBOR ComponentFlagz ComponentStatusz DRAAdminAccess \
         DRAResourceClaimDeviceStatus ExternalServiceAccountTokenSigner InPlacePodVerticalScalingExclusiveCPUs \
         KubeletCrashLoopBackOffMax KubeletFineGrainedAuthz KubeletRegistrationGetOnExistsOnly PodLevelResources \
         PodLifecycleSleepActionAllowZero PodLogsQuerySplitStreams RelaxedDNSSearchValidation RemoteRequestHeaderUID \
         SELinuxChangePolicy SchedulerAsyncPreemption ServiceAccountNodeAudienceRestriction \
         WindowsCPUAndMemoryAffinity WindowsGracefulNodeShutdown",
    ),
    (33, 33, "LegacySidecarContainers"),
    (
        33,
        NEWEST,
        "AggregatedDiscoveryRemoveBetaType AllowParsingUserUIDFromCertAuth ContainerStopSignals DRADeviceTaints \
         DRAPartitionableDevices DRAPrioritizedList DeclarativeValidation DeclarativeValidationTakeover \
         DeploymentReplicaSetTerminatingReplicas DisableCPUQuotaWithExclusiveCPUs GitRepoVolumeDriver \
         HPAConfigurableTolerance InOrderInformers KubeletEnsureSecretPulledImages KubeletPSI \
         KubeletServiceAccountTokenForCredentialProviders ListFromCacheSnapshot MutableCSINodeAllocatableCount \
         PodObservedGenerationTracking PodTopologyLabelsAdmission PreferSameTrafficDistribution \
         ReduceDefaultCrashLoopBackOffDecay SchedulerPopFromBackoffQ StorageCapacityScoring StrictIPCIDRValidation",
    ),
    (34, 34, "ProbeHostPodSecurityStandards"),
    (
        34,
        NEWEST,
        "ClearingNominatedNodeNameAfterBinding ContainerRestartRules DRAConsumableCapacity DRADeviceBindingConditions \
         DRAExtendedResource DRASchedulerFilterTimeout DetectCacheInconsistency EnvFiles HostnameOverride \
         InPlacePodVerticalScalingExclusiveMemory KubeletPodResourcesListUseActivePods \
         MatchLabelKeysInPodTopologySpreadSelectorMerge NominatedNodeNameForExpectation PodCertificateRequest \
         PreventStaticPodAPIReferences RelaxedServiceNameValidation SchedulerAsyncAPICalls SizeBasedListCostEstimate \
         StatefulSetSemanticRevisionComparison StructuredAuthenticationConfigurationEgressSelector \
         TokenRequestServiceAccountUIDValidation",
    ),
    (
        35,
        NEWEST,
        "AuthorizePodWebsocketUpgradeCreatePermission CRDObservedGenerationTracking CSIServiceAccountTokenSecrets \
         ChangeContainerStatusOnKubeletRestart CloudControllerManagerWatchBasedRoutesReconciliation \
         ConstrainedImpersonation DRADeviceTaintRules GangScheduling GenericWorkload InOrderInformersBatchProcess \
         InPlacePodLevelResourcesVerticalScaling MutablePVNodeAffinity MutablePodResourcesForSuspendedJobs \
         MutableSchedulingDirectivesForSuspendedJobs NodeDeclaredFeatures OpportunisticBatching \
         RestartAllContainersOnContainerExits StructuredAuthenticationConfigurationJWKSMetrics \
         TaintTolerationComparisonOperators UserNamespacesHostNetworkSupport VolumeLimitScaling",
    ),
    (
        36,
        NEWEST,
        "AllowServiceExternalIPs AtomicFIFO CRIListStreaming ClientsAllowCARotation ClientsAllowTLSCacheGC \
         ControllerManagerReleaseLeaderElectionLockOnExit DRAListTypeAttributes DRANodeAllocatableResources \
         DRAResourceClaimGranularStatusAuthorization DRAResourcePoolStatus DRAWorkloadResourceClaims \
         DeclarativeValidationBeta ExtendWebSocketsToKubelet ImageVolumeWithDigest \
         InPlacePodVerticalScalingInitContainers ManifestBasedAdmissionControlConfig NativeHistograms \
         PLEGOnDemandRelist PersistentVolumeClaimUnusedSinceTime PodLevelResourceManagers PodsAPI \
         ReloadKubeletClientCAFile ResourceHealthStatusMessage ServiceCIDRStatusFieldWiping ShardedListAndWatch \
         StaleControllerConsistencyDaemonSet StaleControllerConsistencyJob StaleControllerConsistencyReplicaSet \
         StaleControllerConsistencyStatefulSet TopologyAwareWorkloadScheduling UnlockWhileProcessingFIFO \
         WorkloadAwarePreemption WorkloadWithJob",
    ),
];

/// What was read from Kubernetes' sources, for tests.
#[cfg(test)]
pub(super) mod sources {
    use std::collections::BTreeMap;

    pub(in crate::plan) const FLAGS: &str = include_str!("../../../../tests/kubernetes/kubelet-flags.txt");
    pub(in crate::plan) const FIELDS: &str = include_str!("../../../../tests/kubernetes/kubelet-fields.txt");
    pub(in crate::plan) const GATES: &str = include_str!("../../../../tests/kubernetes/kubelet-gates.txt");

    /// The names, with the first and the last minor version that know them.
    pub(in crate::plan) fn read(text: &str) -> BTreeMap<&str, (u32, u32)> {
        let minor = |text: &str| text.strip_prefix("1.").unwrap().parse::<u32>().unwrap();
        let rows = text.lines().filter(|line| !line.starts_with('#'));
        rows.map(|row| match row.split(' ').collect::<Vec<_>>()[..] {
            [name, first, last] => (name, (minor(first), minor(last))),
            _ => panic!("{row}"),
        })
        .collect()
    }
}
