//! What is tried again after some time.

use std::time::Duration;

use actix::{AsyncContext, Context};

use super::CommandDispatcher;
use crate::domain::ids::ClientId;

/// When to try again to send what waits for a socket, or a node, that has no room or cannot be asked.
const RETRY: Duration = Duration::from_secs(1);

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
}
