//! The connection of a command line device: its identity, its tokens, and reconnecting.

mod reconnect;
mod state;

use std::{future::pending, path::PathBuf, time::Duration};

use clap::Args;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::values::uuid;
use crate::{
    auth::tokens::{digest, random_text},
    client::{Client, ClientError, Connection, Login},
    terminal::{output::complain, remote::Remote},
};
use reconnect::Reconnect;
use state::{State, StateFile};

/// A token that expires within this many seconds is not used.
const LEAST_LEFT: i64 = 10;

#[derive(Args)]
pub(super) struct Identity {
    #[command(flatten)]
    remote: Remote,
    /// The device's UUID [default: from the state file, else a new one]
    #[arg(long, value_parser = uuid)]
    uuid: Option<Uuid>,
    /// The file with the device's key and tokens [default: a file in $XDG_STATE_HOME/switchboard for each broker and
    /// UUID or name]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// The key that proves the registration of this UUID, if it is not in the state file
    #[arg(long, env = "SWITCHBOARD_DEVICE_KEY", hide_env_values = true, allow_hyphen_values = true)]
    device_key: Option<String>,
    /// Use this token instead of registering: a refresh token, which can be used once and is then renewed in the state file,
    /// or an access token, which is used until it expires
    #[arg(
        long,
        env = "SWITCHBOARD_DEVICE_TOKEN",
        hide_env_values = true,
        allow_hyphen_values = true,
        conflicts_with = "device_key"
    )]
    token: Option<String>,
}

/// A device and its connection to the broker.
pub(super) struct Link {
    name: String,
    client: Client,
    /// `None`: an access token was given
    state: Option<(StateFile, State)>,
    /// whether the device may register; false if an operator gave it a token, at this start or an earlier one
    registers: bool,
    /// whether `--uuid` or the state file determines the device, so that a token of another one is refused
    is_known: bool,
    /// when the tokens are renewed
    renewal: Option<Instant>,
    connected_at: Option<Instant>,
    reconnect: Reconnect,
}

impl Link {
    /// Reads the state file. `waits_for_start`: whether to wait for a broker that has not started yet.
    pub(super) fn new(identity: Identity, name: String, waits_for_start: bool) -> anyhow::Result<Self> {
        let Identity { remote, uuid, state, device_key, token } = identity;
        let client = remote.client()?;
        // an access token is a JWT, which has three parts
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
        // registering would create another device than that of the given token
        link.registers = state.given_token.is_none() || has_key;
        link.state = Some((file, state));
        Ok(link)
    }

    /// The client, with the device's token.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Connects. `lost` is the error that ended the last connection. After errors that may be temporary, prints a line and
    /// tries again, without a limit on attempts.
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
                // not to stdout, which programs may read
                complain(&format!("{what} ({error}), trying again in {:.1} s", pause.as_secs_f64()));
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

    /// Waits until the tokens must be renewed; never completes if there is nothing to renew.
    pub(super) async fn renewal_is_due(&self) {
        match self.renewal {
            Some(at) => sleep_until(at).await,
            None => pending().await,
        }
    }

    /// Renews the tokens and extends the socket with the new one.
    pub(super) async fn renew(&mut self, socket: &mut Connection) -> Result<(), ClientError> {
        // if the renewal fails, the socket may stay open; if it is closed, reconnecting gets new tokens
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

    /// Sends a POST as the device. If the token is refused, gets a new one and tries again.
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

    /// One attempt to connect. If the token is refused, gets a new one and tries again.
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

    /// Ensures that the client has a valid token: the stored one, else one from the refresh token, else by registering.
    async fn authenticate(&mut self) -> Result<(), ClientError> {
        let Some((_, state)) = &self.state else { return Ok(()) };
        // a new name requires a new registration
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
        // does not happen without registration: a given refresh token is kept until it is replaced
        if self.registers { self.register().await } else { Err(ClientError::Token) }
    }

    /// Exchanges the refresh token. Returns false if there is none, or it was refused and the device can register instead.
    async fn refresh(&mut self) -> Result<bool, ClientError> {
        let Some((file, state)) = &mut self.state else { return Ok(false) };
        let Some(token) = state.refresh_token.clone() else { return Ok(false) };
        if !self.registers {
            // the token is spent by this, and from then on only its successor proves who the device is
            file.check(state).map_err(not_stored)?;
        }
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

    /// Registers with a new key that is in the state file before it is sent: when the answer is lost, the same request can be
    /// repeated. If the file cannot be written, the device does not register.
    async fn register(&mut self) -> Result<(), ClientError> {
        let Some((file, state)) = &mut self.state else { return Ok(()) };
        let new_key = match &state.new_device_key {
            Some(key) => key.clone(),
            None => {
                let key = random_text();
                state.new_device_key = Some(key.clone());
                if let Err(error) = file.write(state) {
                    state.new_device_key = None;
                    return Err(not_stored(error));
                }
                key
            }
        };
        let (uuid, key) = (state.uuid, state.device_key.as_deref());
        let device = self.client.register_device_again(&self.name, uuid, key, &new_key).await?;
        let (name, key) = (self.name.clone(), device.device_key);
        let login = Login {
            access_token: device.access_token,
            access_token_expires_in: device.access_token_expires_in,
            refresh_token: device.refresh_token,
        };
        self.keep(login, |state| {
            (state.name, state.device_key, state.given_token) = (Some(name), Some(key), None);
            state.new_device_key = None;
        });
        Ok(())
    }

    /// Stores new tokens and other changes in the state file.
    fn keep(&mut self, login: Login, change: impl FnOnce(&mut State)) {
        self.plan_renewal(login.access_token_expires_in);
        let Some((file, state)) = &mut self.state else { return };
        let lifetime = i64::try_from(login.access_token_expires_in).unwrap_or(i64::MAX / 2);
        state.access_token_expires_at = Some(chrono::Utc::now().timestamp().saturating_add(lifetime));
        (state.access_token, state.refresh_token) = (Some(login.access_token), Some(login.refresh_token));
        change(state);
        if let Err(error) = file.write(state) {
            // the state in memory is enough for this run
            let later = if self.registers {
                "the next start registers this device again"
            } else {
                "the next start needs a new token from an operator, unless a later attempt succeeds"
            };
            complain(&format!("{error:#}; {later}"));
        }
    }

    fn forget_access_token(&mut self) {
        if let Some((_, state)) = &mut self.state {
            state.access_token = None;
        }
    }

    /// Plans the renewal for a random moment before the token expires, so that devices do not renew all at once.
    fn plan_renewal(&mut self, lifetime_secs: u64) {
        let part = rand::random_range(0.7..0.9);
        // capped, since very long lifetimes would overflow the clock
        let lifetime = Duration::from_secs(lifetime_secs.min(30 * 86_400));
        self.renewal = Some(Instant::now() + lifetime.mul_f64(part));
    }

    /// Adds a suggestion to an error that another attempt would meet again.
    fn explained(&self, error: ClientError) -> anyhow::Error {
        let todo = match &error {
            error if error.is_unauthorized() && (!self.registers || self.state.is_none()) => {
                "the given token is no longer valid: ask an operator for a new one"
            }
            ClientError::State(_) => {
                "without it the next start could not prove that it is this device, so the broker was not asked: make the file writable, or give another --state FILE"
            }
            ClientError::AnotherDevice { .. } => {
                "give another --state FILE or --name for that device, and a new token, since this one has been spent"
            }
            ClientError::Refused { code, .. } if code == "uuid_claimed" => {
                "the UUID belongs to another registration: give its --device-key or --state, or another --uuid"
            }
            ClientError::Refused { status, .. } if matches!(status.as_u16(), 401 | 403) && self.registers => {
                "only operators can register devices: ask one to register this device, and give its token with --token"
            }
            ClientError::Closed { code: 4409, .. } => {
                "the same device has connected from elsewhere: give another --uuid or --state to one of the two"
            }
            _ => return error.into(),
        };
        anyhow::anyhow!("{error}; {todo}")
    }
}

/// The error of a request that is not made, since the device could not keep what would prove who it is.
fn not_stored(error: anyhow::Error) -> ClientError {
    ClientError::State(format!("{error:#}"))
}
