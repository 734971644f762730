//! What a socket says about a command that it was asked: the answer, and progress before it (contract section 6). Neither
//! is ever answered, whatever it holds.

use actix::{
    Actor, ActorFutureExt, AsyncContext, Handler, Message, WrapFuture,
    dev::{SendError, ToEnvelope},
};
use uuid::Uuid;

use super::Session;
use crate::{
    actors::command_dispatcher::{Answer, CommandDispatcher, Progress},
    protocol::{
        close_code::CloseCode,
        inbound::{Frame, as_text, command_result},
    },
};

impl Session {
    pub(super) fn on_command_reply(&mut self, frame: &Frame<'_>, context: &mut <Self as Actor>::Context) {
        let (Some(client), Some(command)) = (self.client(), command_id(frame)) else {
            tracing::debug!(session = self.outbox.handle().id(), "answer to no command dropped");
            return;
        };
        let (result, failed) = command_result(frame.result);
        let session = self.outbox.handle().clone();
        self.dispatch(Answer { session, client, command, result, failed }, context);
    }

    pub(super) fn on_progress(&mut self, frame: &Frame<'_>, context: &mut <Self as Actor>::Context) {
        let (Some(client), Some(command)) = (self.client(), command_id(frame)) else { return };
        let progress = frame.progress.map_or("null", |progress| progress.get()).into();
        let session = self.outbox.handle().clone();
        self.dispatch(Progress { session, client, command, progress }, context);
    }

    /// Hands something to the CommandDispatcher; while that has no room, this socket is not read.
    fn dispatch<M>(&mut self, message: M, context: &mut <Self as Actor>::Context)
    where
        M: Message<Result = ()> + Send + 'static,
        CommandDispatcher: Handler<M>,
        <CommandDispatcher as Actor>::Context: ToEnvelope<CommandDispatcher, M>,
    {
        match self.broker.command_dispatcher.try_send(message) {
            Ok(()) => {}
            Err(SendError::Full(message)) => {
                let sent = self.broker.command_dispatcher.send(message);
                context.wait(sent.into_actor(self).map(|sent, session, _| {
                    if sent.is_err() {
                        session.outbox.close(CloseCode::ServerError);
                    }
                }));
            }
            Err(SendError::Closed(_)) => self.outbox.close(CloseCode::ServerError),
        }
    }
}

fn command_id(frame: &Frame<'_>) -> Option<Uuid> {
    frame.command_id.and_then(as_text).and_then(|id| Uuid::try_parse(&id).ok())
}
