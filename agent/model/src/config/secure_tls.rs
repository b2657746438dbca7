//! Secure TLS bootstrapping: the node gets its client certificate by its attested identity, without a token.
//!
//! A client of AKS that the image brings does it. Source of names, flags and limits: github.com/Azure/aks-secure-tls-bootstrap,
//! `client/internal/bootstrap/config.go`; AgentBaker, `configureAndEnableSecureTLSBootstrapping`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// The Entra application of AKS' own API servers.
pub(super) const AKS_APPLICATION: &str = "6dae42f8-4368-4678-94ff-3960e28e3630";

/// What such a duration looks like.
pub(super) const DURATION: &str = "a duration such as 20s";

/// The client's phases, each with the flag that limits it and the client's own limit.
const PHASES: &[(&str, Duration)] = &[
    ("validate-kubeconfig-timeout", Duration::from_secs(15)),
    ("get-access-token-timeout", Duration::from_secs(60)),
    ("get-instance-data-timeout", Duration::from_secs(15)),
    ("get-nonce-timeout", Duration::from_secs(15)),
    ("get-attested-data-timeout", Duration::from_secs(15)),
    ("get-credential-timeout", Duration::from_secs(360)),
];

/// How the client is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SecureTls {
    /// The Entra application for which the node's identity asks a token.
    pub aad_resource: String,
    /// Client id of that identity; kubelet's when absent.
    pub identity: Option<String>,
    /// Limits of single phases that are other than the client's own, by flag without dashes.
    pub limits: BTreeMap<&'static str, Duration>,
    /// Longest run: all phases together, unless somebody said less.
    pub deadline: Duration,
}

impl SecureTls {
    /// A client with these limits of single phases: `given` is asked for each by its flag.
    pub(super) fn new(
        aad_resource: Option<&str>,
        identity: Option<&str>,
        given: impl Fn(&str) -> Option<Duration>,
    ) -> Self {
        // The client, too, takes 0 for its own limit.
        let given = |flag: &str| given(flag).filter(|limit| !limit.is_zero());
        Self {
            aad_resource: aad_resource.unwrap_or(AKS_APPLICATION).to_owned(),
            identity: identity.map(str::to_owned),
            limits: PHASES.iter().filter_map(|(flag, _)| Some((*flag, given(flag)?))).collect(),
            deadline: PHASES.iter().map(|(flag, usual)| given(flag).unwrap_or(*usual)).sum(),
        }
    }
}

pub(super) fn is_duration(text: &str) -> bool {
    duration(text).is_some()
}

/// Longest limit: far more than any boot has.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// `1m30s`, `1.5s`, `500ms`. Source: Go, `time.ParseDuration`, without signs and without what is below a millisecond.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|letter: char| letter.is_ascii_alphabetic())?);
        let (unit, after) =
            after.split_at(after.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(after.len()));
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        let thousandths = thousandths(number)?.checked_mul(milliseconds)?;
        total = total.checked_add(Duration::from_millis(thousandths / 1000))?;
        rest = after;
    }
    (!text.is_empty() && total <= LONGEST).then_some(total)
}

/// `1.5` as 1500.
fn thousandths(number: &str) -> Option<u64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(part) || part.len() > 3 {
        return None;
    }
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(format!("{part:0<3}").parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let milliseconds = |text| duration(text).map(|duration| duration.as_millis());
        for (text, wanted) in
            [("15s", 15_000), ("1m30s", 90_000), ("500ms", 500), ("1.5s", 1_500), ("0s", 0), ("24h", 86_400_000)]
        {
            assert_eq!(milliseconds(text), Some(wanted), "{text}");
        }
        for text in [
            "",
            "15",
            "s",
            "-1s",
            "1d",
            "1.s2",
            "1.2345s",
            "25h",
            "99999999999999999999h",
            "18446744073709551615h",
            "1s ",
        ] {
            assert_eq!(milliseconds(text), None, "{text}");
        }
    }

    #[test]
    fn the_deadline_is_that_of_all_phases() {
        assert_eq!(SecureTls::new(None, None, |_| None).deadline, Duration::from_secs(480));
        let given = |flag: &str| (flag == "get-credential-timeout").then_some(Duration::from_secs(30));
        let client = SecureTls::new(None, None, given);
        assert_eq!(client.deadline, Duration::from_secs(150));
        assert_eq!(client.limits, BTreeMap::from([("get-credential-timeout", Duration::from_secs(30))]));
        assert_eq!(SecureTls::new(None, None, |_| Some(Duration::ZERO)), SecureTls::new(None, None, |_| None));
    }
}
