//! A swap file: its space, its header. systemd puts it to use.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use nap_model::plan::AbsPath;

use crate::root::{FileError, Root};

/// Source: `union swap_header`, the kernel's include/linux/swap.h: the signature ends the first page, the numbers start at 1024.
const SIGNATURE: &[u8; 10] = b"SWAPSPACE2";
const HEADER_AT: usize = 1024;
const VERSION: u32 = 1;

/// What must stay free on its file system beside the swap file, in bytes: kubelet evicts pods below a tenth.
const RESERVE_BYTES: u64 = 1 << 30;

/// Bytes of a page of this machine.
fn page_bytes() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

/// The first page of a swap file of so many bytes.
fn header(bytes: u64, page: u64) -> io::Result<Vec<u8>> {
    let too_big = || io::Error::new(io::ErrorKind::InvalidInput, "more pages than a swap file can have");
    let last_page = u32::try_from(bytes / page).map_err(|_| too_big())?.checked_sub(1).ok_or_else(too_big)?;
    let page = usize::try_from(page).map_err(|_| too_big())?;
    let mut header = vec![0; page];
    header[HEADER_AT..HEADER_AT + 4].copy_from_slice(&VERSION.to_ne_bytes());
    header[HEADER_AT + 4..HEADER_AT + 8].copy_from_slice(&last_page.to_ne_bytes());
    header[page - SIGNATURE.len()..].copy_from_slice(SIGNATURE);
    Ok(header)
}

/// How the file differs from a swap file of so many bytes.
///
/// # Errors
/// When it is there and cannot be read.
pub(crate) fn difference(root: &Root, path: &AbsPath, bytes: u64) -> Result<Option<String>, FileError> {
    let wrap = |source| FileError { action: "read", path: path.to_string(), source };
    let Some(mut file) = root.open_for_reading(path.as_str())? else {
        return Ok(Some(format!("make {path}, {} MiB of swap", bytes >> 20)));
    };
    let size = file.metadata().map_err(wrap)?.len();
    if size != bytes {
        return Ok(Some(format!("make {path} anew: it has {size} bytes, {bytes} are wanted")));
    }
    let page = page_bytes();
    let wanted = header(bytes, page).map_err(wrap)?;
    let mut found = vec![0; wanted.len()];
    file.read_exact(&mut found).map_err(wrap)?;
    // swapon's own tools put a label and an UUID after the numbers.
    let same = |range: std::ops::Range<usize>| found[range.clone()] == wanted[range];
    let is_swap = same(HEADER_AT..HEADER_AT + 8) && same(wanted.len() - SIGNATURE.len()..wanted.len());
    Ok((!is_swap).then(|| format!("write the swap header of {path}")))
}

/// Makes the file: beside, allocated, synced, renamed.
pub(crate) fn make(root: &Root, path: &AbsPath, bytes: u64) -> Result<(), FileError> {
    let wrap = |action| move |source| FileError { action, path: path.to_string(), source };
    let page = page_bytes();
    let header = header(bytes, page).map_err(wrap("describe"))?;
    let (directory, _) = path.as_str().rsplit_once('/').unwrap_or_default();
    root.write_by(path, 0o600, |file: &mut File| {
        let (_, free) = root.space_at(directory).map_err(|error| error.source)?;
        if free < bytes.saturating_add(RESERVE_BYTES) {
            let (free, need) = (free >> 20, (bytes.saturating_add(RESERVE_BYTES)) >> 20);
            let text = format!("SwapSpaceMissing: {free} MiB are free, {need} MiB are needed with what must stay free");
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        let length = i64::try_from(bytes).map_err(io::Error::other)?;
        // Swapping to a file with holes is refused.
        nix::fcntl::fallocate(&*file, nix::fcntl::FallocateFlags::empty(), 0, length)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_where_the_kernel_looks() {
        let header = header(8 * 4096, 4096).unwrap();
        assert_eq!(&header[4086..], SIGNATURE);
        assert_eq!(
            (header[1024..1028].to_vec(), header[1028..1032].to_vec()),
            (1_u32.to_ne_bytes().to_vec(), 7_u32.to_ne_bytes().to_vec())
        );
        assert!(super::header(u64::MAX, 4096).is_err() && super::header(0, 4096).is_err());
    }

    #[test]
    fn what_was_made_is_as_wanted_and_damage_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let (path, bytes) = (AbsPath::literal("/swapfile"), 64 * page_bytes());
        assert!(difference(&root, &path, bytes).unwrap().unwrap().starts_with("make"));
        make(&root, &path, bytes).unwrap();
        assert_eq!(difference(&root, &path, bytes).unwrap(), None);
        assert!(difference(&root, &path, 2 * bytes).unwrap().unwrap().contains("anew"));
        std::fs::write(directory.path().join("swapfile"), vec![0; usize::try_from(bytes).unwrap()]).unwrap();
        assert!(difference(&root, &path, bytes).unwrap().unwrap().contains("header"));
        let error = make(&root, &path, 1 << 42).unwrap_err();
        assert!(crate::chain(&error).contains("SwapSpaceMissing"), "{}", crate::chain(&error));
        assert_eq!(root.names("/").unwrap(), ["swapfile"], "nothing is left beside it");
    }
}
