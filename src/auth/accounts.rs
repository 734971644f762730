//! Accounts: who exists, in what state, and which tokens still count. The database behind, memory in front, so that a
//! request or a handshake costs no query.
//!
//! What this process changes it writes to both. What others change (another node, the command line) is found by a look
//! at the database every `auth.recheck_secs`, which also closes the live sockets concerned.

mod watch;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
use papaya::HashMap;
use quick_cache::sync::Cache;
use uuid::Uuid;

use super::tokens::{Claims, Tokens};
use crate::{
    domain::{
        accounts::{Account, Authenticated},
        ids::{ClientId, ClientKind},
    },
    error::ApiError,
    store::{Store, StoreError},
};

/// Accounts kept in memory; a quarter of a kilobyte each.
const CACHED: usize = 100_000;

/// See the module.
pub struct Accounts {
    store: Store,
    tokens: Tokens,
    cache: Cache<ClientId, Arc<Account>>,
    putting: Mutex<()>,
    /// revoked `jti`s and families, until when
    revoked: HashMap<Uuid, DateTime<Utc>>,
    /// the version of the newest change when `revoked` was read: whatever was cached is as new as this
    loaded: i64,
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").field("cached", &self.cache.len()).finish_non_exhaustive()
    }
}

impl Accounts {
    /// Reads what is revoked.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn load(store: Store, tokens: Tokens) -> Result<Self, StoreError> {
        let revoked = HashMap::new();
        // before anything is read: what changes from here on is looked for
        let loaded = store.last_change().await?;
        for (id, until) in store.revocations(None).await? {
            revoked.pin().insert(id, until);
        }
        Ok(Self { store, tokens, cache: Cache::new(CACHED), putting: Mutex::new(()), revoked, loaded })
    }

    /// Makes and reads tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Who holds this token.
    ///
    /// # Errors
    /// `InvalidCredentials` if it is bad, expired or revoked or its client is gone, `InactiveUser` if disabled.
    pub async fn authenticate(&self, token: &str) -> Result<Authenticated, ApiError> {
        self.identify(self.tokens.read(token).as_ref()).await
    }

    /// Who holds this token, which may come again and again.
    ///
    /// # Errors
    /// As for [`Accounts::authenticate`].
    pub async fn authenticate_again(&self, token: &str) -> Result<Authenticated, ApiError> {
        self.identify(self.tokens.read_again(token).as_deref()).await
    }

    async fn identify(&self, claims: Option<&Claims>) -> Result<Authenticated, ApiError> {
        let claims = claims.ok_or(ApiError::InvalidCredentials)?;
        let account = self.account_of(claims).await?.ok_or(ApiError::InvalidCredentials)?;
        if !account.is_active() {
            return Err(ApiError::InactiveUser);
        }
        Ok(Authenticated { account, jti: claims.jti, family: claims.family, expires_at: claims.expires_at() })
    }

    /// Whether an identity still stands, now that its session can be found: a change between [`Accounts::authenticate`]
    /// and then has closed the sessions that could be found, and missed this one.
    ///
    /// # Errors
    /// As for [`Accounts::authenticate`].
    pub async fn confirm(&self, identity: &Authenticated) -> Result<(), ApiError> {
        let before = &identity.account;
        let revoked = self.is_revoked(identity.jti) || self.is_revoked(identity.family);
        match self.account(before.id, before.kind()).await? {
            Some(now) if !revoked && now.accepts(before.generation, identity.family) => {
                if now.is_active() {
                    Ok(())
                } else {
                    Err(ApiError::InactiveUser)
                }
            }
            _ => Err(ApiError::InvalidCredentials),
        }
    }

    /// The account behind a token's claims, if the token is not revoked.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn account_of(&self, claims: &Claims) -> Result<Option<Arc<Account>>, StoreError> {
        let Some(kind) = claims.client_kind() else { return Ok(None) };
        if self.is_revoked(claims.jti) || self.is_revoked(claims.family) {
            return Ok(None);
        }
        let account = self.account(claims.client(), kind).await?;
        Ok(account.filter(|account| account.kind() == kind && account.accepts(claims.generation, claims.family)))
    }

    /// A client's account.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn account(&self, id: ClientId, kind: ClientKind) -> Result<Option<Arc<Account>>, StoreError> {
        if let Some(account) = self.cache.get(&id) {
            // kept for a while, so that whoever read the row before the deletion does not bring it back
            return Ok(Some(account).filter(|account| !account.is_deleted));
        }
        let account: Option<Account> = match kind {
            ClientKind::Device => self.store.device(id).await?.map(Into::into),
            ClientKind::User => self.store.user_by_uuid(id).await?.map(Into::into),
        };
        Ok(account.map(|account| self.put(account)).filter(|account| !account.is_deleted))
    }

    /// A client's account, whatever kind of client it is.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find(&self, id: ClientId) -> Result<Option<Arc<Account>>, StoreError> {
        match self.account(id, ClientKind::Device).await? {
            None => self.account(id, ClientKind::User).await,
            found => Ok(found),
        }
    }

    /// The account of the user with this integer id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn user(&self, id: i64) -> Result<Option<Arc<Account>>, StoreError> {
        Ok(self.store.user_by_id(id).await?.map(|user| self.put(user.into())))
    }

    /// Takes over what has been read from or written to the database, unless something newer is known. Answers what is
    /// known now.
    pub fn put(&self, account: Account) -> Arc<Account> {
        // two that come at once must not pass each other between the look and the insertion
        let _one_at_a_time = self.putting.lock().unwrap_or_else(PoisonError::into_inner);
        match self.cache.get(&account.id) {
            // the same once more stays the same: sessions share it
            Some(known) if known.version > account.version || *known == account => known,
            _ => {
                let account = Arc::new(account);
                self.cache.insert(account.id, account.clone());
                account
            }
        }
    }

    /// Takes over a revocation that has just been written to the database.
    pub fn put_revocation(&self, id: Uuid, until: DateTime<Utc>) {
        self.revoked.pin().insert(id, until);
    }

    fn is_revoked(&self, id: Uuid) -> bool {
        self.revoked.pin().contains_key(&id)
    }
}
