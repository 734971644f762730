//! Users: listing, changing and deleting them. Their passwords and logins are in `auth::login`.

use std::{fmt, sync::Arc};

use crate::{
    actors::room_manager::{RoomError, Rooms},
    auth::{AuthError, login::Logins},
    domain::{accounts::Account, audit::Actor, ids::Role},
    store::{Store, StoreError, User, UserChange, UserRefusal},
};

/// Why a user is not changed or deleted.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// There is no such user, or it is the last active admin.
    #[error(transparent)]
    Refused(#[from] UserRefusal),
    /// The account can't be changed.
    #[error(transparent)]
    Account(#[from] AuthError),
    /// The user's memberships of rooms can't be ended.
    #[error(transparent)]
    Rooms(#[from] RoomError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Lists, changes and deletes users.
pub struct Users {
    store: Store,
    logins: Logins,
    rooms: Rooms,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").finish_non_exhaustive()
    }
}

impl Users {
    /// Of this database, with these logins and rooms.
    pub fn new(store: Store, logins: Logins, rooms: Rooms) -> Self {
        Self { store, logins, rooms }
    }

    /// Users by id: those after `after`, without the first `skip`.
    ///
    /// # Errors
    /// The database failed.
    pub async fn list(&self, after: Option<i64>, skip: u64, limit: u64) -> Result<Vec<User>, StoreError> {
        self.store.users(after, skip, limit).await
    }

    /// Gives a user another role, disables or enables it, at the request of an admin; `None` changes nothing.
    ///
    /// # Errors
    /// The change is refused, or the database failed.
    pub async fn update(
        &self,
        admin: Actor,
        id: i64,
        role: Option<Role>,
        is_active: Option<bool>,
    ) -> Result<Arc<Account>, UserError> {
        Ok(self.logins.change_user(admin, id, UserChange::Update { role, is_active }).await?)
    }

    /// Deletes a user at the request of an admin. Its tokens become invalid, its sessions are closed, and its memberships of rooms
    /// end.
    ///
    /// # Errors
    /// The user can't be deleted, or the database failed; then some memberships may have ended.
    pub async fn delete(&self, admin: Actor, id: i64) -> Result<(), UserError> {
        let user = self.store.user_by_id(id).await?.ok_or(UserRefusal::NoSuchUser)?;
        // `change_user` checks this again; a user who cannot be deleted must not leave the rooms first
        self.store.check_dispensable(id).await??;
        self.rooms.leave_all(user.uuid).await?;
        self.logins.change_user(admin, id, UserChange::Delete).await?;
        // again, since the user may have joined rooms in the meantime
        self.rooms.leave_all(user.uuid).await?;
        Ok(())
    }
}
