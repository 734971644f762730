//! The sockets that get every change of the two-word answer.

use std::{collections::HashMap, sync::Arc};

use crate::{delivery::SessionHandle, domain::subscriptions::Audience};

/// Them, and by worker, as publications go out.
#[derive(Default)]
pub(super) struct Watchers {
    sessions: HashMap<u64, SessionHandle>,
    /// None after a change, until somebody asks
    audience: Option<Arc<Audience<SessionHandle>>>,
}

impl Watchers {
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    pub(super) fn add(&mut self, session: SessionHandle) {
        self.sessions.insert(session.id(), session);
        self.audience = None;
    }

    pub(super) fn remove(&mut self, session: &SessionHandle) {
        if self.sessions.remove(&session.id()).is_some() {
            self.audience = None;
        }
    }

    pub(super) fn audience(&mut self) -> Arc<Audience<SessionHandle>> {
        let sessions = &self.sessions;
        self.audience.get_or_insert_with(|| Arc::new(Audience::of(sessions.values().cloned()))).clone()
    }
}
