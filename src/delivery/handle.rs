//! The handle of a session: its worker, its backlog and its client.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::domain::{
    accounts::{Account, Authenticated},
    ids::ClientId,
    subscriptions::Location,
};

/// The kind of socket that a session serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    /// A device's socket on `/ws`. It gets direct messages, topic messages and commands. One per device.
    Device,
    /// A user's socket on `/ws`. It gets commands. One per user.
    Agent,
    /// A socket on `/ws/auth`. Any number per client.
    Chat,
    /// A socket for a single room. Any number per client. It gets no topic messages, since its clients would take them for
    /// chat messages.
    Room,
    /// An anonymous socket, or a subscriber to the state of the gateways (`/ws/status/`).
    Public,
}

/// The handle of a session, valid on any thread of the process. Clones are handles of the same session.
#[derive(Clone)]
pub struct SessionHandle(Arc<Inner>);

struct Inner {
    /// Unique among all sessions of this process; keys are reused. Of two sessions of a client, also at different nodes, the one
    /// with the higher number is the newer one.
    id: u64,
    worker: usize,
    key: usize,
    /// Bytes that were accepted for this socket and not written to the kernel yet. The bit [`CLOSED`] says that no more are
    /// accepted. Both are in one atomic, so that a closing session knows exactly how many bytes it has accepted.
    queued: AtomicUsize,
    /// the valid token of this socket; an `auth` frame replaces it
    holder: Mutex<Option<Authenticated>>,
}

const CLOSED: usize = 1 << (usize::BITS - 1);

static LAST_ID: AtomicU64 = AtomicU64::new(0);

/// A number above all others that this process has given or noted: the present time in microseconds, unless the clock was set
/// back.
fn next_id(now: DateTime<Utc>) -> u64 {
    let now = u64::try_from(now.timestamp_micros()).unwrap_or_default();
    let next = |last: u64| Some(now.max(last + 1));
    match LAST_ID.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
        Ok(last) | Err(last) => now.max(last + 1),
    }
}

/// Notes the number of a session of another node: later ones of this process are higher.
pub fn note_id(id: u64) {
    LAST_ID.fetch_max(id, Ordering::Relaxed);
}

impl SessionHandle {
    /// A new session of this worker, with this key, without a client.
    pub(crate) fn new(worker: usize, key: usize, now: DateTime<Utc>) -> Self {
        Self(Arc::new(Inner { id: next_id(now), worker, key, queued: AtomicUsize::new(0), holder: Mutex::new(None) }))
    }

    /// The session's number, unique in this process.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The key among the sessions of its worker. Keys are reused.
    pub fn key(&self) -> usize {
        self.0.key
    }

    /// Whether the session still accepts frames.
    pub fn is_open(&self) -> bool {
        self.0.queued.load(Ordering::Relaxed) & CLOSED == 0
    }

    /// Makes the session refuse further frames. Returns the number of bytes that were accepted and not written yet.
    pub(crate) fn mark_closed(&self) -> usize {
        self.0.queued.fetch_or(CLOSED, Ordering::Relaxed) & !CLOSED
    }

    /// Counts bytes as queued. Returns false, and counts nothing, if the session is closed or the total would exceed `limit`
    /// (0: no limit).
    pub(crate) fn reserve(&self, bytes: usize, limit: usize) -> bool {
        let reserve = |queued: usize| {
            let fits = queued & CLOSED == 0 && (limit == 0 || queued + bytes <= limit);
            fits.then_some(queued + bytes)
        };
        self.0.queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve).is_ok()
    }

    /// Counts bytes as queued, without a limit.
    pub(crate) fn add(&self, bytes: usize) {
        self.0.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The number of bytes that were accepted and not written yet.
    pub fn queued(&self) -> usize {
        self.0.queued.load(Ordering::Relaxed) & !CLOSED
    }

    /// Counts bytes as no longer queued.
    pub(crate) fn release(&self, bytes: usize) {
        self.0.queued.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Replaces the session's token. Returns the previous one.
    pub(crate) fn exchange(&self, identity: Authenticated) -> Option<Authenticated> {
        self.holder().replace(identity)
    }

    /// Replaces the client's account after a change. An account of another token generation is ignored, since the session's
    /// token does not belong to it.
    pub(crate) fn update_account(&self, account: &Arc<Account>) {
        if let Some(holder) = self.holder().as_mut()
            && holder.account.generation == account.generation
        {
            holder.account = account.clone();
        }
    }

    /// The client's account; `None` before authentication.
    pub(crate) fn account(&self) -> Option<Arc<Account>> {
        self.holder().as_ref().map(|holder| holder.account.clone())
    }

    /// The client; `None` before authentication.
    pub fn client(&self) -> Option<ClientId> {
        self.holder().as_ref().map(|holder| holder.account.id)
    }

    /// Whether `id` is the `jti` or the family of the session's token.
    pub fn has_token(&self, id: Uuid) -> bool {
        self.holder().as_ref().is_some_and(|holder| holder.jti == id || holder.family == id)
    }

    /// The account's token generation when the session's token was checked; 0 before authentication.
    pub fn generation(&self) -> i64 {
        self.holder().as_ref().map_or(0, |holder| holder.account.generation)
    }

    /// The incarnation of the session's client; 0 before authentication.
    pub fn incarnation(&self) -> i64 {
        self.holder().as_ref().map_or(0, |holder| holder.account.incarnation())
    }

    fn holder(&self) -> std::sync::MutexGuard<'_, Option<Authenticated>> {
        // a panic while the lock was held cannot leave plain data in an invalid state
        self.0.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Location for SessionHandle {
    fn worker(&self) -> usize {
        self.0.worker
    }

    fn id(&self) -> u64 {
        self.0.id
    }
}

impl PartialEq for SessionHandle {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionHandle").field("id", &self.0.id).field("worker", &self.0.worker).finish_non_exhaustive()
    }
}
