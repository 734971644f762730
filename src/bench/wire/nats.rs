//! The part of the NATS protocol that a benchmark needs.

use serde_json::json;
use uuid::Uuid;

use super::Incoming;
use crate::bench::frames::Opcode;

/// NATS uses binary frames.
pub(in crate::bench) const OPCODE: Opcode = Opcode::Binary;

pub(super) const PONG: &[u8] = b"PONG\r\n";

/// The subject for messages to a client.
pub(super) fn direct(client: Uuid) -> String {
    format!("client.{client}")
}

/// The first messages of a client: `CONNECT` and its subscriptions.
pub(super) fn connect(token: Option<&str>, subjects: &[String]) -> Vec<u8> {
    let mut options = json!({ "verbose": false, "pedantic": false, "echo": false, "lang": "bench", "version": "1" });
    if let Some(token) = token {
        options["auth_token"] = json!(token);
    }
    let mut text = format!("CONNECT {options}\r\n");
    for (number, subject) in subjects.iter().enumerate() {
        text += &format!("SUB {subject} {}\r\n", number + 1);
    }
    (text + "PING\r\n").into_bytes()
}

pub(super) fn publish(subject: &str, content: &str) -> String {
    format!("PUB {subject} {}\r\n{content}\r\n", content.len())
}

pub(super) fn request(caller: Uuid, target: Uuid, content: &str) -> String {
    format!("PUB {} {} {}\r\n{content}\r\n", direct(target), direct(caller), content.len())
}

/// Parses messages and calls `each` for them; incomplete bytes stay in `rest`.
pub(super) fn read(rest: &mut Vec<u8>, payload: &[u8], mut each: impl FnMut(Incoming<'_>)) {
    if rest.is_empty() {
        let used = take(payload, &mut each);
        rest.extend_from_slice(&payload[used..]);
    } else {
        rest.extend_from_slice(payload);
        let used = take(rest, &mut each);
        rest.drain(..used);
    }
}

fn take(bytes: &[u8], each: &mut impl FnMut(Incoming<'_>)) -> usize {
    let mut used = 0;
    while let Some(len) = memchr::memchr(b'\n', &bytes[used..]) {
        let line = &bytes[used..used + len];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let after = used + len + 1;
        if line.starts_with(b"MSG ") {
            let mut words = line.split(|byte| *byte == b' ').skip(3);
            let (first, second) = (words.next(), words.next());
            // MSG subject sid [reply-to] size
            let (reply_to, size) = if second.is_some() { (first, second) } else { (None, first) };
            let size = size.and_then(|size| std::str::from_utf8(size).ok()?.parse::<usize>().ok()).unwrap_or(0);
            let Some(message) = bytes.get(after..after + size + 2) else { return used };
            each(match reply_to {
                Some(reply_to) => Incoming::Command(reply_to),
                None => Incoming::Message(&message[..size]),
            });
            used = after + size + 2;
            continue;
        }
        each(match line {
            b"PING" => Incoming::Ping,
            b"PONG" => Incoming::Settled,
            _ if line.starts_with(b"INFO") => Incoming::Greeting,
            _ if line.starts_with(b"-ERR") => Incoming::Error(String::from_utf8_lossy(line)),
            _ => Incoming::Other,
        });
        used = after;
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(frames: &[&[u8]]) -> Vec<String> {
        let (mut rest, mut found) = (Vec::new(), Vec::new());
        for frame in frames {
            read(&mut rest, frame, |incoming| found.push(format!("{incoming:?}")));
        }
        assert!(rest.is_empty());
        found
    }

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let text = b"INFO {}\r\nPING\r\nMSG a 1 3\r\nx\r\n\r\nMSG a 1 back 2\r\nok\r\nPONG\r\n-ERR 'no'\r\n";
        let whole = all(&[text]);
        assert_eq!(whole[0], "Greeting");
        assert_eq!(whole[2], format!("{:?}", Incoming::Message(b"x\r\n")));
        assert_eq!(whole[3], format!("{:?}", Incoming::Command(b"back")));
        assert_eq!(whole[5], "Error(\"-ERR 'no'\")");
        for cut in 1..text.len() {
            assert_eq!(all(&[&text[..cut], &text[cut..]]), whole);
        }
    }
}
