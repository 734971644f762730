//! The stream under the HTTP parser, which gives the parser one request at a time.
//!
//! The parser decodes all that it has read, and decoded requests take up a hundred times the memory of their bytes: a client
//! that sends many requests in one go and reads no answer would have each of its connections hold megabytes. It also takes
//! the body of a later request for an unread one of the request that it answers, and closes the connection. So it gets the
//! next request when the one before is answered, a body as it is read, and nothing while the client takes no answers.
//! Requests of one connection are answered one after the other in any case.

mod pace;
mod window;

use std::{
    fmt, io,
    mem::MaybeUninit,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_web::rt::net::TcpStream;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(super) use self::pace::Pace;

/// Bytes that are read ahead while a request is being answered, to notice when the client leaves.
const AHEAD: usize = 2048;

/// A TCP connection whose [`Pace`] decides when it is read.
pub(crate) struct PacedStream {
    tcp: TcpStream,
    pace: Rc<Pace>,
    /// has been read, and is kept until the window opens
    kept: BytesMut,
}

impl fmt::Debug for PacedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacedStream").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

impl PacedStream {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self { tcp, pace: Rc::default(), kept: BytesMut::new() }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub(super) fn pace(&self) -> Rc<Pace> {
        self.pace.clone()
    }

    /// Gives the parser what it may have of what is kept.
    fn give_kept(&mut self, buffer: &mut ReadBuf<'_>) {
        let given = self.pace.give(&self.kept[..self.kept.len().min(buffer.remaining())]);
        buffer.put_slice(&self.kept.split_to(given));
        if self.kept.is_empty() {
            self.kept = BytesMut::new();
        }
    }

    /// Reads a little while the parser may have nothing. Ready: the client has left.
    fn poll_ahead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.kept.is_empty() {
            let mut ahead = [MaybeUninit::uninit(); AHEAD];
            let mut ahead = ReadBuf::uninit(&mut ahead);
            match Pin::new(&mut self.tcp).poll_read(context, &mut ahead) {
                Poll::Ready(Ok(())) if !ahead.filled().is_empty() => self.kept.extend_from_slice(ahead.filled()),
                Poll::Pending => {
                    self.pace.end_turn();
                    return Poll::Pending;
                }
                ended @ Poll::Ready(_) => return ended,
            }
        }
        self.pace.wait(context);
        Poll::Pending
    }
}

impl AsyncRead for PacedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.pace.is_open() {
            return this.poll_ahead(context);
        }
        if !this.kept.is_empty() {
            this.give_kept(buffer);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.tcp).poll_read(context, buffer);
        if read.is_pending() {
            this.pace.end_turn();
        } else {
            let next = &buffer.filled()[before..];
            let given = this.pace.give(next);
            this.kept.extend_from_slice(&next[given..]);
            buffer.set_filled(before + given);
        }
        read
    }
}

impl AsyncWrite for PacedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(context, bytes);
        self.pace.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(context, slices);
        self.pace.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}
