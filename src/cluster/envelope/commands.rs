//! What nodes send each other about commands. A command is owned by the node at which it was given, and handed over to the nodes
//! with the sockets of its targets.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A message about a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandMessage {
    /// A command for clients that are connected to the other node.
    HandOver {
        /// The command.
        command: Uuid,
        /// The clients, and how often the UUID of each had been deleted when the command was given.
        to: Vec<(Uuid, i64)>,
        /// The text of the frame.
        text: Bytes,
        /// Whether it may wait until the client's outbox has room.
        may_wait: bool,
    },
    /// What became of a command that was handed over.
    HandedOver {
        /// The command.
        command: Uuid,
        /// For each client.
        outcomes: Vec<(Uuid, HandOver)>,
    },
    /// A client has said something about a command.
    Reply {
        /// The command.
        command: Uuid,
        /// The client.
        client: Uuid,
        /// What it has said.
        content: ReplyText,
    },
    /// The socket is lost to which commands were sent that are not answered.
    SocketLost {
        /// The client.
        client: Uuid,
        /// The commands of the other node.
        commands: Vec<Uuid>,
    },
    /// A command is cancelled for a client that it was handed over for.
    Cancel {
        /// The command.
        command: Uuid,
        /// The client.
        client: Uuid,
    },
}

/// What became of a command at the node that it was handed over to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandOver {
    /// The client's outbox has accepted it.
    Sent,
    /// The client is not connected there.
    Absent,
    /// The client's outbox has no room now.
    NoRoom,
    /// The client is deleted: a later registration is connected, of a UUID that has been deleted so often.
    Deleted(i64),
}

/// What a client says about a command, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplyText {
    /// The answer, and whether it is an error.
    Result(String, bool),
    /// Progress before the answer.
    Progress(String),
}
