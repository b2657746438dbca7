//! The scriptless script of karpenter-provider-azure, and AgentBaker's CSE command: `NAME=value`, around two hundred of them.
//!
//! The script is read, never run. What comes out is an AKSNodeConfig, so this format has no rules of its own; its findings
//! name the variable instead of the field. [`ROWS`](super::script_variables::ROWS) has the variables.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::aks_kubelet::CONFIG_FILE;
use super::corefile;
use super::local_dns;
use super::problem::{Findings, quoted};
use super::script_variables::{Kind, Meaning, OF_SCRIPTS, ROWS};
use super::shape::Shape::Object;
use super::shell_words::{self, Assignment, Statement};
use super::{rules, sysctls};

/// A script that became an AKSNodeConfig.
pub(super) struct Translated {
    /// The AKSNodeConfig.
    pub(super) value: Value,
    /// What the translation itself found, under the names of variables.
    pub(super) findings: Findings,
}

/// Certificate authorities are numbered from 0.
const CERTIFICATE: &str = "CUSTOM_CA_CERT_";
const CERTIFICATES: &str = "custom_ca_certs";

/// Commands that AKS' scripts have around their variables, by the names under which they may be told.
const COMMANDS: &[&str] = &[
    "/bin/bash",
    "/usr/bin/nohup",
    "[",
    "break",
    "cloud-init",
    "date",
    "echo",
    "exit",
    "grep",
    "hostname",
    "mkdir",
    "nohup",
    "seq",
    "set",
    "sleep",
    "source",
];

/// Reads the script and translates what it assigns.
pub(super) fn translate(script: &str) -> Translated {
    let script = shell_words::read(script);
    let mut translation = Translation { value: json!({"version": "v1"}), ..Translation::default() };
    if let Some(line) = script.unclosed {
        translation.findings.problem(
            "",
            format!("a quote or bracket in line {line} that nothing closes"),
            "a whole script",
        );
    }
    let assigned = translation.last_of_each(&script.statements);
    for (name, assignment) in &assigned {
        translation.assignment(name, assignment);
    }
    translation.certificates(&assigned);
    translation.corefile(&assigned);
    translation.switches(&assigned);
    translation.commands(&script.statements);
    Translated { value: translation.value, findings: translation.findings }
}

/// The findings of the AKSNodeConfig, under the names of the variables that its fields came from.
pub(super) fn under_variables(findings: Findings) -> Findings {
    let mut renamed = findings;
    for problem in &mut renamed.problems {
        problem.path = variable_of(&problem.path);
    }
    for warning in &mut renamed.warnings {
        warning.path = variable_of(&warning.path);
    }
    renamed
}

/// `KUBELET_FLAGS["--v"]` for `kubelet_config.kubelet_flags["--v"]`, and the first variable inside for an object around it.
fn variable_of(path: &str) -> String {
    if let Some(number) = path.strip_prefix(CERTIFICATES) {
        return format!("{CERTIFICATE}{}", number.trim_matches(['[', ']']));
    }
    let begins = |whole: &str, part: &str| {
        whole.strip_prefix(part).filter(|rest| rest.is_empty() || rest.starts_with(['.', '['])).map(str::to_owned)
    };
    let mut fields = ROWS.iter().flat_map(|row| {
        let fields = match &row.meaning {
            Meaning::Field(field, _) => std::slice::from_ref(field),
            Meaning::Corefile(fields) => fields.as_slice(),
            Meaning::Switch(_) | Meaning::Ignored(_) => &[],
        };
        fields.iter().map(|field| (row.variable, *field))
    });
    let inside = fields.clone().find_map(|(variable, field)| Some(format!("{variable}{}", begins(path, field)?)));
    let around = || fields.find(|(_, field)| begins(field, path).is_some()).map(|(variable, _)| variable.to_owned());
    inside.or_else(around).unwrap_or_else(|| path.to_owned())
}

#[derive(Default)]
struct Translation {
    value: Value,
    findings: Findings,
}

type Assigned<'s> = BTreeMap<&'s str, &'s Assignment>;

impl Translation {
    /// In a script the last assignment counts.
    fn last_of_each<'s>(&mut self, statements: &'s [Statement]) -> Assigned<'s> {
        let mut assigned = Assigned::new();
        for statement in statements {
            match statement {
                Statement::Assignment(assignment) => {
                    let before = assigned.insert(&assignment.name, assignment);
                    if before.is_some_and(|before| before.value != assignment.value) {
                        let message = format!("assigned twice; line {} counts", assignment.line);
                        self.findings.warn(&assignment.name, message);
                    }
                }
                Statement::Conditional(name) if is_known(name) && !is_ignored(name) => {
                    self.findings
                        .warn(name, "assigned inside a condition, loop or function, which is not run; not read");
                }
                Statement::Conditional(_) | Statement::Command { .. } => {}
            }
        }
        assigned
    }

    fn assignment(&mut self, name: &str, assignment: &Assignment) {
        if certificate_number(name).is_some() {
            return;
        }
        let Some(row) = ROWS.iter().find(|row| row.variable == name) else {
            if is_path_of_scripts(name) {
                return;
            }
            return self.findings.warn(name, "unknown variable, ignored");
        };
        match &row.meaning {
            Meaning::Switch(_) | Meaning::Corefile(_) => {}
            Meaning::Ignored(why) => {
                // The scripts' own variables say nothing about the node, and every script has them.
                if !says_nothing(&assignment.value) && *why != OF_SCRIPTS {
                    self.findings.warn(name, format!("not acted on: {why}"));
                }
            }
            Meaning::Field(..) if assignment.expands => self.refuse_expansion(assignment),
            Meaning::Field(..) if swallows(&assignment.value) => self.refuse_swallowed(assignment),
            Meaning::Field(..) if assignment.value.is_empty() => {}
            Meaning::Field(path, kind) => match kind.read(&assignment.value, name, &mut self.findings) {
                Ok(Some(value)) => self.set(path, value),
                Ok(None) => {}
                Err(wanted) => self.findings.problem(name, kind.found(&assignment.value), wanted),
            },
        }
    }

    fn refuse_expansion(&mut self, assignment: &Assignment) {
        let found = format!("a value in line {} that a shell would have to expand", assignment.line);
        self.findings.problem(&assignment.name, found, "the value itself: a script is read, not run");
    }

    fn refuse_swallowed(&mut self, assignment: &Assignment) {
        let found = format!("a value in line {} that holds other assignments", assignment.line);
        self.findings.problem(&assignment.name, found, "a value with both its quotes");
    }

    fn set(&mut self, path: &str, value: Value) {
        let place = path.split('.').fold(&mut self.value, |object, name| &mut object[name]);
        *place = value;
    }

    fn certificates(&mut self, assigned: &Assigned<'_>) {
        let mut numbered: Vec<_> =
            assigned.iter().filter_map(|(name, assignment)| Some((certificate_number(name)?, *assignment))).collect();
        numbered.sort_by_key(|(number, _)| *number);
        let mut certificates = Vec::new();
        for (number, assignment) in numbered {
            if assignment.expands {
                self.refuse_expansion(assignment);
            }
            if swallows(&assignment.value) {
                self.refuse_swallowed(assignment);
                continue;
            }
            // A hole stays one, so that a finding's number is the variable's.
            certificates.resize(number, json!(""));
            certificates.push(json!(assignment.value));
        }
        if !certificates.is_empty() {
            self.set(CERTIFICATES, Value::Array(certificates));
        }
    }

    /// A Corefile that cannot be read costs the user's zones, not the boot: AKS' own zones are a working LocalDNS, too.
    fn corefile(&mut self, assigned: &Assigned<'_>) {
        if assigned.get("SHOULD_ENABLE_LOCALDNS").is_none_or(|assignment| assignment.value != "true") {
            return;
        }
        let mut rows = ROWS.iter().filter_map(|row| match row.meaning {
            Meaning::Corefile(paths) => Some((row.variable, paths, *assigned.get(row.variable)?)),
            _ => None,
        });
        let Some((variable, [node, pods], assignment)) = rows.find(|(_, _, assignment)| !assignment.value.is_empty())
        else {
            return;
        };
        let text = rules::unbase64_text(&assignment.value).filter(|_| !assignment.expands);
        match text.ok_or("it is not base64 of a text".to_owned()).and_then(|text| corefile::read(&text)) {
            Err(why) => self.findings.warn(variable, format!("not acted on, AKS' default zones are used: {why}")),
            Ok(overrides) => {
                for (path, zones) in [(node, overrides.node), (pods, overrides.pods)] {
                    if !zones.is_empty() {
                        self.set(path, Value::Object(zones));
                    }
                }
                if !overrides.left_out.is_empty() {
                    self.findings.warn(variable, format!("not acted on: {}", overrides.left_out.join("; ")));
                }
            }
        }
    }

    fn switches(&mut self, assigned: &Assigned<'_>) {
        for row in ROWS {
            let Meaning::Switch(paths) = row.meaning else { continue };
            let is_off = assigned.get(row.variable).is_some_and(|assignment| assignment.value == "false");
            for path in paths.iter().filter(|_| is_off) {
                let (around, last) = path.rsplit_once('.').unwrap_or(("", path));
                let mut names = around.split('.').filter(|name| !name.is_empty());
                if let Some(object) = names.try_fold(&mut self.value, |value, name| value.get_mut(name)) {
                    object.as_object_mut().and_then(|object| object.remove(last));
                }
            }
        }
    }

    /// One warning for all of them: every script has some, and none of them is run.
    fn commands(&mut self, statements: &[Statement]) {
        let mut names = Vec::new();
        for statement in statements {
            let Statement::Command { name, line } = statement else { continue };
            let known = COMMANDS.iter().find(|known| Some(**known) == name.as_deref());
            // An unknown word may be a secret that lost its variable.
            names.push(known.map_or_else(|| format!("a command in line {line}"), |known| (*known).to_owned()));
        }
        names.sort();
        names.dedup();
        if !names.is_empty() {
            self.findings.warn("", format!("the script is read and not run; left out: {}", names.join(", ")));
        }
    }
}

/// Most certificates that are read; AKS allows ten lists of them.
const MAX_CERTIFICATES: usize = 100;

fn certificate_number(name: &str) -> Option<usize> {
    name.strip_prefix(CERTIFICATE)?.parse().ok().filter(|number| *number < MAX_CERTIFICATES)
}

/// Where AKS' scripts find each other; there are more with every release.
fn is_path_of_scripts(name: &str) -> bool {
    name.starts_with("CSE_") && name.ends_with("_FILEPATH")
}

fn is_known(name: &str) -> bool {
    certificate_number(name).is_some() || ROWS.iter().any(|row| row.variable == name)
}

fn is_ignored(name: &str) -> bool {
    ROWS.iter().any(|row| row.variable == name && matches!(row.meaning, Meaning::Ignored(_)))
}

/// Whether a quote is missing, so that the value holds assignments that follow, a secret among them. `=` at the end of a word is
/// base64's.
fn swallows(value: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    value.split(char::is_whitespace).skip(1).any(|word| {
        let parts = word.trim_end_matches('=').split_once('=');
        parts.is_some_and(|(name, _)| !name.is_empty() && name.bytes().all(letter))
    })
}

fn says_nothing(value: &str) -> bool {
    ["", "false", "0", "None"].contains(&value)
}

impl Kind {
    /// The field's value; nothing where the script says nothing; what would be right where it is wrong.
    fn read(&self, text: &str, variable: &str, findings: &mut Findings) -> Result<Option<Value>, String> {
        let value = match self {
            Kind::Text => json!(text),
            Kind::Bool => json!(boolean(text)?),
            Kind::Not => json!(!boolean(text)?),
            Kind::Number => json!(text.parse::<i64>().map_err(|_| "a whole number")?),
            Kind::Seconds => {
                let seconds = || local_dns::duration(text).and_then(|long| i64::try_from(long.as_secs()).ok());
                json!(text.parse::<i64>().ok().or_else(seconds).ok_or("seconds, or a duration such as 15m")?)
            }
            Kind::Words(words) => {
                let names = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
                let (_, word) = words
                    .iter()
                    .find(|(word, _)| word.eq_ignore_ascii_case(text))
                    .ok_or_else(|| format!("one of {}", names()))?;
                return Ok((!word.is_empty()).then(|| json!(word)));
            }
            Kind::List => text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect(),
            Kind::Flags => flags(text)?,
            Kind::Labels => labels(text)?,
            Kind::Sysctls => sysctl_fields(text, variable, findings)?,
            Kind::KubeletConfiguration => kubelet_fields(text)?,
            Kind::Ulimits => ulimits(text, variable, findings),
            Kind::Percent => json!(milli_cores(text).ok_or("a share of processors such as 200.0%")?),
            Kind::Megabytes => {
                let number = text.strip_suffix(['M', 'm']).unwrap_or(text);
                json!(number.parse::<u32>().map_err(|_| "a size such as 128M")?)
            }
        };
        Ok(Some(value))
    }

    /// A wrong value as it may be shown: long ones hold secrets and certificates.
    fn found(&self, text: &str) -> String {
        match self {
            Kind::Bool
            | Kind::Not
            | Kind::Number
            | Kind::Seconds
            | Kind::Words(_)
            | Kind::Percent
            | Kind::Megabytes => quoted(text),
            _ => format!("a text of {} characters", text.len()),
        }
    }
}

fn boolean(text: &str) -> Result<bool, &'static str> {
    text.parse().map_err(|_| "true or false")
}

/// A flag without a value is a switch that is on, as kubelet itself takes it.
fn flags(text: &str) -> Result<Value, &'static str> {
    let flag = |word: &str| {
        let (name, value) = word.split_once('=').unwrap_or((word, "true"));
        name.starts_with("--").then(|| (name.to_owned(), json!(value)))
    };
    let flags: Option<Map<_, _>> = text.split_whitespace().map(flag).collect();
    flags.map(Value::Object).ok_or("--flag=value, joined by spaces")
}

fn labels(text: &str) -> Result<Value, &'static str> {
    let label = |item: &str| item.split_once('=').map(|(key, value)| (key.trim().to_owned(), json!(value.trim())));
    let labels: Option<Map<_, _>> = text.split(',').filter(|item| !item.trim().is_empty()).map(label).collect();
    labels.map(Value::Object).ok_or("key=value, joined by commas")
}

/// Sysctls that AKS always sets, and the plan as well.
const BASELINE: &[&str] =
    &["net.core.message_burst", "net.core.message_cost", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_retries2"];

fn sysctl_fields(encoded: &str, variable: &str, findings: &mut Findings) -> Result<Value, &'static str> {
    let file = rules::unbase64_text(encoded).ok_or("base64 of sysctl.conf lines")?;
    let mut fields = Map::new();
    for line in file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])) {
        let (key, value) = line.split_once('=').ok_or("base64 of sysctl.conf lines, key = value")?;
        let (key, value) = (key.trim(), value.trim());
        match sysctls::protobuf_field(key) {
            Some(field) => _ = fields.insert(field.to_owned(), sysctl_value(key, value)),
            None if BASELINE.contains(&key) => {}
            None => findings.warn(variable, format!("unknown sysctl {}, ignored", quoted(key))),
        }
    }
    Ok(Value::Object(fields))
}

fn sysctl_value(key: &str, value: &str) -> Value {
    match (key, value) {
        ("net.ipv4.tcp_tw_reuse", "0") => json!(false),
        ("net.ipv4.tcp_tw_reuse", "1") => json!(true),
        ("net.ipv4.ip_local_port_range", range) => json!(range),
        (_, number) => number.parse::<i64>().map_or_else(|_| json!(number), Value::from),
    }
}

fn kubelet_fields(encoded: &str) -> Result<Value, &'static str> {
    let object = rules::json_object(encoded).ok_or("base64 of KubeletConfiguration as JSON")?;
    Ok(Object(CONFIG_FILE).under_first_names(&Value::Object(object)))
}

fn ulimits(text: &str, variable: &str, findings: &mut Findings) -> Value {
    let mut limits = Map::new();
    for word in text.split_whitespace().filter(|word| *word != "[Service]") {
        match word.split_once('=') {
            Some(("LimitNOFILE", value)) => _ = limits.insert("no_file".to_owned(), json!(value)),
            Some(("LimitMEMLOCK", value)) => _ = limits.insert("max_locked_memory".to_owned(), json!(value)),
            _ => findings.warn(variable, format!("unknown limit {}, ignored", quoted(word))),
        }
    }
    Value::Object(limits)
}

/// Thousandths of a processor in `200.0%`: ten a percent.
fn milli_cores(text: &str) -> Option<u32> {
    let (whole, tenths) = text.strip_suffix('%')?.split_once('.').unwrap_or((text.strip_suffix('%')?, "0"));
    let tenths = tenths.get(..1)?.parse::<u32>().ok()?;
    whole.parse::<u32>().ok()?.checked_mul(10)?.checked_add(tenths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_variable_and_each_field_is_there_once() {
        let mut variables: Vec<_> = ROWS.iter().map(|row| row.variable).collect();
        let mut fields: Vec<_> = ROWS
            .iter()
            .filter_map(|row| match row.meaning {
                Meaning::Field(field, _) => Some(format!("{field}.")),
                // The two ways to say the zones; only one of them counts.
                Meaning::Corefile(_) => None,
                Meaning::Switch(_) | Meaning::Ignored(_) => None,
            })
            .collect();
        variables.sort_unstable();
        fields.sort();
        assert!(variables.windows(2).all(|pair| pair[0] != pair[1]));
        // A field below another would be set inside a text.
        assert!(fields.windows(2).all(|pair| !pair[1].starts_with(&pair[0])), "{fields:?}");
    }

    #[test]
    fn each_way_to_write_a_value_has_its_type() {
        let read = |kind: &Kind, text| kind.read(text, "X", &mut Findings::default()).unwrap_or(None);
        for (kind, text, value) in [
            (Kind::Not, "true", json!(false)),
            (Kind::Seconds, "15m", json!(900)),
            (Kind::Seconds, "600", json!(600)),
            (Kind::List, "a, b,,c", json!(["a", "b", "c"])),
            (Kind::Flags, "--a=b=c  --d", json!({"--a": "b=c", "--d": "true"})),
            (Kind::Labels, "a=b,c/d=,", json!({"a": "b", "c/d": ""})),
            (Kind::Percent, "200.0%", json!(2000)),
            (Kind::Percent, "12.5%", json!(125)),
            (Kind::Megabytes, "128M", json!(128)),
            (Kind::KubeletConfiguration, "eyJtYXhQb2RzIjozMCwibmV3IjoxfQ==", json!({"max_pods": 30, "new": 1})),
        ] {
            assert_eq!(read(&kind, text), Some(value), "{kind:?} {text}");
        }
        for (kind, text) in
            [(Kind::Bool, "yes"), (Kind::Flags, "a"), (Kind::Percent, "2"), (Kind::Sysctls, "!"), (Kind::Labels, "a")]
        {
            assert!(kind.read(text, "X", &mut Findings::default()).is_err(), "{kind:?} {text}");
        }
    }

    #[test]
    fn the_path_of_a_field_leads_to_its_variable() {
        for (path, variable) in [
            ("kubelet_config.kubelet_flags[\"--v\"]", "KUBELET_FLAGS[\"--v\"]"),
            ("custom_ca_certs[2]", "CUSTOM_CA_CERT_2"),
            ("custom_linux_os_config.sysctl_config.vm_swappiness", "SYSCTL_CONTENT.vm_swappiness"),
            ("api_server_config", "API_SERVER_NAME"),
            ("version", "version"),
            ("", ""),
        ] {
            assert_eq!(variable_of(path), variable);
        }
    }
}
