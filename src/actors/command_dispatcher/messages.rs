//! What the CommandDispatcher is told and asked.

use std::sync::Arc;

use actix::Message;
use tokio::sync::{broadcast, oneshot};

use crate::{
    delivery::SessionHandle,
    domain::{
        commands::{Command, Exceeded, TargetUpdate},
        ids::{ClientId, CommandId},
    },
    store::StoreError,
};

/// A command begins. Its targets are queued; those that are connected are asked at once.
pub struct Dispatch {
    /// The command.
    pub command: Command,
    /// It is in the database already, and has its places.
    pub recorded: bool,
    /// Targets that are behind a gateway that is down, sorted: not asked, unless the command may wait.
    pub behind_down_gateway: Vec<ClientId>,
}

/// Why a command may not begin.
#[derive(Debug)]
pub enum NoPlace {
    /// It would exceed this limit.
    Limit(Exceeded),
    /// The database does not keep up; with why it takes nothing, if it does not.
    Backlog(Option<StoreError>),
}

/// A command is about to be stored, and begin: it takes up its places.
#[derive(Message)]
#[rtype(result = "Result<(), NoPlace>")]
pub struct Reserve(pub Arc<Command>);

/// A command that has its places is not to begin.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Release(pub CommandId);

/// A client answers a command.
pub struct Answer {
    /// The client.
    pub client: ClientId,
    /// The command.
    pub command: CommandId,
    /// The answer: JSON.
    pub result: Arc<str>,
    /// Whether it is an error.
    pub failed: bool,
}

/// A client tells how far it is.
pub struct Progress {
    /// The client.
    pub client: ClientId,
    /// The command.
    pub command: CommandId,
    /// JSON.
    pub progress: Arc<str>,
}

/// A client has a socket that takes commands.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ClientReady {
    /// The client.
    pub client: ClientId,
    /// The socket.
    pub session: SessionHandle,
}

/// A socket is gone, or has been taken over.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct SessionGone {
    /// Whose it was.
    pub client: ClientId,
    /// The socket.
    pub session: SessionHandle,
}

/// A client is there no more: nothing waits for it any longer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ClientDeleted(pub ClientId);

/// Calls off what has not ended of a command. Answers whether it was at work here.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct Cancel(pub CommandId);

/// Follows a command that is not over; None if it is, or not here.
#[derive(Message)]
#[rtype(result = "Option<broadcast::Receiver<Arc<TargetUpdate>>>")]
pub struct Watch(pub CommandId);

/// Waits for the end of a command that is at work here, or about to be; None if it is over, or not here.
#[derive(Message)]
#[rtype(result = "Option<oneshot::Receiver<Arc<Command>>>")]
pub struct Await(pub CommandId);

/// Goes on, as after a restart, with a stored command that is not over, unless it is at work here. Answers as [`Await`].
#[derive(Message)]
#[rtype(result = "Option<oneshot::Receiver<Arc<Command>>>")]
pub struct Adopt(pub Command);

/// Records what has begun, before it is read.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RecordBegun;
