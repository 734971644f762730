//! The audit log. Records of changes of accounts, tokens and devices are written in the transaction of the change
//! (`Transaction::audit`), others by the Journal.

use std::sync::{Arc, OnceLock};

use chrono::{DateTime, Utc};
use entity::audit_log::{ActiveModel, Column, Entity, Model};
use sea_orm::{
    ActiveValue::NotSet, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
    Set,
};
use serde_json::{Map, Value};

use super::{Store, StoreError, pieces};
use crate::domain::audit::{Action, Actor, Event, Target};

/// Records that one transaction deletes.
const DELETED: u64 = 2_000;

/// Who makes changes, and where.
#[derive(Debug, Clone, Default)]
pub(super) struct Author {
    actor: Arc<Actor>,
    /// set once, when the broker is registered or a command begins
    node: Arc<OnceLock<Arc<str>>>,
}

impl Author {
    pub(super) fn actor(&self) -> &Actor {
        &self.actor
    }

    pub(super) fn node(&self) -> Arc<str> {
        self.node.get().cloned().unwrap_or_default()
    }

    pub(super) fn set_node(&self, node: &str) {
        // only once
        let _ = self.node.set(node.into());
    }
}

/// Which records to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only of this action.
    pub action: Option<Action>,
    /// Only of this actor.
    pub actor: Option<String>,
    /// Only of this target.
    pub target: Option<String>,
    /// Only those at or after this time.
    pub since: Option<DateTime<Utc>>,
    /// Only those before this time.
    pub until: Option<DateTime<Utc>>,
    /// Only those before the one with this id.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: u64,
}

/// A record of the audit log. Its words are texts, since a newer version of the program may have written others.
#[derive(Debug)]
#[allow(missing_docs)] // as in `domain::audit::Event`
pub struct AuditRecord {
    pub id: i64,
    pub at: DateTime<Utc>,
    pub actor: Option<String>,
    pub actor_name: Option<String>,
    pub actor_role: Option<String>,
    pub address: Option<String>,
    pub node: String,
    pub action: String,
    pub target: Option<String>,
    pub target_name: Option<String>,
    pub outcome: String,
    pub details: Map<String, Value>,
}

impl From<Model> for AuditRecord {
    fn from(row: Model) -> Self {
        Self {
            id: row.id,
            at: row.at.to_utc(),
            actor: row.actor,
            actor_name: row.actor_name,
            actor_role: row.actor_role,
            address: row.address,
            node: row.node,
            action: row.action,
            target: row.target,
            target_name: row.target_name,
            outcome: row.outcome,
            details: serde_json::from_str(&row.details).unwrap_or_default(),
        }
    }
}

impl Store {
    /// The same database for changes by somebody, who is named in the audit log.
    pub fn by(&self, actor: Actor) -> Self {
        let author = Author { actor: Arc::new(actor), ..self.author.clone() };
        Self { author, ..self.clone() }
    }

    /// Names the host in the audit log; a broker is named when it registers.
    pub fn at_host(self, host: &str) -> Self {
        self.author.set_node(host);
        self
    }

    /// The name of this node in the audit log.
    pub fn node(&self) -> Arc<str> {
        self.author.node()
    }

    /// A record for the Journal.
    pub fn audit_event(&self, actor: Actor, action: Action, target: Option<Target>, details: Value) -> Event {
        Event { at: self.clock.now(), node: self.author.node(), actor, action, target, details }
    }

    /// Adds a record to the audit log.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn audit(&self, action: Action, target: Option<Target>, details: Value) -> Result<(), StoreError> {
        let transaction = self.begin_essential().await?;
        transaction.audit(action, target, details).await?;
        Ok(transaction.commit().await?)
    }

    /// Records of the audit log, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn audit_log(&self, filter: AuditFilter) -> Result<Vec<AuditRecord>, StoreError> {
        let AuditFilter { action, actor, target, since, until, before, limit } = filter;
        let rows = Entity::find()
            .apply_if(action, |find, action| find.filter(Column::Action.eq(action.as_str())))
            .apply_if(actor, |find, actor| find.filter(Column::Actor.eq(actor)))
            .apply_if(target, |find, target| find.filter(Column::Target.eq(target)))
            .apply_if(since, |find, since| find.filter(Column::At.gte(since)))
            .apply_if(until, |find, until| find.filter(Column::At.lt(until)))
            .apply_if(before, |find, before| find.filter(Column::Id.lt(before)))
            .order_by_desc(Column::Id)
            .limit(limit)
            .all(&self.read)
            .await?;
        Ok(rows.into_iter().map(AuditRecord::from).collect())
    }

    /// Deletes the records from before this time, in small transactions. Returns how many.
    ///
    /// # Errors
    /// When the database fails; what has been deleted by then stays so.
    pub async fn delete_audit_before(&self, time: DateTime<Utc>) -> Result<u64, StoreError> {
        let mut deleted = 0;
        loop {
            let old = Entity::find().select_only().column(Column::Id).filter(Column::At.lt(time));
            let old = old.order_by_asc(Column::At).limit(DELETED).into_tuple::<i64>().all(&self.read).await?;
            if old.is_empty() {
                return Ok(deleted);
            }
            let transaction = self.begin_essential().await?;
            let done = Entity::delete_many().filter(Column::Id.is_in(old)).exec(&transaction).await?;
            transaction.commit().await?;
            deleted += done.rows_affected;
        }
    }
}

/// Writes records in this order.
pub(super) async fn insert(connection: &impl ConnectionTrait, events: &[&Event]) -> Result<(), StoreError> {
    let mut rest = events;
    for size in pieces(events.len()) {
        let (piece, later) = rest.split_at(size);
        rest = later;
        Entity::insert_many(piece.iter().map(|event| row(event))).exec_without_returning(connection).await?;
    }
    Ok(())
}

fn row(event: &Event) -> ActiveModel {
    let (actor, target) = (&event.actor, event.target.clone());
    let (target, target_name) = target.map_or((None, None), |target| (Some(target.id), target.name));
    ActiveModel {
        id: NotSet,
        at: Set(event.at.into()),
        actor: Set(actor.id.clone()),
        actor_name: Set(actor.name.clone()),
        actor_role: Set(actor.role.map(str::to_owned)),
        address: Set(actor.address.map(|address| address.to_string())),
        node: Set(event.node.to_string()),
        action: Set(event.action.as_str().to_owned()),
        target: Set(target),
        target_name: Set(target_name),
        outcome: Set(event.action.outcome().as_str().to_owned()),
        details: Set(event.details_text()),
    }
}
