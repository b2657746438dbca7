//! nap-agent: boots one AKS node from its custom data, and stays to keep it so.

mod boot;
mod cli;
mod conditions;
mod context;
mod drop_in;
mod finish;
mod guard;
mod health;
mod http;
mod local_dns;
mod logging;
mod node_events;
mod progress;
mod repairs;
mod shared_conditions;
mod show;
mod show_repairs;
mod verify;
mod wait;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use nap_host::pull::{Pulls, pull_all};
use nap_host::wait::last_waited_for;
use nap_host::{alone, bundle, chain, memory, notify, persist, snapshotter};
use nap_model::plan::SNAPSHOTTER_SOCKET;
use nap_model::repair::SharedConditions;
use nap_model::report::{Failure, Reason};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use cli::{Cli, Command, LocalDnsAction, SchemaOf, StreamingAction};
use context::Context;
use drop_in::Called;
use logging::Tail;
use progress::Progress;

fn main() -> ExitCode {
    let cli = match drop_in::translated(std::env::args_os().collect()) {
        Called::With(arguments) => Cli::parse_from(arguments),
        Called::NothingToDo(_) => return ExitCode::SUCCESS,
    };
    let tail = logging::start(if cli.command.is_long_lived() { "info" } else { "warn" });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(cli, &tail)));
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => match error.downcast_ref::<Failure>() {
            Some(failure) => {
                error!(reason = %failure.reason, step = failure.step, error = failure.message, "failed");
                for seen in &failure.evidence {
                    error!("seen: {seen}");
                }
                error!("do: {}", failure.reason.row().hint);
                ExitCode::from(failure.reason.exit_code())
            }
            None => {
                error!("{error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

async fn run(cli: Cli, tail: &Tail) -> anyhow::Result<u8> {
    let context = Context::new(cli.common)?;
    let mut out = std::io::stdout().lock();
    match cli.command {
        Command::Decode => show::decode(&context, &mut out).await,
        Command::Plan { dry_run: false } => {
            show::plan(&boot::planned(&context).await?, context.output, &mut out)?;
            Ok(0)
        }
        Command::Plan { dry_run: true } | Command::Boot { dry_run: true } => {
            let plan = boot::planned(&context).await?;
            show::dry_run(&context, &plan, &mut out).await?;
            Ok(0)
        }
        Command::Boot { dry_run: false } => boot_and_report(&context, tail).await,
        Command::Guard { interval, listen, no_conditions, no_events, observe_only, tls } => {
            if let Err(errno) = memory::lock() {
                warn!(error = %errno, "cannot be kept in memory; a disk that hangs may hold the guard up");
            }
            let mut policy = repairs::policy(&context.root, observe_only);
            if no_conditions {
                policy.shared_conditions = SharedConditions::default();
            }
            let events = if no_events { None } else { Some(node_events::start(&context.root)?) };
            let (health, asked) = http::Health::new(interval);
            http::serve(&context.root, listen, tls.files(), health.clone())?;
            health::start(&context, health.clone(), asked, events, policy.clone())?;
            if !no_conditions {
                conditions::start(&context.root, &health)?;
            }
            shared_conditions::start(&context.root, &health, policy.shared_conditions)?;
            let guard = guard::Guard::new(&context, tail, &health, policy.observe_only);
            guard_until_told(guard, interval).await
        }
        Command::LocalDns { action: LocalDnsAction::Run } => local_dns::run(&context.root).await,
        Command::LocalDns { action: LocalDnsAction::Clean } => local_dns::clean(&context.root).await,
        Command::Streaming { action: StreamingAction::Wait { timeout } } => streaming_wait(&context, timeout).await,
        Command::PrePull { parallel, images } => {
            let Pulls { pulled, present, failed } = pull_all(&context.root, &images, parallel.into()).await;
            info!(pulled, present, failed, "pre-pull ended");
            Ok(u8::from(failed > 0))
        }
        Command::Streaming { action: StreamingAction::Leave } => leave_streaming(&context, &mut out).await,
        Command::Status => show::status(&context, &mut out).await,
        Command::Repairs { observe_only } => show_repairs::show(&context, observe_only, &mut out),
        Command::Bundle { list: false } => {
            writeln!(out, "{}", bundle::collect(&context.root, "asked").await?)?;
            Ok(0)
        }
        Command::Bundle { list: true } => {
            for path in bundle::list(&context.root)? {
                writeln!(out, "{path}")?;
            }
            Ok(0)
        }
        Command::RemoveConditions => conditions::remove(&context, &mut out).await,
        Command::Wait { timeout } => wait::wait(&context, timeout, &mut out).await,
        Command::Reasons => {
            show::reasons(context.output, &mut out)?;
            Ok(0)
        }
        Command::Schema { of: SchemaOf::Bootstrap } => {
            writeln!(out, "{:#}", nap_model::config::json_schema())?;
            Ok(0)
        }
        Command::Schema { of: SchemaOf::Health } => {
            writeln!(out, "{:#}", nap_model::report::health_schema())?;
            Ok(0)
        }
        Command::Schema { of: SchemaOf::Intent } => {
            writeln!(out, "{:#}", nap_model::intent::Intent::schema())?;
            Ok(0)
        }
        Command::Explain { reason } => show::explain(&reason, context.output, &mut out),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "nap-agent", &mut out);
            Ok(0)
        }
        Command::Man => {
            clap_mangen::Man::new(Cli::command()).render(&mut out)?;
            Ok(0)
        }
    }
}

/// Boots, and writes the report whatever happens: also when systemd runs out of patience.
async fn boot_and_report(context: &Context, tail: &Tail) -> anyhow::Result<u8> {
    let (_alone, waited) = alone::wait(&context.root).await?;
    if waited && let Some(code) = wait::ended(context)? {
        info!(exit_code = code, "another boot has ended meanwhile; its report stands");
        return Ok(code);
    }
    let progress = Progress::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let outcome = match persist::clear_report(&context.root) {
        Ok(()) => tokio::select! {
            outcome = boot::boot(context, &progress) => outcome,
            // Dropped in the middle: the next run takes over, like after a crash.
            _ = terminate.recv() => {
                let message = "told to stop before the node had registered";
                Err(Failure::new(Reason::BootDeadlineExceeded, progress.current(), message).seen(last_waited_for()))
            }
        },
        Err(error) => Err(Failure::new(Reason::StepFailed, "report", chain(&error))),
    };
    Ok(finish::finish(&context.root, &progress, tail, outcome).await)
}

/// containerd is about to start. It starts all the same without the snapshotter, so the line in the log is the whole use of the error.
async fn streaming_wait(context: &Context, limit: Duration) -> anyhow::Result<u8> {
    match snapshotter::answers(&context.root, SNAPSHOTTER_SOCKET, limit).await {
        Ok(()) => Ok(0),
        Err(why) => {
            error!(
                waited_s = limit.as_secs(),
                error = why,
                "the snapshotter does not answer; containerd starts without it"
            );
            Ok(1)
        }
    }
}

async fn leave_streaming(context: &Context, out: &mut impl Write) -> anyhow::Result<u8> {
    repairs::leave_streaming(&context.root).await?;
    writeln!(out, "images are pulled whole until the next boot; `nap-agent status` shows when the guard has followed")?;
    Ok(0)
}

async fn guard_until_told(guard: guard::Guard<'_>, interval: Duration) -> anyhow::Result<u8> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        // Dropped at a signal: a step that was under way is finished by the next run, like after a crash.
        never = guard.keep(interval) => match never {},
        _ = terminate.recv() => info!("told to stop"),
        _ = interrupt.recv() => info!("interrupted"),
    }
    notify::stopping();
    Ok(0)
}
