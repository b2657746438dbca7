//! `pretend-azure serve`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use pretend_azure::{
    ANY_PORT, ApiOptions, ApiServer, BootstrapToken, CsrPolicy, Imds, ImdsOptions, Instance, InvalidToken, RequestLog,
    SignedDuration, Wireserver,
};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Args)]
pub(crate) struct ServeArguments {
    /// Where to write pretend-azure.json, ca.crt, admin.token and requests.log.
    #[arg(long)]
    dir: PathBuf,
    /// Where IMDS listens; port 0 picks a free port.
    #[arg(long, default_value_t = ANY_PORT)]
    imds: SocketAddr,
    /// Where the wireserver listens.
    #[arg(long, default_value_t = ANY_PORT)]
    wireserver: SocketAddr,
    /// Where the API server listens.
    #[arg(long, default_value_t = ANY_PORT)]
    api: SocketAddr,
    /// A DNS name or IP address in the API server's certificate, beside 127.0.0.1 and localhost; may be repeated.
    #[arg(long = "api-name", value_name = "NAME")]
    api_names: Vec<String>,
    /// A bootstrap token, id.secret; may be repeated. The environment keeps it out of the process list.
    #[arg(
        long = "bootstrap-token",
        value_name = "TOKEN",
        value_parser = token,
        env = "PRETEND_AZURE_BOOTSTRAP_TOKEN",
        hide_env_values = true
    )]
    bootstrap_tokens: Vec<BootstrapToken>,
    /// The Kubernetes version to claim.
    #[arg(long, default_value = "1.36.2")]
    kubernetes_version: String,
    /// How many seconds the API server's clock is ahead of this machine's.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_name = "SECONDS")]
    clock_offset: i64,
    /// What happens to a node's certificate signing request.
    #[arg(long, value_enum, default_value_t = Csr::Approve)]
    csr_policy: Csr,
    /// Present a server certificate of another authority than ca.crt.
    #[arg(long)]
    foreign_server_certificate: bool,
    /// Refuse to create Nodes.
    #[arg(long)]
    reject_node_creation: bool,
    #[command(flatten)]
    vm: VmArguments,
}

#[derive(Args)]
struct VmArguments {
    /// The VM's name.
    #[arg(long, default_value = "aks-default-0")]
    vm_name: String,
    /// The VM's id, equal to its DMI product UUID.
    #[arg(long, default_value = "12345678-90ab-cdef-1234-567890abcdef", value_name = "UUID")]
    vm_id: String,
    /// The VM's size.
    #[arg(long, default_value = "Standard_D2ds_v5")]
    vm_size: String,
    /// The region.
    #[arg(long, default_value = "eastus2")]
    location: String,
    /// The zone in the region; empty for none.
    #[arg(long, default_value = "1")]
    zone: String,
    /// The subscription's id.
    #[arg(long, default_value = "12345678-90ab-cdef-1234-567890abcdef", value_name = "UUID")]
    subscription_id: String,
    /// The resource group.
    #[arg(long, default_value = "mc_test-rg")]
    resource_group: String,
    /// The MAC address of the network interface, upper-case digits without separators.
    #[arg(long, default_value = "000D3A123456")]
    mac_address: String,
    /// The private IPv4 address.
    #[arg(long, default_value = "10.0.0.4")]
    private_ip: String,
    /// A tag, NAME=VALUE; may be repeated.
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = tag)]
    tags: Vec<(String, String)>,
    /// User data before base64, served by IMDS.
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// Custom data before base64, served by IMDS as emulators do and Azure does not.
    #[arg(long, value_name = "FILE")]
    imds_custom_data: Option<PathBuf>,
    /// Answer 429 to more requests a second than this; Azure: 5.
    #[arg(long, value_name = "COUNT")]
    imds_requests_per_second: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Csr {
    Approve,
    Never,
    Deny,
}

fn token(text: &str) -> Result<BootstrapToken, InvalidToken> {
    BootstrapToken::try_from(text)
}

fn tag(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("want NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) async fn serve(arguments: ServeArguments) -> anyhow::Result<()> {
    // Before anything listens: a supervisor may stop us as soon as it sees our first line.
    let stop = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let dir = arguments.dir.clone();
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let log = open_log(&dir.join("requests.log"))?;
    let (instance, imds_options) = vm(&arguments.vm, log.clone())?;
    let imds = Imds::start_with(arguments.imds, instance, imds_options).await?;
    announce("imds", &imds.url())?;
    let wireserver = Wireserver::start_with(arguments.wireserver, log.clone()).await?;
    announce("wireserver", &wireserver.url())?;
    let api = ApiServer::start(api_options(arguments, log)).await?;
    // The last line also says that every file is there.
    describe(&dir, &imds, &wireserver, &api)?;
    announce("api", &api.url())?;
    stopped(stop).await;
    imds.stop().await;
    wireserver.stop().await;
    api.stop().await;
    Ok(())
}

fn vm(arguments: &VmArguments, log: RequestLog) -> anyhow::Result<(Instance, ImdsOptions)> {
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let custom_data = arguments.imds_custom_data.as_ref().map(read).transpose()?;
    let options = ImdsOptions {
        requests_per_second: arguments.imds_requests_per_second,
        serve_custom_data: custom_data.is_some(),
        log,
        ..ImdsOptions::default()
    };
    let mut instance = Instance {
        name: arguments.vm_name.clone(),
        vm_id: arguments.vm_id.clone(),
        vm_size: arguments.vm_size.clone(),
        location: arguments.location.clone(),
        zone: arguments.zone.clone(),
        subscription_id: arguments.subscription_id.clone(),
        resource_group: arguments.resource_group.clone(),
        tags: arguments.tags.clone(),
        user_data: arguments.user_data.as_ref().map(read).transpose()?.unwrap_or_default(),
        custom_data: custom_data.unwrap_or_default(),
        ..Instance::default()
    };
    for interface in &mut instance.interfaces {
        interface.mac_address.clone_from(&arguments.mac_address);
        interface.private_ipv4 = vec![arguments.private_ip.clone()];
    }
    Ok((instance, options))
}

fn api_options(arguments: ServeArguments, log: RequestLog) -> ApiOptions {
    let mut options = ApiOptions {
        address: arguments.api,
        bootstrap_tokens: arguments.bootstrap_tokens,
        clock_offset: SignedDuration::from_secs(arguments.clock_offset),
        foreign_server_certificate: arguments.foreign_server_certificate,
        csr_policy: match arguments.csr_policy {
            Csr::Approve => CsrPolicy::Approve,
            Csr::Never => CsrPolicy::Never,
            Csr::Deny => CsrPolicy::Deny,
        },
        reject_node_creation: arguments.reject_node_creation,
        kubernetes_version: arguments.kubernetes_version,
        log,
        ..ApiOptions::default()
    };
    options.names.extend(arguments.api_names);
    options
}

fn open_log(path: &Path) -> anyhow::Result<RequestLog> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file: File = file.with_context(|| format!("cannot open {}", path.display()))?;
    Ok(RequestLog::with_sink(Box::new(file)))
}

fn announce(server: &str, url: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{server} listens at {url}")?;
    out.flush()?;
    Ok(())
}

/// Writes the files that say where everything is; pretend-azure.json comes last, complete.
fn describe(dir: &Path, imds: &Imds, wireserver: &Wireserver, api: &ApiServer) -> anyhow::Result<()> {
    let (ca, token) = (dir.join("ca.crt"), dir.join("admin.token"));
    write_beside(&ca, api.ca_pem().as_bytes(), 0o644)?;
    write_beside(&token, api.admin_token().as_bytes(), 0o600)?;
    let places = json!({
        "imds": imds.url(), "wireserver": wireserver.url(), "api": api.url(),
        "caFile": std::path::absolute(ca)?, "adminTokenFile": std::path::absolute(token)?,
    });
    write_beside(&dir.join("pretend-azure.json"), format!("{places:#}\n").as_bytes(), 0o644)
}

fn write_beside(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let write = || {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        std::fs::rename(&beside, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

async fn stopped([mut terminate, mut interrupt]: [Signal; 2]) {
    // recv() loses no signal when cancelled, and we end with the first.
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
