//! A running VM.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::console::Console;
use crate::disk::Disk;
use crate::image::folder;
use crate::lines::{Deadline, Listening, Unanswered};
use crate::monitor::Monitor;
use crate::qemu::{self, Files};
use crate::shell::Shell;
use crate::{DataDisk, Image, Output, VmError, VmOptions, program};

/// For QEMU to come up and connect its sockets, or to go down when told so.
const QEMU_LIMIT: Duration = Duration::from_secs(30);
/// For all other tests to be done with the one VM of this machine.
const LOCK_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);
/// How much of the console goes into an error.
const QUOTED_CHARS: usize = 3000;

/// The right to run the one VM of this machine. Held by a [`Vm`]; taken beforehand by who wants to set up servers only then.
#[derive(Debug)]
pub struct VmLock {
    _file: File,
}

impl VmLock {
    /// Waits until no other VM runs.
    pub fn take() -> Result<Self, VmError> {
        // The lock is taken before the image is built: on a clean clone nobody has made the folder yet.
        std::fs::create_dir_all(folder()).map_err(VmError::file("create", folder()))?;
        let path = folder().join("vm.lock");
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(VmError::file("open", &path))?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let locked = file.lock().map(|()| file);
            let _ = sender.send(locked); // receiver gone means the wait was given up
        });
        match receiver.recv_timeout(LOCK_LIMIT) {
            Ok(locked) => Ok(Self { _file: locked.map_err(VmError::file("lock", path))? }),
            Err(_) => {
                let (what, console) = ("free VM: another test runs one".to_owned(), String::new());
                Err(VmError::TooLate { what, within: LOCK_LIMIT, console })
            }
        }
    }
}

/// A VM that was powered on. Dropped, it is killed; its disk and logs stay in target/vm/runs until the next of its name, and
/// its journal too when the test failed.
pub struct Vm {
    process: Child,
    console: Console,
    shell: Shell,
    monitor: Monitor,
    disk: Disk,
    folder: PathBuf,
    boot_starts: usize,
    _sockets: TempDir,
    _lock: VmLock,
}

impl Vm {
    /// Powers on a copy of the image.
    pub fn start(image: &Image, options: &VmOptions) -> Result<Self, VmError> {
        Self::start_with(VmLock::take()?, image, options)
    }

    /// The same, by the lock taken before.
    pub fn start_with(lock: VmLock, image: &Image, options: &VmOptions) -> Result<Self, VmError> {
        let folder = fresh_folder(&options.name)?;
        let disk = Disk::create(&image.disk, folder.join("disk.raw"), &options.overlay)?;
        options.disks.iter().try_for_each(|disk| write_data_disk(&folder, disk))?;
        let sockets = tempfile::tempdir().map_err(VmError::file("create a folder for the sockets of", &folder))?;
        let files = Files {
            disk: disk.path().to_owned(),
            disc: write_disc(&folder, options)?,
            folder: folder.clone(),
            shell: sockets.path().join("shell"),
            monitor: sockets.path().join("monitor"),
        };
        let (shell, monitor) = (Listening::new(&files.shell)?, Listening::new(&files.monitor)?);
        let (mut process, console) = spawn(image, options, &files, &folder)?;
        let (shell, monitor) = match connect(shell, monitor) {
            Ok(connected) => connected,
            Err(reason) => {
                let _ = process.kill(); // it may have ended by itself
                let _ = process.wait();
                // What QEMU wrote says more than that it was silent.
                let reason = if matches!(reason, Unanswered::TooLate) { Unanswered::Closed } else { reason };
                return Err(failure(reason, "connection from QEMU", QEMU_LIMIT, &console, &folder));
            }
        };
        Ok(Self { process, console, shell, monitor, disk, folder, boot_starts: 0, _sockets: sockets, _lock: lock })
    }

    /// Waits until the console says `text` in the current boot, and returns the time since power-on at which it did.
    pub fn wait_for_console(&self, text: &str, within: Duration) -> Result<Duration, VmError> {
        let found = self.console.wait_for(text, self.boot_starts, Deadline::after(within));
        found.map_err(|reason| self.failure(reason, &format!("{text:?} on the console"), within))
    }

    /// Waits until the root shell of the current boot answers.
    pub fn wait_for_shell(&mut self, within: Duration) -> Result<(), VmError> {
        let ready = self.shell.wait_ready(Deadline::after(within));
        ready.map_err(|reason| self.failure(reason, "root shell", within))
    }

    /// Runs a command as root in the guest, by bash. It gets the status 124 when it takes longer than `within`.
    pub fn run(&mut self, command: &str, within: Duration) -> Result<Output, VmError> {
        let answer = self.shell.run(command, within);
        answer.map_err(|reason| self.failure(reason, &format!("answer to {command:?}"), within))
    }

    /// The boot id of the current boot, once its shell answered.
    pub fn boot_id(&self) -> Option<&str> {
        self.shell.boot_id()
    }

    /// Reboots the guest in good order, and waits for the next boot's shell.
    pub fn reboot(&mut self, within: Duration) -> Result<(), VmError> {
        self.run_into_next_boot("systemctl reboot", within)
    }

    /// Runs a command after which the guest reboots, and waits for the next boot's shell. What the command says is lost.
    pub fn run_into_next_boot(&mut self, command: &str, within: Duration) -> Result<(), VmError> {
        self.monitor.forget_events();
        self.post(command, within)?;
        let deadline = Deadline::after(within);
        self.next_boot(deadline, within)
    }

    /// Presses the reset button: nothing is written back. Waits for the next boot's shell.
    pub fn reset(&mut self, within: Duration) -> Result<(), VmError> {
        let deadline = Deadline::after(within);
        self.monitor.forget_events();
        let answer = self.monitor.execute("system_reset", &json!({}), deadline);
        answer.map_err(|reason| self.failure(reason, "answer of the monitor", within))?;
        self.next_boot(deadline, within)
    }

    /// Changes a device while it runs: a property of QEMU's, as `-device NAME,help` lists them.
    pub fn set_property(
        &mut self,
        device: &str,
        property: &str,
        value: &Value,
        within: Duration,
    ) -> Result<(), VmError> {
        let deadline = Deadline::after(within);
        let arguments = json!({"path": format!("/machine/peripheral/{device}"), "property": property, "value": value});
        let answer = self.monitor.execute("qom-set", &arguments, deadline);
        answer.map_err(|reason| self.failure(reason, "answer of the monitor", within))
    }

    /// Powers the guest off in good order and hands over its disk.
    pub fn power_off(mut self, within: Duration) -> Result<Stopped, VmError> {
        self.post("systemctl poweroff", within)?;
        self.wait_for_power_off(within)
    }

    /// Waits until the guest has powered itself off, and hands over its disk.
    pub fn wait_for_power_off(mut self, within: Duration) -> Result<Stopped, VmError> {
        let ended = self.monitor.wait_for_end(Deadline::after(within));
        ended.map_err(|reason| self.failure(reason, "power-off", within))?;
        Ok(self.stopped())
    }

    /// Pulls the plug and hands over the disk, its journal replayed.
    pub fn cut_power(mut self) -> Result<Stopped, VmError> {
        self.process.kill().map_err(VmError::file("kill QEMU of", &self.folder))?;
        let stopped = self.stopped();
        stopped.disk.replay_journal()?;
        Ok(stopped)
    }

    /// Everything the serial console has said since power-on.
    pub fn console(&self) -> String {
        self.console.text()
    }

    /// The VM's own disk. Read it after power-off.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// SHA-256 of what a disk beside the OS disk holds, as this machine sees it: where data is, and which. A hole that was filled with
    /// zeroes counts as a change. Sync in the guest first.
    pub fn data_disk_digest(&self, name: &str) -> Result<String, VmError> {
        let path = qemu::data_disk(&self.folder, name);
        digest_of_data(&path).map_err(VmError::file("read", path))
    }

    /// Where the VM's disk and logs lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn post(&mut self, command: &str, within: Duration) -> Result<(), VmError> {
        let sent = self.shell.post(command, within);
        sent.map_err(|reason| self.failure(reason, "root shell", within))
    }

    fn next_boot(&mut self, deadline: Deadline, within: Duration) -> Result<(), VmError> {
        let reset = self.monitor.wait_for("RESET", deadline);
        reset.map_err(|reason| self.failure(reason, "reset of the machine", within))?;
        self.boot_starts = self.console.len();
        let ready = self.shell.forget_boot().and_then(|()| self.shell.wait_ready(deadline));
        ready.map_err(|reason| self.failure(reason, "root shell after the reset", within))
    }

    /// A failed test leaves the guest's journal behind, as `journal.log`.
    fn keep_journal(&mut self) {
        if self.boot_id().is_some()
            && let Ok(journal) = self.run("journalctl --boot --no-pager --output short-monotonic", QEMU_LIMIT)
        {
            let _ = std::fs::write(self.folder.join("journal.log"), journal.text); // the test has failed already
        }
    }

    fn stopped(&mut self) -> Stopped {
        let _ = self.process.wait(); // its exit status says nothing that the console does not
        Stopped { disk: self.disk.clone(), console: self.console.text(), folder: self.folder.clone() }
    }

    fn failure(&self, reason: Unanswered, what: &str, within: Duration) -> VmError {
        failure(reason, what, within, &self.console, &self.folder)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_journal();
        }
        let _ = self.process.kill(); // it may have ended by itself
        let _ = self.process.wait();
    }
}

/// What is left of a VM that is off.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// Its disk.
    pub disk: Disk,
    /// Everything its console said.
    pub console: String,
    /// Where disk and logs lie.
    pub folder: PathBuf,
}

fn fresh_folder(name: &str) -> Result<PathBuf, VmError> {
    let path = folder().join("runs").join(name);
    if path.exists() {
        std::fs::remove_dir_all(&path).map_err(VmError::file("clear", &path))?;
    }
    std::fs::create_dir_all(&path).map_err(VmError::file("create", &path))?;
    Ok(path)
}

fn write_disc(folder: &Path, options: &VmOptions) -> Result<Option<PathBuf>, VmError> {
    let Some(disc) = &options.disc else { return Ok(None) };
    let path = folder.join("ovf.iso");
    disc.write(&path)?;
    Ok(Some(path))
}

fn write_data_disk(folder: &Path, disk: &DataDisk) -> Result<(), VmError> {
    let path = qemu::data_disk(folder, &disk.name);
    let made = File::create(&path).and_then(|file| file.set_len(disk.bytes));
    made.map_err(VmError::file("create", &path))?;
    for (offset, from) in &disk.content {
        let seek = ["oflag=seek_bytes".to_owned(), format!("seek={offset}")];
        let files = [format!("if={}", from.display()), format!("of={}", path.display())];
        let options = ["bs=1M", "conv=notrunc,sparse", "status=none"].map(str::to_owned);
        let arguments: Vec<String> = files.into_iter().chain(seek).chain(options).collect();
        program::run(Path::new("dd"), &arguments, QEMU_LIMIT)?;
    }
    Ok(())
}

/// Holes are skipped, so that a disk of many GiB takes as long as what is on it.
fn digest_of_data(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut at = 0;
    loop {
        let start = match lseek(&file, at, Whence::SeekData) {
            Err(Errno::ENXIO) => break,
            other => other?,
        };
        let end = lseek(&file, start, Whence::SeekHole)?;
        hash.update(start.to_le_bytes());
        hash.update(end.to_le_bytes());
        file.seek(SeekFrom::Start(start.unsigned_abs()))?;
        let mut part = (&mut file).take(end.abs_diff(start));
        let mut buffer = vec![0; 1 << 20];
        loop {
            match part.read(&mut buffer)? {
                0 => break,
                length => hash.update(&buffer[..length]),
            }
        }
        at = end;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn spawn(image: &Image, options: &VmOptions, files: &Files, folder: &Path) -> Result<(Child, Console), VmError> {
    let log = folder.join("qemu.log");
    let errors = File::create(&log).map_err(VmError::file("create", log))?;
    let mut command = qemu::command(image, options, files)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    let start = |source| VmError::Start { program: "qemu-system-x86_64".to_owned(), source };
    let mut process = command.spawn().map_err(start)?;
    let output = process.stdout.take().expect("standard output was asked to be piped");
    Ok((process, Console::collect(output, &folder.join("console.log"))?))
}

fn connect(shell: Listening, monitor: Listening) -> Result<(Shell, Monitor), Unanswered> {
    let shell = Shell::new(shell.accept(QEMU_LIMIT)?);
    let monitor = Monitor::greet(monitor.accept(QEMU_LIMIT)?, Deadline::after(QEMU_LIMIT))?;
    Ok((shell, monitor))
}

fn failure(reason: Unanswered, what: &str, within: Duration, console: &Console, folder: &Path) -> VmError {
    let what = what.to_owned();
    let console = program::tail(&console.text(), QUOTED_CHARS);
    match reason {
        Unanswered::TooLate => VmError::TooLate { what, within, console },
        Unanswered::Refused(error) => *error,
        Unanswered::Closed => {
            let qemu = std::fs::read_to_string(folder.join("qemu.log")).unwrap_or_default();
            VmError::Ended { what, qemu, console }
        }
    }
}
