//! The `[Service]` section: what to run, and what to do when it ends.

use super::unit_file::UnitText;
use super::words::{self, Environment};
use std::time::Duration;

/// When a service counts as started. Source: `Type=` in systemd.service(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Simple,
    Exec,
    Notify,
    Oneshot,
}

/// When a service that ended is started again. Source: `Restart=` in systemd.service(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    No,
    OnSuccess,
    OnFailure,
    OnAbnormal,
    OnWatchdog,
    OnAbort,
    Always,
}

/// How a service ended. Source: `Result` in org.freedesktop.systemd1(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    ExitCode,
    Signal,
    CoreDump,
    Timeout,
    Watchdog,
    Protocol,
    Resources,
    StartLimitHit,
}

impl Outcome {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::ExitCode => "exit-code",
            Outcome::Signal => "signal",
            Outcome::CoreDump => "core-dump",
            Outcome::Timeout => "timeout",
            Outcome::Watchdog => "watchdog",
            Outcome::Protocol => "protocol",
            Outcome::Resources => "resources",
            Outcome::StartLimitHit => "start-limit-hit",
        }
    }
}

/// One `Exec...=` line.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) program: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) ignore_failure: bool,
    expand: bool,
}

impl Command {
    /// The arguments with variables put in.
    pub(crate) fn arguments(&self, environment: &Environment) -> Vec<String> {
        if self.expand { words::expand(&self.arguments, environment) } else { self.arguments.clone() }
    }
}

/// Settings of a service.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) kind: Kind,
    pub(crate) pre: Vec<Command>,
    pub(crate) main: Vec<Command>,
    pub(crate) post: Vec<Command>,
    pub(crate) stop: Vec<Command>,
    pub(crate) restart: Restart,
    pub(crate) restart_after: Duration,
    pub(crate) start_timeout: Option<Duration>,
    pub(crate) stop_timeout: Option<Duration>,
    pub(crate) watchdog: Option<Duration>,
    pub(crate) remain_after_exit: bool,
    pub(crate) environment: Environment,
    /// Paths, and whether the file may be missing.
    pub(crate) environment_files: Vec<(String, bool)>,
    pub(crate) working_directory: Option<String>,
    pub(crate) stop_signal: nix::sys::signal::Signal,
    success_statuses: Vec<i32>,
}

impl Service {
    /// Reads the section, or says why systemd refuses it.
    pub(crate) fn read(unit: &str, text: &UnitText) -> Result<Service, String> {
        let last = |key| text.last("Service", key);
        let commands = |key| commands(unit, &text.values("Service", key));
        let kind = match last("Type") {
            Some("exec") => Kind::Exec,
            Some("notify") => Kind::Notify,
            Some("oneshot") => Kind::Oneshot,
            Some("simple") | None => Kind::Simple,
            Some(other) => return Err(format!("Type={other} is not one this systemd knows")),
        };
        let timeout = last("TimeoutSec").and_then(words::time_span);
        let span = |key| last(key).and_then(words::time_span);
        let usual = Some(Duration::from_secs(90));
        let start_default = if kind == Kind::Oneshot { None } else { usual };
        let service = Service {
            kind,
            pre: commands("ExecStartPre")?,
            main: commands("ExecStart")?,
            post: commands("ExecStartPost")?,
            stop: commands("ExecStop")?,
            restart: restart(last("Restart"))?,
            restart_after: span("RestartSec").flatten().unwrap_or(Duration::from_millis(100)),
            start_timeout: not_zero(span("TimeoutStartSec").or(timeout).unwrap_or(start_default)),
            stop_timeout: not_zero(span("TimeoutStopSec").or(timeout).unwrap_or(usual)),
            watchdog: not_zero(span("WatchdogSec").flatten()),
            remain_after_exit: text.flag("Service", "RemainAfterExit"),
            environment: environment(unit, &text.values("Service", "Environment")),
            environment_files: text.values("Service", "EnvironmentFile").into_iter().map(optional_path).collect(),
            working_directory: last("WorkingDirectory").map(|d| d.trim_start_matches('-').to_owned()),
            stop_signal: last("KillSignal").and_then(|s| s.parse().ok()).unwrap_or(nix::sys::signal::SIGTERM),
            success_statuses: text
                .words("Service", "SuccessExitStatus")
                .iter()
                .filter_map(|w| w.parse().ok())
                .collect(),
        };
        service.checked()
    }

    fn checked(self) -> Result<Service, String> {
        let oneshot = self.kind == Kind::Oneshot;
        if self.main.is_empty() && self.stop.is_empty() {
            return Err("no ExecStart= and no ExecStop=".to_owned());
        }
        if self.main.is_empty() && !self.remain_after_exit {
            return Err("no ExecStart=, which needs RemainAfterExit=yes".to_owned());
        }
        if !oneshot && self.main.len() != 1 {
            return Err("exactly one ExecStart= is needed unless Type=oneshot".to_owned());
        }
        if oneshot && matches!(self.restart, Restart::Always | Restart::OnSuccess) {
            return Err("Type=oneshot allows no Restart=always or on-success".to_owned());
        }
        Ok(self)
    }

    /// What an exit says about the service; signals as negative numbers.
    pub(crate) fn outcome(&self, end: End) -> Outcome {
        match end {
            End::Code(0) => Outcome::Success,
            End::Code(code) if self.success_statuses.contains(&code) => Outcome::Success,
            End::Code(_) => Outcome::ExitCode,
            End::Signal { core: true, .. } => Outcome::CoreDump,
            // HUP, INT, PIPE and TERM are ways to be asked to stop, except for a oneshot, whose work is then not done.
            End::Signal { number: 1 | 2 | 13 | 15, .. } if self.kind != Kind::Oneshot => Outcome::Success,
            End::Signal { .. } => Outcome::Signal,
        }
    }

    /// Whether a service that ended like this, unasked, is started again.
    pub(crate) fn restarts_after(&self, outcome: Outcome) -> bool {
        match self.restart {
            Restart::No => false,
            Restart::Always => true,
            Restart::OnSuccess => outcome == Outcome::Success,
            Restart::OnFailure => outcome != Outcome::Success,
            Restart::OnAbnormal => !matches!(outcome, Outcome::Success | Outcome::ExitCode),
            Restart::OnWatchdog => outcome == Outcome::Watchdog,
            Restart::OnAbort => matches!(outcome, Outcome::Signal | Outcome::CoreDump),
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Code(i32),
    Signal { number: i32, core: bool },
}

impl End {
    /// The number in `ExecMainStatus`.
    pub(crate) fn status(self) -> i32 {
        match self {
            End::Code(code) => code,
            End::Signal { number, .. } => number,
        }
    }
}

fn not_zero(span: Option<Duration>) -> Option<Duration> {
    span.filter(|s| !s.is_zero())
}

fn restart(value: Option<&str>) -> Result<Restart, String> {
    Ok(match value {
        None | Some("no") => Restart::No,
        Some("on-success") => Restart::OnSuccess,
        Some("on-failure") => Restart::OnFailure,
        Some("on-abnormal") => Restart::OnAbnormal,
        Some("on-watchdog") => Restart::OnWatchdog,
        Some("on-abort") => Restart::OnAbort,
        Some("always") => Restart::Always,
        Some(other) => return Err(format!("Restart={other} is not one this systemd knows")),
    })
}

fn optional_path(value: &str) -> (String, bool) {
    value.strip_prefix('-').map_or((value.to_owned(), false), |path| (path.to_owned(), true))
}

fn environment(unit: &str, values: &[&str]) -> Environment {
    let words = values.iter().filter_map(|v| words::split(v)).flatten();
    let words = words.filter_map(|word| specifiers(unit, &word));
    words.filter_map(|word| word.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))).collect()
}

fn commands(unit: &str, lines: &[&str]) -> Result<Vec<Command>, String> {
    let mut out = Vec::new();
    for line in lines {
        let words = words::split(line).ok_or_else(|| format!("unbalanced quoting in {line}"))?;
        for words in words.split(|word| word == ";").filter(|words| !words.is_empty()) {
            out.push(command(unit, words)?);
        }
    }
    Ok(out)
}

fn command(unit: &str, words: &[String]) -> Result<Command, String> {
    let program = words[0].trim_start_matches(['-', '@', ':', '+', '!']);
    let prefix = &words[0][..words[0].len() - program.len()];
    let skip = if prefix.contains('@') { 2 } else { 1 };
    if program.is_empty() || (program.contains('/') && !program.starts_with('/')) {
        return Err(format!("executable path is not absolute: {program}"));
    }
    let arguments: Option<Vec<String>> = words.iter().skip(skip).map(|word| specifiers(unit, word)).collect();
    Ok(Command {
        program: program.to_owned(),
        arguments: arguments.ok_or_else(|| format!("unknown specifier in {words:?}"))?,
        ignore_failure: prefix.contains('-'),
        expand: !prefix.contains(':'),
    })
}

/// Puts in `%n` and its like; `None` for a specifier this systemd does not know.
fn specifiers(unit: &str, word: &str) -> Option<String> {
    let stem = unit.rsplit_once('.').map_or(unit, |(stem, _)| stem);
    let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
    let mut out = String::new();
    let mut chars = word.chars();
    while let Some(c) = chars.next() {
        match c {
            '%' => match chars.next()? {
                '%' => out.push('%'),
                'n' => out.push_str(unit),
                'N' => out.push_str(stem),
                'p' | 'P' => out.push_str(prefix),
                'i' | 'I' => out.push_str(instance),
                't' => out.push_str("/run"),
                'S' => out.push_str("/var/lib"),
                'L' => out.push_str("/var/log"),
                'C' => out.push_str("/var/cache"),
                'E' => out.push_str("/etc"),
                _ => return None,
            },
            c => out.push(c),
        }
    }
    Some(out)
}
