//! What identifies clients: tokens, accounts and passwords.

use std::sync::Arc;

use chrono::TimeDelta;

use crate::{
    auth::{accounts::Accounts, passwords::Passwords, tokens::Tokens},
    clock::Clock,
    settings::Settings,
    store::Store,
};

pub(super) struct Identities {
    pub accounts: Arc<Accounts>,
    pub passwords: Passwords,
}

impl Identities {
    pub(super) async fn load(
        settings: &Settings,
        clock: &Clock,
        secret: &[u8],
        store: &Store,
        workers: usize,
    ) -> anyhow::Result<Self> {
        let tokens = Tokens::new(
            secret,
            TimeDelta::minutes(settings.auth.access_token_minutes),
            TimeDelta::days(settings.auth.refresh_token_days),
            clock.clone(),
        );
        let accounts = Arc::new(Accounts::load(store.clone(), tokens).await?);
        // half of the workers at most hash passwords, so that a flood of logins does not starve the sockets
        let passwords = Passwords::new((workers / 2).max(1), settings.limits.password_hashes_queued)?;
        Ok(Self { accounts, passwords })
    }
}
