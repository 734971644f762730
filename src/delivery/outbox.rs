//! A session's queue of outgoing frames, which bypasses the HTTP response body.
//!
//! The response body carries the 101 head and the greeting. All later frames are written to a duplicate of the connection's
//! descriptor: frames queued during a tick leave in one non-blocking write at its end, and bytes that the kernel does not
//! take wait in the queue and are counted. So a peer that does not read never blocks its session's actor, and the check for
//! a slow consumer is one comparison (contract section 10, `outbound_bytes`).

mod queue;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use socket2::Socket;
use tokio::{io::Interest, net::TcpStream};

use self::queue::Queue;
use super::{Admitted, SessionHandle, tick};
use crate::{
    domain::liveness::Liveness,
    metrics::{
        self,
        labels::{ClosedBy, Dialect, DropReason},
        traffic,
    },
    protocol::{
        close_code::CloseCode,
        wire::{self, Opcode},
    },
};

/// Most bytes that are sent with the head. The kernel takes them at once, since the socket's buffer is empty.
const WITH_HEAD: usize = 1024;

/// Seconds that a close handshake may take, including the writing of frames queued before it.
const CLOSE_SECS: u32 = 5;

/// The close code of a connection that ends without a close frame (RFC 6455, section 7.1.5).
const NO_CLOSE_FRAME: u16 = 1006;

/// Limits of an outbox.
#[derive(Debug, Clone, Copy)]
pub struct OutboxLimits {
    /// Most bytes that may wait (`limits.outbound_bytes`); 0: no limit.
    pub bytes: usize,
    /// Time after which a peer that takes nothing is cut (`limits.send_timeout_secs`); zero: never.
    pub send_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// a close frame is queued, or waits for accepted frames from other threads; no frame follows it
    Closing {
        since: u32,
        /// the peer's close frame has been received
        answered: bool,
    },
    Done,
}

struct State {
    phase: Phase,
    /// the 101 head has been sent; until then all frames wait
    head_out: bool,
    queue: Queue,
    /// the frames that the close frame waits for
    awaited: Option<Awaited>,
    /// a task waits for the socket to take more
    jammed: bool,
}

/// Frames from other threads that were accepted but not in the queue yet when the session began to close. Their senders
/// count them as delivered, so they are written before the close frame.
struct Awaited {
    bytes: usize,
    close: Bytes,
}

/// A session's queue of outgoing frames. It lives on its worker's thread.
pub struct Outbox {
    handle: SessionHandle,
    /// a duplicate of the connection's descriptor
    socket: Rc<Socket>,
    limits: Cell<OutboxLimits>,
    /// whose traffic it is, for the metrics
    dialect: Cell<Dialect>,
    /// who closes the connection and with which code, as far as that is known
    end: Cell<(ClosedBy, u16)>,
    state: RefCell<State>,
    /// whether the tick flushes this outbox at its end
    dirty: Cell<bool>,
    /// When a ping or heartbeat is due, and when the session is silent or its token expired.
    pub liveness: Liveness,
    /// The received frames that the session has not handled yet.
    pub(crate) admitted: Admitted,
}

impl Outbox {
    pub(crate) fn new(handle: SessionHandle, socket: Rc<Socket>, limits: OutboxLimits, dialect: Dialect) -> Rc<Self> {
        Rc::new(Self {
            handle,
            socket,
            limits: Cell::new(limits),
            dialect: Cell::new(dialect),
            end: Cell::new((ClosedBy::Nobody, NO_CLOSE_FRAME)),
            state: RefCell::new(State {
                phase: Phase::Open,
                head_out: false,
                queue: Queue::default(),
                awaited: None,
                jammed: false,
            }),
            dirty: Cell::new(false),
            liveness: Liveness::new(tick::clock()),
            admitted: Admitted::default(),
        })
    }

    /// The handle of the session.
    pub fn handle(&self) -> &SessionHandle {
        &self.handle
    }

    /// Replaces the limits.
    pub fn set_limits(&self, limits: OutboxLimits) {
        self.limits.set(limits);
    }

    /// The protocol of the socket.
    pub fn dialect(&self) -> Dialect {
        self.dialect.get()
    }

    /// The socket speaks another protocol from now on.
    pub fn set_dialect(&self, dialect: Dialect) {
        self.dialect.set(dialect);
    }

    /// Who has closed the connection, and with which code.
    pub fn end(&self) -> (ClosedBy, u16) {
        self.end.get()
    }

    /// Whether the outbox still accepts frames.
    pub fn is_open(&self) -> bool {
        self.state.borrow().phase == Phase::Open
    }

    /// Removes and returns the queued bytes, to be sent with the head, if they are at most [`WITH_HEAD`]; else returns none.
    pub(crate) fn take_for_head(&self) -> Vec<u8> {
        let mut state = self.state.borrow_mut();
        if state.phase != Phase::Open {
            return Vec::new();
        }
        let bytes = state.queue.take_first(WITH_HEAD).unwrap_or_default();
        self.handle.release(bytes.len());
        bytes
    }

    /// Says that the 101 head has been sent: queued frames may be written.
    pub(crate) fn head_out(self: &Rc<Self>) {
        self.state.borrow_mut().head_out = true;
        if self.is_done() {
            self.shut_down();
        }
        self.mark_dirty();
    }

    /// Queues a text frame, given in parts. Returns false if the session is closing, or if the backlog would exceed its
    /// limit; then the session is closed as a slow consumer.
    pub fn text(self: &Rc<Self>, parts: &[&[u8]]) -> bool {
        self.send(Opcode::Text, parts)
    }

    /// Queues a frame of any kind; see [`Outbox::text`].
    pub fn send(self: &Rc<Self>, opcode: Opcode, parts: &[&[u8]]) -> bool {
        if !self.is_open() {
            return false;
        }
        let len = wire::frame_len(parts.iter().map(|part| part.len()).sum());
        if !self.handle.reserve(len, self.limits.get().bytes) {
            traffic::dropped(DropReason::SlowConsumer, len);
            self.overrun();
            return false;
        }
        traffic::sent(self.dialect(), 1, len);
        self.append(len, |buffer| wire::put_frame(buffer, opcode, parts));
        self.mark_dirty();
        true
    }

    /// Queues a complete frame whose bytes the sender, on another thread, has reserved.
    pub fn send_reserved(self: &Rc<Self>, frame: Bytes) {
        let mut state = self.state.borrow_mut();
        if state.phase != Phase::Open && state.awaited.is_none() {
            drop(state);
            traffic::dropped(DropReason::ConnectionEnded, frame.len());
            self.handle.release(frame.len());
            return;
        }
        traffic::sent(self.dialect(), 1, frame.len());
        state.queue.append(frame.len(), |buffer| buffer.extend_from_slice(&frame));
        if let Some(awaited) = &mut state.awaited {
            awaited.bytes = awaited.bytes.saturating_sub(frame.len());
            if awaited.bytes == 0 {
                self.queue_close(&mut state);
            }
        }
        drop(state);
        self.mark_dirty();
    }

    /// Sends so many frames that are shared with other sessions: writes them directly if the queue is empty, else queues them
    /// without a copy.
    pub fn send_shared(self: &Rc<Self>, frames: &Bytes, count: usize) {
        let mut rest = frames.clone();
        {
            let state = self.state.borrow();
            match state.phase {
                Phase::Open if state.head_out && state.queue.is_empty() => match self.socket.send(frames) {
                    Ok(taken) if taken == frames.len() => return traffic::sent(self.dialect(), count, taken),
                    Ok(taken) => rest = frames.slice(taken..),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => {
                        drop(state);
                        self.finish();
                        return;
                    }
                },
                Phase::Open => {}
                Phase::Closing { .. } | Phase::Done => return,
            }
        }
        // if a frame is partly written, its rest must follow even beyond the limit
        let started = rest.len() < frames.len();
        if !self.handle.reserve(rest.len(), if started { 0 } else { self.limits.get().bytes }) {
            traffic::dropped(DropReason::SlowConsumer, rest.len());
            self.overrun();
            return;
        }
        traffic::sent(self.dialect(), count, frames.len());
        self.state.borrow_mut().queue.append_shared(rest);
        self.mark_dirty();
    }

    /// Begins the close handshake. The close frame is the last one, after the backlog and after the frames that were
    /// accepted from other threads.
    pub fn close(self: &Rc<Self>, code: CloseCode) {
        self.begin_close(&wire::close(code), false, (ClosedBy::Server, code.code()));
    }

    /// Like [`Outbox::close`], but does not wait for the peer's close frame.
    pub(crate) fn fail(self: &Rc<Self>, code: CloseCode) {
        if self.is_open() {
            self.begin_close(&wire::close(code), true, (ClosedBy::Server, code.code()));
        } else {
            self.peer_closed(&[], NO_CLOSE_FRAME);
        }
    }

    /// Handles the peer's close frame with this code: answers it with `answer`, or completes the handshake that this side began.
    pub(crate) fn peer_closed(self: &Rc<Self>, answer: &[u8], code: u16) {
        let drained = {
            let mut state = self.state.borrow_mut();
            match &mut state.phase {
                Phase::Closing { answered, .. } => {
                    *answered = true;
                    state.queue.is_empty() && state.awaited.is_none()
                }
                _ => false,
            }
        };
        if drained {
            self.finish();
        } else if self.is_open() {
            self.begin_close(answer, true, (ClosedBy::Client, code));
        }
    }

    /// Ends a close handshake that has taken five seconds or more.
    pub fn finish_late_close(&self) {
        let phase = self.state.borrow().phase;
        if let Phase::Closing { since, .. } = phase
            && tick::clock().saturating_sub(since) >= CLOSE_SECS
        {
            self.finish();
        }
    }

    /// Drops the backlog and shuts the socket down. The session's actor sees the end of its stream and stops.
    pub fn finish(&self) {
        self.finish_because(DropReason::ConnectionEnded);
    }

    fn finish_because(&self, reason: DropReason) {
        let mut state = self.state.borrow_mut();
        if state.phase == Phase::Done {
            return;
        }
        state.phase = Phase::Done;
        traffic::dropped(reason, state.queue.len());
        state.queue = Queue::default();
        state.awaited = None;
        self.handle.mark_closed();
        // before the head is sent the connection still speaks HTTP and may have to send a refusal
        if state.head_out {
            self.shut_down();
        }
    }

    /// Like [`Outbox::finish`], but resets the connection. Otherwise a peer that still sends would be blocked for a minute by
    /// the receive window, which the kernel does not open again.
    pub(crate) fn abort(&self) {
        // an error means that the peer has gone already
        let _ = self.socket.set_linger(Some(Duration::ZERO));
        self.finish();
    }

    fn shut_down(&self) {
        // an error means that the peer has gone already
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Whether [`Outbox::finish`] has been called.
    pub(crate) fn is_done(&self) -> bool {
        self.state.borrow().phase == Phase::Done
    }

    /// Writes the backlog. Called only at the end of a tick.
    pub(crate) fn flush(self: &Rc<Self>, scratch: &mut Vec<u8>) {
        self.dirty.set(false);
        {
            let state = self.state.borrow();
            if state.jammed || !state.head_out || state.phase == Phase::Done {
                return;
            }
        }
        match self.write(scratch) {
            Ok(true) => self.drained(),
            Ok(false) => self.wait_for_room(),
            Err(_) => self.finish(),
        }
    }

    /// Writes until the kernel takes no more. Returns true if the queue is empty.
    fn write(&self, scratch: &mut Vec<u8>) -> io::Result<bool> {
        self.state.borrow_mut().queue.write(&self.socket, scratch, |taken| self.handle.release(taken))
    }

    /// Spawns a task that waits until the socket takes more, and cuts a peer that takes nothing for `send_timeout`.
    fn wait_for_room(self: &Rc<Self>) {
        self.state.borrow_mut().jammed = true;
        let outbox = self.clone();
        actix::spawn(async move {
            let Err(error) = outbox.write_when_ready().await else { return };
            tracing::debug!(session = outbox.handle.id(), %error, "peer cut");
            let is_late = error.kind() == io::ErrorKind::TimedOut;
            outbox.finish_because(if is_late { DropReason::SendTimeout } else { DropReason::ConnectionEnded });
        });
    }

    async fn write_when_ready(self: &Rc<Self>) -> io::Result<()> {
        // registered with the runtime only while it waits, with a descriptor of its own for that time
        let ready = TcpStream::from_std(self.socket.try_clone()?.into())?;
        let mut scratch = Vec::new();
        loop {
            if self.limits.get().send_timeout.is_zero() {
                ready.writable().await?;
            } else {
                tokio::time::timeout(self.limits.get().send_timeout, ready.writable()).await.map_err(|_| {
                    io::Error::new(io::ErrorKind::TimedOut, "took nothing for limits.send_timeout_secs")
                })??;
            }
            if self.is_done() {
                return Ok(());
            }
            let written = ready.try_io(Interest::WRITABLE, || match self.write(&mut scratch) {
                Ok(false) => Err(io::ErrorKind::WouldBlock.into()),
                done_or_failed => done_or_failed,
            });
            match written {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.state.borrow_mut().jammed = false;
        self.drained();
        Ok(())
    }

    fn drained(&self) {
        let is_over = {
            let state = self.state.borrow();
            matches!(state.phase, Phase::Closing { answered: true, .. }) && state.awaited.is_none()
        };
        if is_over {
            self.finish();
        }
    }

    /// Closes a slow consumer. The backlog is dropped, so that the peer gets the close frame soon if it reads again.
    pub fn overrun(self: &Rc<Self>) {
        if !self.is_open() {
            return;
        }
        tracing::info!(session = self.handle.id(), "slow consumer closed");
        metrics::refused_for(CloseCode::SlowConsumer.limit());
        let dropped = self.state.borrow_mut().queue.drop_unwritten();
        traffic::dropped(DropReason::SlowConsumer, dropped);
        self.handle.release(dropped);
        self.close(CloseCode::SlowConsumer);
        // accepted frames from other threads belong to the dropped backlog: the close frame does not wait for them
        self.queue_close(&mut self.state.borrow_mut());
    }

    fn begin_close(self: &Rc<Self>, frame: &[u8], answered: bool, end: (ClosedBy, u16)) {
        if !self.is_open() {
            return;
        }
        self.end.set(end);
        let mut state = self.state.borrow_mut();
        state.phase = Phase::Closing { since: tick::clock(), answered };
        let bytes = self.handle.mark_closed() - state.queue.len();
        state.awaited = Some(Awaited { bytes, close: Bytes::copy_from_slice(frame) });
        if bytes == 0 {
            self.queue_close(&mut state);
        }
        drop(state);
        self.mark_dirty();
    }

    /// Queues the close frame, unless that has been done.
    fn queue_close(&self, state: &mut State) {
        let Some(Awaited { close, .. }) = state.awaited.take() else { return };
        // not limited: a slow consumer has used up its budget and still must get its close code
        self.handle.add(close.len());
        state.queue.append(close.len(), |buffer| buffer.extend_from_slice(&close));
    }

    fn append(&self, len: usize, put: impl FnOnce(&mut Vec<u8>)) {
        self.state.borrow_mut().queue.append(len, put);
    }

    fn mark_dirty(self: &Rc<Self>) {
        if !self.dirty.replace(true) {
            tick::at_end(self.clone());
        }
    }
}
