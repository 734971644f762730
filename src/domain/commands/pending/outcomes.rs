//! What becomes of commands.

use uuid::Uuid;

use crate::domain::{commands::TargetUpdate, ids::ClientId};

/// What an answer leads to.
#[derive(Debug)]
pub enum Answered {
    /// The target has ended.
    Ended(Box<TargetUpdate>),
    /// It came too late: the target had timed out or lost its socket.
    Late,
    /// Nobody asked this client, or it has answered already.
    Unexpected,
}

/// A command that is cancelled.
#[derive(Debug)]
pub struct Cancelled<S> {
    /// The updates; none if the command is not handled here.
    pub updates: Vec<TargetUpdate>,
    /// The sockets here that it was sent to.
    pub sessions: Vec<S>,
    /// The targets that it was handed over for, and to which nodes.
    pub elsewhere: Vec<(Uuid, ClientId)>,
}
