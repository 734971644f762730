//! Acknowledged messages: the database does what the table in memory does.

use std::{collections::HashMap, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    domain::{
        ids::DeliveryId,
        messages::{
            Answer, MessageRecord, MessageState, Party, Priority, QueueLimits,
            change::{
                AnswerOf, Ending, MessageChange, MessageDecided, MessageRefusal, MessageUpdate, NO_SOCKET, NewMessage,
                RecipientPresence, Take,
            },
            table::Table,
        },
    },
    store::{ChangeLimits, Changes, MessageFilter},
};

const LIMITS: QueueLimits = QueueLimits { messages: 6, bytes: 90 };

impl Fixture {
    async fn decide_messages(&self, changes: &[MessageChange], total_bytes: u64) -> Vec<MessageDecided> {
        let limits = ChangeLimits { queue: LIMITS, total_bytes, ..ChangeLimits::default() };
        let changes = Changes { messages: changes, ..Changes::default() };
        self.store.write_journal(&[], changes, limits).await.unwrap().messages.unwrap()
    }
}

pub(super) fn message(from: Party, to: ClientId, msgid: &str) -> NewMessage {
    NewMessage {
        from,
        to,
        msgid: msgid.to_owned(),
        object: format!(r#"{{"msgid":"{msgid}"}}"#).into(),
        priority: Priority::Normal,
        ttl: Duration::from_secs(60),
        recipient: RecipientPresence::Absent,
        recipient_socket: None,
        socket: None,
    }
}

/// Random changes, which name messages by their ids in the table.
struct Changer {
    random: StdRng,
    clients: Vec<ClientId>,
}

impl Changer {
    fn client(&mut self) -> ClientId {
        self.clients[self.random.random_range(0..self.clients.len())]
    }

    fn party(&mut self, table: &Table) -> Party {
        let client = self.client();
        Party { client, incarnation: table.devices.get(&client).copied().unwrap_or(0) }
    }

    fn row<'a>(&mut self, table: &'a Table) -> Option<&'a MessageRecord> {
        let newest = table.rows.len().saturating_sub(12);
        (newest < table.rows.len()).then(|| &table.rows[self.random.random_range(newest..table.rows.len())])
    }

    fn change(&mut self, table: &Table) -> Option<MessageChange> {
        Some(match self.random.random_range(0..20) {
            0..8 => {
                let (from, to) = (self.party(table), self.client());
                let msgid = self.random.random_range(0..40).to_string();
                let presence = [RecipientPresence::Absent, RecipientPresence::Connected, RecipientPresence::Ready];
                // now and then with another content
                let object = format!(r#"{{"a":{}}}"#, self.random.random_range(0..9).max(7));
                MessageChange::Accept(NewMessage {
                    object: object.into(),
                    priority: Priority::of_rank(self.random.random_range(0..3)),
                    ttl: Duration::from_secs(self.random.random_range(1..40)),
                    recipient: presence[self.random.random_range(0..3)],
                    socket: self.random.random_bool(0.5).then_some(NO_SOCKET),
                    ..message(from, to, &msgid)
                })
            }
            8..12 => {
                let (id, msgid, from, to) = {
                    let row = self.row(table)?;
                    (row.id, row.msgid.clone(), row.from.client, row.to)
                };
                let answers = [Answer::Acknowledged, Answer::Rejected, Answer::NotNow];
                MessageChange::Answer(AnswerOf {
                    from: to,
                    id: self.random.random_bool(0.7).then_some(id),
                    msgid,
                    sender: self.random.random_bool(0.5).then_some(from),
                    answer: answers[self.random.random_range(0..3)],
                })
            }
            12 => {
                let to = self.client();
                let from = self.party(table);
                let msgid = "unknown".to_owned();
                MessageChange::Answer(AnswerOf { from, id: None, msgid, sender: Some(to), answer: Answer::Rejected })
            }
            13..15 => {
                let why = [Ending::Cancelled, Ending::Expired][self.random.random_range(0..2)];
                let row = self.row(table)?;
                MessageChange::End { id: row.id, to: row.to.client, why }
            }
            15..18 => {
                let to = self.client();
                let except = self.row(table).map(|row| row.id).into_iter().collect();
                let held = (0..self.random.random_range(0..2))
                    .map(|_| (self.client(), Priority::of_rank(self.random.random_range(0..3))))
                    .collect();
                MessageChange::Take(Take {
                    to,
                    except,
                    held,
                    most: self.random.random_range(1..4),
                    bytes: self.random.random_range(1..20),
                    socket: None,
                })
            }
            _ => {
                let row = self.row(table).filter(|row| row.ended_at.is_some())?;
                MessageChange::Told(row.id)
            }
        })
    }
}

/// With other ids of messages.
fn renamed(change: &MessageChange, ids: &HashMap<DeliveryId, DeliveryId>) -> MessageChange {
    let mut change = change.clone();
    match &mut change {
        MessageChange::Answer(AnswerOf { id: Some(id), .. })
        | MessageChange::End { id, .. }
        | MessageChange::Told(id) => *id = ids[id],
        MessageChange::Take(take) => take.except.iter_mut().for_each(|id| *id = ids[id]),
        _ => {}
    }
    change
}

/// The decision with the table's ids.
fn translated(mut decided: MessageDecided, ids: &HashMap<DeliveryId, DeliveryId>) -> MessageDecided {
    let back = |id: &mut DeliveryId| {
        let known = ids.iter().find(|(_, own)| **own == *id);
        *id = *known.unwrap_or_else(|| panic!("the id {id} is not known")).0;
    };
    match &mut decided {
        MessageDecided::Accepted(Ok(accepted)) => back(&mut accepted.id),
        MessageDecided::Answered(Some(answered)) => {
            back(&mut answered.id);
            answered.update.iter_mut().for_each(|update| back(&mut update.id));
        }
        MessageDecided::Ended(Some(update)) => back(&mut update.id),
        MessageDecided::Taken { messages, .. } => messages.iter_mut().for_each(|message| back(&mut message.id)),
        _ => {}
    }
    decided
}

#[actix::test]
async fn the_database_decides_as_the_table_in_memory_does() {
    let fixture = Fixture::new().await;
    let clients: Vec<_> = (0..3).map(|_| ClientId::random()).collect();
    let mut table = Table::new(LIMITS);
    for client in &clients {
        fixture.device(*client).await;
        table.devices.insert(*client, 0);
    }
    let stranger = ClientId::random();
    let mut changer =
        Changer { random: StdRng::seed_from_u64(7), clients: clients.iter().copied().chain([stranger]).collect() };
    let mut ids = HashMap::new();
    for batch in 0..400 {
        if batch % 50 == 49 {
            let device = clients[batch / 50 % 3];
            table.delete_device(device, fixture.clock.now());
            fixture.store.delete_device(device).await.unwrap().unwrap();
            fixture.device(device).await;
            table.devices.insert(device, fixture.store.device(device).await.unwrap().unwrap().incarnation);
        }
        let count = changer.random.random_range(1..8);
        let changes: Vec<_> = (0..count).filter_map(|_| changer.change(&table)).collect();
        let own: Vec<_> = changes.iter().map(|change| renamed(change, &ids)).collect();
        let expected = table.apply(&changes, fixture.clock.now());
        let decided = fixture.decide_messages(&own, 0).await;
        for (decided, expected) in decided.iter().zip(&expected) {
            if let (MessageDecided::Accepted(Ok(own)), MessageDecided::Accepted(Ok(expected))) = (decided, expected) {
                ids.entry(expected.id).or_insert(own.id);
            }
        }
        for ((change, decided), expected) in changes.iter().zip(decided).zip(expected) {
            assert_eq!(translated(decided, &ids), expected, "batch {batch}: {change:?}");
        }
        fixture.clock.advance(Duration::from_millis(changer.random.random_range(0..3_000)));
    }
    let filter = MessageFilter { limit: 10_000, ..MessageFilter::default() };
    let (records, more) = fixture.store.messages(&filter).await.unwrap();
    let records: Vec<_> = records.into_iter().rev().collect();
    assert_eq!((records.len(), more), (table.rows.len(), None));
    for (record, expected) in records.into_iter().zip(&table.rows) {
        assert_eq!(record, MessageRecord { id: ids[&expected.id], ..expected.clone() });
    }
    for client in clients {
        let incarnation = table.devices[&client];
        let due = fixture.store.updates_due(Party { client, incarnation }, None, 1_000).await.unwrap();
        let expected = table.untold(client).into_iter().filter(|update| update.from.incarnation == incarnation);
        assert_eq!(due, expected.map(|update| MessageUpdate { id: ids[&update.id], ..update }).collect::<Vec<_>>());
    }
    for state in MessageState::ALL {
        assert!(table.rows.iter().any(|row| row.state == state), "nothing has become {state:?}");
    }
}

#[actix::test]
async fn messages_are_accepted_only_through_the_socket_that_is_stored_as_the_newest_of_their_sender() {
    let fixture = Fixture::new().await;
    let (anna, ben) = (ClientId::random(), ClientId::random());
    for device in [anna, ben] {
        fixture.device(device).await;
    }
    let from = Party { client: anna, incarnation: 0 };
    let send = async |msgid: &str, socket: Option<u64>| {
        let change = MessageChange::Accept(NewMessage { socket, ..message(from, ben, msgid) });
        match fixture.decide_messages(&[change], 0).await.remove(0) {
            MessageDecided::Accepted(accepted) => accepted.map(|_| ()),
            other => panic!("{other:?}"),
        }
    };
    // the handshake could not store it
    assert_eq!(send("1", Some(5)).await, Err(MessageRefusal::SocketNotStored));
    assert_eq!(fixture.store.note_socket(anna, 5).await.unwrap(), None);
    assert_eq!(send("1", Some(5)).await, Ok(()));
    assert_eq!(fixture.store.note_socket(anna, 7).await.unwrap(), None);
    // an older one comes late, and one of another node with the same stamp
    assert_eq!(fixture.store.note_socket(anna, 6).await.unwrap(), Some(7));
    assert_eq!(fixture.store.note_socket(anna, 7).await.unwrap(), Some(7));
    assert_eq!(send("2", Some(5)).await, Err(MessageRefusal::SocketReplaced));
    assert_eq!(send("3", Some(7)).await, Ok(()));
    // not through a socket
    assert_eq!(send("4", None).await, Ok(()));
}

#[actix::test]
async fn a_message_waits_for_the_newest_socket_of_its_recipient() {
    let fixture = Fixture::new().await;
    let (anna, ben) = (ClientId::random(), ClientId::random());
    for device in [anna, ben] {
        fixture.device(device).await;
    }
    let from = Party { client: anna, incarnation: 0 };
    let send = async |msgid: &str, recipient_socket: u64| {
        let message = NewMessage {
            recipient: RecipientPresence::Ready,
            socket: Some(NO_SOCKET),
            recipient_socket: Some(recipient_socket),
            ..message(from, ben, msgid)
        };
        match fixture.decide_messages(&[MessageChange::Accept(message)], 0).await.remove(0) {
            MessageDecided::Accepted(Ok(accepted)) => accepted.waits,
            other => panic!("{other:?}"),
        }
    };
    let decide = async |socket: u64| {
        let take = Take { to: ben, except: vec![], held: vec![], most: 9, bytes: 999, socket: Some(socket) };
        fixture.decide_messages(&[MessageChange::Take(take)], 0).await.remove(0)
    };
    let take = async |socket: u64| match decide(socket).await {
        MessageDecided::Taken { messages, is_all: true } => {
            messages.into_iter().map(|message| message.msgid).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    fixture.store.note_socket(ben, 5).await.unwrap();
    assert!(!send("1", 5).await);
    // the node with the older socket has not heard of the newer one
    fixture.store.note_socket(ben, 7).await.unwrap();
    assert!(send("2", 5).await);
    assert_eq!(decide(5).await, MessageDecided::NotNewest);
    // the other one has, and sends none before it
    assert!(send("3", 7).await);
    assert_eq!(take(7).await, ["1", "2", "3"]);
    assert!(!send("4", 7).await);
    // the newer one is gone
    assert!(!fixture.store.reinstate_socket(ben, 5, 6).await.unwrap());
    assert_eq!(decide(5).await, MessageDecided::NotNewest);
    assert!(fixture.store.reinstate_socket(ben, 5, 7).await.unwrap());
    assert_eq!(take(5).await, ["1", "2", "3", "4"]);
    // the handshake could not store it
    assert_eq!(decide(8).await, MessageDecided::NotNewest);
    assert!(send("5", 8).await);
    fixture.store.note_socket(ben, 8).await.unwrap();
    assert_eq!(take(8).await, ["1", "2", "3", "4", "5"]);
}

#[actix::test]
async fn lists_are_complete_also_by_parts_and_for_one_of_the_parties() {
    let fixture = Fixture::new().await;
    let (pump, valve) = (ClientId::random(), ClientId::random());
    fixture.device(pump).await;
    fixture.device(valve).await;
    let party = |client| Party { client, incarnation: 0 };
    let mut accepted = Vec::new();
    for (number, (from, to)) in
        [(pump, valve), (valve, pump), (pump, pump), (valve, valve), (pump, valve)].iter().enumerate()
    {
        let change = MessageChange::Accept(message(party(*from), *to, &number.to_string()));
        match fixture.decide_messages(&[change], 0).await[..] {
            [MessageDecided::Accepted(Ok(new))] => accepted.push(new.id),
            ref other => panic!("{other:?}"),
        }
        fixture.clock.advance(Duration::from_secs(1));
    }
    let list = async |filter: MessageFilter| {
        let (records, _) = fixture.store.messages(&filter).await.unwrap();
        records.iter().map(|record| accepted.iter().position(|id| *id == record.id).unwrap()).collect::<Vec<_>>()
    };
    let all = MessageFilter { limit: 100, ..MessageFilter::default() };
    assert_eq!(list(all.clone()).await, [4, 3, 2, 1, 0]);
    assert_eq!(list(MessageFilter { of: Some(party(pump)), ..all.clone() }).await, [4, 2, 1, 0]);
    let of_others = MessageFilter { of: Some(Party { client: pump, incarnation: 1 }), ..all.clone() };
    assert!(list(of_others).await.is_empty(), "the next device with this UUID sees nothing of them");
    assert_eq!(list(MessageFilter { from: Some(valve), ..all.clone() }).await, [3, 1]);
    assert_eq!(list(MessageFilter { to: Some(valve), from: Some(pump), ..all.clone() }).await, [4, 0]);
    assert_eq!(list(MessageFilter { since: Some(start() + TimeDelta::seconds(3)), ..all.clone() }).await, [4, 3]);
    assert_eq!(list(MessageFilter { before: Some(accepted[2]), ..all.clone() }).await, [1, 0]);
    let two = MessageFilter { limit: 2, ..all };
    let (records, more) = fixture.store.messages(&two).await.unwrap();
    assert_eq!((records.len(), more), (2, Some(accepted[3])));
}

#[actix::test]
async fn what_ended_long_ago_is_deleted_and_no_longer_counted() {
    let fixture = Fixture::new().await;
    let (pump, sender) = (ClientId::random(), Party { client: ClientId::random(), incarnation: 0 });
    fixture.device(pump).await;
    let accept = |msgid: &str| MessageChange::Accept(message(sender, pump, msgid));
    let size = message(sender, pump, "0").object.len() as u64;
    let decided = fixture.decide_messages(&[accept("0"), accept("1"), accept("2")], 2 * size).await;
    let [MessageDecided::Accepted(Ok(first)), MessageDecided::Accepted(Ok(_)), MessageDecided::Accepted(Err(refusal))] =
        &decided[..]
    else {
        panic!("{decided:?}")
    };
    assert_eq!(refusal.to_string(), "the limit of stored bytes is reached (messages.total_bytes)");
    fixture.decide_messages(&[MessageChange::End { id: first.id, to: pump, why: Ending::Cancelled }], 0).await;
    let ended = fixture.clock.now();
    assert_eq!(fixture.store.delete_messages_ended_before(ended).await.unwrap(), 0);
    fixture.clock.advance(Duration::from_secs(1));
    assert_eq!(fixture.store.delete_messages_ended_before(fixture.clock.now()).await.unwrap(), 1);
    let decided = fixture.decide_messages(&[accept("2")], 2 * size).await;
    assert!(matches!(decided[..], [MessageDecided::Accepted(Ok(_))]), "{decided:?}");
    let queue = fixture.store.queue_of(pump, None, 10).await.unwrap();
    assert_eq!((queue.depth.messages, queue.depth.bytes as u64, queue.messages.len()), (2, 2 * size, 2));
    let objects = fixture.store.message_objects(&queue.messages, 1).await.unwrap();
    assert_eq!(objects.values().collect::<Vec<_>>(), [r#"{"msgid":"1"}"#]);
}
