//! Subscriptions over the socket (contract section 12), in the dialects of devices and of chat in any number of rooms.

use actix::{Actor, ActorFutureExt, AsyncContext, WrapFuture};

use super::{Dialect, Session};
use crate::{
    domain::ids::TopicId,
    protocol::{
        chat,
        close_code::CloseCode,
        inbound::{self, Frame},
        outbound,
    },
};

impl Session {
    /// Handles a frame that is about a subscription. The socket is not read until it is answered.
    pub(super) fn on_subscription(&mut self, frame: &Frame<'_>, context: &mut <Self as Actor>::Context) {
        let Some(account) = self.outbox.handle().account() else { return };
        let most = self.broker.settings.load().limits.topic_id_chars;
        let request = match inbound::subscription(frame, account.id, most) {
            Ok(request) => request,
            Err(error) => return self.refuse(error, "Invalid topic message format", frame),
        };
        self.bad_frames = 0;
        let (topic, wanted, beginning) = (TopicId::from(&*request.topic), request.wanted, request.beginning);
        let msgid = frame.msgid().map(|msgid| msgid.into_owned());
        // receipts of earlier publications come before the answer
        let earlier = std::mem::take(&mut self.unsettled.publications).then(|| self.outbox.handle().clone());
        let (broker, handle, dialect) = (self.broker.clone(), self.outbox.handle().clone(), self.dialect);
        let change = async move {
            let answer = |offset| {
                let answer = match dialect {
                    Dialect::Device => outbound::subscription,
                    _ => chat::subscription,
                };
                answer(topic.as_str(), wanted, offset, broker.clock.now())
            };
            if let Some(session) = earlier {
                broker.topics.publications_passed(session).await;
            }
            let changed = match (wanted, beginning) {
                (true, Some(beginning)) => {
                    let subscribed = |offset| (handle, answer(Some(offset)));
                    // the answer comes before what the client missed
                    broker.topics.subscribe_from(&account, &topic, beginning, subscribed).await.map(|()| None)
                }
                (true, None) => broker.topics.subscribe(&account, &topic).await.map(|offset| Some(answer(offset))),
                (false, _) => broker.topics.unsubscribe(account.id, &topic).await.map(|()| Some(answer(None))),
            };
            (topic, changed)
        };
        // a task, which ends also if the socket does not wait for it: half of it would leave the client without publications
        let change = actix::spawn(change);
        context.wait(change.into_actor(self).map(move |changed, session, _| match changed {
            Err(_) => session.outbox.close(CloseCode::ServerError),
            Ok((_, Ok(answer))) => {
                answer.inspect(|answer| session.send(answer));
            }
            Ok((topic, Err(error))) => session.tell_topic_error(&error, &topic, msgid.as_deref()),
        }));
    }
}
