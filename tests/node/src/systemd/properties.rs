//! Properties of units: exactly those that nap-agent reads.

use super::machine::{BusError, Live, Machine};
use super::service::End;
use zbus::zvariant::Value;

/// Interface that every unit has.
pub(crate) const UNIT: &str = "org.freedesktop.systemd1.Unit";
/// Interface that services have.
pub(crate) const SERVICE: &str = "org.freedesktop.systemd1.Service";

/// One property and whether its changes are announced.
#[derive(Debug)]
pub(crate) struct Property {
    pub(crate) name: &'static str,
    pub(crate) value: Value<'static>,
    /// Source: the `emits-change` annotations in org.freedesktop.systemd1(5).
    pub(crate) announced: bool,
}

/// The properties of an interface of a unit in memory; of all interfaces when its name is empty.
pub(crate) fn of(machine: &Machine, unit: &str, interface: &str) -> Result<Vec<Property>, BusError> {
    let live = machine.units.get(unit).ok_or_else(|| BusError::not_loaded(unit))?;
    let is_service = unit.ends_with(".service");
    let mut out = Vec::new();
    let every = interface.is_empty();
    if every || interface == UNIT {
        out.extend(unit_properties(machine, live));
    }
    if is_service && (every || interface == SERVICE) {
        out.extend(service_properties(machine, live));
    }
    Ok(out)
}

fn unit_properties(machine: &Machine, live: &Live) -> Vec<Property> {
    let name = &live.unit.name;
    let stale = live.unit.needs_reload(&machine.root, &machine.known_folders);
    let file_state = machine.unit_file_state(name).unwrap_or("");
    vec![
        Property { name: "LoadState", value: live.unit.load.name().into(), announced: false },
        Property { name: "ActiveState", value: live.phase.active_state().into(), announced: true },
        Property { name: "SubState", value: live.phase.sub_state(name).into(), announced: true },
        Property { name: "UnitFileState", value: file_state.into(), announced: false },
        Property { name: "NeedDaemonReload", value: stale.into(), announced: false },
        Property { name: "ConditionResult", value: live.condition.into(), announced: true },
    ]
}

fn service_properties(machine: &Machine, live: &Live) -> Vec<Property> {
    let main = live.main.and_then(|id| machine.processes.as_ref()?.number(id)).unwrap_or(0);
    vec![
        Property { name: "Result", value: live.outcome.name().into(), announced: true },
        Property { name: "NRestarts", value: live.restarts.into(), announced: true },
        Property { name: "MainPID", value: main.into(), announced: true },
        Property { name: "ExecMainStatus", value: live.end.map_or(0, End::status).into(), announced: true },
    ]
}
