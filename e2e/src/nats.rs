//! A real nats-server inside a lab.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::Client;
use futures::TryStreamExt as _;
use serde_json::{Map, Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::assets::{self, Tool};
use crate::lab::{Lab, on_host};
use crate::process::Daemon;
use crate::wait::await_condition;

/// Configuration of a broker before its start.
///
/// ```no_run
/// # async fn example(lab: &meshsync_e2e::Lab) -> anyhow::Result<()> {
/// let nats = lab.nats().token("s3cr3t").jetstream().start().await?;
/// let client = nats.client().await?;
/// nats.kill().await?; // an outage …
/// nats.start().await?; // … and its end: same ports, same stored streams
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct NatsBuilder {
    dir: PathBuf,
    name: String,
    port: u16,
    token: Option<String>,
    store: Option<PathBuf>,
    settings: Map<String, Value>,
}

impl Lab {
    /// A broker on port 4222 with monitoring on 8222, with core NATS only and without authentication; the caller
    /// configures and starts it.
    #[must_use]
    pub fn nats(&self) -> NatsBuilder {
        NatsBuilder {
            dir: self.dir().to_owned(),
            name: "nats-server".to_owned(),
            port: 4222,
            token: None,
            store: None,
            settings: Map::from_iter([("http".to_owned(), json!("0.0.0.0:8222"))]),
        }
    }
}

impl NatsBuilder {
    /// Requires `token` of every client.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Serves JetStream from files in the lab's directory, which outlive restarts of the server.
    #[must_use]
    pub fn jetstream(mut self) -> Self {
        let dir = self.dir.join(format!("{}-store", self.name));
        let store = json!({"store_dir": dir});
        self.store = Some(dir);
        self.setting("jetstream", store)
    }

    /// Sets the largest message in bytes.
    #[must_use]
    pub fn max_payload(self, bytes: u32) -> Self {
        self.setting("max_payload", json!(bytes))
    }

    /// Listens for clients on `port` and offers no monitoring: for a second broker in the same lab.
    #[must_use]
    pub fn second_on(mut self, port: u16) -> Self {
        self.name = format!("nats-server-{port}");
        self.port = port;
        self.settings.remove("http");
        self
    }

    /// Sets any other option of nats-server's configuration file.
    #[must_use]
    pub fn setting(mut self, name: &str, value: Value) -> Self {
        self.settings.insert(name.to_owned(), value);
        self
    }

    /// Starts the broker and waits until it accepts clients.
    ///
    /// # Errors
    /// When the binary cannot be built, or the server ends or does not accept clients.
    pub async fn start(mut self) -> Result<Nats> {
        let binary = on_host(|| assets::ensure(Tool::NatsServer))?;
        self.settings.insert("listen".to_owned(), json!(format!("0.0.0.0:{}", self.port)));
        if let Some(token) = &self.token {
            // In a file, because everybody on the machine can read arguments.
            self.settings.insert("authorization".to_owned(), json!({"token": token}));
        }
        let config = self.dir.join(format!("{}.conf", self.name));
        let daemon = Daemon::new(&self.dir, &self.name, binary).arg("--config").arg(&config);
        let settings = Mutex::new(self.settings);
        let nats = Nats { daemon, config, settings, port: self.port, token: self.token, store: self.store };
        nats.write_config()?;
        nats.start().await?;
        Ok(nats)
    }
}

/// A broker of a lab. It ends when this is dropped.
#[derive(Debug)]
pub struct Nats {
    daemon: Daemon,
    config: PathBuf,
    settings: Mutex<Map<String, Value>>,
    port: u16,
    token: Option<String>,
    store: Option<PathBuf>,
}

impl Nats {
    /// URL for clients inside the lab, without the token.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The broker's process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.daemon.pid()
    }

    /// Connects a client with the broker's token. It reconnects by itself when the broker comes back.
    ///
    /// # Errors
    /// When the broker does not accept it.
    pub async fn client(&self) -> Result<async_nats::Client> {
        // The client reconnects at once, so that a test measures only the code under test.
        self.client_reconnecting_after(Duration::from_millis(50)).await
    }

    /// Connects a client that waits for this time before each attempt to reconnect.
    ///
    /// # Errors
    /// When the broker does not accept it.
    pub async fn client_reconnecting_after(&self, delay: Duration) -> Result<async_nats::Client> {
        let options = match &self.token {
            Some(token) => async_nats::ConnectOptions::with_token(token.clone()),
            None => async_nats::ConnectOptions::new(),
        };
        let options = options.name("meshsync-lab").reconnect_delay_callback(move |_| delay);
        options.connect(self.url()).await.with_context(|| format!("no connection to {}", self.url()))
    }

    /// Starts the broker again after [`stop`](Self::stop) or [`kill`](Self::kill), on the same ports.
    ///
    /// # Errors
    /// When it ends or does not accept clients.
    pub async fn start(&self) -> Result<()> {
        self.daemon.start()?;
        let accepting = await_condition("nats-server accepts clients", Duration::from_secs(20), async || {
            if self.daemon.exit_status().is_some() {
                return Ok(Some(()));
            }
            self.greets().await.map(|greets| greets.then_some(()))
        });
        accepting.await?;
        self.daemon.ensure_running()
    }

    /// Whether the broker accepts a connection and keeps it open. The broker speaks first, unless it expects a TLS
    /// handshake. This checks no credentials.
    async fn greets(&self) -> Result<bool> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        match timeout(Duration::from_millis(500), connection.read(&mut [0; 5])).await {
            Ok(read) => Ok(read? > 0),
            Err(_) => Ok(true),
        }
    }

    /// Sets an option of the configuration file for the next start; `null` removes it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, name: &str, value: Value) -> Result<()> {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        match value {
            Value::Null => settings.remove(name),
            value => settings.insert(name.to_owned(), value),
        };
        drop(settings);
        self.write_config()
    }

    fn write_config(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(&*self.settings.lock().unwrap_or_else(PoisonError::into_inner))?;
        fs::write(&self.config, text).with_context(|| format!("cannot write {}", self.config.display()))
    }

    /// Where JetStream keeps its files, if it does.
    #[must_use]
    pub fn store_dir(&self) -> Option<&Path> {
        self.store.as_deref()
    }

    /// Stops the broker in good order.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(&self) -> Result<()> {
        self.daemon.stop(Duration::from_secs(20)).await.map(drop)
    }

    /// Kills the broker, as a crash would.
    ///
    /// # Errors
    /// When it was never started.
    pub async fn kill(&self) -> Result<()> {
        self.daemon.kill().await.map(drop)
    }

    /// Removes everything that JetStream stored, as a new volume would. The broker must not run.
    ///
    /// # Errors
    /// When the files cannot be removed.
    pub fn forget_streams(&self) -> Result<()> {
        match &self.store {
            Some(store) => fs::remove_dir_all(store).with_context(|| format!("cannot remove {}", store.display())),
            None => Ok(()),
        }
    }

    /// Deletes all streams.
    ///
    /// # Errors
    /// When the broker does not do so.
    pub async fn drop_streams(&self) -> Result<()> {
        delete_streams(&self.client().await?).await
    }

    /// Bytes of everything that JetStream keeps on disk.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        fn size(path: &Path) -> u64 {
            let Ok(entries) = fs::read_dir(path) else { return 0 };
            let of = |entry: fs::DirEntry| match entry.metadata() {
                Ok(meta) if meta.is_dir() => size(&entry.path()),
                Ok(meta) => meta.len(),
                Err(_) => 0,
            };
            entries.flatten().map(of).sum()
        }
        self.store.as_deref().map(size).unwrap_or_default()
    }

    /// The broker's process, for its log and memory.
    #[must_use]
    pub const fn daemon(&self) -> &Daemon {
        &self.daemon
    }
}

/// Deletes every stream of the broker.
pub(crate) async fn delete_streams(client: &Client) -> Result<()> {
    let context = async_nats::jetstream::new(client.clone());
    let names: Vec<String> = context.stream_names().try_collect().await.context("cannot list the streams")?;
    for name in names {
        context.delete_stream(&name).await.with_context(|| format!("cannot delete the stream {name}"))?;
    }
    Ok(())
}
