//! The handle of the RoomManager. The memory of waiting changes is bounded, and changes wait while a worker is congested:
//! then handlers wait, and sessions are not read.

mod reads;

use std::{fmt, sync::Arc};

use actix::{Actor, Addr, ArbiterHandle, Handler, MailboxError, Message, Recipient, dev::ToEnvelope};
use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::{Ask, RoomManager};
use crate::{
    actors::journal::{Perform, Place, Places},
    auth::{LookupError, accounts::Accounts},
    clock::Clock,
    cluster::Backplane,
    delivery::{Relays, SessionHandle},
    domain::{
        budget::OverLimit,
        ids::{ClientId, ClientRef, MessageId, RoomId},
        rooms::{
            Attachment, Message as ChatMessage, Participant, RoomChange, RoomOutcome, RoomRefusal, RoomRole, Wanted,
        },
    },
    metrics::Context,
    settings::LiveSettings,
    store::{RoomView, Store, StoreError, patience},
};

/// Why a request about rooms fails.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    #[error(transparent)]
    Refused(#[from] RoomRefusal),
    /// There is no such client.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The client has reached `limits.stored_bytes_per_minute`.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The RoomManager has stopped.
    #[error(transparent)]
    Stopped(#[from] MailboxError),
    /// The RoomManager returned the outcome of another kind of change.
    #[error("the outcome of another change")]
    OtherOutcome,
}

/// Why a change that a socket requests is not passed on.
#[derive(Debug, thiserror::Error)]
pub enum NotRequested {
    /// The queue is full: the change, for [`Rooms::request_later`].
    #[error("the queue is full")]
    NoRoom(RoomChange),
    /// The client has reached `limits.stored_bytes_per_minute`.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
}

fn is_new_member(outcome: RoomOutcome) -> Option<bool> {
    match outcome {
        RoomOutcome::Joined { newly, .. } => Some(newly),
        _ => None,
    }
}

/// What the RoomManager and its handle use.
pub struct Dependencies {
    /// Decides and writes changes.
    pub journal: Recipient<Perform<RoomChange>>,
    /// Delivers frames to sessions.
    pub relays: Arc<Relays>,
    /// The other nodes.
    pub backplane: Arc<dyn Backplane>,
    /// The database.
    pub store: Store,
    /// The accounts of members.
    pub accounts: Arc<Accounts>,
    /// For `limits.rooms_per_user`.
    pub settings: LiveSettings,
    /// The time of events.
    pub clock: Clock,
}

/// Clones are handles of the same RoomManager.
#[derive(Clone)]
pub struct Rooms {
    manager: Addr<RoomManager>,
    relays: Arc<Relays>,
    store: Store,
    accounts: Arc<Accounts>,
    settings: LiveSettings,
    places: Places,
}

impl fmt::Debug for Rooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rooms").field("places", &self.places).finish_non_exhaustive()
    }
}

impl Rooms {
    /// Starts the RoomManager.
    pub fn start(arbiter: &ArbiterHandle, with: Dependencies) -> Self {
        let (relays, store) = (with.relays.clone(), with.store.clone());
        let (accounts, settings) = (with.accounts.clone(), with.settings.clone());
        let manager = RoomManager::new(with);
        let manager = Context::start_in_arbiter(arbiter, |_| manager);
        Self { manager, relays, store, accounts, settings, places: Places::default() }
    }

    /// Creates a room, whose owner is its creator. Returns it as its creator sees it.
    ///
    /// # Errors
    /// The reason of a refusal, or a failure.
    pub async fn create(
        &self,
        creator: Participant,
        name: String,
        description: Option<String>,
        is_private: bool,
    ) -> Result<RoomView, RoomError> {
        let client = creator.client;
        let create = RoomChange::Create { creator, name, description, is_private };
        let room = self
            .change(create, |outcome| match outcome {
                RoomOutcome::Created(room) => Some(room.id),
                _ => None,
            })
            .await?;
        tracing::info!(%room, creator = %client, "room created");
        self.view(room, client).await
    }

    /// Makes a client a member. Returns false if it was one already.
    ///
    /// # Errors
    /// The reason of a refusal, or a failure.
    pub async fn join(&self, room: RoomId, who: Participant) -> Result<bool, RoomError> {
        self.change(RoomChange::Join { room, who, wanted: Wanted::Nothing }, is_new_member).await
    }

    /// Makes a client a member at the request of `by`. Returns false if it was one already.
    ///
    /// # Errors
    /// The reason of a refusal, or a failure.
    pub async fn add(&self, room: RoomId, by: ClientId, who: ClientRef, role: RoomRole) -> Result<bool, RoomError> {
        // first, so that a caller who may not see the room does not learn which clients exist
        self.check_member(room, by).await?;
        let who = self.accounts.look_up(who).await?.participant();
        self.change(RoomChange::Add { room, by, who, role }, is_new_member).await
    }

    /// Gives a member another role at the request of `by`.
    ///
    /// # Errors
    /// The reason of a refusal, or a failure.
    pub async fn set_role(
        &self,
        room: RoomId,
        by: ClientId,
        whose: ClientRef,
        role: RoomRole,
    ) -> Result<(), RoomError> {
        let whose = self.other_member(room, by, whose).await?;
        self.change(RoomChange::SetRole { room, by, whose, role }, |_| Some(())).await
    }

    /// Ends a client's membership.
    ///
    /// # Errors
    /// The reason of a refusal, or a failure.
    pub async fn leave(&self, room: RoomId, who: ClientId) -> Result<(), RoomError> {
        self.change(RoomChange::Leave { room, who }, |_| Some(())).await
    }

    /// Ends the membership of `whose` at the request of `by`.
    ///
    /// # Errors
    /// The reason of a refusal, or a failure.
    pub async fn remove(&self, room: RoomId, by: ClientId, whose: ClientRef) -> Result<(), RoomError> {
        let whose = self.other_member(room, by, whose).await?;
        self.change(RoomChange::Remove { room, by, whose }, |_| Some(())).await
    }

    /// Stores a message, unless its author has posted it before under this `client_msg_id`.
    ///
    /// # Errors
    /// The reason of a refusal, or a failure.
    pub async fn post(
        &self,
        room: RoomId,
        author: Participant,
        content: Arc<str>,
        client_msg_id: Option<String>,
    ) -> Result<Arc<ChatMessage>, RoomError> {
        let post = RoomChange::Post { room, author, content, client_msg_id };
        self.change(post, |outcome| match outcome {
            RoomOutcome::Posted { message, .. } => Some(message),
            _ => None,
        })
        .await
    }

    /// Replaces the content of a message.
    ///
    /// # Errors
    /// The reason of a refusal, or a failure.
    pub async fn edit(
        &self,
        room: RoomId,
        message: MessageId,
        by: ClientId,
        content: Arc<str>,
    ) -> Result<Arc<ChatMessage>, RoomError> {
        let edit = RoomChange::Edit { room, message, by, content };
        self.change(edit, |outcome| match outcome {
            RoomOutcome::Edited(message) => Some(message),
            _ => None,
        })
        .await
    }

    /// Removes the content of a message.
    ///
    /// # Errors
    /// The reason of a refusal, or a failure.
    pub async fn delete(&self, room: RoomId, message: MessageId, by: ClientId) -> Result<(), RoomError> {
        self.change(RoomChange::Delete { room, message, by }, |_| Some(())).await
    }

    /// Marks all messages up to this one as read. Returns the position of the mark.
    ///
    /// # Errors
    /// The reason of a refusal, or a failure.
    pub async fn mark_read(&self, room: RoomId, message: MessageId, by: ClientId) -> Result<MessageId, RoomError> {
        self.change(RoomChange::Read { room, message, by }, |outcome| match outcome {
            RoomOutcome::MarkedRead { message, .. } => Some(message),
            _ => None,
        })
        .await
    }

    async fn change<T>(&self, change: RoomChange, read: impl FnOnce(RoomOutcome) -> Option<T>) -> Result<T, RoomError> {
        self.charge(&change)?;
        read(self.ask(change, None).await?).ok_or(RoomError::OtherOutcome)
    }

    fn charge(&self, change: &RoomChange) -> Result<(), OverLimit> {
        let (client, _) = change.clients();
        change.stored_bytes().map_or(Ok(()), |bytes| self.store.charge_stored(client, bytes))
    }

    /// Ends all memberships of a client that is about to be deleted, and tells the rooms.
    ///
    /// # Errors
    /// The database does not take the changes; some memberships may have ended.
    pub async fn leave_all(&self, client: ClientId) -> Result<(), RoomError> {
        let rooms = self.store.rooms_of(client).await?;
        // concurrently, so that they are written together
        let leave = rooms.into_iter().map(|room| self.ask(RoomChange::Leave { room, who: client }, None));
        for left in join_all(leave).await {
            // other refusals mean that the membership has ended already
            if let Err(refusal @ (RoomRefusal::DatabaseUnavailable | RoomRefusal::StorageFull)) = left {
                return Err(refusal.into());
            }
        }
        Ok(())
    }

    /// Passes on a change that a socket requests, unless the queue is full. The socket gets the outcome.
    ///
    /// # Errors
    /// The change is not passed on.
    pub fn request(
        &self,
        change: RoomChange,
        session: &SessionHandle,
        attachment: Attachment,
    ) -> Result<(), NotRequested> {
        self.charge(&change)?;
        if self.relays.is_congested() {
            return Err(NotRequested::NoRoom(change));
        }
        match self.places.try_take(change.size()) {
            Some(place) => {
                let socket = Some((session.clone(), attachment));
                self.manager.do_send(Ask { change, socket, answer: None, place });
                Ok(())
            }
            None => Err(NotRequested::NoRoom(change)),
        }
    }

    /// Passes on a change that [`Rooms::request`] had no room for, as soon as the queue has space.
    pub async fn request_later(&self, change: RoomChange, session: SessionHandle, attachment: Attachment) {
        if let Ok(place) = self.place(&change).await {
            self.manager.do_send(Ask { change, socket: Some((session, attachment)), answer: None, place });
        }
    }

    /// Requests a change and waits for the outcome. A socket that joins is in the room by then.
    ///
    /// # Errors
    /// The reason of a refusal, or a failure.
    pub async fn ask(
        &self,
        change: RoomChange,
        socket: Option<(SessionHandle, Attachment)>,
    ) -> Result<RoomOutcome, RoomRefusal> {
        let place = self.place(&change).await?;
        let (answer, decided) = oneshot::channel();
        self.manager.do_send(Ask { change, socket, answer: Some(answer), place });
        match patience::wait(decided).await {
            Ok(Ok(decided)) => decided,
            _ => Err(RoomRefusal::DatabaseUnavailable),
        }
    }

    async fn place(&self, change: &RoomChange) -> Result<Place, RoomRefusal> {
        self.relays.uncongested().await;
        self.places.take(change.size()).await.map_err(|_| RoomRefusal::DatabaseUnavailable)
    }

    /// For actors that send the RoomManager this message themselves.
    pub(crate) fn recipient<M>(&self) -> Recipient<M>
    where
        M: Message<Result: Send> + Send + 'static,
        RoomManager: Handler<M>,
        <RoomManager as Actor>::Context: ToEnvelope<RoomManager, M>,
    {
        self.manager.clone().recipient()
    }
}
