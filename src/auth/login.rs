//! Logins of users with a password, from their begin to their end, and changes of users (contract section 3).

mod revocation;

pub use revocation::Revocation;

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    AuthError, IdentityError, Sessions, accounts::Accounts, passwords::Passwords, tokens::Issued, undisturbed,
};
use crate::{
    cluster::{Backplane, Counted},
    domain::{
        accounts::{Account, AccountChange, Authenticated},
        audit::Actor,
        budget::OverLimit,
        login_limit::{Attempt, LoginLimit},
        network,
        passwords::{MAX_CHARS, PasswordRules},
    },
    metrics::METRICS,
    settings::LiveSettings,
    store::{NewRefreshToken, Rotation, Store, User, UserChange, UserRefusal},
};

/// Characters of a name that failed to log in, in the log.
const LOGGED_CHARS: usize = 64;

/// Begins and ends logins, and changes users.
#[derive(Clone)]
pub struct Logins {
    limit: Arc<Mutex<LoginLimit>>,
    backplane: Arc<dyn Backplane>,
    settings: LiveSettings,
    accounts: Arc<Accounts>,
    sessions: Arc<dyn Sessions>,
    passwords: Passwords,
    store: Store,
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logins").field("rules", &self.rules()).finish_non_exhaustive()
    }
}

impl Logins {
    /// With the limits and the rules for new passwords of these settings.
    pub fn new(
        backplane: Arc<dyn Backplane>,
        settings: LiveSettings,
        accounts: Arc<Accounts>,
        sessions: Arc<dyn Sessions>,
        passwords: Passwords,
        store: Store,
    ) -> Self {
        let limit = Arc::new(Mutex::new(LoginLimit::new(0)));
        Self { limit, backplane, settings, accounts, sessions, passwords, store }
    }

    fn rules(&self) -> PasswordRules {
        self.settings.load().auth.password_rules()
    }

    /// Logs in with a username or email.
    ///
    /// # Errors
    /// The name or password is wrong, the user is disabled, too many logins have failed, or the database fails.
    pub async fn login(&self, name: String, password: String, address: Option<IpAddr>) -> Result<Issued, AuthError> {
        let user = self.store.user_by_login(&name).await?;
        let is_right = self.check_password(&name, user.as_ref(), password, address).await?;
        let user = user.filter(|_| is_right).ok_or(AuthError::IncorrectLogin)?;
        if !self.accounts.put(user.clone().into()).is_active() {
            return Err(IdentityError::InactiveUser.into());
        }
        let this = self.clone();
        undisturbed(async move { this.begin(&name, user, address).await }).await
    }

    /// Stores a login whose password was right.
    async fn begin(&self, name: &str, user: User, address: Option<IpAddr>) -> Result<Issued, AuthError> {
        let (id, generation) = (user.id, user.token_generation);
        // with the generation that the password was checked for: a newer one belongs to a new password
        let account = Account::from(user);
        let tokens = self.accounts.tokens();
        let family = Uuid::new_v4();
        let refresh = tokens.refresh(family)?;
        let stored = NewRefreshToken::of(&refresh, family, account.id, account.kind());
        let store = self.store.by(Actor::of(&account, address));
        let address = address.map(network::limit_key);
        let address = address.filter(|address| self.limit().is_to_be_stored(name, *address, Instant::now()));
        if !store.insert_login(id, generation, stored, address).await? {
            return Err(AuthError::IncorrectLogin);
        }
        if let Some(address) = address {
            self.limit().stored(name, address, Instant::now());
        }
        tokens.issue(&account, family, refresh)
    }

    /// Exchanges a refresh token, which can be used once, for a new pair.
    ///
    /// # Errors
    /// The token is unknown, expired or used, its user is disabled, or the database fails.
    pub async fn refresh(&self, refresh_token: &str, address: Option<IpAddr>) -> Result<Issued, AuthError> {
        let this = self.by(Actor::unknown(address));
        let shown = self.accounts.tokens().read_refresh(refresh_token);
        undisturbed(async move {
            let tokens = this.accounts.tokens();
            let revoked_until = |kind| tokens.revoked_until(kind, None);
            match this.store.rotate_refresh_token(&shown, |family| tokens.refresh(family), revoked_until).await? {
                // with the generation of this account: a newer one ends this login
                Rotation::Rotated { family, owner, successor } => tokens.issue(&owner, family, *successor),
                Rotation::Inactive => Err(IdentityError::InactiveUser.into()),
                Rotation::Reused { family, kind } => {
                    tracing::warn!(%family, "refresh token used twice, its login ended");
                    this.revoked(family, tokens.revoked_until(kind, None)).await;
                    Err(AuthError::InvalidRefreshToken)
                }
                Rotation::Unknown => Err(AuthError::InvalidRefreshToken),
            }
        })
        .await
    }

    /// Changes the password of the user who is logged in as `identity`. Their other logins end.
    ///
    /// # Errors
    /// The old password is wrong, the new one breaks a rule, too many logins have failed, or the database fails.
    pub async fn change_password(
        &self,
        identity: &Authenticated,
        old: String,
        new: String,
        address: Option<IpAddr>,
    ) -> Result<(), AuthError> {
        let user = self.store.user_by_uuid(identity.account.id).await?.ok_or(IdentityError::InvalidCredentials)?;
        self.check_rules(&user, &new)?;
        if !self.check_password(&user.username, Some(&user), old, address).await? {
            return Err(AuthError::IncorrectPassword);
        }
        let hash = self.passwords.hash(new).await?;
        let change =
            UserChange::Password { hash, expected: Some(user.password_hash), kept_login: Some(identity.family) };
        let (this, by) = (self.clone(), Actor::of(&identity.account, address));
        undisturbed(async move {
            match this.change_user(by, user.id, change).await {
                // deleted in the meantime
                Err(AuthError::Refused(UserRefusal::NoSuchUser)) => {
                    return Err(IdentityError::InvalidCredentials.into());
                }
                changed => changed?,
            };
            Ok(())
        })
        .await
    }

    /// Sets the password of a user, on behalf of this admin, who has this address. All logins of the user end, except the admin's own.
    ///
    /// # Errors
    /// There is no such user, the new password breaks a rule, or the database fails.
    pub async fn set_password(
        &self,
        admin: &Authenticated,
        address: Option<IpAddr>,
        id: i64,
        new: String,
    ) -> Result<(), AuthError> {
        let user = self.store.user_by_id(id).await?.ok_or(UserRefusal::NoSuchUser)?;
        self.check_rules(&user, &new)?;
        let hash = self.passwords.hash(new).await?;
        let kept_login = (user.uuid == admin.account.id).then_some(admin.family);
        let (this, admin) = (self.clone(), Actor::of(&admin.account, address));
        undisturbed(async move {
            this.change_user(admin, id, UserChange::Password { hash, expected: None, kept_login }).await?;
            Ok(())
        })
        .await
    }

    /// Changes a user, and closes the sessions that it concerns. To be done to its end.
    ///
    /// # Errors
    /// The change is refused, or the database fails.
    pub async fn change_user(&self, by: Actor, id: i64, change: UserChange) -> Result<Arc<Account>, AuthError> {
        let user = self.store.by(by).change_user(id, change).await??;
        Ok(self.changed(user.into()).await)
    }

    /// The same for changes by somebody, who is named in the audit log.
    fn by(&self, actor: Actor) -> Self {
        Self { store: self.store.by(actor), ..self.clone() }
    }

    /// Caches a changed account that has been written to the database, and closes the sessions that it concerns.
    async fn changed(&self, account: Account) -> Arc<Account> {
        let account = self.accounts.put(account);
        self.sessions.apply(AccountChange::Account(account.clone())).await;
        account
    }

    fn check_rules(&self, user: &User, password: &str) -> Result<(), AuthError> {
        let names: Vec<_> =
            [Some(&user.username), user.email.as_ref()].into_iter().flatten().map(String::as_str).collect();
        Ok(self.rules().check(password, &names)?)
    }

    /// Whether this is the password of the user whose name was typed as `name`. A wrong one counts as a failed login.
    async fn check_password(
        &self,
        name: &str,
        user: Option<&User>,
        password: String,
        address: Option<IpAddr>,
    ) -> Result<bool, AuthError> {
        let attempt = self.attempt(name, user, address.map(network::limit_key)).await?;
        // an overlong password is not worth a hash, but must take as long as any other
        let password = if password.chars().count() > MAX_CHARS { String::new() } else { password };
        let verified = self.passwords.verify(password, user.map(|user| user.password_hash.clone())).await;
        if !matches!(verified, Ok(false)) && !attempt.counted().is_empty() {
            self.backplane.give_back(attempt.counted()).await;
        }
        match &verified {
            Ok(true) => {
                METRICS.logins_total.with_label_values(&["succeeded"]).inc();
                self.limit().succeeded(attempt, Instant::now());
            }
            Ok(false) => {
                METRICS.logins_total.with_label_values(&["failed"]).inc();
                let (name, address) = (logged_name(name), address.map(tracing::field::display));
                tracing::info!(%name, address, "login failed");
            }
            Err(_) => self.limit().undecided(attempt),
        }
        verified
    }

    /// Counts an attempt. A name without attempts left may have one of its own at an address that the database remembers.
    async fn attempt(&self, name: &str, user: Option<&User>, address: Option<IpAddr>) -> Result<Attempt, AuthError> {
        // all nodes count the same, so each must know what the others remember
        if let Some(address) = address
            && self.backplane.is_shared()
        {
            self.recall(name, user, address).await?;
        }
        let mut attempt = self.count(name, address).await;
        if let (Err(_), Some(address)) = (&attempt, address)
            && self.recall(name, user, address).await?
        {
            attempt = self.count(name, Some(address)).await;
        }
        Ok(attempt.map_err(|wait| OverLimit::for_at_least("limits.login_failures_per_minute", wait))?)
    }

    /// Counts an attempt at this node, and at all nodes if that is possible. Both counts may refuse it; then it counts nowhere.
    async fn count(&self, name: &str, address: Option<IpAddr>) -> Result<Attempt, Duration> {
        let (mut attempt, limit) = {
            let mut local = self.limit();
            (local.begin(name, address, Instant::now())?, local.limit())
        };
        if limit == 0 {
            return Ok(attempt);
        }
        match self.backplane.count(attempt.texts(), limit).await {
            Counted::Everywhere => attempt.counted_everywhere(),
            Counted::Here => {}
            Counted::TooMany(wait) => {
                self.limit().undecided(attempt);
                return Err(wait);
            }
        }
        Ok(attempt)
    }

    /// Whether the database alone remembers a login of this user from this address.
    async fn recall(&self, name: &str, user: Option<&User>, address: IpAddr) -> Result<bool, AuthError> {
        if self.limit().knows(name, address, Instant::now()) {
            return Ok(false);
        }
        let age = self.store.known_login(user.map(|user| user.id), address).await?;
        let Some(age) = age else { return Ok(false) };
        self.limit().recall(name, address, age, Instant::now());
        Ok(true)
    }

    fn limit(&self) -> MutexGuard<'_, LoginLimit> {
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        limit.set_limit(self.settings.load().limits.login_failures_per_minute);
        limit
    }
}

/// A name as it is logged: quoted and escaped if it could look like another line or field of the log.
fn logged_name(name: &str) -> String {
    let name: String = name.chars().take(LOGGED_CHARS).collect();
    let is_plain = |c: char| c.is_alphanumeric() || "@._+-".contains(c);
    if !name.is_empty() && name.chars().all(is_plain) { name } else { format!("{name:?}") }
}
