//! The bytes of frames, as existing clients know them.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{
    chat::{self, ParticipantEvent, Presence},
    error_code::ErrorCode,
    frames::DeclaredFrame,
    outbound::{
        self, About,
        frames::{Cancel, ClientChange, ClientEvent, Command, GatewayChange, GatewayEvent, GatewayStates},
    },
    values::{AnyJson, Nullable},
};
use crate::domain::{
    gateways::{Reason, Status},
    ids::{ClientId, ClientKind, CommandId, GatewayId, MessageId, RoomId},
    messages::MessageState,
    rooms::{History, Message, Participant, Room, RoomRole},
};

fn client() -> ClientId {
    ClientId::from(Uuid::nil())
}

fn time() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::microseconds(5_000_042)
}

/// With the only UUID in place of `$`.
#[track_caller]
fn check(frame: &str, expected: &str) {
    assert_eq!(frame, expected.replace('$', "00000000-0000-0000-0000-000000000000"));
}

fn user() -> Participant {
    Participant { client: client(), user_id: Some(3), username: "al\"ice".into() }
}

fn device() -> Participant {
    Participant { user_id: None, ..user() }
}

fn said(author: Participant) -> Message {
    Message {
        id: MessageId(5),
        room: RoomId(7),
        author,
        content: "Hé\n".into(),
        client_msg_id: None,
        created_at: time(),
        edited_at: None,
        deleted_at: None,
    }
}

#[test]
fn frames_of_devices() {
    let (uuid, now) = (client(), time());
    check(
        &outbound::connection(uuid, "a\\b", now),
        r#"{"type":"connection","message":"Connected successfully","uuid":"$","name":"a\\b","timestamp":5.000042}"#,
    );
    check(
        &outbound::sent("m", now),
        r#"{"type":"sent","message":"Message delivered","msgid":"m","timestamp":5.000042}"#,
    );
    check(
        &outbound::topic_sent("t", 2, "m", None, now),
        r#"{"type":"topic_sent","message":"Message sent to 2 subscribers","topic_id":"t","msgid":"m","timestamp":5.000042}"#,
    );
    check(
        &outbound::topic_sent("t", 2, "m", Some(9), now),
        r#"{"type":"topic_sent","message":"Message sent to 2 subscribers","topic_id":"t","msgid":"m","offset":9,"timestamp":5.000042}"#,
    );
    check(
        &outbound::accepted("m", MessageState::QueuedOffline, now, now),
        r#"{"type":"sent","message":"Recipient offline - message queued for delivery","msgid":"m","status":"queued_offline","expires_at":"1970-01-01T00:00:05.000042Z","timestamp":5.000042}"#,
    );
    check(
        &outbound::ack_received("m", Some(MessageState::Delivered), now),
        r#"{"type":"ack_received","msgid":"m","status":"delivered","timestamp":5.000042}"#,
    );
    check(
        &outbound::ack_received("m", None, now),
        r#"{"type":"ack_received","msgid":"m","status":"unknown","timestamp":5.000042}"#,
    );
    check(
        &outbound::subscription("t", true, Some(9), now),
        r#"{"type":"subscribed","topic_id":"t","offset":9,"timestamp":5.000042}"#,
    );
    check(
        &outbound::subscription("t", false, None, now),
        r#"{"type":"unsubscribed","topic_id":"t","timestamp":5.000042}"#,
    );
    check(&outbound::topic_gap("t", 4), r#"{"type":"topic_gap","topic_id":"t","first_offset":4}"#);
    check(&outbound::topic_deleted("t"), r#"{"type":"topic_deleted","topic_id":"t"}"#);
    check(&outbound::pong(now), r#"{"type":"pong","timestamp":5.000042}"#);
    check(&outbound::heartbeat(), r#"{"type":"heartbeat"}"#);
    check(
        &outbound::authenticated(uuid, now),
        r#"{"type":"authenticated","uuid":"$","expires_at":"1970-01-01T00:00:05.000042Z"}"#,
    );
    check(&outbound::echo("{\"a\":1}"), r#"{"type":"echo","content":"Received: {\"a\":1}"}"#);
}

#[test]
fn errors() {
    check(
        &outbound::error(ErrorCode::InvalidJson, "No", About::default(), time()),
        r#"{"type":"error","message":"No","content":"No","code":"invalid_json","timestamp":5.000042}"#,
    );
    let about = About { msgid: Some("m"), topic_id: Some("t"), room_id: Some(RoomId(7)) };
    check(
        &outbound::error(ErrorCode::Forbidden, "N\"o", about, time()),
        r#"{"type":"error","message":"N\"o","content":"N\"o","code":"forbidden","timestamp":5.000042,"msgid":"m","topic_id":"t","room_id":7}"#,
    );
}

#[test]
fn commands_and_states() {
    let command_id = CommandId::from(Uuid::nil());
    check(
        &Command { command_id, method: "GET", url: "/", data: AnyJson("{ \"a\": 1e1 }") }.text(),
        r#"{"command_id":"$","method":"GET","url":"/","data":{ "a": 1e1 }}"#,
    );
    check(&Cancel { command_id }.text(), r#"{"type":"cancel","command_id":"$"}"#);
    let event = GatewayEvent {
        event: GatewayChange::Disconnected,
        topic_id: "$status",
        gateway_id: GatewayId(1),
        name: "north",
        address: "192.0.2.1",
        status: Status::Disconnected,
        reason: Nullable(Some(Reason::Timeout)),
        at: time(),
    };
    assert_eq!(
        event.text(),
        r#"{"event":"gateway_disconnected","topic_id":"$status","gateway_id":1,"name":"north","address":"192.0.2.1","status":"disconnected","reason":"timeout","at":"1970-01-01T00:00:05.000042Z"}"#
    );
    let (event, kind) = (ClientChange::of(true), ClientKind::Device);
    let event = ClientEvent { event, topic_id: "t", uuid: client(), name: "Alice", kind, at: time() };
    check(
        &event.text(),
        r#"{"event":"client_connected","topic_id":"t","uuid":"$","name":"Alice","kind":"device","at":"1970-01-01T00:00:05.000042Z"}"#,
    );
    check(
        &GatewayStates(vec![(GatewayId(1), true), (GatewayId(2), false)]).text(),
        r#"{"1":"connected","2":"disconnected"}"#,
    );
    check(&GatewayStates(Vec::new()).text(), "{}");
}

#[test]
fn greetings_of_chat() {
    check(
        &outbound::connection_established(Some(3), "alice", Uuid::nil(), client()),
        r#"{"type":"connection_established","user_id":3,"username":"alice","client_id":"$"}"#,
    );
    check(
        &outbound::connection_established(None, "Alice", Uuid::nil(), client()),
        r#"{"type":"connection_established","user_id":null,"username":"Alice","client_id":"$","uuid":"$"}"#,
    );
}

#[test]
fn messages_of_chat() {
    check(
        &chat::message(&said(user())),
        r#"{"type":"message","id":5,"content":"Hé\n","user_id":3,"username":"al\"ice","room_id":7,"timestamp":"1970-01-01T00:00:05.000042Z"}"#,
    );
    let edited = Message { client_msg_id: Some("c".into()), edited_at: Some(time()), ..said(device()) };
    check(
        &chat::message_edited(&edited),
        r#"{"type":"message_edited","id":5,"content":"Hé\n","user_id":null,"username":"al\"ice","uuid":"$","room_id":7,"timestamp":"1970-01-01T00:00:05.000042Z","client_msg_id":"c","edited_at":"1970-01-01T00:00:05.000042Z"}"#,
    );
    check(
        &chat::plain_message(&said(device())),
        r#"{"message":"Hé\n","chat_id":7,"sender_id":null,"uuid":"$","username":"al\"ice","id":5,"created_at":"1970-01-01T00:00:05.000042Z"}"#,
    );
    let history = History { messages: vec![said(user()), said(user())], truncated: true, recent: true };
    let one = r#"{"id":5,"content":"Hé\n","user_id":3,"username":"al\"ice","timestamp":"1970-01-01T00:00:05.000042Z"}"#;
    check(
        &chat::message_history(RoomId(7), &history, 10_000),
        &format!(r#"{{"type":"message_history","room_id":7,"messages":[{one},{one}],"truncated":true}}"#),
    );
}

#[test]
fn events_of_rooms() {
    let (room, now) = (RoomId(7), time());
    let lobby = Room { id: room, name: "lobby".into(), description: None, is_private: false, created_at: now };
    check(&chat::room_joined(&lobby), r#"{"type":"room_joined","room_id":7,"room_name":"lobby"}"#);
    check(&chat::room_left(room, false), r#"{"type":"room_left","room_id":7}"#);
    check(&chat::room_left(room, true), r#"{"type":"room_left","room_id":7,"reason":"removed"}"#);
    check(
        &chat::participant_event(ParticipantEvent::Joined, room, &user(), Some(Presence::Online), now),
        r#"{"type":"user_joined","user_id":3,"username":"al\"ice","room_id":7,"timestamp":"1970-01-01T00:00:05.000042Z","presence":"online"}"#,
    );
    check(
        &chat::user_read(room, &device(), MessageId(5), now),
        r#"{"type":"user_read","room_id":7,"message_id":5,"user_id":null,"username":"al\"ice","uuid":"$","timestamp":"1970-01-01T00:00:05.000042Z"}"#,
    );
    check(
        &chat::role_changed(room, &user(), RoomRole::Moderator, now),
        r#"{"type":"role_changed","room_id":7,"role":"moderator","user_id":3,"username":"al\"ice","timestamp":"1970-01-01T00:00:05.000042Z"}"#,
    );
    check(
        &chat::subscription("t", true, None, now),
        r#"{"type":"subscribed","topic_id":"t","timestamp":"1970-01-01T00:00:05.000042Z"}"#,
    );
    check(&chat::pong(now), r#"{"type":"pong","timestamp":"1970-01-01T00:00:05.000042Z"}"#);
}
