//! Files below a root directory.
//!
//! Every path is resolved inside the root by the kernel (`openat2` with `RESOLVE_IN_ROOT`), so a symlink in an image root
//! cannot lead out of it. A file is written beside its place, synced and renamed, so that a reader, and a machine
//! that loses power, sees the old file or the new one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nap_model::plan::AbsPath;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat, renameat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};
use thiserror::Error;

use crate::checkpoint;

/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// How often a path is resolved anew when the kernel saw the tree change under it; each try takes microseconds.
const MAX_RESOLVE_TRIES: u32 = 10_000;

/// Why a file operation failed: what, where, and the system call's error.
#[derive(Debug, Error)]
#[error("cannot {action} {path}")]
pub struct FileError {
    /// What was tried.
    pub action: &'static str,
    /// Where, as seen inside the root.
    pub path: String,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// A directory that stands for `/`.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
    owns_files: bool,
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The kind bits of `st_mode`.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Whether root owns it, or this process is not root and cannot give files to root.
    pub owned: bool,
}

/// Kinds of directory entries that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, a socket, a pipe.
    Other,
}

impl Root {
    /// Opens a root directory.
    ///
    /// # Errors
    /// When it is not there or no directory.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path, flags, Mode::empty())
            .map_err(|errno| failed("open the root directory", &path.display().to_string(), errno))?;
        Ok(Self { fd, path: path.to_owned(), owns_files: Uid::effective().is_root() })
    }

    /// Whether this is the machine's own `/`.
    pub fn is_machine(&self) -> bool {
        self.path == Path::new("/")
    }

    /// Where a path lies outside the root; for programs and sockets, which take no file descriptor.
    pub fn outside(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    /// The bytes of a file, or nothing when it is not there.
    ///
    /// # Errors
    /// Any other failure, and files above 16 MiB.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, FileError> {
        let fd = match self.resolve(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Ok(fd) => fd,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(errno) => return Err(failed("open", path, errno)),
        };
        let mut bytes = Vec::new();
        let read = File::from(fd).take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|source| FileError { action: "read", path: path.to_owned(), source })?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(failed("read all of", path, Errno::EFBIG));
        }
        Ok(Some(bytes))
    }

    /// A file's text, trimmed, or nothing when it is not there or no text.
    ///
    /// # Errors
    /// As [`Root::read`].
    pub fn read_text(&self, path: &str) -> Result<Option<String>, FileError> {
        let text = self.read(path)?.and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(text.map(|text| text.trim().to_owned()))
    }

    /// What is at a path; the last component is not followed.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn entry(&self, path: &AbsPath) -> Result<Option<Entry>, FileError> {
        let (parent, name) = split(path);
        let parent = match self.resolve(parent, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Ok(parent) => parent,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(errno) => return Err(failed("look up", path.as_str(), errno)),
        };
        match fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(self.describe(&stat))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(failed("look up", path.as_str(), errno)),
        }
    }

    /// What a path leads to, links followed inside the root.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn target(&self, path: &AbsPath) -> Result<Option<Entry>, FileError> {
        match self.resolve(path.as_str(), OFlag::O_PATH) {
            Ok(fd) => match fstat(&fd) {
                Ok(stat) => Ok(Some(self.describe(&stat))),
                Err(errno) => Err(failed("look up", path.as_str(), errno)),
            },
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(failed("look up", path.as_str(), errno)),
        }
    }

    /// Where a symbolic link leads, as it says itself.
    ///
    /// # Errors
    /// When it is not there or no link.
    pub fn link(&self, path: &AbsPath) -> Result<String, FileError> {
        let (parent, name) = split(path);
        let parent = self.resolve(parent, OFlag::O_PATH | OFlag::O_DIRECTORY);
        let target = parent.and_then(|parent| readlinkat(&parent, name));
        let target = target.map_err(|errno| failed("read the link", path.as_str(), errno))?;
        Ok(target.to_string_lossy().into_owned())
    }

    /// Names in a directory, sorted; none when it is not there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn names(&self, path: &str) -> Result<Vec<String>, FileError> {
        let fd = match self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(fd) => fd,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(Vec::new()),
            Err(errno) => return Err(failed("open", path, errno)),
        };
        let mut directory = nix::dir::Dir::from_fd(fd).map_err(|errno| failed("list", path, errno))?;
        let names =
            directory.iter().filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name != "." && name != "..").collect();
        names.sort();
        Ok(names)
    }

    /// Size of the file system and what is free of it for root, in bytes.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn space(&self) -> Result<(u64, u64), FileError> {
        self.space_at("/")
    }

    /// The same of the file system that a directory is on.
    ///
    /// # Errors
    /// When it is not there, or the kernel does not say.
    pub fn space_at(&self, path: &str) -> Result<(u64, u64), FileError> {
        let wrap = |errno| failed("ask the size of", path, errno);
        let directory = self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(wrap)?;
        let stat = nix::sys::statvfs::fstatvfs(&directory).map_err(wrap)?;
        Ok((stat.blocks() * stat.fragment_size(), stat.blocks_free() * stat.fragment_size()))
    }

    /// Writes a file as root's: beside, sync, rename, sync. Missing directories above it are made.
    ///
    /// # Errors
    /// When any of it fails; the old file is then still whole.
    pub fn write(&self, path: &AbsPath, bytes: &[u8], mode: u32) -> Result<(), FileError> {
        self.write_by(path, mode, |file| {
            let half = bytes.len() / 2;
            file.write_all(&bytes[..half])?;
            checkpoint::pass("file half written");
            file.write_all(&bytes[half..])
        })
    }

    /// The same with a function that fills the file.
    ///
    /// # Errors
    /// When any of it fails; the old file is then still whole.
    pub(crate) fn write_by(
        &self,
        path: &AbsPath,
        mode: u32,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), FileError> {
        let wrap = |action| move |errno| failed(action, path.as_str(), errno);
        let (parent, name) = split(path);
        let parent = self.make_directories(parent)?;
        // The name is fixed, so what a killed run leaves behind is taken over by the next.
        let beside = format!(".{name}.nap-agent");
        let _ = unlinkat(&parent, beside.as_str(), UnlinkatFlags::NoRemoveDir); // usually there is none
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&parent, beside.as_str(), flags, Mode::from_bits_truncate(0o600)).map_err(wrap("create"))?;
        checkpoint::pass("file created");
        let mut file = File::from(fd);
        if let Err(source) = fill(&mut file) {
            // A disk that is full must not stay full of half a file.
            let _ = unlinkat(&parent, beside.as_str(), UnlinkatFlags::NoRemoveDir); // the next run takes it over
            return Err(FileError { action: "write", path: path.to_string(), source });
        }
        fchmod(&file, Mode::from_bits_truncate(mode)).map_err(wrap("set the mode of"))?;
        self.give_to_root(&file).map_err(wrap("set the owner of"))?;
        file.sync_all().map_err(|source| FileError { action: "sync", path: path.to_string(), source })?;
        checkpoint::pass("file synced");
        renameat(&parent, beside.as_str(), &parent, name).map_err(wrap("rename"))?;
        checkpoint::pass("file renamed");
        sync_directory(&parent).map_err(wrap("sync the directory of"))
    }

    /// Makes a directory with a mode, and every missing one above it.
    ///
    /// # Errors
    /// When something else is in the way, or the kernel refuses.
    pub fn make_directory(&self, path: &AbsPath, mode: u32) -> Result<(), FileError> {
        self.make_directories(path.as_str())?;
        checkpoint::pass("directory made");
        let wrap = |action| move |errno| failed(action, path.as_str(), errno);
        let fd = self.resolve(path.as_str(), OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(wrap("open"))?;
        fchmod(&fd, Mode::from_bits_truncate(mode)).map_err(wrap("set the mode of"))?;
        self.give_to_root(&fd).map_err(wrap("set the owner of"))
    }

    /// Gives a file another name in its directory, over whatever has that name.
    ///
    /// # Errors
    /// When it is not there, or the kernel refuses.
    pub(crate) fn rename(&self, from: &AbsPath, to: &AbsPath) -> Result<(), FileError> {
        let wrap = |errno| failed("rename", from.as_str(), errno);
        let ((directory, old), (_, new)) = (split(from), split(to));
        let parent = self.resolve(directory, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(wrap)?;
        renameat(&parent, old, &parent, new).map_err(wrap)?;
        checkpoint::pass("file renamed");
        sync_directory(&parent).map_err(wrap)
    }

    /// Removes a file; that there is none is fine.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove(&self, path: &AbsPath) -> Result<(), FileError> {
        let (parent, name) = split(path);
        let wrap = |action| move |errno| failed(action, path.as_str(), errno);
        let parent = match self.resolve(parent, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Ok(parent) => parent,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(errno) => return Err(failed("look up", path.as_str(), errno)),
        };
        match unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(failed("remove", path.as_str(), errno)),
        }
        checkpoint::pass("file removed");
        sync_directory(&parent).map_err(wrap("sync the directory of"))
    }

    /// Removes an empty directory; that there is none is fine.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove_directory(&self, path: &AbsPath) -> Result<(), FileError> {
        let (parent, name) = split(path);
        let removed = self
            .resolve(parent, OFlag::O_PATH | OFlag::O_DIRECTORY)
            .and_then(|parent| unlinkat(&parent, name, UnlinkatFlags::RemoveDir));
        match removed {
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(()),
            Err(errno) => Err(failed("remove", path.as_str(), errno)),
        }
    }

    /// Opens a file to read from it; nothing when it is not there.
    ///
    /// # Errors
    /// When it is there and cannot be opened.
    pub(crate) fn open_for_reading(&self, path: &str) -> Result<Option<File>, FileError> {
        match self.resolve(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(failed("open", path, errno)),
        }
    }

    /// When the content of a file last changed; nothing when it is not there.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub(crate) fn changed_at(&self, path: &AbsPath) -> Result<Option<Timestamp>, FileError> {
        let Some(file) = self.open_for_reading(path.as_str())? else { return Ok(None) };
        let stat = fstat(&file).map_err(|errno| failed("look up", path.as_str(), errno))?;
        Ok(Timestamp::new(stat.st_mtime, i32::try_from(stat.st_mtime_nsec).unwrap_or_default()).ok())
    }

    /// Opens an existing file to write to it in place: for `/proc/sys` and for appending to our journal.
    ///
    /// # Errors
    /// When it cannot be opened so.
    pub(crate) fn open_for_writing(&self, path: &str, flags: OFlag) -> Result<File, FileError> {
        let fd = self.resolve_with(path, OFlag::O_WRONLY | flags, 0o600);
        fd.map(File::from).map_err(|errno| failed("open", path, errno))
    }

    /// The same for reading, too.
    ///
    /// # Errors
    /// When it cannot be opened so.
    pub(crate) fn open_both_ways(&self, path: &str, flags: OFlag) -> Result<File, FileError> {
        let fd = self.resolve_with(path, OFlag::O_RDWR | flags, 0o600);
        fd.map(File::from).map_err(|errno| failed("open", path, errno))
    }

    /// Writes a text to a device that is there, such as the console.
    ///
    /// # Errors
    /// When it is not there or does not take the text.
    pub fn write_to_device(&self, path: &str, text: &str) -> Result<(), FileError> {
        let mut device = self.open_for_writing(path, OFlag::O_NOCTTY | OFlag::O_APPEND)?;
        device.write_all(text.as_bytes()).map_err(|source| FileError {
            action: "write to",
            path: path.to_owned(),
            source,
        })
    }

    pub(crate) fn make_directories(&self, path: &str) -> Result<OwnedFd, FileError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let mut made = PathBuf::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let parent = self.resolve(&made.to_string_lossy(), flags).map_err(|errno| failed("open", path, errno))?;
            made.push(part);
            if self.resolve(&made.to_string_lossy(), flags).is_err() {
                let mode = Mode::from_bits_truncate(0o755);
                // Not what our umask makes of it. Another step of the same stage may have been faster.
                match mkdirat(&parent, part, mode)
                    .and_then(|()| fchmodat(&parent, part, mode, FchmodatFlags::FollowSymlink))
                {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(failed("make the directory", path, errno)),
                }
            }
        }
        self.resolve(path, flags).map_err(|errno| failed("open", path, errno))
    }

    fn resolve(&self, path: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
        self.resolve_with(path, flags, 0)
    }

    fn resolve_with(&self, path: &str, flags: OFlag, mode: u32) -> Result<OwnedFd, Errno> {
        let inside = match path.trim_start_matches('/') {
            "" => ".",
            inside => inside,
        };
        let mut how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        if flags.contains(OFlag::O_CREAT) {
            how = how.mode(Mode::from_bits_truncate(mode));
        }
        // A `..` in a link, as in all of /sys: any rename or mount on the machine meanwhile, and the kernel asks to try again
        // (openat2(2), EAGAIN). A machine that boots does both all the time.
        let mut tries = 0;
        loop {
            match openat2(&self.fd, inside, how) {
                Err(Errno::EAGAIN) if tries < MAX_RESOLVE_TRIES => {
                    tries += 1;
                    std::thread::yield_now();
                }
                done => return done,
            }
        }
    }

    fn describe(&self, stat: &FileStat) -> Entry {
        let kind = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFREG => Kind::File,
            SFlag::S_IFDIR => Kind::Directory,
            SFlag::S_IFLNK => Kind::Symlink,
            _ => Kind::Other,
        };
        let owned = !self.owns_files || (stat.st_uid, stat.st_gid) == (0, 0);
        Entry { kind, mode: stat.st_mode & 0o7777, owned }
    }

    fn give_to_root(&self, fd: impl AsFd) -> Result<(), Errno> {
        if self.owns_files { fchown(fd, Some(Uid::from_raw(0)), Some(Gid::from_raw(0))) } else { Ok(()) }
    }
}

fn sync_directory(parent: &OwnedFd) -> Result<(), Errno> {
    // O_PATH descriptors cannot be synced; "." through it can.
    let directory = openat(parent, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::fsync(&directory)
}

fn split(path: &AbsPath) -> (&str, &str) {
    path.as_str().rsplit_once('/').unwrap_or(("", path.as_str()))
}

fn failed(action: &'static str, path: &str, errno: Errno) -> FileError {
    FileError { action, path: path.to_owned(), source: io::Error::from(errno) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn path(text: &str) -> AbsPath {
        AbsPath::try_from(text).unwrap()
    }

    #[test]
    fn a_symlink_cannot_lead_out_of_the_root() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        symlink(outside.path(), inside.path().join("etc")).unwrap();
        symlink("../../../../../../../../etc", inside.path().join("climb")).unwrap();
        let root = Root::open(inside.path()).unwrap();
        assert!(root.write(&path("/etc/x"), b"x", 0o600).is_err());
        assert_eq!(root.read("/climb/passwd").unwrap(), None);
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_path_that_climbs_resolves_while_others_rename() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(at("a/b/c")).unwrap();
        std::fs::write(at("file"), "here").unwrap();
        symlink("../../../a/b/c/../../../file", at("a/b/c/link")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::fs::write(at("x"), "").unwrap();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    std::fs::rename(at("x"), at("y")).unwrap();
                    std::fs::rename(at("y"), at("x")).unwrap();
                }
            });
            let read: Vec<_> = (0..20_000).map(|_| root.read_text("/a/b/c/link")).collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            for text in read {
                assert_eq!(text.unwrap().as_deref(), Some("here"));
            }
        });
    }

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_nothing_left_beside() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        std::fs::write(directory.path().join(".x.nap-agent"), "left by a killed run").unwrap();
        for (text, mode) in [("one", 0o644), ("two", 0o600)] {
            root.write(&path("/a/b/x"), text.as_bytes(), mode).unwrap();
            assert_eq!(root.read_text("/a/b/x").unwrap().as_deref(), Some(text));
            assert_eq!(
                root.entry(&path("/a/b/x")).unwrap().map(|entry| (entry.kind, entry.mode)),
                Some((Kind::File, mode))
            );
        }
        assert_eq!(root.names("/a/b").unwrap(), ["x"]);
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_replaced_and_its_target_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("target"), "precious").unwrap();
        symlink("target", directory.path().join("x")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        root.write(&path("/x"), b"new", 0o600).unwrap();
        assert_eq!(std::fs::read_to_string(directory.path().join("target")).unwrap(), "precious");
        assert_eq!(root.entry(&path("/x")).unwrap().unwrap().kind, Kind::File);
    }

    #[test]
    fn errors_say_what_and_where() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "").unwrap();
        std::fs::set_permissions(directory.path().join("file"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let error = Root::open(directory.path()).unwrap().write(&path("/file/x"), b"", 0o600).unwrap_err();
        assert_eq!(crate::chain(&error), "cannot open /file: Not a directory (os error 20)");
    }
}
