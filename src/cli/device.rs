//! A device of the command line: who it is, and how it gets to its broker and back to it.

mod reconnect;
mod state;

use std::{future::pending, path::PathBuf, time::Duration};

use clap::Args;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::values::uuid;
use crate::{
    auth::tokens::digest,
    client::{Client, ClientError, Connection, Login},
    terminal::{output::printable, remote::Remote, say},
};
use reconnect::Reconnect;
use state::{State, StateFile};

/// The least time that a token must be good for to be used.
const LEAST_LEFT: i64 = 10;

#[derive(Args)]
pub(super) struct Identity {
    #[command(flatten)]
    remote: Remote,
    /// The device's UUID [default: that of the state file, else a new one]
    #[arg(long, value_parser = uuid)]
    uuid: Option<Uuid>,
    /// Where the device's key and tokens are kept [default: a file in $XDG_STATE_HOME/switchboard for each broker and
    /// UUID or name]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Proof that the device is the one that registered this UUID, if the state file does not have it
    #[arg(long, env = "SWITCHBOARD_DEVICE_KEY", hide_env_values = true, allow_hyphen_values = true)]
    device_key: Option<String>,
    /// Do not register, but use this token: a refresh token, which is good once and kept up in the state file from then on,
    /// or an access token, which is good until it expires
    #[arg(
        long,
        env = "SWITCHBOARD_DEVICE_TOKEN",
        hide_env_values = true,
        allow_hyphen_values = true,
        conflicts_with = "device_key"
    )]
    token: Option<String>,
}

/// A device and its way to the broker.
pub(super) struct Link {
    name: String,
    client: Client,
    /// `None`: an access token was given
    state: Option<(StateFile, State)>,
    /// whether it may register: not a device that got its token from an operator, now or at an earlier start
    registers: bool,
    /// the device is known by `--uuid` or the state file, so a token of another one is refused
    is_known: bool,
    /// when the tokens are renewed
    renewal: Option<Instant>,
    connected_at: Option<Instant>,
    reconnect: Reconnect,
}

impl Link {
    /// Reads the state. `waits_for_start`: whether to wait for a broker that is not there yet.
    pub(super) fn new(identity: Identity, name: String, waits_for_start: bool) -> anyhow::Result<Self> {
        let Identity { remote, uuid, state, device_key, token } = identity;
        let client = remote.client()?;
        // an access token is a JWT, of three parts
        let (access_token, refresh_token) = match token {
            Some(token) if token.matches('.').count() == 2 => (Some(token), None),
            token => (None, token),
        };
        let mut link = Self {
            name,
            client,
            state: None,
            registers: false,
            is_known: false,
            renewal: None,
            connected_at: None,
            reconnect: Reconnect::new(waits_for_start),
        };
        if let Some(token) = access_token {
            link.client = link.client.with_token(&token);
            return Ok(link);
        }
        let path = match state {
            Some(path) => path,
            None => {
                let device = uuid.map_or_else(|| link.name.clone(), |uuid| uuid.to_string());
                state::default_path(link.client.url(), &device)?
            }
        };
        let (file, mut state) = StateFile::open(path, link.client.url(), uuid)?;
        link.is_known = uuid.is_some() || state.name.is_some();
        let has_key = device_key.is_some();
        if let Some(key) = device_key {
            state.device_key = Some(key);
        }
        if let Some(token) = refresh_token {
            let digest = digest(&token);
            if state.given_token.as_deref() != Some(&digest) {
                state.given_token = Some(digest);
                state.refresh_token = Some(token);
                state.access_token = None;
            }
        }
        // a registration would replace the device of that token by another one
        link.registers = state.given_token.is_none() || has_key;
        link.state = Some((file, state));
        Ok(link)
    }

    /// A client with the device's token.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Connects. After a connection has been lost, and where the broker may take the device in later, it tries again and
    /// again, and says so.
    pub(super) async fn connect(&mut self, mut lost: Option<ClientError>) -> anyhow::Result<Connection> {
        let mut what = "not connected";
        if let Some(since) = self.connected_at.take() {
            what = "lost the broker";
            self.reconnect.was_connected(since.elapsed());
        }
        loop {
            if let Some(error) = lost.take() {
                if error.is_unauthorized() && matches!(error, ClientError::Closed { .. }) && self.state.is_some() {
                    self.forget_access_token();
                }
                let is_final = self.state.is_none() && error.is_unauthorized();
                let pause = self.reconnect.pause_after(&error, rand::random_range(0.0..1.0)).filter(|_| !is_final);
                let Some(pause) = pause else { return Err(self.explained(error)) };
                let error = printable(&error.to_string());
                say!("{what} ({error}), trying again in {:.1} s", pause.as_secs_f64());
                what = "not connected";
                sleep(pause).await;
            }
            match self.attempt().await {
                Ok(connection) => {
                    self.connected_at = Some(Instant::now());
                    return Ok(connection);
                }
                Err(error) => lost = Some(error),
            }
        }
    }

    /// Waits until the tokens have to be renewed, for ever where there is nothing to renew.
    pub(super) async fn renewal_is_due(&self) {
        match self.renewal {
            Some(at) => sleep_until(at).await,
            None => pending().await,
        }
    }

    /// Renews the tokens, and with them the life of the socket.
    pub(super) async fn renew(&mut self, socket: &mut Connection) -> Result<(), ClientError> {
        // where that fails, the socket may well go on; if not, there will be new tokens then
        self.renewal = None;
        match self.refresh().await {
            Ok(true) => {
                let token = self.client.token().unwrap_or_default();
                socket.send_text(json!({ "type": "auth", "token": token }).to_string()).await
            }
            Ok(false) => Ok(()),
            Err(_) => {
                self.renewal = Some(Instant::now() + Duration::from_secs(60));
                Ok(())
            }
        }
    }

    /// Posts as the device. A token that is no longer good is replaced.
    pub(super) async fn post(&mut self, path: &str, body: &Value) -> Result<Value, ClientError> {
        match self.client.post(path, body).await {
            Err(error) if error.is_unauthorized() && self.state.is_some() => {
                self.forget_access_token();
                self.authenticate().await?;
                self.client.post(path, body).await
            }
            done => done,
        }
    }

    /// One attempt; a token that turns out to be no good is replaced.
    async fn attempt(&mut self) -> Result<Connection, ClientError> {
        self.authenticate().await?;
        match self.client.connect("/ws").await {
            Err(error) if error.is_unauthorized() && self.state.is_some() => {
                self.forget_access_token();
                self.authenticate().await?;
                self.client.connect("/ws").await
            }
            done => done,
        }
    }

    /// Sees that the client has a token: the one that is there, else a new one for the refresh token, else by registering.
    async fn authenticate(&mut self) -> Result<(), ClientError> {
        let Some((_, state)) = &self.state else { return Ok(()) };
        // who has another name now has to say so
        let is_registered = state.given_token.is_some() || state.name.as_deref() == Some(&self.name);
        if is_registered {
            let left = state.access_token_expires_at.unwrap_or(0) - chrono::Utc::now().timestamp();
            if let Some(token) = &state.access_token
                && left > LEAST_LEFT
            {
                self.client = self.client.with_token(token);
                self.plan_renewal(left.unsigned_abs());
                return Ok(());
            }
            if self.refresh().await? {
                return Ok(());
            }
        }
        // the refresh token that was given is kept until there is another, so it is not missing
        if self.registers { self.register().await } else { Err(ClientError::Token) }
    }

    /// Exchanges the refresh token; whether there was one that is good.
    async fn refresh(&mut self) -> Result<bool, ClientError> {
        let Some((_, state)) = &mut self.state else { return Ok(false) };
        let Some(token) = state.refresh_token.clone() else { return Ok(false) };
        match self.client.refresh(&token).await {
            Ok(login) => {
                let owner = state::Owner::of(&login.access_token).filter(|_| state.given_token.is_some());
                if let Some(owner) = &owner
                    && self.is_known
                    && owner.sub != state.uuid
                {
                    return Err(ClientError::AnotherDevice { owner: owner.sub, expected: state.uuid });
                }
                self.is_known |= owner.is_some();
                self.keep(login, |state| {
                    if let Some(owner) = owner {
                        (state.uuid, state.name) = (owner.sub, Some(owner.name));
                    }
                });
                Ok(true)
            }
            Err(error) if error.is_unauthorized() && self.registers => {
                state.refresh_token = None;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn register(&mut self) -> Result<(), ClientError> {
        let Some((_, state)) = &self.state else { return Ok(()) };
        let device = self.client.register_device_again(&self.name, state.uuid, state.device_key.as_deref()).await?;
        let (name, key) = (self.name.clone(), device.device_key);
        let login = Login {
            access_token: device.access_token,
            access_token_expires_in: device.access_token_expires_in,
            refresh_token: device.refresh_token,
        };
        self.keep(login, |state| {
            (state.name, state.device_key, state.given_token) = (Some(name), Some(key), None);
        });
        Ok(())
    }

    /// Writes new tokens down, and what else has changed.
    fn keep(&mut self, login: Login, change: impl FnOnce(&mut State)) {
        self.plan_renewal(login.access_token_expires_in);
        let Some((file, state)) = &mut self.state else { return };
        let lifetime = i64::try_from(login.access_token_expires_in).unwrap_or(i64::MAX / 2);
        state.access_token_expires_at = Some(chrono::Utc::now().timestamp().saturating_add(lifetime));
        (state.access_token, state.refresh_token) = (Some(login.access_token), Some(login.refresh_token));
        change(state);
        // what is in memory is good until the end of this run
        if let Err(error) = file.write(state) {
            super::output::complain(&format!("{error:#}; this device may not be known at its next start"));
        }
    }

    fn forget_access_token(&mut self) {
        if let Some((_, state)) = &mut self.state {
            state.access_token = None;
        }
    }

    /// Some time before the token expires, not at the same moment as everybody else.
    fn plan_renewal(&mut self, lifetime_secs: u64) {
        let part = rand::random_range(0.7..0.9);
        // no clock goes as far as the longest lifetimes
        let lifetime = Duration::from_secs(lifetime_secs.min(30 * 86_400));
        self.renewal = Some(Instant::now() + lifetime.mul_f64(part));
    }

    /// What to do about an error that another attempt would meet again.
    fn explained(&self, error: ClientError) -> anyhow::Error {
        let todo = match &error {
            error if error.is_unauthorized() && (!self.registers || self.state.is_none()) => {
                "the token that was given is not good any more: ask an operator for a new one"
            }
            ClientError::AnotherDevice { .. } => {
                "give another --state FILE or --name for that device, and a new token, since this one is spent"
            }
            ClientError::Refused { code, .. } if code == "uuid_claimed" => {
                "the UUID belongs to another registration: give its --device-key or --state, or another --uuid"
            }
            ClientError::Refused { status, .. } if matches!(status.as_u16(), 401 | 403) && self.registers => {
                "the broker lets only operators register devices: ask one to register this device, and give its token with --token"
            }
            ClientError::Closed { code: 4409, .. } => {
                "the same device has connected from elsewhere: give another --uuid or --state to one of the two"
            }
            _ => return error.into(),
        };
        anyhow::anyhow!("{error}; {todo}")
    }
}
