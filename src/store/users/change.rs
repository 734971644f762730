//! Changes of users: role, state, password, tokens, deletion.

use std::net::IpAddr;

use entity::{
    prelude::Users,
    users::{ActiveModel, Column, Model},
};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
    QuerySelect, Set,
};
use serde_json::json;
use uuid::Uuid;

use super::{User, known_logins};
use crate::{
    domain::{
        audit::{Action, Target},
        ids::{ClientId, Role},
    },
    store::{
        NewRefreshToken, Store, StoreError, Transaction,
        counters::{self, Counter},
        rooms, tokens,
    },
};

/// A change of a user.
#[derive(Debug)]
pub enum UserChange {
    /// Role or state; `None` leaves it as it is.
    Update {
        /// What the user may do.
        role: Option<Role>,
        /// False disables the user.
        is_active: Option<bool>,
    },
    /// A new password. All other logins end.
    Password {
        /// PHC string of the new password.
        hash: String,
        /// The hash that the old password was checked against. If it is no longer the stored one, the change is refused.
        expected: Option<String>,
        /// The login that stays valid.
        kept_login: Option<Uuid>,
    },
    /// Deletes the user: all tokens and memberships of rooms end, messages stay.
    Delete,
}

/// Why a user is not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserRefusal {
    /// There is no such user.
    #[error("User not found")]
    NoSuchUser,
    /// It is the last active admin.
    #[error("The last active admin can't be deleted, disabled or demoted; make another user admin first")]
    LastAdmin,
    /// The password was changed in the meantime.
    #[error("Incorrect password")]
    PasswordChanged,
}

fn is_active_admin(row: &Model) -> bool {
    row.is_active && row.deleted_at.is_none() && row.role == Role::Admin.as_str()
}

fn active_admins() -> Condition {
    Condition::all().add(Column::Role.eq(Role::Admin.as_str())).add(Column::IsActive.eq(true))
}

impl Store {
    /// Changes a user. Returns the user after the change.
    ///
    /// # Errors
    /// When the database fails; a refusal is the inner error.
    pub async fn change_user(&self, id: i64, change: UserChange) -> Result<Result<User, UserRefusal>, StoreError> {
        let transaction = self.begin_essential().await?;
        // all admins are locked, in one order: of two that are deleted at the same time, the second is then seen as the last
        let rows = Users::find()
            .filter(Condition::any().add(Column::Id.eq(id)).add(active_admins()))
            .filter(Column::DeletedAt.is_null())
            .order_by_asc(Column::Id)
            .lock_exclusive()
            .all(&transaction)
            .await?;
        let other_admins = rows.iter().any(|row| row.id != id && is_active_admin(row));
        let Some(row) = rows.into_iter().find(|row| row.id == id) else {
            return Ok(Err(UserRefusal::NoSuchUser));
        };
        let was_admin = is_active_admin(&row);
        let generation = row.token_generation;
        if let UserChange::Password { expected: Some(expected), .. } = &change
            && *expected != row.password_hash
        {
            return Ok(Err(UserRefusal::PasswordChanged));
        }
        let mut changed = row.clone();
        let mut kept = None;
        match change {
            UserChange::Update { role, is_active } => {
                if let Some(role) = role {
                    changed.role = role.as_str().to_owned();
                }
                changed.is_active = is_active.unwrap_or(row.is_active);
            }
            UserChange::Password { hash, kept_login, .. } => {
                kept = kept_login;
                changed.password_hash = hash;
                changed.kept_login = kept_login;
                changed.token_generation = generation + 1;
            }
            UserChange::Delete => {
                // frees the names; no user is called by a random UUID
                changed.username = row.uuid.to_string();
                changed.email = None;
                changed.full_name = None;
                changed.job_title = None;
                changed.password_hash = String::new();
                changed.is_active = false;
                changed.kept_login = None;
                changed.token_generation = generation + 1;
                changed.deleted_at = Some(self.clock.now().into());
            }
        }
        if changed == row {
            return Ok(Ok(row.into()));
        }
        if was_admin && !is_active_admin(&changed) && !other_admins {
            return Ok(Err(UserRefusal::LastAdmin));
        }
        let client = ClientId::from(row.uuid);
        if changed.token_generation != generation {
            tokens::delete_of_client(&transaction, client, kept).await?;
        }
        if changed.deleted_at.is_some() {
            known_logins::forget(&transaction, id).await?;
            rooms::changes::leave_all(&transaction, client, self.recording_broker(), &self.clock).await?;
        }
        audit(&transaction, &row, &changed).await?;
        changed.version = counters::next(&transaction, Counter::Change).await?;
        let changed = changed.into_active_model().reset_all().update(&transaction).await?;
        transaction.commit().await?;
        Ok(Ok(changed.into()))
    }

    /// Checks whether [`Store::change_user`] would delete this user now.
    ///
    /// # Errors
    /// When the database fails; the refusal is the inner error.
    pub async fn check_dispensable(&self, id: i64) -> Result<Result<(), UserRefusal>, StoreError> {
        let admins = Users::find().filter(active_admins()).filter(Column::DeletedAt.is_null()).all(&self.read).await?;
        let is_last = admins.len() == 1 && admins[0].id == id;
        Ok(if is_last { Err(UserRefusal::LastAdmin) } else { Ok(()) })
    }

    /// Stores the refresh token of a login, unless the user's generation has changed since the password was verified: then
    /// the password may be another one. Remembers the address, if one is given.
    ///
    /// # Errors
    /// When the database fails; false if the login came too late.
    pub async fn insert_login(
        &self,
        user: i64,
        generation: i64,
        token: NewRefreshToken,
        from: Option<IpAddr>,
    ) -> Result<bool, StoreError> {
        let transaction = self.begin_essential().await?;
        let row = Users::find_by_id(user).filter(Column::DeletedAt.is_null()).lock_exclusive();
        let row = row.one(&transaction).await?;
        let Some(row) = row.filter(|row| row.token_generation == generation) else { return Ok(false) };
        token.insert(&transaction).await?;
        let target = Target::named(row.uuid, &row.username);
        transaction.audit(Action::LoginSucceeded, Some(target), json!({})).await?;
        if let Some(address) = from.filter(|_| !self.is_nearly_full()) {
            known_logins::remember(&transaction, user, address, self.clock.now()).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }
}

/// Records the difference.
async fn audit(transaction: &Transaction, before: &Model, after: &Model) -> Result<(), StoreError> {
    let record =
        |action, details| transaction.audit(action, Some(Target::named(before.uuid, &before.username)), details);
    if after.deleted_at.is_some() {
        return record(Action::UserDeleted, json!({ "role": before.role })).await;
    }
    if after.role != before.role {
        record(Action::UserRoleChanged, json!({ "from": before.role, "to": after.role })).await?;
    }
    if after.is_active != before.is_active {
        let action = if after.is_active { Action::UserEnabled } else { Action::UserDisabled };
        record(action, json!({})).await?;
    }
    if after.password_hash != before.password_hash {
        record(Action::PasswordChanged, json!({})).await?;
    }
    Ok(())
}

/// Ends all access tokens of a user by starting a new generation. Returns the user after it.
pub(in crate::store) async fn advance_generation(
    transaction: &impl ConnectionTrait,
    uuid: ClientId,
) -> Result<Option<User>, StoreError> {
    let row = Users::find().filter(Column::Uuid.eq(uuid.uuid())).filter(Column::DeletedAt.is_null()).lock_exclusive();
    let Some(row) = row.one(transaction).await? else { return Ok(None) };
    let generation = row.token_generation;
    let row = ActiveModel {
        token_generation: Set(generation + 1),
        kept_login: Set(None),
        version: Set(counters::next(transaction, Counter::Change).await?),
        ..row.into_active_model()
    };
    Ok(Some(row.update(transaction).await?.into()))
}
