//! Commands, their targets and their progress.

mod read;
mod write;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use entity::{command_progress, command_targets, commands, devices, idempotency_keys, users};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QuerySelect, Set, sea_query::OnConflict};
use uuid::Uuid;

pub use self::read::{CommandFilter, CommandPage, CommandStanding, StoredProgress};
pub(super) use self::write::{upsert_commands, upsert_targets, write_late_result, write_progress};
use super::{Store, StoreError, User, pieces};
use crate::domain::{
    accounts::Account,
    commands::Command,
    ids::{ClientId, CommandId},
};

/// Number of commands that one transaction deletes.
const DELETED: u64 = 200;

/// The command that an idempotency key stands for.
#[derive(Debug)]
pub struct KeyedCommand {
    /// Its id.
    pub id: CommandId,
    /// The digest of its request.
    pub body_digest: String,
}

impl From<idempotency_keys::Model> for KeyedCommand {
    fn from(row: idempotency_keys::Model) -> Self {
        Self { id: row.command_id.into(), body_digest: row.body_digest }
    }
}

impl Store {
    /// Stores a command with an idempotency key. If its requester has used the key before, returns that earlier command.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_command_once(
        &self,
        command: &Command,
        key: &str,
        body_digest: &str,
    ) -> Result<Option<KeyedCommand>, StoreError> {
        let transaction = self.begin().await?;
        let row = idempotency_keys::ActiveModel {
            requested_by: Set(command.requested_by.into()),
            idempotency_key: Set(key.to_owned()),
            command_id: Set(command.id.uuid()),
            body_digest: Set(body_digest.to_owned()),
        };
        let columns = [idempotency_keys::Column::RequestedBy, idempotency_keys::Column::IdempotencyKey];
        let inserted = idempotency_keys::Entity::insert(row)
            .on_conflict(OnConflict::columns(columns).do_nothing().to_owned())
            .exec_without_returning(&transaction)
            .await?;
        if inserted == 0 {
            let id = (command.requested_by.uuid(), key.to_owned());
            let existing = idempotency_keys::Entity::find_by_id(id).one(&transaction).await?;
            return match existing {
                Some(row) => Ok(Some(row.into())),
                None => Err(DbErr::RecordNotFound("an idempotency key that was just there".to_owned()).into()),
            };
        }
        upsert_commands(&transaction, std::iter::once(command), self.gate.instance.get().copied()).await?;
        upsert_targets(&transaction, command.targets.iter().map(|target| (command.id, target))).await?;
        transaction.commit().await?;
        Ok(None)
    }

    /// The command that a requester's idempotency key stands for.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn command_of_key(&self, requester: ClientId, key: &str) -> Result<Option<KeyedCommand>, StoreError> {
        let id = (requester.uuid(), key.to_owned());
        let row = idempotency_keys::Entity::find_by_id(id).one(&self.read).await?;
        Ok(row.map(Into::into))
    }

    /// How often the UUIDs of these clients have been deleted, as far as they are known.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn incarnations(
        &self,
        clients: impl IntoIterator<Item = ClientId>,
    ) -> Result<HashMap<ClientId, i64>, StoreError> {
        let clients: Vec<_> = clients.into_iter().map(ClientId::uuid).collect();
        let mut incarnations = HashMap::new();
        let mut rest = &*clients;
        for size in pieces(clients.len()) {
            let (piece, later) = rest.split_at(size);
            rest = later;
            let devices: Vec<(Uuid, i64)> = devices::Entity::find()
                .select_only()
                .columns([devices::Column::Uuid, devices::Column::Incarnation])
                .filter(devices::Column::Uuid.is_in(piece.iter().copied()))
                .into_tuple()
                .all(&self.read)
                .await?;
            let users = users::Entity::find().filter(users::Column::Uuid.is_in(piece.iter().copied()));
            let users = users.all(&self.read).await?.into_iter().map(|row| Account::from(User::from(row)));
            let users = users.map(|account| (account.id, account.incarnation()));
            incarnations.extend(devices.into_iter().map(|(uuid, times)| (uuid.into(), times)).chain(users));
        }
        Ok(incarnations)
    }

    /// Deletes finished commands that were given before this time, in small transactions, so that other writers wait only
    /// briefly.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_commands_before(&self, time: DateTime<Utc>) -> Result<u64, StoreError> {
        let mut deleted = 0;
        loop {
            let old: Vec<Uuid> = commands::Entity::find()
                .select_only()
                .column(commands::Column::Id)
                .filter(commands::Column::Id.lt(CommandId::least(time).uuid()))
                .filter(commands::Column::FinishedAt.is_not_null())
                .limit(DELETED)
                .into_tuple()
                .all(&self.read)
                .await?;
            if old.is_empty() {
                return Ok(deleted);
            }
            let transaction = self.begin_essential().await?;
            command_progress::Entity::delete_many()
                .filter(command_progress::Column::CommandId.is_in(old.iter().copied()))
                .exec(&transaction)
                .await?;
            command_targets::Entity::delete_many()
                .filter(command_targets::Column::CommandId.is_in(old.iter().copied()))
                .exec(&transaction)
                .await?;
            idempotency_keys::Entity::delete_many()
                .filter(idempotency_keys::Column::CommandId.is_in(old.iter().copied()))
                .exec(&transaction)
                .await?;
            let done =
                commands::Entity::delete_many().filter(commands::Column::Id.is_in(old)).exec(&transaction).await?;
            transaction.commit().await?;
            deleted += done.rows_affected;
        }
    }
}
