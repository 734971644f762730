//! The audit log: who did what to whom.
//!
//! To add an action: a line in the table of [`Action`], one in the table of `docs/audit.md` (a test compares them), and the call
//! that records it: `Transaction::audit` in the store, in the transaction of the change; else `Audit::record` of the services.

mod repeats;

use std::{net::IpAddr, sync::Arc};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

pub use self::repeats::Repeats;
use super::{
    accounts::{Account, Holder},
    ids::ClientId,
};

/// Characters of a text of clients (a name, a route, the URL of a command) in a record.
const MAX_CHARS: usize = 200;

/// Bytes of the details of a record as JSON.
const MAX_DETAILS: usize = 4096;

/// Declares [`Action`] from lines `Variant = "name", outcome, "target", "meaning"`.
macro_rules! actions {
    ($($action:ident = $name:literal, $outcome:ident, $target:literal, $meaning:literal;)+) => {
        /// What was done, or refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Action {
            $(#[doc = $meaning] $action,)+
        }

        impl Action {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$action,)+];

            /// The name in the database, in answers and in the log.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$action => $name,)+
                }
            }

            /// Whether it was done.
            pub fn outcome(self) -> Outcome {
                match self {
                    $(Self::$action => Outcome::$outcome,)+
                }
            }

            /// What its target is, and what it means, for the documentation.
            #[cfg(test)]
            fn described(self) -> (&'static str, &'static str) {
                match self {
                    $(Self::$action => ($target, $meaning),)+
                }
            }
        }
    };
}

actions! {
    LoginSucceeded = "login_succeeded", Succeeded, "user", "A user has logged in with a password";
    LoginRefused = "login_refused", Refused, "user, if the name is one's", "A login with a password was refused: `reason`";
    PasswordRefused = "password_refused", Refused, "user", "A user gave a wrong old password for a new one: `reason`";
    AccessRefused = "access_refused", Refused, "method and route", "A client without the role called a route of operators or admins (403)";
    LoggedOut = "logged_out", Succeeded, "client", "A client has ended its login";
    TokenReused = "token_reused", Succeeded, "client", "A refresh token was used twice, so its login was ended";
    TokensRevoked = "tokens_revoked", Succeeded, "client, or token id", "An admin has revoked a token, a login or all tokens of a client: `revoked`";
    UserCreated = "user_created", Succeeded, "user", "A user was created: `role`";
    UserRoleChanged = "user_role_changed", Succeeded, "user", "A user has got another role: `from`, `to`";
    UserDisabled = "user_disabled", Succeeded, "user", "A user was disabled";
    UserEnabled = "user_enabled", Succeeded, "user", "A user was enabled again";
    PasswordChanged = "password_changed", Succeeded, "user", "A user has got another password, and other logins have ended";
    UserDeleted = "user_deleted", Succeeded, "user", "A user was deleted";
    DeviceRegistered = "device_registered", Succeeded, "device", "An operator has registered a device (`devices.registration = \"closed\"`)";
    DeviceChanged = "device_changed", Succeeded, "device", "Somebody else than the device has changed it: `changed`";
    DeviceDeleted = "device_deleted", Succeeded, "device", "A device was deleted";
    TopicDeleted = "topic_deleted", Succeeded, "topic", "A topic was deleted";
    GatewayCreated = "gateway_created", Succeeded, "gateway", "A gateway was created: `address`";
    GatewayChanged = "gateway_changed", Succeeded, "gateway", "A gateway was changed: `changed`, `address`";
    GatewayDeleted = "gateway_deleted", Succeeded, "gateway", "A gateway was deleted";
    CommandGiven = "command_given", Succeeded, "client, if it is one", "A command was given: `command`, `method`, `url` without its query, `targets`; never its data";
    CommandCancelled = "command_cancelled", Succeeded, "command", "A command was cancelled before its end";
    TokenIssued = "token_issued", Succeeded, "client", "An access token was made on the broker's machine (`switchboard token`): `expires_at`";
    LogLevelChanged = "log_level_changed", Succeeded, "node's id", "An admin has changed what a node logs: `level`";
    SettingsReloaded = "settings_reloaded", Succeeded, "node's id", "A broker has read its settings again: `changed` has the keys";
    BrokerStarted = "broker_started", Succeeded, "node's id", "A broker has started: `version`, `process_id`, and in `settings` the keys that differ from the defaults, secrets masked";
}

/// Whether something was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Succeeded,
    /// It was refused.
    Refused,
}

impl Outcome {
    /// The word in the database, in answers and in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Refused => "refused",
        }
    }
}

/// Who does something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actor {
    /// A client's UUID; of the command line the user of the operating system. None: nobody who is known.
    pub id: Option<String>,
    /// The client, if it is one.
    pub client: Option<ClientId>,
    /// The name of a client.
    pub name: Option<String>,
    /// `device`, a user's role, `command_line` or `system`.
    pub role: Option<&'static str>,
    /// Where the request came from.
    pub address: Option<IpAddr>,
}

impl Actor {
    /// A client, with the address of its request.
    pub fn of(account: &Account, address: Option<IpAddr>) -> Self {
        let role = match &account.holder {
            Holder::Device { .. } => "device",
            Holder::User { role, .. } => role.as_str(),
        };
        Self {
            id: Some(account.id.to_string()),
            client: Some(account.id),
            name: Some(shortened(account.name())),
            role: Some(role),
            address,
        }
    }

    /// Somebody who has not shown who it is.
    pub fn unknown(address: Option<IpAddr>) -> Self {
        Self { address, ..Self::default() }
    }

    /// A command that works on the database, run by this user of the operating system.
    pub fn command_line(user: &str) -> Self {
        Self { id: Some(shortened(user)), role: Some("command_line"), ..Self::default() }
    }

    /// The broker itself.
    pub fn system() -> Self {
        Self { role: Some("system"), ..Self::default() }
    }
}

/// Whom or what something is done to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its id; the action says of what.
    pub id: String,
    /// Its name, if it has one.
    pub name: Option<String>,
}

impl Target {
    /// What has no name beside its id.
    pub fn of(id: impl ToString) -> Self {
        Self { id: shortened(&id.to_string()), name: None }
    }

    /// What has a name.
    pub fn named(id: impl ToString, name: &str) -> Self {
        Self { name: Some(shortened(name)), ..Self::of(id) }
    }
}

/// A record of the audit log before it is stored.
#[derive(Debug, Clone)]
pub struct Event {
    /// When.
    pub at: DateTime<Utc>,
    /// The node, or the host of a command line.
    pub node: Arc<str>,
    /// Who.
    pub actor: Actor,
    /// What.
    pub action: Action,
    /// To whom.
    pub target: Option<Target>,
    /// A JSON object without secrets.
    pub details: Value,
}

impl Event {
    /// The details as they are stored.
    pub fn details_text(&self) -> String {
        let text = self.details.to_string();
        if text.len() <= MAX_DETAILS { text } else { json!({ "too_long": text.len() }).to_string() }
    }

    /// Writes the log line. Texts of clients are quoted by the subscriber.
    pub fn log(&self) {
        let (actor, target) = (&self.actor, self.target.as_ref());
        tracing::info!(
            target: "switchboard::audit",
            action = self.action.as_str(),
            actor = actor.id.as_deref(),
            actor_name = actor.name.as_deref(),
            actor_role = actor.role,
            address = actor.address.map(tracing::field::display),
            node = &*self.node,
            target = target.map(|target| target.id.as_str()),
            target_name = target.and_then(|target| target.name.as_deref()),
            outcome = self.action.outcome().as_str(),
            details = self.details_text(),
            "audit"
        );
    }
}

/// The beginning of a text of clients.
pub fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A command's URL without what may be secret: the query, and a user with a password.
pub fn path_of(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    if let Some((scheme, rest)) = url.split_once("//")
        && (scheme.is_empty() || scheme.ends_with(':'))
    {
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        return shortened(&format!("{scheme}//{host}{path}"));
    }
    shortened(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_of_a_commands_url_is_kept() {
        for (url, kept) in [
            ("/reboot?pin=1234#now", "/reboot"),
            ("http://admin:pw@10.0.0.5/reboot?x", "http://10.0.0.5/reboot"),
            ("//admin:p@w@host", "//host"),
            ("/files//me@example.org", "/files//me@example.org"),
        ] {
            assert_eq!(path_of(url), kept);
        }
    }

    #[test]
    fn the_document_has_all_actions_in_a_table() {
        let rows = Action::ALL.iter().map(|action| {
            let (target, meaning) = action.described();
            format!("| `{}` | {target} | {meaning} |\n", action.as_str())
        });
        let rows: String = rows.collect();
        let document = include_str!("../../docs/audit.md");
        let (_, rest) = document.split_once("| action | target | meaning |\n| --- | --- | --- |\n").expect("the table");
        let table: String =
            rest.lines().take_while(|line| line.starts_with('|')).map(|line| format!("{line}\n")).collect();
        assert!(table == rows, "the table should be:\n{rows}");
    }

    #[test]
    fn long_texts_and_queries_are_left_out() {
        assert_eq!(shortened("name"), "name");
        assert_eq!(shortened(&"ü".repeat(300)), format!("{}…", "ü".repeat(200)));
        assert_eq!(path_of("/status?token=abc#x"), "/status");
        assert_eq!(path_of(""), "");
        let event = Event {
            at: DateTime::UNIX_EPOCH,
            node: "node".into(),
            actor: Actor::system(),
            action: Action::BrokerStarted,
            target: None,
            details: json!({ "text": "x".repeat(5000) }),
        };
        assert_eq!(event.details_text(), r#"{"too_long":5011}"#);
    }
}
