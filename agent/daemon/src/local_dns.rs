//! LocalDNS' supervisor: brings CoreDNS up, makes the node ask it, and keeps it answering. `nap-agent local-dns run|clean`, for systemd.
//!
//! The node asks the cache only while the cache answers. Every way out leads back: at a signal the resolver comes first and CoreDNS
//! ends after it; whatever else ends this process, systemd runs `local-dns clean` before it starts it again.
//!
//! A CoreDNS that ends is started again here, at once. One that does not answer is given [`Patience`]; then this process ends itself
//! and systemd makes a new start of everything, a second later. It could also stop feeding the watchdog and wait to be killed, but pods
//! have no other DNS, and would wait a minute longer. The watchdog is for a supervisor that hangs.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nap_host::local_dns::{self, CoreDns, LocalDnsError};
use nap_host::root::Root;
use nap_host::wait::{Try, until};
use nap_host::{chain, notify};
use nap_model::resolver::Patience;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{error, info, warn};

/// Longest time for a CoreDNS to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(15);

/// How often the listeners are asked, at most: five failures, at two seconds each, are found within a watchdog of a minute.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// Serves until told to stop.
pub(crate) async fn run(root: &Arc<Root>) -> anyhow::Result<u8> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut supervisor = Supervisor { root, coredns: None, patience: Patience::default(), started: Instant::now() };
    let ended = tokio::select! {
        failed = supervisor.serve() => failed.map(|never| match never {}),
        // Dropped anywhere: what it did is undone below, and CoreDNS is not in it.
        _ = terminate.recv() => {
            info!("told to stop");
            Ok(())
        }
    };
    notify::stopping();
    if let Err(error) = local_dns::restore(root).await {
        error!(error = chain(&error), "the node's resolver still asks LocalDNS");
    }
    match (supervisor.coredns, &ended) {
        (Some(coredns), Ok(())) => coredns.stop().await,
        // One that does not answer does not end when asked, either, and its pods wait.
        (Some(coredns), Err(_)) => coredns.kill().await,
        (None, _) => {}
    }
    ended.map(|()| 0)
}

/// Gives the node its resolver back, whoever left it.
pub(crate) async fn clean(root: &Arc<Root>) -> anyhow::Result<u8> {
    local_dns::restore(root).await?;
    Ok(0)
}

struct Supervisor<'a> {
    root: &'a Root,
    coredns: Option<CoreDns>,
    patience: Patience,
    started: Instant,
}

impl Supervisor<'_> {
    async fn serve(&mut self) -> anyhow::Result<Infallible> {
        local_dns::ensure_addresses()?;
        if let Some(servers) = local_dns::write_upstreams(self.root)? {
            info!(?servers, "upstream servers");
        }
        self.start().await?;
        local_dns::point(self.root).await.context("cannot make the node ask LocalDNS")?;
        notify::ready("serving");
        info!(took_ms = self.started.elapsed().as_millis(), "LocalDNS serves");
        self.watch().await
    }

    /// Starts CoreDNS and waits until it answers. One that ends meanwhile is not waited for.
    async fn start(&mut self) -> anyhow::Result<()> {
        let coredns = self.coredns.insert(CoreDns::start(self.root)?);
        let answers = until("CoreDNS", START_LIMIT, || async {
            match (local_dns::is_ready().await, local_dns::answers(query_id()).await) {
                (true, Ok(())) => Try::Done(()),
                (false, _) => Try::Again("it is not ready".to_owned()),
                (true, Err(why)) => Try::Again(why),
            }
        });
        tokio::select! {
            // Both may be dropped: asking leaves nothing behind, and waiting can be taken up again.
            answered = answers => answered.map_err(|why| anyhow::anyhow!("CoreDNS does not come up: {why}")),
            status = coredns.ended() => bail!("CoreDNS ended while it started ({})", status?),
        }
    }

    async fn watch(&mut self) -> anyhow::Result<Infallible> {
        let every = notify::watchdog_interval().map_or(PROBE_EVERY, |watchdog| PROBE_EVERY.min(watchdog / 12));
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let coredns = self.coredns.as_mut().context("no CoreDNS to watch")?;
            let look = async {
                ticks.tick().await;
                local_dns::answers(query_id()).await
            };
            let answered = tokio::select! {
                // Waiting can be taken up again.
                status = coredns.ended() => {
                    warn!(status = %status?, "CoreDNS ended by itself; starting it again");
                    self.failed("CoreDNS ended")?;
                    self.start().await?;
                    continue;
                }
                // Who is asked has ended; its answer would not come.
                answered = look => answered,
            };
            match answered {
                Ok(()) => {
                    self.patience.succeeded();
                    notify::alive("serving");
                }
                Err(why) => {
                    warn!(error = why, "LocalDNS does not answer");
                    self.failed(&why)?;
                }
            }
            self.follow_upstreams().await?;
        }
    }

    /// The virtual network's servers change with a DHCP lease; and who rewrites the node's resolver file does not know of us.
    async fn follow_upstreams(&mut self) -> anyhow::Result<()> {
        let root = self.root;
        if let Some(servers) = local_dns::write_upstreams(root)? {
            info!(?servers, "upstream servers changed; restarting CoreDNS");
            if let Some(coredns) = self.coredns.take() {
                coredns.stop().await;
            }
            self.start().await?;
        }
        let pointed: Result<(), LocalDnsError> = local_dns::point(root).await;
        Ok(pointed?)
    }

    fn failed(&mut self, why: &str) -> anyhow::Result<()> {
        match self.patience.failed(self.started.elapsed()) {
            None => Ok(()),
            Some(too_many) => bail!("LocalDNS makes a new start: {too_many}, the last one: {why}"),
        }
    }
}

/// Another number for each question, so that no answer is taken for a later one's.
fn query_id() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
