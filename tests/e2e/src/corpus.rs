//! What others put on disks: one image a kind, made with their own tools.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nap_model::facts::superblock::UNKNOWN;

const MIB: u64 = 1 << 20;

/// Size of an image in bytes. XFS wants 300 MiB.
pub const BYTES: u64 = 320 * MIB;

/// How an image is made. `IMAGE` in an argument stands for the file, `FOLDER` for a directory with a file in it.
enum Made {
    /// By a program on the file.
    By(&'static [&'static str]),
    /// By a program that wants a block device.
    OnDevice(&'static [&'static str]),
    /// By hand: bytes at places; negative ones count from the end.
    Bytes(&'static [(i64, &'static [u8])]),
    /// From another image, with these bytes zeroed.
    Wiped(&'static str, u64),
}

/// One image.
pub struct Foreign {
    /// Its name.
    pub name: &'static str,
    /// What our probe calls it.
    pub ours: &'static str,
    /// What blkid and wipefs call it, where they know it.
    pub blkid: Option<&'static str>,
    made: Made,
}

const fn by(name: &'static str, kind: &'static str, program: &'static [&'static str]) -> Foreign {
    Foreign { name, ours: kind, blkid: Some(kind), made: Made::By(program) }
}

const fn unknown_to_blkid(name: &'static str, ours: &'static str, made: Made) -> Foreign {
    Foreign { name, ours, blkid: None, made }
}

const ARRAY_1_2: &[(i64, &[u8])] = &[
    // Magic, version 1; where it says that it is: sector 8.
    (4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    (4096 + 16, b"\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff\x01"),
    (4096 + 144, b"\x08\0\0\0\0\0\0\0"),
];
const ARRAY_1_1: &[(i64, &[u8])] = &[(0, b"\xfc\x4e\x2b\xa9\x01\0\0\0"), (16, b"\x11\x22\x33\x44\x55\x66\x77\x88")];
/// The superblock says in which sector it lies.
const ARRAY_1_0: &[(i64, &[u8])] =
    &[(-8192, b"\xfc\x4e\x2b\xa9\x01\0\0\0"), (-8192 + 144, &((BYTES - 8192) / 512).to_le_bytes())];
const ARRAY_0_90: &[(i64, &[u8])] = &[(-65536, b"\xfc\x4e\x2b\xa9\0\0\0\0\x5a\0\0\0\0\0\0\0\0\0\0\0\x11\x22\x33\x44")];

/// Every kind.
pub const CORPUS: &[Foreign] = &[
    by("ext2", "ext2", &["mkfs.ext2", "-q", "-F", "IMAGE"]),
    by("ext3", "ext3", &["mkfs.ext3", "-q", "-F", "IMAGE"]),
    by("ext4", "ext4", &["mkfs.ext4", "-q", "-F", "IMAGE"]),
    by("ext4-1k", "ext4", &["mkfs.ext4", "-q", "-F", "-b", "1024", "IMAGE"]),
    by("xfs", "xfs", &["mkfs.xfs", "-q", "IMAGE"]),
    by("btrfs", "btrfs", &["mkfs.btrfs", "-q", "IMAGE"]),
    by("fat32", "vfat", &["mkfs.vfat", "-F", "32", "IMAGE"]),
    by("fat16", "vfat", &["mkfs.vfat", "-F", "16", "IMAGE"]),
    by("exfat", "exfat", &["mkfs.exfat", "IMAGE"]),
    by("ntfs", "ntfs", &["mkntfs", "-F", "-q", "-f", "-L", "Temporary Storage", "IMAGE"]),
    by("swap", "swap", &["mkswap", "IMAGE"]),
    by(
        "luks1",
        "crypto_LUKS",
        &[
            "cryptsetup",
            "luksFormat",
            "-q",
            "--type",
            "luks1",
            "--pbkdf-force-iterations",
            "1000",
            "IMAGE",
            "FOLDER/file",
        ],
    ),
    by(
        "luks2",
        "crypto_LUKS",
        &[
            "cryptsetup",
            "luksFormat",
            "-q",
            "--type",
            "luks2",
            "--pbkdf",
            "pbkdf2",
            "--pbkdf-force-iterations",
            "1000",
            "IMAGE",
            "FOLDER/file",
        ],
    ),
    by("f2fs", "f2fs", &["mkfs.f2fs", "-q", "IMAGE"]),
    by("jfs", "jfs", &["mkfs.jfs", "-q", "IMAGE"]),
    by("reiserfs", "reiserfs", &["mkreiserfs", "-q", "-f", "IMAGE"]),
    by("nilfs2", "nilfs2", &["mkfs.nilfs2", "-q", "IMAGE"]),
    by("ocfs2", "ocfs2", &["mkfs.ocfs2", "-q", "-M", "local", "-b", "4K", "IMAGE"]),
    by("udf", "udf", &["mkudffs", "IMAGE"]),
    by("iso9660", "iso9660", &["genisoimage", "-quiet", "-o", "IMAGE", "FOLDER"]),
    by("squashfs", "squashfs", &["mksquashfs", "FOLDER", "IMAGE", "-quiet", "-noappend"]),
    by("erofs", "erofs", &["mkfs.erofs", "IMAGE", "FOLDER"]),
    by("gpt", "gpt", &["sgdisk", "--clear", "IMAGE"]),
    by("dos", "dos", &["sfdisk", "--quiet", "--label", "dos", "IMAGE"]),
    Foreign {
        name: "lvm",
        ours: "LVM2_member",
        blkid: Some("LVM2_member"),
        made: Made::OnDevice(&["pvcreate", "-q", "-y", "IMAGE"]),
    },
    Foreign {
        name: "bcache",
        ours: "bcache",
        blkid: Some("bcache"),
        made: Made::OnDevice(&["make-bcache", "-B", "IMAGE"]),
    },
    Foreign {
        name: "md-1.2",
        ours: "linux_raid_member",
        blkid: Some("linux_raid_member"),
        made: Made::Bytes(ARRAY_1_2),
    },
    Foreign {
        name: "md-1.1",
        ours: "linux_raid_member",
        blkid: Some("linux_raid_member"),
        made: Made::Bytes(ARRAY_1_1),
    },
    Foreign {
        name: "md-1.0",
        ours: "linux_raid_member",
        blkid: Some("linux_raid_member"),
        made: Made::Bytes(ARRAY_1_0),
    },
    Foreign {
        name: "md-0.90",
        ours: "linux_raid_member",
        blkid: Some("linux_raid_member"),
        made: Made::Bytes(ARRAY_0_90),
    },
    // blkid calls it blank, and the backup of a partition table or of ext4's superblock is all that is left of somebody's data.
    unknown_to_blkid("gpt-backup", "gpt", Made::Wiped("gpt", MIB)),
    unknown_to_blkid("ext4-wiped", "copy of an ext superblock", Made::Wiped("ext4", 128 * 1024)),
    unknown_to_blkid("btrfs-wiped", "copy of a btrfs superblock", Made::Wiped("btrfs", MIB)),
    unknown_to_blkid("xfs-wiped", UNKNOWN, Made::Wiped("xfs", MIB)),
    Foreign {
        name: "boot-sector",
        ours: "boot sector",
        blkid: Some("dos"),
        made: Made::Bytes(&[(0, b"\xeb\xfe"), (510, b"\x55\xaa")]),
    },
    unknown_to_blkid("zfs", "zfs_member", Made::Bytes(&[(128 * 1024, b"\x0c\xb1\xba\0\0\0\0\0")])),
    Foreign {
        name: "bluestore",
        ours: "ceph_bluestore",
        blkid: Some("ceph_bluestore"),
        made: Made::Bytes(&[(0, b"bluestore block device\n")]),
    },
    unknown_to_blkid("storage-spaces", "Storage Spaces", Made::Bytes(&[(4096, b"SPACEDB ")])),
    unknown_to_blkid("apfs", "apfs", Made::Bytes(&[(32, b"NXSB")])),
    unknown_to_blkid("database", UNKNOWN, Made::Bytes(&[(3 << 20, b"rows of somebody's table")])),
    unknown_to_blkid("a-byte-at-the-end", UNKNOWN, Made::Bytes(&[(-1, b"x")])),
];

/// Runs a program on an image; it must succeed.
pub fn program(arguments: &[&str], image: &Path, folder: &Path) {
    let replaced =
        |text: &str| text.replace("IMAGE", &image.to_string_lossy()).replace("FOLDER", &folder.to_string_lossy());
    let mut command = Command::new(replaced(arguments[0]));
    command.args(arguments[1..].iter().map(|argument| replaced(argument)));
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let stdin = File::open(folder.join("partitions")).map_or(Stdio::null(), Stdio::from);
    let output = command
        .env("PATH", path)
        .stdin(stdin)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}; tests/setup.sh installs it", arguments[0]));
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What a program says.
pub fn asked(arguments: &[&str]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(arguments[0]).args(&arguments[1..]).env("PATH", path).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes an image of a kind in `folder`; another image that it is made from must be there. [`prepare`] comes first.
pub fn make(image: &Foreign, folder: &Path) -> PathBuf {
    let path = folder.join(image.name);
    let blank = |path: &Path| File::create(path).unwrap().set_len(BYTES).unwrap();
    let source = folder.join("source");
    match &image.made {
        Made::By(arguments) => {
            blank(&path);
            program(arguments, &path, &source);
        }
        Made::OnDevice(arguments) => {
            blank(&path);
            let device = asked(&["losetup", "--find", "--show", &path.to_string_lossy()]).trim().to_owned();
            assert!(device.starts_with("/dev/loop"), "a loop device is needed, and losetup says {device:?}");
            program(arguments, Path::new(&device), &source);
            program(&["losetup", "--detach", &device], &path, &source);
        }
        Made::Bytes(bytes) => {
            blank(&path);
            for (place, text) in *bytes {
                let file = File::options().write(true).open(&path).unwrap();
                file.write_all_at(text, if *place < 0 { BYTES - place.unsigned_abs() } else { place.unsigned_abs() })
                    .unwrap();
            }
        }
        Made::Wiped(of, bytes) => {
            fs::copy(folder.join(of), &path).unwrap();
            let mut file = File::options().write(true).open(&path).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            file.write_all(&vec![0; usize::try_from(*bytes).unwrap()]).unwrap();
        }
    }
    path
}

/// Makes what programs read beside the images.
pub fn prepare(folder: &Path) {
    let source = folder.join("source");
    fs::create_dir(&source).expect("a fresh folder takes a directory");
    fs::write(source.join("file"), "something\n").expect("and a file");
    // sfdisk reads what to make.
    fs::write(source.join("partitions"), ",,\n").expect("and a file");
}
