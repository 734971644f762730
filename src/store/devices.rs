//! Devices.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use entity::{
    devices::{ActiveModel, Column, Entity as Devices, Model},
    refresh_tokens,
};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, DbBackend, EntityTrait, ExprTrait, IntoActiveModel,
    PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, Set, TryIntoModel,
    sea_query::{Expr, Func, LikeExpr},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{NewRefreshToken, Store, StoreError, is_unique_violation, pieces};
use crate::domain::ids::ClientId;

/// A part of a UUID is searched for from so many digits on; fewer are more likely meant for names.
const UUID_DIGITS: usize = 4;

/// A device as stored.
#[derive(Debug, Clone)]
pub struct RegisteredDevice {
    /// Its identity.
    pub uuid: ClientId,
    /// The name it gave itself; may be empty.
    pub name: String,
    /// What it says of itself: a JSON object.
    pub metadata: Value,
    /// The gateway that it is behind.
    pub gateway_id: Option<i64>,
    /// When it last came or went; None: it has never been connected.
    pub last_seen: Option<DateTime<Utc>>,
    /// Tokens of an earlier generation are revoked.
    pub token_generation: i64,
    /// Last change of name, gateway, generation or existence.
    pub changed_at: DateTime<Utc>,
    /// It is there no more.
    pub is_deleted: bool,
}

impl From<Model> for RegisteredDevice {
    fn from(row: Model) -> Self {
        Self {
            uuid: row.uuid.into(),
            name: row.name,
            metadata: row.metadata,
            gateway_id: row.gateway_id,
            last_seen: row.last_seen.map(|time| time.to_utc()),
            token_generation: row.token_generation,
            changed_at: row.changed_at.to_utc(),
            is_deleted: row.deleted_at.is_some(),
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

/// What to change of a device; None leaves it as it is.
#[derive(Debug, Default)]
pub struct DeviceChange {
    /// Another name.
    pub name: Option<String>,
    /// Another JSON object.
    pub metadata: Option<Value>,
    /// Another gateway, or none.
    pub gateway_id: Option<Option<i64>>,
}

/// Which devices to list, by name.
#[derive(Debug, Default)]
pub struct DeviceFilter {
    /// Only those with this in their name, or whose UUID begins like this.
    pub search: Option<String>,
    /// Only those behind this gateway.
    pub gateway_id: Option<i64>,
    /// How many to pass over.
    pub skip: u64,
    /// How many at most.
    pub limit: u64,
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
        let transaction = self.begin_essential().await?;
        let now = Utc::now().trunc_subsecs(6);
        // nobody deletes it in the meantime
        let device = match Devices::find_by_id(uuid).lock_exclusive().one(&transaction).await? {
            Some(row) => {
                // also where clocks differ, what comes later looks later
                let now = std::cmp::max(now, row.changed_at.to_utc() + TimeDelta::microseconds(1));
                // whoever had it before it was deleted has no claim on it any more
                let is_new = row.deleted_at.is_some();
                // digests of random keys: nothing to learn from how long the comparison takes
                let by_key = !is_new && matches!(claim, Claim::KeyHash(hash) if row.key_hash == hash);
                if !is_new && !by_key && !matches!(claim, Claim::Granted) {
                    return Ok(None);
                }
                let renamed = row.name != name;
                let mut row = row.into_active_model();
                if !by_key {
                    row.key_hash = Set(key_hash.to_owned());
                }
                if renamed || is_new {
                    row.name = Set(name.to_owned());
                    row.changed_at = Set(now.into());
                }
                if is_new {
                    row.deleted_at = Set(None);
                    row.created_at = Set(now.into());
                }
                if row.is_changed() { row.update(&transaction).await? } else { row.try_into_model()? }
            }
            None => {
                self.check_space()?;
                let row = ActiveModel {
                    uuid: Set(uuid.into()),
                    name: Set(name.to_owned()),
                    key_hash: Set(key_hash.to_owned()),
                    token_generation: Set(0),
                    created_at: Set(now.into()),
                    changed_at: Set(now.into()),
                    metadata: Set(json!({})),
                    gateway_id: Set(None),
                    last_seen: Set(None),
                    deleted_at: Set(None),
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
        find(&self.read, uuid.into()).await
    }

    /// A page of devices by name, and how many there are on all pages.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn devices(&self, filter: &DeviceFilter) -> Result<(Vec<RegisteredDevice>, u64), StoreError> {
        let mut query = Devices::find().filter(Column::DeletedAt.is_null());
        if let Some(search) = &filter.search {
            query = query.filter(matches(search));
        }
        if let Some(gateway) = filter.gateway_id {
            query = query.filter(Column::GatewayId.eq(gateway));
        }
        let total = query.clone().count(&self.read).await?;
        let page = query.order_by_asc(Column::Name).order_by_asc(Column::Uuid);
        let rows = page.offset(filter.skip).limit(filter.limit).all(&self.read).await?;
        Ok((rows.into_iter().map(RegisteredDevice::from).collect(), total))
    }

    /// Changes a device. Answers the device after the change.
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
        let mut row = row.into_active_model();
        if let Some(name) = change.name {
            row.name = Set(name);
        }
        if let Some(metadata) = change.metadata {
            row.metadata = Set(metadata);
        }
        if let Some(gateway_id) = change.gateway_id {
            row.gateway_id = Set(gateway_id);
        }
        row.changed_at = Set(Utc::now().trunc_subsecs(6).into());
        let row = row.update(&transaction).await?;
        transaction.commit().await?;
        Ok(Some(row.into()))
    }

    /// Deletes a device: its tokens end, and what it said of itself is forgotten. Answers what is left of it.
    ///
    /// # Errors
    /// When the database fails; no such device is `None`.
    pub async fn delete_device(&self, uuid: ClientId) -> Result<Option<RegisteredDevice>, StoreError> {
        let transaction = self.begin_essential().await?;
        let tokens = || refresh_tokens::Column::ClientUuid.eq(uuid.uuid());
        // waits for rotations that are under way, so that the deletion below sees their successors
        refresh_tokens::Entity::find().filter(tokens()).lock_exclusive().all(&transaction).await?;
        let row = Devices::find_by_id(uuid).filter(Column::DeletedAt.is_null()).lock_exclusive();
        let Some(row) = row.one(&transaction).await? else { return Ok(None) };
        let (now, generation) = (Utc::now().trunc_subsecs(6), row.token_generation);
        let row = ActiveModel {
            name: Set(String::new()),
            key_hash: Set(String::new()),
            token_generation: Set(generation + 1),
            changed_at: Set(now.into()),
            metadata: Set(json!({})),
            gateway_id: Set(None),
            last_seen: Set(None),
            deleted_at: Set(Some(now.into())),
            ..row.into_active_model()
        };
        let row = row.update(&transaction).await?;
        refresh_tokens::Entity::delete_many().filter(tokens()).exec(&transaction).await?;
        transaction.commit().await?;
        Ok(Some(row.into()))
    }

    /// Devices whose name, gateway, generation or existence changed since then, and when; deleted ones too.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn devices_changed_since(
        &self,
        since: DateTime<Utc>,
    ) -> Result<Vec<(ClientId, DateTime<Utc>)>, StoreError> {
        let rows: Vec<(Uuid, DateTime<Utc>)> = Devices::find()
            .select_only()
            .columns([Column::Uuid, Column::ChangedAt])
            .filter(Column::ChangedAt.gte(since))
            .into_tuple()
            .all(&self.read)
            .await?;
        Ok(rows.into_iter().map(|(uuid, changed_at)| (uuid.into(), changed_at)).collect())
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

/// Devices with this in their name, in whatever case, or whose UUID begins like this.
fn matches(search: &str) -> Condition {
    let pattern = |text: &str| {
        let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        LikeExpr::new(format!("%{escaped}%")).escape('\\')
    };
    let lower = Expr::expr(Func::lower(Expr::col(Column::Name)));
    let mut any = Condition::any()
        // SQLite knows upper and lower case of ASCII alone
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

/// Ends all access tokens of a device by starting a new generation. Answers whether there is such a device.
pub(super) async fn advance_generation(connection: &impl ConnectionTrait, uuid: ClientId) -> Result<bool, StoreError> {
    let done = Devices::update_many()
        .filter(Column::Uuid.eq(uuid.uuid()))
        .filter(Column::DeletedAt.is_null())
        .col_expr(Column::TokenGeneration, Expr::col(Column::TokenGeneration).add(1))
        .col_expr(Column::ChangedAt, Expr::value(Utc::now().trunc_subsecs(6)))
        .exec(connection)
        .await?;
    Ok(done.rows_affected > 0)
}

/// Devices came or went. All are written with the latest of the times, which are a group's and close together.
pub(super) async fn write_seen(
    connection: &impl ConnectionTrait,
    seen: &[(ClientId, DateTime<Utc>)],
) -> Result<(), StoreError> {
    let mut rest = seen;
    for size in pieces(seen.len()) {
        let (piece, later) = rest.split_at(size);
        rest = later;
        let Some(latest) = piece.iter().map(|(_, at)| *at).max() else { continue };
        // a device that was deleted meanwhile and registered again is another one, which nobody has seen
        let devices = || {
            let seen = |(device, at): &(ClientId, DateTime<Utc>)| {
                Condition::all().add(Column::Uuid.eq(device.uuid())).add(Column::CreatedAt.lte(*at))
            };
            piece.iter().map(seen).fold(Condition::any(), Condition::add)
        };
        if connection.get_database_backend() == DbBackend::Postgres {
            // in one order, as everywhere: else two of them could wait for each other
            let locked = Devices::find().select_only().column(Column::Uuid).filter(devices());
            locked.order_by_asc(Column::Uuid).lock_exclusive().into_tuple::<Uuid>().all(connection).await?;
        }
        Devices::update_many()
            .filter(devices())
            .filter(Column::DeletedAt.is_null())
            .col_expr(Column::LastSeen, Expr::value(latest))
            .exec(connection)
            .await?;
    }
    Ok(())
}

/// Devices that were behind a gateway are behind none. Answers these, as they are now.
pub(super) async fn forget_gateway(
    connection: &impl ConnectionTrait,
    gateway: i64,
) -> Result<Vec<RegisteredDevice>, StoreError> {
    let now = Utc::now().trunc_subsecs(6);
    // in one order, as everywhere: else two of them could wait for each other
    let behind = Devices::find()
        .filter(Column::GatewayId.eq(gateway))
        .order_by_asc(Column::Uuid)
        .lock_exclusive()
        .all(connection)
        .await?;
    Devices::update_many()
        .filter(Column::GatewayId.eq(gateway))
        .col_expr(Column::GatewayId, Expr::value(Option::<i64>::None))
        .col_expr(Column::ChangedAt, Expr::value(now))
        .exec(connection)
        .await?;
    let behind_none = |row| RegisteredDevice { gateway_id: None, changed_at: now, ..RegisteredDevice::from(row) };
    Ok(behind.into_iter().map(behind_none).collect())
}
