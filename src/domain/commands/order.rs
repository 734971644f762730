//! Who may give which command, and how a command is made of what somebody asks for.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use super::{Command, Target};
use crate::domain::{
    accounts::{Account, Holder},
    ids::{ClientKind, CommandId, Role, RoomId, TopicId},
};

/// Named targets that a command of an operator may have.
const MAX_TARGETS: usize = 10_000;

/// Named targets that a command of another user may have: all its sockets have one identity.
const MAX_TARGETS_OF_USER: usize = 16;

/// How many targets somebody of this role may name.
pub fn max_targets(role: Role) -> usize {
    if role >= Role::Operator { MAX_TARGETS } else { MAX_TARGETS_OF_USER }
}

/// Whether an account may command all of these: operators command anyone, a user only its own sockets.
pub fn may_command(requester: &Account, targets: &[Arc<Account>]) -> bool {
    requester.role() >= Role::Operator || targets.iter().all(|target| target.id == requester.id)
}

/// Selects connected clients: those for which all conditions hold.
#[derive(Debug, Default)]
pub struct Selection {
    /// Devices, or users.
    pub kind: Option<ClientKind>,
    /// Subscribers of this topic.
    pub topic: Option<TopicId>,
    /// Members of this room.
    pub room: Option<RoomId>,
    /// Clients whose names begin like this.
    pub name_prefix: Option<String>,
}

impl Selection {
    /// Whether kind and name fit.
    pub fn fits(&self, account: &Account) -> bool {
        self.kind.is_none_or(|kind| kind == account.kind())
            && self.name_prefix.as_ref().is_none_or(|prefix| account.name().starts_with(prefix))
    }
}

/// What somebody asks for.
#[derive(Debug)]
pub struct Order {
    /// Who asks.
    pub requester: Arc<Account>,
    /// The clients that are to do it.
    pub targets: Vec<Arc<Account>>,
    /// Its method, such as `GET`; the target decides what it means.
    pub method: String,
    /// Its path, such as `/status`; the target decides what it means.
    pub url: String,
    /// The data that comes with it, as JSON.
    pub data: Option<Arc<str>>,
    /// How long a target may take to answer.
    pub timeout: Duration,
    /// How long the command waits for targets that are not connected. None: not at all.
    pub deliver_within: Option<TimeDelta>,
}

impl Order {
    /// The command, given now. The time is exact to the microsecond, as databases keep it.
    pub fn into_command(self, now: DateTime<Utc>) -> Command {
        let mut targets: Vec<_> = self.targets.iter().map(|account| target(account)).collect();
        // the order in which the database is read
        targets.sort_by(|a, b| (&a.name, a.client).cmp(&(&b.name, b.client)));
        Command {
            id: CommandId::new(now),
            requested_by: self.requester.id,
            requester: self.requester.name().to_owned(),
            method: self.method,
            url: self.url,
            data: self.data,
            timeout: self.timeout,
            deliver_until: self.deliver_within.map(|wait| now + wait),
            created_at: now,
            finished_at: None,
            version: 0,
            targets,
        }
    }
}

fn target(account: &Account) -> Target {
    let (name, user_id) = match &account.holder {
        Holder::Device { name, .. } => (name.clone(), None),
        Holder::User { id, username, email, .. } => (email.clone().unwrap_or_else(|| username.clone()), Some(*id)),
    };
    Target { incarnation: account.incarnation(), ..Target::new(account.id, account.kind(), name, user_id) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{accounts::tests::device, commands::TargetState};

    fn user(role: Role) -> Arc<Account> {
        let holder = Holder::User {
            id: 7,
            username: "ulla".to_owned(),
            email: Some("ulla@example.org".to_owned()),
            full_name: None,
            role,
            is_active: true,
        };
        Arc::new(Account { holder, ..device("") })
    }

    #[test]
    fn operators_command_anyone_and_others_only_themselves() {
        let (user, operator, device) = (user(Role::User), user(Role::Operator), Arc::new(device("pump")));
        let both = [user.clone(), device.clone()];
        assert!(may_command(&operator, &both));
        assert!(may_command(&user, &both[..1]));
        assert!(!may_command(&user, &both) && !may_command(&user, &both[1..]) && !may_command(&device, &both[..1]));
        assert!(max_targets(Role::Admin) > max_targets(Role::User));
    }

    #[test]
    fn a_command_is_seen_by_operators_and_by_who_gave_it() {
        let (giver, other, operator) = (user(Role::User), user(Role::User), user(Role::Operator));
        let command = order(&giver, None).into_command(Utc::now());
        assert!(command.is_visible_to(&giver) && command.is_visible_to(&operator) && !command.is_visible_to(&other));
    }

    fn order(requester: &Arc<Account>, deliver_within: Option<TimeDelta>) -> Order {
        Order {
            requester: requester.clone(),
            targets: [Arc::new(device("valve")), requester.clone(), Arc::new(device("pump"))].into(),
            method: "GET".to_owned(),
            url: "/".to_owned(),
            data: None,
            timeout: Duration::from_secs(30),
            deliver_within,
        }
    }

    #[test]
    fn targets_are_sorted_by_name_and_users_are_called_by_their_email() {
        let now = Utc::now();
        let command = order(&user(Role::Operator), Some(TimeDelta::seconds(60))).into_command(now);
        let names: Vec<_> = command.targets.iter().map(|target| &*target.name).collect();
        assert_eq!(names, ["pump", "ulla@example.org", "valve"]);
        assert_eq!((&*command.requester, command.targets[1].user_id), ("ulla", Some(7)));
        assert_eq!((command.created_at, command.deliver_until), (now, Some(now + TimeDelta::seconds(60))));
    }

    #[test]
    fn a_withdrawn_command_has_ended_as_cancelled_for_all_targets() {
        let mut command = order(&user(Role::Operator), None).into_command(Utc::now());
        command.withdraw();
        assert_eq!(command.finished_at, Some(command.created_at));
        assert!(command.targets.iter().all(|target| target.state == TargetState::Cancelled));
        assert!(command.targets.iter().all(|target| target.ended_at == command.finished_at));
    }
}
