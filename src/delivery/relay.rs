//! The Relay hands frames from other threads to the sessions of its worker. There is one per worker. Once a second it also
//! checks its sessions for pings and heartbeats that are due, for silence and for expired tokens.

use std::{hint::black_box, rc::Rc, sync::Arc, time::Duration};

use actix::{Actor, AsyncContext, Handler, Message};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    Outbox, Relays, SessionHandle,
    local::{self, Where},
    tick,
};
use crate::{
    clock::Clock,
    domain::{
        liveness::{Due, Periods},
        subscriptions::Members,
    },
    metrics::{self, Context, Measured, labels::DropReason, traffic},
    protocol::{close_code::CloseCode, outbound, wire::Opcode},
};

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

/// The actor of a worker that receives batches; see the module.
pub struct Relay {
    worker: usize,
    relays: Arc<Relays>,
    periods: Periods,
    clock: Clock,
}

impl Measured for Relay {
    const NAME: metrics::labels::Actor = metrics::labels::Actor::Relay;
}

impl Actor for Relay {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(Duration::from_secs(1), |relay, _| relay.tend_sessions());
    }
}

impl Relay {
    pub(super) fn new(worker: usize, relays: Arc<Relays>, periods: Periods, clock: Clock) -> Self {
        Self { worker, relays, periods, clock }
    }

    /// Runs once a second: closes silent and expired sessions, sends pings and heartbeats that are due.
    fn tend_sessions(&self) {
        return_free_memory();
        tick::advance_clock();
        let unix = self.clock.now().timestamp();
        for outbox in local::sessions() {
            outbox.finish_late_close();
            traffic::waiting(outbox.handle().queued());
            match outbox.liveness.check(tick::clock(), unix, self.periods) {
                Due::Silent => outbox.close(CloseCode::Silent),
                Due::Expired => outbox.close(CloseCode::Unauthorized),
                Due::Keepalive { ping, heartbeat } => {
                    if ping {
                        outbox.send(Opcode::Ping, &[]);
                    }
                    if heartbeat {
                        outbox.text(&[outbound::heartbeat().as_bytes()]);
                    }
                }
            }
        }
        traffic::flush();
    }
}

/// Has mimalloc return to the system what this thread freed a while ago: it looks for that only when the thread frees memory
/// of the same size class, which after the end of many connections it may not do for long.
fn return_free_memory() {
    for size in [1 << 10, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22] {
        drop(black_box(Vec::<u8>::with_capacity(size)));
    }
}

impl Handler<Batch> for Relay {
    type Result = ();

    fn handle(&mut self, batch: Batch, _: &mut Self::Context) {
        for delivery in batch.deliveries {
            match delivery {
                Delivery::Frame { to, frame } => match local::outbox(&to) {
                    Where::Here(outbox) => outbox.send_reserved(frame),
                    Where::Gone | Where::Elsewhere => {
                        traffic::dropped(DropReason::ConnectionEnded, frame.len());
                        to.release(frame.len());
                    }
                },
                Delivery::Close { session, code: CloseCode::SlowConsumer } => {
                    if let Where::Here(outbox) = local::outbox(&session) {
                        outbox.overrun();
                    }
                }
                Delivery::Close { session, code } => local::queue(Queued::Close { session, code }),
                Delivery::Mark(mark) => local::queue(Queued::Mark(mark)),
                Delivery::Publication(publication) => {
                    self.relays.arrived(self.worker, &publication);
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
