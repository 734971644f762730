//! What the TopicManager is told and asked. Sessions and handlers send none of this themselves: they use
//! [`Topics`](super::Topics).

use std::collections::HashMap;

use actix::Message;
use bytes::Bytes;

use crate::{
    delivery::{Mark, SessionHandle},
    domain::{
        ids::{ClientId, TopicId},
        subscriptions::CannotSubscribe,
    },
    protocol::{close_code::CloseCode, outbound::Event},
};

/// A client subscribes to a topic, which exists.
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
    /// The subscriber.
    pub client: ClientId,
    /// The topic.
    pub topic: TopicId,
}

/// A topic is deleted: its subscribers are told, and their subscriptions end.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct TopicDeleted(pub(super) TopicId);

/// Passes a mark on when what a session published before has reached the outboxes of all its recipients, and its receipts
/// and refusals that of the session.
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
    /// The client.
    pub client: ClientId,
    /// The session that gets publications, if there is one.
    pub subscriber: Option<SessionHandle>,
    /// Whether it has any session.
    pub is_connected: bool,
}

/// Another session of its client has taken over from this one: it is closed after what was published to it before.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CloseReplaced {
    /// The session.
    pub session: SessionHandle,
    /// How.
    pub code: CloseCode,
}

/// A message for all subscribers of a topic. The sender gets a receipt, or an error frame if it may not publish there.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Publish {
    /// Who sends it.
    pub client: ClientId,
    /// From which session.
    pub session: SessionHandle,
    /// To which topic.
    pub topic: TopicId,
    /// The sender's name for the message.
    pub msgid: String,
    /// What the subscribers get: a finished text frame.
    pub frame: Bytes,
}

/// A message for the subscribers of `$status`, except for the client that it is about.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Announce(pub Event);

/// Who is subscribed to a topic on this node, connected or not.
#[derive(Message)]
#[rtype(result = "Vec<ClientId>")]
pub(super) struct GetSubscribers(pub(super) TopicId);

/// How many subscribers each topic has on this node that has any.
#[derive(Message)]
#[rtype(result = "HashMap<TopicId, usize>")]
pub(super) struct GetCounts;
