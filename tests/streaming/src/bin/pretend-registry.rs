//! `pretend-registry PORT IMAGE...`: a registry on loopback with images that only wait, each `REPOSITORY:TAG`, or `REPOSITORY:TAG+MIB` with a file
//! of so many mebibytes that nothing can compress. `pretend-registry lay-out DIRECTORY IMAGE...` puts their layers where a snapshotter in mode
//! remote has them.

use std::path::Path;

use anyhow::Context as _;
use pretend_streaming::registry::{Image, Registry};

const USAGE: &str = "usage: pretend-registry PORT REPOSITORY:TAG[+MIB]... | lay-out DIRECTORY REPOSITORY:TAG[+MIB]...";

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().context(USAGE)?;
    let directory = if first == "lay-out" { Some(arguments.next().context(USAGE)?) } else { None };
    let images = arguments.map(|name| image(&name)).collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(directory) = directory {
        return Ok(images.iter().try_for_each(|image| image.lay_out(Path::new(&directory)))?);
    }
    let port = first.parse().context(USAGE)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let _registry = Registry::start(port, &images).await?;
        std::future::pending().await
    })
}

fn image(name: &str) -> anyhow::Result<Image> {
    let (repository, tag) = name.split_once(':').context(USAGE)?;
    let Some((tag, mebibytes)) = tag.split_once('+') else { return Ok(Image::waits(repository, tag)) };
    let bytes = mebibytes.parse::<usize>().context(USAGE)? << 20;
    Ok(Image::waits_with(repository, tag, vec![("large", incompressible(bytes), 0o644)]))
}

/// The same bytes each time: xorshift64.
fn incompressible(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(count);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}
