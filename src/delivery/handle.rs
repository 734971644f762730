//! What the rest of the program holds of a session: where it is, how much waits for it, whose it is.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use uuid::Uuid;

use crate::domain::{
    accounts::{Account, Authenticated},
    ids::ClientId,
    subscriptions::Location,
};

/// Which socket of a client a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    /// A device's socket on `/ws`: gets direct and topic messages; there is one per device.
    Device,
    /// A user's socket on `/ws`: gets commands; there is one per user.
    Agent,
    /// `/ws/auth`: any number per client.
    Chat,
    /// A socket that a room is all that it is for: any number per client. It gets no topic messages, which its clients
    /// would take for chat.
    Room,
    /// Nobody's, or one that only hears how the gateways are.
    Public,
}

/// A session, seen from anywhere in the process; clones are the same session.
#[derive(Clone)]
pub struct SessionHandle(Arc<Inner>);

struct Inner {
    /// unique among all sessions of this process, since keys are used again
    id: u64,
    worker: usize,
    key: usize,
    /// Bytes accepted for this socket and not yet taken by the kernel; [`CLOSED`] from the moment on at which it takes no
    /// more. One number, so that a session that closes knows exactly what it has accepted.
    queued: AtomicUsize,
    /// the token that counts for this socket; in-band authentication exchanges it
    holder: Mutex<Option<Authenticated>>,
}

const CLOSED: usize = 1 << (usize::BITS - 1);

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl SessionHandle {
    /// A new session at this place, not yet anybody's.
    pub(crate) fn new(worker: usize, key: usize) -> Self {
        Self(Arc::new(Inner {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            worker,
            key,
            queued: AtomicUsize::new(0),
            holder: Mutex::new(None),
        }))
    }

    /// Unique in this process.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The key among its worker's sessions.
    pub fn key(&self) -> usize {
        self.0.key
    }

    /// Whether it still takes frames.
    pub fn is_open(&self) -> bool {
        self.0.queued.load(Ordering::Relaxed) & CLOSED == 0
    }

    /// It takes no more frames. Answers how many bytes it has accepted that the kernel has not taken yet.
    pub(crate) fn mark_closed(&self) -> usize {
        self.0.queued.fetch_or(CLOSED, Ordering::Relaxed) & !CLOSED
    }

    /// Counts bytes as queued. False: it is closed, or that would be more than `limit` (0 is none); nothing was counted.
    pub(crate) fn reserve(&self, bytes: usize, limit: usize) -> bool {
        let reserve = |queued: usize| {
            let fits = queued & CLOSED == 0 && (limit == 0 || queued + bytes <= limit);
            fits.then_some(queued + bytes)
        };
        self.0.queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve).is_ok()
    }

    /// Counts bytes as queued, whatever there is already.
    pub(crate) fn add(&self, bytes: usize) {
        self.0.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that wait for its socket.
    pub fn queued(&self) -> usize {
        self.0.queued.load(Ordering::Relaxed) & !CLOSED
    }

    /// Counts bytes as no longer queued.
    pub(crate) fn release(&self, bytes: usize) {
        self.0.queued.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// From now on this token counts for the session. Answers the one that did before.
    pub(crate) fn exchange(&self, identity: Authenticated) -> Option<Authenticated> {
        self.holder().replace(identity)
    }

    /// Its client's account has changed. One of another generation is not that of its token.
    pub(crate) fn update_account(&self, account: &Arc<Account>) {
        if let Some(holder) = self.holder().as_mut()
            && holder.account.generation == account.generation
        {
            holder.account = account.clone();
        }
    }

    /// The account of whose it is.
    pub(crate) fn account(&self) -> Option<Arc<Account>> {
        self.holder().as_ref().map(|holder| holder.account.clone())
    }

    /// Whose it is.
    pub fn client(&self) -> Option<ClientId> {
        self.holder().as_ref().map(|holder| holder.account.id)
    }

    /// Whether its token is this one, or of this family.
    pub fn has_token(&self, id: Uuid) -> bool {
        self.holder().as_ref().is_some_and(|holder| holder.jti == id || holder.family == id)
    }

    /// The account's token generation at the time of its token.
    pub fn generation(&self) -> i64 {
        self.holder().as_ref().map_or(0, |holder| holder.account.generation)
    }

    fn holder(&self) -> std::sync::MutexGuard<'_, Option<Authenticated>> {
        // plain data: whoever panicked while holding the lock left it whole
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
