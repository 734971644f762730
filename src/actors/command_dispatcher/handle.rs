//! The handle of the CommandDispatcher: gives, awaits, cancels, reads and follows commands.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix::{Addr, ArbiterHandle, Handler, Message, Recipient, dev::ToEnvelope};
use serde_json::json;
use tokio::sync::{Mutex, Notify, oneshot};
use tracing::Instrument;

use super::{
    CommandDispatcher, CommandError, NewCommand, Reply,
    inputs::{Input, InputQueue},
    messages::{Begin, Cancel, Release, Reserve, StopWaiting},
    outcome::{End, Given, Outcome},
    preparing::Prepared,
};
use crate::{
    actors::{
        directory::Directory,
        gateway_monitor::Gateways,
        journal::Journal,
        topic_manager::{ClientDeleted, Topics},
    },
    auth::accounts::Accounts,
    clock::Clock,
    cluster::Backplane,
    delivery::Relays,
    domain::{
        accounts::Account,
        audit::{Action, Actor, Target},
        budget::OverLimit,
        commands::Command,
        ids::{ClientId, CommandId},
    },
    metrics::Context,
    settings::LiveSettings,
    store::{CommandPage, KeyedCommand, Record, Store, StoreError, patience},
};

/// Most bytes of a command's targets, and of their progress reports, that one read returns.
pub(super) const PAGE_BYTES: usize = 1024 * 1024;

/// What the CommandDispatcher and its handle use.
pub struct Dependencies {
    /// The connected clients.
    pub directory: Arc<Directory>,
    /// Delivers frames to sessions.
    pub relays: Arc<Relays>,
    /// The way to other nodes.
    pub backplane: Arc<dyn Backplane>,
    /// The state of gateways.
    pub gateways: Gateways,
    /// The subscribers of topics.
    pub topics: Topics,
    /// The accounts of targets.
    pub accounts: Arc<Accounts>,
    /// Records commands.
    pub journal: Journal,
    /// The database.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// For the limits of commands that are not finished.
    pub settings: LiveSettings,
    /// The commands that were not finished when the last process ended.
    pub unfinished: Vec<Command>,
}

/// Clones are handles of the same CommandDispatcher.
#[derive(Clone)]
pub struct Commands {
    pub(super) dispatcher: Addr<CommandDispatcher>,
    inputs: InputQueue,
    pub(super) journal: Journal,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) gateways: Gateways,
    pub(super) directory: Arc<Directory>,
    pub(super) topics: Topics,
    pub(super) accounts: Arc<Accounts>,
    pub(super) backplane: Arc<dyn Backplane>,
    /// notified when a node leaves
    pub(super) node_left: Arc<Notify>,
    /// held from the question whether stored commands are handled here until they are: what is read meanwhile must not have ended
    pub(super) recovering: Arc<Mutex<()>>,
    /// nobody waits any more
    is_stopping: Arc<AtomicBool>,
    pub(super) settings: LiveSettings,
}

/// An idempotency key: repeated requests with it mean the same command.
#[derive(Debug)]
pub struct IdempotencyKey {
    /// The key.
    pub key: String,
    /// The digest of the request.
    pub digest: String,
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commands").finish_non_exhaustive()
    }
}

impl Commands {
    /// Starts the CommandDispatcher.
    ///
    /// # Errors
    /// The database does not tell which targets are deleted.
    pub async fn start(arbiter: &ArbiterHandle, with: Dependencies) -> Result<Self, StoreError> {
        let awaited: Vec<_> = with.unfinished.iter().flat_map(Command::awaited).collect();
        let (journal, store, clock) = (with.journal.clone(), with.store.clone(), with.clock.clone());
        let (gateways, settings) = (with.gateways.clone(), with.settings.clone());
        let (directory, topics, accounts) = (with.directory.clone(), with.topics.clone(), with.accounts.clone());
        let backplane = with.backplane.clone();
        let dispatcher = CommandDispatcher::new(with);
        let (under_way, node_left) = (dispatcher.under_way.clone(), dispatcher.node_left.clone());
        let dispatcher = Context::start_in_arbiter(arbiter, |_| dispatcher);
        let inputs = InputQueue::new(dispatcher.clone(), under_way);
        let commands = Self {
            dispatcher,
            inputs,
            journal,
            store,
            clock,
            gateways,
            directory,
            topics,
            accounts,
            backplane,
            node_left,
            recovering: Arc::default(),
            is_stopping: Arc::default(),
            settings,
        };
        commands.end_for_deleted(&awaited).await?;
        Ok(commands)
    }

    /// Ends what waits for clients that are deleted. To be called once it waits: the CommandDispatcher was told of a deletion
    /// before that, and had nothing to end.
    pub(super) async fn end_for_deleted(&self, awaited: &[(ClientId, i64)]) -> Result<(), StoreError> {
        let incarnations = self.store.incarnations(awaited.iter().map(|(client, _)| *client)).await?;
        for (client, awaited) in awaited {
            if let Some(incarnation) = incarnations.get(client).copied().filter(|now| now > awaited) {
                self.dispatcher.do_send(ClientDeleted { client: *client, incarnation });
            }
        }
        Ok(())
    }

    /// For actors that send messages to the CommandDispatcher themselves.
    pub(crate) fn recipient<M>(&self) -> Recipient<M>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        CommandDispatcher: Handler<M>,
        <CommandDispatcher as actix::Actor>::Context: ToEnvelope<CommandDispatcher, M>,
    {
        self.dispatcher.clone().recipient()
    }

    /// Stores a command, sends it, and waits for its end, at most for `wait`. A repeated `key` stands for the command that was
    /// given with it, even if a new one would be refused now.
    ///
    /// # Errors
    /// As [`Commands::prepare`] and [`Commands::give`].
    pub async fn create(
        &self,
        new: NewCommand,
        key: Option<IdempotencyKey>,
        wait: Duration,
    ) -> Result<Outcome, CommandError> {
        let before = match &key {
            Some(key) => self.given_before(new.requester.id, key).await?,
            None => None,
        };
        let given = match before {
            Some(given) => given,
            None => self.give(self.prepare(new).await?, key).await?,
        };
        self.outcome(given, wait).await
    }

    /// Sends a command without storing it first, and waits for its end. A caller that stops waiting does not stop it.
    ///
    /// # Errors
    /// As [`Commands::prepare`]; `Limit`, `NotRecorded`; `Stopping`: the command was sent, but its result will not be awaited.
    pub async fn send(&self, new: NewCommand) -> Result<Arc<Command>, CommandError> {
        self.run(self.prepare(new).await?).await
    }

    /// The second half of [`Commands::send`].
    pub(super) async fn run(&self, prepared: Prepared) -> Result<Arc<Command>, CommandError> {
        let Prepared { command, behind_down_gateway, audited } = prepared;
        let (waiter, end) = oneshot::channel();
        self.inputs.push(Input::Begin(Begin { command, behind_down_gateway, audited }, waiter));
        end.await.map_err(|_| CommandError::ActorEnded)?
    }

    /// The command that a requester has given earlier with this key.
    ///
    /// # Errors
    /// `KeyReused`.
    pub(super) async fn given_before(
        &self,
        requester: ClientId,
        key: &IdempotencyKey,
    ) -> Result<Option<Given>, CommandError> {
        match self.store.command_of_key(requester, &key.key).await? {
            Some(existing) => Ok(Some(self.repeated(existing, key).await?)),
            None => Ok(None),
        }
    }

    /// Stores a command, then sends it, even if the caller hangs up in the meantime.
    ///
    /// # Errors
    /// `Limit`, `NotRecorded`, `KeyReused`, or the database does not store it.
    pub(super) async fn give(&self, prepared: Prepared, key: Option<IdempotencyKey>) -> Result<Given, CommandError> {
        self.store.check_space()?;
        // refused at once while the database takes no writes
        if let Some(failure) = self.journal.backlog().failure() {
            return Err(CommandError::NotRecorded(Some(failure)));
        }
        let commands = self.clone();
        let work = async move { commands.store_and_begin(prepared, key).await };
        let task = actix::spawn(patience::inherited(work.in_current_span()));
        patience::unless_given_up(task).await?.map_err(|_| CommandError::ActorEnded)?
    }

    async fn store_and_begin(&self, prepared: Prepared, key: Option<IdempotencyKey>) -> Result<Given, CommandError> {
        let Prepared { command, behind_down_gateway, audited } = prepared;
        let stored = Arc::new(command.clone());
        let (id, awaited) = (stored.id, stored.awaited());
        self.dispatcher.send(Reserve(stored.clone())).await??;
        let existing = self.store_new(&stored, key.as_ref()).await;
        if let Ok(None) = existing {
            let end = self.dispatcher.send(Begin { command, behind_down_gateway, audited }).await?;
            if let Err(error) = self.end_for_deleted(&awaited).await {
                // it would end when the next device with the UUID connects
                tracing::warn!(command = %id, %error, "cannot see whether targets were deleted meanwhile");
            }
            return Ok(Given { id, end: End::Here(end) });
        }
        self.dispatcher.do_send(Release(id));
        match (existing?, key) {
            (Some(existing), Some(key)) => self.repeated(existing, &key).await,
            // without a key no command is found
            _ => Err(CommandError::NotFound),
        }
    }

    /// Stores a command, unless its key was used before.
    async fn store_new(
        &self,
        command: &Arc<Command>,
        key: Option<&IdempotencyKey>,
    ) -> Result<Option<KeyedCommand>, CommandError> {
        if let Some(key) = key {
            return Ok(self.store.create_command_once(command, &key.key, &key.digest).await?);
        }
        self.journal.record(vec![Record::Whole(command.clone())]);
        if let Err(error) = self.flush().await {
            // the Journal keeps trying; the stored command must not look as if it were still to be sent
            let mut withdrawn = Command::clone(command);
            withdrawn.withdraw();
            self.journal.record(vec![Record::Whole(Arc::new(withdrawn))]);
            return Err(error);
        }
        Ok(None)
    }

    /// Cancels a command for all targets that have not ended, and tells those to which it was sent. Returns the command after
    /// that.
    ///
    /// # Errors
    /// `NotFound`, also if this account may not see the command. `ClusterUnavailable`.
    pub async fn cancel(
        &self,
        id: CommandId,
        by: &Account,
        address: Option<IpAddr>,
    ) -> Result<CommandPage, CommandError> {
        let page = self.get(id, by).await?;
        let mut was_cancelled = self.dispatcher.send(Cancel(id)).await?;
        if !was_cancelled && page.command.finished_at.is_none() {
            if self.owns(page.owner) {
                self.recover(id).await?;
                was_cancelled = self.dispatcher.send(Cancel(id)).await?;
            } else {
                was_cancelled = self.cancel_elsewhere(id, page.owner).await?;
            }
        }
        if was_cancelled {
            let (by, target) = (Actor::of(by, address), Target::of(id));
            self.journal.audit(self.store.audit_event(by, Action::CommandCancelled, Some(target), json!({})));
        }
        self.get(id, by).await
    }

    /// Whether the CommandDispatcher keeps up with replies.
    pub fn has_room(&self) -> bool {
        self.inputs.has_room()
    }

    /// Waits until the CommandDispatcher keeps up with replies.
    pub async fn room(&self) {
        while !self.has_room() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Charges a progress report, which is to be stored, to the client that sends it.
    ///
    /// # Errors
    /// The client has reached `limits.stored_bytes_per_minute`.
    pub fn charge_progress(&self, client: ClientId, bytes: usize) -> Result<(), OverLimit> {
        self.store.charge_stored(client, bytes)
    }

    /// Passes on what a client has sent about a command.
    pub fn reply(&self, reply: Reply) {
        self.inputs.push(Input::Reply(reply));
    }

    /// Whether the broker stops.
    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Ends the wait of all callers, since the broker stops.
    pub fn stop_waiting(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.dispatcher.do_send(StopWaiting);
    }
}
