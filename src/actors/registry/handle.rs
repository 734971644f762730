//! The handle of the Registry. Reads take no message.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
};

use actix::{Actor, Addr, ArbiterHandle, Handler, MailboxError, Message, Recipient, dev::ToEnvelope};
use futures_util::future::LocalBoxFuture;

use super::{Announced, Apply, CloseStream, Connect, Disconnect, Neighbours, OpenStream, Registry};
use crate::{
    actors::{HealthCheck, directory::Directory, journal::Journal},
    auth::Sessions,
    clock::Clock,
    cluster::{Backplane, envelope},
    delivery::{Relays, SessionHandle, SessionKind},
    domain::{
        accounts::{Account, AccountChange},
        budget::OverLimit,
        ids::ClientId,
    },
    metrics::Context,
    settings::LiveSettings,
};

/// Why a client may not open another socket or stream of events.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It has reached `limits.connections_per_identity`.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// The Registry has stopped.
    #[error(transparent)]
    Stopped(#[from] MailboxError),
}

/// The client has as many sockets and streams of events as it may.
pub(super) const TOO_MANY_SOCKETS: OverLimit = OverLimit { limit: "limits.connections_per_identity", retry_after: 1 };

/// What the Registry and its handle use.
pub struct Dependencies {
    /// Empty at the start.
    pub directory: Arc<Directory>,
    pub relays: Arc<Relays>,
    pub backplane: Arc<dyn Backplane>,
    pub neighbours: Neighbours,
    pub journal: Journal,
    pub clock: Clock,
    pub settings: LiveSettings,
}

/// Clones are handles of the same Registry.
#[derive(Clone)]
pub struct Clients {
    registry: Addr<Registry>,
    directory: Arc<Directory>,
    backplane: Arc<dyn Backplane>,
    settings: LiveSettings,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

impl Clients {
    /// Starts the Registry.
    pub fn start(arbiter: &ArbiterHandle, with: Dependencies) -> Self {
        let Dependencies { directory, relays, backplane, neighbours, journal, clock, settings } = with;
        let registry =
            Registry::new(directory.clone(), relays, backplane.clone(), neighbours, journal, clock, settings.clone());
        let registry = Context::start_in_arbiter(arbiter, |_| registry);
        Self { registry, directory, backplane, settings }
    }

    /// Checks early whether the client may open another socket. [`Clients::connect`] decides.
    ///
    /// # Errors
    /// The client has reached its limit.
    pub fn check_count(&self, id: ClientId) -> Result<(), ConnectError> {
        let most = self.settings.load().limits.connections_per_identity;
        let is_full = most > 0 && self.directory.session_count(id) >= most;
        if is_full { Err(TOO_MANY_SOCKETS.into()) } else { Ok(()) }
    }

    /// The clients that are online on any node, with their names.
    pub fn online(&self) -> BTreeMap<ClientId, String> {
        self.backplane.elsewhere().online().into_iter().chain(self.directory.online()).collect()
    }

    /// Those of `clients` that are online on any node.
    pub fn online_among(&self, clients: impl Iterator<Item = ClientId>) -> HashSet<ClientId> {
        let elsewhere = self.backplane.elsewhere();
        clients.filter(|id| self.directory.is_online(*id) || elsewhere.is_online(*id)).collect()
    }

    /// Adds a session of an authenticated client. The session that it replaces is closed.
    ///
    /// # Errors
    /// The client has reached its limit of sockets and streams.
    pub async fn connect(
        &self,
        session: SessionHandle,
        kind: SessionKind,
        account: Arc<Account>,
    ) -> Result<(), ConnectError> {
        let client = account.id;
        self.registry.send(Connect { session, kind, account }).await??;
        if !self.backplane.incarnation().is_nil() {
            // then they have closed the socket that this one replaces, or are about to
            self.backplane.announced().await;
            self.registry.do_send(Announced(client));
        }
        Ok(())
    }

    /// Removes a session that has ended.
    pub fn disconnect(&self, session: SessionHandle, client: ClientId) {
        self.registry.do_send(Disconnect { session, client });
    }

    /// Counts a stream of events as one of the client's sockets until the result is dropped.
    ///
    /// # Errors
    /// The client has reached its limit of sockets and streams.
    pub async fn open_stream(&self, client: ClientId) -> Result<StreamPlace, ConnectError> {
        self.registry.send(OpenStream(client)).await??;
        Ok(StreamPlace { registry: self.registry.clone(), client })
    }

    /// Applies a change of an account or token that is in the database: closes the sessions that it affects, on this node and
    /// on others. Then the other nodes know of it, or do not answer.
    ///
    /// # Errors
    /// The Registry has stopped.
    pub async fn apply(&self, change: AccountChange) -> Result<(), MailboxError> {
        self.backplane.send_to_all(envelope::Message::AccountsChanged);
        self.registry.send(Apply(change)).await?;
        self.backplane.announced().await;
        Ok(())
    }

    /// Like [`Clients::apply`], for a change by another process. Other nodes are not told.
    pub fn apply_here(&self, change: AccountChange) {
        self.registry.do_send(Apply(change));
    }

    /// Waits until the Registry has handled all earlier messages.
    ///
    /// # Errors
    /// The Registry has stopped.
    pub async fn settled(&self) -> Result<(), MailboxError> {
        self.registry.send(HealthCheck).await
    }

    /// For actors that send the Registry this message themselves.
    pub(crate) fn recipient<M>(&self) -> Recipient<M>
    where
        M: Message<Result: Send> + Send + 'static,
        Registry: Handler<M>,
        <Registry as Actor>::Context: ToEnvelope<Registry, M>,
    {
        self.registry.clone().recipient()
    }
}

impl Sessions for Clients {
    fn apply(&self, change: AccountChange) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            // without the Registry the process ends, and with it all sessions
            if let Err(error) = self.apply(change).await {
                tracing::error!(%error, "the sessions of a changed account are not closed");
            }
        })
    }
}

/// A stream of events, counted as a socket of its client until this is dropped.
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
