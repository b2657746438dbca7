//! What is asked of containerd, asked of the real ones, the hung one among them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nap_host::imds::Imds;
use nap_host::root::Root;
use nap_host::watch::{KernelLog, Watch};
use nap_model::monitor::{NoAnswer, Observed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(60);

/// A containerd below a scratch directory, which is the watch's root.
struct Containerd {
    process: Child,
    directory: tempfile::TempDir,
}

impl Containerd {
    fn start(program: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path).display().to_string();
        std::fs::create_dir_all(at("run/containerd")).unwrap();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n",
            at("lib"),
            at("state"),
            at("run/containerd/containerd.sock"),
        );
        std::fs::write(at("config.toml"), config).unwrap();
        let log = std::fs::File::create(at("log")).unwrap();
        let process =
            Command::new(program).args(["--config", &at("config.toml")]).stdout(Stdio::null()).stderr(log).spawn();
        Self { process: process.unwrap(), directory }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.process.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may have ended
        let _ = self.process.wait(); // as above
    }
}

/// Sweeps until something is seen; the deadline is what fails.
async fn until<T>(watch: &mut Watch, what: &str, mut find: impl FnMut(&Observed) -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        let seen = watch.sweep(Duration::from_millis(100)).await;
        if let Some(found) = find(&seen) {
            return found;
        }
        assert!(start.elapsed() < LIMIT, "{what}: not seen; {seen:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn programs() -> Vec<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let names = ["containerd-1.6", "containerd-1.7", "containerd-2"];
    let all = names.iter().map(|name| target.join(name).join("usr/bin/containerd"));
    all.filter(|program| program.exists()).collect()
}

#[tokio::test]
async fn the_real_ones_are_heard_and_a_hung_one_is_not() {
    // fetched by tests/containerd/fetch.sh, as root
    let programs = programs();
    if programs.is_empty() || !nix::unistd::geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: no containerd in target, or not root"); // nobody listens
        return;
    }
    for program in programs {
        let containerd = Containerd::start(&program);
        let root = Arc::new(Root::open(containerd.directory.path()).unwrap());
        let imds = Arc::new(Imds::new("http://127.0.0.1:9").unwrap());
        let mut watch = Watch::start(root, imds, KernelLog::default());
        let good = |seen: &Observed| seen.runtime.clone().filter(|answer| answer.result.is_ok());
        until(&mut watch, "an answer to Version", good).await;
        let conditions = until(&mut watch, "the conditions", |seen| seen.runtime_conditions.clone()).await;
        let mut kinds: Vec<_> = conditions.iter().map(|one| (one.kind.as_str(), one.status)).collect();
        kinds.truncate(2);
        assert_eq!(kinds, [("RuntimeReady", true), ("NetworkReady", false)], "{}", program.display());
        assert!(conditions[1].message.contains("cni"), "{conditions:?}");
        containerd.signal(Signal::SIGSTOP);
        let answer =
            until(&mut watch, "no answer", |seen| seen.runtime.clone().filter(|one| one.result.is_err())).await;
        assert_eq!(answer.result, Err(NoAnswer::Late));
        assert!(answer.took >= Duration::from_secs(5), "{:?}", answer.took);
        containerd.signal(Signal::SIGCONT);
        until(&mut watch, "an answer again", good).await;
    }
}
