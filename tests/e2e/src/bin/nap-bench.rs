//! What a boot costs: wall time of our own work, processor time, programs started, each beside what the disk alone would take.
//!
//! Own work is every stage that does not wait for the world: fetch, observe, plan, prepare, files, sysctls. The limit beside it is
//! writing and syncing the same bytes to as many files on the same disk, in the same run.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nap_e2e::node::{Node, api_options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const RUNS: usize = 9;

const OWN_STAGES: &[&str] = &["fetch", "observe", "plan", "prepare", "files", "sysctls"];

#[derive(Debug, Default, Clone, Copy)]
struct Figures {
    own_ms: f64,
    cpu_ms: f64,
    programs: f64,
    limit_ms: f64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let agent = release_agent()?;
    println!("{} runs each, median; root directory on this machine's disk\n", RUNS);
    println!("{:<34} {:>9} {:>9} {:>9} {:>9} {:>7}", "image", "own ms", "limit ms", "ratio", "CPU ms", "programs");
    for (name, inventory) in [("with inventory (image.json)", true), ("without, asks kubelet, containerd", false)] {
        let mut all = Vec::new();
        for _ in 0..RUNS {
            all.push(one_boot(&agent, inventory).await?);
        }
        let of = |figure: fn(&Figures) -> f64| median(all.iter().map(figure).collect());
        let (own, limit) = (of(|f| f.own_ms), of(|f| f.limit_ms));
        let (cpu, programs) = (of(|f| f.cpu_ms), of(|f| f.programs));
        println!("{name:<34} {own:>9.1} {limit:>9.1} {:>9.2} {cpu:>9.1} {programs:>7.0}", own / limit);
    }
    guard(&agent).await
}

/// What the guard holds and uses, looking ten times a second for ten seconds; as it ships it looks every four seconds.
async fn guard(agent: &Path) -> anyhow::Result<()> {
    let node = Node::new_on_disk(api_options()).await;
    node.hand_over(node.bootstrap().to_string().as_bytes());
    ensure!(command(agent, &node).arg("boot").output().await?.status.success(), "the boot failed");
    let listen = format!("127.0.0.1:{}", nap_e2e::node::free_port());
    let mut guard = command(agent, &node);
    let mut guard = guard.args(["guard", "--interval", "0.1", "--listen", &listen]).kill_on_drop(true).spawn()?;
    let id = guard.id().context("the guard runs")?;
    tokio::time::sleep(Duration::from_secs(1)).await; // it warms up
    let before = cpu_ticks(id)?;
    tokio::time::sleep(Duration::from_secs(10)).await; // the time over which it is measured
    let ticks = cpu_ticks(id)? - before;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim().to_owned();
    println!(
        "\nguard: resident {}, peak {}, {:.2} ms CPU a look, threads {}",
        field("VmRSS:"),
        field("VmHWM:"),
        ticks as f64 * 10.0 / 100.0,
        field("Threads:")
    );
    polls(&listen, id).await?;
    guard.kill().await?;
    Ok(())
}

/// Connections that ask at once, as a few pollers do, and for how long.
const POLLERS: usize = 8;
const POLLED_FOR: Duration = Duration::from_secs(10);

/// How many polls of an unchanged document are answered, and how fast.
async fn polls(address: &str, id: u32) -> anyhow::Result<()> {
    let (head, _) = ask(&mut TcpStream::connect(address).await?, "").await?;
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).context("the document has a tag")?.to_owned();
    let (before, start) = (cpu_ticks(id)?, Instant::now());
    let mut pollers = JoinSet::new();
    for _ in 0..POLLERS {
        let (address, condition) = (address.to_owned(), format!("if-none-match: {etag}\r\n"));
        pollers.spawn(async move {
            let mut connection = TcpStream::connect(address).await?;
            let (mut took, mut bytes) = (Vec::new(), 0);
            while start.elapsed() < POLLED_FOR {
                let asked = Instant::now();
                let (head, _) = ask(&mut connection, &condition).await?;
                // The verdict of a node that has just booted may change once.
                ensure!(head.starts_with("HTTP/1.1 304") || head.starts_with("HTTP/1.1 200"), "{head}");
                took.push(asked.elapsed().as_secs_f64() * 1000.0);
                bytes = bytes.max(if head.starts_with("HTTP/1.1 304") { head.len() } else { 0 });
            }
            anyhow::Ok((took, bytes))
        });
    }
    let (mut took, mut bytes) = (Vec::new(), 0);
    while let Some(poller) = pollers.join_next().await {
        let (of_it, size) = poller??;
        took.extend(of_it);
        bytes = bytes.max(size);
    }
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), (cpu_ticks(id)? - before) as f64 / 100.0);
    took.sort_by(f64::total_cmp);
    println!(
        "polls: {:.0} a second beside their {POLLERS} clients, {:.0} for each second of CPU, p99 {:.2} ms, a 304 has {bytes} bytes",
        took.len() as f64 / seconds,
        took.len() as f64 / cpu,
        took[took.len() * 99 / 100],
    );
    Ok(())
}

/// One request on a connection that stays; the answer's head and body.
async fn ask(connection: &mut TcpStream, condition: &str) -> anyhow::Result<(String, Vec<u8>)> {
    connection.write_all(format!("GET /v1/health HTTP/1.1\r\nhost: x\r\n{condition}\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        let read = connection.read_buf(&mut answer).await?;
        ensure!(read > 0, "the connection ended");
        let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&answer[..end + 4]).into_owned();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        if answer.len() >= end + 4 + length {
            return Ok((head, answer.split_off(end + 4)));
        }
    }
}

/// User and system time of a process in ticks of 10 ms.
fn cpu_ticks(id: u32) -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

fn command(agent: &Path, node: &Node) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(agent);
    command.arg("--root").arg(node.root.directory()).args(["--imds", &node.imds.url()]);
    command.stderr(std::process::Stdio::null());
    command
}

fn release_agent() -> anyhow::Result<PathBuf> {
    let bench = std::env::current_exe()?;
    let target = bench.ancestors().nth(2).context("this program lies in target/PROFILE")?;
    let agent = target.join("release/nap-agent");
    ensure!(agent.exists(), "{} is missing: `make bench` builds it", agent.display());
    Ok(agent)
}

async fn one_boot(agent: &Path, inventory: bool) -> anyhow::Result<Figures> {
    let node = Node::new_on_disk(api_options()).await;
    if inventory {
        node.root.write("/etc/nap-agent/image.json", r#"{"programs": {"kubelet": "1.36.2", "containerd": "1.7.24"}}"#);
    }
    node.hand_over(node.bootstrap().to_string().as_bytes());
    let limit = limit(&node)?;
    let mut command = tokio::process::Command::new(agent);
    command.arg("--root").arg(node.root.directory()).args(["--imds", &node.imds.url(), "boot"]);
    let output = command.output().await?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{log}");
    let done = log.lines().find(|line| line.contains("boot done")).context("a boot that is done says so")?;
    let field = |name: &str| -> anyhow::Result<f64> {
        let value = done.split(&format!("{name}=")).nth(1).and_then(|rest| rest.split_whitespace().next());
        value.and_then(|value| value.parse().ok()).with_context(|| format!("no {name} in {done}"))
    };
    let report = node.report();
    let stages = report["Stages"].as_array().context("the report has its stages")?;
    let own = stages.iter().filter(|stage| OWN_STAGES.iter().any(|name| stage[0] == *name));
    let own_ms = own.filter_map(|stage| stage[1].as_str()?.parse::<f64>().ok()).sum();
    Ok(Figures {
        own_ms,
        cpu_ms: field("cpu_ms")?,
        programs: field("programs_started")?,
        limit_ms: limit.as_secs_f64() * 1000.0,
    })
}

/// Fourteen files of a kilobyte: create, write, sync, one after the other, as a plain program would.
fn limit(node: &Node) -> anyhow::Result<Duration> {
    let directory = node.path("/limit");
    std::fs::create_dir(&directory)?;
    let start = Instant::now();
    for number in 0..14 {
        let mut file = File::create(directory.join(number.to_string()))?;
        file.write_all(&[b'x'; 1024])?;
        file.sync_all()?;
    }
    Ok(start.elapsed())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
