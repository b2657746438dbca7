//! `/etc/kubernetes/azure.json`, read by the credential provider and by storage drivers.
//! Source of the keys: sigs.k8s.io/cloud-provider-azure `Config`; of the defaults: AgentBaker `configureAzureJson`.

use serde_json::{Value, json};

use super::resource::{Step, public_file, secret_file};
use crate::config::Cloud;

/// Source: karpenter-provider-azure designs/0004; go-autorest, `EnvironmentFromFile`.
const ENVIRONMENT: &str = "/etc/kubernetes/AzureStackCloud.json";

pub(super) fn files(cloud: &Cloud) -> Vec<Step> {
    let text = format!("{:#}\n", azure_json(cloud));
    let why = "the credential provider and storage drivers find their cloud and identity here";
    let mut steps = vec![Step::new("cloud.azure-json", why, secret_file("/etc/kubernetes/azure.json", text))];
    if let Some(document) = &cloud.environment_document {
        let text = format!("{:#}\n", Value::Object(document.clone()));
        let why = "drivers and the credential provider find the endpoints of a cloud here that they do not know";
        steps.push(Step::new("cloud.environment", why, public_file(ENVIRONMENT, text)));
    }
    steps
}

/// Where a cloud's endpoints are, for kubelet's environment; nothing for a cloud that everybody knows.
pub(super) fn environment_variable(cloud: &Cloud) -> Option<String> {
    cloud.environment_document.as_ref().map(|_| format!("AZURE_ENVIRONMENT_FILEPATH={ENVIRONMENT}\n"))
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
