//! One batch: records and changes that are written together, and what becomes of those that the database refuses.

use crate::store::{ChangeLimits, Changes, Decisions, Record, Store, StoreError};

/// What is to be written in one transaction, if nothing is wrong with it.
pub(super) struct Batch<'a> {
    pub(super) records: Vec<Record>,
    pub(super) changes: Changes<'a>,
    pub(super) limits: ChangeLimits,
}

/// What became of a batch.
pub(super) struct Written {
    /// of the changes
    pub(super) decided: Decisions,
    /// records that are to be tried again
    pub(super) left: Vec<Record>,
    /// why
    pub(super) failure: Option<StoreError>,
    /// why a command was dropped, whose sender waits for it to be stored
    pub(super) refusal: Option<StoreError>,
}

impl Batch<'_> {
    pub(super) async fn write(self, store: &Store) -> Written {
        let Self { records, changes, limits } = self;
        match store.write_journal(&records, changes, limits).await {
            Ok(decided) => Written { decided, left: Vec::new(), failure: None, refusal: None },
            Err(error @ StoreError::Database(_)) if !records.is_empty() || changes.is_mixed() => {
                tracing::error!(%error, records = records.len(), changes = changes.len(), "cannot write the journal");
                // what is wrong with a record or a change of one kind must not stop the others
                let appends = Changes { appends: changes.appends, ..Changes::default() };
                let messages = Changes { messages: changes.messages, ..Changes::default() };
                let rooms = Changes { rooms: changes.rooms, ..Changes::default() };
                let appends = store.write_journal(&[], appends, limits).await;
                let messages = store.write_journal(&[], messages, limits).await;
                let rooms = store.write_journal(&[], rooms, limits).await;
                let decided = Decisions {
                    appends: appends.and_then(|decided| decided.appends),
                    messages: messages.and_then(|decided| decided.messages),
                    rooms: rooms.and_then(|decided| decided.rooms),
                };
                write_apart(store, records, decided, limits).await
            }
            Err(error) => {
                // an outage is in the log already
                tracing::debug!(%error, records = records.len(), changes = changes.len(), "cannot write the journal now");
                let (decided, failure) = (Decisions::failed(&error), Some(error));
                Written { decided, left: records, failure, refusal: None }
            }
        }
    }
}

/// Writes records of which the database refuses some, which are dropped: one that can never be written must not stop those
/// that can. They are found by halves, and everything stays in its order.
async fn write_apart(store: &Store, records: Vec<Record>, decided: Decisions, limits: ChangeLimits) -> Written {
    let mut written = Written { decided, left: Vec::new(), failure: None, refusal: None };
    let mut parts = vec![records];
    while let Some(mut part) = parts.pop() {
        match store.write_journal(&part, Changes::default(), limits).await {
            Ok(_) => {}
            Err(error @ StoreError::Database(_)) => match &part[..] {
                [record] => {
                    tracing::error!(%error, %record, "the database refuses a record, which is lost");
                    if matches!(record, Record::Whole(_)) {
                        written.refusal = Some(error);
                    }
                }
                _ => {
                    let later = part.split_off(part.len() / 2);
                    parts.extend([later, part]);
                }
            },
            Err(error) => {
                parts.push(part);
                written.left = parts.into_iter().rev().flatten().collect();
                written.failure = Some(error);
                break;
            }
        }
    }
    written
}
