//! The handle of the MessageManager: sends, answers, withdraws and reads messages.

mod direct;
mod reads;

use std::{fmt, sync::Arc, time::Duration};

use actix::{Actor, Addr, ArbiterHandle, Handler, Message, Recipient, dev::SendError, dev::ToEnvelope};

pub(in crate::actors) use self::direct::deliver_to;
pub use self::{direct::UnderWay, reads::MessageView};
use super::{
    MessageError, MessageManager,
    messages::{Failed, FromSession, MarkSettled, Request, SendOverHttp, SettleSocket, SocketSettled, Withdraw},
};
use crate::{
    actors::{
        directory::Directory,
        journal::{Perform, Place, Places},
    },
    clock::Clock,
    cluster::Backplane,
    delivery::{Mark, Relays, SessionHandle},
    domain::{
        ids::{ClientId, DeliveryId},
        messages::{
            MAX_UNACKNOWLEDGED,
            change::{Accepted, MessageChange, NewMessage},
        },
    },
    metrics::Context,
    protocol::outbound,
    settings::LiveSettings,
    store::{Store, StoreError, patience},
};

/// What the MessageManager and its handle use.
pub struct Dependencies {
    pub directory: Arc<Directory>,
    pub relays: Arc<Relays>,
    pub backplane: Arc<dyn Backplane>,
    pub store: Store,
    pub journal: Recipient<Perform<MessageChange>>,
    pub clock: Clock,
    pub settings: LiveSettings,
}

/// Clones are handles of the same MessageManager.
#[derive(Clone)]
pub struct Messages {
    manager: Addr<MessageManager>,
    directory: Arc<Directory>,
    relays: Arc<Relays>,
    backplane: Arc<dyn Backplane>,
    store: Store,
    places: Places,
    settings: LiveSettings,
}

/// What a session asks for, while it has to wait until there is room.
#[derive(Debug)]
pub struct Unsent {
    pub request: Request,
    /// Its share of the memory for changes that wait, once it has one.
    pub place: Option<Place>,
}

/// Why the MessageManager does not take something.
#[derive(Debug)]
pub enum NotSent {
    /// Its mailbox or the queue of the Journal is full, or it is refused.
    NotNow(Box<Unsent>),
    /// The MessageManager has stopped.
    Stopped,
}

impl NotSent {
    fn not_now(request: Request, place: Option<Place>) -> Self {
        Self::NotNow(Box::new(Unsent { request, place }))
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").finish_non_exhaustive()
    }
}

impl Messages {
    /// Starts the MessageManager.
    pub fn start(arbiter: &ArbiterHandle, with: Dependencies) -> Self {
        let (directory, relays) = (with.directory.clone(), with.relays.clone());
        let (backplane, store) = (with.backplane.clone(), with.store.clone());
        let settings = with.settings.clone();
        // what is on its way is named in each query for more
        let window = match settings.load().limits.unacknowledged_per_device {
            0 => MAX_UNACKNOWLEDGED,
            window => window,
        };
        let manager = MessageManager::new(with, window);
        let manager = Context::start_in_arbiter(arbiter, |_| manager);
        Self { manager, directory, relays, backplane, store, places: Places::default(), settings }
    }

    /// With other nodes: stores that a device has a new socket, which is in the Registry. From then on acknowledged messages go
    /// through this one alone. Returns the stamp that is stored instead, if that is not lower.
    ///
    /// # Errors
    /// The database failed. Acknowledged messages are refused, and the socket is closed when the database answers again.
    pub async fn store_socket(&self, device: ClientId, session: &SessionHandle) -> Result<Option<u64>, StoreError> {
        let stored = self.store.note_socket(device, session.id()).await;
        match &stored {
            Ok(Some(_)) => {}
            Ok(None) => self.manager.do_send(SocketSettled { device, session: session.clone() }),
            Err(_) => self.manager.do_send(SettleSocket { device, stamp: session.id() }),
        }
        stored
    }

    /// How long a message may wait if its sender does not say.
    pub fn usual_ttl(&self) -> Duration {
        Duration::from_secs(self.settings.load().messages.ttl_secs.into())
    }

    /// Passes on what a session asks for, unless it has to wait.
    ///
    /// # Errors
    /// Nothing is passed on.
    pub fn send(&self, request: Request, session: &SessionHandle) -> Result<(), NotSent> {
        let Some(place) = self.try_place(&request) else { return Err(NotSent::not_now(request, None)) };
        let asked = FromSession { request, session: session.clone(), place };
        self.manager.try_send(asked).map_err(|error| match error {
            SendError::Full(FromSession { request, place, .. }) => NotSent::not_now(request, Some(place)),
            SendError::Closed(_) => NotSent::Stopped,
        })
    }

    /// Passes it on as soon as there is room.
    ///
    /// # Errors
    /// There is no room for too long, the message is too large, the sender has reached a limit, or the MessageManager has
    /// stopped. The session has the receipts of its earlier messages by then.
    pub async fn send_later(&self, unsent: Unsent, session: &SessionHandle) -> Result<(), MessageError> {
        let Unsent { request, place } = unsent;
        let place = match (place, &request) {
            (Some(place), _) => Ok(place),
            (None, Request::Send(message)) => self.place(message).await,
            (None, Request::Answer(_)) => self.places.take(0).await.map_err(Into::into),
        };
        match place {
            Ok(place) => Ok(self.manager.send(FromSession { request, session: session.clone(), place }).await?),
            Err(error) => {
                self.settled(session.clone()).await;
                Err(error)
            }
        }
    }

    /// Sends an acknowledged message for a request. Returns when it is stored.
    ///
    /// # Errors
    /// It is refused, or the database failed.
    pub async fn send_over_http(&self, message: NewMessage) -> Result<Accepted, MessageError> {
        let place = self.place(&message).await?;
        match patience::wait(self.manager.send(SendOverHttp { message, place })).await {
            Ok(stored) => stored?,
            Err(_) => Err(StoreError::late().into()),
        }
    }

    fn try_place(&self, request: &Request) -> Option<Place> {
        let Request::Send(message) = request else { return self.places.try_take(0) };
        self.check_size(message).ok()?;
        let bytes = message.object.len();
        let place = self.places.try_take(bytes)?;
        self.store.charge_stored(message.from.client, bytes).is_ok().then_some(place)
    }

    async fn place(&self, message: &NewMessage) -> Result<Place, MessageError> {
        self.check_size(message)?;
        let bytes = message.object.len();
        self.store.charge_stored(message.from.client, bytes)?;
        Ok(self.places.take(bytes).await?)
    }

    /// Refuses a message that would make its recipient a slow consumer again and again.
    fn check_size(&self, message: &NewMessage) -> Result<(), MessageError> {
        let longest = self.relays.longest_text().saturating_sub(outbound::REDELIVERED.len());
        if message.object.len() > longest { Err(MessageError::TooLarge(longest)) } else { Ok(()) }
    }

    /// Waits until a session has the receipts of its earlier messages, and their recipients have those that go at once.
    pub async fn settled(&self, session: SessionHandle) {
        let (mark, passed) = Mark::new();
        if self.manager.send(MarkSettled { session, mark }).await.is_ok() {
            // completes with an error, since the sender is dropped
            let _ = passed.await;
        }
    }

    /// Withdraws a message, if it has not ended.
    async fn cancel(&self, id: DeliveryId, to: ClientId) -> Result<(), MessageError> {
        match patience::wait(self.manager.send(Withdraw { id, to })).await {
            Ok(ended) => ended?.map(drop).map_err(Into::into),
            Err(_) => Err(StoreError::late().into()),
        }
    }

    /// Tells the senders of messages that have failed since their recipient was deleted.
    ///
    /// # Errors
    /// The database failed; the senders are told when they connect.
    pub async fn recipient_deleted(&self, recipient: ClientId) -> Result<(), StoreError> {
        let failed = self.store.failed_of_recipient(recipient).await?;
        if !failed.is_empty() {
            self.manager.do_send(Failed(failed));
        }
        Ok(())
    }

    /// For actors that send the MessageManager this message themselves.
    pub(crate) fn recipient<M>(&self) -> Recipient<M>
    where
        M: Message<Result: Send> + Send + 'static,
        MessageManager: Handler<M>,
        <MessageManager as Actor>::Context: ToEnvelope<MessageManager, M>,
    {
        self.manager.clone().recipient()
    }
}
