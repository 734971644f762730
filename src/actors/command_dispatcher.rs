//! The role of the CommandDispatcher is to handle each command until it is finished: it sends it to the sockets of its
//! targets, correlates their answers, and ends what takes too long (contract section 6).
//!
//! Handlers and sessions reach it through [`Commands`]; the Registry tells it which sockets come and go. It records every
//! update with the Journal, then tells it to those who wait for the command or follow it.

mod audience;
mod elsewhere;
mod error;
mod follow;
mod handle;
mod inputs;
mod messages;
mod other_nodes;
mod outcome;
mod preparing;
mod reading;
mod recording;
mod replies;
mod retrying;
mod sending;
mod takeover;
#[cfg(test)]
mod tests;
mod unrecorded;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use actix::{Actor, Handler, MessageResult, SpawnHandle};
use chrono::{DateTime, Utc};
use tokio::sync::Notify;

use self::{
    audience::Audience,
    inputs::{Input, Inputs},
    messages::{AwaitEnd, Begin, Cancel, NotHandled, RecordBegun, Recover, Release, Reserve, StopWaiting, Subscribe},
    unrecorded::Unrecorded,
};
pub use self::{
    error::CommandError,
    follow::{CommandEvent, EventContent, Finished, Follow},
    handle::{Commands, Dependencies, IdempotencyKey},
    messages::{ClientReady, Reply, ReplyContent, SessionGone},
    other_nodes::CommandsFromNodes,
    outcome::Outcome,
    preparing::{NewCommand, Targets},
    reading::CommandQuery,
};
use super::{directory::Directory, journal::Journal, topic_manager::ClientDeleted};
use crate::{
    clock::Clock,
    cluster::Backplane,
    delivery::{Relays, SessionHandle},
    domain::{
        commands::{Cancelled, Command, CommandsForOthers, PendingCommands, Recovered, Socket, recover},
        ids::{ClientId, CommandId},
    },
    metrics::{self, Context, METRICS, Measured},
    protocol::outbound,
    settings::LiveSettings,
    store::{Record, Store},
};

/// See the module.
pub struct CommandDispatcher {
    pending: PendingCommands<SessionHandle>,
    /// what began a moment ago and is not recorded yet
    unrecorded: Unrecorded,
    /// what is never recorded: it was not stored beforehand, and began while storage was nearly full or the database away
    unkept: HashSet<CommandId>,
    /// a timer is set for the end of the period of `unrecorded`
    is_period_running: bool,
    audience: Audience,
    /// the one timer, and the deadline it is set to
    timer: Option<(Instant, SpawnHandle)>,
    /// inputs that are not handled yet
    under_way: Arc<AtomicUsize>,
    /// replies that nobody asked for
    dropped: u64,
    /// what the last process has left, until this actor starts
    unfinished: Vec<Command>,
    /// the commands of other nodes that were sent to sockets here
    for_others: CommandsForOthers,
    /// for these clients it is tried again soon to send what waits
    retries: HashSet<ClientId>,
    /// notified when a node leaves
    node_left: Arc<Notify>,
    directory: Arc<Directory>,
    relays: Arc<Relays>,
    backplane: Arc<dyn Backplane>,
    journal: Journal,
    store: Store,
    clock: Clock,
    settings: LiveSettings,
}

impl Socket for SessionHandle {
    fn number(&self) -> u64 {
        self.id()
    }
}

/// `deliver_until` on the clock of this process.
fn deliver_by(command: &Command, now: DateTime<Utc>) -> Option<Instant> {
    let wait = (command.deliver_until? - now).to_std().unwrap_or(Duration::ZERO);
    Some(Instant::now() + wait)
}

impl CommandDispatcher {
    fn new(dependencies: Dependencies) -> Self {
        let Dependencies { directory, relays, backplane, journal, store, clock, settings, unfinished, .. } =
            dependencies;
        Self {
            pending: PendingCommands::new(settings.load().limits.commands()),
            unrecorded: Unrecorded::default(),
            unkept: HashSet::new(),
            is_period_running: false,
            audience: Audience::default(),
            timer: None,
            under_way: Arc::default(),
            dropped: 0,
            unfinished,
            for_others: CommandsForOthers::default(),
            retries: HashSet::new(),
            node_left: Arc::default(),
            directory,
            relays,
            backplane,
            journal,
            store,
            clock,
            settings,
        }
    }

    /// Continues with a stored command that is not finished and that no process handles.
    fn recover(&mut self, stored: Command) {
        let Recovered { command, ended, may_answer_late } = recover(stored, self.clock.now());
        may_answer_late.into_iter().for_each(|client| self.pending.expect_late(command.id, client));
        let targets = ended.into_iter().map(|target| Record::Target { command: command.id, target });
        let records = targets.chain([Record::Command(Arc::new(command.clone()))]).collect();
        self.journal.record(records);
        if command.finished_at.is_none() {
            let deliver_by = deliver_by(&command, self.clock.now());
            self.pending.insert(command, deliver_by, Instant::now());
            METRICS.commands_under_way.set(self.pending.count() as i64);
        }
    }

    fn reserve(&mut self, command: &Command) -> Result<(), CommandError> {
        if self.journal.backlog().is_behind() {
            return Err(CommandError::NotRecorded(self.journal.backlog().failure()));
        }
        self.pending.set_limits(self.settings.load().limits.commands());
        Ok(self.pending.reserve(command)?)
    }

    /// A command begins that is not stored.
    fn reserve_unstored(&mut self, command: &Command, context: &mut Context<Self>) -> Result<(), CommandError> {
        self.reserve(command)?;
        if self.store.is_nearly_full() || self.journal.backlog().is_stuck() {
            self.unkept.insert(command.id);
        } else {
            self.unrecorded.insert(command.id);
            if !self.is_period_running {
                self.record_begun_later(context);
            }
        }
        Ok(())
    }

    fn begin(&mut self, begin: Begin, context: &mut Context<Self>) {
        let Begin { command, behind_down_gateway, audited } = begin;
        self.journal.audit(audited);
        let (id, may_wait) = (command.id, command.deliver_until.is_some());
        let clients: Vec<_> = command.targets.iter().map(|target| target.client).collect();
        let deliver_by = deliver_by(&command, self.clock.now());
        self.pending.insert(command, deliver_by, Instant::now());
        METRICS.commands_under_way.set(self.pending.count() as i64);
        self.send_to_all(id, &clients, may_wait, &behind_down_gateway, context);
        self.set_timer(context);
    }

    /// Cancels a command. Returns whether it was handled here.
    fn cancel(&mut self, id: CommandId, context: &mut Context<Self>) -> bool {
        let Cancelled { updates, sessions, elsewhere } = self.pending.cancel(id, self.clock.now());
        let frame = outbound::cancel(id);
        for session in sessions {
            self.relays.deliver(&session, &[frame.as_bytes()]);
        }
        self.cancel_elsewhere(id, &elsewhere);
        let was_here = !updates.is_empty();
        self.record_and_tell(updates);
        // others have waited for the one that was under way
        elsewhere.into_iter().for_each(|(_, client)| self.send_queued_to(client, context));
        was_here
    }

    /// Continues with a stored command, unless it is handled here, and sends it to targets that are connected.
    fn go_on_with(&mut self, command: Command, context: &mut Context<Self>) {
        if !self.pending.contains(command.id) {
            let clients: Vec<_> = command.targets.iter().map(|target| target.client).collect();
            self.recover(command);
            clients.into_iter().for_each(|client| self.send_queued_to(client, context));
        }
    }
}

impl Measured for CommandDispatcher {
    const NAME: metrics::labels::Actor = metrics::labels::Actor::CommandDispatcher;
}

impl Actor for CommandDispatcher {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        for command in std::mem::take(&mut self.unfinished) {
            self.recover(command);
        }
        self.set_timer(context);
        self.repeat_hand_overs(context);
    }
}

impl Handler<Inputs> for CommandDispatcher {
    type Result = ();

    fn handle(&mut self, Inputs(inputs): Inputs, context: &mut Self::Context) {
        self.under_way.fetch_sub(inputs.len(), Ordering::Relaxed);
        for input in inputs {
            match input {
                Input::Begin(begin, waiter) => match self.reserve_unstored(&begin.command, context) {
                    Ok(()) => {
                        self.audience.add_waiter(begin.command.id, waiter);
                        self.begin(begin, context);
                    }
                    // its caller may have gone
                    Err(refusal) => drop(waiter.send(Err(refusal))),
                },
                Input::Reply(reply) => {
                    if let Some(reply) = self.on_reply(reply, context) {
                        self.pass_on(reply);
                    }
                }
            }
        }
    }
}

impl Handler<Reserve> for CommandDispatcher {
    type Result = Result<(), CommandError>;

    fn handle(&mut self, Reserve(command): Reserve, _: &mut Self::Context) -> Self::Result {
        self.reserve(&command)
    }
}

impl Handler<Release> for CommandDispatcher {
    type Result = ();

    fn handle(&mut self, Release(id): Release, _: &mut Self::Context) {
        self.pending.release(id);
        self.audience.forget(id);
    }
}

impl Handler<Begin> for CommandDispatcher {
    type Result = MessageResult<Begin>;

    fn handle(&mut self, begin: Begin, context: &mut Self::Context) -> Self::Result {
        let end = self.audience.wait(begin.command.id);
        self.begin(begin, context);
        MessageResult(end)
    }
}

impl Handler<AwaitEnd> for CommandDispatcher {
    type Result = MessageResult<AwaitEnd>;

    fn handle(&mut self, AwaitEnd(id): AwaitEnd, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.pending.contains(id).then(|| self.audience.wait(id)))
    }
}

impl Handler<NotHandled> for CommandDispatcher {
    type Result = Vec<CommandId>;

    fn handle(&mut self, NotHandled(ids): NotHandled, _: &mut Self::Context) -> Self::Result {
        ids.into_iter().filter(|id| !self.pending.contains(*id)).collect()
    }
}

impl Handler<Recover> for CommandDispatcher {
    type Result = MessageResult<Recover>;

    fn handle(&mut self, Recover(command): Recover, context: &mut Self::Context) -> Self::Result {
        let id = command.id;
        if !self.pending.contains(id) {
            tracing::warn!(command = %id, "a stored command that is not finished was not handled");
            self.go_on_with(command, context);
            self.set_timer(context);
        }
        MessageResult(self.pending.contains(id).then(|| self.audience.wait(id)))
    }
}

impl Handler<Cancel> for CommandDispatcher {
    type Result = bool;

    fn handle(&mut self, Cancel(id): Cancel, context: &mut Self::Context) -> bool {
        self.cancel(id, context)
    }
}

impl Handler<Subscribe> for CommandDispatcher {
    type Result = MessageResult<Subscribe>;

    fn handle(&mut self, Subscribe(id): Subscribe, _: &mut Self::Context) -> Self::Result {
        let is_here = self.pending.command(id).is_some();
        MessageResult(if is_here { self.audience.follow(id) } else { None })
    }
}

impl Handler<RecordBegun> for CommandDispatcher {
    type Result = ();

    fn handle(&mut self, _: RecordBegun, _: &mut Self::Context) {
        self.record_all_begun();
    }
}

impl Handler<StopWaiting> for CommandDispatcher {
    type Result = ();

    fn handle(&mut self, _: StopWaiting, _: &mut Self::Context) {
        self.audience.dismiss();
    }
}

impl Handler<ClientReady> for CommandDispatcher {
    type Result = ();

    fn handle(&mut self, ready: ClientReady, context: &mut Self::Context) {
        self.send_queued(ready.client, &ready.session, context);
    }
}

impl Handler<SessionGone> for CommandDispatcher {
    type Result = ();

    fn handle(&mut self, gone: SessionGone, _: &mut Self::Context) {
        let updates = self.pending.session_lost(gone.client, &gone.session, self.clock.now());
        self.record_and_tell(updates);
        let lost = self.for_others.session_lost(gone.client, gone.session.id());
        self.tell_lost(gone.client, lost);
    }
}

impl Handler<ClientDeleted> for CommandDispatcher {
    type Result = ();

    fn handle(&mut self, deleted: ClientDeleted, _: &mut Self::Context) {
        let updates = self.pending.client_deleted(deleted.client, deleted.incarnation, self.clock.now());
        self.record_and_tell(updates);
    }
}
