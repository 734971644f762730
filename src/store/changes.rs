//! Changes that are decided by rules and written in the Journal's transaction, by kind.

use super::{
    Decided, Store, StoreError,
    connection::Transaction,
    counters::{self, Counter},
    messages, rooms, topics,
};
use crate::domain::{
    messages::{
        QueueLimits,
        change::{MessageChange, MessageDecided},
    },
    rooms::RoomChange,
    topics::history::{Append, Appended},
};
use crate::settings::Settings;

/// Changes to be decided and written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Changes<'a> {
    /// Publications to topics with a history.
    pub appends: &'a [Append],
    /// Of acknowledged messages.
    pub messages: &'a [MessageChange],
    /// Of rooms.
    pub rooms: &'a [RoomChange],
}

/// The limits that changes must keep. 0 switches one off.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChangeLimits {
    /// `limits.rooms_per_user`
    pub rooms_per_user: usize,
    /// What may wait for one device.
    pub queue: QueueLimits,
    /// `limits.topic_history_bytes`
    pub topic_history_bytes: u64,
    /// `messages.total_bytes`
    pub total_bytes: u64,
}

impl ChangeLimits {
    /// Those of the settings.
    pub fn of(settings: &Settings) -> Self {
        let limits = &settings.limits;
        Self {
            rooms_per_user: limits.rooms_per_user,
            queue: limits.queue(),
            topic_history_bytes: limits.topic_history_bytes as u64,
            total_bytes: settings.messages.total_bytes,
        }
    }
}

/// What is decided of each change, by kind; or why a kind is not written.
#[derive(Debug)]
pub struct Decisions {
    /// Publications to topics with a history.
    pub appends: Result<Vec<Appended>, StoreError>,
    /// Of acknowledged messages.
    pub messages: Result<Vec<MessageDecided>, StoreError>,
    /// Of rooms.
    pub rooms: Result<Vec<Decided>, StoreError>,
}

impl Changes<'_> {
    /// How many there are to be written.
    pub fn len(&self) -> usize {
        let appends = self.appends.iter().filter(|append| append.message.is_some()).count();
        let messages = self.messages.iter().filter(|change| change.is_something()).count();
        appends + messages + self.rooms.len()
    }

    /// Whether there are changes of several kinds.
    pub fn is_mixed(&self) -> bool {
        let is_there = [!self.appends.is_empty(), !self.messages.is_empty(), !self.rooms.is_empty()];
        is_there.into_iter().filter(|is_there| *is_there).count() > 1
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Decisions {
    /// There was nothing to write.
    pub fn none(changes: Changes<'_>) -> Self {
        Self {
            appends: Ok(vec![Ok(None); changes.appends.len()]),
            messages: Ok(vec![MessageDecided::Done; changes.messages.len()]),
            rooms: Ok(Vec::new()),
        }
    }

    /// Nothing is written.
    pub fn failed(error: &StoreError) -> Self {
        Self { appends: Err(error.clone()), messages: Err(error.clone()), rooms: Err(error.clone()) }
    }
}

impl Store {
    /// Decides and writes changes of all kinds.
    pub(super) async fn apply(
        &self,
        transaction: &Transaction,
        changes: Changes<'_>,
        limits: ChangeLimits,
        nearly_full: bool,
    ) -> Result<Decisions, StoreError> {
        let (appends, bytes) =
            topics::append::apply(transaction, changes.appends, limits, nearly_full, &self.clock).await?;
        let rooms_per_user = limits.rooms_per_user;
        let rooms = rooms::changes::apply(
            transaction,
            changes.rooms,
            rooms_per_user,
            nearly_full,
            self.recording_broker(),
            &self.clock,
        )
        .await?;
        let now = self.clock.now();
        let (messages, more) = messages::apply(transaction, changes.messages, limits, nearly_full, now).await?;
        // last, as the order of locks has it: whoever deletes rows takes the counter after them
        if bytes + more != 0 {
            counters::add(transaction, Counter::StoredBytes, bytes + more).await?;
        }
        Ok(Decisions { appends: Ok(appends), messages: Ok(messages), rooms: Ok(rooms) })
    }
}
