//! The role of the MessageManager is to have acknowledged messages stored, delivered and, as long as they are not
//! acknowledged, delivered again (contract section 11).
//!
//! Sessions and handlers reach it through [`Messages`], which also delivers messages without acknowledgement. The Journal
//! decides and writes all changes in batches; only then sender and recipient are told. The database holds all messages; here
//! are those that are on their way ([`Deliveries`]). The Registry tells which clients connect and disconnect, and it is looked
//! in the database whether something waits for them: for many at once, while the last look is going on.

mod error;
mod handle;
mod look;
mod messages;
mod newest_socket;
mod other_nodes;
mod outcomes;
#[cfg(test)]
mod tests;
mod updates;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, AsyncContext, Handler, ResponseFuture, SpawnHandle};
use chrono::{DateTime, Utc};
use tokio::sync::{Semaphore, oneshot};

pub(super) use self::handle::deliver_to;
pub use self::{
    error::MessageError,
    handle::{Dependencies, MessageView, Messages, NotSent, UnderWay, Unsent},
    messages::{Request, SenderReady},
    other_nodes::Bell,
};
use self::{
    look::Looks,
    messages::{Failed, FromSession, MarkSettled, Pump, Resume, SendOverHttp, Sender, Withdraw},
};
use super::{
    command_dispatcher::{ClientReady, SessionGone},
    directory::Directory,
    journal::{Journaling, Place, Queue},
};
use crate::{
    clock::Clock,
    cluster::Backplane,
    delivery::{Mark, Relays, SessionHandle},
    domain::{
        ids::DeliveryId,
        messages::{
            change::{Accepted, AnswerOf, Ending, MessageChange, MessageUpdate, NewMessage, RecipientPresence, Take},
            deliveries::{Admission, Deliveries, Next},
            updates::ToldUpdates,
        },
    },
    metrics::{self, Context, Measured},
    store::{Store, StoreError},
};

/// Capacity of the mailbox. When it is full, sessions that send wait and are not read.
const MAILBOX: usize = 1024;

/// How many recipients may be taken messages for in one transaction, which lasts longer with each.
const TAKES: usize = 32;

/// How long to wait before something is tried again that the database has refused.
const RETRY: Duration = Duration::from_secs(1);

/// How often it is looked whether messages have expired.
const EXPIRY_CHECK: Duration = Duration::from_secs(1);

/// Who waits for a change.
pub enum Asker {
    /// A new message, and its share of the memory for changes that wait.
    Send {
        sender: Sender,
        admission: Admission<SessionHandle>,
        _place: Place,
    },
    /// The session of a recipient that has answered.
    Answer {
        session: SessionHandle,
        _place: Place,
    },
    /// Whoever withdraws a message.
    Withdraw(oneshot::Sender<Result<Option<MessageUpdate>, StoreError>>),
    /// The session for which messages are taken.
    Take(SessionHandle),
    /// A session that waits for what it has asked for before.
    Mark {
        session: SessionHandle,
        mark: Mark,
    },
    /// The search for messages that have expired.
    Expiry,
    /// The session of a sender that has been told how its message has ended.
    Told(SessionHandle),
    Nobody,
}

impl Asker {
    /// The session whose order it must keep.
    fn session(&self) -> Option<u64> {
        match self {
            Self::Send { sender: Sender::Session(session), .. }
            | Self::Answer { session, .. }
            | Self::Mark { session, .. } => Some(session.id()),
            Self::Send { sender: Sender::Http(_), .. }
            | Self::Withdraw(_)
            | Self::Take(_)
            | Self::Expiry
            | Self::Told(_)
            | Self::Nobody => None,
        }
    }
}

/// See the module.
pub struct MessageManager {
    deliveries: Deliveries<SessionHandle>,
    queue: Queue<MessageChange, Asker>,
    /// how many entries of the queue each session has
    queued: HashMap<u64, usize>,
    /// recipients for which messages are being taken
    takes: usize,
    /// a [`Pump`] is in the mailbox
    is_pumping: bool,
    /// the one timer for messages that go again, and the time to which it is set
    retry_timer: Option<(Instant, SpawnHandle)>,
    looks: Looks,
    /// device sockets here that are not stored as the newest, and of which it is not known what becomes of them
    unsettled: HashSet<u64>,
    socket_looks: Arc<Semaphore>,
    told: ToldUpdates,
    /// sessions that have been told how these messages ended, which the database has refused to record
    unrecorded: Vec<(SessionHandle, DeliveryId)>,
    /// when the next message expires; `None`: it is not known, or none does
    next_expiry: Option<DateTime<Utc>>,
    /// answers to messages that nobody has sent
    unknown_answers: u64,
    backplane: Arc<dyn Backplane>,
    directory: Arc<Directory>,
    relays: Arc<Relays>,
    store: Store,
    clock: Clock,
}

impl MessageManager {
    fn new(with: Dependencies, window: usize) -> Self {
        let Dependencies { directory, relays, backplane, store, journal, clock, .. } = with;
        Self {
            deliveries: Deliveries::new(window),
            queue: Queue::new(journal),
            queued: HashMap::new(),
            takes: 0,
            is_pumping: false,
            retry_timer: None,
            looks: Looks::default(),
            unsettled: HashSet::new(),
            socket_looks: Arc::new(Semaphore::new(newest_socket::LOOKS)),
            told: ToldUpdates::default(),
            unrecorded: Vec::new(),
            next_expiry: None,
            unknown_answers: 0,
            backplane,
            directory,
            relays,
            store,
            clock,
        }
    }

    fn ask(&mut self, change: MessageChange, asker: Asker, context: &mut Context<Self>) {
        if let Some(session) = asker.session() {
            *self.queued.entry(session).or_default() += 1;
        }
        self.enqueue(change, asker, context);
    }

    /// Has a message stored, and delivered at once if it can be.
    fn accept(&mut self, message: NewMessage, sender: Sender, place: Place, context: &mut Context<Self>) {
        let has_room = |session: &SessionHandle| self.relays.is_drained(session);
        let admission = self.deliveries.admit(message.to, message.from.client, message.priority, has_room);
        let recipient = match admission.presence() {
            RecipientPresence::Absent => self.presence_elsewhere(message.to),
            here => here,
        };
        let recipient_socket = admission.session().and_then(|session| self.stamp(session));
        let message = NewMessage { recipient, recipient_socket, ..message };
        self.ask(MessageChange::Accept(message), Asker::Send { sender, admission, _place: place }, context);
        self.pump_soon(context);
    }

    /// The stamp of a session, if its client may have others at other nodes.
    fn stamp(&self, session: &SessionHandle) -> Option<u64> {
        self.backplane.is_shared().then(|| session.id())
    }

    /// Has messages taken for recipients that can get some, once what is in hand is done.
    fn pump_soon(&mut self, context: &mut Context<Self>) {
        if !self.is_pumping {
            self.is_pumping = true;
            context.notify(Pump);
        }
    }

    fn pump(&mut self, context: &mut Context<Self>) {
        let bytes = self.relays.quarter_of_outbox();
        while self.takes < TAKES {
            match self.deliveries.next(bytes, |session| self.relays.is_drained(session)) {
                None => break,
                Some(Next::Take(take, session)) => {
                    self.takes += 1;
                    let take = Take { socket: self.stamp(&session), ..take };
                    self.ask(MessageChange::Take(take), Asker::Take(session), context);
                }
                Some(Next::Drain(to, session)) => {
                    let (relays, manager) = (self.relays.clone(), context.address());
                    // a task, since futures of this actor are all polled with each of its messages
                    actix::spawn(async move {
                        relays.drained(&session).await;
                        manager.do_send(Resume { to, session });
                    });
                }
            }
        }
    }

    /// Sets the timer to the next message that goes again.
    fn set_retry_timer(&mut self, context: &mut Context<Self>) {
        let next = self.deliveries.next_retry();
        if next == self.retry_timer.map(|(at, _)| at) {
            return;
        }
        if let Some((_, timer)) = self.retry_timer.take() {
            context.cancel_future(timer);
        }
        if let Some(at) = next {
            let wait = at.saturating_duration_since(self.clock.instant());
            let timer = context.run_later(wait, |manager, context| {
                manager.retry_timer = None;
                manager.deliveries.retry(manager.clock.instant());
                manager.set_retry_timer(context);
                manager.pump(context);
            });
            self.retry_timer = Some((at, timer));
        }
    }

    /// Notes when something expires.
    fn note_expiry(&mut self, at: Option<DateTime<Utc>>) {
        self.next_expiry = self.next_expiry.into_iter().chain(at).min();
    }

    fn expire(&mut self, context: &mut Context<Self>) {
        if self.next_expiry.is_some_and(|next| next <= self.clock.now()) {
            self.next_expiry = None;
            self.look_for_expired(context);
        }
    }
}

impl Measured for MessageManager {
    const NAME: metrics::labels::Actor = metrics::labels::Actor::MessageManager;
}

impl Actor for MessageManager {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX);
        self.look_for_expired(context);
        context.run_interval(EXPIRY_CHECK, Self::expire);
    }
}

impl Handler<FromSession> for MessageManager {
    type Result = ();

    fn handle(&mut self, asked: FromSession, context: &mut Self::Context) {
        let FromSession { request, session, place } = asked;
        match request {
            Request::Send(message) => self.accept(message, Sender::Session(session), place, context),
            Request::Answer(answer) => {
                let id = self.deliveries.find(answer.from.client, &answer.msgid, answer.sender);
                let answer = AnswerOf { id, ..answer };
                self.ask(MessageChange::Answer(answer), Asker::Answer { session, _place: place }, context);
            }
        }
    }
}

impl Handler<SendOverHttp> for MessageManager {
    type Result = ResponseFuture<Result<Accepted, MessageError>>;

    fn handle(&mut self, SendOverHttp { message, place }: SendOverHttp, context: &mut Self::Context) -> Self::Result {
        let (sender, stored) = oneshot::channel();
        self.accept(message, Sender::Http(sender), place, context);
        Box::pin(async move { stored.await.unwrap_or_else(|_| Err(StoreError::lost().into())) })
    }
}

impl Handler<Withdraw> for MessageManager {
    type Result = ResponseFuture<Result<Option<MessageUpdate>, StoreError>>;

    fn handle(&mut self, Withdraw { id, to }: Withdraw, context: &mut Self::Context) -> Self::Result {
        let (asker, ended) = oneshot::channel();
        let change = MessageChange::End { id, to, why: Ending::Cancelled };
        self.ask(change, Asker::Withdraw(asker), context);
        Box::pin(async move { ended.await.unwrap_or_else(|_| Err(StoreError::lost())) })
    }
}

impl Handler<MarkSettled> for MessageManager {
    type Result = ();

    fn handle(&mut self, MarkSettled { session, mark }: MarkSettled, context: &mut Self::Context) {
        if self.queued.contains_key(&session.id()) {
            self.ask(MessageChange::Nothing, Asker::Mark { session, mark }, context);
        } else {
            self.relays.mark(&mark);
        }
    }
}

impl Handler<ClientReady> for MessageManager {
    type Result = ();

    fn handle(&mut self, ClientReady { client, session }: ClientReady, context: &mut Self::Context) {
        // agents get no messages
        if self.directory.device(client).is_some_and(|device| device == session) {
            self.deliveries.connect(client, session.clone());
            // with other nodes, once the socket is stored
            if !self.backplane.is_shared() {
                self.looks.recipients.push((client, session));
            }
            self.looks.senders.insert(client);
            self.look(context);
        }
    }
}

impl Handler<SessionGone> for MessageManager {
    type Result = ();

    fn handle(&mut self, SessionGone { client, session }: SessionGone, _: &mut Self::Context) {
        self.deliveries.disconnect(client, &session);
    }
}

impl Handler<SenderReady> for MessageManager {
    type Result = ();

    fn handle(&mut self, SenderReady(client): SenderReady, context: &mut Self::Context) {
        self.looks.senders.insert(client);
        self.look(context);
    }
}

impl Handler<Failed> for MessageManager {
    type Result = ();

    fn handle(&mut self, Failed(updates): Failed, context: &mut Self::Context) {
        for update in updates {
            self.end(&update, context);
        }
    }
}

impl Handler<Resume> for MessageManager {
    type Result = ();

    fn handle(&mut self, Resume { to, session }: Resume, context: &mut Self::Context) {
        self.deliveries.resume(to, &session);
        self.pump(context);
    }
}

impl Handler<Pump> for MessageManager {
    type Result = ();

    fn handle(&mut self, _: Pump, context: &mut Self::Context) {
        self.is_pumping = false;
        self.pump(context);
    }
}
