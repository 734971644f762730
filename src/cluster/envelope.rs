//! What nodes send each other: several messages in an envelope with a version and the sender's incarnation.
//!
//! | bytes | content |
//! | --- | --- |
//! | 1 | version |
//! | 16 | incarnation of the sending node |
//! | then for each message: 1 | kind |
//! | 4 | length of what follows, big endian |
//! | length | depends on the kind |

use std::ops::RangeInclusive;

use uuid::Uuid;

/// The versions that this program understands. It writes the first that all nodes understand.
pub const VERSIONS: RangeInclusive<u8> = 1..=1;

/// Longest envelope that is read, in bytes.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;

const PING: u8 = 1;

/// A message from one node to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A node's own, with its number: it shows the node that its inbox works.
    Ping(u64),
}

/// Messages from a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The incarnation of the node that sent it.
    pub from: Uuid,
    /// In the order in which they were sent.
    pub messages: Vec<Message>,
}

/// Why bytes are not an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadEnvelope {
    /// It is longer than [`MAX_BYTES`].
    #[error("an envelope of {0} bytes is too long")]
    TooLong(usize),
    /// Its version is not one of [`VERSIONS`].
    #[error("unknown version {0} of an envelope")]
    Version(u8),
    /// It ends in the middle.
    #[error("an envelope ends in the middle")]
    Incomplete,
    /// A message is of a kind that its version does not have.
    #[error("unknown kind {0} of message")]
    Kind(u8),
    /// A message has not the length of its kind.
    #[error("a message of kind {0} is malformed")]
    Malformed(u8),
}

impl Envelope {
    /// The bytes of the envelope.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![*VERSIONS.start()];
        bytes.extend_from_slice(self.from.as_bytes());
        for message in &self.messages {
            match message {
                Message::Ping(number) => put(&mut bytes, PING, &number.to_be_bytes()),
            }
        }
        bytes
    }

    /// Reads an envelope.
    ///
    /// # Errors
    /// What is wrong with it. Nothing of it counts then.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadEnvelope> {
        if bytes.len() > MAX_BYTES {
            return Err(BadEnvelope::TooLong(bytes.len()));
        }
        let (version, bytes) = bytes.split_first().ok_or(BadEnvelope::Incomplete)?;
        if !VERSIONS.contains(version) {
            return Err(BadEnvelope::Version(*version));
        }
        let (from, mut rest) = bytes.split_first_chunk().ok_or(BadEnvelope::Incomplete)?;
        let mut messages = Vec::new();
        while let Some((kind, bytes)) = rest.split_first() {
            let (length, bytes) = bytes.split_first_chunk().ok_or(BadEnvelope::Incomplete)?;
            let length = u32::from_be_bytes(*length) as usize;
            let (body, after) = bytes.split_at_checked(length).ok_or(BadEnvelope::Incomplete)?;
            messages.push(message(*kind, body)?);
            rest = after;
        }
        Ok(Self { from: Uuid::from_bytes(*from), messages })
    }
}

fn put(bytes: &mut Vec<u8>, kind: u8, body: &[u8]) {
    bytes.push(kind);
    // what is sent is bounded far below
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(body);
}

fn message(kind: u8, body: &[u8]) -> Result<Message, BadEnvelope> {
    match kind {
        PING => {
            let number = body.try_into().map_err(|_| BadEnvelope::Malformed(kind))?;
            Ok(Message::Ping(u64::from_be_bytes(number)))
        }
        kind => Err(BadEnvelope::Kind(kind)),
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    fn envelope() -> Envelope {
        Envelope { from: Uuid::from_u128(7), messages: vec![Message::Ping(1), Message::Ping(u64::MAX)] }
    }

    #[test]
    fn an_envelope_is_read_as_it_was_written() {
        let envelope = envelope();
        assert_eq!(Envelope::decode(&envelope.encode()), Ok(envelope));
    }

    #[test]
    fn what_is_no_envelope_is_refused_with_a_reason() {
        let good = envelope().encode();
        let changed = |place: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[place] = byte;
            Envelope::decode(&bytes)
        };
        assert_eq!(Envelope::decode(&[]), Err(BadEnvelope::Incomplete));
        assert_eq!(changed(0, 2), Err(BadEnvelope::Version(2)));
        assert_eq!(changed(17, 9), Err(BadEnvelope::Kind(9)));
        assert_eq!(changed(21, 7), Err(BadEnvelope::Malformed(PING)));
        assert_eq!(changed(18, 255), Err(BadEnvelope::Incomplete));
        assert_eq!(Envelope::decode(&vec![1; MAX_BYTES + 1]), Err(BadEnvelope::TooLong(MAX_BYTES + 1)));
        // cut anywhere but between two messages
        let whole = [17, 17 + 13, good.len()];
        for end in 0..good.len() {
            assert_eq!(Envelope::decode(&good[..end]).is_ok(), whole.contains(&end), "{end}");
        }
    }

    #[test]
    fn random_bytes_are_refused_without_harm() {
        let mut random = StdRng::seed_from_u64(1);
        let good = envelope().encode();
        for _ in 0..10_000 {
            let mut bytes = good.clone();
            for _ in 0..random.random_range(1..4) {
                let place = random.random_range(0..bytes.len());
                bytes[place] = random.random();
            }
            bytes.truncate(random.random_range(0..=bytes.len()));
            let _ = Envelope::decode(&bytes);
            random.fill_bytes(&mut bytes);
            let _ = Envelope::decode(&bytes);
        }
    }
}
