//! Gateways that were created over HTTP, and the history of all gateways: what the Journal writes, and what operators
//! read.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use entity::{gateway_hours, gateway_transitions, gateways};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Set,
    sea_query::{Expr, OnConflict},
};

use super::{
    RegisteredDevice, Store, StoreError,
    counters::{self, Counter},
    devices, is_unique_violation, pieces,
};
use crate::domain::{
    gateways::{Address, Gateway, Hour, Reason, Source, Status, Transition},
    ids::GatewayId,
};

/// Gateways whose samples go in one transaction, so that nothing else waits long.
const THINNED: u64 = 200;

/// Something to be written about a gateway.
#[derive(Debug, Clone)]
pub enum GatewayRecord {
    /// Its status changed.
    Transition {
        /// The gateway.
        gateway: GatewayId,
        /// The change.
        transition: Transition,
    },
    /// An hour of its probes, which may be written again when there are more of them.
    Hour {
        /// The gateway.
        gateway: GatewayId,
        /// The probes.
        hour: Hour,
    },
    /// It was deleted: what was recorded of it before goes, too.
    Deleted(GatewayId),
}

/// What is kept of a gateway in a span of time.
#[derive(Debug, Default)]
pub struct GatewayHistory {
    /// The last change before it.
    pub before: Option<Transition>,
    /// The changes in it, oldest first.
    pub transitions: Vec<Transition>,
    /// The hours that touch it, oldest first.
    pub hours: Vec<Hour>,
}

impl From<gateway_hours::Model> for Hour {
    fn from(row: gateway_hours::Model) -> Self {
        Self {
            began_at: row.began_at.to_utc(),
            probes: row.probes.try_into().unwrap_or(0),
            answered: row.answered.try_into().unwrap_or(0),
            rtt_ms: row.rtt_ms,
            samples: row.samples.and_then(|samples| serde_json::from_str(&samples).ok()),
        }
    }
}

fn read_transition(row: gateway_transitions::Model) -> Transition {
    Transition {
        at: row.at.to_utc(),
        // a word of a newer version
        status: Status::parse(&row.status).unwrap_or(Status::Unknown),
        reason: row.reason.as_deref().and_then(Reason::parse),
    }
}

/// A row whose address no version of the program would have written is passed over.
fn read_gateway(row: gateways::Model) -> Option<Gateway> {
    Some(Gateway {
        id: GatewayId(row.id),
        name: row.name,
        address: Address::parse(&row.address)?,
        parent_id: row.parent_id.map(GatewayId),
        max_rtt_ms: row.max_rtt_ms,
        max_loss_percent: row.max_loss_percent,
        source: Source::Api,
    })
}

fn gateway_row(gateway: &Gateway, now: DateTime<Utc>) -> gateways::ActiveModel {
    gateways::ActiveModel {
        id: Set(gateway.id.0),
        name: Set(gateway.name.clone()),
        address: Set(gateway.address.as_str().to_owned()),
        parent_id: Set(gateway.parent_id.map(|parent| parent.0)),
        max_rtt_ms: Set(gateway.max_rtt_ms),
        max_loss_percent: Set(gateway.max_loss_percent),
        created_at: Set(now.into()),
    }
}

impl Store {
    /// The gateways that were created over HTTP.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn gateways(&self) -> Result<Vec<Gateway>, StoreError> {
        let rows = gateways::Entity::find().order_by_asc(gateways::Column::Id).all(&self.read).await?;
        Ok(rows.into_iter().filter_map(read_gateway).collect())
    }

    /// An id above all that a gateway ever had.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unused_gateway_id(&self) -> Result<GatewayId, StoreError> {
        Ok(GatewayId(counters::last(&self.read, Counter::GatewayId).await? + 1))
    }

    /// Gateways of the configuration have ids up to this one: none is given to another gateway, also when those are no
    /// longer in the configuration.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn reserve_gateway_ids(&self, highest: GatewayId) -> Result<(), StoreError> {
        let transaction = self.begin_essential().await?;
        counters::raise(&transaction, Counter::GatewayId, highest.0).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Creates a gateway, without what is left of the history of an earlier one. Answers false if there is one with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_gateway(&self, gateway: &Gateway) -> Result<bool, StoreError> {
        let transaction = self.begin().await?;
        match gateways::Entity::insert(gateway_row(gateway, self.clock.now()))
            .exec_without_returning(&transaction)
            .await
        {
            Ok(_) => {}
            Err(error) if is_unique_violation(&error) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        delete_history(&transaction, &[gateway.id]).await?;
        counters::raise(&transaction, Counter::GatewayId, gateway.id.0).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Changes a gateway. Answers whether there is one with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn update_gateway(&self, gateway: &Gateway) -> Result<bool, StoreError> {
        let transaction = self.begin().await?;
        let done = gateways::Entity::update_many()
            .filter(gateways::Column::Id.eq(gateway.id.0))
            .col_expr(gateways::Column::Name, Expr::value(gateway.name.as_str()))
            .col_expr(gateways::Column::Address, Expr::value(gateway.address.as_str()))
            .col_expr(gateways::Column::ParentId, Expr::value(gateway.parent_id.map(|parent| parent.0)))
            .col_expr(gateways::Column::MaxRttMs, Expr::value(gateway.max_rtt_ms))
            .col_expr(gateways::Column::MaxLossPercent, Expr::value(gateway.max_loss_percent))
            .exec(&transaction)
            .await?;
        transaction.commit().await?;
        Ok(done.rows_affected > 0)
    }

    /// Deletes a gateway with its history; what was behind it is behind nothing. What the Journal has not written yet of the
    /// history is deleted by [`GatewayRecord::Deleted`]. Answers the devices that were behind it, as they are now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_gateway(&self, id: GatewayId) -> Result<Vec<RegisteredDevice>, StoreError> {
        let transaction = self.begin_essential().await?;
        let devices = devices::lock_behind(&transaction, id).await?;
        gateways::Entity::delete_by_id(id.0).exec(&transaction).await?;
        gateways::Entity::update_many()
            .filter(gateways::Column::ParentId.eq(id.0))
            .col_expr(gateways::Column::ParentId, Expr::value(Option::<i64>::None))
            .exec(&transaction)
            .await?;
        delete_history(&transaction, &[id]).await?;
        let devices = devices::forget_gateway(&transaction, id, devices).await?;
        transaction.commit().await?;
        Ok(devices)
    }

    /// The last change of each gateway.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_gateway_transitions(&self) -> Result<Vec<(GatewayId, Transition)>, StoreError> {
        let rows = gateway_transitions::Entity::find().filter(last_of_each()).all(&self.read).await?;
        Ok(rows.into_iter().map(|row| (GatewayId(row.gateway_id), read_transition(row))).collect())
    }

    /// What is kept of a gateway between two times, with at most so many changes, the latest.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn gateway_history(
        &self,
        id: GatewayId,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        most_transitions: u64,
    ) -> Result<GatewayHistory, StoreError> {
        use gateway_hours::Column as Hours;
        use gateway_transitions::Column as Transitions;
        let of_gateway = || gateway_transitions::Entity::find().filter(Transitions::GatewayId.eq(id.0));
        let mut transitions: Vec<_> = of_gateway()
            .filter(Transitions::At.gt(from))
            .filter(Transitions::At.lte(to))
            .order_by_desc(Transitions::At)
            .limit(most_transitions)
            .all(&self.read)
            .await?
            .into_iter()
            .map(read_transition)
            .collect();
        transitions.reverse();
        // before those that are told
        let first = transitions.first().map_or(to, |first| first.at);
        let before = of_gateway().filter(Transitions::At.lt(first)).order_by_desc(Transitions::At);
        let before = before.one(&self.read).await?.map(read_transition);
        let hours = gateway_hours::Entity::find()
            .filter(Hours::GatewayId.eq(id.0))
            // one that began before may reach into it
            .filter(Hours::BeganAt.gte(from - chrono::TimeDelta::hours(1)))
            .filter(Hours::BeganAt.lte(to))
            .order_by_asc(Hours::BeganAt)
            .all(&self.read)
            .await?;
        Ok(GatewayHistory { before, transitions, hours: hours.into_iter().map(Hour::from).collect() })
    }

    /// Thins the history out: of hours before `raw` only the figures stay, and nothing of what is older than `all`,
    /// except for the last change of each gateway.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn thin_gateway_history(&self, raw: DateTime<Utc>, all: DateTime<Utc>) -> Result<(), StoreError> {
        use gateway_hours::Column;
        use gateway_transitions::Column as Transitions;
        let old = || Column::BeganAt.lt(raw).and(Column::Samples.is_not_null());
        loop {
            let found = gateway_hours::Entity::find().select_only().column(Column::GatewayId).distinct();
            let found: Vec<i64> = found.filter(old()).limit(THINNED).into_tuple().all(&self.read).await?;
            if found.is_empty() {
                break;
            }
            let transaction = self.begin_essential().await?;
            gateway_hours::Entity::update_many()
                .filter(Column::GatewayId.is_in(found))
                .filter(old())
                .col_expr(Column::Samples, Expr::value(Option::<String>::None))
                .exec(&transaction)
                .await?;
            transaction.commit().await?;
        }
        let old = || Column::BeganAt.lt(all);
        loop {
            let found = gateway_hours::Entity::find().select_only().column(Column::GatewayId).distinct();
            let found: Vec<i64> = found.filter(old()).limit(THINNED).into_tuple().all(&self.read).await?;
            if found.is_empty() {
                break;
            }
            let transaction = self.begin_essential().await?;
            gateway_hours::Entity::delete_many()
                .filter(Column::GatewayId.is_in(found))
                .filter(old())
                .exec(&transaction)
                .await?;
            transaction.commit().await?;
        }
        let old = || Transitions::At.lt(all).and(last_of_each().not());
        loop {
            let found = gateway_transitions::Entity::find().select_only().column(Transitions::GatewayId).distinct();
            let found: Vec<i64> = found.filter(old()).limit(THINNED).into_tuple().all(&self.read).await?;
            if found.is_empty() {
                return Ok(());
            }
            let transaction = self.begin_essential().await?;
            gateway_transitions::Entity::delete_many()
                .filter(Transitions::GatewayId.is_in(found))
                .filter(old())
                .exec(&transaction)
                .await?;
            transaction.commit().await?;
        }
    }
}

async fn delete_history(connection: &impl ConnectionTrait, gateways: &[GatewayId]) -> Result<(), StoreError> {
    use gateway_hours::Column as Hours;
    use gateway_transitions::Column as Transitions;
    let gateways = || gateways.iter().map(|gateway| gateway.0);
    gateway_transitions::Entity::delete_many()
        .filter(Transitions::GatewayId.is_in(gateways()))
        .exec(connection)
        .await?;
    gateway_hours::Entity::delete_many().filter(Hours::GatewayId.is_in(gateways())).exec(connection).await?;
    Ok(())
}

/// Whether a row is the last change of its gateway.
fn last_of_each() -> Expr {
    use gateway_transitions::Column;
    let last = gateway_transitions::Entity::find()
        .select_only()
        .column(Column::GatewayId)
        .column_as(Expr::col(Column::At).max(), "at")
        .group_by(Column::GatewayId)
        .into_query();
    Expr::tuple([Expr::col(Column::GatewayId), Expr::col(Column::At)]).in_subquery(last)
}

/// Writes what was recorded, as if one by one.
pub(super) async fn write(connection: &impl ConnectionTrait, records: &[&GatewayRecord]) -> Result<(), StoreError> {
    use gateway_hours::Column as Hours;
    use gateway_transitions::Column as Transitions;
    // of an hour that is there twice the last counts
    let (mut transitions, mut hours, mut deleted) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
    for record in records {
        match record {
            GatewayRecord::Transition { gateway, transition } => {
                let row = gateway_transitions::ActiveModel {
                    gateway_id: Set(gateway.0),
                    at: Set(transition.at.into()),
                    status: Set(transition.status.as_str().to_owned()),
                    reason: Set(transition.reason.map(|reason| reason.as_str().to_owned())),
                };
                transitions.entry((*gateway, transition.at)).or_insert(row);
            }
            GatewayRecord::Hour { gateway, hour } => {
                let samples = hour.samples.as_ref().and_then(|samples| serde_json::to_string(samples).ok());
                let row = gateway_hours::ActiveModel {
                    gateway_id: Set(gateway.0),
                    began_at: Set(hour.began_at.into()),
                    probes: Set(hour.probes.into()),
                    answered: Set(hour.answered.into()),
                    rtt_ms: Set(hour.rtt_ms),
                    samples: Set(samples),
                };
                hours.insert((*gateway, hour.began_at), row);
            }
            GatewayRecord::Deleted(gateway) => {
                transitions.retain(|(of, _), _| of != gateway);
                hours.retain(|(of, _), _| of != gateway);
                deleted.insert(*gateway);
            }
        }
    }
    if !deleted.is_empty() {
        delete_history(connection, &Vec::from_iter(deleted)).await?;
    }
    let sizes = pieces(transitions.len());
    let mut transitions = transitions.into_values();
    for size in sizes {
        gateway_transitions::Entity::insert_many(transitions.by_ref().take(size))
            // written before the database said that it could not
            .on_conflict(OnConflict::columns([Transitions::GatewayId, Transitions::At]).do_nothing().to_owned())
            .exec_without_returning(connection)
            .await?;
    }
    let sizes = pieces(hours.len());
    let mut hours = hours.into_values();
    for size in sizes {
        gateway_hours::Entity::insert_many(hours.by_ref().take(size))
            .on_conflict(
                OnConflict::columns([Hours::GatewayId, Hours::BeganAt])
                    .update_columns([Hours::Probes, Hours::Answered, Hours::RttMs, Hours::Samples])
                    .to_owned(),
            )
            .exec_without_returning(connection)
            .await?;
    }
    Ok(())
}
