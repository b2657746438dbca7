//! How a VM on Azure looks to QEMU: the command line.
//!
//! The network is QEMU's user-mode one, closed to everything but the forwards. A forward's address must lie inside the guest's
//! own network, hence the odd 168.0.0.0/7: it holds IMDS (169.254.169.254), the wireserver (168.63.129.16) and room for a node
//! and an API server. With a closed network QEMU's DHCP server hands out no router, and it cannot send option 121 at all;
//! cloud-init notes "failure to find primary DHCP interface" for that and goes on.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::overlay::Overlay;
use crate::{Image, ProvisioningDisc, VmError, artifact};

/// The address of the guest's network card. The pretend IMDS must call it the private address of the VM.
pub const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(168, 61, 0, 4);
/// The card's hardware address, of Microsoft's range for Azure.
pub const GUEST_MAC: &str = "00:0d:3a:00:00:01";

/// The OS disk's NVMe controller, as QEMU knows it.
pub const OS_DISK: &str = "os-disk";

/// What a VM is started with.
#[derive(Clone, Debug)]
pub struct VmOptions {
    /// Names the folder of the VM's disk and logs below target/vm/runs. One test, one name.
    pub name: String,
    /// What is added to the image.
    pub overlay: Overlay,
    /// The provisioning disc, if Azure attached one.
    pub disc: Option<ProvisioningDisc>,
    /// The VM's unique id, as IMDS reports it.
    pub vm_id: String,
    /// Addresses that lead out of the guest.
    pub forwards: Vec<Forward>,
    /// Disks beside the OS disk.
    pub disks: Vec<DataDisk>,
    /// More of the kernel's command line.
    pub kernel_arguments: String,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub cpus: u32,
}

impl VmOptions {
    /// A VM of two CPUs and 2 GiB, without a disc and without a way out.
    pub fn new(name: &str, vm_id: &str) -> Self {
        Self {
            name: name.to_owned(),
            overlay: Overlay::new(),
            disc: None,
            vm_id: vm_id.to_owned(),
            forwards: Vec::new(),
            disks: Vec::new(),
            kernel_arguments: String::new(),
            memory_mib: 2048,
            cpus: 2,
        }
    }
}

/// A disk beside the OS disk: a file of the VM's folder, `NAME.raw`, which is there as long as that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDisk {
    /// Its serial number in the guest.
    pub name: String,
    /// Size in bytes; the file has holes.
    pub bytes: u64,
    /// Files that are copied into it, each at its offset in bytes.
    pub content: Vec<(u64, PathBuf)>,
    /// How it is attached.
    pub bus: Bus,
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// As a virtio disk.
    Virtio,
    /// As this namespace of an NVMe controller with this number. Its model is QEMU's: only the kernel's own NVMe target can have
    /// another.
    Nvme {
        /// Number of the controller.
        controller: u32,
        /// Namespace id.
        namespace: u32,
    },
}

/// An address in the guest's network behind which a server of this machine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where the guest connects to; inside 168.0.0.0/7.
    pub guest: SocketAddrV4,
    /// Where that leads on this machine.
    pub host: SocketAddr,
}

impl Forward {
    /// From IMDS's address.
    pub fn imds(host: SocketAddr) -> Self {
        Self { guest: SocketAddrV4::new(Ipv4Addr::new(169, 254, 169, 254), 80), host }
    }

    /// From the wireserver's address.
    pub fn wireserver(host: SocketAddr) -> Self {
        Self { guest: SocketAddrV4::new(Ipv4Addr::new(168, 63, 129, 16), 80), host }
    }
}

/// The files of one VM.
pub(crate) struct Files {
    pub(crate) disk: PathBuf,
    pub(crate) disc: Option<PathBuf>,
    pub(crate) folder: PathBuf,
    pub(crate) shell: PathBuf,
    pub(crate) monitor: PathBuf,
}

/// QEMU, ready to be spawned. `setpriv` takes it down with the test, however that ends.
pub(crate) fn command(image: &Image, options: &VmOptions, files: &Files) -> Result<Command, VmError> {
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64", "-name"]).arg(&options.name);
    machine(&mut qemu, options);
    qemu.arg("-kernel").arg(&image.kernel);
    let arguments = "console=ttyS0 root=/dev/nvme0n1 rw rootwait net.ifnames=0 panic=1 SYSTEMD_COLORS=0";
    qemu.args(["-append", format!("{arguments} {}", options.kernel_arguments).trim_end()]);
    disks(&mut qemu, files);
    data_disks(&mut qemu, options, files);
    network(&mut qemu, &options.forwards)?;
    sockets(&mut qemu, files);
    Ok(qemu)
}

fn machine(qemu: &mut Command, options: &VmOptions) {
    let accelerator = std::env::var("NAP_VM_ACCEL").unwrap_or_else(|_| "tcg,thread=multi,tb-size=512".to_owned());
    let vendor = format!("type=1,manufacturer=Microsoft Corporation,product=Virtual Machine,uuid={}", options.vm_id);
    qemu.args(["-M", "pc", "-accel", &accelerator, "-cpu", "max"]);
    qemu.args(["-smp", &options.cpus.to_string(), "-m", &options.memory_mib.to_string()]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"]);
    // The chassis asset tag by which cloud-init tells Azure from other clouds on Hyper-V.
    qemu.args(["-smbios", &vendor, "-smbios", "type=3,asset=7783-7084-3265-9085-8269-3286-77"]);
}

fn disks(qemu: &mut Command, files: &Files) {
    let root = format!("file={},format=raw,if=none,id=root,cache=unsafe", files.disk.display());
    qemu.args(["-drive", &root, "-device", &format!("nvme,id={OS_DISK},drive=root,serial=OSDISK")]);
    if let Some(disc) = &files.disc {
        // IDE, for which `-M pc` is needed: Debian's cloud kernel has no AHCI.
        let drive = format!("file={},format=raw,media=cdrom,if=ide,readonly=on", disc.display());
        qemu.args(["-drive", &drive]);
    }
}

fn data_disks(qemu: &mut Command, options: &VmOptions, files: &Files) {
    let mut controllers = Vec::new();
    for DataDisk { name, bus, .. } in &options.disks {
        let path = escaped(&data_disk(&files.folder, name));
        qemu.args(["-drive", &format!("file={path},format=raw,if=none,id={name},cache=unsafe,discard=unmap")]);
        let device = match bus {
            Bus::Virtio => format!("virtio-blk-pci,drive={name},serial={name}"),
            Bus::Nvme { controller, namespace } => {
                if !controllers.contains(controller) {
                    controllers.push(*controller);
                    qemu.args(["-device", &format!("nvme,id=nvme{controller},serial=controller-{controller}")]);
                }
                format!("nvme-ns,drive={name},nsid={namespace},bus=nvme{controller}")
            }
        };
        qemu.args(["-device", &device]);
    }
}

/// The file of a disk in the VM's folder.
pub(crate) fn data_disk(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.raw"))
}

fn network(qemu: &mut Command, forwards: &[Forward]) -> Result<(), VmError> {
    let mut user = "user,id=net,net=168.0.0.0/7,host=168.61.0.1,dns=168.61.0.2,restrict=on".to_owned();
    user += &format!(",dhcpstart={GUEST_ADDRESS}");
    if !forwards.is_empty() {
        let relay = artifact("pretend-azure")?;
        for Forward { guest, host } in forwards {
            // A process for each connection; the form without `cmd:` serves one connection in all.
            user += &format!(",guestfwd=tcp:{guest}-cmd:{} relay {host}", escaped(&relay));
        }
    }
    qemu.args(["-netdev", &user]);
    qemu.args(["-device", &format!("virtio-net-pci,netdev=net,mac={GUEST_MAC},romfile=")]);
    Ok(())
}

fn sockets(qemu: &mut Command, files: &Files) {
    qemu.args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
    qemu.args(["-chardev", &format!("socket,id=shell,path={}", escaped(&files.shell)), "-serial", "chardev:shell"]);
    qemu.args(["-chardev", &format!("socket,id=monitor,path={}", escaped(&files.monitor))]);
    qemu.args(["-mon", "chardev=monitor,mode=control"]);
}

/// A comma in a value of QEMU's options is written twice.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}
