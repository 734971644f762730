//! The way to the RoomManager. What may wait there is bounded, and nobody adds to what the workers do not keep up with:
//! whoever asks for more waits outside, a session without reading from its peer.

use std::{collections::HashMap, fmt, sync::Arc};

use actix::{Actor, Addr, ArbiterHandle, Handler, MailboxError, Message, Recipient, dev::ToEnvelope};
use futures_util::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Ask, GetPresence, GetSocketCounts, RoomManager};
use crate::{
    actors::journal::Journal,
    delivery::{Relays, SessionHandle},
    domain::{
        ids::{ClientId, RoomId},
        rooms::{Attachment, Change, Outcome, Participant, Refusal},
    },
    store::{Store, StoreError, patience},
};

/// Why something can't be done with rooms.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// It was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The RoomManager has ended.
    #[error(transparent)]
    Stopped(#[from] MailboxError),
}

/// Kilobytes that may wait.
const PLACES: usize = 16 * 1024;

/// See the module; clones are the same way.
#[derive(Clone)]
pub struct Rooms {
    manager: Addr<RoomManager>,
    relays: Arc<Relays>,
    store: Store,
    places: Arc<Semaphore>,
}

impl fmt::Debug for Rooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rooms").field("places", &self.places.available_permits()).finish_non_exhaustive()
    }
}

fn places(change: &Change) -> u32 {
    (change.size() / 1024 + 1).min(PLACES) as u32
}

impl Rooms {
    /// Starts the RoomManager, which has the Journal write.
    pub fn start(arbiter: &ArbiterHandle, journal: Addr<Journal>, relays: Arc<Relays>, store: Store) -> Self {
        let manager = RoomManager::new(journal, relays.clone());
        let manager = RoomManager::start_in_arbiter(arbiter, |_| manager);
        Self { manager, relays, store, places: Arc::new(Semaphore::new(PLACES)) }
    }

    /// Who has sockets in a room on this node, and how many.
    ///
    /// # Errors
    /// The RoomManager has ended.
    pub async fn presence(&self, room: RoomId) -> Result<Vec<(Participant, usize)>, RoomError> {
        Ok(self.manager.send(GetPresence(room)).await?)
    }

    /// How many sockets are in each room on this node, private rooms left out.
    ///
    /// # Errors
    /// The RoomManager has ended.
    pub async fn socket_counts(&self) -> Result<HashMap<RoomId, usize>, RoomError> {
        Ok(self.manager.send(GetSocketCounts).await?)
    }

    /// Ends all memberships of a client that is about to be deleted, and tells the rooms.
    ///
    /// # Errors
    /// The database does not take it; some memberships may have ended.
    pub async fn leave_all(&self, client: ClientId) -> Result<(), RoomError> {
        let rooms = self.store.rooms_of(client).await?;
        // at once, so that they are written together
        let leave = rooms.into_iter().map(|room| self.ask(Change::Leave { room, who: client }, None));
        for left in join_all(leave).await {
            // whoever has left meanwhile has left
            if let Err(refusal @ (Refusal::DatabaseUnavailable | Refusal::StorageFull)) = left {
                return Err(refusal.into());
            }
        }
        Ok(())
    }

    /// Hands over what a socket asks for, if there is room. The answer goes to the socket.
    ///
    /// # Errors
    /// The change, for [`Rooms::tell_later`]: there is no room.
    pub fn tell(&self, change: Change, session: &SessionHandle, attachment: Attachment) -> Result<(), Change> {
        if self.relays.is_congested() {
            return Err(change);
        }
        match self.places.clone().try_acquire_many_owned(places(&change)) {
            Ok(place) => {
                let socket = Some((session.clone(), attachment));
                self.manager.do_send(Ask { change, socket, answer: None, place });
                Ok(())
            }
            Err(_) => Err(change),
        }
    }

    /// Hands over what a socket asks for, when there is room.
    pub async fn tell_later(&self, change: Change, session: SessionHandle, attachment: Attachment) {
        if let Ok(place) = self.place(&change).await {
            self.manager.do_send(Ask { change, socket: Some((session, attachment)), answer: None, place });
        }
    }

    /// Asks for a change and waits for what comes of it. A socket that joins is in the room by then.
    ///
    /// # Errors
    /// Why it was refused.
    pub async fn ask(&self, change: Change, socket: Option<(SessionHandle, Attachment)>) -> Result<Outcome, Refusal> {
        let place = self.place(&change).await?;
        let (answer, decided) = oneshot::channel();
        self.manager.do_send(Ask { change, socket, answer: Some(answer), place });
        match patience::wait(decided).await {
            Ok(Ok(decided)) => decided,
            _ => Err(Refusal::DatabaseUnavailable),
        }
    }

    async fn place(&self, change: &Change) -> Result<OwnedSemaphorePermit, Refusal> {
        self.relays.uncongested().await;
        match patience::wait(self.places.clone().acquire_many_owned(places(change))).await {
            Ok(Ok(place)) => Ok(place),
            // the semaphore would be closed, which nobody does
            _ => Err(Refusal::DatabaseUnavailable),
        }
    }

    /// For whoever sends this message alone.
    pub(crate) fn recipient<M>(&self) -> Recipient<M>
    where
        M: Message<Result: Send> + Send + 'static,
        RoomManager: Handler<M>,
        <RoomManager as Actor>::Context: ToEnvelope<RoomManager, M>,
    {
        self.manager.clone().recipient()
    }
}
