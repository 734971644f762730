//! The commands that are not over yet.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Changed, Command, Reason, State, Target,
    usage::{CommandLimits, Exceeded, Usage},
};
use crate::domain::ids::ClientId;

/// A socket that can be asked; told apart by number.
pub trait Socket: Clone {
    /// Its number.
    fn number(&self) -> u64;
}

/// How many targets that timed out or lost their socket are remembered for a late answer.
const LATE: usize = 10_000;

/// What stands for a result that has no place.
const RESULT_DROPPED: &str =
    r#"{"error":"Result dropped: the results of unfinished commands are over limits.command_bytes_per_identity"}"#;

#[derive(Debug)]
struct Waiting<S> {
    /// the socket that was asked
    session: Option<S>,
    /// when its time is over
    deadline: Instant,
    /// where in the command's list
    index: usize,
}

#[derive(Debug)]
struct Active<S> {
    command: Command,
    waiting: HashMap<ClientId, Waiting<S>>,
}

/// The commands that are not over. One structure holds all deadlines.
#[derive(Debug)]
pub struct PendingCommands<S> {
    active: HashMap<Uuid, Active<S>>,
    deadlines: BTreeSet<(Instant, Uuid, ClientId)>,
    /// what each socket has been asked and not answered
    by_session: HashMap<u64, HashSet<Uuid>>,
    /// what waits for a client to connect, in order
    queued: HashMap<ClientId, VecDeque<Uuid>>,
    /// what all of them take up, those that are only about to begin included
    usage: Usage,
    /// what may still be answered too late
    late: HashSet<(Uuid, ClientId)>,
    late_order: VecDeque<(Uuid, ClientId)>,
}

/// What became of an answer.
#[derive(Debug)]
pub enum Answered {
    /// It counts.
    Changed(Box<Changed>),
    /// It came after the time was over, or after the socket was lost that had been asked.
    Late,
    /// Nobody asked this client, or it has answered.
    Dropped,
}

impl<S> Default for PendingCommands<S> {
    fn default() -> Self {
        Self {
            active: HashMap::new(),
            deadlines: BTreeSet::new(),
            by_session: HashMap::new(),
            queued: HashMap::new(),
            usage: Usage::default(),
            late: HashSet::new(),
            late_order: VecDeque::new(),
        }
    }
}

impl<S: Socket> PendingCommands<S> {
    /// No commands yet.
    pub fn new(limits: CommandLimits) -> Self {
        Self { usage: Usage::new(limits), ..Self::default() }
    }

    /// How many targets are not over.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.usage.targets()
    }

    /// Takes up the places of a command that is about to begin, until it is inserted or released.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub fn reserve(&mut self, command: &Command) -> Result<(), Exceeded> {
        self.usage.reserve(command)
    }

    /// Gives back the places of a command that is not to begin.
    pub fn release(&mut self, id: Uuid) {
        if !self.active.contains_key(&id) {
            self.usage.release(id);
        }
    }

    /// Whether a command has its places: it is about to begin, or not over.
    pub fn has_places(&self, id: Uuid) -> bool {
        self.usage.has(id)
    }

    /// When the next time is over.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _, _)| *deadline)
    }

    /// A command that is not over.
    pub fn command(&self, id: Uuid) -> Option<&Command> {
        self.active.get(&id).map(|active| &active.command)
    }

    /// Takes a command in whose targets are all queued. `deliver_by` is `deliver_until` on this clock; `None` ends what
    /// is not connected at once. Its places are taken up if they have not been reserved.
    pub fn insert(&mut self, command: Command, deliver_by: Option<Instant>, now: Instant) {
        let id = command.id;
        let mut waiting = HashMap::new();
        for (index, target) in command.targets.iter().enumerate().filter(|(_, target)| !target.state.is_final()) {
            let deadline = deliver_by.unwrap_or(now);
            self.deadlines.insert((deadline, id, target.client));
            self.queued.entry(target.client).or_default().push_back(id);
            waiting.insert(target.client, Waiting { session: None, deadline, index });
        }
        if waiting.is_empty() {
            self.usage.release(id);
        } else {
            self.usage.take(&command);
            self.active.insert(id, Active { command, waiting });
        }
    }

    /// The commands that wait for this client, in order.
    pub fn queued_for(&self, client: ClientId) -> Vec<Uuid> {
        self.queued.get(&client).map(|queue| queue.iter().copied().collect()).unwrap_or_default()
    }

    /// Whether anything waits for this client.
    pub fn has_queued(&self, client: ClientId) -> bool {
        self.queued.contains_key(&client)
    }

    /// Whether this command waits for this client.
    pub fn is_queued(&self, id: Uuid, client: ClientId) -> bool {
        self.active.get(&id).and_then(|active| active.waiting.get(&client)).is_some_and(|one| one.session.is_none())
    }

    /// A queued command is on its way to this socket.
    pub fn sent(
        &mut self,
        id: Uuid,
        client: ClientId,
        session: &S,
        now: Instant,
        time: DateTime<Utc>,
    ) -> Option<Changed> {
        let active = self.active.get_mut(&id)?;
        let waiting = active.waiting.get_mut(&client).filter(|waiting| waiting.session.is_none())?;
        self.deadlines.remove(&(waiting.deadline, id, client));
        waiting.deadline = now + active.command.timeout;
        waiting.session = Some(session.clone());
        self.deadlines.insert((waiting.deadline, id, client));
        self.by_session.entry(session.number()).or_default().insert(id);
        let index = waiting.index;
        self.unqueue(id, client);
        self.change(id, index, |target| {
            target.state = State::Sent;
            target.sent_at = Some(time);
        })
    }

    /// A client answers, from whichever of its sockets.
    pub fn answer(
        &mut self,
        id: Uuid,
        client: ClientId,
        result: Arc<str>,
        failed: bool,
        time: DateTime<Utc>,
    ) -> Answered {
        if !self.was_asked(id, client) {
            return if self.late.remove(&(id, client)) { Answered::Late } else { Answered::Dropped };
        }
        // the last result needs no place: the command is finished with it
        let is_last = self.active.get(&id).is_some_and(|active| active.waiting.len() == 1);
        let (result, failed) = if is_last || self.usage.keep_result(id, result.len()) {
            (result, failed)
        } else {
            (RESULT_DROPPED.into(), true)
        };
        let state = if failed { State::Failed } else { State::Succeeded };
        match self.end(id, client, state, Some(result), time) {
            Some(changed) => Answered::Changed(Box::new(changed)),
            None => Answered::Dropped,
        }
    }

    /// A client tells of progress, from whichever of its sockets.
    pub fn progress(&mut self, id: Uuid, client: ClientId, progress: Arc<str>, time: DateTime<Utc>) -> Option<Changed> {
        if !self.was_asked(id, client) {
            return None;
        }
        let index = self.active.get(&id)?.waiting.get(&client)?.index;
        let mut changed = self.change(id, index, |target| {
            target.state = State::InProgress;
            target.in_progress_at.get_or_insert(time);
        })?;
        changed.progress = Some(progress);
        Some(changed)
    }

    /// A socket is gone: what it was asked ends, since whether the command has arrived is not known. An answer that the
    /// client gives when it is back counts as late.
    pub fn session_gone(&mut self, client: ClientId, session: &S, time: DateTime<Utc>) -> Vec<Changed> {
        let asked = self.by_session.remove(&session.number()).unwrap_or_default();
        asked
            .into_iter()
            .filter_map(|id| {
                self.expect_late(id, client);
                self.end(id, client, State::Disconnected, None, time)
            })
            .collect()
    }

    /// A target can't be reached and is not to be waited for.
    pub fn offline(
        &mut self,
        id: Uuid,
        client: ClientId,
        reason: Option<Reason>,
        time: DateTime<Utc>,
    ) -> Option<Changed> {
        if let Some(active) = self.active.get_mut(&id) {
            let index = active.waiting.get(&client)?.index;
            active.command.targets.get_mut(index)?.reason = reason;
        }
        self.end(id, client, State::Offline, None, time)
    }

    /// A client is there no more: whoever registers under its identity has not been asked.
    pub fn forget_late(&mut self, client: ClientId) {
        self.late.retain(|(_, of)| *of != client);
    }

    /// A target has been asked and may still answer, although that is over.
    pub fn expect_late(&mut self, id: Uuid, client: ClientId) {
        // what was answered stays in the list, else each answer would have to look for its place
        if self.late_order.len() >= LATE
            && let Some(oldest) = self.late_order.pop_front()
        {
            self.late.remove(&oldest);
        }
        self.late.insert((id, client));
        self.late_order.push_back((id, client));
    }

    /// Ends what has had its time.
    pub fn expire(&mut self, now: Instant, time: DateTime<Utc>) -> Vec<Changed> {
        let mut changes = Vec::new();
        while let Some(&(deadline, id, client)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let session = self.active.get(&id).and_then(|active| active.waiting.get(&client)?.session.as_ref());
            let state = if session.is_some() {
                self.expect_late(id, client);
                State::TimedOut
            } else {
                State::Expired
            };
            changes.extend(self.end(id, client, state, None, time));
        }
        changes
    }

    /// Calls a command off. Answers what changed, and which sockets had been asked.
    pub fn cancel(&mut self, id: Uuid, time: DateTime<Utc>) -> (Vec<Changed>, Vec<S>) {
        let Some(active) = self.active.get(&id) else { return (Vec::new(), Vec::new()) };
        let clients: Vec<_> = active.waiting.keys().copied().collect();
        let asked = active.waiting.values().filter_map(|waiting| waiting.session.clone()).collect();
        let changes = clients.into_iter().filter_map(|client| self.end(id, client, State::Cancelled, None, time));
        (changes.collect(), asked)
    }

    fn was_asked(&self, id: Uuid, client: ClientId) -> bool {
        self.active.get(&id).and_then(|active| active.waiting.get(&client)?.session.as_ref()).is_some()
    }

    fn end(
        &mut self,
        id: Uuid,
        client: ClientId,
        state: State,
        result: Option<Arc<str>>,
        time: DateTime<Utc>,
    ) -> Option<Changed> {
        let active = self.active.get_mut(&id)?;
        let waiting = active.waiting.remove(&client)?;
        let last = active.waiting.is_empty();
        self.usage.target_ended(id, client);
        self.deadlines.remove(&(waiting.deadline, id, client));
        match waiting.session {
            Some(session) => {
                if let Some(asked) = self.by_session.get_mut(&session.number()) {
                    asked.remove(&id);
                    if asked.is_empty() {
                        self.by_session.remove(&session.number());
                    }
                }
            }
            None => self.unqueue(id, client),
        }
        let mut changed = self.change(id, waiting.index, |target| {
            target.state = state;
            target.result = result;
            target.ended_at = Some(time);
        })?;
        if last {
            let mut command = self.active.remove(&id)?.command;
            command.finished_at = Some(time);
            changed.finished = Some(Arc::new(command));
        }
        Some(changed)
    }

    fn change(&mut self, id: Uuid, index: usize, change: impl FnOnce(&mut Target)) -> Option<Changed> {
        let command = &mut self.active.get_mut(&id)?.command;
        command.version += 1;
        let version = command.version;
        let target = command.targets.get_mut(index)?;
        change(target);
        target.version = version;
        Some(Changed { command: id, target: target.clone(), progress: None, finished: None })
    }

    fn unqueue(&mut self, id: Uuid, client: ClientId) {
        if let Some(queue) = self.queued.get_mut(&client) {
            queue.retain(|queued| *queued != id);
            if queue.is_empty() {
                self.queued.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
            id: Uuid::new_v4(),
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
            targets: clients
                .iter()
                .map(|client| Target::new(*client, ClientKind::Device, String::new(), None))
                .collect(),
        }
    }

    impl Table {
        fn new() -> Self {
            Self { pending: PendingCommands::default(), now: Instant::now(), time: Utc::now() }
        }

        fn ask(&mut self, clients: &[ClientId], session: u64) -> Uuid {
            let command = command(clients);
            let id = command.id;
            self.pending.insert(command, None, self.now);
            for client in clients {
                self.pending.sent(id, *client, &At(session), self.now, self.time).unwrap();
            }
            id
        }

        fn answer(&mut self, id: Uuid, client: ClientId) -> Answered {
            self.pending.answer(id, client, "1".into(), false, self.time)
        }

        fn assert_empty(&self) {
            assert!(self.pending.usage.is_empty());
            assert!(self.pending.active.is_empty() && self.pending.deadlines.is_empty());
            assert!(self.pending.by_session.is_empty() && self.pending.queued.is_empty());
        }
    }

    #[test]
    fn only_the_client_that_was_asked_may_answer_and_only_once() {
        let mut table = Table::new();
        let (client, other) = (ClientId::random(), ClientId::random());
        let id = table.ask(&[client], 1);
        assert!(matches!(table.answer(id, other), Answered::Dropped));
        assert!(matches!(table.answer(Uuid::new_v4(), client), Answered::Dropped));
        let Answered::Changed(changed) = table.answer(id, client) else { panic!("it counts") };
        let finished = changed.finished.unwrap();
        assert_eq!(finished.targets[0].state, State::Succeeded);
        assert!(matches!(table.answer(id, client), Answered::Dropped));
        table.assert_empty();
    }

    #[test]
    fn results_that_have_no_place_are_dropped_and_the_command_goes_on() {
        let mut table = Table::new();
        table.pending = PendingCommands::new(CommandLimits { bytes_per_identity: 10, ..CommandLimits::default() });
        let (a, b, c) = (ClientId::random(), ClientId::random(), ClientId::random());
        let id = table.ask(&[a, b, c], 1);
        let mut answer = |client, result: &str| match table.pending.answer(id, client, result.into(), false, table.time)
        {
            Answered::Changed(changed) => changed.target,
            other => panic!("it counts: {other:?}"),
        };
        assert_eq!(answer(a, "123456789").state, State::Succeeded);
        let dropped = answer(b, "123456789");
        assert_eq!((dropped.state, dropped.result.as_deref()), (State::Failed, Some(RESULT_DROPPED)));
        assert_eq!(answer(c, "123456789").state, State::Succeeded);
        table.assert_empty();
    }

    #[test]
    fn a_gather_is_finished_with_its_last_target() {
        let mut table = Table::new();
        let (a, b) = (ClientId::random(), ClientId::random());
        let id = table.ask(&[a, b], 1);
        let Answered::Changed(first) = table.answer(id, a) else { panic!("it counts") };
        assert!(first.finished.is_none());
        let Answered::Changed(second) = table.answer(id, b) else { panic!("it counts") };
        assert_eq!(second.finished.unwrap().targets.len(), 2);
        table.assert_empty();
    }

    #[test]
    fn what_is_not_answered_in_time_ends_and_a_late_answer_is_known_as_such_once() {
        let mut table = Table::new();
        let client = ClientId::random();
        let id = table.ask(&[client], 1);
        assert!(table.pending.expire(table.now + Duration::from_secs(29), table.time).is_empty());
        let changes = table.pending.expire(table.now + Duration::from_secs(30), table.time);
        assert_eq!(changes[0].target.state, State::TimedOut);
        table.assert_empty();
        assert!(matches!(table.answer(id, ClientId::random()), Answered::Dropped));
        assert!(matches!(table.answer(id, client), Answered::Late));
        assert!(matches!(table.answer(id, client), Answered::Dropped));
    }

    #[test]
    fn an_answer_after_the_socket_was_lost_is_late_unless_the_client_was_deleted() {
        let mut table = Table::new();
        let (client, deleted) = (ClientId::random(), ClientId::random());
        let ids = [table.ask(&[client], 1), table.ask(&[deleted], 2)];
        table.pending.session_gone(client, &At(1), table.time);
        table.pending.session_gone(deleted, &At(2), table.time);
        table.pending.forget_late(deleted);
        assert!(matches!(table.answer(ids[0], client), Answered::Late));
        assert!(matches!(table.answer(ids[1], deleted), Answered::Dropped));
        table.assert_empty();
    }

    #[test]
    fn what_is_queued_can_not_be_answered() {
        let mut table = Table::new();
        let client = ClientId::random();
        let command = command(&[client]);
        let id = command.id;
        table.pending.insert(command, Some(table.now + Duration::from_secs(100)), table.now);
        assert!(matches!(table.answer(id, client), Answered::Dropped));
        assert!(table.pending.progress(id, client, "1".into(), table.time).is_none());
    }

    #[test]
    fn a_target_that_can_not_be_reached_ends_with_the_reason_and_the_others_go_on() {
        let mut table = Table::new();
        let (unreachable, connected) = (ClientId::random(), ClientId::random());
        let command = command(&[unreachable, connected]);
        let id = command.id;
        table.pending.insert(command, None, table.now);
        let changed = table.pending.offline(id, unreachable, Some(Reason::GatewayDown), table.time).unwrap();
        assert_eq!((changed.target.state, changed.target.reason), (State::Offline, Some(Reason::GatewayDown)));
        assert_eq!(table.pending.queued_for(connected), [id]);
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
        assert_eq!(table.pending.queued_for(client), ids);
        table.pending.sent(ids[0], client, &At(1), table.now, table.time).unwrap();
        assert_eq!(table.pending.queued_for(client), [ids[1]]);
        let changes = table.pending.expire(deliver_by, table.time);
        let states: HashSet<_> = changes.iter().map(|changed| changed.target.state).collect();
        assert_eq!(states, HashSet::from([State::TimedOut, State::Expired]));
        table.assert_empty();
    }

    #[test]
    fn a_socket_that_goes_ends_what_it_was_asked() {
        let mut table = Table::new();
        let client = ClientId::random();
        table.ask(&[client], 1);
        table.ask(&[client], 1);
        let other = table.ask(&[client], 2);
        let changes = table.pending.session_gone(client, &At(1), table.time);
        assert!(changes.iter().all(|changed| changed.target.state == State::Disconnected));
        assert_eq!((changes.len(), table.pending.len()), (2, 1));
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
        let (changes, sockets) = table.pending.cancel(id, table.time);
        assert_eq!((changes.len(), sockets), (2, vec![At(1)]));
        assert_eq!(changes.iter().filter(|changed| changed.finished.is_some()).count(), 1);
        table.assert_empty();
    }

    #[test]
    fn progress_changes_the_state_once_and_the_version_each_time() {
        let mut table = Table::new();
        let client = ClientId::random();
        let id = table.ask(&[client], 1);
        let first = table.pending.progress(id, client, "10".into(), table.time).unwrap();
        let second = table.pending.progress(id, client, "20".into(), table.time).unwrap();
        assert_eq!((first.target.state, second.target.state), (State::InProgress, State::InProgress));
        assert!(second.target.version > first.target.version);
        assert!(table.pending.progress(id, ClientId::random(), "30".into(), table.time).is_none());
    }
}
