//! API versions, and since which one each field exists.

use serde_json::Value;

/// The `api-version`s of `/metadata/instance` on Azure's public cloud, oldest first.
/// Source: facts/disks-imds-streaming.md section 1.2, and the list Azure documents for the years before 2020.
pub const API_VERSIONS: &[&str] = &[
    "2017-03-01",
    "2017-04-02",
    "2017-08-01",
    "2017-10-01",
    "2017-12-01",
    "2018-02-01",
    "2018-04-02",
    "2018-10-01",
    "2019-02-01",
    "2019-03-11",
    "2019-04-30",
    "2019-06-01",
    "2019-06-04",
    "2019-08-01",
    "2019-08-15",
    "2019-11-01",
    "2020-06-01",
    "2020-07-15",
    "2020-09-01",
    "2020-10-01",
    "2020-12-01",
    "2021-01-01",
    "2021-02-01",
    "2021-03-01",
    "2021-05-01",
    "2021-08-01",
    "2021-10-01",
    "2021-11-01",
    "2021-11-15",
    "2021-12-13",
    "2023-07-01",
    "2023-11-15",
    "2024-03-15",
    "2024-07-17",
    "2025-04-07",
];

/// The `api-version`s of `/metadata/scheduledevents`, oldest first.
pub(crate) const EVENT_API_VERSIONS: &[&str] =
    &["2017-03-01", "2017-08-01", "2017-11-01", "2019-01-01", "2019-04-01", "2019-08-01", "2020-07-01"];

/// Fields below `compute` that are younger than the service, as JSON pointers.
/// Source: facts/disks-imds-streaming.md section 1.4, "Field facts".
const SINCE: &[(&str, &str)] = &[
    ("/additionalCapabilities", "2021-11-01"),
    ("/azEnvironment", "2018-10-01"),
    ("/customData", "2019-02-01"),
    ("/evictionPolicy", "2020-12-01"),
    ("/extendedLocation", "2021-03-01"),
    ("/host", "2021-11-15"),
    ("/hostGroup", "2021-11-15"),
    ("/isHostCompatibilityLayerVm", "2020-06-01"),
    ("/isVmInStandbyPool", "2023-11-15"),
    ("/licenseType", "2020-09-01"),
    ("/osProfile", "2020-07-15"),
    ("/placementGroupId", "2017-08-01"),
    ("/platformSubFaultDomain", "2021-10-01"),
    ("/priority", "2020-12-01"),
    ("/resourceId", "2019-03-11"),
    ("/securityProfile", "2020-06-01"),
    ("/securityProfile/encryptionAtHost", "2021-11-01"),
    ("/securityProfile/securityType", "2021-12-13"),
    ("/storageProfile", "2019-06-01"),
    ("/storageProfile/resourceDisk", "2021-02-01"),
    ("/tags", "2017-08-01"),
    ("/tagsList", "2019-06-04"),
    ("/userData", "2021-01-01"),
    ("/virtualMachineScaleSet", "2021-03-01"),
    ("/vmScaleSetName", "2017-12-01"),
    ("/zone", "2017-12-01"),
];

/// Takes out of `compute` what `version` does not have yet. Dates compare as text.
pub(crate) fn remove_newer_fields(compute: &mut Value, version: &str) {
    for (pointer, _) in SINCE.iter().filter(|(_, since)| *since > version) {
        let (parent, field) = pointer.rsplit_once('/').expect("every pointer starts with a slash");
        if let Some(object) = compute.pointer_mut(parent).and_then(Value::as_object_mut) {
            object.remove(field);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_in_order_and_every_field_starts_with_a_known_version() {
        assert!(API_VERSIONS.is_sorted());
        assert!(EVENT_API_VERSIONS.is_sorted());
        for (field, since) in SINCE {
            assert!(API_VERSIONS.contains(since), "{field} {since}");
        }
    }
}
