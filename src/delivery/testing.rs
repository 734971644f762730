//! Sessions for tests of actors. The test's thread is their only worker. The test reads a session's frames from the other
//! end of its socket.

use std::{rc::Rc, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use uuid::Uuid;

use super::{Outbox, Relays, SessionHandle, insert, tick};
use crate::{
    clock::Clock,
    domain::{
        accounts::{Account, Authenticated},
        liveness::Periods,
    },
    settings,
};

/// Makes this thread the only worker, and ends its ticks.
pub(crate) fn worker() -> Arc<Relays> {
    let relays = Relays::new(1, &settings::built_in().limits, Clock::default());
    let never = u32::MAX;
    relays.start_worker(Periods { ping: never, silence: never, heartbeat: never }).unwrap();
    actix::spawn(tick::run());
    relays
}

/// A verified token of an account.
pub(crate) fn token(account: &Account) -> Authenticated {
    let expires_at = DateTime::<Utc>::MAX_UTC;
    Authenticated { account: Arc::new(account.clone()), jti: Uuid::new_v4(), family: Uuid::new_v4(), expires_at }
}

/// A session and the other end of its socket.
pub(crate) struct Peer {
    pub(crate) session: SessionHandle,
    socket: TcpStream,
    received: Vec<u8>,
}

impl Peer {
    /// Creates a session with this token.
    pub(crate) async fn with(token: Authenticated) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let own = listener.accept().await.unwrap().0.into_std().unwrap();
        let limits = Relays::new(1, &settings::built_in().limits, Clock::default()).outbox_limits();
        let outbox = insert(|worker, key| {
            Outbox::new(
                SessionHandle::new(worker, key, Clock::default().now()),
                Rc::new(own.into()),
                limits,
                crate::metrics::labels::Dialect::Device,
            )
        });
        outbox.head_out();
        let session = outbox.handle().clone();
        session.exchange(token);
        Self { session, socket, received: Vec::new() }
    }

    /// Creates a session of this account.
    pub(crate) async fn of(account: &Account) -> Self {
        Self::with(token(account)).await
    }

    /// Waits for the next frame. Returns its text, or for a close frame a text such as `close 4401`.
    pub(crate) async fn next(&mut self) -> String {
        loop {
            if let Some(frame) = self.take() {
                return frame;
            }
            let mut chunk = [0; 4096];
            let read = timeout(Duration::from_secs(60), self.socket.read(&mut chunk)).await;
            let read = read.expect("a frame comes").unwrap();
            assert!(read > 0, "the connection ended");
            self.received.extend_from_slice(&chunk[..read]);
        }
    }

    /// Waits for the next text frame and parses it as JSON.
    pub(crate) async fn json(&mut self) -> Value {
        let frame = self.next().await;
        serde_json::from_str(&frame).unwrap_or_else(|_| panic!("expected JSON, got {frame}"))
    }

    /// Removes the first frame from the received bytes, if it is complete.
    fn take(&mut self) -> Option<String> {
        let (head, length) = match *self.received.get(1)? {
            126 => (4, usize::from(u16::from_be_bytes(self.received.get(2..4)?.try_into().unwrap()))),
            127 => panic!("a larger frame than any test sends"),
            length => (2, usize::from(length)),
        };
        self.received.get(..head + length)?;
        let frame: Vec<u8> = self.received.drain(..head + length).collect();
        let payload = &frame[head..];
        match frame[0] & 0x0f {
            1 => Some(String::from_utf8(payload.to_vec()).unwrap()),
            8 => Some(format!("close {}", u16::from_be_bytes(payload[..2].try_into().unwrap()))),
            other => panic!("unexpected frame of type {other}"),
        }
    }
}
