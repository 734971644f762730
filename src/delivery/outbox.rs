//! The way out of a session, past the HTTP response body.
//!
//! The body carries the 101 head and the greeting. Every frame after them is written to a duplicate of the connection's
//! socket: what is queued while a worker's tick runs goes out in one non-blocking write at its end, and what the kernel
//! does not take waits here, counted to the byte. So a peer that does not read never jams its session's actor, and the slow-consumer
//! rule is one comparison (contract section 10, `outbound_bytes`).

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
    protocol::{
        close_code::CloseCode,
        wire::{self, Opcode},
    },
};

/// Bytes that may go out with the head: the kernel takes them whole, since nothing else waits for the socket.
const WITH_HEAD: usize = 1024;

/// Seconds a closing handshake may take, the writing of what was queued before it included.
const CLOSE_SECS: u32 = 5;

/// What bounds an outbox.
#[derive(Debug, Clone, Copy)]
pub struct OutboxLimits {
    /// `limits.outbound_bytes`; 0 is none.
    pub bytes: usize,
    /// `limits.send_timeout_secs`; zero is none.
    pub send_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// a close frame is queued, or waits for frames that were handed over before; nothing comes after it
    Closing {
        since: u32,
        /// the peer's close frame has been seen
        answered: bool,
    },
    Done,
}

struct State {
    phase: Phase,
    /// the 101 head is out; until then everything waits
    head_out: bool,
    queue: Queue,
    /// what the close frame waits for
    awaited: Option<Awaited>,
    /// a task waits for the socket to take more
    jammed: bool,
}

/// Frames from other threads that were under way when the session began to close. Their senders count them as delivered, so
/// they go out before the close frame.
struct Awaited {
    bytes: usize,
    close: Bytes,
}

/// One session's queue to its socket. Lives on its worker's thread.
pub struct Outbox {
    handle: SessionHandle,
    /// a duplicate of the connection's
    socket: Rc<Socket>,
    limits: Cell<OutboxLimits>,
    state: RefCell<State>,
    /// it is in the tick's list already
    dirty: Cell<bool>,
    /// When to ping it and when to give it up.
    pub liveness: Liveness,
    /// What the session still has to handle of what its peer sent.
    pub(crate) admitted: Admitted,
}

impl Outbox {
    pub(crate) fn new(handle: SessionHandle, socket: Rc<Socket>, limits: OutboxLimits) -> Rc<Self> {
        Rc::new(Self {
            handle,
            socket,
            limits: Cell::new(limits),
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

    /// The session it belongs to.
    pub fn handle(&self) -> &SessionHandle {
        &self.handle
    }

    /// Other limits hold from now on.
    pub fn set_limits(&self, limits: OutboxLimits) {
        self.limits.set(limits);
    }

    /// Whether it still takes frames.
    pub fn is_open(&self) -> bool {
        self.state.borrow().phase == Phase::Open
    }

    /// Gives what is queued so far to go out with the head, if it is little; else nothing.
    pub(crate) fn take_for_head(&self) -> Vec<u8> {
        let mut state = self.state.borrow_mut();
        if state.phase != Phase::Open {
            return Vec::new();
        }
        let bytes = state.queue.take_first(WITH_HEAD).unwrap_or_default();
        self.handle.release(bytes.len());
        bytes
    }

    /// The 101 head is out: frames may follow.
    pub(crate) fn head_out(self: &Rc<Self>) {
        self.state.borrow_mut().head_out = true;
        if self.is_done() {
            self.shut_down();
        }
        self.mark_dirty();
    }

    /// Queues a text frame. False: the session takes no more, or this was more than it may have waiting.
    pub fn text(self: &Rc<Self>, parts: &[&[u8]]) -> bool {
        self.send(Opcode::Text, parts)
    }

    /// Queues a frame; see [`Outbox::text`].
    pub fn send(self: &Rc<Self>, opcode: Opcode, parts: &[&[u8]]) -> bool {
        if !self.is_open() {
            return false;
        }
        let len = wire::frame_len(parts.iter().map(|part| part.len()).sum());
        if !self.handle.reserve(len, self.limits.get().bytes) {
            self.overrun();
            return false;
        }
        self.append(len, |buffer| wire::put_frame(buffer, opcode, parts));
        self.mark_dirty();
        true
    }

    /// Queues a finished frame whose bytes have been reserved by its sender on another thread.
    pub fn send_reserved(self: &Rc<Self>, frame: Bytes) {
        let mut state = self.state.borrow_mut();
        if state.phase != Phase::Open && state.awaited.is_none() {
            drop(state);
            self.handle.release(frame.len());
            return;
        }
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

    /// Hands over frames that others get, too: written at once where nothing waits, else queued without a copy.
    pub fn send_shared(self: &Rc<Self>, frames: &Bytes) {
        let mut rest = frames.clone();
        {
            let state = self.state.borrow();
            match state.phase {
                Phase::Open if state.head_out && state.queue.is_empty() => match self.socket.send(frames) {
                    Ok(taken) if taken == frames.len() => return,
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
        // the first bytes of a frame may be out: the rest must follow whatever the budget says
        let started = rest.len() < frames.len();
        if !self.handle.reserve(rest.len(), if started { 0 } else { self.limits.get().bytes }) {
            self.overrun();
            return;
        }
        self.state.borrow_mut().queue.append_shared(rest);
        self.mark_dirty();
    }

    /// Queues a close frame after all that waits, and after what other threads have handed over; nothing comes after it.
    pub fn close(self: &Rc<Self>, code: CloseCode) {
        self.begin_close(&wire::close(code), false);
    }

    /// As [`Outbox::close`], without waiting for the peer's close frame.
    pub(crate) fn fail(self: &Rc<Self>, code: CloseCode) {
        if self.is_open() {
            self.begin_close(&wire::close(code), true);
        } else {
            self.peer_closed(&[]);
        }
    }

    /// Answers the peer's close frame, or takes it as the answer to ours.
    pub(crate) fn peer_closed(self: &Rc<Self>, answer: &[u8]) {
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
            self.begin_close(answer, true);
        }
    }

    /// Ends a closing handshake that takes too long.
    pub fn finish_late_close(&self) {
        let phase = self.state.borrow().phase;
        if let Phase::Closing { since, .. } = phase
            && tick::clock().saturating_sub(since) >= CLOSE_SECS
        {
            self.finish();
        }
    }

    /// Shuts the socket down, whatever waits. The session's actor sees the end of its stream and stops.
    pub fn finish(&self) {
        let mut state = self.state.borrow_mut();
        if state.phase == Phase::Done {
            return;
        }
        state.phase = Phase::Done;
        state.queue = Queue::default();
        state.awaited = None;
        self.handle.mark_closed();
        // before the head is out the connection still speaks HTTP, and may have a refusal to deliver
        if state.head_out {
            self.shut_down();
        }
    }

    /// As [`Outbox::finish`], and the connection is reset. A peer that still sends would otherwise be held by the receive
    /// window, which the kernel does not open again, for a minute.
    pub(crate) fn abort(&self) {
        // fails when the peer is gone already, which is all we want
        let _ = self.socket.set_linger(Some(Duration::ZERO));
        self.finish();
    }

    fn shut_down(&self) {
        // fails when the peer is gone already, which is all we want
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Whether [`Outbox::finish`] has been called.
    pub(crate) fn is_done(&self) -> bool {
        self.state.borrow().phase == Phase::Done
    }

    /// Writes what waits. Called by the tick alone.
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

    /// Writes until the kernel takes no more. True: nothing is left.
    fn write(&self, scratch: &mut Vec<u8>) -> io::Result<bool> {
        self.state.borrow_mut().queue.write(&self.socket, scratch, |taken| self.handle.release(taken))
    }

    /// Waits in a task of its own until the socket takes more; cuts a peer that takes nothing for too long.
    fn wait_for_room(self: &Rc<Self>) {
        self.state.borrow_mut().jammed = true;
        let outbox = self.clone();
        actix::spawn(async move {
            let Err(error) = outbox.write_when_ready().await else { return };
            tracing::debug!(session = outbox.handle.id(), %error, "peer cut");
            outbox.finish();
        });
    }

    async fn write_when_ready(self: &Rc<Self>) -> io::Result<()> {
        // registered with the runtime only as long as it waits, so a descriptor of its own for that time
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

    /// More waits than may: the backlog goes, so that the peer, should it ever read again, learns why it was closed.
    pub fn overrun(self: &Rc<Self>) {
        if !self.is_open() {
            return;
        }
        tracing::info!(session = self.handle.id(), "slow consumer closed");
        let dropped = self.state.borrow_mut().queue.drop_unwritten();
        self.handle.release(dropped);
        self.close(CloseCode::SlowConsumer);
        // what is still under way belongs to the backlog
        self.queue_close(&mut self.state.borrow_mut());
    }

    fn begin_close(self: &Rc<Self>, frame: &[u8], answered: bool) {
        if !self.is_open() {
            return;
        }
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

    /// Queues the close frame, if it waits still.
    fn queue_close(&self, state: &mut State) {
        let Some(Awaited { close, .. }) = state.awaited.take() else { return };
        // beyond the budget: without it a slow consumer would never learn why
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
