//! Which acknowledged messages are on their way to which connected recipient, and which go next: by priority, then by age, at
//! most as many at once as `limits.unacknowledged_per_device`.
//!
//! Only what is on its way is in memory, the rest is in the database. A message that is stored while nothing waits goes at
//! once. All others are taken from the database, a few at a time. A message that the recipient could not take holds back those
//! of the same sender that come after it and have not been sent.

use std::{
    collections::{BTreeSet, HashMap, VecDeque, hash_map::Entry},
    time::Instant,
};

use self::recipient::{Phase, Progress, Recipient};
use super::{
    Priority,
    change::{RecipientPresence, Take},
};
use crate::domain::ids::{ClientId, DeliveryId};

#[cfg(test)]
mod model;
mod recipient;
#[cfg(test)]
mod tests;

/// A message that its recipient has or gets, and has not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnWay {
    /// Its id.
    pub id: DeliveryId,
    /// Who sent it.
    pub from: ClientId,
    /// The sender's id of it.
    pub msgid: Box<str>,
    /// How urgent it is.
    pub priority: Priority,
}

/// What happens to a new message as soon as it is stored. `S` is the session of its recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission<S> {
    /// The recipient is not connected.
    Absent,
    /// It waits until others have been acknowledged.
    Waits(S),
    /// It goes to this session.
    Goes(S),
}

impl<S> Admission<S> {
    /// The session of the recipient.
    pub fn session(&self) -> Option<&S> {
        match self {
            Self::Absent => None,
            Self::Waits(session) | Self::Goes(session) => Some(session),
        }
    }

    /// Whether the recipient can get it.
    pub fn presence(&self) -> RecipientPresence {
        match self {
            Self::Absent => RecipientPresence::Absent,
            Self::Waits(_) => RecipientPresence::Connected,
            Self::Goes(_) => RecipientPresence::Ready,
        }
    }
}

/// What is to be done for a recipient for which messages wait.
#[derive(Debug)]
pub enum Next<S> {
    /// Take these from the database, for this session.
    Take(Take, S),
    /// Wait until this session has sent what it has, then [`Deliveries::resume`].
    Drain(ClientId, S),
}

/// The deliveries to all connected recipients. `S` is a session, of which clones are cheap.
#[derive(Debug)]
pub struct Deliveries<S> {
    /// unacknowledged messages per recipient
    window: usize,
    recipients: HashMap<ClientId, Recipient<S>>,
    /// for which messages may be taken, the one that has waited longest first
    takeable: VecDeque<ClientId>,
    /// messages that go again, by time
    retries: BTreeSet<(Instant, DeliveryId, ClientId)>,
}

/// Messages that are taken at once.
const PAGE: usize = 64;

impl<S: Clone + PartialEq> Deliveries<S> {
    /// With so many unacknowledged messages per recipient.
    pub fn new(window: usize) -> Self {
        Self { window, recipients: HashMap::new(), takeable: VecDeque::new(), retries: BTreeSet::new() }
    }

    /// A recipient has connected, or its session has been replaced: all that is unacknowledged goes again. It has to be looked
    /// whether messages wait for it, then [`Deliveries::looked`] is called.
    pub fn connect(&mut self, client: ClientId, session: S) {
        self.remove(client);
        self.recipients.insert(client, Recipient::new(session));
    }

    /// The recipients that are connected.
    pub fn connected(&self) -> impl Iterator<Item = ClientId> + '_ {
        self.recipients.keys().copied()
    }

    /// It is known whether messages wait for a recipient.
    pub fn looked(&mut self, client: ClientId, session: &S, found: bool) {
        if let Some(recipient) = self.of_session(client, session)
            && recipient.phase == Phase::Looking
        {
            recipient.phase = Phase::Idle;
            recipient.more |= found;
            self.list(client);
        }
    }

    /// A session has ended.
    pub fn disconnect(&mut self, client: ClientId, session: &S) {
        if self.of_session(client, session).is_some() {
            self.remove(client);
        }
    }

    /// Decides what happens to a new message as soon as it is stored, then [`Deliveries::stored`] is called. `has_room` tells
    /// whether a session can take it at once.
    pub fn admit(
        &mut self,
        to: ClientId,
        from: ClientId,
        priority: Priority,
        has_room: impl FnOnce(&S) -> bool,
    ) -> Admission<S> {
        let window = self.window;
        let Some(recipient) = self.recipients.get_mut(&to) else { return Admission::Absent };
        let is_held = recipient.holds(from, priority);
        let is_free = recipient.phase == Phase::Idle && !recipient.more && !recipient.is_full(window);
        let session = recipient.session.clone();
        if is_free && !is_held && has_room(&session) {
            recipient.reserved += 1;
            return Admission::Goes(session);
        }
        recipient.more = true;
        self.list(to);
        Admission::Waits(session)
    }

    /// A message with this admission is stored; `None` if it is not. Returns the session that gets it now, if one does.
    /// `has_room` tells whether a session can take it.
    pub fn stored(
        &mut self,
        to: ClientId,
        admission: &Admission<S>,
        message: Option<OnWay>,
        has_room: impl FnOnce(&S) -> bool,
    ) -> Option<S> {
        let recipient = self.recipients.get_mut(&to)?;
        let (goes, is_same) = match admission {
            Admission::Absent => (false, false),
            Admission::Waits(session) => (false, *session == recipient.session),
            Admission::Goes(session) => (true, *session == recipient.session),
        };
        if !is_same {
            if message.is_some() {
                // it was stored for an earlier session, and the look for the present one may have missed it
                recipient.has_passed_over = true;
                self.wait(to);
            }
            return None;
        }
        if !goes {
            return None;
        }
        recipient.reserved -= 1;
        let session = recipient.session.clone();
        let goes = message.is_some_and(|message| {
            if !recipient.has_passed_over && !has_room(&session) {
                (recipient.more, recipient.has_passed_over) = (true, true);
            }
            !recipient.has_passed_over && recipient.send(message)
        });
        self.list(to);
        goes.then_some(session)
    }

    /// Messages may wait for a recipient that nobody has announced.
    pub fn wait(&mut self, to: ClientId) {
        if let Some(recipient) = self.recipients.get_mut(&to) {
            recipient.more = true;
            self.list(to);
        }
    }

    /// What is to be done next for a recipient for which messages wait, of which each step takes at most so many bytes.
    /// `is_drained` tells whether a session can take as many.
    pub fn next(&mut self, bytes: usize, is_drained: impl Fn(&S) -> bool) -> Option<Next<S>> {
        while let Some(to) = self.takeable.pop_front() {
            let Some(recipient) = self.recipients.get_mut(&to) else { continue };
            recipient.is_listed = false;
            if !recipient.is_takeable(self.window) {
                continue;
            }
            let session = recipient.session.clone();
            if !is_drained(&session) {
                recipient.phase = Phase::Paused;
                return Some(Next::Drain(to, session));
            }
            (recipient.phase, recipient.more, recipient.has_passed_over) = (Phase::Taking, false, false);
            // from here on they keep their order by their places in the database
            recipient.sent.retain(|sent| sent.progress != Progress::Due);
            let most = PAGE.min(self.window - recipient.unacknowledged());
            let held = recipient.put_off().map(|message| (message.from, message.priority)).collect();
            let except = recipient.sent.iter().map(|sent| sent.message.id).collect();
            return Some(Next::Take(Take { to, except, held, most, bytes, socket: None }, session));
        }
        None
    }

    /// Messages have been taken. Returns those that go to the session now, in their order.
    pub fn taken<T>(
        &mut self,
        to: ClientId,
        session: &S,
        messages: Vec<T>,
        is_all: bool,
        on_way: impl Fn(&T) -> OnWay,
    ) -> Vec<T> {
        let Some(recipient) = self.of_session(to, session) else { return Vec::new() };
        recipient.phase = Phase::Idle;
        recipient.more |= !is_all;
        let mut going = Vec::with_capacity(messages.len());
        for message in messages {
            if recipient.send(on_way(&message)) {
                going.push(message);
            }
        }
        self.list(to);
        going
    }

    /// No messages were taken, since the session is not stored as the recipient's newest. It has to be looked again for this session
    /// once it is, then [`Deliveries::looked`] is called. Returns whether that makes sense.
    pub fn look_again(&mut self, to: ClientId, session: &S) -> bool {
        let Some(recipient) = self.of_session(to, session) else { return false };
        (recipient.phase, recipient.more) = (Phase::Looking, true);
        true
    }

    /// No messages could be taken; nothing is tried until [`Deliveries::resume`]. Returns whether that makes sense.
    pub fn take_failed(&mut self, to: ClientId, session: &S) -> bool {
        let Some(recipient) = self.of_session(to, session) else { return false };
        (recipient.phase, recipient.more) = (Phase::Paused, true);
        true
    }

    /// Messages may be taken again.
    pub fn resume(&mut self, to: ClientId, session: &S) {
        if let Some(recipient) = self.of_session(to, session)
            && recipient.phase == Phase::Paused
        {
            recipient.phase = Phase::Idle;
            self.list(to);
        }
    }

    /// The message that an answer of a recipient means: of those on their way with this `msgid`, and of this sender if it is
    /// given, the oldest.
    pub fn find(&self, to: ClientId, msgid: &str, from: Option<ClientId>) -> Option<DeliveryId> {
        let sent = self.recipients.get(&to)?.sent.iter().map(|sent| &sent.message);
        let named = sent.filter(|message| *message.msgid == *msgid && from.is_none_or(|from| message.from == from));
        named.map(|message| message.id).min()
    }

    /// The recipient could not take a message, which goes again at `at`.
    pub fn put_off(&mut self, to: ClientId, id: DeliveryId, at: Instant) {
        let Some(recipient) = self.recipients.get_mut(&to) else { return };
        let Some(sent) = recipient.sent.iter_mut().find(|sent| sent.message.id == id) else { return };
        if let Progress::PutOff(before) = std::mem::replace(&mut sent.progress, Progress::PutOff(at)) {
            self.retries.remove(&(before, id, to));
        }
        self.retries.insert((at, id, to));
    }

    /// A message has ended.
    pub fn ended(&mut self, to: ClientId, id: DeliveryId) {
        let Some(recipient) = self.recipients.get_mut(&to) else { return };
        let Some(index) = recipient.sent.iter().position(|sent| sent.message.id == id) else { return };
        let progress = recipient.sent.remove(index).progress;
        // those that it held back may go now
        recipient.more |= progress != Progress::OnWay;
        if let Progress::PutOff(at) = progress {
            self.retries.remove(&(at, id, to));
        }
        self.list(to);
    }

    /// When the next message goes again.
    pub fn next_retry(&self) -> Option<Instant> {
        self.retries.first().map(|(at, ..)| *at)
    }

    /// Has messages go again whose time has come.
    pub fn retry(&mut self, now: Instant) {
        while self.next_retry().is_some_and(|at| at <= now) {
            let Some((_, id, to)) = self.retries.pop_first() else { break };
            let Some(recipient) = self.recipients.get_mut(&to) else { continue };
            let due = recipient.sent.iter_mut().filter(|sent| sent.message.id == id);
            due.for_each(|sent| sent.progress = Progress::Due);
            recipient.more = true;
            self.list(to);
        }
    }

    fn of_session(&mut self, client: ClientId, session: &S) -> Option<&mut Recipient<S>> {
        self.recipients.get_mut(&client).filter(|recipient| recipient.session == *session)
    }

    fn list(&mut self, to: ClientId) {
        if let Some(recipient) = self.recipients.get_mut(&to)
            && !recipient.is_listed
            && recipient.is_takeable(self.window)
        {
            recipient.is_listed = true;
            self.takeable.push_back(to);
        }
    }

    fn remove(&mut self, client: ClientId) {
        if let Entry::Occupied(recipient) = self.recipients.entry(client) {
            for sent in recipient.remove().sent {
                if let Progress::PutOff(at) = sent.progress {
                    self.retries.remove(&(at, sent.message.id, client));
                }
            }
        }
    }
}
