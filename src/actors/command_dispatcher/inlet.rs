//! The way from worker threads to the CommandDispatcher: what a thread has for it during a tick goes as one message at the
//! tick's end, so that the two threads take turns once per tick, not once per command.

use std::{
    cell::RefCell,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use actix::{Addr, Message};
use tokio::sync::oneshot;

use super::{Answer, CommandDispatcher, Dispatch, NoPlace, Progress};
use crate::{delivery::tick, domain::commands::Command, error::ApiError};

/// Items that may be on their way; sessions with more are not read until there is room.
const ROOM: usize = 4096;

/// What becomes of a [`Dispatch`].
pub(super) type Dispatched = Result<oneshot::Receiver<Arc<Command>>, NoPlace>;

/// Something for the CommandDispatcher.
pub enum Item {
    /// A command begins.
    Dispatch(Dispatch, oneshot::Sender<Dispatched>),
    /// A client answers.
    Answer(Answer),
    /// A client tells how far it is.
    Progress(Progress),
}

/// What gathered during a tick, in order.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Items(pub(super) Vec<Item>);

/// See the module; clones are the same way.
#[derive(Clone)]
pub struct Inlet {
    dispatcher: Addr<CommandDispatcher>,
    under_way: Arc<AtomicUsize>,
}

impl fmt::Debug for Inlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inlet").field("under_way", &self.under_way).finish_non_exhaustive()
    }
}

thread_local! {
    static GATHERED: RefCell<Vec<Item>> = const { RefCell::new(Vec::new()) };
}

impl Inlet {
    /// To this dispatcher, which counts down `under_way`.
    pub fn new(dispatcher: Addr<CommandDispatcher>, under_way: Arc<AtomicUsize>) -> Self {
        Self { dispatcher, under_way }
    }

    /// Whether there is room for more.
    pub fn has_room(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) < ROOM
    }

    /// Hands something over at the end of the tick.
    pub fn push(&self, item: Item) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let first = GATHERED.with_borrow_mut(|gathered| {
            gathered.push(item);
            gathered.len() == 1
        });
        if first {
            let dispatcher = self.dispatcher.clone();
            tick::at_end_do(move || dispatcher.do_send(Items(GATHERED.take())));
        }
    }

    /// Gives a command. Answers what to wait for.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub async fn dispatch(&self, dispatch: Dispatch) -> Result<oneshot::Receiver<Arc<Command>>, ApiError> {
        let (begun, dispatched) = oneshot::channel();
        self.push(Item::Dispatch(dispatch, begun));
        let dispatched = dispatched.await.map_err(|_| ApiError::Internal("the dispatcher is gone".to_owned()))?;
        Ok(dispatched?)
    }
}
