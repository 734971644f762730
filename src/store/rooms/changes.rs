//! Writes changes of rooms in the transaction of the Journal, decided by the rules of `domain::rooms`. The rows of the rooms
//! are locked first, in order, so that nodes that share a PostgreSQL take turns: message ids become visible in order, and no
//! membership ends between the check and the message. The rows of those who may join are locked before ([`Store::write_journal`]).
//!
//! [`Store::write_journal`]: crate::store::Store::write_journal

mod events;
mod members;
mod messages;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use entity::{room_members, rooms};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::LockType,
};
use uuid::Uuid;

use super::StoreError;
use crate::{
    clock::Clock,
    domain::{
        ids::{ClientId, RoomId},
        rooms::{Memberships, Placed, RoomChange, RoomLimit, RoomOutcome, RoomRefusal},
    },
};

/// Conditions per statement, since SQLite limits the depth of an expression to 1000.
const CHUNK: usize = 200;

/// The outcome of one change, and its position among the events of its room.
pub type Decided = Result<Placed, RoomRefusal>;

/// The outcome of one change.
type Decision = Result<RoomOutcome, RoomRefusal>;

/// Writes all changes in order. Returns the outcome of each. Their events are recorded for other nodes, if `broker` is given: the
/// one that writes them.
///
/// # Errors
/// When the database fails; then the transaction is not to be committed.
pub(in crate::store) async fn apply(
    transaction: &impl ConnectionTrait,
    changes: &[RoomChange],
    rooms_per_user: usize,
    nearly_full: bool,
    broker: Option<Uuid>,
    clock: &Clock,
) -> Result<Vec<Decided>, StoreError> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    let limit = RoomLimit(rooms_per_user);
    let mut work = Work::begin(transaction, changes, limit, nearly_full, clock).await?;
    let mut decided = Vec::with_capacity(changes.len());
    let mut rest = changes;
    while let Some(first) = rest.first() {
        // many messages, marks and typing events take few statements
        let is_refused = |change: &RoomChange| nearly_full && change.takes_space();
        let talk = rest.iter().take_while(|change| change.is_talk() && !is_refused(change)).count();
        if is_refused(first) {
            decided.push(Err(RoomRefusal::StorageFull));
            rest = &rest[1..];
        } else if talk > 0 {
            decided.extend(work.talk(&rest[..talk]).await?);
            rest = &rest[talk..];
        } else {
            decided.push(work.apply(first).await?);
            rest = &rest[1..];
        }
    }
    match broker {
        Some(broker) => events::record(&work, decided, broker).await,
        None => Ok(decided.into_iter().map(|decided| decided.map(Placed::from)).collect()),
    }
}

/// Ends all memberships of a client that is deleted; what it owns passes on as if it had left.
pub(in crate::store) async fn leave_all(
    transaction: &impl ConnectionTrait,
    who: ClientId,
    broker: Option<Uuid>,
    clock: &Clock,
) -> Result<(), StoreError> {
    let rooms: Vec<i64> = room_members::Entity::find()
        .select_only()
        .column(room_members::Column::RoomId)
        .filter(room_members::Column::ClientUuid.eq(who.uuid()))
        .into_tuple()
        .all(transaction)
        .await?;
    let changes: Vec<_> = rooms.into_iter().map(|room| RoomChange::Leave { room: RoomId(room), who }).collect();
    // leaving takes no space
    apply(transaction, &changes, 0, false, broker, clock).await?;
    Ok(())
}

/// The state of a transaction that writes changes.
struct Work<'a, C> {
    transaction: &'a C,
    /// those that the changes concern
    memberships: Memberships,
    /// the number of the last event of each room, before this transaction
    last_events: HashMap<RoomId, i64>,
    limit: RoomLimit,
    nearly_full: bool,
    now: DateTime<Utc>,
}

impl<'a, C: ConnectionTrait> Work<'a, C> {
    async fn begin(
        transaction: &'a C,
        changes: &[RoomChange],
        limit: RoomLimit,
        nearly_full: bool,
        clock: &Clock,
    ) -> Result<Self, StoreError> {
        let mut clients: BTreeMap<i64, BTreeSet<_>> = BTreeMap::new();
        for change in changes {
            let (by, other) = change.clients();
            if let Some(room) = change.room() {
                clients.entry(room.0).or_default().extend([Some(by), other].into_iter().flatten().map(ClientId::uuid));
            }
        }
        let (mut memberships, mut last_events) = (Memberships::default(), HashMap::new());
        if !clients.is_empty() {
            let found = rooms::Entity::find()
                .filter(rooms::Column::Id.is_in(clients.keys().copied()))
                .order_by_asc(rooms::Column::Id)
                .lock(LockType::NoKeyUpdate)
                .all(transaction)
                .await?;
            for row in found {
                last_events.insert(RoomId(row.id), row.last_event);
                memberships.put_room(Arc::new(row.into()));
            }
        }
        let clients: Vec<_> = clients.into_iter().collect();
        for some in clients.chunks(CHUNK) {
            let wanted = some.iter().fold(Condition::any(), |wanted, (room, clients)| {
                wanted.add(
                    Condition::all()
                        .add(room_members::Column::RoomId.eq(*room))
                        .add(room_members::Column::ClientUuid.is_in(clients.iter().copied())),
                )
            });
            for row in room_members::Entity::find().filter(wanted).all(transaction).await? {
                memberships.put(RoomId(row.room_id), row.into());
            }
        }
        // taken after the locks, so that times are in the order of ids
        Ok(Self { transaction, memberships, last_events, limit, nearly_full, now: clock.now() })
    }

    async fn apply(&mut self, change: &RoomChange) -> Result<Decision, StoreError> {
        match change {
            RoomChange::Create { creator, name, description, is_private } => {
                self.create(creator, name, description.as_ref(), *is_private).await
            }
            RoomChange::Join { room, who, wanted } => self.join(*room, who, *wanted).await,
            RoomChange::Add { room, by, who, role } => self.add(*room, *by, who, *role).await,
            RoomChange::SetRole { room, by, whose, role } => self.set_role(*room, *by, *whose, *role).await,
            RoomChange::Leave { room, who } => match self.memberships.member(*room, *who).cloned() {
                Ok(member) => self.end_membership(*room, member, false).await.map(Ok),
                Err(refusal) => Ok(Err(refusal)),
            },
            RoomChange::Remove { room, by, whose } => {
                match self.memberships.check_removal(*room, *by, *whose).cloned() {
                    Ok(member) => self.end_membership(*room, member, true).await.map(Ok),
                    Err(refusal) => Ok(Err(refusal)),
                }
            }
            RoomChange::Post { .. } | RoomChange::Read { .. } | RoomChange::Type { .. } => {
                let mut decided = self.talk(std::slice::from_ref(change)).await?;
                Ok(decided.pop().unwrap_or(Err(RoomRefusal::DatabaseUnavailable)))
            }
            RoomChange::Edit { room, message, by, content } => self.edit(*room, *message, *by, content).await,
            RoomChange::Delete { room, message, by } => self.delete(*room, *message, *by).await,
        }
    }
}
