//! LocalDNS on this machine: its addresses, its server, its probes, and who answers the node's own questions.
//!
//! The node's resolver is one of two kinds. Where `/etc/resolv.conf` leads to systemd-resolved, resolved is told by a drop-in in `/run`,
//! which a reboot forgets. Where it is a plain file, the file is replaced; the one before it is kept in `/var/lib`, because `/etc`
//! outlives a reboot and `/run` does not: a machine that loses power must find it again. Where it is anything else, it belongs to a
//! program we do not know, and is left alone: pods still get the cache.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitStatus;
use std::time::Duration;

use nap_model::os::COREDNS;
use nap_model::plan::{AbsPath, COREFILE};
use nap_model::resolver::{self, NODE_LISTENER, POD_LISTENER, READY_PORT, UPSTREAMS};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::process::Child;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::cmd::{Cmd, CmdError};
use crate::netlink::{self, NetlinkError};
use crate::root::{FileError, Kind, Root};
use crate::units::{UnitError, Units};

/// The interface that has the listeners' addresses. Source: AKS, LocalDNS.
const INTERFACE: &str = "localdns";

const RESOLV_CONF: &str = "/etc/resolv.conf";
const BEFORE: &str = "/var/lib/nap-agent/localdns/resolv.conf.before";

/// systemd-resolved's file with the interfaces' servers, and its settings and unit.
const RESOLVED_UPSTREAMS: &str = "/run/systemd/resolve/resolv.conf";
const RESOLVED_DROP_IN: &str = "/run/systemd/resolved.conf.d/90-nap-agent-localdns.conf";
const RESOLVED: &str = "systemd-resolved.service";

/// Longest restart of systemd-resolved.
const RESOLVED_LIMIT: Duration = Duration::from_secs(15);

/// Longest time for an answer of our own server.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Longest time for the server to end by itself.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Why LocalDNS is not in its state.
#[derive(Debug, Error)]
pub enum LocalDnsError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// systemd-resolved does not restart.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// The kernel does not give the addresses.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// CoreDNS does not start.
    #[error(transparent)]
    Cmd(#[from] CmdError),
}

/// Brings up the listeners' addresses.
///
/// # Errors
/// When the kernel refuses.
pub fn ensure_addresses() -> Result<(), LocalDnsError> {
    Ok(netlink::ensure_addresses(INTERFACE, &[NODE_LISTENER, POD_LISTENER])?)
}

/// A CoreDNS that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct CoreDns(Child);

impl CoreDns {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(root: &Root) -> Result<Self, LocalDnsError> {
        let corefile = root.outside(COREFILE).display().to_string();
        Ok(Self(Cmd::new(root.outside(COREDNS), &["-conf", &corefile], Duration::MAX).start()?))
    }

    /// Ends when it has ended, which it should not.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.0.wait().await
    }

    /// Asks it to end, and makes it.
    pub async fn stop(mut self) {
        let id = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id
            && kill(Pid::from_raw(id), Signal::SIGTERM).is_ok()
            && timeout(STOP_LIMIT, self.0.wait()).await.is_ok()
        {
            return;
        }
        self.kill().await;
    }

    /// Ends it.
    pub async fn kill(mut self) {
        let _ = self.0.kill().await; // it has ended by itself
    }
}

/// Whether CoreDNS says that all its parts are ready.
pub async fn is_ready() -> bool {
    let ask = async {
        let mut stream = TcpStream::connect((NODE_LISTENER, READY_PORT)).await?;
        stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        io::Result::Ok(String::from_utf8_lossy(&answer).split_ascii_whitespace().nth(1) == Some("200"))
    };
    matches!(timeout(ANSWER_LIMIT, ask).await, Ok(Ok(true)))
}

/// Whether both listeners answer a question over UDP.
///
/// # Errors
/// Which one does not, and why.
pub async fn answers(id: u16) -> Result<(), String> {
    for listener in [NODE_LISTENER, POD_LISTENER] {
        match timeout(ANSWER_LIMIT, ask(listener, id)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Err(format!("{listener} answers with a failure")),
            Ok(Err(error)) => return Err(format!("{listener}: {error}")),
            Err(_) => return Err(format!("{listener} does not answer within {ANSWER_LIMIT:?}")),
        }
    }
    Ok(())
}

async fn ask(listener: Ipv4Addr, id: u16) -> io::Result<bool> {
    // Any port, and only packets from there: a late answer to an earlier question finds the socket gone.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(SocketAddr::from((listener, 53))).await?;
    socket.send(&resolver::question(id)).await?;
    let mut packet = [0; 512];
    let length = socket.recv(&mut packet).await?;
    Ok(resolver::is_answer(id, &packet[..length]))
}

/// Who answers the node's own questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NodeResolver {
    Resolved,
    PlainFile,
    Unknown,
}

fn node_resolver(root: &Root) -> Result<NodeResolver, FileError> {
    let path = AbsPath::literal(RESOLV_CONF);
    Ok(match root.entry(&path)?.map(|entry| entry.kind) {
        None | Some(Kind::File) => NodeResolver::PlainFile,
        Some(Kind::Symlink) if root.link(&path)?.contains("systemd/resolve/") => NodeResolver::Resolved,
        Some(Kind::Symlink | Kind::Directory | Kind::Other) => NodeResolver::Unknown,
    })
}

/// Writes the file with the virtual network's servers, if it is not as it should be; the servers, if it was not.
///
/// # Errors
/// When a file cannot be read or written.
pub fn write_upstreams(root: &Root) -> Result<Option<Vec<IpAddr>>, LocalDnsError> {
    let mut known = None;
    if node_resolver(root)? != NodeResolver::PlainFile {
        known = root.read_text(RESOLVED_UPSTREAMS)?;
    }
    if known.is_none() {
        known = root.read_text(RESOLV_CONF)?;
    }
    if known.as_deref().is_some_and(resolver::is_pointed) {
        known = root.read_text(BEFORE)?;
    }
    let servers = resolver::upstreams(&known.unwrap_or_default());
    let text = resolver::upstream_file(&servers);
    if root.read(UPSTREAMS)?.as_deref() == Some(text.as_bytes()) {
        return Ok(None);
    }
    root.write(&AbsPath::literal(UPSTREAMS), text.as_bytes(), 0o644)?;
    Ok(Some(servers))
}

/// Makes the node ask the cache, unless it does already.
///
/// # Errors
/// When a file cannot be written, or systemd-resolved does not take it.
pub async fn point(root: &Root) -> Result<(), LocalDnsError> {
    match node_resolver(root)? {
        NodeResolver::Resolved => {
            let text = resolver::resolved_drop_in();
            if root.read(RESOLVED_DROP_IN)?.as_deref() != Some(text.as_bytes()) {
                root.write(&AbsPath::literal(RESOLVED_DROP_IN), text.as_bytes(), 0o644)?;
                restart_resolved(root).await?;
                info!(path = RESOLVED_DROP_IN, "the node asks LocalDNS");
            }
        }
        NodeResolver::PlainFile => {
            let now = root.read(RESOLV_CONF)?.unwrap_or_default();
            let now = String::from_utf8_lossy(&now).into_owned();
            if !resolver::is_pointed(&now) {
                // First the copy: whoever dies in between leaves a file that works.
                root.write(&AbsPath::literal(BEFORE), now.as_bytes(), 0o644)?;
                root.write(&AbsPath::literal(RESOLV_CONF), resolver::pointed(&now).as_bytes(), 0o644)?;
                info!(path = RESOLV_CONF, "the node asks LocalDNS");
            }
        }
        NodeResolver::Unknown => {
            warn!(
                path = RESOLV_CONF,
                "neither a file nor systemd-resolved's; the node itself goes on without LocalDNS"
            );
        }
    }
    Ok(())
}

/// Gives the node its resolver back; that it has it is fine.
///
/// # Errors
/// When a file cannot be written, or systemd-resolved does not take it.
pub async fn restore(root: &Root) -> Result<(), LocalDnsError> {
    let now = root.read(RESOLV_CONF)?.unwrap_or_default();
    if resolver::is_pointed(&String::from_utf8_lossy(&now)) {
        let before = root.read(BEFORE)?.unwrap_or_else(|| resolver::plain().into_bytes());
        root.write(&AbsPath::literal(RESOLV_CONF), &before, 0o644)?;
        info!(path = RESOLV_CONF, "the node has its resolver back");
    }
    // Kept until here: whoever dies in between finds it again. Somebody else's newer file wins over it.
    root.remove(&AbsPath::literal(BEFORE))?;
    if root.entry(&AbsPath::literal(RESOLVED_DROP_IN))?.is_some() {
        root.remove(&AbsPath::literal(RESOLVED_DROP_IN))?;
        restart_resolved(root).await?;
        info!(path = RESOLVED_DROP_IN, "the node has its resolver back");
    }
    Ok(())
}

/// A restart, because resolved reads its settings again only since systemd 256.
async fn restart_resolved(root: &Root) -> Result<(), UnitError> {
    Units::connect(root).await?.restart(RESOLVED, true, RESOLVED_LIMIT).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        (directory, root)
    }

    fn text(root: &Root, path: &str) -> Option<String> {
        root.read(path).unwrap().map(|bytes| String::from_utf8(bytes).unwrap())
    }

    const FILE: &str = "search a.b\nnameserver 10.0.0.4\n";

    #[tokio::test]
    async fn a_plain_file_comes_back_as_it_was() {
        let (directory, root) = root();
        std::fs::write(directory.path().join("etc/resolv.conf"), FILE).unwrap();
        assert_eq!(write_upstreams(&root).unwrap(), Some(vec![[10, 0, 0, 4].into()]));
        point(&root).await.unwrap();
        point(&root).await.unwrap();
        assert_eq!(text(&root, RESOLV_CONF).unwrap(), resolver::pointed(FILE));
        assert_eq!(write_upstreams(&root).unwrap(), None, "the file before ours tells, not ours");
        restore(&root).await.unwrap();
        restore(&root).await.unwrap();
        assert_eq!((text(&root, RESOLV_CONF).as_deref(), text(&root, BEFORE)), (Some(FILE), None));
    }

    #[tokio::test]
    async fn nothing_set_up_is_nothing_to_clean() {
        let (directory, root) = root();
        restore(&root).await.unwrap();
        assert_eq!(text(&root, RESOLV_CONF), None);
        // The one before ours is lost: better Azure's server than a dead one.
        std::fs::write(directory.path().join("etc/resolv.conf"), resolver::pointed(FILE)).unwrap();
        restore(&root).await.unwrap();
        assert_eq!(text(&root, RESOLV_CONF).as_deref(), Some("nameserver 168.63.129.16\n"));
    }

    #[tokio::test]
    async fn another_writers_newer_file_wins() {
        let (directory, root) = root();
        let path = directory.path().join("etc/resolv.conf");
        std::fs::write(&path, FILE).unwrap();
        point(&root).await.unwrap();
        std::fs::write(&path, "nameserver 10.0.0.9\n").unwrap();
        assert_eq!(write_upstreams(&root).unwrap(), Some(vec![[10, 0, 0, 9].into()]));
        restore(&root).await.unwrap();
        assert_eq!(text(&root, RESOLV_CONF).as_deref(), Some("nameserver 10.0.0.9\n"));
    }

    #[tokio::test]
    async fn a_link_of_a_stranger_is_left_alone() {
        let (directory, root) = root();
        std::os::unix::fs::symlink("/run/resolvconf/resolv.conf", directory.path().join("etc/resolv.conf")).unwrap();
        point(&root).await.unwrap();
        assert_eq!(root.link(&AbsPath::literal(RESOLV_CONF)).unwrap(), "/run/resolvconf/resolv.conf");
        assert_eq!(text(&root, BEFORE), None);
    }
}
