//! The history of all gateways: what the Journal writes, and what operators read.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use entity::{gateway_hours, gateway_transitions};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Set,
    sea_query::{Expr, OnConflict},
};

use crate::{
    domain::{
        gateways::{Hour, Reason, Status, Transition},
        ids::GatewayId,
    },
    store::{Store, StoreError, pieces},
};

/// Gateways whose samples go in one transaction, so that nothing else waits long.
const THINNED: u64 = 200;

/// Recent changes that are read at once, so that gateways that change all the time take bounded memory.
const MOST_RECENT: u64 = 20_000;

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

impl Store {
    /// The last change of each gateway.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_gateway_transitions(&self) -> Result<Vec<(GatewayId, Transition)>, StoreError> {
        let rows = gateway_transitions::Entity::find().filter(last_of_each()).all(&self.read).await?;
        Ok(rows.into_iter().map(|row| (GatewayId(row.gateway_id), read_transition(row))).collect())
    }

    /// The last change of each gateway that has changed since then.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn gateway_transitions_since(
        &self,
        since: DateTime<Utc>,
    ) -> Result<BTreeMap<GatewayId, Transition>, StoreError> {
        use gateway_transitions::Column;
        let since = gateway_transitions::Entity::find().filter(Column::At.gt(since)).order_by_desc(Column::At);
        let rows = since.limit(MOST_RECENT).all(&self.read).await?;
        // the oldest first: later ones replace earlier ones
        Ok(rows.into_iter().rev().map(|row| (GatewayId(row.gateway_id), read_transition(row))).collect())
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

pub(super) async fn delete_history(
    connection: &impl ConnectionTrait,
    gateways: &[GatewayId],
) -> Result<(), StoreError> {
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
pub(in crate::store) async fn write(
    connection: &impl ConnectionTrait,
    records: &[&GatewayRecord],
) -> Result<(), StoreError> {
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
