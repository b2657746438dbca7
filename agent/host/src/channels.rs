//! Ways by which a boot's outcome leaves the node without its network: the guest agent's event files and Hyper-V's key-value pairs.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use jiff::Timestamp;
use nap_model::plan::AbsPath;
use nap_model::report::{EVENTS_DIRECTORY, GuestAgentEvent};
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::root::{FileError, Root};

/// Events that may wait for the guest agent; it takes no more than so many, and without one they would only pile up.
/// Source: WALinuxAgent, `MAX_NUMBER_OF_EVENTS_PER_EXTENSION_PER_PERIOD` (360).
const MAX_WAITING_EVENTS: usize = 300;

/// The pool that the guest writes and the host reads. Source: the kernel's tools/hv/hv_kvp_daemon.c.
const KVP_POOL: &str = "/var/lib/hyperv/.kvp_pool_1";
/// Source: HV_KVP_EXCHANGE_MAX_KEY_SIZE, include/uapi/linux/hyperv.h.
const KEY_BYTES: usize = 512;
/// Source: HV_KVP_EXCHANGE_MAX_VALUE_SIZE, include/uapi/linux/hyperv.h.
const VALUE_BYTES: usize = 2048;
const RECORD_BYTES: usize = KEY_BYTES + VALUE_BYTES;
const MAX_POOL_BYTES: usize = 16 * 1024 * 1024;

/// Leaves events for the guest agent. Their names are numbers (it looks at no others), each its own.
///
/// # Errors
/// When one cannot be written.
pub fn write_events(root: &Root, events: &[GuestAgentEvent]) -> Result<(), FileError> {
    let waiting = root.names(EVENTS_DIRECTORY)?;
    let room = MAX_WAITING_EVENTS.saturating_sub(waiting.len());
    let mut number = Timestamp::now().as_nanosecond();
    for event in events.iter().take(room) {
        while waiting.contains(&format!("{number}.json")) {
            number += 1;
        }
        let path = AbsPath::try_from(format!("{EVENTS_DIRECTORY}/{number}.json").as_str()).expect("a number is a name");
        root.write(&path, &serde_json::to_vec(event).expect("an event has only texts"), 0o600)?;
        number += 1;
    }
    Ok(())
}

/// Sets a key of the pool that the host reads. A machine without that pool is not on Hyper-V, and nothing is done.
///
/// # Errors
/// When the pool is there and cannot be written.
pub fn set_kvp(root: &Root, key: &str, value: &str) -> Result<(), FileError> {
    if root.open_for_reading(KVP_POOL)?.is_none() {
        return Ok(());
    }
    let wrap = |source| FileError { action: "write", path: KVP_POOL.to_owned(), source };
    let file = root.open_both_ways(KVP_POOL, OFlag::empty())?;
    // cloud-init takes the same lock, for a moment. Who holds it longer costs this channel, not the report.
    let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| wrap(errno.into()))?;
    put_record(&mut file, key, value).map_err(wrap)
}

/// Over the record with this key, else at the end.
fn put_record(file: &mut File, key: &str, value: &str) -> io::Result<()> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if length > MAX_POOL_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "the pool is larger than any that the host would read",
        ));
    }
    let mut pool = Vec::with_capacity(length);
    file.read_to_end(&mut pool)?;
    let is_ours = |record: &[u8]| record[..KEY_BYTES].split(|byte| *byte == 0).next() == Some(key.as_bytes());
    let whole = pool.chunks_exact(RECORD_BYTES);
    let count = whole.len();
    let at = whole.into_iter().position(is_ours).unwrap_or(count);
    let mut record = vec![0; RECORD_BYTES];
    let padded = |record: &mut [u8], text: &str| {
        let bytes = text.as_bytes();
        let length = bytes.len().min(record.len() - 1);
        record[..length].copy_from_slice(&bytes[..length]);
    };
    padded(&mut record[..KEY_BYTES], key);
    padded(&mut record[KEY_BYTES..], value);
    file.seek(SeekFrom::Start((at * RECORD_BYTES) as u64))?;
    file.write_all(&record)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        (directory, root)
    }

    #[test]
    fn a_key_is_set_in_place_and_others_stay() {
        let (directory, root) = root();
        set_kvp(&root, "NAP", "nobody reads it").unwrap();
        let pool = directory.path().join(KVP_POOL.trim_start_matches('/'));
        assert!(!pool.exists(), "a pool is the daemon's to make");
        std::fs::create_dir_all(pool.parent().unwrap()).unwrap();
        std::fs::write(&pool, "").unwrap();
        set_kvp(&root, "OTHER", "theirs").unwrap();
        for value in ["first", "a longer second", "third"] {
            set_kvp(&root, "NAP", value).unwrap();
        }
        let bytes = std::fs::read(&pool).unwrap();
        assert_eq!(bytes.len(), 2 * RECORD_BYTES);
        let text =
            |range: std::ops::Range<usize>| String::from_utf8_lossy(&bytes[range]).trim_end_matches('\0').to_owned();
        assert_eq!((text(0..KEY_BYTES), text(KEY_BYTES..RECORD_BYTES)), ("OTHER".into(), "theirs".into()));
        let second = RECORD_BYTES;
        assert_eq!(text(second..second + KEY_BYTES), "NAP");
        assert_eq!(text(second + KEY_BYTES..2 * RECORD_BYTES), "third");
    }

    #[test]
    fn each_event_has_a_name_of_its_own_and_they_do_not_pile_up() {
        let (_directory, root) = root();
        let at = Timestamp::now();
        let events: Vec<_> = (0..100).map(|i| GuestAgentEvent::new("boot", at, at, Ok(&i.to_string()))).collect();
        for expected in [100, 200, 300, 300] {
            write_events(&root, &events).unwrap();
            assert_eq!(root.names(EVENTS_DIRECTORY).unwrap().len(), expected);
        }
        let names = root.names(EVENTS_DIRECTORY).unwrap();
        assert!(names.iter().all(|name| name.trim_end_matches(".json").bytes().all(|byte| byte.is_ascii_digit())));
    }
}
