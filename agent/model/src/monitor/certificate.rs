//! kubelet's client certificate. kubelet renews it itself, long before its end; when it did not, the node loses its name.

use jiff::SignedDuration;

use super::{
    Class, Fault, Monitor, Outcome, Reading, Scope, Seen, Signal, Subsystem, Verdict, degrading, minutes, seconds,
    signal,
};

static EXPIRED: Fault = Fault {
    reason: "ClientCertificateExpired",
    subsystem: Subsystem::Kubelet,
    worst: Verdict::NeedsReplacement,
    scope: Scope::Local,
    persist: minutes(10),
    // A clock that is ahead makes every certificate old.
    explained_by: &["ClockSkewed"],
    meaning: "kubelet's client certificate has expired; the API server refuses this node.",
    hint: "The guard looks for a bootstrap token in the copies of the custom data; without one that is still good the node is replaced.",
};
static EXPIRING: Fault = Fault {
    explained_by: &["ClientCertificateExpired", "ClockSkewed"],
    ..degrading(
        "ClientCertificateExpiring",
        Subsystem::Kubelet,
        "kubelet's client certificate ends soon and kubelet has not renewed it.",
        "`journalctl -u kubelet | grep -i certificate`; is somebody approving certificate requests?",
    )
};

static EXPIRED_DATE: Signal =
    Signal { is_authoritative: true, ..signal("certificate.date", &EXPIRED, Class::Probe, (3, 3), seconds(20), 2) };
static EXPIRING_DATE: Signal = signal("certificate.date", &EXPIRING, Class::Probe, (3, 3), seconds(20), 2);

pub(super) const MONITOR: Monitor = Monitor { signals: &[&EXPIRED_DATE, &EXPIRING_DATE], read };

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    let Some(certificate) = seen.now.client_certificate else { return };
    let now = seen.now.tick.wall;
    let life = certificate.not_after.duration_since(certificate.not_before);
    // kubelet renews after 70 to 90 % of the life; what is left after 95 % is trouble. Source: kubelet's certificate manager.
    let soon = certificate.not_after - SignedDuration::from_secs(life.as_secs() / 20);
    let is_expired = now >= certificate.not_after;
    let mut say = |signal, is_bad: bool, text: &str| {
        let outcome = if is_bad { Outcome::Bad(format!("{text} {}", certificate.not_after)) } else { Outcome::Good };
        readings.push(Reading { signal, target: String::new(), outcome });
    };
    say(&EXPIRED_DATE, is_expired, "expired at");
    say(&EXPIRING_DATE, now >= soon, "expires at");
}
