//! Device sockets here that are refused, since they are not stored as the newest. Either the handshake could not store them, and it
//! is tried again. Or a newer one is stored. Usually its node has announced that, or is about to, and the socket here is closed. But a
//! node that cannot be heard stores stamps, too: if its socket fails before it can be heard, or the node ends, nobody is told, and the
//! device has no other socket than the one here.

use std::{sync::Arc, time::Duration};

use actix::{AsyncContext, Context, Handler};
use tokio::sync::Mutex;

use super::{
    MessageManager, RETRY,
    messages::{SocketStored, StoreSocket},
};
use crate::{
    cluster::Backplane,
    delivery::SessionHandle,
    domain::{ids::ClientId, lease::LEASE},
    store::{Store, StoreError},
};

/// How long a node may take to announce a socket whose stamp it has stored. A node that cannot be heard has lost its lease by
/// then, or what it has missed shows as a gap.
const ANNOUNCED_WITHIN: Duration = LEASE.saturating_add(Duration::from_secs(2));

impl MessageManager {
    /// The socket of this device here is not stored as its newest: it is stored, unless a newer one is at another node.
    pub(super) fn store_socket(&mut self, device: ClientId, context: &mut Context<Self>) {
        let Some(session) = self.directory.device(device) else { return };
        if !self.storing.insert(session.id()) {
            return;
        }
        let (store, backplane, manager) = (self.store.clone(), self.backplane.clone(), context.address());
        let turn = self.storing_turn.clone();
        actix::spawn(async move {
            let is_newest = loop {
                match store_as_newest(&store, &turn, &backplane, device, &session).await {
                    Ok(is_newest) => break is_newest,
                    Err(error) => {
                        tracing::debug!(%error, %device, "cannot store which socket of a device is the newest");
                        if !session.is_open() {
                            break false;
                        }
                        tokio::time::sleep(RETRY).await;
                    }
                }
            };
            manager.do_send(SocketStored { device, session, is_newest });
        });
    }
}

/// Stores a socket as the newest one of a device; if a newer one is stored, once it is known that this is nowhere. Returns whether it
/// is the newest.
async fn store_as_newest(
    store: &Store,
    turn: &Mutex<()>,
    backplane: &Arc<dyn Backplane>,
    device: ClientId,
    session: &SessionHandle,
) -> Result<bool, StoreError> {
    let turn = turn.lock().await;
    let newest = store.note_socket(device, session.id()).await?;
    drop(turn);
    if newest == session.id() {
        return Ok(true);
    }
    loop {
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
    }
}

impl Handler<StoreSocket> for MessageManager {
    type Result = ();

    fn handle(&mut self, StoreSocket(device): StoreSocket, context: &mut Self::Context) {
        self.store_socket(device, context);
    }
}

impl Handler<SocketStored> for MessageManager {
    type Result = ();

    fn handle(&mut self, stored: SocketStored, context: &mut Self::Context) {
        let SocketStored { device, session, is_newest } = stored;
        self.storing.remove(&session.id());
        if is_newest {
            tracing::debug!(%device, "the socket here is the newest one of the device");
            self.deliveries.wait(device);
            self.pump_soon(context);
        }
    }
}
