//! Has the machine go down in order, for good or to start again.
//!
//! By logind: kubelet holds a delay lock there, and ends its pods before the machine goes down. Without logind, or without a D-Bus to reach it,
//! by systemd itself, which stops kubelet as any other service.
//!
//! Below another root it is that root's logind and systemd, so no test can take its own machine down.

use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;
use tracing::warn;

use crate::chain;
use crate::root::Root;
use crate::units::Units;

const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// Longest time for logind's answer; it answers before anything is stopped.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1",
    gen_blocking = false
)]
trait Login {
    fn reboot(&self, interactive: bool) -> zbus::Result<()>;
    fn power_off(&self, interactive: bool) -> zbus::Result<()>;
}

/// What comes after the machine has gone down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It starts again.
    Reboot,
    /// Nothing.
    PowerOff,
}

impl Then {
    fn target(self) -> &'static str {
        match self {
            Then::Reboot => "reboot.target",
            Then::PowerOff => "poweroff.target",
        }
    }
}

/// Tells the machine to go down. Returns when it was told.
///
/// # Errors
/// When neither logind nor systemd takes the order; what each said.
pub async fn go_down(root: &Root, units: &Units, then: Then) -> Result<(), String> {
    let by_logind = timeout(ANSWER_LIMIT, by_logind(root, then)).await;
    let why = match by_logind {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => chain(&error),
        Err(_) => format!("no answer in {} s", ANSWER_LIMIT.as_secs()),
    };
    warn!(error = why, ?then, "logind does not take the machine down; systemd is told to, and pods end as they can");
    units.begin(then.target()).await.map_err(|error| format!("logind: {why}; systemd: {}", chain(&error)))
}

async fn by_logind(root: &Root, then: Then) -> zbus::Result<()> {
    let stream = UnixStream::connect(root.outside(SYSTEM_BUS)).await?;
    let connection = zbus::connection::Builder::unix_stream(stream).build().await?;
    let logind = LoginProxy::new(&connection).await?;
    match then {
        Then::Reboot => logind.reboot(false).await,
        Then::PowerOff => logind.power_off(false).await,
    }
}
