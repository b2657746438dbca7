//! `pretend-registry PORT IMAGE...`: a registry on loopback with images that only wait, each `REPOSITORY:TAG`.

use anyhow::Context as _;
use pretend_streaming::registry::{Image, Registry};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().context("usage: pretend-registry PORT REPOSITORY:TAG...")?.parse()?;
    let image = |name: String| {
        let (repository, tag) = name.split_once(':').context("an image is REPOSITORY:TAG")?;
        Ok(Image::waits(repository, tag))
    };
    let images = arguments.map(image).collect::<anyhow::Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let _registry = Registry::start(port, &images).await?;
        std::future::pending().await
    })
}
