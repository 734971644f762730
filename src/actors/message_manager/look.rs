//! Looks into the database: for whom something waits, and what has expired.

use std::{collections::HashSet, sync::Arc, time::Duration};

use actix::{Addr, AsyncContext, Handler};

use super::{
    Asker, MessageManager, RETRY,
    messages::{Expired, Found, Looked, TellUpdates},
};
use crate::{
    delivery::{Relays, SessionHandle},
    domain::{
        ids::ClientId,
        messages::{
            Party,
            change::{Ending, MessageChange},
        },
    },
    metrics::Context,
    store::{Store, StoreError},
};

/// Messages that expire in one transaction.
const EXPIRING: u64 = 200;

/// Updates that a sender is told at once.
const UPDATES: u64 = 100;

/// Who has connected since the last look began.
#[derive(Default)]
pub(super) struct Looks {
    pub(super) recipients: Vec<(ClientId, SessionHandle)>,
    pub(super) senders: HashSet<ClientId>,
    /// recipients that were looked for when they connected, and may have been missed then
    pub(super) again: HashSet<ClientId>,
    is_looking: bool,
}

impl MessageManager {
    /// Looks whether something waits for those who have connected, unless a look is going on.
    pub(super) fn look(&mut self, context: &mut Context<Self>) {
        let looks = &mut self.looks;
        if looks.is_looking || (looks.recipients.is_empty() && looks.senders.is_empty() && looks.again.is_empty()) {
            return;
        }
        looks.is_looking = true;
        let (recipients, senders) = (std::mem::take(&mut looks.recipients), std::mem::take(&mut looks.senders));
        let again = std::mem::take(&mut looks.again);
        let (store, manager) = (self.store.clone(), context.address());
        actix::spawn(async move {
            let clients: Vec<_> = recipients.iter().map(|(client, _)| *client).chain(again.iter().copied()).collect();
            let found = match find(&store, &clients, &senders).await {
                Ok(found) => Some(found),
                Err(error) => {
                    // an outage is in the log already
                    tracing::debug!(%error, "cannot look for messages that wait");
                    tokio::time::sleep(RETRY).await;
                    None
                }
            };
            manager.do_send(Looked { recipients, senders, again, found });
        });
    }

    pub(super) fn look_for_expired_later(&self, has_failed: bool, context: &mut Context<Self>) {
        let wait = if has_failed { RETRY } else { Duration::ZERO };
        context.run_later(wait, |manager, context| manager.look_for_expired(context));
    }

    pub(super) fn look_for_expired(&self, context: &mut Context<Self>) {
        let (store, clock, manager) = (self.store.clone(), self.clock.clone(), context.address());
        actix::spawn(async move {
            loop {
                let found = async {
                    let messages = store.expired_messages(clock.now(), EXPIRING).await?;
                    let next = if messages.is_empty() { store.next_expiry().await? } else { None };
                    Ok::<_, StoreError>(Expired { messages, next })
                };
                match found.await {
                    Ok(expired) => return manager.do_send(expired),
                    Err(error) => {
                        tracing::debug!(%error, "cannot look for messages that have expired");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        });
    }
}

async fn find(store: &Store, recipients: &[ClientId], senders: &HashSet<ClientId>) -> Result<Found, StoreError> {
    let senders: Vec<_> = senders.iter().copied().collect();
    Ok(Found {
        recipients: store.with_messages_waiting(recipients).await?,
        senders: store.with_updates_due(&senders).await?,
    })
}

impl Handler<Looked> for MessageManager {
    type Result = ();

    fn handle(&mut self, looked: Looked, context: &mut Self::Context) {
        let Looked { recipients, senders, again, found } = looked;
        self.looks.is_looking = false;
        match found {
            None => {
                self.looks.recipients.extend(recipients.into_iter().filter(|(_, session)| session.is_open()));
                self.looks.senders.extend(senders);
                self.looks.again.extend(again);
            }
            Some(found) => {
                for (client, session) in recipients {
                    self.deliveries.looked(client, &session, found.recipients.contains(&client));
                }
                again.into_iter().filter(|client| found.recipients.contains(client)).for_each(|client| {
                    self.deliveries.wait(client);
                });
                for client in found.senders {
                    if let Some(session) = self.directory.subscriber(client) {
                        let party = Party { client, incarnation: session.incarnation() };
                        actix::spawn(tell_updates(
                            self.store.clone(),
                            self.relays.clone(),
                            context.address(),
                            (party, session),
                        ));
                    }
                }
                self.pump(context);
            }
        }
        self.look(context);
    }
}

/// Has a sender told how its messages have ended since it was last connected.
async fn tell_updates(
    store: Store,
    relays: Arc<Relays>,
    manager: Addr<MessageManager>,
    (sender, session): (Party, SessionHandle),
) {
    let mut after = None;
    loop {
        let updates = match store.updates_due(sender, after, UPDATES).await {
            Ok(updates) => updates,
            Err(error) if session.is_open() => {
                tracing::debug!(%error, "cannot tell a sender how its messages have ended");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Err(_) => return,
        };
        let Some(last) = updates.last() else { return };
        after = Some(last.id);
        relays.drained(&session).await;
        if !manager.send(TellUpdates { session: session.clone(), updates }).await.unwrap_or(false) {
            return;
        }
    }
}

impl Handler<Expired> for MessageManager {
    type Result = ();

    fn handle(&mut self, Expired { messages, next }: Expired, context: &mut Self::Context) {
        // messages may have been accepted since it was looked
        self.note_expiry(next);
        let there_may_be_more = !messages.is_empty();
        for (id, to) in messages {
            let change = MessageChange::End { id, to, why: Ending::Expired };
            self.ask(change, Asker::Nobody, context);
        }
        if there_may_be_more {
            // behind them, so that it finds others
            self.ask(MessageChange::Nothing, Asker::Expiry, context);
        }
    }
}
