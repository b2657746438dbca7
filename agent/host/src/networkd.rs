//! systemd-networkd, over the system's D-Bus.

use zbus::connection::Builder;

use crate::root::Root;
use crate::{chain, observe};

/// Source: the D-Bus specification, "Standard System Bus", with today's name of /var/run.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// Source: org.freedesktop.network1(5).
#[zbus::proxy(
    interface = "org.freedesktop.network1.Manager",
    default_service = "org.freedesktop.network1",
    default_path = "/org/freedesktop/network1",
    gen_blocking = false
)]
trait Manager {
    fn reconfigure_link(&self, interface: i32) -> zbus::Result<()>;
}

/// Has networkd configure each interface with hardware behind it anew: addresses are asked for again, and routes come with them.
///
/// # Errors
/// When networkd does not run, or does not manage any of them; why.
pub(crate) async fn reconfigure(root: &Root) -> Result<(), String> {
    let address = format!("unix:path={}", root.outside(SYSTEM_BUS).display());
    let connection = Builder::address(address.as_str()).map_err(|error| chain(&error))?.build().await;
    let connection = connection.map_err(|error| format!("the system's D-Bus: {}", chain(&error)))?;
    let networkd = ManagerProxy::new(&connection).await.map_err(|error| chain(&error))?;
    let mut refused = Vec::new();
    let mut is_done = false;
    for nic in observe::nics(root).map_err(|error| chain(&error))? {
        let index = root.read_text(&format!("/sys/class/net/{}/ifindex", nic.name)).ok().flatten();
        let Some(index) = index.and_then(|index| index.parse().ok()) else { continue }; // it went away
        match networkd.reconfigure_link(index).await {
            Ok(()) => is_done = true,
            Err(error) => refused.push(format!("{}: {}", nic.name, chain(&error))),
        }
    }
    if is_done { Ok(()) } else { Err(format!("networkd configured no interface anew: {}", refused.join("; "))) }
}
