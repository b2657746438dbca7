//! The command line.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;
use nap_host::observe;
use nap_host::root::Root;
use nap_image_builder::check::{self, Verdict, Wish};
use nap_image_builder::package::{Package, Sources, changelog};
use nap_image_builder::progress::Progress;
use nap_image_builder::test_image::{self, Packaged};
use nap_image_builder::{bake, generalize, inventory, sbom};

/// Makes nap-agent's packages, bakes it into an image root, checks images, and builds the image of the VM tests.
#[derive(Debug, Parser)]
#[command(name = "nap-image-builder", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Do what no node has to do at its boot, and write down what the image has; starts nothing of the image unconfined
    Bake {
        /// Where the image is mounted; `/` for the machine that becomes one
        #[arg(long, value_name = "DIR")]
        root: PathBuf,
    },
    /// Say whether the image can serve, and exactly what is missing (exit code 1)
    Check {
        /// Where the image is mounted
        #[arg(long, value_name = "DIR")]
        root: PathBuf,
        /// The AKSNodeClass, YAML or JSON
        #[arg(long, value_name = "FILE")]
        node_class: Option<PathBuf>,
        /// Version of Kubernetes; that of the image's kubelet when absent
        #[arg(long, value_name = "VERSION")]
        kubernetes_version: Option<String>,
        /// Mode of the pod network: overlay, cilium, nodeSubnet or none
        #[arg(long, value_name = "MODE")]
        network: Option<String>,
    },
    /// Take out what belongs to this one machine: its id, host keys, cloud-init's and the agent's state, logs
    Generalize {
        /// Where the image is mounted; `/` for the machine that becomes one
        #[arg(long, value_name = "DIR")]
        root: PathBuf,
    },
    /// Build the Debian image of the VM tests, unless it is there: base.raw and vmlinuz; and, with --deb, one from the package
    TestImage {
        /// Folder with the image's packages, tree and configure
        #[arg(long, value_name = "DIR", default_value = "tests/vm/image")]
        recipe: PathBuf,
        /// Address of a Debian mirror; tests/vm/mirror.sh prints this machine's
        #[arg(long, value_name = "URL")]
        mirror: String,
        /// Folder for the images, and for what is kept to make them faster
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        #[command(flatten)]
        packaged: PackagedArguments,
    },
    /// Make the deb and the rpm
    Package {
        /// What is in them
        #[arg(long, value_name = "FILE", default_value = "packaging/package.toml")]
        description: PathBuf,
        /// Folder with the program, its manual page and its completions
        #[arg(long, value_name = "DIR")]
        built: PathBuf,
        /// What is new in which version
        #[arg(long, value_name = "FILE", default_value = "CHANGELOG.md")]
        changelog: PathBuf,
        /// Folder for the packages
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Version of the packages; the changelog must have it
        #[arg(long, value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
        version: String,
        /// Time of everything in them, in seconds since 1970
        #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
        date: i64,
    },
    /// Print what is new in a version, from the changelog
    Notes {
        /// What is new in which version
        #[arg(long, value_name = "FILE", default_value = "CHANGELOG.md")]
        changelog: PathBuf,
        /// The version
        #[arg(long, value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
        version: String,
    },
    /// List what is linked into the program (CycloneDX); reads `cargo metadata --format-version 1` from standard input
    Sbom {
        /// The workspace's package
        #[arg(long, value_name = "NAME", default_value = "nap-agent")]
        package: String,
        /// The lock file, for the crates' digests
        #[arg(long, value_name = "FILE", default_value = "Cargo.lock")]
        lock: PathBuf,
        /// Time of the list, in seconds since 1970
        #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
        date: i64,
    },
}

/// An image from the package; all of it or nothing.
#[derive(Debug, Args)]
struct PackagedArguments {
    /// The package that an image gets, which is made anew each time
    #[arg(long, value_name = "FILE", requires_all = ["name", "kubelet"])]
    deb: Option<PathBuf>,
    /// Name of that image: NAME.raw
    #[arg(long, value_name = "NAME", requires = "deb", value_parser = file_name)]
    name: Option<String>,
    /// The program that becomes /opt/bin/kubelet of that image
    #[arg(long, value_name = "FILE", requires = "deb")]
    kubelet: Option<PathBuf>,
    /// Bake, check and generalize that image
    #[arg(long, requires = "deb")]
    bake: bool,
}

impl PackagedArguments {
    fn packaged(&self) -> Option<Packaged<'_>> {
        let (name, kubelet, deb) = (self.name.as_deref()?, self.kubelet.as_deref()?, self.deb.as_deref()?);
        Some(Packaged { name, kubelet, deb, is_baked: self.bake })
    }
}

fn file_name(text: &str) -> Result<String, String> {
    let is_one = !text.is_empty() && !text.starts_with('.') && !text.contains('/');
    if is_one { Ok(text.to_owned()) } else { Err("want the name of a file".to_owned()) }
}

pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let progress = Progress::new();
    match cli.command {
        Command::Bake { root } => {
            let (root, os) = bake::open(&root)?;
            let baked = bake::run(&root, os, &progress).await?;
            for step in &baked.changed {
                print(&format!("changed {step}\n"))?;
            }
            print(&format!("{} changed, {} as they should be\n", baked.changed.len(), baked.in_sync))?;
        }
        Command::Check { root, node_class, kubernetes_version, network } => {
            let (root, os) = bake::open(&root)?;
            let node_class = node_class
                .map(|path| std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display())))
                .transpose()?;
            let wish = Wish { node_class, kubernetes_version, network };
            let found = inventory::look(&root, os, &progress).await?;
            progress.end();
            return show(&check::check(&found, observe::image(&root)?.as_ref(), os, &wish)?);
        }
        Command::Generalize { root } => {
            for path in generalize::run(&Root::open(&root)?, &progress)? {
                print(&format!("{path}\n"))?;
            }
        }
        Command::TestImage { recipe, mirror, out, packaged } => {
            let sources = test_image::Sources { recipe: &recipe, mirror: &mirror, out: &out };
            match packaged.packaged() {
                None => test_image::build(&sources, &progress).await?,
                Some(packaged) => test_image::build_packaged(&sources, &packaged, &progress).await?,
            }
        }
        Command::Package { description, built, changelog, out, version, date } => {
            let at = time(date)?;
            let sources =
                Sources { description: &description, built: &built, changelog: &changelog, version: &version, at };
            for path in Package::read(&sources)?.write(&out)? {
                print(&format!("{}\n", path.display()))?;
            }
        }
        Command::Notes { changelog: path, version } => {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let releases = changelog::read(&text)?;
            print(&format!("# nap-agent {version}\n\n"))?;
            for item in &changelog::of(&releases, &version)?.items {
                print(&format!("- {item}\n"))?;
            }
        }
        Command::Sbom { package, lock, date } => {
            let metadata = std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?;
            let lock = std::fs::read_to_string(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
            print(&format!("{:#}\n", sbom::cyclonedx(&metadata, &lock, &package, time(date)?)?))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(verdict: &Verdict) -> anyhow::Result<ExitCode> {
    for missing in &verdict.missing {
        print(&format!("missing: {missing}\n"))?;
    }
    for note in &verdict.notes {
        print(&format!("note: {note}\n"))?;
    }
    if verdict.missing.is_empty() {
        print("this image can serve\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

fn time(seconds: i64) -> anyhow::Result<Timestamp> {
    Timestamp::from_second(seconds).context("--date is no time")
}

/// A result, for pipes.
fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes()).context("cannot print")
}

/// A word about what goes on, for people.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}"); // nobody listens: nobody needs to know
}
