//! Decides what may be written: while storage is nearly full only transactions that take little space, and nothing once
//! another broker has taken the database over.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use uuid::Uuid;

use super::{Store, StoreError, Transaction, open::Database};
use crate::domain::storage::Threshold;
use crate::metrics::METRICS;

/// The period of the checks of free space.
const PERIOD: Duration = Duration::from_millis(200);

/// How long a check of the session with the lock on the database counts. Less than others wait before they take over.
const CURRENT: Duration = Duration::from_secs(5);

/// Whether writing is allowed. Without [`Store::watch_space`] it always is.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate {
    nearly_full: Arc<AtomicBool>,
    /// the id of this broker, if the process is one
    pub(super) instance: Arc<OnceLock<Uuid>>,
    /// whether other brokers may serve the database, too
    pub(super) is_shared: Arc<AtomicBool>,
    /// notified when a transaction finds that another broker has taken the database over
    pub(super) taken_over: Arc<Notify>,
    /// the session has the lock on the database; with PostgreSQL alone
    held: Arc<Mutex<Option<HeldLock>>>,
}

/// A lock that the session has.
#[derive(Debug, Clone, Copy)]
struct HeldLock {
    since: Instant,
    /// when the last check began that found the session
    checked: Instant,
}

impl Gate {
    fn held(&self) -> MutexGuard<'_, Option<HeldLock>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session has the lock on the database now, or has lost it.
    pub(super) fn set_held(&self, is_held: bool) {
        let now = Instant::now();
        *self.held() = is_held.then_some(HeldLock { since: now, checked: now });
    }

    /// A check that began then has found the session.
    pub(super) fn found_held(&self, began: Instant) {
        if let Some(held) = self.held().as_mut() {
            if began.duration_since(held.checked) >= CURRENT {
                // the process or the server was stopped: others may have lost their sessions meanwhile
                held.since = began;
            }
            held.checked = began;
        }
    }

    /// Whether the session has had the lock on the database for so long, and was found a moment ago and all the time.
    pub(super) fn has_held(&self, time: Duration) -> bool {
        self.held().is_some_and(|held| held.since.elapsed() >= time && held.checked.elapsed() < CURRENT)
    }
}

/// Free and total bytes of the file system of a path.
///
/// # Errors
/// There is no such path, or the system refuses.
pub fn space(path: &Path) -> std::io::Result<(u64, u64)> {
    let found = rustix::fs::statvfs(path)?;
    Ok((found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize)))
}

impl Store {
    /// Whether the session with the lock on the database was there a moment ago. If not, other brokers may have taken over what
    /// this one handles: the process was stopped, or cannot reach PostgreSQL. Always false with SQLite.
    pub fn has_session(&self) -> bool {
        self.gate.held().is_some_and(|held| held.checked.elapsed() < CURRENT)
    }

    /// Whether there is less space than `storage.min_free_bytes`.
    pub fn is_nearly_full(&self) -> bool {
        self.gate.nearly_full.load(Ordering::Relaxed)
    }

    /// Refuses transactions that take space while storage is nearly full.
    ///
    /// # Errors
    /// There is less than `storage.min_free_bytes`.
    pub fn check_space(&self) -> Result<(), StoreError> {
        if self.is_nearly_full() { Err(StoreError::NearlyFull) } else { Ok(()) }
    }

    /// This broker, if it records the events of rooms for others.
    pub(super) fn recording_broker(&self) -> Option<Uuid> {
        self.gate.instance.get().filter(|_| self.gate.is_shared.load(Ordering::Relaxed)).copied()
    }

    /// A write transaction that is refused while storage is nearly full.
    pub(super) async fn begin(&self) -> Result<Transaction, StoreError> {
        self.check_space()?;
        self.begin_essential().await
    }

    /// Checks the free space periodically, without end: with SQLite of the file system of its file, with PostgreSQL of that
    /// of the data directory, since the server's disk is not visible. Does nothing without a threshold.
    pub async fn watch_space(&self, data_dir: PathBuf, min_free: u64) {
        if min_free == 0 {
            return std::future::pending().await;
        }
        let path = match &self.database {
            Database::Sqlite(path) => path.clone(),
            Database::Postgres(_) => data_dir,
        };
        let mut threshold = None;
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let place = path.clone();
            // a network file system may not answer
            let found = tokio::task::spawn_blocking(move || space(&place)).await;
            let Ok(Ok((free, total))) = found else { continue };
            METRICS.storage_free_bytes.set(free.try_into().unwrap_or(i64::MAX));
            let is = threshold.get_or_insert_with(|| Threshold::new(min_free, total)).is_nearly_full(free);
            METRICS.storage_nearly_full.set(is.into());
            if self.gate.nearly_full.swap(is, Ordering::Relaxed) == is {
                continue;
            }
            if is {
                tracing::error!(free, path = %path.display(), "storage is nearly full (storage.min_free_bytes): nothing more is stored");
            } else {
                tracing::info!(free, path = %path.display(), "there is space again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_counts_as_held_from_the_first_check_after_a_pause_on() {
        let gate = Gate::default();
        assert!(!gate.has_held(Duration::ZERO));
        gate.set_held(true);
        assert!(gate.has_held(Duration::ZERO));
        let taken = gate.held().unwrap().since;
        let mut check = taken;
        for _ in 0..10 {
            check += CURRENT / 2;
            gate.found_held(check);
            assert_eq!(gate.held().unwrap().since, taken);
        }
        check += CURRENT;
        gate.found_held(check);
        assert_eq!(gate.held().unwrap().since, check);
        gate.set_held(false);
        assert!(!gate.has_held(Duration::ZERO));
    }
}
