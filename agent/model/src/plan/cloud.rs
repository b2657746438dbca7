//! `/etc/kubernetes/azure.json`, read by the credential provider and by storage drivers.
//! Source of the keys: sigs.k8s.io/cloud-provider-azure `Config`; of the defaults: AgentBaker `configureAzureJson`.

use serde_json::{Value, json};

use super::resource::{Step, secret_file};
use crate::config::Cloud;

pub(super) fn files(cloud: &Cloud) -> Vec<Step> {
    let text = format!("{:#}\n", azure_json(cloud));
    let why = "the credential provider and storage drivers find their cloud and identity here";
    vec![Step::new("cloud.azure-json", why, secret_file("/etc/kubernetes/azure.json", text))]
}

fn azure_json(cloud: &Cloud) -> Value {
    let mut config = json!({
        "cloud": cloud.environment,
        "tenantId": cloud.tenant_id,
        "subscriptionId": cloud.subscription_id,
        "aadClientId": cloud.client_id,
        "aadClientSecret": cloud.client_secret.reveal(),
        "resourceGroup": cloud.resource_group,
        "location": cloud.location,
        "vmType": cloud.vm_type,
        "subnetName": cloud.subnet_name,
        "securityGroupName": cloud.security_group_name,
        "vnetName": cloud.vnet_name,
        "vnetResourceGroup": cloud.vnet_resource_group,
        "routeTableName": cloud.route_table_name,
        "primaryAvailabilitySetName": "",
        "primaryScaleSetName": "",
        "cloudProviderBackoffMode": "v2",
        "cloudProviderBackoff": true,
        "cloudProviderBackoffRetries": 6,
        "cloudProviderBackoffDuration": 5,
        "cloudProviderRateLimit": true,
        "cloudProviderRateLimitQPS": 10,
        "cloudProviderRateLimitBucket": 100,
        "cloudProviderRateLimitQPSWrite": 10,
        "cloudProviderRateLimitBucketWrite": 100,
        "useManagedIdentityExtension": cloud.use_managed_identity,
        "userAssignedIdentityID": cloud.user_assigned_identity_id,
        "useInstanceMetadata": true,
        "loadBalancerSku": cloud.load_balancer_sku,
        "disableOutboundSNAT": false,
        "excludeMasterFromStandardLB": true,
        "providerVaultName": "",
        "maximumLoadBalancerRuleCount": 250,
        "providerKeyName": "k8s",
        "providerKeyVersion": "",
    });
    for (key, value) in &cloud.more {
        config[key] = value.clone();
    }
    config
}
