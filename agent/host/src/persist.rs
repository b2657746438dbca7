//! What the agent keeps of a boot for later: its configuration, and the report.

use nap_model::facts::{DiskRecord, Dmi, Facts};
use nap_model::plan::AbsPath;
use nap_model::repair::Policy;
use nap_model::report::ProvisionReport;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chain;
use crate::root::{FileError, Root};

/// Our copy of the configuration, 0600. The disc is gone at the next boot, and not every image has cloud-init.
const COPY: &str = "/var/lib/nap-agent/config.json";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Copy {
    vm_id: String,
    document: Value,
}

/// The copy of an earlier boot of this VM; nothing when it belongs to another, as in a captured image.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read_copy(root: &Root, dmi: &Dmi) -> Result<Option<Vec<u8>>, FileError> {
    let copy = root.read(COPY)?.and_then(|bytes| serde_json::from_slice::<Copy>(&bytes).ok());
    Ok(copy.filter(|copy| copy.vm_id == dmi.product_uuid).map(|copy| copy.document.to_string().into_bytes()))
}

/// Keeps a copy, unless the same is there.
///
/// # Errors
/// When it cannot be written.
pub fn write_copy(root: &Root, dmi: &Dmi, document: &Value) -> Result<(), FileError> {
    let copy = Copy { vm_id: dmi.product_uuid.clone(), document: document.clone() };
    let bytes = serde_json::to_vec(&copy).expect("JSON is JSON");
    if root.read(COPY)?.as_ref() == Some(&bytes) {
        return Ok(());
    }
    root.write(&AbsPath::literal(COPY), &bytes, 0o600)
}

/// Takes the marker of an earlier boot away, so that nobody takes its report for this one's.
///
/// # Errors
/// When it cannot be removed.
pub fn clear_report(root: &Root) -> Result<(), FileError> {
    root.remove(&AbsPath::literal(ProvisionReport::COMPLETE))
}

/// Writes the report, then the marker that says it is there.
///
/// # Errors
/// When either cannot be written.
pub fn write_report(root: &Root, report: &ProvisionReport) -> Result<(), FileError> {
    let json = serde_json::to_vec_pretty(report).expect("a report has only texts");
    root.write(&AbsPath::literal(ProvisionReport::PATH), &json, 0o644)?;
    root.write(&AbsPath::literal(ProvisionReport::COMPLETE), b"", 0o644)
}

/// The report, when its marker says that it is whole.
///
/// # Errors
/// When either cannot be read.
pub fn read_complete_report(root: &Root) -> Result<Option<ProvisionReport>, FileError> {
    let marker = root.entry(&AbsPath::literal(ProvisionReport::COMPLETE))?;
    marker.map_or(Ok(None), |_| read_report(root))
}

/// The report, when there is one that can be read.
///
/// # Errors
/// When it is there and the file cannot be read.
pub fn read_report(root: &Root) -> Result<Option<ProvisionReport>, FileError> {
    Ok(root.read(ProvisionReport::PATH)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// What the guard knows of the node's health over time.
const HEALTH: &str = "/var/lib/nap-agent/health.json";

/// Keeps what is known of the node's health.
///
/// # Errors
/// When it cannot be written.
pub fn write_health(root: &Root, json: &[u8]) -> Result<(), FileError> {
    root.write(&AbsPath::literal(HEALTH), json, 0o600)
}

/// What an earlier run knew of the node's health; nothing when there is none that this version reads.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn read_health<T: serde::de::DeserializeOwned>(root: &Root) -> Result<Option<T>, FileError> {
    Ok(root.read(HEALTH)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// What people allow to be repaired; everything usual when they say nothing.
///
/// # Errors
/// When the file cannot be read or understood: why, for people.
pub fn read_policy(root: &Root) -> Result<Policy, String> {
    let text = root.read_text(Policy::PATH).map_err(|error| chain(&error))?;
    Policy::parse(&text.unwrap_or_default()).map_err(|error| error.to_string())
}

/// There while a condition that others write, too, may be on the Node by us.
const SHARED: &str = "/var/lib/nap-agent/shared-conditions";

/// Whether a shared condition may be on the Node by us.
///
/// # Errors
/// When nobody can tell.
pub fn may_have_shared(root: &Root) -> Result<bool, FileError> {
    Ok(root.entry(&AbsPath::literal(SHARED))?.is_some())
}

/// Notes whether a shared condition may be on the Node by us; to be called before it is, and after it no more is.
///
/// # Errors
/// When it cannot be noted.
pub fn note_shared(root: &Root, may_be: bool) -> Result<(), FileError> {
    match may_be {
        true => root.write(&AbsPath::literal(SHARED), b"", 0o600),
        false => root.remove(&AbsPath::literal(SHARED)),
    }
}

/// What we noted of the local disks that we write to. World-readable: it has no secret, and people look for it.
const DISKS: &str = "/var/lib/nap-agent/disks.json";

/// What was noted of local disks; nothing when nothing was, or nothing that this version reads: then no disk is ours.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn read_disk_record(root: &Root) -> Result<Option<DiskRecord>, FileError> {
    Ok(root.read(DISKS)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Notes it, and it is on the OS disk when this returns.
///
/// # Errors
/// When it cannot be written; then no local disk may be written to either.
pub fn write_disk_record(root: &Root, record: &DiskRecord) -> Result<(), FileError> {
    let json = serde_json::to_vec_pretty(record).expect("a record is plain data");
    root.write(&AbsPath::literal(DISKS), &json, 0o644)
}

/// The facts of the last boot, for the guard and for a boot without IMDS.
const FACTS: &str = "/var/lib/nap-agent/facts.json";

/// Keeps the facts on which this boot's plan rests.
///
/// # Errors
/// When they cannot be written.
pub fn write_facts(root: &Root, facts: &Facts) -> Result<(), FileError> {
    let json = serde_json::to_vec_pretty(facts).expect("facts are plain data");
    root.write(&AbsPath::literal(FACTS), &json, 0o600)
}

/// The facts of the last boot; nothing when there are none that this version reads.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn read_facts(root: &Root) -> Result<Option<Facts>, FileError> {
    Ok(root.read(FACTS)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}
