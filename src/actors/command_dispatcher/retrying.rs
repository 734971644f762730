//! What is tried again after some time.

use std::time::{Duration, Instant};

use actix::AsyncContext;

use super::CommandDispatcher;
use crate::{
    actors::topic_manager::ClientDeleted,
    domain::ids::{ClientId, CommandId},
    metrics::Context,
};

/// When to try again to send what waits for a socket, or a node, that has no room or cannot be asked.
const RETRY: Duration = Duration::from_secs(1);

/// After what time a command that may wait is handed over once more, if the other node has not answered: one of both messages may
/// be lost. A node that has sent the command does not send it again.
const REPEAT: Duration = Duration::from_secs(3);

impl CommandDispatcher {
    /// Sends what waits for a client a little later. One timer is enough for all clients.
    pub(super) fn try_again_later(&mut self, client: ClientId, context: &mut Context<Self>) {
        if self.retries.is_empty() {
            context.run_later(RETRY, |dispatcher, context| {
                for client in std::mem::take(&mut dispatcher.retries) {
                    dispatcher.send_queued_to(client, context);
                }
            });
        }
        self.retries.insert(client);
    }

    /// Repeats what other nodes do not answer, from now on.
    pub(super) fn repeat_hand_overs(&self, context: &mut Context<Self>) {
        if self.is_alone() {
            return;
        }
        context.run_interval(REPEAT, |dispatcher, _| {
            let Some(since) = Instant::now().checked_sub(REPEAT) else { return };
            if dispatcher.backplane.is_congested() || !dispatcher.is_owner() {
                return;
            }
            for (id, client, incarnation, node) in dispatcher.pending.unconfirmed(since) {
                dispatcher.hand_over(id, node, vec![(client.uuid(), incarnation)]);
            }
        });
    }

    /// Ends what waits for a client if that was deleted while this command was under way: it did not end with the deletion.
    pub(super) fn end_if_deleted(&self, id: CommandId, client: ClientId, context: &mut Context<Self>) {
        if !self.pending.is_queued(id, client) {
            return;
        }
        let Some(awaited) = self.pending.incarnation(id, client) else { return };
        let (store, address) = (self.store.clone(), context.address());
        actix::spawn(async move {
            match store.incarnations([client]).await {
                Ok(incarnations) => {
                    if let Some(incarnation) = incarnations.get(&client).copied().filter(|now| *now > awaited) {
                        address.do_send(ClientDeleted { client, incarnation });
                    }
                }
                // it ends when the next device with the UUID connects
                Err(error) => tracing::warn!(%client, %error, "cannot see whether a target was deleted meanwhile"),
            }
        });
    }
}
