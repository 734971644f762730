//! The messages of the TopicManager. Sessions and handlers use [`Topics`](super::Topics) instead.

use std::collections::HashMap;

use actix::Message;
use bytes::Bytes;

use crate::{
    delivery::{Mark, SessionHandle},
    domain::{
        ids::{ClientId, TopicId},
        subscriptions::CannotSubscribe,
    },
    protocol::{close_code::CloseCode, outbound::StatusEvent},
};

/// A client subscribes to an existing topic.
#[derive(Message)]
#[rtype(result = "Result<(), CannotSubscribe>")]
pub(super) struct Subscribe {
    pub(super) client: ClientId,
    pub(super) topic: TopicId,
}

/// A client's subscription ends.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Unsubscribe {
    pub client: ClientId,
    pub topic: TopicId,
}

/// A topic is deleted: its subscribers are told, and their subscriptions end.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct TopicDeleted(pub(super) TopicId);

/// Drops a mark when a session's earlier publications are in the outboxes of their recipients, and the receipts and refusals
/// in that of the session.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct MarkPublished {
    pub(super) session: SessionHandle,
    pub(super) mark: Mark,
}

/// The database has answered why a session can't publish to a topic.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Refused {
    pub(super) session: SessionHandle,
    pub(super) ticket: u64,
    pub(super) text: String,
}

/// A client connected or disconnected, or another of its sessions gets publications now.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PresenceChanged {
    pub client: ClientId,
    /// The session that gets publications, if any.
    pub subscriber: Option<SessionHandle>,
    /// Whether it has any session.
    pub is_connected: bool,
}

/// A session was replaced by a newer one: it is closed after the publications that it was to get before.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CloseReplaced {
    pub session: SessionHandle,
    pub code: CloseCode,
}

/// A message for all subscribers of a topic. The sender gets a receipt, or an error frame if it may not publish there.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Publish {
    pub client: ClientId,
    pub session: SessionHandle,
    pub topic: TopicId,
    /// The sender's id for the message.
    pub msgid: String,
    /// The text frame that the subscribers get.
    pub frame: Bytes,
}

/// A message over HTTP for all subscribers of a topic that exists. The result is the number of clients that it reached;
/// `None` if it was not published, since the client is not subscribed and has to be.
#[derive(Message)]
#[rtype(result = "Option<usize>")]
pub(super) struct PublishOverHttp {
    pub(super) client: ClientId,
    pub(super) topic: TopicId,
    /// The text frame that the subscribers get.
    pub(super) frame: Bytes,
    pub(super) must_be_subscribed: bool,
}

/// A message for the subscribers of `$status`, except for the client that it is about.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Announce(pub StatusEvent);

/// Who is subscribed to a topic on this node, connected or not.
#[derive(Message)]
#[rtype(result = "Vec<ClientId>")]
pub(super) struct GetSubscribers(pub(super) TopicId);

/// The number of subscribers on this node of each topic that has any.
#[derive(Message)]
#[rtype(result = "HashMap<TopicId, usize>")]
pub(super) struct GetCounts;
