//! The processes of services: started below the root directory, watched, and ended with it.

use super::events::Event;
use super::search::Root;
use super::service::{Command, End, Kind, Service};
use super::words::{self, Environment};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

/// Longest notification read, in bytes. Source: NOTIFY_BUFFER_MAX is PIPE_BUF in systemd's src/core/manager.c.
const MAX_NOTIFICATION_BYTES: usize = 4096;

/// Where a program without a slash in its name is looked for.
const PROGRAM_FOLDERS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Identifies a process for as long as the service manager lives, unlike a process number.
pub(crate) type ProcessId = u64;

#[derive(Debug)]
struct Running {
    group: Pid,
    listener: Option<JoinHandle<()>>,
}

/// Processes started and not yet reaped.
#[derive(Debug)]
pub(crate) struct Processes {
    events: UnboundedSender<Event>,
    running: HashMap<ProcessId, Running>,
    last: ProcessId,
}

impl Processes {
    pub(crate) fn new(events: UnboundedSender<Event>) -> Processes {
        Processes { events, running: HashMap::new(), last: 0 }
    }

    /// The number of a process that was not reaped yet.
    pub(crate) fn number(&self, id: ProcessId) -> Option<u32> {
        self.running.get(&id).and_then(|running| u32::try_from(running.group.as_raw()).ok())
    }

    /// Whether every process was reaped.
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// The environment of a service's processes: our own `PRETEND_...`, then `Environment=`, then its files.
    pub(crate) fn environment(&self, root: &Root, service: &Service) -> io::Result<Environment> {
        let ours = std::env::vars().filter(|(name, _)| name.starts_with("PRETEND_"));
        let mut out: Environment = ours.collect();
        out.insert("PATH".to_owned(), PROGRAM_FOLDERS.to_owned());
        out.insert("PRETEND_ROOT".to_owned(), root.path().to_string_lossy().into_owned());
        out.extend(service.environment.clone());
        for (path, optional) in &service.environment_files {
            match root.read(path) {
                Ok(text) => out.extend(words::environment_file(&text)),
                Err(_) if *optional => {}
                Err(error) => return Err(error),
            }
        }
        Ok(out)
    }

    /// Starts one command in a process group of its own.
    pub(crate) fn spawn(
        &mut self,
        root: &Root,
        unit: &str,
        service: &Service,
        command: &Command,
        environment: &Environment,
    ) -> io::Result<ProcessId> {
        self.last += 1;
        let log = log_file(root, unit)?;
        let mut process = tokio::process::Command::new(program(root, &command.program));
        process.args(command.arguments(environment)).env_clear().envs(environment);
        process.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        process.process_group(0).kill_on_drop(true);
        process.current_dir(root.at(service.working_directory.as_deref().unwrap_or("/")));
        let notify = (service.kind == Kind::Notify).then(|| self.notify_socket(unit)).transpose()?;
        if let Some((name, _)) = &notify {
            process.env("NOTIFY_SOCKET", name);
        }
        if let Some(within) = service.watchdog {
            process.env("WATCHDOG_USEC", within.as_micros().to_string());
        }
        let mut child = process.spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let group = group.ok_or_else(|| io::Error::other("the process has no number"))?;
        let (id, events) = (self.last, self.events.clone());
        self.running.insert(id, Running { group, listener: notify.map(|(_, task)| task) });
        tokio::spawn(async move {
            let end = child.wait().await.map_or(End::Code(-1), end_of);
            let _ = events.send(Event::Ended(id, end)); // receiver gone means we are shutting down
        });
        Ok(id)
    }

    /// Listens for a service's notifications on an abstract socket, whose name may be short wherever the root lies.
    fn notify_socket(&self, unit: &str) -> io::Result<(String, JoinHandle<()>)> {
        let name = format!("pretend-systemd/{}/{unit}/{}", std::process::id(), self.last);
        let name = format!("{name}/{:p}", std::ptr::from_ref(self));
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UnixDatagram::from_std(socket)?;
        let (unit, events) = (unit.to_owned(), self.events.clone());
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; MAX_NOTIFICATION_BYTES];
            while let Ok(length) = socket.recv(&mut buffer).await {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if events.send(Event::Notified { unit: unit.clone(), text }).is_err() {
                    return;
                }
            }
        });
        Ok((format!("@{name}"), task))
    }

    /// Sends a signal to a process we started and to what it started.
    pub(crate) fn signal(&mut self, id: ProcessId, signal: Signal) {
        if let Some(running) = self.running.get(&id) {
            // The group is ours until its leader was reaped, which `forget` records; it may just have ended.
            let _ = killpg(running.group, signal);
        }
    }

    /// Sends a signal to a process we started, and to nothing that it started.
    pub(crate) fn signal_leader(&mut self, id: ProcessId, signal: Signal) {
        if let Some(running) = self.running.get(&id) {
            let _ = kill(running.group, signal); // as above
        }
    }

    /// Notes that a process was reaped.
    pub(crate) fn forget(&mut self, id: ProcessId) {
        if let Some(listener) = self.running.remove(&id).and_then(|running| running.listener) {
            listener.abort();
        }
    }

    /// Kills everything that still runs.
    pub(crate) fn kill_all(&mut self) {
        for id in self.running.keys().copied().collect::<Vec<_>>() {
            self.signal(id, Signal::SIGKILL);
        }
    }
}

fn end_of(status: std::process::ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Code(code),
        (None, number) => End::Signal { number: number.unwrap_or(0), core: status.core_dumped() },
    }
}

fn program(root: &Root, name: &str) -> PathBuf {
    if name.starts_with('/') {
        return resolved(root, name);
    }
    let paths = PROGRAM_FOLDERS.split(':').map(|folder| resolved(root, &format!("{folder}/{name}")));
    paths.into_iter().find(|path| path.exists()).unwrap_or_else(|| root.at(name))
}

/// A link inside the root is followed there; one that leads out of it (to a build folder, say) is left to the kernel.
fn resolved(root: &Root, path: &str) -> PathBuf {
    root.follow(path).map(|p| root.at(&p)).filter(|p| p.exists()).unwrap_or_else(|| root.at(path))
}

fn log_file(root: &Root, unit: &str) -> io::Result<File> {
    let folder = root.at("/var/log/pretend");
    std::fs::create_dir_all(&folder)?;
    File::options().create(true).append(true).open(folder.join(format!("{unit}.log")))
}
