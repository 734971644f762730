//! Accounts and revocations, cached in memory so that a request or a handshake costs no query.
//!
//! A change by this process goes to the database and to the cache. Changes by others (another node, the command line) are
//! found by polling the database every `auth.recheck_secs`. Both close the live sockets concerned.

mod watch;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
use papaya::HashMap;
use quick_cache::sync::Cache;
use uuid::Uuid;

use super::{
    IdentityError, LookupError,
    tokens::{Claims, Tokens},
};
use crate::{
    cluster::look_requests::LookRequests,
    domain::{
        accounts::{Account, Authenticated},
        ids::{ClientId, ClientKind, ClientRef},
    },
    store::{Store, StoreError},
};

/// Accounts in the cache; a quarter of a kilobyte each.
const CACHED: usize = 100_000;

/// See the module.
pub struct Accounts {
    store: Store,
    tokens: Tokens,
    cache: Cache<ClientId, Arc<Account>>,
    /// held by `put`
    putting: Mutex<()>,
    /// revoked `jti`s and families, and until when their revocations are kept
    revoked: HashMap<Uuid, DateTime<Utc>>,
    /// the version of the newest change when `revoked` was read; whatever is cached is at least as new
    loaded: i64,
    /// another process has changed something
    looks: LookRequests,
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").field("cached", &self.cache.len()).finish_non_exhaustive()
    }
}

impl Accounts {
    /// Reads the revocations.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn load(store: Store, tokens: Tokens) -> Result<Self, StoreError> {
        let revoked = HashMap::new();
        // first, so that `watch` finds what changes while the revocations are read
        let loaded = store.last_change().await?;
        for (id, until) in store.revocations(None).await? {
            revoked.pin().insert(id, until);
        }
        Ok(Self {
            store,
            tokens,
            cache: Cache::new(CACHED),
            putting: Mutex::new(()),
            revoked,
            loaded,
            looks: LookRequests::default(),
        })
    }

    /// Issues and verifies tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The client that holds this access token.
    ///
    /// # Errors
    /// `InvalidCredentials` if it is bad, expired or revoked or its client is gone, `InactiveUser` if disabled.
    pub async fn authenticate(&self, token: &str) -> Result<Authenticated, IdentityError> {
        self.identify(self.tokens.read(token).as_ref()).await
    }

    /// The same for a token that comes with many requests: its signature is verified once.
    ///
    /// # Errors
    /// As for [`Accounts::authenticate`].
    pub async fn authenticate_again(&self, token: &str) -> Result<Authenticated, IdentityError> {
        self.identify(self.tokens.read_again(token).as_deref()).await
    }

    async fn identify(&self, claims: Option<&Claims>) -> Result<Authenticated, IdentityError> {
        let claims = claims.ok_or(IdentityError::InvalidCredentials)?;
        let account = self.account_of(claims).await?.ok_or(IdentityError::InvalidCredentials)?;
        if !account.is_active() {
            return Err(IdentityError::InactiveUser);
        }
        Ok(Authenticated { account, jti: claims.jti, family: claims.family, expires_at: claims.expires_at() })
    }

    /// Checks an identity once more, after its session has joined the Registry: a change between
    /// [`Accounts::authenticate`] and then has closed the sessions that were there, and missed this one.
    ///
    /// # Errors
    /// As for [`Accounts::authenticate`].
    pub async fn confirm(&self, identity: &Authenticated) -> Result<(), IdentityError> {
        let before = &identity.account;
        let revoked = self.is_revoked(identity.jti) || self.is_revoked(identity.family);
        match self.account(before.id, before.kind()).await? {
            Some(now) if !revoked && now.accepts(before.generation, identity.family) => {
                if now.is_active() {
                    Ok(())
                } else {
                    Err(IdentityError::InactiveUser)
                }
            }
            _ => Err(IdentityError::InvalidCredentials),
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
            // a deleted account stays cached, so that a row that was read before the deletion does not replace it
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

    /// The account of a client that a request names.
    ///
    /// # Errors
    /// There is no such client, or the database failed.
    pub async fn look_up(&self, who: ClientRef) -> Result<Arc<Account>, LookupError> {
        match who {
            ClientRef::User(id) => {
                let user = self.store.user_by_id(id).await?.ok_or(LookupError::NoSuchUser)?;
                Ok(self.put(user.into()))
            }
            ClientRef::Client(id) => self.find(id).await?.ok_or(LookupError::NoSuchClient),
        }
    }

    /// Caches an account that was read from or written to the database, unless a newer version is cached. Returns the one
    /// that is cached now.
    pub fn put(&self, account: Account) -> Arc<Account> {
        // comparison and insertion must be one step
        let _one_at_a_time = self.putting.lock().unwrap_or_else(PoisonError::into_inner);
        match self.cache.get(&account.id) {
            // an equal account is not replaced: sessions share the one that is cached
            Some(known) if known.version > account.version || *known == account => known,
            _ => {
                let account = Arc::new(account);
                self.cache.insert(account.id, account.clone());
                account
            }
        }
    }

    /// Caches a revocation that has been written to the database.
    pub(super) fn put_revocation(&self, id: Uuid, until: DateTime<Utc>) {
        self.revoked.pin().insert(id, until);
    }

    fn is_revoked(&self, id: Uuid) -> bool {
        self.revoked.pin().contains_key(&id)
    }
}

/// Accounts for a test, with tokens of a secret of its own.
#[cfg(test)]
pub(crate) async fn test_accounts(store: &Store) -> Arc<Accounts> {
    let (hour, day) = (chrono::TimeDelta::hours(1), chrono::TimeDelta::days(1));
    let tokens = Tokens::new(&[1; 32], hour, day, crate::clock::Clock::default());
    Arc::new(Accounts::load(store.clone(), tokens).await.unwrap())
}
