//! Acknowledged messages of devices, and their answers to those that they got (contract section 11).

use actix::{Actor, ActorFutureExt, AsyncContext, WrapFuture};
use bytes::Bytes;

use super::Session;
use crate::{
    actors::message_manager::{MessageError, NotSent, Request, Unsent},
    delivery::tick,
    domain::{
        ids::ClientId,
        messages::{
            Party,
            change::{AnswerOf, NewMessage, RecipientPresence},
        },
    },
    metrics,
    protocol::{
        close_code::CloseCode,
        error_code::ErrorCode,
        inbound::{self, Frame},
        outbound::About,
    },
};

impl Session {
    pub(super) fn on_acknowledged_message(
        &mut self,
        frame: &Frame<'_>,
        text: &str,
        sender: ClientId,
        context: &mut <Self as Actor>::Context,
    ) {
        let read = inbound::direct(frame, text, sender)
            .and_then(|message| inbound::delivery(frame).map(|delivery| (message, delivery)));
        let (message, delivery) = match read {
            Ok(read) => read,
            Err(error) => return self.refuse(error, "Invalid message format", frame),
        };
        self.bad_frames = 0;
        let message = NewMessage {
            from: self.party(sender),
            to: message.to,
            object: Bytes::from(message.parts().concat()),
            msgid: message.msgid.into_owned(),
            priority: delivery.priority,
            ttl: delivery.ttl.unwrap_or_else(|| self.broker.messages.usual_ttl()),
            recipient: RecipientPresence::Absent,
            recipient_socket: None,
            socket: self.broker.cluster.is_shared().then(|| self.outbox.handle().id()),
        };
        self.unsettled.acknowledged_messages = true;
        self.pass_on(Request::Send(message), context);
    }

    pub(super) fn on_ack(&mut self, frame: &Frame<'_>, sender: ClientId, context: &mut <Self as Actor>::Context) {
        let ack = match inbound::ack(frame, sender) {
            Ok(ack) => ack,
            Err(error) => return self.refuse(error, "Invalid message format", frame),
        };
        self.bad_frames = 0;
        let answer = AnswerOf {
            from: self.party(sender),
            id: None,
            msgid: ack.msgid.into_owned(),
            sender: ack.sender,
            answer: ack.answer,
        };
        self.unsettled.answers = true;
        self.pass_on(Request::Answer(answer), context);
    }

    fn party(&self, client: ClientId) -> Party {
        Party { client, incarnation: self.outbox.handle().incarnation() }
    }

    /// Passes something on to the MessageManager. The socket is not read until that has room for it.
    fn pass_on(&mut self, request: Request, context: &mut <Self as Actor>::Context) {
        // a direct message of this tick to another worker leaves at the end of the tick; this one must not overtake it
        let is_behind = self.handed_over_in == Some(tick::number());
        let unsent = if is_behind {
            Unsent { request, place: None }
        } else {
            match self.broker.messages.send(request, self.outbox.handle()) {
                Ok(()) => return,
                Err(NotSent::Stopped) => return self.outbox.close(CloseCode::ServerError),
                Err(NotSent::NotNow(unsent)) => *unsent,
            }
        };
        let msgid = unsent.request.msgid().to_owned();
        let (broker, handle) = (self.broker.clone(), self.outbox.handle().clone());
        let sent = async move {
            if is_behind {
                tick::over().await;
            }
            broker.messages.send_later(unsent, &handle).await
        };
        context.wait(sent.into_actor(self).map(move |sent, session, _| match sent {
            Ok(()) => {}
            Err(MessageError::Stopped) => session.outbox.close(CloseCode::ServerError),
            Err(error) => {
                let (code, text) = error.told();
                if code == ErrorCode::InternalError {
                    tracing::error!(%error, "cannot send an acknowledged message");
                }
                metrics::refused_for(error.limit());
                session.error(code, &text, About { msgid: Some(&msgid), ..About::default() });
            }
        }));
    }
}
