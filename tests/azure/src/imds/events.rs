//! Scheduled events: what the platform is about to do to the VM.

use serde_json::{Value, json};

/// One announced event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledEvent {
    /// A GUID.
    pub event_id: String,
    /// `Freeze`, `Reboot`, `Redeploy`, `Preempt` or `Terminate`.
    pub event_type: String,
    /// Names of the VMs concerned.
    pub resources: Vec<String>,
    /// RFC 1123 time; empty once started.
    pub not_before: String,
    /// For people.
    pub description: String,
    /// `Platform` or `User`.
    pub event_source: String,
    /// How long the VM will be away; -1 when unknown.
    pub duration_in_seconds: i64,
}

/// The list and its incarnation, which changes with every change of the list.
#[derive(Debug)]
pub(crate) struct ScheduledEvents {
    incarnation: u64,
    events: Vec<(ScheduledEvent, bool)>,
}

impl Default for ScheduledEvents {
    fn default() -> Self {
        Self { incarnation: 1, events: Vec::new() }
    }
}

/// Why an acknowledgement is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MalformedAcknowledgement;

impl ScheduledEvents {
    pub(crate) fn schedule(&mut self, event: ScheduledEvent) {
        self.events.push((event, false));
        self.incarnation += 1;
    }

    pub(crate) fn complete(&mut self, event_id: &str) {
        self.events.retain(|(event, _)| event.event_id != event_id);
        self.incarnation += 1;
    }

    /// Starts the acknowledged events.
    pub(crate) fn acknowledge(&mut self, body: &[u8]) -> Result<(), MalformedAcknowledgement> {
        let body: Value = serde_json::from_slice(body).map_err(|_| MalformedAcknowledgement)?;
        let requests = body["StartRequests"].as_array().ok_or(MalformedAcknowledgement)?;
        for request in requests {
            let id = request["EventId"].as_str().ok_or(MalformedAcknowledgement)?;
            let known = self.events.iter_mut().find(|(event, _)| event.event_id.eq_ignore_ascii_case(id));
            let (event, started) = known.ok_or(MalformedAcknowledgement)?;
            *started = true;
            event.not_before.clear();
            self.incarnation += 1;
        }
        Ok(())
    }

    pub(crate) fn document(&self) -> Value {
        let events: Vec<Value> = self.events.iter().map(|(event, started)| entry(event, *started)).collect();
        json!({"DocumentIncarnation": self.incarnation, "Events": events})
    }
}

fn entry(event: &ScheduledEvent, started: bool) -> Value {
    json!({
        "EventId": event.event_id,
        "EventType": event.event_type,
        "ResourceType": "VirtualMachine",
        "Resources": event.resources,
        "EventStatus": if started { "Started" } else { "Scheduled" },
        "NotBefore": event.not_before,
        "Description": event.description,
        "EventSource": event.event_source,
        "DurationInSeconds": event.duration_in_seconds,
    })
}
