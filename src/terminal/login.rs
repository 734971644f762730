//! Credentials of sub-commands that talk to a running broker.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{Context, bail};
use clap::{Args, builder::NonEmptyStringValueParser};

use super::{output::printable, remote::Remote};
use crate::client::{Client, ClientError};

/// The file with the first admin's password in a data directory.
const FIRST_PASSWORD: &str = "initial-admin-password";

#[derive(Args)]
pub(crate) struct LoginArguments {
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    credentials: Credentials,
}

/// The caller's credentials.
#[derive(Args)]
pub(crate) struct Credentials {
    /// An access token of an operator
    #[arg(long, env = "SWITCHBOARD_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Log in as this user; the password is read from SWITCHBOARD_PASSWORD or the terminal
    #[arg(long, env = "SWITCHBOARD_USERNAME", value_parser = NonEmptyStringValueParser::new())]
    username: Option<String>,
    /// Without token and username: the data directory with the first admin's password
    #[arg(long, value_name = "DIR", default_value = "./data")]
    data_dir: PathBuf,
}

impl LoginArguments {
    /// Returns a client with a token.
    pub(crate) async fn client(self) -> anyhow::Result<Client> {
        self.credentials.client(self.remote.client()?).await
    }
}

impl Credentials {
    /// The token given with `--token`.
    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Whether there are credentials: a token, a username, or the first admin's password file for a local broker.
    pub(crate) fn are_given(&self, client: &Client) -> bool {
        self.token.is_some()
            || self.username.is_some()
            || (is_local(client) && self.data_dir.join(FIRST_PASSWORD).exists())
    }

    /// The credentials in a broker's data directory.
    pub(crate) fn of_data_dir(data_dir: PathBuf) -> Self {
        Self { token: None, username: None, data_dir }
    }

    /// Logs in, unless a token was given. Returns the client with its token.
    pub(crate) async fn client(self, mut client: Client) -> anyhow::Result<Client> {
        if let Some(token) = self.token {
            return Ok(client.with_token(&token));
        }
        let first_password = self.data_dir.join(FIRST_PASSWORD);
        let mut advice = "the username or the password is wrong (the password is SWITCHBOARD_PASSWORD, if that is set)";
        let (username, password) = match self.username {
            Some(username) => {
                let password = match std::env::var("SWITCHBOARD_PASSWORD") {
                    Ok(password) => password,
                    Err(_) => rpassword::prompt_password(format!("Password of {username}: "))
                        .context("no terminal to ask for the password on: set SWITCHBOARD_PASSWORD")?,
                };
                (username, password)
            }
            // a password file of this machine is used only for a broker on this machine
            None if first_password.exists() && is_local(&client) => {
                let password = std::fs::read_to_string(&first_password)
                    .with_context(|| format!("cannot read {}", first_password.display()))?;
                advice = "its first password, from the data directory, is wrong; if it was changed, give --username";
                ("admin".to_owned(), password.trim().to_owned())
            }
            None => bail!(
                "no credentials: give --token or --username; or, for a broker on this machine, --data-dir with its initial-admin-password ({} is not there)",
                first_password.display()
            ),
        };
        let shown = printable(&username);
        match client.login(&username, &password).await {
            Ok(_) => Ok(client),
            Err(ClientError::Refused { code, .. }) if code == "inactive_user" => bail!(
                "the user {shown} is disabled: give another --username, or have an admin enable it (switchboard user enable {shown})"
            ),
            // without the context, since the credentials were not the cause
            Err(error) if !error.is_unauthorized() => Err(error.into()),
            Err(_) => bail!("cannot log in as {shown}: {advice}"),
        }
    }
}

fn is_local(client: &Client) -> bool {
    let host = client.host();
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
