//! An address that swallows connection attempts, on loopback and without a packet filter.
//!
//! When a listener's queue is full, Linux drops further SYNs: a client waits for its connect time-out, exactly as it
//! does behind a firewall that drops. A queue of length 0 holds one connection, which is ours and never accepted.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::ANY_PORT;

/// A loopback address where connecting neither succeeds nor fails, until this is dropped.
#[derive(Debug)]
pub struct BlackHole {
    address: SocketAddr,
    _listener: TcpListener,
    _queued: TcpStream,
}

impl BlackHole {
    /// Takes a free port of the loopback interface.
    ///
    /// # Errors
    /// When the machine has no free port or socket.
    pub async fn start() -> std::io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(ANY_PORT)?;
        let listener = socket.listen(0)?;
        let address = listener.local_addr()?;
        let queued = TcpStream::connect(address).await?;
        Ok(Self { address, _listener: listener, _queued: queued })
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn connecting_does_not_end() {
        let hole = BlackHole::start().await.unwrap();
        let connecting = TcpStream::connect(hole.address());
        assert!(tokio::time::timeout(Duration::from_millis(200), connecting).await.is_err());
    }
}
