//! The locks of clients' rows that transactions begin with; see the order of locks in `store`. SQLite has one writer at a
//! time and needs none.

use entity::{acknowledged_messages, devices, users};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::LockType,
};
use uuid::Uuid;

use super::{StoreError, pieces};
use crate::domain::ids::ClientId;

/// Locks the row of a client, as everything does first that changes its tokens or counts its topics: what follows sees its
/// earlier logins, rotations and topics. Rows of deleted clients are kept, so every client has one.
pub(super) async fn client(transaction: &impl ConnectionTrait, client: ClientId) -> Result<(), StoreError> {
    if transaction.get_database_backend() == DbBackend::Postgres && devices(transaction, [client]).await? == 0 {
        let user = users::Entity::find().select_only().column(users::Column::Uuid);
        let user = user.filter(users::Column::Uuid.eq(client.uuid())).lock(LockType::NoKeyUpdate);
        user.into_tuple::<Uuid>().one(transaction).await?;
    }
    Ok(())
}

/// Locks the rows of devices in the order of their UUIDs. Returns how many there are.
pub(super) async fn devices(
    transaction: &impl ConnectionTrait,
    uuids: impl IntoIterator<Item = ClientId>,
) -> Result<usize, StoreError> {
    if transaction.get_database_backend() != DbBackend::Postgres {
        return Ok(0);
    }
    let mut uuids: Vec<_> = uuids.into_iter().map(ClientId::uuid).collect();
    uuids.sort_unstable();
    uuids.dedup();
    let (mut found, mut rest) = (0, &*uuids);
    for size in pieces(uuids.len()) {
        let (piece, later) = rest.split_at(size);
        rest = later;
        let rows = devices::Entity::find().select_only().column(devices::Column::Uuid);
        let rows = rows.filter(devices::Column::Uuid.is_in(piece.iter().copied())).order_by_asc(devices::Column::Uuid);
        found += rows.lock(LockType::NoKeyUpdate).into_tuple::<Uuid>().all(transaction).await?.len();
    }
    Ok(found)
}

/// Locks the rows of acknowledged messages that have ended, in the order of their ids.
pub(super) async fn ended_messages(transaction: &impl ConnectionTrait, ids: &[i64]) -> Result<(), StoreError> {
    use acknowledged_messages::{Column, Entity};
    if transaction.get_database_backend() == DbBackend::Postgres {
        let rows = Entity::find().select_only().column(Column::Id).filter(Column::Id.is_in(ids.iter().copied()));
        rows.order_by_asc(Column::Id).lock(LockType::Update).into_tuple::<i64>().all(transaction).await?;
    }
    Ok(())
}
