//! The kernel's log, record by record, as it comes.
//!
//! What a user wrote there is counted and not read. What was lost (the ring overran us) is counted, too: nobody may conclude from
//! silence in a log with gaps.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nap_model::monitor::kernel_line::{KernelLine, Record, classify};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::Notify;
use tracing::debug;

use super::KernelLog;
use crate::root::{FileError, Root};

const KMSG: &str = "/dev/kmsg";

/// Longest record, in bytes. Source: PRINTKRB_RECORD_MAX and the escapes of kernel/printk/printk.c.
const MAX_RECORD: usize = 8192;

/// Records of one go, so that a storm lets those in who want to know.
const BATCH: usize = 512;

/// Lines kept until the next sweep; more say nothing more.
const MAX_LINES: usize = 32;

/// A reader of `/dev/kmsg`, on a thread of its own, so that a storm costs nobody else time.
#[derive(Debug)]
pub(super) struct Kmsg {
    read: Arc<Mutex<Reading>>,
}

#[derive(Debug, Default)]
struct Reading {
    log: KernelLog,
    lines: VecDeque<KernelLine>,
}

impl Kmsg {
    /// Opens it after a record that was read before; nothing where there is no such log. `matters` is told of what should be looked at.
    pub(super) fn open(root: &Root, log: KernelLog, matters: Arc<Notify>) -> Result<Option<Self>, FileError> {
        let Some(file) = open_log(root)? else { return Ok(None) };
        let kmsg = Self { read: Arc::new(Mutex::new(Reading { log, lines: VecDeque::new() })) };
        let read = Arc::clone(&kmsg.read);
        let thread = std::thread::Builder::new().name("kmsg".to_owned()).stack_size(256 * 1024);
        let started = thread.spawn(move || follow(&file, &read, &matters));
        started.map_err(|source| FileError { action: "start a thread to read", path: KMSG.to_owned(), source })?;
        Ok(Some(kmsg))
    }

    pub(super) fn log(&self) -> KernelLog {
        self.reading().log
    }

    pub(super) fn take(&self) -> Vec<KernelLine> {
        self.reading().lines.drain(..).collect()
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn follow(file: &File, read: &Mutex<Reading>, matters: &Notify) {
    loop {
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        if let Err(errno) = poll(&mut fds, PollTimeout::NONE)
            && errno != Errno::EINTR
        {
            debug!(error = %errno, "cannot wait for the kernel's log");
            return;
        }
        let (more, has_lines) = {
            let mut reading = read.lock().unwrap_or_else(PoisonError::into_inner);
            let Reading { log, lines } = &mut *reading;
            let more = read_records(file, BATCH, |bytes| {
                if let Some(record) = std::str::from_utf8(bytes).ok().and_then(Record::parse) {
                    take(&record, log, lines);
                }
            });
            (more, !lines.is_empty())
        };
        if has_lines {
            matters.notify_one();
        }
        if let More::Never(why) = more {
            if let Some(error) = why {
                debug!(error = %error, "the kernel's log ended");
            }
            return;
        }
    }
}

/// Whether more may be read.
pub(crate) enum More {
    /// At once.
    Now,
    /// When there is more.
    Later,
    /// Never; why, when it is not the end.
    Never(Option<io::Error>),
}

/// Opens the log at its oldest record; nothing where there is none.
pub(crate) fn open_log(root: &Root) -> Result<Option<File>, FileError> {
    root.open_for_reading(KMSG)
}

/// Reads up to `most` records, whatever they are.
pub(crate) fn read_records(mut file: &File, most: usize, mut each: impl FnMut(&[u8])) -> More {
    let mut buffer = [0; MAX_RECORD];
    for _ in 0..most {
        match file.read(&mut buffer) {
            Ok(0) => return More::Never(None),
            Ok(length) => each(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return More::Later,
            // Overrun: the next read is at the oldest record that is left, and its number shows how many are not.
            Err(error) if error.raw_os_error() == Some(Errno::EPIPE as i32) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return More::Never(Some(error)),
        }
    }
    More::Now
}

fn take(record: &Record<'_>, log: &mut KernelLog, lines: &mut VecDeque<KernelLine>) {
    // At our start all records of this boot come again.
    if log.next > record.sequence {
        return;
    }
    if log.next > 0 {
        log.lost += record.sequence - log.next;
    }
    log.next = record.sequence + 1;
    log.records += 1;
    if record.facility != 0 {
        log.of_users += 1;
        return;
    }
    let Some(line) = classify(record.text) else { return };
    if lines.len() == MAX_LINES {
        lines.pop_front();
    }
    lines.push_back(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(records: &[&str]) -> (KernelLog, Vec<String>) {
        let (mut log, mut lines) = (KernelLog::default(), VecDeque::new());
        for record in records {
            take(&Record::parse(record).unwrap(), &mut log, &mut lines);
        }
        (log, lines.into_iter().map(|line| line.text).collect())
    }

    #[test]
    fn gaps_and_forgeries_are_counted_and_old_records_skipped() {
        let (log, lines) = take_all(&[
            "6,0,1,-;Linux version",
            "2,1,2,-;EXT4-fs error (device sda1): a",
            "12,2,3,-;EXT4-fs error (device sda1): forged",
            "2,1,2,-;EXT4-fs error (device sda1): again",
            "2,9,4,-;EXT4-fs error (device sda1): b",
        ]);
        assert_eq!(log, KernelLog { next: 10, records: 4, lost: 6, of_users: 1 });
        assert_eq!(lines, ["EXT4-fs error (device sda1): a", "EXT4-fs error (device sda1): b"]);
    }

    #[test]
    fn a_storm_is_not_kept() {
        let records: Vec<String> = (0..1000).map(|number| format!("2,{number},1,-;Oops: {number}")).collect();
        let (log, lines) = take_all(&records.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((log.records, lines.len(), lines[31].as_str()), (1000, 32, "Oops: 999"));
    }
}
