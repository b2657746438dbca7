//! What the commands print, for people and for programs.

use std::io::{self, Write};

use nap_host::executor::{Comparison, compare};
use nap_host::sources::Found;
use nap_host::{journal, observe, persist};
use nap_model::monitor::{self, Verdict};
use nap_model::plan::{DiskUse, Plan, Want, disk_uses, packet_filter_rules};
use nap_model::repair::{self, Repair};
use nap_model::report::{AgentSeen, Failure, Identity, NodeHealth, REASONS, Reason};
use serde_json::json;

use crate::cli::Output;
use crate::context::{Context, config_of};
use crate::health::Kept;

/// `decode`: the document with every mistake in it.
pub(crate) async fn decode(context: &Context, out: &mut impl Write) -> anyhow::Result<u8> {
    let found = context.look_for().await?;
    let shown = found.decoded.shown();
    match context.output {
        Output::Json => {
            let all = json!({"source": found.source, "tried": found.tried, "decoded": shown});
            writeln!(out, "{all:#}")?;
        }
        Output::Text => {
            let carriers: Vec<String> = shown.carriers.iter().map(ToString::to_string).collect();
            let within = if carriers.is_empty() { "nothing".to_owned() } else { carriers.join(" > ") };
            writeln!(out, "source:   {:?}\nformat:   {}\ncarriers: {within}\n", found.source, shown.format)?;
            writeln!(out, "{:#}\n", shown.document)?;
            write_findings(&found, out)?;
        }
    }
    Ok(if found.decoded.config.is_some() { 0 } else { Reason::ConfigInvalid.exit_code() })
}

fn write_findings(found: &Found, out: &mut impl Write) -> io::Result<()> {
    let findings = &found.decoded.findings;
    for problem in &findings.problems {
        writeln!(out, "problem: {problem}")?;
    }
    for warning in &findings.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    writeln!(out, "{} problems, {} warnings", findings.problems.len(), findings.warnings.len())
}

/// `plan`: every step, whether or not it is already true.
pub(crate) fn plan(plan: &Plan, output: Output, out: &mut impl Write) -> anyhow::Result<()> {
    if output == Output::Json {
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(plan)?)?);
    }
    for stage in &plan.stages {
        writeln!(out, "{}", stage.name)?;
        for step in &stage.steps {
            writeln!(out, "  {:<34} {}", step.id, target(&step.want))?;
        }
    }
    for note in &plan.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}

fn target(want: &Want) -> String {
    match want {
        Want::Directory { path, mode } => format!("directory {path} {mode:04o}"),
        Want::File { path, mode, content } => format!("file {path} {mode:04o}, {} bytes", content.reveal().len()),
        Want::Absent { path } => format!("no {path}"),
        Want::Choice { path, value } => format!("{path} = {value}"),
        Want::Block { path, lines, .. } => format!("{} lines in {path}", lines.lines().count()),
        Want::SwapFile { path, bytes } => format!("swap file {path}, {bytes} bytes"),
        Want::FileIfAbsent { path, mode, .. } => format!("file {path} {mode:04o}, unless there is one"),
        Want::Copied { from, to, .. } => format!("{to}, at first a copy of {from}"),
        Want::Volume { volume } => {
            let serials: Vec<_> = volume.members.iter().map(|member| member.serial.as_str()).collect();
            format!("{} on {}", volume.format.name(), serials.join(" "))
        }
        Want::TrustStore { bundle, certificates, .. } => format!("{} certificates in {bundle}", certificates.len()),
        Want::SelfSigned { certificate, names, .. } => format!("{certificate} for {}", names.join(", ")),
        Want::NoExpiry { user } => format!("{user} never expires"),
        Want::Enabled { name, enabled: true } => format!("{name} runs, also after a reboot"),
        Want::Enabled { name, enabled: false } => format!("{name} does not run, nor after a reboot"),
        Want::Reread { name, .. } => format!("{name} has read its files"),
        Want::Sysctl { key, value } => format!("{key} = {value}"),
        Want::Module { name } => format!("module {name}"),
        Want::PacketFilter { rules } => format!("{} loaded, {} bytes", packet_filter_rules(), rules.len()),
        Want::SnapshotterAnswers { socket } => format!("a snapshotter that answers at {socket}"),
        Want::MirrorAnswers { port } => format!("a mirror that answers at port {port}"),
        Want::Hosts { path, content: Some(text), .. } => {
            format!("{path}, {} bytes, unless it is another's", text.len())
        }
        Want::Hosts { path, content: None, .. } => format!("no {path} of ours"),
        Want::WholeImages { .. } => "no image without its layers".to_owned(),
        Want::KeptSnapshots { snapshotter, .. } => format!("no snapshot that {snapshotter} has lost"),
        Want::Unit { name, readiness, .. } => format!("{name} {readiness:?}"),
    }
}

/// `plan --dry-run`: what a boot would change here.
pub(crate) async fn dry_run(context: &Context, plan: &Plan, out: &mut impl Write) -> anyhow::Result<()> {
    let comparison = compare(&context.root, plan).await;
    match context.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&comparison)?)?,
        Output::Text => write_comparison(&comparison, out)?,
    }
    Ok(())
}

fn write_comparison(comparison: &Comparison, out: &mut impl Write) -> io::Result<()> {
    comparison.differences.iter().try_for_each(|difference| write!(out, "{difference}"))?;
    comparison.unknown.iter().try_for_each(|unknown| writeln!(out, "? {}: {}", unknown.step, unknown.why))?;
    match comparison.differences.len() {
        0 => writeln!(out, "nothing would change"),
        count => writeln!(out, "{count} steps would change; nothing was touched"),
    }
}

/// `explain`: a fault's row, or a boot's reason.
pub(crate) fn explain(reason: &str, output: Output, out: &mut impl Write) -> anyhow::Result<u8> {
    if let Some(fault) = monitor::fault(reason) {
        let signals: Vec<_> = monitor::signals().filter(|signal| std::ptr::eq(signal.fault, fault)).collect();
        if output == Output::Json {
            let signals: Vec<_> =
                signals.iter().map(|signal| json!({"name": signal.name, "class": signal.class})).collect();
            let all = json!({
                "reason": fault.reason, "subsystem": fault.subsystem, "worst": fault.worst, "scope": fault.scope,
                "persistSeconds": fault.persist.as_secs(), "explainedBy": fault.explained_by, "signals": signals,
                "repairs": repair::ladder(fault.reason).map(|row| row.name).collect::<Vec<_>>(),
                "meaning": fault.meaning, "hint": fault.hint,
            });
            writeln!(out, "{all:#}")?;
            return Ok(0);
        }
        writeln!(out, "{} ({:?})\n    {}\n    {}", fault.reason, fault.subsystem, fault.meaning, fault.hint)?;
        match fault.worst {
            Verdict::Degraded => writeln!(out, "verdict: Degraded, never worse")?,
            worst => writeln!(out, "verdict: Degraded; {worst:?} when proven for {} s", fault.persist.as_secs())?,
        }
        for signal in signals {
            let (bad, of) = signal.enter;
            let alone = if signal.is_authoritative { ", proves it alone" } else { "" };
            let (name, class, leave) = (signal.name, signal.class, signal.leave);
            writeln!(out, "signal:  {name} ({class:?}), {bad} of {of} bad to enter, {leave} good to leave{alone}")?;
        }
        if !fault.explained_by.is_empty() {
            writeln!(out, "caused by, when there: {}", fault.explained_by.join(", "))?;
        }
        let repairs: Vec<_> = repair::ladder(fault.reason).map(|row| row.name).collect();
        if !repairs.is_empty() {
            writeln!(out, "repairs: {}; worse than Repairing only when they did not help", repairs.join(", then "))?;
        }
        return Ok(0);
    }
    if let Some(row) = repair::repair(reason) {
        return explain_repair(row, output, out);
    }
    match REASONS.iter().find(|row| row.reason.to_string().eq_ignore_ascii_case(reason)) {
        Some(row) if output == Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(row)?)?,
        Some(row) => writeln!(
            out,
            "{} (a failed boot, exit code {})\n    {}\n    {}",
            row.reason, row.exit_code, row.meaning, row.hint
        )?,
        None => {
            let faults: Vec<_> = monitor::faults().map(|fault| fault.reason).collect();
            anyhow::bail!(
                "no reason is called {reason}; faults are {}; for boots see `nap-agent reasons`",
                faults.join(", ")
            );
        }
    }
    Ok(0)
}

fn explain_repair(row: &Repair, output: Output, out: &mut impl Write) -> anyhow::Result<u8> {
    let (hour, day) = row.budget;
    let (first, most) = row.pause;
    if output == Output::Json {
        let all = json!({
            "action": row.name, "target": row.act.unit(), "subsystem": row.subsystem, "risk": row.risk, "meaning": row.meaning,
            "against": row.against, "onSuspicion": row.on_suspicion, "notWhile": row.not_while, "perHour": hour, "perDay": day,
            "afterSeconds": row.after.as_secs(), "pauseSeconds": first.as_secs(), "mostPauseSeconds": most.as_secs(), "limitSeconds": row.limit.as_secs(),
        });
        writeln!(out, "{all:#}")?;
        return Ok(0);
    }
    let of = row.act.unit().unwrap_or("the node");
    writeln!(out, "{} (a repair of {of}, risk {:?})\n    {}", row.name, row.risk, row.meaning)?;
    writeln!(out, "against: {}", row.against.join(", "))?;
    writeln!(out, "on one kind of signal that lasts: {}", row.on_suspicion.join(", "))?;
    writeln!(out, "never while: {}", row.not_while.join(", "))?;
    let (first, most, limit) = (first.as_secs(), most.as_secs(), row.limit.as_secs());
    writeln!(out, "at most: {hour} an hour, {day} a day; pauses of {first} s to {most} s; {limit} s for each")?;
    Ok(0)
}

fn health_json(kept: &Kept) -> serde_json::Value {
    let document = NodeHealth::of(&kept.state, &Identity::default(), &AgentSeen::default());
    let document = serde_json::to_value(document).unwrap_or_default(); // plain data with texts for keys
    json!({"keptAt": kept.kept_at, "verdict": document["verdict"], "subsystems": document["subsystems"]})
}

/// The verdict and its findings, as the guard last kept them.
fn write_health(kept: &Kept, out: &mut impl Write) -> io::Result<()> {
    let current = kept.state.current();
    let (state, since, at) = (current.state, current.since, kept.kept_at);
    writeln!(out, "health:  {state:?} since {since} (as kept at {at})")?;
    for finding in kept.state.findings() {
        let on = if finding.target.is_empty() { String::new() } else { format!(" on {}", finding.target) };
        let why = finding.caused_by.as_ref().map_or(String::new(), |cause| format!(", caused by {cause}"));
        let held = if finding.is_held { ", gone and held because it came again and again" } else { "" };
        writeln!(
            out,
            "finding: {}{on} since {}{why}{held}: {}",
            finding.fault.reason, finding.since, finding.fault.meaning
        )?;
        for seen in &finding.evidence {
            writeln!(out, "         {} ({:?}): {}", seen.signal, seen.class, seen.sample)?;
        }
        if let Some(repair) = &finding.repair {
            writeln!(out, "         {}, attempt {}, until {}", repair.repair, repair.attempt, repair.deadline)?;
        }
    }
    Ok(())
}

/// `status`: the last boot, what has drifted since, and the node's health.
pub(crate) async fn status(context: &Context, out: &mut impl Write) -> anyhow::Result<u8> {
    let root = &context.root;
    let report = persist::read_report(root)?;
    let boot_id = observe::boot_id(root)?;
    let drifted = drift(context).await;
    let disks = disks(context).await.unwrap_or_default(); // why not the line about drift says
    let booted = report.as_ref().is_some_and(|report| report.exit_code == "0" && report.boot_id == boot_id);
    let lines = journal::read(root)?;
    let health: Option<Kept> = persist::read_health(root)?;
    let last: Vec<_> = lines.iter().rev().filter(|line| line.event != journal::Event::InSync).take(5).collect();
    if context.output == Output::Json {
        let drifted = drifted.as_ref().map_err(ToString::to_string);
        let (drifted, error) = (drifted.as_ref().ok(), drifted.as_ref().err());
        writeln!(
            out,
            "{:#}",
            json!({
                "booted": booted, "report": report, "drifted": drifted, "error": error, "disks": disks, "journal": last,
                "health": health.map(|kept| health_json(&kept)),
            })
        )?;
        return Ok(u8::from(!booted || drifted.is_none_or(|drifted| !drifted.is_empty())));
    }
    match &report {
        None => writeln!(out, "boot:    never ended")?,
        Some(report) if report.boot_id != boot_id => writeln!(out, "boot:    not ended since the machine started")?,
        Some(report) if booted => writeln!(out, "boot:    registered after {} s", report.exec_duration)?,
        Some(report) => writeln!(out, "boot:    failed, exit code {}\n{}", report.exit_code, report.error)?,
    }
    for note in report.iter().flat_map(|report| &report.notes) {
        writeln!(out, "note:    {note}")?;
    }
    match &drifted {
        Ok(drifted) if drifted.is_empty() => writeln!(out, "drift:   none")?,
        Ok(drifted) => drifted
            .iter()
            .try_for_each(|difference| writeln!(out, "drift:   {}: {}", difference.step, difference.summary))?,
        Err(failure) => writeln!(out, "drift:   cannot tell: {failure}")?,
    }
    for disk in &disks {
        let gib = disk.bytes >> 30;
        writeln!(out, "disk:    {} {gib} GiB {} ({}): {}", disk.name, disk.model, disk.serial, disk.purpose)?;
    }
    match &health {
        Some(kept) => write_health(kept, out)?,
        None => writeln!(out, "health:  no guard has looked")?,
    }
    for line in last.iter().rev() {
        writeln!(out, "journal: {} {} {} {:?} {}", line.at, line.run, line.step, line.event, line.detail)?;
    }
    Ok(u8::from(!booted || !drifted.is_ok_and(|drifted| drifted.is_empty())))
}

async fn disks(context: &Context) -> Result<Vec<DiskUse>, Failure> {
    let found = context.look_for().await?;
    Ok(disk_uses(config_of(&found)?, &context.kept_facts("status")?))
}

async fn drift(context: &Context) -> Result<Vec<nap_host::executor::Difference>, Failure> {
    let found = context.look_for().await?;
    let failed = |message: String| Failure::new(Reason::StepFailed, "status", message);
    let facts = context.kept_facts("status")?;
    let plan = nap_model::plan::keep(config_of(&found)?, &facts)?;
    let comparison = compare(&context.root, &plan).await;
    match comparison.unknown.iter().find(|unknown| unknown.essential) {
        Some(unknown) => Err(failed(format!("{}: {}", unknown.step, unknown.why))),
        None => Ok(comparison.differences),
    }
}

/// `reasons`: the table.
pub(crate) fn reasons(output: Output, out: &mut impl Write) -> anyhow::Result<()> {
    if output == Output::Json {
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(REASONS)?)?);
    }
    for row in REASONS {
        writeln!(
            out,
            "{} (exit code {}, within {})\n    {}\n    {}",
            row.reason, row.exit_code, row.within, row.meaning, row.hint
        )?;
    }
    Ok(())
}
