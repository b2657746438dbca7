//! Makes room on a file system of what nobody uses: the journal's oldest files, then images without a container, the largest first, until a
//! tenth of it is free.
//!
//! What a container may be made of in this moment looks unused, too: kubelet has pulled its image and says nothing of it to containerd. So only
//! images are removed that had no container two minutes ago either, which is the age that kubelet itself waits for. Source:
//! `imageMinimumGCAge` in kubelet's configuration.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use nap_model::monitor::Space;
use nap_model::plan::{AbsPath, CONTAINERD_DIRECTORY};
use nix::sys::stat::fstat;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::chain;
use crate::grpc::{self, Value, message_field, text_field};
use crate::root::{FileError, Root};
use crate::watch::{CONTAINERD_CONFIG, CONTAINERD_SOCKET, space};

const JOURNALS: &str = "/var/log/journal";

/// Share of a file system that should be free, in bytes and in inodes: well below where its fault ends.
const FREE: f64 = 0.10;

/// What the journal keeps of its closed files, in bytes: they say why the disk is full.
const KEPT_JOURNAL: u64 = 64 << 20;

/// How long an image must have been without a container.
const UNUSED_FOR: Duration = Duration::from_secs(120);

/// Longest time for one answer of containerd; a removal takes the image's layers with it.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Largest list, in bytes.
const MAX_LIST: usize = 16 << 20;

/// Makes room on the file system that `path` is on. What was removed.
///
/// # Errors
/// When nothing could be.
pub(crate) async fn free(root: &Root, path: &str) -> Result<String, String> {
    let device = device(root, path).ok_or_else(|| format!("{path} is not there"))?;
    let is_on_it = |other: &str| self::device(root, other) == Some(device);
    let is_enough = || room(root, path).is_some_and(|space| is_roomy(&space));
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    if is_on_it(JOURNALS) {
        match vacuum(root, is_enough) {
            Ok((0, _)) => {}
            Ok((count, bytes)) => removed.push(format!("{count} files of the journal, {} MiB", bytes >> 20)),
            Err(error) => failures.push(chain(&error)),
        }
    }
    if !is_enough() && is_on_it(&containerd_root(root)) {
        match prune(root, is_enough).await {
            Ok(images) if images.is_empty() => {}
            Ok(images) => removed.push(format!("{} images: {}", images.len(), images.join(", "))),
            Err(why) => failures.push(why),
        }
    }
    failures.iter().for_each(|error| warn!(error, path, "cannot make all the room that there could be"));
    match (removed.is_empty(), failures.is_empty()) {
        (false, _) => Ok(removed.join("; ")),
        (true, false) => Err(failures.join("; ")),
        (true, true) => Err(format!("nothing on {path} is unused: neither old files of the journal nor images")),
    }
}

fn device(root: &Root, path: &str) -> Option<u64> {
    let directory = root.open_for_reading(path).ok().flatten()?;
    Some(fstat(&directory).ok()?.st_dev)
}

fn room(root: &Root, path: &str) -> Option<Space> {
    space(root.open_for_reading(path).ok().flatten()?)
}

fn is_roomy(space: &Space) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "a share needs no 53 bits")]
    let share = |free: u64, all: u64| if all == 0 { 1.0 } else { free as f64 / all as f64 };
    share(space.free_bytes, space.bytes) >= FREE && share(space.free_inodes, space.inodes) >= FREE
}

/// Removes closed files of the journal, the oldest first, as journalctl's `--vacuum-size` does. How many, and their bytes.
fn vacuum(root: &Root, is_enough: impl Fn() -> bool) -> Result<(usize, u64), FileError> {
    let mut closed = Vec::new();
    for machine in root.names(JOURNALS)? {
        for name in root.names(&format!("{JOURNALS}/{machine}"))? {
            let path = format!("{JOURNALS}/{machine}/{name}");
            if let (true, Ok(path)) = (is_closed(&name), AbsPath::try_from(path.as_str()))
                && let Some(file) = root.open_for_reading(path.as_str())?
                && let Ok(stat) = fstat(&file)
            {
                closed.push((stat.st_mtime, u64::try_from(stat.st_blocks).unwrap_or_default() * 512, path));
            }
        }
    }
    closed.sort_by_key(|(time, ..)| *time);
    let mut left: u64 = closed.iter().map(|(_, bytes, _)| bytes).sum();
    let (mut count, mut freed) = (0, 0);
    for (_, bytes, path) in closed {
        if left <= KEPT_JOURNAL || is_enough() {
            break;
        }
        root.remove(&path)?;
        left -= bytes;
        freed += bytes;
        count += 1;
    }
    Ok((count, freed))
}

/// Whether journald writes to a file no more. Source: `journal_file_rotate` and `journal_directory_vacuum` of systemd: `NAME@SEQUENCE.journal`
/// is closed, `NAME@TIME.journal~` was not closed well.
fn is_closed(name: &str) -> bool {
    name.contains('@') && (name.ends_with(".journal") || name.ends_with(".journal~"))
}

/// The directory of containerd's images.
fn containerd_root(root: &Root) -> String {
    let config = containerd_config(root);
    config
        .and_then(|config| Some(config.get("root")?.as_str()?.to_owned()))
        .unwrap_or_else(|| CONTAINERD_DIRECTORY.to_owned())
}

fn containerd_config(root: &Root) -> Option<toml::Table> {
    root.read_text(CONTAINERD_CONFIG).ok().flatten()?.parse().ok()
}

/// An image as the CRI lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Image {
    id: String,
    names: Vec<String>,
    bytes: u64,
    is_pinned: bool,
}

/// Removes images that had no container for two minutes; their names.
async fn prune(root: &Root, is_enough: impl Fn() -> bool) -> Result<Vec<String>, String> {
    let socket = root.outside(CONTAINERD_SOCKET);
    let kept = containerd_config(root).map(|config| sandbox_images(&config)).unwrap_or_default();
    let before: BTreeSet<String> = unused(&socket, &kept).await?.into_iter().map(|image| image.id).collect();
    if before.is_empty() {
        return Ok(Vec::new());
    }
    info!(images = before.len(), "without a container; those that still are in {} s go", UNUSED_FOR.as_secs());
    sleep(UNUSED_FOR).await;
    let mut images = unused(&socket, &kept).await?;
    images.retain(|image| before.contains(&image.id));
    images.sort_by_key(|image| std::cmp::Reverse(image.bytes));
    let mut removed = Vec::new();
    for image in images {
        if is_enough() {
            break;
        }
        // RemoveImageRequest{image: 1 ImageSpec{image: 1}}
        let message = message_field(1, &text_field(1, &image.id));
        ask(&socket, "ImageService/RemoveImage", &message).await?;
        let name = image.names.first().unwrap_or(&image.id).clone();
        info!(image = name, mib = image.bytes >> 20, "removed");
        removed.push(name);
    }
    Ok(removed)
}

/// Images that are neither pinned, nor a container's, nor that of sandboxes.
async fn unused(socket: &Path, kept: &BTreeSet<String>) -> Result<Vec<Image>, String> {
    // Images first: who gets a container meanwhile is in the other list.
    let images = ask(socket, "ImageService/ListImages", &[]).await?;
    let containers = ask(socket, "RuntimeService/ListContainers", &[]).await?;
    let used = used(&containers).ok_or("containerd's list of containers cannot be read")?;
    let images = images_of(&images).ok_or("containerd's list of images cannot be read")?;
    Ok(without(images, &used, kept))
}

fn without(mut images: Vec<Image>, used: &BTreeSet<String>, kept: &BTreeSet<String>) -> Vec<Image> {
    images.retain(|image| {
        let is_in =
            |set: &BTreeSet<String>| set.contains(&image.id) || image.names.iter().any(|name| set.contains(name));
        !image.is_pinned && !is_in(used) && !is_in(kept)
    });
    images
}

/// Images of sandboxes, by the names that containerd's configuration has: an older containerd pins none.
fn sandbox_images(config: &toml::Table) -> BTreeSet<String> {
    let plugin = |name: &str| config.get("plugins")?.get(name);
    let old = plugin("io.containerd.grpc.v1.cri").and_then(|cri| cri.get("sandbox_image"));
    let new = plugin("io.containerd.cri.v1.images").and_then(|images| images.get("pinned_images"));
    let pinned = new.and_then(toml::Value::as_table).into_iter().flat_map(|table| table.values());
    old.into_iter().chain(pinned).filter_map(toml::Value::as_str).map(str::to_owned).collect()
}

async fn ask(socket: &Path, method: &str, message: &[u8]) -> Result<hyper::body::Bytes, String> {
    grpc::ask_cri(socket, method, message, (MAX_LIST, ANSWER_LIMIT)).await
}

/// `ListImagesResponse{images: 1 repeated{id: 1, repo_tags: 2 repeated, repo_digests: 3 repeated, size: 4, pinned: 8}}`.
fn images_of(message: &[u8]) -> Option<Vec<Image>> {
    let read = |value: Value<'_>| {
        let mut image = Image { id: String::new(), names: Vec::new(), bytes: 0, is_pinned: false };
        for (number, value) in grpc::fields(value.bytes()?)? {
            match (number, value) {
                (1, Value::Bytes(id)) => image.id = text(id),
                (2 | 3, Value::Bytes(name)) => image.names.push(text(name)),
                (4, Value::Number(bytes)) => image.bytes = bytes,
                (8, Value::Number(pinned)) => image.is_pinned = pinned != 0,
                _ => {}
            }
        }
        (!image.id.is_empty()).then_some(image)
    };
    let images = grpc::fields(message)?.into_iter().filter(|(number, _)| *number == 1);
    images.map(|(_, image)| read(image)).collect()
}

/// Every name by which a container's image is known: `ListContainersResponse{containers: 1 repeated{image: 4{image: 1,
/// user_specified_image: 18}, image_ref: 5, image_id: 10}}`.
fn used(message: &[u8]) -> Option<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for (_, container) in grpc::fields(message)?.into_iter().filter(|(number, _)| *number == 1) {
        for (number, value) in grpc::fields(container.bytes()?)? {
            match number {
                4 => {
                    let specs =
                        grpc::fields(value.bytes()?)?.into_iter().filter(|(number, _)| [1, 18].contains(number));
                    names.extend(specs.filter_map(|(_, name)| name.bytes().map(text)));
                }
                5 | 10 => names.extend(value.bytes().map(text)),
                _ => {}
            }
        }
    }
    Some(names)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, name: &str, is_pinned: bool) -> Image {
        Image { id: id.to_owned(), names: vec![name.to_owned()], bytes: 300, is_pinned }
    }

    fn message(number: u8, fields: &[Vec<u8>]) -> Vec<u8> {
        message_field(number, &fields.concat())
    }

    #[test]
    fn lists_of_the_cri_are_read() {
        let wire = |id: &str, name: &str, pinned: u8| {
            message(1, &[text_field(1, id), text_field(2, name), vec![0x20, 0xac, 0x02], vec![0x40, pinned]])
        };
        let list = [wire("sha256:a", "x/a:1", 0), wire("sha256:b", "x/b:1", 1)].concat();
        assert_eq!(images_of(&list), Some(vec![image("sha256:a", "x/a:1", false), image("sha256:b", "x/b:1", true)]));
        assert_eq!(images_of(&list[..9]), None);
        let container =
            message(1, &[text_field(1, "c"), message(4, &[text_field(1, "x/c:1")]), text_field(5, "sha256:c")]);
        assert_eq!(used(&container), Some(["sha256:c", "x/c:1"].map(str::to_owned).into()));
        assert_eq!((images_of(&[]), used(&[])), (Some(Vec::new()), Some(BTreeSet::new())));
    }

    #[test]
    fn what_somebody_uses_or_wants_kept_stays() {
        let images = || ["a", "b", "c", "d"].map(|id| image(id, &format!("x/{id}:1"), id == "a")).to_vec();
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let left = |used: &[&str], kept: &[&str]| {
            without(images(), &set(used), &set(kept)).into_iter().map(|image| image.id).collect::<String>()
        };
        assert_eq!(left(&[], &[]), "bcd");
        assert_eq!(left(&["b"], &["x/c:1"]), "d");
        for config in [
            "[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"x/c:1\"",
            "[plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = \"x/c:1\"",
        ] {
            assert_eq!(sandbox_images(&config.parse().unwrap()), set(&["x/c:1"]));
        }
    }

    #[test]
    fn the_journal_keeps_what_is_open_and_the_newest_of_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let folder = directory.path().join("var/log/journal/0123");
        std::fs::create_dir_all(&folder).unwrap();
        let names = ["system@1.journal", "system@2.journal~", "user-1000@3.journal", "system@4.journal"];
        for (age, name) in names.iter().rev().enumerate() {
            std::fs::write(folder.join(name), vec![1; 20 << 20]).unwrap();
            let time = std::time::SystemTime::now() - Duration::from_secs(100 * age as u64);
            std::fs::File::options().write(true).open(folder.join(name)).unwrap().set_modified(time).unwrap();
        }
        for name in ["system.journal", "user-1000.journal", "notes@home.txt"] {
            std::fs::write(folder.join(name), vec![1; 1 << 20]).unwrap();
        }
        assert_eq!(vacuum(&root, || true).unwrap(), (0, 0), "there is room");
        let (count, bytes) = vacuum(&root, || false).unwrap();
        assert_eq!((count, bytes >> 20), (1, 20), "64 MiB of 80 stay");
        let left = root.names("/var/log/journal/0123").unwrap();
        assert!(left.len() == 6 && !left.contains(&names[0].to_owned()), "{left:?}");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_the_readers(bytes: Vec<u8>) {
            let _ = (images_of(&bytes), used(&bytes)); // must not panic
        }
    }
}
