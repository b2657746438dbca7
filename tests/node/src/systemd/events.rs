//! What comes into the service manager's one task, and what goes out of it.

use super::processes::ProcessId;
use super::service::End;
use zbus::Message;

/// Identifies a client on the bus.
pub(crate) type ClientId = u64;

/// Something the service manager reacts to.
#[derive(Debug)]
pub(crate) enum Event {
    /// A client connected; messages for it go to the sender.
    Joined(ClientId, tokio::sync::mpsc::UnboundedSender<Message>),
    /// A client went away.
    Left(ClientId),
    /// A client called a method.
    Called(ClientId, Message),
    /// A process ended.
    Ended(ProcessId, End),
    /// A service sent a notification.
    Notified { unit: String, text: String },
    /// A timer of a unit ran out.
    Due { unit: String, epoch: u64, timer: Timer },
    /// Stop everything.
    Shutdown,
}

/// What a timer was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    Restart,
    StartTimeout,
    StopTimeout,
    Watchdog,
}

/// Something every client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Changed { unit: String },
    JobRemoved { id: u32, unit: String, result: &'static str },
}
