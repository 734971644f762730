//! Reading acknowledged messages.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use entity::acknowledged_messages::{Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, Select,
    sea_query::{Expr, ExprTrait},
};
use uuid::Uuid;

use super::{count, state_of};
use crate::{
    domain::{
        ids::{ClientId, DeliveryId},
        messages::{Depth, MessageRecord, MessageState, Party, Priority, change::MessageUpdate},
    },
    store::{Store, StoreError, pieces},
};

/// Messages per query of a list.
const CHUNK: u64 = 500;

/// Messages that are looked at for one page of a list.
const EXAMINED: usize = 20_000;

/// A row without its object.
#[derive(Debug, FromQueryResult)]
struct Head {
    id: i64,
    sender: Uuid,
    sender_incarnation: i64,
    recipient: Uuid,
    recipient_incarnation: i64,
    msgid: String,
    bytes: i64,
    priority: i64,
    state: String,
    refusals: i64,
    attempts: i64,
    created_at: DateTime<Utc>,
    sent_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    expires_at: DateTime<Utc>,
}

impl From<Head> for MessageRecord {
    fn from(row: Head) -> Self {
        Self {
            id: DeliveryId(row.id),
            from: Party { client: row.sender.into(), incarnation: row.sender_incarnation },
            to: Party { client: row.recipient.into(), incarnation: row.recipient_incarnation },
            msgid: row.msgid,
            bytes: usize::try_from(row.bytes).unwrap_or(0),
            priority: Priority::of_rank(row.priority),
            state: state_of(&row.state),
            refusals: count(row.refusals),
            attempts: count(row.attempts),
            created_at: row.created_at,
            sent_at: row.sent_at,
            ended_at: row.ended_at,
            expires_at: row.expires_at,
        }
    }
}

fn heads() -> Select<Entity> {
    Entity::find().select_only().columns([
        Column::Id,
        Column::Sender,
        Column::SenderIncarnation,
        Column::Recipient,
        Column::RecipientIncarnation,
        Column::Msgid,
        Column::Bytes,
        Column::Priority,
        Column::State,
        Column::Refusals,
        Column::Attempts,
        Column::CreatedAt,
        Column::SentAt,
        Column::EndedAt,
        Column::ExpiresAt,
    ])
}

/// Messages that have ended and of which their senders have not been told, oldest first.
fn untold() -> Select<Entity> {
    heads().filter(Column::EndedAt.is_not_null()).filter(Column::ToldAt.is_null()).order_by_asc(Column::Id)
}

fn updates(rows: Vec<Head>) -> Result<Vec<MessageUpdate>, StoreError> {
    let update = |message: MessageRecord| MessageUpdate {
        id: message.id,
        from: message.from,
        to: message.to.client,
        msgid: message.msgid,
        state: message.state,
    };
    Ok(rows.into_iter().map(MessageRecord::from).map(update).collect())
}

/// Which messages to list; newest first.
#[derive(Debug, Clone, Default)]
pub struct MessageFilter {
    /// Only those that this client sent or gets.
    pub of: Option<Party>,
    /// Only those of this sender.
    pub from: Option<ClientId>,
    /// Only those to this recipient.
    pub to: Option<ClientId>,
    /// Only those in this state.
    pub state: Option<MessageState>,
    /// Only those accepted at or after this time.
    pub since: Option<DateTime<Utc>>,
    /// Only those before this one.
    pub before: Option<DeliveryId>,
    /// At most so many.
    pub limit: u64,
}

impl MessageFilter {
    fn admits(&self, message: &MessageRecord) -> bool {
        let is_of = |client: Option<ClientId>, party: Party| client.is_none_or(|client| client == party.client);
        self.of.is_none_or(|of| of == message.from || of == message.to)
            && is_of(self.from, message.from)
            && is_of(self.to, message.to)
            && self.state.is_none_or(|state| state == message.state)
    }

    /// The indexes that lead to the messages: each is a column and its value.
    fn sides(&self) -> Vec<Option<(Column, ClientId)>> {
        let (sender, recipient) = (|client| Some((Column::Sender, client)), |client| Some((Column::Recipient, client)));
        match (self.of, self.from, self.to) {
            // never by the messages of another, which are no business of a client that is not an operator
            (Some(of), from, to) => match (from, to) {
                (Some(from), _) if from != of.client => vec![recipient(of.client)],
                (_, Some(to)) if to != of.client => vec![sender(of.client)],
                (Some(_), _) => vec![sender(of.client)],
                (None, Some(_)) => vec![recipient(of.client)],
                (None, None) => vec![sender(of.client), recipient(of.client)],
            },
            (None, Some(from), _) => vec![sender(from)],
            (None, None, Some(to)) => vec![recipient(to)],
            (None, None, None) => vec![None],
        }
    }
}

/// What waits for a device.
#[derive(Debug)]
pub struct QueueSummary {
    /// How much, as far as its limits count it.
    pub depth: Depth,
    /// Since when the oldest waits.
    pub oldest_at: Option<DateTime<Utc>>,
    /// In the order in which they go, at most so many as were asked for.
    pub messages: Vec<MessageRecord>,
}

impl Store {
    /// An acknowledged message.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn message(&self, id: DeliveryId) -> Result<Option<MessageRecord>, StoreError> {
        let head = heads().filter(Column::Id.eq(id.0)).into_model::<Head>().one(&self.read).await?;
        Ok(head.map(Into::into))
    }

    /// The newest acknowledged message with this `msgid`, of those that a client sent or gets; without a client, of all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn message_with_msgid(
        &self,
        msgid: &str,
        of: Option<Party>,
    ) -> Result<Option<MessageRecord>, StoreError> {
        let mut newest: Option<MessageRecord> = None;
        for side in (MessageFilter { of, ..MessageFilter::default() }).sides() {
            let mut query = heads().filter(Column::Msgid.eq(msgid));
            if let (Some((column, client)), Some(of)) = (side, of) {
                let incarnation = match column {
                    Column::Sender => Column::SenderIncarnation,
                    _ => Column::RecipientIncarnation,
                };
                query = query.filter(column.eq(client.uuid())).filter(incarnation.eq(of.incarnation));
            }
            let found = query.order_by_desc(Column::Id).limit(1).into_model::<Head>().one(&self.read).await?;
            newest = newest.into_iter().chain(found.map(Into::into)).max_by_key(|message| message.id);
        }
        Ok(newest)
    }

    /// How many acknowledged messages have not ended, by state, and when the oldest was accepted.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn open_messages(&self) -> Result<(HashMap<MessageState, i64>, Option<DateTime<Utc>>), StoreError> {
        let rows = Entity::find().select_only().column(Column::State).column_as(Column::Id.count(), "messages");
        let rows = rows.column_as(Column::CreatedAt.min(), "oldest").filter(Column::EndedAt.is_null());
        let rows: Vec<(String, i64, Option<DateTime<Utc>>)> =
            rows.group_by(Column::State).into_tuple().all(&self.read).await?;
        let oldest = rows.iter().filter_map(|(.., oldest)| *oldest).min();
        Ok((rows.into_iter().map(|(state, messages, _)| (state_of(&state), messages)).collect(), oldest))
    }

    /// Acknowledged messages, newest first, and whether there may be more: then those before the id that is returned.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn messages(
        &self,
        filter: &MessageFilter,
    ) -> Result<(Vec<MessageRecord>, Option<DeliveryId>), StoreError> {
        let (mut found, mut before, mut examined) = (Vec::new(), filter.before, 0);
        loop {
            let (mut rows, mut floor) = (Vec::<MessageRecord>::new(), None);
            for side in filter.sides() {
                let mut query = heads();
                if let Some((column, client)) = side {
                    query = query.filter(column.eq(client.uuid()));
                }
                if let Some(before) = before {
                    query = query.filter(Column::Id.lt(before.0));
                }
                let some = query.order_by_desc(Column::Id).limit(CHUNK).into_model::<Head>().all(&self.read).await?;
                if some.len() as u64 == CHUNK {
                    // further on the other side may have messages that this side has not read yet
                    floor = Ord::max(floor, some.last().map(|head| head.id));
                }
                rows.extend(some.into_iter().map(MessageRecord::from));
            }
            rows.retain(|row| floor.is_none_or(|floor| row.id.0 >= floor));
            rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.id));
            rows.dedup_by_key(|row| row.id);
            for row in rows {
                // ids are in the order of time
                if filter.since.is_some_and(|since| row.created_at < since) {
                    return Ok((found, None));
                }
                examined += 1;
                let id = row.id;
                if filter.admits(&row) {
                    if found.len() as u64 == filter.limit {
                        return Ok((found, before));
                    }
                    found.push(row);
                }
                before = Some(id);
            }
            if floor.is_none() {
                return Ok((found, None));
            }
            if examined >= EXAMINED {
                return Ok((found, before));
            }
        }
    }

    /// The objects of these messages, as far as they fit into `bytes`, but at least one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn message_objects(
        &self,
        messages: &[MessageRecord],
        bytes: usize,
    ) -> Result<HashMap<DeliveryId, String>, StoreError> {
        let mut size = 0;
        let fits = |message: &&MessageRecord| {
            let is_first = size == 0;
            size += message.bytes;
            is_first || size <= bytes
        };
        let ids: Vec<_> = messages.iter().take_while(fits).map(|message| message.id.0).collect();
        let (mut objects, mut rest) = (HashMap::with_capacity(ids.len()), &*ids);
        for size in pieces(ids.len()) {
            let (piece, later) = rest.split_at(size);
            rest = later;
            let rows = Entity::find().select_only().columns([Column::Id, Column::Object]);
            let rows = rows.filter(Column::Id.is_in(piece.iter().copied())).into_tuple::<(i64, String)>();
            objects.extend(rows.all(&self.read).await?.into_iter().map(|(id, object)| (DeliveryId(id), object)));
        }
        Ok(objects)
    }

    /// What waits for a device: at most `most` messages, those behind one of this priority and id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn queue_of(
        &self,
        device: ClientId,
        after: Option<(Priority, DeliveryId)>,
        most: u64,
    ) -> Result<QueueSummary, StoreError> {
        let open =
            |query: Select<Entity>| query.filter(Column::Recipient.eq(device.uuid())).filter(Column::EndedAt.is_null());
        let snapshot = self.snapshot().await?;
        let sums = Entity::find()
            .select_only()
            .column_as(Column::Id.count(), "messages")
            .column_as(Expr::col(Column::Bytes).sum().cast_as("bigint"), "bytes")
            .column_as(Column::CreatedAt.min(), "oldest_at");
        let sums: Option<(i64, Option<i64>, Option<DateTime<Utc>>)> = open(sums).into_tuple().one(&snapshot).await?;
        let (messages, bytes, oldest_at) = sums.unwrap_or_default();
        let depth = Depth { messages: messages as usize, bytes: bytes.unwrap_or(0) as usize };
        let mut rows = open(heads());
        if let Some((priority, id)) = after {
            let same = Condition::all().add(Column::Priority.eq(priority.rank())).add(Column::Id.gt(id.0));
            rows = rows.filter(Condition::any().add(Column::Priority.gt(priority.rank())).add(same));
        }
        let rows = rows.order_by_asc(Column::Priority).order_by_asc(Column::Id).limit(most);
        let messages = rows.into_model::<Head>().all(&snapshot).await?.into_iter().map(Into::into).collect();
        snapshot.end().await?;
        Ok(QueueSummary { depth, oldest_at, messages })
    }

    /// Those of these clients for which messages wait.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn with_messages_waiting(&self, clients: &[ClientId]) -> Result<HashSet<ClientId>, StoreError> {
        let open = Entity::find().filter(Column::EndedAt.is_null());
        self.distinct(open, Column::Recipient, clients).await
    }

    /// Those of these clients that are to be told how messages of theirs have ended.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn with_updates_due(&self, clients: &[ClientId]) -> Result<HashSet<ClientId>, StoreError> {
        let untold = Entity::find().filter(Column::EndedAt.is_not_null()).filter(Column::ToldAt.is_null());
        self.distinct(untold, Column::Sender, clients).await
    }

    async fn distinct(
        &self,
        rows: Select<Entity>,
        column: Column,
        mut clients: &[ClientId],
    ) -> Result<HashSet<ClientId>, StoreError> {
        let rows = rows.select_only().column(column).distinct();
        let mut found = HashSet::new();
        for size in pieces(clients.len()) {
            let (piece, later) = clients.split_at(size);
            clients = later;
            let of = rows.clone().filter(column.is_in(piece.iter().map(|client| client.uuid())));
            found.extend(of.into_tuple::<Uuid>().all(&self.read).await?.into_iter().map(ClientId::from));
        }
        Ok(found)
    }

    /// How messages of a sender have ended, of which it has not been told: at most `most`, oldest first, those after an id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn updates_due(
        &self,
        sender: Party,
        after: Option<DeliveryId>,
        most: u64,
    ) -> Result<Vec<MessageUpdate>, StoreError> {
        let mut untold = untold()
            .filter(Column::Sender.eq(sender.client.uuid()))
            .filter(Column::SenderIncarnation.eq(sender.incarnation));
        if let Some(DeliveryId(after)) = after {
            untold = untold.filter(Column::Id.gt(after));
        }
        updates(untold.limit(most).into_model().all(&self.read).await?)
    }

    /// How messages to a device that was deleted have ended, of which their senders have not been told.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn failed_of_recipient(&self, recipient: ClientId) -> Result<Vec<MessageUpdate>, StoreError> {
        let failed = untold()
            .filter(Column::Recipient.eq(recipient.uuid()))
            .filter(Column::State.eq(MessageState::Failed.as_str()));
        updates(failed.into_model().all(&self.read).await?)
    }

    /// Some messages whose time is over, with their recipients, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn expired_messages(
        &self,
        now: DateTime<Utc>,
        most: u64,
    ) -> Result<Vec<(DeliveryId, ClientId)>, StoreError> {
        let over = Entity::find().select_only().columns([Column::Id, Column::Recipient]);
        let over = over.filter(Column::EndedAt.is_null()).filter(Column::ExpiresAt.lte(now));
        let over: Vec<(i64, Uuid)> =
            over.order_by_asc(Column::ExpiresAt).limit(most).into_tuple().all(&self.read).await?;
        Ok(over.into_iter().map(|(id, recipient)| (DeliveryId(id), recipient.into())).collect())
    }

    /// When the next message expires.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next_expiry(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        let next = Entity::find().select_only().column(Column::ExpiresAt).filter(Column::EndedAt.is_null());
        Ok(next.order_by_asc(Column::ExpiresAt).limit(1).into_tuple().one(&self.read).await?)
    }
}
