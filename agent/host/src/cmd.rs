//! The one place that starts a program: absolute path, argument vector, empty environment (but for what is named), a time limit. No shell.

use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// Most bytes of output that are kept.
const MAX_OUTPUT_BYTES: usize = 64 * 1024;

/// When a program that is being written is tried again.
const BUSY: Duration = Duration::from_millis(50);

static STARTED: AtomicU32 = AtomicU32::new(0);

/// How many programs this process has started; the benchmark reports it.
pub fn programs_started() -> u32 {
    STARTED.load(Ordering::Relaxed)
}

/// Processor time that this process and the programs it started have used.
pub fn cpu_time() -> Duration {
    use nix::sys::resource::{UsageWho, getrusage};
    let of = |who| {
        getrusage(who).map_or(0, |usage| {
            let (user, system) = (usage.user_time(), usage.system_time());
            (user.tv_sec() + system.tv_sec()) * 1_000_000 + user.tv_usec() + system.tv_usec()
        })
    };
    Duration::from_micros((of(UsageWho::RUSAGE_SELF) + of(UsageWho::RUSAGE_CHILDREN)).unsigned_abs())
}

/// A program and its arguments.
#[derive(Debug, Clone)]
pub struct Cmd {
    program: PathBuf,
    arguments: Vec<String>,
    kept: &'static [&'static str],
    limit: Duration,
}

/// Why a program did not do what it should.
#[derive(Debug, Error)]
pub enum CmdError {
    /// It could not be started.
    #[error("cannot start {command}")]
    Start {
        /// Program and arguments.
        command: String,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// It ran longer than its limit and was killed.
    #[error("{command} did not end within {limit:?} and was killed")]
    Timeout {
        /// Program and arguments.
        command: String,
        /// The limit.
        limit: Duration,
    },
    /// It ended badly.
    #[error("{command} failed ({status}): {stderr}")]
    Failed {
        /// Program and arguments.
        command: String,
        /// Exit status.
        status: std::process::ExitStatus,
        /// What it said.
        stderr: String,
    },
}

impl Cmd {
    /// A program by absolute path, with a time limit.
    pub fn new(program: PathBuf, arguments: &[&str], limit: Duration) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self { program, arguments, kept: &[], limit }
    }

    /// The same, with these variables of our own environment.
    #[must_use]
    pub fn keeping(self, kept: &'static [&'static str]) -> Self {
        Self { kept, ..self }
    }

    /// Runs it and returns what it printed.
    ///
    /// # Errors
    /// When it cannot start, does not end in time, or exits with anything but 0.
    pub async fn output(&self) -> Result<String, CmdError> {
        self.output_for(String::new()).await
    }

    /// The same, with an input.
    ///
    /// # Errors
    /// As [`Cmd::output`]'s.
    pub async fn output_for(&self, input: String) -> Result<String, CmdError> {
        let run = async {
            let mut command = self.command();
            command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = loop {
                match command.spawn() {
                    // Somebody who writes it has it open still; the time limit counts.
                    Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => tokio::time::sleep(BUSY).await,
                    spawned => break spawned?,
                }
            };
            if let Some(mut stdin) = child.stdin.take() {
                let _ = stdin.write_all(input.as_bytes()).await; // who reads none of it says so by its status
            }
            child.wait_with_output().await
        };
        let output = match tokio::time::timeout(self.limit, run).await {
            Ok(Ok(output)) => output,
            Ok(Err(source)) => return Err(CmdError::Start { command: self.to_string(), source }),
            Err(_) => return Err(CmdError::Timeout { command: self.to_string(), limit: self.limit }),
        };
        let text =
            |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_OUTPUT_BYTES)]).trim().to_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            let stderr = text(&output.stderr);
            Err(CmdError::Failed { command: self.to_string(), status: output.status, stderr })
        }
    }
}

impl Cmd {
    /// Starts it and leaves it running, its output beside ours; the time limit does not count. Dropped, it is killed.
    ///
    /// # Errors
    /// When it cannot start.
    pub fn start(&self) -> Result<Child, CmdError> {
        self.command().spawn().map_err(|source| CmdError::Start { command: self.to_string(), source })
    }

    fn command(&self) -> Command {
        STARTED.fetch_add(1, Ordering::Relaxed);
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .env("LC_ALL", "C.UTF-8")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command.envs(self.kept.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.display())?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {argument}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cmd(program: &str, arguments: &[&str], limit: Duration) -> Cmd {
        Cmd::new(program.into(), arguments, limit)
    }

    #[tokio::test]
    async fn a_program_that_is_being_written_is_waited_for() {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o755).open(&path).unwrap();
        file.write_all(b"#!/bin/sh\necho written\n").unwrap();
        let busy = Cmd::new(path.clone(), &[], Duration::from_millis(200)).output().await.unwrap_err();
        assert!(matches!(busy, CmdError::Timeout { .. }), "{busy}");
        let program = Cmd::new(path, &[], Duration::from_secs(10));
        let (output, ()) = tokio::join!(program.output(), async { drop(file) });
        assert_eq!(output.unwrap(), "written");
    }

    #[tokio::test]
    async fn a_program_sees_no_environment_and_its_failure_tells_all() {
        let minute = Duration::from_secs(60);
        let environment = cmd("/usr/bin/env", &[], minute).output().await.unwrap();
        assert_eq!(environment, "LC_ALL=C.UTF-8\nPATH=/usr/sbin:/usr/bin:/sbin:/bin");
        let failed = cmd("/usr/bin/env", &["--nope"], minute).output().await.unwrap_err().to_string();
        assert!(failed.starts_with("/usr/bin/env --nope failed (exit status: 125): "), "{failed}");
        let missing = cmd("/nope", &[], minute).output().await.unwrap_err();
        assert_eq!(crate::chain(&missing), "cannot start /nope: No such file or directory (os error 2)");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_at_its_limit() {
        let error = cmd("/usr/bin/tail", &["-f", "/dev/null"], Duration::from_millis(50)).output().await.unwrap_err();
        assert_eq!(error.to_string(), "/usr/bin/tail -f /dev/null did not end within 50ms and was killed");
    }
}
