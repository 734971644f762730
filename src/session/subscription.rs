//! Subscriptions over the socket (contract section 12), in the dialects of devices and of chat in any number of rooms.

use actix::{Actor, ActorFutureExt, AsyncContext, WrapFuture};

use super::{Dialect, Session};
use crate::{
    domain::ids::TopicId,
    protocol::{
        inbound::{self, Frame},
        outbound,
    },
};

impl Session {
    /// Handles a frame that is about a subscription. The socket is not read until it is answered.
    pub(super) fn on_subscription(&mut self, frame: &Frame<'_>, context: &mut <Self as Actor>::Context) {
        let Some(account) = self.outbox.handle().account() else { return };
        let most = self.broker.settings.limits.topic_id_chars;
        let request = match inbound::subscription(frame, account.id, most) {
            Ok(request) => request,
            Err(error) => return self.refuse(error, "Invalid topic message format", frame),
        };
        self.bad_frames = 0;
        let (topic, wanted) = (TopicId::from(&*request.topic), request.wanted);
        let msgid = frame.msgid().map(|msgid| msgid.into_owned());
        // receipts of earlier publications come before the answer
        let earlier = std::mem::take(&mut self.has_published).then(|| self.outbox.handle().clone());
        let broker = self.broker.clone();
        let change = async move {
            let changed = if wanted {
                broker.topics.subscribe(&account, &topic).await
            } else {
                broker.topics.unsubscribe(account.id, &topic).await
            };
            if let Some(session) = earlier {
                broker.topics.publications_passed(session).await;
            }
            (topic, changed)
        };
        context.wait(change.into_actor(self).map(move |(topic, changed), session, _| match changed {
            Ok(()) => {
                let answer = match session.dialect {
                    Dialect::Device => outbound::subscription,
                    _ => outbound::chat_subscription,
                };
                session.send(&answer(topic.as_str(), wanted, session.now()));
            }
            Err(error) => session.tell_topic_error(&error, &topic, msgid.as_deref()),
        }));
    }
}
