//! Chat frames from the server, as JSON text (contract section 7). They are declared in [`frames`].

pub mod frames;

use std::marker::PhantomData;

use chrono::{DateTime, Utc};

use super::{
    frames::DeclaredFrame,
    values::{ListOf, Mark, Nullable, words},
};
use crate::domain::{
    ids::{ClientId, MessageId, RoomId},
    rooms::{History, Message, Participant, Room, RoomRole},
};

/// An event of a participant of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParticipantEvent {
    /// The client became a member, or joined with another socket.
    Joined,
    /// The client is no longer a member.
    Left,
    /// A socket of the client disconnected.
    Disconnected,
    /// The client is typing.
    Typing,
}

impl ParticipantEvent {
    fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "user_joined",
            Self::Left => "user_left",
            Self::Disconnected => "user_disconnected",
            Self::Typing => "user_typing",
        }
    }
}

/// An event of a message of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageEvent {
    /// It is new.
    Sent,
    /// It has a new content.
    Edited,
    /// It was deleted.
    Deleted,
}

impl MessageEvent {
    fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "message",
            Self::Edited => "message_edited",
            Self::Deleted => "message_deleted",
        }
    }
}

/// A change of whether a participant has sockets in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The first socket joined.
    Online,
    /// The last socket left.
    Offline,
}

impl Presence {
    fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
        }
    }
}

words! {
    ParticipantEvent: [Self::Joined, Self::Left, Self::Disconnected, Self::Typing];
    MessageEvent: [Self::Sent, Self::Edited, Self::Deleted];
    Presence: [Self::Online, Self::Offline];
}

/// The UUID of a device. Users have an id instead.
fn device(who: &Participant) -> Option<ClientId> {
    who.user_id.is_none().then_some(who.client)
}

fn about_message(event: MessageEvent, message: &Message, time: DateTime<Utc>) -> String {
    let author = &message.author;
    let frame = frames::Message {
        event,
        id: message.id,
        content: &message.content,
        user_id: Nullable(author.user_id),
        username: &author.username,
        uuid: device(author),
        room_id: message.room,
        timestamp: time,
        client_msg_id: message.client_msg_id.as_deref(),
        edited_at: message.edited_at,
        deleted_at: message.deleted_at,
    };
    frame.text_of(message.content.len())
}

/// The frame of a new message.
pub fn message(message: &Message) -> String {
    about_message(MessageEvent::Sent, message, message.created_at)
}

/// Tells that a message was edited; has the new content.
pub fn message_edited(message: &Message) -> String {
    about_message(MessageEvent::Edited, message, message.edited_at.unwrap_or(message.created_at))
}

/// Tells that a message was deleted; its content is empty.
pub fn message_deleted(message: &Message) -> String {
    about_message(MessageEvent::Deleted, message, message.deleted_at.unwrap_or(message.created_at))
}

/// The frame of a new message in the dialect of `/ws?chat_id=`.
pub fn plain_message(message: &Message) -> String {
    let author = &message.author;
    let frame = frames::PlainMessage {
        message: &message.content,
        chat_id: message.room,
        sender_id: Nullable(author.user_id),
        uuid: device(author),
        username: &author.username,
        id: message.id,
        created_at: message.created_at,
        client_msg_id: message.client_msg_id.as_deref(),
        edited_at: message.edited_at,
        deleted_at: message.deleted_at,
    };
    frame.text_of(message.content.len())
}

fn in_history(message: &Message) -> String {
    let author = &message.author;
    let frame = frames::HistoryMessage {
        id: message.id,
        content: &message.content,
        user_id: Nullable(author.user_id),
        username: &author.username,
        uuid: device(author),
        timestamp: message.created_at,
        client_msg_id: message.client_msg_id.as_deref(),
        edited_at: message.edited_at,
        deleted_at: message.deleted_at,
    };
    frame.text_of(message.content.len())
}

/// The history of a room, oldest message first, cut to `bytes` bytes but with at least one message. A recent history is cut
/// at its beginning, any other at its end.
pub fn message_history(room: RoomId, history: &History, bytes: usize) -> String {
    let rendered: Vec<String> = history.messages.iter().map(in_history).collect();
    let mut left = bytes;
    let mut first = true;
    let mut fits = |message: &&String| {
        // at least one message, or a client that asks for the next part would never make progress
        let fits = std::mem::take(&mut first) || message.len() < left;
        left = left.saturating_sub(message.len() + 1);
        fits
    };
    let kept = if history.recent {
        let kept = rendered.iter().rev().take_while(&mut fits).count();
        &rendered[rendered.len() - kept..]
    } else {
        let kept = rendered.iter().take_while(&mut fits).count();
        &rendered[..kept]
    };
    let truncated = Mark(history.truncated || kept.len() < rendered.len());
    let frame = frames::MessageHistory { room_id: room, messages: ListOf(kept.into(), PhantomData), truncated };
    frame.text_of(kept.iter().map(|message| message.len() + 1).sum())
}

/// The answer to `join_room`.
pub fn room_joined(room: &Room) -> String {
    frames::RoomJoined { room_id: room.id, room_name: &room.name }.text()
}

/// The answer to `leave_room`. Other sockets of the client in the room get it, too, and so do those of a member that was
/// removed.
pub fn room_left(room: RoomId, removed: bool) -> String {
    frames::RoomLeft { room_id: room, reason: removed.then_some("removed") }.text()
}

/// Tells about an event of a participant. `presence` is given if its first socket joined or its last one left with it.
pub fn participant_event(
    event: ParticipantEvent,
    room: RoomId,
    who: &Participant,
    presence: Option<Presence>,
    time: DateTime<Utc>,
) -> String {
    let frame = frames::UserEvent {
        event,
        user_id: Nullable(who.user_id),
        username: &who.username,
        uuid: device(who),
        room_id: room,
        timestamp: time,
        presence,
    };
    frame.text()
}

/// Tells that a member has read the room up to a message.
pub fn user_read(room: RoomId, who: &Participant, message: MessageId, time: DateTime<Utc>) -> String {
    let frame = frames::UserRead {
        room_id: room,
        message_id: message,
        user_id: Nullable(who.user_id),
        username: &who.username,
        uuid: device(who),
        timestamp: time,
    };
    frame.text()
}

/// Tells that a member has a new role.
pub fn role_changed(room: RoomId, who: &Participant, role: RoomRole, time: DateTime<Utc>) -> String {
    let frame = frames::RoleChanged {
        room_id: room,
        role,
        user_id: Nullable(who.user_id),
        username: &who.username,
        uuid: device(who),
        timestamp: time,
    };
    frame.text()
}

/// The answer to a `subscribe` or `unsubscribe` frame. `offset` is the newest one of a topic with a history.
pub fn subscription(topic: &str, is_subscribed: bool, offset: Option<i64>, now: DateTime<Utc>) -> String {
    if is_subscribed {
        frames::ChatSubscribed { topic_id: topic, offset, timestamp: now }.text()
    } else {
        frames::ChatUnsubscribed { topic_id: topic, timestamp: now }.text()
    }
}

/// The answer to a ping, also on public sockets.
pub fn pong(now: DateTime<Utc>) -> String {
    frames::ChatPong { timestamp: now }.text()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn said(id: i64, content: &str) -> Message {
        Message {
            id: MessageId(id),
            room: RoomId(7),
            author: Participant { client: ClientId::random(), user_id: Some(3), username: "a\"b".into() },
            content: content.into(),
            client_msg_id: Some("c\\1".to_owned()),
            created_at: DateTime::UNIX_EPOCH,
            edited_at: None,
            deleted_at: None,
        }
    }

    fn parsed(frame: &str) -> Value {
        serde_json::from_str(frame).unwrap()
    }

    #[test]
    fn a_message_is_told_in_both_dialects() {
        let message = said(5, "x\n\"y\"\u{1}");
        assert_eq!(
            parsed(&super::message(&message)),
            json!({
                "type": "message", "id": 5, "content": "x\n\"y\"\u{1}", "user_id": 3, "username": "a\"b", "room_id": 7,
                "timestamp": "1970-01-01T00:00:00Z", "client_msg_id": "c\\1",
            })
        );
        assert_eq!(
            parsed(&plain_message(&message)),
            json!({
                "message": "x\n\"y\"\u{1}", "chat_id": 7, "sender_id": 3, "username": "a\"b", "id": 5,
                "created_at": "1970-01-01T00:00:00Z", "client_msg_id": "c\\1",
            })
        );
    }

    #[test]
    fn a_device_has_its_uuid_instead_of_a_user_id() {
        let mut message = said(5, "x");
        message.author.user_id = None;
        let uuid = json!(message.author.client);
        let frame = parsed(&super::message(&message));
        assert_eq!((&frame["user_id"], &frame["uuid"]), (&Value::Null, &uuid));
        let frame = parsed(&plain_message(&message));
        assert_eq!((&frame["sender_id"], &frame["uuid"]), (&Value::Null, &uuid));
    }

    #[test]
    fn a_history_too_large_for_a_socket_is_cut_at_the_end_that_can_be_asked_for_again() {
        let ids = |recent, bytes| {
            let messages = (1..=3).map(|id| said(id, &"x".repeat(100))).collect();
            let history = History { messages, truncated: false, recent };
            let frame = parsed(&message_history(RoomId(7), &history, bytes));
            let ids: Vec<_> = frame["messages"].as_array().unwrap().iter().map(|m| m["id"].as_i64().unwrap()).collect();
            (ids, frame["truncated"] == true)
        };
        assert_eq!(ids(true, 10_000), (vec![1, 2, 3], false));
        assert_eq!(ids(true, 500), (vec![2, 3], true));
        assert_eq!(ids(false, 500), (vec![1, 2], true));
        assert_eq!(ids(false, 0), (vec![1], true));
    }
}
