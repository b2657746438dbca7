//! Does at the image's building what no node has to do at its boot, and writes down what the image has.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nap_host::executor::{ApplyError, Executor};
use nap_host::journal::Journal;
use nap_host::observe;
use nap_host::root::{FileError, Root};
use nap_model::image::{INVENTORY, Image};
use nap_model::os::Distribution;
use nap_model::plan::{AbsPath, Content, Stage, Step, Want, bake};
use nap_model::report::Failure;
use thiserror::Error;

use crate::inventory;
use crate::progress::Progress;

/// Why an image could not be worked on.
#[derive(Debug, Error)]
pub enum BakeError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The image is of no distribution of ours.
    #[error("{0}; seen: {evidence}", evidence = .0.evidence.join("; "))]
    Os(Failure),
    /// A step failed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// There is no room for a temporary file.
    #[error("cannot make a temporary directory")]
    Temporary(#[source] std::io::Error),
}

/// What baking did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Baked {
    /// Steps that were changed.
    pub changed: Vec<String>,
    /// How many were as wanted already.
    pub in_sync: usize,
}

/// Opens an image's root and finds its distribution.
///
/// # Errors
/// When there is none, or none of ours in it.
pub fn open(directory: &Path) -> Result<(Arc<Root>, &'static Distribution), BakeError> {
    // Its absolute path: programs of the image are started with another working directory.
    let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let root = Root::open(&directory)?;
    let os = Distribution::of(&observe::os(&root)?).map_err(BakeError::Os)?;
    Ok((Arc::new(root), os))
}

/// Bakes an image. Killed anywhere and run again, it ends in the same state; run again, it changes nothing.
///
/// # Errors
/// When a step fails or the image cannot be looked at.
pub async fn run(root: &Arc<Root>, os: &'static Distribution, progress: &Progress) -> Result<Baked, BakeError> {
    // Nobody asks a node what was tried when its image was built, and a journal would make every baking a change.
    let elsewhere = tempfile::tempdir().map_err(BakeError::Temporary)?;
    let journal = Journal::open(&Root::open(elsewhere.path())?, "", "bake")?;
    // No step of a bake has to do with a unit that would come up.
    let executor = Executor::new(Arc::clone(root), Arc::new(journal), Duration::ZERO);
    let mut baked = Baked::default();
    for stage in bake(os).stages {
        progress.now(&format!("stage {}", stage.name));
        baked.add(executor.apply(&stage).await?);
    }
    let image = inventory::look(root, os, progress).await?;
    progress.now("writing the inventory");
    baked.add(executor.apply(&inventory_stage(&image)).await?);
    progress.end();
    Ok(baked)
}

impl Baked {
    fn add(&mut self, applied: nap_host::executor::Applied) {
        self.changed.extend(applied.changed);
        self.in_sync += applied.in_sync.len();
    }
}

fn inventory_stage(image: &Image) -> Stage {
    let text = serde_json::to_string_pretty(image).expect("an inventory has only texts");
    let want = Want::File { path: AbsPath::literal(INVENTORY), mode: 0o644, content: Content::public(text + "\n") };
    let step = Step::new("image.inventory", "the node knows at once what its image lacks", want).at_bake();
    Stage { name: "inventory", steps: vec![step] }
}
