//! The way to the RoomManager. What may wait there is bounded: whoever asks for more waits outside, a session without
//! reading from its peer.

use std::{fmt, sync::Arc};

use actix::Addr;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Ask, RoomManager, Typing};
use crate::{
    actors::session::handle::SessionHandle,
    domain::{
        ids::RoomId,
        rooms::{Attachment, Change, Outcome, Participant, Refusal},
    },
};

/// Kilobytes that may wait.
const PLACES: usize = 16 * 1024;

/// See the module; clones are the same way.
#[derive(Clone)]
pub struct Rooms {
    manager: Addr<RoomManager>,
    places: Arc<Semaphore>,
}

impl fmt::Debug for Rooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rooms").field("places", &self.places.available_permits()).finish_non_exhaustive()
    }
}

/// What a session has for the RoomManager.
#[derive(Debug)]
pub enum Said {
    /// A change; its answer goes to the socket.
    Change(Change, Attachment),
    /// Somebody is typing.
    Typing(RoomId, Participant),
}

impl Said {
    fn places(&self) -> u32 {
        match self {
            Self::Change(change, _) => places(change),
            Self::Typing(..) => 1,
        }
    }
}

fn places(change: &Change) -> u32 {
    (change.size() / 1024 + 1).min(PLACES) as u32
}

impl Rooms {
    /// To this RoomManager.
    pub fn new(manager: Addr<RoomManager>) -> Self {
        Self { manager, places: Arc::new(Semaphore::new(PLACES)) }
    }

    /// The RoomManager itself, for questions.
    pub fn manager(&self) -> &Addr<RoomManager> {
        &self.manager
    }

    /// Hands over what a session has, if there is room.
    ///
    /// # Errors
    /// There is none: what was said, for [`Rooms::say_later`].
    pub fn say(&self, said: Said, session: &SessionHandle) -> Result<(), Said> {
        match self.places.clone().try_acquire_many_owned(said.places()) {
            Ok(place) => {
                self.hand_over(said, session.clone(), place);
                Ok(())
            }
            Err(_) => Err(said),
        }
    }

    /// Hands over what a session has when there is room.
    pub async fn say_later(&self, said: Said, session: SessionHandle) {
        // fails only when the semaphore is closed, which nobody does
        if let Ok(place) = self.places.clone().acquire_many_owned(said.places()).await {
            self.hand_over(said, session, place);
        }
    }

    fn hand_over(&self, said: Said, session: SessionHandle, place: OwnedSemaphorePermit) {
        match said {
            Said::Change(change, attachment) => {
                self.manager.do_send(Ask { change, socket: Some((session, attachment)), answer: None, place });
            }
            Said::Typing(room, who) => self.manager.do_send(Typing { room, who, session, place }),
        }
    }

    /// Asks for a change and waits for what comes of it. A socket that joins is in the room by then.
    ///
    /// # Errors
    /// Why it was refused.
    pub async fn ask(&self, change: Change, socket: Option<(SessionHandle, Attachment)>) -> Result<Outcome, Refusal> {
        let place = self.places.clone().acquire_many_owned(places(&change)).await.map_err(|_| Refusal::NotStored)?;
        let (answer, decided) = oneshot::channel();
        self.manager.do_send(Ask { change, socket, answer: Some(answer), place });
        decided.await.unwrap_or(Err(Refusal::NotStored))
    }
}
