//! The role of the Registry is to know which clients are connected. It alone writes the [`Directory`], which everyone reads
//! without a message.
//!
//! Handlers and sessions use it through [`Clients`]. It tells the TopicManager, the CommandDispatcher, the RoomManager, the
//! MessageManager, the Journal and the other nodes which clients connect and disconnect, and closes sessions whose account or
//! token changed. The ClusterLink tells it which clients connect to other nodes: the newest device or agent socket of a client
//! takes over, wherever the others are.

mod handle;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use actix::{Actor, Handler, Message, Recipient};
use serde_json::json;

pub use self::handle::{Clients, ConnectError, Dependencies};
use super::{
    command_dispatcher::{ClientReady, SessionGone},
    directory::{Connected, Directory},
    journal::Journal,
    message_manager::{Bell, SenderReady},
    room_manager::Renamed,
    topic_manager::{AccountChanged, Announce, ClientDeleted, CloseReplaced, PresenceChanged},
};
use crate::{
    clock::Clock,
    cluster::{Backplane, elsewhere},
    delivery::{Relays, SessionHandle, SessionKind},
    domain::{
        accounts::{Account, AccountChange, Holder},
        ids::{ClientId, ClientKind},
        webhooks::EventType,
    },
    metrics::{self, Context, Measured},
    protocol::{close_code::CloseCode, outbound::StatusEvent},
    settings::LiveSettings,
    store::Record,
};

/// A session of an authenticated client begins. The session that it replaces is closed.
#[derive(Message)]
#[rtype(result = "Result<(), ConnectError>")]
struct Connect {
    session: SessionHandle,
    kind: SessionKind,
    account: Arc<Account>,
}

/// A session has ended.
#[derive(Message)]
#[rtype(result = "()")]
struct Disconnect {
    session: SessionHandle,
    client: ClientId,
}

/// Clients have connected to other nodes, or left them.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ClientsElsewhere(pub Vec<elsewhere::Change>);

/// Other nodes know that a client has connected.
#[derive(Message)]
#[rtype(result = "()")]
struct Announced(ClientId);

/// A client opens a stream of events over HTTP, which counts as one of its sockets.
#[derive(Message)]
#[rtype(result = "Result<(), ConnectError>")]
struct OpenStream(ClientId);

/// A stream of events has ended.
#[derive(Message)]
#[rtype(result = "()")]
struct CloseStream(ClientId);

/// An account or token changed: the sessions that depend on it are closed. Returns how many.
#[derive(Message)]
#[rtype(result = "usize")]
struct Apply(AccountChange);

pub struct Registry {
    directory: Arc<Directory>,
    relays: Arc<Relays>,
    backplane: Arc<dyn Backplane>,
    neighbours: Neighbours,
    journal: Journal,
    clock: Clock,
    settings: LiveSettings,
    /// the number of streams of events of each client
    streams: HashMap<ClientId, usize>,
}

/// The actors that the Registry tells about clients and sessions.
pub struct Neighbours {
    pub presence_changed: Recipient<PresenceChanged>,
    pub client_ready: [Recipient<ClientReady>; 2],
    pub session_gone: [Recipient<SessionGone>; 3],
    pub sender_ready: Recipient<SenderReady>,
    pub bell: Recipient<Bell>,
    pub client_deleted: [Recipient<ClientDeleted>; 2],
    pub renamed: Recipient<Renamed>,
    pub close_replaced: Recipient<CloseReplaced>,
    pub announce: Recipient<Announce>,
    pub account_changed: Recipient<AccountChanged>,
}

impl Registry {
    /// Writes `directory`, which is empty.
    fn new(
        directory: Arc<Directory>,
        relays: Arc<Relays>,
        backplane: Arc<dyn Backplane>,
        neighbours: Neighbours,
        journal: Journal,
        clock: Clock,
        settings: LiveSettings,
    ) -> Self {
        Self { directory, relays, backplane, neighbours, journal, clock, settings, streams: HashMap::new() }
    }

    /// Whether a client with this number of sessions here may open another socket, of which those at other nodes are replaced,
    /// or a stream.
    fn check_count(&self, client: ClientId, here: usize, kind: Option<SessionKind>) -> Result<(), ConnectError> {
        let elsewhere = self.backplane.elsewhere().session_count(client, |state| match kind {
            Some(SessionKind::Device) => usize::from(state.device > 0),
            Some(SessionKind::Agent) => usize::from(state.agent > 0),
            _ => 0,
        });
        let streams = self.streams.get(&client).copied().unwrap_or_default();
        let most = self.settings.load().limits.connections_per_identity;
        let is_full = most > 0 && here + elsewhere + streams >= most;
        if is_full { Err(handle::TOO_MANY_SOCKETS.into()) } else { Ok(()) }
    }

    /// Writes a client's entry and tells the neighbours what changed.
    fn put(&self, id: ClientId, before: Option<&Connected>, after: Connected) {
        let subscriber = after.subscriber();
        let is_connected = !after.sessions.is_empty();
        if before.is_none() || !is_connected || before.and_then(Connected::subscriber) != subscriber {
            let subscriber = subscriber.cloned();
            self.neighbours.presence_changed.do_send(PresenceChanged { client: id, subscriber, is_connected });
        }
        let is_online = after.is_online();
        if before.is_some_and(Connected::is_online) != is_online {
            if !self.backplane.elsewhere().is_online(id) {
                self.announce(id, after.account.kind(), after.account.name(), is_online);
                // the other nodes announce it, too, but this one alone has it told
                let event = if is_online { EventType::ClientConnected } else { EventType::ClientDisconnected };
                self.journal.tell(
                    event,
                    self.clock.now(),
                    || json!({ "uuid": id, "kind": after.account.kind().as_str(), "name": after.account.name() }),
                );
            }
            self.record_seen(&after);
        }
        self.directory.put(id, after);
        self.backplane.client_changed(id);
    }

    /// Removes the sessions of a kind that `is_replaced` accepts, since a newer one takes over. Returns them.
    fn remove_replaced(
        &self,
        client: &mut Connected,
        kind: SessionKind,
        is_replaced: impl Fn(&SessionHandle) -> bool,
    ) -> Vec<SessionHandle> {
        let is_replaced = |(of, session): &(SessionKind, SessionHandle)| *of == kind && is_replaced(session);
        let (replaced, kept) = std::mem::take(&mut client.sessions).into_iter().partition(is_replaced);
        client.sessions = kept;
        let replaced: Vec<_> = replaced;
        replaced.into_iter().map(|(_, session)| session).collect()
    }

    /// Closes this node's sockets of a client that newer ones at other nodes replace.
    fn give_way(&self, id: ClientId) {
        let Some(before) = self.directory.get(id) else { return };
        let (mut after, this, elsewhere) = (before.clone(), self.backplane.incarnation(), self.backplane.elsewhere());
        let mut replaced = Vec::new();
        for kind in [SessionKind::Device, SessionKind::Agent] {
            let is_replaced = |session: &SessionHandle| {
                elsewhere.takes_over(id, this, session.id(), |state| match kind {
                    SessionKind::Device => state.device,
                    _ => state.agent,
                })
            };
            let sessions = self.remove_replaced(&mut after, kind, is_replaced);
            replaced.extend(sessions.into_iter().filter_map(|session| Some((session, takeover_code(kind)?))));
        }
        if replaced.is_empty() {
            return;
        }
        for (session, _) in &replaced {
            self.gone(SessionGone { client: id, session: session.clone() });
        }
        self.put(id, Some(&before), after);
        for (session, code) in replaced {
            self.neighbours.close_replaced.do_send(CloseReplaced { session, code });
        }
    }

    fn gone(&self, gone: SessionGone) {
        self.neighbours.session_gone.iter().for_each(|neighbour| neighbour.do_send(gone.clone()));
    }

    /// Tells the subscribers of `$status` that a client connected or disconnected.
    fn announce(&self, id: ClientId, kind: ClientKind, name: &str, is_online: bool) {
        let (name, at) = (name.to_owned(), self.clock.now());
        self.neighbours.announce.do_send(Announce(StatusEvent::Client { id, kind, name, is_connected: is_online, at }));
    }

    /// Has it stored that a device was seen now.
    fn record_seen(&self, client: &Connected) {
        // while the database is away, `last_seen` is not worth its memory
        if let Holder::Device { incarnation, .. } = client.account.holder
            && !self.journal.backlog().is_behind()
        {
            let (device, at) = (client.account.id, self.clock.now());
            self.journal.record_soon(vec![Record::DeviceSeen { device, incarnation, at }]);
        }
    }

    /// A client is deleted: its sessions leave the directory at once, and are closed.
    fn forget(&self, account: &Account) -> usize {
        let (id, before) = (account.id, self.directory.get(account.id));
        for (_, session) in before.iter().flat_map(|before| &before.sessions) {
            self.gone(SessionGone { client: id, session: session.clone() });
        }
        // after the ends of its sessions, since a client whose socket is lost is expected to answer late; before it is absent, since
        // the subscriptions of one that has gone wait or are handed over
        for neighbour in &self.neighbours.client_deleted {
            neighbour.do_send(ClientDeleted { client: id, incarnation: account.incarnation() });
        }
        let Some(before) = before else { return 0 };
        self.put(id, Some(&before), Connected { sessions: Vec::new(), ..before.clone() });
        self.close(before.sessions.into_iter().map(|(_, session)| session), CloseCode::Unauthorized)
    }

    fn close(&self, sessions: impl Iterator<Item = SessionHandle>, code: CloseCode) -> usize {
        sessions.filter(SessionHandle::is_open).map(|session| self.relays.close(&session, code)).count()
    }
}

/// The code with which a new session of this kind closes the one before it: there is one device socket per device and one agent
/// socket per user.
fn takeover_code(kind: SessionKind) -> Option<CloseCode> {
    match kind {
        SessionKind::Device => Some(CloseCode::Replaced),
        SessionKind::Agent => Some(CloseCode::GoingAway),
        SessionKind::Chat | SessionKind::Room | SessionKind::Public => None,
    }
}

impl Measured for Registry {
    const NAME: metrics::labels::Actor = metrics::labels::Actor::Registry;
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        // a burst of handshakes waits here; each has a client behind it, so that limits.connections bounds them
        context.set_mailbox_capacity(4096);
    }
}

impl Handler<Connect> for Registry {
    type Result = Result<(), ConnectError>;

    fn handle(&mut self, connect: Connect, _: &mut Self::Context) -> Self::Result {
        let id = connect.account.id;
        let before = self.directory.get(id);
        let sessions = before.as_ref().map(|before| before.sessions.clone()).unwrap_or_default();
        let mut after = Connected { account: connect.account, sessions };
        let takeover = takeover_code(connect.kind);
        let replaced = self.remove_replaced(&mut after, connect.kind, |_| takeover.is_some());
        self.check_count(id, after.sessions.len(), Some(connect.kind))?;
        for session in &replaced {
            self.gone(SessionGone { client: id, session: session.clone() });
        }
        // nearly all clients have one session
        after.sessions.reserve_exact(1);
        after.sessions.push((connect.kind, connect.session.clone()));
        self.put(id, before.as_ref(), after);
        // after the directory has the new one: at every moment senders find a session that accepts
        for session in replaced {
            if let Some(code) = takeover {
                self.neighbours.close_replaced.do_send(CloseReplaced { session, code });
            }
        }
        match connect.kind {
            SessionKind::Device | SessionKind::Agent => {
                let ready = ClientReady { client: id, session: connect.session };
                self.neighbours.client_ready.iter().for_each(|neighbour| neighbour.do_send(ready.clone()));
            }
            // a device with a socket of its own is told there
            SessionKind::Chat if self.directory.device(id).is_none() => {
                self.neighbours.sender_ready.do_send(SenderReady(id));
            }
            SessionKind::Chat | SessionKind::Room | SessionKind::Public => {}
        }
        // another node may have announced a newer one before this one was handled
        if !self.backplane.incarnation().is_nil() {
            self.give_way(id);
        }
        Ok(())
    }
}

impl Handler<Announced> for Registry {
    type Result = ();

    fn handle(&mut self, Announced(client): Announced, _: &mut Self::Context) {
        self.neighbours.bell.do_send(Bell::Announced(client));
    }
}

impl Handler<ClientsElsewhere> for Registry {
    type Result = ();

    fn handle(&mut self, ClientsElsewhere(changes): ClientsElsewhere, _: &mut Self::Context) {
        for elsewhere::Change { client, kind, name, was_online, is_online, .. } in changes {
            if was_online != is_online && !self.directory.is_online(client) {
                self.announce(client, kind, &name, is_online);
            }
            self.give_way(client);
        }
    }
}

impl Handler<OpenStream> for Registry {
    type Result = Result<(), ConnectError>;

    fn handle(&mut self, OpenStream(client): OpenStream, _: &mut Self::Context) -> Self::Result {
        self.check_count(client, self.directory.session_count(client), None)?;
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
        let Some(before) = self.directory.get(disconnect.client) else { return };
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
            AccountChange::Account(account) if account.is_deleted => self.forget(&account),
            AccountChange::Account(account) => {
                self.neighbours.account_changed.do_send(AccountChanged(account.clone()));
                let Some(mut connected) = self.directory.get(account.id) else { return 0 };
                if connected.account != account {
                    if connected.account.name() != account.name() {
                        self.neighbours.renamed.do_send(Renamed(account.participant()));
                    }
                    connected.account = account.clone();
                    connected.sessions.iter().for_each(|(_, session)| session.update_account(&account));
                    self.directory.put(account.id, connected.clone());
                    self.backplane.client_changed(account.id);
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
                let revoked = self.directory.sessions(|session| session.has_token(token));
                self.close(revoked.into_iter(), CloseCode::Unauthorized)
            }
        }
    }
}
