//! Plans for every distribution, CNI mode, Kubernetes version, containerd and load of wishes: what they write can be read by whom it
//! is for.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::kubelet_names::sources;
use super::*;
use crate::config::decode;
use crate::os::DISTRIBUTIONS;

const MODES: [&str; 4] = ["overlay", "cilium", "nodeSubnet", "none"];
const CONTAINERDS: [&str; 3] = ["1.6.20", "1.7.24", "2.1.9"];
const WISHES: [(&str, &str); 3] = [
    ("nothing", include_str!("../../testdata/nothing.yaml")),
    ("streaming", include_str!("../../testdata/streaming.yaml")),
    ("everything", include_str!("../../testdata/everything.yaml")),
];

/// One plan of the matrix.
struct Case {
    name: String,
    minor: u32,
    containerd: &'static str,
    plan: Plan,
}

impl Case {
    fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.plan.steps().filter_map(|step| match &step.want {
            Want::File { path, content, .. } => Some((path.as_str(), content.reveal())),
            _ => None,
        })
    }

    fn file(&self, wanted: &str) -> &str {
        let found = self.files().find(|(path, _)| *path == wanted);
        found.unwrap_or_else(|| panic!("{}: no {wanted}", self.name)).1
    }
}

/// The whole matrix, made once for all tests.
fn cases() -> &'static [Case] {
    static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
        let minors = (30..=37).flat_map(|minor| MODES.map(|mode| (minor, mode)));
        minors
            .flat_map(|(minor, mode)| WISHES.into_iter().flat_map(move |wishes| on_every_image(minor, mode, wishes)))
            .collect()
    });
    &CASES
}

fn on_every_image(minor: u32, mode: &str, (wishes, text): (&str, &str)) -> Vec<Case> {
    let text = text.replace("MODE", mode).replace("VERSION", &format!("1.{minor}.2"));
    let decoded = decode(text.as_bytes()).unwrap();
    assert_eq!(decoded.findings.problems, [], "{mode} 1.{minor} {wishes}");
    let config = decoded.config.unwrap();
    let images = DISTRIBUTIONS.iter().flat_map(|os| CONTAINERDS.map(|containerd| (os, containerd)));
    let case = |(os, containerd): (&Distribution, &'static str)| {
        let name = format!("{} {mode} 1.{minor} containerd {containerd} {wishes}", os.name);
        let mut facts = os.typical_facts();
        facts.programs.kubelet = format!("1.{minor}.2").as_str().try_into().ok();
        facts.programs.containerd = containerd.try_into().ok();
        let plan = plan(&config, &facts).unwrap_or_else(|failure| panic!("{name}: {failure}"));
        Case { name, minor, containerd, plan }
    };
    images.map(case).collect()
}

/// What a version does not know of a value's fields. Objects below which the sources name nothing have keys of the user's choice.
fn unknown_fields(value: &Value, path: &str, known: &BTreeMap<&str, (u32, u32)>, minor: u32) -> Vec<String> {
    let knows = |path: &str| known.get(path).is_some_and(|(first, last)| (*first..=*last).contains(&minor));
    let has_fields = known.keys().any(|name| name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')));
    match value {
        Value::Object(object) if path.is_empty() || has_fields => object
            .iter()
            .flat_map(|(name, value)| {
                let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let is_list = value.is_array() && knows(&format!("{at}[]"));
                if is_list || knows(&at) { unknown_fields(value, &at, known, minor) } else { vec![at] }
            })
            .collect(),
        Value::Array(items) => {
            items.iter().flat_map(|item| unknown_fields(item, &format!("{path}[]"), known, minor)).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn what_is_baked_is_in_every_plan_as_it_is() {
    for case in cases() {
        let os = DISTRIBUTIONS.iter().find(|os| case.name.starts_with(os.name)).unwrap();
        let mut planned: Vec<&Step> = case.plan.steps().filter(|step| step.when == When::Bake).collect();
        let baked = bake(os);
        let mut baked: Vec<&Step> = baked.steps().collect();
        planned.sort_by_key(|step| &step.id);
        baked.sort_by_key(|step| &step.id);
        assert_eq!(baked, planned, "{}", case.name);
    }
}

#[test]
fn kubelet_of_every_version_knows_what_it_is_told() {
    let [fields, flags, gates] = [sources::FIELDS, sources::FLAGS, sources::GATES].map(sources::read);
    let knows = |known: &BTreeMap<&str, (u32, u32)>, name: &str, minor: u32| {
        known.get(name).is_some_and(|(first, last)| (*first..=*last).contains(&minor))
    };
    for case in cases() {
        let config: Value = serde_json::from_str(case.file("/etc/default/kubeletconfig.json")).unwrap();
        assert_eq!(unknown_fields(&config, "", &fields, case.minor), [""; 0], "{}", case.name);
        for (gate, _) in config["featureGates"].as_object().into_iter().flatten() {
            assert!(knows(&gates, gate, case.minor), "{}: gate {gate}", case.name);
        }
        let (environment, unit) = (case.file("/etc/default/kubelet"), case.file("/etc/systemd/system/kubelet.service"));
        let words = environment.split([' ', '"']).chain(unit.split_whitespace());
        let given = words.filter_map(|word| word.strip_prefix("--")?.split('=').next());
        let given: Vec<&str> = given.collect();
        assert!(given.len() > 5, "{}: {given:?}", case.name);
        for flag in given {
            assert!(knows(&flags, flag, case.minor), "{}: --{flag}", case.name);
        }
    }
}

#[test]
fn the_check_of_fields_finds_unknown_ones_however_deep() {
    let known = sources::read(sources::FIELDS);
    let config = json!({
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1m", "x": 1},
        "evictionHard": {"memory.available": "1Mi"},
        "registerWithTaints": [{"key": "a", "y": 1}],
        "tlsCurvePreferences": [1],
    });
    assert_eq!(
        unknown_fields(&config, "", &known, 36),
        ["crashLoopBackOff.x", "registerWithTaints[].y"].map(str::to_owned)
    );
    assert_eq!(
        unknown_fields(&config, "", &known, 31),
        ["crashLoopBackOff", "registerWithTaints[].y", "tlsCurvePreferences"].map(str::to_owned)
    );
}

#[test]
fn containerds_configuration_is_of_a_version_that_it_reads() {
    for case in cases() {
        let table: toml::Table = case.file("/etc/containerd/config.toml").parse().unwrap();
        let wanted = if case.containerd.starts_with('2') { 3 } else { 2 };
        assert_eq!(table["version"].as_integer(), Some(wanted), "{}", case.name);
    }
}

#[test]
fn every_line_of_a_unit_file_is_a_section_an_assignment_or_a_comment() {
    for case in cases() {
        let units = case.files().filter(|(path, _)| path.starts_with("/etc/systemd/system/"));
        for (path, text) in units {
            let mut in_section = false;
            for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])) {
                let is_section = line.starts_with('[') && line.ends_with(']');
                in_section |= is_section;
                let is_assignment = line.split_once('=').is_some_and(|(name, _)| {
                    !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric())
                });
                assert!(in_section && (is_section || is_assignment), "{} {path}: {line}", case.name);
            }
            assert!(in_section && text.ends_with('\n'), "{} {path}", case.name);
        }
    }
}
