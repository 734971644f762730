//! The frames that clients send, as declared in `/asyncapi.json`. The sessions find out what a frame is by the `TYPE` of
//! these. Clients may send further fields with every frame.

use super::MSGID_CHARS;
use crate::{
    domain::{ids::CommandId, messages::MAX_TTL_SECS, rooms::CLIENT_MSG_ID_CHARS, topics::history::MAX_SIZE},
    protocol::{
        examples::{client, command, sender},
        frames::frames,
        values::{Always, AnyJson, AnyUuid, Chars, IdOrText, NotEmpty, NotNull, Whole},
    },
};

frames! {
    /// A message to another client, which gets the object as it was sent, with all fields. Which other fields there are is between sender and recipient; usual ones are `timestamp`, `priority`, `subject`, `action`, `event`, `status`, `conversation_id` and `msgno`.
    DirectMessage {
        /// The recipient: a UUID in any spelling.
        to: AnyUuid = AnyUuid(client()),
        /// The sender, who must be this client. The broker adds it if it is left out.
        from: Option<AnyUuid> = None,
        /// The sender's own id of the message, which the receipt repeats.
        msgid: Chars<'static, MSGID_CHARS> = Chars("m-1"),
        /// The message, any JSON but `null`.
        content: NotNull<'static> = NotNull("{\"set\":21.5}"),
    }

    /// A message that is stored, and delivered until the recipient acknowledges it, also if that is offline now. The recipient is a device. To send it again with the same `msgid` changes nothing.
    AcknowledgedMessage {
        /// The recipient: the UUID of a device in any spelling.
        to: AnyUuid = AnyUuid(client()),
        /// The sender, who must be this client. The broker adds it if it is left out.
        from: Option<AnyUuid> = None,
        /// The sender's own id of the message, which the receipt repeats.
        msgid: Chars<'static, MSGID_CHARS> = Chars("m-2"),
        /// The message, any JSON but `null`.
        content: NotNull<'static> = NotNull("{\"set\":21.5}"),
        /// Without it, the message is a plain one.
        acknowledge: Always = Always,
        /// Seconds after which the message ends; `messages.ttl_secs` if it is left out.
        ttl: Option<Whole<1, { MAX_TTL_SECS as i64 }>> = Some(Whole(3600)),
        /// `high` and `low` go before and after the others in the recipient's queue.
        priority: Option<&'static str> = Some("high"),
    }

    /// A publication: all other subscribers get the object as it was sent, with all fields.
    TopicMessage {
        /// The topic, to which the client has to be subscribed.
        topic_id: &'static str = "weather",
        /// The publisher, which must be this client. The broker adds it if it is left out.
        from: Option<AnyUuid> = None,
        /// The publisher's own id of the publication, which the receipt repeats.
        msgid: Chars<'static, MSGID_CHARS> = Chars("m-3"),
        /// The publication, any JSON but `null`.
        content: NotNull<'static> = NotNull("{\"degrees\":21.5}"),
    }

    /// Subscribes the client to a topic, or to all topics of a pattern. Has no `content`.
    Subscribe "subscribe" {
        /// A topic, or a pattern: `+` stands for one level, `#` at the end for any number.
        topic_id: &'static str = "weather",
        /// Begin with what came after this offset in the topic's history. Not for patterns, and not together with `last`.
        since_offset: Option<Whole<0, { i64::MAX }>> = Some(Whole(0)),
        /// Begin with so many publications from the end of the topic's history. Not for patterns, and not together with `since_offset`.
        last: Option<Whole<1, { MAX_SIZE as i64 }>> = None,
        /// This client.
        from: Option<AnyUuid> = None,
    }

    /// Ends a subscription. Has no `content`.
    Unsubscribe "unsubscribe" {
        /// The topic or pattern.
        topic_id: &'static str = "weather",
        /// This client.
        from: Option<AnyUuid> = None,
    }

    /// The answer to a message with `acknowledge`. Has no `content`.
    Ack "ack" {
        /// The message.
        msgid: Chars<'static, MSGID_CHARS> = Chars("m-2"),
        /// `delivered`, `received`, `ack` or nothing: the client has the message. `rejected`: it does not want it. Anything else: it gets the message again later, five times at most.
        status: Option<&'static str> = Some("delivered"),
        /// This client.
        from: Option<AnyUuid> = None,
        /// Whose message it is, if two senders have used the same `msgid`. Without it, the oldest open one is meant.
        sender: Option<AnyUuid> = Some(AnyUuid(sender())),
    }

    /// Asks for a `pong`.
    Ping "ping" {}

    /// Is accepted, and has no effect but to show that the client is there.
    ClientPong "pong" {}

    /// The socket continues with a new token of the same client.
    Auth "auth" {
        /// The token.
        token: &'static str = "eyJhbGciOiJIUzI1NiJ9.e30.signature",
    }

    /// The result of a command: a frame with `command_id` or `result` that has neither `type` nor `to`, `topic_id` or `message`. The first result of a command counts. There is no answer to this frame.
    CommandReply {
        /// The command.
        command_id: CommandId = command(),
        /// The result, any JSON; a text that contains JSON is decoded. An object with the key `error` is a failure. Without it, the result is `null`.
        result: Option<AnyJson<'static>> = Some(AnyJson("{\"status\":\"ok\"}")),
    }

    /// How far a command is. There is no answer to this frame.
    Progress "progress" {
        /// The command.
        command_id: CommandId = command(),
        /// What the caller gets to see, any JSON.
        progress: Option<AnyJson<'static>> = Some(AnyJson("{\"percent\":40}")),
    }

    /// A message to a room, of which the client is a member.
    ChatMessage "message" {
        /// The text.
        content: NotEmpty<'static> = NotEmpty("Hello!"),
        /// The room.
        room_id: IdOrText = IdOrText(1),
        /// The client's own id of the message: with the same id again, nothing new is stored, and the client gets the first one's frame.
        client_msg_id: Option<Chars<'static, CLIENT_MSG_ID_CHARS>> = Some(Chars("c-1")),
    }

    /// Makes the client a member of a room, and the socket one of the room's.
    JoinRoom "join_room" {
        /// The room.
        room_id: IdOrText = IdOrText(1),
        /// Begin the history after this message, instead of with the newest ones.
        since_id: Option<IdOrText> = None,
    }

    /// Ends the membership in a room.
    LeaveRoom "leave_room" {
        /// The room.
        room_id: IdOrText = IdOrText(1),
    }

    /// The client has read the room up to a message.
    Read "read" {
        /// The room.
        room_id: IdOrText = IdOrText(1),
        /// The newest message that it has read.
        message_id: IdOrText = IdOrText(7),
    }

    /// The client is typing.
    Typing "typing" {
        /// The room. Without it, nobody is told.
        room_id: Option<IdOrText> = Some(IdOrText(1)),
    }

    /// A message to the room of the socket.
    RoomMessage "message" {
        /// The text.
        content: NotEmpty<'static> = NotEmpty("Hello!"),
        /// The client's own id of the message: with the same id again, nothing new is stored, and the client gets the first one's frame.
        client_msg_id: Option<Chars<'static, CLIENT_MSG_ID_CHARS>> = Some(Chars("c-1")),
    }

    /// The client has read the room of the socket up to a message.
    RoomRead "read" {
        /// The newest message that it has read.
        message_id: IdOrText = IdOrText(7),
    }

    /// The client is typing in the room of the socket.
    RoomTyping "typing" {}

    /// A message to the room of a socket with `chat_id`. The text may also be in `content`.
    PlainPost {
        /// The text.
        message: NotEmpty<'static> = NotEmpty("Hello!"),
        /// The client's own id of the message: with the same id again, nothing new is stored, and the client gets the first one's frame.
        client_msg_id: Option<Chars<'static, CLIENT_MSG_ID_CHARS>> = None,
    }
}
