//! What we tell systemd about ourselves.

use std::time::Duration;

use systemd::daemon;
use tracing::warn;

/// Says that the daemon is up, with a line for `systemctl status`.
pub fn ready(status: &str) {
    send(&[("READY", "1"), ("STATUS", status)]);
}

/// Feeds the watchdog. Called only by a loop that made progress.
pub fn alive(status: &str) {
    send(&[("WATCHDOG", "1"), ("STATUS", status)]);
}

/// Says that the daemon is on its way out.
pub fn stopping() {
    send(&[("STOPPING", "1")]);
}

/// How often systemd wants to hear from us, if at all.
pub fn watchdog_interval() -> Option<Duration> {
    match daemon::watchdog_enabled() {
        Ok(microseconds) if microseconds > 0 => Some(Duration::from_micros(microseconds)),
        _ => None,
    }
}

fn send(pairs: &[(&str, &str)]) {
    // Without systemd there is no socket and nothing to do, which is not an error.
    if let Err(error) = daemon::notify(pairs.iter()) {
        warn!(error = %error, "cannot notify systemd");
    }
}
