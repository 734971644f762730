//! The floor under every broker on this machine: one thread that takes frames apart, looks up whom they are for, and sends
//! them on. It speaks as much of Switchboard's protocol as `switchboard bench` needs, and does nothing else: no limits, no
//! storage, no log, no checks beyond the token's signature.
//!
//!     cargo run --profile dist --example floor -- 9001
//!     switchboard bench fanout --url http://127.0.0.1:9001

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    ops::Range,
};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use memchr::memmem;
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use sha2::Sha256;

const LISTENER: Token = Token(usize::MAX);
const SECRET: &[u8] = b"the floor keeps no secrets";

/// A connection. What it is written gathers in `out` and goes out in one write at the end of a turn.
struct Peer {
    stream: TcpStream,
    /// The UUID, once it is a WebSocket.
    uuid: Option<String>,
    rest: Vec<u8>,
    out: Vec<u8>,
    is_dirty: bool,
    topics: Vec<usize>,
}

/// A topic's members and what was published in this turn.
#[derive(Default)]
struct Topic {
    subscribers: Vec<String>,
    members: Vec<usize>,
    batch: Vec<u8>,
    /// whose each part of the batch is
    parts: Vec<(usize, Range<usize>)>,
}

struct Floor {
    poll: Poll,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    by_uuid: HashMap<String, usize>,
    topics: Vec<Topic>,
    by_topic: HashMap<String, usize>,
    published: Vec<usize>,
    dirty: Vec<usize>,
    /// callers by the number of their command
    pending: HashMap<u64, usize>,
    commands: u64,
}

fn main() -> anyhow::Result<()> {
    let port: u16 = std::env::args().nth(1).context("usage: floor PORT")?.parse().context("bad port")?;
    rlimit::increase_nofile_limit(u64::MAX)?;
    // mio's own listener has a short queue
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    listener.set_reuse_address(true)?;
    listener.set_nonblocking(true)?;
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into())?;
    listener.listen(4096)?;
    let mut listener = TcpListener::from_std(listener.into());
    let poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("The floor listens on http://{}", listener.local_addr()?);

    let mut floor = Floor {
        poll,
        peers: Vec::new(),
        free: Vec::new(),
        by_uuid: HashMap::new(),
        topics: Vec::new(),
        by_topic: HashMap::new(),
        published: Vec::new(),
        dirty: Vec::new(),
        pending: HashMap::new(),
        commands: 0,
    };
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match floor.poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                floor.accept(&listener)?;
                continue;
            }
            let id = event.token().0;
            if event.is_writable() {
                floor.write(id);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                floor.read(id, &mut buffer, event.is_read_closed() || event.is_error());
            }
        }
        floor.flush();
    }
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener) -> anyhow::Result<()> {
        while let Ok((mut stream, _)) = listener.accept() {
            stream.set_nodelay(true)?;
            let id = self.free.pop().unwrap_or(self.peers.len());
            self.poll.registry().register(&mut stream, Token(id), Interest::READABLE | Interest::WRITABLE)?;
            let (rest, out, topics) = (Vec::new(), Vec::new(), Vec::new());
            let peer = Peer { stream, uuid: None, rest, out, is_dirty: false, topics };
            if id == self.peers.len() {
                self.peers.push(Some(peer));
            } else {
                self.peers[id] = Some(peer);
            }
        }
        Ok(())
    }

    fn close(&mut self, id: usize) {
        let Some(peer) = self.peers[id].take() else { return };
        self.free.push(id);
        for topic in peer.topics {
            self.topics[topic].members.retain(|member| *member != id);
        }
        if let Some(uuid) = peer.uuid
            && self.by_uuid.get(&uuid) == Some(&id)
        {
            self.by_uuid.remove(&uuid);
            self.topics.iter_mut().for_each(|topic| topic.subscribers.retain(|subscriber| *subscriber != uuid));
        }
    }

    /// Puts bytes into a peer's outbox.
    fn push(&mut self, id: usize, fill: impl FnOnce(&mut Vec<u8>)) {
        if let Some(peer) = &mut self.peers[id] {
            fill(&mut peer.out);
            if !peer.is_dirty {
                peer.is_dirty = true;
                self.dirty.push(id);
            }
        }
    }

    /// Sends what this turn has brought.
    fn flush(&mut self) {
        for topic in std::mem::take(&mut self.published) {
            let Topic { members, batch, parts, .. } = &mut self.topics[topic];
            let (members, mut batch, mut parts) =
                (std::mem::take(members), std::mem::take(batch), std::mem::take(parts));
            for id in &members {
                if parts.iter().any(|(sender, _)| sender == id) {
                    // who publishes gets what others published
                    for (_, range) in parts.iter().filter(|(sender, _)| sender != id) {
                        self.push(*id, |out| out.extend_from_slice(&batch[range.clone()]));
                    }
                } else {
                    self.send_shared(*id, &batch);
                }
            }
            batch.clear();
            parts.clear();
            let topic = &mut self.topics[topic];
            (topic.members, topic.batch, topic.parts) = (members, batch, parts);
        }
        for id in std::mem::take(&mut self.dirty) {
            if let Some(peer) = &mut self.peers[id] {
                peer.is_dirty = false;
                self.write(id);
            }
        }
    }

    /// Sends bytes that others get, too, without a copy if nothing waits before them.
    fn send_shared(&mut self, id: usize, bytes: &[u8]) {
        let Some(peer) = &mut self.peers[id] else { return };
        let sent = if peer.out.is_empty() { peer.stream.write(bytes).unwrap_or(0) } else { 0 };
        peer.out.extend_from_slice(&bytes[sent..]);
    }

    fn write(&mut self, id: usize) {
        let Some(Some(peer)) = self.peers.get_mut(id) else { return };
        if peer.out.is_empty() {
            return;
        }
        // what is refused now is taken when the socket is writable again
        if let Ok(sent) = peer.stream.write(&peer.out) {
            peer.out.drain(..sent);
        }
        if peer.out.is_empty() && peer.out.capacity() > 64 * 1024 {
            peer.out = Vec::new();
        }
    }

    fn read(&mut self, id: usize, buffer: &mut [u8], to_the_end: bool) {
        while let Some(Some(peer)) = self.peers.get_mut(id) {
            let kept = peer.rest.len();
            buffer[..kept].copy_from_slice(&peer.rest);
            match peer.stream.read(&mut buffer[kept..]) {
                Ok(0) => return self.close(id),
                Ok(len) => {
                    peer.rest.clear();
                    let end = kept + len;
                    let used = self.take(id, &mut buffer[..end]);
                    if let Some(Some(peer)) = self.peers.get_mut(id) {
                        peer.rest.extend_from_slice(&buffer[used..end]);
                    }
                    if end < buffer.len() && !to_the_end {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.close(id),
            }
        }
    }

    /// Takes what is complete, and tells how many bytes that were.
    fn take(&mut self, id: usize, bytes: &mut [u8]) -> usize {
        let mut used = 0;
        while let Some(Some(peer)) = self.peers.get(id) {
            let len = match &peer.uuid {
                Some(_) => self.frame(id, &mut bytes[used..]),
                None => self.request(id, &bytes[used..]),
            };
            if len == 0 {
                break;
            }
            used += len;
        }
        used
    }

    fn request(&mut self, id: usize, bytes: &[u8]) -> usize {
        let Some(head) = memmem::find(bytes, b"\r\n\r\n") else { return 0 };
        let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
        let header = |name: &str| {
            text.split("\r\n").skip(1).find_map(|line| {
                let (key, value) = line.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then_some(value)
            })
        };
        let len: usize = header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
        let begin = head + 4;
        let Some(body) = bytes.get(begin..begin + len) else { return 0 };
        let path = text.split(' ').nth(1).unwrap_or_default();
        let caller = header("authorization").and_then(|value| identity(value.strip_prefix("Bearer ")?));
        let (status, answer) = match (path, caller) {
            ("/register", _) => {
                let uuid = field(body, "uuid");
                let token = token(uuid);
                let answer = format!(
                    r#"{{"uuid":"{uuid}","name":"","access_token":"{token}","access_token_expires_in":3600,"refresh_token":"","device_key":""}}"#
                );
                ("200 OK", answer)
            }
            ("/token", _) => {
                let token = token("operator");
                ("200 OK", format!(r#"{{"access_token":"{token}","access_token_expires_in":3600,"refresh_token":""}}"#))
            }
            (_, None) => ("401 Unauthorized", r#"{"detail":"Could not validate credentials"}"#.to_owned()),
            ("/topics/create", _) => {
                let topics = self.topics.len();
                self.by_topic.entry(field(body, "topic_id").to_owned()).or_insert_with(|| {
                    self.topics.push(Topic::default());
                    topics
                });
                ("200 OK", "{}".to_owned())
            }
            ("/topics/subscribe", Some(uuid)) => {
                if let Some(topic) = self.by_topic.get(field(body, "topic_id")) {
                    self.topics[*topic].subscribers.push(uuid);
                }
                ("200 OK", "{}".to_owned())
            }
            ("/ws", Some(uuid)) => {
                self.upgrade(id, uuid, header("sec-websocket-key").unwrap_or_default());
                return begin + len;
            }
            (path, Some(_)) if path.starts_with("/send-command/") => {
                let device = self.by_uuid.get(&path["/send-command/".len()..]).copied();
                if let Some(device) = device {
                    self.commands += 1;
                    self.pending.insert(self.commands, id);
                    let command = format!(r#"{{"command_id":"{}","#, self.commands);
                    self.push(device, |out| put_frame(out, &[command.as_bytes(), &body[1..]]));
                    return begin + len;
                }
                ("404 Not Found", r#"{"detail":"Client not found"}"#.to_owned())
            }
            _ => ("404 Not Found", r#"{"detail":"Not Found"}"#.to_owned()),
        };
        self.answer(id, status, answer.as_bytes());
        begin + len
    }

    fn answer(&mut self, id: usize, status: &str, body: &[u8]) {
        let len = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\r\n");
        self.push(id, |out| {
            out.extend_from_slice(head.as_bytes());
            out.extend_from_slice(body);
        });
    }

    fn upgrade(&mut self, id: usize, uuid: String, key: &str) {
        let accept = actix_http::ws::hash_key(key.as_bytes());
        let accept = String::from_utf8_lossy(&accept);
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        let greeting = format!(r#"{{"type":"connection","message":"Connected successfully","uuid":"{uuid}"}}"#);
        self.push(id, |out| {
            out.extend_from_slice(head.as_bytes());
            put_frame(out, &[greeting.as_bytes()]);
        });
        let mut topics = Vec::new();
        for (number, topic) in self.topics.iter_mut().enumerate() {
            if topic.subscribers.contains(&uuid) {
                topic.members.push(id);
                topics.push(number);
            }
        }
        self.by_uuid.insert(uuid.clone(), id);
        if let Some(peer) = &mut self.peers[id] {
            peer.topics = topics;
            peer.uuid = Some(uuid);
        }
    }

    fn frame(&mut self, id: usize, bytes: &mut [u8]) -> usize {
        let [first, second, ..] = *bytes else { return 0 };
        let (head, len) = match (second & 0x7f, &*bytes) {
            (126, [_, _, a, b, ..]) => (4, usize::from(u16::from_be_bytes([*a, *b]))),
            (126 | 127, _) => return 0,
            (short, _) => (2, usize::from(short)),
        };
        let begin = head + 4;
        if bytes.len() < begin + len {
            return 0;
        }
        let (before, payload) = bytes[..begin + len].split_at_mut(begin);
        let key = [before[head], before[head + 1], before[head + 2], before[head + 3]];
        let wide = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
        let (words, last) = payload.as_chunks_mut::<8>();
        for word in words {
            *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
        }
        last.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        match first & 0x0f {
            1 => self.message(id, payload),
            8 => self.close(id),
            _ => {}
        }
        begin + len
    }

    fn message(&mut self, id: usize, text: &[u8]) {
        if text.starts_with(br#"{"topic_id":""#) {
            let topic = field(text, "topic_id");
            let Some(number) = self.by_topic.get(topic) else { return };
            let Topic { members, batch, parts, .. } = &mut self.topics[*number];
            if batch.is_empty() {
                self.published.push(*number);
            }
            let begin = batch.len();
            put_frame(batch, &[text]);
            parts.push((id, begin..batch.len()));
            let receipt = format!(
                r#"{{"type":"topic_sent","message":"Message sent to {} subscribers","topic_id":"{topic}","msgid":"{}","timestamp":1234567890.123456}}"#,
                members.len() - 1,
                field(text, "msgid")
            );
            self.push(id, |out| put_frame(out, &[receipt.as_bytes()]));
        } else if text.starts_with(br#"{"to":""#) {
            let Some(to) = self.by_uuid.get(field(text, "to")).copied() else { return };
            self.push(to, |out| put_frame(out, &[text]));
            let receipt = format!(
                r#"{{"type":"sent","message":"Message delivered","msgid":"{}","timestamp":1234567890.123456}}"#,
                field(text, "msgid")
            );
            self.push(id, |out| put_frame(out, &[receipt.as_bytes()]));
        } else if text.starts_with(br#"{"command_id":""#) {
            let command = field(text, "command_id").parse().unwrap_or(0);
            if let Some(caller) = self.pending.remove(&command) {
                self.answer(caller, "200 OK", text);
            }
        }
    }
}

fn put_frame(out: &mut Vec<u8>, parts: &[&[u8]]) {
    match parts.iter().map(|part| part.len()).sum() {
        len @ 0..126 => out.extend_from_slice(&[0x81, len as u8]),
        len @ 126..65_536 => {
            out.extend_from_slice(&[0x81, 126]);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.extend_from_slice(&[0x81, 127]);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// The text of a field, as the bench writes them: no blanks, nothing escaped.
fn field<'a>(json: &'a [u8], name: &str) -> &'a str {
    let key = format!("\"{name}\":\"");
    let Some(begin) = memmem::find(json, key.as_bytes()).map(|at| at + key.len()) else { return "" };
    let len = memchr::memchr(b'"', &json[begin..]).unwrap_or(0);
    std::str::from_utf8(&json[begin..begin + len]).unwrap_or_default()
}

fn signature(text: &str) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).ok()?;
    mac.update(text.as_bytes());
    Some(mac)
}

fn token(uuid: &str) -> String {
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let text = format!("{head}.{}", URL_SAFE_NO_PAD.encode(format!(r#"{{"sub":"{uuid}","exp":4102444800}}"#)));
    let signature = signature(&text).map(|mac| URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()));
    format!("{text}.{}", signature.unwrap_or_default())
}

/// Whose token this is, if its signature is right.
fn identity(token: &str) -> Option<String> {
    let (text, given) = token.rsplit_once('.')?;
    signature(text)?.verify_slice(&URL_SAFE_NO_PAD.decode(given).ok()?).ok()?;
    let claims = URL_SAFE_NO_PAD.decode(text.split_once('.')?.1).ok()?;
    Some(field(&claims, "sub").to_owned())
}
