//! The boot: fetch, parse, plan, apply, verify, report. One straight line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nap_host::executor::{ApplyError, Executor, StepError};
use nap_host::journal::Journal;
use nap_host::sources::Found;
use nap_host::units::{UnitError, Units};
use nap_host::wait::last_waited_for;
use nap_host::{api, chain, logs, observe, persist};
use nap_model::config::NodeConfig;
use nap_model::facts::Facts;
use nap_model::plan::{
    LOCAL_DNS_RUNNING, LOCAL_DNS_UNIT, MIRROR_ANSWERS, Plan, SECURE_TLS_RUN, SECURE_TLS_UNIT, Stage, decides_streaming,
    disk_units, plan, public_registry, tries_secure_tls,
};
use nap_model::report::{Failure, Reason};
use tracing::{info, warn};

use crate::context::{Context, config_of};
use crate::progress::Progress;
use crate::verify;

/// Lines of a unit's journal that go into the evidence.
const EVIDENCE_LINES: usize = 8;

/// Longest stop of what did not come up: more than its own unit says.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A boot that got as far as a registered node.
pub(crate) struct Booted {
    pub(crate) changed: usize,
    pub(crate) in_sync: usize,
    pub(crate) degraded: usize,
}

/// Makes this machine the wanted node.
pub(crate) async fn boot(context: &Context, progress: &Progress) -> Result<Booted, Failure> {
    let found = fetch(context, progress).await?;
    progress.warned(found.decoded.findings.warnings.iter().map(ToString::to_string));
    let config = config_of(&found)?;
    progress.hide(config.secrets());
    let budget = config.boot.budget.saturating_sub(progress.elapsed());
    match tokio::time::timeout(budget, with_config(context, progress, &found, config)).await {
        Ok(result) => result,
        Err(_) => {
            let message = format!("the boot did not end within {} s", config.boot.budget.as_secs());
            Err(Failure::new(Reason::BootDeadlineExceeded, progress.current(), message).seen(last_waited_for()))
        }
    }
}

async fn fetch(context: &Context, progress: &Progress) -> Result<Found, Failure> {
    progress.enter("fetch");
    let found = context.find().await;
    match found {
        // The control plane may know better than the disc: then the disc is the problem.
        Err(failure) if failure.reason == Reason::CustomDataMissing => {
            let instance = context.imds.instance(Duration::from_secs(5)).await;
            let has = instance.is_ok_and(|instance| instance.has_custom_data);
            Err(if has {
                failure.seen("IMDS says that the control plane has a custom data for this VM")
            } else {
                failure
            })
        }
        other => other,
    }
}

async fn with_config(
    context: &Context,
    progress: &Progress,
    found: &Found,
    config: &NodeConfig,
) -> Result<Booted, Failure> {
    progress.enter("observe");
    let mut facts = context.observe(config).await?;
    // A cache that did not come up is not tried again before the machine's next boot: kubelet knows by now where pods ask.
    let before = persist::read_facts(&context.root).map_err(|error| step_failed("facts", &error))?;
    let before = before.filter(|before| before.boot_id == facts.boot_id);
    facts.local_dns_failure = before.as_ref().and_then(|facts| facts.local_dns_failure.clone());
    // What is mounted over containerd's directory by now would be counted.
    facts.containerd_bytes = before.as_ref().map_or(facts.containerd_bytes, |facts| facts.containerd_bytes);
    // Nor is streaming, for images may have been unpacked without it by now.
    facts.mirror_failure = before.as_ref().and_then(|facts| facts.mirror_failure.clone());
    facts.streaming_failure = before.as_ref().and_then(|facts| facts.streaming_failure.clone());
    // Nor are disks, for containers may be running from the OS disk by now.
    facts.local_disks_failure = before.and_then(|facts| facts.local_disks_failure);
    context.add_instance(&mut facts, config).await;

    progress.enter("plan");
    let plan = plan(config, &facts)?;
    plan.notes.iter().for_each(|note| progress.note(note.clone()));

    let journal =
        Journal::open(&context.root, &facts.boot_id, "boot").map_err(|error| step_failed("journal", &error))?;
    persist::write_facts(&context.root, &facts).map_err(|error| step_failed("facts", &error))?;
    let executor = Executor::new(Arc::clone(&context.root), Arc::new(journal), config.boot.unit_start);
    let mut run = Run { context, progress, config, facts, executor, changed: 0, in_sync: 0, degraded: 0 };
    run.apply_all(plan).await?;
    run.verify().await?;
    run.forget_token(found).await?;
    Ok(Booted { changed: run.changed, in_sync: run.in_sync, degraded: run.degraded })
}

struct Run<'a> {
    context: &'a Context,
    progress: &'a Progress,
    config: &'a NodeConfig,
    facts: Facts,
    executor: Executor,
    changed: usize,
    in_sync: usize,
    degraded: usize,
}

impl Run<'_> {
    /// All stages in order; the API server is looked at while containerd starts, and must be good before kubelet does.
    async fn apply_all(&mut self, mut plan: Plan) -> Result<(), Failure> {
        let mut at = 0;
        while let Some(stage) = plan.stages.get(at) {
            self.progress.enter(stage.name);
            let mut applied = if stage.name == "containerd" {
                let (containerd, api_server) = tokio::join!(self.containerd(stage), self.routes());
                let applied = containerd?;
                api_server?;
                applied
            } else {
                self.apply(stage).await?
            };
            let name = stage.name;
            let mut lost = |is: fn(&str) -> bool| {
                let at = applied.degraded.iter().position(|(degraded, _)| is(degraded))?;
                Some(applied.degraded.remove(at))
            };
            let local_dns = lost(|step| step == LOCAL_DNS_RUNNING);
            let secure_tls = lost(|step| step == SECURE_TLS_RUN);
            let streaming = lost(decides_streaming);
            let mirror = lost(|step| step == MIRROR_ANSWERS);
            let disks = lost(|step| step.starts_with("disks.") && !step.starts_with("disks.queue."));
            self.count(applied);
            at += 1;
            // A stage has steps of one of these at most.
            let changed = match (local_dns, secure_tls, disks, streaming.or(mirror)) {
                (Some((_, why)), ..) => Some(self.without_local_dns(why).await?),
                (_, Some((_, why)), ..) => Some(self.without_secure_tls(why).await?),
                (_, _, Some((step, why)), _) => Some(self.without_local_disks(format!("{step}: {why}")).await?),
                (_, _, _, Some((step, why))) => Some(self.without_streaming(&step, why)?),
                (None, None, None, None) if name == "secure-tls" => self.took_certificate().await?,
                (None, None, None, None) => None,
            };
            if let Some(changed) = changed {
                plan = changed;
                // What came before is as planned now, too; a check of it costs nothing.
                at = 0;
            }
        }
        Ok(())
    }

    /// LocalDNS did not come up: it is stopped for good, and the node is planned with plain DNS, also by the guard.
    async fn without_local_dns(&mut self, why: String) -> Result<Plan, Failure> {
        self.stop(LOCAL_DNS_UNIT).await;
        self.degraded += 1;
        self.facts.local_dns_failure = Some(why);
        self.plan_anew()
    }

    /// Streaming did not come up: the node is planned with overlayfs, also by the guard, and the plan stops the services. Without its
    /// mirror alone images are pulled whole, and the guard asks it again.
    fn without_streaming(&mut self, step: &str, why: String) -> Result<Plan, Failure> {
        self.degraded += 1;
        match step {
            MIRROR_ANSWERS => self.facts.mirror_failure = Some(why),
            _ => self.facts.streaming_failure = Some(format!("{step}: {why}")),
        }
        self.plan_anew()
    }

    /// The client gave no certificate: from here on it is the bootstrap token, or nothing.
    async fn without_secure_tls(&mut self, why: String) -> Result<Plan, Failure> {
        self.stop(SECURE_TLS_UNIT).await;
        self.degraded += 1;
        self.facts.secure_tls_failure = Some(why);
        self.plan_anew().map_err(|failure| self.with_journal(failure, SECURE_TLS_UNIT))
    }

    /// The client says that it has done its work; the certificate is what counts.
    async fn took_certificate(&mut self) -> Result<Option<Plan>, Failure> {
        self.facts.observed_at = jiff::Timestamp::now();
        self.facts.client_certificate =
            observe::client_certificate(&self.context.root).map_err(|error| step_failed(SECURE_TLS_RUN, &error))?;
        if self.facts.has_joined() {
            info!("kubelet's certificate came by secure TLS bootstrapping");
            return Ok(None);
        }
        let why = "the client ended well and left no valid certificate".to_owned();
        self.without_secure_tls(why).await.map(Some)
    }

    async fn stop(&self, unit: &str) {
        let stopped = match Units::connect(&self.context.root).await {
            Ok(units) => units.stop(unit, STOP_LIMIT).await,
            Err(error) => Err(error),
        };
        if let Err(error) = stopped {
            warn!(unit, error = chain(&error), "cannot stop it; it may come up later");
        }
    }

    /// The plan for facts that changed, which the guard must plan with, too.
    fn plan_anew(&self) -> Result<Plan, Failure> {
        persist::write_facts(&self.context.root, &self.facts).map_err(|error| step_failed("facts", &error))?;
        let plan = plan(self.config, &self.facts)?;
        let known = self.progress.notes();
        plan.notes.iter().filter(|note| !known.contains(note)).for_each(|note| self.progress.note(note.clone()));
        Ok(plan)
    }

    /// The local disks cannot be used: what is mounted of them goes, and the node is planned on its OS disk, also by the guard.
    async fn without_local_disks(&mut self, why: String) -> Result<Plan, Failure> {
        if let Ok(units) = Units::connect(&self.context.root).await {
            for unit in disk_units() {
                if units.status(unit).await.is_ok_and(|status| status.is_started()) {
                    self.stop(unit).await;
                }
            }
        }
        self.degraded += 1;
        self.facts.local_disks_failure = Some(why);
        self.plan_anew()
    }

    async fn apply(&self, stage: &Stage) -> Result<nap_host::executor::Applied, Failure> {
        self.executor.apply(stage).await.map_err(|error| self.apply_failed(&error))
    }

    async fn containerd(&self, stage: &Stage) -> Result<nap_host::executor::Applied, Failure> {
        let applied = self.apply(stage).await?;
        verify::containerd(&self.context.root).await.map_err(|message| {
            self.with_journal(
                Failure::new(Reason::ContainerdUnhealthy, "containerd.running", message),
                "containerd.service",
            )
        })?;
        Ok(applied)
    }

    /// The routes that a node needs, in the order in which it needs them, to the first that is broken. IMDS comes first and has been
    /// asked already. Without the registry the node comes up on what its image has, so that is only said.
    async fn routes(&self) -> Result<(), Failure> {
        self.api_server().await?;
        if let Some(registry) = public_registry(self.config).filter(|_| !self.facts.has_joined())
            && let Err(error) = api::reach(&registry).await
        {
            self.progress.note(format!("RegistryUnreachable: {}", chain(&error)));
        }
        Ok(())
    }

    /// A node that has joined starts kubelet even while the API server is away: its pods must come up.
    async fn api_server(&self) -> Result<(), Failure> {
        if self.facts.has_joined() {
            return Ok(());
        }
        // A token that may never be needed must not cost the boot.
        let token = self.config.bootstrap_token.as_ref().filter(|_| !tries_secure_tls(self.config, &self.facts));
        let checked = api::check(&self.config.cluster, token, self.config.boot.api_server).await;
        checked.map_err(|error| {
            let limit = self.config.boot.api_server.as_secs();
            Failure::new(error.reason(), "verify.api-server", chain(&error))
                .seen(format!("tried for up to {limit} s against {}", self.config.cluster.api_server))
        })
    }

    async fn verify(&mut self) -> Result<(), Failure> {
        self.progress.enter("verify");
        let verified = verify::registered(&self.context.root, self.config, &self.facts).await;
        verified.map_err(|failure| self.with_journal(failure, "kubelet.service"))
    }

    /// The token has done its work: plan again with the certificate as a fact, and the file goes.
    async fn forget_token(&mut self, found: &Found) -> Result<(), Failure> {
        self.facts.observed_at = jiff::Timestamp::now();
        self.facts.client_certificate = observe::client_certificate(&self.context.root)
            .map_err(|error| step_failed("kubelet.bootstrap-kubeconfig", &error))?;
        let plan = plan(self.config, &self.facts)?;
        for stage in plan.stages.iter().filter(|stage| stage.name == "files") {
            let changes =
                stage.steps.iter().filter(|step| step.id == "kubelet.bootstrap-kubeconfig").cloned().collect();
            let applied = self.apply(&Stage { name: stage.name, steps: changes }).await?;
            self.changed += applied.changed.len();
        }
        let written = persist::write_copy(&self.context.root, &self.facts.dmi, &found.decoded.without_token());
        written
            .and_then(|()| persist::write_facts(&self.context.root, &self.facts))
            .map_err(|error| step_failed("copy", &error))
    }

    fn count(&mut self, applied: nap_host::executor::Applied) {
        for (step, why) in &applied.degraded {
            self.progress.note(format!("going on without {step}: {why}"));
        }
        self.changed += applied.changed.len();
        self.in_sync += applied.in_sync.len();
        self.degraded += applied.degraded.len();
        info!(
            changed = applied.changed.len(),
            in_sync = applied.in_sync.len(),
            took_ms = self.progress.stage_ms(),
            "stage done"
        );
    }

    fn apply_failed(&self, error: &ApplyError) -> Failure {
        let reason = match (&error.source, error.step.as_str()) {
            (StepError::Unit(UnitError::Connect { .. }), _) => Reason::SystemdUnreachable,
            (_, "trust.store") => Reason::TrustStoreFailed,
            (_, "containerd.running") => Reason::ContainerdUnhealthy,
            (_, "kubelet.running") => Reason::KubeletStartFailed,
            (
                StepError::File(_)
                | StepError::Unit(_)
                | StepError::Cmd(_)
                | StepError::PacketFilter(_)
                | StepError::Copy(_)
                | StepError::Volume(_)
                | StepError::Images(_)
                | StepError::NoAnswer(_)
                | StepError::NotTrue(_)
                | StepError::NotInKernel(_),
                _,
            ) => Reason::StepFailed,
        };
        let failure = Failure::new(reason, error.step.clone(), chain(&error.source));
        match reason {
            Reason::ContainerdUnhealthy => self.with_journal(failure, "containerd.service"),
            Reason::KubeletStartFailed => self.with_journal(failure, "kubelet.service"),
            _ => failure,
        }
    }

    fn with_journal(&self, failure: Failure, unit: &str) -> Failure {
        if !self.context.root.is_machine() {
            return failure;
        }
        let lines = logs::last_lines(unit, &self.facts.boot_id, EVIDENCE_LINES);
        lines.into_iter().fold(failure, |failure, line| failure.seen(format!("{unit}: {line}")))
    }
}

fn step_failed(step: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(Reason::StepFailed, step, chain(error))
}

/// What the boot would change, for `plan --dry-run` and `boot --dry-run`.
pub(crate) async fn planned(context: &Context) -> Result<Plan, Failure> {
    let started = Instant::now();
    let found = context.look_for().await?;
    let config = config_of(&found)?;
    let mut facts = context.observe(config).await?;
    context.add_instance(&mut facts, config).await;
    let plan = plan(config, &facts)?;
    info!(took_ms = started.elapsed().as_millis(), steps = plan.steps().count(), "planned");
    Ok(plan)
}
