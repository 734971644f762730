//! Changes by other processes: another node, or the command line.

use std::{sync::Arc, time::Duration};

use super::Accounts;
use crate::{
    domain::accounts::{Account, AccountChange},
    store::StoreError,
};

/// How often expired tokens and revocations are deleted.
const CLEANING: Duration = Duration::from_secs(600);

impl Accounts {
    /// Polls the database for ever: calls `on_change` every `period` with each change since the last poll, also of this
    /// process, where it has no effect any more. Deletes expired tokens and revocations now and then.
    pub async fn watch(self: Arc<Self>, period: Duration, mut on_change: impl FnMut(AccountChange)) {
        let mut seen = self.loaded;
        let mut cleaned: Option<tokio::time::Instant> = None;
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = tokio::select! {
                now = ticks.tick() => now,
                () = self.looks.wanted() => tokio::time::Instant::now(),
            };
            let began = self.looks.begins();
            match self.changes_after(seen).await {
                Ok((changes, upto)) => {
                    seen = upto;
                    changes.into_iter().for_each(&mut on_change);
                    self.looks.ends(began);
                }
                Err(error) => tracing::warn!(%error, "cannot look for changed accounts"),
            }
            if cleaned.is_none_or(|cleaned| now - cleaned > CLEANING) {
                cleaned = Some(now);
                let now = self.tokens.now();
                self.revoked.pin().retain(|_, until| *until > now);
                if let Err(error) = self.store.delete_expired_tokens().await {
                    tracing::warn!(%error, "cannot delete expired tokens");
                }
            }
        }
    }

    /// Looks for changes at once: another process has made some.
    pub fn look_now(&self) {
        self.looks.look_now();
    }

    /// Waits until all changes are known, and given to `on_change`, that [`Accounts::look_now`] told of before. While the
    /// database is away that lasts.
    pub async fn looked(&self) {
        self.looks.settled().await;
    }

    /// The changes after this version, and the version up to which they go. Versions become visible in their order, so
    /// none is missed; a row that changes again meanwhile is found by the next poll.
    async fn changes_after(&self, after: i64) -> Result<(Vec<AccountChange>, i64), StoreError> {
        let upto = self.store.last_change().await?;
        let mut changes = Vec::new();
        if upto == after {
            return Ok((changes, upto));
        }
        for (id, until) in self.store.revocations(Some(after)).await? {
            self.put_revocation(id, until);
            changes.push(AccountChange::Token(id));
        }
        for user in self.store.users_changed(after, upto).await? {
            changes.push(AccountChange::Account(self.put(user.into())));
        }
        // a change of a gateway may change thousands of devices, most of them cached already
        let mut unknown = Vec::new();
        for (id, version) in self.store.devices_changed(after, upto).await? {
            match self.cache.get(&id).filter(|known| known.version >= version) {
                Some(known) => changes.push(AccountChange::Account(known)),
                None => unknown.push(id),
            }
        }
        for device in self.store.devices_and_deleted(&unknown).await? {
            let account = Account::from(device);
            let known = self.cache.get(&account.id);
            // deleted, and registered again since the last poll: the former one is gone first
            if !account.is_deleted && known.is_some_and(|known| known.incarnation() < account.incarnation()) {
                let former = Account { is_deleted: true, ..account.clone() };
                changes.push(AccountChange::Account(Arc::new(former)));
            }
            changes.push(AccountChange::Account(self.put(account)));
        }
        Ok((changes, upto))
    }
}
