//! How far the boot has come, how long each stage took, and what must not be seen.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use nap_model::report::Failure;
use nap_model::secret::{MASK, SecretString};
use tracing::info;

/// The boot's own clock.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    stages: RefCell<Vec<(&'static str, Instant)>>,
    secrets: RefCell<Vec<SecretString>>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), stages: RefCell::default(), secrets: RefCell::default() }
    }

    /// A stage begins.
    pub(crate) fn enter(&self, stage: &'static str) {
        info!(stage, at_ms = self.elapsed().as_millis(), "stage begins");
        self.stages.borrow_mut().push((stage, Instant::now()));
    }

    /// The stage that runs.
    pub(crate) fn current(&self) -> &'static str {
        self.stages.borrow().last().map_or("start", |(stage, _)| stage)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Milliseconds since the current stage began.
    pub(crate) fn stage_ms(&self) -> u128 {
        self.stages.borrow().last().map_or(0, |(_, began)| began.elapsed().as_millis())
    }

    /// Each stage and its milliseconds.
    pub(crate) fn stage_times(&self) -> Vec<(String, String)> {
        let stages = self.stages.borrow();
        let ends = stages.iter().skip(1).map(|(_, began)| *began).chain([Instant::now()]);
        stages
            .iter()
            .zip(ends)
            .map(|((stage, began), end)| ((*stage).to_owned(), (end - *began).as_millis().to_string()))
            .collect()
    }

    /// From here on, this must not leave.
    pub(crate) fn hide(&self, secret: Option<&SecretString>) {
        self.secrets.borrow_mut().extend(secret.cloned());
    }

    /// A text from which every known secret is taken. By construction none is in it; programs we start may print anything.
    pub(crate) fn scrub(&self, text: &str) -> String {
        self.secrets.borrow().iter().fold(text.to_owned(), |text, secret| text.replace(secret.reveal(), MASK))
    }

    /// The same for a failure.
    pub(crate) fn scrub_failure(&self, failure: Failure) -> Failure {
        Failure {
            message: self.scrub(&failure.message),
            evidence: failure.evidence.iter().map(|line| self.scrub(line)).collect(),
            ..failure
        }
    }
}
