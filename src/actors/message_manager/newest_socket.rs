//! With other nodes, acknowledged messages go only through the socket that is stored as the newest of its device. The handshake stores
//! it. If the database fails then, it is tried again here. It may also be that a newer one is stored. Usually its node has announced
//! that, or is about to, and the socket here is closed. But a node that cannot be heard stores stamps, too: if its socket fails before
//! it can be heard, or the node ends, nobody is told, and the device has no other socket than the one here.

use std::{sync::Arc, time::Duration};

use actix::{AsyncContext, Handler};
use tokio::sync::Semaphore;

use super::{
    MessageManager, RETRY,
    messages::{SocketStored, StoreSocket},
};
use crate::{
    cluster::Backplane,
    delivery::SessionHandle,
    domain::{ids::ClientId, lease::LEASE},
    metrics::Context,
    store::{Store, StoreError},
};

/// How many sockets are stored at once. A node that was stopped may have locked the rows of many devices, and each attempt keeps a
/// connection to the database for as long as it may wait for the lock.
pub(super) const STORED_AT_ONCE: usize = 4;

/// How long a node may take to announce a socket whose stamp it has stored. A node that cannot be heard has lost its lease by
/// then, or what it has missed shows as a gap.
const ANNOUNCED_WITHIN: Duration = LEASE.saturating_add(Duration::from_secs(2));

impl MessageManager {
    /// The socket of this device here is not stored as its newest: it is stored, as soon as no newer one is at another node.
    pub(super) fn store_socket(&mut self, device: ClientId, context: &mut Context<Self>) {
        let Some(session) = self.directory.device(device) else { return };
        if !self.storing.insert(session.id()) {
            return;
        }
        let (store, backplane, manager) = (self.store.clone(), self.backplane.clone(), context.address());
        let turn = self.storing_turns.clone();
        actix::spawn(async move {
            let mut is_stored = false;
            while session.is_open() && !is_stored {
                is_stored = match store_as_newest(&store, &turn, &backplane, device, &session).await {
                    Ok(is_stored) => is_stored,
                    Err(error) => {
                        tracing::debug!(%error, %device, "cannot store which socket of a device is the newest");
                        tokio::time::sleep(RETRY).await;
                        false
                    }
                };
            }
            manager.do_send(SocketStored { device, session });
        });
    }
}

/// Stores a socket as the newest one of a device; if a newer one is stored, once it is known that this is nowhere. Returns whether it
/// is the newest.
async fn store_as_newest(
    store: &Store,
    turns: &Semaphore,
    backplane: &Arc<dyn Backplane>,
    device: ClientId,
    session: &SessionHandle,
) -> Result<bool, StoreError> {
    let turn = turns.acquire().await;
    if !session.is_open() {
        return Ok(false);
    }
    let newest = store.note_socket(device, session.id()).await?;
    drop(turn);
    if newest == session.id() {
        return Ok(true);
    }
    tokio::time::sleep(ANNOUNCED_WITHIN).await;
    let elsewhere = backplane.elsewhere();
    if !session.is_open() || elsewhere.has_newer_device(device, session.id()) {
        return Ok(false);
    }
    // a node that lives and cannot be heard may have the newer one; one that has ended is not recorded for long
    let (others, heard) = (store.other_brokers().await?, backplane.nodes());
    if elsewhere.is_complete() && others.iter().all(|other| heard.contains(other)) {
        return store.reinstate_socket(device, session.id(), newest).await;
    }
    Ok(false)
}

impl Handler<StoreSocket> for MessageManager {
    type Result = ();

    fn handle(&mut self, StoreSocket(device): StoreSocket, context: &mut Self::Context) {
        self.store_socket(device, context);
    }
}

impl Handler<SocketStored> for MessageManager {
    type Result = ();

    fn handle(&mut self, SocketStored { device, session }: SocketStored, context: &mut Self::Context) {
        self.storing.remove(&session.id());
        if session.is_open() {
            self.looks.recipients.push((device, session));
            self.look(context);
        }
    }
}
