//! nap-image-builder: packages, and images that have nap-agent baked in.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match cli::run(cli::Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            cli::say(&format!("nap-image-builder: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
