//! Artifact streaming by the real binary: on a machine that cannot, on one whose snapshotter hangs, and on one that does, across a
//! reboot. With a real containerd where one was fetched; without one these tests say SKIPPED.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nap_e2e::node::{Node, api_options, text};
use nap_e2e::{ScratchRoot, binary};
use nap_host::root::Root;
use nap_host::units::Units;
use nap_model::os::{CREDENTIAL_PROVIDER, STREAMING_UNITS};
use nap_model::plan::CREDENTIAL_PROVIDER_CONFIG;
use pretend_streaming::containerd::fetched;
use pretend_streaming::cri::Cri;
use pretend_streaming::registry::{Image, Mood, Registry};
use serde_json::json;

const SOCKET: &str = "/run/overlaybd-snapshotter/overlaybd.sock";
const SNAPSHOTS: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.overlaybd";
const LABEL: &str = "kubernetes.azure.com/artifactstreaming-enabled";

/// The mirror's port is one for the whole machine.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What the services are to do, one line; their script reads it.
const MODE: &str = "/etc/pretend-snapshotter";

fn script(root: &ScratchRoot, path: &str, text: &str) {
    root.write(path, &format!("#!/bin/sh\nset -e\n{text}"));
    fs::set_permissions(root.path(path), fs::Permissions::from_mode(0o755)).unwrap();
}

/// What artifact streaming needs, all of it.
fn install_streaming(root: &ScratchRoot) {
    root.write("/proc/meminfo", "MemTotal:       16309720 kB\n");
    root.write("/sys/devices/system/cpu/online", "0-3\n");
    root.write("/proc/filesystems", "nodev\tconfigfs\n");
    for module in ["target_core_user", "tcm_loop"] {
        fs::create_dir_all(root.path(&format!("/sys/module/{module}"))).unwrap();
    }
    for unit in STREAMING_UNITS {
        let program = format!("/opt/{}", unit.trim_end_matches(".service"));
        script(root, &program, "exec sleep 1000000\n");
        let text = format!(
            "[Unit]\nDescription={unit}\n\n[Service]\nExecStart={program}\nRestart=always\nRestartSec=1s\n\n[Install]\nWantedBy=multi-user.target\n"
        );
        root.write(&format!("/usr/lib/systemd/system/{unit}"), &text);
    }
    let snapshotter = binary("pretend-snapshotter").display().to_string();
    let text = format!(
        "read -r mode delay <\"$PRETEND_ROOT{MODE}\"\nsleep \"$delay\"\n\
         exec {snapshotter} \"$PRETEND_ROOT{SOCKET}\" \"$PRETEND_ROOT{SNAPSHOTS}\" \"$mode\"\n"
    );
    script(root, "/opt/overlaybd-snapshotter", &text);
}

/// A real containerd that reads the node's configuration, its paths put below the root.
fn install_containerd(root: &ScratchRoot, programs: &std::path::Path) {
    let real = programs.join("containerd").display().to_string();
    let text = format!(
        "[ \"$1\" != --version ] || exec {real} --version\n\
         run=$PRETEND_ROOT/run/containerd\n\
         mkdir -p \"$run\"\n\
         sed -e \"s#/run/overlaybd-snapshotter#$PRETEND_ROOT&#\" -e \"s#/etc/containerd/certs.d#$PRETEND_ROOT&#\" \
             -e 's#0.0.0.0:10257##' \"$PRETEND_ROOT/etc/containerd/config.toml\" >\"$run/config.toml\"\n\
         export PATH=\"{}:$PATH\"\n\
         exec {real} --config \"$run/config.toml\" --root \"$PRETEND_ROOT/var/lib/containerd\" --state \"$run/state\" \
             --address \"$run/containerd.sock\"\n",
        programs.display()
    );
    script(root, "/usr/bin/containerd", &text);
    script(
        root,
        "/usr/bin/nap-agent",
        &format!("exec {} --root \"$PRETEND_ROOT\" \"$@\"\n", binary("nap-agent").display()),
    );
}

/// A node with a real containerd and a registry; its snapshotter does this.
async fn node(mode: &str) -> Option<(Node, Registry, String)> {
    let Some(programs) = fetched("1.7") else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: no containerd 1.7 in target, or not root"); // nobody listens
        return None;
    };
    let node = Node::new_on_disk(api_options()).await;
    install_streaming(&node.root);
    install_containerd(&node.root, &programs);
    node.root.write(MODE, &format!("{mode}\n"));
    let app = Image::waits("test/app", "1");
    let registry = Registry::start(0, &[app.clone(), Image::waits("test/second", "1")]).await.unwrap();
    app.lay_out(&node.root.path(&format!("{SNAPSHOTS}/layers"))).unwrap();
    let hosts = format!("/etc/containerd/certs.d/{}/hosts.toml", registry.name());
    node.root.write(&hosts, &format!("server = \"http://{}\"\n", registry.name()));
    let mut document = node.bootstrap();
    document["nodeClass"]["artifactStreaming"] = json!({"enabled": true});
    document["node"]["labels"][LABEL] = json!("true");
    node.hand_over(document.to_string().as_bytes());
    let image = format!("{}/test/app:1", registry.name());
    Some((node, registry, image))
}

fn cri(node: &Node) -> Cri {
    Cri::new(&node.path("/run/containerd/containerd.sock"), Duration::from_secs(20))
}

async fn boots(node: &Node) -> String {
    let boot = node.agent(&["boot"]).await;
    assert_eq!(boot.status.code(), Some(0), "{}", text(&boot));
    text(&boot)
}

fn streams(node: &Node) -> bool {
    let said = [
        node.root.read("/etc/containerd/config.toml").contains("overlaybd"),
        node.root.read("/etc/default/kubelet").contains(LABEL),
        node.path("/etc/systemd/system/containerd.service.d/20-nap-agent-streaming.conf").exists(),
    ];
    assert!(said.iter().all(|one| *one == said[0]), "{said:?}");
    said[0]
}

#[tokio::test]
async fn a_machine_that_cannot_stream_is_the_node_without_and_says_why() {
    let node = Node::new(api_options()).await;
    let mut document = node.bootstrap();
    document["nodeClass"]["artifactStreaming"] = json!({"enabled": true});
    document["node"]["labels"][LABEL] = json!("true");
    node.hand_over(document.to_string().as_bytes());
    boots(&node).await;
    assert!(!streams(&node));
    let notes = node.report()["Notes"].to_string();
    for reason in ["ServiceMissing: overlaybd-tcmu.service: there is no such unit", "KernelModuleMissing", "TooFewCpus"]
    {
        assert!(notes.contains(&format!("ArtifactStreamingUnavailable: {reason}")), "{reason}: {notes}");
    }
    let status = node.agent(&["status"]).await;
    assert_eq!(status.status.code(), Some(0), "{}", text(&status));
    assert!(text(&status).contains("note:    ArtifactStreamingUnavailable: ServiceMissing"), "{}", text(&status));
}

#[tokio::test]
async fn without_any_of_the_three_programs_a_node_pulls() {
    let _alone = ALONE.lock().await;
    for unit in STREAMING_UNITS {
        let Some((node, _registry, image)) = node("plain 0").await else { return };
        fs::remove_file(node.path(&format!("/opt/{}", unit.trim_end_matches(".service")))).unwrap();
        boots(&node).await;
        assert!(!streams(&node), "{unit}");
        let notes = node.report()["Notes"].to_string();
        assert!(notes.contains(&format!("ArtifactStreamingUnavailable: ServiceMissing: {unit}")), "{notes}");
        cri(&node).pull(&image).await.unwrap();
    }
}

#[tokio::test]
async fn a_snapshotter_that_hangs_costs_seconds_and_no_pull() {
    let _alone = ALONE.lock().await;
    let Some((node, _registry, image)) = node("hang 0").await else { return };
    let start = Instant::now();
    boots(&node).await;
    let took = start.elapsed();
    assert!(!streams(&node));
    let notes = node.report()["Notes"].to_string();
    let why = "ArtifactStreamingUnavailable: DidNotComeUp: streaming.answers: /run/overlaybd-snapshotter/overlaybd.sock: it takes the \
               question and gives no answer";
    assert!(notes.contains(why), "{notes}");
    cri(&node).pull(&image).await.unwrap();
    let root = Root::open(node.root.directory()).unwrap();
    let units = Units::connect(&root).await.unwrap();
    for unit in STREAMING_UNITS {
        assert_eq!(units.status(unit).await.unwrap().active, "inactive", "{unit}");
    }
    let status = node.agent(&["status"]).await;
    assert_eq!(status.status.code(), Some(0), "nothing has drifted: {}", text(&status));
    let again = boots(&node).await;
    assert!(again.contains("changed=0"), "the same boot of the machine does not try again: {again}");
    // The wait for it is 15 s; the rest is a boot.
    assert!(took < Duration::from_secs(45), "{took:?}");
}

#[tokio::test]
async fn a_node_streams_and_keeps_its_images_when_the_snapshotter_comes_late() {
    let _alone = ALONE.lock().await;
    let Some((mut node, registry, image)) = node("remote 0").await else { return };
    boots(&node).await;
    assert!(streams(&node), "{}", node.report());
    cri(&node).pull(&image).await.unwrap();
    let log = registry.take_log();
    let blobs = log.iter().filter(|line| line.starts_with("GET") && line.contains("/blobs/")).count();
    assert_eq!(blobs, 1, "the image's configuration and no layer: {log:?}");
    assert!(boots(&node).await.contains("changed=0"));

    // A reboot with a snapshotter that needs three seconds: the boot's order.
    node.root.write(MODE, "remote 3\n");
    node.reboot(2);
    boots(&node).await;
    assert!(streams(&node), "{}", node.report());
    assert_eq!(cri(&node).images().await.unwrap(), [image.as_str()]);

    // Somebody restarts all of it: the drop-in's order.
    let root = Root::open(node.root.directory()).unwrap();
    let units = Units::connect(&root).await.unwrap();
    for unit in ["containerd.service", "overlaybd-snapshotter.service"] {
        units.stop(unit, Duration::from_secs(20)).await.unwrap();
    }
    let start = Instant::now();
    units.restart("containerd.service", true, Duration::from_secs(60)).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(3), "it waited: {:?}", start.elapsed());
    assert_eq!(cri(&node).images().await.unwrap(), [image.as_str()]);
}

#[tokio::test]
async fn a_node_that_leaves_streaming_pulls_whole_what_it_had_streamed() {
    let _alone = ALONE.lock().await;
    let Some((node, registry, image)) = node("remote 0").await else { return };
    boots(&node).await;
    assert!(streams(&node), "{}", node.report());
    cri(&node).pull(&image).await.unwrap();
    registry.take_log();
    let guard = ["guard", "--interval", "0.5", "--listen", "127.0.0.1:0", "--no-conditions"];
    let mut guard = node.command(&guard).spawn().unwrap();

    let leave = node.agent(&["streaming", "leave"]).await;
    assert_eq!(leave.status.code(), Some(0), "{}", text(&leave));
    let start = Instant::now();
    while !matches!(cri(&node).images().await.as_deref(), Ok([])) {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", text(&node.agent(&["status"]).await));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!node.root.read("/etc/containerd/config.toml").contains("snapshotter = \"overlaybd\""));
    assert!(!node.root.read("/etc/default/kubelet").contains(LABEL));
    cri(&node).pull(&image).await.unwrap();
    let blobs = registry.take_log().iter().filter(|line| line.starts_with("GET") && line.contains("/blobs/")).count();
    assert!(blobs > 1, "its layers, too");
    let start = Instant::now();
    while node.agent(&["status"]).await.status.code() != Some(0) {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", text(&node.agent(&["status"]).await));
    }
    let root = Root::open(node.root.directory()).unwrap();
    let units = Units::connect(&root).await.unwrap();
    let mut active = Vec::new();
    for unit in STREAMING_UNITS {
        active.push(units.status(unit).await.unwrap().is_active());
    }
    assert_eq!(active, [true, true, false], "what serves running containers runs on; {STREAMING_UNITS:?}");
    guard.kill().await.unwrap();

    let never = Node::new(api_options()).await;
    never.hand_over(never.bootstrap().to_string().as_bytes());
    boots(&never).await;
    let refused = never.agent(&["streaming", "leave"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("nobody asked this node to stream images"), "{}", text(&refused));
}

#[tokio::test]
async fn containerd_starts_without_a_snapshotter_that_never_comes() {
    let node = Node::new(api_options()).await;
    let start = Instant::now();
    let wait = node.agent(&["streaming", "wait", "--timeout", "1"]).await;
    assert_eq!(wait.status.code(), Some(1), "{}", text(&wait));
    assert!(text(&wait).contains("nobody listens"), "{}", text(&wait));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn images_are_pulled_before_pods_ask_and_nobody_waits_for_them() {
    let _alone = ALONE.lock().await;
    let Some((node, registry, image)) = node("plain 0").await else { return };
    let mut document = node.bootstrap();
    document["containerd"]["prePull"] = json!([image]);
    document["registries"] = json!({"dnsSuffix": ".azurecr.example"});
    node.hand_over(document.to_string().as_bytes());
    registry.is(Mood::Unavailable);
    boots(&node).await;
    assert_eq!(cri(&node).images().await.unwrap(), [""; 0], "the boot did not wait");
    registry.is(Mood::Serves);
    let start = Instant::now();
    while cri(&node).images().await.unwrap() != [image.as_str()] {
        assert!(start.elapsed() < Duration::from_secs(60), "it is not pulled");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(boots(&node).await.contains("changed=0"));

    // A registry that wants what only the credential provider has.
    registry.is(Mood::WantsCredentials);
    let second = image.replace("app", "second");
    let refused = node.agent(&["pre-pull", &image]).await;
    assert!(text(&refused).contains("present=1"), "what is there is not asked for: {}", text(&refused));
    let provider = "test \"$1\" = /etc/kubernetes/azure.json\nread -r question\n\
                    case $question in *test/second:1*) ;; *) exit 1;; esac\n\
                    echo '{\"auth\": {\"127.0.0.1:*\": null, \"REGISTRY\": {\"username\": \"puller\", \"password\": \"sesame\"}}}'\n";
    script(&node.root, CREDENTIAL_PROVIDER, &provider.replace("REGISTRY", &registry.name()));
    let config = json!({"providers": [{"matchImages": [registry.name()], "args": ["/etc/kubernetes/azure.json"], "apiVersion": "v1"}]});
    node.root.write(CREDENTIAL_PROVIDER_CONFIG, &config.to_string());
    let pulled = node.agent(&["pre-pull", &second]).await;
    assert_eq!(pulled.status.code(), Some(0), "{}", text(&pulled));
    assert!(text(&pulled).contains("pulled=1 present=0 failed=0"), "{}", text(&pulled));
    assert!(!text(&pulled).contains("sesame"));
    assert_eq!(cri(&node).images().await.unwrap(), [image, second]);
}

const DEFAULT_HOSTS: &str = "/etc/containerd/certs.d/_default/hosts.toml";

/// Looks until it is so; the deadline is what fails.
async fn until(what: &str, look: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !look() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    start.elapsed()
}

#[tokio::test]
async fn the_mirror_is_asked_only_while_it_answers() {
    let _alone = ALONE.lock().await;
    let Some((node, _registry, _image)) = node("plain 0").await else { return };
    let mirror = Registry::start(8578, &[]).await.unwrap();
    boots(&node).await;
    let ours = node.root.read(DEFAULT_HOSTS);
    assert!(ours.contains("localhost:8578"), "{ours}");
    let guard = ["guard", "--interval", "0.5", "--listen", "127.0.0.1:0", "--no-conditions"];
    let mut guard = node.command(&guard).spawn().unwrap();
    let there = || node.path(DEFAULT_HOSTS).exists();

    mirror.is(Mood::Hangs);
    let took = until("its withdrawal", || !there()).await;
    // Two questions of 2 s each and a look's time: with looks every 30 s that makes 35 s.
    assert!(took < Duration::from_secs(30), "{took:?}");
    mirror.is(Mood::Serves);
    until("its return", there).await;
    assert_eq!(node.root.read(DEFAULT_HOSTS), ours);

    // Somebody else's file stands for ours, and comes back byte for byte.
    let theirs = "# acr-mirror\r\n[host.\"http://127.0.0.1:8578\"]\n";
    node.root.write(DEFAULT_HOSTS, theirs);
    mirror.is(Mood::Hangs);
    until("its withdrawal", || !there()).await;
    mirror.is(Mood::NotFound);
    until("its return", there).await;
    assert_eq!(node.root.read(DEFAULT_HOSTS), theirs);
    guard.kill().await.unwrap();
}
