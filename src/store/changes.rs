//! Changes that are decided by rules and written in the Journal's transaction, by kind.

use super::{Decided, Store, StoreError, connection::Transaction, rooms, topics};
use crate::domain::{
    rooms::RoomChange,
    topics::history::{Append, Appended},
};

/// Changes to be decided and written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Changes<'a> {
    /// Publications to topics with a history.
    pub appends: &'a [Append],
    /// Of rooms.
    pub rooms: &'a [RoomChange],
}

/// What is decided of each change, by kind; or why a kind is not written.
#[derive(Debug)]
pub struct Decisions {
    /// Publications to topics with a history.
    pub appends: Result<Vec<Appended>, StoreError>,
    /// Of rooms.
    pub rooms: Result<Vec<Decided>, StoreError>,
}

impl Changes<'_> {
    /// How many there are to be written.
    pub fn len(&self) -> usize {
        self.appends.iter().filter(|append| append.message.is_some()).count() + self.rooms.len()
    }

    /// Whether there are changes of several kinds.
    pub fn is_mixed(&self) -> bool {
        !self.appends.is_empty() && !self.rooms.is_empty()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Decisions {
    /// There was nothing to write.
    pub fn none(changes: Changes<'_>) -> Self {
        Self { appends: Ok(vec![Ok(None); changes.appends.len()]), rooms: Ok(Vec::new()) }
    }

    /// Nothing is written.
    pub fn failed(error: &StoreError) -> Self {
        Self { appends: Err(error.clone()), rooms: Err(error.clone()) }
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
        let appends = topics::history::append(transaction, changes.appends, nearly_full, || self.clock.now()).await?;
        let rooms = rooms::changes::apply(transaction, changes.rooms, rooms_per_user, nearly_full, &self.clock).await?;
        Ok(Decisions { appends: Ok(appends), rooms: Ok(rooms) })
    }
}
