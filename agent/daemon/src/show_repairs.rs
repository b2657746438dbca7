//! `repairs`: what would be done to this node now, and what was done.

use std::io::Write;

use jiff::Timestamp;
use nap_host::watch::since_boot;
use nap_host::{observe, persist, repairs};
use nap_model::monitor::Tick;
use nap_model::repair::{Attempt, Policy, Proposed};
use nap_model::verdict::State;
use serde_json::{Value, json};

use crate::cli::Output;
use crate::context::Context;
use crate::health::Kept;

/// Prints what the guard's knowledge and the policy of now lead to.
pub(crate) fn show(context: &Context, observe_only: bool, out: &mut impl Write) -> anyhow::Result<u8> {
    let root = &context.root;
    let policy = persist::read_policy(root)
        .map_err(|why| anyhow::anyhow!("{}: {why}; the guard repairs nothing until it can be read", Policy::PATH))?;
    let boot_id = observe::boot_id(root)?;
    let kept: Option<Kept> = persist::read_health(root)?;
    let tick = Tick { since_boot: since_boot(), wall: Timestamp::now(), late: std::time::Duration::ZERO };
    let kept_at = kept.as_ref().filter(|kept| kept.boot_id == boot_id).map(|kept| kept.kept_at);
    let mut state = kept.map(|kept| kept.state).unwrap_or_default().resume(&boot_id, tick);
    state.learn(tick, repairs::read_journal(root)?);
    state.allow(policy.or_observe_only(observe_only));
    match context.output {
        Output::Json => writeln!(out, "{:#}", to_json(&state, kept_at))?,
        Output::Text => write_text(&state, kept_at, out)?,
    }
    Ok(0)
}

fn to_json(state: &State, kept_at: Option<Timestamp>) -> Value {
    let decided = state.decide().into_iter().map(|proposal| {
        let (action, held) = match proposal.what {
            Proposed::Do(row) => (Some(row.name), None),
            Proposed::Hold(hold) => (None, Some(hold.to_string())),
        };
        json!({"reason": proposal.reason, "target": proposal.target, "action": action, "held": held})
    });
    json!({
        "keptAt": kept_at, "policy": state.policy(), "faults": decided.collect::<Vec<_>>(),
        "attempts": state.repairs().collect::<Vec<_>>(),
    })
}

fn write_text(state: &State, kept_at: Option<Timestamp>, out: &mut impl Write) -> anyhow::Result<()> {
    let Policy {
        observe_only,
        maximum_risk,
        switches,
        is_reboot_granted,
        power_off_when_preempted,
        shared_conditions: _,
    } = state.policy();
    match observe_only {
        true => writeln!(out, "policy:  observes only")?,
        false => writeln!(out, "policy:  repairs of at most {maximum_risk:?} risk")?,
    }
    for (name, is_on) in switches {
        writeln!(out, "policy:  {name} is switched {}", if *is_on { "on" } else { "off" })?;
    }
    if *power_off_when_preempted {
        writeln!(out, "policy:  shut down in order when Azure takes the VM away")?;
    }
    if *is_reboot_granted {
        writeln!(out, "policy:  the provisioner granted a reboot")?;
    }
    if let Some(held) = &state.intents().held {
        writeln!(out, "policy:  nothing before {}: the provisioner asked for {}", held.until, held.word())?;
    }
    let decided = state.decide();
    match kept_at {
        None => writeln!(out, "faults:  no guard has looked since the machine started")?,
        Some(at) if decided.is_empty() => writeln!(out, "faults:  none (as kept at {at}); nothing would be done")?,
        Some(at) => writeln!(out, "faults:  as kept at {at}")?,
    }
    for proposal in decided {
        let on = if proposal.target.is_empty() { String::new() } else { format!(" on {}", proposal.target) };
        match proposal.what {
            Proposed::Do(row) => writeln!(out, "fault:   {}{on}: would do {}", proposal.reason, row.name)?,
            Proposed::Hold(hold) => writeln!(out, "fault:   {}{on}: {hold}", proposal.reason)?,
        }
    }
    for attempt in state.repairs() {
        write_attempt(attempt, out)?;
    }
    if state.repairs().next().is_none() {
        writeln!(out, "repairs: none within a day")?;
    }
    Ok(())
}

fn write_attempt(attempt: &Attempt, out: &mut impl Write) -> anyhow::Result<()> {
    let Attempt { id, repair, reason, at, evidence, .. } = attempt;
    match &attempt.ended {
        None => writeln!(out, "repair:  {at} #{id} {repair} for {reason}: under way")?,
        Some(ended) => {
            let why = if ended.detail.is_empty() { String::new() } else { format!(": {}", ended.detail) };
            writeln!(out, "repair:  {at} #{id} {repair} for {reason}: {:?} at {}{why}", ended.outcome, ended.at)?;
        }
    }
    evidence.iter().try_for_each(|seen| writeln!(out, "         {seen}"))?;
    Ok(())
}
