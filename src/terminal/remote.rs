//! URL and certificates of the broker, for sub-commands that talk to a running broker.

use std::path::PathBuf;

use clap::Args;

use crate::client::{Client, ClientError};

#[derive(Args)]
pub(crate) struct Remote {
    /// The broker's URL; https://host/path behind a proxy
    #[arg(long = "url", id = "broker", value_name = "URL", env = "SWITCHBOARD_URL")]
    #[arg(default_value = "http://127.0.0.1:8000")]
    url: String,
    /// Trust the certificates in this PEM file instead of the system's: authorities, or the server's own
    #[arg(long, value_name = "FILE", env = "SWITCHBOARD_CA")]
    ca: Option<PathBuf>,
}

impl Remote {
    /// Returns a client without a token.
    pub(crate) fn client(&self) -> Result<Client, ClientError> {
        Client::with_ca(&self.url, self.ca.as_deref())
    }
}
