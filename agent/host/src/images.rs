//! Images of pods in containerd's books that could never become a container: those that were streamed, so that their layers were never
//! pulled, on a node that does not stream any more.
//!
//! containerd lists such an image, so kubelet does not pull it, and no container of it can be made: `NotFound` for ever
//! (`facts/disks-imds-streaming.md` 5.3, case C). Forgotten, it is pulled again. As stuck is an image whose snapshots containerd has in its books
//! and the snapshotter has lost: it can be neither unpacked nor pulled (case G), until its snapshots are struck out. Asked are containerd's own services for images and
//! content, not the CRI, which does not tell what is in the store. Source: containerd, `api/services/images/v1`, `api/services/content/v1`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use nap_model::monitor::ImagesSeen;
use nap_model::plan::{AbsPath, chain_ids};
use serde_json::Value as Json;
use thiserror::Error;
use tokio::time::timeout;
use tracing::warn;

use crate::grpc::{self, CallError, FAILED_PRECONDITION, NOT_FOUND, text_field};
use crate::root::Root;

/// Longest time for one answer, on a machine that has just started.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Largest list of images, and largest manifest, in bytes.
const MAX_LIST: usize = 16 << 20;
const MAX_MANIFEST: usize = 4 << 20;

/// Why it is not known which images are whole.
#[derive(Debug, Error)]
pub enum ImagesError {
    /// A question was not answered.
    #[error("cannot ask containerd for {what}")]
    Call {
        /// What was asked for.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// containerd does not do it as things are.
    #[error("containerd refuses {what}: {why}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Its words.
        why: String,
    },
    /// The answer is none.
    #[error("containerd's answer about {0} cannot be read")]
    Unreadable(&'static str),
}

/// What would be forgotten; nothing when all images are whole.
pub(crate) async fn difference(root: &Root, socket: &AbsPath) -> Result<Option<String>, ImagesError> {
    let names = hollow(&root.outside(socket.as_str())).await?;
    Ok((!names.is_empty()).then(|| format!("forget images that were streamed: {}", names.join(", "))))
}

/// Forgets all of them, so that kubelet pulls them.
pub(crate) async fn forget_hollow(root: &Root, socket: &AbsPath) -> Result<(), ImagesError> {
    let socket = root.outside(socket.as_str());
    for name in hollow(&socket).await? {
        // DeleteImageRequest{name: 1}
        ask(&socket, "the removal of an image", "images.v1.Images/Delete", &text_field(1, &name)).await?;
    }
    Ok(())
}

/// Names of all images of which a layer is missing.
async fn hollow(socket: &Path) -> Result<Vec<String>, ImagesError> {
    let mut names = Vec::new();
    for (name, digest) in names_and_digests(socket).await? {
        if lacks_layers(socket, &digest).await? {
            names.push(name);
        }
    }
    Ok(names)
}

/// All images, and the digest that each name stands for.
async fn names_and_digests(socket: &Path) -> Result<Vec<(String, String)>, ImagesError> {
    let what = "its images";
    let unreadable = || ImagesError::Unreadable(what);
    let list = ask(socket, what, "images.v1.Images/List", &[]).await?.ok_or_else(unreadable)?;
    let mut images = Vec::new();
    // ListImagesResponse{images: 1 repeated{name: 1, target: 3{digest: 2}}}
    for image in all_of(&list, 1).ok_or_else(unreadable)? {
        let text = |message: &[u8], number| {
            let field = all_of(message, number)?.first().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            field.filter(|text| !text.is_empty())
        };
        let target = all_of(image, 3).and_then(|targets| targets.first().copied());
        let (Some(name), Some(digest)) = (text(image, 1), target.and_then(|target| text(target, 2))) else {
            return Err(unreadable());
        };
        images.push((name, digest));
    }
    Ok(images)
}

/// Whether a manifest that is here names a layer that is not. An index names manifests of other processors, which are not here, and
/// that is as it should be.
async fn lacks_layers(socket: &Path, target: &str) -> Result<bool, ImagesError> {
    let mut manifests = vec![target.to_owned()];
    while let Some(digest) = manifests.pop() {
        let Some(manifest) = read(socket, &digest).await? else { continue };
        let digests = |list: &str| {
            let items = manifest[list].as_array().into_iter().flatten();
            items.filter_map(|item| item["digest"].as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        manifests.extend(digests("manifests"));
        for layer in digests("layers") {
            // InfoRequest{digest: 1}
            if ask(socket, "a layer", "content.v1.Content/Info", &text_field(1, &layer)).await?.is_none() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// A document in the store; nothing when it is not there, or none.
async fn read(socket: &Path, digest: &str) -> Result<Option<Json>, ImagesError> {
    // ReadContentRequest{digest: 1}, ReadContentResponse{data: 2} repeated
    let message = text_field(1, digest);
    let parts = match messages(socket, "a manifest", "content.v1.Content/Read", &message, MAX_MANIFEST).await? {
        None => return Ok(None),
        Some(parts) => parts,
    };
    let mut bytes = Vec::new();
    for part in &parts {
        let data = all_of(part, 2).ok_or(ImagesError::Unreadable("a manifest"))?;
        bytes.extend(data.concat());
    }
    Ok(serde_json::from_slice(&bytes).ok())
}

/// What would be struck out; nothing when the snapshotter has every snapshot that containerd says it has.
pub(crate) async fn snapshots_difference(
    root: &Root,
    socket: &AbsPath,
    snapshotter: &str,
) -> Result<Option<String>, ImagesError> {
    let lost = lost(&root.outside(socket.as_str()), snapshotter).await?;
    let names: Vec<&str> = lost.images.iter().map(|(name, _)| name.as_str()).collect();
    Ok((!names.is_empty()).then(|| format!("strike out lost snapshots of {}", names.join(", "))))
}

/// Strikes out what is lost. An image whose layers are in the store is unpacked again when it is needed; one that was streamed is forgotten,
/// so that kubelet pulls it.
pub(crate) async fn strike_out(root: &Root, socket: &AbsPath, snapshotter: &str) -> Result<(), ImagesError> {
    let socket = root.outside(socket.as_str());
    let lost = lost(&socket, snapshotter).await?;
    for snapshot in lost.snapshots {
        // RemoveSnapshotRequest{snapshotter: 1, key: 2}
        let message = [text_field(1, snapshotter), text_field(2, &snapshot)].concat();
        match ask(&socket, "the removal of a snapshot", "snapshots.v1.Snapshots/Remove", &message).await {
            // Another stands on it that no image and no container names; containerd collects that one by itself.
            Err(ImagesError::Refused { what, why }) => warn!(snapshot, why, "{what} is put off"),
            other => _ = other?,
        }
    }
    for (name, digest) in lost.images {
        if lacks_layers(&socket, &digest).await? {
            ask(&socket, "the removal of an image", "images.v1.Images/Delete", &text_field(1, &name)).await?;
        }
    }
    Ok(())
}

/// What the snapshotter has lost.
struct Lost {
    /// Images, by name and digest.
    images: Vec<(String, String)>,
    /// Snapshots, each before those that it stands on, which cannot be removed before it: of containers, then of images.
    snapshots: Vec<String>,
}

async fn lost(socket: &Path, snapshotter: &str) -> Result<Lost, ImagesError> {
    let (mut images, mut snapshots) = (Vec::new(), BTreeSet::new());
    // An image of pods has three names.
    let mut known: BTreeMap<String, bool> = BTreeMap::new();
    for (name, digest) in names_and_digests(socket).await? {
        if !known.contains_key(&digest) {
            let mut is_whole = true;
            for (height, snapshot) in chain_ids(&layers_of(socket, &digest).await?).into_iter().enumerate() {
                if is_lost(socket, snapshotter, &snapshot).await? {
                    is_whole = false;
                    snapshots.insert((Reverse(height), snapshot));
                }
            }
            known.insert(digest.clone(), is_whole);
        }
        if known.get(&digest) == Some(&false) {
            images.push((name, digest));
        }
    }
    let mut of_containers = Vec::new();
    if !images.is_empty() {
        for snapshot in snapshots_of_containers(socket, snapshotter).await? {
            if is_lost(socket, snapshotter, &snapshot).await? {
                of_containers.push(snapshot);
            }
        }
    }
    of_containers.extend(snapshots.into_iter().map(|(_, snapshot)| snapshot));
    Ok(Lost { images, snapshots: of_containers })
}

/// Names of the snapshots that containers were made of; a reboot leaves the books of those that ran before it.
async fn snapshots_of_containers(socket: &Path, snapshotter: &str) -> Result<Vec<String>, ImagesError> {
    let what = "its containers";
    let unreadable = || ImagesError::Unreadable(what);
    let list = ask(socket, what, "containers.v1.Containers/List", &[]).await?.ok_or_else(unreadable)?;
    let mut snapshots = Vec::new();
    // ListContainersResponse{containers: 1 repeated{snapshotter: 6, snapshot_key: 7}}
    for container in all_of(&list, 1).ok_or_else(unreadable)? {
        let text = |number| Some(String::from_utf8_lossy(all_of(container, number)?.first()?).into_owned());
        if text(6).as_deref() == Some(snapshotter) {
            snapshots.extend(text(7));
        }
    }
    Ok(snapshots)
}

/// Whether containerd has a snapshot in its books and the snapshotter has none. Both say "not found"; containerd names what it was asked for, and
/// the snapshotter the longer key that containerd asked it for. Source: `resolveKey` in containerd's metadata/snapshot.go.
async fn is_lost(socket: &Path, snapshotter: &str, snapshot: &str) -> Result<bool, ImagesError> {
    // StatSnapshotRequest{snapshotter: 1, key: 2}
    let message = [text_field(1, snapshotter), text_field(2, snapshot)].concat();
    let call = grpc::call(socket, "containerd.services.snapshots.v1.Snapshots/Stat", &message, MAX_LIST);
    let what = "a snapshot";
    match timeout(ANSWER_LIMIT, call).await {
        Ok(Ok(_)) => Ok(false),
        Ok(Err(CallError::Status { code: NOT_FOUND, message })) => {
            Ok(!message.contains(&format!("snapshot {snapshot} does not exist")))
        }
        Ok(Err(error)) => Err(ImagesError::Call { what, source: error.into() }),
        Err(late) => Err(ImagesError::Call { what, source: late.into() }),
    }
}

/// Digests of the archives of an image's layers, the lowest first; none when its configuration is not here.
async fn layers_of(socket: &Path, target: &str) -> Result<Vec<String>, ImagesError> {
    let mut manifests = vec![target.to_owned()];
    while let Some(digest) = manifests.pop() {
        let Some(manifest) = read(socket, &digest).await? else { continue };
        let others = manifest["manifests"].as_array().into_iter().flatten();
        manifests.extend(others.filter_map(|other| other["digest"].as_str().map(str::to_owned)));
        if let Some(config) = manifest["config"]["digest"].as_str()
            && let Some(config) = read(socket, config).await?
        {
            let layers = config["rootfs"]["diff_ids"].as_array().into_iter().flatten();
            return Ok(layers.filter_map(|layer| layer.as_str().map(str::to_owned)).collect());
        }
    }
    Ok(Vec::new())
}

/// The answer's first message; nothing when there is no such thing.
async fn ask(
    socket: &Path,
    what: &'static str,
    method: &str,
    message: &[u8],
) -> Result<Option<hyper::body::Bytes>, ImagesError> {
    let answer = messages(socket, what, method, message, MAX_LIST).await?;
    Ok(answer.map(|messages| messages.into_iter().next().unwrap_or_default()))
}

async fn messages(
    socket: &Path,
    what: &'static str,
    method: &str,
    message: &[u8],
    most: usize,
) -> Result<Option<Vec<hyper::body::Bytes>>, ImagesError> {
    let method = format!("containerd.services.{method}");
    match timeout(ANSWER_LIMIT, grpc::call(socket, &method, message, most)).await {
        Ok(Ok(messages)) => Ok(Some(messages)),
        Ok(Err(CallError::Status { code: NOT_FOUND, .. })) => Ok(None),
        Ok(Err(CallError::Status { code: FAILED_PRECONDITION, message })) => {
            Err(ImagesError::Refused { what, why: message })
        }
        Ok(Err(error)) => Err(ImagesError::Call { what, source: error.into() }),
        Err(late) => Err(ImagesError::Call { what, source: late.into() }),
    }
}

/// The texts or messages in all fields of that number; nothing when the message cannot be read.
fn all_of(message: &[u8], number: u64) -> Option<Vec<&[u8]>> {
    let of_number = grpc::fields(message)?.into_iter().filter(|(found, _)| *found == number);
    Some(of_number.filter_map(|(_, value)| value.bytes()).collect())
}

/// How many images kubelet would be told of, and how many containerd has. Both by their ids.
///
/// # Errors
/// When one of the two questions is not answered in time.
pub async fn count(socket: &Path) -> Result<ImagesSeen, ImagesError> {
    let what = "its images";
    let unreadable = || ImagesError::Unreadable(what);
    // ListImagesResponse{images: 1 repeated}, of the CRI.
    let call = timeout(ANSWER_LIMIT, grpc::call(socket, "runtime.v1.ImageService/ListImages", &[], MAX_LIST));
    let answer = call.await.map_err(|late| ImagesError::Call { what, source: late.into() })?;
    let answer = answer.map_err(|error| ImagesError::Call { what, source: error.into() })?;
    let listed = all_of(answer.first().map(AsRef::as_ref).unwrap_or_default(), 1).ok_or_else(unreadable)?.len();
    let list = ask(socket, what, "images.v1.Images/List", &[]).await?.ok_or_else(unreadable)?;
    let images = all_of(&list, 1).ok_or_else(unreadable)?;
    // An image of pods has a name by its tag, one by its digest, and this one by its configuration.
    let is_id =
        |image: &&&[u8]| all_of(image, 1).is_some_and(|names| names.iter().any(|name| name.starts_with(b"sha256:")));
    Ok(ImagesSeen { listed, stored: images.iter().filter(is_id).count() })
}
