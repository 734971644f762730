//! The frames of chat.

use std::marker::PhantomData;

use chrono::{DateTime, Utc};

use super::{MessageEvent, ParticipantEvent, Presence};
use crate::{
    domain::{
        ids::{ClientId, MessageId, RoomId},
        rooms::RoomRole,
    },
    protocol::{
        examples::time,
        frames::{DeclaredFrame, frames},
        values::{ListOf, Mark, Nullable},
    },
};

frames! {
    /// A message was sent to a room, edited or deleted.
    Message<'a> {
        /// What has happened to the message.
        event as "type": MessageEvent = MessageEvent::Sent,
        /// The message; a later message of the same room has a greater id.
        id: MessageId = MessageId(7),
        /// The text; empty if the message was deleted.
        content: &'a str = "Hello!",
        /// The author's id; `null` for a device.
        user_id: Nullable<i64> = Nullable(Some(2)),
        /// The author's username, or a device's name.
        username: &'a str = "alice",
        /// The author, if it is a device.
        uuid: Option<ClientId> = None,
        /// The room.
        room_id: RoomId = RoomId(1),
        /// When that happened.
        timestamp: DateTime<Utc> = time(),
        /// The author's own id of the message.
        client_msg_id: Option<&'a str> = Some("c-1"),
        /// When it was last edited.
        edited_at: Option<DateTime<Utc>> = None,
        /// When it was deleted.
        deleted_at: Option<DateTime<Utc>> = None,
    }

    /// A message of a room, on a socket with `chat_id`. Others' messages; of the author's own only the answer to one that was sent before.
    PlainMessage<'a> {
        /// The text.
        message: &'a str = "Hello!",
        /// The room.
        chat_id: RoomId = RoomId(1),
        /// The author's id; `null` for a device.
        sender_id: Nullable<i64> = Nullable(Some(2)),
        /// The author, if it is a device.
        uuid: Option<ClientId> = None,
        /// The author's username, or a device's name.
        username: &'a str = "alice",
        /// The message; a later message of the same room has a greater id.
        id: MessageId = MessageId(7),
        /// When it was sent.
        created_at: DateTime<Utc> = time(),
        /// The author's own id of the message.
        client_msg_id: Option<&'a str> = None,
        /// When it was last edited.
        edited_at: Option<DateTime<Utc>> = None,
        /// When it was deleted.
        deleted_at: Option<DateTime<Utc>> = None,
    }

    /// A message in a history.
    HistoryMessage<'a> {
        /// The message; a later message of the same room has a greater id.
        id: MessageId = MessageId(7),
        /// The text; empty if the message was deleted.
        content: &'a str = "Hello!",
        /// The author's id; `null` for a device.
        user_id: Nullable<i64> = Nullable(Some(2)),
        /// The author's username, or a device's name.
        username: &'a str = "alice",
        /// The author, if it is a device.
        uuid: Option<ClientId> = None,
        /// When it was sent.
        timestamp: DateTime<Utc> = time(),
        /// The author's own id of the message.
        client_msg_id: Option<&'a str> = None,
        /// When it was last edited.
        edited_at: Option<DateTime<Utc>> = None,
        /// When it was deleted.
        deleted_at: Option<DateTime<Utc>> = None,
    }

    /// The history of a room: the newest messages, or with `since_id` what came after that one.
    MessageHistory<'a> "message_history" {
        /// The room.
        room_id: RoomId = RoomId(1),
        /// The messages, oldest first.
        messages: ListOf<'a, HistoryMessage<'a>> = ListOf(vec![HistoryMessage::example().text()].into(), PhantomData),
        /// There are more: older ones, or with `since_id` newer ones.
        truncated: Mark = Mark(false),
    }

    /// The answer to `join_room`.
    RoomJoined<'a> "room_joined" {
        /// The room.
        room_id: RoomId = RoomId(1),
        /// The room's name.
        room_name: &'a str = "lobby",
    }

    /// The answer to `leave_room`. The client's other sockets in the room get it, too, and those of a member that was removed.
    RoomLeft<'a> "room_left" {
        /// The room.
        room_id: RoomId = RoomId(1),
        /// `removed` if somebody else has ended the membership.
        reason: Option<&'a str> = None,
    }

    /// A participant of the room did something.
    UserEvent<'a> {
        /// What the participant did.
        event as "type": ParticipantEvent = ParticipantEvent::Joined,
        /// The user's id; `null` for a device.
        user_id: Nullable<i64> = Nullable(Some(2)),
        /// The user's username, or the device's name.
        username: &'a str = "alice",
        /// The device, if it is one.
        uuid: Option<ClientId> = None,
        /// The room.
        room_id: RoomId = RoomId(1),
        /// When it happened.
        timestamp: DateTime<Utc> = time(),
        /// The participant's first socket has joined with this event, or its last one has left.
        presence: Option<Presence> = Some(Presence::Online),
    }

    /// A member has read the room up to a message.
    UserRead<'a> "user_read" {
        /// The room.
        room_id: RoomId = RoomId(1),
        /// The newest message that the member has read.
        message_id: MessageId = MessageId(7),
        /// The user's id; `null` for a device.
        user_id: Nullable<i64> = Nullable(Some(2)),
        /// The user's username, or the device's name.
        username: &'a str = "alice",
        /// The device, if it is one.
        uuid: Option<ClientId> = None,
        /// When it was reported.
        timestamp: DateTime<Utc> = time(),
    }

    /// A member has a new role.
    RoleChanged<'a> "role_changed" {
        /// The room.
        room_id: RoomId = RoomId(1),
        /// The role.
        role: RoomRole = RoomRole::Moderator,
        /// The user's id; `null` for a device.
        user_id: Nullable<i64> = Nullable(Some(2)),
        /// The user's username, or the device's name.
        username: &'a str = "alice",
        /// The device, if it is one.
        uuid: Option<ClientId> = None,
        /// When it changed.
        timestamp: DateTime<Utc> = time(),
    }

    /// The answer to `subscribe` on a chat socket.
    ChatSubscribed<'a> "subscribed" {
        /// The topic or pattern.
        topic_id: &'a str = "weather",
        /// The newest offset of a topic with a history.
        offset: Option<i64> = Some(17),
        /// When the broker wrote this frame.
        timestamp: DateTime<Utc> = time(),
    }

    /// The answer to `unsubscribe` on a chat socket, also if the client was not subscribed.
    ChatUnsubscribed<'a> "unsubscribed" {
        /// The topic or pattern.
        topic_id: &'a str = "weather",
        /// When the broker wrote this frame.
        timestamp: DateTime<Utc> = time(),
    }

    /// The answer to `ping` on a chat or public socket.
    ChatPong "pong" {
        /// When the broker wrote this frame.
        timestamp: DateTime<Utc> = time(),
    }
}
