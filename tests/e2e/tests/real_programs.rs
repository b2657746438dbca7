//! What the real containerd and systemd make of the files that plans write.
//!
//! `tests/containerd/fetch.sh` brings the containerds; without one, or without `systemd-analyze`, a test says SKIPPED and passes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nap_model::config::decode;
use nap_model::facts::Gpu;
use nap_model::os::{DISTRIBUTIONS, NVIDIA_RUNTIME};
use nap_model::plan::{Plan, Want, plan};
use toml::Value;

const MODES: [&str; 4] = ["overlay", "cilium", "nodeSubnet", "none"];
const MINORS: [&str; 2] = ["1.30.2", "1.37.0"];
const WISHES: [&str; 3] = [
    include_str!("../../../agent/model/testdata/nothing.yaml"),
    include_str!("../../../agent/model/testdata/streaming.yaml"),
    include_str!("../../../agent/model/testdata/everything.yaml"),
];

/// A file's path and text.
type Files = BTreeMap<String, String>;

/// The different sets of files below `prefix` of all plans for this containerd.
fn files(containerd: &str, prefix: &str) -> BTreeSet<Files> {
    let mut found = BTreeSet::new();
    for (mode, minor) in MODES.into_iter().flat_map(|mode| MINORS.map(|minor| (mode, minor))) {
        for wishes in WISHES {
            let text = wishes.replace("MODE", mode).replace("VERSION", minor);
            let config = decode(text.as_bytes()).unwrap().config.unwrap();
            for os in DISTRIBUTIONS {
                let mut facts = os.typical_facts();
                facts.programs.kubelet = minor.try_into().ok();
                facts.programs.containerd = containerd.try_into().ok();
                found.insert(below(prefix, &plan(&config, &facts).unwrap()));
                // The same with a GPU, with Kata, and as a node that has left streaming.
                let (mut kata, mut gpu, mut fallen) = (config.clone(), facts.clone(), facts);
                kata.claims.kata = true;
                gpu.gpu = Some(Gpu { devices: 1, switches: 0, module: Some("1".into()), library: Some("1".into()) });
                gpu.present.insert(NVIDIA_RUNTIME.to_owned());
                fallen.streaming_failure = Some("it hangs".to_owned());
                fallen.streaming.iter_mut().for_each(|seen| seen.has_snapshots = true);
                for (config, facts) in [(&config, &gpu), (&kata, &gpu), (&config, &fallen)] {
                    found.insert(below(prefix, &plan(config, facts).unwrap()));
                }
            }
        }
    }
    found
}

fn below(prefix: &str, plan: &Plan) -> Files {
    let files = plan.steps().filter_map(|step| match &step.want {
        Want::File { path, content, .. } => Some((path.to_string(), content.reveal().to_owned())),
        _ => None,
    });
    files.filter(|(path, _)| path.starts_with(prefix)).collect()
}

fn skip(why: &str) {
    // Not eprintln!, which the test harness swallows.
    let _ = writeln!(io::stderr(), "SKIPPED: {why}"); // nobody reads it: nothing to do
}

fn fetched(series: &str) -> Option<PathBuf> {
    let program = format!("{}/../../target/containerd-{series}/usr/bin/containerd", env!("CARGO_MANIFEST_DIR"));
    Some(PathBuf::from(program)).filter(|program| program.exists())
}

#[test]
fn containerd_takes_every_setting_that_a_plan_has() {
    for series in ["1.6", "1.7", "2"] {
        let Some(program) = fetched(series) else {
            skip(&format!("containerd {series} is not there; tests/containerd/fetch.sh fetches it"));
            continue;
        };
        let version = if series == "2" { "2.1.9".to_owned() } else { format!("{series}.20") };
        let configurations = files(&version, "/etc/containerd/config.toml");
        assert!(configurations.len() >= 4, "{} different ones", configurations.len());
        for configuration in configurations.iter().flat_map(BTreeMap::values) {
            let dump = dump(&program, configuration);
            let wanted: Value = toml::from_str::<toml::Table>(configuration).unwrap().into();
            assert_eq!(missing(&wanted, &dump, ""), [""; 0], "containerd {series} of\n{configuration}");
        }
    }
}

#[test]
fn a_setting_that_containerd_does_not_know_is_found() {
    let Some(program) = fetched("1.6") else { return skip("containerd 1.6 is not there") };
    let configuration = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nenable_cdi = true\n";
    let wanted: Value = toml::from_str::<toml::Table>(configuration).unwrap().into();
    assert_eq!(missing(&wanted, &dump(&program, configuration), ""), ["/plugins/io.containerd.grpc.v1.cri/enable_cdi"]);
}

/// The whole configuration as this containerd reads it.
fn dump(program: &Path, configuration: &str) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    fs::write(&path, configuration).unwrap();
    let output = Command::new(program).arg("--config").arg(&path).args(["config", "dump"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program:?}: {said}\n{configuration}");
    let text = String::from_utf8(output.stdout).unwrap();
    toml::from_str::<toml::Table>(&text).unwrap().into()
}

/// Paths of what is wanted and not there.
fn missing(wanted: &Value, found: &Value, path: &str) -> Vec<String> {
    match (wanted, found) {
        (Value::Table(wanted), Value::Table(found)) => wanted
            .iter()
            .flat_map(|(name, wanted)| {
                let path = format!("{path}/{name}");
                found.get(name).map_or_else(|| vec![path.clone()], |found| missing(wanted, found, &path))
            })
            .collect(),
        _ if wanted == found => Vec::new(),
        _ => vec![format!("{path}: {found}, not {wanted}")],
    }
}

#[test]
fn systemd_understands_every_unit_that_a_plan_has() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return skip("there is no systemd-analyze");
    }
    let wrong = Files::from([("/etc/systemd/system/a.service.d/b.conf".into(), "[Service]\nLimitNoFile=1\n".into())]);
    assert!(verify(&wrong).contains("Unknown key"), "{}", verify(&wrong));
    for units in files("2.1.9", "/etc/systemd/system/") {
        assert_eq!(verify(&units), "", "{units:#?}");
    }
}

/// By Debian 12's systemd, which the page names: each version has other things to say.
#[test]
fn the_page_explains_everything_that_our_units_leave_open() {
    let version = Command::new("systemd-analyze").arg("--version").output();
    if !version.is_ok_and(|said| said.stdout.starts_with(b"systemd 252 ")) {
        return skip("there is no systemd-analyze 252");
    }
    let page = include_str!("../../../docs/security.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")).map(|line| line.replace("\\|", "|"));
    let rows: BTreeSet<(String, String)> = rows
        .filter_map(|line| Some((line.split(" | ").next()?.to_owned(), line.split(" | ").nth(1)?.to_owned())))
        .filter(|(name, _)| name.contains('='))
        .collect();
    let mut open: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for unit in ["nap-agent", "nap-boot"] {
        let file = format!("{}/../../systemd/{unit}.service", env!("CARGO_MANIFEST_DIR"));
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--json=short", "--no-pager"])
            .arg(file)
            .output()
            .unwrap();
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for one in said.as_array().unwrap().iter().filter(|one| one["exposure"].is_string()) {
            open.entry(one["name"].as_str().unwrap().to_owned()).or_default().push(unit);
        }
    }
    let of = |units: Vec<&str>| if units.len() == 2 { "both".to_owned() } else { units.concat() };
    let open: BTreeSet<(String, String)> = open.into_iter().map(|(name, units)| (name, of(units))).collect();
    let (unexplained, gone): (Vec<_>, Vec<_>) = (open.difference(&rows).collect(), rows.difference(&open).collect());
    assert!(unexplained.is_empty() && gone.is_empty(), "not explained: {unexplained:#?}\nno longer so: {gone:#?}");
}

/// What systemd has to say about these units: nothing, if they are right.
fn verify(units: &Files) -> String {
    let root = root_with(units);
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--generators=no", "--root"])
        .arg(root.path())
        .args(names(units))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { said } else { format!("{said}\n{}", output.status) }
}

/// The units that these files are, or are drop-ins of.
fn names(units: &Files) -> BTreeSet<&str> {
    let names = units.keys().filter_map(|path| path.strip_prefix("/etc/systemd/system/")?.split('/').next());
    names.map(|name| name.trim_end_matches(".d")).collect()
}

/// A root with the units, one of the image's for each drop-in without one, and an executable for each program they start.
fn root_with(units: &Files) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str, mode: u32| {
        let path = root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for target in ["sysinit", "basic", "shutdown", "multi-user", "network-online", "timers", "paths", "sockets"] {
        put(&format!("/usr/lib/systemd/system/{target}.target"), "[Unit]\n", 0o644);
    }
    for name in names(units) {
        put(&format!("/usr/lib/systemd/system/{name}"), "[Service]\nExecStart=/usr/bin/true\n", 0o644);
    }
    put("/usr/bin/true", "#!/bin/sh\n", 0o755);
    for (path, text) in units {
        put(path, text, 0o644);
        for command in text.lines().filter(|line| line.starts_with("Exec")) {
            let program = command.split_once('=').and_then(|(_, command)| command.split_whitespace().next());
            let program = program.unwrap_or_default().trim_start_matches(['-', '+', '@', '!', ':']);
            if program.starts_with('/') {
                put(program, "#!/bin/sh\n", 0o755);
            }
        }
    }
    root
}
