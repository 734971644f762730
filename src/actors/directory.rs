//! The clients that are connected to this node, and their sessions. Written by the Registry alone, read from any thread
//! without a message.

use std::sync::Arc;

use papaya::HashMap;

use crate::{
    cluster::elsewhere::ClientState,
    delivery::{SessionHandle, SessionKind},
    domain::{
        accounts::Account,
        ids::{ClientId, ClientKind},
    },
};

#[derive(Debug, Default)]
pub struct Directory {
    clients: HashMap<ClientId, Arc<Connected>>,
}

/// A connected client.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    pub(super) account: Arc<Account>,
    /// oldest first
    pub(super) sessions: Vec<(SessionKind, SessionHandle)>,
}

impl Connected {
    fn of_kind(&self, kind: SessionKind) -> Option<&SessionHandle> {
        // the newest one
        self.sessions.iter().rev().find(|(of, _)| *of == kind).map(|(_, session)| session)
    }

    /// A device is online while its own socket is open, since chat sockets get no direct messages and no commands; a user
    /// while any socket is.
    pub(super) fn is_online(&self) -> bool {
        match self.account.kind() {
            ClientKind::Device => self.of_kind(SessionKind::Device).is_some(),
            ClientKind::User => !self.sessions.is_empty(),
        }
    }

    /// The session that gets commands.
    fn commandable(&self) -> Option<&SessionHandle> {
        self.of_kind(SessionKind::Device).or_else(|| self.of_kind(SessionKind::Agent))
    }

    /// The session that gets topic messages. Never an agent's, whose clients could take a message for a command.
    pub(super) fn subscriber(&self) -> Option<&SessionHandle> {
        self.of_kind(SessionKind::Device).or_else(|| self.of_kind(SessionKind::Chat))
    }
}

impl Connected {
    fn state(&self, id: ClientId) -> ClientState {
        let stamp = |kind| self.of_kind(kind).map_or(0, SessionHandle::id);
        ClientState {
            client: id.uuid(),
            name: self.account.name().to_owned(),
            is_user: self.account.kind() == ClientKind::User,
            is_online: self.is_online(),
            sessions: u32::try_from(self.sessions.len()).unwrap_or(u32::MAX),
            device: stamp(SessionKind::Device),
            agent: stamp(SessionKind::Agent),
            chat: stamp(SessionKind::Chat),
        }
    }
}

impl Directory {
    /// The session that gets the messages of `$status`: the one that gets topic messages, else the agent's, since no message
    /// of `$status` looks like a command.
    pub fn observer(&self, id: ClientId) -> Option<SessionHandle> {
        let clients = self.clients.pin();
        let client = clients.get(&id)?;
        client.subscriber().or_else(|| client.of_kind(SessionKind::Agent)).cloned()
    }

    /// The session that gets a client's topic messages, and is told how its own messages have ended.
    pub fn subscriber(&self, id: ClientId) -> Option<SessionHandle> {
        self.clients.pin().get(&id).and_then(|client| client.subscriber()).cloned()
    }

    /// The session that gets a device's direct messages.
    pub fn device(&self, id: ClientId) -> Option<SessionHandle> {
        self.clients.pin().get(&id).and_then(|client| client.of_kind(SessionKind::Device)).cloned()
    }

    /// The session that gets a client's commands.
    pub fn commandable(&self, id: ClientId) -> Option<SessionHandle> {
        self.clients.pin().get(&id).and_then(|client| client.commandable()).cloned()
    }

    /// The clients with a session that gets commands.
    pub fn all_commandable(&self) -> Vec<ClientId> {
        let clients = self.clients.pin();
        clients.iter().filter(|(_, client)| client.commandable().is_some()).map(|(id, _)| *id).collect()
    }

    /// The number of sessions of the client on this node.
    pub fn session_count(&self, id: ClientId) -> usize {
        self.clients.pin().get(&id).map_or(0, |client| client.sessions.len())
    }

    /// Whether the client is online on this node.
    pub fn is_online(&self, id: ClientId) -> bool {
        self.clients.pin().get(&id).is_some_and(|client| client.is_online())
    }

    /// Whether the client has any session on this node.
    pub fn is_connected(&self, id: ClientId) -> bool {
        self.clients.pin().contains_key(&id)
    }

    /// The clients that are online on this node, with their names.
    pub fn online(&self) -> Vec<(ClientId, String)> {
        let clients = self.clients.pin();
        let online = clients.iter().filter(|(_, client)| client.is_online());
        online.map(|(id, client)| (*id, client.account.name().to_owned())).collect()
    }

    /// The state of a client at this node, for others.
    pub fn state(&self, id: ClientId) -> ClientState {
        self.clients.pin().get(&id).map_or_else(|| ClientState::gone(id.uuid()), |client| client.state(id))
    }

    /// The states of all clients at this node, for others.
    pub fn states(&self) -> Vec<ClientState> {
        self.clients.pin().iter().map(|(id, client)| client.state(*id)).collect()
    }

    pub(super) fn get(&self, client: ClientId) -> Option<Connected> {
        self.clients.pin().get(&client).map(|connected| Connected::clone(connected))
    }

    /// Replaces the entry of a client, or removes it if no session is left.
    pub(super) fn put(&self, id: ClientId, connected: Connected) {
        let clients = self.clients.pin();
        if connected.sessions.is_empty() {
            clients.remove(&id);
        } else {
            clients.insert(id, Arc::new(connected));
        }
    }

    /// All sessions that `is_wanted` accepts.
    pub(super) fn sessions(&self, is_wanted: impl Fn(&SessionHandle) -> bool) -> Vec<SessionHandle> {
        let clients = self.clients.pin();
        let sessions = clients.values().flat_map(|client| client.sessions.iter());
        sessions.map(|(_, session)| session).filter(|session| is_wanted(session)).cloned().collect()
    }
}

#[cfg(test)]
impl Directory {
    /// Adds a session, for tests of those who read the directory.
    pub(crate) fn join_for_test(&self, account: &Account, kind: SessionKind, session: &SessionHandle) {
        let sessions = vec![(kind, session.clone())];
        self.put(account.id, Connected { account: Arc::new(account.clone()), sessions });
    }
}
