//! A snapshotter beside containerd, as overlaybd's is one: snapshots are directories, and mounts are bind mounts and overlays.
//!
//! Four modes: `plain` unpacks like containerd's own; `remote` has a layer before it was pulled, as a streamed one; `fail` breaks at
//! every call; `hang` takes calls and never answers. Source of names: containerd, `api/services/snapshots/v1/snapshots.proto`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use anyhow::bail;
use prost::Message;
use serde_json::json;

use crate::grpc::{Service, Status};

/// What it does with calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Serves them.
    Plain,
    /// Serves them, and has every layer that is in its directory `layers` by its digest.
    Remote,
    /// Breaks.
    Fail,
    /// Never answers.
    Hang,
}

impl FromStr for Mode {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> anyhow::Result<Self> {
        Ok(match word {
            "plain" => Self::Plain,
            "remote" => Self::Remote,
            "fail" => Self::Fail,
            "hang" => Self::Hang,
            _ => bail!("{word}: want plain, remote, fail or hang"),
        })
    }
}

/// PrepareSnapshotRequest and ViewSnapshotRequest.
#[derive(Clone, PartialEq, Message)]
struct Prepare {
    #[prost(string, tag = "2")]
    key: String,
    #[prost(string, tag = "3")]
    parent: String,
    #[prost(map = "string, string", tag = "4")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Mount {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    source: String,
    #[prost(string, repeated, tag = "4")]
    options: Vec<String>,
}

/// PrepareSnapshotResponse, ViewSnapshotResponse and MountsResponse.
#[derive(Clone, PartialEq, Message)]
struct Mounts {
    #[prost(message, repeated, tag = "1")]
    mounts: Vec<Mount>,
}

/// StatSnapshotRequest, MountsRequest, RemoveSnapshotRequest and UsageRequest.
#[derive(Clone, PartialEq, Message)]
struct Key {
    #[prost(string, tag = "2")]
    key: String,
}

#[derive(Clone, PartialEq, Message)]
struct Commit {
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    key: String,
    #[prost(map = "string, string", tag = "4")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Time {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

#[derive(Clone, PartialEq, Message)]
struct SnapshotInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    parent: String,
    #[prost(int32, tag = "3")]
    kind: i32,
    #[prost(message, optional, tag = "4")]
    created_at: Option<Time>,
    #[prost(message, optional, tag = "5")]
    updated_at: Option<Time>,
    #[prost(map = "string, string", tag = "6")]
    labels: HashMap<String, String>,
}

/// StatSnapshotResponse, UpdateSnapshotResponse and, repeated, ListSnapshotsResponse.
#[derive(Clone, PartialEq, Message)]
struct Infos {
    #[prost(message, repeated, tag = "1")]
    info: Vec<SnapshotInfo>,
}

#[derive(Clone, PartialEq, Message)]
struct Update {
    #[prost(message, optional, tag = "2")]
    info: Option<SnapshotInfo>,
}

#[derive(Clone, PartialEq, Message)]
struct Usage {
    #[prost(int64, tag = "1")]
    size: i64,
    #[prost(int64, tag = "2")]
    inodes: i64,
}

const VIEW: i32 = 1;
const ACTIVE: i32 = 2;
const COMMITTED: i32 = 3;

/// The name that a layer's snapshot is to have; there while an image is unpacked.
const TARGET: &str = "containerd.io/snapshot.ref";
/// The digest of a layer. Source: containerd, `pkg/snapshotters`.
const LAYER: &str = "containerd.io/snapshot/cri.layer-digest";

/// One snapshot.
#[derive(Debug, Clone)]
struct Snapshot {
    parent: String,
    kind: i32,
    labels: HashMap<String, String>,
    /// The directory of its own files.
    directory: PathBuf,
}

/// The snapshotter.
#[derive(Debug)]
pub struct Snapshotter {
    mode: Mode,
    directory: PathBuf,
    snapshots: Mutex<BTreeMap<String, Snapshot>>,
}

impl Snapshotter {
    /// One that keeps its snapshots in a directory, as an earlier one there left them.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(directory: &Path, mode: Mode) -> anyhow::Result<Self> {
        fs::create_dir_all(directory.join("snapshots"))?;
        let snapshots = match fs::read(directory.join("books.json")) {
            Ok(bytes) => read_books(&bytes)?,
            Err(_) => BTreeMap::new(),
        };
        Ok(Self { mode, directory: directory.to_owned(), snapshots: Mutex::new(snapshots) })
    }

    /// How many snapshots it has that were never unpacked.
    pub fn streamed(&self) -> usize {
        let snapshots = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        snapshots.values().filter(|one| one.directory.starts_with(self.directory.join("layers"))).count()
    }

    fn dispatch(&self, method: &str, message: &[u8]) -> Result<Vec<u8>, Status> {
        let mut snapshots = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match method {
            "Prepare" => self.prepare(&mut snapshots, read(message)?, ACTIVE)?.encode_to_vec(),
            "View" => self.prepare(&mut snapshots, read(message)?, VIEW)?.encode_to_vec(),
            "Mounts" => {
                let Key { key } = read(message)?;
                let found = snapshots.get(&key).ok_or_else(|| not_found(&key))?;
                mounts(&snapshots, &self.directory, found)?.encode_to_vec()
            }
            "Commit" => {
                let Commit { name, key, labels } = read(message)?;
                if snapshots.contains_key(&name) {
                    return Err(Status::new(Status::ALREADY_EXISTS, name));
                }
                let mut committed = snapshots.remove(&key).ok_or_else(|| not_found(&key))?;
                committed.kind = COMMITTED;
                committed.labels = labels;
                snapshots.insert(name, committed);
                Vec::new()
            }
            "Remove" => {
                let Key { key } = read(message)?;
                if snapshots.values().any(|one| one.parent == key) {
                    return Err(Status::new(Status::FAILED_PRECONDITION, format!("{key} has children")));
                }
                snapshots.remove(&key).ok_or_else(|| not_found(&key))?;
                Vec::new()
            }
            "Stat" => {
                let Key { key } = read(message)?;
                let found = snapshots.get(&key).ok_or_else(|| not_found(&key))?;
                Infos { info: vec![info(&key, found)] }.encode_to_vec()
            }
            "Update" => {
                let Update { info: changed } = read(message)?;
                let changed = changed.unwrap_or_default();
                let found = snapshots.get_mut(&changed.name).ok_or_else(|| not_found(&changed.name))?;
                found.labels = changed.labels;
                Infos { info: vec![info(&changed.name, found)] }.encode_to_vec()
            }
            // Without its filters: containerd looks itself.
            "List" => Infos { info: snapshots.iter().map(|(name, one)| info(name, one)).collect() }.encode_to_vec(),
            "Usage" => Usage { size: 1, inodes: 1 }.encode_to_vec(),
            "Cleanup" => Vec::new(),
            _ => return Err(Status::new(Status::UNIMPLEMENTED, method)),
        };
        write_books(&self.directory, &snapshots).map_err(|error| broken(&error))?;
        Ok(answer)
    }

    fn prepare(
        &self,
        snapshots: &mut BTreeMap<String, Snapshot>,
        question: Prepare,
        kind: i32,
    ) -> Result<Mounts, Status> {
        let Prepare { key, parent, labels } = question;
        if snapshots.contains_key(&key) {
            return Err(Status::new(Status::ALREADY_EXISTS, key));
        }
        if !parent.is_empty() && !snapshots.contains_key(&parent) {
            return Err(not_found(&parent));
        }
        if let Some(target) = labels.get(TARGET)
            && let Some(layer) = labels.get(LAYER).and_then(|digest| self.layer(digest))
        {
            let name = format!("remote {target}");
            self.make_directory()?; // overlaybd's has one for every snapshot
            snapshots.insert(name, Snapshot { parent, kind: COMMITTED, labels: labels.clone(), directory: layer });
            write_books(&self.directory, snapshots).map_err(|error| broken(&error))?;
            return Err(Status::new(Status::ALREADY_EXISTS, format!("target snapshot {target}")));
        }
        let directory = self.make_directory()?;
        let made = Snapshot { parent, kind, labels, directory: directory.join("fs") };
        let mounts = mounts(snapshots, &self.directory, &made)?;
        snapshots.insert(key, made);
        Ok(mounts)
    }

    fn make_directory(&self) -> Result<PathBuf, Status> {
        let number = (1..).find(|number| !self.directory.join(format!("snapshots/{number}")).exists());
        let directory = self.directory.join(format!("snapshots/{}", number.unwrap_or_default()));
        for name in ["fs", "work"] {
            fs::create_dir_all(directory.join(name)).map_err(|error| broken(&error))?;
        }
        Ok(directory)
    }

    /// A layer that is there without having been pulled.
    fn layer(&self, digest: &str) -> Option<PathBuf> {
        let layer = self.directory.join("layers").join(digest.strip_prefix("sha256:")?);
        (self.mode == Mode::Remote && layer.is_dir()).then_some(layer)
    }
}

impl Service for Snapshotter {
    async fn answer(&self, path: &str, message: &[u8]) -> Result<Vec<u8>, Status> {
        match self.mode {
            Mode::Hang => std::future::pending().await,
            Mode::Fail => Err(Status::new(Status::INTERNAL, "told to break")),
            Mode::Plain | Mode::Remote => {
                let method = path.strip_prefix("/containerd.services.snapshots.v1.Snapshots/");
                self.dispatch(method.unwrap_or_default(), message)
            }
        }
    }
}

/// The whole chain below a snapshot, and its own directory to write to.
fn mounts(snapshots: &BTreeMap<String, Snapshot>, directory: &Path, snapshot: &Snapshot) -> Result<Mounts, Status> {
    let mut below = Vec::new();
    let mut parent = &snapshot.parent;
    while !parent.is_empty() {
        let found = snapshots.get(parent).ok_or_else(|| not_found(parent))?;
        below.push(found.directory.display().to_string());
        parent = &found.parent;
    }
    let own = snapshot.directory.display().to_string();
    let bind = |source: String, access: &str| Mount {
        kind: "bind".to_owned(),
        source,
        options: vec!["rbind".to_owned(), access.to_owned()],
    };
    let mount = match (snapshot.kind, below.as_slice()) {
        (VIEW, [only]) => bind(only.clone(), "ro"),
        (VIEW, []) => bind(own, "ro"),
        (_, []) => bind(own, "rw"),
        (kind, below) => {
            let mut options = vec![format!("lowerdir={}", below.join(":"))];
            if kind == ACTIVE {
                let work = snapshot.directory.parent().unwrap_or(directory).join("work");
                options.extend([format!("upperdir={own}"), format!("workdir={}", work.display())]);
            }
            Mount { kind: "overlay".to_owned(), source: "overlay".to_owned(), options }
        }
    };
    Ok(Mounts { mounts: vec![mount] })
}

fn info(name: &str, snapshot: &Snapshot) -> SnapshotInfo {
    let time = || Some(Time { seconds: 1 });
    SnapshotInfo {
        name: name.to_owned(),
        parent: snapshot.parent.clone(),
        kind: snapshot.kind,
        created_at: time(),
        updated_at: time(),
        labels: snapshot.labels.clone(),
    }
}

fn read<M: Message + Default>(message: &[u8]) -> Result<M, Status> {
    M::decode(message).map_err(|error| Status::new(Status::INTERNAL, error.to_string()))
}

fn not_found(key: &str) -> Status {
    Status::new(Status::NOT_FOUND, format!("snapshot {key} does not exist"))
}

fn broken(error: &dyn std::fmt::Display) -> Status {
    Status::new(Status::INTERNAL, error.to_string())
}

/// A snapshot on disk: its name, parent, kind, labels and directory.
type Row = (String, String, i32, HashMap<String, String>, PathBuf);

fn write_books(directory: &Path, snapshots: &BTreeMap<String, Snapshot>) -> anyhow::Result<()> {
    let rows: Vec<_> =
        snapshots.iter().map(|(name, one)| json!([name, one.parent, one.kind, one.labels, one.directory])).collect();
    Ok(fs::write(directory.join("books.json"), serde_json::to_vec(&rows)?)?)
}

fn read_books(bytes: &[u8]) -> anyhow::Result<BTreeMap<String, Snapshot>> {
    let rows: Vec<Row> = serde_json::from_slice(bytes)?;
    let snapshot = |(name, parent, kind, labels, directory)| (name, Snapshot { parent, kind, labels, directory });
    Ok(rows.into_iter().map(snapshot).collect())
}
