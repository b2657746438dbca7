//! Enabling and disabling: the links below `/etc/systemd/system`, and what they say about a unit.

use super::machine::BusError;
use super::search::{Fragment, LINK_FOLDER, Root};
use super::unit_file::UnitText;
use std::path::Path;
use std::{fs, io};

/// One link made or removed: `symlink` or `unlink`, the link, what it leads to.
pub(crate) type Change = (String, String, String);

struct Install {
    fragment: String,
    links: Vec<String>,
    also: Vec<String>,
}

/// `UnitFileState` of a unit, absent when it has no file.
pub(crate) fn state(root: &Root, unit: &str) -> Option<&'static str> {
    match root.fragment(unit).ok()? {
        Fragment::Missing => None,
        Fragment::Masked(seen) if seen.path.starts_with("/run/") => Some("masked-runtime"),
        Fragment::Masked(_) => Some("masked"),
        Fragment::Found(seen, text) => {
            let install = read(unit, &seen.path, &text);
            let is_linked = |folder: &str| {
                let linked = |link: String| root.at(&link).symlink_metadata().is_ok();
                root.link_folders(folder).into_iter().any(|f| linked(format!("{f}/{unit}")))
            };
            Some(match () {
                () if is_linked(LINK_FOLDER) => "enabled",
                () if is_linked("/run/systemd/system") => "enabled-runtime",
                () if !install.links.is_empty() => "disabled",
                () if !install.also.is_empty() => "indirect",
                () => "static",
            })
        }
    }
}

/// Makes the links that the `[Install]` sections ask for.
/// Returns whether there was any such section, and the changes.
pub(crate) fn enable(
    root: &Root,
    units: &[String],
    runtime: bool,
    force: bool,
) -> Result<(bool, Vec<Change>), BusError> {
    let mut changes = Vec::new();
    let mut carries_install = false;
    let mut left: Vec<String> = units.to_vec();
    let mut seen: Vec<String> = Vec::new();
    while let Some(unit) = left.pop() {
        if seen.contains(&unit) {
            continue;
        }
        let install = find(root, &unit)?;
        carries_install |= !install.links.is_empty() || !install.also.is_empty();
        for link in &install.links {
            changes.extend(make_link(root, &format!("{}/{link}", folder(runtime)), &install.fragment, force)?);
        }
        left.extend(install.also);
        seen.push(unit);
    }
    Ok((carries_install, changes))
}

/// Removes the links to the units.
pub(crate) fn disable(root: &Root, units: &[String], runtime: bool) -> Result<Vec<Change>, BusError> {
    let mut changes = Vec::new();
    for unit in units {
        let base = folder(runtime);
        for folder in root.link_folders(base) {
            let link = format!("{folder}/{unit}");
            if root.at(&link).symlink_metadata().is_ok_and(|m| m.file_type().is_symlink()) {
                fs::remove_file(root.at(&link)).map_err(|e| file_error(&link, &e))?;
                changes.push(("unlink".to_owned(), link, String::new()));
            }
        }
    }
    Ok(changes)
}

/// Removes the links to `/dev/null` that mask the units.
pub(crate) fn unmask(root: &Root, units: &[String], runtime: bool) -> Result<Vec<Change>, BusError> {
    let mut changes = Vec::new();
    for unit in units {
        let link = format!("{}/{unit}", folder(runtime));
        if fs::read_link(root.at(&link)).is_ok_and(|target| target == Path::new("/dev/null")) {
            fs::remove_file(root.at(&link)).map_err(|e| file_error(&link, &e))?;
            changes.push(("unlink".to_owned(), link, String::new()));
        }
    }
    Ok(changes)
}

fn folder(runtime: bool) -> &'static str {
    if runtime { "/run/systemd/system" } else { LINK_FOLDER }
}

fn find(root: &Root, unit: &str) -> Result<Install, BusError> {
    let missing = || {
        let text = format!("Unit file {unit} does not exist.");
        BusError::new("org.freedesktop.systemd1.NoSuchUnit", text)
    };
    match root.fragment(unit).map_err(|text| BusError::new("org.freedesktop.DBus.Error.Failed", text))? {
        Fragment::Missing => Err(missing()),
        Fragment::Masked(_) => {
            let text = format!("Unit file {unit} is masked.");
            Err(BusError::new("org.freedesktop.systemd1.UnitMasked", text))
        }
        Fragment::Found(seen, text) => Ok(read(unit, &seen.path, &text)),
    }
}

fn read(unit: &str, fragment: &str, text: &str) -> Install {
    let mut install = UnitText::default();
    // A file that cannot be read to its end has the sections before that.
    let _ = install.read(text);
    let words = |key| install.words("Install", key);
    let mut links: Vec<String> = words("WantedBy").iter().map(|target| format!("{target}.wants/{unit}")).collect();
    links.extend(words("RequiredBy").iter().map(|target| format!("{target}.requires/{unit}")));
    links.extend(words("Alias"));
    Install { fragment: fragment.to_owned(), links, also: words("Also") }
}

fn make_link(root: &Root, link: &str, target: &str, force: bool) -> Result<Vec<Change>, BusError> {
    let real = root.at(link);
    let made = || vec![("symlink".to_owned(), link.to_owned(), target.to_owned())];
    match fs::read_link(&real) {
        Ok(present) if present == Path::new(target) => return Ok(Vec::new()),
        Ok(present) if !force => {
            let text = format!("File {link} already exists and is a symlink to {}.", present.display());
            return Err(BusError::new("org.freedesktop.systemd1.UnitExists", text));
        }
        Ok(_) => fs::remove_file(&real).map_err(|e| file_error(link, &e))?,
        Err(_absent) => {}
    }
    if let Some(parent) = real.parent() {
        fs::create_dir_all(parent).map_err(|e| file_error(link, &e))?;
    }
    std::os::unix::fs::symlink(target, &real).map_err(|e| file_error(link, &e))?;
    Ok(made())
}

fn file_error(path: &str, error: &io::Error) -> BusError {
    let name = match error.kind() {
        io::ErrorKind::NotFound => "org.freedesktop.DBus.Error.FileNotFound",
        io::ErrorKind::PermissionDenied => "org.freedesktop.DBus.Error.AccessDenied",
        io::ErrorKind::AlreadyExists => "org.freedesktop.DBus.Error.FileExists",
        _ => "org.freedesktop.DBus.Error.Failed",
    };
    BusError::new(name, format!("{path}: {error}"))
}
