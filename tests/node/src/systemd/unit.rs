//! A unit as systemd understands it: its text turned into settings, or the reason why it cannot be.

use super::search::{Fragment, Root, Seen};
use super::service::Service;
use super::unit_file::UnitText;
use super::words;
use std::collections::BTreeSet;
use std::time::Duration;

/// Whether and how a unit could be read. Source: `LoadState` in org.freedesktop.systemd1(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadState {
    Loaded,
    NotFound,
    BadSetting,
    Error,
    Masked,
}

impl LoadState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            LoadState::Loaded => "loaded",
            LoadState::NotFound => "not-found",
            LoadState::BadSetting => "bad-setting",
            LoadState::Error => "error",
            LoadState::Masked => "masked",
        }
    }
}

/// Other units a unit names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dependencies {
    pub(crate) requires: Vec<String>,
    pub(crate) wants: Vec<String>,
    pub(crate) binds_to: Vec<String>,
    pub(crate) part_of: Vec<String>,
    pub(crate) conflicts: Vec<String>,
    pub(crate) after: Vec<String>,
    pub(crate) before: Vec<String>,
}

impl Dependencies {
    /// Units without which this one cannot start.
    pub(crate) fn needed(&self) -> impl Iterator<Item = &String> {
        self.requires.iter().chain(&self.binds_to)
    }

    /// Units whose stop stops this one.
    pub(crate) fn stopped_with(&self) -> impl Iterator<Item = &String> {
        self.requires.iter().chain(&self.binds_to).chain(&self.part_of)
    }

    /// Every unit named.
    pub(crate) fn all(&self) -> impl Iterator<Item = &String> {
        self.stopped_with().chain(&self.wants).chain(&self.after).chain(&self.before)
    }
}

/// `Condition...=` or `Assert...=`.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    kind: String,
    trigger: bool,
    negate: bool,
    parameter: String,
}

/// Limit on how often a unit may start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartLimit {
    pub(crate) interval: Option<Duration>,
    pub(crate) burst: usize,
}

/// Settings of a unit.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) name: String,
    pub(crate) load: LoadState,
    pub(crate) dependencies: Dependencies,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) asserts: Vec<Condition>,
    pub(crate) start_limit: StartLimit,
    pub(crate) service: Option<Service>,
    fragment: Option<Seen>,
    drop_ins: Vec<Seen>,
}

impl Unit {
    /// Reads a unit and its drop-ins from below the root.
    pub(crate) fn load(root: &Root, name: &str) -> Unit {
        let drop_ins = root.drop_ins(name);
        let mut unit = Unit::empty(name, drop_ins);
        match root.fragment(name) {
            Err(_unreadable) => unit.load = LoadState::Error,
            Ok(Fragment::Missing) => unit.load = LoadState::NotFound,
            Ok(Fragment::Masked(seen)) => {
                unit.load = LoadState::Masked;
                unit.fragment = Some(seen);
            }
            Ok(Fragment::Found(seen, text)) => {
                unit.fragment = Some(seen);
                unit.load = unit.read(root, &text);
            }
        }
        unit
    }

    fn empty(name: &str, drop_ins: Vec<Seen>) -> Unit {
        Unit {
            name: name.to_owned(),
            load: LoadState::NotFound,
            dependencies: Dependencies::default(),
            conditions: Vec::new(),
            asserts: Vec::new(),
            start_limit: StartLimit { interval: Some(Duration::from_secs(10)), burst: 5 },
            service: None,
            fragment: None,
            drop_ins,
        }
    }

    fn read(&mut self, root: &Root, fragment: &str) -> LoadState {
        let mut text = UnitText::default();
        let files = self.drop_ins.iter().map(|d| root.read(&d.path).unwrap_or_default());
        for file in std::iter::once(fragment.to_owned()).chain(files) {
            if text.read(&file).is_err() {
                return LoadState::Error;
            }
        }
        self.dependencies = dependencies(root, &self.name, &text);
        self.conditions = conditions(&text, "Condition");
        self.asserts = conditions(&text, "Assert");
        self.start_limit = start_limit(&text, self.start_limit);
        if self.name.ends_with(".service") {
            match Service::read(&self.name, &text) {
                Ok(service) => self.service = Some(service),
                Err(_refused) => return LoadState::BadSetting,
            }
        }
        LoadState::Loaded
    }

    /// Whether the files changed after they were read. Source: `NeedDaemonReload` in org.freedesktop.systemd1(5).
    /// Drop-ins in a folder that is not among the `known` ones go unnoticed, as they do with systemd's cache of paths.
    pub(crate) fn needs_reload(&self, root: &Root, known: &BTreeSet<String>) -> bool {
        if self.load == LoadState::NotFound {
            return false;
        }
        let folder = |path: &str| path.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned());
        let now: Vec<String> = root.drop_ins(&self.name).into_iter().map(|s| s.path).collect();
        let now: Vec<&String> = now.iter().filter(|path| known.contains(&folder(path))).collect();
        let then: Vec<&String> = self.drop_ins.iter().map(|s| &s.path).collect();
        self.fragment.iter().chain(&self.drop_ins).any(|seen| root.is_newer(seen)) || now != then
    }
}

fn dependencies(root: &Root, name: &str, text: &UnitText) -> Dependencies {
    let words = |key| text.words("Unit", key);
    let mut out = Dependencies {
        requires: words("Requires"),
        wants: words("Wants"),
        binds_to: words("BindsTo"),
        part_of: words("PartOf"),
        conflicts: words("Conflicts"),
        after: words("After"),
        before: words("Before"),
    };
    out.requires.extend(words("Requisite"));
    out.wants.extend(root.linked(name, "wants"));
    out.requires.extend(root.linked(name, "requires"));
    out
}

fn start_limit(text: &UnitText, default: StartLimit) -> StartLimit {
    let span = ["StartLimitIntervalSec", "StartLimitInterval"];
    let interval = span.iter().find_map(|key| text.last("Unit", key)).and_then(words::time_span);
    let burst = text.last("Unit", "StartLimitBurst").and_then(|v| v.parse().ok());
    StartLimit { interval: interval.unwrap_or(default.interval), burst: burst.unwrap_or(default.burst) }
}

fn conditions(text: &UnitText, prefix: &str) -> Vec<Condition> {
    let assignments = text.assignments_of("Unit", |key| key.starts_with(prefix));
    assignments.into_iter().map(|(key, value)| condition(&key[prefix.len()..], value)).collect()
}

fn condition(kind: &str, value: &str) -> Condition {
    let (trigger, value) = value.strip_prefix('|').map_or((false, value), |rest| (true, rest.trim_start()));
    let (negate, value) = value.strip_prefix('!').map_or((false, value), |rest| (true, rest.trim_start()));
    Condition { kind: kind.to_owned(), trigger, negate, parameter: value.to_owned() }
}

/// Whether all conditions hold; of those marked `|` one is enough.
pub(crate) fn hold(conditions: &[Condition], root: &Root) -> bool {
    let (triggers, plain): (Vec<_>, Vec<_>) = conditions.iter().partition(|c| c.trigger);
    plain.iter().all(|c| holds(c, root)) && (triggers.is_empty() || triggers.iter().any(|c| holds(c, root)))
}

fn holds(condition: &Condition, root: &Root) -> bool {
    let real = root.follow(&condition.parameter).map(|path| root.at(&path));
    let about = real.and_then(|path| path.metadata().ok());
    let result = match condition.kind.as_str() {
        "PathExists" => about.is_some(),
        "PathIsDirectory" => about.is_some_and(|m| m.is_dir()),
        "FileNotEmpty" => about.is_some_and(|m| m.is_file() && m.len() > 0),
        "FileIsExecutable" => about.is_some_and(|m| m.is_file() && is_executable(&m)),
        "DirectoryNotEmpty" => {
            std::fs::read_dir(root.at(&condition.parameter)).is_ok_and(|mut entries| entries.next().is_some())
        }
        "PathIsSymbolicLink" => {
            root.at(&condition.parameter).symlink_metadata().is_ok_and(|m| m.file_type().is_symlink())
        }
        // Facts about a real machine (virtualisation, kernel command line ...) do not exist below a root directory.
        _ => return true,
    };
    result != condition.negate
}

fn is_executable(about: &std::fs::Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&about.permissions()) & 0o111 != 0
}
