//! `pretend-systemd --root DIR` serves; `pretend-systemd contract --socket PATH` checks a systemd, real or not.

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use pretend_node::systemd::contract::{self, Setup};
use pretend_node::systemd::{PretendSystemd, Runner};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// A small systemd below a root directory, for tests.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Option<Serve>,
}

#[derive(Debug, Args)]
struct Serve {
    /// The node's root directory.
    #[arg(long)]
    root: PathBuf,
    /// Start the services' programs; without it units only change state.
    #[arg(long)]
    processes: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check that a systemd behaves as nap-agent relies on. Exits with 1 when it does not.
    Contract(Contract),
}

#[derive(Debug, Args)]
struct Contract {
    /// The systemd's socket.
    #[arg(long, default_value = "/run/systemd/private")]
    socket: PathBuf,
    /// Folder to write units to.
    #[arg(long, default_value = "/run/systemd/system")]
    unit_dir: PathBuf,
    /// The same folder as that systemd sees it, when its root is another.
    #[arg(long)]
    unit_dir_inside: Option<String>,
    /// An empty folder that both can write to.
    #[arg(long, default_value = "/run/nap-contract")]
    scratch: PathBuf,
    /// Seconds that anything a check waits for may take.
    #[arg(long, default_value_t = 60)]
    deadline: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match (arguments.command, arguments.serve) {
        (Some(Command::Contract(contract)), _) => check(contract).await,
        (None, Some(serving)) => serve(&serving).await,
        (None, None) => anyhow::bail!("give --root DIR, or the command contract"),
    }
}

async fn serve(arguments: &Serve) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let runner = if arguments.processes { Runner::Processes } else { Runner::Nothing };
    let systemd = PretendSystemd::start(&arguments.root, runner)?;
    writeln!(std::io::stdout(), "listening {}", systemd.bus().display()).context("cannot write to stdout")?;
    // Both arms only wait for a signal: nothing is lost when the other one wins.
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn check(arguments: Contract) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&arguments.scratch).context("cannot make the scratch folder")?;
    let inside = arguments.unit_dir.to_string_lossy().into_owned();
    let setup = Setup {
        socket: arguments.socket,
        unit_dir: arguments.unit_dir,
        unit_dir_inside: arguments.unit_dir_inside.unwrap_or(inside),
        scratch: arguments.scratch,
        deadline: Duration::from_secs(arguments.deadline),
    };
    let mut faults = 0;
    contract::run(&setup, |finding| {
        let line = match &finding.fault {
            None => format!("ok    {}", finding.check),
            Some(fault) => format!("FAIL  {}: {fault}", finding.check),
        };
        faults += u32::from(finding.fault.is_some());
        let _ = writeln!(std::io::stdout(), "{line}"); // a reader that went away still gets the exit status
    })
    .await;
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
