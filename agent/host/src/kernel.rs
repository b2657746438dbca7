//! Kernel settings in `/proc/sys` and kernel modules.

use std::io::Write;
use std::time::Duration;

use nap_model::plan::AbsPath;
use nix::fcntl::OFlag;

use crate::cmd::{Cmd, CmdError};
use crate::root::{FileError, Root};

/// The file of a key: dots become slashes.
fn sysctl_path(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}

/// A setting's value, white space inside as single blanks; nothing when the kernel does not have the key.
pub(crate) fn read_sysctl(root: &Root, key: &str) -> Result<Option<String>, FileError> {
    Ok(root.read_text(&sysctl_path(key))?.map(|text| normal(&text)))
}

pub(crate) fn write_sysctl(root: &Root, key: &str, value: &str) -> Result<(), FileError> {
    let path = sysctl_path(key);
    let mut file = root.open_for_writing(&path, OFlag::O_TRUNC)?;
    file.write_all(format!("{value}\n").as_bytes()).map_err(|source| FileError { action: "write", path, source })
}

/// The chosen word of a file such as `always [madvise] never`; nothing when the kernel does not have the file.
pub(crate) fn read_choice(root: &Root, path: &AbsPath) -> Result<Option<String>, FileError> {
    Ok(root.read_text(path.as_str())?.map(|text| chosen(&text).to_owned()))
}

fn chosen(text: &str) -> &str {
    let in_brackets = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    in_brackets.map_or(text.trim(), |(word, _)| word)
}

pub(crate) fn write_choice(root: &Root, path: &AbsPath, word: &str) -> Result<(), FileError> {
    let mut file = root.open_for_writing(path.as_str(), OFlag::O_TRUNC)?;
    file.write_all(word.as_bytes()).map_err(|source| FileError { action: "write", path: path.to_string(), source })
}

pub(crate) fn normal(value: &str) -> String {
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a module is loaded or built in.
pub(crate) fn has_module(root: &Root, name: &str) -> Result<bool, FileError> {
    if root
        .read_text("/proc/modules")?
        .is_some_and(|loaded| loaded.lines().any(|line| line.split(' ').next() == Some(name)))
    {
        return Ok(true);
    }
    let release = root.read_text("/proc/sys/kernel/osrelease")?.unwrap_or_default();
    let builtin = ["/lib/modules", "/usr/lib/modules"]
        .into_iter()
        .find_map(|directory| root.read_text(&format!("{directory}/{release}/modules.builtin")).transpose());
    let file_name = format!("/{}.ko", name.replace('_', "-"));
    let listed =
        builtin.transpose()?.is_some_and(|list| list.lines().any(|line| line.replace('_', "-").ends_with(&file_name)));
    Ok(listed || root.names("/sys/module")?.iter().any(|loaded| loaded == name))
}

/// Whether a module's file is in the image. Source: modules.dep(5).
pub(crate) fn can_load(root: &Root, name: &str) -> Result<bool, FileError> {
    let release = root.read_text("/proc/sys/kernel/osrelease")?.unwrap_or_default();
    let list = ["/lib/modules", "/usr/lib/modules"]
        .into_iter()
        .find_map(|directory| root.read_text(&format!("{directory}/{release}/modules.dep")).transpose());
    let file_name = format!("{}.ko", name.replace('_', "-"));
    let is_its = |line: &str| {
        let file = line.split(':').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        // It may be compressed, and then its name goes on.
        file.replace('_', "-").strip_prefix(&file_name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    Ok(list.transpose()?.is_some_and(|list| list.lines().any(is_its)))
}

/// Loads a module. There is no library for it that knows dependencies, aliases and compression, so kmod's program is started.
pub(crate) async fn load_module(root: &Root, name: &str) -> Result<(), CmdError> {
    let program = root.outside("/usr/sbin/modprobe");
    Cmd::new(program, &["--", name], Duration::from_secs(30)).output().await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_in_brackets_is_the_chosen_one() {
        assert_eq!(chosen("always defer defer+madvise [madvise] never\n"), "madvise");
        assert_eq!(chosen("never\n"), "never");
    }
}
