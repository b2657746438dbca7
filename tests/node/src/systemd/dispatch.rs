//! Method calls and signals: from messages to what the service manager does, and back.

use super::events::Signal;
use super::install;
use super::jobs::Verb;
use super::machine::{BusError, Machine};
use super::properties::{self, Property};
use std::collections::HashMap;
use zbus::Message;
use zbus::message::Flags;
use zbus::names::UniqueName;
use zbus::zvariant::{DynamicType, ObjectPath};

/// Object of the service manager.
pub(crate) const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
/// Interface of the service manager.
pub(crate) const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// The sender in every message, as systemd has it on its private socket: a well-known name where a unique one belongs.
const SENDER: UniqueName<'static> = UniqueName::from_static_str_unchecked("org.freedesktop.systemd1");
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Why a call got no answer of its own kind.
enum CallError {
    Bus(BusError),
    /// The message could not be read or the answer not written.
    Message(zbus::Error),
}

impl From<BusError> for CallError {
    fn from(error: BusError) -> CallError {
        CallError::Bus(error)
    }
}

impl From<zbus::Error> for CallError {
    fn from(error: zbus::Error) -> CallError {
        CallError::Message(error)
    }
}

/// Does what a message asks; the answer, unless the caller wants none.
pub(crate) fn answer(machine: &mut Machine, call: &Message) -> Option<Message> {
    let reply = handle(machine, call).or_else(|error| match error {
        CallError::Bus(error) => error_reply(call, &error),
        CallError::Message(error) => {
            let name = "org.freedesktop.DBus.Error.InvalidArgs";
            error_reply(call, &BusError::new(name, error.to_string()))
        }
    });
    // An answer that cannot be encoded leaves the caller to its own time limit.
    reply.ok().filter(|_| !call.primary_header().flags().contains(Flags::NoReplyExpected))
}

fn handle(machine: &mut Machine, call: &Message) -> Result<Message, CallError> {
    let header = call.header();
    let member = header.member().map(|m| m.to_string()).unwrap_or_default();
    let interface = header.interface().map(|i| i.to_string()).unwrap_or_default();
    let path = header.path().map(|p| p.to_string()).unwrap_or_default();
    match (path.as_str(), interface.as_str()) {
        (MANAGER_PATH, MANAGER | "") => manager_call(machine, &member, call),
        (_, "org.freedesktop.DBus.Peer") if member == "Ping" => reply(call, &()),
        (path, PROPERTIES) => property_call(machine, path, &member, call),
        _ => Err(unknown_method(&member, &interface).into()),
    }
}

fn unknown_method(member: &str, interface: &str) -> BusError {
    let text = format!("Unknown method {member} or interface {interface}.");
    BusError::new("org.freedesktop.DBus.Error.UnknownMethod", text)
}

fn reply<B: serde::Serialize + DynamicType>(call: &Message, body: &B) -> Result<Message, CallError> {
    Ok(Message::method_return(&call.header())?.sender(SENDER)?.build(body)?)
}

fn error_reply(call: &Message, error: &BusError) -> Result<Message, zbus::Error> {
    Message::error(&call.header(), error.name)?.sender(SENDER)?.build(&(error.text.as_str(),))
}

fn manager_call(machine: &mut Machine, member: &str, call: &Message) -> Result<Message, CallError> {
    let body = call.body();
    match member {
        "Subscribe" => reply(call, &()),
        "Reload" => {
            machine.note("", "Reload");
            machine.reload();
            reply(call, &())
        }
        "LoadUnit" => {
            let (unit,): (String,) = body.deserialize()?;
            machine.load(&unit)?;
            reply(call, &unit_path(&unit)?)
        }
        "StartUnit" | "StopUnit" | "RestartUnit" | "ReloadOrTryRestartUnit" => job_call(machine, member, call),
        "ResetFailedUnit" => {
            let (unit,): (String,) = body.deserialize()?;
            machine.note(&unit, member);
            machine.reset_failed(&unit)?;
            reply(call, &())
        }
        "KillUnit" => {
            let (unit, whom, signal): (String, String, i32) = body.deserialize()?;
            machine.note(&unit, member);
            machine.kill(&unit, &whom, signal)?;
            reply(call, &())
        }
        "EnableUnitFiles" => {
            let (units, runtime, force): (Vec<String>, bool, bool) = body.deserialize()?;
            units.iter().for_each(|unit| machine.note(unit, member));
            reply(call, &install::enable(&machine.root, &units, runtime, force)?)
        }
        "DisableUnitFiles" => {
            let (units, runtime): (Vec<String>, bool) = body.deserialize()?;
            units.iter().for_each(|unit| machine.note(unit, member));
            reply(call, &(install::disable(&machine.root, &units, runtime)?,))
        }
        "UnmaskUnitFiles" => {
            let (units, runtime): (Vec<String>, bool) = body.deserialize()?;
            units.iter().for_each(|unit| machine.note(unit, member));
            reply(call, &(install::unmask(&machine.root, &units, runtime)?,))
        }
        "GetUnitFileState" => {
            let (unit,): (String,) = body.deserialize()?;
            let missing = || {
                let text = "No such file or directory".to_owned();
                BusError::new("org.freedesktop.DBus.Error.FileNotFound", text)
            };
            reply(call, &(machine.unit_file_state(&unit).ok_or_else(missing)?,))
        }
        _ => Err(unknown_method(member, MANAGER).into()),
    }
}

fn job_call(machine: &mut Machine, member: &str, call: &Message) -> Result<Message, CallError> {
    let body = call.body();
    let (unit, mode): (String, String) = body.deserialize()?;
    // Nothing here cancels a job, so the second is the first.
    if !["replace", "replace-irreversibly"].contains(&mode.as_str()) {
        let text = format!("Job mode {mode} invalid: this stand-in knows only those that replace");
        return Err(BusError::new("org.freedesktop.DBus.Error.InvalidArgs", text).into());
    }
    machine.note(&unit, member);
    let verb = match member {
        "StartUnit" => Verb::Start,
        "StopUnit" => Verb::Stop,
        // This stand-in reloads nothing, so a reload is a restart; what does not run stays so.
        "ReloadOrTryRestartUnit" if !machine.load(&unit)?.phase.is_active() => Verb::Stop,
        _ => Verb::Restart,
    };
    let id = machine.enqueue(&unit, verb)?;
    reply(call, &job_path(id)?)
}

fn property_call(machine: &mut Machine, path: &str, member: &str, call: &Message) -> Result<Message, CallError> {
    let Some(unit) = unit_of_path(path) else {
        let text = format!("Unknown object '{path}'.");
        return Err(BusError::new("org.freedesktop.DBus.Error.UnknownObject", text).into());
    };
    machine.load(&unit)?;
    let body = call.body();
    match member {
        "Get" => {
            let (interface, name): (String, String) = body.deserialize()?;
            let all = properties::of(machine, &unit, &interface)?;
            let unknown = || {
                let text = format!("Unknown interface {interface} or property {name}.");
                BusError::new("org.freedesktop.DBus.Error.UnknownProperty", text)
            };
            let property = all.into_iter().find(|p| p.name == name).ok_or_else(unknown)?;
            reply(call, &(property.value,))
        }
        "GetAll" => {
            let (interface,): (String,) = body.deserialize()?;
            let all = properties::of(machine, &unit, &interface)?;
            let all: HashMap<&str, _> = all.into_iter().map(|p| (p.name, p.value)).collect();
            reply(call, &(all,))
        }
        _ => Err(unknown_method(member, PROPERTIES).into()),
    }
}

/// The messages that tell clients of a signal.
pub(crate) fn signal_messages(machine: &Machine, signal: &Signal) -> Result<Vec<Message>, zbus::Error> {
    match signal {
        Signal::JobRemoved { id, unit, result } => {
            let body = (id, job_path(*id)?, unit, result);
            Ok(vec![Message::signal(MANAGER_PATH, MANAGER, "JobRemoved")?.sender(SENDER)?.build(&body)?])
        }
        Signal::Changed { unit } => changed_messages(machine, unit),
    }
}

fn changed_messages(machine: &Machine, unit: &str) -> Result<Vec<Message>, zbus::Error> {
    let mut out = Vec::new();
    for interface in [properties::SERVICE, properties::UNIT] {
        let Ok(all) = properties::of(machine, unit, interface) else { continue };
        let announced: HashMap<&str, _> =
            all.into_iter().filter(|p: &Property| p.announced).map(|p| (p.name, p.value)).collect();
        let none: Vec<&str> = Vec::new();
        let message = Message::signal(unit_path(unit)?, PROPERTIES, "PropertiesChanged")?.sender(SENDER)?;
        out.push(message.build(&(interface, announced, none))?);
    }
    Ok(out)
}

fn job_path(id: u32) -> Result<ObjectPath<'static>, zbus::Error> {
    Ok(ObjectPath::try_from(format!("{MANAGER_PATH}/job/{id}"))?)
}

/// The object of a unit: each byte that is no letter or digit as `_xx`, and a digit in front too.
pub(crate) fn unit_path(unit: &str) -> Result<ObjectPath<'static>, zbus::Error> {
    let mut label = String::new();
    for (at, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()) {
            label.push(char::from(byte));
        } else {
            label.push_str(&format!("_{byte:02x}"));
        }
    }
    Ok(ObjectPath::try_from(format!("{MANAGER_PATH}/unit/{label}"))?)
}

fn unit_of_path(path: &str) -> Option<String> {
    let label = path.strip_prefix(MANAGER_PATH)?.strip_prefix("/unit/")?;
    let mut bytes = Vec::new();
    let mut rest = label;
    while let Some(at) = rest.find('_') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        bytes.push(u8::from_str_radix(rest.get(at + 1..at + 3)?, 16).ok()?);
        rest = &rest[at + 3..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_names_become_object_paths_and_return() {
        let path = unit_path("0a-b@c.service").unwrap();
        assert_eq!(path.as_str(), "/org/freedesktop/systemd1/unit/_30a_2db_40c_2eservice");
        assert_eq!(unit_of_path(&path).as_deref(), Some("0a-b@c.service"));
        assert_eq!(unit_of_path("/org/freedesktop/systemd1/unit/a_2"), None);
    }
}
