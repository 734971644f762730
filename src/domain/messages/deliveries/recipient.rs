//! One connected recipient: what is on its way to it, and whether more may go.

use std::time::Instant;

use super::OnWay;
use crate::domain::{ids::ClientId, messages::Priority};

/// A message that has been sent to its recipient.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) message: OnWay,
    pub(super) progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has not been answered.
    OnWay,
    /// The recipient could not take it: it goes again at this time.
    PutOff(Instant),
    /// It goes again as soon as it is taken from the database.
    Due,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is not known yet whether messages wait in the database.
    Looking,
    Idle,
    /// Messages are being taken from the database.
    Taking,
    /// Until [`resume`](super::Deliveries::resume).
    Paused,
}

/// A connected recipient.
#[derive(Debug)]
pub(super) struct Recipient<S> {
    pub(super) session: S,
    pub(super) phase: Phase,
    /// messages may wait in the database
    pub(super) more: bool,
    /// a message waits in the database that comes before those that are to go as soon as they are stored
    pub(super) has_passed_over: bool,
    /// it is in the list of those for which messages are to be taken
    pub(super) is_listed: bool,
    /// new messages that go as soon as they are stored
    pub(super) reserved: usize,
    pub(super) sent: Vec<Sent>,
}

impl<S> Recipient<S> {
    /// One that has just connected.
    pub(super) fn new(session: S) -> Self {
        Self {
            session,
            phase: Phase::Looking,
            more: false,
            has_passed_over: false,
            is_listed: false,
            reserved: 0,
            sent: Vec::new(),
        }
    }

    pub(super) fn is_full(&self, window: usize) -> bool {
        self.unacknowledged() + self.reserved >= window
    }

    pub(super) fn is_takeable(&self, window: usize) -> bool {
        // what is reserved is not in the list of what is on its way yet, and would be taken a second time
        self.phase == Phase::Idle && self.more && self.reserved == 0 && !self.is_full(window)
    }

    /// The number of messages that are not to be taken from the database again.
    pub(super) fn unacknowledged(&self) -> usize {
        self.sent.iter().filter(|sent| sent.progress != Progress::Due).count()
    }

    /// Has a message go, unless it waits for one that was put off after its change had been asked for.
    pub(super) fn send(&mut self, message: OnWay) -> bool {
        let goes = !self.holds(message.from, message.priority);
        if goes {
            self.sent.push(Sent { message, progress: Progress::OnWay });
        } else {
            (self.more, self.has_passed_over) = (true, true);
        }
        goes
    }

    /// Whether a message of this sender and priority waits for an earlier one.
    pub(super) fn holds(&self, from: ClientId, priority: Priority) -> bool {
        let unsent = self.sent.iter().filter(|sent| sent.progress != Progress::OnWay);
        unsent.map(|sent| &sent.message).any(|earlier| earlier.from == from && earlier.priority <= priority)
    }

    pub(super) fn put_off(&self) -> impl Iterator<Item = &OnWay> {
        let put_off = self.sent.iter().filter(|sent| matches!(sent.progress, Progress::PutOff(_)));
        put_off.map(|sent| &sent.message)
    }
}
