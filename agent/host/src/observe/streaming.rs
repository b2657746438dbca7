//! What artifact streaming needs of the machine. A few files are read, no program is started.

use std::collections::{BTreeMap, BTreeSet};

use nap_model::facts::Streaming;
use nap_model::os::{STREAMING_MODULES, STREAMING_UNITS};
use nap_model::plan::{AbsPath, SNAPSHOTTER_DIRECTORY};

use super::hardware;
use crate::kernel;
use crate::root::{FileError, Kind, Root};

/// Where units are, the administrator's first. Source: systemd.unit(5).
const UNIT_DIRECTORIES: [&str; 4] =
    ["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// Where the services keep what they have read of images. Source: overlaybd, `overlaybd.json`.
const CACHES: &str = "/opt/overlaybd";

/// Looks at all of it.
///
/// # Errors
/// When a file is there and cannot be read.
pub fn streaming(root: &Root) -> Result<Streaming, FileError> {
    let caches = if hardware::exists(root, CACHES)? { CACHES } else { "/" };
    let (_, cache_free_bytes) = root.space_at(caches)?;
    let mut unusable_units = BTreeMap::new();
    for unit in STREAMING_UNITS {
        if let Some(why) = unusable(root, unit)? {
            unusable_units.insert((*unit).to_owned(), why);
        }
    }
    let mut missing_modules = BTreeSet::new();
    for module in STREAMING_MODULES {
        if !kernel::has_module(root, module)? && !kernel::can_load(root, module)? {
            missing_modules.insert((*module).to_owned());
        }
    }
    Ok(Streaming {
        // A program runs only on the processor that it was built for.
        architecture: std::env::consts::ARCH.to_owned(),
        cpus: cpus(&root.read_text("/sys/devices/system/cpu/online")?.unwrap_or_default()),
        memory_bytes: memory(&root.read_text("/proc/meminfo")?.unwrap_or_default()),
        cache_free_bytes,
        missing_modules,
        configfs: has_configfs(root)?,
        unusable_units,
        has_snapshots: !root.names(SNAPSHOTTER_DIRECTORY)?.is_empty(),
    })
}

fn has_configfs(root: &Root) -> Result<bool, FileError> {
    let known = root.read_text("/proc/filesystems")?.unwrap_or_default();
    Ok(known.lines().any(|line| line.ends_with("\tconfigfs")) || kernel::can_load(root, "configfs")?)
}

/// Why a unit cannot run: it is not there, it is masked, or its program is missing.
fn unusable(root: &Root, unit: &str) -> Result<Option<String>, FileError> {
    for directory in UNIT_DIRECTORIES {
        let path = AbsPath::try_from(format!("{directory}/{unit}").as_str()).expect("units have plain names");
        let Some(entry) = root.entry(&path)? else { continue };
        if entry.kind == Kind::Symlink && root.link(&path)? == "/dev/null" {
            return Ok(Some("it is masked".to_owned()));
        }
        let text = root.read_text(path.as_str())?.unwrap_or_default();
        let Some(program) = program(&text) else { return Ok(Some(format!("{path} starts no program"))) };
        let Ok(at) = AbsPath::try_from(program) else { return Ok(Some(format!("{path} starts {program}"))) };
        let found = root.target(&at)?;
        let can_run = found.is_some_and(|entry| entry.kind == Kind::File && entry.mode & 0o111 != 0);
        return Ok((!can_run).then(|| format!("its program {program} is not there, or nobody may run it")));
    }
    Ok(Some("there is no such unit".to_owned()))
}

/// The program of the first `ExecStart=`, without systemd's prefixes. Source: systemd.service(5).
fn program(unit: &str) -> Option<&str> {
    let command = unit.lines().find_map(|line| line.trim().strip_prefix("ExecStart="))?;
    let program = command.split_whitespace().next()?.trim_start_matches(['-', '+', '@', '!', ':', '|']);
    Some(program).filter(|program| !program.is_empty())
}

/// How many CPUs a list such as `0-3,6` has; 0 when it is none.
fn cpus(list: &str) -> u32 {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.split(',').map(count).sum::<Option<u32>>().unwrap_or_default()
}

/// `MemTotal` in bytes.
fn memory(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|total| total.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kibibytes.unwrap_or_default() * 1024
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn put(root: &Path, path: &str, text: &str, mode: u32) {
        let path = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A root on which nothing is missing.
    fn whole() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        put(root, "/sys/devices/system/cpu/online", "0-3\n", 0o644);
        put(root, "/proc/meminfo", "MemTotal:       16309720 kB\nMemFree: 1 kB\n", 0o644);
        put(root, "/proc/filesystems", "nodev\tsysfs\nnodev\tconfigfs\n\text4\n", 0o644);
        put(root, "/proc/sys/kernel/osrelease", "6.8.0-azure\n", 0o644);
        put(root, "/proc/modules", "tcm_loop 45056 0 - Live 0x0\n", 0o644);
        let listed = "kernel/drivers/target/target_core_user.ko.zst: kernel/drivers/uio/uio.ko.zst\n";
        put(root, "/lib/modules/6.8.0-azure/modules.dep", listed, 0o644);
        for unit in STREAMING_UNITS {
            let program = format!("/opt/{unit}/bin");
            put(root, &program, "#!", 0o755);
            put(
                root,
                &format!("/usr/lib/systemd/system/{unit}"),
                &format!("[Service]\nExecStart=-{program} -x\n"),
                0o644,
            );
        }
        directory
    }

    fn look(directory: &tempfile::TempDir) -> Streaming {
        streaming(&Root::open(directory.path()).unwrap()).unwrap()
    }

    #[test]
    fn nothing_is_missing_where_all_is_there() {
        let directory = whole();
        let seen = look(&directory);
        let Streaming { architecture, cpus, memory_bytes, configfs, has_snapshots, .. } = &seen;
        assert_eq!((architecture.as_str(), *cpus, *memory_bytes), (std::env::consts::ARCH, 4, 16_309_720 * 1024));
        assert_eq!((*configfs, *has_snapshots, seen.cache_free_bytes > 0), (true, false, true));
        assert_eq!((seen.missing_modules.len(), seen.unusable_units.len()), (0, 0), "{seen:?}");
    }

    #[test]
    fn each_absence_is_seen() {
        let directory = whole();
        let path = |path: &str| directory.path().join(path);
        fs::remove_file(path("lib/modules/6.8.0-azure/modules.dep")).unwrap();
        put(directory.path(), "/proc/filesystems", "\text4\n", 0o644);
        fs::set_permissions(path("opt/overlaybd-tcmu.service/bin"), fs::Permissions::from_mode(0o644)).unwrap();
        fs::create_dir_all(path("etc/systemd/system")).unwrap();
        symlink("/dev/null", path("etc/systemd/system/overlaybd-snapshotter.service")).unwrap();
        fs::remove_file(path("usr/lib/systemd/system/acr-mirror.service")).unwrap();
        put(directory.path(), &format!("{SNAPSHOTTER_DIRECTORY}/1/fs"), "", 0o644);
        let seen = look(&directory);
        assert_eq!(seen.missing_modules.iter().collect::<Vec<_>>(), ["target_core_user"]);
        let why: Vec<_> = STREAMING_UNITS.iter().map(|unit| seen.unusable_units[*unit].as_str()).collect();
        let program = "its program /opt/overlaybd-tcmu.service/bin is not there, or nobody may run it";
        assert_eq!(why, [program, "it is masked", "there is no such unit"]);
        assert_eq!((seen.configfs, seen.has_snapshots), (false, true));
    }

    #[test]
    fn lists_of_cpus_are_counted() {
        for (list, count) in [("0-3", 4), ("0", 1), ("0-1,4-7\n", 6), ("", 0), ("3-1", 0), ("x", 0)] {
            assert_eq!(cpus(list), count, "{list}");
        }
    }

    #[test]
    fn this_machine_is_looked_at_within_the_limit() {
        let root = Root::open(Path::new("/")).unwrap();
        let start = std::time::Instant::now();
        let seen = streaming(&root).unwrap();
        assert!(start.elapsed() < std::time::Duration::from_millis(50), "{:?}", start.elapsed());
        assert!(seen.cpus > 0 && seen.memory_bytes > 0 && seen.cache_free_bytes > 0, "{seen:?}");
    }
}
