//! The chat dialects (contract section 7): `/ws/auth`, `/ws/room/{id}`, `/ws?chat_id=`, and a public socket that has
//! authenticated. Requests go to the RoomManager, which also answers them.

use std::borrow::Cow;

use actix::{Actor, AsyncContext, WrapFuture};
use serde_json::value::RawValue;

use super::{Dialect, Session};
use crate::{
    actors::room_manager::NotRequested,
    domain::{
        accounts::Account,
        ids::{MessageId, RoomId},
        rooms::{Attachment, CLIENT_MSG_ID_CHARS, Participant, RoomChange, Wanted},
    },
    protocol::{
        error_code::ErrorCode,
        frames::DeclaredFrame,
        inbound::{Frame, as_id, as_text, frames, is_subscription},
        outbound::{self, About, excerpt},
    },
};

/// The first frame on `/ws/auth`.
pub(super) fn greeting(account: &Account) -> String {
    let user_id = account.participant().user_id;
    outbound::connection_established(user_id, account.name(), uuid::Uuid::new_v4(), account.id)
}

/// The code and the text of the error frame for a bad frame.
struct Refused(ErrorCode, String);

impl Dialect {
    /// The room of a socket that is for one room, its kind of attachment, and the history that it gets at the start.
    pub(super) fn room(self) -> Option<(RoomId, Attachment, Wanted)> {
        match self {
            Self::Room { room, wanted } => Some((room, Attachment::Dedicated, wanted)),
            Self::Plain(room) => Some((room, Attachment::Plain, Wanted::Nothing)),
            _ => None,
        }
    }

    fn attachment(self) -> Attachment {
        self.room().map_or(Attachment::Joined, |(_, attachment, _)| attachment)
    }
}

impl Session {
    pub(super) fn on_chat_text(&mut self, text: &str, context: &mut <Self as Actor>::Context) {
        let Ok(frame) = self.common(text, context) else { return };
        if self.dialect == Dialect::Chat && is_subscription(&frame) {
            return self.on_subscription(&frame, context);
        }
        let Some(who) = self.outbox.handle().account().map(|account| account.participant()) else { return };
        let own_room = self.dialect.room().map(|(room, ..)| room);
        // a socket for one room ignores `room_id`
        let named_room = match own_room {
            None => id(frame.room_id, "room_id").map(|id| id.map(RoomId)),
            own => Ok(own),
        };
        let about = About { room_id: named_room.as_ref().ok().copied().flatten(), ..About::default() };
        match named_room.and_then(|room| self.read_chat(&frame, who, room)) {
            Ok(change) => {
                self.bad_frames = 0;
                if let Some(change) = change {
                    self.ask(change, about, context);
                }
            }
            Err(Refused(code, why)) => self.bad_frame(code, &why, about),
        }
    }

    /// The change that a frame requests; `None` if it requests nothing.
    fn read_chat(
        &self,
        frame: &Frame<'_>,
        who: Participant,
        room: Option<RoomId>,
    ) -> Result<Option<RoomChange>, Refused> {
        let is_dedicated = self.dialect.room().is_some();
        let kind = match (frame.kind, frame.kind()) {
            _ if frame.is_message() => None,
            (_, Some(kind)) => Some(kind),
            (None, None) => None,
            (Some(other), None) => Some(other.get()).filter(|other| *other != "null").map(Cow::Borrowed),
        };
        // no type means a message
        let kind = kind.as_deref().or(frames::ChatMessage::TYPE);
        let missing_room = || missing("Missing room_id");
        let change = match kind {
            frames::ChatMessage::TYPE => self.read_message(frame, who, room)?,
            frames::JoinRoom::TYPE if !is_dedicated => {
                let wanted = match id(frame.since_id, "since_id")? {
                    None => Wanted::Recent,
                    Some(id) => Wanted::Since(MessageId(id)),
                };
                RoomChange::Join { room: room.ok_or_else(missing_room)?, who, wanted }
            }
            frames::LeaveRoom::TYPE if !is_dedicated => {
                RoomChange::Leave { room: room.ok_or_else(missing_room)?, who: who.client }
            }
            frames::Read::TYPE => {
                let message = id(frame.message_id, "message_id")?;
                RoomChange::Read {
                    room: room.ok_or_else(missing_room)?,
                    message: MessageId(message.ok_or_else(|| missing("Missing message_id"))?),
                    by: who.client,
                }
            }
            frames::Typing::TYPE => return Ok(room.map(|room| RoomChange::Type { room, who })),
            other => {
                let kind = excerpt(other.unwrap_or_default());
                return Err(Refused(ErrorCode::UnknownType, format!("Unknown message type: {kind}")));
            }
        };
        Ok(Some(change))
    }

    fn read_message(
        &self,
        frame: &Frame<'_>,
        author: Participant,
        room: Option<RoomId>,
    ) -> Result<RoomChange, Refused> {
        let is_dedicated = self.dialect.room().is_some();
        let (content, name) = match self.dialect {
            Dialect::Plain(_) => (frame.message.or(frame.content), "message"),
            _ => (frame.content, "content"),
        };
        let content = text(content, name)?.filter(|content| !content.is_empty());
        let (Some(content), Some(room)) = (content, room) else {
            return Err(missing(if is_dedicated { "Missing content" } else { "Missing content or room_id" }));
        };
        let limit = self.broker.settings.load().limits.message_bytes;
        if limit > 0 && content.len() > limit {
            let why = format!("Message {name} over {limit} bytes (limits.message_bytes)");
            return Err(Refused(ErrorCode::MessageTooLarge, why));
        }
        let client_msg_id = text(frame.client_msg_id, "client_msg_id")?.map(Cow::into_owned);
        if client_msg_id.as_ref().is_some_and(|id| id.chars().count() > CLIENT_MSG_ID_CHARS) {
            return Err(shape("client_msg_id", "expected a text of at most 64 characters"));
        }
        Ok(RoomChange::Post { room, author, content: content.into(), client_msg_id })
    }

    /// Passes a change to the RoomManager. While that or a worker has too much to do, this socket is not read.
    fn ask(&mut self, change: RoomChange, about: About<'_>, context: &mut <Self as Actor>::Context) {
        let (broker, session, attachment) =
            (self.broker.clone(), self.outbox.handle().clone(), self.dialect.attachment());
        if matches!(change, RoomChange::Join { .. }) {
            // a history can be long: the next frame is read when the socket has taken it
            let join = async move {
                // the RoomManager has sent a refusal to the socket
                let _ = broker.rooms.ask(change, Some((session.clone(), attachment))).await;
                broker.relays.drained(&session).await;
            };
            context.wait(join.into_actor(self));
            return;
        }
        match broker.rooms.request(change, &session, attachment) {
            Ok(()) => {}
            Err(NotRequested::NoRoom(change)) => {
                let later = async move { broker.rooms.request_later(change, session, attachment).await };
                context.wait(later.into_actor(self));
            }
            Err(NotRequested::OverLimit(exceeded)) => {
                self.error(ErrorCode::TooManyRequests, &exceeded.to_string(), about);
            }
        }
    }
}

fn shape(field: &str, expected: &str) -> Refused {
    Refused(ErrorCode::InvalidMessage, format!("Invalid message format: {field}: {expected}"))
}

fn missing(why: &str) -> Refused {
    Refused(ErrorCode::MissingField, why.to_owned())
}

/// An id, which may be missing.
fn id(raw: Option<&RawValue>, field: &str) -> Result<Option<i64>, Refused> {
    raw.map_or(Ok(None), |raw| as_id(raw).map_err(|_| shape(field, "expected an integer")))
}

/// A text without NUL characters, which may be missing or null.
fn text<'a>(raw: Option<&'a RawValue>, field: &str) -> Result<Option<Cow<'a, str>>, Refused> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(None) };
    let text = as_text(raw).ok_or_else(|| shape(field, "expected a text"))?;
    if text.contains('\0') {
        return Err(shape(field, "must not contain NUL characters"));
    }
    Ok(Some(text))
}
