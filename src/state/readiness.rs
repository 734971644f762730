//! Whether the database takes writes, as the Journal knows or a write of its own proves.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::{
    actors::journal::Journal,
    store::{Store, StoreError},
};

/// How long a proof is good: whoever asks more often costs the disk nothing.
const FRESH: Duration = Duration::from_secs(1);

/// The detail while there is less space than `storage.min_free_bytes`: what passes through goes on.
pub(crate) const NEARLY_FULL: &str = "nearly full";

/// The last proof that the database takes writes.
#[derive(Debug)]
pub(crate) struct Readiness {
    store: Store,
    journal: Journal,
    /// held while it is being proven, so that all who ask share one write
    last: Mutex<Option<(Instant, &'static str)>>,
}

impl Readiness {
    /// Of this database, which this Journal writes to.
    pub(crate) fn new(store: Store, journal: Journal) -> Self {
        Self { store, journal, last: Mutex::default() }
    }

    /// `ok`, [`NEARLY_FULL`], or what is wrong with the database in a word.
    pub(crate) async fn of_database(&self) -> &'static str {
        if let Some(failure) = self.journal.backlog().failure() {
            return word(&failure);
        }
        let mut last = self.last.lock().await;
        if let Some((at, known)) = *last
            && at.elapsed() < FRESH
        {
            return known;
        }
        let found = match self.store.prove_write().await {
            Ok(()) if self.store.is_nearly_full() => NEARLY_FULL,
            Ok(()) => "ok",
            Err(error) => {
                tracing::debug!(%error, "the database takes no writes");
                word(&error)
            }
        };
        *last = Some((Instant::now(), found));
        found
    }
}

fn word(failure: &StoreError) -> &'static str {
    if matches!(failure, StoreError::Full(_)) { "full" } else { "away" }
}
