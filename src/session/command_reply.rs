//! What a socket says about a command that it was asked: the answer, and progress before it (contract section 6). Neither
//! is ever answered, whatever it holds.

use actix::{Actor, AsyncContext, WrapFuture};
use serde_json::json;

use super::{Dialect, Session};
use crate::{
    actors::command_dispatcher::{Answer, Item, Progress},
    domain::ids::{ClientId, CommandId},
    protocol::{
        inbound::{Frame, as_text, command_result},
        json::check_embeddable,
        outbound::About,
    },
};

impl Session {
    pub(super) fn on_command_reply(&mut self, frame: &Frame<'_>, context: &mut <Self as Actor>::Context) {
        let (Some(client), Some(command)) = (self.commanded(), command_id(frame)) else {
            tracing::debug!(session = self.outbox.handle().id(), "answer to no command dropped");
            return;
        };
        // the caller must not wait for an answer that can't be passed on
        let in_result = || check_embeddable(frame.result?.get().as_bytes()).err();
        let (result, failed) = match frame.unacceptable.or_else(in_result) {
            Some(why) => (json!({ "error": format!("The answer was refused: {why}") }).to_string().into(), true),
            None => command_result(frame.result),
        };
        self.hand_over(Item::Answer(Answer { client, command, result, failed }), context);
    }

    /// Whose socket it is, if it is one that gets commands.
    fn commanded(&self) -> Option<ClientId> {
        matches!(self.dialect, Dialect::Device | Dialect::Agent).then(|| self.client()).flatten()
    }

    pub(super) fn on_progress(&mut self, frame: &Frame<'_>, context: &mut <Self as Actor>::Context) {
        let (Some(client), Some(command)) = (self.commanded(), command_id(frame)) else { return };
        if let Some(why) = frame.progress.and_then(|progress| check_embeddable(progress.get().as_bytes()).err()) {
            return self.unacceptable(why, frame);
        }
        let bytes = frame.progress.map_or(0, |progress| progress.get().len());
        if let Err(refusal) = self.broker.charge_stored(client, bytes) {
            self.error(refusal.code(), &refusal.to_string(), About::default());
            return;
        }
        let progress = frame.progress.map_or("null", |progress| progress.get()).into();
        self.hand_over(Item::Progress(Progress { client, command, progress }), context);
    }

    /// Hands something to the CommandDispatcher; while that has no room, this socket is not read.
    fn hand_over(&mut self, item: Item, context: &mut <Self as Actor>::Context) {
        let inlet = self.broker.inlet.clone();
        if inlet.has_room() {
            return inlet.push(item);
        }
        let wait = async move {
            while !inlet.has_room() {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            inlet.push(item);
        };
        context.wait(wait.into_actor(self));
    }
}

fn command_id(frame: &Frame<'_>) -> Option<CommandId> {
    frame.command_id.and_then(as_text).and_then(|id| CommandId::parse(&id))
}
