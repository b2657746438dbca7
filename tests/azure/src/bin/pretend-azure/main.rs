//! `pretend-azure`: the pretend Azure as a program, for the VM and the demo.

mod ovf;
mod serve;

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

/// A small, strict stand-in for IMDS, the wireserver and a Kubernetes API server.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the three servers until SIGTERM.
    Serve(Box<serve::ServeArguments>),
    /// Copies standard input and output to a TCP connection: QEMU's `guestfwd=…-cmd:` starts this.
    Relay {
        /// The server.
        address: SocketAddr,
    },
    /// Writes an OVF provisioning document, as on the disc that Azure attaches.
    Ovf(ovf::OvfArguments),
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = match arguments.command {
        Command::Serve(arguments) => runtime.block_on(serve::serve(*arguments)),
        Command::Relay { address } => {
            runtime.block_on(pretend_azure::relay(address)).with_context(|| format!("the relay to {address} broke"))
        }
        Command::Ovf(arguments) => ovf::write(arguments),
    };
    // A relay's read of standard input cannot be cancelled: do not wait for it.
    runtime.shutdown_background();
    done.map(|()| ExitCode::SUCCESS)
}
