//! A full disk under a real containerd: images that nobody uses go, until there is room, and no other.
//!
//! Everything runs below a scratch directory; containerd's own is a small file system of its own. Needs root and
//! `tests/containerd/fetch.sh`; says SKIPPED otherwise.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nap_host::repairs::prepare;
use nap_host::root::Root;
use nap_model::repair::{Act, repair};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::statvfs;
use pretend_streaming::containerd::{Containerd, fetched};
use pretend_streaming::registry::{Image, Registry};
use tokio::time::sleep;

const MIB: usize = 1 << 20;

/// In place of runc, which a machine that builds may not be allowed to run: a container is a process that sleeps.
const RUNC: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
    --root) root=$2; shift ;;
    --pid-file) file=$2; shift ;;
    --bundle | --log | --log-format) shift ;;
    create | kill | delete) verb=$1 ;;
    -*) ;;
    *) id=${id:-$1} ;;
    esac
    shift
done
mkdir -p "$root"
case $verb in
create)
    setsid sleep 900 </dev/null >/dev/null 2>&1 &
    printf %s $! >"$root/$id.pid"
    cp "$root/$id.pid" "$file"
    ;;
kill | delete) [ ! -f "$root/$id.pid" ] || kill -KILL "$(cat "$root/$id.pid")" 2>/dev/null || true ;;
esac
"#;

/// containerd's programs, and something in place of runc.
fn with_runc(programs: &Path, at: &Path) -> PathBuf {
    fs::create_dir_all(at).unwrap();
    for program in fs::read_dir(programs).unwrap() {
        let program = program.unwrap();
        symlink(program.path().canonicalize().unwrap(), at.join(program.file_name())).unwrap();
    }
    fs::write(at.join("runc"), RUNC).unwrap();
    fs::set_permissions(at.join("runc"), fs::Permissions::from_mode(0o755)).unwrap();
    at.to_owned()
}

/// A file system in memory that goes with it.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), Some("size=200m")).unwrap();
        Self(at)
    }

    fn free_percent(&self) -> u64 {
        let stat = statvfs(&self.0).unwrap();
        stat.blocks_available() * 100 / stat.blocks()
    }

    /// Writes a file that leaves so much.
    fn fill_up_to(&self, percent: u64) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        while self.free_percent() > percent {
            file.write_all(&vec![1; MIB]).unwrap();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH); // a container's mounts may be left in it
    }
}

/// An image of that size, with a program that waits.
fn image(name: &str, mib: usize) -> Image {
    let filling = (0..mib * MIB).map(|at| name.as_bytes()[at % name.len()]).collect();
    Image::waits_with(name, "1", vec![("filling", filling, 0o644)])
}

fn configuration(version: u8, sandbox: &str) -> String {
    match version {
        2 => format!(
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{sandbox}\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n"
        ),
        _ => format!(
            "version = 3\n[plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = \"{sandbox}\"\n\
             [plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n"
        ),
    }
}

async fn only_what_nobody_uses_goes(series: &str, version: u8) {
    let Some(programs) = fetched(series) else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: no containerd {series} in target, or not root"); // nobody listens
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let disk = Disk::mount(scratch.path().join("mnt"));
    let names = ["pause", "used", "big", "small", "fresh"];
    let images: Vec<_> = names.iter().zip([0, 5, 20, 2, 2]).map(|(name, mib)| image(name, mib)).collect();
    let registry = Registry::start(0, &images).await.unwrap();
    let of = |name: &str| format!("{}/{name}:1", registry.name());
    let hosts = disk.0.join("certs.d").join(registry.name());
    fs::create_dir_all(&hosts).unwrap();
    fs::write(hosts.join("hosts.toml"), format!("server = \"http://{}\"\n", registry.name())).unwrap();
    let programs = with_runc(&programs, &scratch.path().join("programs"));
    let mut containerd = Containerd::new(&programs, &disk.0);
    let text = configuration(version, &of("pause"));
    containerd.start(&text).await.unwrap();
    let cri = containerd.cri();
    for name in ["used", "big", "small"] {
        cri.pull(&of(name)).await.unwrap();
    }
    let pod = cri.run_pod("a").await.unwrap();
    cri.run_container(&pod, "a", &of("used")).await.unwrap();
    let root = node(scratch.path(), &containerd, &text);
    disk.fill_up_to(4);

    let row = repair("FreeSpace").unwrap();
    let act = prepare(&root, Act::FreeSpace).await.unwrap().act(&root, Act::FreeSpace, "/mnt", row.limit);
    let pull = async {
        // Its container is made in a moment: it was not there when the repair began.
        sleep(Duration::from_secs(20)).await;
        fs::remove_file(disk.0.join("filler")).unwrap();
        cri.pull(&of("fresh")).await.unwrap();
        disk.fill_up_to(4);
    };
    let (done, ()) = tokio::join!(act, pull);
    done.unwrap();
    let left: BTreeSet<String> = cri.images().await.unwrap().into_iter().collect();
    let wanted = ["pause", "used", "small", "fresh"].map(of);
    assert_eq!(left, wanted.into(), "containerd {series}: the largest first, and no more than was needed");
    assert!(disk.free_percent() >= 10, "{} % free", disk.free_percent());

    // Nothing is left to remove but what is small: it goes, and that is not enough.
    disk.fill_up_to(4);
    let again = prepare(&root, Act::FreeSpace).await.unwrap().act(&root, Act::FreeSpace, "/mnt", row.limit).await;
    again.unwrap();
    let left: BTreeSet<String> = cri.images().await.unwrap().into_iter().collect();
    assert_eq!(left, ["pause", "used"].map(of).into(), "containerd {series}");
    let nothing = prepare(&root, Act::FreeSpace).await.unwrap().act(&root, Act::FreeSpace, "/mnt", row.limit).await;
    let error = nothing.unwrap_err();
    assert!(error.contains("nothing on /mnt is unused"), "{error}");
    cri.remove_pod(&pod).await.unwrap();
}

/// The node's files, as the repair looks for them.
fn node(scratch: &Path, containerd: &Containerd, text: &str) -> Root {
    fs::create_dir_all(scratch.join("run/containerd")).unwrap();
    symlink(containerd.socket(), scratch.join("run/containerd/containerd.sock")).unwrap();
    fs::create_dir_all(scratch.join("etc/containerd")).unwrap();
    fs::write(scratch.join("etc/containerd/config.toml"), format!("root = \"/mnt/lib\"\n{text}")).unwrap();
    Root::open(scratch).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_containerd_1_is_made_room_on() {
    only_what_nobody_uses_goes("1.7", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_containerd_2_is_made_room_on() {
    only_what_nobody_uses_goes("2", 3).await;
}
