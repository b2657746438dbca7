//! The spec of an AKSNodeClass, as the CRD v1beta1 has it: every field, its range, and the rules between fields.
//!
//! Source: karpenter-provider-azure `pkg/apis/v1beta1/aksnodeclass.go`.

use serde_json::{Map, Value, json};

use super::document::Checked;
use super::local_dns::{self, LocalDns};
use super::machine::{Claims, Gpu, HugePages, ImageFamily};
use super::problem::Findings;
use super::shape::Shape::{Bool, Integer, List, Map as MapOf, Object, Text, TextThat, Word};
use super::shape::{Field, field};
use super::sysctls;
use crate::kubernetes::ByteQuantity;

/// The table.
pub(super) const FIELDS: &[Field] = &[
    field(
        "vnetSubnetID",
        TextThat("the id of a subnet", is_subnet_id),
        "ARM id of the subnet; names it in azure.json.",
    ),
    field("osDiskSizeGB", Integer(30, 2048), "Size of the OS disk in GiB; the root file system grows to it."),
    field(
        "imageFamily",
        Word(&["Ubuntu", "Ubuntu2204", "Ubuntu2404", "AzureLinux"]),
        "Image family; compared with os-release.",
    ),
    field("fipsMode", Word(&["FIPS", "Disabled"]), "FIPS; compared with the kernel."),
    field("tags", MapOf(&Text), "Azure tags.").ignored("tags are the VM's own; IMDS has them"),
    field("maxPods", Integer(10, 250), "Most pods; 30 with nodeSubnet, else 250, when absent."),
    field("kubelet", Object(KUBELET), "Settings of kubelet."),
    field("linuxOSConfig", Object(LINUX_OS), "Settings of the operating system."),
    field("security", Object(SECURITY), "Trusted launch and encryption at host; compared with the VM."),
    field("localDNS", Object(LOCAL_DNS), "A DNS cache on the node."),
    field(
        "gpu",
        Object(&[field(
            "mode",
            Word(&["Driver", "None"]),
            "Whether the image's GPU driver is used; Driver when absent.",
        )]),
        "GPU.",
    ),
    field(
        "artifactStreaming",
        Object(&[field("enabled", Bool, "Whether images are streamed, on machines that can; others pull them whole.")]),
        "Artifact streaming.",
    ),
];

/// Named as KubeletConfiguration names them, so they go there as they are.
/// Source: karpenter-provider-azure `KubeletConfiguration` (v1beta1).
const KUBELET: &[Field] = &[
    field("cpuManagerPolicy", Word(&["none", "static"]), "CPU manager."),
    field("cpuCFSQuota", Bool, "CPU quota."),
    field(
        "cpuCFSQuotaPeriod",
        TextThat("a duration from 1ms to 1s, such as 100ms", is_cfs_period),
        "Period of the CPU quota.",
    ),
    field("imageGCHighThresholdPercent", Integer(0, 100), "Disk use that starts image garbage collection."),
    field("imageGCLowThresholdPercent", Integer(0, 100), "Disk use that ends it."),
    field(
        "topologyManagerPolicy",
        Word(&["restricted", "best-effort", "none", "single-numa-node"]),
        "Topology manager.",
    ),
    field("allowedUnsafeSysctls", List(&Text), "Unsafe sysctls that pods may set."),
    field("containerLogMaxSize", TextThat("a size such as 50Mi", is_size), "Size at which a log is rotated."),
    field("containerLogMaxFiles", Integer(2, i32::MAX as i64), "Log files kept per container."),
    field("podPidsLimit", Integer(-1, i64::MAX), "Most processes in a pod; -1 for no limit."),
    field("failSwapOn", Bool, "Whether kubelet refuses to start with swap."),
];

const LINUX_OS: &[Field] = &[
    field("sysctls", Object(sysctls::CRD_FIELDS), "Kernel settings."),
    field("swapFileSize", Text, "Size of the swap file, such as 1500Mi; needs kubelet.failSwapOn false."),
    field("transparentHugePageEnabled", Word(HUGE_PAGES_ENABLED), "Transparent huge pages."),
    field("transparentHugePageDefrag", Word(HUGE_PAGES_DEFRAG), "Their defragmentation."),
];

/// Source: the kernel's Documentation/admin-guide/mm/transhuge.rst.
pub(super) const HUGE_PAGES_ENABLED: &[&str] = &["always", "madvise", "never"];
/// Source: as above.
pub(super) const HUGE_PAGES_DEFRAG: &[&str] = &["always", "defer", "defer+madvise", "madvise", "never"];

const SECURITY: &[Field] = &[
    field("encryptionAtHost", Bool, "Encryption at host; compared with IMDS."),
    field(
        "trustedLaunch",
        Object(&[
            field("vtpm", Bool, "Virtual TPM; compared with the VM's devices."),
            field("secureBoot", Bool, "Secure boot; compared with the firmware."),
        ]),
        "Trusted launch.",
    ),
];

const LOCAL_DNS: &[Field] = &[
    field(
        "mode",
        Word(&["Required", "Disabled", "Preferred"]),
        "Whether the cache runs. Preferred must be resolved before.",
    )
    .required(),
    field("vnetDNSOverrides", List(&Object(ZONE)), "Zones for the node and for pods with dnsPolicy Default."),
    field("kubeDNSOverrides", List(&Object(ZONE)), "Zones for pods."),
];

const ZONE: &[Field] = &[
    field("zone", TextThat("a DNS zone such as . or example.com", local_dns::is_zone), "The zone.").required(),
    field("queryLogging", Word(local_dns::QUERY_LOGGING), "What is logged.").required(),
    field("protocol", Word(local_dns::PROTOCOLS), "How the upstream is spoken to.").required(),
    field("forwardDestination", Word(local_dns::FORWARDS), "The upstream.").required(),
    field("forwardPolicy", Word(local_dns::POLICIES), "Which upstream is asked first.").required(),
    field("maxConcurrent", Integer(0, i32::MAX as i64), "Most questions upstream at a time.").required(),
    field(
        "cacheDuration",
        TextThat("a duration such as 1h or 90s", local_dns::is_duration),
        "How long answers are kept.",
    )
    .required(),
    field(
        "serveStaleDuration",
        TextThat("a duration such as 1h or 90s", local_dns::is_duration),
        "How old an answer may be while the upstream is away.",
    )
    .required(),
    field("serveStale", Word(local_dns::SERVE_STALE), "Whether old answers are given.").required(),
];

/// What the node can only check.
pub(super) fn claims(checked: Checked<'_>, findings: &mut Findings) -> Claims {
    let family = checked.text("nodeClass.imageFamily");
    let claims = Claims {
        image_family: family.map(|family| match family {
            "Ubuntu2204" => ImageFamily::Ubuntu2204,
            "Ubuntu2404" => ImageFamily::Ubuntu2404,
            "AzureLinux" => ImageFamily::AzureLinux,
            _ => ImageFamily::Ubuntu,
        }),
        fips: checked.text("nodeClass.fipsMode").map(|mode| mode == "FIPS"),
        vtpm: checked.flag("nodeClass.security.trustedLaunch.vtpm"),
        secure_boot: checked.flag("nodeClass.security.trustedLaunch.secureBoot"),
        encryption_at_host: checked.flag("nodeClass.security.encryptionAtHost"),
        os_disk_gb: checked.number("nodeClass.osDiskSizeGB").and_then(|size| u32::try_from(size).ok()),
        kata: false, // the class cannot ask for it
    };
    if claims.fips == Some(true) {
        refuse_fips_contradictions(&claims, findings);
    }
    claims
}

/// The CRD's own rules for FIPS images.
fn refuse_fips_contradictions(claims: &Claims, findings: &mut Findings) {
    let trusted_launch = claims.vtpm == Some(true) || claims.secure_boot == Some(true);
    let path = "nodeClass.fipsMode";
    match claims.image_family {
        None => findings.problem(path, "\"FIPS\" without an image family", "nodeClass.imageFamily beside it"),
        Some(ImageFamily::Ubuntu2404) => {
            findings.problem(path, "\"FIPS\" with Ubuntu2404", "another image family: there is no such FIPS image");
        }
        Some(ImageFamily::Ubuntu2204) if !trusted_launch => {
            let wanted = "nodeClass.security.trustedLaunch.vtpm or .secureBoot true beside it";
            findings.problem(path, "\"FIPS\" with Ubuntu2204", wanted);
        }
        Some(ImageFamily::AzureLinux) if trusted_launch => {
            findings.problem(path, "\"FIPS\" with AzureLinux and trusted launch", "one of the two");
        }
        Some(ImageFamily::Ubuntu | ImageFamily::Ubuntu2204 | ImageFamily::AzureLinux) => {}
    }
}

/// Transparent huge pages.
pub(super) fn huge_pages(checked: Checked<'_>) -> HugePages {
    let word = |name: &str| checked.text(&format!("nodeClass.linuxOSConfig.{name}")).map(str::to_owned);
    HugePages { enabled: word("transparentHugePageEnabled"), defrag: word("transparentHugePageDefrag") }
}

/// Size of the swap file in bytes.
pub(super) fn swap_file(checked: Checked<'_>, findings: &mut Findings) -> Option<u64> {
    let path = "nodeClass.linuxOSConfig.swapFileSize";
    let bytes = findings.parse::<ByteQuantity>(path, checked.text(path)?)?.0;
    if checked.flag("nodeClass.kubelet.failSwapOn") != Some(false) {
        findings.problem(
            path,
            "a swap file",
            "nodeClass.kubelet.failSwapOn: false beside it, or kubelet does not start",
        );
    }
    (bytes > 0).then_some(bytes)
}

/// GPU.
pub(super) fn gpu(checked: Checked<'_>) -> Gpu {
    let driver = checked.text("nodeClass.gpu.mode") != Some("None");
    Gpu { driver, device_plugin: driver }
}

/// LocalDNS; nothing when disabled.
pub(super) fn local_dns(checked: Checked<'_>, findings: &mut Findings) -> Option<LocalDns> {
    let path = "nodeClass.localDNS";
    match checked.text("nodeClass.localDNS.mode")? {
        "Required" => {}
        "Preferred" => {
            let wanted = "Required or Disabled: the provisioner resolves Preferred, the node does not guess";
            findings.problem("nodeClass.localDNS.mode", "\"Preferred\"", wanted);
            return None;
        }
        _ => return None,
    }
    let zones = |list: &str, findings: &mut Findings| -> Vec<local_dns::Zone> {
        let path = format!("{path}.{list}");
        let items = checked.at(&path).and_then(Value::as_array).into_iter().flatten().enumerate();
        items.map(|(i, zone)| zone_of(Checked(zone), &format!("{path}[{i}]"), findings)).collect()
    };
    let (node, pods) = (zones("vnetDNSOverrides", findings), zones("kubeDNSOverrides", findings));
    Some(LocalDns::new(
        node,
        pods,
        [&format!("{path}.vnetDNSOverrides"), &format!("{path}.kubeDNSOverrides")],
        findings,
    ))
}

fn zone_of(zone: Checked<'_>, path: &str, findings: &mut Findings) -> local_dns::Zone {
    let words = local_dns::Words {
        name: zone.text("zone").unwrap_or_default(),
        query_logging: zone.text("queryLogging"),
        protocol: zone.text("protocol"),
        forward: zone.text("forwardDestination"),
        policy: zone.text("forwardPolicy"),
        max_concurrent: zone.number("maxConcurrent"),
        cache_for: zone.text("cacheDuration").and_then(local_dns::duration),
        serve_stale: zone.text("serveStale"),
        serve_stale_for: zone.text("serveStaleDuration").and_then(local_dns::duration),
    };
    words.zone(path, findings)
}

/// Fields of KubeletConfiguration that the class sets.
pub(super) fn kubelet(checked: Checked<'_>, findings: &mut Findings) -> Map<String, Value> {
    let mut config = checked.object("nodeClass.kubelet").cloned().unwrap_or_default();
    clamp_to_int32(&mut config, "podPidsLimit", findings);
    config
}

/// AKSNodeClass and KubeletConfiguration have an int64, the provisioner's wire an int32, and no kernel more PIDs than that.
fn clamp_to_int32(config: &mut Map<String, Value>, field: &str, findings: &mut Findings) {
    if config.get(field).and_then(Value::as_i64).is_some_and(|number| number > i64::from(i32::MAX)) {
        findings.warn(&format!("nodeClass.kubelet.{field}"), format!("lowered to {}", i32::MAX));
        config.insert(field.to_owned(), json!(i32::MAX));
    }
}

/// `/subscriptions/S/resourceGroups/G/providers/Microsoft.Network/virtualNetworks/V/subnets/N`.
fn is_subnet_id(text: &str) -> bool {
    let parts: Vec<_> = text.split('/').collect();
    let is = |position: usize, word: &str| parts.get(position).is_some_and(|part| part.eq_ignore_ascii_case(word));
    parts.len() == 11
        && is(0, "")
        && is(1, "subscriptions")
        && is(3, "resourceGroups")
        && is(7, "virtualNetworks")
        && is(9, "subnets")
}

fn is_cfs_period(text: &str) -> bool {
    let microseconds = [("ms", 1000.0), ("us", 1.0), ("s", 1_000_000.0)].into_iter().find_map(|(unit, factor)| {
        text.strip_suffix(unit).and_then(|number| number.parse::<f64>().ok()).map(|number| number * factor)
    });
    microseconds.is_some_and(|microseconds| (1000.0..=1_000_000.0).contains(&microseconds))
}

fn is_size(text: &str) -> bool {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    digits > 0 && ["E", "P", "T", "G", "M", "K", "Ei", "Pi", "Ti", "Gi", "Mi", "Ki"].contains(&&text[digits..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_texts_hold() {
        for (period, holds) in [
            ("100ms", true),
            ("1ms", true),
            ("1s", true),
            ("5s", false),
            ("500us", false),
            ("1000us", true),
            ("ms", false),
        ] {
            assert_eq!(is_cfs_period(period), holds, "{period}");
        }
        for (size, holds) in [("50Mi", true), ("1G", true), ("Mi", false), ("5", false), ("5mb", false)] {
            assert_eq!(is_size(size), holds, "{size}");
        }
        assert!(is_subnet_id(
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/n"
        ));
        assert!(!is_subnet_id("/subscriptions/s/resourceGroups/g"));
    }

    fn problems(node_class: Value) -> Vec<String> {
        let document = json!({"nodeClass": node_class});
        let mut findings = Findings::default();
        let checked = Checked(&document);
        claims(checked, &mut findings);
        swap_file(checked, &mut findings);
        local_dns(checked, &mut findings);
        findings.problems.iter().map(|problem| problem.path.clone()).collect()
    }

    #[test]
    fn the_rules_between_fields_are_the_crds() {
        let none: [&str; 0] = [];
        let vtpm = json!({"trustedLaunch": {"vtpm": true}});
        assert_eq!(problems(json!({"fipsMode": "FIPS"})), ["nodeClass.fipsMode"]);
        assert_eq!(problems(json!({"fipsMode": "FIPS", "imageFamily": "Ubuntu2404"})), ["nodeClass.fipsMode"]);
        assert_eq!(problems(json!({"fipsMode": "FIPS", "imageFamily": "Ubuntu2204"})), ["nodeClass.fipsMode"]);
        assert_eq!(problems(json!({"fipsMode": "FIPS", "imageFamily": "Ubuntu2204", "security": vtpm})), none);
        assert_eq!(
            problems(json!({"fipsMode": "FIPS", "imageFamily": "AzureLinux", "security": vtpm})),
            ["nodeClass.fipsMode"]
        );
        assert_eq!(problems(json!({"fipsMode": "Disabled", "imageFamily": "Ubuntu2404", "security": vtpm})), none);
        let swap = "nodeClass.linuxOSConfig.swapFileSize";
        assert_eq!(problems(json!({"linuxOSConfig": {"swapFileSize": "1Gi"}})), [swap]);
        assert_eq!(problems(json!({"linuxOSConfig": {"swapFileSize": "much"}})), [swap]);
        assert_eq!(problems(json!({"linuxOSConfig": {"swapFileSize": "1Gi"}, "kubelet": {"failSwapOn": false}})), none);
        assert_eq!(problems(json!({"localDNS": {"mode": "Preferred"}})), ["nodeClass.localDNS.mode"]);
        assert_eq!(problems(json!({"localDNS": {"mode": "Required"}})), none);
    }
}
