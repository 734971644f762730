//! What nodes know of each other.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

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
    /// The first and the last version of envelopes that it understands.
    pub envelopes: (u8, u8),
    /// When it started, as RFC 3339.
    pub started_at: String,
    /// Its open WebSockets.
    pub sockets: usize,
}
