//! The messages of the CommandDispatcher.

use std::sync::Arc;

use actix::Message;
use tokio::sync::{broadcast, oneshot};

use super::CommandError;
use crate::{
    delivery::SessionHandle,
    domain::{
        audit::Event,
        commands::{Command, TargetUpdate},
        ids::{ClientId, CommandId},
    },
};

/// The end of a command, or why there is none.
pub(super) type Ended = Result<Arc<Command>, CommandError>;

/// Who waits for the end of a command.
pub(super) type Waiter = oneshot::Sender<Ended>;

/// A command begins: it is sent to the targets that are connected. One that was not reserved counts against the limits now.
#[derive(Message)]
#[rtype(result = "oneshot::Receiver<Ended>")]
pub(super) struct Begin {
    pub(super) command: Command,
    /// targets behind a gateway that is down, sorted; they are offline unless the command may wait
    pub(super) behind_down_gateway: Vec<ClientId>,
    /// that it was given
    pub(super) audited: Box<Event>,
}

/// A command is about to be stored, and then begins: it counts against the limits.
#[derive(Message)]
#[rtype(result = "Result<(), CommandError>")]
pub(super) struct Reserve(pub(super) Arc<Command>);

/// A reserved command does not begin.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Release(pub(super) CommandId);

/// Cancels what has not ended of a command. Answers whether it was handled here.
#[derive(Message)]
#[rtype(result = "bool")]
pub(super) struct Cancel(pub(super) CommandId);

/// Asks for the updates of a command; None if it is not handled here.
#[derive(Message)]
#[rtype(result = "Option<broadcast::Receiver<Arc<TargetUpdate>>>")]
pub(super) struct Subscribe(pub(super) CommandId);

/// Asks for the end of a command; None if it is neither handled here nor reserved.
#[derive(Message)]
#[rtype(result = "Option<oneshot::Receiver<Ended>>")]
pub(super) struct AwaitEnd(pub(super) CommandId);

/// Asks which of these commands are neither handled here nor reserved.
#[derive(Message)]
#[rtype(result = "Vec<CommandId>")]
pub(super) struct NotHandled(pub(super) Vec<CommandId>);

/// Recovers a stored command that is not finished, unless it is handled here. Answers as [`AwaitEnd`].
#[derive(Message)]
#[rtype(result = "Option<oneshot::Receiver<Ended>>")]
pub(super) struct Recover(pub(super) Command);

/// Records all commands that have begun, before they are read.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct RecordBegun;

/// The broker stops: nobody waits for the end of commands any more.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct StopWaiting;

/// What a client says about a command that was sent to it.
#[derive(Debug)]
pub struct Reply {
    /// The client.
    pub client: ClientId,
    /// The command.
    pub command: CommandId,
    /// What it says.
    pub content: ReplyContent,
}

/// The content of a [`Reply`].
#[derive(Debug)]
pub enum ReplyContent {
    /// The answer.
    Result {
        /// JSON.
        result: Arc<str>,
        /// Whether it is an error.
        failed: bool,
    },
    /// Progress before the answer: JSON.
    Progress(Arc<str>),
}

/// A client has a socket that takes commands, and messages if it is a device.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct ClientReady {
    /// The client.
    pub client: ClientId,
    /// The socket.
    pub session: SessionHandle,
}

/// A socket is lost, or was replaced.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct SessionGone {
    /// Whose it was.
    pub client: ClientId,
    /// The socket.
    pub session: SessionHandle,
}
