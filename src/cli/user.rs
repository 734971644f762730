//! `switchboard user`: works on the same database as the broker, also while it runs.

use std::io::{BufRead, IsTerminal};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};

use super::{ConfigArguments, database::Database};
use crate::{
    auth::passwords,
    domain::{ids::Role, passwords::PasswordRules, usernames},
    store::{Duplicate, NewUser, Store, User, UserChange},
    terminal::{
        WrongArguments,
        output::{printable, table},
        say,
    },
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Create a user
    Create {
        /// 3 to 50 characters, or an email
        #[arg(long)]
        username: String,
        /// For logging in by email
        #[arg(long)]
        email: Option<String>,
        /// What the user may do
        #[arg(long, value_enum)]
        role: Role,
        /// Read the password from the first line of stdin instead of asking for it
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        config: ConfigArguments,
    },
    /// List all users
    List {
        #[command(flatten)]
        config: ConfigArguments,
    },
    /// Give a user another role
    SetRole {
        /// The user's username or email
        username: String,
        /// What the user may do
        #[arg(value_enum)]
        role: Role,
        #[command(flatten)]
        config: ConfigArguments,
    },
    /// Set another password; the user's logins end, live sockets are closed within seconds
    SetPassword {
        /// The user's username or email
        username: String,
        /// Read the password from the first line of stdin instead of asking for it
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        config: ConfigArguments,
    },
    /// Delete a user; messages stay, rooms pass on as if the user had left
    Delete {
        /// The user's username or email
        username: String,
        #[command(flatten)]
        config: ConfigArguments,
    },
    /// Shut a user out; live sockets are closed within seconds
    Disable {
        /// The user's username or email
        username: String,
        #[command(flatten)]
        config: ConfigArguments,
    },
    /// Let a user in again
    Enable {
        /// The user's username or email
        username: String,
        #[command(flatten)]
        config: ConfigArguments,
    },
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.action {
        Action::Create { username, email, role, password_stdin, config } => {
            usernames::check(&username)
                .map_err(|why| WrongArguments(format!("--username: {why}, unlike \"{}\"", printable(&username))))?;
            if let Some(email) = &email {
                ensure!(
                    usernames::is_email(email),
                    WrongArguments(format!("--email: {email} is not an email address"))
                );
            }
            let database = Database::open_migrated(config, true).await?;
            let names: Vec<_> = [Some(username.as_str()), email.as_deref()].into_iter().flatten().collect();
            let password_hash = new_password(password_stdin, database.password_rules().await?, &names)?;
            let new = NewUser { username, email, full_name: None, job_title: None, password_hash, role };
            match database.store.create_user(new).await? {
                Ok(user) => {
                    say!("created {} {} (id {}) in {}", user.role.as_str(), user.username, user.id, database.location);
                }
                Err(Duplicate::Username) => bail!("there is a user with this name already: give another --username"),
                Err(Duplicate::Email) => bail!("there is a user with this email address already: give another --email"),
            }
        }
        Action::List { config } => list(&open(config).await?).await?,
        Action::SetRole { username, role, config } => update(config, &username, Some(role), None).await?,
        Action::Disable { username, config } => update(config, &username, None, Some(false)).await?,
        Action::Enable { username, config } => update(config, &username, None, Some(true)).await?,
        Action::SetPassword { username, password_stdin, config } => {
            let database = Database::open_migrated(config, false).await?;
            let (password_rules, store) = (database.password_rules().await?, database.store);
            let user = find(&store, &username).await?;
            let names: Vec<_> = [Some(user.username.as_str()), user.email.as_deref()].into_iter().flatten().collect();
            let hash = new_password(password_stdin, password_rules, &names)?;
            let change = UserChange::Password { hash, expected: None, kept_login: None };
            store.change_user(user.id, change).await??;
            say!("{}: password changed, earlier logins end", user.username);
        }
        Action::Delete { username, config } => {
            let store = open(config).await?;
            let user = find(&store, &username).await?;
            store.change_user(user.id, UserChange::Delete).await??;
            say!("deleted {} (id {})", user.username, user.id);
        }
    }
    Ok(())
}

async fn find(store: &Store, username: &str) -> anyhow::Result<User> {
    store.user_by_login(username).await?.with_context(|| format!("there is no user {username}"))
}

/// Asks for a password and hashes it.
fn new_password(from_stdin: bool, rules: PasswordRules, names: &[&str]) -> anyhow::Result<String> {
    let password = read_password(from_stdin)?;
    rules.check(&password, names)?;
    passwords::hash(&password)
}

async fn open(config: ConfigArguments) -> anyhow::Result<Store> {
    Ok(Database::open_migrated(config, false).await?.store)
}

async fn update(
    config: ConfigArguments,
    username: &str,
    role: Option<Role>,
    is_active: Option<bool>,
) -> anyhow::Result<()> {
    let store = open(config).await?;
    let user = find(&store, username).await?;
    let user = store.change_user(user.id, UserChange::Update { role, is_active }).await??;
    let state = if user.is_active { "active" } else { "disabled" };
    say!("{}: {}, {state}", user.username, user.role.as_str());
    Ok(())
}

async fn list(store: &Store) -> anyhow::Result<()> {
    let mut table = table(&["ID", "ROLE", "STATE", "USERNAME", "EMAIL"]);
    let mut after = None;
    loop {
        let users = store.users(after, 0, 1000).await?;
        let Some(last) = users.last() else { break };
        after = Some(last.id);
        for user in users {
            let state = if user.is_active { "active" } else { "disabled" };
            let email = user.email.unwrap_or_default();
            let texts = [user.role.as_str(), state, &user.username, &email].map(printable);
            table.add_row(std::iter::once(user.id.to_string()).chain(texts));
        }
    }
    say!("{table}");
    Ok(())
}

fn read_password(from_stdin: bool) -> anyhow::Result<String> {
    if from_stdin {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).context("cannot read the password from stdin")?;
        return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
    }
    ensure!(std::io::stdin().is_terminal(), "no terminal to ask for the password on: use --password-stdin");
    let password = rpassword::prompt_password("Password: ")?;
    let again = rpassword::prompt_password("Again: ")?;
    ensure!(password == again, "the passwords differ");
    Ok(password)
}
