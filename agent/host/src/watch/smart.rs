//! What NVMe controllers say of their own health. By a thread of its own: one that does not answer holds up who asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nap_model::monitor::SmartSeen;
use tokio::sync::Notify;
use tracing::warn;

use super::Turn;
use super::aside::Aside;
use crate::nvme;
use crate::root::Root;

/// Nothing here changes within minutes.
const EVERY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Smart {
    work: Aside<BTreeMap<String, SmartSeen>>,
    turn: Turn,
}

impl Smart {
    pub(super) fn start(root: &Arc<Root>) -> Option<Self> {
        let root = Arc::clone(root);
        let work = Aside::start("smart", Arc::<Notify>::default(), move || look(&root));
        let work = work.map_err(|error| warn!(error = %error, "NVMe disks are not asked for their health")).ok()?;
        Some(Self { work, turn: Turn::every(EVERY) })
    }

    /// What came back since.
    pub(super) fn take(&mut self) -> BTreeMap<String, SmartSeen> {
        if self.turn.has_come() {
            self.work.ask();
        }
        self.work.take().unwrap_or_default()
    }
}

/// Those that answer; many that are emulated do not. Who is being reset is left alone, and so are disks over a network.
fn look(root: &Root) -> BTreeMap<String, SmartSeen> {
    let says = |name: &str, what: &str, word: &str| {
        root.read_text(&format!("/sys/class/nvme/{name}/{what}")).ok().flatten().is_some_and(|text| text.trim() == word)
    };
    let ask = |name: String| {
        if !says(&name, "state", "live") || !says(&name, "transport", "pcie") {
            return None;
        }
        let controller = root.open_for_reading(&format!("/dev/{name}")).ok()??;
        Some((name, nvme::smart(&controller).ok()?))
    };
    // None where there is no driver.
    root.names("/sys/class/nvme").unwrap_or_default().into_iter().filter_map(ask).collect()
}
