//! What a real containerd does when its snapshotter does not: each case first as it is without us, then as we leave it.
//!
//! The cases are those of `facts/disks-imds-streaming.md` 5.3. Everything runs below a scratch directory; the configurations are the
//! plan's own. Needs root and `tests/containerd/fetch.sh`; says SKIPPED otherwise.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nap_host::executor::Executor;
use nap_host::journal::Journal;
use nap_host::root::Root;
use nap_host::{images, snapshotter};
use nap_model::config::{NodeConfig, decode};
use nap_model::monitor::{ImagesSeen, NoAnswer};
use nap_model::os::Distribution;
use nap_model::plan::{AbsPath, Stage, Step, Want, plan};
use pretend_streaming::containerd::{Containerd, fetched};
use pretend_streaming::cri::Cri;
use pretend_streaming::grpc::Status;
use pretend_streaming::registry::{Image, Mood, Registry};

const DOCUMENT: &str = include_str!("../../../agent/model/testdata/streaming.yaml");

/// The versions that the plan is told of, by series.
const SERIES: [(&str, &str); 2] = [("1.7", "1.7.24"), ("2", "2.1.9")];

/// A node's containerd with what is around it.
struct Bench {
    directory: tempfile::TempDir,
    registry: Registry,
    containerd: Containerd,
    version: &'static str,
    snapshotter: Option<Child>,
    app: Image,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.kill_snapshotter();
    }
}

impl Bench {
    async fn new(programs: &Path, version: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (app, pause) = (Image::waits("test/app", "1"), Image::waits("test/pause", "1"));
        let registry = Registry::start(0, &[app.clone(), pause.clone()]).await.unwrap();
        for image in [&app, &pause] {
            image.lay_out(&directory.path().join("snapshots/layers")).unwrap();
        }
        let hosts = directory.path().join("certs.d").join(registry.name());
        fs::create_dir_all(&hosts).unwrap();
        fs::write(hosts.join("hosts.toml"), format!("server = \"http://{}\"\n", registry.name())).unwrap();
        let containerd = Containerd::new(programs, directory.path());
        Self { directory, registry, containerd, version, snapshotter: None, app }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn start_snapshotter(&mut self, mode: &str) {
        self.kill_snapshotter();
        let program = env!("CARGO_BIN_EXE_pretend-snapshotter");
        let mut command = Command::new(program);
        command.arg(self.at("snapshotter.sock")).arg(self.at("snapshots")).arg(mode).stdout(Stdio::null());
        self.snapshotter = Some(command.spawn().unwrap());
    }

    fn kill_snapshotter(&mut self) {
        if let Some(mut snapshotter) = self.snapshotter.take() {
            snapshotter.kill().unwrap();
            snapshotter.wait().unwrap();
        }
    }

    /// What the boot's own probe says of the snapshotter.
    async fn probe(&self, limit: Duration) -> Result<(), String> {
        let root = Root::open(self.directory.path()).unwrap();
        snapshotter::answers(&root, "/snapshotter.sock", limit).await
    }

    /// containerd's configuration in the plan of a node that streams, or whose streaming did not come up.
    fn configuration(&self, failure: Option<&str>) -> String {
        let text = DOCUMENT.replace("MODE", "none").replace("VERSION", "1.34.2");
        let mut config: NodeConfig = decode(text.as_bytes()).unwrap().config.unwrap();
        config.containerd.sandbox_image = self.image("test/pause:1");
        let mut facts = Distribution::named("ubuntu-24.04").unwrap().typical_facts();
        facts.programs.containerd = self.version.try_into().ok();
        facts.streaming_failure = failure.map(str::to_owned);
        let plan = plan(&config, &facts).unwrap();
        let file = plan.steps().find_map(|step| match &step.want {
            Want::File { path, content, .. } if path.as_str() == "/etc/containerd/config.toml" => Some(content),
            _ => None,
        });
        file.unwrap().reveal().to_owned()
    }

    async fn start(&mut self) -> Cri {
        let configuration = self.configuration(None);
        self.containerd.start(&configuration).await.unwrap();
        self.containerd.cri()
    }

    /// As the boot leaves a node whose streaming did not come up.
    async fn start_without_streaming(&mut self, why: &str) -> Cri {
        let configuration = self.configuration(Some(why));
        self.containerd.start(&configuration).await.unwrap();
        self.containerd.cri()
    }

    fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.name())
    }
}

/// A bench for each containerd that was fetched.
async fn benches() -> Vec<Bench> {
    let mut benches = Vec::new();
    for (series, version) in SERIES {
        match fetched(series) {
            Some(programs) => benches.push(Bench::new(&programs, version).await),
            None => {
                let _ = writeln!(std::io::stderr(), "SKIPPED: no containerd {series} in target, or not root"); // nobody listens
            }
        }
    }
    benches
}

#[tokio::test]
async fn a_without_the_plugin_there_is_no_cri_and_the_plan_never_leaves_it_out() {
    for mut bench in benches().await {
        let whole = bench.configuration(None);
        let mut table: toml::Table = whole.parse().unwrap();
        table.remove("proxy_plugins").expect("the plan declares it");
        bench.containerd.start(&toml::to_string(&table).unwrap()).await.unwrap();
        let status = bench.containerd.cri().version().await.unwrap_err();
        assert_eq!(status.code, Status::UNIMPLEMENTED, "{}: {status}", bench.version);
        bench.containerd.start(&whole).await.unwrap();
        bench.containerd.cri().version().await.unwrap();
    }
}

#[tokio::test]
async fn b_a_socket_where_nobody_listens_breaks_every_pull_and_the_probe_sees_it_first() {
    for mut bench in benches().await {
        let app = bench.image("test/app:1");
        let cri = bench.start().await;
        let status = cri.pull(&app).await.unwrap_err();
        assert!(status.message.contains("snapshotter.sock"), "{}: {status}", bench.version);
        assert!(cri.run_pod("a").await.is_err(), "the pause image cannot be unpacked either");

        let start = Instant::now();
        let why = bench.probe(Duration::from_secs(1)).await.unwrap_err();
        assert!(why.contains("nobody listens"), "{why}");
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        let cri = bench.start_without_streaming(&why).await;
        cri.pull(&app).await.unwrap();
        assert_eq!(cri.images().await.unwrap(), [app.as_str()], "{}", bench.version);
    }
}

#[tokio::test]
async fn b2_a_snapshotter_that_comes_late_is_used_without_a_restart() {
    for mut bench in benches().await {
        let app = bench.image("test/app:1");
        let cri = bench.start().await;
        cri.pull(&app).await.unwrap_err();
        bench.start_snapshotter("plain");
        bench.probe(Duration::from_secs(10)).await.unwrap();
        // containerd's own connection may be in a pause between two tries.
        until(|| async { cri.pull(&app).await.is_ok() }).await;
        assert_eq!(cri.images().await.unwrap(), [app.as_str()], "{}", bench.version);
    }
}

#[tokio::test]
async fn b3_containerd_that_starts_first_loses_its_images_and_one_that_waits_does_not() {
    for mut bench in benches().await {
        let app = bench.image("test/app:1");
        bench.start_snapshotter("plain");
        bench.probe(Duration::from_secs(10)).await.unwrap();
        let cri = bench.start().await;
        cri.pull(&app).await.unwrap();
        assert_eq!(cri.images().await.unwrap(), [app.as_str()]);

        // A reboot without an order: containerd is first.
        bench.containerd.stop().unwrap();
        bench.kill_snapshotter();
        let cri = bench.start().await;
        assert_eq!(cri.images().await.unwrap(), [""; 0], "{}", bench.version);
        bench.start_snapshotter("plain");
        bench.probe(Duration::from_secs(10)).await.unwrap();
        assert_eq!(cri.images().await.unwrap(), [""; 0], "{}: the socket is back, the images are not", bench.version);
        let counted = images::count(&bench.containerd.socket()).await.unwrap();
        assert_eq!(counted, ImagesSeen { listed: 0, stored: 1 }, "{}: and the watch can tell", bench.version);

        // What the repair does.
        bench.containerd.stop().unwrap();
        let cri = bench.start().await;
        assert_eq!(cri.images().await.unwrap(), [app.as_str()], "{}", bench.version);
        let counted = images::count(&bench.containerd.socket()).await.unwrap();
        assert_eq!(counted, ImagesSeen { listed: 1, stored: 1 }, "{}", bench.version);

        // A reboot with the drop-in's wait: the snapshotter comes while it waits.
        bench.containerd.stop().unwrap();
        bench.kill_snapshotter();
        let waiting = async {
            let wait = bench.probe(Duration::from_secs(20));
            tokio::pin!(wait);
            let early = tokio::time::timeout(Duration::from_secs(1), &mut wait).await;
            assert!(early.is_err(), "it waits while nobody listens");
            let program = env!("CARGO_BIN_EXE_pretend-snapshotter");
            let snapshotter =
                Command::new(program).arg(bench.at("snapshotter.sock")).arg(bench.at("snapshots")).arg("plain").spawn();
            wait.await.unwrap();
            snapshotter.unwrap()
        };
        let snapshotter = waiting.await;
        bench.snapshotter = Some(snapshotter);
        let cri = bench.start().await;
        assert_eq!(cri.images().await.unwrap(), [app.as_str()], "{}", bench.version);
    }
}

/// The executor's step for a node that falls back, on this bench's containerd.
async fn forget_hollow_images(bench: &Bench) -> bool {
    apply(bench, Want::WholeImages { socket: AbsPath::literal("/containerd.sock") }).await
}

#[tokio::test]
async fn c_a_streamed_image_is_stuck_under_overlayfs_until_it_is_forgotten() {
    for mut bench in benches().await {
        let (app, pause) = (bench.image("test/app:1"), bench.image("test/pause:1"));
        bench.start_snapshotter("remote");
        bench.probe(Duration::from_secs(10)).await.unwrap();
        let cri = bench.start().await;
        for image in [&app, &pause] {
            cri.pull(image).await.unwrap();
        }
        bench.containerd.stop().unwrap();
        bench.kill_snapshotter();

        // The pause image was streamed, too, and kubelet pulls nothing that is listed.
        let cri = bench.start_without_streaming("the snapshotter is gone").await;
        assert_eq!(cri.images().await.unwrap(), [app.as_str(), pause.as_str()]);
        let status = cri.run_pod("c").await.unwrap_err();
        assert!(status.message.contains("not found"), "{}: {status}", bench.version);

        assert!(forget_hollow_images(&bench).await, "{}", bench.version);
        until(|| async { cri.images().await.unwrap().is_empty() }).await;
        for image in [&app, &pause] {
            cri.pull(image).await.unwrap();
        }
        assert!(!forget_hollow_images(&bench).await, "{}: what was pulled is whole", bench.version);
        assert_eq!(cri.images().await.unwrap(), [app.as_str(), pause.as_str()]);
        // A machine that builds may not be allowed to start a container; then it comes as far as runc.
        match cri.run_pod("c").await {
            Ok(pod) => _ = cri.run_container(&pod, "c", &app).await.unwrap(),
            Err(status) => assert!(status.message.contains("runc"), "{}: {status}", bench.version),
        }
    }
}

#[tokio::test]
async fn d_images_of_overlayfs_are_unpacked_again_when_streaming_comes() {
    for mut bench in benches().await {
        let app = bench.image("test/app:1");
        let cri = bench.start_without_streaming("not yet").await;
        cri.pull(&app).await.unwrap();
        bench.start_snapshotter("plain");
        bench.probe(Duration::from_secs(10)).await.unwrap();
        let cri = bench.start().await;
        assert_eq!(cri.images().await.unwrap(), [app.as_str()], "{}", bench.version);
        bench.registry.take_log();
        cri.pull(&app).await.unwrap();
        let log = bench.registry.take_log();
        assert!(!log.iter().any(|line| line.starts_with("GET") && line.contains("/blobs/")), "{log:?}");
    }
}

#[tokio::test]
async fn e_a_snapshotter_that_hangs_holds_every_pull_and_the_probe_does_not_wait_for_it() {
    for mut bench in benches().await {
        let app = bench.image("test/app:1");
        bench.start_snapshotter("hang");
        let start = Instant::now();
        let why = bench.probe(Duration::from_secs(3)).await.unwrap_err();
        assert!(why.contains("gives no answer"), "{why}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());

        bench.start().await;
        let patient = Cri::new(&bench.containerd.socket(), Duration::from_secs(8));
        let status = patient.pull(&app).await.unwrap_err();
        assert_eq!(status.code, Status::DEADLINE_EXCEEDED, "{}: {status}", bench.version);

        let cri = bench.start_without_streaming(&why).await;
        cri.pull(&app).await.unwrap();
    }
}

#[tokio::test]
async fn f_containerds_own_list_says_nothing_and_the_sockets_does() {
    for mut bench in benches().await {
        bench.start().await;
        bench.containerd.cri().list_snapshots("overlaybd").await.unwrap();
        let socket = bench.at("snapshotter.sock");
        let ask = || async { snapshotter::ask(&socket, Duration::from_secs(1)).await };
        assert!(matches!(ask().await, Err(NoAnswer::Refused(_))), "{:?}", ask().await);
        bench.start_snapshotter("fail");
        let bad = |answer: &Result<(), NoAnswer>| matches!(answer, Err(NoAnswer::Bad(_)));
        until(|| async { bad(&ask().await) }).await;
        bench.start_snapshotter("plain");
        until(|| async { ask().await.is_ok() }).await;
    }
}

/// Looks until it is so; the deadline is what fails.
async fn until<F: Future<Output = bool>>(look: impl Fn() -> F) {
    let start = Instant::now();
    while !look().await {
        assert!(start.elapsed() < Duration::from_secs(20), "it did not happen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_streamed_image_is_there_without_its_layers() {
    for mut bench in benches().await {
        let app = bench.image("test/app:1");
        bench.start_snapshotter("remote");
        bench.probe(Duration::from_secs(10)).await.unwrap();
        let cri = bench.start().await;
        cri.pull(&app).await.unwrap();
        let log = bench.registry.take_log();
        let layers: Vec<String> =
            bench.app.layers.iter().map(|layer| pretend_streaming::registry::digest(layer)).collect();
        let pulled: Vec<&String> = log.iter().filter(|line| layers.iter().any(|layer| line.contains(layer))).collect();
        assert_eq!(pulled, [""; 0], "{}: {log:?}", bench.version);
        assert!(log.iter().any(|line| line.starts_with("GET") && line.contains("/manifests/")), "{log:?}");
    }
}

/// Where containerd asks first, as the plan has it for a node that streams, with the test's own port.
fn mirror_hosts(port: &str, origin: &str) -> String {
    let text = DOCUMENT.replace("MODE", "none").replace("VERSION", "1.34.2");
    let config = decode(text.as_bytes()).unwrap().config.unwrap();
    let plan = plan(&config, &Distribution::named("ubuntu-24.04").unwrap().typical_facts()).unwrap();
    let hosts = plan.steps().find_map(|step| match &step.want {
        Want::Hosts { path, content, .. } if path.as_str().ends_with("/_default/hosts.toml") => content.clone(),
        _ => None,
    });
    let hosts = hosts.unwrap().replace("localhost:8578", port);
    // The registry of the test has no TLS, which is what a name without a file of its own would be asked by.
    let (first, rest) = hosts.split_once('\n').unwrap();
    format!("{first}\nserver = \"http://{origin}\"\n{rest}")
}

#[tokio::test]
async fn a_mirror_that_hangs_holds_every_pull_and_is_withdrawn_without_a_restart() {
    for mut bench in benches().await {
        let images: Vec<Image> = (0..8).map(|number| Image::waits("test/of", &number.to_string())).collect();
        let origin = Registry::start(0, &images).await.unwrap();
        let mirror = Registry::start(0, &images).await.unwrap();
        let directory = bench.at("certs.d/_default");
        fs::create_dir_all(&directory).unwrap();
        let (path, hosts) = (directory.join("hosts.toml"), mirror_hosts(&mirror.name(), &origin.name()));
        fs::write(&path, &hosts).unwrap();
        let cri = bench.start_without_streaming("this is about the mirror").await;
        let mut numbers = 0..8;
        let mut next = || format!("{}/test/of:{}", origin.name(), numbers.next().unwrap());
        let asked = |registry: &Registry| registry.take_log().iter().any(|line| line.contains("/manifests/"));

        cri.pull(&next()).await.unwrap();
        assert_eq!((asked(&mirror), asked(&origin)), (true, false), "{}: the mirror has it", bench.version);
        for mood in [Mood::NotFound, Mood::Unavailable] {
            mirror.is(mood);
            cri.pull(&next()).await.unwrap();
            assert_eq!((asked(&mirror), asked(&origin)), (true, true), "{}: {mood:?} falls through", bench.version);
        }
        mirror.is(Mood::Hangs);
        let patient = Cri::new(&bench.containerd.socket(), Duration::from_secs(8));
        let held = next();
        assert_eq!(patient.pull(&held).await.unwrap_err().code, Status::DEADLINE_EXCEEDED, "{}", bench.version);

        fs::remove_file(&path).unwrap();
        fs::write(&path, format!("server = \"http://{}\"\n", origin.name())).unwrap();
        mirror.take_log();
        let start = Instant::now();
        cri.pull(&held).await.unwrap();
        assert_eq!(mirror.take_log(), [""; 0], "{}", bench.version);
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());

        fs::write(&path, &hosts).unwrap();
        mirror.is(Mood::Serves);
        cri.pull(&next()).await.unwrap();
        assert!(asked(&mirror), "{}: it is back", bench.version);
        drop(mirror);
        cri.pull(&next()).await.unwrap();
        assert!(asked(&origin), "{}: nobody listens, and it falls through", bench.version);
    }
}

/// Applies one step on a bench; whether it changed anything.
async fn apply(bench: &Bench, want: Want) -> bool {
    let root = Arc::new(Root::open(bench.directory.path()).unwrap());
    let journal = Arc::new(Journal::open(&root, "boot", "test").unwrap());
    let executor = Executor::new(Arc::clone(&root), journal, Duration::from_secs(1));
    let step = Step::new("step", "a test", want);
    !executor.apply(&Stage { name: "test", steps: vec![step] }).await.unwrap().changed.is_empty()
}

#[tokio::test]
async fn g_what_the_snapshotter_has_lost_is_struck_out_of_containerds_books() {
    for mode in ["plain", "remote"] {
        for mut bench in benches().await {
            let (app, pause) = (bench.image("test/app:1"), bench.image("test/pause:1"));
            bench.start_snapshotter(mode);
            bench.probe(Duration::from_secs(10)).await.unwrap();
            let cri = bench.start().await;
            for image in [&app, &pause] {
                cri.pull(image).await.unwrap();
            }
            // Of a pod that ran before the reboot.
            bench.containerd.ctr(&["containers", "create", "--snapshotter", "overlaybd", &app, "dead"]).unwrap();
            let kept =
                || Want::KeptSnapshots { socket: AbsPath::literal("/containerd.sock"), snapshotter: "overlaybd" };
            assert!(!apply(&bench, kept()).await, "{} {mode}: nothing is lost", bench.version);

            bench.containerd.stop().unwrap();
            bench.kill_snapshotter();
            fs::remove_dir_all(bench.at("snapshots/snapshots")).unwrap();
            fs::remove_file(bench.at("snapshots/books.json")).unwrap();
            bench.start_snapshotter(mode);
            bench.probe(Duration::from_secs(10)).await.unwrap();
            let cri = bench.start().await;
            assert_eq!(cri.images().await.unwrap(), [app.as_str(), pause.as_str()], "kubelet would pull none of them");
            let status = cri.run_pod("g").await.unwrap_err();
            assert!(!status.message.contains("runc"), "{} {mode}: {status}", bench.version);
            cri.pull(&app).await.unwrap_err();

            assert!(apply(&bench, kept()).await, "{} {mode}", bench.version);
            assert!(!apply(&bench, kept()).await, "{} {mode}: once", bench.version);
            if mode == "remote" {
                until(|| async { !cri.images().await.unwrap().contains(&pause) }).await;
            }
            for image in [&app, &pause] {
                cri.pull(image).await.unwrap();
            }
            match cri.run_pod("g").await {
                Ok(pod) => _ = cri.run_container(&pod, "g", &app).await.unwrap(),
                Err(status) => assert!(status.message.contains("runc"), "{} {mode}: {status}", bench.version),
            }
        }
    }
}
