//! What nodes know of each other.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// The versions of envelopes that a node understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnvelopeVersions {
    first: u8,
    last: u8,
}

impl From<RangeInclusive<u8>> for EnvelopeVersions {
    fn from(versions: RangeInclusive<u8>) -> Self {
        let (first, last) = versions.into_inner();
        Self { first, last }
    }
}

/// A node, as its record in Redis describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Another one for each start.
    pub incarnation: Uuid,
    /// Its host name.
    pub host: String,
    /// Its process id.
    pub process_id: u32,
    /// The address that it listens on.
    pub address: String,
    /// The version of its program.
    pub version: String,
    /// What can be sent to it.
    pub envelopes: EnvelopeVersions,
    /// When it started, as RFC 3339.
    pub started_at: String,
    /// Its open WebSockets.
    pub sockets: usize,
}
