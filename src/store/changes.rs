//! Changes that are decided by rules and written in the Journal's transaction, by kind.

use super::{Decided, Store, StoreError, connection::Transaction, rooms};
use crate::domain::rooms::RoomChange;

/// Changes to be decided and written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Changes<'a> {
    /// Of rooms.
    pub rooms: &'a [RoomChange],
}

/// What is decided of each change, by kind; or why a kind is not written.
#[derive(Debug)]
pub struct Decisions {
    /// Of rooms.
    pub rooms: Result<Vec<Decided>, StoreError>,
}

impl Changes<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Decisions {
    /// There was nothing to write.
    pub fn none() -> Self {
        Self { rooms: Ok(Vec::new()) }
    }

    /// Nothing is written.
    pub fn failed(error: &StoreError) -> Self {
        Self { rooms: Err(error.clone()) }
    }
}

impl Store {
    /// Decides and writes changes of all kinds.
    pub(super) async fn apply(
        &self,
        transaction: &Transaction,
        changes: Changes<'_>,
        rooms_per_user: usize,
        nearly_full: bool,
    ) -> Result<Decisions, StoreError> {
        let rooms = rooms::changes::apply(transaction, changes.rooms, rooms_per_user, nearly_full, &self.clock).await?;
        Ok(Decisions { rooms: Ok(rooms) })
    }
}
