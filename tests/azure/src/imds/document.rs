//! The instance document. Every primitive is a string, every absent value is `""`, no field is left out, except below
//! `extended`, where booleans are booleans.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::instance::{DataDisk, Instance, Interface};
use super::versions::remove_newer_fields;

/// What a request asks for beside the path.
pub(crate) struct View<'a> {
    pub(crate) version: &'a str,
    pub(crate) extended: bool,
    pub(crate) custom_data: bool,
}

/// The complete document as `view` sees it.
pub(crate) fn instance_document(instance: &Instance, view: &View<'_>) -> Value {
    let mut compute = compute(instance);
    if view.custom_data {
        compute["customData"] = json!(STANDARD.encode(&instance.custom_data));
    }
    remove_newer_fields(&mut compute, view.version);
    let interfaces: Vec<Value> = instance.interfaces.iter().map(interface).collect();
    let mut document = json!({"compute": compute, "network": {"interface": interfaces}});
    if view.extended {
        let has_custom_data = !instance.custom_data.is_empty();
        document["extended"] = json!({"compute": {"hasCustomData": has_custom_data, "ppsType": instance.pps_type}});
    }
    document
}

fn compute(instance: &Instance) -> Value {
    let mut fields = Map::new();
    for part in [identity(instance), image(instance), placement(instance), security(instance), content(instance)] {
        if let Value::Object(part) = part {
            fields.extend(part);
        }
    }
    Value::Object(fields)
}

fn identity(instance: &Instance) -> Value {
    json!({
        "azEnvironment": "AzurePublicCloud",
        "isHostCompatibilityLayerVm": "false",
        "isVmInStandbyPool": "",
        "location": instance.location,
        "name": instance.name,
        "osProfile": {
            "adminUsername": instance.admin_username,
            "computerName": instance.name,
            "disablePasswordAuthentication": "true",
        },
        "osType": "Linux",
        "provider": "Microsoft.Compute",
        "resourceGroupName": instance.resource_group,
        "resourceId": resource_id(instance, "virtualMachines", &instance.name),
        "subscriptionId": instance.subscription_id,
        "vmId": instance.vm_id,
        "vmSize": instance.vm_size,
        "zone": instance.zone,
    })
}

fn image(instance: &Instance) -> Value {
    let [publisher, offer, sku, version] = &instance.image;
    json!({
        "licenseType": "",
        "offer": offer,
        "plan": {"name": "", "product": "", "publisher": ""},
        "publisher": publisher,
        "sku": sku,
        "version": version,
        "storageProfile": {
            "dataDisks": instance.data_disks.iter().map(|disk| data_disk(instance, disk)).collect::<Vec<_>>(),
            "imageReference": {
                "communityGalleryImageId": "", "exactVersion": version, "id": "", "offer": offer,
                "publisher": publisher, "sharedGalleryImageId": "", "sku": sku, "version": "latest",
            },
            "osDisk": os_disk(instance),
            "resourceDisk": {"size": instance.resource_disk_size.to_string()},
        },
    })
}

fn os_disk(instance: &Instance) -> Value {
    let name = format!("{}_OsDisk_1", instance.name);
    json!({
        "caching": if instance.ephemeral_os_disk { "ReadOnly" } else { "ReadWrite" },
        "createOption": "FromImage",
        "diffDiskSettings": {"option": if instance.ephemeral_os_disk { "Local" } else { "" }},
        "diskSizeGB": "30",
        "encryptionSettings": {
            "diskEncryptionKey": {"secretUrl": "", "sourceVault": {"id": ""}},
            "enabled": "false",
            "keyEncryptionKey": {"keyUrl": "", "sourceVault": {"id": ""}},
        },
        "image": {"uri": ""},
        "managedDisk": {"id": resource_id(instance, "disks", &name), "storageAccountType": "Premium_LRS"},
        "name": name,
        "osType": "Linux",
        "vhd": {"uri": ""},
        "writeAcceleratorEnabled": "false",
    })
}

fn data_disk(instance: &Instance, disk: &DataDisk) -> Value {
    json!({
        "bytesPerSecondThrottle": "979202048",
        "caching": "None",
        "createOption": "Empty",
        "diskCapacityBytes": (disk.size_gib << 30).to_string(),
        "diskSizeGB": disk.size_gib.to_string(),
        "image": {"uri": ""},
        "isSharedDisk": "false",
        "isUltraDisk": (disk.storage_account_type == "UltraSSD_LRS").to_string(),
        "lun": disk.lun.to_string(),
        "managedDisk": {
            "id": resource_id(instance, "disks", &disk.name),
            "storageAccountType": disk.storage_account_type,
        },
        "name": disk.name,
        "opsPerSecondThrottle": "65280",
        "vhd": {"uri": ""},
        "writeAcceleratorEnabled": "false",
    })
}

fn placement(instance: &Instance) -> Value {
    let scale_set = &instance.scale_set_name;
    let scale_set_id =
        if scale_set.is_empty() { String::new() } else { resource_id(instance, "virtualMachineScaleSets", scale_set) };
    json!({
        "evictionPolicy": instance.eviction_policy,
        "extendedLocation": {"name": "", "type": ""},
        "host": {"id": ""},
        "hostGroup": {"id": ""},
        "placementGroupId": "",
        "platformFaultDomain": "0",
        "platformSubFaultDomain": "",
        "platformUpdateDomain": "0",
        "priority": instance.priority,
        "virtualMachineScaleSet": {"id": scale_set_id},
        "vmScaleSetName": scale_set,
    })
}

fn security(instance: &Instance) -> Value {
    let trusted = (!instance.security_type.is_empty()).to_string();
    json!({
        "additionalCapabilities": {"hibernationEnabled": "false"},
        "securityProfile": {
            "encryptionAtHost": "false",
            "secureBootEnabled": trusted,
            "securityType": instance.security_type,
            "virtualTpmEnabled": trusted,
        },
    })
}

fn content(instance: &Instance) -> Value {
    let path = format!("/home/{}/.ssh/authorized_keys", instance.admin_username);
    let keys: Vec<Value> = instance.public_keys.iter().map(|key| json!({"keyData": key, "path": path})).collect();
    let joined: Vec<String> = instance.tags.iter().map(|(name, value)| format!("{name}:{value}")).collect();
    let list: Vec<Value> = instance.tags.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    json!({
        "customData": "",
        "publicKeys": keys,
        "tags": joined.join(";"),
        "tagsList": list,
        "userData": STANDARD.encode(&instance.user_data),
    })
}

fn interface(interface: &Interface) -> Value {
    let addresses: Vec<Value> = interface
        .private_ipv4
        .iter()
        .map(|address| json!({"privateIpAddress": address, "publicIpAddress": ""}))
        .collect();
    let (address, prefix) = &interface.subnet;
    json!({
        "ipv4": {"ipAddress": addresses, "subnet": [{"address": address, "prefix": prefix.to_string()}]},
        "ipv6": {"ipAddress": []},
        "macAddress": interface.mac_address,
    })
}

fn resource_id(instance: &Instance, kind: &str, name: &str) -> String {
    let Instance { subscription_id, resource_group, .. } = instance;
    format!(
        "/subscriptions/{subscription_id}/resourceGroups/{resource_group}/providers/Microsoft.Compute/{kind}/{name}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWEST: View<'_> = View { version: "2025-04-07", extended: true, custom_data: false };

    fn only_strings(value: &Value) -> bool {
        match value {
            Value::String(_) => true,
            Value::Array(items) => items.iter().all(only_strings),
            Value::Object(fields) => fields.values().all(only_strings),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }

    #[test]
    fn every_primitive_is_a_string_except_below_extended() {
        let disk = DataDisk { lun: 1, name: "d".into(), size_gib: 256, storage_account_type: "Premium_LRS".into() };
        let instance = Instance { data_disks: vec![disk], ..Instance::default() };
        let document = instance_document(&instance, &NEWEST);
        assert!(only_strings(&document["compute"]), "{document:#}");
        assert!(only_strings(&document["network"]), "{document:#}");
        assert_eq!(document["extended"]["compute"]["hasCustomData"], json!(false));
        assert_eq!(document["compute"]["storageProfile"]["dataDisks"][0]["diskCapacityBytes"], "274877906944");
    }

    #[test]
    fn the_document_has_the_fields_of_the_captured_one() {
        // Source: facts/disks-imds-streaming.md section 1.4, a Standard_D2ds_v5 at api-version 2023-11-15.
        let captured = [
            "additionalCapabilities",
            "azEnvironment",
            "customData",
            "evictionPolicy",
            "extendedLocation",
            "host",
            "hostGroup",
            "isHostCompatibilityLayerVm",
            "isVmInStandbyPool",
            "licenseType",
            "location",
            "name",
            "offer",
            "osProfile",
            "osType",
            "placementGroupId",
            "plan",
            "platformFaultDomain",
            "platformSubFaultDomain",
            "platformUpdateDomain",
            "priority",
            "provider",
            "publicKeys",
            "publisher",
            "resourceGroupName",
            "resourceId",
            "securityProfile",
            "sku",
            "storageProfile",
            "subscriptionId",
            "tags",
            "tagsList",
            "userData",
            "version",
            "virtualMachineScaleSet",
            "vmId",
            "vmScaleSetName",
            "vmSize",
            "zone",
        ];
        let document = instance_document(&Instance::default(), &NEWEST);
        let mut fields: Vec<&str> = document["compute"].as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(fields, captured);
    }

    #[test]
    fn an_old_version_lacks_the_fields_that_came_later() {
        let old = View { version: "2019-06-01", extended: false, custom_data: false };
        let document = instance_document(&Instance::default(), &old);
        assert_eq!(document.pointer("/compute/userData"), None);
        assert_eq!(document.pointer("/compute/tagsList"), None);
        assert_eq!(document.pointer("/compute/storageProfile/resourceDisk"), None);
        assert_eq!(document.pointer("/compute/customData"), Some(&json!("")));
        assert_eq!(document.pointer("/extended"), None);
    }

    #[test]
    fn custom_data_is_announced_and_empty_unless_served() {
        let instance = Instance { custom_data: b"secret".to_vec(), ..Instance::default() };
        let document = instance_document(&instance, &NEWEST);
        assert_eq!(document["compute"]["customData"], "");
        assert_eq!(document["extended"]["compute"]["hasCustomData"], json!(true));
        let served = instance_document(&instance, &View { custom_data: true, ..NEWEST });
        assert_eq!(served["compute"]["customData"], "c2VjcmV0");
    }
}
