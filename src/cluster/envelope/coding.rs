//! Envelopes as bytes.

use uuid::Uuid;

use super::{EnvelopeVersions, Message};

/// Longest envelope that is read, in bytes.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Messages from a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// The incarnation of the node that sent it.
    pub from: Uuid,
    /// One more than that of the envelope that the node sent here before.
    pub number: u64,
    /// In the order in which they were sent.
    pub messages: Vec<Message>,
}

/// Why bytes are not an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadEnvelope {
    /// It is longer than [`MAX_BYTES`].
    #[error("an envelope of {0} bytes is too long")]
    TooLong(usize),
    /// Its version is not one of those that are understood.
    #[error("unknown version {0} of an envelope")]
    Version(u8),
    /// It ends in the middle of its head.
    #[error("an envelope ends in the middle")]
    Incomplete,
    /// Something in it is no message.
    #[error("an envelope contains something else than messages")]
    NotAMessage,
}

/// An envelope that is being filled.
#[derive(Debug)]
pub struct Draft {
    version: u8,
    messages: Vec<u8>,
}

impl Draft {
    /// An empty envelope of a version.
    pub fn new(version: u8) -> Self {
        Self { version, messages: Vec::new() }
    }

    /// Adds a message, unless it came with a later version.
    pub fn push(&mut self, message: &Message) {
        if message.since() > self.version {
            return;
        }
        // it takes whatever fits into memory
        if let Ok(messages) = postcard::to_extend(message, std::mem::take(&mut self.messages)) {
            self.messages = messages;
        }
    }

    /// The length of its messages in bytes.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether it has no messages.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The bytes of the envelope. The draft is empty then.
    pub fn finish(&mut self, from: Uuid, number: u64) -> Vec<u8> {
        let messages = std::mem::take(&mut self.messages);
        let mut bytes = Vec::with_capacity(25 + messages.len());
        bytes.push(self.version);
        bytes.extend_from_slice(from.as_bytes());
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&messages);
        bytes
    }
}

impl Envelope {
    /// Reads an envelope of one of these versions.
    ///
    /// # Errors
    /// What is wrong with it. Nothing of it counts then.
    pub fn decode(bytes: &[u8], versions: EnvelopeVersions) -> Result<Self, BadEnvelope> {
        if bytes.len() > MAX_BYTES {
            return Err(BadEnvelope::TooLong(bytes.len()));
        }
        let (version, bytes) = bytes.split_first().ok_or(BadEnvelope::Incomplete)?;
        if !versions.contains(*version) {
            return Err(BadEnvelope::Version(*version));
        }
        let (from, bytes) = bytes.split_first_chunk().ok_or(BadEnvelope::Incomplete)?;
        let (number, mut rest) = bytes.split_first_chunk().ok_or(BadEnvelope::Incomplete)?;
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let (message, after): (Message, _) =
                postcard::take_from_bytes(rest).map_err(|_| BadEnvelope::NotAMessage)?;
            if message.since() > *version {
                return Err(BadEnvelope::NotAMessage);
            }
            messages.push(message);
            rest = after;
        }
        Ok(Self { from: Uuid::from_bytes(*from), number: u64::from_le_bytes(*number), messages })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

    use super::{
        super::{CommandMessage, HandOver, VERSIONS},
        *,
    };
    use crate::cluster::{Origin, elsewhere::ClientState};

    fn decode(bytes: &[u8]) -> Result<Envelope, BadEnvelope> {
        Envelope::decode(bytes, VERSIONS.into())
    }

    fn messages() -> Vec<Message> {
        let client = ClientState { name: "Wörld".to_owned(), device: 7, ..ClientState::gone(Uuid::from_u128(3)) };
        vec![
            Message::Ping(u64::MAX),
            Message::SnapshotBegins,
            Message::Client(client),
            Message::SnapshotEnds,
            Message::Barrier(1),
            Message::Direct {
                number: 300,
                to: Uuid::from_u128(9),
                from: Origin { client: Uuid::from_u128(8), device: 5 },
                text: Bytes::from_static(b"{}"),
            },
            Message::Outcome { number: 300, is_delivered: true },
            Message::Command(CommandMessage::HandedOver {
                command: Uuid::from_u128(4),
                outcomes: vec![(Uuid::from_u128(5), HandOver::Deleted(2))],
            }),
        ]
    }

    fn encoded() -> Vec<u8> {
        let mut draft = Draft::new(1);
        messages().iter().for_each(|message| draft.push(message));
        draft.finish(Uuid::from_u128(7), 5)
    }

    #[test]
    fn an_envelope_is_read_as_it_was_written() {
        let envelope = Envelope { from: Uuid::from_u128(7), number: 5, messages: messages() };
        assert_eq!(decode(&encoded()), Ok(envelope));
    }

    #[test]
    fn a_message_of_a_later_version_is_neither_written_nor_read() {
        let (congested, from) = (Message::Congested(true), Uuid::from_u128(7));
        let written = |version: u8| {
            let mut draft = Draft::new(version);
            draft.push(&congested);
            draft.push(&Message::Alive);
            draft.finish(from, 1)
        };
        assert_eq!(decode(&written(1)).unwrap().messages, [Message::Alive]);
        let mut bytes = written(2);
        assert_eq!(decode(&bytes).unwrap().messages, [congested.clone(), Message::Alive]);
        // a program that does not know the version refuses all of it
        assert_eq!(Envelope::decode(&bytes, (1..=1).into()), Err(BadEnvelope::Version(2)));
        bytes[0] = 1;
        assert_eq!(decode(&bytes), Err(BadEnvelope::NotAMessage));
    }

    #[test]
    fn what_is_no_envelope_is_refused_with_a_reason() {
        let good = encoded();
        let changed = |place: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[place] = byte;
            decode(&bytes)
        };
        assert_eq!(decode(&[]), Err(BadEnvelope::Incomplete));
        assert_eq!(decode(&good[..24]), Err(BadEnvelope::Incomplete));
        assert_eq!(changed(0, 9), Err(BadEnvelope::Version(9)));
        assert_eq!(changed(25, 200), Err(BadEnvelope::NotAMessage));
        assert_eq!(decode(&good[..good.len() - 1]), Err(BadEnvelope::NotAMessage));
        assert_eq!(decode(&vec![1; MAX_BYTES + 1]), Err(BadEnvelope::TooLong(MAX_BYTES + 1)));
    }

    #[test]
    fn random_bytes_are_refused_without_harm() {
        let mut random = StdRng::seed_from_u64(1);
        let good = encoded();
        for _ in 0..10_000 {
            let mut bytes = good.clone();
            for _ in 0..random.random_range(1..4) {
                let place = random.random_range(0..bytes.len());
                bytes[place] = random.random();
            }
            bytes.truncate(random.random_range(0..=bytes.len()));
            let _ = decode(&bytes);
            random.fill_bytes(&mut bytes);
            let _ = decode(&bytes);
        }
    }
}
