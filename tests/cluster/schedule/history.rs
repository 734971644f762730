//! A topic with a history: each device gets all publications of the others, in the order of their offsets.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use switchboard::client::Client;
use uuid::Uuid;

use super::KEPT;
use crate::api::support::get;

/// Publications by offset: their ids, and who published them.
pub type Kept = BTreeMap<i64, (String, Uuid)>;

/// The request that creates the topic.
pub fn topic(name: &str) -> Value {
    json!({ "topic_id": name, "history": { "size": 10_000 } })
}

/// What a device has got, whatever its socket.
#[derive(Clone)]
pub struct Reader {
    device: Uuid,
    offsets: Arc<Mutex<BTreeSet<i64>>>,
}

/// A socket of a device.
#[derive(Default)]
pub struct Socket {
    is_subscribed: bool,
}

impl Socket {
    /// From now on it gets what the device has missed, then what is published. What came before was published meanwhile.
    pub fn subscribed(&mut self) {
        self.is_subscribed = true;
    }

    pub fn is_subscribed(&self) -> bool {
        self.is_subscribed
    }
}

impl Reader {
    pub fn new(device: Uuid) -> Self {
        Self { device, offsets: Arc::default() }
    }

    /// The frame that asks for all that the device has missed.
    pub fn subscribe(&self) -> String {
        let last = self.offsets.lock().unwrap().last().copied().unwrap_or(0);
        json!({ "type": "subscribe", "topic_id": KEPT, "since_offset": last }).to_string()
    }

    /// A publication has come. An error if it is not in order.
    pub fn read(&self, socket: &Socket, frame: &Value) -> Result<(), String> {
        let offset = frame["offset"].as_i64().ok_or("without an offset")?;
        let mut offsets = self.offsets.lock().unwrap();
        let last = offsets.last().copied();
        if !socket.is_subscribed {
            return Ok(());
        }
        if last.is_some_and(|last| offset <= last) {
            return Err(format!("after {last:?}"));
        }
        offsets.insert(offset);
        Ok(())
    }

    /// Whether the device has got all publications of others.
    pub fn has_all(&self, kept: &Kept) -> bool {
        let offsets = self.offsets.lock().unwrap();
        kept.iter().all(|(offset, (_, from))| *from == self.device || offsets.contains(offset))
    }
}

/// The whole history.
pub async fn all(client: &Client, topic: &str) -> Kept {
    let mut kept = Kept::new();
    loop {
        let last = kept.last_key_value().map_or(0, |(offset, _)| *offset);
        let (status, part) = get(client, &format!("/topics/{topic}/messages?since_offset={last}")).await;
        assert_eq!(status, 200, "{part}");
        let messages = part["messages"].as_array().unwrap_or_else(|| panic!("{part}"));
        if messages.is_empty() {
            return kept;
        }
        for message in messages {
            let (offset, message) = (message["offset"].as_i64().unwrap(), &message["message"]);
            let (msgid, from) = (message["msgid"].as_str().unwrap(), message["from"].as_str().unwrap());
            kept.insert(offset, (msgid.to_owned(), from.parse().unwrap()));
        }
    }
}
