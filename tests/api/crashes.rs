//! Acknowledged messages while the broker is killed again and again, and sockets are cut in between (contract section 11).
//!
//! The variable `SWITCHBOARD_KILLS` sets how often; see `scripts/kill-test`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use switchboard::client::{Client, ClientError, Connection};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::support::{Broker, get, until, within};

/// Messages whose receipts the sender waits for.
const IN_FLIGHT: usize = 50;

/// Receipts between two kills.
const RECEIPTS: usize = 250;

/// What sender and recipient know, which outlives their sockets and the broker.
#[derive(Default)]
struct Known {
    /// the next new message
    next: u64,
    sent: BTreeSet<u64>,
    receipted: BTreeSet<u64>,
    /// with the state that the sender was told
    ended: BTreeMap<u64, String>,
    /// how often each message came, as a recipient counts that compares ids
    got: BTreeMap<u64, usize>,
    /// those that came again without saying so
    unmarked: Vec<u64>,
}

impl Known {
    /// A message that has not ended as far as the sender knows: an update may have been lost with the socket.
    fn open(&self) -> Option<u64> {
        self.sent.iter().find(|number| !self.ended.contains_key(number)).copied()
    }
}

/// The two devices, and what they do while a broker runs.
#[derive(Clone)]
struct Load {
    known: Arc<Mutex<Known>>,
    recipient: Uuid,
    receipts: mpsc::UnboundedSender<()>,
    /// no new messages are sent any more
    finish: watch::Receiver<bool>,
}

fn number(frame: &Value) -> u64 {
    frame["msgid"].as_str().and_then(|msgid| msgid.parse().ok()).unwrap_or_else(|| panic!("{frame}"))
}

impl Load {
    fn message(&self, number: u64) -> String {
        json!({ "to": self.recipient, "msgid": number.to_string(), "content": number, "acknowledge": true }).to_string()
    }

    /// Sends until the broker is gone. Cuts its socket after each hundred frames.
    async fn send(self, client: Client) {
        while let Ok(mut socket) = client.connect("/ws").await {
            if self.send_on(&mut socket).await.is_err() && client.connect("/ws").await.is_err() {
                return;
            }
        }
    }

    async fn send_on(&self, socket: &mut Connection) -> Result<(), ClientError> {
        let open: Vec<_> = {
            let known = self.known.lock().unwrap();
            known.sent.difference(&known.receipted).copied().collect()
        };
        for number in open {
            socket.send_text(self.message(number)).await?;
        }
        for _ in 0..100 {
            loop {
                let new = {
                    let mut known = self.known.lock().unwrap();
                    let is_free = known.sent.len() - known.receipted.len() < IN_FLIGHT && !*self.finish.borrow();
                    is_free.then(|| {
                        known.next += 1;
                        let number = known.next;
                        known.sent.insert(number);
                        number
                    })
                };
                let Some(number) = new else { break };
                socket.send_text(self.message(number)).await?;
            }
            let frame = socket.next_frame().await?;
            let mut known = self.known.lock().unwrap();
            match frame["type"].as_str() {
                Some("sent") => {
                    known.receipted.insert(number(&frame));
                    let _ = self.receipts.send(());
                }
                Some("delivery_update") => {
                    let state = frame["status"].as_str().unwrap().to_owned();
                    known.ended.insert(number(&frame), state);
                    let _ = self.receipts.send(());
                }
                Some("connection") => {}
                // nothing is stored: it is sent again on the next socket
                Some("error") if frame["code"] == "queue_full" => return Ok(()),
                _ => panic!("{frame}"),
            }
        }
        Ok(())
    }

    /// Receives and acknowledges until the broker is gone. Cuts its socket after each seventy frames.
    async fn receive(self, client: Client) {
        while let Ok(mut socket) = client.connect("/ws").await {
            if self.receive_on(&mut socket).await.is_err() && client.connect("/ws").await.is_err() {
                return;
            }
        }
    }

    async fn receive_on(&self, socket: &mut Connection) -> Result<(), ClientError> {
        for _ in 0..70 {
            let frame = socket.next_frame().await?;
            if frame["content"].is_null() {
                assert!(matches!(frame["type"].as_str(), Some("connection" | "ack_received")), "{frame}");
                continue;
            }
            let number = number(&frame);
            {
                let mut known = self.known.lock().unwrap();
                let times = known.got.entry(number).or_default();
                *times += 1;
                if *times > 1 && frame["redelivered"] != true {
                    known.unmarked.push(number);
                }
            }
            socket.send_text(json!({ "type": "ack", "msgid": number.to_string() }).to_string()).await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn kills_and_cuts_lose_no_acknowledged_message_and_double_none_for_who_compares_ids() {
    let kills = std::env::var("SWITCHBOARD_KILLS").map_or(3, |kills| kills.parse().expect("a number"));
    let limits = |broker: crate::support::ChangeBroker| {
        broker.set("LIMITS__FRAMES_PER_SECOND", "0").set("LIMITS__STORED_BYTES_PER_MINUTE", "0")
    };
    let mut broker = limits(Broker::with()).start().await;
    let (sender, _) = broker.device("sender").await;
    let (recipient, device) = broker.device("recipient").await;
    let tokens = [sender.token().unwrap().to_owned(), recipient.token().unwrap().to_owned()];
    let (receipts, mut came) = mpsc::unbounded_channel();
    let (finish, finishing) = watch::channel(false);
    let known = Arc::new(Mutex::new(Known::default()));
    let load = Load { known: known.clone(), recipient: device.uuid, receipts, finish: finishing };
    for round in 0..=kills {
        let [sender, recipient] = tokens.clone().map(|token| broker.client().with_token(&token));
        let reader = sender.clone();
        let tasks = [tokio::spawn(load.clone().send(sender)), tokio::spawn(load.clone().receive(recipient))];
        if round < kills {
            for _ in 0..RECEIPTS {
                within(came.recv()).await.unwrap();
            }
            let setup = broker.kill().await;
            for task in tasks {
                within(task).await.unwrap();
            }
            broker = setup.start().await;
        } else {
            finish.send(true).unwrap();
            let open = || known.lock().unwrap().open();
            while let Some(number) = open() {
                let path = format!("/messages/{number}/status");
                until(async || get(&reader, &path).await.1["status"] == "delivered").await;
                known.lock().unwrap().ended.insert(number, "delivered".to_owned());
            }
            tasks.into_iter().for_each(|task| task.abort());
        }
    }
    let known = known.lock().unwrap();
    println!(
        "{kills} kills, {} messages, {} came again",
        known.sent.len(),
        known.got.values().filter(|n| **n > 1).count()
    );
    let lost: Vec<_> = known.receipted.iter().filter(|number| !known.got.contains_key(number)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(known.ended.values().all(|state| state == "delivered"), "{:?}", known.ended);
    assert!(known.unmarked.is_empty(), "came again without saying so: {:?}", known.unmarked);
}
