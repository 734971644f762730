//! Who is connected to this node. The Registry alone writes it; everyone reads it without asking.

use std::sync::Arc;

use papaya::HashMap;

use crate::{
    delivery::{SessionHandle, SessionKind},
    domain::{
        accounts::Account,
        ids::{ClientId, ClientKind},
    },
};

/// See the module.
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
        // the newest counts
        self.sessions.iter().rev().find(|(of, _)| *of == kind).map(|(_, session)| session)
    }

    /// A device is online by its own socket, since chat sockets get no direct messages and no commands; a user by any.
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

    /// The session that gets topic messages. Never an agent's: whatever a message says, it must not look like a command.
    pub(super) fn subscriber(&self) -> Option<&SessionHandle> {
        self.of_kind(SessionKind::Device).or_else(|| self.of_kind(SessionKind::Chat))
    }
}

impl Directory {
    /// The session that gets the messages of `$status`: where topic messages go, else the agent's, since the broker's own
    /// messages do not look like commands.
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

    /// Whether the client is online here: a device by its own socket, a user by any.
    pub fn is_online(&self, id: ClientId) -> bool {
        self.clients.pin().get(&id).is_some_and(|client| client.is_online())
    }

    /// Whether the client has any session here.
    pub fn is_connected(&self, id: ClientId) -> bool {
        self.clients.pin().contains_key(&id)
    }

    /// Everyone who is online, with names.
    pub fn online(&self) -> Vec<(ClientId, String)> {
        let clients = self.clients.pin();
        let online = clients.iter().filter(|(_, client)| client.is_online());
        online.map(|(id, client)| (*id, client.account.name().to_owned())).collect()
    }

    pub(super) fn get(&self, client: ClientId) -> Option<Connected> {
        self.clients.pin().get(&client).map(|connected| Connected::clone(connected))
    }

    /// Replaces a client's entry; one without sessions is removed.
    pub(super) fn put(&self, id: ClientId, connected: Connected) {
        let clients = self.clients.pin();
        if connected.sessions.is_empty() {
            clients.remove(&id);
        } else {
            clients.insert(id, Arc::new(connected));
        }
    }

    /// All sessions for which this holds.
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
