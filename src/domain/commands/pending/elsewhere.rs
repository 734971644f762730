//! Targets with sockets at other nodes. A command is handed over to the node with the socket, which says whether it was sent; until
//! then it is under way: it may arrive, but is not `sent`.

use std::time::Instant;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{PendingCommands, Socket, Way};
use crate::domain::{
    commands::{TargetState, TargetUpdate},
    ids::{ClientId, CommandId},
};

impl<S: Socket> PendingCommands<S> {
    /// The next queued command that may be handed over for a client. `None` as well while one is under way that may wait.
    pub fn next_to_hand_over(&self, client: ClientId) -> Option<CommandId> {
        if self.handing_over.contains_key(&client) { None } else { self.queued.get(&client)?.front().copied() }
    }

    /// A queued command is handed over to the node with the client's socket. Returns how often the UUID of the client had been
    /// deleted when the command was given.
    pub fn hand_over(&mut self, id: CommandId, client: ClientId, node: Uuid, now: Instant) -> Option<i64> {
        let incarnation = self.incarnation(id, client)?;
        let pending = self.commands.get_mut(&id)?;
        let target = pending.open.get_mut(&client).filter(|target| matches!(target.way, Way::Queued))?;
        self.deadlines.remove(&(target.deadline, id, client));
        let may_wait = pending.command.deliver_until.is_some();
        // one that may not wait and comes back has no more time than it had: its caller waits
        if may_wait || target.deadline <= now {
            target.deadline = now + pending.command.timeout;
        }
        target.way = Way::HandedOver(node);
        self.deadlines.insert((target.deadline, id, client));
        self.unqueue(id, client);
        if may_wait {
            self.handing_over.insert(client, (id, now));
        }
        Some(incarnation)
    }

    /// What may wait and has been under way to another node since then or longer: the command, its client with its incarnation, and
    /// the node.
    pub fn unconfirmed(&self, since: Instant) -> Vec<(CommandId, ClientId, i64, Uuid)> {
        let late = self.handing_over.iter().filter(|(_, (_, began))| *began <= since);
        let with_node = late.filter_map(|(client, (id, _))| match self.open_target(*id, *client)?.way {
            Way::HandedOver(node) => Some((*id, *client, self.incarnation(*id, *client)?, node)),
            _ => None,
        });
        with_node.collect()
    }

    /// The other node has sent a command that was handed over to it.
    pub fn sent_at(
        &mut self,
        id: CommandId,
        client: ClientId,
        node: Uuid,
        time: DateTime<Utc>,
    ) -> Option<TargetUpdate> {
        let target = self.commands.get_mut(&id)?.open.get_mut(&client)?;
        if !matches!(target.way, Way::HandedOver(at) if at == node) {
            return None;
        }
        target.way = Way::SentAt(node);
        let index = target.index;
        self.hand_over_ended(id, client);
        self.update(id, index, |target| {
            // what the client has said may have come earlier
            if target.state == TargetState::Queued {
                target.state = TargetState::Sent;
            }
            target.sent_at = Some(time);
        })
    }

    /// The other node has not sent a command that was handed over to it. It is queued again, before all others. Returns whether
    /// the command may wait; `None`: it was not under way there.
    pub fn not_sent_at(&mut self, id: CommandId, client: ClientId, node: Uuid) -> Option<bool> {
        let pending = self.commands.get_mut(&id)?;
        let target = pending.open.get_mut(&client)?;
        if !matches!(target.way, Way::HandedOver(at) if at == node) {
            return None;
        }
        target.way = Way::Queued;
        if let Some(deliver_by) = pending.deliver_by {
            self.deadlines.remove(&(target.deadline, id, client));
            target.deadline = deliver_by;
            self.deadlines.insert((deliver_by, id, client));
        }
        let may_wait = pending.command.deliver_until.is_some();
        self.hand_over_ended(id, client);
        self.queued.entry(client).or_default().push_front(id);
        Some(may_wait)
    }

    /// The socket of a client at another node is lost: commands end that may have been sent to it.
    pub fn session_lost_at(
        &mut self,
        node: Uuid,
        client: ClientId,
        commands: impl IntoIterator<Item = CommandId>,
        time: DateTime<Utc>,
    ) -> Vec<TargetUpdate> {
        let was_there = |pending: &Self, id| {
            pending
                .open_target(id, client)
                .is_some_and(|target| matches!(target.way, Way::HandedOver(at) | Way::SentAt(at) if at == node))
        };
        let lost: Vec<_> = commands.into_iter().filter(|id| was_there(self, *id)).collect();
        lost.into_iter().filter_map(|id| self.disconnected(id, client, time)).collect()
    }

    /// A node has left: all ends that may have been sent to sockets there.
    pub fn node_lost(&mut self, node: Uuid, time: DateTime<Utc>) -> Vec<TargetUpdate> {
        let there = |way: &Way<S>| matches!(way, Way::HandedOver(at) | Way::SentAt(at) if *at == node);
        let of_command = self.commands.iter().flat_map(|(id, pending)| {
            let lost = pending.open.iter().filter(|(_, target)| there(&target.way));
            lost.map(|(client, _)| (*id, *client))
        });
        let lost: Vec<_> = of_command.collect();
        lost.into_iter().filter_map(|(id, client)| self.disconnected(id, client, time)).collect()
    }

    /// The socket is lost that a command may have been sent to. The client may answer late.
    pub(super) fn disconnected(
        &mut self,
        id: CommandId,
        client: ClientId,
        time: DateTime<Utc>,
    ) -> Option<TargetUpdate> {
        self.late.expect(id, client);
        self.end(id, client, TargetState::Disconnected, None, time)
    }

    /// A command is not on its way to another node any more.
    pub(super) fn hand_over_ended(&mut self, id: CommandId, client: ClientId) {
        if self.handing_over.get(&client).is_some_and(|(under_way, _)| *under_way == id) {
            self.handing_over.remove(&client);
        }
    }
}
