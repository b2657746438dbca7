//! `pretend-azure ovf`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use pretend_azure::OvfDocument;

#[derive(Args)]
pub(crate) struct OvfArguments {
    /// The custom data, as the provisioner hands it to the control plane before base64.
    #[arg(long)]
    custom_data: Option<PathBuf>,
    /// The VM's host name.
    #[arg(long)]
    hostname: String,
    /// The administrator's user name.
    #[arg(long, default_value = "azureuser")]
    user_name: String,
    /// Write a password; `REDACTED` makes the document look as cloud-init leaves it.
    #[arg(long)]
    user_password: Option<String>,
    /// A public key of the administrator; may be repeated.
    #[arg(long = "ssh-key")]
    ssh_keys: Vec<String>,
    /// The file to write.
    #[arg(long)]
    out: PathBuf,
}

pub(crate) fn write(arguments: OvfArguments) -> anyhow::Result<()> {
    let read = |path: PathBuf| std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()));
    let document = OvfDocument {
        host_name: arguments.hostname,
        user_name: arguments.user_name,
        user_password: arguments.user_password,
        ssh_public_keys: arguments.ssh_keys,
        custom_data: arguments.custom_data.map(read).transpose()?,
        preprovisioned: false,
    };
    let out = &arguments.out;
    std::fs::write(out, document.to_xml()).with_context(|| format!("cannot write {}", out.display()))
}
