//! The messages of the TopicManager. Sessions and handlers use [`Topics`](super::Topics) instead.

use std::sync::Arc;

use actix::Message;
use bytes::Bytes;

use super::TopicError;
use crate::{
    actors::journal::Place,
    delivery::{Mark, SessionHandle},
    domain::{
        accounts::Account,
        ids::{ClientId, TopicId},
        subscriptions::{
            CannotSubscribe, Subscription,
            catching_up::{Attempt, CaughtUp},
        },
        topics::history::Kept,
    },
    protocol::{close_code::CloseCode, outbound::StatusEvent},
};

/// A client subscribes to an existing topic, or to a pattern.
#[derive(Message)]
#[rtype(result = "Result<(), CannotSubscribe>")]
pub(super) struct Subscribe {
    pub(super) client: ClientId,
    pub(super) subscription: Subscription,
    /// the newest publication of the topic before that, if it has a history
    pub(super) newest: Option<Kept>,
}

/// Answers when the publications up to this offset are delivered to the subscribers here, or will not be.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct AwaitOffset {
    pub(super) topic: TopicId,
    pub(super) offset: i64,
}

/// A client's subscription to a topic, or to a pattern with this text, ends.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Unsubscribe {
    pub(super) client: ClientId,
    pub(super) id: TopicId,
}

/// A subscriber is to get what it missed of a topic's history: what is published meanwhile is held back for it. The result is
/// the session that gets its publications, and the attempt; `None` if it has no session.
#[derive(Message)]
#[rtype(result = "Option<(SessionHandle, Attempt)>")]
pub(super) struct CatchUp {
    pub(super) client: ClientId,
    pub(super) topic: TopicId,
}

/// The session that gets a client's publications.
#[derive(Message)]
#[rtype(result = "Option<SessionHandle>")]
pub(super) struct GetSession(pub(super) ClientId);

/// A subscriber has got the history up to an offset. If it has caught up, it now gets what was held back.
#[derive(Message)]
#[rtype(result = "CaughtUp<()>")]
pub(super) struct GotHistory {
    pub(super) client: ClientId,
    pub(super) topic: TopicId,
    pub(super) attempt: Attempt,
    pub(super) last: i64,
}

/// A subscriber cannot catch up: its subscription to the topic ends. The result is whether the attempt was still going on.
#[derive(Message)]
#[rtype(result = "bool")]
pub(super) struct CatchUpEnded {
    pub(super) client: ClientId,
    pub(super) topic: TopicId,
    pub(super) attempt: Attempt,
}

/// An account has changed: the client's subscriptions that it may not have any more end.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AccountChanged(pub Arc<Account>);

/// A topic is deleted: its subscribers are told, and their subscriptions end.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct TopicDeleted(pub(super) TopicId);

/// Drops a mark when a session's earlier publications are in the outboxes of their recipients, and the receipts in its own.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct MarkPublished {
    pub(super) session: SessionHandle,
    pub(super) mark: Mark,
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

/// A client was deleted: nothing waits for it any longer, and its subscriptions end.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ClientDeleted {
    /// The client.
    pub client: ClientId,
    /// How often it has been deleted by now.
    pub incarnation: i64,
}

/// A session was replaced by a newer one: it is closed after the publications that it was to get before.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CloseReplaced {
    pub session: SessionHandle,
    pub code: CloseCode,
}

/// A message for all subscribers of a topic that exists. The sender gets a receipt, or an error frame if it may not publish there.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Publish {
    pub client: ClientId,
    pub session: SessionHandle,
    pub topic: TopicId,
    /// The sender's id for the message.
    pub msgid: String,
    /// The text frame that the subscribers get, apart from the offset.
    pub frame: Bytes,
    /// It has a field `offset`, which only the broker sets in topics with a history.
    pub has_offset: bool,
    /// The topic has a history: its share of the memory for publications that wait to be stored.
    pub place: Option<Place>,
}

/// The number of clients that a publication reached, and its offset if the topic has a history.
pub type Published = Result<(usize, Option<i64>), TopicError>;

/// A message over HTTP for all subscribers of a topic that exists.
#[derive(Message)]
#[rtype(result = "Published")]
pub(super) struct PublishOverHttp {
    pub(super) client: ClientId,
    pub(super) topic: TopicId,
    /// The text frame that the subscribers get, apart from the offset.
    pub(super) frame: Bytes,
    pub(super) must_be_subscribed: bool,
    /// As for [`Publish`].
    pub(super) place: Option<Place>,
}

/// A message for the subscribers of `$status`, except for the client that it is about.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Announce(pub StatusEvent);

/// Who is subscribed to a topic on this node, connected or not.
#[derive(Message)]
#[rtype(result = "Vec<ClientId>")]
pub(super) struct GetSubscribers(pub(super) TopicId);

/// The number of subscribers of each of these topics on this node, in the same order.
#[derive(Message)]
#[rtype(result = "Vec<usize>")]
pub(super) struct GetCounts(pub(super) Vec<String>);

/// Completes when all publications are delivered that are stored by now.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct AwaitDelivery;
