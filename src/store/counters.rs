//! Numbers that are counted: all but the bytes only grow.

use entity::counters::{Column, Entity};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, ExprTrait, QueryFilter, QuerySelect,
    sea_query::{Expr, Query},
};

use super::StoreError;

/// The number that is counted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Counter {
    /// The version of the last change of an account or revocation.
    Change,
    /// The highest id that a gateway ever had.
    GatewayId,
    /// How many changes there were of gateways.
    GatewayChange,
    /// The highest id of a topic's history.
    TopicHistory,
    /// The highest id of an acknowledged message.
    AcknowledgedMessageId,
    /// The bytes of all acknowledged messages and histories of topics.
    StoredBytes,
}

impl Counter {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::GatewayId => "gateway_id",
            Self::GatewayChange => "gateway_change",
            Self::TopicHistory => "topic_history",
            Self::AcknowledgedMessageId => "acknowledged_message_id",
            Self::StoredBytes => "stored_bytes",
        }
    }
}

/// The next number. The counter's row stays locked until the transaction ends, so that numbers become visible in their
/// order. Call this after taking all other locks, so that transactions that hold the counter never wait.
pub(super) async fn next(transaction: &impl ConnectionTrait, counter: Counter) -> Result<i64, StoreError> {
    add(transaction, counter, 1).await
}

/// Adds to a counter, as [`next`] does. Returns its value after that.
pub(super) async fn add(transaction: &impl ConnectionTrait, counter: Counter, by: i64) -> Result<i64, StoreError> {
    let mut update = Query::update();
    update
        .table(Entity)
        .value(Column::Value, Expr::col(Column::Value).add(by))
        .and_where(Expr::col(Column::Name).eq(counter.name()))
        .returning_col(Column::Value);
    let row = transaction.query_one(&update).await?;
    let row = row.ok_or_else(|| DbErr::RecordNotFound(format!("the counter {} is missing", counter.name())))?;
    Ok(row.try_get_by_index(0)?)
}

/// The last number that was given.
pub(super) async fn last(connection: &impl ConnectionTrait, counter: Counter) -> Result<i64, StoreError> {
    let value = Entity::find().select_only().column(Column::Value).filter(Column::Name.eq(counter.name()));
    Ok(value.into_tuple::<i64>().one(connection).await?.unwrap_or(0))
}

/// Skips all numbers up to this one.
pub(super) async fn raise(connection: &impl ConnectionTrait, counter: Counter, to: i64) -> Result<(), StoreError> {
    Entity::update_many()
        .filter(Column::Name.eq(counter.name()))
        .filter(Column::Value.lt(to))
        .col_expr(Column::Value, Expr::value(to))
        .exec(connection)
        .await?;
    Ok(())
}

/// Whether the last number that was given is this. No other is given until the transaction ends. To be asked before all other
/// locks are taken.
pub(super) async fn stays_at(
    transaction: &impl ConnectionTrait,
    counter: Counter,
    last: i64,
) -> Result<bool, StoreError> {
    let row = Entity::find().filter(Column::Name.eq(counter.name())).lock_shared().one(transaction).await?;
    Ok(row.is_some_and(|row| row.value == last))
}

/// Gives the next number, if the last one is this: `false` means that others were given meanwhile. The counter's row stays
/// locked until the transaction ends. So this is also a turn, to be taken before all other locks.
pub(super) async fn next_after(
    transaction: &impl ConnectionTrait,
    counter: Counter,
    last: i64,
) -> Result<bool, StoreError> {
    let done = Entity::update_many()
        .filter(Column::Name.eq(counter.name()))
        .filter(Column::Value.eq(last))
        .col_expr(Column::Value, Expr::value(last + 1))
        .exec(transaction)
        .await?;
    Ok(done.rows_affected > 0)
}
