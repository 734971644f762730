use std::time::Duration;

use super::*;
use crate::domain::ids::ClientKind;

#[derive(Debug, Clone, PartialEq)]
struct At(u64);
impl Socket for At {
    fn number(&self) -> u64 {
        self.0
    }
}

struct Table {
    pending: PendingCommands<At>,
    now: Instant,
    time: DateTime<Utc>,
}

fn command(clients: &[ClientId]) -> Command {
    Command {
        id: CommandId::new(Utc::now()),
        requested_by: ClientId::random(),
        requester: "operator".to_owned(),
        method: "GET".to_owned(),
        url: "/".to_owned(),
        data: None,
        timeout: Duration::from_secs(30),
        deliver_until: None,
        created_at: Utc::now(),
        finished_at: None,
        version: 0,
        targets: clients.iter().map(|client| Target::new(*client, ClientKind::Device, String::new(), None)).collect(),
    }
}

impl Table {
    fn new() -> Self {
        Self { pending: PendingCommands::default(), now: Instant::now(), time: Utc::now() }
    }

    fn ask(&mut self, clients: &[ClientId], session: u64) -> CommandId {
        let command = command(clients);
        let id = command.id;
        self.pending.insert(command, None, self.now);
        for client in clients {
            self.pending.sent(id, *client, &At(session), self.now, self.time).unwrap();
        }
        id
    }

    fn answer(&mut self, id: CommandId, client: ClientId) -> Answered {
        self.pending.answer(id, client, "1".into(), false, self.time)
    }

    fn assert_empty(&self) {
        assert!(self.pending.usage.is_empty());
        assert!(self.pending.commands.is_empty() && self.pending.deadlines.is_empty());
        assert!(self.pending.by_session.is_empty() && self.pending.queued.is_empty());
    }
}

#[test]
fn only_the_client_that_was_asked_may_answer_and_only_once() {
    let mut table = Table::new();
    let (client, other) = (ClientId::random(), ClientId::random());
    let id = table.ask(&[client], 1);
    assert!(matches!(table.answer(id, other), Answered::Unexpected));
    assert!(matches!(table.answer(CommandId::new(Utc::now()), client), Answered::Unexpected));
    let Answered::Ended(update) = table.answer(id, client) else { panic!("it counts") };
    let finished = update.finished.unwrap();
    assert_eq!(finished.targets[0].state, TargetState::Succeeded);
    assert!(matches!(table.answer(id, client), Answered::Unexpected));
    table.assert_empty();
}

#[test]
fn results_that_have_no_place_are_dropped_and_the_command_goes_on() {
    let mut table = Table::new();
    table.pending = PendingCommands::new(CommandLimits { bytes_per_identity: 10, ..CommandLimits::default() });
    let (a, b, c) = (ClientId::random(), ClientId::random(), ClientId::random());
    let id = table.ask(&[a, b, c], 1);
    let mut answer = |client, result: &str| match table.pending.answer(id, client, result.into(), false, table.time) {
        Answered::Ended(update) => update.target,
        other => panic!("it counts: {other:?}"),
    };
    assert_eq!(answer(a, "123456789").state, TargetState::Succeeded);
    let dropped = answer(b, "123456789");
    assert_eq!((dropped.state, dropped.result.as_deref()), (TargetState::Failed, Some(RESULT_DROPPED)));
    assert_eq!(answer(c, "123456789").state, TargetState::Succeeded);
    table.assert_empty();
}

#[test]
fn a_gather_is_finished_with_its_last_target() {
    let mut table = Table::new();
    let (a, b) = (ClientId::random(), ClientId::random());
    let id = table.ask(&[a, b], 1);
    let Answered::Ended(first) = table.answer(id, a) else { panic!("it counts") };
    assert!(first.finished.is_none());
    let Answered::Ended(second) = table.answer(id, b) else { panic!("it counts") };
    assert_eq!(second.finished.unwrap().targets.len(), 2);
    table.assert_empty();
}

#[test]
fn what_is_not_answered_in_time_ends_and_a_late_answer_is_known_as_such_once() {
    let mut table = Table::new();
    let client = ClientId::random();
    let id = table.ask(&[client], 1);
    assert!(table.pending.expire(table.now + Duration::from_secs(29), table.time).is_empty());
    let updates = table.pending.expire(table.now + Duration::from_secs(30), table.time);
    assert_eq!(updates[0].target.state, TargetState::TimedOut);
    table.assert_empty();
    assert!(matches!(table.answer(id, ClientId::random()), Answered::Unexpected));
    assert!(matches!(table.answer(id, client), Answered::Late));
    assert!(matches!(table.answer(id, client), Answered::Unexpected));
}

#[test]
fn an_answer_after_the_socket_was_lost_is_late_unless_the_client_was_deleted() {
    let mut table = Table::new();
    let (client, deleted) = (ClientId::random(), ClientId::random());
    let ids = [table.ask(&[client], 1), table.ask(&[deleted], 2)];
    table.pending.session_lost(client, &At(1), table.time);
    table.pending.session_lost(deleted, &At(2), table.time);
    assert!(table.pending.client_deleted(deleted, 1, table.time).is_empty());
    assert!(matches!(table.answer(ids[0], client), Answered::Late));
    assert!(matches!(table.answer(ids[1], deleted), Answered::Unexpected));
    table.assert_empty();
}

#[test]
fn what_is_queued_can_not_be_answered() {
    let mut table = Table::new();
    let client = ClientId::random();
    let command = command(&[client]);
    let id = command.id;
    table.pending.insert(command, Some(table.now + Duration::from_secs(100)), table.now);
    assert!(matches!(table.answer(id, client), Answered::Unexpected));
    assert!(table.pending.progress(id, client, "1".into(), table.time).is_none());
}

#[test]
fn a_target_that_can_not_be_reached_ends_with_the_reason_and_the_others_go_on() {
    let mut table = Table::new();
    let (unreachable, connected) = (ClientId::random(), ClientId::random());
    let command = command(&[unreachable, connected]);
    let id = command.id;
    table.pending.insert(command, None, table.now);
    let update = table.pending.offline(id, unreachable, Some(Reason::GatewayDown), table.time).unwrap();
    assert_eq!((update.target.state, update.target.reason), (TargetState::Offline, Some(Reason::GatewayDown)));
    assert_eq!(table.pending.queued_for(connected, 0), [id]);
    assert!(table.pending.offline(id, connected, None, table.time).unwrap().finished.is_some());
    table.assert_empty();
}

#[test]
fn what_waits_for_a_client_is_sent_in_order_or_expires() {
    let mut table = Table::new();
    let client = ClientId::random();
    let (first, second) = (command(&[client]), command(&[client]));
    let ids = [first.id, second.id];
    let deliver_by = table.now + Duration::from_secs(100);
    table.pending.insert(first, Some(deliver_by), table.now);
    table.pending.insert(second, Some(deliver_by), table.now);
    assert_eq!(table.pending.queued_for(client, 0), ids);
    table.pending.sent(ids[0], client, &At(1), table.now, table.time).unwrap();
    assert_eq!(table.pending.queued_for(client, 0), [ids[1]]);
    let updates = table.pending.expire(deliver_by, table.time);
    let states: HashSet<_> = updates.iter().map(|update| update.target.state).collect();
    assert_eq!(states, HashSet::from([TargetState::TimedOut, TargetState::Expired]));
    table.assert_empty();
}

#[test]
fn a_socket_that_goes_ends_what_it_was_asked() {
    let mut table = Table::new();
    let client = ClientId::random();
    table.ask(&[client], 1);
    table.ask(&[client], 1);
    let other = table.ask(&[client], 2);
    let updates = table.pending.session_lost(client, &At(1), table.time);
    assert!(updates.iter().all(|update| update.target.state == TargetState::Disconnected));
    assert_eq!((updates.len(), table.pending.usage.targets()), (2, 1));
    assert!(table.pending.command(other).is_some());
}

#[test]
fn a_cancelled_command_tells_which_sockets_had_been_asked() {
    let mut table = Table::new();
    let (asked, absent) = (ClientId::random(), ClientId::random());
    let command = command(&[asked, absent]);
    let id = command.id;
    table.pending.insert(command, Some(table.now + Duration::from_secs(100)), table.now);
    table.pending.sent(id, asked, &At(1), table.now, table.time).unwrap();
    let Cancelled { updates, sessions: sockets, .. } = table.pending.cancel(id, table.time);
    assert_eq!((updates.len(), sockets), (2, vec![At(1)]));
    assert_eq!(updates.iter().filter(|update| update.finished.is_some()).count(), 1);
    table.assert_empty();
}

#[test]
fn progress_updates_the_state_once_and_the_version_each_time() {
    let mut table = Table::new();
    let client = ClientId::random();
    let id = table.ask(&[client], 1);
    let first = table.pending.progress(id, client, "10".into(), table.time).unwrap();
    let second = table.pending.progress(id, client, "20".into(), table.time).unwrap();
    assert_eq!((first.target.state, second.target.state), (TargetState::InProgress, TargetState::InProgress));
    assert!(second.target.version > first.target.version);
    assert!(table.pending.progress(id, ClientId::random(), "30".into(), table.time).is_none());
}

mod elsewhere;
