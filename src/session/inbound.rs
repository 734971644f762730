//! The guard on a session's incoming bytes.
//!
//! The framework's decoder checks a frame's length only when the whole frame is in memory. The guard reads frame heads in the
//! payload stream and refuses a frame by its declared length (1009) or by the number of frames (4429). After a refusal it
//! drops all further input; the session handles the frames admitted before, then closes. While the session is closing, the
//! guard only looks for the peer's close frame.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use actix_web::{dev::Payload, error::PayloadError};
use bytes::Bytes;
use futures_util::Stream;

use crate::{
    clock::Clock,
    delivery::{Outbox, tick},
    domain::rate_limit::TokenBucket,
    metrics::errors::error_frame,
    metrics::{self, traffic},
    protocol::{
        close_code::{CloseCode, NO_CODE},
        error_code::ErrorCode,
        inspect::{Head, Inspector},
        outbound::About,
    },
    settings::Limits,
};

/// Most bytes that are read and dropped while waiting for the peer's close frame, before the connection is reset.
const MAX_DISCARDED: usize = 4 * 1024 * 1024;

/// The payload stream with the guard; see the module.
pub struct Guard {
    payload: Payload,
    outbox: Rc<Outbox>,
    inspector: Inspector,
    frame_bytes: u64,
    /// declared bytes of the current message's frames so far
    message: u64,
    rate: TokenBucket,
    warned: bool,
    /// number of dropped bytes
    discarded: usize,
    clock: Clock,
}

impl Guard {
    pub(super) fn new(payload: Payload, outbox: Rc<Outbox>, limits: &Limits, clock: Clock) -> Self {
        Self {
            payload,
            outbox,
            inspector: Inspector::default(),
            frame_bytes: if limits.frame_bytes == 0 { u64::MAX } else { limits.frame_bytes as u64 },
            message: 0,
            rate: TokenBucket::new(limits.frames_per_second, limits.frames_burst, Instant::now()),
            warned: false,
            discarded: 0,
            clock,
        }
    }

    /// Inspects a chunk. Returns the number of bytes that may pass.
    fn inspect(&mut self, chunk: &[u8]) -> usize {
        let now = Instant::now();
        let mut position = 0;
        let (mut frames, mut passing) = (0, self.outbox.is_open() && !self.outbox.admitted.is_refusing());
        let mut pass = if passing { chunk.len() } else { 0 };
        while let Some(head) = self.inspector.next(chunk, &mut position) {
            frames += 1;
            if passing {
                match self.admit(head, now) {
                    Ok(()) => self.outbox.admitted.admit(),
                    Err(code) => {
                        passing = false;
                        pass = head.offset;
                        metrics::refused_for(code.limit());
                        if self.outbox.admitted.refuse(code) {
                            self.outbox.close(code);
                        }
                    }
                }
            }
            if !passing && head.is_close() && !self.outbox.is_open() {
                self.outbox.peer_closed(&[], NO_CODE);
            }
        }
        traffic::received(self.outbox.dialect(), frames, chunk.len());
        pass
    }

    /// Decides whether a frame may pass. The error is the code to close the session with.
    fn admit(&mut self, head: Head, now: Instant) -> Result<(), CloseCode> {
        if !head.is_control() {
            self.message = self.message.saturating_add(head.len);
        }
        if head.len.max(self.message) > self.frame_bytes {
            return Err(CloseCode::TooBig);
        }
        if head.fin && !head.is_control() {
            self.message = 0;
        }
        if self.rate.take(now) {
            return Ok(());
        }
        if self.warned {
            return Err(CloseCode::RateLimited);
        }
        self.warned = true;
        let text = "Rate limit exceeded, slow down (limits.frames_per_second)";
        let error = error_frame(ErrorCode::RateLimited, text, About::default(), self.clock.now());
        self.outbox.text(&[error.as_bytes()]);
        Ok(())
    }
}

impl Stream for Guard {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            // an error of the connection counts as its end, since no answer could reach the peer
            let Some(Ok(mut chunk)) = ready!(Pin::new(&mut self.payload).poll_next(context)) else {
                return Poll::Ready(None);
            };
            self.outbox.liveness.heard(tick::clock());
            let pass = self.inspect(&chunk);
            self.discarded += chunk.len() - pass;
            if self.discarded > MAX_DISCARDED {
                self.outbox.abort();
            }
            if pass > 0 {
                chunk.truncate(pass);
                return Poll::Ready(Some(Ok(chunk)));
            }
        }
    }
}
