//! The role of the Relay is to hand frames to the sessions of its own worker thread. There is one per worker.
//!
//! Sessions, the TopicManager and the HTTP handlers deliver through [`Relays`]: to a session of the same thread directly,
//! to others in one [`Batch`] per worker and tick. The Relay also keeps time for its sessions, once a second for all of
//! them: pings, heartbeats, silence, expired tokens.

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

/// Bytes of publications that may be on their way to one worker before publishers have to wait.
const PUBLICATION_BACKLOG: usize = 8 * 1024 * 1024;

/// Frames that one thread hands to another's worker at the end of its tick.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Batch {
    pub(super) deliveries: Vec<Delivery>,
}

pub(super) enum Delivery {
    /// A frame for one session; its bytes are reserved.
    Frame { to: SessionHandle, frame: Bytes },
    /// The end of a session.
    Close { session: SessionHandle, code: CloseCode },
    /// A frame for many.
    Publication(Publication),
    /// What was published before is in the outboxes now.
    Mark(Mark),
}

/// A place among the publications. Whoever waits for it learns, when the last copy is dropped, that all before it is in the
/// outboxes of all workers.
#[derive(Debug, Clone)]
pub struct Mark(#[expect(dead_code, reason = "dropping it is the signal")] Arc<oneshot::Sender<()>>);

impl Mark {
    /// A mark, and what ends when it has been passed everywhere.
    pub fn new() -> (Self, oneshot::Receiver<()>) {
        let (sender, passed) = oneshot::channel();
        (Self(Arc::new(sender)), passed)
    }
}

/// What has its place among the publications of a tick.
pub(super) enum Queued {
    Publication(Publication),
    /// the end of a session, after what was published before
    Close {
        session: SessionHandle,
        code: CloseCode,
    },
    Mark(Mark),
}

pub(super) struct Publication {
    pub(super) members: Members<SessionHandle>,
    /// the session that gets no copy
    pub(super) sender: Option<u64>,
    pub(super) frame: Bytes,
}

/// Close all sessions of the worker, spread over some time.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct CloseAll {
    /// Why.
    pub code: CloseCode,
    /// From the first to the last.
    pub spread: Duration,
}

/// All workers' relays: the way to any session from any thread.
pub struct Relays {
    workers: Box<[Worker]>,
    joined: AtomicUsize,
    /// open sessions, anonymous ones included
    sessions: AtomicUsize,
    outbound_bytes: usize,
    /// `limits.frame_bytes`; 0 is none
    frame_bytes: usize,
    send_timeout: Duration,
    /// `limits.connections`; 0 is none
    connections: usize,
}

#[derive(Default)]
struct Worker {
    relay: OnceLock<Addr<Relay>>,
    /// bytes of publications on their way
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
    /// For so many workers, none of which has started.
    pub fn new(workers: usize, limits: &settings::Limits) -> Arc<Self> {
        Arc::new(Self {
            workers: (0..workers).map(|_| Worker::default()).collect(),
            joined: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            outbound_bytes: limits.outbound_bytes,
            frame_bytes: limits.frame_bytes,
            send_timeout: Duration::from_secs(limits.send_timeout_secs),
            connections: limits.connections,
        })
    }

    /// Starts the relay of the worker whose thread this is.
    pub fn start_worker(self: &Arc<Self>, periods: Periods) -> Option<Addr<Relay>> {
        let worker = self.joined.fetch_add(1, Ordering::Relaxed);
        let slot = self.workers.get(worker)?;
        local::become_worker(worker, self.clone());
        let relay = Relay { worker, relays: self.clone(), periods }.start();
        // the slot is empty: each index is given once
        let _ = slot.relay.set(relay.clone());
        Some(relay)
    }

    /// What bounds the outbox of a session.
    pub fn outbox_limits(&self) -> OutboxLimits {
        OutboxLimits { bytes: self.outbound_bytes, send_timeout: self.send_timeout }
    }

    /// The same for one whose client is nobody known: it gets what it asks for and nothing from others, so that two of its
    /// own largest frames are enough.
    pub fn outbox_limits_of_nobody(&self) -> OutboxLimits {
        let limits = self.outbox_limits();
        let own = if self.frame_bytes == 0 { usize::MAX } else { 2 * self.frame_bytes };
        let bytes = if limits.bytes == 0 { own } else { limits.bytes.min(own) };
        OutboxLimits { bytes, ..limits }
    }

    /// Hands a text frame, given in parts, to a session. True: it goes out before the session's close frame, unless the
    /// connection breaks or is cut before. False: the session is gone, or had more waiting than it may.
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

    /// Whether a session could take a text of so many bytes without being a slow consumer.
    pub fn has_room(&self, session: &SessionHandle, text: usize) -> bool {
        let queued = session.queued() + wire::frame_len(text);
        self.outbound_bytes == 0 || queued <= self.outbound_bytes
    }

    /// Closes a session after what waits for it.
    pub fn close(self: &Arc<Self>, session: &SessionHandle, code: CloseCode) {
        match local::outbox(session) {
            Where::Here(outbox) => outbox.close(code),
            Where::Gone => {}
            Where::Elsewhere => {
                local::hand_over(session.worker(), Delivery::Close { session: session.clone(), code }, self);
            }
        }
    }

    /// Hands a finished text frame to members on one worker, except for the session that sent it.
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

    /// Puts a mark behind what was published so far from this thread.
    pub fn mark(self: &Arc<Self>, mark: &Mark) {
        for worker in 0..self.workers.len() {
            local::hand_over(worker, Delivery::Mark(mark.clone()), self);
        }
    }

    /// Whether some worker has more publications on their way than it keeps up with; publishers should wait.
    pub fn is_congested(&self) -> bool {
        self.workers.iter().any(|worker| worker.backlog.load(Ordering::Relaxed) > PUBLICATION_BACKLOG)
    }

    /// Waits until no worker has more publications on their way than it keeps up with.
    pub async fn uncongested(&self) {
        while self.is_congested() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until a session has less waiting than a quarter of what it may, or is closed.
    pub async fn drained(&self, session: &SessionHandle) {
        while session.is_open() && self.outbound_bytes > 0 && session.queued() > self.outbound_bytes / 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Closes all sessions, spread over some time.
    pub fn close_all(&self, close: CloseAll) {
        self.workers.iter().filter_map(|worker| worker.relay.get()).for_each(|relay| relay.do_send(close));
    }

    /// How many sessions there are, anonymous ones included.
    pub fn session_count(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Counts a session in, for as long as the permit lives. None: there are as many as there may be.
    pub fn admit(self: &Arc<Self>) -> Option<Permit> {
        let before = self.sessions.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(self.clone());
        (self.connections == 0 || before < self.connections).then_some(permit)
    }

    pub(super) fn send_batch(&self, worker: usize, batch: Batch) {
        if let Some(relay) = self.workers.get(worker).and_then(|worker| worker.relay.get()) {
            // unbounded on purpose: frames are bounded by each session's budget, publications by `is_congested`
            relay.do_send(batch);
        }
    }
}

/// One of `limits.connections`.
#[derive(Debug)]
pub struct Permit(Arc<Relays>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// See the module.
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
    /// Once a second: whoever is silent is closed, whoever is quiet is pinged.
    fn tend_sessions(&self) {
        tick::advance_clock();
        let unix = chrono::Utc::now().timestamp();
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
        // a task of its own: ten thousand timers in this actor would all be polled at each of its messages
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
