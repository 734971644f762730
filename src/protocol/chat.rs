//! Chat frames from the server, as JSON text (contract section 7), and the JSON of messages.

use std::fmt::Write;

use chrono::{DateTime, Utc};

use super::outbound::{Quoted, rfc3339};
use crate::domain::{
    ids::{MessageId, RoomId},
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

/// Appends `"user_id":…,"username":…`, and `"uuid":…` for a device, which has no user id.
fn put_participant(out: &mut String, who: &Participant) {
    // writing to a String does not fail
    let _ = match who.user_id {
        Some(id) => write!(out, r#""user_id":{id},"username":{}"#, Quoted(&who.username)),
        None => write!(out, r#""user_id":null,"username":{},"uuid":"{}""#, Quoted(&who.username), who.client),
    };
}

fn put_time(out: &mut String, key: &str, time: DateTime<Utc>) {
    let _ = write!(out, r#","{key}":"{}""#, rfc3339(time));
}

/// Appends the optional fields of a message: `client_msg_id`, `edited_at`, `deleted_at`.
fn put_rest(out: &mut String, message: &Message) {
    if let Some(name) = &message.client_msg_id {
        let _ = write!(out, r#","client_msg_id":{}"#, Quoted(name));
    }
    for (key, time) in [("edited_at", message.edited_at), ("deleted_at", message.deleted_at)] {
        if let Some(time) = time {
            put_time(out, key, time);
        }
    }
}

/// Appends `"id":…,"content":…,` and the author.
fn put_message(out: &mut String, message: &Message) {
    let _ = write!(out, r#""id":{},"content":{},"#, message.id, Quoted(&message.content));
    put_participant(out, &message.author);
}

/// A frame of the type `kind` with a message.
fn about_message(kind: &str, message: &Message, time: DateTime<Utc>) -> String {
    let mut out = String::with_capacity(256 + message.content.len());
    let _ = write!(out, r#"{{"type":"{kind}","#);
    put_message(&mut out, message);
    let _ = write!(out, r#","room_id":{}"#, message.room);
    put_time(&mut out, "timestamp", time);
    put_rest(&mut out, message);
    out.push('}');
    out
}

/// The frame of a new message.
pub fn message(message: &Message) -> String {
    about_message("message", message, message.created_at)
}

/// Tells that a message was edited; has the new content.
pub fn message_edited(message: &Message) -> String {
    about_message("message_edited", message, message.edited_at.unwrap_or(message.created_at))
}

/// Tells that a message was deleted; its content is empty.
pub fn message_deleted(message: &Message) -> String {
    about_message("message_deleted", message, message.deleted_at.unwrap_or(message.created_at))
}

/// The frame of a new message in the dialect of `/ws?chat_id=`.
pub fn plain_message(message: &Message) -> String {
    let mut out = String::with_capacity(192 + message.content.len());
    let _ = write!(out, r#"{{"message":{},"chat_id":{},"sender_id":"#, Quoted(&message.content), message.room);
    let _ = match message.author.user_id {
        Some(id) => write!(out, "{id}"),
        None => write!(out, r#"null,"uuid":"{}""#, message.author.client),
    };
    let _ = write!(out, r#","username":{},"id":{}"#, Quoted(&message.author.username), message.id);
    put_time(&mut out, "created_at", message.created_at);
    put_rest(&mut out, message);
    out.push('}');
    out
}

/// The history of a room, oldest message first, cut to `bytes` bytes but with at least one message. A recent history is cut
/// at its beginning, any other at its end.
pub fn message_history(room: RoomId, history: &History, bytes: usize) -> String {
    let rendered: Vec<String> = history
        .messages
        .iter()
        .map(|message| {
            let mut out = String::with_capacity(192 + message.content.len());
            out.push('{');
            put_message(&mut out, message);
            put_time(&mut out, "timestamp", message.created_at);
            put_rest(&mut out, message);
            out.push('}');
            out
        })
        .collect();
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
    let mut out = format!(r#"{{"type":"message_history","room_id":{room},"messages":["#);
    out.push_str(&kept.join(","));
    out.push(']');
    if history.truncated || kept.len() < rendered.len() {
        out.push_str(r#","truncated":true"#);
    }
    out.push('}');
    out
}

/// The answer to `join_room`.
pub fn room_joined(room: &Room) -> String {
    format!(r#"{{"type":"room_joined","room_id":{},"room_name":{}}}"#, room.id, Quoted(&room.name))
}

/// The answer to `leave_room`. Other sockets of the client in the room get it, too, and so do those of a member that was
/// removed.
pub fn room_left(room: RoomId, removed: bool) -> String {
    let reason = if removed { r#","reason":"removed""# } else { "" };
    format!(r#"{{"type":"room_left","room_id":{room}{reason}}}"#)
}

/// Tells about an event of a participant. `presence` is given if its first socket joined or its last one left with it.
pub fn participant_event(
    event: ParticipantEvent,
    room: RoomId,
    who: &Participant,
    presence: Option<Presence>,
    time: DateTime<Utc>,
) -> String {
    let mut out = format!(r#"{{"type":"{}","#, event.as_str());
    put_participant(&mut out, who);
    let _ = write!(out, r#","room_id":{room}"#);
    put_time(&mut out, "timestamp", time);
    if let Some(presence) = presence {
        let _ = write!(out, r#","presence":"{}""#, presence.as_str());
    }
    out.push('}');
    out
}

/// Tells that a member has read the room up to a message.
pub fn user_read(room: RoomId, who: &Participant, message: MessageId, time: DateTime<Utc>) -> String {
    let mut out = format!(r#"{{"type":"user_read","room_id":{room},"message_id":{message},"#);
    put_participant(&mut out, who);
    put_time(&mut out, "timestamp", time);
    out.push('}');
    out
}

/// Tells that a member has a new role.
pub fn role_changed(room: RoomId, who: &Participant, role: RoomRole, time: DateTime<Utc>) -> String {
    let mut out = format!(r#"{{"type":"role_changed","room_id":{room},"role":"{}","#, role.as_str());
    put_participant(&mut out, who);
    put_time(&mut out, "timestamp", time);
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::ids::ClientId;

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
