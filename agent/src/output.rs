//! Where objects go.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::dump::NewFile;
use crate::publish::broker::{self, Broker};
use crate::publish::broker_config::BrokerConfig;

/// Where objects go.
#[derive(Clone, Debug)]
pub enum Output {
    /// To the broker.
    Broker(BrokerConfig),
    /// To a file, when the agent stops.
    File(PathBuf),
}

impl Output {
    /// Opens the connection to the broker, or checks that the file can be written.
    pub(crate) async fn open(&self) -> anyhow::Result<Option<Broker>> {
        match self {
            Self::Broker(config) => Ok(Some(broker::connect(config).await?)),
            Self::File(path) => {
                // A mistyped path should be reported now, and not after everything has been read.
                NewFile::check(path)
                    .with_context(|| format!("cannot write to {}; check --outputFile", path.display()))?;
                Ok(None)
            }
        }
    }
}
