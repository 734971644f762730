//! The table of acknowledged messages as a list in memory: what the database does, as simply as possible, for tests.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};

use super::{
    AfterAnswer, Answer, Depth, MessageRecord, MessageState, Party, QueueLimits,
    change::{
        Accepted, AnswerOf, Answered, Ending, MessageChange, MessageDecided, MessageRefusal, MessageUpdate, NewMessage,
        RecipientPresence, Take, TakenMessage,
    },
};
use crate::domain::ids::{ClientId, DeliveryId};

pub(crate) struct Table {
    pub(crate) rows: Vec<MessageRecord>,
    /// the incarnations of the devices that are registered
    pub(crate) devices: HashMap<ClientId, i64>,
    pub(crate) limits: QueueLimits,
    objects: HashMap<DeliveryId, String>,
    told: HashSet<DeliveryId>,
}

impl Table {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self { rows: Vec::new(), devices: HashMap::new(), limits, objects: HashMap::new(), told: HashSet::new() }
    }

    /// Decides changes in the order in which the store does.
    pub(crate) fn apply(&mut self, changes: &[MessageChange], now: DateTime<Utc>) -> Vec<MessageDecided> {
        let mut decided = vec![MessageDecided::Done; changes.len()];
        let phase = |change: &MessageChange| match change {
            MessageChange::Told(_) => 0,
            MessageChange::Answer(AnswerOf { id: Some(_), answer: Answer::Acknowledged, .. }) => 2,
            MessageChange::End { why: Ending::Cancelled, .. } => 3,
            MessageChange::End { why: Ending::Expired, .. } => 4,
            MessageChange::Answer(_) => 5,
            MessageChange::Accept(_) => 6,
            MessageChange::Take(_) => 7,
            MessageChange::Nothing => 8,
        };
        let mut order: Vec<_> = (0..changes.len()).collect();
        order.sort_by_key(|index| phase(&changes[*index]));
        for index in order {
            decided[index] = match &changes[index] {
                MessageChange::Told(id) => {
                    self.told.insert(*id);
                    MessageDecided::Done
                }
                MessageChange::Answer(answer) => self.answer(answer, now),
                MessageChange::End { id, why, .. } => self.end_one(*id, *why, now),
                MessageChange::Accept(message) => MessageDecided::Accepted(self.accept(message, now)),
                MessageChange::Take(take) => self.take(take, now),
                MessageChange::Nothing => MessageDecided::Done,
            };
        }
        decided
    }

    /// A device is deleted: what waits for it has failed.
    pub(crate) fn delete_device(&mut self, device: ClientId, now: DateTime<Utc>) {
        self.devices.remove(&device);
        let open = self.rows.iter_mut().filter(|row| row.to.client == device && row.ended_at.is_none());
        open.for_each(|row| (row.state, row.ended_at) = (MessageState::Failed, Some(now)));
    }

    pub(crate) fn row(&self, id: DeliveryId) -> &MessageRecord {
        self.rows.iter().find(|row| row.id == id).unwrap()
    }

    /// Whether messages wait for a recipient.
    pub(crate) fn has_open(&self, to: ClientId) -> bool {
        self.rows.iter().any(|row| row.to.client == to && row.ended_at.is_none())
    }

    /// The messages of a sender that have ended, which it is to be told.
    pub(crate) fn untold(&self, sender: ClientId) -> Vec<MessageUpdate> {
        let ended = self.rows.iter().filter(|row| row.from.client == sender && row.ended_at.is_some());
        ended.filter(|row| !self.told.contains(&row.id)).map(update).collect()
    }

    fn accept(&mut self, new: &NewMessage, now: DateTime<Utc>) -> Result<Accepted, MessageRefusal> {
        let NewMessage { from, to, msgid, object, priority, ttl, recipient, socket, recipient_socket: _ } = new;
        let incarnation = *self.devices.get(to).ok_or(MessageRefusal::RecipientUnknown)?;
        let (to, object) = (Party { client: *to, incarnation }, String::from_utf8(object.to_vec()).unwrap());
        if let Some(row) = self.rows.iter().find(|row| (row.from, row.to, &row.msgid) == (*from, to, msgid)) {
            let known =
                Accepted { id: row.id, state: row.state, expires_at: row.expires_at, is_known: true, waits: false };
            return if self.objects[&row.id] == object { Ok(known) } else { Err(MessageRefusal::MsgidReused) };
        }
        let open = self.rows.iter().filter(|row| row.to == to && row.ended_at.is_none());
        let depth = open.fold(Depth::default(), |depth, row| depth.with(row.bytes));
        if let Some(key) = self.limits.exceeded(depth.with(object.len())) {
            return Err(MessageRefusal::QueueFull(key));
        }
        let others_wait = self.rows.iter().any(|row| row.to == to && row.ended_at.is_none() && row.attempts == 0);
        let (is_ready, others_wait) = (*recipient == RecipientPresence::Ready, socket.is_some() && others_wait);
        let (goes, waits) = (is_ready && !others_wait, is_ready && others_wait);
        let row = MessageRecord {
            id: DeliveryId(self.rows.len() as i64 + 1),
            from: *from,
            to,
            msgid: msgid.clone(),
            bytes: object.len(),
            priority: *priority,
            state: match recipient {
                RecipientPresence::Absent => MessageState::QueuedOffline,
                _ => MessageState::PendingAck,
            },
            refusals: 0,
            attempts: goes.into(),
            created_at: now,
            sent_at: goes.then_some(now),
            ended_at: None,
            expires_at: now + *ttl,
        };
        let accepted = Accepted { id: row.id, state: row.state, expires_at: row.expires_at, is_known: false, waits };
        self.objects.insert(row.id, object);
        self.rows.push(row);
        Ok(accepted)
    }

    fn answer(&mut self, answer: &AnswerOf, now: DateTime<Utc>) -> MessageDecided {
        let AnswerOf { from, id, msgid, sender, answer } = answer;
        let meant = |row: &&mut MessageRecord| match id {
            Some(id) => row.id == *id,
            None => row.to == *from && row.msgid == *msgid && sender.is_none_or(|sender| row.from.client == sender),
        };
        let (open, ended): (Vec<_>, Vec<_>) =
            self.rows.iter_mut().filter(meant).partition(|row| row.ended_at.is_none());
        let Some(row) = open.into_iter().next().or(ended.into_iter().next_back()) else {
            return MessageDecided::Answered(None);
        };
        let (mut update, mut again) = (None, None);
        if row.ended_at.is_none() {
            match answer.decide(row.refusals, row.attempts) {
                AfterAnswer::Ended(state) => update = Some(end(row, state, now)),
                AfterAnswer::Again(after) => {
                    row.refusals += 1;
                    again = Some(after);
                }
                AfterAnswer::Nothing => {}
            }
        }
        MessageDecided::Answered(Some(Answered { id: row.id, state: row.state, update, again }))
    }

    fn end_one(&mut self, id: DeliveryId, why: Ending, now: DateTime<Utc>) -> MessageDecided {
        let row = self.rows.iter_mut().find(|row| row.id == id && row.ended_at.is_none());
        let row = row.filter(|row| why == Ending::Cancelled || row.expires_at <= now);
        MessageDecided::Ended(row.map(|row| {
            let state = match why {
                Ending::Cancelled => MessageState::Cancelled,
                Ending::Expired => MessageState::Expired,
            };
            end(row, state, now)
        }))
    }

    fn take(&mut self, take: &Take, now: DateTime<Utc>) -> MessageDecided {
        let Take { to, except, held, most, bytes, socket: _ } = take;
        let waits = |row: &&mut MessageRecord| {
            let is_held = held.iter().any(|(from, held)| *from == row.from.client && *held <= row.priority);
            let is_open = row.ended_at.is_none() && row.expires_at > now;
            row.to.client == *to && is_open && !except.contains(&row.id) && !is_held
        };
        let mut waiting: Vec<_> = self.rows.iter_mut().filter(waits).collect();
        waiting.sort_by_key(|row| (row.priority, row.id));
        let count = waiting.len();
        let (mut messages, mut size) = (Vec::new(), 0);
        for row in waiting.into_iter().take(*most) {
            size += row.bytes;
            if size > *bytes && !messages.is_empty() {
                break;
            }
            messages.push(TakenMessage {
                id: row.id,
                from: row.from.client,
                msgid: row.msgid.clone(),
                priority: row.priority,
                object: self.objects[&row.id].clone(),
                earlier_attempts: row.attempts,
            });
            row.attempts += 1;
            row.sent_at = Some(now);
            row.state = MessageState::PendingAck;
        }
        let is_all = messages.len() == count;
        MessageDecided::Taken { messages, is_all }
    }
}

fn end(row: &mut MessageRecord, state: MessageState, now: DateTime<Utc>) -> MessageUpdate {
    (row.state, row.ended_at) = (state, Some(now));
    update(row)
}

fn update(row: &MessageRecord) -> MessageUpdate {
    MessageUpdate { id: row.id, from: row.from, to: row.to.client, msgid: row.msgid.clone(), state: row.state }
}
