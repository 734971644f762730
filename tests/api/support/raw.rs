//! A WebSocket client with full control over frames, for clients that misbehave.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Broker, within};

/// A received frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The text frame's content as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap()
    }

    /// The code of a close frame.
    pub fn close_code(&self) -> Option<u16> {
        (self.opcode == 8).then(|| self.payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]])))
    }
}

/// A connection that sends nothing by itself: neither pongs nor answers to close frames.
pub struct RawSocket {
    pub stream: TcpStream,
}

impl RawSocket {
    /// Connects without sending anything.
    pub async fn connect(broker: &Broker) -> Self {
        Self { stream: within(TcpStream::connect(broker.address())).await.unwrap() }
    }

    /// Connects with a small receive window, so that the broker's send buffer fills up soon if nothing is read.
    pub async fn connect_narrow(broker: &Broker) -> Self {
        let address: std::net::SocketAddr = broker.address().parse().unwrap();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(32 * 1024).unwrap();
        Self { stream: within(socket.connect(address)).await.unwrap() }
    }

    /// A second handle of the same connection, so that one can write while the other reads.
    pub fn split(self) -> (Self, Self) {
        let stream = self.stream.into_std().unwrap();
        let other = stream.try_clone().unwrap();
        (Self { stream: TcpStream::from_std(stream).unwrap() }, Self { stream: TcpStream::from_std(other).unwrap() })
    }

    /// Sends a handshake with additional header lines (each ending in `\r\n`), and reads the answer's head.
    pub async fn handshake(&mut self, path: &str, headers: &str) -> String {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
        );
        self.send(request.as_bytes()).await;
        self.read_head().await
    }

    /// Opens a socket.
    pub async fn open(broker: &Broker, path: &str) -> Self {
        let mut socket = Self::connect(broker).await;
        let head = socket.handshake(path, "").await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        socket
    }

    /// Reads up to the empty line.
    pub async fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within(self.stream.read_u8()).await.expect("the whole head"));
        }
        String::from_utf8(head).unwrap()
    }

    /// Sends bytes without a frame.
    pub async fn send(&mut self, bytes: &[u8]) {
        within(self.stream.write_all(bytes)).await.unwrap();
    }

    /// Sends a masked frame; `first` is its first byte (0x81: a complete text).
    pub async fn send_frame(&mut self, first: u8, payload: &[u8]) {
        let frame = Self::frame(first, payload);
        self.send(&frame).await;
    }

    /// A masked frame, with a mask of zeros.
    pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Self::head(first, payload.len() as u64);
        frame.extend_from_slice(payload);
        frame
    }

    /// The head of a masked frame that declares `len` bytes of payload.
    pub fn head(first: u8, len: u64) -> Vec<u8> {
        let mut head = vec![first];
        match len {
            0..126 => head.push(0x80 | len as u8),
            126..65_536 => {
                head.push(0x80 | 126);
                head.extend_from_slice(&(len as u16).to_be_bytes());
            }
            _ => {
                head.push(0x80 | 127);
                head.extend_from_slice(&len.to_be_bytes());
            }
        }
        head.extend_from_slice(&[0; 4]);
        head
    }

    /// Reads the next frame. `None` if the broker closed the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        within(async {
            let first = self.stream.read_u8().await.ok()?;
            let len = match self.stream.read_u8().await.ok()? {
                126 => self.stream.read_u16().await.ok()?.into(),
                127 => self.stream.read_u64().await.ok()?,
                short => short.into(),
            };
            let mut payload = vec![0; usize::try_from(len).unwrap()];
            self.stream.read_exact(&mut payload).await.ok()?;
            Some(Frame { opcode: first & 0xf, payload })
        })
        .await
    }

    /// Reads until a close frame. Returns its code; `None` if the connection ended without one.
    pub async fn close_code(&mut self) -> Option<u16> {
        while let Some(frame) = self.next().await {
            if let Some(code) = frame.close_code() {
                return Some(code);
            }
        }
        None
    }
}
