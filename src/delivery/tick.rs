//! The end of a worker's tick.
//!
//! A tick is one pass of the thread's runtime over the tasks that are ready. During a tick frames are only collected. The
//! first of them wakes a task, which is queued behind all ready tasks. When it runs, the tick ends: each socket gets one
//! write, each other worker one message. That task is [`run`], which each thread that delivers must spawn.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Instant,
};

use tokio::sync::{Notify, oneshot};

use super::{Outbox, local};
use crate::metrics::traffic;

thread_local! {
    static WAKE: Rc<Notify> = Rc::new(Notify::new());
    static DIRTY: RefCell<Vec<Rc<Outbox>>> = const { RefCell::new(Vec::new()) };
    static LAST: RefCell<Vec<Box<dyn FnOnce()>>> = const { RefCell::new(Vec::new()) };
    static STARTED: Instant = Instant::now();
    static CLOCK: Cell<u32> = const { Cell::new(0) };
    static NUMBER: Cell<u64> = const { Cell::new(0) };
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The number of the thread's current tick.
pub fn number() -> u64 {
    NUMBER.get()
}

/// Seconds since the thread's start, exact to one second, read without a system call.
pub fn clock() -> u32 {
    CLOCK.get()
}

/// Updates the thread's clock; called once a second.
pub(super) fn advance_clock() {
    // rounded, so that calls that are slightly early or late still advance the clock by one; a u32 lasts for 136 years
    CLOCK.set(((STARTED.with(Instant::elapsed).as_millis() + 500) / 1000) as u32);
}

/// Flushes this outbox at the end of the tick. The caller adds an outbox at most once per tick.
pub fn at_end(outbox: Rc<Outbox>) {
    DIRTY.with_borrow_mut(|dirty| dirty.push(outbox));
    schedule();
}

/// Runs a closure at the end of the tick, after the batches have left and before outboxes are flushed.
pub fn at_end_do(what: impl FnOnce() + 'static) {
    LAST.with_borrow_mut(|last| last.push(Box::new(what)));
    schedule();
}

/// Completes when the current tick is over: what it collected for other threads has left.
pub async fn over() {
    let (end, over) = oneshot::channel::<()>();
    at_end_do(move || drop(end));
    // completes with an error, since the sender is dropped
    let _ = over.await;
}

/// Schedules the end of the tick, behind the tasks that are ready now.
pub(super) fn schedule() {
    if BEGAN.get().is_none() {
        BEGAN.set(Some(Instant::now()));
    }
    WAKE.with(|wake| wake.notify_one());
}

/// Ends the ticks of this thread. Never returns; when it panics, the thread delivers nothing any more.
pub async fn run() {
    let wake = WAKE.with(Rc::clone);
    let mut scratch = Vec::new();
    let mut batch = Vec::new();
    loop {
        wake.notified().await;
        local::flush();
        NUMBER.set(NUMBER.get() + 1);
        LAST.take().into_iter().for_each(|last| last());
        DIRTY.with_borrow_mut(|dirty| std::mem::swap(dirty, &mut batch));
        batch.drain(..).for_each(|outbox| outbox.flush(&mut scratch));
        if let Some(began) = BEGAN.take() {
            traffic::tick(began.elapsed().as_secs_f64());
        }
    }
}
