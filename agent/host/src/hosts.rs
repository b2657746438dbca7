//! `hosts.toml`: where containerd asks for a registry's images. It reads them at every pull, so a change needs no restart.
//!
//! Others write such files, too: acr-mirror's own tools, peerd. A file that does not begin with our words is theirs: it is never
//! written to and never removed. Where it sends pulls to a mirror that does not answer it is set aside, under another name in the same
//! directory, and put back byte for byte when the mirror answers; containerd looks at no other name.

use nap_model::plan::{AbsPath, HOSTS_OF_OURS};

use crate::root::{FileError, Root};

/// What becomes of somebody else's file.
const ASIDE: &str = ".aside-by-nap-agent";

/// What is to be done to a file.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Nothing,
    Write,
    Remove,
    SetAside,
    PutBack,
}

/// What would change; nothing when all is as wanted.
pub(crate) fn difference(
    root: &Root,
    path: &AbsPath,
    text: Option<&str>,
    mirror: &str,
) -> Result<Option<String>, FileError> {
    let aside = aside(path);
    Ok(match look(root, path, text, mirror)? {
        Change::Nothing => None,
        Change::Write => Some(format!("write {path}")),
        Change::Remove => Some(format!("remove {path}")),
        Change::SetAside => Some(format!("set {path} aside, which sends pulls to {mirror}")),
        Change::PutBack => Some(format!("put {aside} back as {path}")),
    })
}

/// Makes it so.
pub(crate) fn write(root: &Root, path: &AbsPath, text: Option<&str>, mirror: &str) -> Result<(), FileError> {
    let aside = aside(path);
    match look(root, path, text, mirror)? {
        Change::Nothing => Ok(()),
        Change::Write => root.write(path, text.unwrap_or_default().as_bytes(), 0o644),
        Change::Remove => root.remove(path),
        Change::SetAside => root.rename(path, &aside),
        Change::PutBack => root.rename(&aside, path),
    }
}

fn aside(path: &AbsPath) -> AbsPath {
    AbsPath::try_from(format!("{path}{ASIDE}").as_str()).expect("a longer name is a name")
}

fn look(root: &Root, path: &AbsPath, text: Option<&str>, mirror: &str) -> Result<Change, FileError> {
    let now = root.read(path.as_str())?;
    let is_ours = |bytes: &[u8]| bytes.starts_with(HOSTS_OF_OURS.as_bytes());
    let mentions = |bytes: &[u8]| bytes.windows(mirror.len()).any(|part| part == mirror.as_bytes());
    let has_aside = || Ok::<_, FileError>(root.entry(&aside(path))?.is_some());
    Ok(match (text, now) {
        (Some(_), None) if has_aside()? => Change::PutBack,
        (Some(_), None) => Change::Write,
        (Some(text), Some(now)) if is_ours(&now) && now != text.as_bytes() => Change::Write,
        (None, Some(now)) if is_ours(&now) => Change::Remove,
        (None, Some(now)) if !mirror.is_empty() && mentions(&now) => Change::SetAside,
        (_, Some(_)) | (None, None) => Change::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const PATH: &str = "/etc/containerd/certs.d/_default/hosts.toml";
    const MIRROR: &str = ":8578";
    const THEIRS: &[u8] = b"# acr-mirror \xff\r\n[host.\"http://127.0.0.1:8578\"]\n\n";

    /// Makes it so, and says that nothing is left to do.
    fn apply(root: &Root, text: Option<&str>) -> bool {
        let path = AbsPath::literal(PATH);
        let changes = difference(root, &path, text, MIRROR).unwrap().is_some();
        write(root, &path, text, MIRROR).unwrap();
        assert_eq!(difference(root, &path, text, MIRROR).unwrap(), None);
        changes
    }

    #[test]
    fn our_file_comes_changes_and_goes() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let [one, two] = ["a", "b"].map(|line| format!("{HOSTS_OF_OURS}\n{line}\n"));
        for text in [Some(one.as_str()), Some(two.as_str()), None] {
            assert!(apply(&root, text) && !apply(&root, text));
            assert_eq!(root.read(PATH).unwrap(), text.map(|text| text.as_bytes().to_vec()));
        }
    }

    #[test]
    fn a_file_of_others_is_set_aside_and_comes_back_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        root.write(&AbsPath::literal(PATH), THEIRS, 0o600).unwrap();
        let ours = format!("{HOSTS_OF_OURS}\nx\n");
        assert!(!apply(&root, Some(&ours)), "it stands for ours");
        assert!(apply(&root, None));
        assert_eq!(root.read(PATH).unwrap(), None);
        assert!(apply(&root, Some(&ours)));
        assert_eq!(root.read(PATH).unwrap().as_deref(), Some(THEIRS));
        assert_eq!(root.entry(&AbsPath::literal(PATH)).unwrap().unwrap().mode, 0o600);
        assert_eq!(fs::read_dir(directory.path().join("etc/containerd/certs.d/_default")).unwrap().count(), 1);
    }

    #[test]
    fn a_file_of_others_without_the_mirror_is_nobodys_business() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let peerd = b"server = 'x'\n[host.'http://localhost:5000']\n";
        root.write(&AbsPath::literal(PATH), peerd, 0o644).unwrap();
        assert!(!apply(&root, None) && !apply(&root, Some(HOSTS_OF_OURS)));
        assert_eq!(root.read(PATH).unwrap().as_deref(), Some(peerd.as_slice()));
    }
}
