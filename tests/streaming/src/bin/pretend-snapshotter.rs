//! `pretend-snapshotter SOCKET DIRECTORY MODE`: a proxy snapshotter of containerd that serves, breaks or hangs.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use pretend_streaming::grpc;
use pretend_streaming::snapshotter::Snapshotter;
use tokio::net::UnixListener;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, directory, mode] = arguments.as_slice() else {
        bail!("usage: pretend-snapshotter SOCKET DIRECTORY plain|remote|fail|hang")
    };
    let snapshotter = Arc::new(Snapshotter::open(Path::new(directory), mode.parse()?)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if let Some(parent) = Path::new(socket).parent() {
            fs::create_dir_all(parent)?;
        }
        let _ = fs::remove_file(socket); // of one that was killed
        let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen at {socket}"))?;
        match grpc::serve(listener, snapshotter).await? {}
    })
}
