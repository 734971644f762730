//! Thread-local state: the sessions of the thread's worker, and the deliveries that leave at the end of the tick.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use bytes::{Bytes, BytesMut};
use slab::Slab;

use super::{
    Outbox, Relays, SessionHandle,
    relay::{Batch, Delivery, Publication, Queued},
    tick,
};
use crate::domain::subscriptions::Location;

/// Largest total of publications that are joined into one buffer.
const RUN_BYTES: usize = 64 * 1024;

#[derive(Default)]
struct Local {
    /// this thread's worker; none on the control arbiter
    worker: Option<usize>,
    relays: Option<Arc<Relays>>,
    sessions: Slab<Rc<Outbox>>,
    /// publications, marks and closes received during this tick, in order
    queued: Vec<Queued>,
    /// deliveries to other workers, by worker
    outgoing: Vec<Vec<Delivery>>,
}

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::default();
}

/// Makes this thread the thread of a worker.
pub(super) fn become_worker(worker: usize, relays: Arc<Relays>) {
    LOCAL.with_borrow_mut(|local| {
        local.worker = Some(worker);
        local.relays = Some(relays);
    });
}

/// Adds a session to this thread's worker. `create` gets the worker's number and the session's key.
///
/// # Panics
/// On a thread that is not a worker's. Requests are handled only on workers.
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

/// Removes a session from this thread's worker. Has no effect if its key belongs to another session by now.
pub fn remove(handle: &SessionHandle) {
    LOCAL.with_borrow_mut(|local| {
        if local.sessions.get(handle.key()).is_some_and(|outbox| outbox.handle() == handle) {
            local.sessions.remove(handle.key());
        }
    });
}

/// Looks up the outbox of a session.
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

/// The place of a session relative to this thread.
pub(super) enum Where {
    /// The session belongs to this thread's worker.
    Here(Rc<Outbox>),
    /// The session belonged to this thread's worker and has ended.
    Gone,
    /// The session belongs to another thread's worker.
    Elsewhere,
}

/// The outboxes of all sessions of this thread's worker.
pub(super) fn sessions() -> Vec<Rc<Outbox>> {
    LOCAL.with_borrow(|local| local.sessions.iter().map(|(_, outbox)| outbox.clone()).collect())
}

/// Adds a delivery to the next batch for another worker, which leaves at the end of the tick.
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

/// Queues a publication, mark or close for the end of the tick.
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

/// Sends publications to the same members as one shared buffer. Members that sent one of them get the others one by one.
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
                run.iter()
                    .filter(|one| one.sender != Some(member.id()))
                    .for_each(|one| outbox.send_shared(&one.frame, 1));
            } else {
                outbox.send_shared(&joined, run.len());
            }
        }
    });
}
