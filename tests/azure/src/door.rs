//! A listening port that can close for a while and stays ours meanwhile.
//!
//! "Connection refused" is only real when nothing listens. Dropping the listener frees the port, and another process
//! may take it before we listen again; so a second socket is bound to the same port and never listens.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Why a server could not listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// Connections the kernel keeps for us before we accept them.
const BACKLOG: u32 = 128;

/// A port reserved for one server, open or closed.
pub(crate) struct Door {
    address: SocketAddr,
    _reservation: TcpSocket,
}

/// Opens and closes the door from outside the accept loop.
#[derive(Clone)]
pub(crate) struct Shutter {
    orders: Arc<watch::Sender<Order>>,
    obeyed: watch::Receiver<u64>,
}

/// What the door should be, and which order this is: orders are counted because a short closure may be over before
/// the one who asked for it looks again.
#[derive(Clone, Copy, Default)]
struct Order {
    number: u64,
    close_for: Option<Duration>,
}

/// A server's accept loop and all its connections; they end when this is dropped.
pub(crate) struct Running {
    task: Option<JoinHandle<()>>,
}

impl Door {
    /// Reserves `address`; port 0 picks a free port.
    pub(crate) fn reserve(address: SocketAddr) -> Result<Self, ListenError> {
        let fail = |source| ListenError { address, source };
        let socket = bound(address).map_err(fail)?;
        let chosen = socket.local_addr().map_err(fail)?;
        Ok(Self { address: chosen, _reservation: socket })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn open(&self) -> Result<TcpListener, ListenError> {
        let fail = |source| ListenError { address: self.address, source };
        bound(self.address).and_then(|socket| socket.listen(BACKLOG)).map_err(fail)
    }

    /// Listens now and gives each connection to `serve`, until the returned handle goes.
    pub(crate) fn run<F, Fut>(self, serve: F) -> Result<(Running, Shutter), ListenError>
    where
        F: Fn(TcpStream, Shutter) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = self.open()?;
        let (sender, orders) = watch::channel(Order::default());
        let (report, obeyed) = watch::channel(0);
        let shutter = Shutter { orders: Arc::new(sender), obeyed };
        let accept = AcceptLoop { door: self, orders, report, serve, shutter: shutter.clone(), tasks: JoinSet::new() };
        Ok((Running { task: Some(tokio::spawn(accept.run(listener))) }, shutter))
    }
}

fn bound(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

impl Shutter {
    /// Refuses connections from now on for `time`; returns when the port is closed.
    pub(crate) async fn close_for(&self, time: Duration) {
        self.order(Some(time)).await;
    }

    /// Listens again at once.
    pub(crate) async fn open(&self) {
        self.order(None).await;
    }

    async fn order(&self, close_for: Option<Duration>) {
        let mut number = 0;
        self.orders.send_modify(|order| {
            number = order.number + 1;
            *order = Order { number, close_for };
        });
        // An accept loop that has ended obeys no more; the port is closed then, as the next connection will tell.
        let _ = self.obeyed.clone().wait_for(|obeyed| *obeyed >= number).await;
    }
}

impl Running {
    /// Ends the accept loop and every connection, and waits until they are gone.
    pub(crate) async fn stop(mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // Being cancelled is what we asked for.
            let _ = task.await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

struct AcceptLoop<F> {
    door: Door,
    orders: watch::Receiver<Order>,
    report: watch::Sender<u64>,
    serve: F,
    shutter: Shutter,
    tasks: JoinSet<()>,
}

/// What the door is at the moment.
enum Phase {
    Open(TcpListener),
    Closed(Instant),
}

impl<F, Fut> AcceptLoop<F>
where
    F: Fn(TcpStream, Shutter) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    async fn run(mut self, first: TcpListener) {
        let mut phase = Phase::Open(first);
        loop {
            let ordered = match &phase {
                Phase::Open(listener) => self.accept(listener).await,
                Phase::Closed(until) => self.stay_closed(*until).await,
            };
            if let Some(order) = ordered {
                let Some(next) = self.obey(order, phase) else { return };
                phase = next;
                self.report.send_replace(order.number);
            }
        }
    }

    /// The next phase; `None` when the port cannot be listened on any more.
    fn obey(&self, order: Order, now: Phase) -> Option<Phase> {
        match (order.close_for, now) {
            (Some(time), _) => Some(Phase::Closed(Instant::now() + time)),
            (None, Phase::Open(listener)) => Some(Phase::Open(listener)),
            (None, Phase::Closed(_)) => self.door.open().ok().map(Phase::Open),
        }
    }

    async fn stay_closed(&mut self, until: Instant) -> Option<Order> {
        // Both arms hold no state: the time is a point on the clock, and changed() is cancel safe.
        tokio::select! {
            () = tokio::time::sleep_until(until) => Some(Order { number: *self.report.borrow(), close_for: None }),
            _ = self.orders.changed() => Some(*self.orders.borrow_and_update()),
        }
    }

    async fn accept(&mut self, listener: &TcpListener) -> Option<Order> {
        // accept() loses no connection when cancelled; changed() and join_next() are documented as cancel safe.
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    self.tasks.spawn((self.serve)(stream, self.shutter.clone()));
                }
                None
            }
            _ = self.orders.changed() => Some(*self.orders.borrow_and_update()),
            Some(_) = self.tasks.join_next() => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn accepts(address: SocketAddr) -> bool {
        TcpStream::connect(address).await.is_ok()
    }

    #[tokio::test]
    async fn a_closed_door_refuses_and_the_same_port_opens_again() {
        let door = Door::reserve(crate::ANY_PORT).unwrap();
        let address = door.address();
        let (running, shutter) = door.run(|_, _| async {}).unwrap();
        assert!(accepts(address).await);

        shutter.close_for(Duration::from_secs(3600)).await;
        let error = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);

        shutter.open().await;
        assert!(accepts(address).await);
        running.stop().await;
        assert!(!accepts(address).await);
    }

    #[tokio::test]
    async fn a_door_opens_by_itself_when_its_time_is_up() {
        let door = Door::reserve(crate::ANY_PORT).unwrap();
        let address = door.address();
        let (_running, shutter) = door.run(|_, _| async {}).unwrap();
        shutter.close_for(Duration::ZERO).await;
        let opens = async {
            while !accepts(address).await {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), opens).await.unwrap();
    }
}
