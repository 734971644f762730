//! Acknowledged messages (contract section 11): changed in the Journal's transaction, by the rules of `domain::messages`.
//!
//! The changes of a batch are decided by kind, since one statement for many rows costs a fraction of many statements: first what
//! senders have been told, then answers and ends, then new messages, then those that go to recipients. `domain::messages::table`
//! does the same in memory, for tests.

mod accept;
mod clean;
mod end;
mod read;
mod take;

use chrono::{DateTime, Utc};
use sea_orm::ConnectionTrait;

pub(super) use self::end::fail_all;
pub use self::read::{MessageFilter, QueueSummary};
use super::{ChangeLimits, StoreError};
use crate::domain::messages::{
    MessageState,
    change::{MessageChange, MessageDecided},
};

/// The state of a row; the column has no other words.
fn state_of(word: &str) -> MessageState {
    MessageState::parse(word).unwrap_or(MessageState::Failed)
}

/// A number of times, which the table has as a wider type.
fn count(times: i64) -> u32 {
    u32::try_from(times).unwrap_or(u32::MAX)
}

/// Decides and writes changes, under the locks of their recipients' rows. Returns what is decided of each, and the bytes of
/// new messages.
///
/// # Errors
/// When the database fails; then the transaction must not be committed.
pub(super) async fn apply(
    transaction: &impl ConnectionTrait,
    changes: &[MessageChange],
    limits: ChangeLimits,
    nearly_full: bool,
    now: DateTime<Utc>,
) -> Result<(Vec<MessageDecided>, i64), StoreError> {
    let mut decided = vec![MessageDecided::Done; changes.len()];
    take::note_told(transaction, changes, now).await?;
    end::apply(transaction, changes, &mut decided, now).await?;
    let bytes = accept::apply(transaction, changes, &mut decided, limits, nearly_full, now).await?;
    take::apply(transaction, changes, &mut decided, now).await?;
    Ok((decided, bytes))
}
