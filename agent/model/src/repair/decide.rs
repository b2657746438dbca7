//! Which repair is to be done now, or why none.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{Act, Ledger, Policy, Repair, SUSPICION, TRIES, ladder, millis, minutes};
use crate::monitor::{ScheduledEvent, UnitSeen};

/// A start that systemd is at work on is left to it for so long.
const START_PATIENCE: Duration = minutes(3);

/// A fault as the verdict knows it. Times are in milliseconds of the verdict's time.
#[derive(Debug, Clone, Copy)]
pub struct Sick<'a> {
    /// Which fault.
    pub reason: &'a str,
    /// At what; empty when there is only one.
    pub target: &'a str,
    /// The fault whose consequence it is.
    pub caused_by: Option<&'a str>,
    /// Two independent signals say so, or one that cannot err.
    pub is_proven: bool,
    /// What says so says it now; else it is clearing.
    pub is_bad_now: bool,
    /// When it came.
    pub entered_ms: u64,
    /// Since when it stands for so long that it costs the node, and no reboot of the last day was for it.
    pub is_fatal_since_ms: Option<u64>,
}

/// What matters beside the faults.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// Now.
    pub time_ms: u64,
    /// The node has registered in this boot.
    pub is_booted: bool,
    /// Why nothing counts now.
    pub suppressed: Option<&'a str>,
    /// What Azure announces.
    pub events: &'a [ScheduledEvent],
    /// A late answer is no sign of a fault.
    pub is_strained: bool,
    /// Units as PID 1 sees them.
    pub units: &'a BTreeMap<String, UnitSeen>,
    /// When every file system had taken a write last, or what kept one from it.
    pub written_ms: Result<u64, &'a str>,
    /// What the provisioner asked for, until nothing disruptive may be done: `Hold` or `Drain`.
    pub held: Option<&'static str>,
    /// How long a reboot of our own choice waits; nothing when the provisioner granted one.
    pub lottery: Option<Duration>,
}

/// Why nothing is done about a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// No repair is known.
    NoRepair,
    /// The policy forbids all that is left; the repair, and why.
    Forbidden(&'static str, String),
    /// Another fault explains it.
    Consequence(String),
    /// One signal is not enough.
    NotProven,
    /// One signal is enough for this repair only after so long.
    Suspected(&'static str, Duration),
    /// A repair is being made against it.
    UnderWay,
    /// Nothing is left to try.
    Spent,
    /// Another repair is being made.
    Busy(String),
    /// The node has not registered yet.
    Booting,
    /// Nothing counts now; why.
    Suppressed(String),
    /// Azure is about to do something to the VM.
    EventComing(String),
    /// The last attempt was not long ago: so many milliseconds are left.
    CoolingDown(&'static str, u64),
    /// Its signals are clearing.
    Recovering,
    /// Another fault forbids it.
    Forbidding(String),
    /// An administrator stopped the unit.
    StoppedOnPurpose(&'static str),
    /// systemd is at work on the unit.
    InTransition(&'static str),
    /// The machine is so busy that it may only be slow.
    Strained,
    /// A disk does not take writes.
    DiskNotWritable(String),
    /// It would be done, but no disk has been written to since the fault came.
    DiskNotProbed(&'static str),
    /// The provisioner asked for this.
    Asked(&'static str),
    /// Others may mend it first; so long they have.
    Patience(&'static str, Duration),
    /// Nothing milder is left, and it does not cost the node yet.
    LastResort(&'static str),
    /// So many milliseconds are left of this machine's own wait.
    Lottery(&'static str, u64),
    /// The host could not begin.
    Refused(String),
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hold::NoRepair => f.write_str("no repair is known"),
            Hold::Forbidden(repair, why) => write!(f, "{repair} is not allowed: {why}"),
            Hold::Consequence(cause) => write!(f, "{cause} explains it"),
            Hold::NotProven => f.write_str("one kind of signal is not enough"),
            Hold::Suspected(repair, left) => {
                write!(f, "only one kind of signal says so; {repair} in {} s if it lasts", left.as_secs())
            }
            Hold::UnderWay => f.write_str("a repair is under way"),
            Hold::Spent => f.write_str("nothing is left to try before it has gone"),
            Hold::Busy(repair) => write!(f, "one at a time, and {repair} is under way"),
            Hold::Booting => f.write_str("the node has not registered yet"),
            Hold::Suppressed(why) => write!(f, "nothing counts now: {why}"),
            Hold::EventComing(kind) => write!(f, "Azure announces {kind}"),
            Hold::CoolingDown(repair, left_ms) => {
                write!(f, "{repair} was tried a moment ago; again in {} s", left_ms.div_ceil(1000))
            }
            Hold::Recovering => f.write_str("it is going away"),
            Hold::Forbidding(reason) => write!(f, "{reason} is there"),
            Hold::StoppedOnPurpose(unit) => write!(f, "{unit} was stopped on purpose"),
            Hold::InTransition(unit) => write!(f, "systemd is at work on {unit}"),
            Hold::Strained => f.write_str("the machine is so busy that it may only be slow"),
            Hold::DiskNotWritable(what) => write!(f, "a disk does not take writes: {what}"),
            Hold::DiskNotProbed(repair) => write!(f, "{repair} as soon as every disk has taken a write"),
            Hold::Asked(what) => write!(f, "the provisioner asked for {what}"),
            Hold::Patience(repair, left) => write!(f, "{repair} in {} s, if nobody else has mended it", left.as_secs()),
            Hold::LastResort(repair) => {
                write!(f, "only {repair} is left, and that waits until the fault costs the node")
            }
            Hold::Lottery(repair, left_ms) => {
                write!(f, "{repair} in {} s, so that not all nodes do it at once", left_ms.div_ceil(1000))
            }
            Hold::Refused(why) => f.write_str(why),
        }
    }
}

/// What is to be done about a fault.
#[derive(Debug, Clone)]
pub enum Proposed {
    /// This, now.
    Do(&'static Repair),
    /// Nothing.
    Hold(Hold),
}

/// What is to be done about which fault.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// Which fault.
    pub reason: String,
    /// At what.
    pub target: String,
    /// What is to be done.
    pub what: Proposed,
}

/// How far the ladder of a fault was climbed.
#[derive(Debug, Clone, Copy)]
pub enum Standing {
    /// It has none, or none that is allowed.
    NoRepair,
    /// A repair against it was begun.
    UnderWay,
    /// The next attempt has to wait until then, in milliseconds of the machine's life.
    CoolingDown(&'static Repair, u64),
    /// The next attempt.
    Next(&'static Repair),
    /// Nothing is left.
    Spent,
}

/// How far the ladder of a fault was climbed.
pub fn standing(policy: &Policy, ledger: &Ledger, reason: &str, target: &str) -> Standing {
    let mut allowed = ladder(reason).filter(|row| policy.forbids(row).is_none()).peekable();
    if ledger.is_repairing(reason, target) {
        return Standing::UnderWay;
    }
    if allowed.peek().is_none() {
        return Standing::NoRepair;
    }
    if ledger.is_spent(reason, target) {
        return Standing::Spent;
    }
    let Some(rung) = allowed.find(|row| ledger.tries(row, reason, target) < TRIES && !ledger.is_out_of_budget(row))
    else {
        return Standing::Spent;
    };
    match ledger.cooled_ms(rung) {
        until_ms if until_ms > ledger.now_ms() => Standing::CoolingDown(rung, until_ms),
        _ => Standing::Next(rung),
    }
}

/// What is to be done about each fault: at most one repair, for the first of them that one can be done for.
pub fn decide(policy: &Policy, ledger: &Ledger, situation: Situation<'_>, faults: &[Sick<'_>]) -> Vec<Proposal> {
    let mut busy = ledger.under_way().map(|(attempt, _)| attempt.repair.clone());
    let mut proposals = Vec::new();
    for sick in faults {
        let what = match next(policy, ledger, situation, faults, sick, busy.as_deref()) {
            Ok(row) => {
                busy = Some(row.name.to_owned());
                Proposed::Do(row)
            }
            Err(hold) => Proposed::Hold(hold),
        };
        proposals.push(Proposal { reason: sick.reason.to_owned(), target: sick.target.to_owned(), what });
    }
    proposals
}

fn next(
    policy: &Policy,
    ledger: &Ledger,
    situation: Situation<'_>,
    faults: &[Sick<'_>],
    sick: &Sick<'_>,
    busy: Option<&str>,
) -> Result<&'static Repair, Hold> {
    let standing = standing(policy, ledger, sick.reason, sick.target);
    match standing {
        Standing::UnderWay => return Err(Hold::UnderWay),
        Standing::NoRepair => return Err(forbidden(policy, sick.reason)),
        Standing::Spent | Standing::CoolingDown(..) | Standing::Next(_) => {}
    }
    if let Some(cause) = sick.caused_by {
        return Err(Hold::Consequence(cause.to_owned()));
    }
    let age = Duration::from_millis(situation.time_ms.saturating_sub(sick.entered_ms));
    let rung = match standing {
        Standing::CoolingDown(row, until_ms) => {
            return Err(Hold::CoolingDown(row.name, until_ms.saturating_sub(ledger.now_ms())));
        }
        Standing::Next(row) if row.is_last_resort() => is_last_resort_due(situation, sick, row)?,
        // systemd will not start it again: nothing but a repair will, and a second look would see the same.
        Standing::Next(row) if sick.is_proven || is_given_up(situation, row) => row,
        Standing::Next(row) if row.on_suspicion.contains(&sick.reason) => match SUSPICION.checked_sub(age) {
            Some(left) if !left.is_zero() => return Err(Hold::Suspected(row.name, left)),
            _ => row,
        },
        Standing::Next(_) => return Err(Hold::NotProven),
        Standing::Spent | Standing::UnderWay | Standing::NoRepair => return Err(Hold::Spent),
    };
    if let Some(left) = rung.after.checked_sub(age).filter(|left| !left.is_zero()) {
        return Err(Hold::Patience(rung.name, left));
    }
    if let Some(other) = busy {
        return Err(Hold::Busy(other.to_owned()));
    }
    is_right_time(situation)?;
    if !sick.is_bad_now {
        return Err(Hold::Recovering);
    }
    if let Some(other) = faults.iter().find(|other| rung.not_while.contains(&other.reason)) {
        return Err(Hold::Forbidding(other.reason.to_owned()));
    }
    is_unit_ours(situation, age, rung)?;
    match situation.written_ms {
        // It may be against that very disk, and needs no record.
        _ if rung.is_last_resort() && situation.lottery.is_none() => {}
        // A full disk takes no write; that there is one at all the faults of disks say.
        _ if rung.act == Act::FreeSpace => {}
        Err(what) => return Err(Hold::DiskNotWritable(what.to_owned())),
        // A service may hang because its disk does, and that shows only when the next write does not come back.
        Ok(at) if at < sick.entered_ms => return Err(Hold::DiskNotProbed(rung.name)),
        Ok(_) => {}
    }
    match ledger.refused() {
        Some(why) => Err(Hold::Refused(why.to_owned())),
        None => Ok(rung),
    }
}

fn forbidden(policy: &Policy, reason: &str) -> Hold {
    let first = ladder(reason).find_map(|row| Some((row.name, policy.forbids(row)?)));
    first.map_or(Hold::NoRepair, |(name, why)| Hold::Forbidden(name, why))
}

fn is_last_resort_due(
    situation: Situation<'_>,
    sick: &Sick<'_>,
    row: &'static Repair,
) -> Result<&'static Repair, Hold> {
    let since_ms = sick.is_fatal_since_ms.ok_or(Hold::LastResort(row.name))?;
    let due_ms = since_ms + situation.lottery.map_or(0, millis);
    match due_ms.saturating_sub(situation.time_ms) {
        0 => Ok(row),
        left_ms => Err(Hold::Lottery(row.name, left_ms)),
    }
}

fn is_given_up(situation: Situation<'_>, rung: &Repair) -> bool {
    let unit = rung.act.unit().and_then(|unit| situation.units.get(unit));
    unit.is_some_and(|unit| unit.active == "failed")
}

/// Nothing is begun that the platform, or the boot, would cut off.
fn is_right_time(situation: Situation<'_>) -> Result<(), Hold> {
    if !situation.is_booted {
        return Err(Hold::Booting);
    }
    if let Some(why) = situation.suppressed {
        return Err(Hold::Suppressed(why.to_owned()));
    }
    if let Some(what) = situation.held {
        return Err(Hold::Asked(what));
    }
    let ends_it =
        |event: &&ScheduledEvent| matches!(event.kind.as_str(), "Preempt" | "Terminate" | "Reboot" | "Redeploy");
    situation.events.iter().find(ends_it).map_or(Ok(()), |event| Err(Hold::EventComing(event.kind.clone())))
}

/// What an administrator or systemd does to a unit is theirs.
fn is_unit_ours(situation: Situation<'_>, age: Duration, rung: &Repair) -> Result<(), Hold> {
    let Some(unit) = rung.act.unit() else { return Ok(()) };
    // Where PID 1 does not say, the host asks it again before it begins.
    let Some(seen) = situation.units.get(unit) else { return Ok(()) };
    match (seen.active.as_str(), seen.sub.as_str()) {
        ("inactive", _) if seen.result == "success" => Err(Hold::StoppedOnPurpose(unit)),
        ("deactivating", _) => Err(Hold::InTransition(unit)),
        ("activating", sub) if sub != "auto-restart" && age < START_PATIENCE => Err(Hold::InTransition(unit)),
        // That it runs PID 1 says; that it does not answer may be the pressure. That it is down, or a date, is no matter of speed.
        ("active" | "reloading" | "refreshing", _) if situation.is_strained && rung.act != Act::Rebootstrap => {
            Err(Hold::Strained)
        }
        _ => Ok(()),
    }
}
