//! What becomes of the commands of a node that has ended: another one goes on with them.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use actix::{Handler, Message};
use uuid::Uuid;

use super::{CommandDispatcher, CommandError, Commands, messages::NotHandled};
use crate::domain::{commands::Command, ids::CommandId, lease::LEASE};
use crate::metrics::Context;

/// How often brokers are looked for that have ended.
const PERIOD: Duration = Duration::from_secs(5);

/// How long a node must not have been heard before that is logged. One that has ended is not recorded for so long.
const UNHEARD: Duration = LEASE.saturating_add(PERIOD);

/// How long PostgreSQL must have had no session of a node that is taken for ended: one whose connection was cut takes a new one.
const RECONNECTING: Duration = Duration::from_secs(4);

/// What is known of another broker on record, from look to look.
#[derive(Default)]
struct OtherBroker {
    /// since when PostgreSQL has no session of it
    ended: Option<Instant>,
    /// since when it cannot be heard, although Redis is there
    unheard: Option<Instant>,
    /// it is logged that it cannot be heard
    is_logged: bool,
}

/// Notes since when something is so.
fn since(when: &mut Option<Instant>, is_so: bool) {
    *when = is_so.then(|| when.unwrap_or_else(Instant::now));
}

fn lasts(since: Option<Instant>, time: Duration) -> bool {
    since.is_some_and(|since| since.elapsed() >= time)
}

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
        let (mut taken, mut others) = (Vec::new(), HashMap::new());
        loop {
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = self.node_left.notified() => {}
            }
            if !self.is_stopping()
                && let Err(error) = self.look_for_ended(&mut taken, &mut others).await
            {
                tracing::warn!(%error, "cannot look for commands of nodes that have ended");
            }
        }
    }

    /// `taken` has what was taken over and is not handled yet, `others` what is known of the brokers on record.
    async fn look_for_ended(
        &self,
        taken: &mut Vec<CommandId>,
        others: &mut HashMap<Uuid, OtherBroker>,
    ) -> Result<(), CommandError> {
        self.go_on_with(taken).await?;
        let (living, recorded) = (self.backplane.nodes(), self.store.other_brokers().await?);
        others.retain(|broker, _| recorded.contains(broker));
        for broker in recorded {
            let other = others.entry(broker).or_default();
            since(&mut other.ended, self.store.has_ended(broker).await?);
            since(&mut other.unheard, !living.contains(&broker) && self.backplane.elsewhere().is_complete());
            if other.unheard.is_none() {
                other.is_logged = false;
            } else if lasts(other.unheard, UNHEARD) && !other.is_logged {
                other.is_logged = true;
                tracing::warn!(
                    node = %broker,
                    "a node serves this database and cannot be heard through Redis: either it has no connection to Redis, or its SECRET_KEY, REDIS_URL or the number of its Redis database is another than here; then both sides do not know each other's clients"
                );
            }
            if living.contains(&broker) || !lasts(other.ended, RECONNECTING) {
                continue;
            }
            match self.store.take_over_commands(broker).await {
                Ok(commands) if commands.is_empty() => {}
                Ok(commands) => {
                    tracing::info!(node = %broker, commands = commands.len(), "goes on with the commands of a node that has ended");
                    taken.extend(commands);
                }
                // others may have ended, too
                Err(error) => tracing::warn!(node = %broker, %error, "cannot take over commands"),
            }
        }
        self.go_on_with(taken).await
    }

    /// Goes on with what was taken over. On errors the rest is left.
    async fn go_on_with(&self, taken: &mut Vec<CommandId>) -> Result<(), CommandError> {
        while !taken.is_empty() {
            let count = taken.len().min(AT_ONCE);
            let awaited = {
                let _recovering = self.recovering.lock().await;
                let not_handled = self.dispatcher.send(NotHandled(taken[..count].to_vec())).await?;
                // one of them may have just ended here
                self.written().await?;
                let mut commands = self.store.unfinished_of(&taken[..count]).await?;
                let awaited: Vec<_> = commands.iter().flat_map(Command::awaited).collect();
                commands.retain(|command| not_handled.contains(&command.id));
                self.dispatcher.send(TakeOver(commands)).await?;
                awaited
            };
            self.end_for_deleted(&awaited).await?;
            taken.drain(..count);
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
