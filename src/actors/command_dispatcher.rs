//! The role of the CommandDispatcher is to see each command to its end: it sends it to the sockets of its targets,
//! correlates their answers, and ends what takes too long (contract section 6).
//!
//! Handlers give it commands and wait for their end, sessions pass it answers and progress, the Registry tells it who
//! comes and goes. Every change it records with the Journal, tells to those who watch, and, if it was the last one, to
//! those who wait.

mod inlet;
mod messages;
mod recording;
mod unrecorded;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use actix::{Actor, Addr, AsyncContext, Context, Handler, MessageResult, SpawnHandle};
use chrono::{DateTime, SubsecRound, Utc};
use tokio::sync::{broadcast, oneshot};

pub use inlet::{Inlet, Item, Items};
pub use messages::{
    Adopt, Answer, Await, Cancel, ClientDeleted, ClientReady, Dispatch, NoPlace, Progress, RecordBegun, Release,
    Reserve, SessionGone, Watch,
};

use self::unrecorded::Unrecorded;
use super::{
    journal::{Backlog, Journal, Write},
    registry::Directory,
};
use crate::{
    delivery::{Relays, SessionHandle},
    domain::{
        commands::{
            Answered, Command, CommandLimits, PendingCommands, Reason, Recovered, Socket, TargetUpdate, recover,
        },
        ids::{ClientId, CommandId},
    },
    protocol::outbound,
    store::{Record, Store},
};

/// How long to wait for a socket that has no room for what is queued.
const ROOM_AGAIN: Duration = Duration::from_secs(1);

/// Changes that a watcher may be behind before it misses some.
const WATCHED: usize = 1024;

/// See the module.
pub struct CommandDispatcher {
    pending: PendingCommands<SessionHandle>,
    /// what began a moment ago and is in no record yet
    unrecorded: Unrecorded,
    /// what nobody stored beforehand and began while storage was nearly full or the database away: it is not recorded
    unkept: HashSet<CommandId>,
    /// the timer for the end of this moment is set
    in_moment: bool,
    waiters: HashMap<CommandId, Vec<oneshot::Sender<Arc<Command>>>>,
    watchers: HashMap<CommandId, broadcast::Sender<Arc<TargetUpdate>>>,
    /// the one timer, and what it is set to
    timer: Option<(Instant, SpawnHandle)>,
    /// items of the inlet that are not handled yet
    under_way: Arc<AtomicUsize>,
    /// answers and progress that nobody asked for
    dropped: u64,
    /// what was not over when the last process ended
    recovered: Vec<Command>,
    directory: Arc<Directory>,
    relays: Arc<Relays>,
    journal: Addr<Journal>,
    backlog: Backlog,
    store: Store,
}

impl Socket for SessionHandle {
    fn number(&self) -> u64 {
        self.id()
    }
}

impl CommandDispatcher {
    /// Goes on with what was not over when the last process ended.
    pub fn new(
        directory: Arc<Directory>,
        relays: Arc<Relays>,
        journal: Addr<Journal>,
        backlog: Backlog,
        store: Store,
        limits: CommandLimits,
        recovered: Vec<Command>,
    ) -> Self {
        Self {
            pending: PendingCommands::new(limits),
            unrecorded: Unrecorded::default(),
            unkept: HashSet::new(),
            in_moment: false,
            waiters: HashMap::new(),
            watchers: HashMap::new(),
            timer: None,
            under_way: Arc::default(),
            dropped: 0,
            recovered,
            directory,
            relays,
            journal,
            backlog,
            store,
        }
    }

    /// The count that an [`Inlet`] counts up.
    pub fn under_way(&self) -> Arc<AtomicUsize> {
        self.under_way.clone()
    }

    /// Asks all targets that are connected; those that are not wait, or are over.
    fn ask_all(
        &mut self,
        id: CommandId,
        clients: &[ClientId],
        waits: bool,
        behind_down_gateway: &[ClientId],
        context: &mut Context<Self>,
    ) {
        for &client in clients {
            if !waits && behind_down_gateway.binary_search(&client).is_ok() {
                let changed = self.pending.offline(id, client, Some(Reason::GatewayDown), now());
                self.tell(changed);
                continue;
            }
            if let Some(session) = self.directory.commandable(client) {
                self.ask_queued(client, &session, context);
            }
            if !waits && self.pending.is_queued(id, client) {
                let changed = self.pending.offline(id, client, None, now());
                self.tell(changed);
            }
        }
    }

    /// Sends a client all that waits for it, in order, as far as its socket has room. The rest goes when the socket has
    /// answered something, or a second later.
    fn ask_queued(&mut self, client: ClientId, session: &SessionHandle, context: &mut Context<Self>) {
        for id in self.pending.queued_for(client) {
            let Some(command) = self.pending.command(id) else { continue };
            let frame = outbound::command(command);
            if command.deliver_until.is_some() && !self.relays.has_room(session, frame.len()) {
                context.run_later(ROOM_AGAIN, move |dispatcher, context| {
                    if let Some(session) = dispatcher.directory.commandable(client) {
                        dispatcher.ask_queued(client, &session, context);
                    }
                });
                return;
            }
            if !self.relays.deliver(session, &[frame.as_bytes()]) {
                return;
            }
            let changed = self.pending.sent(id, client, session, Instant::now(), now());
            self.tell(changed);
        }
        self.set_timer(context);
    }

    /// Sets the one timer to the next deadline.
    fn set_timer(&mut self, context: &mut Context<Self>) {
        let Some(next) = self.pending.next_deadline() else { return };
        if let Some((set, timer)) = self.timer {
            if set <= next {
                return;
            }
            context.cancel_future(timer);
        }
        let wait = next.saturating_duration_since(Instant::now());
        let timer = context.run_later(wait, |dispatcher, context| {
            dispatcher.timer = None;
            let changes = dispatcher.pending.expire(Instant::now(), now());
            dispatcher.tell(changes);
            dispatcher.set_timer(context);
        });
        self.timer = Some((next, timer));
    }

    fn drop_answer(&mut self, client: ClientId, command: CommandId) {
        self.dropped += 1;
        tracing::debug!(%client, %command, dropped = self.dropped, "answer that nobody asked for");
    }
}

impl Actor for CommandDispatcher {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        for command in std::mem::take(&mut self.recovered) {
            self.recover(command);
        }
        self.set_timer(context);
    }
}

/// The present time as exact as every database keeps it, so that it is the same before and after.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// `deliver_until` on the clock of this process.
fn deliver_by(command: &Command) -> Option<Instant> {
    let wait = (command.deliver_until? - now()).to_std().unwrap_or(Duration::ZERO);
    Some(Instant::now() + wait)
}

impl CommandDispatcher {
    /// Handles a stored command further that is not finished and that no process handles.
    fn recover(&mut self, stored: Command) {
        let Recovered { command, ended, may_answer_late } = recover(stored, now());
        may_answer_late.into_iter().for_each(|client| self.pending.expect_late(command.id, client));
        let targets = ended.into_iter().map(|target| Record::Target { command: command.id, target });
        let records = targets.chain([Record::Command(Arc::new(command.clone()))]).collect();
        self.journal.do_send(Write { records, patient: false });
        if command.finished_at.is_none() {
            let deliver_by = deliver_by(&command);
            self.pending.insert(command, deliver_by, Instant::now());
        }
    }

    fn wait_for(&mut self, id: CommandId) -> oneshot::Receiver<Arc<Command>> {
        let (done, finished) = oneshot::channel();
        let waiters = self.waiters.entry(id).or_default();
        // who asks again and again waits once
        waiters.retain(|waiter| !waiter.is_closed());
        waiters.push(done);
        finished
    }

    fn reserve(&mut self, command: &Command) -> Result<(), NoPlace> {
        if self.backlog.is_behind() {
            return Err(NoPlace::Backlog(self.backlog.failure()));
        }
        self.pending.reserve(command).map_err(NoPlace::Limit)
    }

    fn dispatch(&mut self, dispatch: Dispatch, context: &mut Context<Self>) -> inlet::Dispatched {
        let Dispatch { command, recorded, behind_down_gateway } = dispatch;
        if !recorded {
            self.reserve(&command)?;
            if self.store.is_nearly_full() || self.backlog.is_stuck() {
                self.unkept.insert(command.id);
            } else {
                self.unrecorded.insert(command.id);
                if !self.in_moment {
                    self.await_moment(context);
                }
            }
        }
        let (id, waits) = (command.id, command.deliver_until.is_some());
        let clients: Vec<_> = command.targets.iter().map(|target| target.client).collect();
        let finished = self.wait_for(id);
        let deliver_by = deliver_by(&command);
        self.pending.insert(command, deliver_by, Instant::now());
        self.ask_all(id, &clients, waits, &behind_down_gateway, context);
        self.set_timer(context);
        Ok(finished)
    }

    fn answer(&mut self, answer: Answer, context: &mut Context<Self>) {
        let Answer { client, command, result, failed } = answer;
        match self.pending.answer(command, client, result.clone(), failed, now()) {
            Answered::Ended(changed) => {
                self.tell([*changed]);
                if self.pending.has_queued(client)
                    && let Some(session) = self.directory.commandable(client)
                {
                    self.ask_queued(client, &session, context);
                }
            }
            Answered::Late if self.backlog.is_stuck() => {}
            Answered::Late => self
                .journal
                .do_send(Write { records: vec![Record::LateResult { command, client, result }], patient: true }),
            Answered::Unexpected => self.drop_answer(client, command),
        }
    }

    fn progress(&mut self, progress: Progress) {
        let Progress { client, command, progress } = progress;
        match self.pending.progress(command, client, progress, now()) {
            Some(changed) => self.tell([changed]),
            None => self.drop_answer(client, command),
        }
    }
}

impl Handler<Items> for CommandDispatcher {
    type Result = ();

    fn handle(&mut self, Items(items): Items, context: &mut Self::Context) {
        self.under_way.fetch_sub(items.len(), Ordering::Relaxed);
        for item in items {
            match item {
                Item::Dispatch(dispatch, begun) => {
                    // a caller that hung up meanwhile does not stop its command
                    let _ = begun.send(self.dispatch(dispatch, context));
                }
                Item::Answer(answer) => self.answer(answer, context),
                Item::Progress(progress) => self.progress(progress),
            }
        }
    }
}

impl Handler<ClientReady> for CommandDispatcher {
    type Result = ();

    fn handle(&mut self, ready: ClientReady, context: &mut Self::Context) {
        self.ask_queued(ready.client, &ready.session, context);
    }
}

impl Handler<SessionGone> for CommandDispatcher {
    type Result = ();

    fn handle(&mut self, gone: SessionGone, _: &mut Self::Context) {
        let changes = self.pending.session_lost(gone.client, &gone.session, now());
        self.tell(changes);
    }
}

impl Handler<ClientDeleted> for CommandDispatcher {
    type Result = ();

    fn handle(&mut self, ClientDeleted(client): ClientDeleted, _: &mut Self::Context) {
        let updates = self.pending.client_deleted(client, now());
        self.tell(updates);
    }
}

impl Handler<Cancel> for CommandDispatcher {
    type Result = bool;

    fn handle(&mut self, Cancel(id): Cancel, _: &mut Self::Context) -> bool {
        let (changes, asked) = self.pending.cancel(id, now());
        let frame = outbound::cancel(id);
        for session in asked {
            self.relays.deliver(&session, &[frame.as_bytes()]);
        }
        let was_here = !changes.is_empty();
        self.tell(changes);
        was_here
    }
}

impl Handler<Watch> for CommandDispatcher {
    type Result = MessageResult<Watch>;

    fn handle(&mut self, Watch(id): Watch, _: &mut Self::Context) -> Self::Result {
        let here = self.pending.command(id).is_some();
        MessageResult(
            here.then(|| self.watchers.entry(id).or_insert_with(|| broadcast::channel(WATCHED).0).subscribe()),
        )
    }
}

impl Handler<Await> for CommandDispatcher {
    type Result = MessageResult<Await>;

    fn handle(&mut self, Await(id): Await, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.pending.contains(id).then(|| self.wait_for(id)))
    }
}

impl Handler<Adopt> for CommandDispatcher {
    type Result = MessageResult<Adopt>;

    fn handle(&mut self, Adopt(command): Adopt, context: &mut Self::Context) -> Self::Result {
        let id = command.id;
        if !self.pending.contains(id) {
            tracing::warn!(command = %id, "a stored command that nobody saw to");
            let clients: Vec<_> = command.targets.iter().map(|target| target.client).collect();
            self.recover(command);
            for client in clients {
                if let Some(session) = self.directory.commandable(client) {
                    self.ask_queued(client, &session, context);
                }
            }
            self.set_timer(context);
        }
        MessageResult(self.pending.contains(id).then(|| self.wait_for(id)))
    }
}

impl Handler<Reserve> for CommandDispatcher {
    type Result = Result<(), NoPlace>;

    fn handle(&mut self, Reserve(command): Reserve, _: &mut Self::Context) -> Self::Result {
        self.reserve(&command)
    }
}

impl Handler<Release> for CommandDispatcher {
    type Result = ();

    fn handle(&mut self, Release(id): Release, _: &mut Self::Context) {
        self.pending.release(id);
        self.waiters.remove(&id);
    }
}

impl Handler<RecordBegun> for CommandDispatcher {
    type Result = ();

    fn handle(&mut self, _: RecordBegun, _: &mut Self::Context) {
        // of the moment before, and of this one
        self.record_begun();
        self.record_begun();
    }
}
