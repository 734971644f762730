//! Who is asking, for sub-commands that talk to a running broker.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;

use super::remote::Remote;
use crate::client::Client;

/// Where the first admin's password lies in a data directory.
const FIRST_PASSWORD: &str = "initial-admin-password";

#[derive(Args)]
pub(crate) struct LoginArguments {
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    credentials: Credentials,
}

/// Who is asking.
#[derive(Args)]
pub(crate) struct Credentials {
    /// An access token of an operator
    #[arg(long, env = "SWITCHBOARD_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Log in as this user; the password comes from SWITCHBOARD_PASSWORD, or is asked for
    #[arg(long, env = "SWITCHBOARD_USERNAME")]
    username: Option<String>,
    /// Without token and username: where the first admin's password lies
    #[arg(long, value_name = "DIR", default_value = "./data")]
    data_dir: PathBuf,
}

impl LoginArguments {
    /// A client that is somebody.
    pub(crate) async fn client(self) -> anyhow::Result<Client> {
        self.credentials.client(self.remote.client()?).await
    }
}

impl Credentials {
    /// A token that was given.
    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Whether somebody was named, be it only by a first password that lies there.
    pub(crate) fn are_given(&self, client: &Client) -> bool {
        self.token.is_some()
            || self.username.is_some()
            || (is_local(client) && self.data_dir.join(FIRST_PASSWORD).exists())
    }

    /// For a broker whose data lie here.
    pub(crate) fn of_data_dir(data_dir: PathBuf) -> Self {
        Self { token: None, username: None, data_dir }
    }

    /// A client that is somebody.
    pub(crate) async fn client(self, mut client: Client) -> anyhow::Result<Client> {
        if let Some(token) = self.token {
            return Ok(client.with_token(&token));
        }
        let first_password = self.data_dir.join(FIRST_PASSWORD);
        let mut what_else = "";
        let (username, password) = match self.username {
            Some(username) => {
                let password = match std::env::var("SWITCHBOARD_PASSWORD") {
                    Ok(password) => password,
                    Err(_) => rpassword::prompt_password(format!("Password of {username}: "))
                        .context("no terminal to ask for the password on: set SWITCHBOARD_PASSWORD")?,
                };
                (username, password)
            }
            // a password from this machine is for a broker on this machine
            None if first_password.exists() && is_local(&client) => {
                let password = std::fs::read_to_string(&first_password)
                    .with_context(|| format!("cannot read {}", first_password.display()))?;
                what_else = " with the first password of the data directory; if it was changed, give --username";
                ("admin".to_owned(), password.trim().to_owned())
            }
            None => bail!(
                "no credentials: give --token or --username; or, for a broker on this machine, --data-dir with its initial-admin-password ({} is not there)",
                first_password.display()
            ),
        };
        match client.login(&username, &password).await {
            Ok(_) => Ok(client),
            // where the broker does not answer, the password is not to blame
            Err(error) if !error.is_unauthorized() => Err(error.into()),
            Err(error) => Err(error).with_context(|| format!("cannot log in as {username}{what_else}")),
        }
    }
}

fn is_local(client: &Client) -> bool {
    matches!(client.host(), "localhost" | "127.0.0.1" | "[::1]")
}
