//! Events for Azure's guest agent, which uploads them: what AgentBaker's scripts write, with the level and the code that those leave out.

use jiff::Timestamp;
use serde::Serialize;

use super::Failure;

/// Directory that the guest agent empties. Source: AgentBaker, `logs_to_events`.
pub const EVENTS_DIRECTORY: &str = "/var/log/azure/Microsoft.Azure.Extensions.CustomScript/events";

/// Longest message, in bytes; the guest agent drops an event with a longer one.
/// Source: AgentBaker, `emit-kubelet-active-flags.sh`; WALinuxAgent, `EXTENSION_EVENT_MAX_MSG_LEN`.
const MAX_MESSAGE_BYTES: usize = 3072;

/// One event. Field names and their text values are the guest agent's; `OperationId` carries the end time by AgentBaker's custom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GuestAgentEvent {
    timestamp: String,
    operation_id: String,
    version: &'static str,
    task_name: String,
    event_level: &'static str,
    message: String,
    event_pid: &'static str,
    event_tid: &'static str,
}

impl GuestAgentEvent {
    /// Something that took from `start` to `end` and ended well or badly.
    pub fn new(task: &str, start: Timestamp, end: Timestamp, outcome: Result<&str, &Failure>) -> Self {
        let (event_level, message) = match outcome {
            Ok(text) => ("Informational", format!("Completed: {text}")),
            Err(failure) => {
                let evidence = failure.evidence.join("; ");
                ("Error", format!("Failed: exit code {}, {failure}; seen: {evidence}", failure.reason.exit_code()))
            }
        };
        Self {
            timestamp: clock(start),
            operation_id: clock(end),
            version: "1.23",
            task_name: format!("AKS.NapAgent.{task}"),
            event_level,
            message: cut(&message, MAX_MESSAGE_BYTES).to_owned(),
            event_pid: "0",
            event_tid: "0",
        }
    }
}

/// `2026-11-01 10:00:00.000`, UTC.
fn clock(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

/// The first `bytes` of a text, cut at a character.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::super::Reason;
    use super::*;

    #[test]
    fn a_failure_has_its_level_its_code_and_a_message_that_fits() {
        let at: Timestamp = "2026-11-01T10:00:00.25Z".parse().unwrap();
        let failure = Failure::new(Reason::ApiServerDnsFailed, "verify.api-server", "ä".repeat(4000));
        let event = serde_json::to_value(GuestAgentEvent::new("boot", at, at, Err(&failure))).unwrap();
        assert_eq!(event["EventLevel"], "Error");
        assert_eq!(event["Timestamp"], "2026-11-01 10:00:00.250");
        let message = event["Message"].as_str().unwrap();
        assert!(
            message.starts_with("Failed: exit code 52, ApiServerDnsFailed: ä") && message.len() <= MAX_MESSAGE_BYTES
        );
        let event = serde_json::to_value(GuestAgentEvent::new("boot.files", at, at, Ok("12 changed"))).unwrap();
        assert_eq!(
            (event["EventLevel"].as_str(), event["Message"].as_str()),
            (Some("Informational"), Some("Completed: 12 changed"))
        );
        assert_eq!(event.as_object().unwrap().len(), 8);
    }
}
