//! Acknowledged messages that go to their recipients, and the ends that their senders are told.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use entity::{
    acknowledged_messages::{Column, Entity},
    devices,
};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, Query},
};
use uuid::Uuid;

use super::count;
use crate::{
    domain::{
        ids::{ClientId, DeliveryId},
        messages::{
            MessageState, Priority,
            change::{MessageChange, MessageDecided, Take, TakenMessage},
        },
    },
    store::{StoreError, pieces, row_locks},
};

pub(super) async fn apply(
    transaction: &impl ConnectionTrait,
    changes: &[MessageChange],
    decided: &mut [MessageDecided],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    for (change, decided) in changes.iter().zip(decided) {
        if let MessageChange::Take(wanted) = change {
            *decided = take(transaction, wanted, now).await?;
        }
    }
    Ok(())
}

async fn take(
    transaction: &impl ConnectionTrait,
    wanted: &Take,
    now: DateTime<Utc>,
) -> Result<MessageDecided, StoreError> {
    let Take { to, except, held, most, bytes, socket } = wanted;
    if let Some(socket) = socket
        && newest_socket(transaction, *to).await? != *socket as i64
    {
        return Ok(MessageDecided::NotNewest);
    }
    let mut waiting = Entity::find()
        .select_only()
        .columns([Column::Id, Column::Bytes])
        .filter(Column::Recipient.eq(to.uuid()))
        .filter(Column::EndedAt.is_null())
        .filter(Column::ExpiresAt.gt(now));
    if !except.is_empty() {
        waiting = waiting.filter(Column::Id.is_not_in(except.iter().map(|id| id.0)));
    }
    for (sender, priority) in held {
        let goes = Condition::any().add(Column::Sender.ne(sender.uuid())).add(Column::Priority.lt(priority.rank()));
        waiting = waiting.filter(goes);
    }
    let waiting = waiting.order_by_asc(Column::Priority).order_by_asc(Column::Id).limit(*most as u64 + 1);
    let waiting: Vec<(i64, i64)> = waiting.into_tuple().all(transaction).await?;
    let mut size = 0;
    let fits = |(index, (_, length)): &(usize, &(i64, i64))| {
        size += usize::try_from(*length).unwrap_or(0);
        *index == 0 || size <= *bytes
    };
    let ids: Vec<_> = waiting.iter().take(*most).enumerate().take_while(fits).map(|(_, (id, _))| *id).collect();
    let is_all = ids.len() == waiting.len();
    let mut taken = HashMap::with_capacity(ids.len());
    let mut rest = &*ids;
    for size in pieces(ids.len()) {
        let (piece, later) = rest.split_at(size);
        rest = later;
        let mut update = Query::update();
        update
            .table(Entity)
            .value(Column::State, MessageState::PendingAck.as_str())
            .value(Column::Attempts, Expr::col(Column::Attempts).add(1))
            .value(Column::SentAt, now)
            .and_where(Expr::col(Column::Id).is_in(piece.iter().copied()))
            .returning(Query::returning().columns([
                Column::Id,
                Column::Sender,
                Column::Msgid,
                Column::Priority,
                Column::Attempts,
                Column::Object,
            ]));
        for row in transaction.query_all(&update).await? {
            let (id, sender): (i64, Uuid) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
            let message = TakenMessage {
                id: DeliveryId(id),
                from: sender.into(),
                msgid: row.try_get_by_index(2)?,
                priority: Priority::of_rank(row.try_get_by_index(3)?),
                object: row.try_get_by_index(5)?,
                earlier_attempts: count(row.try_get_by_index::<i64>(4)? - 1),
            };
            taken.insert(id, message);
        }
    }
    // the rows come back in any order
    let messages = ids.iter().filter_map(|id| taken.remove(id)).collect();
    Ok(MessageDecided::Taken { messages, is_all })
}

/// The stamp of a device's newest socket at any node.
async fn newest_socket(transaction: &impl ConnectionTrait, client: ClientId) -> Result<i64, StoreError> {
    let newest = devices::Entity::find_by_id(client.uuid()).select_only().column(devices::Column::NewestSocket);
    Ok(newest.into_tuple().one(transaction).await?.unwrap_or_default())
}

/// Notes which senders have been told how their messages ended.
pub(super) async fn note_told(
    transaction: &impl ConnectionTrait,
    changes: &[MessageChange],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let told = changes.iter().filter_map(|change| match change {
        MessageChange::Told(id) => Some(id.0),
        _ => None,
    });
    let mut ids: Vec<_> = told.collect();
    if ids.is_empty() {
        return Ok(());
    }
    ids.sort_unstable();
    row_locks::ended_messages(transaction, &ids).await?;
    let mut rest = &*ids;
    for size in pieces(ids.len()) {
        let (piece, later) = rest.split_at(size);
        rest = later;
        Entity::update_many()
            .filter(Column::Id.is_in(piece.iter().copied()))
            .col_expr(Column::ToldAt, Expr::value(now))
            .exec(transaction)
            .await?;
    }
    Ok(())
}
