//! A registry with images of ours over plain HTTP, and a log of what was asked. Source: opencontainers/distribution-spec.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What [`Mood::WantsCredentials`] wants.
const CREDENTIALS: &str = "Basic cHVsbGVyOnNlc2FtZQ==";

/// `sha256:` and the digits.
pub fn digest(bytes: &[u8]) -> String {
    let digits: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

/// One file of a layer: path, bytes, mode.
pub type LayerFile = (&'static str, Vec<u8>, u32);

/// An image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Repository, such as `test/app`.
    pub repository: String,
    /// Tag.
    pub tag: String,
    manifest: Vec<u8>,
    config: Vec<u8>,
    /// Its layers as archives, the lowest first.
    pub layers: Vec<Vec<u8>>,
}

impl Image {
    /// An image whose containers run this program.
    pub fn new(repository: &str, tag: &str, program: &str, layers: &[Vec<LayerFile>]) -> Self {
        let layers: Vec<Vec<u8>> = layers.iter().map(|files| archive(files)).collect();
        let diffs: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Entrypoint": [program], "Labels": {"of": format!("{repository}:{tag}")}},
            "rootfs": {"type": "layers", "diff_ids": diffs},
        });
        let config = config.to_string().into_bytes();
        let part = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()});
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": part(CONFIG, &config),
            "layers": layers.iter().map(|layer| part(LAYER, layer)).collect::<Vec<Value>>(),
        });
        let manifest = manifest.to_string().into_bytes();
        Self { repository: repository.to_owned(), tag: tag.to_owned(), manifest, config, layers }
    }

    /// The pause program of an image that needs nothing else.
    pub fn waits(repository: &str, tag: &str) -> Self {
        Self::waits_with(repository, tag, vec![("name", format!("{repository}:{tag}").into_bytes(), 0o644)])
    }

    /// The same, with these files.
    pub fn waits_with(repository: &str, tag: &str, upper: Vec<LayerFile>) -> Self {
        Self::new(repository, tag, "/pause", &[vec![("pause", pause(), 0o755)], upper])
    }
}

fn archive(files: &[LayerFile]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(*mode);
        header.set_cksum();
        builder.append_data(&mut header, path, bytes.as_slice()).expect("a vector takes all");
    }
    builder.into_inner().expect("a vector takes all")
}

/// The smallest program that waits for a signal: an ELF header, one segment, and pause(2) in a circle.
fn pause() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    let code = [0xb8, 0x22, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]; // mov eax, 34; syscall; jmp back
    let headers = 64 + 56;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2u16, 62].iter().flat_map(|half| half.to_le_bytes()));
    elf.extend(1u32.to_le_bytes());
    elf.extend([BASE + headers, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    elf.extend(0u32.to_le_bytes());
    elf.extend([64u16, 56, 1, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    elf.extend([1u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    let size = headers + code.len() as u64;
    elf.extend([0, BASE, BASE, size, size, 0x1000].iter().flat_map(|word: &u64| word.to_le_bytes()));
    elf.extend(code);
    elf
}

/// How it treats who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Answers.
    Serves,
    /// Has nothing.
    NotFound,
    /// Answers the user `puller` with the password `sesame`.
    WantsCredentials,
    /// Is not well.
    Unavailable,
    /// Takes requests and never answers.
    Hangs,
}

/// The registry.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    content: Mutex<BTreeMap<String, (&'static str, Vec<u8>)>>,
    log: Mutex<Vec<String>>,
    mood: Mutex<Mood>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Registry {
    /// A registry with these images, on this port of loopback; 0 for any.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub async fn start(port: u16, images: &[Image]) -> std::io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await?;
        let address = listener.local_addr()?;
        let mut content = BTreeMap::new();
        for image in images {
            let manifests = [image.tag.clone(), digest(&image.manifest)];
            for name in manifests {
                content
                    .insert(format!("/v2/{}/manifests/{name}", image.repository), (MANIFEST, image.manifest.clone()));
            }
            for blob in image.layers.iter().chain([&image.config]) {
                let path = format!("/v2/{}/blobs/{}", image.repository, digest(blob));
                content.insert(path, ("application/octet-stream", blob.clone()));
            }
        }
        let shared = Shared { content: Mutex::new(content), log: Mutex::default(), mood: Mutex::new(Mood::Serves) };
        let shared = Arc::new(shared);
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, server })
    }

    /// `127.0.0.1:PORT`, as in names of images.
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// Lets it treat who asks from now on so.
    pub fn is(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }

    /// What was asked since the last call: method and path.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let handler = service_fn(move |request| answer(Arc::clone(&shared), request));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(client), handler).await; // a client that goes away
        });
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let line = format!("{} {}", request.method(), request.uri());
    shared.log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    let mood = *shared.mood.lock().unwrap_or_else(PoisonError::into_inner);
    let plain = |status: StatusCode| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        Ok(response)
    };
    match mood {
        Mood::Serves => {}
        Mood::WantsCredentials if request.headers().get(AUTHORIZATION).is_some_and(|given| given == CREDENTIALS) => {}
        Mood::WantsCredentials => {
            let response = Response::builder().status(StatusCode::UNAUTHORIZED);
            let response = response.header(WWW_AUTHENTICATE, "Basic realm=\"pretend\"").body(Full::default());
            return Ok(response.expect("these headers are right"));
        }
        Mood::NotFound => return plain(StatusCode::NOT_FOUND),
        Mood::Unavailable => return plain(StatusCode::SERVICE_UNAVAILABLE),
        Mood::Hangs => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            return plain(StatusCode::GATEWAY_TIMEOUT);
        }
    }
    if path.trim_end_matches('/') == "/v2" {
        return plain(StatusCode::OK);
    }
    let content = shared.content.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((kind, bytes)) = content.get(&path) else { return plain(StatusCode::NOT_FOUND) };
    let body = if request.method() == Method::HEAD { Bytes::new() } else { Bytes::from(bytes.clone()) };
    let response = Response::builder()
        .header(CONTENT_TYPE, *kind)
        .header(CONTENT_LENGTH, bytes.len())
        .header("Docker-Content-Digest", digest(bytes))
        .body(Full::new(body));
    Ok(response.expect("these headers are right"))
}

impl Image {
    /// Puts the files of all layers below a directory, each below the digits of its digest: what a node has that streams them.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn lay_out(&self, directory: &std::path::Path) -> std::io::Result<()> {
        self.layers.iter().try_for_each(|layer| {
            let digest = digest(layer);
            tar::Archive::new(layer.as_slice()).unpack(directory.join(digest.trim_start_matches("sha256:")))
        })
    }
}
