//! The sockets that get every change of the two-word answer.

use std::collections::HashMap;

use crate::{
    actors::session::handle::SessionHandle,
    domain::subscriptions::{Location, Members},
};

/// Them, and by worker, as publications go out.
#[derive(Default)]
pub(super) struct Watchers {
    sessions: HashMap<u64, SessionHandle>,
    /// None after a change, until somebody asks
    by_worker: Option<Vec<(usize, Members<SessionHandle>)>>,
}

impl Watchers {
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    pub(super) fn add(&mut self, session: SessionHandle) {
        self.sessions.insert(session.id(), session);
        self.by_worker = None;
    }

    pub(super) fn remove(&mut self, session: &SessionHandle) {
        if self.sessions.remove(&session.id()).is_some() {
            self.by_worker = None;
        }
    }

    /// For each worker that has any: its index and those there.
    pub(super) fn by_worker(&mut self) -> &[(usize, Members<SessionHandle>)] {
        let sessions = &self.sessions;
        self.by_worker.get_or_insert_with(|| {
            let mut by_worker: HashMap<usize, Vec<SessionHandle>> = HashMap::new();
            for session in sessions.values() {
                by_worker.entry(session.worker()).or_default().push(session.clone());
            }
            by_worker.into_iter().map(|(worker, members)| (worker, members.into())).collect()
        })
    }
}
