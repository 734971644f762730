//! Accounts of clients, and clients that are authenticated.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    ids::{ClientId, ClientKind, GatewayId, Role},
    rooms::Participant,
};

/// A client's account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its identity.
    pub id: ClientId,
    /// Tokens of an earlier generation are revoked.
    pub generation: i64,
    /// The one login whose tokens of an earlier generation are still valid: the one that changed the password.
    pub kept_login: Option<Uuid>,
    /// Grows with each change that is stored.
    pub version: i64,
    /// The account is deleted and its tokens are invalid.
    pub is_deleted: bool,
    /// The device or user.
    pub holder: Holder,
}

/// What differs between the kinds of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A device has a name, and may be behind a gateway.
    Device {
        /// The name; may be empty.
        name: String,
        /// The gateway.
        gateway_id: Option<GatewayId>,
        /// How often the UUID has been deleted.
        incarnation: i64,
    },
    /// A user, as in the table of users.
    User {
        /// The integer id.
        id: i64,
        /// The login name.
        username: String,
        /// The email.
        email: Option<String>,
        /// The name to show.
        full_name: Option<String>,
        /// What the user may do.
        role: Role,
        /// False: disabled.
        is_active: bool,
    },
}

impl Account {
    /// Device or user.
    pub fn kind(&self) -> ClientKind {
        match self.holder {
            Holder::Device { .. } => ClientKind::Device,
            Holder::User { .. } => ClientKind::User,
        }
    }

    /// A device's name, a user's username.
    pub fn name(&self) -> &str {
        match &self.holder {
            Holder::Device { name, .. } => name,
            Holder::User { username, .. } => username,
        }
    }

    /// How often its UUID has been deleted. What was meant for one incarnation is not for the next.
    pub fn incarnation(&self) -> i64 {
        match self.holder {
            Holder::Device { incarnation, .. } => incarnation,
            // the UUID of a deleted user is nobody's again
            Holder::User { .. } => self.is_deleted.into(),
        }
    }

    /// The client as a participant of rooms.
    pub fn participant(&self) -> Participant {
        let user_id = match self.holder {
            Holder::Device { .. } => None,
            Holder::User { id, .. } => Some(id),
        };
        Participant { client: self.id, user_id, username: self.name().into() }
    }

    /// A user's role; a device has the least one.
    pub fn role(&self) -> Role {
        match self.holder {
            Holder::Device { .. } => Role::User,
            Holder::User { role, .. } => role,
        }
    }

    /// Whether it is an operator or admin who is not disabled.
    pub fn is_active_operator(&self) -> bool {
        self.is_active() && self.role() >= Role::Operator
    }

    /// Whether tokens of this generation and login are valid.
    pub fn accepts(&self, generation: i64, login: Uuid) -> bool {
        self.generation == generation || self.kept_login == Some(login)
    }

    /// False for a disabled user.
    pub fn is_active(&self) -> bool {
        match self.holder {
            Holder::Device { .. } => true,
            Holder::User { is_active, .. } => is_active,
        }
    }
}

/// A client that has shown a valid token.
#[derive(Debug, Clone)]
pub struct Authenticated {
    /// The account at that time.
    pub account: Arc<Account>,
    /// The token's own id.
    pub jti: Uuid,
    /// The login that the token came from.
    pub family: Uuid,
    /// When the token expires.
    pub expires_at: DateTime<Utc>,
}

/// A change that concerns live sockets.
#[derive(Debug, Clone)]
pub enum AccountChange {
    /// An account was changed: disabled, deleted, renamed, given another role or a new token generation.
    Account(Arc<Account>),
    /// Tokens with this `jti` or family are revoked.
    Token(Uuid),
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn device(name: &str) -> Account {
        Account {
            id: ClientId::random(),
            generation: 0,
            kept_login: None,
            version: 0,
            is_deleted: false,
            holder: Holder::Device { name: name.to_owned(), gateway_id: None, incarnation: 0 },
        }
    }

    pub(crate) fn user(username: &str, role: Role) -> Account {
        let username = username.to_owned();
        let holder = Holder::User { id: 1, username, email: None, full_name: None, role, is_active: true };
        Account { holder, ..device("") }
    }
}
