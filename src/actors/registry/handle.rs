//! The way to the Registry and to what it knows. Reads cost no message.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
};

use actix::{Actor, Addr, ArbiterHandle, Handler, MailboxError, Message, Recipient, dev::ToEnvelope};

use super::{Apply, CloseStream, Connect, Directory, Disconnect, Neighbours, OpenStream, Registry};
use crate::{
    actors::{
        Ping,
        journal::Backlog,
        room_manager::{RoomError, Rooms},
    },
    auth::accounts::Accounts,
    cluster::Backplane,
    delivery::{Relays, SessionHandle, SessionKind},
    domain::{
        accounts::{Account, AccountChange},
        ids::ClientId,
    },
    store::{DeviceChange, RegisteredDevice, Store, StoreError},
};

/// Why a client may not open another socket or stream of events.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It has as many as it may (`limits.connections_per_identity`).
    #[error("the client has as many sockets as it may")]
    TooMany,
    /// The Registry has ended.
    #[error(transparent)]
    Stopped(#[from] MailboxError),
}

/// Why a device is not changed or deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is no such device.
    #[error("device not found")]
    NotFound,
    /// Its memberships of rooms can't be ended now.
    #[error(transparent)]
    Rooms(#[from] RoomError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The Registry has ended.
    #[error(transparent)]
    Stopped(#[from] MailboxError),
}

/// What the Registry and its handle work with.
pub struct Dependencies {
    /// It is empty, and others may read it.
    pub directory: Arc<Directory>,
    /// The way to sessions.
    pub relays: Arc<Relays>,
    /// The way to other nodes.
    pub backplane: Arc<dyn Backplane>,
    /// Whom the Registry tells who connects and disconnects.
    pub neighbours: Neighbours,
    /// How much waits to be written.
    pub backlog: Backlog,
    /// The database.
    pub store: Store,
    /// What is known of accounts.
    pub accounts: Arc<Accounts>,
    /// The way to the RoomManager.
    pub rooms: Rooms,
    /// `limits.connections_per_identity`; 0 is none.
    pub per_identity: usize,
}

/// See the module; clones are the same way.
#[derive(Clone)]
pub struct Clients {
    registry: Addr<Registry>,
    directory: Arc<Directory>,
    backplane: Arc<dyn Backplane>,
    store: Store,
    accounts: Arc<Accounts>,
    rooms: Rooms,
    per_identity: usize,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

impl Clients {
    /// Starts the Registry.
    pub fn start(arbiter: &ArbiterHandle, with: Dependencies) -> Self {
        let Dependencies { directory, relays, backplane, neighbours, backlog, store, accounts, rooms, per_identity } =
            with;
        let registry = Registry::new(directory.clone(), relays, backplane.clone(), neighbours, backlog, per_identity);
        let registry = Registry::start_in_arbiter(arbiter, |_| registry);
        Self { registry, directory, backplane, store, accounts, rooms, per_identity }
    }

    /// The session that gets a device's direct messages.
    pub fn device(&self, id: ClientId) -> Option<SessionHandle> {
        self.directory.device(id)
    }

    /// Everyone here whose session takes commands.
    pub fn all_commandable(&self) -> Vec<ClientId> {
        self.directory.all_commandable()
    }

    /// Whether the client has any session here.
    pub fn is_connected(&self, id: ClientId) -> bool {
        self.directory.is_connected(id)
    }

    /// Whether the client could open another socket now. Opening it decides.
    ///
    /// # Errors
    /// It has as many as it may.
    pub fn check_count(&self, id: ClientId) -> Result<(), ConnectError> {
        let is_full = self.per_identity > 0 && self.directory.session_count(id) >= self.per_identity;
        if is_full { Err(ConnectError::TooMany) } else { Ok(()) }
    }

    /// Everyone who is online on any node, with names.
    pub async fn online(&self) -> BTreeMap<ClientId, String> {
        let elsewhere = self.backplane.clients().await;
        elsewhere.into_iter().chain(self.directory.online()).collect()
    }

    /// Those of the clients that are online on any node.
    pub async fn online_among(&self, clients: impl Iterator<Item = ClientId>) -> HashSet<ClientId> {
        let elsewhere: HashSet<_> = self.backplane.clients().await.into_iter().map(|(id, _)| id).collect();
        clients.filter(|id| self.directory.is_online(*id) || elsewhere.contains(id)).collect()
    }

    /// A session of an authenticated client begins. The one that it replaces is closed.
    ///
    /// # Errors
    /// The client has as many sockets and streams as it may.
    pub async fn connect(
        &self,
        session: SessionHandle,
        kind: SessionKind,
        account: Arc<Account>,
    ) -> Result<(), ConnectError> {
        self.registry.send(Connect { session, kind, account }).await?
    }

    /// A session has ended.
    pub fn disconnect(&self, session: SessionHandle, client: ClientId) {
        self.registry.do_send(Disconnect { session, client });
    }

    /// Counts a stream of events as one of the client's sockets, until the place is dropped.
    ///
    /// # Errors
    /// The client has as many sockets and streams as it may.
    pub async fn open_stream(&self, client: ClientId) -> Result<StreamPlace, ConnectError> {
        self.registry.send(OpenStream(client)).await??;
        Ok(StreamPlace { registry: self.registry.clone(), client })
    }

    /// An account or token changed, as the database has it: closes the sessions concerned, here and on other nodes.
    ///
    /// # Errors
    /// The Registry has ended.
    pub async fn apply(&self, change: AccountChange) -> Result<(), MailboxError> {
        self.backplane.notify(&change);
        self.registry.send(Apply(change)).await?;
        Ok(())
    }

    /// The same for a change that another process made, which has told the other nodes.
    pub fn apply_here(&self, change: AccountChange) {
        self.registry.do_send(Apply(change));
    }

    /// Changes a device, and tells whoever uses its name.
    ///
    /// # Errors
    /// There is no such device, or the database failed.
    pub async fn update_device(&self, id: ClientId, change: DeviceChange) -> Result<RegisteredDevice, DeviceError> {
        let device = self.store.update_device(id, change).await?.ok_or(DeviceError::NotFound)?;
        self.apply_device(device.clone()).await?;
        Ok(device)
    }

    /// Deletes a device: its tokens become invalid, its sessions are closed, its memberships of rooms end.
    ///
    /// # Errors
    /// There is no such device, or the database failed; then some memberships may have ended.
    pub async fn delete_device(&self, id: ClientId) -> Result<(), DeviceError> {
        self.store.device(id).await?.ok_or(DeviceError::NotFound)?;
        self.rooms.leave_all(id).await?;
        let deleted = self.store.delete_device(id).await?.ok_or(DeviceError::NotFound)?;
        self.apply_device(deleted).await?;
        // what it joined meanwhile must not belong to whoever registers the UUID next
        Ok(self.rooms.leave_all(id).await?)
    }

    async fn apply_device(&self, device: RegisteredDevice) -> Result<(), MailboxError> {
        let account = self.accounts.put(Account::from(device));
        self.apply(AccountChange::Account(account)).await
    }

    /// Waits until the Registry has handled all that it was told before.
    ///
    /// # Errors
    /// The Registry has ended.
    pub async fn settled(&self) -> Result<(), MailboxError> {
        self.registry.send(Ping).await
    }

    /// For whoever sends this message alone.
    pub(crate) fn recipient<M>(&self) -> Recipient<M>
    where
        M: Message<Result: Send> + Send + 'static,
        Registry: Handler<M>,
        <Registry as Actor>::Context: ToEnvelope<Registry, M>,
    {
        self.registry.clone().recipient()
    }
}

/// The place of a stream of events among its client's sockets, until it is dropped.
#[derive(Debug)]
pub struct StreamPlace {
    registry: Addr<Registry>,
    client: ClientId,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.registry.do_send(CloseStream(self.client));
    }
}
