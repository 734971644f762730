//! The way of replies, and of commands that are not stored first, from worker threads to the CommandDispatcher. What a
//! thread has for it goes as one message at the end of the thread's tick, so that the two threads take turns once per tick,
//! not once per command.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use actix::{Addr, Message};

use super::{
    CommandDispatcher,
    messages::{Begin, Reply, Waiter},
};
use crate::delivery::tick;

/// Inputs that may be on their way; sockets with more are not read until there is room.
const ROOM: usize = 4096;

/// Something that a worker thread has for the CommandDispatcher.
pub(super) enum Input {
    /// A command that is not stored begins; the waiter is told its end, or why it may not begin.
    Begin(Begin, Waiter),
    /// A client has said something about a command.
    Reply(Reply),
}

/// All inputs of a tick, in order.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Inputs(pub(super) Vec<Input>);

/// See the module; clones share the count.
#[derive(Clone)]
pub(super) struct InputQueue {
    dispatcher: Addr<CommandDispatcher>,
    /// inputs that the dispatcher has not handled, which it counts down
    under_way: Arc<AtomicUsize>,
}

thread_local! {
    static GATHERED: RefCell<Vec<Input>> = const { RefCell::new(Vec::new()) };
}

impl InputQueue {
    pub(super) fn new(dispatcher: Addr<CommandDispatcher>, under_way: Arc<AtomicUsize>) -> Self {
        Self { dispatcher, under_way }
    }

    pub(super) fn has_room(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) < ROOM
    }

    /// Hands an input over at the end of the tick.
    pub(super) fn push(&self, input: Input) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let is_first = GATHERED.with_borrow_mut(|gathered| {
            gathered.push(input);
            gathered.len() == 1
        });
        if is_first {
            let dispatcher = self.dispatcher.clone();
            tick::at_end_do(move || dispatcher.do_send(Inputs(GATHERED.take())));
        }
    }
}
