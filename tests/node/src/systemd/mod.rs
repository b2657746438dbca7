//! A small systemd below a root directory, spoken to over peer-to-peer D-Bus as `systemctl` speaks to the real one.
//!
//! One task owns all state (`machine`); clients, processes and timers only send it events. So every test that asks
//! the same questions in the same order gets the same answers. What it deliberately does not have: cgroups (a
//! service's processes are one process group), logins, sockets, timers and mounts that do anything, `Introspect`.

mod bus;
pub mod contract;
mod dispatch;
mod events;
mod install;
mod jobs;
mod lifecycle;
mod machine;
mod processes;
mod properties;
pub(crate) mod search;
mod service;
mod unit;
mod unit_file;
mod words;

use events::Event;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::sync::mpsc::UnboundedSender;

/// Where the service manager listens, below its root.
pub const BUS_PATH: &str = "run/systemd/private";

/// What starting a service does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runner {
    /// Nothing runs: a service that is started is active, a oneshot is done.
    Nothing,
    /// Programs below the root run as child processes, with `PRETEND_ROOT` set to the root.
    Processes,
}

/// A call that changed, or was meant to change, a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Name of the unit; empty for `Reload`.
    pub unit: String,
    /// The D-Bus method, such as `StartUnit`.
    pub verb: String,
}

/// Why the stand-in could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket cannot be made.
    #[error("cannot listen on {path}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread or its runtime cannot be made.
    #[error("cannot start a thread for systemd")]
    Thread(#[source] io::Error),
}

/// A running stand-in. Dropping it ends it and every process it started.
#[derive(Debug)]
pub struct PretendSystemd {
    bus: PathBuf,
    history: Arc<Mutex<Vec<Call>>>,
    events: UnboundedSender<Event>,
    thread: Option<JoinHandle<()>>,
}

impl PretendSystemd {
    /// Listens on `ROOT/run/systemd/private` and serves, on a thread of its own, until dropped.
    pub fn start(root: &Path, runner: Runner) -> Result<PretendSystemd, StartError> {
        let bus = root.join(BUS_PATH);
        let listener = bus::listen(&bus).map_err(|source| StartError::Listen { path: bus.clone(), source })?;
        let (events, inbox) = tokio::sync::mpsc::unbounded_channel();
        let history = Arc::new(Mutex::new(Vec::new()));
        let server = bus::Server {
            root: search::Root::new(root),
            runner,
            events: events.clone(),
            inbox,
            history: Arc::clone(&history),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let thread = std::thread::Builder::new()
            .name("pretend-systemd".to_owned())
            .spawn(move || runtime.block_on(server.serve(listener)))
            .map_err(StartError::Thread)?;
        Ok(PretendSystemd { bus, history, events, thread: Some(thread) })
    }

    /// The socket clients connect to.
    pub fn bus(&self) -> &Path {
        &self.bus
    }

    /// Calls so far, the first first. Questions (`LoadUnit`, `GetUnitFileState`, properties) are not in it.
    pub fn history(&self) -> Vec<Call> {
        self.history.lock().expect("no holder of this lock panics").clone()
    }
}

impl Drop for PretendSystemd {
    fn drop(&mut self) {
        let _ = self.events.send(Event::Shutdown); // receiver gone means it has ended by itself
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panic was printed where it happened
        }
        let _ = std::fs::remove_file(&self.bus); // nobody listens there any more; a test may have removed it
    }
}
