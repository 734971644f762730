//! The registration of devices (contract section 3), by the rules of `domain::registration`.

use entity::devices::{ActiveModel, Column, Entity as Devices};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter, QuerySelect, Set,
};

use serde_json::json;

use super::{DeviceRow, NO_METADATA};
use crate::{
    domain::{
        audit::{Action, Target},
        ids::ClientId,
        registration::{self, Outcome, Proof, Registered},
    },
    store::{
        NewRefreshToken, Store, StoreError,
        counters::{self, Counter},
        is_unique_violation, rooms, tokens,
    },
};

impl Store {
    /// Registers a device, or registers it again under a new name and key, together with its first refresh token.
    ///
    /// # Errors
    /// When the database fails; a UUID that is bound to another device is `None`.
    pub async fn register_device(
        &self,
        uuid: ClientId,
        name: &str,
        key_hash: &str,
        proof: Proof<'_>,
        refresh: &NewRefreshToken,
    ) -> Result<Option<DeviceRow>, StoreError> {
        match self.try_register(uuid, name, key_hash, proof, refresh).await {
            // another request has registered the same new UUID in the meantime
            Err(StoreError::Database(error)) if is_unique_violation(&error) => {
                self.try_register(uuid, name, key_hash, proof, refresh).await
            }
            result => result,
        }
    }

    async fn try_register(
        &self,
        uuid: ClientId,
        name: &str,
        key_hash: &str,
        proof: Proof<'_>,
        refresh: &NewRefreshToken,
    ) -> Result<Option<DeviceRow>, StoreError> {
        let transaction = self.begin_essential().await?;
        let is_bound = proof != Proof::NotAsked;
        // locked, so that it is not deleted in the meantime
        let row = Devices::find_by_id(uuid).lock_exclusive().one(&transaction).await?;
        let proof = match proof {
            // it may have been revoked since it was checked
            Proof::Token(token) if !tokens::counts(&transaction, token, row.as_ref()).await? => Proof::Key(None),
            proof => proof,
        };
        // the former owner of a deleted device has no claim on its UUID
        let registered = row.as_ref().filter(|row| row.deleted_at.is_none());
        let registered = registered.map(|row| Registered { key_hash: &row.key_hash, is_bound: row.is_bound });
        let (is_new, ends_tokens) = match registration::decide(registered, proof, key_hash) {
            Outcome::First => (true, false),
            Outcome::Again { ends_tokens } => (false, ends_tokens),
            Outcome::Refused => return Ok(None),
        };
        if row.is_none() {
            self.check_space()?;
        }
        if ends_tokens {
            tokens::delete_of_client(&transaction, uuid, None).await?;
        }
        refresh.clone().insert(&transaction).await?;
        let device = match row {
            Some(row) => {
                let (renamed, generation) = (row.name != name, row.token_generation);
                if renamed && !is_new {
                    rooms::rename_member(&transaction, uuid, name).await?;
                }
                let mut row = row.into_active_model();
                row.key_hash = Set(key_hash.to_owned());
                row.is_bound = Set(is_bound);
                if ends_tokens {
                    row.token_generation = Set(generation + 1);
                }
                if is_new {
                    row.deleted_at = Set(None);
                    row.created_at = Set(self.clock.now().into());
                }
                if renamed || is_new || ends_tokens {
                    row.name = Set(name.to_owned());
                    row.version = Set(counters::next(&transaction, Counter::Change).await?);
                }
                row.update(&transaction).await?
            }
            None => {
                let row = ActiveModel {
                    uuid: Set(uuid.into()),
                    name: Set(name.to_owned()),
                    key_hash: Set(key_hash.to_owned()),
                    token_generation: Set(0),
                    created_at: Set(self.clock.now().into()),
                    metadata: Set(NO_METADATA.to_owned()),
                    gateway_id: Set(None),
                    last_seen: Set(None),
                    deleted_at: Set(None),
                    // no cache holds an account that is created now, so it needs no version
                    version: Set(0),
                    incarnation: Set(0),
                    is_bound: Set(is_bound),
                    newest_socket: Set(0),
                };
                row.insert(&transaction).await?
            }
        };
        if proof == Proof::Operator {
            transaction.audit(Action::DeviceRegistered, Some(Target::named(uuid, name)), json!({})).await?;
        }
        transaction.commit().await?;
        Ok(Some(device.into()))
    }

    /// Number of devices that were registered without proof.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count_unbound_devices(&self) -> Result<u64, StoreError> {
        let unbound = Devices::find().filter(Column::DeletedAt.is_null()).filter(Column::IsBound.eq(false));
        Ok(unbound.count(&self.read).await?)
    }
}
