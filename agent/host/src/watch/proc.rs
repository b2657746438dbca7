//! Counters, limits and pressure, read from `/proc` and `/sys`.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::time::{Duration, Instant};

use nap_model::monitor::{Pressure, ProcessSeen, Used};

use crate::root::Root;

/// Most tasks of which it is told that they are stuck.
const MAX_STUCK: usize = 8;

/// A file's text. What cannot be read now is not there now; that nothing was read is seen further in.
fn text(root: &Root, path: &str) -> Option<String> {
    root.read_text(path).ok().flatten()
}

fn number(root: &Root, path: &str) -> Option<u64> {
    text(root, path)?.parse().ok()
}

fn names(root: &Root, path: &str) -> Vec<String> {
    root.names(path).unwrap_or_default() // none when it cannot be read
}

/// Share of the time that tasks waited, over ten seconds.
pub(super) fn pressure(root: &Root) -> Option<Pressure> {
    Some(Pressure {
        cpu_some: average(&text(root, "/proc/pressure/cpu")?, "some")?,
        io_full: average(&text(root, "/proc/pressure/io")?, "full")?,
        memory_full: average(&text(root, "/proc/pressure/memory")?, "full")?,
    })
}

fn average(text: &str, line: &str) -> Option<f64> {
    let line = text.lines().find(|found| found.split(' ').next() == Some(line))?;
    line.split(' ').find_map(|field| field.strip_prefix("avg10="))?.parse().ok()
}

pub(super) fn limits(root: &Root) -> BTreeMap<String, Used> {
    let tasks = || {
        let load = text(root, "/proc/loadavg")?;
        let count = load.split(' ').nth(3)?.split_once('/')?.1.parse().ok()?;
        Some(Used { count, limit: most_tasks(root)? })
    };
    let files = || {
        let text = text(root, "/proc/sys/fs/file-nr")?;
        let mut fields = text.split_ascii_whitespace();
        Some(Used { count: fields.next()?.parse().ok()?, limit: fields.nth(1)?.parse().ok()? })
    };
    let conntrack = || {
        Some(Used {
            count: number(root, "/proc/sys/net/netfilter/nf_conntrack_count")?,
            limit: number(root, "/proc/sys/net/netfilter/nf_conntrack_max")?,
        })
    };
    let all = [("tasks", tasks()), ("files", files()), ("conntrack", conntrack())];
    all.into_iter().filter_map(|(name, used)| Some((name.to_owned(), used?))).collect()
}

/// From so many mounts on systemd and kubelet are busy with them alone; the kernel allows `fs.mount-max`, 100,000 as a rule. Source: the
/// facts, F17.
const MOUNTS: u64 = 20_000;
/// Four times what the facts have (F45): a large node with many short pods has thousands at rest.
const DYING_CGROUPS: u64 = 20_000;
/// Largest share of the memory that is the kernel's own, in percent. Source: the facts, F44.
const KERNEL_PERCENT: u64 = 40;
/// Largest share of all tasks that there can be, in percent. Source: the facts, F30.
const ZOMBIES_PERCENT: u64 = 10;

/// Share of all tasks from which on it is asked who has them.
const ASKED_FROM: f64 = 0.9;

/// How many tasks there can be.
fn most_tasks(root: &Root) -> Option<u64> {
    let limits = ["/proc/sys/kernel/threads-max", "/proc/sys/kernel/pid_max"];
    limits.iter().filter_map(|path| number(root, path)).min()
}

/// The cgroup that has the most tasks, and how many: the innermost that has at least half of those of the one around it. Looked for when there
/// is not much room for others.
pub(super) fn busiest_cgroup(root: &Root, limits: &BTreeMap<String, Used>) -> Option<(String, u64)> {
    limits.get("tasks").filter(|used| used.share() >= ASKED_FROM)?;
    let mut found = None;
    let mut around = "/sys/fs/cgroup".to_owned();
    loop {
        let below = root.names(&around).unwrap_or_default(); // one that is gone has nothing below it
        let counted =
            below.into_iter().filter_map(|name| Some((number(root, &format!("{around}/{name}/pids.current"))?, name)));
        let Some((count, name)) = counted.max() else { return found };
        if found.as_ref().is_some_and(|(_, all)| count * 2 < *all) {
            return found;
        }
        around = format!("{around}/{name}");
        found = Some((around.clone(), count));
    }
}

/// Processes that have ended and of whom nobody has taken note, against how many would be too many.
pub(super) fn zombies(root: &Root, count: u64) -> Option<(String, Used)> {
    Some(("zombies".to_owned(), Used { count, limit: most_tasks(root)? * ZOMBIES_PERCENT / 100 }))
}

/// The same as [`limits`] for what takes longer to count, and may wait for others in the kernel.
pub(super) fn slow_limits(root: &Root, processes: &BTreeMap<&'static str, u32>) -> BTreeMap<String, Used> {
    let mounts = || {
        let most = number(root, "/proc/sys/fs/mount-max").unwrap_or(MOUNTS); // kernels before 4.9 have none
        let limit = most.min(MOUNTS);
        Some(Used { count: lines(root, "/proc/self/mountinfo", limit)?, limit })
    };
    let cgroups = || {
        let text = text(root, "/sys/fs/cgroup/cgroup.stat")?;
        let count = text.lines().find_map(|line| line.strip_prefix("nr_dying_descendants "))?.parse().ok()?;
        Some(Used { count, limit: DYING_CGROUPS })
    };
    let kernel = || {
        let text = text(root, "/proc/meminfo")?;
        let count = ["SUnreclaim", "Percpu"].iter().filter_map(|name| kib(&text, name)).sum();
        Some(Used { count, limit: kib(&text, "MemTotal")? * KERNEL_PERCENT / 100 })
    };
    // Source: proc(5), `TCP: inuse 4 orphan 0 tw 0 alloc 7 mem 3`; ip-sysctl.rst, tcp_mem: low, pressure, high.
    let tcp = || {
        let text = text(root, "/proc/net/sockstat")?;
        let mut words = text.lines().find_map(|line| line.strip_prefix("TCP: "))?.split(' ');
        let count = words.find(|word| *word == "mem").and(words.next())?.parse().ok()?;
        let limits = self::text(root, "/proc/sys/net/ipv4/tcp_mem")?;
        Some(Used { count, limit: limits.split_ascii_whitespace().nth(2)?.parse().ok()? })
    };
    let [keys, bytes] = keys(root);
    let all = [
        ("mounts", mounts()),
        ("keys", keys),
        ("keys.bytes", bytes),
        ("cgroups.dying", cgroups()),
        ("kernel.memory", kernel()),
        ("tcp.memory", tcp()),
    ];
    let mut limits: BTreeMap<_, _> =
        all.into_iter().filter_map(|(name, used)| Some((name.to_owned(), used?))).collect();
    for (unit, pid) in processes {
        limits.extend(files_of(root, *pid).map(|used| (format!("files/{unit}"), used)));
    }
    limits
}

/// Lines of a file that may be very long; not counted beyond `enough`.
fn lines(root: &Root, path: &str, enough: u64) -> Option<u64> {
    let mut file = root.open_for_reading(path).ok().flatten()?;
    let mut buffer = vec![0; 64 * 1024];
    let mut count = 0;
    while count <= enough {
        let length = file.read(&mut buffer).ok()?;
        if length == 0 {
            break;
        }
        count += buffer[..length].iter().filter(|byte| **byte == b'\n').count() as u64;
    }
    Some(count)
}

/// `MemTotal:       16384 kB`
fn kib(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// root's keys, and their bytes: `0: 61 60/60 52/1000000 850/25000000`. Source: proc_key-users(5).
fn keys(root: &Root) -> [Option<Used>; 2] {
    let text = text(root, "/proc/key-users").unwrap_or_default(); // a kernel without keys
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("0:"));
    let mut fields = line.into_iter().flat_map(str::split_ascii_whitespace).skip(2).map(|field| {
        let (count, limit) = field.split_once('/')?;
        Some(Used { count: count.parse().ok()?, limit: limit.parse().ok()? })
    });
    [fields.next().flatten(), fields.next().flatten()]
}

/// A process' open files, and how many it may have. Nothing when it may have any number.
fn files_of(root: &Root, pid: u32) -> Option<Used> {
    let limits = text(root, &format!("/proc/{pid}/limits"))?;
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let limit = limit.split_ascii_whitespace().next()?.parse().ok()?;
    let path = format!("/proc/{pid}/fd");
    // Since 6.2 the kernel says how many; Documentation/filesystems/proc.rst, 3.13.
    let size = root.open_for_reading(&path).ok().flatten()?.metadata().ok()?.len();
    let count = if root.is_machine() && size > 0 { size } else { root.names(&path).ok()?.len() as u64 };
    (count > 0).then_some(Used { count, limit })
}

/// Which cgroup controllers kubelet needs and the kernel has not. Source: Documentation/admin-guide/cgroup-v2.rst, cgroup.controllers.
pub(super) fn missing_controllers(root: &Root) -> Option<Vec<String>> {
    let present = text(root, "/sys/fs/cgroup/cgroup.controllers")?;
    let is_missing = |name: &&str| !present.split(' ').any(|present| present == *name);
    Some(["cpu", "cpuset", "memory", "pids"].into_iter().filter(is_missing).map(str::to_owned).collect())
}

/// Numbers that only grow.
pub(super) fn counters(root: &Root) -> BTreeMap<String, u64> {
    let mut counters = BTreeMap::new();
    for device in names(root, "/sys/fs/ext4") {
        if let Some(errors) = number(root, &format!("/sys/fs/ext4/{device}/errors_count")) {
            counters.insert(format!("ext4.errors/{device}"), errors);
        }
    }
    for table in ["arp_cache", "ndisc_cache"] {
        let full = text(root, &format!("/proc/net/stat/{table}")).and_then(|text| column(&text, "table_fulls"));
        counters.extend(full.map(|full| (format!("neighbours.full/{table}"), full)));
    }
    let events = text(root, "/sys/fs/cgroup/system.slice/memory.events");
    let kills = events.and_then(|events| events.lines().find_map(|line| line.strip_prefix("oom_kill "))?.parse().ok());
    counters.extend(kills.map(|kills| ("oom.kills/system.slice".to_owned(), kills)));
    counters
}

/// The sum of a column of hexadecimal numbers, a line a CPU, below a line of names.
fn column(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines();
    let at = lines.next()?.split_ascii_whitespace().position(|found| found == name)?;
    let values = lines.filter_map(|line| u64::from_str_radix(line.split_ascii_whitespace().nth(at)?, 16).ok());
    Some(values.sum())
}

pub(super) fn tainted(root: &Root) -> Option<u64> {
    number(root, "/proc/sys/kernel/tainted")
}

/// Timeouts, in seconds, of the watchdogs that somebody feeds. Source: Documentation/ABI/testing/sysfs-class-watchdog.
pub(super) fn watchdogs(root: &Root) -> Vec<u64> {
    let devices = names(root, "/sys/class/watchdog").into_iter().map(|name| format!("/sys/class/watchdog/{name}"));
    let active = devices.filter(|device| text(root, &format!("{device}/state")).is_some_and(|state| state == "active"));
    active.filter_map(|device| number(root, &format!("{device}/timeout"))).collect()
}

/// NVMe controllers and their states.
pub(super) fn nvme(root: &Root) -> BTreeMap<String, String> {
    let controllers = names(root, "/sys/class/nvme").into_iter();
    controllers.filter_map(|name| Some((name.clone(), text(root, &format!("/sys/class/nvme/{name}/state"))?))).collect()
}

/// A process' state, and its CPU time in hundredths of a second.
pub(super) fn process(root: &Root, pid: u32) -> Option<(ProcessSeen, u64)> {
    let stat = Stat::read(root, &format!("/proc/{pid}/stat"))?;
    Some((ProcessSeen { pid, state: stat.state }, stat.cpu))
}

struct Stat {
    name: String,
    state: char,
    cpu: u64,
    started: u64,
}

impl Stat {
    /// Source: proc_pid_stat(5). The name is in brackets and may hold anything, brackets too.
    fn read(root: &Root, path: &str) -> Option<Self> {
        let text = text(root, path)?;
        let (head, fields) = text.rsplit_once(") ")?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = fields.split(' ').collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            name,
            state: fields.first()?.chars().next()?,
            cpu: number(11)? + number(12)?,
            started: number(19)?,
        })
    }
}

/// Tasks in uninterruptible sleep, and since when we see them so: same task, same CPU time.
#[derive(Debug, Default)]
pub(super) struct StuckTasks {
    since: HashMap<(u32, u64, u64), Instant>,
    zombies: u64,
}

impl StuckTasks {
    /// Processes that had ended at the last look, and of whom nobody had taken note.
    pub(super) fn zombies(&self) -> u64 {
        self.zombies
    }

    /// Those that were so at the last look already. Our own threads are not told of: they wait because they probe.
    pub(super) fn look(&mut self, root: &Root) -> Vec<(String, Duration)> {
        let now = Instant::now();
        let mut since = HashMap::new();
        let mut stuck = Vec::new();
        self.zombies = 0;
        for pid in names(root, "/proc").iter().filter_map(|name| name.parse::<u32>().ok()) {
            if pid == std::process::id() {
                continue;
            }
            let Some(stat) = Stat::read(root, &format!("/proc/{pid}/stat")) else { continue };
            self.zombies += u64::from(stat.state == 'Z');
            if stat.state != 'D' {
                continue;
            }
            let key = (pid, stat.started, stat.cpu);
            let first = *self.since.get(&key).unwrap_or(&now);
            since.insert(key, first);
            if first < now && stuck.len() < MAX_STUCK {
                stuck.push((stat.name, now - first));
            }
        }
        self.since = since;
        stuck.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let root = Root::open(directory.path()).unwrap();
        (directory, root)
    }

    #[test]
    fn the_cgroup_that_has_the_most_tasks_is_named_as_deep_as_they_are() {
        let (_directory, root) = root(&[
            ("sys/fs/cgroup/pids.current.not", "x"),
            ("sys/fs/cgroup/system.slice/pids.current", "300\n"),
            ("sys/fs/cgroup/kubepods.slice/pids.current", "29000\n"),
            ("sys/fs/cgroup/kubepods.slice/pod1/pids.current", "28000\n"),
            ("sys/fs/cgroup/kubepods.slice/pod2/pids.current", "1000\n"),
            ("sys/fs/cgroup/kubepods.slice/pod1/a/pids.current", "13000\n"),
            ("sys/fs/cgroup/kubepods.slice/pod1/b/pids.current", "12000\n"),
        ]);
        let nearly = BTreeMap::from([("tasks".to_owned(), Used { count: 29_500, limit: 30_000 })]);
        let wanted = ("/sys/fs/cgroup/kubepods.slice/pod1".to_owned(), 28_000);
        assert_eq!(busiest_cgroup(&root, &nearly), Some(wanted));
    }

    #[test]
    fn the_tables_of_proc_are_read() {
        let (_directory, root) = root(&[
            ("proc/loadavg", "0.10 0.20 0.30 2/345 6789\n"),
            ("proc/sys/kernel/threads-max", "30000\n"),
            ("sys/class/watchdog/watchdog0/state", "active\n"),
            ("sys/class/watchdog/watchdog0/timeout", "60\n"),
            ("sys/class/watchdog/watchdog1/state", "inactive\n"),
            ("sys/class/watchdog/watchdog1/timeout", "10\n"),
            ("proc/sys/kernel/pid_max", "32768\n"),
            ("proc/sys/fs/file-nr", "1184\t0\t9223372036854775807\n"),
            (
                "proc/pressure/cpu",
                "some avg10=12.50 avg60=1 avg300=0 total=5\nfull avg10=0.00 avg60=0 avg300=0 total=0\n",
            ),
            (
                "proc/pressure/io",
                "some avg10=80.00 avg60=1 avg300=0 total=5\nfull avg10=7.25 avg60=0 avg300=0 total=0\n",
            ),
            (
                "proc/pressure/memory",
                "some avg10=0.00 avg60=1 avg300=0 total=5\nfull avg10=0.00 avg60=0 avg300=0 total=0\n",
            ),
            // Captured on 6.18, two CPUs, after a flood.
            (
                "proc/net/stat/arp_cache",
                "entries  allocs   destroys hash_grows lookups  hits     res_failed rcv_probes_mcast rcv_probes_ucast \
                 periodic_gc_runs forced_gc_runs unresolved_discards table_fulls\n00000004  0 0 0 0 0 0 0 0 0 0 0 00000038\n\
                 00000004  0 0 0 0 0 0 0 0 0 0 0 00000002\n",
            ),
            ("sys/fs/ext4/sda1/errors_count", "3\n"),
            ("sys/fs/ext4/features/lazy_itable_init", "supported\n"),
            ("sys/fs/cgroup/system.slice/memory.events", "low 0\nhigh 0\nmax 0\noom 4\noom_kill 2\noom_group_kill 0\n"),
            ("sys/class/nvme/nvme0/state", "live\n"),
        ]);
        assert_eq!(watchdogs(&root), [60]);
        assert_eq!(limits(&root)["tasks"], Used { count: 345, limit: 30000 });
        assert_eq!(limits(&root)["files"].count, 1184);
        assert_eq!(busiest_cgroup(&root, &limits(&root)), None, "there is room");
        assert_eq!(pressure(&root), Some(Pressure { cpu_some: 12.5, io_full: 7.25, memory_full: 0.0 }));
        let wanted = [("ext4.errors/sda1", 3), ("neighbours.full/arp_cache", 0x3a), ("oom.kills/system.slice", 2)];
        assert_eq!(counters(&root), wanted.map(|(name, value)| (name.to_owned(), value)).into());
        assert_eq!(nvme(&root), [("nvme0".to_owned(), "live".to_owned())].into());
    }

    #[test]
    fn what_leaks_is_counted() {
        let (_directory, root) = root(&[
            ("proc/self/mountinfo", "1 0 0:2 / / rw - rootfs none rw\n23 1 259:2 / / rw - ext4 /dev/root rw\n"),
            ("proc/sys/fs/mount-max", "100000\n"),
            ("proc/sys/kernel/threads-max", "30000\n"),
            ("proc/key-users", "    0:    61 60/60 52/1000000 850/25000000\n65534:     2 2/2 2/200 20/20000\n"),
            ("sys/fs/cgroup/cgroup.stat", "nr_descendants 51\nnr_dying_descendants 7\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb\n"),
            (
                "proc/meminfo",
                "MemTotal:        8000000 kB\nPageTables:        10000 kB\nSUnreclaim:       90000 kB\nPercpu: 1 kB\n",
            ),
            ("proc/net/sockstat", "sockets: used 120\nTCP: inuse 4 orphan 0 tw 0 alloc 7 mem 3\nUDP: inuse 1 mem 0\n"),
            ("proc/sys/net/ipv4/tcp_mem", "90000\t120000\t180000\n"),
            (
                "proc/812/limits",
                "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 524288               files\n",
            ),
            ("proc/812/fd/0", ""),
            ("proc/812/fd/1", ""),
        ]);
        let limits = slow_limits(&root, &[("kubelet.service", 812), ("containerd.service", 813)].into());
        let used = |count, limit| Used { count, limit };
        let wanted = [
            ("cgroups.dying", used(7, 20_000)),
            ("files/kubelet.service", used(2, 1024)),
            ("kernel.memory", used(90_001, 3_200_000)),
            ("keys", used(52, 1_000_000)),
            ("keys.bytes", used(850, 25_000_000)),
            ("mounts", used(2, 20_000)),
            ("tcp.memory", used(3, 180_000)),
        ];
        assert_eq!(limits, wanted.map(|(name, used)| (name.to_owned(), used)).into());
        assert_eq!(missing_controllers(&root), Some(vec!["pids".to_owned()]));
        assert_eq!(zombies(&root, 4), Some(("zombies".to_owned(), used(4, 3000))));
    }

    #[test]
    fn a_name_with_brackets_hides_no_state() {
        let line = "812 (evil) S 1) D 1 812 812 0 -1 4194560 1 2 3 4 700 42 7 8 20 0 9 0 5500 1 1";
        let (_directory, root) = root(&[("proc/812/stat", line)]);
        let (seen, cpu) = process(&root, 812).unwrap();
        assert_eq!((seen.state, cpu), ('D', 742));
        let mut stuck = StuckTasks::default();
        assert_eq!(stuck.look(&root), [], "seen once is not stuck");
        let again = stuck.look(&root);
        assert_eq!(again[0].0, "evil) S 1");
    }

    #[test]
    fn our_own_state_is_read_from_the_real_kernel() {
        let root = Root::open(std::path::Path::new("/")).unwrap();
        let (seen, _) = process(&root, std::process::id()).unwrap();
        assert!(matches!(seen.state, 'R' | 'S'), "{seen:?}");
        assert!(limits(&root)["tasks"].count > 1);
        let own = slow_limits(&root, &[("us", std::process::id())].into());
        assert!(own["mounts"].count > 0 && own["files/us"].count > 2 && own["kernel.memory"].count > 0, "{own:?}");
    }
}
