//! The one system call that no library of ours makes: an NVMe command by ioctl. All `unsafe` of nap-agent is in this file.
#![expect(unsafe_code, reason = "an ioctl takes an address; nothing else in the workspace may")]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;

use nap_model::monitor::SmartSeen;
use nix::errno::Errno;

/// Source: `struct nvme_passthru_cmd`, the kernel's include/uapi/linux/nvme_ioctl.h.
#[repr(C)]
#[derive(Default)]
struct Command {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    address: u64,
    metadata_bytes: u32,
    data_bytes: u32,
    cdw: [u32; 6],
    timeout_ms: u32,
    result: u32,
}

const _: () = assert!(size_of::<Command>() == 72, "the kernel's structure has 72 bytes");

/// Source: NVM Express base specification, Identify; CNS 0 is a namespace's structure of 4096 bytes.
const IDENTIFY: u8 = 0x06;
const IDENTIFY_BYTES: usize = 4096;
/// Where a namespace's structure has what its vendor wants. Source: the same, "Vendor Specific".
const VENDOR_SPECIFIC: usize = 384;

/// Source: the same, Get Log Page; page 2 is SMART / Health Information, and all ones stands for the whole controller.
const GET_LOG_PAGE: u8 = 0x02;
const SMART_PAGE: u32 = 0x02;
const SMART_BYTES: usize = 512;
const WHOLE_CONTROLLER: u32 = u32::MAX;
/// Where that page has the number of errors of its media, in sixteen bytes of which nobody will see more than eight.
const MEDIA_ERRORS: usize = 160;

/// The kernel's own, a minute: a command that takes longer than was asked for makes it reset the whole controller, with all its disks. Source:
/// nvme_timeout and `admin_timeout` in the kernel's drivers/nvme/host.
const USUAL_TIMEOUT: u32 = 0;

mod ioctl {
    nix::ioctl_readwrite!(admin_command, b'N', 0x41, super::Command);
}

/// What the vendor wrote into a namespace's Identify data, as Azure does; nothing where it wrote nothing.
///
/// # Errors
/// When the device takes no such command, or does not know it.
pub(crate) fn vendor_words(device: &File, namespace: u32) -> Result<BTreeMap<String, String>, Errno> {
    let data = read(device, Command { opcode: IDENTIFY, namespace, ..Command::default() }, IDENTIFY_BYTES)?;
    Ok(words(&data[VENDOR_SPECIFIC..]))
}

/// What a controller says of its own health.
///
/// # Errors
/// When the device takes no such command, or does not know it.
pub(crate) fn smart(device: &File) -> Result<SmartSeen, Errno> {
    let dwords = u32::try_from(SMART_BYTES / 4 - 1).expect("it is small");
    let cdw = [dwords << 16 | SMART_PAGE, 0, 0, 0, 0, 0];
    let command = Command { opcode: GET_LOG_PAGE, namespace: WHOLE_CONTROLLER, cdw, ..Command::default() };
    Ok(health(&read(device, command, SMART_BYTES)?))
}

fn health(page: &[u8]) -> SmartSeen {
    let errors = page[MEDIA_ERRORS..MEDIA_ERRORS + 8].try_into().expect("eight bytes");
    SmartSeen { critical_warning: page[0], media_errors: u64::from_le_bytes(errors) }
}

/// Has the controller fill so many bytes. Only for commands that read from the device and change nothing.
fn read(device: &File, command: Command, bytes: usize) -> Result<Vec<u8>, Errno> {
    let mut data = vec![0_u8; bytes];
    let mut command = Command {
        address: data.as_mut_ptr() as u64,
        data_bytes: u32::try_from(bytes).expect("a page or less"),
        timeout_ms: USUAL_TIMEOUT,
        ..command
    };
    // SAFETY: the structure is the kernel's, and outlives the call; the address is that of `data`, which has as many bytes as the
    // command says, is not moved or read meanwhile, and takes any bytes.
    let status = unsafe { ioctl::admin_command(device.as_raw_fd(), &raw mut command) }?;
    // Above 0 is the controller's status: it did not do it.
    if status != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(data)
}

/// `type=local,index=1,name=nvme-110G-1`, to the first NUL. Source: azure-vm-utils, doc/disk-identification.md.
fn words(bytes: &[u8]) -> BTreeMap<String, String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let Ok(text) = std::str::from_utf8(&bytes[..end]) else { return BTreeMap::new() };
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_at_the_first_nul_and_may_be_missing() {
        let mut bytes = b"type=local,index=2,name=nvme-440G-2\0garbage=1".to_vec();
        bytes.resize(IDENTIFY_BYTES - VENDOR_SPECIFIC, 0);
        let found = words(&bytes);
        assert_eq!(found.get("index").map(String::as_str), Some("2"));
        assert_eq!(found.len(), 3);
        assert_eq!(words(&[0; 16]), BTreeMap::new());
        assert_eq!(words(&[0xff; 16]), BTreeMap::new());
    }

    #[test]
    fn what_is_no_nvme_device_says_so() {
        let file = File::open("/dev/null").unwrap();
        assert_eq!(vendor_words(&file, 1), Err(Errno::ENOTTY));
        assert_eq!(smart(&file), Err(Errno::ENOTTY));
    }

    /// Bytes of the page as a disk of QEMU 10 gives them, but for the warning and the errors.
    #[test]
    fn the_page_of_a_controllers_health_is_read() {
        let mut page = vec![0; SMART_BYTES];
        page[..6].copy_from_slice(&[0b100, 0x43, 0x01, 100, 10, 3]);
        page[MEDIA_ERRORS..MEDIA_ERRORS + 2].copy_from_slice(&[0x01, 0x02]);
        assert_eq!(health(&page), SmartSeen { critical_warning: 0b100, media_errors: 0x0201 });
    }
}
