//! Targets with sockets at other nodes.

use chrono::TimeDelta;

use super::*;

const NODES: [Uuid; 2] = [Uuid::from_u128(1), Uuid::from_u128(2)];

impl Table {
    /// A command for one client, which may wait for a minute or not at all.
    fn queue(&mut self, client: ClientId, may_wait: bool) -> CommandId {
        let mut command = command(&[client]);
        let id = command.id;
        let deliver_by = may_wait.then(|| self.now + Duration::from_secs(60));
        command.deliver_until = may_wait.then(|| self.time + TimeDelta::seconds(60));
        self.pending.insert(command, deliver_by, self.now);
        id
    }

    fn hand_over(&mut self, id: CommandId, client: ClientId) {
        assert_eq!(self.pending.hand_over(id, client, NODES[0], self.now), Some(0));
    }

    fn state(&self, id: CommandId) -> TargetState {
        self.pending.command(id).unwrap().targets[0].state
    }
}

fn states(updates: &[TargetUpdate]) -> Vec<TargetState> {
    updates.iter().map(|update| update.target.state).collect()
}

#[test]
fn a_command_that_is_handed_over_is_sent_when_its_node_says_so_and_may_be_answered_before() {
    let mut table = Table::new();
    let client = ClientId::random();
    let [confirmed, answered] = [(); 2].map(|()| table.queue(client, false));
    for id in [confirmed, answered] {
        table.hand_over(id, client);
        assert!(!table.pending.is_queued(id, client) && table.state(id) == TargetState::Queued);
    }
    assert!(table.pending.sent_at(confirmed, client, NODES[1], table.time).is_none());
    let update = table.pending.sent_at(confirmed, client, NODES[0], table.time).unwrap();
    assert_eq!((update.target.state, update.target.sent_at), (TargetState::Sent, Some(table.time)));
    assert!(table.pending.sent_at(confirmed, client, NODES[0], table.time).is_none());
    for id in [confirmed, answered] {
        assert!(matches!(table.answer(id, client), Answered::Ended(_)));
    }
    table.assert_empty();
}

#[test]
fn of_those_that_may_wait_one_at_a_time_is_handed_over_for_a_client() {
    let mut table = Table::new();
    let (client, other) = (ClientId::random(), ClientId::random());
    let [first, second] = [(); 2].map(|()| table.queue(client, true));
    let of_other = table.queue(other, true);
    assert_eq!(table.pending.next_to_hand_over(client), Some(first));
    table.hand_over(first, client);
    assert_eq!(table.pending.next_to_hand_over(client), None);
    assert_eq!(table.pending.next_to_hand_over(other), Some(of_other));
    // it comes back, and is the first again
    assert_eq!(table.pending.not_sent_at(first, client, NODES[1]), None);
    assert_eq!(table.pending.not_sent_at(first, client, NODES[0]), Some(true));
    assert_eq!(table.pending.next_to_hand_over(client), Some(first));
    table.hand_over(first, client);
    table.pending.sent_at(first, client, NODES[0], table.time).unwrap();
    assert_eq!(table.pending.next_to_hand_over(client), Some(second));
    // one that ends on its way makes room, too
    table.hand_over(second, client);
    let third = table.queue(client, true);
    assert_eq!(table.pending.cancel(second, table.time).elsewhere, [(NODES[0], client)]);
    assert_eq!(table.pending.next_to_hand_over(client), Some(third));
    for id in [first, third, of_other] {
        table.pending.cancel(id, table.time);
    }
    assert!(table.pending.handing_over.is_empty());
    table.assert_empty();
}

#[test]
fn what_may_wait_and_is_not_confirmed_for_some_time_is_known() {
    let mut table = Table::new();
    let (client, other) = (ClientId::random(), ClientId::random());
    let (waiting, hasty) = (table.queue(client, true), table.queue(other, false));
    table.hand_over(waiting, client);
    table.hand_over(hasty, other);
    assert_eq!(table.pending.unconfirmed(table.now.checked_sub(Duration::from_nanos(1)).unwrap()), []);
    assert_eq!(table.pending.unconfirmed(table.now), [(waiting, client, 0, NODES[0])]);
    table.pending.sent_at(waiting, client, NODES[0], table.time).unwrap();
    assert_eq!(table.pending.unconfirmed(table.now), []);
}

#[test]
fn what_comes_back_has_the_time_that_it_had() {
    let mut table = Table::new();
    let client = ClientId::random();
    let [waiting, hasty] = [true, false].map(|may_wait| table.queue(client, may_wait));
    let after = |secs| Duration::from_secs(secs);
    for (id, may_wait) in [(waiting, true), (hasty, false)] {
        table.hand_over(id, client);
        assert_eq!(table.pending.not_sent_at(id, client, NODES[0]), Some(may_wait));
    }
    table.pending.hand_over(hasty, client, NODES[1], table.now + after(20)).unwrap();
    assert_eq!(states(&table.pending.expire(table.now + after(30), table.time)), [TargetState::TimedOut]);
    assert_eq!(states(&table.pending.expire(table.now + after(59), table.time)), []);
    assert_eq!(states(&table.pending.expire(table.now + after(60), table.time)), [TargetState::Expired]);
    assert!(matches!(table.answer(hasty, client), Answered::Late));
    assert!(matches!(table.answer(waiting, client), Answered::Unexpected));
    table.assert_empty();
}

#[test]
fn with_a_socket_or_a_node_ends_what_may_have_been_sent_there_and_late_answers_are_known() {
    let mut table = Table::new();
    let (client, other) = (ClientId::random(), ClientId::random());
    let [under_way, sent, elsewhere, of_other] =
        [client, client, client, other].map(|client| table.queue(client, false));
    for id in [under_way, sent] {
        table.hand_over(id, client);
    }
    table.hand_over(of_other, other);
    table.pending.sent_at(sent, client, NODES[0], table.time).unwrap();
    table.pending.hand_over(elsewhere, client, NODES[1], table.now).unwrap();
    let all = [under_way, sent, elsewhere, of_other];
    let lost = table.pending.session_lost_at(NODES[0], client, all, table.time);
    assert_eq!(states(&lost), [TargetState::Disconnected; 2]);
    assert!(matches!(table.answer(under_way, client), Answered::Late));
    assert_eq!(states(&table.pending.node_lost(NODES[0], table.time)), [TargetState::Disconnected]);
    assert!(table.pending.command(elsewhere).is_some());
    assert_eq!(states(&table.pending.node_lost(NODES[1], table.time)), [TargetState::Disconnected]);
    table.assert_empty();
}
