//! Identities and names, checked once where they come in, so that nothing behind has to.

use std::{
    borrow::Borrow,
    fmt::{self, Display},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// The identity of a client, device or user: one UUID space (contract section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(Uuid);

impl ClientId {
    /// A new one.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Any spelling of a UUID: upper case, without hyphens, in braces, as a URN.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// The UUID itself.
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for ClientId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl From<ClientId> for Uuid {
    fn from(id: ClientId) -> Self {
        id.0
    }
}

/// Lower case with hyphens, as everywhere on the wire.
impl Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }
}

impl Serialize for ClientId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }
}

impl<'de> Deserialize<'de> for ClientId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("not a UUID"))
    }
}

/// A client as requests name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientRef {
    /// A user by integer id.
    User(i64),
    /// A device or user by UUID.
    Client(ClientId),
}

impl ClientRef {
    /// An integer id or a UUID.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().map(Self::User).ok().or_else(|| ClientId::parse(text).map(Self::Client))
    }
}

/// What kind of client an identity is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// A helper device.
    Device,
    /// A person or program with a password.
    User,
}

impl ClientKind {
    /// The word in tokens and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::User => "user",
        }
    }

    /// The kind of that word.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "device" => Some(Self::Device),
            "user" => Some(Self::User),
            _ => None,
        }
    }
}

/// What a user may do; each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Role {
    /// Use the broker.
    User,
    /// Command and see all clients.
    Operator,
    /// Manage users and tokens.
    Admin,
}

impl Role {
    /// The word in tokens, tables and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role of that word.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "user" => Some(Self::User),
            "operator" => Some(Self::Operator),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }
}

/// The name of a topic; its length is checked where topics are created.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(Arc<str>);

impl TopicId {
    /// What happens to gateways and clients, for operators.
    pub const STATUS: &str = "$status";

    /// Whether it is the broker's own: nobody else creates or publishes there.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('$')
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for TopicId {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for TopicId {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl Borrow<str> for TopicId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a gateway, unique among those of the configuration and those that were created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct GatewayId(pub i64);

impl GatewayId {
    /// The largest that every program reads as a number without loss.
    pub const MAX: Self = Self((1 << 53) - 1);
}

impl Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RoomId(pub i64);

impl Display for RoomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a chat message: a later message of the same room has a greater one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageId(pub i64);

impl Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of an acknowledged message: a later one has a greater id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DeliveryId(pub i64);

impl Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a command: a UUID of version 4 (contract section 6) whose first 48 bits are the time at which it was given. Ids
/// in the order of time keep rows that are written together together in an index; random ones would touch a page each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct CommandId(Uuid);

impl CommandId {
    /// A new id for a command that is given at this time. 74 bits are random.
    pub fn new(time: DateTime<Utc>) -> Self {
        let mut bytes = *Uuid::new_v4().as_bytes();
        bytes[..6].copy_from_slice(&millis(time));
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }

    /// Not greater than the id of any command that was given at this time or later.
    pub fn least(time: DateTime<Utc>) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&millis(time));
        Self(Uuid::from_bytes(bytes))
    }

    /// Any spelling of a UUID.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// The UUID itself.
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

/// The 48 low bits of the time in milliseconds, most significant first.
fn millis(time: DateTime<Utc>) -> [u8; 6] {
    let [_, _, millis @ ..] = time.timestamp_millis().to_be_bytes();
    millis
}

impl From<Uuid> for CommandId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

/// Lower case with hyphens, as everywhere on the wire.
impl Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn every_spelling_of_a_uuid_is_the_same_client() {
        let canonical = "123e4567-e89b-12d3-a456-426614174000";
        for spelling in [
            canonical,
            "123E4567-E89B-12D3-A456-426614174000",
            "123e4567e89b12d3a456426614174000",
            "{123e4567-e89b-12d3-a456-426614174000}",
            "urn:uuid:123e4567-e89b-12d3-a456-426614174000",
        ] {
            assert_eq!(ClientId::parse(spelling).unwrap().to_string(), canonical);
        }
        assert_eq!(ClientId::parse("123e4567"), None);
    }

    #[test]
    fn ids_of_commands_are_in_the_order_of_the_time_at_which_they_were_given() {
        let time = Utc::now();
        let (earlier, later) = (CommandId::new(time), CommandId::new(time + TimeDelta::milliseconds(1)));
        assert!(earlier < later);
        assert!(CommandId::least(time) <= earlier && earlier < CommandId::least(time + TimeDelta::milliseconds(1)));
        assert_eq!(earlier.uuid().get_version_num(), 4);
        assert_ne!(earlier, CommandId::new(time));
    }

    #[test]
    fn a_role_includes_the_roles_below_it() {
        assert!(Role::Admin > Role::Operator && Role::Operator > Role::User);
    }
}
