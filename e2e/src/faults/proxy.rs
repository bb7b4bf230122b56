//! A TCP proxy whose link can be slowed down, cut, or left half-open.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes that are forwarded at once.
const CHUNK: usize = 4 * 1024;

/// How the link treats bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Forwards them.
    Open,
    /// Forwards this many per second in each direction of each connection.
    Slow(u32),
    /// Discards them, and for ever those of every connection that is open meanwhile: neither end learns that the other
    /// is gone, as after a power failure.
    HalfOpen,
    /// Ends all connections and refuses new ones.
    Cut,
}

/// State of the connections.
#[derive(Clone, Copy, Debug)]
struct State {
    link: Link,
    /// How often the open connections were frozen.
    frozen: u64,
}

impl State {
    /// Whether a connection that was opened after this many freezes is frozen now.
    const fn is_dead(self, since: u64) -> bool {
        matches!(self.link, Link::HalfOpen) || self.frozen > since
    }
}

/// Listens until it is dropped; its connections end with it.
#[derive(Debug)]
pub struct Proxy {
    address: String,
    state: watch::Sender<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of its own and forwards to `target`, which is `host:port`.
    ///
    /// # Errors
    /// When there is no port to listen at.
    pub async fn start(target: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on loopback")?;
        let address = listener.local_addr()?.to_string();
        let (state, of_connections) = watch::channel(State { link: Link::Open, frozen: 0 });
        let task = tokio::spawn(accept(listener, target.to_owned(), of_connections));
        Ok(Self { address, state, task })
    }

    /// Address that the proxy listens on, as `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Changes the link, including open connections.
    pub fn set(&self, link: Link) {
        self.state.send_modify(|state| state.link = link);
    }

    /// Discards all bytes of the open connections for ever, while new connections work, as when a load balancer or a
    /// firewall loses its connection table.
    pub fn freeze(&self) {
        self.state.send_modify(|state| state.frozen += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The listener ends, and with the sender of the link's state the connections do.
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: String, state: watch::Receiver<State>) {
    while let Ok((incoming, _)) = listener.accept().await {
        if state.borrow().link == Link::Cut {
            continue;
        }
        let (target, state) = (target.clone(), state.clone());
        let since = state.borrow().frozen;
        tokio::spawn(async move {
            let mut ended = state.clone();
            let carried = carry(incoming, &target, &state, since);
            tokio::select! {
                // Whichever end closes: the other one sees it.
                _ = carried => {}
                _ = ended.wait_for(|state| state.link == Link::Cut) => {}
            }
        });
    }
}

async fn carry(
    mut incoming: TcpStream,
    target: &str,
    state: &watch::Receiver<State>,
    since: u64,
) -> std::io::Result<()> {
    let mut outgoing = TcpStream::connect(target).await?;
    let (mut from_client, mut to_client) = incoming.split();
    let (mut from_server, mut to_server) = outgoing.split();
    let mut up = pin!(pump(&mut from_client, &mut to_server, state.clone(), since));
    tokio::select! {
        ended = &mut up => ended.map(drop),
        ended = pump(&mut from_server, &mut to_client, state.clone(), since) => match ended? {
            Ended::AtItsSource => Ok(()),
            // Bytes that a client wrote before it was killed are in flight and still arrive.
            Ended::AtItsTarget => up.await.map(drop),
        },
    }
}

/// Where a direction of a connection ended.
enum Ended {
    AtItsSource,
    AtItsTarget,
}

async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut state: watch::Receiver<State>,
    since: u64,
) -> std::io::Result<Ended> {
    let mut chunk = vec![0; CHUNK];
    let mut is_dead = state.borrow_and_update().is_dead(since);
    loop {
        let read = tokio::select! {
            read = from.read(&mut chunk) => read?,
            changed = state.changed() => match changed {
                Ok(()) => {
                    is_dead |= state.borrow_and_update().is_dead(since);
                    continue;
                }
                Err(_) => return Ok(Ended::AtItsSource),
            },
        };
        if is_dead {
            if read == 0 {
                // The end of a connection does not get through either.
                std::future::pending::<()>().await;
            }
            continue;
        }
        if read == 0 {
            return Ok(Ended::AtItsSource);
        }
        if to.write_all(chunk.get(..read).unwrap_or_default()).await.is_err() {
            return Ok(Ended::AtItsTarget);
        }
        let link = state.borrow().link;
        if let Link::Slow(rate) = link {
            tokio::time::sleep(Duration::from_secs_f64(read as f64 / f64::from(rate))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    /// A server that sends back what it gets, behind a proxy.
    async fn echo() -> Proxy {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = server.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = server.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = connection.split();
                    let _ended = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        Proxy::start(&target).await.unwrap()
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(proxy.address()).await.unwrap()
    }

    async fn answers(connection: &mut TcpStream, within: Duration) -> bool {
        connection.write_all(b"x").await.unwrap();
        tokio::time::timeout(within, connection.read_exact(&mut [0])).await.is_ok_and(|read| read.is_ok())
    }

    #[tokio::test]
    async fn half_open_connection_stays_silent_and_a_new_connection_works() {
        let proxy = echo().await;
        let mut old = connect(&proxy).await;
        assert!(answers(&mut old, SOON).await);
        proxy.set(Link::HalfOpen);
        assert!(!answers(&mut old, Duration::from_millis(200)).await);
        proxy.set(Link::Open);
        assert!(!answers(&mut old, Duration::from_millis(200)).await);
        assert!(answers(&mut connect(&proxy).await, SOON).await);
    }

    #[tokio::test]
    async fn frozen_connections_stay_silent_and_new_connections_work() {
        let proxy = echo().await;
        let mut old = connect(&proxy).await;
        assert!(answers(&mut old, SOON).await);
        proxy.freeze();
        assert!(answers(&mut connect(&proxy).await, SOON).await);
        assert!(!answers(&mut old, Duration::from_millis(200)).await);
    }

    #[tokio::test]
    async fn cut_ends_connections_and_slow_link_delays_bytes() {
        let proxy = echo().await;
        let mut connection = connect(&proxy).await;
        assert!(answers(&mut connection, SOON).await);
        proxy.set(Link::Cut);
        let end = tokio::time::timeout(SOON, connection.read(&mut [0])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        proxy.set(Link::Slow(20_000));
        let (mut connection, began) = (connect(&proxy).await, std::time::Instant::now());
        connection.write_all(&[0; 10_000]).await.unwrap();
        connection.read_exact(&mut [0; 10_000]).await.unwrap();
        assert!(began.elapsed() > Duration::from_millis(300), "{:?}", began.elapsed());
    }
}
