//! The device dialect (contract section 5): direct messages and topic messages, each answered with a receipt or an error.
//! Those that are to be acknowledged are in [`super::acknowledged`].

use actix::{Actor, ActorFutureExt, AsyncContext, WrapFuture};
use bytes::Bytes;

use super::{Session, Unsettled};
use crate::{
    actors::{
        message_manager::UnderWay,
        topic_manager::{NotPublished, Publish, TopicError},
    },
    cluster::Origin,
    delivery::tick,
    domain::{
        ids::{ClientId, TopicId},
        subscriptions::Location,
    },
    protocol::{
        close_code::CloseCode,
        error_code::ErrorCode,
        inbound::{self, BadMessage, Frame, Message},
        outbound::{self, About, excerpt},
        wire,
    },
};

impl Session {
    pub(super) fn on_device_text(&mut self, text: &str, context: &mut <Self as Actor>::Context) {
        if self.broker.cluster.is_outdated() {
            return self.once_current(text.to_owned(), context);
        }
        let Ok(frame) = self.common(text, context) else { return };
        let Some(sender) = self.client() else { return };
        let Unsettled { publications, acknowledged_messages, .. } = self.unsettled;
        if inbound::is_ack(&frame) {
            self.on_ack(&frame, sender, context);
        } else if inbound::is_subscription(&frame) {
            self.on_subscription(&frame, context);
        } else if frame.topic_id.is_some() {
            if acknowledged_messages || !self.forwards.is_idle() {
                return self.after_receipts(text.to_owned(), context);
            }
            self.on_topic_message(&frame, text, sender, context);
        } else if inbound::is_acknowledged(&frame) {
            if publications || !self.forwards.is_idle() {
                return self.after_receipts(text.to_owned(), context);
            }
            self.on_acknowledged_message(&frame, text, sender, context);
        } else if publications || acknowledged_messages {
            self.after_receipts(text.to_owned(), context);
        } else {
            self.on_direct_message(&frame, text, sender, context);
        }
    }

    /// Handles a frame once this node knows what has happened at others: another socket may have replaced this one there.
    fn once_current(&mut self, text: String, context: &mut <Self as Actor>::Context) {
        let broker = self.broker.clone();
        let current = async move { broker.cluster.current().await };
        context.wait(current.into_actor(self).map(move |(), session, context| {
            if session.outbox.is_open() {
                session.on_device_text(&text, context);
            }
        }));
    }

    /// Handles a message that follows messages of another kind. Publications and acknowledged messages take longer ways, so the
    /// message waits until they are delivered: a sender's frames and their receipts keep their order. A sender of only one kind
    /// never waits.
    fn after_receipts(&mut self, text: String, context: &mut <Self as Actor>::Context) {
        let settled = self.settle();
        context.wait(settled.into_actor(self).map(move |(), session, context| {
            if session.outbox.is_open() {
                session.on_device_text(&text, context);
            }
        }));
    }

    fn on_direct_message(
        &mut self,
        frame: &Frame<'_>,
        text: &str,
        sender: ClientId,
        context: &mut <Self as Actor>::Context,
    ) {
        let message = match inbound::direct(frame, text, sender) {
            Ok(message) => message,
            Err(_) if !self.forwards.is_idle() => return self.after_receipts(text.to_owned(), context),
            Err(error) => return self.refuse(error, "Invalid message format", frame),
        };
        self.bad_frames = 0;
        let recipient = self.broker.messages.deliver(message.to, &message.parts());
        if let Some(recipient) = &recipient
            && recipient.worker() != self.outbox.handle().worker()
        {
            self.handed_over_in = Some(tick::number());
        }
        match recipient {
            Some(_) if self.forwards.is_idle() => self.send(&outbound::sent(&message.msgid, self.now())),
            // behind the receipts of messages to other nodes
            Some(_) => self.receipt(message.msgid.into_owned(), Ok(UnderWay::arrived(message.to)), 0),
            None => self.forward(message, sender, context),
        }
    }

    /// Forwards a message to another node, since the recipient is not on this one.
    fn forward(&mut self, message: Message<'_, ClientId>, sender: ClientId, context: &mut <Self as Actor>::Context) {
        let text = Bytes::from(message.parts().concat());
        let bytes = text.len();
        let from = Origin { client: sender.uuid(), device: self.outbox.handle().id() };
        let outcome = self.broker.messages.forward(message.to, from, text);
        self.receipt(message.msgid.into_owned(), outcome, bytes);
        if !self.may_forward() {
            context.wait(self.forwards.clone().room().into_actor(self));
        }
    }

    fn on_topic_message(
        &mut self,
        frame: &Frame<'_>,
        text: &str,
        sender: ClientId,
        context: &mut <Self as Actor>::Context,
    ) {
        let message = match inbound::topic(frame, text, sender, self.broker.settings.load().limits.topic_id_chars) {
            Ok(message) => message,
            Err(error) => return self.refuse(error, "Invalid topic message format", frame),
        };
        self.bad_frames = 0;
        let has_offset = frame.offset.is_some();
        let frame: Bytes = wire::text(&message.parts());
        let publish = Publish {
            client: sender,
            session: self.outbox.handle().clone(),
            topic: TopicId::from(&*message.to),
            msgid: message.msgid.into_owned(),
            frame,
            has_offset,
            place: None,
        };
        self.unsettled.publications = true;
        // a direct message of this tick to another worker leaves at the end of the tick; the publication must not overtake it
        if self.handed_over_in == Some(tick::number()) {
            return self.publish_later(publish, context);
        }
        match self.broker.topics.publish(publish) {
            Ok(()) => {}
            Err(NotPublished::NotNow(publish)) => self.publish_later(publish, context),
            Err(NotPublished::Stopped) => self.outbox.close(CloseCode::ServerError),
        }
    }

    /// Publishes after the end of the tick, once the topic is found and workers and the TopicManager's mailbox have room. The
    /// socket is not read until then.
    fn publish_later(&mut self, publish: Publish, context: &mut <Self as Actor>::Context) {
        let broker = self.broker.clone();
        let (topic, msgid) = (publish.topic.clone(), publish.msgid.clone());
        let publish = async move {
            tick::over().await;
            broker.topics.publish_later(publish).await
        };
        context.wait(publish.into_actor(self).map(move |published, session, _| match published {
            Ok(()) => {}
            Err(TopicError::Stopped(_)) => session.outbox.close(CloseCode::ServerError),
            Err(error) => session.tell_topic_error(&error, &topic, Some(&msgid)),
        }));
    }

    /// Tells the client why its request about a topic fails.
    pub(super) fn tell_topic_error(&mut self, error: &TopicError, topic: &TopicId, msgid: Option<&str>) {
        let (code, text) = error.told(topic.as_str());
        if code == ErrorCode::InternalError {
            tracing::error!(%error, topic = topic.as_str(), "a request about a topic fails");
        }
        let about = About { msgid, topic_id: Some(topic.as_str()), room_id: None };
        self.error(code, &text, about);
    }

    /// Answers a frame of the wrong shape.
    pub(super) fn refuse(&mut self, error: BadMessage, what: &str, frame: &Frame<'_>) {
        let (msgid, topic_id) = (frame.msgid(), frame.topic_id(self.broker.settings.load().limits.topic_id_chars));
        let about = About { msgid: msgid.as_deref(), topic_id: topic_id.as_deref(), room_id: None };
        match error {
            BadMessage::UnknownType(kind) => {
                self.bad_frame(ErrorCode::UnknownType, &format!("{what}: unknown type {}", excerpt(&kind)), about);
            }
            BadMessage::Shape(why) => self.bad_frame(ErrorCode::InvalidMessage, &format!("{what}: {why}"), about),
            BadMessage::ForeignSender => {
                self.error(ErrorCode::SenderMismatch, "Sender UUID does not match authenticated client", about);
            }
        }
    }
}
