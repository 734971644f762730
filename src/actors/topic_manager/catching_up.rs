//! Subscribers that first get what they missed of a topic's history. The handle reads it (`handle/catch_up.rs`); what is
//! published meanwhile is held back here.

use std::{collections::HashSet, sync::Arc};

use actix::{Handler, MessageResult};
use bytes::Bytes;

use super::{
    TopicManager,
    messages::{CatchUp, CatchUpEnded, GetSession, GotHistory},
};
use crate::{
    delivery::SessionHandle,
    domain::{
        ids::{ClientId, TopicId},
        subscriptions::{
            Audience, Location, Members,
            catching_up::{Attempt, CaughtUp},
        },
    },
};

impl TopicManager {
    /// Ends a client's subscription to a topic, or to a pattern with this text. If it still gets the topic's publications by a
    /// pattern, it gets those that were held back for it.
    pub(super) fn unsubscribe(&mut self, client: ClientId, id: &TopicId) {
        let held = self.catch_ups.end(client, id);
        self.subscriptions.unsubscribe(client, id);
        if !held.is_empty() && self.subscriptions.is_subscribed(client, id.as_str()) {
            self.send_held(client, held);
        }
    }

    /// Sends a client what was held back for it.
    fn send_held(&self, client: ClientId, frames: Vec<Bytes>) {
        let Some(session) = self.subscriptions.session_of(client) else { return };
        let member: Members<SessionHandle> = Arc::new([session.clone()]);
        for frame in frames {
            self.relays.publish(session.worker(), member.clone(), None, frame);
        }
    }

    /// An audience without some clients.
    pub(super) fn without(
        &self,
        audience: &Audience<SessionHandle>,
        clients: &[ClientId],
    ) -> Arc<Audience<SessionHandle>> {
        let left_out: HashSet<u64> =
            clients.iter().filter_map(|client| self.subscriptions.session_of(*client)).map(Location::id).collect();
        let sessions = audience.workers.iter().flat_map(|(_, members)| members.iter());
        Arc::new(Audience::of(sessions.filter(|session| !left_out.contains(&session.id())).cloned()))
    }
}

impl Handler<CatchUp> for TopicManager {
    type Result = Option<(SessionHandle, Attempt)>;

    fn handle(&mut self, CatchUp { client, topic }: CatchUp, _: &mut Self::Context) -> Self::Result {
        let session = self.subscriptions.session_of(client)?.clone();
        Some((session, self.catch_ups.begin(client, topic)))
    }
}

impl Handler<GotHistory> for TopicManager {
    type Result = MessageResult<GotHistory>;

    fn handle(&mut self, got: GotHistory, _: &mut Self::Context) -> Self::Result {
        let GotHistory { client, topic, attempt, last } = got;
        MessageResult(match self.catch_ups.caught_up(client, &topic, &attempt, last) {
            CaughtUp::Live(frames) => {
                self.send_held(client, frames);
                CaughtUp::Live(())
            }
            CaughtUp::Behind => CaughtUp::Behind,
            CaughtUp::Over => CaughtUp::Over,
        })
    }
}

impl Handler<GetSession> for TopicManager {
    type Result = Option<SessionHandle>;

    fn handle(&mut self, GetSession(client): GetSession, _: &mut Self::Context) -> Self::Result {
        self.subscriptions.session_of(client).cloned()
    }
}

impl Handler<CatchUpEnded> for TopicManager {
    type Result = bool;

    fn handle(&mut self, ended: CatchUpEnded, _: &mut Self::Context) -> bool {
        let CatchUpEnded { client, topic, attempt } = ended;
        let is_on = !attempt.is_over();
        if is_on {
            self.unsubscribe(client, &topic);
            self.tell_interest();
        }
        is_on
    }
}
