//! `ask-cri pull IMAGE | images | run NAME IMAGE`: what kubelet would ask of containerd, for a shell in a VM.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use pretend_streaming::cri::Cri;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let cri = Cri::new(Path::new("/run/containerd/containerd.sock"), Duration::from_secs(60));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let answer = runtime.block_on(async {
        Ok(match words.as_slice() {
            ["pull", image] => cri.pull(image).await?,
            ["images"] => cri.images().await?.join("\n"),
            ["run", name, image] => {
                let pod = cri.run_pod(name).await?;
                cri.run_container(&pod, name, image).await?
            }
            _ => bail!("usage: ask-cri pull IMAGE | images | run NAME IMAGE"),
        })
    })?;
    Ok(writeln!(std::io::stdout(), "{answer}")?)
}
