//! The Relay hands frames from other threads to the sessions of its worker. There is one per worker.
//!
//! Sessions, the TopicManager and the HTTP handlers deliver through [`Relays`]: directly to a session of the same thread,
//! and in one [`Batch`] per worker and tick to sessions of other threads. Once a second the Relay also checks its sessions
//! for pings and heartbeats that are due, for silence and for expired tokens.

use std::{
    fmt,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    Outbox, OutboxLimits, SessionHandle,
    local::{self, Where},
    tick,
};
use crate::{
    clock::Clock,
    domain::{
        liveness::{Due, Periods},
        subscriptions::{Location, Members},
    },
    protocol::{
        close_code::CloseCode,
        outbound,
        wire::{self, Opcode},
    },
    settings,
};

/// Bytes of publications on the way to one worker above which publishers wait.
const PUBLICATION_BACKLOG: usize = 8 * 1024 * 1024;

/// The deliveries that one thread sends to another thread's worker at the end of a tick.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Batch {
    pub(super) deliveries: Vec<Delivery>,
}

pub(super) enum Delivery {
    /// A frame for one session. Its bytes are reserved in the session's budget.
    Frame { to: SessionHandle, frame: Bytes },
    /// Closes a session.
    Close { session: SessionHandle, code: CloseCode },
    /// A frame for all members of a topic on this worker.
    Publication(Publication),
    /// Is dropped when the publications before it are in the outboxes.
    Mark(Mark),
}

/// A mark in the order of publications. Each worker gets a copy and drops it when the publications before it are in its
/// outboxes. The receiver completes when the last copy is dropped.
#[derive(Debug, Clone)]
pub struct Mark(#[expect(dead_code, reason = "dropping it is the signal")] Arc<oneshot::Sender<()>>);

impl Mark {
    /// Creates a mark, and the receiver that completes when all workers have dropped their copies.
    pub fn new() -> (Self, oneshot::Receiver<()>) {
        let (sender, passed) = oneshot::channel();
        (Self(Arc::new(sender)), passed)
    }
}

/// An item of a tick that is handled in order.
pub(super) enum Queued {
    Publication(Publication),
    /// closes a session after the publications before it
    Close {
        session: SessionHandle,
        code: CloseCode,
    },
    Mark(Mark),
}

pub(super) struct Publication {
    pub(super) members: Members<SessionHandle>,
    /// the number of the sending session, which gets no copy
    pub(super) sender: Option<u64>,
    pub(super) frame: Bytes,
}

/// Closes all sessions of the worker, spread evenly over a period.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct CloseAll {
    /// The code to close with.
    pub code: CloseCode,
    /// The time between the first close and the last.
    pub spread: Duration,
}

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
        let relay = Relay { worker, relays: self.clone(), periods }.start();
        // the slot is empty, since each index is used once
        let _ = slot.relay.set(relay.clone());
        Some(relay)
    }

    /// The limits of the outbox of an authenticated session.
    pub fn outbox_limits(&self) -> OutboxLimits {
        OutboxLimits { bytes: self.outbound_bytes, send_timeout: self.send_timeout }
    }

    /// The limits of the outbox of an anonymous session: at most two of the largest frames that a client may send. This is
    /// enough, since such a session gets only answers to its own frames.
    pub fn outbox_limits_of_nobody(&self) -> OutboxLimits {
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

    /// Waits until a session's backlog is at most a quarter of `limits.outbound_bytes`, or the session is closed.
    pub async fn drained(&self, session: &SessionHandle) {
        while session.is_open() && self.outbound_bytes > 0 && session.queued() > self.outbound_bytes / 4 {
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

/// The actor of a worker that receives batches; see the module.
pub struct Relay {
    worker: usize,
    relays: Arc<Relays>,
    periods: Periods,
}

impl Actor for Relay {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(Duration::from_secs(1), |relay, _| relay.tend_sessions());
    }
}

impl Relay {
    /// Runs once a second: closes silent and expired sessions, sends pings and heartbeats that are due.
    fn tend_sessions(&self) {
        tick::advance_clock();
        let unix = self.relays.clock.now().timestamp();
        for outbox in local::sessions() {
            outbox.finish_late_close();
            match outbox.liveness.check(tick::clock(), unix, self.periods) {
                Due::Silent => outbox.close(CloseCode::Silent),
                Due::Expired => outbox.close(CloseCode::Unauthorized),
                Due::Signs { ping, heartbeat } => {
                    if ping {
                        outbox.send(Opcode::Ping, &[]);
                    }
                    if heartbeat {
                        outbox.text(&[outbound::HEARTBEAT.as_bytes()]);
                    }
                }
            }
        }
    }
}

impl Handler<Batch> for Relay {
    type Result = ();

    fn handle(&mut self, batch: Batch, _: &mut Self::Context) {
        for delivery in batch.deliveries {
            match delivery {
                Delivery::Frame { to, frame } => match local::outbox(&to) {
                    Where::Here(outbox) => outbox.send_reserved(frame),
                    Where::Gone | Where::Elsewhere => to.release(frame.len()),
                },
                Delivery::Close { session, code: CloseCode::SlowConsumer } => {
                    if let Where::Here(outbox) = local::outbox(&session) {
                        outbox.overrun();
                    }
                }
                Delivery::Close { session, code } => local::queue(Queued::Close { session, code }),
                Delivery::Mark(mark) => local::queue(Queued::Mark(mark)),
                Delivery::Publication(publication) => {
                    self.relays.workers[self.worker].backlog.fetch_sub(publication.frame.len(), Ordering::Relaxed);
                    local::queue(Queued::Publication(publication));
                }
            }
        }
    }
}

impl Handler<CloseAll> for Relay {
    type Result = ();

    fn handle(&mut self, close: CloseAll, _: &mut Self::Context) {
        let sessions: Vec<Rc<Outbox>> = local::sessions();
        // in a separate task: as futures of this actor, ten thousand timers would all be polled at each message
        actix::spawn(async move {
            let began = tokio::time::Instant::now();
            let count = sessions.len().max(1) as u32;
            for (index, outbox) in sessions.into_iter().enumerate() {
                tokio::time::sleep_until(began + close.spread * index as u32 / count).await;
                outbox.close(close.code);
            }
        });
    }
}
