//! One batch: records and changes that are written together, and what becomes of those that the database refuses.

use crate::{
    domain::rooms::RoomChange,
    store::{Decided, Record, Store, StoreError},
};

/// What is to be written in one transaction, if nothing is wrong with it.
pub(super) struct Batch<'a> {
    pub(super) records: Vec<Record>,
    pub(super) changes: &'a [RoomChange],
    /// `limits.rooms_per_user`; 0 is none
    pub(super) rooms_per_user: usize,
}

/// What became of a batch.
pub(super) struct Written {
    /// of each change
    pub(super) decided: Result<Vec<Decided>, StoreError>,
    /// records that are to be tried again
    pub(super) left: Vec<Record>,
    /// why
    pub(super) failure: Option<StoreError>,
    /// why a command was dropped, whose sender waits for it to be stored
    pub(super) refusal: Option<StoreError>,
}

impl Batch<'_> {
    pub(super) async fn write(self, store: &Store) -> Written {
        let Self { records, changes, rooms_per_user } = self;
        if records.is_empty() && changes.is_empty() {
            return Written { decided: Ok(Vec::new()), left: records, failure: None, refusal: None };
        }
        match store.write_journal(&records, changes, rooms_per_user).await {
            Ok(decided) => Written { decided: Ok(decided), left: Vec::new(), failure: None, refusal: None },
            Err(error @ StoreError::Database(_)) if !records.is_empty() => {
                tracing::error!(%error, records = records.len(), changes = changes.len(), "cannot write the journal");
                // what is wrong with a record must not stop the rooms
                let decided = match changes {
                    [] => Ok(Vec::new()),
                    changes => store.write_journal(&[], changes, rooms_per_user).await,
                };
                write_apart(store, records, decided).await
            }
            Err(error) => {
                // an outage is in the log already
                tracing::debug!(%error, records = records.len(), changes = changes.len(), "cannot write the journal now");
                let failure = Some(error.clone());
                Written { decided: Err(error), left: records, failure, refusal: None }
            }
        }
    }
}

/// Writes records of which the database refuses some, which are dropped: one that can never be written must not stop those
/// that can. They are found by halves, and everything stays in its order.
async fn write_apart(store: &Store, records: Vec<Record>, decided: Result<Vec<Decided>, StoreError>) -> Written {
    let mut written = Written { decided, left: Vec::new(), failure: None, refusal: None };
    let mut parts = vec![records];
    while let Some(mut part) = parts.pop() {
        match store.write_journal(&part, &[], 0).await {
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
