//! What is on a disk, told from bytes at a few places of it.
//!
//! A disk counts as blank when **every** byte looked at is 0, or every one is 0xFF: what is known to nobody keeps it from being
//! written to as well as what is known. The table of signatures is there for people: to say what was found, and to know our own.
//! What is looked at: the first 4 MiB and the last 1 MiB, in which all file systems, arrays and partition tables have what makes
//! them one; where copies of that are kept (ext4's groups, btrfs' mirrors, xfs' allocation groups, which are the disk's quarters
//! unless somebody chose otherwise); and 16 KiB at each 64th of the disk.
//! libblkid is not asked: it knows what has a name, and a disk that it calls empty may hold somebody's database.

use serde::{Deserialize, Serialize};

/// What is on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub enum Content {
    /// Nothing: all bytes looked at are 0, or all are 0xFF.
    Blank,
    /// Something.
    Occupied {
        /// What is known of it, in the order of the table; when nothing is, the one entry is [`UNKNOWN`].
        found: Vec<Signature>,
    },
    /// It could not be read.
    Unreadable {
        /// Why.
        why: String,
    },
}

/// Something on a disk that has a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Signature {
    /// Its name, as blkid(8) has it where blkid knows it.
    pub kind: String,
    /// Where it is, in bytes from the start.
    pub offset: u64,
    /// Its UUID, lower case with hyphens, where it has one of 128 bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Its label, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// The kind of data that has no name here.
pub const UNKNOWN: &str = "data";

/// The kind of a member of a Linux software array.
pub const ARRAY_MEMBER: &str = "linux_raid_member";

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// Bytes looked at from the start.
const HEAD: u64 = 4 * MIB;
/// Bytes looked at before the end.
const TAIL: u64 = MIB;
/// Bytes looked at elsewhere, around each place.
const SAMPLE: u64 = 16 * KIB;
/// Into so many parts the disk is cut; the start of each is looked at.
const PARTS: u64 = 64;

/// Block groups of ext4 that keep a copy of its superblock ("sparse_super"): 0, 1, powers of 3, 5 and 7.
const EXT_GROUPS: [u64; 10] = [1, 3, 5, 7, 9, 25, 27, 49, 81, 125];
/// Bytes of a block group with blocks of 1, 2 and 4 KiB, and where the first begins.
const EXT_GROUP_BYTES: [(u64, u64); 3] = [(8 * MIB, KIB), (32 * MIB, 0), (128 * MIB, 0)];
/// Where btrfs keeps copies of its superblock.
const BTRFS_MIRRORS: [u64; 2] = [64 * MIB, 256 * GIB];

impl Content {
    /// A sentence for people.
    pub fn describe(&self) -> String {
        match self {
            Content::Blank => "blank".to_owned(),
            Content::Unreadable { why } => format!("cannot be read: {why}"),
            Content::Occupied { found } => {
                let one = |signature: &Signature| {
                    let label = signature.label.as_ref().map(|label| format!(" labelled {label:?}"));
                    format!("{}{} at byte {}", signature.kind, label.unwrap_or_default(), signature.offset)
                };
                format!("holds {}", found.iter().map(one).collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// UUIDs found.
    pub fn uuids(&self) -> impl Iterator<Item = &str> {
        let found = match self {
            Content::Occupied { found } => found.as_slice(),
            Content::Blank | Content::Unreadable { .. } => &[],
        };
        found.iter().filter_map(|signature| signature.uuid.as_deref())
    }
}

/// Looks at a disk of `bytes` bytes; `read` gives so many bytes from an offset, or fewer at the end.
pub fn examine<E: std::fmt::Display>(bytes: u64, mut read: impl FnMut(u64, usize) -> Result<Vec<u8>, E>) -> Content {
    let mut first = None;
    let mut odd = None;
    let mut known = Vec::new();
    for (start, end) in ranges(bytes) {
        let length = usize::try_from(end - start).expect("a range is a few MiB");
        let part = match read(start, length) {
            Ok(part) if part.len() == length => part,
            Ok(part) => {
                let why = format!("{} bytes instead of {length} at byte {start}", part.len());
                return Content::Unreadable { why };
            }
            Err(error) => return Content::Unreadable { why: format!("at byte {start}: {error}") },
        };
        let filler = *first.get_or_insert_with(|| part.first().copied().filter(|byte| *byte == 0xff).unwrap_or(0));
        if let Some(at) = first_other(&part, filler) {
            odd = odd.or(Some(start + at as u64));
            known.extend(signatures(&Part { start, bytes: &part, disk: bytes }));
        }
    }
    match odd {
        None => Content::Blank,
        Some(offset) if known.is_empty() => {
            let unknown = Signature { kind: UNKNOWN.to_owned(), offset, uuid: None, label: None };
            Content::Occupied { found: vec![unknown] }
        }
        Some(_) => Content::Occupied { found: known },
    }
}

/// The first byte that is not the filler. Page by page, since comparing memory is what machines do fastest.
fn first_other(bytes: &[u8], filler: u8) -> Option<usize> {
    let page = [filler; 4096];
    let (number, other) = bytes.chunks(page.len()).enumerate().find(|(_, part)| *part != &page[..part.len()])?;
    other.iter().position(|byte| *byte != filler).map(|position| number * page.len() + position)
}

/// What is told by the first bytes of a disk alone.
pub fn at_the_start(bytes: &[u8]) -> Vec<Signature> {
    signatures(&Part { start: 0, bytes, disk: u64::MAX })
}

/// The ranges that are looked at, from start to end, sorted, apart from each other.
fn ranges(bytes: u64) -> Vec<(u64, u64)> {
    let around = |place: u64| (place.saturating_sub(SAMPLE / 2), place.saturating_add(SAMPLE / 2));
    let copies =
        EXT_GROUP_BYTES.iter().flat_map(|(group, first)| EXT_GROUPS.iter().map(move |number| number * group + first));
    let parts = (1..PARTS).map(|part| bytes / PARTS * part);
    let places = copies.chain(BTRFS_MIRRORS).chain(parts).map(around);
    let mut ranges: Vec<_> = [(0, HEAD), (bytes.saturating_sub(TAIL), bytes)].into_iter().chain(places).collect();
    ranges.sort_unstable();
    let mut apart: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ranges {
        let (start, end) = (start & !4095, end.next_multiple_of(4096).min(bytes));
        match apart.last_mut() {
            _ if start >= end => {}
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => apart.push((start, end)),
        }
    }
    apart
}

/// Some bytes of a disk.
struct Part<'b> {
    start: u64,
    bytes: &'b [u8],
    disk: u64,
}

impl<'b> Part<'b> {
    fn get(&self, offset: u64, length: usize) -> Option<&'b [u8]> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        self.bytes.get(from..from.checked_add(length)?)
    }

    fn has(&self, offset: u64, magic: &[u8]) -> bool {
        self.get(offset, magic.len()) == Some(magic)
    }

    fn uuid(&self, offset: u64) -> Option<String> {
        self.get(offset, 16).filter(|bytes| bytes.iter().any(|byte| *byte != 0)).map(hyphenated)
    }

    fn label(&self, offset: u64, length: usize) -> Option<String> {
        let bytes = self.get(offset, length)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(length);
        let text = String::from_utf8_lossy(&bytes[..end]).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }
}

fn hyphenated(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (position, byte) in bytes.iter().enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// A signature that is bytes at one place. UUID and label are offsets; labels have a length.
struct Row {
    kind: &'static str,
    at: u64,
    magic: &'static [u8],
    uuid: Option<u64>,
    label: Option<(u64, usize)>,
}

const fn row(kind: &'static str, at: u64, magic: &'static [u8]) -> Row {
    Row { kind, at, magic, uuid: None, label: None }
}

impl Row {
    const fn uuid(mut self, at: u64) -> Self {
        self.uuid = Some(at);
        self
    }

    const fn label(mut self, at: u64, length: usize) -> Self {
        self.label = Some((at, length));
        self
    }
}

/// Magic of Linux software arrays, every format. Source: `MD_SB_MAGIC`, the kernel's include/uapi/linux/raid/md_p.h.
const ARRAY_MAGIC: &[u8] = &0xa92b_4efc_u32.to_le_bytes();

/// Sources: the kernel's headers of each file system, and the on-disk formats that its documentation describes.
const ROWS: &[Row] = &[
    row("xfs", 0, b"XFSB").uuid(32).label(108, 12),
    row("btrfs", 64 * KIB + 64, b"_BHRfS_M").uuid(64 * KIB + 32).label(64 * KIB + 299, 256),
    row("vfat", 54, b"FAT12   "),
    row("vfat", 54, b"FAT16   "),
    row("vfat", 82, b"FAT32   "),
    row("exfat", 3, b"EXFAT   "),
    row("ntfs", 3, b"NTFS    "),
    row("BitLocker", 3, b"-FVE-FS-"),
    row("swap", 4086, b"SWAPSPACE2").uuid(1036).label(1052, 16),
    row("swap", 4086, b"SWAP-SPACE"),
    row("swap", 64 * KIB - 10, b"SWAPSPACE2").uuid(1036).label(1052, 16),
    row("crypto_LUKS", 0, b"LUKS\xba\xbe"),
    row("crypto_LUKS", 16 * KIB, b"SKUL\xba\xbe"),
    row("LVM2_member", 0, b"LABELONE"),
    row("LVM2_member", 512, b"LABELONE"),
    row("LVM2_member", 1024, b"LABELONE"),
    row("LVM2_member", 1536, b"LABELONE"),
    row(ARRAY_MEMBER, 0, ARRAY_MAGIC).uuid(16).label(32, 32),
    row(ARRAY_MEMBER, 4096, ARRAY_MAGIC).uuid(4096 + 16).label(4096 + 32, 32),
    row("bcache", 4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    row("bcachefs", 4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"),
    row("gpt", 512, b"EFI PART"),
    row("gpt", 4096, b"EFI PART"),
    row("iso9660", 32 * KIB + 1, b"CD001"),
    row("udf", 32 * KIB + 1, b"BEA01"),
    row("ceph_bluestore", 0, b"bluestore block device"),
    row("apfs", 32, b"NXSB"),
    row("squashfs", 0, b"hsqs"),
    row("erofs", 1024, &0xe0f5_e1e2_u32.to_le_bytes()),
    row("f2fs", 1024, &0xf2f5_2010_u32.to_le_bytes()),
    row("jfs", 32 * KIB, b"JFS1"),
    row("reiserfs", 64 * KIB + 52, b"ReIsErFs"),
    row("reiserfs", 64 * KIB + 52, b"ReIsEr2Fs"),
    row("gfs2", 64 * KIB, b"\x01\x16\x19\x70"),
    // Its third block, of 512 to 4096 bytes.
    row("ocfs2", KIB, b"OCFSV2"),
    row("ocfs2", 2 * KIB, b"OCFSV2"),
    row("ocfs2", 4 * KIB, b"OCFSV2"),
    row("ocfs2", 8 * KIB, b"OCFSV2"),
    row("nilfs2", KIB + 6, &0x3434_u16.to_le_bytes()),
    row("hfsplus", KIB, b"H+\x00\x04"),
    row("hfsplus", KIB, b"HX\x00\x05"),
    row("cramfs", 0, b"\x45\x3d\xcd\x28"),
    row("stratis", 512 + 4, b"!Stra0tis\x86\xff\x02^\x41rh"),
    row("stratis", 9 * 512 + 4, b"!Stra0tis\x86\xff\x02^\x41rh"),
    row("vdo", 0, b"dmvdo001"),
    row("Storage Spaces", 4096, b"SPACEDB "),
];

fn signatures(part: &Part<'_>) -> Vec<Signature> {
    let mut found: Vec<Signature> = ROWS
        .iter()
        .filter(|row| part.has(row.at, row.magic))
        .map(|row| Signature {
            kind: row.kind.to_owned(),
            offset: row.at,
            uuid: row.uuid.and_then(|at| part.uuid(at)),
            label: row.label.and_then(|(at, length)| part.label(at, length)),
        })
        .collect();
    found.extend(ext(part));
    found.extend(at_the_end(part));
    found.extend(zfs(part));
    found.extend(copies(part));
    if found.is_empty() {
        found.extend(boot_sector(part));
    }
    found
}

/// Source: the kernel's fs/ext4/ext4.h.
fn ext(part: &Part<'_>) -> Option<Signature> {
    if !part.has(1024 + 56, &0xef53_u16.to_le_bytes()) {
        return None;
    }
    let features = |at: u64| {
        part.get(1024 + at, 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes).unwrap_or_default()
    };
    let (compatible, incompatible, read_only) = (features(92), features(96), features(100));
    // Extents, 64 bits, flexible groups, inline data, encryption; huge files, checksums of groups, sizes of inodes, metadata checksums.
    let is_ext4 =
        incompatible & (0x40 | 0x80 | 0x200 | 0x8000 | 0x10000) != 0 || read_only & (0x8 | 0x10 | 0x40 | 0x400) != 0;
    let kind = match (is_ext4, compatible & 0x4 != 0, incompatible & 0x8 != 0) {
        (_, _, true) => "jbd",
        (true, _, _) => "ext4",
        (false, true, _) => "ext3",
        (false, false, _) => "ext2",
    };
    Some(Signature {
        kind: kind.to_owned(),
        offset: 1024,
        uuid: part.uuid(1024 + 104),
        label: part.label(1024 + 120, 16),
    })
}

/// What stands at a place that is counted from the end.
fn at_the_end(part: &Part<'_>) -> Vec<Signature> {
    let plain = |kind: &str, offset: u64, uuid: Option<String>, label: Option<String>| Signature {
        kind: kind.to_owned(),
        offset,
        uuid,
        label,
    };
    let mut found = Vec::new();
    let end = |bytes: u64| part.disk.saturating_sub(bytes);
    for sector in [512, 4096] {
        if part.has(end(sector), b"EFI PART") {
            found.push(plain("gpt", end(sector), None, None));
        }
    }
    // Format 1.0: 8 KiB before the end, aligned to 4 KiB.
    let at = end(8 * KIB) & !4095;
    if part.has(at, ARRAY_MAGIC) && part.has(at + 4, &1_u32.to_le_bytes()) {
        found.push(plain(ARRAY_MEMBER, at, part.uuid(at + 16), part.label(at + 32, 32)));
    }
    // Format 0.90: the last whole 64 KiB.
    let at = (part.disk & !(64 * KIB - 1)).saturating_sub(64 * KIB);
    if part.has(at, ARRAY_MAGIC) && part.has(at + 4, &0_u32.to_le_bytes()) {
        found.push(plain(ARRAY_MEMBER, at, None, None));
    }
    if part.has(end(1024), b"Intel Raid ISM Cfg Sig. ") {
        found.push(plain("isw_raid_member", end(1024), None, None));
    }
    if part.has(end(512), b"\xde\x11\xde\x11") {
        found.push(plain("ddf_raid_member", end(512), None, None));
    }
    found
}

/// ZFS keeps four labels of 256 KiB, two at each end; uberblocks fill the second half of one. Source: the ZFS on-disk format.
fn zfs(part: &Part<'_>) -> Option<Signature> {
    const UBERBLOCK: [u8; 8] = 0x00ba_b10c_u64.to_le_bytes();
    let end = part.disk & !(256 * KIB - 1);
    let labels = [0, 256 * KIB, end.saturating_sub(512 * KIB), end.saturating_sub(256 * KIB)];
    let mut blocks = labels.iter().flat_map(|label| (128..256).map(move |block| label + block * KIB));
    let at = blocks.find(|at| part.has(*at, &UBERBLOCK))?;
    Some(Signature { kind: "zfs_member".to_owned(), offset: at, uuid: None, label: None })
}

/// Copies of superblocks that outlived the first.
fn copies(part: &Part<'_>) -> Vec<Signature> {
    let copy = |kind: &str, offset| Signature { kind: kind.to_owned(), offset, uuid: None, label: None };
    let mut found = Vec::new();
    for (group, first) in EXT_GROUP_BYTES {
        let places = EXT_GROUPS.iter().map(|number| number * group + first);
        found.extend(
            places
                .filter(|at| part.has(at + 56, &0xef53_u16.to_le_bytes()))
                .map(|at| copy("copy of an ext superblock", at)),
        );
    }
    let mirrors = BTRFS_MIRRORS.iter().filter(|at| part.has(*at + 64, b"_BHRfS_M"));
    found.extend(mirrors.map(|at| copy("copy of a btrfs superblock", *at)));
    found
}

/// A partition table of the old kind, or code to boot from: told last, since many file systems end their first sector so.
fn boot_sector(part: &Part<'_>) -> Option<Signature> {
    if !part.has(510, b"\x55\xaa") {
        return None;
    }
    let partitions = part.get(446, 64).is_some_and(|table| table.iter().any(|byte| *byte != 0));
    let kind = if partitions { "dos" } else { "boot sector" };
    Some(Signature { kind: kind.to_owned(), offset: 510, uuid: None, label: None })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DISK: u64 = 256 * MIB;

    /// A disk with these bytes and zeroes elsewhere.
    fn disk(bytes: u64, written: &[(u64, &[u8])], filler: u8) -> Content {
        examine(bytes, |start, length| {
            let mut part = vec![filler; length];
            for (at, text) in written {
                for (byte, position) in text.iter().zip(*at..) {
                    if let Some(place) = position.checked_sub(start).and_then(|place| part.get_mut(place as usize)) {
                        *place = *byte;
                    }
                }
            }
            Ok::<_, std::io::Error>(part)
        })
    }

    fn kinds(content: &Content) -> Vec<String> {
        let Content::Occupied { found } = content else { panic!("{content:?}") };
        found.iter().map(|signature| signature.kind.clone()).collect()
    }

    #[test]
    fn zeroes_and_ones_are_blank_and_a_mixture_is_not() {
        for bytes in [0, 512, 4096, 5 * MIB, DISK, 2048 * GIB] {
            assert_eq!(disk(bytes, &[], 0), Content::Blank, "{bytes}");
            assert_eq!(disk(bytes, &[], 0xff), Content::Blank, "{bytes}");
        }
        assert_eq!(kinds(&disk(DISK, &[(DISK - 1, &[0])], 0xff)), [UNKNOWN]);
        assert_eq!(kinds(&disk(DISK, &[(0, &[0xff])], 0)), [UNKNOWN]);
    }

    #[test]
    fn every_row_is_known_by_its_name() {
        for row in ROWS {
            assert!(kinds(&disk(DISK, &[(row.at, row.magic)], 0)).contains(&row.kind.to_owned()), "{}", row.kind);
        }
    }

    #[test]
    fn our_own_are_known_by_their_uuid() {
        let uuid: Vec<u8> = (1..=16).collect();
        let text = "01020304-0506-0708-090a-0b0c0d0e0f10";
        let xfs = disk(DISK, &[(0, b"XFSB"), (32, &uuid), (108, b"local")], 0);
        assert_eq!(xfs.uuids().collect::<Vec<_>>(), [text]);
        assert_eq!(xfs.describe(), "holds xfs labelled \"local\" at byte 0");
        let ext4 = disk(DISK, &[(1080, b"\x53\xef"), (1120, b"\x40"), (1128, &uuid)], 0);
        assert_eq!((ext4.uuids().collect::<Vec<_>>(), kinds(&ext4)), (vec![text], vec!["ext4".to_owned()]));
        let array = disk(DISK, &[(4096, ARRAY_MAGIC), (4096 + 16, &uuid)], 0);
        assert_eq!((array.uuids().collect::<Vec<_>>(), kinds(&array)), (vec![text], vec![ARRAY_MEMBER.to_owned()]));
    }

    #[test]
    fn copies_give_away_a_file_system_whose_first_superblock_was_wiped() {
        assert_eq!(kinds(&disk(DISK, &[(128 * MIB + 56, b"\x53\xef")], 0)), ["copy of an ext superblock"]);
        assert_eq!(kinds(&disk(DISK, &[(64 * MIB + 64, b"_BHRfS_M")], 0)), ["copy of a btrfs superblock"]);
        assert_eq!(kinds(&disk(DISK, &[(DISK / 4 * 3, b"XFSB")], 0)), [UNKNOWN], "an allocation group of xfs");
    }

    #[test]
    fn what_cannot_be_read_is_not_blank() {
        let error =
            examine(
                DISK,
                |start, length| {
                    if start == 0 { Ok(vec![0; length]) } else { Err(std::io::Error::from_raw_os_error(5)) }
                },
            );
        assert!(matches!(&error, Content::Unreadable { why } if why.contains("os error 5")), "{error:?}");
        let short = examine(DISK, |_, length| Ok::<_, std::io::Error>(vec![0; length - 1]));
        assert!(matches!(short, Content::Unreadable { .. }), "{short:?}");
    }

    proptest! {
        // Each case fills some MiB.
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn any_byte_in_the_first_and_last_mebibyte_counts(bytes in (2 * MIB..64 * GIB), place in 0..MIB, byte in 1_u8.., at_end: bool) {
            let at = if at_end { bytes - 1 - place } else { place };
            let is_occupied = matches!(disk(bytes, &[(at, &[byte])], 0), Content::Occupied { .. });
            prop_assert!(is_occupied);
        }

        #[test]
        fn any_bytes_are_examined_without_a_panic(bytes in 0..8 * MIB, written in proptest::collection::vec((0..8 * MIB, proptest::collection::vec(any::<u8>(), 1..64)), 0..6)) {
            let written: Vec<_> = written.iter().map(|(at, text)| (*at, text.as_slice())).collect();
            let _ = disk(bytes, &written, 0); // what comes out is another test's
        }

        #[test]
        fn ranges_are_apart_sorted_and_inside(bytes in 0_u64..1 << 50) {
            let ranges = ranges(bytes);
            prop_assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
            prop_assert!(ranges.iter().all(|(start, end)| start < end && *end <= bytes));
            prop_assert!(ranges.iter().map(|(start, end)| end - start).sum::<u64>() <= 8 * MIB);
        }
    }
}
