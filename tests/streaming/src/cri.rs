//! kubelet's calls of the CRI, with the few fields that these tests need. Source: kubernetes/cri-api, `runtime/v1/api.proto`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;

use crate::grpc::{self, Status};

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

/// PullImageRequest, ImageStatusRequest and RemoveImageRequest.
#[derive(Clone, PartialEq, Message)]
struct OfImage {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
}

/// The answers and questions whose first field is an id.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, repeated, tag = "2")]
    repo_tags: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Images {
    #[prost(message, repeated, tag = "1")]
    images: Vec<Image>,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct NamespaceOption {
    #[prost(int32, tag = "1")]
    network: i32,
}

#[derive(Clone, PartialEq, Message)]
struct SecurityContext {
    #[prost(message, optional, tag = "1")]
    namespace_options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxSandbox {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security_context: Option<SecurityContext>,
}

#[derive(Clone, PartialEq, Message)]
struct Sandbox {
    #[prost(message, optional, tag = "1")]
    metadata: Option<SandboxMetadata>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxSandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct RunSandbox {
    #[prost(message, optional, tag = "1")]
    config: Option<Sandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainer {
    #[prost(string, tag = "1")]
    sandbox: String,
    #[prost(message, optional, tag = "2")]
    config: Option<Container>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<Sandbox>,
}

/// `NamespaceMode.NODE`: no plugin has to make a network.
const NODE: i32 = 2;

/// Where the pods' processes are: the systemd driver takes only slices, as kubelet's are.
const SLICE: &str = "kubepods.slice";

/// One who calls.
#[derive(Debug, Clone)]
pub struct Cri {
    socket: PathBuf,
    limit: Duration,
}

impl Cri {
    /// Calls over this socket, each for at most `limit`.
    pub fn new(socket: &Path, limit: Duration) -> Self {
        Self { socket: socket.to_owned(), limit }
    }

    async fn call<A: Message + Default>(&self, method: &str, question: &impl Message) -> Result<A, Status> {
        grpc::call(&self.socket, &format!("/runtime.v1.{method}"), question, self.limit).await
    }

    /// Whether the CRI is there.
    ///
    /// # Errors
    /// The call's status.
    pub async fn version(&self) -> Result<(), Status> {
        self.call::<Nothing>("RuntimeService/Version", &Nothing {}).await.map(drop)
    }

    /// Pulls an image; its id.
    ///
    /// # Errors
    /// The call's status.
    pub async fn pull(&self, image: &str) -> Result<String, Status> {
        Ok(self.call::<Id>("ImageService/PullImage", &of_image(image)).await?.id)
    }

    /// Tags of all images, sorted.
    ///
    /// # Errors
    /// The call's status.
    pub async fn images(&self) -> Result<Vec<String>, Status> {
        let images = self.call::<Images>("ImageService/ListImages", &Nothing {}).await?.images;
        let mut tags: Vec<String> = images.into_iter().flat_map(|image| image.repo_tags).collect();
        tags.sort();
        Ok(tags)
    }

    /// What containerd's own list of snapshots has; nothing of it is read.
    ///
    /// # Errors
    /// The call's status.
    pub async fn list_snapshots(&self, snapshotter: &str) -> Result<(), Status> {
        let question = Id { id: snapshotter.to_owned() };
        let method = "/containerd.services.snapshots.v1.Snapshots/List";
        grpc::call::<Nothing>(&self.socket, method, &question, self.limit).await.map(drop)
    }

    /// Starts a pod on the node's own network; its id.
    ///
    /// # Errors
    /// The call's status.
    pub async fn run_pod(&self, name: &str) -> Result<String, Status> {
        Ok(self.call::<Id>("RuntimeService/RunPodSandbox", &RunSandbox { config: Some(sandbox(name)) }).await?.id)
    }

    /// Ends a pod and its containers.
    ///
    /// # Errors
    /// The call's status.
    pub async fn remove_pod(&self, id: &str) -> Result<(), Status> {
        let question = Id { id: id.to_owned() };
        self.call::<Nothing>("RuntimeService/StopPodSandbox", &question).await?;
        self.call::<Nothing>("RuntimeService/RemovePodSandbox", &question).await.map(drop)
    }

    /// Makes and starts a container in a pod.
    ///
    /// # Errors
    /// The call's status.
    pub async fn run_container(&self, pod: &str, name: &str, image: &str) -> Result<String, Status> {
        let config = Container {
            metadata: Some(ContainerMetadata { name: format!("container-of-{name}") }),
            image: Some(ImageSpec { image: image.to_owned() }),
        };
        let question =
            CreateContainer { sandbox: pod.to_owned(), config: Some(config), sandbox_config: Some(sandbox(name)) };
        let container: Id = self.call("RuntimeService/CreateContainer", &question).await?;
        self.call::<Nothing>("RuntimeService/StartContainer", &container).await?;
        Ok(container.id)
    }
}

fn of_image(image: &str) -> OfImage {
    OfImage { image: Some(ImageSpec { image: image.to_owned() }) }
}

fn sandbox(name: &str) -> Sandbox {
    let metadata = SandboxMetadata { name: name.to_owned(), uid: format!("uid-{name}"), namespace: "test".to_owned() };
    let context = SecurityContext { namespace_options: Some(NamespaceOption { network: NODE }) };
    let linux = LinuxSandbox { cgroup_parent: SLICE.to_owned(), security_context: Some(context) };
    Sandbox { metadata: Some(metadata), linux: Some(linux) }
}
