//! The stream under the HTTP parser, which gives the parser one request at a time.
//!
//! The parser decodes all that it has read, and decoded requests take up a hundred times the memory of their bytes: a client
//! that sends many requests in one go and reads no answer would have each of its connections hold megabytes. It also takes
//! the body of a later request for an unread one of the request that it answers, and closes the connection. So it gets the
//! next request when the one before is answered, a body as it is read, and nothing while the client takes no answers.
//! Requests of one connection are answered one after the other in any case.

use std::{
    cell::{Cell, RefCell},
    fmt, io,
    mem::MaybeUninit,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use actix_web::rt::net::TcpStream;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that the parser gets at a time.
const MAX_BYTES: usize = 16 * 1024;

/// Bytes that are read ahead while a request is being answered, to notice when the client leaves.
const AHEAD: usize = 2048;

/// Finds the end of a request in the bytes that are given to the parser.
///
/// It need not be exact: the parser alone decides what a request is. Where this is wrong, the parser has to ask for more of
/// a body, or gets the next request together with the end of this one.
#[derive(Debug, Default)]
struct Window {
    /// all of the request has been given, or as much of it as can be told
    is_closed: bool,
    /// bytes given since the window was opened
    given: usize,
    /// the line that has begun has other characters than CR
    in_line: bool,
    /// a line has been given since the last empty one
    after_line: bool,
    /// what is given next is the body of a request that does not declare its length
    in_body: bool,
    /// as the lines of the head declare it
    length: usize,
    /// bytes of the declared body that are still to be given
    body: usize,
}

impl Window {
    fn is_open(&self) -> bool {
        !self.is_closed && self.given < MAX_BYTES
    }

    fn open_for_request(&mut self) {
        (self.is_closed, self.given, self.in_body) = (false, 0, false);
    }

    fn open_for_body(&mut self) {
        (self.is_closed, self.given, self.in_body) = (false, 0, self.body == 0);
    }

    /// The length of the part that the parser may have now of bytes that come next. It counts as given.
    fn give(&mut self, next: &[u8]) -> usize {
        let next = &next[..next.len().min(MAX_BYTES - self.given)];
        let given = if self.body > 0 { self.give_body(next) } else { self.give_lines(next) };
        self.given += given;
        given
    }

    fn give_body(&mut self, next: &[u8]) -> usize {
        let given = next.len().min(self.body);
        self.body -= given;
        self.is_closed = self.body == 0;
        given
    }

    fn give_lines(&mut self, next: &[u8]) -> usize {
        let mut begin = 0;
        for end in memchr::memchr_iter(b'\n', next) {
            let line = &next[begin..end];
            begin = end + 1;
            if self.in_line || !matches!(line, b"" | b"\r") {
                if !self.in_line && !self.in_body {
                    self.length = content_length(line).unwrap_or(self.length);
                }
                (self.in_line, self.after_line) = (false, true);
            } else if std::mem::take(&mut self.after_line) {
                self.body = std::mem::take(&mut self.length);
                if self.body > 0 {
                    return begin + self.give_body(&next[begin..]);
                }
                self.is_closed = true;
                return begin;
            }
        }
        self.in_line |= !matches!(&next[begin..], b"" | b"\r");
        next.len()
    }
}

/// The length that a line of a head declares for the body.
fn content_length(line: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let value = line.get(NAME.len()..).filter(|_| line[..NAME.len()].eq_ignore_ascii_case(NAME))?;
    str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
}

/// How far the requests of one connection have come; decides when more of them are read.
#[derive(Debug, Default)]
pub(super) struct Pace {
    window: RefCell<Window>,
    /// requests that are being answered
    requests: Cell<u32>,
    /// the handler waits for more of the request's body
    wants_body: Cell<bool>,
    /// the parser reads, and has not run since it began to
    in_turn: Cell<bool>,
    /// the client takes no more bytes at present
    is_blocked: Cell<bool>,
    /// it is a WebSocket: everything is read
    is_upgraded: Cell<bool>,
    /// the connection's task, if it waits for the window to open
    waiting: RefCell<Option<Waker>>,
}

impl Pace {
    /// Requests that are being answered.
    pub(super) fn requests(&self) -> u32 {
        self.requests.get()
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.is_upgraded.get()
    }

    /// Whether the handler waits for more of the request's body.
    pub(super) fn wants_body(&self, wants: bool) {
        self.wants_body.set(wants);
        if wants {
            self.wake();
        }
    }

    /// A request is being answered, or one more owner keeps it so.
    pub(super) fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    /// The opposite of [`begin`](Self::begin).
    pub(super) fn end(&self) {
        self.requests.set(self.requests.get() - 1);
        if self.requests.get() == 0 {
            self.wants_body.set(false);
            self.wake();
        }
    }

    /// The connection is a WebSocket from now on.
    pub(super) fn upgrade(&self) {
        self.is_upgraded.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(task) = self.waiting.take() {
            task.wake();
        }
    }

    /// Whether the parser may have more now.
    fn is_open(&self) -> bool {
        if self.is_upgraded.get() {
            return true;
        }
        if self.is_blocked.get() {
            return false;
        }
        if !self.in_turn.replace(true) {
            // the parser has run: of what it was given it holds nothing but the beginning of a head
            if self.requests.get() == 0 {
                self.window.borrow_mut().open_for_request();
            } else if self.wants_body.get() {
                self.window.borrow_mut().open_for_body();
            }
        }
        self.window.borrow().is_open()
    }

    /// The task is woken when the window may be open again.
    fn wait(&self, context: &Context<'_>) {
        self.in_turn.set(false);
        if self.requests.get() == 0 && !self.is_blocked.get() {
            // after the parser has run
            context.waker().wake_by_ref();
        } else {
            self.waiting.replace(Some(context.waker().clone()));
        }
    }

    fn written<T>(&self, result: Poll<T>) -> Poll<T> {
        if self.is_blocked.replace(result.is_pending()) && result.is_ready() {
            self.wake();
        }
        result
    }
}

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

    /// The part of the next bytes that the parser may have.
    fn give(&self, next: &[u8]) -> usize {
        if self.pace.is_upgraded() { next.len() } else { self.pace.window.borrow_mut().give(next) }
    }

    /// Gives the parser what it may have of what is kept.
    fn give_kept(&mut self, buffer: &mut ReadBuf<'_>) {
        let given = self.give(&self.kept[..self.kept.len().min(buffer.remaining())]);
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
                    self.pace.in_turn.set(false);
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
            this.pace.in_turn.set(false);
        } else {
            let next = &buffer.filled()[before..];
            let given = this.give(next);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of the bytes that the parser gets, one request each.
    fn requests(bytes: &str) -> Vec<&str> {
        let (mut window, mut rest, mut given) = (Window::default(), bytes, Vec::new());
        while !rest.is_empty() {
            window.open_for_request();
            let part = window.give(rest.as_bytes());
            given.push(&rest[..part]);
            rest = &rest[part..];
        }
        given
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: broker\r\n\r\n";
    const POST: &str = "POST / HTTP/1.1\r\ncontent-LENGTH: 9\r\nHost: broker\r\n\r\n\r\n\r\n\n\nabc";

    #[test]
    fn a_request_ends_with_its_head_or_after_the_body_that_it_declares() {
        for request in [GET, POST, "GET / HTTP/1.1\n\n", "GET / HTTP/1.1\n\r\n", "\r\n\n\r\nGET / HTTP/1.1\r\n\r\n"] {
            assert_eq!(requests(&request.repeat(3)), [request; 3]);
        }
    }

    #[test]
    fn the_end_of_a_request_is_found_wherever_its_bytes_are_split() {
        let both = [GET, POST, GET].concat();
        for split in 0..=both.len() {
            let (mut window, mut given) = (Window::default(), 0);
            for end in [split, both.len()] {
                while given < end {
                    window.open_for_request();
                    given += window.give(&both.as_bytes()[given..end]);
                }
            }
            assert!(window.is_closed && window.body == 0, "split at {split}: {window:?}");
        }
    }

    #[test]
    fn a_body_of_unknown_length_is_given_up_to_an_empty_line_whatever_its_lines_say() {
        let mut window = Window::default();
        let head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(window.give(head), head.len());
        assert!(!window.is_open());
        window.open_for_body();
        let body = b"16\r\nContent-Length: 1000\r\n\r\n";
        assert_eq!(window.give(&[body, GET.as_bytes()].concat()), body.len());
        assert!(!window.is_open());
    }

    #[test]
    fn a_large_body_is_given_in_pieces() {
        let mut window = Window::default();
        let head = b"POST / HTTP/1.1\r\nContent-Length: 40000\r\n\r\n";
        let request = [head, [b'\n'; 40_000].as_slice(), GET.as_bytes()].concat();
        assert_eq!(window.give(&request), MAX_BYTES);
        let mut given = MAX_BYTES;
        while !window.is_closed {
            assert!(!window.is_open());
            window.open_for_body();
            given += window.give(&request[given..]);
        }
        assert_eq!(given, request.len() - GET.len());
    }

    /// Gives the parser one request.
    fn give_request(pace: &Pace) {
        assert!(pace.is_open());
        assert_eq!(pace.window.borrow_mut().give(GET.as_bytes()), GET.len());
        assert!(!pace.is_open());
        pace.wait(&Context::from_waker(Waker::noop()));
    }

    #[test]
    fn the_next_request_is_read_when_the_one_before_has_been_answered() {
        let pace = Pace::default();
        give_request(&pace);
        pace.begin();
        assert!(!pace.is_open());
        pace.wait(&Context::from_waker(Waker::noop()));
        assert!(pace.waiting.borrow().is_some());
        pace.end();
        assert!(pace.waiting.borrow().is_none());
        give_request(&pace);
    }

    #[test]
    fn more_is_read_while_the_handler_waits_for_the_body() {
        let pace = Pace::default();
        give_request(&pace);
        pace.begin();
        pace.wants_body(true);
        pace.wants_body(false);
        assert!(!pace.is_open());
        pace.wait(&Context::from_waker(Waker::noop()));
        pace.wants_body(true);
        assert!(pace.waiting.borrow().is_none());
        give_request(&pace);
    }

    #[test]
    fn nothing_is_read_while_the_client_takes_no_bytes() {
        let pace = Pace::default();
        assert!(pace.written::<()>(Poll::Pending).is_pending());
        assert!(!pace.is_open());
        pace.wait(&Context::from_waker(Waker::noop()));
        assert!(pace.waiting.borrow().is_some());
        assert!(pace.written(Poll::Ready(())).is_ready());
        assert!(pace.waiting.borrow().is_none());
        give_request(&pace);
    }

    #[test]
    fn everything_is_read_of_a_websocket() {
        let pace = Pace::default();
        give_request(&pace);
        pace.begin();
        pace.upgrade();
        pace.written::<()>(Poll::Pending).is_pending().then_some(()).unwrap();
        assert!(pace.is_open());
    }
}
