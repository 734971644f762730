//! Random sends, answers, cuts, restarts and clock steps against the table in memory: nothing is lost, nothing goes after its
//! end, and the order is kept.
//!
//! The variable `SWITCHBOARD_MODEL_STEPS` sets the number of steps, `SWITCHBOARD_MODEL_SEED` where they begin; see
//! `scripts/model-test`.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    env, iter,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use uuid::Uuid;

use super::*;
use crate::domain::messages::{
    Answer, Party, QueueLimits,
    change::{AnswerOf, Ending, MessageChange, MessageDecided, NewMessage, TakenMessage},
    table::Table,
};

const WINDOW: usize = 4;
const CLIENTS: u128 = 4;

/// Who waits for a change.
enum Asker {
    Send { to: ClientId, admission: Admission<u64>, message: OnWay },
    Answer { device: ClientId },
    End { to: ClientId },
    Take { to: ClientId, session: u64 },
    Nobody,
}

/// A device as it sees itself. Every client is a device, and both sends and receives.
#[derive(Default)]
struct Device {
    session: Option<u64>,
    /// since it connected, in the order in which it got them
    got: Vec<OnWay>,
    /// not answered yet
    unanswered: Vec<OnWay>,
    /// it could not take them, and they have not come again
    put_off: Vec<OnWay>,
}

struct World {
    random: StdRng,
    table: Table,
    deliveries: Deliveries<u64>,
    journal: VecDeque<(MessageChange, Asker)>,
    looks: Vec<(ClientId, u64)>,
    devices: HashMap<ClientId, Device>,
    sessions: u64,
    now: DateTime<Utc>,
    /// the latest time that the clock has shown
    latest: DateTime<Utc>,
    instant: Instant,
    sent: u64,
    /// receipts, with the number of times that the message has been delivered
    receipted: HashMap<DeliveryId, u32>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut table = Table::new(QueueLimits { messages: 12, bytes: 0 });
        let clients: Vec<ClientId> = (1..=CLIENTS).map(|n| Uuid::from_u128(n).into()).collect();
        table.devices = clients.iter().map(|client| (*client, 0)).collect();
        Self {
            random: StdRng::seed_from_u64(seed),
            table,
            deliveries: Deliveries::new(WINDOW),
            journal: VecDeque::new(),
            looks: Vec::new(),
            devices: clients.iter().map(|client| (*client, Device::default())).collect(),
            sessions: 0,
            now: DateTime::UNIX_EPOCH,
            latest: DateTime::UNIX_EPOCH,
            instant: Instant::now(),
            sent: 0,
            receipted: HashMap::new(),
        }
    }

    fn client(&mut self) -> ClientId {
        Uuid::from_u128(self.random.random_range(1..=CLIENTS)).into()
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..30 => self.send(),
            30..38 => self.connect(),
            38..42 => self.disconnect(),
            42..50 => self.look(),
            50..70 => self.commit(),
            70..90 => self.answer(),
            90..94 => self.pass_time(),
            94..96 => self.expire(),
            96 => self.cancel(),
            97 => self.told_again(),
            98 if self.random.random_range(0..20) == 0 => self.crash(),
            _ => {
                let seconds = self.random.random_range(-30..30);
                self.now += TimeDelta::seconds(seconds);
            }
        }
        self.latest = self.latest.max(self.now);
        self.pump();
    }

    fn send(&mut self) {
        let (from, to) = (self.client(), self.client());
        let priority = Priority::of_rank(self.random.random_range(0..3));
        // now and then a message that was sent before
        let is_new = self.sent < 3 || self.random.random_range(0..10) > 0;
        let number = if is_new { self.sent } else { self.random.random_range(0..self.sent) };
        self.sent += u64::from(is_new);
        let msgid = number.to_string();
        let has_room = self.random.random_range(0..10) > 0;
        let admission = self.deliveries.admit(to, from, priority, |_| has_room);
        let change = NewMessage {
            from: Party { client: from, incarnation: 0 },
            to,
            object: msgid.clone().into(),
            msgid: msgid.clone(),
            priority,
            ttl: Duration::from_secs(self.random.random_range(1..300)),
            recipient: admission.presence(),
            socket: None,
            recipient_socket: None,
        };
        let message = OnWay { id: DeliveryId(0), from, msgid: msgid.into(), priority };
        self.journal.push_back((MessageChange::Accept(change), Asker::Send { to, admission, message }));
    }

    fn connect(&mut self) {
        let client = self.client();
        self.sessions += 1;
        self.deliveries.connect(client, self.sessions);
        self.looks.push((client, self.sessions));
        self.devices.insert(client, Device { session: Some(self.sessions), ..Device::default() });
    }

    fn disconnect(&mut self) {
        let client = self.client();
        if let Some(session) = self.devices.insert(client, Device::default()).unwrap().session {
            self.deliveries.disconnect(client, &session);
        }
    }

    fn look(&mut self) {
        if !self.looks.is_empty() {
            let (client, session) = self.looks.remove(0);
            let found = self.table.has_open(client);
            self.deliveries.looked(client, &session, found);
        }
    }

    fn answer(&mut self) {
        let client = self.client();
        let device = self.devices.get_mut(&client).unwrap();
        if device.unanswered.is_empty() {
            return;
        }
        let message = device.unanswered.remove(self.random.random_range(0..device.unanswered.len()));
        let answer = match self.random.random_range(0..10) {
            0..6 => Answer::Acknowledged,
            6 => Answer::Rejected,
            _ => Answer::NotNow,
        };
        let id = self.deliveries.find(client, &message.msgid, Some(message.from));
        let answer = AnswerOf {
            from: Party { client, incarnation: 0 },
            id,
            msgid: message.msgid.to_string(),
            sender: Some(message.from),
            answer,
        };
        self.journal.push_back((MessageChange::Answer(answer), Asker::Answer { device: client }));
    }

    fn pass_time(&mut self) {
        let seconds = self.random.random_range(1..20);
        self.now += TimeDelta::seconds(seconds);
        self.instant += Duration::from_secs(seconds as u64);
        self.deliveries.retry(self.instant);
    }

    fn expire(&mut self) {
        let due = self.table.rows.iter().filter(|row| row.ended_at.is_none() && row.expires_at <= self.now);
        let due: Vec<_> = due.map(|row| (row.id, row.to.client)).collect();
        for (id, to) in due {
            self.journal.push_back((MessageChange::End { id, to, why: Ending::Expired }, Asker::End { to }));
        }
    }

    fn cancel(&mut self) {
        if !self.table.rows.is_empty() {
            let row = &self.table.rows[self.random.random_range(0..self.table.rows.len())];
            let (id, to) = (row.id, row.to.client);
            self.journal.push_back((MessageChange::End { id, to, why: Ending::Cancelled }, Asker::End { to }));
        }
    }

    fn told_again(&mut self) {
        let from = self.client();
        let told = self.table.untold(from).into_iter().map(|update| MessageChange::Told(update.id));
        self.journal.extend(told.map(|told| (told, Asker::Nobody)));
    }

    /// The broker is killed: what is not written is lost, and all sockets break.
    fn crash(&mut self) {
        self.deliveries = Deliveries::new(WINDOW);
        self.journal.clear();
        self.looks.clear();
        self.devices.values_mut().for_each(|device| *device = Device::default());
    }

    fn pump(&mut self) {
        loop {
            let is_drained = self.random.random_range(0..4) > 0;
            match self.deliveries.next(5, |_| is_drained) {
                None => break,
                Some(Next::Take(take, session)) => {
                    let to = take.to;
                    self.journal.push_back((MessageChange::Take(take), Asker::Take { to, session }));
                }
                Some(Next::Drain(to, session)) => self.deliveries.resume(to, &session),
            }
        }
    }

    /// Writes a batch of changes, and tells those who asked.
    fn commit(&mut self) {
        let count = self.random.random_range(0..=self.journal.len().min(10));
        let (changes, askers): (Vec<_>, Vec<_>) = self.journal.drain(..count).unzip();
        let decided = self.table.apply(&changes, self.now);
        if self.random.random_range(0..100) == 0 {
            return self.crash();
        }
        for (decided, asker) in decided.into_iter().zip(askers) {
            self.tell(decided, asker);
        }
    }

    fn tell(&mut self, decided: MessageDecided, asker: Asker) {
        match (decided, asker) {
            (MessageDecided::Accepted(accepted), Asker::Send { to, admission, message }) => {
                let accepted = accepted.ok();
                if let Some(accepted) = accepted {
                    self.receipted.entry(accepted.id).or_default();
                }
                let new = accepted.filter(|accepted| !accepted.is_known);
                let message = new.map(|new| OnWay { id: new.id, ..message });
                let waits = new.is_some_and(|new| new.waits);
                let has_room = self.random.random_range(0..10) > 0 && !waits;
                if let Some(session) = self.deliveries.stored(to, &admission, message.clone(), |_| has_room) {
                    self.deliver(to, session, message.unwrap(), false);
                }
            }
            (MessageDecided::Answered(answered), Asker::Answer { device }) => {
                let answered = answered.expect("what was delivered is known");
                if let Some(after) = answered.again {
                    self.deliveries.put_off(device, answered.id, self.instant + after);
                    let device = self.devices.get_mut(&device).unwrap();
                    // one of an earlier session goes in its turn
                    if let Some(message) = device.got.iter().find(|message| message.id == answered.id) {
                        device.put_off.push(message.clone());
                    }
                }
                if let Some(update) = answered.update {
                    self.end(device, update.id);
                }
            }
            (MessageDecided::Ended(update), Asker::End { to }) => {
                if let Some(update) = update {
                    self.end(to, update.id);
                }
            }
            (MessageDecided::Taken { messages, is_all }, Asker::Take { to, session }) => {
                let on_way = |message: &TakenMessage| OnWay {
                    id: message.id,
                    from: message.from,
                    msgid: message.msgid.clone().into(),
                    priority: message.priority,
                };
                for message in self.deliveries.taken(to, &session, messages, is_all, on_way) {
                    self.deliver(to, session, on_way(&message), message.earlier_attempts > 0);
                }
            }
            (MessageDecided::Done, Asker::Nobody) => {}
            (decided, _) => panic!("{decided:?} for another"),
        }
    }

    fn end(&mut self, to: ClientId, id: DeliveryId) {
        self.deliveries.ended(to, id);
        let device = self.devices.get_mut(&to).unwrap();
        device.put_off.retain(|message| message.id != id);
        // the sender is told if it is connected; else it is told when it connects, which `told_again` is
        if self.random.random_range(0..2) == 0 {
            self.journal.push_back((MessageChange::Told(id), Asker::Nobody));
        }
    }

    /// A device gets a message: checks that it may.
    fn deliver(&mut self, to: ClientId, session: u64, message: OnWay, is_marked: bool) {
        let row = self.table.row(message.id);
        let device = self.devices.get_mut(&to).unwrap();
        assert_eq!(device.session, Some(session), "a message goes to the session that is there");
        assert_eq!((row.to.client, row.ended_at), (to, None), "a message that has ended does not go");
        assert!(row.expires_at > self.now, "a message does not go after its time");
        let times = self.receipted.entry(message.id).or_default();
        assert!(*times == 0 || is_marked, "a message that comes again says so");
        *times += 1;
        let is_same = |other: &OnWay| other.id == message.id;
        if device.got.iter().any(is_same) {
            let before = device.put_off.len();
            device.put_off.retain(|other| !is_same(other));
            assert!(device.put_off.len() < before, "only what could not be taken comes again on the same session");
        } else if row.expires_at > self.latest {
            // the clock has never been past its end, so that nothing has overtaken it
            let overtaken = |other: &&OnWay| {
                (other.from, other.priority) == (message.from, message.priority) && other.id > message.id
            };
            assert_eq!(device.got.iter().find(overtaken), None, "messages of a sender come in their order");
            let may_come = |other: &OnWay| self.table.row(other.id).expires_at > self.latest;
            let waits =
                |other: &&OnWay| other.from == message.from && other.priority <= message.priority && may_come(other);
            assert_eq!(device.put_off.iter().find(waits), None, "a message waits for those before it");
        }
        device.got.push(message.clone());
        device.unanswered.push(message);
        let table = &self.table;
        let unacknowledged: HashSet<_> = device.got.iter().map(|message| message.id).collect();
        let is_put_off = |id: &DeliveryId| device.put_off.iter().any(|message| message.id == *id);
        let unacknowledged =
            unacknowledged.into_iter().filter(|id| table.row(*id).ended_at.is_none() && !is_put_off(id));
        assert!(unacknowledged.count() <= WINDOW, "the window is kept");
    }

    /// All devices connect and acknowledge what they get, until nothing is left to do.
    fn settle(&mut self) {
        for n in 1..=CLIENTS {
            let client = Uuid::from_u128(n).into();
            self.sessions += 1;
            self.deliveries.connect(client, self.sessions);
            self.looks.push((client, self.sessions));
            self.devices.insert(client, Device { session: Some(self.sessions), ..Device::default() });
        }
        loop {
            while !self.looks.is_empty() {
                self.look();
            }
            self.expire();
            self.pump();
            let (changes, askers): (Vec<_>, Vec<_>) = self.journal.drain(..).unzip();
            let decided = self.table.apply(&changes, self.now);
            iter::zip(decided, askers).for_each(|(decided, asker)| self.tell(decided, asker));
            for (client, device) in &mut self.devices {
                for message in device.unanswered.drain(..) {
                    let answer = AnswerOf {
                        from: Party { client: *client, incarnation: 0 },
                        id: self.deliveries.find(*client, &message.msgid, Some(message.from)),
                        msgid: message.msgid.to_string(),
                        sender: Some(message.from),
                        answer: Answer::Acknowledged,
                    };
                    self.journal.push_back((MessageChange::Answer(answer), Asker::Answer { device: *client }));
                }
            }
            self.instant += Duration::from_secs(20);
            self.deliveries.retry(self.instant);
            self.pump();
            if self.journal.is_empty() {
                break;
            }
        }
        for (id, times) in &self.receipted {
            let row = self.table.row(*id);
            assert!(row.ended_at.is_some(), "message {id} has not ended: {row:?}");
            use crate::domain::messages::MessageState::{Cancelled, Delivered, Expired, Failed, Rejected};
            assert!(*times > 0 || matches!(row.state, Expired | Cancelled), "message {id} was lost: {row:?}");
            assert!(matches!(row.state, Delivered | Rejected | Failed | Expired | Cancelled));
            assert!(row.attempts >= *times, "an attempt is counted before it is made");
        }
        for client in (1..=CLIENTS).map(Uuid::from_u128) {
            let told: Vec<_> =
                self.table.untold(client.into()).iter().map(|update| MessageChange::Told(update.id)).collect();
            self.table.apply(&told, self.now);
            assert!(self.table.untold(client.into()).is_empty(), "every sender is told");
        }
    }
}

#[test]
fn nothing_is_lost_or_goes_after_its_end_and_the_order_is_kept() {
    let number = |name| env::var(name).ok().map(|number| number.parse::<u64>().expect("a number"));
    let steps = number("SWITCHBOARD_MODEL_STEPS").unwrap_or(100_000);
    let first = number("SWITCHBOARD_MODEL_SEED").unwrap_or(1);
    // short runs, since the table in memory is searched from its beginning
    const RUN: u64 = 2_000;
    let mut delivered = 0;
    for seed in (first..).take(steps.div_ceil(RUN) as usize) {
        println!("seed {seed}");
        let mut world = World::new(seed);
        (0..RUN.min(steps)).for_each(|_| world.step());
        world.settle();
        delivered += world.receipted.values().filter(|times| **times > 0).count();
    }
    println!("{steps} steps, {delivered} messages delivered");
    assert!(delivered > 0);
}
