//! The bytes of messages. Nodes of other releases write and read them: what is here never changes. New kinds, and new variants in
//! kinds, are appended, each with its version.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::*;
use crate::{
    cluster::findings::FoundGateway,
    domain::{
        gateways::{Found, Reason, Status, Window},
        ids::{ClientId, GatewayId, MessageId},
        rooms::RoomRole,
    },
};

const ID: Uuid = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn time() -> DateTime<Utc> {
    DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap()
}

fn participant(user_id: Option<i64>) -> Participant {
    Participant { client: ClientId::from(ID), user_id, username: Arc::from("a") }
}

fn chat_message() -> ChatMessage {
    ChatMessage {
        id: MessageId(5),
        room: RoomId(6),
        author: participant(Some(1)),
        content: Arc::from("hi"),
        client_msg_id: Some("m".to_owned()),
        created_at: time(),
        edited_at: Some(time()),
        deleted_at: None,
    }
}

fn findings() -> Findings {
    let found = Found {
        address: "h:1".to_owned(),
        status: Status::Disconnected,
        reason: Some(Reason::Timeout),
        since: time(),
        probed_at: None,
        window: Window::of([Some(1.5), None]),
    };
    let gateways = vec![FoundGateway::new(GatewayId(2), found)];
    Findings { term: 3, number: 4, is_end: true, trouble: Some("t".to_owned()), gateways }
}

fn room_event(event: RoomEvent, message: Option<ChatMessage>) -> Message {
    Message::RoomEvent { room: RoomId(6), sequence: 7, event, message, comes_online: true }
}

fn ask(question: Question) -> Message {
    Message::Ask { number: 300, question }
}

fn answer(answer: Answer) -> Message {
    Message::Answer { number: 300, answer }
}

fn reply(content: ReplyText) -> Message {
    Message::Command(CommandMessage::Reply { command: ID, client: ID, content })
}

/// Messages with their bytes, by the version that they came with. The uuid in them is written as `ID`.
#[rustfmt::skip]
fn messages() -> Vec<(u8, Message, &'static str)> {
    let client = ClientState { client: ID, name: "n".to_owned(), is_user: true, is_online: true, sessions: 2, device: 300, agent: 4, chat: 5 };
    let origin = Origin { client: ID, device: 5 };
    let occupant = OccupantState { room: RoomId(6), who: participant(None), is_private: true, sockets: 2 };
    let kept = Some(Kept { history: 1, offset: -2 });
    vec![
        (1, Message::Ping(300), "00ac02"),
        (1, Message::Alive, "01"),
        (1, Message::Client(client), "0210ID016e010102ac020405"),
        (1, Message::GetSnapshot, "03"),
        (1, Message::SnapshotBegins, "04"),
        (1, Message::SnapshotEnds, "05"),
        (1, Message::Barrier(1), "0601"),
        (1, Message::Passed(1), "0701"),
        (1, Message::Direct { number: 300, to: ID, from: origin, text: text("{}") }, "08ac0210ID10ID05027b7d"),
        (1, Message::Interest { id: "t/+".to_owned(), is_pattern: true, subscribers: 300 }, "0903742f2b01ac02"),
        (1, Message::Publication { number: 300, topic: "t".to_owned(), from: origin, kept, text: text("{}") }, "0aac02017410ID05010203027b7d"),
        (1, Message::Reached { number: 300, clients: 2 }, "0bac0202"),
        (1, Message::Subscriptions { client: ID, ids: vec![("t".to_owned(), true)] }, "0c10ID01017401"),
        (1, ask(Question::Subscribe { client: ID, id: ("t".to_owned(), false) }), "0dac020010ID017400"),
        (1, ask(Question::Unsubscribe { client: ID, id: "t".to_owned() }), "0dac020110ID0174"),
        (1, ask(Question::IsSubscribed { client: ID, topic: "t".to_owned() }), "0dac020210ID0174"),
        (1, ask(Question::Subscribers("t".to_owned())), "0dac02030174"),
        (1, ask(Question::WriteCommands), "0dac0204"),
        (1, ask(Question::CancelCommand(ID)), "0dac020510ID"),
        (1, answer(Answer::Yes), "0eac0200"),
        (1, answer(Answer::No), "0eac0201"),
        (1, answer(Answer::TooMany), "0eac0202"),
        (1, answer(Answer::Clients(vec![ID])), "0eac02030110ID"),
        (1, Message::TopicChanged { topic: "t".to_owned(), is_deleted: true }, "0f017401"),
        (1, Message::DeliveryWaits(ID), "1010ID"),
        (1, Message::DeliveryEnded { id: 1, from: (ID, 2), to: ID, msgid: "m".to_owned(), state: "s".to_owned(), is_told: true }, "110210ID0410ID016d017301"),
        (1, Message::AccountsChanged, "12"),
        (1, Message::Outcome { number: 300, is_delivered: true }, "13ac0201"),
        (1, room_event(RoomEvent::Joined(participant(None)), None), "140c0e002430313032303330342d303530362d303730382d303930612d3062306330643065306631300001610001"),
        (1, room_event(RoomEvent::Left { who: participant(None), removed: true, new_owner: Some(participant(Some(1))) }, None), "140c0e012430313032303330342d303530362d303730382d303930612d30623063306430653066313000016101012430313032303330342d303530362d303730382d303930612d306230633064306530663130010201610001"),
        (1, room_event(RoomEvent::RoleSet { who: participant(None), role: RoomRole::Owner }, None), "140c0e022430313032303330342d303530362d303730382d303930612d306230633064306530663130000161020001"),
        (1, room_event(RoomEvent::Posted(MessageId(5)), Some(chat_message())), "140c0e030a010a0c2430313032303330342d303530362d303730382d303930612d3062306330643065306631300102016102686901016d1b323032332d31312d31345432323a31333a32302e3132333435365a011b323032332d31312d31345432323a31333a32302e3132333435365a0001"),
        (1, room_event(RoomEvent::Edited(MessageId(5)), None), "140c0e040a0001"),
        (1, room_event(RoomEvent::Deleted(MessageId(5)), None), "140c0e050a0001"),
        (1, room_event(RoomEvent::MarkedRead { who: participant(None), message: MessageId(5) }, None), "140c0e062430313032303330342d303530362d303730382d303930612d3062306330643065306631300001610a0001"),
        (1, Message::Occupant { occupant, is_told: true }, "150c2430313032303330342d303530362d303730382d303930612d306230633064306530663130000161010201"),
        (1, Message::Typing { room: RoomId(6), who: participant(None) }, "160c2430313032303330342d303530362d303730382d303930612d306230633064306530663130000161"),
        (1, Message::Gateways(findings()), "17060401010174010403683a310c646973636f6e6e6563746564010774696d656f75748089818283898506000201000000000000f83f00"),
        (1, Message::GetGateways, "18"),
        (1, Message::GatewaysChanged, "19"),
        (1, Message::Leaving, "1a"),
        (1, Message::Command(CommandMessage::HandOver { command: ID, to: vec![(ID, 1)], text: text("{}"), may_wait: true }), "1b0010ID0110ID02027b7d01"),
        (1, Message::Command(CommandMessage::HandedOver { command: ID, outcomes: vec![(ID, HandOver::Sent), (ID, HandOver::Absent), (ID, HandOver::NoRoom), (ID, HandOver::Deleted(1))] }), "1b0110ID0410ID0010ID0110ID0210ID0302"),
        (1, reply(ReplyText::Result("{}".to_owned(), true)), "1b0210ID10ID00027b7d01"),
        (1, reply(ReplyText::Progress("{}".to_owned())), "1b0210ID10ID01027b7d"),
        (1, Message::Command(CommandMessage::SocketLost { client: ID, commands: vec![ID] }), "1b0310ID0110ID"),
        (1, Message::Command(CommandMessage::Cancel { command: ID, client: ID }), "1b0410ID10ID"),
        (2, Message::Congested(true), "1c01"),
    ]
}

fn hex(bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.replace(&ID.simple().to_string(), "ID")
}

#[test]
fn the_bytes_of_messages_do_not_change_from_release_to_release() {
    for (version, message, expected) in messages() {
        let bytes = postcard::to_allocvec(&message).unwrap();
        assert_eq!((message.since(), hex(&bytes).as_str()), (version, expected), "{message:?}");
        assert_eq!(postcard::from_bytes::<Message>(&bytes).unwrap(), message);
    }
}

#[test]
fn the_bytes_of_all_kinds_of_messages_are_checked() {
    let numbers = messages().into_iter().map(|(_, message, _)| postcard::to_allocvec(&message).unwrap()[0]);
    let mut numbers: Vec<_> = numbers.collect();
    numbers.dedup();
    let next = u8::try_from(numbers.len()).unwrap();
    assert!(numbers.into_iter().eq(0..next));
    // whatever would be in it
    let bytes = [&[next][..], &[1; 64]].concat();
    assert!(postcard::take_from_bytes::<Message>(&bytes).is_err(), "a kind of message is not in the list");
}

#[test]
fn the_head_of_an_envelope_does_not_change_from_release_to_release() {
    let mut draft = Draft::new(2);
    draft.push(&Message::Alive);
    assert_eq!(hex(&draft.finish(ID, 258)), "02ID020100000000000001");
}
