//! A provisioner that decides on node repair as Karpenter does, and as `docs/provisioners.md` asks for: the oracle of "would this
//! destroy the node?".
//!
//! Karpenter's rules, by its `pkg/controllers/node/health`: a policy matches a condition after its toleration; no node is touched while
//! more than a fifth of its pool (rounded up) matches any policy. Azure's policies tolerate `Ready` False or Unknown for ten minutes
//! and `NodeHealthy` False for none. Here `NodeHealthy` is False when the health document asks for another node and its time has come.
//! Ours on top: `Repairing` is waited for until its deadline, and a reason that is new on many nodes of one image is
//! told of once and touches none of them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// How long `Ready` may be False or Unknown.
const READY_TOLERATION: SignedDuration = SignedDuration::from_mins(10);

/// Share of a pool that may be unhealthy.
const MAX_UNHEALTHY: f64 = 0.20;

/// A reason that came to so many nodes of an image within this time is the image's.
const CORRELATED: (usize, f64, SignedDuration) = (2, 0.05, SignedDuration::from_mins(10));

/// A node as the provisioner sees it.
#[derive(Debug, Clone)]
pub struct SeenNode {
    /// Its name.
    pub name: String,
    /// Its node pool.
    pub pool: String,
    /// The image that it was made from.
    pub image: String,
    /// Its health document; nothing when it does not answer, which is no statement.
    pub document: Option<Value>,
    /// Since when the Node's condition `Ready` is not True.
    pub not_ready_since: Option<Timestamp>,
}

/// What the provisioner does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decision {
    /// It deletes the NodeClaim: every pod gets a second.
    Replace {
        /// Which node.
        node: String,
        /// Why.
        reason: String,
    },
    /// It would, and too much of the pool is unhealthy.
    Blocked {
        /// Which pool.
        pool: String,
    },
    /// Somebody is called: this is no matter of single nodes.
    ImageWide {
        /// What they have.
        reason: String,
        /// What they share.
        image: String,
        /// How many have it.
        nodes: usize,
    },
}

/// What it remembers.
#[derive(Debug, Default)]
pub struct Provisioner {
    /// Nothing of ours: Karpenter's rules alone.
    is_karpenter_alone: bool,
    /// When a reason came to a node.
    came: BTreeMap<(String, String), Timestamp>,
    told: BTreeSet<(String, String)>,
}

impl Provisioner {
    /// One that keeps to Karpenter's rules alone.
    pub fn karpenter_alone() -> Self {
        Self { is_karpenter_alone: true, ..Self::default() }
    }

    /// Looks at all nodes once, and decides.
    pub fn look(&mut self, now: Timestamp, nodes: &[SeenNode]) -> Vec<Decision> {
        self.remember(now, nodes);
        let mut decisions = BTreeSet::new();
        let blocked = blocked_pools(nodes);
        for node in nodes {
            let Some(reason) = self.due(now, node) else { continue };
            let image_wide = (!self.is_karpenter_alone).then(|| self.image_wide(&reason, &node.image, nodes)).flatten();
            let decision = match image_wide {
                Some(_) if !self.told.insert((reason.clone(), node.image.clone())) => continue,
                Some(count) => Decision::ImageWide { reason, image: node.image.clone(), nodes: count },
                None if blocked.contains(node.pool.as_str()) => Decision::Blocked { pool: node.pool.clone() },
                None => Decision::Replace { node: node.name.clone(), reason },
            };
            decisions.insert(decision);
        }
        decisions.into_iter().collect()
    }

    fn remember(&mut self, now: Timestamp, nodes: &[SeenNode]) {
        let present: BTreeSet<_> =
            nodes.iter().filter_map(|node| Some((node.name.clone(), reason(node)?.to_owned()))).collect();
        self.came.retain(|key, _| present.contains(key));
        for key in present {
            self.came.entry(key).or_insert(now);
        }
    }

    /// Why a node should be replaced now.
    fn due(&self, now: Timestamp, node: &SeenNode) -> Option<String> {
        let verdict = node.document.as_ref().map(|document| &document["verdict"]);
        let time = |value: &Value| value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
        if let Some(verdict) = verdict
            && time(&verdict["replaceAfter"]).is_some_and(|after| after <= now)
        {
            return Some(verdict["reason"].as_str().unwrap_or_default().to_owned());
        }
        let is_repairing = verdict.is_some_and(|verdict| {
            verdict["state"] == "Repairing"
                && time(&verdict["repair"]["deadline"]).is_some_and(|deadline| now < deadline)
        });
        let is_over = node.not_ready_since.is_some_and(|since| now.duration_since(since) >= READY_TOLERATION);
        (is_over && (self.is_karpenter_alone || !is_repairing)).then(|| "NotReady".to_owned())
    }

    /// How many nodes of an image have a reason, when that is too many and they came to it together.
    fn image_wide(&self, wanted: &str, image: &str, nodes: &[SeenNode]) -> Option<usize> {
        let (least, share, window) = CORRELATED;
        let of_image = || nodes.iter().filter(|node| node.image == image);
        let came = of_image().filter(|node| reason(node) == Some(wanted));
        let mut times: Vec<_> =
            came.filter_map(|node| self.came.get(&(node.name.clone(), wanted.to_owned()))).collect();
        times.sort();
        let limit = least.max(share_of(of_image().count(), share));
        let together =
            |start: usize| times[start..].iter().filter(|at| at.duration_since(*times[start]) <= window).count();
        let most = (0..times.len()).map(together).max().unwrap_or_default();
        (most > limit).then_some(times.len())
    }
}

/// The fault that a node's verdict is about.
fn reason(node: &SeenNode) -> Option<&str> {
    let verdict = node.document.as_ref().map(|document| &document["verdict"]);
    verdict.and_then(|verdict| verdict["reason"].as_str()).or(node.not_ready_since.map(|_| "NotReady"))
}

/// Pools in which more match a policy, tolerated or not, than Karpenter allows.
fn blocked_pools(nodes: &[SeenNode]) -> BTreeSet<&str> {
    let mut pools: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for node in nodes {
        let (all, unhealthy) = pools.entry(&node.pool).or_default();
        *all += 1;
        let asks = node.document.as_ref().is_some_and(|document| document["verdict"]["state"] == "NeedsReplacement");
        *unhealthy += usize::from(asks || node.not_ready_since.is_some());
    }
    let is_blocked = |(all, unhealthy): (usize, usize)| unhealthy > share_of(all, MAX_UNHEALTHY);
    pools.into_iter().filter(|(_, counts)| is_blocked(*counts)).map(|(pool, _)| pool).collect()
}

/// Rounded up, as Karpenter does.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of nodes"
)]
fn share_of(count: usize, share: f64) -> usize {
    (count as f64 * share).ceil() as usize
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-27T12:00:00Z".parse().unwrap()
    }

    fn node(number: usize, verdict: Value) -> SeenNode {
        SeenNode {
            name: format!("node-{number}"),
            pool: format!("pool-{}", number / 10),
            image: "image-1".to_owned(),
            document: Some(json!({ "verdict": verdict })),
            not_ready_since: None,
        }
    }

    fn broken(number: usize) -> SeenNode {
        node(number, json!({"state": "NeedsReplacement", "reason": "X", "replaceAfter": "2026-11-27T12:00:00Z"}))
    }

    fn healthy(number: usize) -> SeenNode {
        node(number, json!({"state": "Healthy"}))
    }

    #[test]
    fn one_node_is_replaced_at_its_time_and_many_are_not() {
        let fleet = |bad: usize| -> Vec<SeenNode> {
            (0..100).map(|number| if number % 10 < bad { broken(number) } else { healthy(number) }).collect()
        };
        let mut one: Vec<_> = (0..100).map(healthy).collect();
        one[7] = broken(7);
        let replace = vec![Decision::Replace { node: "node-7".to_owned(), reason: "X".to_owned() }];
        assert_eq!(Provisioner::default().look(now() - SignedDuration::from_secs(1), &one), []);
        assert_eq!(Provisioner::default().look(now(), &one), replace);
        assert_eq!(
            Provisioner::karpenter_alone().look(now(), &fleet(2)).len(),
            20,
            "Karpenter marches through every pool"
        );
        assert_eq!(Provisioner::karpenter_alone().look(now(), &fleet(3)).len(), 10, "and is blocked in each");
        let mut ours = Provisioner::default();
        let told = Decision::ImageWide { reason: "X".to_owned(), image: "image-1".to_owned(), nodes: 20 };
        assert_eq!(ours.look(now(), &fleet(2)), [told]);
        assert_eq!(ours.look(now(), &fleet(2)), [], "told once");
    }

    #[test]
    fn what_came_one_after_another_is_no_image() {
        let mut ours = Provisioner::default();
        let mut fleet: Vec<_> = (0..100).map(healthy).collect();
        for day in 0..20 {
            // One each half hour, as hardware fails.
            fleet[day * 5] = broken(day * 5);
            let decisions = ours.look(now() + SignedDuration::from_mins(30 * day as i64), &fleet);
            assert!(decisions.iter().all(|one| matches!(one, Decision::Replace { .. })), "{decisions:?}");
        }
    }

    #[test]
    fn a_repair_is_waited_for_and_a_reboot_for_its_grace() {
        let not_ready =
            |state: Value| SeenNode { not_ready_since: Some(now() - SignedDuration::from_mins(11)), ..node(1, state) };
        let replaced = |node: SeenNode, mut provisioner: Provisioner| {
            let mut fleet: Vec<_> = (2..10).map(healthy).collect();
            fleet.push(node);
            provisioner.look(now(), &fleet).len() == 1
        };
        let repairing = |deadline: &str| json!({"state": "Repairing", "repair": {"deadline": deadline}});
        assert!(!replaced(not_ready(repairing("2026-11-27T12:00:01Z")), Provisioner::default()));
        assert!(replaced(not_ready(repairing("2026-11-27T11:59:59Z")), Provisioner::default()));
        assert!(replaced(not_ready(repairing("2026-11-27T12:00:01Z")), Provisioner::karpenter_alone()));
        assert!(replaced(SeenNode { document: None, ..not_ready(json!({})) }, Provisioner::default()));
        let reboot = |after: &str| node(1, json!({"state": "NeedsReboot", "reason": "X", "replaceAfter": after}));
        assert!(!replaced(reboot("2026-11-27T12:29:00Z"), Provisioner::default()));
        assert!(replaced(reboot("2026-11-27T12:00:00Z"), Provisioner::default()));
    }
}
