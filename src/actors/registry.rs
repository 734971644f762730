//! The role of the Registry is to know who is connected, by UUID. It alone writes the [`Directory`]; everyone reads it
//! without asking.
//!
//! Handlers tell it of a session before the 101 goes out; the session tells it of its end. It tells the TopicManager, the
//! Journal and the other nodes who came and went, and closes sessions whose account or token changed.

use std::{collections::HashMap as Map, sync::Arc};

use actix::{Actor, Addr, Context, Handler, Message, Recipient};
use chrono::{SubsecRound, Utc};
use papaya::HashMap;

use super::{
    command_dispatcher::{ClientDeleted, ClientReady, SessionGone},
    journal::{Backlog, Write},
    room_manager::Renamed,
    topic_manager::{Announce, CloseReplaced, PresenceChanged, Unsubscribe},
};
use crate::{
    cluster::Backplane,
    delivery::{Relays, SessionHandle, SessionKind},
    domain::{
        accounts::{Account, AccountChange, Holder},
        ids::{ClientId, ClientKind, Role, TopicId},
    },
    error::ApiError,
    protocol::{close_code::CloseCode, outbound::Event},
    store::Record,
};

/// A session of an authenticated client begins. Whom it takes over from is closed.
#[derive(Message)]
#[rtype(result = "Result<(), TooManyConnections>")]
pub struct Connect {
    /// The session.
    pub session: SessionHandle,
    /// Which of the client's sockets it is.
    pub kind: SessionKind,
    /// Whose it is.
    pub account: Arc<Account>,
}

/// The client has as many sockets as it may (`limits.connections_per_identity`).
#[derive(Debug)]
pub struct TooManyConnections;

/// A client opens a stream of events over HTTP, which counts as one of its sockets.
#[derive(Message)]
#[rtype(result = "Result<(), TooManyConnections>")]
struct OpenStream(ClientId);

/// A stream of events has ended.
#[derive(Message)]
#[rtype(result = "()")]
struct CloseStream(ClientId);

/// The place of a stream of events among its client's sockets, until it is dropped.
#[derive(Debug)]
pub struct StreamPlace {
    registry: Addr<Registry>,
    client: ClientId,
}

impl StreamPlace {
    /// Takes a place.
    ///
    /// # Errors
    /// The client has as many sockets and streams as it may, or the Registry is gone.
    pub async fn take(registry: &Addr<Registry>, client: ClientId) -> Result<Self, ApiError> {
        registry.send(OpenStream(client)).await??;
        Ok(Self { registry: registry.clone(), client })
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.registry.do_send(CloseStream(self.client));
    }
}

impl From<TooManyConnections> for ApiError {
    fn from(_: TooManyConnections) -> Self {
        Self::TooMany { limit: "limits.connections_per_identity", retry_after: 1 }
    }
}

/// A session has ended.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Disconnect {
    /// The session.
    pub session: SessionHandle,
    /// Whose it was.
    pub client: ClientId,
}

/// An account or token changed: sessions that depend on it are closed. Answers how many.
#[derive(Message)]
#[rtype(result = "usize")]
pub struct Apply(pub AccountChange);

/// Who is connected to this node.
#[derive(Debug, Default)]
pub struct Directory {
    clients: HashMap<ClientId, Arc<Connected>>,
}

/// A connected client.
#[derive(Debug, Clone)]
pub struct Connected {
    account: Arc<Account>,
    sessions: Vec<(SessionKind, SessionHandle)>,
}

impl Connected {
    fn of_kind(&self, kind: SessionKind) -> Option<&SessionHandle> {
        // the newest counts
        self.sessions.iter().rev().find(|(of, _)| *of == kind).map(|(_, session)| session)
    }

    /// Whether it can be reached: a device by its own socket, since chat sockets get no direct messages and no commands; a
    /// user by any.
    fn is_online(&self) -> bool {
        match self.account.kind() {
            ClientKind::Device => self.of_kind(SessionKind::Device).is_some(),
            ClientKind::User => !self.sessions.is_empty(),
        }
    }

    /// The session that gets commands.
    fn commandable(&self) -> Option<&SessionHandle> {
        self.of_kind(SessionKind::Device).or_else(|| self.of_kind(SessionKind::Agent))
    }

    /// The session that gets topic messages. Never an agent's: whatever a message says, it must not look like a command.
    fn subscriber(&self) -> Option<&SessionHandle> {
        self.of_kind(SessionKind::Device).or_else(|| self.of_kind(SessionKind::Chat))
    }
}

impl Directory {
    /// The session that gets what happens, if its client is subscribed to that: where topic messages go, else the
    /// agent's, since the broker's own events do not look like commands.
    pub fn observer(&self, id: ClientId) -> Option<SessionHandle> {
        let clients = self.clients.pin();
        let client = clients.get(&id)?;
        client.subscriber().or_else(|| client.of_kind(SessionKind::Agent)).cloned()
    }

    /// The session that gets a device's direct messages.
    pub fn device(&self, id: ClientId) -> Option<SessionHandle> {
        self.clients.pin().get(&id).and_then(|client| client.of_kind(SessionKind::Device)).cloned()
    }

    /// The session that gets a client's commands.
    pub fn commandable(&self, id: ClientId) -> Option<SessionHandle> {
        self.clients.pin().get(&id).and_then(|client| client.commandable()).cloned()
    }

    /// Everyone whose session takes commands.
    pub fn all_commandable(&self) -> Vec<ClientId> {
        let clients = self.clients.pin();
        clients.iter().filter(|(_, client)| client.commandable().is_some()).map(|(id, _)| *id).collect()
    }

    /// How many sessions the client has here.
    pub fn session_count(&self, id: ClientId) -> usize {
        self.clients.pin().get(&id).map_or(0, |client| client.sessions.len())
    }

    /// Whether the client can be reached here: a device by direct messages and commands, a user by any socket.
    pub fn is_online(&self, id: ClientId) -> bool {
        self.clients.pin().get(&id).is_some_and(|client| client.is_online())
    }

    /// Whether the client has any session here.
    pub fn is_connected(&self, id: ClientId) -> bool {
        self.clients.pin().contains_key(&id)
    }

    /// Everyone who is online, with names.
    pub fn clients(&self) -> Vec<(ClientId, String)> {
        let clients = self.clients.pin();
        let online = clients.iter().filter(|(_, client)| client.is_online());
        online.map(|(id, client)| (*id, client.account.name().to_owned())).collect()
    }
}

/// See the module.
pub struct Registry {
    directory: Arc<Directory>,
    relays: Arc<Relays>,
    backplane: Arc<dyn Backplane>,
    neighbours: Neighbours,
    backlog: Backlog,
    /// `limits.connections_per_identity`; 0 is none
    per_identity: usize,
    /// streams of events by client
    streams: Map<ClientId, usize>,
}

/// Whom the Registry tells who comes and goes.
pub struct Neighbours {
    /// The TopicManager.
    pub presence_changed: Recipient<PresenceChanged>,
    /// The CommandDispatcher.
    pub client_ready: Recipient<ClientReady>,
    /// The CommandDispatcher and the RoomManager.
    pub session_gone: [Recipient<SessionGone>; 2],
    /// The CommandDispatcher.
    pub client_deleted: Recipient<ClientDeleted>,
    /// The RoomManager.
    pub renamed: Recipient<Renamed>,
    /// The TopicManager.
    pub close_replaced: Recipient<CloseReplaced>,
    /// The TopicManager.
    pub announce: Recipient<Announce>,
    /// The TopicManager.
    pub unsubscribe: Recipient<Unsubscribe>,
    /// The Journal.
    pub record: Recipient<Write>,
}

impl Registry {
    /// Writes `directory`, which is empty.
    pub fn new(
        directory: Arc<Directory>,
        relays: Arc<Relays>,
        backplane: Arc<dyn Backplane>,
        neighbours: Neighbours,
        backlog: Backlog,
        per_identity: usize,
    ) -> Self {
        Self { directory, relays, backplane, neighbours, backlog, per_identity, streams: Map::new() }
    }

    /// Whether the client, which has so many sessions, may open another socket or stream.
    fn check_count(&self, client: ClientId, sessions: usize) -> Result<(), TooManyConnections> {
        let streams = self.streams.get(&client).copied().unwrap_or_default();
        let is_full = self.per_identity > 0 && sessions + streams >= self.per_identity;
        if is_full { Err(TooManyConnections) } else { Ok(()) }
    }

    fn get(&self, client: ClientId) -> Option<Connected> {
        self.directory.clients.pin().get(&client).map(|connected| Connected::clone(connected))
    }

    /// Writes a client's entry and tells those who want to know.
    fn put(&self, id: ClientId, before: Option<&Connected>, after: Connected) {
        let subscriber = after.subscriber();
        let is_connected = !after.sessions.is_empty();
        if before.is_none() || !is_connected || before.and_then(Connected::subscriber) != subscriber {
            let subscriber = subscriber.cloned();
            self.neighbours.presence_changed.do_send(PresenceChanged { client: id, subscriber, is_connected });
        }
        let is_online = after.is_online();
        if before.is_some_and(Connected::is_online) != is_online {
            self.announce(id, &after, is_online);
            if is_online {
                self.backplane.connected(id, after.account.name());
            } else {
                self.backplane.disconnected(id);
            }
        }
        let clients = self.directory.clients.pin();
        if is_connected {
            clients.insert(id, Arc::new(after));
        } else {
            clients.remove(&id);
        }
    }

    fn gone(&self, gone: SessionGone) {
        self.neighbours.session_gone.iter().for_each(|neighbour| neighbour.do_send(gone.clone()));
    }

    /// Tells who watches, and the record, that a client came or went.
    fn announce(&self, id: ClientId, client: &Connected, is_online: bool) {
        let at = Utc::now().trunc_subsecs(6);
        let (kind, name) = (client.account.kind(), client.account.name().to_owned());
        self.neighbours.announce.do_send(Announce(Event::Client { id, kind, name, is_connected: is_online, at }));
        // not worth its memory while the database is away
        if let Holder::Device { incarnation, .. } = client.account.holder
            && !self.backlog.is_behind()
        {
            let records = vec![Record::DeviceSeen { device: id, incarnation, at }];
            self.neighbours.record.do_send(Write { records, patient: true });
        }
    }

    /// A client is there no more: its sessions are nobody's at once, and close.
    fn forget(&self, id: ClientId) -> usize {
        self.neighbours.client_deleted.do_send(ClientDeleted(id));
        let Some(before) = self.get(id) else {
            // it may be expected, with subscriptions that wait for it
            self.neighbours.presence_changed.do_send(PresenceChanged {
                client: id,
                subscriber: None,
                is_connected: false,
            });
            return 0;
        };
        for (_, session) in &before.sessions {
            self.gone(SessionGone { client: id, session: session.clone() });
        }
        self.put(id, Some(&before), Connected { sessions: Vec::new(), ..before.clone() });
        self.close(before.sessions.into_iter().map(|(_, session)| session), CloseCode::Unauthorized)
    }

    fn close(&self, sessions: impl Iterator<Item = SessionHandle>, code: CloseCode) -> usize {
        sessions.filter(SessionHandle::is_open).map(|session| self.relays.close(&session, code)).count()
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        // a burst of handshakes waits here, each with its client waiting behind it: bounded by limits.connections
        context.set_mailbox_capacity(4096);
    }
}

impl Handler<Connect> for Registry {
    type Result = Result<(), TooManyConnections>;

    fn handle(&mut self, connect: Connect, _: &mut Self::Context) -> Self::Result {
        let id = connect.account.id;
        let before = self.get(id);
        let sessions = before.as_ref().map(|before| before.sessions.clone()).unwrap_or_default();
        let mut after = Connected { account: connect.account, sessions };
        // there is one device socket per device and one agent socket per user: a new one takes over
        let takeover = match connect.kind {
            SessionKind::Device => Some(CloseCode::Replaced),
            SessionKind::Agent => Some(CloseCode::GoingAway),
            SessionKind::Chat | SessionKind::Room | SessionKind::Public => None,
        };
        let mut replaced = Vec::new();
        if takeover.is_some() {
            (replaced, after.sessions) = after.sessions.into_iter().partition(|(kind, _)| *kind == connect.kind);
        }
        self.check_count(id, after.sessions.len())?;
        for (_, session) in &replaced {
            self.gone(SessionGone { client: id, session: session.clone() });
        }
        // nearly all have one
        after.sessions.reserve_exact(1);
        after.sessions.push((connect.kind, connect.session.clone()));
        self.put(id, before.as_ref(), after);
        // only now that senders find the new one: at no moment are there none that take messages
        for (_, session) in replaced {
            if let Some(code) = takeover {
                self.neighbours.close_replaced.do_send(CloseReplaced { session, code });
            }
        }
        if matches!(connect.kind, SessionKind::Device | SessionKind::Agent) {
            self.neighbours.client_ready.do_send(ClientReady { client: id, session: connect.session });
        }
        Ok(())
    }
}

impl Handler<OpenStream> for Registry {
    type Result = Result<(), TooManyConnections>;

    fn handle(&mut self, OpenStream(client): OpenStream, _: &mut Self::Context) -> Self::Result {
        self.check_count(client, self.directory.session_count(client))?;
        *self.streams.entry(client).or_default() += 1;
        Ok(())
    }
}

impl Handler<CloseStream> for Registry {
    type Result = ();

    fn handle(&mut self, CloseStream(client): CloseStream, _: &mut Self::Context) {
        if let Some(count) = self.streams.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.streams.remove(&client);
            }
        }
    }
}

impl Handler<Disconnect> for Registry {
    type Result = ();

    fn handle(&mut self, disconnect: Disconnect, _: &mut Self::Context) {
        let gone = SessionGone { client: disconnect.client, session: disconnect.session.clone() };
        self.gone(gone);
        // after a takeover the session is not in here any more, and its end changes nothing
        let Some(before) = self.get(disconnect.client) else { return };
        let mut after = before.clone();
        after.sessions.retain(|(_, session)| *session != disconnect.session);
        if after.sessions.len() < before.sessions.len() {
            self.put(disconnect.client, Some(&before), after);
        }
    }
}

impl Handler<Apply> for Registry {
    type Result = usize;

    fn handle(&mut self, Apply(change): Apply, _: &mut Self::Context) -> usize {
        match change {
            AccountChange::Account(account) if account.is_deleted => self.forget(account.id),
            AccountChange::Account(account) => {
                let may_watch = account.is_active() && account.role() >= Role::Operator;
                if account.kind() == ClientKind::User && !may_watch {
                    let topic = TopicId::from(TopicId::STATUS);
                    self.neighbours.unsubscribe.do_send(Unsubscribe { client: account.id, topic });
                }
                let Some(mut connected) = self.get(account.id) else { return 0 };
                if connected.account != account {
                    if connected.account.name() != account.name() {
                        self.neighbours.renamed.do_send(Renamed(account.participant()));
                    }
                    connected.account = account.clone();
                    connected.sessions.iter().for_each(|(_, session)| session.update_account(&account));
                    self.directory.clients.pin().insert(account.id, Arc::new(connected.clone()));
                }
                let sessions = connected.sessions.into_iter().map(|(_, session)| session);
                if account.is_active() {
                    let is_kept =
                        |session: &SessionHandle| account.kept_login.is_some_and(|login| session.has_token(login));
                    let revoked =
                        sessions.filter(|session| session.generation() < account.generation && !is_kept(session));
                    self.close(revoked, CloseCode::Unauthorized)
                } else {
                    self.close(sessions, CloseCode::Forbidden)
                }
            }
            AccountChange::Token(token) => {
                let clients = self.directory.clients.pin();
                let sessions = clients.values().flat_map(|client| client.sessions.iter());
                let revoked = sessions.map(|(_, session)| session).filter(|session| session.has_token(token));
                self.close(revoked.cloned(), CloseCode::Unauthorized)
            }
        }
    }
}
