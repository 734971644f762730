//! Thousands of sockets on one thread, with as little work as possible, so that the broker is measured and not its clients.
//!
//! Sockets are read into one large buffer, and frames are passed to the handler without a copy. Frames that the handler
//! sends are collected per socket and leave in one write.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};
use slab::Slab;
use socket2::{Domain, SockRef, Socket as RawSocket, Type};

use super::frames::{self, Opcode};

/// Size of the read buffer in bytes.
const BUFFER: usize = 512 * 1024;

/// Largest frame of a benchmark, in bytes.
const MAX_FRAME: usize = BUFFER / 2;

/// The reason why a socket ended.
#[derive(Debug, Clone)]
pub(super) enum Ended {
    /// The handshake was refused: status and body.
    Refused(u16, String),
    /// The server sent a close frame: code and reason.
    Closed(u16, String),
    /// The connection ended otherwise: the reason.
    Lost(String),
}

/// Handles the events of the sockets.
pub(super) trait Handler {
    /// A handshake was accepted, or an HTTP connection established.
    fn opened(&mut self, engine: &mut Engine, id: usize);
    /// A data frame was received.
    fn frame(&mut self, engine: &mut Engine, id: usize, payload: &[u8]);
    /// An HTTP answer was received.
    fn answer(&mut self, engine: &mut Engine, id: usize, status: u16, body: &[u8]);
    /// The socket has ended. Its id may be reused for the next socket.
    fn ended(&mut self, engine: &mut Engine, id: usize, why: Ended);
}

enum Stage {
    Connecting,
    Upgrading,
    WebSocket,
    Http,
}

struct Socket {
    stream: TcpStream,
    stage: Stage,
    /// the handshake; `None` for an HTTP connection
    upgrade: Option<Vec<u8>>,
    /// bytes of an incomplete frame or answer
    rest: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    is_dirty: bool,
    /// the socket is not read
    is_stalled: bool,
}

/// The sockets.
pub(super) struct Engine {
    poll: Poll,
    events: Events,
    sockets: Slab<Socket>,
    /// sockets are opened at each in turn, HTTP connections at the first
    addresses: Vec<SocketAddr>,
    /// how many sockets have been opened
    opened: usize,
    buffer: Vec<u8>,
    dirty: Vec<usize>,
    began: Instant,
    /// Number of bytes read so far.
    pub received: u64,
    /// Nanoseconds spent waiting for the server.
    pub idle: u64,
}

impl Engine {
    /// Creates an engine for the nodes of a server at these addresses; there is at least one.
    pub(super) fn new(addresses: Vec<SocketAddr>) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            sockets: Slab::new(),
            addresses,
            opened: 0,
            buffer: vec![0; BUFFER],
            dirty: Vec::new(),
            began: Instant::now(),
            received: 0,
            idle: 0,
        })
    }

    /// Nanoseconds since the engine was created.
    #[inline]
    pub(super) fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Opens a WebSocket with this handshake, or an HTTP connection if it is `None`. Returns the socket's id.
    pub(super) fn open(&mut self, upgrade: Option<Vec<u8>>) -> io::Result<usize> {
        let turn = if upgrade.is_some() { self.opened } else { 0 };
        let address = self.addresses[turn % self.addresses.len()];
        self.opened += usize::from(upgrade.is_some());
        let raw = RawSocket::new(Domain::for_address(address), Type::STREAM, None)?;
        raw.set_nonblocking(true)?;
        raw.set_tcp_nodelay(true)?;
        // closed with a reset, since connections in TIME_WAIT would use up the ports
        raw.set_linger(Some(Duration::ZERO))?;
        match raw.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(IN_PROGRESS) => {}
            Err(error) => return Err(error),
        }
        let entry = self.sockets.vacant_entry();
        let id = entry.key();
        let mut stream = TcpStream::from_std(raw.into());
        self.poll.registry().register(&mut stream, Token(id), Interest::READABLE | Interest::WRITABLE)?;
        entry.insert(Socket {
            stream,
            stage: Stage::Connecting,
            upgrade,
            rest: Vec::new(),
            out: Vec::new(),
            written: 0,
            is_dirty: false,
            is_stalled: false,
        });
        Ok(id)
    }

    /// Sends a masked frame.
    pub(super) fn send(&mut self, id: usize, opcode: Opcode, payload: &[u8]) {
        if let Some(socket) = self.sockets.get_mut(id) {
            frames::put_masked(&mut socket.out, opcode, payload);
            self.mark(id);
        }
    }

    /// Sends bytes without a frame.
    pub(super) fn send_raw(&mut self, id: usize, bytes: &[u8]) {
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.out.extend_from_slice(bytes);
            self.mark(id);
        }
    }

    /// Stops reading a socket, until [`drain`](Self::drain).
    pub(super) fn stall(&mut self, id: usize) {
        if let Some(socket) = self.sockets.get_mut(id) {
            // a fixed receive buffer, so that the window does not grow while nothing is read
            let _ = SockRef::from(&socket.stream).set_recv_buffer_size(64 * 1024);
            socket.is_stalled = true;
        }
    }

    /// Reads from a stalled socket again.
    pub(super) fn drain(&mut self, id: usize, handler: &mut impl Handler) {
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.is_stalled = false;
            self.readable(id, true, handler);
        }
    }

    /// Closes a socket without calling the handler.
    pub(super) fn drop_socket(&mut self, id: usize) {
        self.sockets.try_remove(id);
    }

    fn mark(&mut self, id: usize) {
        let socket = &mut self.sockets[id];
        if !socket.is_dirty {
            socket.is_dirty = true;
            self.dirty.push(id);
        }
    }

    /// Writes the collected frames, waits for events for at most `timeout`, and handles them.
    pub(super) fn poll(&mut self, timeout: Duration, handler: &mut impl Handler) -> io::Result<()> {
        self.flush(handler);
        let before = self.now();
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        if !timeout.is_zero() || self.events.is_empty() {
            self.idle += self.now() - before;
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let id = event.token().0;
            if event.is_writable() {
                self.writable(id, handler);
            }
            if event.is_readable() || event.is_error() || event.is_read_closed() {
                self.readable(id, event.is_read_closed() || event.is_error(), handler);
            }
        }
        self.events = events;
        self.flush(handler);
        Ok(())
    }

    fn flush(&mut self, handler: &mut impl Handler) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            if let Some(socket) = self.sockets.get_mut(id) {
                socket.is_dirty = false;
                self.write(id, handler);
            }
        }
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    fn write(&mut self, id: usize, handler: &mut impl Handler) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        if matches!(socket.stage, Stage::Connecting) {
            return;
        }
        while socket.written < socket.out.len() {
            match socket.stream.write(&socket.out[socket.written..]) {
                Ok(len) => socket.written += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // the server's last frames may still be in the receive buffer
                Err(error) if error.kind() == ErrorKind::BrokenPipe && !socket.is_stalled => {
                    return self.readable(id, true, handler);
                }
                Err(error) => return self.end(id, Ended::Lost(error.to_string()), handler),
            }
        }
        socket.out.clear();
        socket.written = 0;
    }

    fn writable(&mut self, id: usize, handler: &mut impl Handler) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        if matches!(socket.stage, Stage::Connecting) {
            if let Ok(Some(error)) | Err(error) = socket.stream.take_error() {
                return self.end(id, Ended::Lost(error.to_string()), handler);
            }
            if socket.stream.peer_addr().is_err() {
                return;
            }
            match socket.upgrade.take() {
                Some(upgrade) => {
                    socket.stage = Stage::Upgrading;
                    // the handshake goes before frames that are queued already
                    socket.out.splice(0..0, upgrade);
                }
                None => {
                    socket.stage = Stage::Http;
                    handler.opened(self, id);
                }
            }
        }
        self.write(id, handler);
    }

    /// Reads what is available; with `to_the_end`, until the end of the stream, since no further event will come.
    fn readable(&mut self, id: usize, to_the_end: bool, handler: &mut impl Handler) {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(socket) = self.sockets.get_mut(id) {
            if socket.is_stalled || matches!(socket.stage, Stage::Connecting) {
                break;
            }
            let kept = socket.rest.len();
            buffer[..kept].copy_from_slice(&socket.rest);
            match socket.stream.read(&mut buffer[kept..]) {
                Ok(0) => {
                    self.end(id, Ended::Lost("closed without a close frame".to_owned()), handler);
                    break;
                }
                Ok(len) => {
                    socket.rest.clear();
                    self.received += len as u64;
                    let end = kept + len;
                    let used = self.take(id, &buffer[..end], handler);
                    let Some(socket) = self.sockets.get_mut(id) else { break };
                    socket.rest.extend_from_slice(&buffer[used..end]);
                    if end - used > MAX_FRAME {
                        self.end(id, Ended::Lost("a frame of the server's is too large".to_owned()), handler);
                        break;
                    }
                    // a read that does not fill the buffer has emptied the socket
                    if end < buffer.len() && !to_the_end {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.end(id, Ended::Lost(error.to_string()), handler);
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    /// Passes complete frames and answers to the handler. Returns the number of bytes used.
    fn take(&mut self, id: usize, bytes: &[u8], handler: &mut impl Handler) -> usize {
        let mut used = 0;
        loop {
            let Some(socket) = self.sockets.get_mut(id) else { return used };
            let len = match socket.stage {
                Stage::Connecting => 0,
                Stage::Upgrading => self.upgraded(id, &bytes[used..], handler),
                Stage::WebSocket => return used + self.take_frames(id, &bytes[used..], handler),
                Stage::Http => match answer(&bytes[used..]) {
                    Some((len, status, body)) => {
                        handler.answer(self, id, status, body);
                        len
                    }
                    None => 0,
                },
            };
            if len == 0 {
                return used;
            }
            used += len;
        }
    }

    fn upgraded(&mut self, id: usize, bytes: &[u8], handler: &mut impl Handler) -> usize {
        if bytes.starts_with(b"HTTP/1.1 101") {
            let Some(head) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return 0 };
            self.sockets[id].stage = Stage::WebSocket;
            handler.opened(self, id);
            return head + 4;
        }
        let Some((len, status, body)) = answer(bytes) else { return 0 };
        self.end(id, Ended::Refused(status, String::from_utf8_lossy(body).into_owned()), handler);
        len
    }

    fn take_frames(&mut self, id: usize, bytes: &[u8], handler: &mut impl Handler) -> usize {
        let mut used = 0;
        while let Some(head) = frames::head(&bytes[used..]) {
            let begin = used + head.len;
            let Some(payload) = bytes.get(begin..begin + head.payload) else { return used };
            used = begin + head.payload;
            match head.opcode {
                1 | 2 => handler.frame(self, id, payload),
                9 => self.send(id, Opcode::Pong, payload),
                8 => {
                    let code = payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
                    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
                    self.end(id, Ended::Closed(code, reason), handler);
                    return used;
                }
                _ => {}
            }
        }
        used
    }

    fn end(&mut self, id: usize, why: Ended, handler: &mut impl Handler) {
        if self.sockets.try_remove(id).is_some() {
            handler.ended(self, id, why);
        }
    }
}

/// The error of a connect that continues in the background (POSIX `EINPROGRESS`).
const IN_PROGRESS: i32 = if cfg!(target_os = "linux") { 115 } else { 36 };

/// The HTTP answer at the beginning of the bytes: its length, status and body. `None` if it is incomplete.
fn answer(bytes: &[u8]) -> Option<(usize, u16, &[u8])> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")?;
    let text = std::str::from_utf8(&bytes[..head]).ok()?;
    let status = text.get(9..12)?.parse().ok()?;
    let len = text.split("\r\n").skip(1).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let begin = head + 4;
    let end = begin + len.unwrap_or(0);
    Some((end, status, bytes.get(begin..end)?))
}

#[cfg(test)]
mod tests {
    use super::answer;

    #[test]
    fn an_http_answer_is_taken_when_it_is_complete() {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1";
        assert_eq!(answer(bytes), Some((40, 200, &b"ok"[..])));
        assert_eq!(answer(&bytes[..39]), None);
        assert_eq!(answer(&bytes[..20]), None);
        assert_eq!(answer(b"HTTP/1.1 404 Not Found\r\n\r\n"), Some((26, 404, &b""[..])));
    }
}
