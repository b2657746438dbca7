//! The command line: one definition for parsing, help, completions and the manual page.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use nap_host::imds;
use nap_model::os::{DISTRIBUTIONS, Distribution};

use crate::http::TlsFiles;

const AFTER_HELP: &str = "\
Not for people: `local-dns run` serves LocalDNS and `local-dns clean` gives the node its own resolver back; localdns.service calls both.
`streaming wait` waits until the snapshotter of artifact streaming answers; containerd.service calls it before it starts.

Exit codes:
  0    it worked; for `status`: booted and nothing has drifted
  1    `status`: not booted, or something has drifted; any other error that has no code of its own
  2    wrong usage
  4    a unit or another step failed (StepFailed, ContainerdUnhealthy, SystemdUnreachable)
  28   no containerd in the image
  34   kubelet did not start, stay healthy, get its certificate or register
  51   the API server cannot be reached or trusted, rejects the token, or the clock is wrong
  52   the API server's name does not resolve
  65   the image lacks what the configuration needs (ImageLacks...)
  121  no kubelet in the image
  124  out of time: the whole boot's budget, or `wait --timeout`
  161  the bundle of trusted certificates could not be made
  234  IMDS was needed and did not answer
  240  no configuration, or a bad one
These are AgentBaker's codes for the same classes of failure; `nap-agent reasons` lists every reason with its code.";

/// Boots and repairs one AKS node that Karpenter (Node Auto Provisioning) created.
#[derive(Debug, Parser)]
#[command(name = "nap-agent", version, after_long_help = AFTER_HELP, after_help = "Exit codes are listed by --help.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of all commands.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Directory that stands for / : every file, /proc and /sys too, is below it
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,
    /// Read the custom data from this file instead of looking for it
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) custom_data: Option<PathBuf>,
    /// Base URL of the instance metadata service
    #[arg(long, global = true, value_name = "URL", default_value = imds::DEFAULT_URL)]
    pub(crate) imds: String,
    /// Read the facts (JSON) from this file instead of observing the machine
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) facts: Option<PathBuf>,
    /// Plan for a typical machine with this distribution, such as azurelinux-3, instead of observing one
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "facts", value_parser = distribution)]
    pub(crate) os: Option<&'static Distribution>,
    /// For people or for programs
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the configuration in the custom data, secrets masked, with every mistake in it
    Decode,
    /// Show the steps that lead to the wanted node
    Plan {
        /// Show only what differs from this machine; touch nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Make this machine the wanted node; succeeds when the node has registered
    Boot {
        /// Show what would change; touch nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Stay, put back what drifts, repair what is ill, and answer /v1/health
    Guard {
        /// Seconds between two looks at the machine
        #[arg(long, value_name = "SECONDS", default_value = "4", value_parser = seconds)]
        interval: Duration,
        /// Address of the endpoint for this machine: /v1/health, /livez, /readyz, /metrics
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:20266")]
        listen: std::net::SocketAddr,
        /// Do not write conditions to the Node, neither our own (KernelReady and its like) nor those that nap-agent.toml lets us share
        #[arg(long)]
        no_conditions: bool,
        /// Do not write Kubernetes Events about the node's health
        #[arg(long)]
        no_events: bool,
        /// Change nothing on the node: look, tell, and leave it as it is
        #[arg(long)]
        observe_only: bool,
        #[command(flatten)]
        tls: TlsArguments,
    },
    /// Show how the last boot went and what has drifted since
    Status,
    /// Show what would be repaired on this node now, or why not, and what was repaired within a day; touches nothing
    Repairs {
        /// As if the guard ran with --observe-only
        #[arg(long)]
        observe_only: bool,
    },
    /// Gather the evidence of now into one file, secrets masked, and print where it is: journal of 15 minutes, kernel log, units, stacks, facts
    Bundle {
        /// Print those that were kept, the oldest first; the guard keeps one before a repair that pods notice and before it asks for a reboot or a replacement
        #[arg(long)]
        list: bool,
    },
    /// Take the agent's conditions (KernelReady and its like, and those that it shares with others) off the Node; a removal of the package does it. A
    /// guard that runs writes them again
    RemoveConditions,
    /// Wait until the boot has ended, print its report, exit with its code (aks-node-controller's provision-wait)
    Wait {
        /// Give up after this many seconds
        #[arg(long, value_name = "SECONDS", default_value = "900", value_parser = seconds)]
        timeout: Duration,
    },
    /// List every reason for which a boot can fail: exit code, time limit, meaning, what to do
    Reasons,
    /// Tell what a reason of the health document or of a failed boot means and what to do, or what a repair does
    Explain {
        /// The word, such as ContainerdUnresponsive or RestartContainerd
        reason: String,
    },
    /// Print the JSON Schema of a format
    Schema {
        /// Which one
        #[arg(value_enum, default_value_t = SchemaOf::Bootstrap)]
        of: SchemaOf,
    },
    /// Print a completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
    /// Serve LocalDNS, the DNS cache of the node and its pods; localdns.service calls this
    #[command(hide = true)]
    LocalDns {
        /// What to do
        #[command(subcommand)]
        action: LocalDnsAction,
    },
    /// Pull images before pods ask for them; nap-pre-pull.service calls this
    PrePull {
        /// How many at a time
        #[arg(long, value_name = "NUMBER", default_value = "2", value_parser = clap::value_parser!(u8).range(1..=10))]
        parallel: u8,
        /// Images, as pods name them
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Artifact streaming: leave it until the machine's next boot
    Streaming {
        /// What to do
        #[command(subcommand)]
        action: StreamingAction,
    },
}

/// The endpoint for other machines; all of it or nothing.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("clients").args(["tls_client_ca", "tls_token_review"]).multiple(true)))]
pub(crate) struct TlsArguments {
    /// Address of the endpoint for provisioners (TLS 1.3, with --tls-client-ca, --tls-token-review or both): /v1/health, /v1/intents and /metrics
    #[arg(long, value_name = "ADDRESS", requires_all = ["tls_certificate", "tls_key", "clients"])]
    tls_listen: Option<std::net::SocketAddr>,
    /// PEM file with the endpoint's certificate chain
    #[arg(long, value_name = "FILE", requires = "tls_listen")]
    tls_certificate: Option<PathBuf>,
    /// PEM file with the key of that certificate
    #[arg(long, value_name = "FILE", requires = "tls_listen")]
    tls_key: Option<PathBuf>,
    /// PEM file with the authority that signs clients' certificates
    #[arg(long, value_name = "FILE", requires = "tls_listen")]
    tls_client_ca: Option<PathBuf>,
    /// Let clients without a certificate show a bearer token of the audience node-health: the API server is asked whose it is (TokenReview) and whether
    /// he may `get` /v1/health and /metrics or `post` /v1/intents (SubjectAccessReview; a ClusterRole's nonResourceURLs)
    #[arg(long, requires = "tls_listen")]
    tls_token_review: bool,
    /// Common name of a client certificate that may send intents (/v1/intents: hold, drain, reboot, ...); may be given again. None: no certificate may
    #[arg(long, value_name = "NAME", requires = "tls_listen")]
    tls_operator: Vec<String>,
}

impl TlsArguments {
    pub(crate) fn files(self) -> Option<TlsFiles> {
        Some(TlsFiles {
            address: self.tls_listen?,
            certificate: self.tls_certificate?,
            key: self.tls_key?,
            client_authority: self.tls_client_ca,
            has_token_review: self.tls_token_review,
            operators: self.tls_operator,
        })
    }
}

/// Which schema is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaOf {
    /// Our own format of custom data
    #[value(name = "node-bootstrap")]
    Bootstrap,
    /// The document at /v1/health
    #[value(name = "node-health")]
    Health,
    /// What /v1/intents takes
    #[value(name = "node-intent")]
    Intent,
}

/// What to do with LocalDNS.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum LocalDnsAction {
    /// Run CoreDNS, make the node ask it, keep it answering (ExecStart=)
    Run,
    /// Give the node the resolver back that it had before (ExecStopPost=)
    Clean,
}

/// What to do for artifact streaming.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum StreamingAction {
    /// Wait until the snapshotter answers (ExecStartPre= of containerd)
    #[command(hide = true)]
    Wait {
        /// Give up after this many seconds
        #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
        timeout: Duration,
    },
    /// Have images pulled whole until the machine's next boot. The guard restarts containerd and kubelet for it within seconds, and has what was
    /// streamed pulled again; pods go on
    Leave,
}

impl Command {
    /// Whether its log is what people want to see; the others print a result.
    pub(crate) fn is_long_lived(&self) -> bool {
        matches!(
            self,
            Command::Boot { dry_run: false }
                | Command::Guard { .. }
                | Command::LocalDns { .. }
                | Command::PrePull { .. }
                | Command::Streaming { action: StreamingAction::Wait { .. } }
        )
    }
}

fn distribution(name: &str) -> Result<&'static Distribution, String> {
    let names: Vec<_> = DISTRIBUTIONS.iter().map(|row| row.name).collect();
    Distribution::named(name).ok_or_else(|| format!("want one of {}", names.join(", ")))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "want a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|limit| !limit.is_zero())
        .ok_or_else(|| "want more than 0 seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_exit_code_of_a_reason_is_in_the_help() {
        for row in nap_model::report::REASONS {
            assert!(
                AFTER_HELP.lines().any(|line| line.trim_start().starts_with(&format!("{} ", row.exit_code))),
                "{:?}",
                row.reason
            );
        }
    }
}
