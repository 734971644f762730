//! Receipts of publications that have subscribers at other nodes: they wait for the numbers that those have reached. What the
//! same session is told afterwards waits behind them.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio::sync::oneshot;

use super::messages::Published;
use crate::{
    delivery::{Mark, Relays, SessionHandle},
    domain::ids::TopicId,
};

/// What a session is told.
pub(super) enum Told {
    Text(String),
    Mark(Mark),
}

/// A publication that has reached its subscribers at this node.
pub(super) struct Delivered {
    pub topic: TopicId,
    pub offset: Option<i64>,
    /// How many.
    pub reached: usize,
}

/// Who gets the receipt.
pub(super) enum Recipient {
    Session { session: SessionHandle, msgid: String },
    Http(oneshot::Sender<Published>),
}

/// See the module.
pub(super) struct Receipts {
    relays: Arc<Relays>,
    /// by the number of the publication
    waiting: HashMap<u64, (Delivered, Recipient)>,
    /// what sessions are to be told, if something of it waits
    sessions: HashMap<u64, VecDeque<Slot>>,
}

enum Slot {
    /// For the receipt of this publication.
    Waiting(u64),
    Ready(Told),
}

impl Receipts {
    pub(super) fn new(relays: Arc<Relays>) -> Self {
        Self { relays, waiting: HashMap::new(), sessions: HashMap::new() }
    }

    /// Tells a session something, after what waits of it.
    pub(super) fn tell(&mut self, session: &SessionHandle, told: Told) {
        match self.sessions.get_mut(&session.id()) {
            Some(slots) => slots.push_back(Slot::Ready(told)),
            None => self.give(session, told),
        }
    }

    /// A publication is on its way to other nodes.
    pub(super) fn wait(&mut self, number: u64, delivered: Delivered, recipient: Recipient) {
        if let Recipient::Session { session, .. } = &recipient {
            self.sessions.entry(session.id()).or_default().push_back(Slot::Waiting(number));
        }
        self.waiting.insert(number, (delivered, recipient));
    }

    /// A publication has reached so many clients at other nodes. `receipt` makes the text of a receipt.
    pub(super) fn reached(&mut self, number: u64, clients: usize, receipt: impl FnOnce(&Delivered, &str) -> String) {
        let Some((mut delivered, recipient)) = self.waiting.remove(&number) else { return };
        delivered.reached += clients;
        match recipient {
            // whoever asked may be gone
            Recipient::Http(answer) => drop(answer.send(Ok((delivered.reached, delivered.offset)))),
            Recipient::Session { session, msgid } => {
                let text = receipt(&delivered, &msgid);
                let Some(mut slots) = self.sessions.remove(&session.id()) else { return };
                let own = slots.iter_mut().find(|slot| matches!(slot, Slot::Waiting(of) if *of == number));
                if let Some(own) = own {
                    *own = Slot::Ready(Told::Text(text));
                }
                while let Some(Slot::Ready(_)) = slots.front() {
                    if let Some(Slot::Ready(told)) = slots.pop_front() {
                        self.give(&session, told);
                    }
                }
                if !slots.is_empty() {
                    self.sessions.insert(session.id(), slots);
                }
            }
        }
    }

    fn give(&self, session: &SessionHandle, told: Told) {
        match told {
            Told::Text(text) => drop(self.relays.deliver(session, &[text.as_bytes()])),
            Told::Mark(mark) => self.relays.mark(&mark),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        delivery::testing::{Peer, worker},
        domain::accounts::tests::device,
    };

    fn delivered(reached: usize) -> Delivered {
        Delivered { topic: "t".into(), offset: None, reached }
    }

    fn text(what: &str) -> Told {
        Told::Text(json!({ "what": what }).to_string())
    }

    #[actix_web::test]
    async fn what_a_session_is_told_waits_behind_a_receipt_that_other_nodes_have_a_part_in() {
        let mut receipts = Receipts::new(worker());
        let (mut alice, mut bob) = (Peer::of(&device("alice")).await, Peer::of(&device("bob")).await);
        let of = |peer: &Peer, msgid: &str| {
            let (session, msgid) = (peer.session.clone(), msgid.to_owned());
            Recipient::Session { session, msgid }
        };
        let receipt =
            |delivered: &Delivered, msgid: &str| json!({ "what": msgid, "reached": delivered.reached }).to_string();
        receipts.wait(1, delivered(2), of(&alice, "first"));
        receipts.tell(&alice.session, text("second"));
        receipts.wait(2, delivered(0), of(&alice, "third"));
        let (mark, mut passed) = Mark::new();
        receipts.tell(&alice.session, Told::Mark(mark));
        receipts.tell(&bob.session, text("at once"));
        assert_eq!(bob.json().await["what"], "at once");
        // not in the order of the publications, and one that nobody knows
        receipts.reached(2, 1, receipt);
        receipts.reached(7, 1, receipt);
        assert!(passed.try_recv().is_err());
        receipts.reached(1, 3, receipt);
        for (what, reached) in [("first", json!(5)), ("second", json!(null)), ("third", json!(1))] {
            let frame = alice.json().await;
            assert_eq!((&frame["what"], &frame["reached"]), (&json!(what), &reached));
        }
        assert!(passed.await.is_err(), "the mark has passed");
        assert!(receipts.sessions.is_empty() && receipts.waiting.is_empty());
    }

    #[actix_web::test]
    async fn a_request_gets_the_number_of_all_nodes() {
        let mut receipts = Receipts::new(worker());
        let (answer, published) = oneshot::channel();
        receipts.wait(1, Delivered { offset: Some(9), ..delivered(2) }, Recipient::Http(answer));
        receipts.reached(1, 3, |_, _| String::new());
        assert_eq!(published.await.unwrap().unwrap(), (5, Some(9)));
    }
}
