//! The socket, its clients, and the one task that all events go through.

use super::dispatch;
use super::events::{ClientId, Event};
use super::machine::Machine;
use super::processes::Processes;
use super::search::Root;
use super::{Call, Runner};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use zbus::export::futures_core::Stream;
use zbus::message::Type;
use zbus::{Connection, Guid, Message, MessageStream};

/// How long killed processes may take to be gone when the stand-in ends.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Makes the socket, in place of one left by a predecessor.
pub(crate) fn listen(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Everything the serving thread needs.
pub(crate) struct Server {
    pub(crate) root: Root,
    pub(crate) runner: Runner,
    pub(crate) events: UnboundedSender<Event>,
    pub(crate) inbox: UnboundedReceiver<Event>,
    pub(crate) history: Arc<Mutex<Vec<Call>>>,
}

impl Server {
    /// Serves until told to shut down; every process it started has ended when it returns.
    pub(crate) async fn serve(mut self, listener: std::os::unix::net::UnixListener) {
        let processes = match self.runner {
            Runner::Nothing => None,
            Runner::Processes => Some(Processes::new(self.events.clone())),
        };
        let mut machine = Machine::new(self.root, processes, self.events.clone(), self.history);
        let accepting = tokio::spawn(accept(listener, self.events));
        let mut clients: BTreeMap<ClientId, UnboundedSender<Message>> = BTreeMap::new();
        while let Some(event) = self.inbox.recv().await {
            if matches!(event, Event::Shutdown) {
                break;
            }
            handle(&mut machine, &mut clients, event);
            machine.settle();
            for signal in std::mem::take(&mut machine.signals) {
                let Ok(messages) = dispatch::signal_messages(&machine, &signal) else { continue };
                for (client, message) in clients.values().flat_map(|c| messages.iter().map(move |m| (c, m))) {
                    let _ = client.send(message.clone()); // a client that is gone says so in its own event
                }
            }
            machine.forget_unused();
        }
        accepting.abort();
        end_processes(&mut machine, &mut self.inbox).await;
    }
}

fn handle(machine: &mut Machine, clients: &mut BTreeMap<ClientId, UnboundedSender<Message>>, event: Event) {
    match event {
        Event::Joined(id, client) => {
            clients.insert(id, client);
        }
        Event::Left(id) => {
            clients.remove(&id);
        }
        Event::Called(id, call) => {
            let reply = dispatch::answer(machine, &call);
            if let (Some(client), Some(reply)) = (clients.get(&id), reply) {
                let _ = client.send(reply); // a client that is gone says so in its own event
            }
        }
        Event::Ended(id, end) => machine.ended(id, end),
        Event::Notified { unit, text } => machine.notified(&unit, &text),
        Event::Due { unit, epoch, timer } => machine.due(&unit, epoch, timer),
        Event::Shutdown => {}
    }
}

async fn end_processes(machine: &mut Machine, inbox: &mut UnboundedReceiver<Event>) {
    let Some(processes) = machine.processes.as_mut() else { return };
    processes.kill_all();
    let all_reaped = async {
        while !processes.is_empty() {
            match inbox.recv().await {
                Some(Event::Ended(id, _)) => processes.forget(id),
                Some(_) => {}
                None => return,
            }
        }
    };
    let _ = tokio::time::timeout(END_WITHIN, all_reaped).await; // the kernel keeps one that sleeps in a driver
}

async fn accept(listener: std::os::unix::net::UnixListener, events: UnboundedSender<Event>) {
    let Ok(listener) = tokio::net::UnixListener::from_std(listener) else { return };
    let mut last: ClientId = 0;
    while let Ok((stream, _)) = listener.accept().await {
        last += 1;
        tokio::spawn(client(last, stream, events.clone()));
    }
}

/// One client: what it sends becomes events, what it is sent comes from the serving task, in that task's order.
async fn client(id: ClientId, stream: tokio::net::UnixStream, events: UnboundedSender<Event>) {
    let Ok(connection) = authenticate(stream).await else { return };
    let (out, mut outgoing) = mpsc::unbounded_channel::<Message>();
    let _ = events.send(Event::Joined(id, out)); // receiver gone means we are shutting down
    let sender = connection.clone();
    let writing = tokio::spawn(async move {
        while let Some(message) = outgoing.recv().await {
            if sender.send(&message).await.is_err() {
                return;
            }
        }
    });
    let mut incoming = Box::pin(MessageStream::from(connection));
    while let Some(Ok(message)) = std::future::poll_fn(|context| incoming.as_mut().poll_next(context)).await {
        if message.message_type() == Type::MethodCall && events.send(Event::Called(id, message)).is_err() {
            break;
        }
    }
    let _ = events.send(Event::Left(id)); // receiver gone means we are shutting down
    writing.abort();
}

async fn authenticate(stream: tokio::net::UnixStream) -> zbus::Result<Connection> {
    zbus::connection::Builder::unix_stream(stream).server(Guid::generate())?.p2p().build().await
}
