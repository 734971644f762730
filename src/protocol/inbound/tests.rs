use std::time::Duration;

use super::{
    message::{missing, shape},
    *,
};
use crate::{
    domain::{
        ids::ClientId,
        messages::{Answer, Priority},
        topics::history::Beginning,
    },
    protocol::json::Unacceptable,
};

const ME: &str = "123e4567-e89b-12d3-a456-426614174000";
const YOU: &str = "00000000-0000-4000-8000-000000000001";

fn me() -> ClientId {
    ClientId::parse(ME).unwrap()
}

fn forwarded<To>(message: &Message<'_, To>) -> String {
    String::from_utf8(message.parts().concat()).unwrap()
}

fn direct_error(text: &str) -> String {
    match direct(&Frame::parse(text).unwrap(), text, me()).unwrap_err() {
        BadMessage::UnknownType(kind) => format!("unknown type {kind}"),
        BadMessage::Shape(why) => why,
        BadMessage::ForeignSender => "foreign sender".to_owned(),
    }
}

#[test]
fn a_message_with_from_is_forwarded_byte_for_byte() {
    let text = format!(
        r#" {{ "to":"{YOU}", "from":"{}", "timestamp":1.50e3, "msgid":"m\u0031", "content":"x", "extra":[1,{{"a":2}}] }} "#,
        ME.to_uppercase()
    );
    let frame = Frame::parse(&text).unwrap();
    let message = direct(&frame, &text, me()).unwrap();
    assert_eq!(forwarded(&message), text);
    assert_eq!(message.msgid, "m1");
    assert_eq!(message.to.to_string(), YOU);
}

#[test]
fn a_missing_from_is_added_and_nothing_else_changes() {
    let text = r#"{"topic_id":"t","msgid":"1","content":{"b":1,"a":2.0}}"#;
    let frame = Frame::parse(text).unwrap();
    let message = topic(&frame, text, me(), 100).unwrap();
    assert_eq!(forwarded(&message), format!(r#"{{"from":"{ME}",{}"#, &text[1..]));
    assert_eq!(message.to, "t");
}

#[test]
fn texts_that_are_no_frames_are_told_apart() {
    for text in ["", "{", "nope", r#"{"a":}"#, r#"{"to":1} x"#, r#"{"to":1,}"#, "\u{0}", "[[[", "1 2", r#""x"#, "[1}"] {
        assert_eq!(Frame::parse(text).unwrap_err(), NotAFrame::InvalidJson, "{text}");
    }
    for text in ["[]", "1", r#""x""#, "null", "true"] {
        assert_eq!(Frame::parse(text).unwrap_err(), NotAFrame::NotAnObject, "{text}");
    }
}

#[test]
fn every_wrong_shape_is_named() {
    let long = "x".repeat(65);
    let table = [
        (r#"{"msgid":"1","content":"x"}"#.to_owned(), "missing field `to`"),
        (format!(r#"{{"to":"{YOU}","content":"x"}}"#), "missing field `msgid`"),
        (format!(r#"{{"to":"{YOU}","msgid":"1"}}"#), "missing field `content`"),
        (format!(r#"{{"to":"{YOU}","msgid":"1","content":null}}"#), "missing field `content`"),
        (r#"{"to":"nobody","msgid":"1","content":"x"}"#.to_owned(), "to: expected a UUID"),
        (r#"{"to":7,"msgid":"1","content":"x"}"#.to_owned(), "to: expected a UUID"),
        (
            format!(r#"{{"to":"{YOU}","msgid":"{long}","content":"x"}}"#),
            "msgid: expected a text of at most 64 characters",
        ),
        (format!(r#"{{"to":"{YOU}","msgid":1,"content":"x"}}"#), "msgid: expected a text of at most 64 characters"),
        (format!(r#"{{"to":"{YOU}","msgid":"1","content":"x","from":null}}"#), "from: expected a UUID"),
        (format!(r#"{{"to":"{YOU}","msgid":"1","content":"x","from":"{YOU}"}}"#), "foreign sender"),
        (format!(r#"{{"to":"{YOU}","msgid":"1","content":"x","from":"me"}}"#), "foreign sender"),
        (format!(r#"{{"to":"{YOU}","msgid":"1","content":"x","to":"{YOU}"}}"#), "duplicate field `to`"),
        (format!(r#"{{"to":"{YOU}","msgid":"1","content":"x","a":1,"\u0061":2}}"#), "duplicate field `a`"),
    ];
    for (text, expected) in table {
        assert_eq!(direct_error(&text), expected, "{text}");
    }
}

#[test]
fn keys_may_repeat_below_the_top_level() {
    let text = format!(r#"{{"to":"{YOU}","msgid":"1","content":{{"a":1,"a":2}}}}"#);
    assert!(direct(&Frame::parse(&text).unwrap(), &text, me()).is_ok());
}

#[test]
fn a_duplicate_among_very_many_keys_is_found() {
    let mut text = format!(r#"{{"to":"{YOU}","msgid":"1","content":"x""#);
    for key in 0..100 {
        text += &format!(r#","k{key}":{key}"#);
    }
    let unique = format!("{text}}}");
    assert!(direct(&Frame::parse(&unique).unwrap(), &unique, me()).is_ok());
    assert_eq!(direct_error(&format!(r#"{text},"k99":0}}"#)), "duplicate field `k99`");
}

#[test]
fn a_frame_with_a_result_and_no_type_is_a_command_reply_whatever_else_it_has() {
    for (text, expected) in [
        (r#"{"command_id":"x","result":1}"#, true),
        (r#"{"result":{"error":"no method"}}"#, true),
        (r#"{"command_id":"x","type":"progress"}"#, false),
        (r#"{"type":"ping"}"#, false),
        (r#"{"command_id":"x","result":1,"to":null}"#, false),
        (r#"{"result":1,"topic_id":"t"}"#, false),
        (r#"{"command_id":"x","message":"m"}"#, false),
    ] {
        assert_eq!(Frame::parse(text).unwrap().is_command_reply(), expected, "{text}");
    }
}

#[test]
fn a_result_is_decoded_if_it_is_json_in_a_string() {
    let table = [
        (r#"{"result":{"a":1}}"#, r#"{"a":1}"#, false),
        (r#"{"result":"{\"a\": 1}"}"#, r#"{"a": 1}"#, false),
        (r#"{"result":"plain text"}"#, r#""plain text""#, false),
        (r#"{"result":"42"}"#, "42", false),
        (r#"{"command_id":"x"}"#, "null", false),
        (r#"{"result":null}"#, "null", false),
        (r#"{"result":{"error":"no"}}"#, r#"{"error":"no"}"#, true),
        (r#"{"result":"{\"error\":null}"}"#, r#"{"error":null}"#, true),
        (r#"{"result":[{"error":"no"}]}"#, r#"[{"error":"no"}]"#, false),
    ];
    for (text, expected, failed) in table {
        let frame = Frame::parse(text).unwrap();
        assert_eq!(command_result(frame.result), (expected.into(), failed), "{text}");
    }
}

#[test]
fn nesting_as_deep_as_a_frame_can_hold_is_no_danger() {
    let nested = |depth| format!(r#"{{"content":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    assert_eq!(Frame::parse(&nested(63)).unwrap().unacceptable, None);
    for depth in [64, 32_000] {
        assert_eq!(Frame::parse(&nested(depth)).unwrap().unacceptable, Some(Unacceptable::TooDeep));
    }
    assert_eq!(Frame::parse(&"[".repeat(64_000)).unwrap_err(), NotAFrame::InvalidJson);
}

#[test]
fn json_in_a_string_that_is_not_accepted_stays_a_string() {
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    for text in [deep.as_str(), r#"{"$serde_json::private::Number":"1"}"#] {
        let result = serde_json::to_string(text).unwrap();
        let frame = format!(r#"{{"result":{result}}}"#);
        assert_eq!(command_result(Frame::parse(&frame).unwrap().result), (result.into(), false));
    }
}

#[test]
fn an_acknowledgement_names_a_message_and_comes_from_the_client_itself() {
    for (text, expected) in [
        (r#"{"type":"ack","msgid":"1"}"#.to_owned(), Ok((None, Answer::Acknowledged))),
        (
            format!(r#"{{"type":"ack","msgid":"1","from":"{}","status":"rejected"}}"#, ME.to_uppercase()),
            Ok((None, Answer::Rejected)),
        ),
        (
            r#"{"type":"ack","msgid":"1","to":null,"from":null,"sender":null,"status":"received"}"#.to_owned(),
            Ok((None, Answer::Acknowledged)),
        ),
        (format!(r#"{{"type":"ack","msgid":"1","sender":"{ME}","status":7}}"#), Ok((Some(me()), Answer::NotNow))),
        (r#"{"type":"ack","msgid":"1","sender":"anna"}"#.to_owned(), Err(shape("sender: expected a UUID"))),
        (r#"{"type":"ack"}"#.to_owned(), Err(missing("msgid"))),
        (r#"{"type":"ack","msgid":"1","msgid":"2"}"#.to_owned(), Err(shape("duplicate field `msgid`"))),
        (r#"{"type":"ack","msgid":"a\u0000"}"#.to_owned(), Err(shape("msgid: must not contain NUL characters"))),
        (format!(r#"{{"type":"ack","msgid":"1","from":"{YOU}"}}"#), Err(BadMessage::ForeignSender)),
    ] {
        let frame = Frame::parse(&text).unwrap();
        assert!(is_ack(&frame));
        let expected = expected.map(|(sender, answer)| Ack { msgid: "1".into(), sender, answer });
        assert_eq!(ack(&frame, me()), expected, "{text}");
    }
    for text in [r#"{"type":"ack","to":"x"}"#, r#"{"type":"ack","content":1}"#, r#"{"msgid":"1"}"#] {
        assert!(!is_ack(&Frame::parse(text).unwrap()), "{text}");
    }
}

#[test]
fn a_message_asks_for_an_acknowledgement_with_a_lifetime_and_a_priority() {
    let delivery_of = |fields: &str| {
        let text = format!(r#"{{"acknowledge":true,"msgid":"m"{fields}}}"#);
        let frame = Frame::parse(&text).unwrap();
        assert!(is_acknowledged(&frame));
        delivery(&frame)
    };
    let ttl = |secs| Some(Duration::from_secs(secs));
    for (fields, ttl, priority) in [
        ("", None, Priority::Normal),
        (r#","ttl":null,"priority":null"#, None, Priority::Normal),
        (r#","ttl":1,"priority":"high""#, ttl(1), Priority::High),
        (r#","ttl":2592000,"priority":"urgent""#, ttl(2_592_000), Priority::Normal),
    ] {
        assert_eq!(delivery_of(fields), Ok(Delivery { ttl, priority }), "{fields}");
    }
    for fields in [r#","ttl":0"#, r#","ttl":2592001"#, r#","ttl":1.5"#, r#","ttl":"60""#, r#","ttl":-1"#] {
        let expected = shape("ttl: expected a whole number from 1 to 2592000");
        assert_eq!(delivery_of(fields), Err(expected), "{fields}");
    }
    assert_eq!(delivery_of(r#","priority":1"#), Err(shape("priority: expected a text")));
    assert_eq!(delivery_of(r#","redelivered":null"#), Err(shape("reserved field `redelivered`")));
    let nul = r#"{"acknowledge":true,"msgid":"\u0000"}"#;
    let refused = delivery(&Frame::parse(nul).unwrap());
    assert_eq!(refused, Err(shape("msgid: must not contain NUL characters")));
    for text in [r#"{"acknowledge":"true"}"#, r#"{"acknowledge":1}"#, r#"{"acknowledge":null}"#, "{}"] {
        assert!(!is_acknowledged(&Frame::parse(text).unwrap()), "{text}");
    }
}

#[test]
fn a_frame_is_about_a_subscription_only_without_recipient_and_content() {
    for (text, expected) in [
        (r#"{"type":"subscribe","topic_id":"t"}"#.to_owned(), Some(Ok(("t", true)))),
        (r#"{"type":"unsubscribe","topic_id":"t","from":null,"content":null}"#.to_owned(), Some(Ok(("t", false)))),
        (format!(r#"{{"type":"subscribe","topic_id":"t","from":"{}"}}"#, ME.to_uppercase()), Some(Ok(("t", true)))),
        (r#"{"type":"subscribe"}"#.to_owned(), Some(Err(missing("topic_id")))),
        (format!(r#"{{"type":"subscribe","topic_id":"t","from":"{YOU}"}}"#), Some(Err(BadMessage::ForeignSender))),
        (
            r#"{"type":"subscribe","topic_id":"t","topic_id":"u"}"#.to_owned(),
            Some(Err(BadMessage::Shape("duplicate field `topic_id`".to_owned()))),
        ),
        (r#"{"type":"subscribe","topic_id":"tt"}"#.replace("tt", &"t".repeat(101)), Some(Err(too_long()))),
        // messages with a type of their own
        (r#"{"type":"subscribe","topic_id":"t","msgid":"1","content":"x"}"#.to_owned(), None),
        (r#"{"type":"subscribe","to":"u"}"#.to_owned(), None),
        (r#"{"type":"subscribed","topic_id":"t"}"#.to_owned(), None),
    ] {
        let frame = Frame::parse(&text).unwrap();
        let read = is_subscription(&frame).then(|| subscription(&frame, me(), 100));
        let of = |(topic, wanted): (&'static str, bool)| Subscription { topic: topic.into(), wanted, beginning: None };
        assert_eq!(read, expected.map(|expected| expected.map(of)), "{text}");
    }
}

#[test]
fn a_subscription_begins_after_an_offset_or_with_the_last_publications() {
    for (fields, expected) in [
        (r#""since_offset":0"#, Ok(Some(Beginning::After(0)))),
        (r#""since_offset":7,"last":null"#, Ok(Some(Beginning::After(7)))),
        (r#""last":10000"#, Ok(Some(Beginning::Last(10_000)))),
        (r#""last":10001"#, Err("last: expected a whole number from 1 to 10000")),
        (r#""since_offset":1.5"#, Err("since_offset: expected a whole number from 0")),
        (r#""since_offset":1,"last":1"#, Err("only one of since_offset and last is possible")),
    ] {
        let text = format!(r#"{{"type":"subscribe","topic_id":"t",{fields}}}"#);
        let read = subscription(&Frame::parse(&text).unwrap(), me(), 100).map(|request| request.beginning);
        assert_eq!(read, expected.map_err(|why| BadMessage::Shape(why.to_owned())), "{fields}");
        // they mean nothing to whoever unsubscribes
        let text = text.replace(r#""subscribe""#, r#""unsubscribe""#);
        assert_eq!(subscription(&Frame::parse(&text).unwrap(), me(), 100).unwrap().beginning, None);
    }
}

fn too_long() -> BadMessage {
    BadMessage::Shape("topic_id: over 100 characters (limits.topic_id_chars)".to_owned())
}
