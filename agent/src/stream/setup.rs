//! Finding out whether the broker can keep the state, and making it ready to.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind, UpdateStreamErrorKind};
use async_nats::jetstream::stream::{Compression, Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, jetstream::Context};

use super::Subjects;

/// Messages that expire one by one came with nats-server 2.11 (ADR-43). Without them, deletes would fill the stream.
const OLDEST: (i64, i64, i64) = (2, 11, 0);
/// How long JetStream may take to answer a question about the stream.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long the server knows a message again by its id. An acknowledgement that was lost is missed within seconds.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// What the stream is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSettings {
    /// Copies in a cluster of brokers; `None`: as it is, one in a new stream.
    pub replicas: Option<usize>,
    /// Most bytes that it may hold; `None`: as it is, as many as the account may in a new stream.
    pub max_bytes: Option<i64>,
    /// How long a delete stays readable.
    pub tombstone_ttl: Duration,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self { replicas: None, max_bytes: None, tombstone_ttl: Duration::from_secs(24 * 60 * 60) }
    }
}

/// Why there is no stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The broker cannot, or may not, keep the state: the weaker mode is all there is until that changes.
    #[error("{0}")]
    Unsupported(String),
    /// It may work in a moment.
    #[error("{0}")]
    NotNow(String),
}

/// The JetStream context of `client`.
fn context(client: &Client) -> Context {
    let mut context = jetstream::new(client.clone());
    context.set_timeout(ANSWER_WITHIN);
    context
}

/// Makes or mends the stream. What an administrator has set beyond what is needed stays.
///
/// # Errors
/// [`SetupError`]
pub async fn ensure(client: &Client, subjects: &Subjects, settings: &StreamSettings) -> Result<Stream, SetupError> {
    check_server(client)?;
    let context = context(client);
    let name = subjects.stream_name();
    let stream = match context.get_stream(&name).await {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                let config = wanted(subjects, settings, Config { name: name.clone(), ..new_stream() });
                context.create_stream(config).await.map_err(|error| match error.kind() {
                    CreateStreamErrorKind::JetStream(error) => refused("create", &name, &error),
                    _ => not_now(&error),
                })?
            }
            GetStreamErrorKind::JetStream(error) => return Err(refused("read", &name, &error)),
            _ => return Err(not_now(&error)),
        },
    };
    let found = stream.cached_info().config.clone();
    let config = wanted(subjects, settings, found.clone());
    if config == found {
        return Ok(stream);
    }
    tracing::info!(stream = name, "changing the settings of the stream");
    context.update_stream(config).await.map_err(|error| match error.kind() {
        UpdateStreamErrorKind::JetStream(error) => refused("update", &name, &error),
        _ => not_now(&error),
    })?;
    context.get_stream(&name).await.map_err(|error| not_now(&error))
}

/// The stream as it is, to be read.
///
/// # Errors
/// What the broker says.
pub async fn open(client: &Client, subjects: &Subjects) -> Result<Stream, SetupError> {
    let name = subjects.stream_name();
    context(client).get_stream(&name).await.map_err(|error| match error.kind() {
        GetStreamErrorKind::JetStream(error) => refused("read", &name, &error),
        _ => not_now(&error),
    })
}

fn check_server(client: &Client) -> Result<(), SetupError> {
    let server = client.server_info();
    if !server.jetstream {
        return Err(SetupError::Unsupported("the broker has no JetStream".to_owned()));
    }
    let (major, minor, patch) = OLDEST;
    if !client.is_server_compatible(major, minor, patch) {
        let version = server.version;
        return Err(SetupError::Unsupported(format!(
            "nats-server {version} is older than {major}.{minor}: it cannot let deletes expire"
        )));
    }
    Ok(())
}

/// What a stream is made with and may be changed by its administrator.
fn new_stream() -> Config {
    Config {
        description: Some(
            "State of a Kubernetes cluster, kept by MeshSync: the newest state of each object".to_owned(),
        ),
        storage: StorageType::File,
        compression: Some(Compression::S2),
        duplicate_window: DUPLICATE_WINDOW,
        max_bytes: -1,
        max_messages: -1,
        num_replicas: 1,
        metadata: HashMap::from([("meshsync-format".to_owned(), "1".to_owned())]),
        ..Config::default()
    }
}

/// `base` with all that the agent and its consumers rely on.
fn wanted(subjects: &Subjects, settings: &StreamSettings, base: Config) -> Config {
    let StreamSettings { replicas, max_bytes, tombstone_ttl: _ } = settings;
    Config {
        subjects: subjects.captured().to_vec(),
        retention: RetentionPolicy::Limits,
        max_messages_per_subject: 1,
        // With Old, a full stream would drop the state of other objects; with New it refuses, which is noticed.
        discard: DiscardPolicy::New,
        discard_new_per_subject: false,
        max_age: Duration::ZERO,
        allow_message_ttl: true,
        allow_direct: true,
        num_replicas: replicas.unwrap_or(base.num_replicas),
        max_bytes: max_bytes.unwrap_or(base.max_bytes),
        ..base
    }
}

fn refused(verb: &str, name: &str, error: &jetstream::Error) -> SetupError {
    let message = format!("cannot {verb} the stream {name}: {error}");
    // 503: no leader yet, or JetStream is still starting.
    if error.code() == 503 && error.error_code() != ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT {
        SetupError::NotNow(message)
    } else {
        SetupError::Unsupported(message)
    }
}

fn not_now(error: &dyn std::fmt::Display) -> SetupError {
    SetupError::NotNow(format!("JetStream does not answer ({error}); may the broker's user use $JS.API.>?"))
}
