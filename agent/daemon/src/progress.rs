//! How far the boot has come, how long each stage took, and what must not be seen.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use nap_model::report::Failure;
use nap_model::secret::{MASK, SecretString};
use tracing::{info, warn};

/// Shorter texts are no secrets, in bytes: `msi` stands where a principal's secret would.
const MIN_SECRET_BYTES: usize = 8;

/// The boot's own clock.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    stages: RefCell<Vec<(&'static str, Instant)>>,
    secrets: RefCell<Vec<SecretString>>,
    notes: RefCell<Vec<String>>,
    warnings: RefCell<Vec<String>>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            stages: RefCell::default(),
            secrets: RefCell::default(),
            notes: RefCell::default(),
            warnings: RefCell::default(),
        }
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

    /// Something that does not keep the node from coming up: for the log and the report.
    pub(crate) fn note(&self, note: String) {
        warn!("{note}");
        self.notes.borrow_mut().push(note);
    }

    /// The notes so far.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes.borrow().iter().map(|note| self.scrub(note)).collect()
    }

    /// What the configuration asks for and does not get, for the report alone.
    pub(crate) fn warned(&self, warnings: impl IntoIterator<Item = String>) {
        self.warnings.borrow_mut().extend(warnings);
    }

    /// The warnings.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.borrow().iter().map(|warning| self.scrub(warning)).collect()
    }

    /// From here on, this must not leave.
    pub(crate) fn hide<'s>(&self, secrets: impl IntoIterator<Item = &'s SecretString>) {
        // A word that stands for "none" is no secret, and a short one would black out half the log.
        let long = secrets.into_iter().filter(|secret| secret.reveal().len() >= MIN_SECRET_BYTES);
        self.secrets.borrow_mut().extend(long.cloned());
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
