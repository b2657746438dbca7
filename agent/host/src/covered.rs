//! What a mount point hides while something is mounted there.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;

use crate::root::{FileError, Root};

/// Something in a directory or below it that was made, changed or taken away after the file `since` was written; nothing when all is as it
/// was then, or there is no such directory. Other file systems below it are left out, and so is the directory `except`.
///
/// By the kernel's time of change, which no program sets; a wall clock that was set back since then deceives it.
///
/// # Errors
/// When a directory cannot be read, or `since` is not there.
pub fn changed_since(root: &Root, path: &str, since: &str, except: &str) -> Result<Option<String>, FileError> {
    let failed = |path: String| move |source: io::Error| FileError { action: "look at", path, source };
    let since = fs::metadata(root.outside(since)).map(|file| changed(&file)).map_err(failed(since.to_owned()))?;
    let (top, except) = (root.outside(path), root.outside(except));
    let mut device = None;
    let mut left = vec![top];
    while let Some(path) = left.pop() {
        let name = path.display().to_string();
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            // Who removed it has changed its directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(name)(error)),
        };
        if path == except || *device.get_or_insert(metadata.dev()) != metadata.dev() {
            continue;
        }
        if changed(&metadata) > since {
            return Ok(Some(name));
        }
        if metadata.is_dir() {
            for entry in fs::read_dir(&path).map_err(failed(name.clone()))? {
                left.push(entry.map_err(failed(name.clone()))?.path());
            }
        }
    }
    Ok(None)
}

fn changed(metadata: &Metadata) -> (i64, i64) {
    (metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::{Duration, Instant};

    use super::*;

    /// Writes until the kernel's clock, which ticks every few milliseconds, has `file` after `other`.
    fn later(write: impl Fn(), file: &std::path::Path, other: &std::path::Path) {
        let at = |path| changed(&fs::symlink_metadata(path).unwrap());
        let (before, start) = (at(file).max(at(other)), Instant::now());
        while at(file) <= before {
            assert!(start.elapsed() < Duration::from_secs(5));
            write();
        }
    }

    #[test]
    fn what_changed_after_a_file_was_written_is_found_wherever_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        let root = Root::open(directory.path()).unwrap();
        let look = || changed_since(&root, "/a", "/ready", "/a/pki").unwrap();
        let ready = at("ready");
        let make_ready = |last: &str| later(|| fs::write(&ready, "x").unwrap(), &ready, &at(last));
        fs::create_dir_all(at("a/b/c")).unwrap();
        fs::create_dir_all(at("a/pki")).unwrap();
        fs::write(at("a/b/c/file"), "x").unwrap();
        fs::write(at("a/pki/key"), "x").unwrap();
        symlink("/proc", at("a/b/link")).unwrap();
        fs::write(&ready, "x").unwrap();
        make_ready("a/b/link");
        assert_eq!(look(), None);
        later(|| fs::write(at("a/pki/key"), "x").unwrap(), &at("a/pki/key"), &ready);
        assert_eq!(look(), None, "kubelet's keys are another's");
        later(|| fs::write(at("a/b/c/file"), "y").unwrap(), &at("a/b/c/file"), &ready);
        assert_eq!(look(), Some(at("a/b/c/file").display().to_string()));
        make_ready("a/b/c/file");
        later(|| drop((fs::write(at("a/b/c/new"), "x"), fs::remove_file(at("a/b/c/new")))), &at("a/b/c"), &ready);
        assert_eq!(look(), Some(at("a/b/c").display().to_string()));
        make_ready("a/b/c");
        assert_eq!(look(), None);
        assert_eq!(changed_since(&root, "/none", "/ready", "/").unwrap(), None);
        assert!(changed_since(&root, "/a", "/never", "/").is_err());
    }
}
