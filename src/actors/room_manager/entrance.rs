//! The way to the RoomManager. What may wait there is bounded, and nobody adds to what the workers do not keep up with:
//! whoever asks for more waits outside, a session without reading from its peer.

use std::{fmt, sync::Arc};

use actix::Addr;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Ask, RoomManager};
use crate::{
    delivery::{Relays, SessionHandle},
    domain::rooms::{Attachment, Change, Outcome, Refusal},
    store::patience,
};

/// Kilobytes that may wait.
const PLACES: usize = 16 * 1024;

/// See the module; clones are the same way.
#[derive(Clone)]
pub struct Rooms {
    manager: Addr<RoomManager>,
    relays: Arc<Relays>,
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
    /// To this RoomManager.
    pub fn new(manager: Addr<RoomManager>, relays: Arc<Relays>) -> Self {
        Self { manager, relays, places: Arc::new(Semaphore::new(PLACES)) }
    }

    /// The RoomManager itself, for questions.
    pub fn manager(&self) -> &Addr<RoomManager> {
        &self.manager
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
}
