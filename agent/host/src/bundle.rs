//! Evidence in one file: what whoever looks into a node asks for first, gathered before a repair or a reboot takes it away.
//!
//! A `tar.gz` below [`DIRECTORY`], 0600, on the OS disk, so that it survives a reboot; the newest [`KEPT`] are kept. Every part has a limit,
//! keeps its newest end, and is masked ([`nap_model::masking`]). What cannot be had is said in `manifest.json` and costs nothing else.
//! No program is started.

use std::fmt::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::{Timestamp, Unit};
use nap_model::masking::mask;
use nap_model::monitor::{CONTAINERD, KUBELET};
use nap_model::plan::AbsPath;
use serde_json::json;

use crate::root::{FileError, Root};
use crate::units::{UnitStatus, Units};
use crate::watch::kmsg::{self, More};
use crate::{chain, logs};

/// Where they lie.
pub const DIRECTORY: &str = "/var/lib/nap-agent/bundles";

/// How many are kept.
pub const KEPT: usize = 3;

/// How far back the journal is read.
const JOURNAL_WINDOW: Duration = Duration::from_secs(15 * 60);

/// Largest parts, in bytes before they are compressed. All of a bundle is below 8 MiB.
const MAX_JOURNAL: usize = 2 << 20;
const MAX_KERNEL: usize = 512 << 10;
const MAX_TASKS: usize = 512 << 10;
const MAX_FILE: usize = 256 << 10;

/// Units whose state is told.
const UNITS: &[&str] = &[
    KUBELET,
    CONTAINERD,
    "nap-boot.service",
    "nap-agent.service",
    "localdns.service",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-journald.service",
    "chrony.service",
];

/// Our own files. None has a secret in it; they are masked all the same.
const FILES: &[&str] = &[
    "/var/lib/nap-agent/health.json",
    "/var/lib/nap-agent/repairs.jsonl",
    "/var/lib/nap-agent/journal.jsonl",
    "/var/lib/nap-agent/facts.json",
    "/var/log/azure/aks/provision.json",
    "/etc/nap-agent/image.json",
    "/etc/nap-agent/nap-agent.toml",
];

/// What the kernel says of itself.
const KERNEL_FILES: &[&str] = &[
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/pressure/cpu",
    "/proc/pressure/io",
    "/proc/pressure/memory",
    "/proc/mounts",
    "/proc/diskstats",
    "/proc/mdstat",
    "/proc/swaps",
    "/proc/sys/fs/file-nr",
    "/proc/sys/kernel/tainted",
    "/proc/net/route",
    "/proc/net/sockstat",
    "/proc/cmdline",
    "/etc/resolv.conf",
];

/// A part of a bundle.
struct Part {
    name: String,
    /// The text, or why there is none.
    text: Result<String, String>,
    limit: usize,
}

/// Gathers the evidence of now; where it lies. `why` becomes part of the name: letters and digits.
///
/// # Errors
/// When the bundle cannot be written.
pub async fn collect(root: &Root, why: &str) -> Result<String, FileError> {
    let units = units(root).await;
    let mut parts = vec![
        Part { name: "units.txt".to_owned(), text: Ok(units_text(&units)), limit: MAX_FILE },
        Part { name: "journal.txt".to_owned(), text: journal(root), limit: MAX_JOURNAL },
        Part { name: "kernel.txt".to_owned(), text: kernel_log(root), limit: MAX_KERNEL },
        Part { name: "tasks.txt".to_owned(), text: Ok(tasks(root, &services(&units))), limit: MAX_TASKS },
    ];
    for path in FILES.iter().chain(KERNEL_FILES) {
        let text = match root.read(path) {
            Ok(Some(bytes)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(None) => continue,
            Err(error) => Err(chain(&error)),
        };
        parts.push(Part { name: path.trim_start_matches('/').to_owned(), text, limit: MAX_FILE });
    }
    let now = Timestamp::now().round(Unit::Second).unwrap_or_default();
    let bytes = archive(parts, why, now).map_err(|source| FileError {
        action: "compress a bundle for",
        path: DIRECTORY.to_owned(),
        source,
    })?;
    let why: String = why.chars().filter(char::is_ascii_alphanumeric).take(60).collect();
    let name = format!("{}-{why}.tar.gz", now.strftime("%Y%m%dT%H%M%SZ"));
    root.make_directory(&AbsPath::literal(DIRECTORY), 0o700)?;
    let path = format!("{DIRECTORY}/{name}");
    root.write(&AbsPath::try_from(path.as_str()).expect("letters and digits"), &bytes, 0o600)?;
    let all = list(root)?;
    for old in all.iter().take(all.len().saturating_sub(KEPT)).filter(|old| **old != path) {
        root.remove(&AbsPath::try_from(old.as_str()).expect("it is in our directory"))?;
    }
    Ok(path)
}

/// Those that are there, the oldest first.
///
/// # Errors
/// When the directory cannot be read.
pub fn list(root: &Root) -> Result<Vec<String>, FileError> {
    let mut names = root.names(DIRECTORY)?;
    names.retain(|name| name.ends_with(".tar.gz"));
    names.sort_unstable();
    Ok(names.into_iter().map(|name| format!("{DIRECTORY}/{name}")).collect())
}

fn archive(parts: Vec<Part>, why: &str, now: Timestamp) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let mut add = |name: &str, text: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(now.as_second()).unwrap_or_default());
        archive.append_data(&mut header, name, text.as_bytes())
    };
    let mut told = Vec::new();
    for Part { name, text, limit } in parts {
        match text {
            Ok(text) => {
                // Masked before it is cut: half a token is not known for one.
                let masked = mask(&text);
                let kept = newest(&masked, limit);
                add(&name, kept)?;
                told.push(json!({"name": name, "bytes": kept.len(), "leftOut": masked.len() - kept.len()}));
            }
            Err(why) => told.push(json!({"name": name, "missing": why})),
        }
    }
    let manifest = json!({"why": why, "at": now, "agent": env!("CARGO_PKG_VERSION"), "parts": told});
    add("manifest.json", &format!("{manifest:#}\n"))?;
    archive.into_inner()?.finish()
}

/// The end of a text, from the begin of a line on where there is one.
fn newest(text: &str, limit: usize) -> &str {
    let Some(cut) = text.len().checked_sub(limit).filter(|cut| *cut > 0) else { return text };
    let from = (cut..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    let tail = &text[from..];
    tail.find('\n').map_or(tail, |end| &tail[end + 1..])
}

type Seen = Result<Vec<(&'static str, Result<UnitStatus, String>)>, String>;

async fn units(root: &Root) -> Seen {
    let units = Units::connect(root).await.map_err(|error| chain(&error))?;
    let mut seen = Vec::new();
    for name in UNITS {
        seen.push((*name, units.status(name).await.map_err(|error| chain(&error))));
    }
    Ok(seen)
}

fn units_text(seen: &Seen) -> String {
    let line = |(name, status): &(&str, Result<UnitStatus, String>)| match status {
        Ok(status) => format!("{name}: {status}, {} restarts, process {}\n", status.restarts, status.main_pid),
        Err(why) => format!("{name}: {why}\n"),
    };
    seen.as_ref().map_or_else(|why| format!("{why}\n"), |seen| seen.iter().map(line).collect())
}

/// The main processes of kubelet and containerd.
fn services(seen: &Seen) -> Vec<u32> {
    let of_services = seen.iter().flatten().filter(|(name, _)| [KUBELET, CONTAINERD].contains(name));
    of_services.filter_map(|(_, status)| status.as_ref().ok().map(|status| status.main_pid)).collect()
}

fn journal(root: &Root) -> Result<String, String> {
    if !root.is_machine() {
        return Err("the journal is the machine's, not this root's".to_owned());
    }
    logs::newest(JOURNAL_WINDOW, MAX_JOURNAL).map_err(|error| error.to_string())
}

/// Every record that the kernel still has, of users, too: told apart by the number of their facility.
fn kernel_log(root: &Root) -> Result<String, String> {
    let file = kmsg::open_log(root).map_err(|error| chain(&error))?.ok_or("there is no such log")?;
    let mut text = String::new();
    loop {
        let more = kmsg::read_records(&file, usize::MAX, |record| {
            text.push_str(&String::from_utf8_lossy(record));
            if text.len() > 2 * MAX_KERNEL {
                text = newest(&text, MAX_KERNEL).to_owned();
            }
        });
        match more {
            More::Now => {}
            More::Later | More::Never(None) => return Ok(text),
            More::Never(Some(error)) => return Err(error.to_string()),
        }
    }
}

/// What waits in the kernel, and where: threads of kubelet and containerd, and every task in uninterruptible sleep.
fn tasks(root: &Root, services: &[u32]) -> String {
    let read = |path: String| root.read_text(&path).ok().flatten().unwrap_or_default(); // it has ended
    let mut text = String::new();
    let processes = root.names("/proc").unwrap_or_default(); // none below a scratch root
    for process in processes.iter().filter_map(|name| name.parse::<u32>().ok()) {
        for thread in root.names(&format!("/proc/{process}/task")).unwrap_or_default() {
            let directory = format!("/proc/{process}/task/{thread}");
            let stat = read(format!("{directory}/stat"));
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?');
            if text.len() > MAX_TASKS || (state != 'D' && !services.contains(&process)) {
                continue;
            }
            let name = read(format!("{directory}/comm"));
            let stack = read(format!("{directory}/stack"));
            let _ = writeln!(text, "{process}/{thread} {name} {state}\n{stack}"); // a String takes every text
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn contents(path: &std::path::Path) -> std::collections::BTreeMap<String, String> {
        let file = std::fs::File::open(path).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
        let read = |entry: std::io::Result<tar::Entry<'_, _>>| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[tokio::test]
    async fn a_bundle_has_what_is_there_masked_and_says_what_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("var/lib/nap-agent/repairs.jsonl", "{\"id\":1,\"detail\":\"token=hunter2hunter2\"}\n");
        write("proc/7/task/8/stat", "8 (a b) c) D 1 2");
        write("proc/7/task/8/comm", "stuck");
        write("proc/7/task/8/stack", "[<0>] io_schedule");
        write("proc/9/task/9/stat", "9 (well) S 1 2");
        let root = Root::open(directory.path()).unwrap();
        let path = collect(&root, "Restart/../Containerd").await.unwrap();
        assert!(path.ends_with("Z-RestartContainerd.tar.gz"), "{path}");
        let parts = contents(&root.outside(&path));
        assert_eq!(parts["var/lib/nap-agent/repairs.jsonl"], "{\"id\":1,\"detail\":\"token=********\"}\n");
        assert_eq!(parts["tasks.txt"], "7/8 stuck D\n[<0>] io_schedule\n");
        assert!(parts["units.txt"].contains("cannot reach systemd"), "{parts:#?}");
        let manifest: serde_json::Value = serde_json::from_str(&parts["manifest.json"]).unwrap();
        let journal = manifest["parts"].as_array().unwrap().iter().find(|part| part["name"] == "journal.txt").unwrap();
        assert!(journal["missing"].is_string(), "{manifest:#}");
    }

    #[tokio::test]
    async fn only_the_newest_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let old = ["20200101T000000Z-a", "20200102T000000Z-b", "20200103T000000Z-c"];
        for name in old {
            let path = directory.path().join(format!("var/lib/nap-agent/bundles/{name}.tar.gz"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let new = collect(&root, "now").await.unwrap();
        let kept = list(&root).unwrap();
        assert_eq!(kept.len(), KEPT);
        assert!(kept[0].contains(old[1]) && kept[KEPT - 1] == new, "{kept:?}");
    }

    #[test]
    fn the_newest_lines_fit_the_limit() {
        assert_eq!(newest("one\ntwo\nthree\n", 10), "three\n");
        assert_eq!(newest("one\n", 10), "one\n");
        assert_eq!(newest("ééé", 3), "é");
    }
}
