//! What clients say about commands that were sent to them.

use std::sync::Arc;

use super::{CommandDispatcher, Reply, ReplyContent};
use crate::{
    domain::{
        commands::Answered,
        ids::{ClientId, CommandId},
    },
    metrics::Context,
    store::Record,
};

impl CommandDispatcher {
    /// Handles what a client says about a command. Returns it if nobody here has asked the client.
    pub(super) fn on_reply(&mut self, reply: Reply, context: &mut Context<Self>) -> Option<Reply> {
        let Reply { client, command, content } = reply;
        match content {
            ReplyContent::Result { result, failed } => {
                if self.on_result(client, command, &result, failed, context) {
                    return None;
                }
                Some(Reply { client, command, content: ReplyContent::Result { result, failed } })
            }
            ReplyContent::Progress(progress) => {
                match self.pending.progress(command, client, progress.clone(), self.clock.now()) {
                    Some(update) => {
                        self.record_and_tell([update]);
                        None
                    }
                    None => Some(Reply { client, command, content: ReplyContent::Progress(progress) }),
                }
            }
        }
    }

    /// Returns false if nobody here has asked the client.
    fn on_result(
        &mut self,
        client: ClientId,
        command: CommandId,
        result: &Arc<str>,
        failed: bool,
        context: &mut Context<Self>,
    ) -> bool {
        match self.pending.answer(command, client, result.clone(), failed, self.clock.now()) {
            Answered::Ended(update) => {
                self.record_and_tell([*update]);
                if self.pending.has_queued(client) {
                    self.send_queued_to(client, context);
                }
            }
            Answered::Late if self.journal.backlog().is_stuck() => {}
            Answered::Late => {
                self.journal.record_soon(vec![Record::LateResult { command, client, result: result.clone() }]);
            }
            Answered::Unexpected => return false,
        }
        true
    }

    pub(super) fn drop_reply(&mut self, client: ClientId, command: CommandId) {
        self.dropped += 1;
        tracing::debug!(%client, %command, dropped = self.dropped, "reply that nobody asked for");
    }
}
