//! Devices.

use chrono::{DateTime, Utc};
use entity::devices::{ActiveModel, Column, Entity as Devices, Model};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, IntoActiveModel, QueryFilter, Set,
    TryIntoModel, sea_query::Expr,
};

use uuid::Uuid;

use super::{NewRefreshToken, Store, StoreError, is_unique_violation};
use crate::domain::ids::ClientId;

/// A device as stored.
#[derive(Debug, Clone)]
pub struct RegisteredDevice {
    /// Its identity.
    pub uuid: ClientId,
    /// The name it gave itself; may be empty.
    pub name: String,
    /// Tokens of an earlier generation are revoked.
    pub token_generation: i64,
    /// Last change of name or generation.
    pub changed_at: DateTime<Utc>,
}

impl From<Model> for RegisteredDevice {
    fn from(row: Model) -> Self {
        Self {
            uuid: row.uuid.into(),
            name: row.name,
            token_generation: row.token_generation,
            changed_at: row.changed_at.to_utc(),
        }
    }
}

/// With what right a UUID that is registered already is registered again.
#[derive(Debug, Clone, Copy)]
pub enum Claim<'a> {
    /// By the rules of the server nobody has to prove anything.
    Granted,
    /// Only the holder of the device key with this hash may.
    KeyHash(&'a str),
    /// Nothing was shown.
    None,
}

impl Store {
    /// Registers a device, or registers it again under a new name, together with its first refresh token. A key that was
    /// shown and is right stays; else the device has this one from now on.
    ///
    /// # Errors
    /// When the database fails; a UUID that is bound to another device is `None`.
    pub async fn register_device(
        &self,
        uuid: ClientId,
        name: &str,
        key_hash: &str,
        claim: Claim<'_>,
        refresh: &NewRefreshToken,
    ) -> Result<Option<RegisteredDevice>, StoreError> {
        match self.try_register(uuid, name, key_hash, claim, refresh).await {
            // somebody registered the same new UUID at the same time: now it is there
            Err(StoreError::Database(error)) if is_unique_violation(&error) => {
                self.try_register(uuid, name, key_hash, claim, refresh).await
            }
            result => result,
        }
    }

    async fn try_register(
        &self,
        uuid: ClientId,
        name: &str,
        key_hash: &str,
        claim: Claim<'_>,
        refresh: &NewRefreshToken,
    ) -> Result<Option<RegisteredDevice>, StoreError> {
        let transaction = self.begin().await?;
        let now = Utc::now();
        let device = match Devices::find_by_id(uuid).one(&transaction).await? {
            Some(row) => {
                // digests of random keys: nothing to learn from how long the comparison takes
                let by_key = matches!(claim, Claim::KeyHash(hash) if row.key_hash == hash);
                if !by_key && !matches!(claim, Claim::Granted) {
                    return Ok(None);
                }
                let renamed = row.name != name;
                let mut row = row.into_active_model();
                if !by_key {
                    row.key_hash = Set(key_hash.to_owned());
                }
                if renamed {
                    row.name = Set(name.to_owned());
                    row.changed_at = Set(now.into());
                }
                if row.is_changed() { row.update(&transaction).await? } else { row.try_into_model()? }
            }
            None => {
                let row = ActiveModel {
                    uuid: Set(uuid.into()),
                    name: Set(name.to_owned()),
                    key_hash: Set(key_hash.to_owned()),
                    token_generation: Set(0),
                    created_at: Set(now.into()),
                    changed_at: Set(now.into()),
                };
                row.insert(&transaction).await?
            }
        };
        refresh.clone().insert(&transaction).await?;
        transaction.commit().await?;
        Ok(Some(device.into()))
    }

    /// The device with this UUID.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn device(&self, uuid: ClientId) -> Result<Option<RegisteredDevice>, StoreError> {
        Ok(Devices::find_by_id(uuid).one(&self.read).await?.map(RegisteredDevice::from))
    }

    /// Devices whose name or generation changed since then.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn devices_changed_since(&self, since: DateTime<Utc>) -> Result<Vec<RegisteredDevice>, StoreError> {
        let rows = Devices::find().filter(Column::ChangedAt.gte(since)).all(&self.read).await?;
        Ok(rows.into_iter().map(RegisteredDevice::from).collect())
    }
}

/// The device with this UUID, read inside a transaction.
pub(super) async fn find(
    connection: &impl ConnectionTrait,
    uuid: Uuid,
) -> Result<Option<RegisteredDevice>, StoreError> {
    Ok(Devices::find_by_id(uuid).one(connection).await?.map(RegisteredDevice::from))
}

/// Ends all access tokens of a device by starting a new generation. Answers whether there is such a device.
pub(super) async fn advance_generation(connection: &impl ConnectionTrait, uuid: ClientId) -> Result<bool, StoreError> {
    let done = Devices::update_many()
        .filter(Column::Uuid.eq(uuid.uuid()))
        .col_expr(Column::TokenGeneration, Expr::col(Column::TokenGeneration).add(1))
        .col_expr(Column::ChangedAt, Expr::value(Utc::now()))
        .exec(connection)
        .await?;
    Ok(done.rows_affected > 0)
}
