//! Direct messages to devices at other nodes. Several are under way at once, and their receipts come in their order: a task of
//! the session waits for one outcome after the other.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;

use super::Session;
use crate::{
    actors::message_manager::{MessageError, UnderWay},
    clock::Clock,
    delivery::Outbox,
    metrics::errors::error_frame,
    protocol::outbound::{self, About},
};

/// Most messages of a session that are under way at once.
const MOST: usize = 64;

/// Most bytes of a session's messages that are under way at once, unless it is only one.
const MOST_BYTES: usize = 1024 * 1024;

/// A session's receipts that wait for the outcomes of messages under way, or behind them.
#[derive(Default)]
pub(super) struct Forwards {
    waiting: RefCell<VecDeque<Waiting>>,
    bytes: Cell<usize>,
    /// one has left
    left: Notify,
}

struct Waiting {
    msgid: String,
    outcome: Result<UnderWay, MessageError>,
    bytes: usize,
}

impl Forwards {
    /// Whether receipts wait.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    fn has_room(&self) -> bool {
        self.waiting.borrow().len() < MOST && self.bytes.get() < MOST_BYTES
    }

    /// Waits until there is room for another message.
    pub(super) async fn room(self: Rc<Self>) {
        while !self.has_room() {
            self.left.notified().await;
        }
    }

    /// Waits until no receipt waits.
    pub(super) async fn idle(self: Rc<Self>) {
        while !self.is_idle() {
            self.left.notified().await;
        }
    }
}

impl Session {
    /// Whether a message for another node need not wait until others have arrived.
    pub(super) fn may_forward(&self) -> bool {
        self.forwards.has_room()
    }

    /// Gives the session the receipt of a message once its outcome is known, and after those of the messages before it.
    pub(super) fn receipt(&self, msgid: String, outcome: Result<UnderWay, MessageError>, bytes: usize) {
        let is_first = self.forwards.is_idle();
        if is_first && let Err(error) = &outcome {
            self.outbox.text(&[refused(error, &msgid, self.now()).as_bytes()]);
            return;
        }
        self.forwards.bytes.set(self.forwards.bytes.get() + bytes);
        self.forwards.waiting.borrow_mut().push_back(Waiting { msgid, outcome, bytes });
        if is_first {
            let (forwards, outbox) = (self.forwards.clone(), self.outbox.clone());
            actix::spawn(give_receipts(forwards, outbox, self.broker.clock.clone()));
        }
    }
}

/// Gives the session one receipt after the other, until none waits.
async fn give_receipts(forwards: Rc<Forwards>, outbox: Rc<Outbox>, clock: Clock) {
    loop {
        // it stays in its place until it has its receipt, so that others wait behind it
        let Some(next) = forwards.waiting.borrow_mut().front_mut().map(Waiting::take) else { return };
        let Waiting { msgid, outcome, bytes } = next;
        let outcome = match outcome {
            Ok(under_way) => under_way.outcome().await,
            Err(error) => Err(error),
        };
        let receipt = match outcome {
            Ok(()) => outbound::sent(&msgid, clock.now()),
            Err(error) => refused(&error, &msgid, clock.now()),
        };
        outbox.text(&[receipt.as_bytes()]);
        forwards.waiting.borrow_mut().pop_front();
        forwards.bytes.set(forwards.bytes.get() - bytes);
        forwards.left.notify_waiters();
    }
}

/// The frame that says why a message is not delivered.
fn refused(error: &MessageError, msgid: &str, now: DateTime<Utc>) -> String {
    let (code, text) = error.told();
    error_frame(code, &text, About { msgid: Some(msgid), ..About::default() }, now)
}

impl Waiting {
    /// Its content; an empty one stays.
    fn take(&mut self) -> Self {
        let nothing = Self { msgid: String::new(), outcome: Err(MessageError::Stopped), bytes: 0 };
        std::mem::replace(self, nothing)
    }
}
