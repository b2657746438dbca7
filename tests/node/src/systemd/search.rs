//! Where units lie below the root directory: fragments, drop-ins, `.wants` folders.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Folders of units, the first that has a file wins.
/// Source: systemd.unit(5), "UNIT FILE LOAD PATH".
const FOLDERS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Folder in which enabling a unit makes symbolic links.
pub(crate) const LINK_FOLDER: &str = "/etc/systemd/system";

/// Longest chain of symbolic links followed.
const MAX_LINKS: usize = 16;

/// A file of a unit and when it was last changed, as it was when the unit was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Path as processes on the node see it.
    pub(crate) path: String,
    /// Modification time, absent when the file is.
    pub(crate) changed: Option<SystemTime>,
}

/// What a unit's name leads to.
#[derive(Clone, Debug)]
pub(crate) enum Fragment {
    /// No file of that name.
    Missing,
    /// A link to /dev/null, or an empty file.
    Masked(Seen),
    /// A file with text.
    Found(Seen, String),
}

/// A node's files below a root directory.
#[derive(Clone, Debug)]
pub(crate) struct Root(PathBuf);

impl Root {
    pub(crate) fn new(root: &Path) -> Root {
        Root(root.to_owned())
    }

    /// The real path of a path on the node; links are not followed.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// The root directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Follows symbolic links of the last component inside the root; the result is a path on the node.
    pub(crate) fn follow(&self, path: &str) -> Option<String> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            if !self.at(&path).symlink_metadata().ok()?.file_type().is_symlink() {
                return Some(path);
            }
            let target = fs::read_link(self.at(&path)).ok()?;
            if target == Path::new("/dev/null") {
                return Some("/dev/null".to_owned());
            }
            let parent = Path::new(&path).parent().unwrap_or(Path::new("/"));
            path = parent.join(target).to_string_lossy().into_owned();
        }
        None
    }

    fn seen(&self, path: &str) -> Seen {
        let real = self.follow(path).filter(|p| p != "/dev/null").map(|p| self.at(&p));
        let changed = real.and_then(|p| p.metadata().ok()).and_then(|m| m.modified().ok());
        Seen { path: path.to_owned(), changed }
    }

    /// Whether the file is no longer as it was seen.
    /// systemd compares times only, and only notices a newer one or a missing file.
    pub(crate) fn is_newer(&self, seen: &Seen) -> bool {
        match (self.seen(&seen.path).changed, seen.changed) {
            (Some(now), Some(then)) => now > then,
            (None, then) => then.is_some(),
            (Some(_), None) => true,
        }
    }

    /// Finds the file of a unit, the template's for an instance.
    pub(crate) fn fragment(&self, unit: &str) -> Result<Fragment, String> {
        for name in [Some(unit.to_owned()), template_of(unit)].into_iter().flatten() {
            for folder in FOLDERS {
                let path = format!("{folder}/{name}");
                let Some(real) = self.follow(&path) else { continue };
                if real == "/dev/null" {
                    return Ok(Fragment::Masked(Seen { path, changed: None }));
                }
                let text = fs::read_to_string(self.at(&real)).map_err(|e| format!("{path}: {e}"))?;
                let seen = self.seen(&path);
                return Ok(if text.is_empty() { Fragment::Masked(seen) } else { Fragment::Found(seen, text) });
            }
        }
        Ok(Fragment::Missing)
    }

    /// Drop-ins of a unit in the order in which they apply; a name in an earlier folder hides later ones.
    pub(crate) fn drop_ins(&self, unit: &str) -> Vec<Seen> {
        let mut by_name: BTreeMap<String, String> = BTreeMap::new();
        for owner in drop_in_owners(unit) {
            for folder in FOLDERS {
                let folder = format!("{folder}/{owner}.d");
                for name in self.names(&folder).into_iter().filter(|n| n.ends_with(".conf")) {
                    let path = format!("{folder}/{name}");
                    by_name.entry(name).or_insert(path);
                }
            }
        }
        let mut out: Vec<Seen> = by_name.into_values().map(|path| self.seen(&path)).collect();
        out.retain(|seen| seen.changed.is_some());
        out
    }

    /// Folders of drop-ins there are now.
    pub(crate) fn drop_in_folders(&self) -> BTreeSet<String> {
        let names = FOLDERS.iter().flat_map(|f| self.names(f).into_iter().map(move |n| format!("{f}/{n}")));
        names.filter(|path| path.ends_with(".d")).collect()
    }

    /// Names of units linked in `UNIT.wants` or `UNIT.requires`.
    pub(crate) fn linked(&self, unit: &str, kind: &str) -> Vec<String> {
        FOLDERS.iter().flat_map(|folder| self.names(&format!("{folder}/{unit}.{kind}"))).collect()
    }

    /// The `.wants` and `.requires` folders in a folder of units.
    pub(crate) fn link_folders(&self, folder: &str) -> Vec<String> {
        let is_link_folder = |n: &String| n.ends_with(".wants") || n.ends_with(".requires");
        self.names(folder).into_iter().filter(is_link_folder).map(|n| format!("{folder}/{n}")).collect()
    }

    /// Units that some target on this node wants or requires.
    pub(crate) fn linked_by_targets(&self) -> Vec<String> {
        let folders = FOLDERS.iter().flat_map(|folder| self.link_folders(folder));
        folders.filter(|f| f.contains(".target.")).flat_map(|f| self.names(&f)).collect()
    }

    /// Reads a file of the node, following links inside the root.
    pub(crate) fn read(&self, path: &str) -> std::io::Result<String> {
        let real = self.follow(path).unwrap_or_else(|| path.to_owned());
        fs::read_to_string(self.at(&real))
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.at(folder)) else { return Vec::new() };
        let mut out: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        out.sort();
        out
    }
}

/// `a@b.service` is an instance of `a@.service`.
pub(crate) fn template_of(unit: &str) -> Option<String> {
    let (prefix, rest) = unit.split_once('@')?;
    let (instance, suffix) = rest.rsplit_once('.')?;
    (!instance.is_empty()).then(|| format!("{prefix}@.{suffix}"))
}

/// Names whose `.d` folders apply to a unit, the most specific first.
fn drop_in_owners(unit: &str) -> Vec<String> {
    let mut out = vec![unit.to_owned()];
    out.extend(template_of(unit));
    if let Some((stem, suffix)) = unit.rsplit_once('.') {
        let dashes: Vec<usize> = stem.match_indices('-').map(|(at, _)| at).collect();
        out.extend(dashes.iter().rev().map(|at| format!("{}.{suffix}", &stem[..=*at])));
        out.push(suffix.to_owned());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn etc_hides_run_and_run_hides_usr() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        write(dir.path(), "usr/lib/systemd/system/a.service", "usr");
        write(dir.path(), "run/systemd/system/a.service", "run");
        let Fragment::Found(seen, text) = root.fragment("a.service").unwrap() else { panic!() };
        assert_eq!((seen.path.as_str(), text.as_str()), ("/run/systemd/system/a.service", "run"));
        std::os::unix::fs::symlink("/dev/null", dir.path().join("run/systemd/system/b.service")).unwrap();
        assert!(matches!(root.fragment("b.service").unwrap(), Fragment::Masked(_)));
        assert!(matches!(root.fragment("c.service").unwrap(), Fragment::Missing));
    }

    #[test]
    fn drop_ins_apply_by_file_name_across_folders() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "etc/systemd/system/a-b.service.d/20-x.conf",
            "usr/lib/systemd/system/a-b.service.d/20-x.conf",
            "usr/lib/systemd/system/a-b.service.d/30-y.conf",
            "run/systemd/system/service.d/10-z.conf",
            "run/systemd/system/a-.service.d/25-p.conf",
            "etc/systemd/system/a-b.service.d/notes.txt",
        ] {
            write(dir.path(), path, "[Unit]\n");
        }
        let got: Vec<String> = Root::new(dir.path()).drop_ins("a-b.service").into_iter().map(|s| s.path).collect();
        assert_eq!(
            got,
            [
                "/run/systemd/system/service.d/10-z.conf",
                "/etc/systemd/system/a-b.service.d/20-x.conf",
                "/run/systemd/system/a-.service.d/25-p.conf",
                "/usr/lib/systemd/system/a-b.service.d/30-y.conf",
            ]
        );
    }
}
