//! Replies to commands: results and progress reports (contract section 6). The broker never answers a result.

use actix::{Actor, AsyncContext, WrapFuture};
use serde_json::json;

use super::{Dialect, Session};
use crate::{
    actors::command_dispatcher::{Reply, ReplyContent},
    domain::ids::{ClientId, CommandId},
    protocol::{
        error_code::ErrorCode,
        inbound::{Frame, as_text, command_result},
        json::check_embeddable,
        outbound::About,
    },
};

impl Session {
    pub(super) fn on_command_reply(&mut self, frame: &Frame<'_>, context: &mut <Self as Actor>::Context) {
        let (Some(client), Some(command)) = (self.commanded(), command_id(frame)) else {
            tracing::debug!(session = self.outbox.handle().id(), "reply to no command dropped");
            return;
        };
        // an answer that can't be passed on ends the command as failed, so that its caller does not wait
        let in_result = || check_embeddable(frame.result?.get().as_bytes()).err();
        let (result, failed) = match frame.unacceptable.or_else(in_result) {
            Some(why) => (json!({ "error": format!("The answer was refused: {why}") }).to_string().into(), true),
            None => command_result(frame.result),
        };
        self.reply(Reply { client, command, content: ReplyContent::Result { result, failed } }, context);
    }

    /// The client of this socket, if it gets commands.
    fn commanded(&self) -> Option<ClientId> {
        matches!(self.dialect, Dialect::Device | Dialect::Agent).then(|| self.client()).flatten()
    }

    pub(super) fn on_progress(&mut self, frame: &Frame<'_>, context: &mut <Self as Actor>::Context) {
        let (Some(client), Some(command)) = (self.commanded(), command_id(frame)) else { return };
        if let Some(why) = frame.progress.and_then(|progress| check_embeddable(progress.get().as_bytes()).err()) {
            return self.unacceptable(why, frame);
        }
        let bytes = frame.progress.map_or(0, |progress| progress.get().len());
        if let Err(exceeded) = self.broker.commands.charge_progress(client, bytes) {
            self.error(ErrorCode::TooManyRequests, &exceeded.to_string(), About::default());
            return;
        }
        let progress = frame.progress.map_or("null", |progress| progress.get()).into();
        self.reply(Reply { client, command, content: ReplyContent::Progress(progress) }, context);
    }

    /// Passes a reply to the CommandDispatcher. While that does not keep up, this socket is not read.
    fn reply(&mut self, reply: Reply, context: &mut <Self as Actor>::Context) {
        let commands = &self.broker.commands;
        if commands.has_room() {
            return commands.reply(reply);
        }
        let commands = commands.clone();
        let wait = async move {
            commands.room().await;
            commands.reply(reply);
        };
        context.wait(wait.into_actor(self));
    }
}

fn command_id(frame: &Frame<'_>) -> Option<CommandId> {
    frame.command_id.and_then(as_text).and_then(|id| CommandId::parse(&id))
}
