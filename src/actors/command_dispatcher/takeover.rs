//! What becomes of the commands of a node that has ended: another one goes on with them.

use std::time::Duration;

use actix::{Context, Handler, Message};

use super::{CommandDispatcher, CommandError, Commands};
use crate::domain::{commands::Command, ids::CommandId};

/// How often brokers are looked for that have ended.
const PERIOD: Duration = Duration::from_secs(5);

/// Commands that are read at once.
const AT_ONCE: usize = 200;

/// Stored commands that are not finished, and that this node owns from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct TakeOver(Vec<Command>);

impl Commands {
    /// Goes on with the commands of nodes that have ended, periodically and when a node leaves, without end. A node lives as long
    /// as it has a lease in Redis, or a session in PostgreSQL.
    pub async fn take_over(&self) {
        if self.is_alone() {
            return std::future::pending().await;
        }
        let mut taken = Vec::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = self.node_left.notified() => {}
            }
            if !self.is_stopping()
                && let Err(error) = self.look_for_ended(&mut taken).await
            {
                tracing::warn!(%error, "cannot look for commands of nodes that have ended");
            }
        }
    }

    /// `taken` has what was taken over and is not handled yet.
    async fn look_for_ended(&self, taken: &mut Vec<CommandId>) -> Result<(), CommandError> {
        let living = self.backplane.nodes();
        for broker in self.store.other_brokers().await? {
            if living.contains(&broker) {
                continue;
            }
            let commands = self.store.take_over_commands(broker).await?;
            if !commands.is_empty() {
                tracing::info!(node = %broker, commands = commands.len(), "goes on with the commands of a node that has ended");
            }
            taken.extend(commands);
        }
        while !taken.is_empty() {
            let count = taken.len().min(AT_ONCE);
            let commands = self.store.unfinished_of(&taken[..count]).await?;
            let awaited: Vec<_> = commands.iter().flat_map(Command::awaited).collect();
            self.dispatcher.send(TakeOver(commands)).await?;
            taken.drain(..count);
            self.end_for_deleted(&awaited).await?;
        }
        Ok(())
    }
}

impl Handler<TakeOver> for CommandDispatcher {
    type Result = ();

    fn handle(&mut self, TakeOver(commands): TakeOver, context: &mut Context<Self>) {
        for command in commands {
            self.go_on_with(command, context);
        }
        self.set_timer(context);
    }
}
