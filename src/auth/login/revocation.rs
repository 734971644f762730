//! The end of tokens and logins before their time.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{AuthError, Logins, undisturbed};
use crate::domain::{
    accounts::{AccountChange, Authenticated},
    audit::{Action, Actor},
    ids::{ClientId, ClientKind},
};

/// What to revoke.
#[derive(Debug)]
pub enum Revocation {
    /// This access or refresh token; of the latter, its login.
    Token(String),
    /// The access token with this id.
    Jti(Uuid),
    /// All tokens of this client.
    Client(ClientId),
}

impl Logins {
    /// Revokes tokens on behalf of an admin. Returns how many tokens or logins ended.
    ///
    /// # Errors
    /// There is no such token or client, or the database fails.
    pub async fn revoke(&self, admin: Actor, what: Revocation) -> Result<u64, AuthError> {
        let this = self.by(admin);
        undisturbed(async move {
            let revoked = match what {
                Revocation::Token(token) => this.revoke_token(&token).await?,
                // the owner is not known, so the revocation is kept as long as a device's
                Revocation::Jti(jti) => this.revoke_jti(jti, this.revoked_until(ClientKind::Device, None)).await?,
                Revocation::Client(client) => this.revoke_client(client).await?,
            };
            Ok(revoked)
        })
        .await
    }

    /// Logs a client out: ends its refresh token and all access tokens that came from the same login.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn log_out(&self, by: Actor, identity: &Authenticated) -> Result<(), AuthError> {
        let this = self.by(by);
        let (family, until) = (identity.family, this.revoked_until(identity.account.kind(), Some(identity.expires_at)));
        undisturbed(async move { this.end_family(family, until, Action::LoggedOut).await }).await
    }

    /// Caches a revocation that has been written to the database, and closes the sessions that it concerns.
    pub(super) async fn revoked(&self, id: Uuid, until: DateTime<Utc>) {
        self.accounts.put_revocation(id, until);
        self.sessions.apply(AccountChange::Token(id)).await;
    }

    async fn revoke_token(&self, token: &str) -> Result<u64, AuthError> {
        if let Some(claims) = self.accounts.tokens().read_expired(token) {
            let kind = claims.client_kind().unwrap_or(ClientKind::Device);
            return self.revoke_jti(claims.jti, self.revoked_until(kind, Some(claims.expires_at()))).await;
        }
        let login = self.store.family_of(&self.accounts.tokens().read_refresh(token)).await?;
        let (family, kind) = login.ok_or(AuthError::UnknownToken)?;
        self.end_family(family, self.revoked_until(kind, None), Action::TokensRevoked).await?;
        Ok(1)
    }

    fn revoked_until(&self, kind: ClientKind, expires_at: Option<DateTime<Utc>>) -> DateTime<Utc> {
        self.accounts.tokens().revoked_until(kind, expires_at)
    }

    async fn revoke_jti(&self, jti: Uuid, until: DateTime<Utc>) -> Result<u64, AuthError> {
        let is_news = self.store.revoke(jti, until).await?;
        self.revoked(jti, until).await;
        Ok(is_news.into())
    }

    async fn end_family(&self, family: Uuid, until: DateTime<Utc>, audited: Action) -> Result<(), AuthError> {
        self.store.end_family(family, until, audited).await?;
        self.revoked(family, until).await;
        Ok(())
    }

    async fn revoke_client(&self, client: ClientId) -> Result<u64, AuthError> {
        let (account, logins) = self.store.revoke_client(client).await?.ok_or(AuthError::NoSuchClient)?;
        self.changed(account).await;
        Ok(logins.max(1))
    }
}
