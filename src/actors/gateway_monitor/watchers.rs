//! The sockets that get the body of `GET /device_status/` at every change, and when they get it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use actix::{AsyncContext, Handler};

use super::{
    GatewayMonitor,
    messages::{AddWatcher, RemoveWatcher},
};
use crate::{delivery::SessionHandle, domain::subscriptions::Audience, metrics::Context, protocol::wire};

/// Between two frames to status sockets when nothing changes (contract section 4).
pub(super) const REFRESH: Duration = Duration::from_secs(5);

/// Between two frames to status sockets when much changes.
const GATHERING: Duration = Duration::from_millis(100);

/// The sockets, also by worker, as publications go out.
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

impl GatewayMonitor {
    /// Tells the watchers: at once, or when the last frame is a moment old.
    pub(super) fn push_soon(&mut self, context: &mut Context<Self>) {
        if self.pushing || self.watchers.is_empty() {
            return;
        }
        match GATHERING.checked_sub(self.clock().instant() - self.pushed) {
            None => self.push(context),
            Some(wait) => self.push_later(wait, context),
        }
    }

    fn push_later(&mut self, wait: Duration, context: &mut Context<Self>) {
        self.pushing = true;
        context.run_later(wait, |monitor, context| monitor.push(context));
    }

    fn push(&mut self, context: &mut Context<Self>) {
        self.pushing = false;
        if self.watchers.is_empty() {
            return;
        }
        if self.neighbours.relays.is_congested() {
            // the next frame says all that this one would have said
            self.push_later(GATHERING, context);
            return;
        }
        self.pushed = self.clock().instant();
        let frame = wire::text(&[self.board.statuses().as_bytes()]);
        for (worker, members) in &self.watchers.audience().workers {
            self.neighbours.relays.publish(*worker, members.clone(), None, frame.clone());
        }
    }
}

impl Handler<AddWatcher> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, AddWatcher(session): AddWatcher, _: &mut Self::Context) {
        self.neighbours.relays.deliver(&session, &[self.board.statuses().as_bytes()]);
        self.watchers.add(session);
    }
}

impl Handler<RemoveWatcher> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, RemoveWatcher(session): RemoveWatcher, _: &mut Self::Context) {
        self.watchers.remove(&session);
    }
}
