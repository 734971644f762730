//! The limits of unfinished commands, and how much is used of them: on this node, per requester and per target.
//!
//! A command belongs to one of two classes for its whole life: its targets must be connected (*pending*), or it may wait for
//! them (*queued*), up to a week. Each class has limits of its own, so that neither uses up those of the other.

use std::collections::HashMap;

use super::Command;
use crate::domain::ids::{ClientId, CommandId};

/// The limits; 0 switches one off.
#[derive(Debug, Clone, Copy, Default)]
pub struct CommandLimits {
    /// Targets of pending commands, on this node.
    pub pending: usize,
    /// Pending commands of one requester.
    pub pending_per_identity: usize,
    /// Targets of queued commands, on this node.
    pub queued: usize,
    /// Targets of one requester's queued commands.
    pub queued_per_identity: usize,
    /// Queued commands for one target.
    pub queued_per_target: usize,
    /// Bytes of all unfinished commands and their results, on this node.
    pub bytes: usize,
    /// Bytes of one requester's unfinished commands and their results.
    pub bytes_per_identity: usize,
}

/// The limit that a command would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeded {
    /// `limits.pending_commands`
    Pending,
    /// `limits.pending_commands_per_identity`
    PendingPerIdentity,
    /// `limits.queued_commands`
    Queued,
    /// `limits.queued_commands_per_identity`
    QueuedPerIdentity,
    /// `limits.queued_commands_per_target`
    QueuedPerTarget,
    /// `limits.command_bytes`
    Bytes,
    /// `limits.command_bytes_per_identity`
    BytesPerIdentity,
}

/// What several commands use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Load {
    /// pending commands
    commands: usize,
    /// their targets
    pending: usize,
    /// targets of queued commands
    queued: usize,
    bytes: usize,
}

/// What one command uses.
#[derive(Debug, Clone)]
struct Share {
    requester: ClientId,
    /// it goes to its requester alone, as the commands of plain users do
    own: bool,
    is_queued: bool,
    targets: Vec<ClientId>,
    bytes: usize,
}

impl Share {
    fn of(command: &Command) -> Self {
        let open = command.targets.iter().filter(|target| !target.state.is_final());
        Self {
            requester: command.requested_by,
            own: command.targets.iter().all(|target| target.client == command.requested_by),
            is_queued: command.deliver_until.is_some(),
            targets: open.map(|target| target.client).collect(),
            bytes: command.url.len() + command.data.as_ref().map_or(0, |data| data.len()),
        }
    }
}

/// What all unfinished commands use.
#[derive(Debug, Default)]
pub struct Usage {
    limits: CommandLimits,
    node: Load,
    /// of the commands that go to their requesters alone
    own: Load,
    requesters: HashMap<ClientId, Load>,
    /// queued commands by target
    queued: HashMap<ClientId, usize>,
    commands: HashMap<CommandId, Share>,
}

impl Usage {
    /// Nothing is used.
    pub fn new(limits: CommandLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The limits from now on. What is counted already stays.
    pub fn set_limits(&mut self, limits: CommandLimits) {
        self.limits = limits;
    }

    /// Targets that have not ended, of both classes.
    #[cfg(test)]
    pub fn targets(&self) -> usize {
        self.node.pending + self.node.queued
    }

    /// Counts a new command.
    ///
    /// # Errors
    /// The first limit that it would exceed; then it is not counted.
    pub fn reserve(&mut self, command: &Command) -> Result<(), Exceeded> {
        let share = Share::of(command);
        self.check(&share)?;
        self.add(command.id, share);
        Ok(())
    }

    /// Counts a command that was accepted before, whatever the limits say.
    pub fn take(&mut self, command: &Command) {
        if !self.commands.contains_key(&command.id) {
            self.add(command.id, Share::of(command));
        }
    }

    fn check(&self, share: &Share) -> Result<(), Exceeded> {
        let limits = &self.limits;
        let requester = self.requesters.get(&share.requester).copied().unwrap_or_default();
        let targets = share.targets.len();
        // commands of plain users to themselves use half of the node at most: operators need the rest
        let node = |limit: usize, used: usize, own: usize, more: usize, reserve: usize, exceeded| {
            let over = limit > 0 && (used + more > limit + reserve || (share.own && own + more > limit.div_ceil(2)));
            if over { Err(exceeded) } else { Ok(()) }
        };
        let identity = |limit: usize, used: usize, exceeded| {
            if limit > 0 && used > limit { Err(exceeded) } else { Ok(()) }
        };
        if share.is_queued {
            identity(limits.queued_per_identity, requester.queued + targets, Exceeded::QueuedPerIdentity)?;
            for target in &share.targets {
                let queued = self.queued.get(target).copied().unwrap_or_default();
                identity(limits.queued_per_target, queued + 1, Exceeded::QueuedPerTarget)?;
            }
            node(limits.queued, self.node.queued, self.own.queued, targets, 0, Exceeded::Queued)?;
        } else {
            identity(limits.pending_per_identity, requester.commands + 1, Exceeded::PendingPerIdentity)?;
            // one large command may fill the node: a tenth more is left for requesters with few targets
            let has_few = requester.pending + targets <= limits.pending_per_identity;
            let reserve = if has_few { limits.pending / 10 } else { 0 };
            node(limits.pending, self.node.pending, self.own.pending, targets, reserve, Exceeded::Pending)?;
        }
        identity(limits.bytes_per_identity, requester.bytes + share.bytes, Exceeded::BytesPerIdentity)?;
        node(limits.bytes, self.node.bytes, self.own.bytes, share.bytes, 0, Exceeded::Bytes)
    }

    fn add(&mut self, id: CommandId, share: Share) {
        let load = Load {
            commands: usize::from(!share.is_queued),
            pending: if share.is_queued { 0 } else { share.targets.len() },
            queued: if share.is_queued { share.targets.len() } else { 0 },
            bytes: share.bytes,
        };
        self.change(share.requester, share.own, |sum| {
            sum.commands += load.commands;
            sum.pending += load.pending;
            sum.queued += load.queued;
            sum.bytes += load.bytes;
        });
        if share.is_queued {
            for target in &share.targets {
                *self.queued.entry(*target).or_default() += 1;
            }
        }
        self.commands.insert(id, share);
    }

    /// A target of a command has ended.
    pub fn target_ended(&mut self, id: CommandId, client: ClientId) {
        let Some(share) = self.commands.get_mut(&id) else { return };
        let Some(place) = share.targets.iter().position(|target| *target == client) else { return };
        share.targets.swap_remove(place);
        let (requester, own, is_queued, last) = (share.requester, share.own, share.is_queued, share.targets.is_empty());
        self.change(requester, own, |sum| if is_queued { sum.queued -= 1 } else { sum.pending -= 1 });
        if is_queued {
            self.unqueue(client);
        }
        if last {
            self.release(id);
        }
    }

    /// Whether a command is counted.
    pub fn has(&self, id: CommandId) -> bool {
        self.commands.contains_key(&id)
    }

    /// Counts a command no more.
    pub fn release(&mut self, id: CommandId) {
        let Some(share) = self.commands.remove(&id) else { return };
        let targets = share.targets.len();
        self.change(share.requester, share.own, |sum| {
            sum.bytes -= share.bytes;
            if share.is_queued {
                sum.queued -= targets;
            } else {
                sum.pending -= targets;
                sum.commands -= 1;
            }
        });
        if share.is_queued {
            share.targets.iter().for_each(|target| self.unqueue(*target));
        }
    }

    /// Counts a result until its command is finished. False: that would be over a limit, and it is not counted.
    pub fn keep_result(&mut self, id: CommandId, bytes: usize) -> bool {
        let Some(share) = self.commands.get_mut(&id) else { return true };
        let of_requester = self.requesters.get(&share.requester).map_or(0, |load| load.bytes);
        let limits = &self.limits;
        let over = |limit: usize, used: usize| limit > 0 && used + bytes > limit;
        if over(limits.bytes_per_identity, of_requester) || over(limits.bytes, self.node.bytes) {
            return false;
        }
        share.bytes += bytes;
        let (requester, own) = (share.requester, share.own);
        self.change(requester, own, |sum| sum.bytes += bytes);
        true
    }

    fn change(&mut self, requester: ClientId, own: bool, change: impl Fn(&mut Load)) {
        change(&mut self.node);
        if own {
            change(&mut self.own);
        }
        let sum = self.requesters.entry(requester).or_default();
        change(sum);
        if *sum == Load::default() {
            self.requesters.remove(&requester);
        }
    }

    fn unqueue(&mut self, target: ClientId) {
        if let Some(count) = self.queued.get_mut(&target) {
            *count -= 1;
            if *count == 0 {
                self.queued.remove(&target);
            }
        }
    }

    /// Whether nothing is counted.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
            && self.requesters.is_empty()
            && self.queued.is_empty()
            && self.node == Load::default()
            && self.own == Load::default()
    }
}

#[cfg(test)]
mod tests;
