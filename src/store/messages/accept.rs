//! New acknowledged messages.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap, HashSet},
};

use chrono::{DateTime, Utc};
use entity::{
    acknowledged_messages::{ActiveModel, Column, Entity},
    devices,
};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, QueryFilter, QuerySelect, Set,
    sea_query::{Expr, OnConflict},
};
use uuid::Uuid;

use super::state_of;
use crate::{
    domain::{
        ids::{ClientId, DeliveryId},
        messages::{
            Depth, MessageState, Party,
            change::{
                Accepted, MessageChange, MessageDecided, MessageRefusal, NO_SOCKET, NewMessage, RecipientPresence,
            },
        },
    },
    protocol::json,
    store::{
        ChangeLimits, StoreError,
        counters::{self, Counter},
        pieces,
    },
};

/// A message to be inserted.
struct Row<'a> {
    /// of its change
    index: usize,
    message: &'a NewMessage,
    to: Party,
    model: ActiveModel,
    /// what is told if it is new
    accepted: Accepted,
}

/// New messages of a batch.
struct Batch<'a, C> {
    transaction: &'a C,
    limits: ChangeLimits,
    nearly_full: bool,
    /// how much waits for each recipient, with what is to be inserted
    depths: HashMap<ClientId, Depth>,
    /// recipients for which messages wait that have not gone yet
    waiting: HashSet<ClientId>,
    /// the bytes of all messages and histories, with what is to be inserted
    total: u64,
    rows: Vec<Row<'a>>,
    /// bytes that have been inserted
    stored: i64,
}

/// Decides about new messages, and inserts them. Returns their bytes.
pub(super) async fn apply(
    transaction: &impl ConnectionTrait,
    changes: &[MessageChange],
    decided: &mut [MessageDecided],
    limits: ChangeLimits,
    nearly_full: bool,
    now: DateTime<Utc>,
) -> Result<i64, StoreError> {
    let new = changes.iter().enumerate().filter_map(|(index, change)| match change {
        MessageChange::Accept(message) => Some((index, message)),
        _ => None,
    });
    let new: Vec<_> = new.collect();
    if new.is_empty() {
        return Ok(0);
    }
    let recipients: BTreeSet<_> = new.iter().map(|(_, message)| message.to.uuid()).collect();
    let recipients: Vec<_> = recipients.into_iter().collect();
    let incarnations = incarnations(transaction, &recipients).await?;
    let newest_sockets = newest_sockets(transaction, &new).await?;
    let newest_of = |client: ClientId| newest_sockets.get(&client.uuid()).copied().unwrap_or_default();
    let total = counters::last(transaction, Counter::StoredBytes).await?;
    let (depths, waiting) = depths(transaction, &recipients).await?;
    let last = counters::add(transaction, Counter::AcknowledgedMessageId, new.len() as i64).await?;
    let mut batch = Batch {
        transaction,
        limits,
        nearly_full,
        depths,
        waiting,
        total: u64::try_from(total).unwrap_or(0),
        rows: Vec::with_capacity(new.len()),
        stored: 0,
    };
    for (id, (index, message)) in (last - new.len() as i64 + 1..).zip(new) {
        let Some(incarnation) = incarnations.get(&message.to) else {
            decided[index] = MessageDecided::Accepted(Err(MessageRefusal::RecipientUnknown));
            continue;
        };
        if let Some(socket) = message.socket.filter(|socket| *socket != NO_SOCKET) {
            let refusal = match newest_of(message.from.client).cmp(&(socket as i64)) {
                Ordering::Greater => Some(MessageRefusal::SocketReplaced),
                Ordering::Less => Some(MessageRefusal::SocketNotStored),
                Ordering::Equal => None,
            };
            if let Some(refusal) = refusal {
                decided[index] = MessageDecided::Accepted(Err(refusal));
                continue;
            }
        }
        let to = Party { client: message.to, incarnation: *incarnation };
        let mut refusal = batch.refusal(message);
        if refusal.is_some() {
            // some of those to be inserted may have been stored before, and count for nothing
            batch.insert(decided).await?;
            refusal = batch.refusal(message);
        }
        match refusal {
            None => {
                // else a later message, which is stored at the node with the newest socket, would come before it
                let is_newest = message.recipient_socket.is_none_or(|socket| socket as i64 == newest_of(message.to));
                let others_wait = message.socket.is_some() && batch.waiting.contains(&message.to);
                batch.push(row(index, DeliveryId(id), message, to, others_wait || !is_newest, now));
            }
            Some(refusal) => {
                // one that is stored already needs no room
                let known = known(transaction, message, to).await?;
                decided[index] = MessageDecided::Accepted(known.unwrap_or(Err(refusal)));
            }
        }
    }
    batch.insert(decided).await?;
    Ok(batch.stored)
}

impl<'a, C: ConnectionTrait> Batch<'a, C> {
    /// Why a message cannot be stored, unless it has been stored before.
    fn refusal(&self, message: &NewMessage) -> Option<MessageRefusal> {
        let bytes = message.object.len();
        let depth = self.depths.get(&message.to).copied().unwrap_or_default();
        let most = self.limits.total_bytes;
        if self.nearly_full {
            Some(MessageRefusal::StorageFull)
        } else if let Some(key) = self.limits.queue.exceeded(depth.with(bytes)) {
            Some(MessageRefusal::QueueFull(key))
        } else if most > 0 && self.total + bytes as u64 > most {
            Some(MessageRefusal::TotalReached)
        } else {
            None
        }
    }

    fn push(&mut self, row: Row<'a>) {
        let bytes = row.message.object.len();
        let depth = self.depths.entry(row.message.to).or_default();
        *depth = depth.with(bytes);
        self.total += bytes as u64;
        if row.model.attempts == Set(0) {
            self.waiting.insert(row.message.to);
        }
        self.rows.push(row);
    }

    /// Inserts the messages, and decides about them.
    async fn insert(&mut self, decided: &mut [MessageDecided]) -> Result<(), StoreError> {
        let key =
            [Column::Recipient, Column::Msgid, Column::Sender, Column::RecipientIncarnation, Column::SenderIncarnation];
        let rows = std::mem::take(&mut self.rows);
        let sizes = pieces(rows.len());
        let mut rows = rows.into_iter();
        for size in sizes {
            let (piece, models): (Vec<_>, Vec<_>) = rows
                .by_ref()
                .take(size)
                .map(|Row { index, message, to, model, accepted }| ((index, message, to, accepted), model))
                .unzip();
            let inserted = Entity::insert_many(models)
                .on_conflict(OnConflict::columns(key).do_nothing().to_owned())
                .exec_without_returning(self.transaction)
                .await?;
            let there = if inserted < piece.len() as u64 {
                Some(there(self.transaction, piece.iter().map(|(.., accepted)| accepted.id)).await?)
            } else {
                None
            };
            for (index, message, to, accepted) in piece {
                let bytes = message.object.len();
                let is_new = there.as_ref().is_none_or(|there| there.contains(&accepted.id.0));
                decided[index] = MessageDecided::Accepted(if is_new {
                    self.stored += bytes as i64;
                    Ok(accepted)
                } else {
                    self.total -= bytes as u64;
                    let depth = self.depths.entry(message.to).or_default();
                    *depth = Depth { messages: depth.messages - 1, bytes: depth.bytes - bytes };
                    // it is there, since it was in the way
                    known(self.transaction, message, to).await?.unwrap_or(Err(MessageRefusal::MsgidReused))
                });
            }
        }
        Ok(())
    }
}

fn row(
    index: usize,
    id: DeliveryId,
    message: &NewMessage,
    to: Party,
    others_wait: bool,
    now: DateTime<Utc>,
) -> Row<'_> {
    let is_ready = message.recipient == RecipientPresence::Ready;
    let (goes, waits) = (is_ready && !others_wait, is_ready && others_wait);
    let state = match message.recipient {
        RecipientPresence::Absent => MessageState::QueuedOffline,
        RecipientPresence::Connected | RecipientPresence::Ready => MessageState::PendingAck,
    };
    let expires_at = now + message.ttl;
    let model = ActiveModel {
        id: Set(id.0),
        sender: Set(message.from.client.into()),
        sender_incarnation: Set(message.from.incarnation),
        recipient: Set(to.client.into()),
        recipient_incarnation: Set(to.incarnation),
        msgid: Set(message.msgid.clone()),
        bytes: Set(message.object.len() as i64),
        priority: Set(message.priority.rank()),
        state: Set(state.as_str().to_owned()),
        refusals: Set(0),
        attempts: Set(goes.into()),
        created_at: Set(now.into()),
        sent_at: Set(goes.then_some(now.into())),
        ended_at: Set(None),
        expires_at: Set(expires_at.into()),
        told_at: Set(None),
        // it was made from a text
        object: Set(String::from_utf8_lossy(&message.object).into_owned()),
    };
    Row { index, message, to, model, accepted: Accepted { id, state, expires_at, is_known: false, waits } }
}

/// The incarnations of those of these devices that are registered.
async fn incarnations(
    transaction: &impl ConnectionTrait,
    mut uuids: &[Uuid],
) -> Result<HashMap<ClientId, i64>, StoreError> {
    use devices::{Column, Entity};
    let mut incarnations = HashMap::with_capacity(uuids.len());
    for size in pieces(uuids.len()) {
        let (piece, later) = uuids.split_at(size);
        uuids = later;
        let rows = Entity::find().select_only().columns([Column::Uuid, Column::Incarnation]);
        let rows = rows.filter(Column::Uuid.is_in(piece.iter().copied())).filter(Column::DeletedAt.is_null());
        let rows: Vec<(Uuid, i64)> = rows.into_tuple().all(transaction).await?;
        incarnations.extend(rows.into_iter().map(|(uuid, incarnation)| (ClientId::from(uuid), incarnation)));
    }
    Ok(incarnations)
}

/// The stamps of the newest sockets of those devices that send these messages through sockets, or get them, if there are other
/// nodes.
async fn newest_sockets(
    transaction: &impl ConnectionTrait,
    new: &[(usize, &NewMessage)],
) -> Result<HashMap<Uuid, i64>, StoreError> {
    use devices::{Column, Entity};
    let shared = new.iter().filter(|(_, message)| message.socket.is_some());
    let devices: BTreeSet<_> =
        shared.flat_map(|(_, message)| [message.from.client.uuid(), message.to.uuid()]).collect();
    let devices: Vec<_> = devices.into_iter().collect();
    let (mut newest, mut later) = (HashMap::new(), devices.as_slice());
    for size in pieces(devices.len()) {
        let (piece, rest) = later.split_at(size);
        later = rest;
        let rows = Entity::find().select_only().columns([Column::Uuid, Column::NewestSocket]);
        let rows: Vec<(Uuid, i64)> =
            rows.filter(Column::Uuid.is_in(piece.iter().copied())).into_tuple().all(transaction).await?;
        newest.extend(rows);
    }
    Ok(newest)
}

/// How much waits for these devices, and those for which something waits that has not gone yet.
async fn depths(
    transaction: &impl ConnectionTrait,
    mut uuids: &[Uuid],
) -> Result<(HashMap<ClientId, Depth>, HashSet<ClientId>), StoreError> {
    let (mut depths, mut waiting) = (HashMap::with_capacity(uuids.len()), HashSet::new());
    for size in pieces(uuids.len()) {
        let (piece, later) = uuids.split_at(size);
        uuids = later;
        let rows = Entity::find()
            .select_only()
            .column(Column::Recipient)
            .column_as(Column::Id.count(), "messages")
            // PostgreSQL sums to a type without limits
            .column_as(Expr::col(Column::Bytes).sum().cast_as("bigint"), "bytes")
            .column_as(Column::Attempts.min(), "attempts")
            .filter(Column::Recipient.is_in(piece.iter().copied()))
            .filter(Column::EndedAt.is_null())
            .group_by(Column::Recipient);
        let rows: Vec<(Uuid, i64, i64, i64)> = rows.into_tuple().all(transaction).await?;
        let not_gone = rows.iter().filter(|(.., attempts)| *attempts == 0);
        waiting.extend(not_gone.map(|(uuid, ..)| ClientId::from(*uuid)));
        depths.extend(rows.into_iter().map(|(uuid, messages, bytes, _)| {
            // they are sums of positive numbers
            let depth = Depth { messages: messages as usize, bytes: bytes as usize };
            (ClientId::from(uuid), depth)
        }));
    }
    Ok((depths, waiting))
}

/// Those of these messages that are in the table.
async fn there(
    transaction: &impl ConnectionTrait,
    ids: impl Iterator<Item = DeliveryId>,
) -> Result<BTreeSet<i64>, StoreError> {
    let rows = Entity::find().select_only().column(Column::Id).filter(Column::Id.is_in(ids.map(|id| id.0)));
    Ok(rows.into_tuple().all(transaction).await?.into_iter().collect())
}

/// What is told of a message that has been stored before: `None` if it has not.
async fn known(
    transaction: &impl ConnectionTrait,
    message: &NewMessage,
    to: Party,
) -> Result<Option<Result<Accepted, MessageRefusal>>, StoreError> {
    let row = Entity::find()
        .filter(Column::Recipient.eq(to.client.uuid()))
        .filter(Column::Msgid.eq(message.msgid.as_str()))
        .filter(Column::Sender.eq(message.from.client.uuid()))
        .filter(Column::RecipientIncarnation.eq(to.incarnation))
        .filter(Column::SenderIncarnation.eq(message.from.incarnation));
    let Some(row) = row.one(transaction).await? else { return Ok(None) };
    let is_same = json::is_same_object(row.object.as_bytes(), &message.object);
    let (id, state, expires_at) = (DeliveryId(row.id), state_of(&row.state), row.expires_at.to_utc());
    let known = Accepted { id, state, expires_at, is_known: true, waits: false };
    Ok(Some(if is_same { Ok(known) } else { Err(MessageRefusal::MsgidReused) }))
}
