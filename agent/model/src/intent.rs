//! What a provisioner asks of a node: `POST /v1/intents`. The facts, 8.4 and 8.6, are its contract.
//!
//! An intent is a command to a machine that runs as root, so it is read more strictly than custom data: a field that this version does
//! not know may be a condition, and whoever ignores it does what was not asked for. It names the VM and the boot that it is for, so it can
//! be replayed neither on another node nor after a reboot; the same id again is the same intent, and is done once.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use crate::config::problem::{Findings, Problem};
use crate::config::shape::Shape::{self, Object, Text, TextThat, Word};
use crate::config::shape::{Field, Naming, field};

/// Longest id, in bytes.
const MAX_ID: usize = 128;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// No repair that pods notice, and no other either, is begun before this time.
    Hold(Timestamp),
    /// The same, because the node is being emptied.
    Drain(Timestamp),
    /// A hold or a drain is over.
    Release,
    /// The node may reboot itself, once, for what it needs a reboot for now.
    GrantReboot,
    /// Evidence is to be kept now; `nap-agent bundle --list` shows where.
    CollectDiagnostics,
    /// A fault that is gone, and held because it came too often, is forgotten: its reason.
    ClearLatch(String),
}

/// An intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The sender's word for it. The same again is the same intent.
    pub id: String,
    /// Azure's id of the VM that it is for.
    pub vm_id: String,
    /// The boot that it is for, as the health document has it.
    pub boot_id: String,
    /// What is asked for.
    pub ask: Ask,
}

/// Why there is no intent in a request.
#[derive(Debug, Error)]
pub enum IntentError {
    /// It is no JSON.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Everything that is wrong with it.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Problems(Vec<Problem>),
}

const NODE: &[Field] = &[
    field("vmId", Text, "`node.vmId` of the health document.").required(),
    field("bootId", Text, "`node.bootId` of the health document: an intent ends with the boot.").required(),
];

static SHAPE: Shape = Object(&[
    field(
        "id",
        TextThat("1 to 128 printable ASCII characters", |text| {
            !text.is_empty() && text.len() <= MAX_ID && text.bytes().all(|byte| byte.is_ascii_graphic())
        }),
        "The sender's word for it. The same again is the same intent, and is done once.",
    )
    .required(),
    field("node", Object(NODE), "Which node, in which boot.").required(),
    field(
        "intent",
        Word(&["Hold", "Drain", "Release", "GrantReboot", "CollectDiagnostics", "ClearLatch"]),
        "What is asked for.",
    )
    .required(),
    field("until", Text, "Of Hold and Drain: when it is over; RFC 3339, at most a day from now."),
    field("reason", Text, "Of ClearLatch: the fault."),
]);

#[derive(Deserialize)]
struct Wire {
    id: String,
    node: WireNode,
    intent: String,
    until: Option<String>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireNode {
    vm_id: String,
    boot_id: String,
}

impl Intent {
    /// Reads one.
    ///
    /// # Errors
    /// Everything that is wrong with it, fields that this version does not know among it.
    pub fn parse(bytes: &[u8]) -> Result<Self, IntentError> {
        let mut findings = Findings::default();
        let checked = SHAPE.check(&serde_json::from_slice(bytes)?, Naming::Exact, &mut findings);
        for warning in std::mem::take(&mut findings.warnings) {
            findings.problem(&warning.path, warning.message, "only fields that this version knows");
        }
        if !findings.problems.is_empty() {
            return Err(IntentError::Problems(findings.problems));
        }
        let wire: Wire = serde_json::from_value(checked)?;
        let ask = wire.ask(&mut findings);
        match ask.filter(|_| findings.problems.is_empty()) {
            Some(ask) => Ok(Self { id: wire.id, vm_id: wire.node.vm_id, boot_id: wire.node.boot_id, ask }),
            None => Err(IntentError::Problems(findings.problems)),
        }
    }

    /// The JSON Schema of an intent.
    pub fn schema() -> Value {
        let mut schema = SHAPE.json_schema();
        schema["$schema"] = json!(crate::clouds::JSON_SCHEMA_DIALECT);
        schema["title"] = json!("NodeIntent");
        schema["additionalProperties"] = json!(false);
        schema
    }
}

impl Wire {
    fn ask(&self, findings: &mut Findings) -> Option<Ask> {
        let until = self.until.as_deref().map(str::parse::<Timestamp>);
        let ask = match (self.intent.as_str(), until, &self.reason) {
            ("Hold", Some(Ok(until)), None) => Ask::Hold(until),
            ("Drain", Some(Ok(until)), None) => Ask::Drain(until),
            ("Release", None, None) => Ask::Release,
            ("GrantReboot", None, None) => Ask::GrantReboot,
            ("CollectDiagnostics", None, None) => Ask::CollectDiagnostics,
            ("ClearLatch", None, Some(reason)) => Ask::ClearLatch(reason.clone()),
            (_, Some(Err(error)), _) => {
                findings.problem("until", error.to_string(), "a time such as 2030-01-31T12:00:00Z");
                return None;
            }
            (intent, ..) => {
                let wanted = match intent {
                    "Hold" | "Drain" => "until, and no reason",
                    "ClearLatch" => "reason, and no until",
                    _ => "neither until nor reason",
                };
                findings.problem("intent", intent, wanted);
                return None;
            }
        };
        Some(ask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rest: &str) -> Result<Intent, String> {
        let text = format!(r#"{{"id":"a-1","node":{{"vmId":"v","bootId":"b"}},{rest}}}"#);
        Intent::parse(text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn every_intent_is_read() {
        let until = "2030-01-31T12:00:00Z".parse().unwrap();
        for (text, ask) in [
            (r#""intent":"Hold","until":"2030-01-31T12:00:00Z""#, Ask::Hold(until)),
            (r#""intent":"Drain","until":"2030-01-31T13:00:00+01:00""#, Ask::Drain(until)),
            (r#""intent":"Release""#, Ask::Release),
            (r#""intent":"GrantReboot""#, Ask::GrantReboot),
            (r#""intent":"CollectDiagnostics""#, Ask::CollectDiagnostics),
            (r#""intent":"ClearLatch","reason":"KubeletDown""#, Ask::ClearLatch("KubeletDown".to_owned())),
        ] {
            let intent =
                Intent { id: "a-1".to_owned(), vm_id: "v".to_owned(), boot_id: "b".to_owned(), ask: ask.clone() };
            assert_eq!(parse(text), Ok(intent));
            let word = text.split('"').nth(3).unwrap();
            assert!(Intent::schema()["properties"]["intent"]["enum"].as_array().unwrap().contains(&json!(word)));
        }
    }

    #[test]
    fn what_is_not_understood_is_not_done() {
        for (text, why) in [
            (r#""intent":"Reboot""#, "intent: found"),
            (r#""intent":"GrantReboot","unless":"pods""#, "unless: found unknown field"),
            (r#""intent":"grantreboot""#, "intent"),
            (r#""intent":"Hold""#, "want until"),
            (r#""intent":"Hold","until":"tomorrow""#, "until: found"),
            (r#""intent":"GrantReboot","until":"2030-01-31T12:00:00Z""#, "want neither until nor reason"),
            (r#""intent":"ClearLatch""#, "want reason"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(Intent::parse(b"{").is_err() && Intent::parse(b"[]").is_err() && Intent::parse(b"\xff").is_err());
        let long =
            format!(r#"{{"id":"{}","node":{{"vmId":"v","bootId":"b"}},"intent":"Release"}}"#, "x".repeat(MAX_ID + 1));
        assert!(Intent::parse(long.as_bytes()).is_err());
    }
}
