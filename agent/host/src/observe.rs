//! Observes the machine: everything that [`Facts`] holds and that is not behind a network.

mod disks;
mod hardware;
mod streaming;

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use jiff::Timestamp;
use nap_model::facts::{Certificate, Dmi, Facts, Os, Programs};
use nap_model::image::{INVENTORY, Image};
use nap_model::kubernetes::KubernetesVersion;
use nap_model::os::{CREDENTIAL_PROVIDER, Distribution};
use nap_model::plan::{AbsPath, CLIENT_CERTIFICATE};
use tracing::{debug, warn};

use crate::cmd::{Cmd, CmdError};
use crate::root::{FileError, Kind, Root};
use crate::{chain, persist};

pub(crate) use disks::{content as disk_content, open as open_disk};
pub use disks::{directory_bytes, disks, disks_settled, look_into};
pub use hardware::present;
pub(crate) use hardware::{PCI_DEVICES, gpu_library, gpu_module, gpus};
pub use streaming::streaming;

/// A cold Go program of 100 MB takes seconds to print its version.
const VERSION_LIMIT: Duration = Duration::from_secs(30);

/// kubelet gives it a minute for a pull; one that needs as long to start is of no use, and nobody waits for it at boot.
const PROVIDER_LIMIT: Duration = Duration::from_secs(10);

/// Observes everything but IMDS.
///
/// # Errors
/// When a file is there and cannot be read.
pub async fn observe(root: &Root) -> Result<Facts, FileError> {
    let os = os(root)?;
    let image = image(root)?;
    Ok(Facts {
        observed_at: Timestamp::now(),
        host_name: host_name(root)?,
        boot_id: boot_id(root)?,
        dmi: dmi(root)?,
        kernel: or_default("kernel", hardware::kernel(root)),
        trust: or_default("trusted launch", hardware::trust(root)),
        root_disk: or_default("root disk", hardware::root_disk(root)),
        disks: or_default("disks", disks(root)),
        disk_record: persist::read_disk_record(root)?,
        containerd_bytes: None,
        local_disks_failure: None,
        nics: or_default("network interfaces", hardware::nics(root)),
        gpu: or_default("GPU", hardware::gpu(root)),
        present: present(root)?,
        credential_provider_failure: credential_provider_failure(root, image.as_ref()).await?,
        programs: programs(root, &os, image.as_ref()).await,
        image,
        primary_address: primary_address(),
        instance: None,
        client_certificate: client_certificate(root)?,
        local_dns_failure: None,
        secure_tls_failure: None,
        streaming: None,
        streaming_failure: None,
        mirror_failure: None,
        os,
    })
}

/// A device that goes away while it is looked at must not cost the boot.
fn or_default<T: Default>(what: &str, observed: Result<T, FileError>) -> T {
    observed.unwrap_or_else(|error| {
        warn!(what, error = chain(&error), "cannot be observed; going on as if there were none");
        T::default()
    })
}

/// `/proc/sys/kernel/random/boot_id`.
///
/// # Errors
/// When it is there and cannot be read.
pub fn boot_id(root: &Root) -> Result<String, FileError> {
    Ok(root.read_text("/proc/sys/kernel/random/boot_id")?.unwrap_or_default())
}

/// `/sys/class/dmi/id`.
///
/// # Errors
/// When it is there and cannot be read.
pub fn dmi(root: &Root) -> Result<Dmi, FileError> {
    let read = |name: &str| root.read_text(&format!("/sys/class/dmi/id/{name}"));
    Ok(Dmi {
        product_uuid: read("product_uuid")?.unwrap_or_default().to_lowercase(),
        chassis_asset_tag: read("chassis_asset_tag")?.unwrap_or_default(),
        uefi: !root.names("/sys/firmware/efi")?.is_empty(),
    })
}

/// kubelet's client certificate; nothing when there is none that can be read as one.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn client_certificate(root: &Root) -> Result<Option<Certificate>, FileError> {
    let Some(pem) = root.read(CLIENT_CERTIFICATE)? else { return Ok(None) };
    let blocks = x509_parser::pem::Pem::iter_from_buffer(&pem).filter_map(Result::ok);
    let certificate =
        blocks.into_iter().find(|block| block.label == "CERTIFICATE").and_then(|block| validity(&block.contents));
    if certificate.is_none() {
        warn!(path = CLIENT_CERTIFICATE, "no certificate in kubelet's client certificate file");
    }
    Ok(certificate)
}

fn validity(der: &[u8]) -> Option<Certificate> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let time = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    Some(Certificate {
        not_before: time(certificate.validity().not_before)?,
        not_after: time(certificate.validity().not_after)?,
    })
}

/// `/etc/os-release`.
///
/// # Errors
/// When it is there and cannot be read.
pub fn os(root: &Root) -> Result<Os, FileError> {
    let text = match root.read_text("/etc/os-release")? {
        Some(text) => text,
        None => root.read_text("/usr/lib/os-release")?.unwrap_or_default(),
    };
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let field = |name: &str| fields.get(name).map(|value| value.trim_matches('"').to_owned()).unwrap_or_default();
    Ok(Os { id: field("ID"), version_id: field("VERSION_ID") })
}

fn host_name(root: &Root) -> Result<String, FileError> {
    let of_kernel = root.read_text("/proc/sys/kernel/hostname")?;
    let of_file = || root.read_text("/etc/hostname");
    Ok(match of_kernel.filter(|name| !name.is_empty() && name != "(none)") {
        Some(name) => name,
        None => of_file()?.unwrap_or_default(),
    })
}

/// What the image's builder found; nothing when there is no inventory, or one that cannot be read as such.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn image(root: &Root) -> Result<Option<Image>, FileError> {
    let Some(bytes) = root.read(INVENTORY)? else { return Ok(None) };
    let image = serde_json::from_slice(&bytes);
    Ok(image
        .inspect_err(|error| warn!(path = INVENTORY, %error, "no inventory in it; the machine is asked itself"))
        .ok())
}

/// With an inventory no program has to be started for its version, unless its builder could not ask it: one for another processor.
async fn programs(root: &Root, os: &Os, image: Option<&Image>) -> Programs {
    let known = image.map(|image| image.programs).unwrap_or_default();
    let Ok(os) = Distribution::of(os) else { return known };
    let ask = async |known: Option<KubernetesVersion>, program| match known {
        Some(version) => Some(version),
        None => version(root, program).await,
    };
    let (kubelet, containerd) = tokio::join!(ask(known.kubelet, os.kubelet), ask(known.containerd, os.containerd));
    Programs { kubelet, containerd }
}

/// Why the credential provider that is there gives no credentials: kubelet exits when it cannot find it, and pulls fail when it cannot
/// start it. One that told the image's builder its version is not started again.
async fn credential_provider_failure(root: &Root, image: Option<&Image>) -> Result<Option<String>, FileError> {
    let Some(entry) = root.target(&AbsPath::literal(CREDENTIAL_PROVIDER))? else { return Ok(None) };
    if entry.kind != Kind::File || entry.mode & 0o111 == 0 {
        return Ok(Some(format!("{CREDENTIAL_PROVIDER} is nothing that can be run")));
    }
    let tools = image.and_then(|image| image.tools.as_ref());
    if tools.and_then(|tools| tools.get(CREDENTIAL_PROVIDER)).is_some_and(|version| !version.is_empty()) {
        return Ok(None);
    }
    let asked = Cmd::new(root.outside(CREDENTIAL_PROVIDER), &["--version"], PROVIDER_LIMIT).output().await;
    Ok(match asked {
        // The oldest ones know no such flag, and say so.
        Err(CmdError::Failed { status, .. }) if status.code() == Some(1) => None,
        answer => answer.err().map(|error| chain(&error)),
    })
}

/// Starts a program to ask for its version: the fallback for images without an inventory.
async fn version(root: &Root, program: &str) -> Option<KubernetesVersion> {
    match Cmd::new(root.outside(program), &["--version"], VERSION_LIMIT).output().await {
        Ok(output) => version_in(&output),
        Err(error) => {
            debug!(program, error = chain(&error), "no version");
            None
        }
    }
}

/// The first word that is a version.
pub fn version_in(output: &str) -> Option<KubernetesVersion> {
    output.split_ascii_whitespace().find_map(|word| KubernetesVersion::try_from(word).ok())
}

/// The address from which the default route leaves. Connecting a UDP socket asks the routing table and sends nothing; the
/// destinations are documentation prefixes (RFC 5737, RFC 3849), which only a default route covers.
pub fn primary_address() -> Option<IpAddr> {
    [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")].into_iter().find_map(|(from, to)| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}
