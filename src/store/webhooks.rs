//! What webhooks are to be told of. The Journal adds deliveries; whoever sends one takes it first, so that of several nodes one
//! sends it, and another goes on when that one ends.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use entity::webhook_deliveries::{ActiveModel, Column, Entity};
use sea_orm::{
    ActiveValue::NotSet,
    ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, Set,
    sea_query::{Expr, LockBehavior, LockType},
};

use super::{Store, StoreError, pieces};
use crate::{
    domain::webhooks::{EventType, MOST_PENDING},
    metrics::METRICS,
};

/// How long a taken delivery is left to whoever took it.
const LEASE: Duration = Duration::from_secs(60);

/// Deliveries that one transaction deletes.
const DELETED: u64 = 1_000;

const PENDING: &str = "pending";
const DELIVERED: &str = "delivered";
const FAILED: &str = "failed";

/// A delivery to be stored.
#[derive(Debug)]
pub struct NewDelivery {
    /// The key of the webhook.
    pub webhook: Arc<str>,
    /// The same for all webhooks that are told of the event.
    pub event_id: String,
    /// What has happened.
    pub event: EventType,
    /// JSON.
    pub body: Arc<str>,
    /// When it has happened.
    pub at: DateTime<Utc>,
}

/// A delivery that was taken to be sent.
#[derive(Debug)]
#[allow(missing_docs)] // as in `NewDelivery`
pub struct TakenDelivery {
    pub id: i64,
    pub event_id: String,
    pub body: String,
    pub created_at: DateTime<Utc>,
    /// How often it has been tried, with the attempt that follows.
    pub attempts: i64,
}

/// What became of an attempt.
#[derive(Debug)]
pub enum Attempt {
    /// The receiver has it.
    Delivered,
    /// It is to be tried again after this pause.
    Again(Duration, String),
    /// It has been tried for long enough.
    GivenUp(String),
}

/// The deliveries of a webhook.
#[derive(Debug)]
pub struct WebhookState {
    /// How many wait.
    pub pending: u64,
    /// When the last one was delivered.
    pub last_success: Option<DateTime<Utc>>,
    /// When the last attempt failed, and why.
    pub last_failure: Option<(DateTime<Utc>, String)>,
}

impl Store {
    /// Takes the deliveries of a webhook that are due, the oldest first: nobody else gets them for a minute.
    ///
    /// # Errors
    /// When the database fails; then some may be taken nevertheless.
    pub async fn take_deliveries(&self, webhook: &str, most: u64) -> Result<Vec<TakenDelivery>, StoreError> {
        let now = self.database_time().await?;
        let due = || {
            let of_webhook = Entity::find().filter(Column::Webhook.eq(webhook)).filter(Column::State.eq(PENDING));
            of_webhook.filter(Column::NextAttemptAt.lte(now))
        };
        // a read first, since a write transaction costs more, and mostly nothing is due
        if due().select_only().column(Column::Id).limit(1).into_tuple::<i64>().one(&self.read).await?.is_none() {
            return Ok(Vec::new());
        }
        let transaction = self.begin_essential().await?;
        let taken = due()
            .order_by_asc(Column::NextAttemptAt)
            .order_by_asc(Column::Id)
            .limit(most)
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
            .all(&transaction)
            .await?;
        Entity::update_many()
            .filter(Column::Id.is_in(taken.iter().map(|row| row.id)))
            .col_expr(Column::NextAttemptAt, Expr::value(now + LEASE))
            .col_expr(Column::Attempts, Expr::col(Column::Attempts).add(1))
            .exec(&transaction)
            .await?;
        transaction.commit().await?;
        let taken = taken.into_iter().map(|row| TakenDelivery {
            id: row.id,
            event_id: row.event_id,
            body: row.body,
            created_at: row.created_at.to_utc(),
            attempts: row.attempts + 1,
        });
        Ok(taken.collect())
    }

    /// Stores what became of attempts to deliver something to a webhook. Of what is delivered only the newest is kept.
    ///
    /// # Errors
    /// When the database fails; then they are made again.
    pub async fn note_attempts(&self, webhook: &str, attempts: Vec<(i64, Attempt)>) -> Result<(), StoreError> {
        let now = self.database_time().await?;
        let transaction = self.begin_essential().await?;
        let ended = |state: &str| {
            Entity::update_many()
                .col_expr(Column::State, Expr::value(state))
                .col_expr(Column::EndedAt, Expr::value(now))
        };
        let mut delivered = Vec::new();
        for (id, attempt) in attempts {
            let (update, error) = match attempt {
                Attempt::Delivered => {
                    delivered.push(id);
                    continue;
                }
                Attempt::Again(pause, error) => {
                    (Entity::update_many().col_expr(Column::NextAttemptAt, Expr::value(now + pause)), error)
                }
                Attempt::GivenUp(error) => (ended(FAILED), error),
            };
            update
                .col_expr(Column::LastError, Expr::value(error))
                .col_expr(Column::LastErrorAt, Expr::value(now))
                .filter(Column::Id.eq(id))
                .exec(&transaction)
                .await?;
        }
        if let Some(newest) = delivered.pop() {
            let earlier = Entity::delete_many().filter(Column::Webhook.eq(webhook)).filter(Column::State.eq(DELIVERED));
            earlier.exec(&transaction).await?;
            Entity::delete_many().filter(Column::Id.is_in(delivered)).exec(&transaction).await?;
            ended(DELIVERED).filter(Column::Id.eq(newest)).exec(&transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// The deliveries of a webhook.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn webhook_state(&self, webhook: &str) -> Result<WebhookState, StoreError> {
        let of_webhook = || Entity::find().filter(Column::Webhook.eq(webhook));
        let last_success = of_webhook().filter(Column::State.eq(DELIVERED)).order_by_desc(Column::EndedAt);
        let last_success = last_success.one(&self.read).await?.and_then(|row| row.ended_at);
        let last_failure = of_webhook().filter(Column::LastErrorAt.is_not_null()).order_by_desc(Column::LastErrorAt);
        let last_failure = last_failure.one(&self.read).await?;
        Ok(WebhookState {
            pending: of_webhook().filter(Column::State.eq(PENDING)).count(&self.read).await?,
            last_success: last_success.map(|at| at.to_utc()),
            last_failure: last_failure.and_then(|row| Some((row.last_error_at?.to_utc(), row.last_error?))),
        })
    }

    /// How many deliveries of these webhooks wait.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn pending_deliveries(&self, webhooks: &[Arc<str>]) -> Result<u64, StoreError> {
        let of_webhooks = Entity::find().filter(Column::Webhook.is_in(webhooks.iter().map(|key| key.to_string())));
        Ok(of_webhooks.filter(Column::State.eq(PENDING)).count(&self.read).await?)
    }

    /// Deletes the deliveries that ended longer ago than this, and those that wait for a webhook that is not there any more.
    ///
    /// # Errors
    /// When the database fails; what has been deleted by then stays so.
    pub async fn delete_deliveries_after(&self, age: TimeDelta) -> Result<(), StoreError> {
        let time = self.database_time().await? - age;
        loop {
            let old = Entity::find().select_only().column(Column::Id).filter(Column::CreatedAt.lt(time));
            let old = old.order_by_asc(Column::Id).limit(DELETED).into_tuple::<i64>().all(&self.read).await?;
            if old.is_empty() {
                return Ok(());
            }
            let transaction = self.begin_essential().await?;
            Entity::delete_many().filter(Column::Id.is_in(old)).exec(&transaction).await?;
            transaction.commit().await?;
        }
    }
}

/// Adds deliveries, as many as may wait.
pub(super) async fn insert(
    transaction: &impl ConnectionTrait,
    deliveries: &[&NewDelivery],
    nearly_full: bool,
) -> Result<(), StoreError> {
    let mut of_webhooks = BTreeMap::<_, Vec<_>>::new();
    for delivery in deliveries.iter().filter(|delivery| !nearly_full || delivery.event.is_essential()) {
        of_webhooks.entry(&delivery.webhook).or_default().push(row(delivery));
    }
    let mut stored = 0;
    for (webhook, mut rows) in of_webhooks {
        let waiting = Entity::find().filter(Column::Webhook.eq(&**webhook)).filter(Column::State.eq(PENDING));
        let room = MOST_PENDING.saturating_sub(waiting.count(transaction).await?);
        rows.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        stored += rows.len();
        let mut rows = rows.into_iter();
        for size in pieces(rows.len()) {
            Entity::insert_many(rows.by_ref().take(size)).exec_without_returning(transaction).await?;
        }
    }
    METRICS.webhook_deliveries_total.with_label_values(&["dropped"]).inc_by((deliveries.len() - stored) as u64);
    Ok(())
}

fn row(delivery: &NewDelivery) -> ActiveModel {
    ActiveModel {
        id: NotSet,
        webhook: Set(delivery.webhook.to_string()),
        event_id: Set(delivery.event_id.clone()),
        event: Set(delivery.event.as_str().to_owned()),
        body: Set(delivery.body.to_string()),
        created_at: Set(delivery.at.into()),
        state: Set(PENDING.to_owned()),
        attempts: Set(0),
        // at once, whatever the clocks of nodes say
        next_attempt_at: Set(DateTime::UNIX_EPOCH.into()),
        ended_at: Set(None),
        last_error: Set(None),
        last_error_at: Set(None),
    }
}
