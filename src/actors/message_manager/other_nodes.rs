//! Messages whose sender or recipient is connected to another node. The database has the messages; nodes only tell each other
//! that there is something to look for.

use std::collections::BTreeSet;

use actix::{Handler, Message};

use super::MessageManager;
use crate::{
    cluster::{elsewhere::Place, envelope},
    domain::{
        ids::ClientId,
        messages::change::{MessageUpdate, RecipientPresence},
    },
    metrics::Context,
};

/// What has happened at other nodes.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub enum Bell {
    /// A message is stored for a recipient.
    Waiting(ClientId),
    /// A message has ended. Its sender has to be told unless it is.
    Ended { update: MessageUpdate, is_told: bool },
    /// Other nodes know only now that this client has connected: it may not have been told of something.
    Announced(ClientId),
    /// Something may have been missed for all.
    Missed,
}

impl MessageManager {
    /// Whether a recipient that is not connected to this node can get a message.
    pub(super) fn presence_elsewhere(&self, to: ClientId) -> RecipientPresence {
        match self.backplane.elsewhere().device(to) {
            Place::Node(_) => RecipientPresence::Connected,
            Place::Nowhere | Place::Unknown => RecipientPresence::Absent,
        }
    }

    /// A message is stored: tells the recipient's node, if that is another one.
    pub(super) fn ring_recipient(&self, to: ClientId) {
        if let Place::Node(node) = self.backplane.elsewhere().device(to) {
            self.backplane.send(node, envelope::Message::DeliveryWaits(to.uuid()));
        }
    }

    /// A message has ended: tells the node of the recipient, and that of the sender if it has not been told, if those are
    /// others.
    pub(super) fn ring_end(&self, update: &MessageUpdate, is_told: bool) {
        let elsewhere = self.backplane.elsewhere();
        let recipient = match elsewhere.device(update.to) {
            Place::Node(node) if self.directory.device(update.to).is_none() => Some(node),
            _ => None,
        };
        let sender = if is_told { None } else { elsewhere.subscriber(update.from.client) };
        let nodes: BTreeSet<_> = recipient.into_iter().chain(sender).collect();
        for node in nodes {
            let MessageUpdate { id, from, to, msgid, state } = update.clone();
            let (from, state) = ((from.client.uuid(), from.incarnation), state.as_str().to_owned());
            let message = envelope::Message::DeliveryEnded { id: id.0, from, to: to.uuid(), msgid, state, is_told };
            self.backplane.send(node, message);
        }
    }
}

impl Handler<Bell> for MessageManager {
    type Result = ();

    fn handle(&mut self, bell: Bell, context: &mut Context<Self>) {
        match bell {
            Bell::Waiting(to) => {
                self.deliveries.wait(to);
                self.pump_soon(context);
            }
            Bell::Ended { update, is_told } => {
                self.deliveries.ended(update.to, update.id);
                self.pump_soon(context);
                if !is_told {
                    self.tell_sender(&update, context);
                }
            }
            Bell::Announced(client) => {
                self.looks.senders.insert(client);
            }
            Bell::Missed => {
                self.looks.again.extend(self.deliveries.connected());
                self.looks.senders.extend(self.deliveries.connected());
            }
        }
        self.look(context);
    }
}
