//! One line for the host, through Hyper-V's key-value pairs: it leaves the VM without a network.

use jiff::Timestamp;

use super::Failure;
use super::guest_agent::cut;

/// The key under which the last boot's outcome is found.
pub const KVP_KEY: &str = "NAP_AGENT_BOOT";

/// Longest value that Azure's host takes, in bytes; the daemon's own limit is 2048.
/// Source: cloud-init, `HyperVKvpReportingHandler.HV_KVP_AZURE_MAX_VALUE_SIZE` (1024, the last two for the end of the text).
const MAX_VALUE_BYTES: usize = 1022;

/// `result=...|reason=...|...`, as cloud-init writes its own report; a bar inside a value becomes a slash.
pub fn kvp_value(outcome: Result<(), &Failure>, agent: &str, vm_id: &str, at: Timestamp) -> String {
    let plain = |text: &str| text.replace('|', "/").replace(['\n', '\r'], " ");
    let fields = match outcome {
        Ok(()) => vec![("result", "success".to_owned())],
        Err(failure) => vec![
            ("result", "error".to_owned()),
            ("reason", failure.reason.to_string()),
            ("exit_code", failure.reason.exit_code().to_string()),
            ("step", plain(&failure.step)),
        ],
    };
    let common = [("agent", agent.to_owned()), ("vm_id", plain(vm_id)), ("timestamp", at.to_string())];
    // What may be long comes last, so that cutting takes only from it.
    let message = outcome.err().map(|failure| {
        let seen = failure.evidence.first().map(|seen| format!("; {seen}")).unwrap_or_default();
        ("message", plain(&format!("{}{seen}", failure.message)))
    });
    let pairs: Vec<String> =
        fields.into_iter().chain(common).chain(message).map(|(name, value)| format!("{name}={value}")).collect();
    cut(&pairs.join("|"), MAX_VALUE_BYTES).to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::Reason;
    use super::*;

    #[test]
    fn the_reason_survives_any_cut() {
        let at: Timestamp = "2026-11-01T10:00:00Z".parse().unwrap();
        assert_eq!(
            kvp_value(Ok(()), "nap-agent/0.1.0", "vm", at),
            "result=success|agent=nap-agent/0.1.0|vm_id=vm|timestamp=2026-11-01T10:00:00Z"
        );
        let failure = Failure::new(Reason::ConfigInvalid, "parse", "a|b\nc".repeat(1000));
        let value = kvp_value(Err(&failure), "a", "vm", at);
        assert!(
            value.starts_with("result=error|reason=ConfigInvalid|exit_code=240|step=parse|agent=a|vm_id=vm|"),
            "{value}"
        );
        assert_eq!((value.len(), value.matches('|').count()), (MAX_VALUE_BYTES, 7));
    }
}
