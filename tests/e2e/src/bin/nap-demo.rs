//! The demo: a node boots below a scratch root from NAP-shaped custom data, is guarded, and is repaired before one's eyes.
//!
//! `nap-demo` ends by itself; on a terminal it waits for Enter before it takes everything down, so that the printed curl lines work.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use nap_e2e::node::{NAME, Node, api_options};
use nap_e2e::terminate;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const LIVEZ: &str = "127.0.0.1:20266";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    heading("A pretend Azure on loopback, and a machine that has just been switched on");
    let node = Node::new(api_options()).await;
    println!("root directory   {}", node.root.directory().display());
    println!("IMDS             {}", node.imds.url());
    println!("API server       {}", node.api.url());
    println!("custom data      {}", node.path("/var/lib/waagent/ovf-env.xml").display());
    node.hand_over(node.bootstrap().to_string().as_bytes());

    heading("nap-agent boot");
    let status = node.command(&["boot"]).status().await?;
    ensure!(status.success(), "the boot failed: {status}");

    heading("What it wrote");
    tree(node.root.directory()).await?;

    heading("nap-agent guard, and lines to try");
    let mut guard = start_guard(&node)?;
    let lines = curl_lines(&node);
    ready().await?;
    for line in &lines {
        println!("\n$ {}", line.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
        run(line).await?;
    }

    heading("Drift: delete containerd's configuration, set a sysctl back");
    repaired(&node, "/etc/containerd/config.toml", |path| std::fs::remove_file(path)).await?;
    repaired(&node, "/proc/sys/vm/swappiness", |path| std::fs::write(path, "60\n")).await?;

    heading("nap-agent status");
    node.command(&["status"]).status().await?;
    if std::io::stdin().is_terminal() {
        print!("\nThe node runs on; try the lines above. Enter ends it. ");
        std::io::stdout().flush()?;
        tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    }
    stop(&mut guard).await
}

fn heading(text: &str) {
    println!("\n==== {text}");
}

const SHOWN: &[&str] = &["etc", "opt/azure", "var/lib/nap-agent", "var/lib/kubelet", "var/log/azure", "run/nap-agent"];

async fn tree(root: &Path) -> anyhow::Result<()> {
    let mut find = Command::new("find");
    find.current_dir(root).args(SHOWN).args(["-type", "f", "-printf", "%M %6s  /%p\n"]);
    let output = find.output().await.context("cannot start find")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_by_key(|line| line.split('/').skip(1).collect::<Vec<_>>().join("/"));
    lines.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn start_guard(node: &Node) -> anyhow::Result<Child> {
    let arguments = ["guard", "--interval", "1", "--listen", LIVEZ];
    node.command(&arguments).stdin(Stdio::null()).spawn().context("cannot start the guard")
}

fn curl_lines(node: &Node) -> Vec<Vec<String>> {
    let ca = node.path("/etc/kubernetes/certs/ca.crt").display().to_string();
    let token = format!("Authorization: Bearer {}", node.api.admin_token());
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let imds = format!("{}/metadata/instance/compute/vmId?api-version=2021-08-01&format=text", node.imds.url());
    let api = format!("{}/api/v1/nodes/{NAME}", node.api.url());
    let quiet = ["curl", "--silent", "--show-error"];
    vec![
        words(&[&quiet[..], &[&format!("http://{LIVEZ}/livez")]].concat()),
        words(&[&quiet[..], &[&format!("http://{LIVEZ}/readyz")]].concat()),
        words(&[&quiet[..], &["--noproxy", "*", "--header", "Metadata: true", &imds]].concat()),
        words(&[&quiet[..], &["--cacert", &ca, "--header", &token, &api]].concat()),
    ]
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=".contains(letter);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{word}'") }
}

async fn run(words: &[String]) -> anyhow::Result<()> {
    let output = Command::new(&words[0]).args(&words[1..]).output().await.context("cannot start curl")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let shown: String = text.chars().take(600).collect();
    println!("{}{}", shown.trim_end(), if shown.len() < text.len() { " ..." } else { "" });
    Ok(())
}

async fn ready() -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let mut probe = Command::new("curl");
        probe.args(["--silent", "--fail", &format!("http://{LIVEZ}/readyz")]).stdout(Stdio::null());
        if probe.status().await?.success() {
            return Ok(());
        }
        ensure!(start.elapsed() < Duration::from_secs(20), "the guard is not ready");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn repaired(node: &Node, path: &str, harm: impl FnOnce(&Path) -> std::io::Result<()>) -> anyhow::Result<()> {
    let wanted = node.root.read(path);
    harm(&node.path(path)).with_context(|| format!("cannot harm {path}"))?;
    println!("harmed   {path}");
    let start = Instant::now();
    while std::fs::read_to_string(node.path(path)).ok().as_ref() != Some(&wanted) {
        ensure!(start.elapsed() < Duration::from_secs(20), "{path} was not put back");
        sleep(Duration::from_millis(20)).await;
    }
    println!("put back {path} after {:.1} s", start.elapsed().as_secs_f32());
    Ok(())
}

async fn stop(guard: &mut Child) -> anyhow::Result<()> {
    terminate(guard.id().context("the guard has ended by itself")?)?;
    let status = guard.wait().await?;
    ensure!(status.success(), "the guard ended badly: {status}");
    Ok(())
}
