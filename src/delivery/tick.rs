//! The end of a worker's tick.
//!
//! While a thread works through what became ready at once, frames only gather. The first of them wakes a task that stands
//! behind all that is ready; when its turn comes everything goes out, one write per socket and one message per other
//! worker.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Instant,
};

use tokio::sync::Notify;

use super::{Outbox, local};

thread_local! {
    static WAKE: RefCell<Option<Rc<Notify>>> = const { RefCell::new(None) };
    static DIRTY: RefCell<Vec<Rc<Outbox>>> = const { RefCell::new(Vec::new()) };
    static LAST: RefCell<Vec<Box<dyn FnOnce()>>> = const { RefCell::new(Vec::new()) };
    static STARTED: Instant = Instant::now();
    static CLOCK: Cell<u32> = const { Cell::new(0) };
    static NUMBER: Cell<u64> = const { Cell::new(0) };
}

/// The number of the thread's present tick.
pub fn number() -> u64 {
    NUMBER.get()
}

/// The thread's clock in seconds; exact to the second, read without a system call.
pub fn clock() -> u32 {
    CLOCK.get()
}

/// Moves the thread's clock on.
pub(super) fn advance_clock() {
    // rounded, so that ticks that come a little early or late are still a second apart; 136 years fit
    CLOCK.set(((STARTED.with(Instant::elapsed).as_millis() + 500) / 1000) as u32);
}

/// Flushes this outbox at the end of the tick. The outbox sees to it that it is in here once.
pub fn at_end(outbox: Rc<Outbox>) {
    DIRTY.with_borrow_mut(|dirty| dirty.push(outbox));
    schedule();
}

/// Does something at the end of the tick.
pub fn at_end_do(what: impl FnOnce() + 'static) {
    LAST.with_borrow_mut(|last| last.push(Box::new(what)));
    schedule();
}

/// Ends the tick soon, at the latest after all that is ready now.
pub(super) fn schedule() {
    WAKE.with_borrow_mut(|wake| wake.get_or_insert_with(start).notify_one());
}

fn start() -> Rc<Notify> {
    let wake = Rc::new(Notify::new());
    let woken = wake.clone();
    actix::spawn(async move {
        let mut scratch = Vec::new();
        let mut batch = Vec::new();
        loop {
            woken.notified().await;
            local::flush();
            NUMBER.set(NUMBER.get() + 1);
            LAST.take().into_iter().for_each(|last| last());
            DIRTY.with_borrow_mut(|dirty| std::mem::swap(dirty, &mut batch));
            batch.drain(..).for_each(|outbox| outbox.flush(&mut scratch));
        }
    });
    wake
}
