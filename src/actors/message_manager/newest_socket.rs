//! With other nodes, acknowledged messages go only through the socket that is stored as the newest of its device. The handshake stores
//! it. What becomes of a socket here that is not stored:
//!
//! - The database has failed at the handshake. The socket must not be stored later: the device may have gone on at another node, whose
//!   clock is behind. So it is closed, when the database answers again, and the device connects anew.
//! - A newer one is stored. Usually its node has announced that, or is about to, and the socket here is closed. But a node that cannot
//!   be heard stores stamps, too: if its socket fails before it can be heard, or the node ends, nobody is told, and the device has no
//!   other socket than the one here.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use actix::{AsyncContext, Handler};
use tokio::sync::Semaphore;

use super::{
    MessageManager, RETRY,
    messages::{SettleSocket, SocketSettled},
};
use crate::{
    cluster::Backplane,
    delivery::SessionHandle,
    domain::{ids::ClientId, lease::LEASE},
    metrics::Context,
    protocol::close_code::CloseCode,
    store::{Store, StoreError},
};

/// For how many sockets it is looked at once. A node that was stopped may have locked the rows of many devices, and each look keeps a
/// connection to the database for as long as it may wait for the lock.
pub(super) const LOOKS: usize = 4;

/// How long a node may take to announce a socket whose stamp it has stored. A node that cannot be heard has lost its lease by
/// then, or what it has missed shows as a gap.
const ANNOUNCED_WITHIN: Duration = LEASE.saturating_add(Duration::from_secs(2));

/// What becomes of a socket.
enum Verdict {
    /// It is stored as the newest.
    Newest,
    /// It is not stored, and must not be.
    Lost,
    /// A newer one is stored, which may be at a node that cannot be heard.
    Unclear,
}

impl MessageManager {
    /// The socket of this device here with this stamp is not stored as its newest: finds out what becomes of it.
    pub(super) fn settle_socket(&mut self, device: ClientId, stamp: u64, context: &mut Context<Self>) {
        // else it has been replaced here, and the handshake of that one may be about to store it
        let Some(session) = self.directory.device(device).filter(|session| session.id() == stamp) else { return };
        if !self.unsettled.insert(session.id()) {
            return;
        }
        let (store, backplane, manager) = (self.store.clone(), self.backplane.clone(), context.address());
        let (turns, relays) = (self.socket_looks.clone(), self.relays.clone());
        actix::spawn(async move {
            while session.is_open() {
                match verdict(&store, &turns, &backplane, device, &session).await {
                    Ok(Verdict::Newest) => break,
                    Ok(Verdict::Unclear) => {}
                    Ok(Verdict::Lost) => {
                        relays.close(&session, CloseCode::TryAgainLater);
                        break;
                    }
                    Err(error) => {
                        tracing::debug!(%error, %device, "cannot look which socket of a device is the newest");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
            manager.do_send(SocketSettled { device, session });
        });
    }
}

/// What becomes of a socket of a device. One that is not the newest is stored as that once it is known that the newer one is nowhere.
async fn verdict(
    store: &Store,
    turns: &Semaphore,
    backplane: &Arc<dyn Backplane>,
    device: ClientId,
    session: &SessionHandle,
) -> Result<Verdict, StoreError> {
    let turn = turns.acquire().await;
    if !session.is_open() {
        return Ok(Verdict::Unclear);
    }
    let newest = store.settled_socket(device).await?;
    drop(turn);
    match newest.cmp(&session.id()) {
        Ordering::Less => return Ok(Verdict::Lost),
        Ordering::Equal => return Ok(Verdict::Newest),
        Ordering::Greater => {}
    }
    tokio::time::sleep(ANNOUNCED_WITHIN).await;
    let elsewhere = backplane.elsewhere();
    if !session.is_open() || elsewhere.has_newer_device(device, session.id()) {
        return Ok(Verdict::Unclear);
    }
    // a node that lives and cannot be heard may have the newer one; one that has ended is not recorded for long
    let (others, heard) = (store.other_brokers().await?, backplane.nodes());
    let is_nowhere = elsewhere.is_complete() && others.iter().all(|other| heard.contains(other));
    let is_newest = is_nowhere && store.reinstate_socket(device, session.id(), newest).await?;
    Ok(if is_newest { Verdict::Newest } else { Verdict::Unclear })
}

impl Handler<SettleSocket> for MessageManager {
    type Result = ();

    fn handle(&mut self, SettleSocket { device, stamp }: SettleSocket, context: &mut Self::Context) {
        self.settle_socket(device, stamp, context);
    }
}

impl Handler<SocketSettled> for MessageManager {
    type Result = ();

    fn handle(&mut self, SocketSettled { device, session }: SocketSettled, context: &mut Self::Context) {
        self.unsettled.remove(&session.id());
        if session.is_open() {
            self.looks.recipients.push((device, session));
            self.look(context);
        }
    }
}
