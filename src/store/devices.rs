//! Devices.

use chrono::{DateTime, Utc};
use entity::devices::{ActiveModel, Column, Entity as Devices, Model};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, ExprTrait, IntoActiveModel, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect, QueryTrait, Set, TryIntoModel,
    sea_query::{Expr, Func, LikeExpr},
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    NewRefreshToken, Store, StoreError,
    counters::{self, Counter},
    is_unique_violation, pieces, rooms, tokens,
};
use crate::{
    domain::{
        accounts::{Account, Holder},
        ids::{ClientId, GatewayId},
        registration::{self, Outcome, Proof, Registered},
    },
    protocol::json,
};

/// The metadata of a device that has set none.
const NO_METADATA: &str = "{}";

/// Fewest hexadecimal digits of a search that also looks at UUIDs; shorter ones only look at names.
const UUID_DIGITS: usize = 4;

/// A device as stored.
#[derive(Debug, Clone)]
pub struct RegisteredDevice {
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

impl From<RegisteredDevice> for Account {
    fn from(device: RegisteredDevice) -> Self {
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

impl From<Model> for RegisteredDevice {
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
#[derive(Debug, Default)]
pub struct DeviceChange {
    /// Another name.
    pub name: Option<String>,
    /// Another JSON object.
    pub metadata: Option<Value>,
    /// Another gateway, or none.
    pub gateway_id: Option<Option<GatewayId>>,
}

/// Which devices to list, by name.
#[derive(Debug, Default)]
pub struct DeviceFilter {
    /// Only devices whose name contains this text, or whose UUID begins with it.
    pub search: Option<String>,
    /// Only devices behind this gateway.
    pub gateway_id: Option<GatewayId>,
    /// Only devices after this name and UUID.
    pub after: Option<(String, ClientId)>,
    /// Number of devices to skip.
    pub skip: u64,
    /// Most devices to return.
    pub limit: u64,
}

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
    ) -> Result<Option<RegisteredDevice>, StoreError> {
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
    ) -> Result<Option<RegisteredDevice>, StoreError> {
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
                };
                row.insert(&transaction).await?
            }
        };
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

    /// The device with this UUID.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn device(&self, uuid: ClientId) -> Result<Option<RegisteredDevice>, StoreError> {
        find(&self.read, uuid.into()).await
    }

    /// A page of devices by name, and the number of devices on all pages.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn devices(&self, filter: DeviceFilter) -> Result<(Vec<RegisteredDevice>, u64), StoreError> {
        let mut query = Devices::find().filter(Column::DeletedAt.is_null());
        if let Some(search) = &filter.search {
            query = query.filter(matches(search));
        }
        if let Some(gateway) = filter.gateway_id {
            query = query.filter(Column::GatewayId.eq(gateway.0));
        }
        let total = query.clone().count(&self.read).await?;
        let page = query.apply_if(filter.after, |query, (name, uuid)| {
            let same_name = Column::Name.eq(name.as_str()).and(Column::Uuid.gt(uuid.uuid()));
            query.filter(Column::Name.gt(name).or(same_name))
        });
        let page = page.order_by_asc(Column::Name).order_by_asc(Column::Uuid);
        let rows = page.offset(filter.skip).limit(filter.limit).all(&self.read).await?;
        Ok((rows.into_iter().map(RegisteredDevice::from).collect(), total))
    }

    /// Changes a device. Returns the device after the change.
    ///
    /// # Errors
    /// When the database fails; no such device is `None`.
    pub async fn update_device(
        &self,
        uuid: ClientId,
        change: DeviceChange,
    ) -> Result<Option<RegisteredDevice>, StoreError> {
        let transaction = self.begin().await?;
        let row = Devices::find_by_id(uuid).filter(Column::DeletedAt.is_null()).lock_exclusive();
        let Some(row) = row.one(&transaction).await? else { return Ok(None) };
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
        Ok(Some(row.into()))
    }

    /// Deletes a device: its tokens end, and its name and metadata are removed. Returns the rest of its row.
    ///
    /// # Errors
    /// When the database fails; no such device is `None`.
    pub async fn delete_device(&self, uuid: ClientId) -> Result<Option<RegisteredDevice>, StoreError> {
        let transaction = self.begin_essential().await?;
        let row = Devices::find_by_id(uuid).filter(Column::DeletedAt.is_null()).lock_exclusive();
        let Some(row) = row.one(&transaction).await? else { return Ok(None) };
        tokens::delete_of_client(&transaction, uuid, None).await?;
        rooms::changes::leave_all(&transaction, uuid, &self.clock).await?;
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
    pub async fn devices_and_deleted(&self, uuids: &[ClientId]) -> Result<Vec<RegisteredDevice>, StoreError> {
        let (mut found, mut rest) = (Vec::new(), uuids);
        for size in pieces(uuids.len()) {
            let (piece, later) = rest.split_at(size);
            rest = later;
            let uuids = piece.iter().map(|uuid| uuid.uuid());
            let rows = Devices::find().filter(Column::Uuid.is_in(uuids)).all(&self.read).await?;
            found.extend(rows.into_iter().map(RegisteredDevice::from));
        }
        Ok(found)
    }
}

/// Devices whose name contains this text, in any case, or whose UUID begins with it.
fn matches(search: &str) -> Condition {
    let pattern = |text: &str| {
        let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        LikeExpr::new(format!("%{escaped}%")).escape('\\')
    };
    let lower = Expr::expr(Func::lower(Expr::col(Column::Name)));
    let mut any = Condition::any()
        // SQLite's LOWER only knows ASCII
        .add(Expr::col(Column::Name).like(pattern(search)))
        .add(lower.like(pattern(&search.to_lowercase())));
    let digits = search.replace('-', "");
    if (UUID_DIGITS..=32).contains(&digits.len())
        && let Ok(first) = Uuid::try_parse(&format!("{digits:0<32}"))
        && let Ok(last) = Uuid::try_parse(&format!("{digits:f<32}"))
    {
        any = any.add(Column::Uuid.between(first, last));
    }
    any
}

/// The device with this UUID.
pub(super) async fn find(
    connection: &impl ConnectionTrait,
    uuid: Uuid,
) -> Result<Option<RegisteredDevice>, StoreError> {
    let row = Devices::find_by_id(uuid).filter(Column::DeletedAt.is_null()).one(connection).await?;
    Ok(row.map(RegisteredDevice::from))
}

/// Ends all access tokens of a device by starting a new generation, and its key. Returns the device after it.
pub(super) async fn advance_generation(
    transaction: &impl ConnectionTrait,
    uuid: ClientId,
) -> Result<Option<RegisteredDevice>, StoreError> {
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

/// When which devices (in which incarnation), whose rows are locked, came or went. All are written with the latest of the times, which are a
/// group's and close together.
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
) -> Result<Vec<RegisteredDevice>, StoreError> {
    let behind = Devices::find().filter(Column::GatewayId.eq(gateway.0)).order_by_asc(Column::Uuid);
    let rows = behind.lock_exclusive().all(connection).await?;
    Ok(rows.into_iter().map(RegisteredDevice::from).collect())
}

/// Removes a gateway from its devices. Returns these devices after the change.
pub(super) async fn forget_gateway(
    connection: &impl ConnectionTrait,
    gateway: GatewayId,
    behind: Vec<RegisteredDevice>,
) -> Result<Vec<RegisteredDevice>, StoreError> {
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
    let behind_none = |device| RegisteredDevice { gateway_id: None, version, ..device };
    Ok(behind.into_iter().map(behind_none).collect())
}
