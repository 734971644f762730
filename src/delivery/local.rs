//! What a thread keeps for itself: the sessions of its worker, and what it has to hand over at the end of the tick.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use bytes::{Bytes, BytesMut};
use slab::Slab;

use super::{
    Outbox, Relays, SessionHandle,
    relay::{Batch, Delivery, Publication, Queued},
    tick,
};
use crate::domain::subscriptions::Location;

/// Publications that are joined for one write are at most so large together.
const RUN_BYTES: usize = 64 * 1024;

#[derive(Default)]
struct Local {
    /// the worker whose thread this is; none on the control arbiter
    worker: Option<usize>,
    relays: Option<Arc<Relays>>,
    sessions: Slab<Rc<Outbox>>,
    /// what came in during this tick, in order
    queued: Vec<Queued>,
    /// for each worker what it is to get
    outgoing: Vec<Vec<Delivery>>,
}

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::default();
}

/// This thread is now that worker's.
pub(super) fn become_worker(worker: usize, relays: Arc<Relays>) {
    LOCAL.with_borrow_mut(|local| {
        local.worker = Some(worker);
        local.relays = Some(relays);
    });
}

/// Adds a session to this thread's worker.
///
/// # Panics
/// On a thread that is no worker's; requests are handled on workers alone.
#[expect(clippy::expect_used, reason = "a caller on another thread is a mistake in the program, not in its input")]
pub fn insert(create: impl FnOnce(usize, usize) -> Rc<Outbox>) -> Rc<Outbox> {
    LOCAL.with_borrow_mut(|local| {
        let worker = local.worker.expect("sessions are created on worker threads");
        let entry = local.sessions.vacant_entry();
        let outbox = create(worker, entry.key());
        entry.insert(outbox.clone());
        outbox
    })
}

/// Removes a session.
pub fn remove(handle: &SessionHandle) {
    LOCAL.with_borrow_mut(|local| {
        if local.sessions.get(handle.key()).is_some_and(|outbox| outbox.handle() == handle) {
            local.sessions.remove(handle.key());
        }
    });
}

/// This session's outbox, if it is one of this thread's worker.
pub(super) fn outbox(handle: &SessionHandle) -> Where {
    LOCAL.with_borrow(|local| {
        if local.worker != Some(handle.worker()) {
            return Where::Elsewhere;
        }
        match local.sessions.get(handle.key()) {
            Some(outbox) if outbox.handle() == handle => Where::Here(outbox.clone()),
            _ => Where::Gone,
        }
    })
}

/// Where a session is, seen from this thread.
pub(super) enum Where {
    /// On this thread.
    Here(Rc<Outbox>),
    /// On this thread no more.
    Gone,
    /// On another thread.
    Elsewhere,
}

/// All sessions of this thread's worker.
pub(super) fn sessions() -> Vec<Rc<Outbox>> {
    LOCAL.with_borrow(|local| local.sessions.iter().map(|(_, outbox)| outbox.clone()).collect())
}

/// Queues something for another worker.
pub(super) fn hand_over(worker: usize, delivery: Delivery, relays: &Arc<Relays>) {
    LOCAL.with_borrow_mut(|local| {
        if local.relays.is_none() {
            local.relays = Some(relays.clone());
        }
        if local.outgoing.len() <= worker {
            local.outgoing.resize_with(worker + 1, Vec::new);
        }
        local.outgoing[worker].push(delivery);
    });
    tick::schedule();
}

/// Queues something for the end of the tick.
pub(super) fn queue(queued: Queued) {
    LOCAL.with_borrow_mut(|local| local.queued.push(queued));
    tick::schedule();
}

/// Hands everything over that gathered during the tick.
pub(super) fn flush() {
    let queued = LOCAL.with_borrow_mut(|local| std::mem::take(&mut local.queued));
    let (mut run, mut bytes): (Vec<Publication>, usize) = (Vec::new(), 0);
    for queued in queued {
        match queued {
            Queued::Publication(next) => {
                bytes += next.frame.len();
                let joins = run.first().is_none_or(|first| Arc::ptr_eq(&next.members, &first.members));
                if !joins || bytes > RUN_BYTES {
                    publish_run(&run);
                    run.clear();
                    bytes = next.frame.len();
                }
                run.push(next);
            }
            Queued::Mark(mark) => {
                publish_run(&run);
                run.clear();
                bytes = 0;
                drop(mark);
            }
            Queued::Close { session, code } => {
                publish_run(&run);
                run.clear();
                bytes = 0;
                if let Where::Here(outbox) = outbox(&session) {
                    outbox.close(code);
                }
            }
        }
    }
    publish_run(&run);
    LOCAL.with_borrow_mut(|local| {
        let Some(relays) = &local.relays else { return };
        for (worker, deliveries) in local.outgoing.iter_mut().enumerate() {
            if !deliveries.is_empty() {
                relays.send_batch(worker, Batch { deliveries: std::mem::take(deliveries) });
            }
        }
    });
}

/// Publications to the same members: one buffer for all, except for those members who sent one of them.
fn publish_run(run: &[Publication]) {
    let Some(first) = run.first() else { return };
    let joined: Bytes = if run.len() == 1 {
        first.frame.clone()
    } else {
        let mut joined = BytesMut::with_capacity(run.iter().map(|one| one.frame.len()).sum());
        run.iter().for_each(|one| joined.extend_from_slice(&one.frame));
        joined.freeze()
    };
    let is_sender = |member: &SessionHandle| run.iter().any(|one| one.sender == Some(member.id()));
    let has_senders = run.iter().any(|one| one.sender.is_some());
    LOCAL.with_borrow(|local| {
        for member in first.members.iter() {
            let Some(outbox) = local.sessions.get(member.key()).filter(|outbox| outbox.handle() == member) else {
                continue;
            };
            if has_senders && is_sender(member) {
                run.iter().filter(|one| one.sender != Some(member.id())).for_each(|one| outbox.send_shared(&one.frame));
            } else {
                outbox.send_shared(&joined);
            }
        }
    });
}
