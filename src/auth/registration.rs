//! Registration of devices and users (contract section 3).

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use uuid::Uuid;

use super::{
    AuthError, Sessions,
    accounts::Accounts,
    passwords::Passwords,
    tokens::{Claims, Issued, digest, random_text},
    undisturbed,
};
use crate::{
    cluster::{Backplane, Counted},
    domain::{
        accounts::{AccountChange, Authenticated},
        audit::Actor,
        budget::OverLimit,
        ids::{ClientId, ClientKind, Role},
        network,
        rate_limit::PerMinute,
        registration::{DeviceToken, Proof},
    },
    settings::{LiveSettings, Registration as Policy},
    store::{NewRefreshToken, NewUser, Store, User},
};

/// A device that wants to be registered.
#[derive(Debug)]
pub struct NewDevice {
    /// Its identity.
    pub uuid: ClientId,
    /// Its name; may be empty.
    pub name: String,
    /// The key of its last registration.
    pub device_key: Option<String>,
    /// The key of this registration, if the device chooses it.
    pub new_device_key: Option<String>,
    /// A token of the device, as proof that it is the same.
    pub token: Option<String>,
}

/// What a registered device gets.
#[derive(Debug)]
pub struct RegisteredDevice {
    /// Its tokens.
    pub tokens: Issued,
    /// The key for the next registration.
    pub device_key: String,
}

/// Registers devices and users.
#[derive(Clone)]
pub struct Registrations {
    settings: LiveSettings,
    per_address: Arc<Mutex<PerMinute<IpAddr>>>,
    backplane: Arc<dyn Backplane>,
    accounts: Arc<Accounts>,
    sessions: Arc<dyn Sessions>,
    passwords: Passwords,
    store: Store,
}

impl fmt::Debug for Registrations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registrations")
            .field("policy", &self.settings.load().devices.registration)
            .finish_non_exhaustive()
    }
}

impl Registrations {
    /// With the policy and the limits of these settings.
    pub fn new(
        settings: LiveSettings,
        backplane: Arc<dyn Backplane>,
        accounts: Arc<Accounts>,
        sessions: Arc<dyn Sessions>,
        passwords: Passwords,
        store: Store,
    ) -> Self {
        let per_address = Arc::new(Mutex::new(PerMinute::new(0)));
        Self { settings, per_address, backplane, accounts, sessions, passwords, store }
    }

    /// Registers a device, or registers it again. The credentials of the request are used only where the policy asks for
    /// some.
    ///
    /// # Errors
    /// The proof is missing, the address has registered too many, or the database fails.
    pub async fn device(
        &self,
        device: NewDevice,
        credentials: Result<Option<String>, AuthError>,
        address: Option<IpAddr>,
    ) -> Result<RegisteredDevice, AuthError> {
        let this = self.clone();
        undisturbed(async move { this.register(device, credentials, address).await }).await
    }

    async fn register(
        &self,
        device: NewDevice,
        credentials: Result<Option<String>, AuthError>,
        address: Option<IpAddr>,
    ) -> Result<RegisteredDevice, AuthError> {
        let NewDevice { uuid, name, device_key, new_device_key, token } = device;
        let key_hash = device_key.as_deref().map(digest);
        let mut store = self.store.clone();
        let proof = match self.settings.load().devices.registration {
            Policy::Open => Proof::NotAsked,
            Policy::Claim => {
                let token = token.map_or(credentials, |token| Ok(Some(token)))?;
                match self.token_of(uuid, token).await? {
                    Some(token) => Proof::Token(token),
                    None => Proof::Key(key_hash.as_deref()),
                }
            }
            Policy::Closed => {
                let operator = self.check_operator(credentials?).await?;
                store = store.by(Actor::of(&operator.account, address));
                Proof::Operator
            }
        };
        self.count(address).await?;
        let tokens = self.accounts.tokens();
        let family = Uuid::new_v4();
        let refresh = tokens.refresh(family)?;
        let stored = NewRefreshToken::of(&refresh, family, uuid, ClientKind::Device);
        if self.store.is_uuid_of_user(uuid).await? {
            return Err(AuthError::UuidClaimed);
        }
        let device_key = new_device_key.unwrap_or_else(random_text);
        let registered = store.register_device(uuid, &name, &digest(&device_key), proof, &stored).await?;
        let account = self.accounts.put(registered.ok_or(AuthError::UuidClaimed)?.into());
        // also of a device without a session: its subscriptions may wait for it, and be for its old name
        self.sessions.apply(AccountChange::Account(account.clone())).await;
        tracing::info!(device = %uuid, "device registered");
        Ok(RegisteredDevice { tokens: tokens.issue(&account, family, refresh)?, device_key })
    }

    /// What identifies this token, if it is an authentic, unrevoked access token of that device, expired or not.
    async fn token_of(&self, uuid: ClientId, token: Option<String>) -> Result<Option<DeviceToken>, AuthError> {
        let claims = token.and_then(|token| self.accounts.tokens().read_expired(&token));
        let Some(claims) = claims.filter(|claims| claims.client() == uuid) else { return Ok(None) };
        let is_valid = self.accounts.account_of(&claims).await?.is_some();
        let Claims { jti: id, family, generation, .. } = claims;
        Ok(is_valid.then_some(DeviceToken { id, family, generation }))
    }

    async fn check_operator(&self, token: Option<String>) -> Result<Authenticated, AuthError> {
        let identity = self.accounts.authenticate(&token.ok_or(AuthError::NotAuthenticated)?).await?;
        if identity.account.role() < Role::Operator { Err(AuthError::OperatorRequired) } else { Ok(identity) }
    }

    /// Registers a user.
    ///
    /// # Errors
    /// The names are taken, the address has registered too many, too many passwords wait to be hashed, or the database
    /// fails.
    pub async fn user(&self, user: NewAccount, address: Option<IpAddr>) -> Result<User, AuthError> {
        self.count(address).await?;
        let NewAccount { username, email, password, full_name, job_title } = user;
        let password_hash = self.passwords.hash(password).await?;
        let new = NewUser { username, email, full_name, job_title, password_hash, role: Role::User };
        let this = self.clone();
        undisturbed(async move {
            let user = this.store.by(Actor::unknown(address)).create_user(new).await?.map_err(AuthError::Duplicate)?;
            tracing::info!(user = user.id, "user registered");
            this.accounts.put(user.clone().into());
            Ok(user)
        })
        .await
    }

    /// Counts a registration at this node, and at all nodes if that is possible. Both counts may refuse it; then it counts
    /// nowhere.
    async fn count(&self, address: Option<IpAddr>) -> Result<(), OverLimit> {
        let Some(address) = address.map(network::limit_key) else { return Ok(()) };
        let too_many = |wait| OverLimit::for_at_least("limits.registrations_per_minute", wait);
        let limit = {
            let mut per_address = self.per_address();
            per_address.take(&[address], Instant::now()).map_err(too_many)?;
            per_address.limit()
        };
        if limit > 0
            && let Counted::TooMany(wait) =
                self.backplane.count(&[format!("registration address {address}")], limit).await
        {
            self.per_address().give_back(&[address]);
            return Err(too_many(wait));
        }
        Ok(())
    }

    fn per_address(&self) -> MutexGuard<'_, PerMinute<IpAddr>> {
        let mut per_address = self.per_address.lock().unwrap_or_else(PoisonError::into_inner);
        per_address.set_limit(self.settings.load().limits.registrations_per_minute);
        per_address
    }
}

/// A user who wants to be registered.
#[derive(Debug)]
pub struct NewAccount {
    /// The login name.
    pub username: String,
    /// The email, for logging in as well.
    pub email: Option<String>,
    /// The password.
    pub password: String,
    /// The name to show.
    pub full_name: Option<String>,
    /// Grants nothing.
    pub job_title: Option<String>,
}
