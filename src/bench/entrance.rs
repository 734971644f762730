//! Opens sockets: handshakes, with a limit on concurrent ones, and the exchange until a socket is ready.

use std::{io, ops::Range};

use anyhow::ensure;
use hdrhistogram::Histogram;

use super::{
    engine::{Ended, Engine},
    identities::{Identity, limit},
    meter::{Control, PATIENCE},
    report,
    wire::{Incoming, Protocol},
};
use crate::protocol::close_code::CloseCode;

/// Most concurrent handshakes.
const AT_ONCE: usize = 64;

/// A client and the socket that it opens.
#[derive(Clone)]
pub(super) struct Seat {
    pub identity: Identity,
    /// The path to connect to.
    pub path: String,
    /// The subjects to subscribe to through the socket.
    pub subjects: Vec<String>,
    /// Whether it never reads after the greeting.
    pub is_stalled: bool,
}

impl Seat {
    /// A device that subscribes to these subjects.
    pub(super) fn device(identity: Identity, subjects: Vec<String>) -> Self {
        Self { identity, path: "/ws".to_owned(), subjects, is_stalled: false }
    }
}

/// A socket that is opening or ready.
#[derive(Default)]
struct Place {
    seat: usize,
    opened_at: u64,
    is_ready: bool,
    rest: Vec<u8>,
}

/// The sockets of all seats.
pub(super) struct Entrance {
    protocol: Protocol,
    host: String,
    pub seats: Vec<Seat>,
    /// by socket id
    places: Vec<Place>,
    /// the socket of each seat
    sockets: Vec<Option<usize>>,
    under_way: usize,
    /// Number of sockets that are ready.
    pub ready: usize,
    /// Number of successful handshakes since the beginning.
    pub taken: u64,
    /// Nanoseconds from opening to ready.
    pub handshakes: Histogram<u64>,
}

impl Entrance {
    pub(super) fn new(protocol: Protocol, host: &str, seats: Vec<Seat>) -> anyhow::Result<Self> {
        Ok(Self {
            protocol,
            host: host.to_owned(),
            sockets: vec![None; seats.len()],
            seats,
            places: Vec::new(),
            under_way: 0,
            ready: 0,
            taken: 0,
            handshakes: report::histogram()?,
        })
    }

    /// Opens sockets for the next of these seats, up to the limit of concurrent handshakes.
    pub(super) fn open(&mut self, engine: &mut Engine, seats: &mut Range<usize>) -> io::Result<()> {
        while self.under_way < AT_ONCE
            && let Some(seat) = seats.next()
        {
            let Seat { identity, path, .. } = &self.seats[seat];
            let upgrade = self.protocol.upgrade(&self.host, path, identity.token.as_deref());
            let id = engine.open(Some(upgrade))?;
            if self.places.len() <= id {
                self.places.resize_with(id + 1, Place::default);
            }
            self.places[id] = Place { seat, opened_at: engine.now(), is_ready: false, rest: Vec::new() };
            self.sockets[seat] = Some(id);
            self.under_way += 1;
        }
        Ok(())
    }

    /// Whether this socket belongs to a seat; others are HTTP connections.
    pub(super) fn has(&self, id: usize) -> bool {
        self.places.get(id).is_some_and(|place| self.sockets[place.seat] == Some(id))
    }

    /// The seat of a socket.
    pub(super) fn seat(&self, id: usize) -> usize {
        self.places[id].seat
    }

    /// Whether a socket has been greeted.
    pub(super) fn is_ready(&self, id: usize) -> bool {
        self.places[id].is_ready
    }

    /// The socket of a seat.
    pub(super) fn socket(&self, seat: usize) -> Option<usize> {
        self.sockets[seat]
    }

    /// Takes a socket's incomplete bytes. Return them with [`keep`](Self::keep).
    pub(super) fn rest(&mut self, id: usize) -> Vec<u8> {
        std::mem::take(&mut self.places[id].rest)
    }

    /// Stores the bytes taken with [`rest`](Self::rest).
    pub(super) fn keep(&mut self, id: usize, rest: Vec<u8>) {
        self.places[id].rest = rest;
    }

    /// Handles a frame of the exchange before a socket is ready. Returns whether it was one.
    #[inline]
    pub(super) fn take(&mut self, engine: &mut Engine, id: usize, incoming: &Incoming<'_>) -> bool {
        match incoming {
            Incoming::Ping => {
                engine.send(id, self.protocol.opcode(), self.protocol.pong());
                true
            }
            Incoming::Greeting if !self.places[id].is_ready => {
                let Seat { identity, subjects, .. } = &self.seats[self.places[id].seat];
                match self.protocol.after_greeting(identity.token.as_deref(), subjects) {
                    Some(text) => engine.send(id, self.protocol.opcode(), &text),
                    None => self.is_in(engine, id),
                }
                true
            }
            Incoming::Settled if !self.places[id].is_ready => {
                self.is_in(engine, id);
                true
            }
            _ => false,
        }
    }

    fn is_in(&mut self, engine: &mut Engine, id: usize) {
        let place = &mut self.places[id];
        place.is_ready = true;
        self.ready += 1;
        self.taken += 1;
        self.under_way -= 1;
        self.handshakes.saturating_record(engine.now() - place.opened_at);
        if self.seats[place.seat].is_stalled {
            engine.stall(id);
        }
    }

    /// Closes the socket of a seat.
    pub(super) fn close(&mut self, engine: &mut Engine, seat: usize) {
        if let Some(id) = self.sockets[seat].take() {
            self.left(id);
            engine.drop_socket(id);
        }
    }

    /// Records the end of a socket. Returns its seat.
    pub(super) fn ended(&mut self, id: usize) -> usize {
        self.sockets[self.places[id].seat] = None;
        self.left(id);
        self.places[id].seat
    }

    fn left(&mut self, id: usize) {
        if self.places[id].is_ready {
            self.ready -= 1;
        } else {
            self.under_way -= 1;
        }
    }
}

/// Waits for sockets to open, as long as some do.
pub(super) struct Opening {
    /// all seats
    count: usize,
    ready: usize,
    since: u64,
}

impl Opening {
    pub(super) fn begin(engine: &Engine, count: usize, control: &Control) -> Self {
        control.progress.step("connecting", count);
        Self { count, ready: 0, since: engine.now() }
    }

    /// Shows how many sockets are ready, of which `seats` belong to seats. Fails if none has been for long.
    pub(super) fn check(
        &mut self,
        engine: &Engine,
        seats: usize,
        ready: usize,
        control: &Control,
    ) -> anyhow::Result<()> {
        if ready != self.ready {
            (self.ready, self.since) = (ready, engine.now());
            control.progress.at(seats);
        }
        ensure!(
            engine.now() - self.since <= 10 * PATIENCE,
            "no greeting from the server: {seats} of {} sockets are open",
            self.count
        );
        Ok(())
    }
}

/// Explains why a socket ended, with the key of the limit if one was exceeded.
pub(super) fn explain(ended: &Ended) -> String {
    let (text, key) = match ended {
        Ended::Refused(status, body) => {
            let detail = serde_json::from_str::<serde_json::Value>(body).ok();
            let detail = detail.and_then(|body| Some(body["detail"].as_str()?.to_owned()));
            let text = format!("a socket was refused: {status} {}", detail.as_deref().unwrap_or(body).trim());
            let key = limit(&text).map(str::to_owned);
            (text, key)
        }
        Ended::Closed(code, reason) => {
            let key = [
                (CloseCode::TooBig, "limits.frame_bytes"),
                (CloseCode::SlowConsumer, "limits.outbound_bytes"),
                (CloseCode::RateLimited, "limits.frames_per_second"),
            ];
            let key = key.iter().find(|(close, _)| close.code() == *code).map(|(_, key)| (*key).to_owned());
            (format!("a socket was closed: {code} {reason}"), key)
        }
        Ended::Lost(why) => (format!("a socket was lost: {why}"), None),
    };
    match key {
        Some(key) => format!("{text}; lower the load, raise {key} of that broker, or switch it off with 0"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_ended_a_socket_is_named() {
        let text = explain(&Ended::Closed(4429, "rate limit overrun".to_owned()));
        assert!(text.contains("4429 rate limit overrun") && text.contains("limits.frames_per_second"), "{text}");
        let body = r#"{"detail":"Server is at its limit (limits.connections)","code":"at_limit"}"#;
        let text = explain(&Ended::Refused(503, body.to_owned()));
        assert!(text.contains("503 Server is at its limit") && text.contains("raise limits.connections"), "{text}");
        assert_eq!(explain(&Ended::Lost("gone".to_owned())), "a socket was lost: gone");
    }
}
