//! What nodes know of each other.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::envelope::EnvelopeVersions;

/// A node, as its record in Redis describes it, in JSON.
///
/// Programs of other releases read it: a field that is here stays, and keeps its type. They pass over fields that they do not
/// know, and one that is added has a default, for the records of programs that do not write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Another one for each start.
    pub incarnation: Uuid,
    /// Its host name.
    #[serde(default)]
    pub host: String,
    /// Its process id.
    #[serde(default)]
    pub process_id: u32,
    /// The address that it listens on.
    #[serde(default)]
    pub address: String,
    /// The version of its program.
    #[serde(default)]
    pub version: String,
    /// What can be sent to it.
    pub envelopes: EnvelopeVersions,
    /// When it started, as RFC 3339.
    #[serde(default)]
    pub started_at: String,
    /// Its open WebSockets.
    #[serde(default)]
    pub sockets: usize,
}

impl Node {
    /// Reads a record. `None` if it is none.
    pub fn read(record: &str) -> Option<Self> {
        serde_json::from_str(record).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_written_as_the_first_programs_wrote_it() {
        let node = Node {
            incarnation: Uuid::from_u128(1),
            host: "host".to_owned(),
            process_id: 2,
            address: "127.0.0.1:8000".to_owned(),
            version: "0.1.0".to_owned(),
            envelopes: (1..=2).into(),
            started_at: "2026-11-22T10:00:00Z".to_owned(),
            sockets: 3,
        };
        let record = r#"{"incarnation":"00000000-0000-0000-0000-000000000001","host":"host","process_id":2,"address":"127.0.0.1:8000","version":"0.1.0","envelopes":{"first":1,"last":2},"started_at":"2026-11-22T10:00:00Z","sockets":3}"#;
        assert_eq!(serde_json::to_string(&node).unwrap(), record);
        assert_eq!(Node::read(record), Some(node));
    }

    #[test]
    fn a_record_of_another_release_may_say_more_or_less() {
        let record = r#"{"incarnation":"00000000-0000-0000-0000-000000000001","zone":{"name":"a"},"envelopes":{"first":2,"last":5,"best":4}}"#;
        let node = Node::read(record).unwrap();
        assert_eq!((node.incarnation, node.envelopes), (Uuid::from_u128(1), (2..=5).into()));
        assert_eq!((node.host.as_str(), node.sockets), ("", 0));
        assert_eq!(Node::read("{}"), None);
    }
}
