//! Acknowledged messages on the command line: their states in words, and how a device acknowledges them.

use std::collections::{HashSet, VecDeque};

use serde_json::{Value, json};

use crate::{domain::messages::MessageState, terminal::output::text};

/// Most messages that a device remembers.
const REMEMBERED: usize = 10_000;

/// The status of a message, in words.
pub(super) fn in_words(status: &Value) -> String {
    match status.as_str().and_then(MessageState::parse) {
        Some(MessageState::QueuedOffline) => "queued, the recipient is offline".to_owned(),
        Some(MessageState::PendingAck) => "sent, not acknowledged yet".to_owned(),
        _ => text(status),
    }
}

/// The messages that this process has acknowledged.
#[derive(Default)]
pub(super) struct Inbox {
    /// sender and msgid
    known: HashSet<(String, String)>,
    /// the same, oldest first
    order: VecDeque<(String, String)>,
}

/// A message that is to be acknowledged.
pub(super) struct Received {
    /// The frame that acknowledges it.
    pub(super) ack: String,
    /// Whether this process has got it before.
    pub(super) is_known: bool,
    /// What the line for it says if the broker has sent it before, maybe to an earlier process.
    pub(super) again: &'static str,
}

impl Inbox {
    /// Takes a frame. `None`: it is no message that is to be acknowledged.
    pub(super) fn take(&mut self, frame: &Value) -> Option<Received> {
        if frame["acknowledge"] != true || !frame["to"].is_string() || !frame["topic_id"].is_null() {
            return None;
        }
        let (from, msgid) = (frame["from"].as_str()?, frame["msgid"].as_str()?);
        let ack = json!({ "type": "ack", "msgid": msgid, "sender": from, "status": "received" }).to_string();
        let is_redelivered = frame["redelivered"] == true;
        let key = (from.to_owned(), msgid.to_owned());
        let is_new = self.known.insert(key.clone());
        if is_new {
            self.order.push_back(key);
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
        // what the broker sends for the first time is another message, whose sender uses the msgid of a forgotten one again
        let again = if is_redelivered { " (again)" } else { "" };
        Some(Received { ack, is_known: !is_new && is_redelivered, again })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(msgid: &str, redelivered: bool) -> Value {
        let mut frame = json!({ "to": "b", "from": "a", "msgid": msgid, "content": 1, "acknowledge": true });
        if redelivered {
            frame["redelivered"] = json!(true);
        }
        frame
    }

    #[test]
    fn a_message_that_comes_again_is_known_and_acknowledged_again() {
        let mut inbox = Inbox::default();
        let mut take =
            |frame: &Value| inbox.take(frame).map(|received| (received.is_known, !received.again.is_empty()));
        assert_eq!(take(&message("1", false)), Some((false, false)));
        assert_eq!(take(&message("1", true)), Some((true, true)));
        // another process has got it
        assert_eq!(take(&message("2", true)), Some((false, true)));
        // the msgid of a message that the broker has deleted meanwhile
        assert_eq!(take(&message("1", false)), Some((false, false)));
        let mut other = message("1", true);
        other["from"] = json!("c");
        assert_eq!(take(&other), Some((false, true)));
        let received = inbox.take(&message("1", true)).unwrap();
        let ack: Value = serde_json::from_str(&received.ack).unwrap();
        assert_eq!(ack, json!({ "type": "ack", "msgid": "1", "sender": "a", "status": "received" }));
    }

    #[test]
    fn only_messages_to_a_device_that_ask_for_it_are_acknowledged() {
        let mut inbox = Inbox::default();
        for (field, value) in [
            ("acknowledge", json!(false)),
            ("acknowledge", json!("true")),
            ("acknowledge", Value::Null),
            ("topic_id", json!("news")),
            ("to", Value::Null),
            ("from", Value::Null),
            ("msgid", json!(1)),
        ] {
            let mut frame = message("1", false);
            frame[field] = value;
            assert!(inbox.take(&frame).is_none(), "{frame}");
        }
    }

    #[test]
    fn the_oldest_messages_are_forgotten() {
        let mut inbox = Inbox::default();
        for number in 0..=REMEMBERED {
            inbox.take(&message(&number.to_string(), false));
        }
        assert_eq!((inbox.known.len(), inbox.order.len()), (REMEMBERED, REMEMBERED));
        assert!(inbox.take(&message(&REMEMBERED.to_string(), true)).unwrap().is_known);
        assert!(!inbox.take(&message("0", true)).unwrap().is_known);
    }
}
