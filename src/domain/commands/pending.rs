//! The commands that are not finished.

mod elsewhere;
mod outcomes;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use chrono::{DateTime, Utc};
use uuid::Uuid;

pub use self::outcomes::{Answered, Cancelled};
use super::{
    Command, Reason, Target, TargetState, TargetUpdate,
    late::LateAnswers,
    usage::{CommandLimits, Exceeded, Usage},
};
use crate::domain::ids::{ClientId, CommandId};

/// A socket that commands are sent to, known by its number.
pub trait Socket: Clone {
    /// Its number.
    fn number(&self) -> u64;
}

/// The result of a target whose own is too large to be kept.
const RESULT_DROPPED: &str =
    r#"{"error":"Result dropped: the results of unfinished commands are over limits.command_bytes_per_identity"}"#;

/// How far a command has come on its way to a target.
#[derive(Debug)]
enum Way<S> {
    /// It waits.
    Queued,
    /// It was handed over to this other node, which has not said whether it was sent.
    HandedOver(Uuid),
    /// It was sent to a socket here.
    Sent(S),
    /// It was sent to a socket at this other node.
    SentAt(Uuid),
}

/// A target that has not ended.
#[derive(Debug)]
struct OpenTarget<S> {
    way: Way<S>,
    /// when it times out, or expires if it was not sent
    deadline: Instant,
    /// its index among the command's targets
    index: usize,
}

#[derive(Debug)]
struct Pending<S> {
    command: Command,
    /// `deliver_until` on the clock of this process
    deliver_by: Option<Instant>,
    open: HashMap<ClientId, OpenTarget<S>>,
}

/// The commands that are not finished. One ordered set holds all deadlines.
#[derive(Debug)]
pub struct PendingCommands<S> {
    commands: HashMap<CommandId, Pending<S>>,
    deadlines: BTreeSet<(Instant, CommandId, ClientId)>,
    /// what was sent to each socket and is not answered
    by_session: HashMap<u64, HashSet<CommandId>>,
    /// what waits for each client, in order
    queued: HashMap<ClientId, VecDeque<CommandId>>,
    /// what may wait and is handed over for a client now, and since when: one at a time, so that the order holds
    handing_over: HashMap<ClientId, (CommandId, Instant)>,
    /// what counts against limits: also the commands that are reserved and not inserted yet
    usage: Usage,
    late: LateAnswers,
}

impl<S> Default for PendingCommands<S> {
    fn default() -> Self {
        Self {
            commands: HashMap::new(),
            deadlines: BTreeSet::new(),
            by_session: HashMap::new(),
            queued: HashMap::new(),
            handing_over: HashMap::new(),
            usage: Usage::default(),
            late: LateAnswers::default(),
        }
    }
}

impl<S: Socket> PendingCommands<S> {
    /// No commands yet.
    pub fn new(limits: CommandLimits) -> Self {
        Self { usage: Usage::new(limits), ..Self::default() }
    }

    /// The limits of new commands and results from now on.
    pub fn set_limits(&mut self, limits: CommandLimits) {
        self.usage.set_limits(limits);
    }

    /// The number of commands that have not ended.
    pub fn count(&self) -> usize {
        self.commands.len()
    }

    /// Counts a new command against the limits, until it is finished or released. This is the only check of them.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub fn reserve(&mut self, command: &Command) -> Result<(), Exceeded> {
        self.usage.reserve(command)
    }

    /// Counts a reserved command no more, unless it was inserted.
    pub fn release(&mut self, id: CommandId) {
        if !self.commands.contains_key(&id) {
            self.usage.release(id);
        }
    }

    /// Whether a command is reserved or inserted, and not finished.
    pub fn contains(&self, id: CommandId) -> bool {
        self.usage.has(id)
    }

    /// The first deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _, _)| *deadline)
    }

    /// A command that is inserted and not finished.
    pub fn command(&self, id: CommandId) -> Option<&Command> {
        self.commands.get(&id).map(|pending| &pending.command)
    }

    /// Adds a command. Its targets that have not ended are queued until `deliver_by`, which is `deliver_until` on this clock.
    /// It counts against the limits, whether or not it was reserved.
    pub fn insert(&mut self, command: Command, deliver_by: Option<Instant>, now: Instant) {
        let id = command.id;
        let mut open = HashMap::new();
        for (index, target) in command.targets.iter().enumerate().filter(|(_, target)| !target.state.is_final()) {
            let deadline = deliver_by.unwrap_or(now);
            self.deadlines.insert((deadline, id, target.client));
            self.queued.entry(target.client).or_default().push_back(id);
            open.insert(target.client, OpenTarget { way: Way::Queued, deadline, index });
        }
        if open.is_empty() {
            self.usage.release(id);
        } else {
            self.usage.take(&command);
            self.commands.insert(id, Pending { command, deliver_by, open });
        }
    }

    /// The commands that wait for this incarnation of a client, in order.
    pub fn queued_for(&self, client: ClientId, incarnation: i64) -> Vec<CommandId> {
        self.queued_where(client, |of| of == incarnation)
    }

    fn queued_where(&self, client: ClientId, is_wanted: impl Fn(i64) -> bool) -> Vec<CommandId> {
        let queue = self.queued.get(&client).into_iter().flatten();
        queue.copied().filter(|id| self.incarnation(*id, client).is_some_and(&is_wanted)).collect()
    }

    /// How often the UUID of a target that has not ended had been deleted when the command was given.
    pub fn incarnation(&self, id: CommandId, client: ClientId) -> Option<i64> {
        let pending = self.commands.get(&id)?;
        Some(pending.command.targets.get(pending.open.get(&client)?.index)?.incarnation)
    }

    /// Whether any command waits for this client.
    pub fn has_queued(&self, client: ClientId) -> bool {
        self.queued.contains_key(&client)
    }

    /// Whether this command waits for this client.
    pub fn is_queued(&self, id: CommandId, client: ClientId) -> bool {
        self.open_target(id, client).is_some_and(|target| matches!(target.way, Way::Queued))
    }

    fn open_target(&self, id: CommandId, client: ClientId) -> Option<&OpenTarget<S>> {
        self.commands.get(&id)?.open.get(&client)
    }

    /// A queued command was handed to this socket.
    pub fn sent(
        &mut self,
        id: CommandId,
        client: ClientId,
        session: &S,
        now: Instant,
        time: DateTime<Utc>,
    ) -> Option<TargetUpdate> {
        let pending = self.commands.get_mut(&id)?;
        let target = pending.open.get_mut(&client).filter(|target| matches!(target.way, Way::Queued))?;
        self.deadlines.remove(&(target.deadline, id, client));
        target.deadline = now + pending.command.timeout;
        target.way = Way::Sent(session.clone());
        self.deadlines.insert((target.deadline, id, client));
        self.by_session.entry(session.number()).or_default().insert(id);
        let index = target.index;
        self.unqueue(id, client);
        self.update(id, index, |target| {
            target.state = TargetState::Sent;
            target.sent_at = Some(time);
        })
    }

    /// A client answers, from any of its sockets.
    pub fn answer(
        &mut self,
        id: CommandId,
        client: ClientId,
        result: Arc<str>,
        failed: bool,
        time: DateTime<Utc>,
    ) -> Answered {
        if !self.was_sent(id, client) {
            return if self.late.take(id, client) { Answered::Late } else { Answered::Unexpected };
        }
        // the last result is not kept: it finishes the command
        let is_last = self.commands.get(&id).is_some_and(|pending| pending.open.len() == 1);
        let (result, failed) = if is_last || self.usage.keep_result(id, result.len()) {
            (result, failed)
        } else {
            (RESULT_DROPPED.into(), true)
        };
        let state = if failed { TargetState::Failed } else { TargetState::Succeeded };
        match self.end(id, client, state, Some(result), time) {
            Some(update) => Answered::Ended(Box::new(update)),
            None => Answered::Unexpected,
        }
    }

    /// A client reports progress, from any of its sockets.
    pub fn progress(
        &mut self,
        id: CommandId,
        client: ClientId,
        progress: Arc<str>,
        time: DateTime<Utc>,
    ) -> Option<TargetUpdate> {
        let index = self.open_target(id, client).filter(|target| !matches!(target.way, Way::Queued))?.index;
        let mut update = self.update(id, index, |target| {
            target.state = TargetState::InProgress;
            target.in_progress_at.get_or_insert(time);
        })?;
        update.progress = Some(progress);
        Some(update)
    }

    /// A socket is lost: what was sent to it and is not answered ends, since whether it arrived is not known. The client may
    /// answer late, from another socket.
    pub fn session_lost(&mut self, client: ClientId, session: &S, time: DateTime<Utc>) -> Vec<TargetUpdate> {
        let sent = self.by_session.remove(&session.number()).unwrap_or_default();
        sent.into_iter().filter_map(|id| self.disconnected(id, client, time)).collect()
    }

    /// A target is offline, and the command does not wait for it.
    pub fn offline(
        &mut self,
        id: CommandId,
        client: ClientId,
        reason: Option<Reason>,
        time: DateTime<Utc>,
    ) -> Option<TargetUpdate> {
        let pending = self.commands.get_mut(&id)?;
        let index = pending.open.get(&client)?.index;
        pending.command.targets.get_mut(index)?.reason = reason;
        self.end(id, client, TargetState::Offline, None, time)
    }

    /// A client was deleted, so often by now: nothing waits for it, and whoever registers under its identity answers nothing
    /// of before.
    pub fn client_deleted(&mut self, client: ClientId, incarnation: i64, time: DateTime<Utc>) -> Vec<TargetUpdate> {
        self.late.forget(client);
        self.end_earlier(client, incarnation, time)
    }

    /// Ends what waits for earlier incarnations of a client.
    pub fn end_earlier(&mut self, client: ClientId, incarnation: i64, time: DateTime<Utc>) -> Vec<TargetUpdate> {
        let queued = self.queued_where(client, |of| of < incarnation);
        queued.into_iter().filter_map(|id| self.offline(id, client, None, time)).collect()
    }

    /// A target of a finished command may answer late.
    pub fn expect_late(&mut self, id: CommandId, client: ClientId) {
        self.late.expect(id, client);
    }

    /// Ends all targets whose deadlines are over.
    pub fn expire(&mut self, now: Instant, time: DateTime<Utc>) -> Vec<TargetUpdate> {
        let mut updates = Vec::new();
        while let Some(&(deadline, id, client)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let state = if self.was_sent(id, client) {
                self.late.expect(id, client);
                TargetState::TimedOut
            } else {
                TargetState::Expired
            };
            updates.extend(self.end(id, client, state, None, time));
        }
        updates
    }

    /// Cancels a command for all targets that have not ended.
    pub fn cancel(&mut self, id: CommandId, time: DateTime<Utc>) -> Cancelled<S> {
        let mut cancelled = Cancelled { updates: Vec::new(), sessions: Vec::new(), elsewhere: Vec::new() };
        let Some(pending) = self.commands.get(&id) else { return cancelled };
        for (client, target) in &pending.open {
            match &target.way {
                Way::Queued => {}
                Way::Sent(session) => cancelled.sessions.push(session.clone()),
                Way::HandedOver(node) | Way::SentAt(node) => cancelled.elsewhere.push((*node, *client)),
            }
        }
        let clients: Vec<_> = pending.open.keys().copied().collect();
        let updates = clients.into_iter().filter_map(|client| self.end(id, client, TargetState::Cancelled, None, time));
        cancelled.updates = updates.collect();
        cancelled
    }

    fn was_sent(&self, id: CommandId, client: ClientId) -> bool {
        self.open_target(id, client).is_some_and(|target| !matches!(target.way, Way::Queued))
    }

    fn end(
        &mut self,
        id: CommandId,
        client: ClientId,
        state: TargetState,
        result: Option<Arc<str>>,
        time: DateTime<Utc>,
    ) -> Option<TargetUpdate> {
        let pending = self.commands.get_mut(&id)?;
        let target = pending.open.remove(&client)?;
        let is_last = pending.open.is_empty();
        self.usage.target_ended(id, client);
        self.deadlines.remove(&(target.deadline, id, client));
        match target.way {
            Way::Sent(session) => {
                if let Some(sent) = self.by_session.get_mut(&session.number()) {
                    sent.remove(&id);
                    if sent.is_empty() {
                        self.by_session.remove(&session.number());
                    }
                }
            }
            Way::Queued => self.unqueue(id, client),
            Way::HandedOver(_) => self.hand_over_ended(id, client),
            Way::SentAt(_) => {}
        }
        let mut update = self.update(id, target.index, |target| {
            target.end(state, time);
            target.result = result;
        })?;
        if is_last {
            let mut command = self.commands.remove(&id)?.command;
            command.finished_at = Some(time);
            update.finished = Some(Arc::new(command));
        }
        Some(update)
    }

    fn update(&mut self, id: CommandId, index: usize, update: impl FnOnce(&mut Target)) -> Option<TargetUpdate> {
        let command = &mut self.commands.get_mut(&id)?.command;
        command.version += 1;
        let version = command.version;
        let target = command.targets.get_mut(index)?;
        update(target);
        target.version = version;
        Some(TargetUpdate { command: id, target: target.clone(), progress: None, finished: None })
    }

    fn unqueue(&mut self, id: CommandId, client: ClientId) {
        if let Some(queue) = self.queued.get_mut(&client) {
            queue.retain(|queued| *queued != id);
            if queue.is_empty() {
                self.queued.remove(&client);
            }
        }
    }
}
