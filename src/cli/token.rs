//! `switchboard token`: an access token for a user or device, made with the broker's secret on its machine.

use anyhow::{Context, ensure};
use chrono::TimeDelta;
use clap::Args;
use serde_json::json;
use uuid::Uuid;

use super::{ConfigArguments, database::Database, values::number};
use crate::{
    app::bootstrap,
    auth::tokens::Tokens,
    clock::Clock,
    domain::{
        accounts::Account,
        audit::{Action, Target},
    },
    protocol::outbound::rfc3339,
    store::Store,
    terminal::{
        output::{complain, printable},
        say,
    },
};

/// A year.
const MOST_MINUTES: u64 = 525_600;

#[derive(Args)]
pub(super) struct Arguments {
    /// A user's username or email, or the UUID of a user or device
    client: String,
    /// The token's lifetime [default: auth.access_token_minutes]
    #[arg(long, value_parser = number(1..=MOST_MINUTES))]
    minutes: Option<u64>,
    #[command(flatten)]
    config: ConfigArguments,
}

pub(super) async fn run(Arguments { client, minutes, config }: Arguments) -> anyhow::Result<()> {
    let database = Database::open_migrated(config, false).await?;
    let secret = bootstrap::existing_secret(&database.settings)?;
    let account = find(&database.store, &client).await?;
    let minutes = minutes.map_or(database.settings.auth.access_token_minutes, |minutes| minutes as i64);
    let lifetime = TimeDelta::minutes(minutes);
    let clock = Clock::default();
    let tokens = Tokens::new(&secret, lifetime, lifetime, clock.clone());
    let (token, expires_at) = tokens.access(&account, Uuid::new_v4(), clock.now())?;
    let target = Target::named(account.id, account.name());
    let details = json!({ "expires_at": rfc3339(expires_at) });
    database.store.audit(Action::TokenIssued, Some(target), details).await?;
    // apart from the token, so that `$(switchboard token …)` is the token
    complain(&format!(
        "a token of the {} {}, valid until {}",
        account.kind().as_str(),
        printable(account.name()),
        rfc3339(expires_at)
    ));
    say!("{token}");
    Ok(())
}

/// The account of a user's name or a client's UUID.
async fn find(store: &Store, client: &str) -> anyhow::Result<Account> {
    let found: Option<Account> = match Uuid::try_parse(client) {
        Ok(uuid) => match store.device(uuid.into()).await? {
            Some(device) => Some(device.into()),
            None => store.user_by_uuid(uuid.into()).await?.map(Into::into),
        },
        Err(_) => store.user_by_login(client).await?.map(Into::into),
    };
    let account = found.filter(|account| !account.is_deleted).with_context(|| {
        format!("there is no user or device {}: give a username, an email or a UUID", printable(client))
    })?;
    ensure!(account.is_active(), "the user {} is disabled: switchboard user enable", printable(account.name()));
    Ok(account)
}
