//! The messages of the MessageManager. Sessions and handlers use [`Messages`](super::Messages) instead.

use std::collections::HashSet;

use actix::Message;
use chrono::{DateTime, Utc};
use tokio::sync::oneshot;

use super::MessageError;
use crate::{
    actors::journal::Place,
    delivery::{Mark, SessionHandle},
    domain::{
        ids::{ClientId, DeliveryId},
        messages::change::{Accepted, AnswerOf, MessageUpdate, NewMessage},
    },
    store::StoreError,
};

/// Who gets the receipt of a message.
#[derive(Debug)]
pub enum Sender {
    /// A session, as a frame.
    Session(SessionHandle),
    /// A request.
    Http(oneshot::Sender<Result<Accepted, MessageError>>),
}

/// What a session asks for.
#[derive(Debug)]
pub enum Request {
    /// A message is to be stored and delivered. What its recipient is doing is found out.
    Send(NewMessage),
    /// A message is answered, which is looked for.
    Answer(AnswerOf),
}

impl Request {
    /// The sender's id of the message.
    pub fn msgid(&self) -> &str {
        match self {
            Self::Send(message) => &message.msgid,
            Self::Answer(answer) => &answer.msgid,
        }
    }
}

/// A session asks for something. It gets the receipt, or the state of the message.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct FromSession {
    pub(super) request: Request,
    pub(super) session: SessionHandle,
    /// Its share of the memory for changes that wait.
    pub(super) place: Place,
}

/// A client sends a message over HTTP.
#[derive(Debug, Message)]
#[rtype(result = "Result<Accepted, MessageError>")]
pub(super) struct SendOverHttp {
    pub(super) message: NewMessage,
    /// As for [`FromSession`].
    pub(super) place: Place,
}

/// A message is withdrawn. The result is how it ended, unless it had ended before.
#[derive(Message)]
#[rtype(result = "Result<Option<MessageUpdate>, StoreError>")]
pub(super) struct Withdraw {
    pub(super) id: DeliveryId,
    pub(super) to: ClientId,
}

/// Drops a mark when a session has the receipts of its earlier messages and answers.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct MarkSettled {
    pub(super) session: SessionHandle,
    pub(super) mark: Mark,
}

/// A client has a session that can be told how its messages have ended.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SenderReady(pub ClientId);

/// Messages have failed, since their recipient was deleted.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Failed(pub(super) Vec<MessageUpdate>);

/// The database says that these messages of a sender have ended. Returns whether its session has been told all of that.
#[derive(Message)]
#[rtype(result = "bool")]
pub(super) struct TellUpdates {
    pub(super) session: SessionHandle,
    pub(super) updates: Vec<MessageUpdate>,
}

/// It is tried again to record that senders have been told.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct RecordTold;

/// It is known for which of these recipients messages wait, and which of these senders are to be told something; `None`: the
/// database has failed.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Looked {
    pub(super) recipients: Vec<(ClientId, SessionHandle)>,
    pub(super) senders: HashSet<ClientId>,
    pub(super) again: HashSet<ClientId>,
    pub(super) found: Option<Found>,
}

/// What a look has found.
pub(super) struct Found {
    pub(super) recipients: HashSet<ClientId>,
    pub(super) senders: HashSet<ClientId>,
}

/// The time of these messages is over; and the time of the next, if it is known.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Expired {
    pub(super) messages: Vec<(DeliveryId, ClientId)>,
    pub(super) next: Option<DateTime<Utc>>,
}

/// The handshake could not store the socket of a device as its newest.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct SettleSocket {
    pub(super) device: ClientId,
    pub(super) stamp: u64,
}

/// The socket of a device here is stored as its newest, or has been closed.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct SocketSettled {
    pub(super) device: ClientId,
    pub(super) session: SessionHandle,
}

/// Messages may be taken for a recipient again.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Resume {
    pub(super) to: ClientId,
    pub(super) session: SessionHandle,
}

/// Messages are to be taken for recipients that can get some.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Pump;
