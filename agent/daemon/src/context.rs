//! What all commands need: the root, the sources, the facts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use nap_host::imds::Imds;
use nap_host::root::{FileError, Root};
use nap_host::sources::{self, Found, Reach, Source};
use nap_host::{chain, observe, persist};
use nap_model::config::{LocalDisks, NodeConfig, Use};
use nap_model::facts::{Disk, Dmi, Facts, Instance};
use nap_model::os::Distribution;
use nap_model::plan::CONTAINERD_DIRECTORY;
use nap_model::report::{Failure, Reason};
use nap_model::secret::SecretString;
use tracing::{info, warn};

use crate::cli::{Common, Output};

/// How long a boot waits for IMDS when it can do without.
const IMDS_GRACE: Duration = Duration::from_secs(2);

/// Longest counting of what is in containerd's directory: of more files than can be counted in this time none are copied.
const COUNT_LIMIT: Duration = Duration::from_secs(3);

/// How often the routes are asked for the node's address while the network comes up.
const ADDRESS_EVERY: Duration = Duration::from_millis(100);

/// What the flags of all commands mean.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) root: Arc<Root>,
    pub(crate) imds: Arc<Imds>,
    pub(crate) output: Output,
    common: Common,
}

impl Context {
    pub(crate) fn new(common: Common) -> anyhow::Result<Self> {
        let root = Root::open(&common.root)?;
        let imds = Imds::new(&common.imds)?;
        Ok(Self { root: Arc::new(root), imds: Arc::new(imds), output: common.output, common })
    }

    /// Finds the configuration in the sources, the provisioning disc among them; for a boot, which may have to join once more.
    pub(crate) async fn find(&self) -> Result<Found, Failure> {
        let mut found = self.find_within(Reach { may_mount: true, imds_limit: sources::IMDS_LIMIT }).await?;
        if found.source == Source::OwnCopy
            && !self.has_valid_certificate()
            && let Some(config) = &mut found.decoded.config
        {
            config.bootstrap_token = self.find_token(config).await;
        }
        Ok(found)
    }

    /// Finds the configuration and touches nothing: for commands that only show something, and for the guard.
    pub(crate) async fn look_for(&self) -> Result<Found, Failure> {
        self.find_within(Reach { may_mount: false, imds_limit: Duration::from_secs(5) }).await
    }

    async fn find_within(&self, reach: Reach) -> Result<Found, Failure> {
        let given = self.common.custom_data.as_deref();
        // A given file can be looked at anywhere, also where the firmware's words are root's alone.
        let dmi = if given.is_some() { Dmi::default() } else { self.dmi()? };
        let found = sources::find(&self.root, given, &dmi, &self.imds, reach).await?;
        info!(source = ?found.source, format = %found.decoded.document.format, "custom data found");
        Ok(found)
    }

    /// The bootstrap token of a node that has lost its certificate; our own copy of the custom data has none, as it had done its work.
    pub(crate) async fn find_token(&self, config: &NodeConfig) -> Option<SecretString> {
        let dmi = self.dmi().ok()?; // without it nothing else was found either
        let (source, token) = sources::find_token(&self.root, &dmi, &self.imds, &config.cluster).await?;
        info!(?source, "the bootstrap token was looked up again");
        Some(token)
    }

    fn has_valid_certificate(&self) -> bool {
        let certificate = observe::client_certificate(&self.root).ok().flatten(); // who needs it says so when it cannot be read
        certificate.is_some_and(|certificate| certificate.is_valid_at(jiff::Timestamp::now()))
    }

    fn dmi(&self) -> Result<Dmi, Failure> {
        observe::dmi(&self.root).map_err(|error| Failure::new(Reason::StepFailed, "observe", chain(&error)))
    }

    /// The facts, without IMDS'.
    pub(crate) async fn observe(&self, config: &NodeConfig) -> Result<Facts, Failure> {
        let observed = match (&self.common.facts, self.common.os) {
            (Some(path), _) => read_facts(path).map_err(|error| format!("{error:#}")),
            (None, Some(os)) => Ok(typical_facts(os, config)),
            (None, None) => self.observe_machine(config).await.map_err(|error| chain(&error)),
        };
        observed.map_err(|message| Failure::new(Reason::StepFailed, "observe", message))
    }

    /// The machine; what is on its local disks, how much would go there, and whether it can stream images only where somebody wants it.
    async fn observe_machine(&self, config: &NodeConfig) -> Result<Facts, FileError> {
        let storage = &config.storage;
        let uses_disks = storage.local_disks != LocalDisks::None;
        if uses_disks {
            observe::disks_settled(&self.root).await;
        }
        let mut facts = observe::observe(&self.root).await?;
        if uses_disks {
            observe::look_into(&self.root, &mut facts.disks);
        }
        if storage.uses.contains(&Use::Containerd) {
            let limit = storage.copy_limit_bytes;
            facts.containerd_bytes = observe::directory_bytes(&self.root, CONTAINERD_DIRECTORY, limit, COUNT_LIMIT);
        }
        if config.registries.streaming {
            facts.streaming = Some(observe::streaming(&self.root)?);
        }
        Ok(facts)
    }

    /// Adds what IMDS knows of this VM, unless the facts came from a file or IMDS is late.
    pub(crate) async fn add_instance(&self, facts: &mut Facts, config: &NodeConfig) {
        if self.common.facts.is_some() || self.common.os.is_some() {
            return;
        }
        let answer = tokio::select! {
            answer = self.imds.instance(sources::IMDS_LIMIT) => answer.map_err(|error| chain(&error)),
            // Cancelling a question to IMDS loses nothing.
            () = can_do_without(config) => Err("no answer yet, and none needed".to_owned()),
        };
        // The routes may have come up meanwhile.
        facts.primary_address = observe::primary_address().or(facts.primary_address);
        facts.instance = match answer {
            Ok(instance) if !facts.dmi.is_vm(&instance.vm_id) => {
                warn!(
                    vm_id = instance.vm_id,
                    dmi = facts.dmi.vm_id(),
                    "IMDS describes another VM; its answer is not used"
                );
                self.remembered_instance(facts)
            }
            Ok(instance) => Some(instance),
            Err(error) => {
                warn!(error, "going on without IMDS");
                self.remembered_instance(facts)
            }
        };
    }

    /// The facts on which the boot's plan rests, with the time and the client certificate of now; `step` asks for them.
    pub(crate) fn kept_facts(&self, step: &str) -> Result<Facts, Failure> {
        let failed = |message: String| Failure::new(Reason::StepFailed, step, message);
        let facts = persist::read_facts(&self.root).map_err(|error| failed(chain(&error)))?;
        let mut facts =
            facts.ok_or_else(|| failed("no boot's facts are here; the next boot writes them".to_owned()))?;
        facts.observed_at = jiff::Timestamp::now();
        facts.client_certificate = observe::client_certificate(&self.root).map_err(|error| failed(chain(&error)))?;
        self.renew_disks(&mut facts);
        Ok(facts)
    }

    /// Disks come and go under a running node. Those that the boot looked into stay as it saw them: what it made of them is kept, and
    /// nothing is made of others.
    fn renew_disks(&self, facts: &mut Facts) {
        match observe::disks(&self.root) {
            Ok(now) => {
                facts.disks.retain(Disk::is_local);
                facts.disks.extend(now.into_iter().filter(|disk| !disk.is_local()));
            }
            Err(error) => warn!(error = chain(&error), "cannot look at the disks; going on with those of the boot"),
        }
    }

    /// What IMDS said at an earlier boot of this VM, so that kubelet's flags stay the same while IMDS is away.
    fn remembered_instance(&self, facts: &Facts) -> Option<Instance> {
        let old = persist::read_facts(&self.root).ok().flatten()?;
        old.instance.filter(|_| old.dmi == facts.dmi)
    }
}

/// Ends when the boot can do without IMDS: the IPv4 address is in the routes, the provider id in the configuration, and IMDS had
/// its chance.
async fn can_do_without(config: &NodeConfig) {
    let grace = tokio::time::sleep(IMDS_GRACE);
    if config.provider_id.is_none() && config.cloud.subscription_id.is_empty() {
        return std::future::pending().await;
    }
    let mut ticks = tokio::time::interval(ADDRESS_EVERY);
    while !observe::primary_address().is_some_and(|address| address.is_ipv4()) {
        ticks.tick().await;
    }
    grace.await;
}

/// A machine with this distribution and the kubelet that the cluster wants.
fn typical_facts(os: &Distribution, config: &NodeConfig) -> Facts {
    let mut facts = os.typical_facts();
    facts.programs.kubelet = Some(config.cluster.kubernetes_version);
    facts
}

fn read_facts(path: &std::path::Path) -> anyhow::Result<Facts> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} holds no facts", path.display()))
}

/// The configuration, or a failure with every mistake in it. Its warnings are one line of the log: a script has twenty of them at
/// every boot, and `decode` and the report have their text.
pub(crate) fn config_of(found: &Found) -> Result<&NodeConfig, Failure> {
    let warnings = &found.decoded.findings.warnings;
    if !warnings.is_empty() {
        let names: BTreeSet<_> = warnings.iter().map(|warning| warning.path.as_str()).collect();
        let fields = names.into_iter().map(|name| if name.is_empty() { "the document" } else { name });
        let fields = fields.collect::<Vec<_>>().join(", ");
        warn!(count = warnings.len(), fields, "not all of the configuration is acted on; `nap-agent decode` says why");
    }
    found.decoded.config.as_ref().ok_or_else(|| {
        let problems = &found.decoded.findings.problems;
        let message = format!("{} mistakes in the {}", problems.len(), found.decoded.document.format);
        problems.iter().fold(Failure::new(Reason::ConfigInvalid, "parse", message), |failure, problem| {
            failure.seen(problem.to_string())
        })
    })
}
