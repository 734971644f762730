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
        messages::{
            Answer, Party,
            change::{Accepted, MessageUpdate, NewMessage},
        },
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

/// A client sends an acknowledged message.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct SendMessage {
    pub(super) message: NewMessage,
    pub(super) sender: Sender,
    /// Its share of the memory for changes that wait.
    pub(super) place: Place,
}

/// A recipient answers a message.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct AnswerMessage {
    pub(super) from: Party,
    /// Gets the state of the message.
    pub(super) session: SessionHandle,
    pub(super) msgid: String,
    pub(super) sender: Option<ClientId>,
    pub(super) answer: Answer,
    /// Its share of the memory for changes that wait.
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

/// Senders have been told how these messages have ended.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Told(pub(super) Vec<DeliveryId>);

/// It is known for which of these recipients messages wait, and which of these senders are to be told something; `None`: the
/// database has failed.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Looked {
    pub(super) recipients: Vec<(ClientId, SessionHandle)>,
    pub(super) senders: Vec<ClientId>,
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
