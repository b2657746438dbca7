//! The client side of the checks: calls, properties, and waiting for signals with a deadline.

use super::super::dispatch::{MANAGER, MANAGER_PATH};
use super::Setup;
use nap_host::private_socket;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;
use zbus::export::futures_core::Stream;
use zbus::message::Type;
use zbus::zvariant::{DynamicType, OwnedObjectPath, OwnedValue};
use zbus::{Connection, Message, MessageStream};

pub(super) const UNIT: &str = "org.freedesktop.systemd1.Unit";
pub(super) const SERVICE: &str = "org.freedesktop.systemd1.Service";

/// Why a check did not pass.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct CheckError {
    text: String,
}

impl CheckError {
    pub(super) fn new(text: String) -> CheckError {
        CheckError { text }
    }
}

/// Fails the check when two things differ.
pub(super) fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Result<(), CheckError> {
    if got == want { Ok(()) } else { Err(CheckError::new(format!("{what}: found {got:?}, want {want:?}"))) }
}

/// A job as it was asked for, and how it ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) unit: String,
    pub(super) result: String,
}

pub(super) struct Client {
    connection: Connection,
    signals: UnboundedReceiver<zbus::Result<Message>>,
    ended: Vec<(OwnedObjectPath, Ended)>,
    deadline: Duration,
}

impl Client {
    pub(super) async fn connect(setup: &Setup) -> Result<Client, CheckError> {
        let failed = |error: &dyn std::fmt::Display| CheckError::new(format!("cannot connect: {error}"));
        let connection =
            timeout(setup.deadline, private_socket::connect(&setup.socket, &["JobRemoved", "PropertiesChanged"]))
                .await
                .map_err(|e| failed(&e))?
                .map_err(|e| failed(&e))?;
        let signals = signals_of(&connection);
        let client = Client { connection, signals, ended: Vec::new(), deadline: setup.deadline };
        client.call::<_, ()>("Subscribe", &()).await?;
        Ok(client)
    }

    /// Calls the manager and reads its answer.
    pub(super) async fn call<B, R>(&self, member: &str, body: &B) -> Result<R, CheckError>
    where
        B: serde::Serialize + DynamicType,
        R: serde::de::DeserializeOwned + zbus::zvariant::Type,
    {
        self.read(self.message(MANAGER_PATH, MANAGER, member, body).await.map_err(|e| describe(member, &e))?)
    }

    /// The name of the error that a call gives.
    pub(super) async fn error<B>(&self, member: &str, body: &B) -> Result<String, CheckError>
    where
        B: serde::Serialize + DynamicType,
    {
        match self.message(MANAGER_PATH, MANAGER, member, body).await {
            Err(zbus::Error::MethodError(name, ..)) => Ok(name.to_string()),
            Err(error) => Err(describe(member, &error)),
            Ok(_) => Ok("no error".to_owned()),
        }
    }

    async fn message<B>(&self, path: &str, interface: &str, member: &str, body: &B) -> zbus::Result<Message>
    where
        B: serde::Serialize + DynamicType,
    {
        let calling = self.connection.call_method(None::<&str>, path, Some(interface), member, body);
        timeout(self.deadline, calling).await.map_err(|_| zbus::Error::Failure(format!("no answer to {member}")))?
    }

    fn read<R: serde::de::DeserializeOwned + zbus::zvariant::Type>(&self, reply: Message) -> Result<R, CheckError> {
        reply.body().deserialize::<R>().map_err(|e| CheckError::new(format!("cannot read the answer: {e}")))
    }

    pub(super) async fn reload(&self) -> Result<(), CheckError> {
        self.call("Reload", &()).await
    }

    /// Asks for a job and waits for its end.
    pub(super) async fn job(&mut self, member: &str, unit: &str) -> Result<String, CheckError> {
        let job: OwnedObjectPath = self.call(member, &(unit, "replace")).await?;
        let ended = self.end_of(&job).await?;
        same("the unit in JobRemoved", ended.unit.as_str(), unit)?;
        Ok(ended.result)
    }

    /// Waits until a job is removed.
    pub(super) async fn end_of(&mut self, job: &OwnedObjectPath) -> Result<Ended, CheckError> {
        loop {
            if let Some(at) = self.ended.iter().position(|(path, _)| path == job) {
                return Ok(self.ended.swap_remove(at).1);
            }
            let message = self.next_signal(&format!("the end of {}", job.as_str())).await?;
            if message.header().member().is_some_and(|m| m == "JobRemoved") {
                let body: (u32, OwnedObjectPath, String, String) = self.read(message)?;
                self.ended.push((body.1, Ended { unit: body.2, result: body.3 }));
            }
        }
    }

    async fn next_signal(&mut self, what: &str) -> Result<Message, CheckError> {
        let message = timeout(self.deadline, self.signals.recv()).await;
        match message.map_err(|_| CheckError::new(format!("no sign of {what}")))? {
            Some(Ok(message)) => Ok(message),
            Some(Err(error)) => Err(CheckError::new(format!("while waiting for {what}: {error}"))),
            None => Err(CheckError::new(format!("disconnected while waiting for {what}"))),
        }
    }

    /// A property of a unit.
    pub(super) async fn property(&self, unit: &str, interface: &str, name: &str) -> Result<OwnedValue, CheckError> {
        let path: OwnedObjectPath = self.call("LoadUnit", &(unit,)).await?;
        let body = (interface, name);
        let reply = self.message(path.as_str(), "org.freedesktop.DBus.Properties", "Get", &body).await;
        self.read(reply.map_err(|e| describe(name, &e))?)
    }

    /// The name of the error that asking for a property gives.
    pub(super) async fn property_error(&self, unit: &str, interface: &str, name: &str) -> Result<String, CheckError> {
        let path: OwnedObjectPath = self.call("LoadUnit", &(unit,)).await?;
        let body = (interface, name);
        match self.message(path.as_str(), "org.freedesktop.DBus.Properties", "Get", &body).await {
            Err(zbus::Error::MethodError(error, ..)) => Ok(error.to_string()),
            Err(error) => Err(describe(name, &error)),
            Ok(_) => Ok("no error".to_owned()),
        }
    }

    pub(super) async fn text(&self, unit: &str, interface: &str, name: &str) -> Result<String, CheckError> {
        read_as(name, self.property(unit, interface, name).await?)
    }

    pub(super) async fn flag(&self, unit: &str, name: &str) -> Result<bool, CheckError> {
        read_as(name, self.property(unit, UNIT, name).await?)
    }

    /// `NRestarts` and `ExecMainStatus`.
    pub(super) async fn numbers(&self, unit: &str) -> Result<(u32, i32), CheckError> {
        let restarts = read_as("NRestarts", self.property(unit, SERVICE, "NRestarts").await?)?;
        Ok((restarts, read_as("ExecMainStatus", self.property(unit, SERVICE, "ExecMainStatus").await?)?))
    }

    /// `MainPID`; 0 when there is none.
    pub(super) async fn main_process(&self, unit: &str) -> Result<u32, CheckError> {
        read_as("MainPID", self.property(unit, SERVICE, "MainPID").await?)
    }

    /// `ActiveState/SubState`.
    pub(super) async fn state(&self, unit: &str) -> Result<String, CheckError> {
        Ok(format!("{}/{}", self.text(unit, UNIT, "ActiveState").await?, self.text(unit, UNIT, "SubState").await?))
    }

    /// Waits for a state, looking again after each signal.
    pub(super) async fn until(&mut self, unit: &str, want: &str) -> Result<(), CheckError> {
        while self.state(unit).await? != want {
            self.next_signal(&format!("{unit} in state {want}")).await?;
        }
        Ok(())
    }
}

/// All signals, taken off the connection as they come: systemd sends hundreds before it answers a Reload, and a stream
/// that is full stops the answer, too.
fn signals_of(connection: &Connection) -> UnboundedReceiver<zbus::Result<Message>> {
    let (out, signals) = tokio::sync::mpsc::unbounded_channel();
    let mut stream = Box::pin(MessageStream::from(connection));
    tokio::spawn(async move {
        while let Some(message) = std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await {
            let wanted = message.as_ref().map_or(true, |m| m.message_type() == Type::Signal);
            if wanted && out.send(message).is_err() {
                return;
            }
        }
    });
    signals
}

fn read_as<T: TryFrom<OwnedValue>>(name: &str, value: OwnedValue) -> Result<T, CheckError> {
    let found = format!("{value:?}");
    T::try_from(value).map_err(|_| CheckError::new(format!("{name} has an unexpected type: {found}")))
}

fn describe(what: &str, error: &zbus::Error) -> CheckError {
    CheckError::new(format!("{what}: {error}"))
}
