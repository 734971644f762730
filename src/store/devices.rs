//! Devices.

mod registration;
mod search;

use chrono::{DateTime, Utc};
use entity::devices::{ActiveModel, Column, Entity as Devices, Model};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
    QuerySelect, Set, TryIntoModel, sea_query::Expr,
};
use serde_json::{Value, json};
use uuid::Uuid;

pub use self::search::DeviceFilter;
use super::{
    Current, Store, StoreError,
    counters::{self, Counter},
    messages, pieces, rooms, tokens,
};
use crate::{
    domain::{
        accounts::{Account, Holder},
        audit::{Action, Target},
        ids::{ClientId, GatewayId},
    },
    protocol::json,
};

/// The metadata of a device that has set none.
const NO_METADATA: &str = "{}";

/// A device as stored.
#[derive(Debug, Clone)]
pub struct DeviceRow {
    /// Its identity.
    pub uuid: ClientId,
    /// May be empty.
    pub name: String,
    /// A JSON object.
    pub metadata: Value,
    /// The gateway that it is behind.
    pub gateway_id: Option<GatewayId>,
    /// When it last connected or disconnected; `None`: it has never been connected.
    pub last_seen: Option<DateTime<Utc>>,
    /// Tokens of an earlier generation are revoked.
    pub token_generation: i64,
    /// Grows with each change of name, gateway, generation or existence.
    pub version: i64,
    /// How often the UUID has been deleted.
    pub incarnation: i64,
    /// Deleted; the row is kept.
    pub is_deleted: bool,
}

impl From<DeviceRow> for Account {
    fn from(device: DeviceRow) -> Self {
        Self {
            id: device.uuid,
            generation: device.token_generation,
            kept_login: None,
            version: device.version,
            is_deleted: device.is_deleted,
            holder: Holder::Device {
                name: device.name,
                gateway_id: device.gateway_id,
                incarnation: device.incarnation,
            },
        }
    }
}

impl From<Model> for DeviceRow {
    fn from(row: Model) -> Self {
        Self {
            uuid: row.uuid.into(),
            name: row.name,
            metadata: json::stored_object(&row.metadata),
            gateway_id: row.gateway_id.map(GatewayId),
            last_seen: row.last_seen.map(|time| time.to_utc()),
            token_generation: row.token_generation,
            version: row.version,
            incarnation: row.incarnation,
            is_deleted: row.deleted_at.is_some(),
        }
    }
}

/// A change of a device; `None` changes nothing.
#[derive(Debug, Clone, Default)]
pub struct DeviceChange {
    /// Another name.
    pub name: Option<String>,
    /// Another JSON object.
    pub metadata: Option<Value>,
    /// Another gateway, or none.
    pub gateway_id: Option<Option<GatewayId>>,
}

impl Store {
    /// The device with this UUID.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn device(&self, uuid: ClientId) -> Result<Option<DeviceRow>, StoreError> {
        find(&self.read, uuid.into()).await
    }

    /// Stores that a device has a new socket with this stamp. Acknowledged messages go through the one that is stored alone. Returns
    /// the stamp that is stored instead, if that is not lower: two nodes may have given the same one, when their clocks are behind.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_socket(&self, device: ClientId, stamp: u64) -> Result<Option<u64>, StoreError> {
        // microseconds since 1970
        let own = i64::try_from(stamp).unwrap_or(i64::MAX);
        let transaction = self.begin_essential().await?;
        let noted = Devices::update_many()
            .filter(Column::Uuid.eq(device.uuid()))
            .filter(Column::NewestSocket.lt(own))
            .col_expr(Column::NewestSocket, Expr::value(own))
            .exec(&transaction)
            .await?;
        let newest = if noted.rows_affected == 0 {
            let newest = Devices::find_by_id(device.uuid()).select_only().column(Column::NewestSocket);
            newest.into_tuple::<i64>().one(&transaction).await?
        } else {
            None
        };
        transaction.commit().await?;
        Ok(newest.map(i64::unsigned_abs))
    }

    /// The stamp of a device's newest socket, once no transaction has locked the device that may store another.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn settled_socket(&self, device: ClientId) -> Result<u64, StoreError> {
        let transaction = self.begin_essential().await?;
        let newest = Devices::find_by_id(device.uuid()).select_only().column(Column::NewestSocket).lock_exclusive();
        let newest = newest.into_tuple::<i64>().one(&transaction).await?;
        transaction.commit().await?;
        Ok(newest.unwrap_or_default().unsigned_abs())
    }

    /// Stores that the socket with this stamp is a device's newest, since the one with the stamp `gone` is nowhere. Returns whether
    /// that one was stored as the newest until now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn reinstate_socket(&self, device: ClientId, stamp: u64, gone: u64) -> Result<bool, StoreError> {
        let [stamp, gone] = [stamp, gone].map(|stamp| i64::try_from(stamp).unwrap_or(i64::MAX));
        let transaction = self.begin_essential().await?;
        let reinstated = Devices::update_many()
            .filter(Column::Uuid.eq(device.uuid()))
            .filter(Column::NewestSocket.eq(gone))
            .col_expr(Column::NewestSocket, Expr::value(stamp))
            .exec(&transaction)
            .await?;
        transaction.commit().await?;
        Ok(reinstated.rows_affected > 0)
    }

    /// The highest stamp of a device's socket: sockets of this process must have higher ones, whatever the clock says.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn newest_socket(&self) -> Result<u64, StoreError> {
        let newest = Devices::find().select_only().column_as(Column::NewestSocket.max(), "newest");
        let newest = newest.into_tuple::<Option<i64>>().one(&self.read).await?;
        Ok(newest.flatten().unwrap_or_default().unsigned_abs())
    }

    /// Changes a device. Returns the device after the change. `version` is that of the gateways, if another node must not delete
    /// the device's gateway meanwhile.
    ///
    /// # Errors
    /// When the database fails; no such device is `None`.
    pub async fn update_device(
        &self,
        uuid: ClientId,
        change: DeviceChange,
        version: Option<i64>,
    ) -> Result<Current<Option<DeviceRow>>, StoreError> {
        let transaction = self.begin().await?;
        if let Some(version) = version
            && !counters::stays_at(&transaction, Counter::GatewayChange, version).await?
        {
            return Ok(Current::No);
        }
        let row = Devices::find_by_id(uuid).filter(Column::DeletedAt.is_null()).lock_exclusive();
        let Some(row) = row.one(&transaction).await? else { return Ok(Current::Yes(None)) };
        if transaction.actor().client != Some(uuid) {
            let fields = [
                ("name", change.name.is_some()),
                ("metadata", change.metadata.is_some()),
                ("gateway_id", change.gateway_id.is_some()),
            ];
            let changed: Vec<_> = fields.into_iter().filter(|(_, is)| *is).map(|(field, _)| field).collect();
            let target = Target::named(uuid, &row.name);
            transaction.audit(Action::DeviceChanged, Some(target), json!({ "changed": changed })).await?;
        }
        // metadata is not part of the cached account
        let is_account_changed = change.name.is_some() || change.gateway_id.is_some();
        let mut row = row.into_active_model();
        if let Some(name) = change.name {
            rooms::rename_member(&transaction, uuid, &name).await?;
            row.name = Set(name);
        }
        if let Some(metadata) = change.metadata {
            row.metadata = Set(metadata.to_string());
        }
        if let Some(gateway_id) = change.gateway_id {
            row.gateway_id = Set(gateway_id.map(|gateway| gateway.0));
        }
        if is_account_changed {
            row.version = Set(counters::next(&transaction, Counter::Change).await?);
        }
        let row = if row.is_changed() { row.update(&transaction).await? } else { row.try_into_model()? };
        transaction.commit().await?;
        Ok(Current::Yes(Some(row.into())))
    }

    /// Deletes a device: its tokens end, and its name and metadata are removed. Returns the rest of its row.
    ///
    /// # Errors
    /// When the database fails; no such device is `None`.
    pub async fn delete_device(&self, uuid: ClientId) -> Result<Option<DeviceRow>, StoreError> {
        let transaction = self.begin_essential().await?;
        let row = Devices::find_by_id(uuid).filter(Column::DeletedAt.is_null()).lock_exclusive();
        let Some(row) = row.one(&transaction).await? else { return Ok(None) };
        tokens::delete_of_client(&transaction, uuid, None).await?;
        rooms::changes::leave_all(&transaction, uuid, self.recording_broker(), &self.clock).await?;
        messages::fail_all(&transaction, uuid, self.clock.now()).await?;
        let target = Target::named(uuid, &row.name);
        transaction.audit(Action::DeviceDeleted, Some(target), json!({})).await?;
        let (generation, incarnation) = (row.token_generation, row.incarnation);
        let row = ActiveModel {
            name: Set(String::new()),
            key_hash: Set(String::new()),
            token_generation: Set(generation + 1),
            incarnation: Set(incarnation + 1),
            version: Set(counters::next(&transaction, Counter::Change).await?),
            metadata: Set(NO_METADATA.to_owned()),
            gateway_id: Set(None),
            last_seen: Set(None),
            deleted_at: Set(Some(self.clock.now().into())),
            ..row.into_active_model()
        };
        let row = row.update(&transaction).await?;
        transaction.commit().await?;
        Ok(Some(row.into()))
    }

    /// Devices whose version is greater than `after` and at most `upto`, with their versions; deleted ones too.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn devices_changed(&self, after: i64, upto: i64) -> Result<Vec<(ClientId, i64)>, StoreError> {
        let rows: Vec<(Uuid, i64)> = Devices::find()
            .select_only()
            .columns([Column::Uuid, Column::Version])
            .filter(Column::Version.gt(after))
            .filter(Column::Version.lte(upto))
            .into_tuple()
            .all(&self.read)
            .await?;
        Ok(rows.into_iter().map(|(uuid, version)| (uuid.into(), version)).collect())
    }

    /// These devices, deleted ones too.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn devices_and_deleted(&self, uuids: &[ClientId]) -> Result<Vec<DeviceRow>, StoreError> {
        let (mut found, mut rest) = (Vec::new(), uuids);
        for size in pieces(uuids.len()) {
            let (piece, later) = rest.split_at(size);
            rest = later;
            let uuids = piece.iter().map(|uuid| uuid.uuid());
            let rows = Devices::find().filter(Column::Uuid.is_in(uuids)).all(&self.read).await?;
            found.extend(rows.into_iter().map(DeviceRow::from));
        }
        Ok(found)
    }
}

/// The device with this UUID.
pub(super) async fn find(connection: &impl ConnectionTrait, uuid: Uuid) -> Result<Option<DeviceRow>, StoreError> {
    let row = Devices::find_by_id(uuid).filter(Column::DeletedAt.is_null()).one(connection).await?;
    Ok(row.map(DeviceRow::from))
}

/// Ends all access tokens of a device by starting a new generation, and its key. Returns the device after it.
pub(super) async fn advance_generation(
    transaction: &impl ConnectionTrait,
    uuid: ClientId,
) -> Result<Option<DeviceRow>, StoreError> {
    let row = Devices::find_by_id(uuid).filter(Column::DeletedAt.is_null()).lock_exclusive();
    let Some(row) = row.one(transaction).await? else { return Ok(None) };
    let generation = row.token_generation;
    let row = ActiveModel {
        key_hash: Set(String::new()),
        token_generation: Set(generation + 1),
        version: Set(counters::next(transaction, Counter::Change).await?),
        ..row.into_active_model()
    };
    Ok(Some(row.update(transaction).await?.into()))
}

/// Writes when devices, whose rows are locked, came or went, each with its incarnation. All get the latest of the times, which
/// are close together.
pub(super) async fn write_seen(
    connection: &impl ConnectionTrait,
    seen: &[(ClientId, i64, DateTime<Utc>)],
) -> Result<(), StoreError> {
    let mut rest = seen;
    for size in pieces(seen.len()) {
        let (piece, later) = rest.split_at(size);
        rest = later;
        let Some(latest) = piece.iter().map(|(.., at)| *at).max() else { continue };
        // a device that was deleted and registered again in the meantime has not been seen yet
        let devices = || {
            let seen = |(device, incarnation, _): &(ClientId, i64, DateTime<Utc>)| {
                Condition::all().add(Column::Uuid.eq(device.uuid())).add(Column::Incarnation.eq(*incarnation))
            };
            piece.iter().map(seen).fold(Condition::any(), Condition::add)
        };
        Devices::update_many()
            .filter(devices())
            .filter(Column::DeletedAt.is_null())
            .col_expr(Column::LastSeen, Expr::value(latest))
            .exec(connection)
            .await?;
    }
    Ok(())
}

/// The devices behind a gateway, whose rows are locked.
pub(super) async fn lock_behind(
    connection: &impl ConnectionTrait,
    gateway: GatewayId,
) -> Result<Vec<DeviceRow>, StoreError> {
    let behind = Devices::find().filter(Column::GatewayId.eq(gateway.0)).order_by_asc(Column::Uuid);
    let rows = behind.lock_exclusive().all(connection).await?;
    Ok(rows.into_iter().map(DeviceRow::from).collect())
}

/// Removes a gateway from its devices. Returns these devices after the change.
pub(super) async fn forget_gateway(
    connection: &impl ConnectionTrait,
    gateway: GatewayId,
    behind: Vec<DeviceRow>,
) -> Result<Vec<DeviceRow>, StoreError> {
    if behind.is_empty() {
        return Ok(behind);
    }
    let version = counters::next(connection, Counter::Change).await?;
    Devices::update_many()
        .filter(Column::GatewayId.eq(gateway.0))
        .col_expr(Column::GatewayId, Expr::value(Option::<i64>::None))
        .col_expr(Column::Version, Expr::value(version))
        .exec(connection)
        .await?;
    let behind_none = |device| DeviceRow { gateway_id: None, version, ..device };
    Ok(behind.into_iter().map(behind_none).collect())
}
