//! Refresh tokens and revocations.

use chrono::{DateTime, Utc};
use entity::{refresh_tokens, revocations};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QuerySelect, Set,
    sea_query::{Expr, OnConflict},
};
use uuid::Uuid;

use super::{Store, StoreError, Transaction, devices, users};
use crate::{
    auth::{accounts::Account, tokens::RefreshToken},
    domain::ids::{ClientId, ClientKind},
};

/// A refresh token to be stored; the token itself stays with the client.
#[derive(Debug, Clone)]
pub struct NewRefreshToken {
    /// SHA-256 of the token, in hex.
    pub token_hash: String,
    /// All tokens that came from one login.
    pub family: Uuid,
    /// Whose it is.
    pub client: ClientId,
    /// Of which kind that client is.
    pub kind: ClientKind,
    /// Until when it may be used.
    pub expires_at: DateTime<Utc>,
}

impl NewRefreshToken {
    pub(super) async fn insert(self, connection: &impl ConnectionTrait) -> Result<(), StoreError> {
        let row = refresh_tokens::ActiveModel {
            token_hash: Set(self.token_hash),
            family: Set(self.family),
            client_uuid: Set(self.client.into()),
            client_kind: Set(self.kind.as_str().to_owned()),
            expires_at: Set(self.expires_at.into()),
            used_at: Set(None),
        };
        refresh_tokens::Entity::insert(row).exec_without_returning(connection).await?;
        Ok(())
    }
}

/// What became of a refresh token that a client showed.
#[derive(Debug)]
pub enum Rotation {
    /// It was good: it is used up now, and its successor counts.
    Rotated {
        /// The family it belongs to.
        family: Uuid,
        /// Whose it is, as of this moment.
        owner: Account,
    },
    /// It is good, but its owner is disabled: nothing has changed.
    Inactive,
    /// It had been used before: somebody else has it. Its family has ended.
    Reused {
        /// The family that ended.
        family: Uuid,
        /// Whose it was.
        kind: ClientKind,
    },
    /// There is no such token, or it has expired.
    Unknown,
}

impl Store {
    /// Stores a refresh token.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn insert_refresh_token(&self, token: NewRefreshToken) -> Result<(), StoreError> {
        let transaction = self.begin_essential().await?;
        token.insert(&transaction).await?;
        Ok(transaction.commit().await?)
    }

    /// Exchanges a refresh token for its successor. One that was used before ends its family: whoever shows it a second
    /// time, the owner or a thief, both must log in again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rotate_refresh_token(
        &self,
        token_hash: &str,
        successor: &RefreshToken,
        revoked_until: impl Fn(ClientKind) -> DateTime<Utc>,
    ) -> Result<Rotation, StoreError> {
        let transaction = self.begin_essential().await?;
        let now = Utc::now();
        let Some(row) = refresh_tokens::Entity::find_by_id(token_hash).one(&transaction).await? else {
            return Ok(Rotation::Unknown);
        };
        let family = row.family;
        if row.expires_at <= now {
            return Ok(Rotation::Unknown);
        }
        // the condition decides, not the row read above: two nodes may be here with the same token
        let used = refresh_tokens::Entity::update_many()
            .filter(refresh_tokens::Column::TokenHash.eq(token_hash))
            .filter(refresh_tokens::Column::UsedAt.is_null())
            .col_expr(refresh_tokens::Column::UsedAt, Expr::value(now))
            .exec(&transaction)
            .await?;
        let (client, kind) = (row.client_uuid, ClientKind::parse(&row.client_kind).unwrap_or(ClientKind::Device));
        let rotation = if used.rows_affected == 1 {
            // read behind the lock on the token's row, for which a revocation of the client waits
            let owner = match kind {
                ClientKind::Device => devices::find(&transaction, client).await?.map(Account::from),
                ClientKind::User => users::find(&transaction, client).await?.map(Account::from),
            };
            match owner {
                None => return Ok(Rotation::Unknown),
                Some(owner) if !owner.is_active() => return Ok(Rotation::Inactive),
                Some(owner) => {
                    successor.to_store(family, client.into(), kind).insert(&transaction).await?;
                    Rotation::Rotated { family, owner }
                }
            }
        } else {
            end_family(&transaction, family, revoked_until(kind)).await?;
            Rotation::Reused { family, kind }
        };
        transaction.commit().await?;
        Ok(rotation)
    }

    /// Ends a family: its refresh tokens are gone, its access tokens revoked until then. Answers how many live refresh tokens there were.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn end_family(&self, family: Uuid, until: DateTime<Utc>) -> Result<u64, StoreError> {
        let transaction = self.begin_essential().await?;
        let ended = end_family(&transaction, family, until).await?;
        transaction.commit().await?;
        Ok(ended)
    }

    /// Ends all tokens of a client: its refresh tokens are gone, its access tokens of an earlier generation. Answers the
    /// account in its new generation, and how many refresh tokens were live.
    ///
    /// # Errors
    /// When the database fails; no such client is `None`.
    pub async fn revoke_client(&self, client: ClientId) -> Result<Option<(Account, u64)>, StoreError> {
        let transaction = self.begin_essential().await?;
        let of_client = || refresh_tokens::Column::ClientUuid.eq(client.uuid());
        // waits for rotations that are under way, so that the deletion below sees their successors
        refresh_tokens::Entity::find().filter(of_client()).lock_exclusive().all(&transaction).await?;
        let account = if devices::advance_generation(&transaction, client).await? {
            devices::find(&transaction, client.uuid()).await?.map(Account::from)
        } else if users::advance_generation(&transaction, client).await? {
            users::find(&transaction, client.uuid()).await?.map(Account::from)
        } else {
            None
        };
        let Some(account) = account else { return Ok(None) };
        let live = refresh_tokens::Entity::find()
            .filter(of_client())
            .filter(refresh_tokens::Column::UsedAt.is_null())
            .filter(refresh_tokens::Column::ExpiresAt.gt(Utc::now()))
            .count(&transaction)
            .await?;
        refresh_tokens::Entity::delete_many().filter(of_client()).exec(&transaction).await?;
        transaction.commit().await?;
        Ok(Some((account, live)))
    }

    /// The family of a refresh token, live or not, and of which kind its owner is.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn family_of(&self, token_hash: &str) -> Result<Option<(Uuid, ClientKind)>, StoreError> {
        let row = refresh_tokens::Entity::find_by_id(token_hash).one(&self.read).await?;
        Ok(row.map(|row| (row.family, ClientKind::parse(&row.client_kind).unwrap_or(ClientKind::Device))))
    }

    /// Revokes access tokens by `jti` (or family) until `expires_at`. Answers whether that is news.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn revoke(&self, id: Uuid, expires_at: DateTime<Utc>) -> Result<bool, StoreError> {
        let transaction = self.begin_essential().await?;
        let news = revoke(&transaction, id, expires_at).await?;
        transaction.commit().await?;
        Ok(news)
    }

    /// Revocations made since then, as (`jti` or family, until when).
    ///
    /// # Errors
    /// When the database fails.
    pub async fn revocations_since(&self, since: DateTime<Utc>) -> Result<Vec<(Uuid, DateTime<Utc>)>, StoreError> {
        let rows = revocations::Entity::find()
            .filter(revocations::Column::CreatedAt.gte(since))
            .filter(revocations::Column::ExpiresAt.gt(Utc::now()))
            .all(&self.read)
            .await?;
        Ok(rows.into_iter().map(|row| (row.id, row.expires_at.to_utc())).collect())
    }

    /// Deletes refresh tokens and revocations whose time is over.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_expired_tokens(&self) -> Result<(), StoreError> {
        let now = Utc::now();
        let transaction = self.begin_essential().await?;
        refresh_tokens::Entity::delete_many()
            .filter(refresh_tokens::Column::ExpiresAt.lte(now))
            .exec(&transaction)
            .await?;
        revocations::Entity::delete_many().filter(revocations::Column::ExpiresAt.lte(now)).exec(&transaction).await?;
        Ok(transaction.commit().await?)
    }
}

async fn end_family(transaction: &Transaction, family: Uuid, until: DateTime<Utc>) -> Result<u64, StoreError> {
    // waits for a rotation that is under way, so that the deletion below sees its successor
    refresh_tokens::Entity::find()
        .filter(refresh_tokens::Column::Family.eq(family))
        .lock_exclusive()
        .all(transaction)
        .await?;
    let live = refresh_tokens::Entity::find()
        .filter(refresh_tokens::Column::Family.eq(family))
        .filter(refresh_tokens::Column::UsedAt.is_null())
        .count(transaction)
        .await?;
    // used tokens go as well: shown again they are unknown, which is refused just the same
    refresh_tokens::Entity::delete_many().filter(refresh_tokens::Column::Family.eq(family)).exec(transaction).await?;
    revoke(transaction, family, until).await?;
    Ok(live)
}

async fn revoke(transaction: &Transaction, id: Uuid, expires_at: DateTime<Utc>) -> Result<bool, StoreError> {
    let row = revocations::ActiveModel {
        id: Set(id),
        expires_at: Set(expires_at.into()),
        created_at: Set(Utc::now().into()),
    };
    let inserted = revocations::Entity::insert(row)
        .on_conflict(OnConflict::column(revocations::Column::Id).do_nothing().to_owned())
        .exec_without_returning(transaction)
        .await?;
    Ok(inserted > 0)
}
