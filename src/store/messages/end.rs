//! How acknowledged messages end: by the answers of their recipients, or before.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use entity::acknowledged_messages::{Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, ExprTrait, Order, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, Query},
};
use uuid::Uuid;

use super::{count, state_of};
use crate::{
    domain::{
        ids::{ClientId, DeliveryId},
        messages::{
            AfterAnswer, Answer, MessageState, Party,
            change::{AnswerOf, Answered, Ending, MessageChange, MessageDecided, MessageUpdate},
        },
    },
    store::{StoreError, pieces},
};

/// What is read of a row to decide about it.
#[derive(Debug)]
struct Head {
    id: i64,
    state: MessageState,
    refusals: u32,
    attempts: u32,
    has_ended: bool,
}

/// The columns of [`Head`].
type Columns = (i64, String, i64, i64, Option<DateTime<Utc>>);

pub(super) async fn apply(
    transaction: &impl ConnectionTrait,
    changes: &[MessageChange],
    decided: &mut [MessageDecided],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    // nearly all answers are acknowledgements of messages on their way
    let (mut acknowledged, mut cancelled, mut expired) = (Vec::new(), Vec::new(), Vec::new());
    for change in changes {
        match change {
            MessageChange::Answer(AnswerOf { id: Some(id), answer: Answer::Acknowledged, .. }) => {
                acknowledged.push(id.0);
            }
            MessageChange::End { id, why: Ending::Cancelled, .. } => cancelled.push(id.0),
            MessageChange::End { id, why: Ending::Expired, .. } => expired.push(id.0),
            _ => {}
        }
    }
    let open = Condition::all();
    let mut acknowledged = end(transaction, acknowledged, MessageState::Delivered, open.clone(), now).await?;
    let mut cancelled = end(transaction, cancelled, MessageState::Cancelled, open, now).await?;
    let is_over = Condition::all().add(Column::ExpiresAt.lte(now));
    let mut expired = end(transaction, expired, MessageState::Expired, is_over, now).await?;
    for (change, decided) in changes.iter().zip(decided) {
        match change {
            MessageChange::Answer(answer) => {
                let update = answer.id.and_then(|id| acknowledged.remove(&id));
                *decided = MessageDecided::Answered(match update {
                    Some(update) => {
                        let (id, state) = (update.id, update.state);
                        Some(Answered { id, state, update: Some(update), again: None })
                    }
                    None => decide(transaction, answer, now).await?,
                });
            }
            MessageChange::End { id, why, .. } => {
                let ended = match why {
                    Ending::Cancelled => &mut cancelled,
                    Ending::Expired => &mut expired,
                };
                *decided = MessageDecided::Ended(ended.remove(id));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Decides an answer that is not the acknowledgement of a message that is on its way.
async fn decide(
    transaction: &impl ConnectionTrait,
    answer: &AnswerOf,
    now: DateTime<Utc>,
) -> Result<Option<Answered>, StoreError> {
    let Some(head) = find(transaction, answer).await? else { return Ok(None) };
    let id = DeliveryId(head.id);
    if head.has_ended {
        return Ok(Some(Answered { id, state: head.state, update: None, again: None }));
    }
    match answer.answer.decide(head.refusals, head.attempts) {
        AfterAnswer::Ended(state) => {
            let update = end(transaction, vec![head.id], state, Condition::all(), now).await?.remove(&id);
            Ok(Some(Answered { id, state, update, again: None }))
        }
        AfterAnswer::Nothing => Ok(Some(Answered { id, state: head.state, update: None, again: None })),
        AfterAnswer::Again(after) => {
            Entity::update_many()
                .filter(Column::Id.eq(head.id))
                .col_expr(Column::Refusals, Expr::value(i64::from(head.refusals) + 1))
                .exec(transaction)
                .await?;
            Ok(Some(Answered { id, state: head.state, update: None, again: Some(after) }))
        }
    }
}

/// The message that an answer means: the oldest open one, else the newest.
async fn find(transaction: &impl ConnectionTrait, answer: &AnswerOf) -> Result<Option<Head>, StoreError> {
    let AnswerOf { from, id, msgid, sender, .. } = answer;
    let columns = [Column::Id, Column::State, Column::Refusals, Column::Attempts, Column::EndedAt];
    let heads = Entity::find().select_only().columns(columns);
    let head = |row: Option<Columns>| {
        row.map(|(id, state, refusals, attempts, ended_at)| Head {
            id,
            state: state_of(&state),
            refusals: count(refusals),
            attempts: count(attempts),
            has_ended: ended_at.is_some(),
        })
    };
    if let Some(DeliveryId(id)) = id {
        return Ok(head(heads.filter(Column::Id.eq(*id)).into_tuple().one(transaction).await?));
    }
    let mut of_recipient = heads
        .filter(Column::Recipient.eq(from.client.uuid()))
        .filter(Column::Msgid.eq(msgid.as_str()))
        .filter(Column::RecipientIncarnation.eq(from.incarnation));
    if let Some(sender) = sender {
        of_recipient = of_recipient.filter(Column::Sender.eq(sender.uuid()));
    }
    // by a sum, since SQLite would else walk through all messages in the order of their ids
    let id = || Expr::col(Column::Id).add(0);
    let open = of_recipient.clone().filter(Column::EndedAt.is_null()).order_by(id(), Order::Asc).limit(1);
    if let Some(open) = head(open.into_tuple().one(transaction).await?) {
        return Ok(Some(open));
    }
    Ok(head(of_recipient.order_by(id(), Order::Desc).limit(1).into_tuple().one(transaction).await?))
}

/// Ends those of these messages that are open and meet a condition. Returns them.
async fn end(
    transaction: &impl ConnectionTrait,
    mut ids: Vec<i64>,
    state: MessageState,
    condition: Condition,
    now: DateTime<Utc>,
) -> Result<HashMap<DeliveryId, MessageUpdate>, StoreError> {
    let mut ended = HashMap::with_capacity(ids.len());
    ids.sort_unstable();
    ids.dedup();
    let mut rest = &*ids;
    for size in pieces(ids.len()) {
        let (piece, later) = rest.split_at(size);
        rest = later;
        let of = condition.clone().add(Column::Id.is_in(piece.iter().copied()));
        let rows = end_where(transaction, of, state, now).await?;
        ended.extend(rows.into_iter().map(|update| (update.id, update)));
    }
    Ok(ended)
}

/// Ends open messages. Returns them.
async fn end_where(
    transaction: &impl ConnectionTrait,
    condition: Condition,
    state: MessageState,
    now: DateTime<Utc>,
) -> Result<Vec<MessageUpdate>, StoreError> {
    let mut update = Query::update();
    update
        .table(Entity)
        .value(Column::State, state.as_str())
        .value(Column::EndedAt, now)
        .cond_where(condition.add(Expr::col(Column::EndedAt).is_null()))
        .returning(Query::returning().columns([
            Column::Id,
            Column::Sender,
            Column::SenderIncarnation,
            Column::Recipient,
            Column::Msgid,
        ]));
    let rows = transaction.query_all(&update).await?;
    let mut updates = Vec::with_capacity(rows.len());
    for row in rows {
        let (id, sender, incarnation, recipient): (i64, Uuid, i64, Uuid) =
            (row.try_get_by_index(0)?, row.try_get_by_index(1)?, row.try_get_by_index(2)?, row.try_get_by_index(3)?);
        updates.push(MessageUpdate {
            id: DeliveryId(id),
            from: Party { client: sender.into(), incarnation },
            to: recipient.into(),
            msgid: row.try_get_by_index(4)?,
            state,
        });
    }
    Ok(updates)
}

/// What waits for a recipient that is deleted, whose row is locked, has failed.
///
/// # Errors
/// When the database fails.
pub(in crate::store) async fn fail_all(
    transaction: &impl ConnectionTrait,
    recipient: ClientId,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    Entity::update_many()
        .filter(Column::Recipient.eq(recipient.uuid()))
        .filter(Column::EndedAt.is_null())
        .col_expr(Column::State, Expr::value(MessageState::Failed.as_str()))
        .col_expr(Column::EndedAt, Expr::value(now))
        .exec(transaction)
        .await?;
    Ok(())
}
