//! The provider id: Karpenter finds the Node of a NodeClaim by it, byte for byte.
//! Source: karpenter-provider-azure `VMResourceIDToProviderID`: the resource group in lower case, everything else as it is.

use crate::config::NodeConfig;
use crate::config::rules::is_flag_value;
use crate::facts::Facts;
use crate::kubernetes::NodeName;

/// The given one; else IMDS' resource id; else, for a stand-alone VM, what subscription, group and name say.
pub(super) fn node_provider_id(config: &NodeConfig, facts: &Facts, name: &NodeName) -> Option<String> {
    let of_instance = || {
        let id = facts.instance.as_ref().map(|instance| instance.resource_id.as_str())?;
        from_resource_id(id)
    };
    let of_cloud = || {
        let cloud = &config.cloud;
        let known =
            cloud.vm_type == "standard" && !cloud.subscription_id.is_empty() && !cloud.resource_group.is_empty();
        known.then(|| {
            let group = cloud.resource_group.to_lowercase();
            format!(
                "azure:///subscriptions/{}/resourceGroups/{group}/providers/Microsoft.Compute/virtualMachines/{name}",
                cloud.subscription_id
            )
        })
    };
    let found = config.provider_id.clone().or_else(of_instance).or_else(of_cloud);
    found.filter(|id| is_flag_value(id))
}

fn from_resource_id(id: &str) -> Option<String> {
    let mut parts: Vec<String> = id.split('/').map(str::to_owned).collect();
    let group = parts.iter().position(|part| part.eq_ignore_ascii_case("resourceGroups"))? + 1;
    let lowered = parts.get(group)?.to_lowercase();
    parts[group] = lowered;
    Some(format!("azure://{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_resource_group_is_lowered() {
        let id = "/subscriptions/S/resourceGroups/MC_Rg/providers/Microsoft.Compute/virtualMachines/aks-N";
        let wanted = "azure:///subscriptions/S/resourceGroups/mc_rg/providers/Microsoft.Compute/virtualMachines/aks-N";
        assert_eq!(from_resource_id(id).as_deref(), Some(wanted));
        assert_eq!(from_resource_id("nonsense"), None);
    }
}
