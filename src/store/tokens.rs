//! Refresh tokens, a row per login, and revocations.

use chrono::{DateTime, Utc};
use entity::{refresh_tokens, revocations};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait, Set,
    sea_query::{Expr, LockBehavior, LockType, OnConflict},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Store, StoreError, Transaction,
    counters::{self, Counter},
    devices, row_locks, users,
};
use crate::domain::{
    accounts::Account,
    audit::{Action, Target},
    ids::{ClientId, ClientKind},
    refresh_tokens::{CLOCK_STEP, RefreshToken, ShownRefreshToken},
    registration::DeviceToken,
};

/// Most logins of a client; each has one row with its newest refresh token.
const LOGINS: u64 = 100;

/// A refresh token to be stored; the token itself stays with the client.
#[derive(Debug, Clone)]
pub struct NewRefreshToken {
    /// SHA-256 of the token, in hex.
    pub token_hash: String,
    /// The login; all its tokens have the same family.
    pub family: Uuid,
    /// Its owner.
    pub client: ClientId,
    /// The kind of that client.
    pub kind: ClientKind,
    /// When it expires.
    pub expires_at: DateTime<Utc>,
}

impl NewRefreshToken {
    /// The row for a token of this family.
    pub fn of(token: &RefreshToken, family: Uuid, client: ClientId, kind: ClientKind) -> Self {
        Self { token_hash: token.hash.clone(), family, client, kind, expires_at: token.expires_at }
    }

    pub(super) async fn insert(self, connection: &impl ConnectionTrait) -> Result<(), StoreError> {
        let row = refresh_tokens::ActiveModel {
            token_hash: Set(self.token_hash.clone()),
            family: Set(self.family),
            client_uuid: Set(self.client.into()),
            client_kind: Set(self.kind.as_str().to_owned()),
            expires_at: Set(self.expires_at.into()),
            legacy_hash: Set(None),
        };
        refresh_tokens::Entity::insert(row).exec_without_returning(connection).await?;
        end_oldest(connection, &self).await
    }
}

/// Ends the logins of a client that have been unused for longest, if it has more than [`LOGINS`] with the one that it has just begun.
/// That one stays, although its time may be before those of the others: clocks of nodes differ, and are set back.
async fn end_oldest(connection: &impl ConnectionTrait, new: &NewRefreshToken) -> Result<(), StoreError> {
    use refresh_tokens::{Column, Entity};
    let surplus: Vec<String> = Entity::find()
        .select_only()
        .column(Column::TokenHash)
        .filter(Column::ClientUuid.eq(new.client.uuid()))
        .filter(Column::TokenHash.ne(new.token_hash.as_str()))
        .order_by_desc(Column::ExpiresAt)
        .offset(LOGINS - 1)
        .limit(LOGINS)
        .into_tuple()
        .all(connection)
        .await?;
    if !surplus.is_empty() {
        Entity::delete_many().filter(Column::TokenHash.is_in(surplus)).exec(connection).await?;
    }
    Ok(())
}

/// The outcome of using a refresh token.
#[derive(Debug)]
pub enum Rotation {
    /// It was valid, and is replaced by its successor.
    Rotated {
        /// The family it belongs to.
        family: Uuid,
        /// Its owner's account now.
        owner: Account,
        /// Its successor.
        successor: Box<RefreshToken>,
    },
    /// It is valid, but its owner is disabled: nothing has changed.
    Inactive,
    /// It has been used before, so somebody else has it. Its family has ended.
    Reused {
        /// The family that ended.
        family: Uuid,
        /// The kind of its owner.
        kind: ClientKind,
    },
    /// There is no such token, or it has expired.
    Unknown,
}

impl Store {
    /// Replaces a refresh token by the successor that `make` creates for its family, or ends the family if the token has
    /// been used before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rotate_refresh_token<E: From<StoreError>>(
        &self,
        shown: &ShownRefreshToken,
        make: impl FnOnce(Uuid) -> Result<RefreshToken, E>,
        revoked_until: impl FnOnce(ClientKind) -> DateTime<Utc>,
    ) -> Result<Rotation, E> {
        use refresh_tokens::Column;
        let transaction = self.begin_essential().await?;
        let Some(row) = find_shown(&transaction, shown).await? else { return Ok(Rotation::Unknown) };
        if row.expires_at <= self.clock.now() {
            return Ok(Rotation::Unknown);
        }
        row_locks::client(&transaction, row.client_uuid.into()).await?;
        let family = row.family;
        let successor = make(family)?;
        let (client, kind) = (row.client_uuid, kind_of(&row));
        let mut update = refresh_tokens::Entity::update_many()
            // the condition decides, not the row that was read before the lock
            .filter(Column::TokenHash.eq(&shown.hash))
            .col_expr(Column::TokenHash, Expr::value(successor.hash.as_str()))
            .col_expr(Column::ExpiresAt, Expr::value(successor.expires_at));
        if shown.family.is_none() {
            // an old token does not name its family, so its hash is kept to recognise a second use
            update = update.col_expr(Column::LegacyHash, Expr::value(shown.hash.as_str()));
        }
        if update.exec(&transaction).await.map_err(StoreError::from)?.rows_affected == 0 {
            // deleted in the meantime: its family has ended, or the client's tokens were revoked
            if find_shown(&transaction, shown).await?.is_none() {
                return Ok(Rotation::Unknown);
            }
            end_family(&transaction, family, revoked_until(kind)).await?;
            transaction.audit(Action::TokenReused, Some(Target::of(client)), json!({})).await?;
            transaction.commit().await.map_err(StoreError::from)?;
            return Ok(Rotation::Reused { family, kind });
        }
        let owner = match kind {
            ClientKind::Device => devices::find(&transaction, client).await?.map(Account::from),
            ClientKind::User => users::find(&transaction, client).await?.map(Account::from),
        };
        match owner {
            None => Ok(Rotation::Unknown),
            Some(owner) if !owner.is_active() => Ok(Rotation::Inactive),
            Some(owner) => {
                transaction.commit().await.map_err(StoreError::from)?;
                Ok(Rotation::Rotated { family, owner, successor: Box::new(successor) })
            }
        }
    }

    /// Ends a family: deletes its refresh token, and revokes its access tokens until that time. This is audited as `action`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn end_family(&self, family: Uuid, until: DateTime<Utc>, action: Action) -> Result<(), StoreError> {
        let transaction = self.begin_essential().await?;
        let client = end_family(&transaction, family, until).await?;
        transaction.audit(action, Some(Target::of(client.unwrap_or(family))), json!({})).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Ends all tokens of a client, and a device's key: deletes its refresh tokens and starts a new token generation. Returns
    /// the account after it, and the number of logins that were live.
    ///
    /// # Errors
    /// When the database fails; no such client is `None`.
    pub async fn revoke_client(&self, client: ClientId) -> Result<Option<(Account, u64)>, StoreError> {
        let transaction = self.begin_essential().await?;
        row_locks::client(&transaction, client).await?;
        let live = refresh_tokens::Entity::find()
            .filter(refresh_tokens::Column::ClientUuid.eq(client.uuid()))
            .filter(refresh_tokens::Column::ExpiresAt.gt(self.clock.now()))
            .count(&transaction)
            .await?;
        delete_of_client(&transaction, client, None).await?;
        let account = match devices::advance_generation(&transaction, client).await? {
            Some(device) => Some(Account::from(device)),
            None => users::advance_generation(&transaction, client).await?.map(Account::from),
        };
        let Some(account) = account else { return Ok(None) };
        let target = Target::named(client, account.name());
        transaction.audit(Action::TokensRevoked, Some(target), json!({ "revoked": "all" })).await?;
        transaction.commit().await?;
        Ok(Some((account, live)))
    }

    /// The family of a refresh token, used or not, and the kind of its owner.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn family_of(&self, shown: &ShownRefreshToken) -> Result<Option<(Uuid, ClientKind)>, StoreError> {
        let row = find_shown(&self.read, shown).await?;
        Ok(row.map(|row| (row.family, kind_of(&row))))
    }

    /// Revokes access tokens by `jti` or family until `expires_at`. Returns whether they were not revoked before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn revoke(&self, id: Uuid, expires_at: DateTime<Utc>) -> Result<bool, StoreError> {
        let transaction = self.begin_essential().await?;
        let news = revoke(&transaction, id, expires_at).await?;
        transaction.audit(Action::TokensRevoked, Some(Target::of(id)), json!({ "revoked": "token" })).await?;
        transaction.commit().await?;
        Ok(news)
    }

    /// The version of the newest change of an account or revocation.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_change(&self) -> Result<i64, StoreError> {
        counters::last(&self.read, Counter::Change).await
    }

    /// Revocations whose version is greater than `after`, as (`jti` or family, until when).
    ///
    /// # Errors
    /// When the database fails.
    pub async fn revocations(&self, after: Option<i64>) -> Result<Vec<(Uuid, DateTime<Utc>)>, StoreError> {
        let mut found = revocations::Entity::find();
        if let Some(after) = after {
            found = found.filter(revocations::Column::Version.gt(after));
        }
        let rows = found.all(&self.read).await?;
        Ok(rows.into_iter().map(|row| (row.id, row.expires_at.to_utc())).collect())
    }

    /// Deletes expired refresh tokens and revocations.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_expired_tokens(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let transaction = self.begin_essential().await?;
        // kept a while longer, so that a clock that is ahead for a time deletes no valid token
        let expired = refresh_tokens::Entity::find()
            .select_only()
            .column(refresh_tokens::Column::TokenHash)
            .filter(refresh_tokens::Column::ExpiresAt.lte(now - CLOCK_STEP))
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
            .into_query();
        refresh_tokens::Entity::delete_many()
            .filter(refresh_tokens::Column::TokenHash.in_subquery(expired))
            .exec(&transaction)
            .await?;
        revocations::Entity::delete_many().filter(revocations::Column::ExpiresAt.lte(now)).exec(&transaction).await?;
        Ok(transaction.commit().await?)
    }
}

fn kind_of(row: &refresh_tokens::Model) -> ClientKind {
    ClientKind::parse(&row.client_kind).unwrap_or(ClientKind::Device)
}

/// The login of a token, whether the token is its newest one or was used before.
async fn find_shown(
    connection: &impl ConnectionTrait,
    shown: &ShownRefreshToken,
) -> Result<Option<refresh_tokens::Model>, StoreError> {
    use refresh_tokens::Column;
    let mut which = Condition::any().add(Column::TokenHash.eq(&shown.hash));
    which = match shown.family {
        Some(family) => which.add(Column::Family.eq(family)),
        None => which.add(Column::LegacyHash.eq(&shown.hash)),
    };
    Ok(refresh_tokens::Entity::find().filter(which).one(connection).await?)
}

/// Whether a token of a device is not revoked. Exact while the caller holds the device's row.
pub(super) async fn counts(
    transaction: &impl ConnectionTrait,
    token: DeviceToken,
    device: Option<&entity::devices::Model>,
) -> Result<bool, StoreError> {
    if device.is_some_and(|device| device.token_generation != token.generation) {
        return Ok(false);
    }
    let revoked = revocations::Column::Id.is_in([token.id, token.family]);
    Ok(revocations::Entity::find().filter(revoked).one(transaction).await?.is_none())
}

/// Deletes the refresh tokens of a client, except for one login's.
pub(super) async fn delete_of_client(
    transaction: &impl ConnectionTrait,
    client: ClientId,
    kept_login: Option<Uuid>,
) -> Result<(), StoreError> {
    let mut delete = refresh_tokens::Entity::delete_many().filter(refresh_tokens::Column::ClientUuid.eq(client.uuid()));
    if let Some(kept) = kept_login {
        delete = delete.filter(refresh_tokens::Column::Family.ne(kept));
    }
    delete.exec(transaction).await?;
    Ok(())
}

/// Ends a family. Returns its owner, if it had a refresh token.
async fn end_family(transaction: &Transaction, family: Uuid, until: DateTime<Utc>) -> Result<Option<Uuid>, StoreError> {
    let of_family = || refresh_tokens::Column::Family.eq(family);
    let row = refresh_tokens::Entity::find().filter(of_family()).one(transaction).await?;
    let client = row.map(|row| row.client_uuid);
    if let Some(client) = client {
        row_locks::client(transaction, client.into()).await?;
    }
    // a used token that is shown later is unknown, which is refused just the same
    refresh_tokens::Entity::delete_many().filter(of_family()).exec(transaction).await?;
    revoke(transaction, family, until).await?;
    Ok(client)
}

async fn revoke(transaction: &Transaction, id: Uuid, expires_at: DateTime<Utc>) -> Result<bool, StoreError> {
    let row = revocations::ActiveModel {
        id: Set(id),
        expires_at: Set(expires_at.into()),
        version: Set(counters::next(transaction, Counter::Change).await?),
    };
    let inserted = revocations::Entity::insert(row)
        .on_conflict(OnConflict::column(revocations::Column::Id).do_nothing().to_owned())
        .exec_without_returning(transaction)
        .await?;
    Ok(inserted > 0)
}
