//! Which files of a disk hold a secret, deleted ones included: the raw blocks are searched, and the file system says whose
//! each block is. Text that a program compresses before it writes it (journald does) is not found this way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::{Disk, VmError};

const CHUNK_BYTES: usize = 1 << 20;

/// A byte sequence to look for, with the name of the secret that it gives away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needle {
    /// What it is, for the report: never the secret itself.
    pub name: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// A place where a needle was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file that owns the block; `None`: no file does any more.
    pub path: Option<String>,
    /// The needle's name.
    pub name: String,
}

/// The forms in which a secret shows: as it is, and inside base64 of something longer, at each of the three alignments.
pub fn needles(name: &str, secret: &str) -> Vec<Needle> {
    let needle = |form: &str, bytes: Vec<u8>| Needle { name: format!("{name} ({form})"), bytes };
    let mut found = vec![needle("plain", secret.as_bytes().to_vec())];
    // Before the secret come so many bytes, which so many characters depend on.
    for (before, first) in [(0, 0), (1, 2), (2, 3)] {
        let padded = [&b"\0\0"[..before], secret.as_bytes()].concat();
        let encoded = STANDARD_NO_PAD.encode(&padded);
        // The last character depends on what follows the secret.
        let end = encoded.len() - usize::from(padded.len() % 3 != 0);
        found.push(needle("base64", encoded.as_bytes()[first..end].to_vec()));
    }
    found
}

/// The needles that occur in these bytes, by name.
pub fn found_in<'a>(bytes: &[u8], needles: &'a [Needle]) -> BTreeSet<&'a str> {
    let index = Index::new(needles);
    let mut found = BTreeSet::new();
    index.search(bytes, |_, needle| {
        found.insert(needle.name.as_str());
    });
    found
}

impl Disk {
    /// Every file whose blocks hold one of the needles.
    pub fn find(&self, needles: &[Needle]) -> Result<BTreeSet<Finding>, VmError> {
        let block_bytes = self.block_bytes()?;
        let mut blocks: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
        self.search(needles, |offset, needle| {
            blocks.entry(offset / block_bytes).or_default().insert(needle.name.clone());
        })?;
        let mut findings = BTreeSet::new();
        for (block, names) in blocks {
            let path = self.owner(block)?;
            findings.extend(names.into_iter().map(|name| Finding { path: path.clone(), name }));
        }
        Ok(findings)
    }

    fn search(&self, needles: &[Needle], mut found: impl FnMut(u64, &Needle)) -> Result<(), VmError> {
        let index = Index::new(needles);
        let overlap = needles.iter().map(|needle| needle.bytes.len()).max().unwrap_or(1) - 1;
        let mut file = File::open(self.path()).map_err(VmError::file("open", self.path()))?;
        let zeroes = vec![0; CHUNK_BYTES];
        let mut window = Vec::new();
        let mut start = 0;
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            let read = (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
            if read.map_err(VmError::file("read", self.path()))? == 0 {
                return Ok(());
            }
            let empty = chunk == zeroes[..chunk.len()];
            window.extend_from_slice(&chunk);
            if !empty || window.len() > chunk.len() {
                index.search(&window, |at, needle| found(start + at as u64, needle));
            }
            // The next chunk's needles may begin in the end of this one; in zeroes they do not.
            let keep = if empty { 0 } else { overlap.min(window.len()) };
            start += (window.len() - keep) as u64;
            window.drain(..window.len() - keep);
        }
    }

    fn block_bytes(&self) -> Result<u64, VmError> {
        let text = String::from_utf8_lossy(&self.ask("show_super_stats -h")?).into_owned();
        let value = text.lines().find_map(|line| line.strip_prefix("Block size:"));
        Ok(value.and_then(|value| value.trim().parse().ok()).expect("debugfs prints the block size"))
    }

    fn owner(&self, block: u64) -> Result<Option<String>, VmError> {
        let inode = second_column(&self.ask(&format!("icheck {block}"))?);
        let Some(inode) = inode.filter(|inode| inode.parse::<u64>().is_ok()) else { return Ok(None) };
        let path = second_column(&self.ask(&format!("ncheck {inode}"))?);
        Ok(Some(path.unwrap_or_else(|| format!("inode {inode}"))))
    }
}

/// The value in debugfs's table of a heading and one line.
fn second_column(table: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(table);
    let value = text.lines().nth(1)?.split_once('\t')?.1.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// The needles by their first two bytes, so that most positions cost one look.
struct Index<'a> {
    starts: Vec<bool>,
    needles: &'a [Needle],
}

impl<'a> Index<'a> {
    fn new(needles: &'a [Needle]) -> Self {
        let mut starts = vec![false; 1 << 16];
        for needle in needles {
            starts[Self::key(needle.bytes[0], needle.bytes[1])] = true;
        }
        Self { starts, needles }
    }

    fn key(first: u8, second: u8) -> usize {
        usize::from(first) << 8 | usize::from(second)
    }

    fn search(&self, bytes: &[u8], mut found: impl FnMut(usize, &'a Needle)) {
        for (at, pair) in bytes.windows(2).enumerate() {
            if self.starts[Self::key(pair[0], pair[1])] {
                let here = self.needles.iter().filter(|needle| bytes[at..].starts_with(&needle.bytes));
                here.for_each(|needle| found(at, needle));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_is_found_in_base64_wherever_it_lies() {
        let secret = "abcdef.0123456789abcdef";
        let needles = needles("token", secret);
        for before in ["", "x", "xy", "xyz"] {
            for after in ["", "1", "12", "123"] {
                let encoded = STANDARD_NO_PAD.encode(format!("{before}{secret}{after}"));
                assert_eq!(found_in(encoded.as_bytes(), &needles), BTreeSet::from(["token (base64)"]));
            }
        }
        assert_eq!(found_in(b"-abcdef.0123456789abcdef-", &needles), BTreeSet::from(["token (plain)"]));
        assert_eq!(found_in(b"-abcdef.0123456789abcde-", &needles), BTreeSet::new());
    }
}
