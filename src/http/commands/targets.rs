//! The targets of a command: named or selected.

use std::{collections::HashSet, sync::Arc};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::request::{Select, TargetRef};
use crate::{
    domain::{
        accounts::Account,
        ids::{ClientId, RoomId, TopicId},
    },
    http::errors::ApiError,
    state::Broker,
};

/// Accounts that are read concurrently: ten thousand one after the other would take too long.
const AT_ONCE: usize = 8;

/// The accounts of named targets, each once.
pub(super) async fn listed(
    broker: &Broker,
    targets: impl Iterator<Item = TargetRef>,
) -> Result<Vec<Arc<Account>>, ApiError> {
    let accounts: Vec<Arc<Account>> =
        stream::iter(targets).map(|target| target.account(broker)).buffered(AT_ONCE).try_collect().await?;
    let mut seen = HashSet::new();
    Ok(accounts.into_iter().filter(|account| seen.insert(account.id)).collect())
}

/// The accounts of the connected clients for which all conditions hold.
pub(super) async fn selected(broker: &Broker, select: Select, asker: ClientId) -> Result<Vec<Arc<Account>>, ApiError> {
    let subscribers: Option<HashSet<ClientId>> = match &select.topic {
        Some(topic) => {
            let members = broker.topics.subscribers_here(TopicId::from(topic.as_str())).await?;
            Some(members.into_iter().collect())
        }
        None => None,
    };
    let members: Option<HashSet<ClientId>> = match select.room.map(RoomId) {
        // a requester that may not see the room must not learn its members
        Some(room) => match broker.store.room(room, asker).await? {
            Some(_) => Some(broker.store.member_ids(room).await?.into_iter().collect()),
            None => Some(HashSet::new()),
        },
        None => None,
    };
    let mut accounts = Vec::new();
    for client in broker.clients.all_commandable() {
        let fits = |group: &Option<HashSet<ClientId>>| group.as_ref().is_none_or(|group| group.contains(&client));
        if !fits(&subscribers) || !fits(&members) {
            continue;
        }
        let Some(account) = broker.accounts.find(client).await? else { continue };
        let kind = select.kind.is_none_or(|kind| kind == account.kind());
        let name = select.name_prefix.as_ref().is_none_or(|prefix| account.name().starts_with(prefix));
        if kind && name {
            accounts.push(account);
        }
    }
    if accounts.is_empty() {
        return Err(ApiError::NotFound("No matching clients"));
    }
    Ok(accounts)
}
