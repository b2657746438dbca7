//! What the provisioner asked of this node in this boot, and what of it still holds.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::State;
use crate::intent::{Ask, Intent};
use crate::monitor::{Tick, Verdict};
use crate::repair::{LOTTERY, Policy, millis};

/// Longest hold: a provisioner that has forgotten it must not keep the node from repairing itself for ever.
const MOST_HOLD: SignedDuration = SignedDuration::from_hours(24);

/// Ids that are remembered; who sends more of them within one boot could have the oldest done twice.
const MOST_TAKEN: usize = 64;

/// What still holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Intents {
    /// Nothing disruptive is begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// The intent that lets the node reboot itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reboot_granted_by: Option<String>,
}

/// A hold or a drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Because the node is being emptied.
    pub is_drain: bool,
    /// When it is over, by the clock of then.
    pub until: Timestamp,
    /// The intent's id.
    pub by: String,
    /// The same as `until` after the machine's start: the wall clock may be set meanwhile.
    ends: Duration,
}

impl Held {
    /// The intent's word.
    pub fn word(&self) -> &'static str {
        if self.is_drain { "Drain" } else { "Hold" }
    }
}

/// Every intent of this boot that was taken, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct TakenIntents(VecDeque<(String, String)>);

/// What became of an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It holds, or is done, from now on.
    Now,
    /// It was taken before; nothing is done again.
    Before,
}

impl State {
    /// What of the provisioner's intents holds now.
    pub fn intents(&self) -> &Intents {
        &self.intents
    }

    /// Takes an intent.
    ///
    /// # Errors
    /// Why it contradicts what this node is or is doing.
    pub fn take_intent(&mut self, intent: &Intent, vm_id: &str, tick: Tick) -> Result<Taken, String> {
        if vm_id.is_empty() {
            return Err("this node does not know yet which VM it is".to_owned());
        }
        if intent.vm_id != vm_id {
            return Err(format!("it is for the VM {}, and this is not it", intent.vm_id));
        }
        if intent.boot_id != self.boot_id {
            return Err(format!("it is for the boot {}, and this is the boot {}", intent.boot_id, self.boot_id));
        }
        let what = format!("{:?}", intent.ask);
        if let Some((_, before)) = self.taken_intents.0.iter().find(|(id, _)| *id == intent.id) {
            return match *before == what {
                true => Ok(Taken::Before),
                false => Err(format!("the id {} was another intent's", intent.id)),
            };
        }
        match &intent.ask {
            Ask::Hold(until) => self.hold(intent, false, *until, tick)?,
            Ask::Drain(until) => self.hold(intent, true, *until, tick)?,
            Ask::Release => self.intents.held = None,
            Ask::GrantReboot => self.grant_reboot(intent)?,
            Ask::CollectDiagnostics => {}
            Ask::ClearLatch(reason) => self.clear_latch(reason)?,
        }
        self.taken_intents.0.push_back((intent.id.clone(), what));
        let excess = self.taken_intents.0.len().saturating_sub(MOST_TAKEN);
        self.taken_intents.0.drain(..excess);
        Ok(Taken::Now)
    }

    fn hold(&mut self, intent: &Intent, is_drain: bool, until: Timestamp, tick: Tick) -> Result<(), String> {
        let left = until.duration_since(tick.wall);
        let length = Duration::try_from(left).ok().filter(|length| !length.is_zero() && left <= MOST_HOLD);
        let length = length.ok_or_else(|| format!("until: {until} is not within a day from now, {}", tick.wall))?;
        self.intents.held = Some(Held { is_drain, until, by: intent.id.clone(), ends: tick.since_boot + length });
        Ok(())
    }

    fn grant_reboot(&mut self, intent: &Intent) -> Result<(), String> {
        if let Some(why) = self.policy.refuses_grant() {
            return Err(format!("the node's owner forbids reboots: {why}"));
        }
        if self.current.state != Verdict::NeedsReboot {
            return Err(format!("the verdict is {:?}, and only NeedsReboot wants a reboot", self.current.state));
        }
        self.intents.reboot_granted_by = Some(intent.id.clone());
        self.policy.is_reboot_granted = true;
        Ok(())
    }

    fn clear_latch(&mut self, reason: &str) -> Result<(), String> {
        let held = self.faults.values_mut().filter(|fault| fault.reason == reason && fault.held_until_ms.is_some());
        let mut is_there = false;
        for fault in held {
            fault.entered_ms.clear();
            fault.held_until_ms = None;
            fault.since = None;
            is_there = true;
        }
        is_there.then_some(()).ok_or_else(|| format!("no fault {reason} is held"))
    }

    /// A grant is for one attempt.
    pub(super) fn use_grant(&mut self) {
        self.intents.reboot_granted_by = None;
        self.policy.is_reboot_granted = false;
    }

    /// Lets go of what is over: a hold whose time has come, a grant that nobody needs any more.
    pub(super) fn expire_intents(&mut self, tick: Tick) {
        self.intents.held.take_if(|held| held.ends <= tick.since_boot);
        if !matches!(self.current.state, Verdict::NeedsReboot | Verdict::Repairing) {
            self.use_grant();
        }
    }

    /// These repairs are allowed, and what the provisioner has granted in this boot.
    pub fn allow(&mut self, policy: Policy) {
        self.policy = Policy { is_reboot_granted: self.intents.reboot_granted_by.is_some(), ..policy };
    }

    /// How long this machine, in this boot, waits before it reboots by its own choice.
    pub(super) fn lottery(&self) -> Option<Duration> {
        let mut hasher = DefaultHasher::new();
        self.boot_id.hash(&mut hasher);
        let wait = Duration::from_millis(hasher.finish() % millis(LOTTERY));
        (!self.policy.is_reboot_granted).then_some(wait)
    }
}
