//! What unfinished commands take up, and how much they may: on this node, per requester and per target.
//!
//! A command belongs to one of two classes for its whole life: those whose targets must be connected (*pending*), and
//! those that may wait for their targets (*queued*), which can stay for a week. Each class has limits of its own, so that
//! neither uses up the places of the other.

use std::collections::HashMap;

use uuid::Uuid;

use super::Command;
use crate::domain::ids::ClientId;

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

/// What some commands take up.
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

/// What one command takes up.
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

/// The accounts of what unfinished commands take up.
#[derive(Debug, Default)]
pub struct Usage {
    limits: CommandLimits,
    node: Load,
    /// of the commands that go to their requesters alone
    own: Load,
    requesters: HashMap<ClientId, Load>,
    /// queued commands by target
    queued: HashMap<ClientId, usize>,
    commands: HashMap<Uuid, Share>,
}

impl Usage {
    /// Nothing is taken up.
    pub fn new(limits: CommandLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Targets that have not ended, of both classes.
    #[cfg(test)]
    pub fn targets(&self) -> usize {
        self.node.pending + self.node.queued
    }

    /// Takes up what a new command needs.
    ///
    /// # Errors
    /// The first limit that it would exceed; then nothing is taken up.
    pub fn reserve(&mut self, command: &Command) -> Result<(), Exceeded> {
        let share = Share::of(command);
        self.check(&share)?;
        self.add(command.id, share);
        Ok(())
    }

    /// Takes up what a command needs that is there already, whatever the limits say.
    pub fn take(&mut self, command: &Command) {
        if !self.commands.contains_key(&command.id) {
            self.add(command.id, Share::of(command));
        }
    }

    fn check(&self, share: &Share) -> Result<(), Exceeded> {
        let limits = &self.limits;
        let requester = self.requesters.get(&share.requester).copied().unwrap_or_default();
        let targets = share.targets.len();
        // what plain users send themselves must not use up what operators need
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
            // one large gather may fill the node: whoever has few commands still finds a place
            let has_few = requester.pending + targets <= limits.pending_per_identity;
            let reserve = if has_few { limits.pending / 10 } else { 0 };
            node(limits.pending, self.node.pending, self.own.pending, targets, reserve, Exceeded::Pending)?;
        }
        identity(limits.bytes_per_identity, requester.bytes + share.bytes, Exceeded::BytesPerIdentity)?;
        node(limits.bytes, self.node.bytes, self.own.bytes, share.bytes, 0, Exceeded::Bytes)
    }

    fn add(&mut self, id: Uuid, share: Share) {
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
    pub fn target_ended(&mut self, id: Uuid, client: ClientId) {
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

    /// Whether a command takes up something.
    pub fn has(&self, id: Uuid) -> bool {
        self.commands.contains_key(&id)
    }

    /// Gives back what a command takes up: it was never begun.
    pub fn release(&mut self, id: Uuid) {
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

    /// Takes up what a result needs until its command is finished. False: that would be more than its requester, or
    /// the node, may have; then nothing is taken up.
    pub fn keep_result(&mut self, id: Uuid, bytes: usize) -> bool {
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

    /// Whether nothing is taken up.
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
mod tests {
    use std::{sync::Arc, time::Duration};

    use chrono::{TimeDelta, Utc};

    use super::*;
    use crate::domain::{commands::Target, ids::ClientKind};

    const LIMITS: CommandLimits = CommandLimits {
        pending: 20,
        pending_per_identity: 3,
        queued: 20,
        queued_per_identity: 8,
        queued_per_target: 2,
        bytes: 1_000,
        bytes_per_identity: 400,
    };

    fn command(requester: ClientId, targets: &[ClientId], queued: bool, bytes: usize) -> Command {
        let target = |client: &ClientId| Target::new(*client, ClientKind::Device, String::new(), None);
        Command {
            id: Uuid::new_v4(),
            requested_by: requester,
            requester: String::new(),
            method: "GET".to_owned(),
            url: String::new(),
            data: Some(Arc::from("x".repeat(bytes))),
            timeout: Duration::from_secs(30),
            deliver_until: queued.then(|| Utc::now() + TimeDelta::days(7)),
            created_at: Utc::now(),
            finished_at: None,
            version: 0,
            targets: targets.iter().map(target).collect(),
        }
    }

    fn clients<const N: usize>() -> [ClientId; N] {
        std::array::from_fn(|_| ClientId::random())
    }

    fn end(usage: &mut Usage, command: &Command) {
        command.targets.iter().for_each(|target| usage.target_ended(command.id, target.client));
    }

    #[test]
    fn each_class_has_places_of_its_own() {
        let mut usage = Usage::new(LIMITS);
        let [operator, a, b] = clients();
        let queued: Vec<_> = [a, b, a, b].map(|target| command(operator, &[target], true, 0)).into();
        queued.iter().for_each(|command| usage.reserve(command).unwrap());
        assert_eq!(usage.reserve(&command(operator, &[a], true, 0)), Err(Exceeded::QueuedPerTarget));
        let pending: Vec<_> = [a, a, a].map(|target| command(operator, &[target], false, 0)).into();
        pending.iter().for_each(|command| usage.reserve(command).unwrap());
        assert_eq!(usage.reserve(&command(operator, &[a], false, 0)), Err(Exceeded::PendingPerIdentity));
        assert_eq!(usage.targets(), 7);
        queued.iter().chain(&pending).for_each(|command| end(&mut usage, command));
        assert!(usage.is_empty());
    }

    #[test]
    fn a_requester_has_no_more_than_its_share_and_others_still_have_theirs() {
        let mut usage = Usage::new(LIMITS);
        let [one, other] = clients();
        usage.reserve(&command(one, &clients::<8>(), true, 0)).unwrap();
        assert_eq!(usage.reserve(&command(one, &clients::<1>(), true, 0)), Err(Exceeded::QueuedPerIdentity));
        usage.reserve(&command(other, &clients::<8>(), true, 0)).unwrap();
        assert_eq!(usage.reserve(&command(clients::<1>()[0], &clients::<5>(), true, 0)), Err(Exceeded::Queued));
    }

    #[test]
    fn a_gather_that_fills_the_node_leaves_places_for_those_who_have_few() {
        let mut usage = Usage::new(LIMITS);
        let [operator, other] = clients();
        let gather = command(operator, &clients::<20>(), false, 0);
        usage.reserve(&gather).unwrap();
        assert_eq!(usage.reserve(&command(operator, &clients::<1>(), false, 0)), Err(Exceeded::Pending));
        usage.reserve(&command(other, &clients::<2>(), false, 0)).unwrap();
        assert_eq!(usage.reserve(&command(other, &clients::<1>(), false, 0)), Err(Exceeded::Pending));
        end(&mut usage, &gather);
        usage.reserve(&command(operator, &clients::<18>(), false, 0)).unwrap();
    }

    #[test]
    fn commands_of_plain_users_take_half_of_the_node_at_most() {
        let mut usage = Usage::new(LIMITS);
        for user in clients::<10>() {
            usage.reserve(&command(user, &[user], true, 0)).unwrap();
            usage.reserve(&command(user, &[user], false, 0)).unwrap();
        }
        let [user, operator, device] = clients();
        assert_eq!(usage.reserve(&command(user, &[user], true, 0)), Err(Exceeded::Queued));
        assert_eq!(usage.reserve(&command(user, &[user], false, 0)), Err(Exceeded::Pending));
        usage.reserve(&command(operator, &[device], true, 0)).unwrap();
        usage.reserve(&command(operator, &[device], false, 0)).unwrap();
    }

    #[test]
    fn commands_and_results_are_bounded_in_bytes() {
        let mut usage = Usage::new(LIMITS);
        let [one, a, b] = clients();
        let gather = command(one, &[a, b], false, 300);
        usage.reserve(&gather).unwrap();
        assert_eq!(usage.reserve(&command(one, &[a], true, 101)), Err(Exceeded::BytesPerIdentity));
        assert!(usage.keep_result(gather.id, 100));
        assert!(!usage.keep_result(gather.id, 1));
        for requester in clients::<2>() {
            usage.reserve(&command(requester, &[a], false, 300)).unwrap();
        }
        assert_eq!(usage.reserve(&command(clients::<1>()[0], &[a], false, 1)), Err(Exceeded::Bytes));
        end(&mut usage, &gather);
        usage.reserve(&command(one, &[a], true, 101)).unwrap();
    }

    #[test]
    fn what_was_reserved_and_never_begun_is_given_back() {
        let mut usage = Usage::new(LIMITS);
        let [one, a, b] = clients();
        for queued in [true, false] {
            let refused = command(one, &[a, b], queued, 10);
            usage.reserve(&refused).unwrap();
            usage.release(refused.id);
            assert!(usage.is_empty());
        }
    }

    #[test]
    fn a_limit_of_zero_is_none() {
        let mut usage = Usage::new(CommandLimits::default());
        let [one, a] = clients();
        (0..100).for_each(|_| usage.reserve(&command(one, &[a], true, 1_000)).unwrap());
        (0..100).for_each(|_| usage.reserve(&command(one, &[one], false, 1_000)).unwrap());
        assert!(usage.keep_result(Uuid::new_v4(), usize::MAX));
    }

    #[test]
    fn what_is_there_already_counts_whatever_the_limits_say() {
        let mut usage = Usage::new(LIMITS);
        let [one, a] = clients();
        let recovered: Vec<_> = (0..5).map(|_| command(one, &[a], true, 0)).collect();
        recovered.iter().for_each(|command| usage.take(command));
        assert_eq!(usage.reserve(&command(one, &[a], true, 0)), Err(Exceeded::QueuedPerTarget));
        recovered.iter().for_each(|command| end(&mut usage, command));
        assert!(usage.is_empty());
    }
}
