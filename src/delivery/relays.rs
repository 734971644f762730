//! The way to all sessions, from any thread: directly to a session of the same thread, and in one [`Batch`] per worker and
//! tick to sessions of other threads.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::Addr;
use bytes::Bytes;

use super::{
    CloseAll, Mark, OutboxLimits, Relay, SessionHandle,
    local::{self, Where},
    relay::{Batch, Delivery, Publication},
};
use crate::{
    clock::Clock,
    domain::{
        liveness::Periods,
        subscriptions::{Location, Members},
    },
    metrics::{Context, labels::DropReason, traffic},
    protocol::{close_code::CloseCode, wire},
    settings,
};

/// The longest head of a frame that the server sends (RFC 6455, section 5.2).
const MAX_HEAD: usize = 10;

/// Bytes of publications on the way to one worker above which publishers wait.
const PUBLICATION_BACKLOG: usize = 8 * 1024 * 1024;

/// The relays of all workers. Delivers to any session from any thread.
pub struct Relays {
    workers: Box<[Worker]>,
    joined: AtomicUsize,
    /// open sessions, anonymous ones included
    sessions: AtomicUsize,
    outbound_bytes: usize,
    /// `limits.frame_bytes`; 0: no limit
    frame_bytes: usize,
    send_timeout: Duration,
    /// `limits.connections`; 0: no limit
    connections: usize,
    clock: Clock,
}

#[derive(Default)]
struct Worker {
    relay: OnceLock<Addr<Relay>>,
    /// bytes of publications on the way to this worker
    backlog: AtomicUsize,
}

impl fmt::Debug for Relays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relays")
            .field("workers", &self.workers.len())
            .field("sessions", &self.sessions)
            .finish_non_exhaustive()
    }
}

impl Relays {
    /// Creates the relays' table. [`Relays::start_worker`] starts each relay on its worker's thread.
    pub fn new(workers: usize, limits: &settings::Limits, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            workers: (0..workers).map(|_| Worker::default()).collect(),
            joined: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            outbound_bytes: limits.outbound_bytes,
            frame_bytes: limits.frame_bytes,
            send_timeout: Duration::from_secs(limits.send_timeout_secs),
            connections: limits.connections,
            clock,
        })
    }

    /// Makes this thread a worker and starts its relay. `None` if all workers have started.
    pub fn start_worker(self: &Arc<Self>, periods: Periods) -> Option<Addr<Relay>> {
        let worker = self.joined.fetch_add(1, Ordering::Relaxed);
        let slot = self.workers.get(worker)?;
        local::become_worker(worker, self.clone());
        let relay = Context::start(Relay::new(worker, self.clone(), periods, self.clock.clone()));
        // the slot is empty, since each index is used once
        let _ = slot.relay.set(relay.clone());
        Some(relay)
    }

    /// The limits of the outbox of an authenticated session.
    pub fn outbox_limits(&self) -> OutboxLimits {
        OutboxLimits { bytes: self.outbound_bytes, send_timeout: self.send_timeout }
    }

    /// A quarter of `limits.outbound_bytes`, or of its default if that is off: what may be sent at once to a session that has
    /// [drained](Relays::drained), without making it a slow consumer.
    pub fn quarter_of_outbox(&self) -> usize {
        let bytes = if self.outbound_bytes == 0 { 1024 * 1024 } else { self.outbound_bytes };
        bytes / 4
    }

    /// The limits of the outbox of an anonymous session: at most two of the largest frames that a client may send. This is
    /// enough, since such a session gets only answers to its own frames.
    pub fn anonymous_outbox_limits(&self) -> OutboxLimits {
        let limits = self.outbox_limits();
        let own = if self.frame_bytes == 0 { usize::MAX } else { 2 * self.frame_bytes };
        let bytes = if limits.bytes == 0 { own } else { limits.bytes.min(own) };
        OutboxLimits { bytes, ..limits }
    }

    /// Delivers a text frame, given in parts, to a session. Returns true if the session accepted it: then it is written
    /// before the session's close frame, unless the connection breaks or is cut first. Returns false if the session is gone,
    /// or if its backlog would exceed `limits.outbound_bytes`; then it is closed as a slow consumer.
    pub fn deliver(self: &Arc<Self>, to: &SessionHandle, parts: &[&[u8]]) -> bool {
        if !to.is_open() {
            return false;
        }
        match local::outbox(to) {
            Where::Here(outbox) => outbox.text(parts),
            Where::Gone => false,
            Where::Elsewhere => {
                let frame = wire::text(parts);
                if to.reserve(frame.len(), self.outbound_bytes) {
                    local::hand_over(to.worker(), Delivery::Frame { to: to.clone(), frame }, self);
                    true
                } else {
                    traffic::dropped(DropReason::SlowConsumer, frame.len());
                    if to.is_open() {
                        self.close(to, CloseCode::SlowConsumer);
                    }
                    false
                }
            }
        }
    }

    /// Whether a session can accept a text of this many bytes without exceeding `limits.outbound_bytes`.
    pub fn has_room(&self, session: &SessionHandle, text: usize) -> bool {
        let queued = session.queued() + wire::frame_len(text);
        self.outbound_bytes == 0 || queued <= self.outbound_bytes
    }

    /// Closes a session after its backlog.
    pub fn close(self: &Arc<Self>, session: &SessionHandle, code: CloseCode) {
        match local::outbox(session) {
            Where::Here(outbox) => outbox.close(code),
            Where::Gone => {}
            Where::Elsewhere => {
                local::hand_over(session.worker(), Delivery::Close { session: session.clone(), code }, self);
            }
        }
    }

    /// Delivers a complete text frame to the members on one worker, except for the sending session.
    pub fn publish(
        self: &Arc<Self>,
        worker: usize,
        members: Members<SessionHandle>,
        sender: Option<u64>,
        frame: Bytes,
    ) {
        let Some(slot) = self.workers.get(worker) else { return };
        slot.backlog.fetch_add(frame.len(), Ordering::Relaxed);
        local::hand_over(worker, Delivery::Publication(Publication { members, sender, frame }), self);
    }

    /// Sends a mark to all workers, behind the publications that left this thread before.
    pub fn mark(self: &Arc<Self>, mark: &Mark) {
        for worker in 0..self.workers.len() {
            local::hand_over(worker, Delivery::Mark(mark.clone()), self);
        }
    }

    /// Whether the publications on the way to some worker exceed 8 MiB, so that publishers should wait.
    pub fn is_congested(&self) -> bool {
        self.workers.iter().any(|worker| worker.backlog.load(Ordering::Relaxed) > PUBLICATION_BACKLOG)
    }

    /// Waits until [`Relays::is_congested`] is false.
    pub async fn uncongested(&self) {
        while self.is_congested() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The longest text that fits into an empty outbox.
    pub fn longest_text(&self) -> usize {
        if self.outbound_bytes == 0 { usize::MAX } else { self.outbound_bytes.saturating_sub(MAX_HEAD) }
    }

    /// Whether a session's backlog is at most a quarter of `limits.outbound_bytes`.
    pub fn is_drained(&self, session: &SessionHandle) -> bool {
        self.outbound_bytes == 0 || session.queued() <= self.outbound_bytes / 4
    }

    /// Waits until a session's backlog is at most a quarter of `limits.outbound_bytes`, or the session is closed.
    pub async fn drained(&self, session: &SessionHandle) {
        while session.is_open() && !self.is_drained(session) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Closes all sessions, spread evenly over a period.
    pub fn close_all(&self, close: CloseAll) {
        self.workers.iter().filter_map(|worker| worker.relay.get()).for_each(|relay| relay.do_send(close));
    }

    /// The number of open sessions, anonymous ones included.
    pub fn session_count(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Counts a session for as long as the permit lives. `None` if there are `limits.connections` sessions already.
    pub fn admit(self: &Arc<Self>) -> Option<Permit> {
        let before = self.sessions.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(self.clone());
        (self.connections == 0 || before < self.connections).then_some(permit)
    }

    /// A publication has arrived at its worker.
    pub(super) fn arrived(&self, worker: usize, publication: &Publication) {
        self.workers[worker].backlog.fetch_sub(publication.frame.len(), Ordering::Relaxed);
    }

    pub(super) fn send_batch(&self, worker: usize, batch: Batch) {
        if let Some(relay) = self.workers.get(worker).and_then(|worker| worker.relay.get()) {
            // `do_send` is not bounded by the mailbox; frames are bounded by each session's budget, publications by
            // `is_congested`
            relay.do_send(batch);
        }
    }
}

/// One of the `limits.connections` places. Dropping it frees the place.
#[derive(Debug)]
pub struct Permit(Arc<Relays>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}
