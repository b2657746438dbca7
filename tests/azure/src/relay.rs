//! A pipe between this process's standard streams and a TCP connection.
//!
//! QEMU's `guestfwd=tcp:169.254.169.254:80-cmd:…` starts one of these for each connection the guest makes.

use std::net::SocketAddr;

use tokio::io::{AsyncWriteExt, copy, stdin, stdout};
use tokio::net::TcpStream;

/// Why a relay ended early.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Nothing answers at the address.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where we tried.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// One of the two streams broke.
    #[error("cannot copy between the standard streams and {address}")]
    Copy {
        /// The other end.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Copies standard input to `address` and its answers to standard output, until the server closes.
///
/// # Errors
/// When the connection cannot be made or breaks.
pub async fn relay(address: SocketAddr) -> Result<(), RelayError> {
    let stream = TcpStream::connect(address).await.map_err(|source| RelayError::Connect { address, source })?;
    // A relayed request is small and waits for its answer: delaying it for Nagle only costs time.
    stream.set_nodelay(true).map_err(|source| RelayError::Copy { address, source })?;
    let (mut from_server, mut to_server) = stream.into_split();
    let sending = async {
        copy(&mut stdin(), &mut to_server).await?;
        to_server.shutdown().await?;
        // The client has said everything; only the server's end of file ends the relay.
        std::future::pending().await
    };
    let mut output = stdout();
    let receiving = async {
        copy(&mut from_server, &mut output).await?;
        output.flush().await
    };
    // Whichever ends first ends the relay: an error, or the server's last byte, after which nothing is left to lose.
    let copied = tokio::select! {
        copied = sending => copied,
        copied = receiving => copied,
    };
    copied.map_err(|source| RelayError::Copy { address, source })
}
