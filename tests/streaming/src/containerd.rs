//! A real containerd below a directory of its own.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::cri::Cri;

/// Longest start.
const START: Duration = Duration::from_secs(60);

/// Longest call, but where a test says otherwise.
const CALL: Duration = Duration::from_secs(20);

/// A series that `tests/containerd/fetch.sh` fetches; nothing when it did not, or when this is not root's process.
pub fn fetched(series: &str) -> Option<PathBuf> {
    let programs = PathBuf::from(format!("{}/../../target/containerd-{series}/usr/bin", env!("CARGO_MANIFEST_DIR")));
    Some(programs).filter(|programs| programs.join("containerd").exists() && nix::unistd::geteuid().is_root())
}

/// A containerd that runs, or ran.
#[derive(Debug)]
pub struct Containerd {
    programs: PathBuf,
    directory: PathBuf,
    process: Option<Child>,
}

impl Containerd {
    /// One with its programs in `programs` that keeps everything below `directory`. It is not started.
    pub fn new(programs: &Path, directory: &Path) -> Self {
        Self { programs: programs.to_owned(), directory: directory.to_owned(), process: None }
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("containerd.sock")
    }

    /// kubelet's way to it.
    pub fn cri(&self) -> Cri {
        Cri::new(&self.socket(), CALL)
    }

    /// What its own client says, in Kubernetes' namespace.
    ///
    /// # Errors
    /// When that fails.
    pub fn ctr(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut ctr = Command::new(self.programs.join("ctr"));
        let output =
            ctr.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io"]).args(arguments).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            bail!("ctr {}: {}", arguments.join(" "), text(&output.stderr));
        }
        Ok(text(&output.stdout))
    }

    /// Starts it with this configuration, and waits until it answers or says that it has no CRI. Paths below `/` that are the node's are
    /// moved below the directory.
    ///
    /// # Errors
    /// When it ends, or does neither in time.
    pub async fn start(&mut self, configuration: &str) -> anyhow::Result<()> {
        self.stop()?;
        let path = self.directory.join("config.toml");
        fs::write(&path, self.own(configuration)?)?;
        let log = fs::File::options().create(true).append(true).open(self.directory.join("log"))?;
        let path_variable = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.programs.display());
        let process = Command::new(self.programs.join("containerd"))
            .arg("--config")
            .arg(&path)
            .env("PATH", path_variable)
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()?;
        self.process = Some(process);
        let start = Instant::now();
        let mut last = String::new();
        while start.elapsed() < START {
            match self.cri().version().await {
                Ok(()) => return Ok(()),
                Err(status) if status.code == crate::grpc::Status::UNIMPLEMENTED => return Ok(()),
                Err(status) => last = status.to_string(),
            }
            if let Some(ended) = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten()) {
                bail!("containerd ended with {ended}: {}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("containerd does not answer: {last}; {}", self.log())
    }

    fn own(&self, configuration: &str) -> anyhow::Result<String> {
        let at = |path: &str| self.directory.join(path).display().to_string();
        let mut table: toml::Table = configuration.parse().context("no TOML")?;
        table.insert("root".to_owned(), at("lib").into());
        table.insert("state".to_owned(), at("state").into());
        let grpc = toml::Table::from_iter([("address".to_owned(), at("containerd.sock").into())]);
        table.insert("grpc".to_owned(), grpc.into());
        table.remove("metrics");
        table.remove("oom_score");
        let text = toml::to_string(&table)?;
        Ok(text
            .replace("/run/overlaybd-snapshotter/overlaybd.sock", &at("snapshotter.sock"))
            .replace("/etc/containerd/certs.d", &at("certs.d"))
            .replace("SystemdCgroup = true", "SystemdCgroup = false"))
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Stops it, as systemd does: what it started runs on.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        kill(Pid::from_raw(i32::try_from(process.id())?), Signal::SIGTERM)?;
        process.wait()?;
        Ok(())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let group = Pid::from_raw(i32::try_from(process.id()).unwrap_or_default());
            let _ = killpg(group, Signal::SIGKILL); // it may have ended
            let _ = process.wait(); // as above
        }
    }
}
