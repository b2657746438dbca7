use super::super::{Plan, plan};
use super::*;
use crate::config::decode;
use crate::os::{DISTRIBUTIONS, Distribution};

const DOCUMENT: &str = include_str!("../../../testdata/streaming.yaml");

fn config(text: &str) -> NodeConfig {
    let text = text.replace("MODE", "overlay").replace("VERSION", "1.34.2");
    decode(text.as_bytes()).unwrap().config.unwrap()
}

fn facts() -> Facts {
    Distribution::named("ubuntu-24.04").unwrap().typical_facts()
}

/// The plan of a machine that could stream, with something changed.
fn changed(change: impl Fn(&mut NodeConfig, &mut Facts)) -> Plan {
    let (mut config, mut facts) = (config(DOCUMENT), facts());
    change(&mut config, &mut facts);
    plan(&config, &facts).unwrap()
}

fn file<'p>(plan: &'p Plan, wanted: &str) -> Option<&'p str> {
    plan.steps().find_map(|step| match &step.want {
        Want::File { path, content, .. } if path.as_str() == wanted => Some(content.reveal()),
        _ => None,
    })
}

/// The file, the label, the drop-in, the stages: whether this plan streams, all of it or nothing.
fn streams(plan: &Plan) -> bool {
    let said = [
        file(plan, "/etc/containerd/config.toml").unwrap().contains("snapshotter = \"overlaybd\""),
        file(plan, "/etc/default/kubelet").unwrap().contains("artifactstreaming-enabled=true"),
        file(plan, DROP_IN).is_some(),
        plan.stages.iter().any(|stage| stage.name == "streaming-answers"),
    ];
    assert!(said.iter().all(|one| *one == said[0]), "{said:?}");
    said[0]
}

fn why(plan: &Plan) -> Vec<&str> {
    let notes = plan.notes.iter().filter_map(|note| note.strip_prefix("ArtifactStreamingUnavailable: "));
    notes.map(|note| note.split(':').next().unwrap()).collect()
}

#[test]
fn every_requirement_is_missed_by_name_and_alone() {
    let seen =
        |change: fn(&mut Seen)| move |_: &mut NodeConfig, facts: &mut Facts| change(facts.streaming.as_mut().unwrap());
    let cases: Vec<(&str, Plan)> = vec![
        ("ArchitectureNotSupported", changed(seen(|seen| seen.architecture = "aarch64".to_owned()))),
        ("FipsNotSupported", changed(|_, facts| facts.kernel.fips = true)),
        ("KataNotSupported", changed(|config, _| config.claims.kata = true)),
        ("ContainerdElsewhere", changed(|config, _| config.containerd.root = Some("/mnt/c".to_owned()))),
        (
            "ServiceMissing",
            changed(seen(|seen| _ = seen.unusable_units.insert(STREAMING_MIRROR.into(), "it is masked".into()))),
        ),
        ("KernelModuleMissing", changed(seen(|seen| _ = seen.missing_modules.insert("tcm_loop".to_owned())))),
        ("ConfigfsMissing", changed(seen(|seen| seen.configfs = false))),
        ("TooFewCpus", changed(seen(|seen| seen.cpus = 2))),
        ("TooLittleMemory", changed(seen(|seen| seen.memory_bytes = 4 << 30))),
        ("TooLittleSpace", changed(seen(|seen| seen.cache_free_bytes = 5 << 30))),
    ];
    assert!(streams(&changed(|_, _| {})));
    let rows: Vec<_> = requirements::REQUIREMENTS.iter().map(|row| row.reason).collect();
    assert_eq!(cases.iter().map(|(reason, _)| *reason).collect::<Vec<_>>(), rows, "a case for every row");
    for (reason, plan) in &cases {
        assert_eq!((why(plan), streams(plan)), (vec![*reason], false));
    }
    let wanted = "ArtifactStreamingUnavailable: TooLittleMemory: 4.0 GiB of memory, streaming needs 7.0: choose a larger size; \
                  images are pulled whole";
    assert!(cases[8].1.notes.iter().any(|note| note == wanted), "{:?}", cases[8].1.notes);
}

#[test]
fn all_that_is_missing_is_told_and_what_nobody_looked_at_is_not_there() {
    let small = changed(|_, facts| facts.streaming = Some(Seen::default()));
    let all = ["ArchitectureNotSupported", "ConfigfsMissing", "TooFewCpus", "TooLittleMemory", "TooLittleSpace"];
    assert_eq!(why(&small), all);
    let unknown = changed(|_, facts| facts.streaming = None);
    assert_eq!((why(&unknown), streams(&unknown)), (vec!["NotObserved"], false));
}

#[test]
fn a_node_that_streams_does_not_end_it_for_what_it_uses_up_itself() {
    let full = |has_snapshots: bool| {
        changed(move |_, facts| {
            let seen = facts.streaming.as_mut().unwrap();
            (seen.cache_free_bytes, seen.has_snapshots) = (0, has_snapshots);
        })
    };
    assert_eq!((streams(&full(false)), streams(&full(true))), (false, true));
}

#[test]
fn containerd_is_told_last() {
    let plan = changed(|_, _| {});
    let names = plan.stages.iter().map(|stage| stage.name);
    let wanted =
        ["streaming-kernel", "streaming-devices", "streaming-snapshotter", "streaming-answers", "files", "containerd"];
    let of_these: Vec<_> = names.filter(|name| wanted.contains(name)).collect();
    assert_eq!(of_these, wanted);
    for step in plan.steps().filter(|step| step.id.starts_with("streaming.") && step.id != "streaming.drop-in") {
        assert!(!step.essential, "{} must not fail the boot", step.id);
    }
}

#[test]
fn every_containerd_is_told_in_its_own_words() {
    for (version, images) in [("1.6.20", IMAGES_1), ("1.7.24", IMAGES_1), ("2.1.9", IMAGES_2)] {
        let plan = changed(|_, facts| facts.programs.containerd = version.try_into().ok());
        let table: toml::Table = file(&plan, "/etc/containerd/config.toml").unwrap().parse().unwrap();
        let data = serde_json::to_value(table).unwrap();
        let images = data.pointer(images).unwrap();
        assert_eq!(images["snapshotter"], "overlaybd", "{version}");
        assert_eq!(images["disable_snapshot_annotations"], false, "{version}");
        assert_eq!(data["proxy_plugins"]["overlaybd"]["address"], SNAPSHOTTER_SOCKET, "{version}");
    }
}

const IMAGES_1: &str = "/plugins/io.containerd.grpc.v1.cri/containerd";
const IMAGES_2: &str = "/plugins/io.containerd.cri.v1.images";

#[test]
fn a_node_that_falls_back_is_the_node_without_streaming() {
    for os in DISTRIBUTIONS.iter().filter(|os| os.typical_facts().streaming.is_some()) {
        let (with, without) = (config(DOCUMENT), config(include_str!("../../../testdata/nothing.yaml")));
        let mut facts = os.typical_facts();
        let never = plan(&without, &facts).unwrap();
        facts.streaming_failure = Some("streaming.answers: nobody listens".to_owned());
        let fallen = plan(&with, &facts).unwrap();
        assert_eq!(why(&fallen), ["DidNotComeUp"], "{}", os.name);
        let files = |plan: &Plan| {
            let files = plan.steps().filter(|step| matches!(step.want, Want::File { .. }));
            files.map(|step| (step.id.clone(), step.want.clone())).collect::<Vec<_>>()
        };
        assert_eq!(files(&fallen), files(&never), "{}", os.name);
        let off: Vec<_> =
            fallen.steps().filter(|step| step.id.starts_with("streaming.")).map(|step| &step.want).collect();
        let stopped = |name| Want::Enabled { name, enabled: false };
        let units = [stopped(STREAMING_MIRROR), stopped(STREAMING_SNAPSHOTTER), stopped(STREAMING_DEVICES)];
        assert_eq!(off[1..], units.iter().collect::<Vec<_>>());
        assert!(matches!(off[0], Want::Absent { .. }));
        assert_eq!(
            fallen.stages.last().unwrap().name,
            "streaming-off",
            "nothing waits for a service that does not end"
        );
    }
}

#[test]
fn what_serves_containers_runs_on_when_a_node_falls_back_later() {
    let plan = changed(|_, facts| {
        facts.streaming_failure = Some("it hangs".to_owned());
        facts.streaming.as_mut().unwrap().has_snapshots = true;
    });
    assert!(!streams(&plan));
    let config = file(&plan, "/etc/containerd/config.toml").unwrap();
    assert!(config.contains("[proxy_plugins.overlaybd]"), "containers must be removable: {config}");
    let touched: Vec<_> = plan
        .steps()
        .filter_map(|step| match step.want {
            Want::Enabled { name, .. } => Some(name),
            _ => None,
        })
        .filter(|name| crate::os::STREAMING_UNITS.contains(name))
        .collect();
    assert_eq!(touched, [STREAMING_MIRROR], "devices that are read from must be served");
    let names: Vec<_> = plan.stages.iter().map(|stage| stage.name).collect();
    let at = |name: &str| names.iter().position(|found| *found == name).unwrap();
    assert!(at("containerd") < at("whole-images") && at("whole-images") < at("kubelet"), "{names:?}");
}

#[test]
fn the_provisioners_label_is_not_claimed_by_a_node_that_does_not_stream() {
    let claim = |streams: bool| {
        changed(move |config, facts| {
            config.labels.insert(LABEL.try_into().unwrap(), "true".try_into().unwrap());
            facts.streaming_failure = (!streams).then(|| "it hangs".to_owned());
        })
    };
    assert!(streams(&claim(true)));
    assert!(!file(&claim(false), "/etc/default/kubelet").unwrap().contains(LABEL));
}
