//! Prepares a command that is requested: finds its targets, which are named or selected among the connected clients, and
//! checks whether it may be given to them.

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::Duration};

use chrono::TimeDelta;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;

use super::{CommandError, Commands};
use crate::{
    domain::{
        accounts::{Account, Holder},
        audit::{Action, Actor, Event, Target, path_of},
        commands::{Command, Order, Selection, max_targets, may_command},
        ids::{ClientId, ClientRef, Role},
    },
    protocol::outbound,
};

/// Accounts that are read concurrently: ten thousand one after the other would take too long.
const AT_ONCE: usize = 8;

/// The targets of a command, as a request describes them.
#[derive(Debug)]
pub enum Targets {
    /// These, connected or not.
    Named(Vec<ClientRef>),
    /// The connected clients that fit. For operators.
    Selected(Selection),
    /// All connected clients.
    Connected,
}

/// A command that is requested.
#[derive(Debug)]
pub struct NewCommand {
    /// Who asks.
    pub requester: Arc<Account>,
    /// Who is to do it.
    pub targets: Targets,
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
    /// Where the request came from.
    pub address: Option<IpAddr>,
}

/// A command that may be given.
#[derive(Debug)]
pub struct Prepared {
    pub(super) command: Command,
    /// sorted
    pub(super) behind_down_gateway: Vec<ClientId>,
    /// that it was given
    pub(super) audited: Box<Event>,
}

impl Prepared {
    /// The bytes that count against its requester's limit of stored data.
    fn stored_bytes(&self) -> usize {
        self.command.url.len() + self.command.data.as_ref().map_or(0, |data| data.len())
    }
}

impl Commands {
    /// Finds the targets of a command, checks that it may be given to them, and charges the bytes that are stored of it to its
    /// requester. Operators have no limit, since they give tens of thousands of commands per second.
    ///
    /// # Errors
    /// `TooManyTargets`, `Lookup`, `NoMatch`, `NotAllowed`, `GatewayDown`, `TooLarge`, `OverLimit`, or the database fails.
    pub(super) async fn prepare(&self, new: NewCommand) -> Result<Prepared, CommandError> {
        let NewCommand { requester, targets, method, url, data, timeout, deliver_within, address } = new;
        let named = matches!(targets, Targets::Named(_));
        let targets = self.choose(targets, &requester).await?;
        let payer = (requester.role() < Role::Operator).then_some(requester.id);
        let mut prepared =
            self.check(Order { requester, targets, method, url, data, timeout, deliver_within }, named)?;
        prepared.audited.actor.address = address;
        if let Some(payer) = payer {
            self.store.charge_stored(payer, prepared.stored_bytes())?;
        }
        Ok(prepared)
    }

    /// Creates a command from an order. If the targets were `named` instead of selected, and the command may not wait, the
    /// gateway of at least one target must be up.
    pub(super) fn check(&self, order: Order, named: bool) -> Result<Prepared, CommandError> {
        if !may_command(&order.requester, &order.targets) {
            return Err(CommandError::NotAllowed);
        }
        let down = |account: &Account| self.down_gateway(account).map(|gateway| (account.id, gateway));
        let mut down: Vec<_> = order.targets.iter().filter_map(|account| down(account)).collect();
        if named && order.deliver_within.is_none() && down.len() == order.targets.len() && !down.is_empty() {
            return Err(CommandError::GatewayDown(down.swap_remove(0).1));
        }
        let mut behind_down_gateway: Vec<_> = down.into_iter().map(|(client, _)| client).collect();
        behind_down_gateway.sort_unstable();
        let by = Actor::of(&order.requester, None);
        let command = order.into_command(self.clock.now());
        // a larger frame would exceed the outbound budget of any target
        let most = self.settings.load().limits.outbound_bytes / 2;
        if most > 0 && outbound::command(&command).len() > most {
            return Err(CommandError::TooLarge(most));
        }
        let audited = Box::new(self.audited(by, &command));
        Ok(Prepared { command, behind_down_gateway, audited })
    }

    /// The record of the audit log, without the data of the command.
    fn audited(&self, by: Actor, command: &Command) -> Event {
        let target = match &command.targets[..] {
            [one] => Some(Target::named(one.client, &one.name)),
            _ => None,
        };
        let details = json!({
            "command": command.id,
            "method": command.method,
            "url": path_of(&command.url),
            "targets": command.targets.len(),
        });
        self.store.audit_event(by, Action::CommandGiven, target, details)
    }

    /// The name of a client's gateway, if that is down.
    fn down_gateway(&self, account: &Account) -> Option<String> {
        match &account.holder {
            Holder::Device { gateway_id: Some(gateway), .. } => self.gateways.name_if_down(*gateway),
            Holder::Device { .. } | Holder::User { .. } => None,
        }
    }

    /// The accounts of targets, each once.
    async fn choose(&self, targets: Targets, by: &Account) -> Result<Vec<Arc<Account>>, CommandError> {
        let accounts = match targets {
            Targets::Named(named) => {
                let (most, given) = (max_targets(by.role()), named.len());
                if given > most {
                    return Err(CommandError::TooManyTargets { most, given });
                }
                return self.named(named).await;
            }
            Targets::Selected(_) if by.role() < Role::Operator => return Err(CommandError::NotAllowed),
            Targets::Selected(selection) => self.selected(&selection, by.id).await?,
            Targets::Connected => self.connected(|_| true).await?,
        };
        if accounts.is_empty() { Err(CommandError::NoMatch) } else { Ok(accounts) }
    }

    async fn named(&self, named: Vec<ClientRef>) -> Result<Vec<Arc<Account>>, CommandError> {
        let accounts: Vec<Arc<Account>> =
            stream::iter(named).map(|one| self.accounts.look_up(one)).buffered(AT_ONCE).try_collect().await?;
        let mut seen = HashSet::new();
        Ok(accounts.into_iter().filter(|account| seen.insert(account.id)).collect())
    }

    async fn selected(&self, selection: &Selection, by: ClientId) -> Result<Vec<Arc<Account>>, CommandError> {
        let mut groups: Vec<HashSet<ClientId>> = Vec::new();
        if let Some(topic) = &selection.topic {
            groups.push(self.topics.subscribers(topic).await?.into_iter().collect());
        }
        if let Some(room) = selection.room {
            // a requester that may not see the room must not learn its members
            let members = match self.store.room(room, by).await? {
                Some(_) => self.store.member_ids(room).await?,
                None => Vec::new(),
            };
            groups.push(members.into_iter().collect());
        }
        let mut accounts = self.connected(|client| groups.iter().all(|group| group.contains(&client))).await?;
        accounts.retain(|account| selection.fits(account));
        Ok(accounts)
    }

    /// The accounts of connected clients, of all nodes.
    async fn connected(&self, is_wanted: impl Fn(ClientId) -> bool) -> Result<Vec<Arc<Account>>, CommandError> {
        let mut accounts = Vec::new();
        let here = self.directory.all_commandable();
        for client in here.iter().copied().filter(|client| is_wanted(*client)) {
            accounts.extend(self.accounts.find(client).await?);
        }
        let mut elsewhere = self.backplane.elsewhere().all_commandable();
        if !elsewhere.is_empty() {
            let here: HashSet<_> = here.into_iter().collect();
            elsewhere.retain(|client| !here.contains(client) && is_wanted(*client));
            // their accounts may not be known here
            let found = stream::iter(elsewhere).map(|client| self.accounts.find(client)).buffered(AT_ONCE);
            accounts.extend(found.try_collect::<Vec<_>>().await?.into_iter().flatten());
        }
        Ok(accounts)
    }
}
