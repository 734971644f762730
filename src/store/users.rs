//! Users.

mod change;
mod known_logins;

use entity::{
    prelude::Users,
    users::{ActiveModel, Column, Model},
};
use sea_orm::{
    ActiveModelTrait, ActiveValue::NotSet, ColumnTrait, Condition, ConnectionTrait, EntityTrait, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select, Set,
};
use serde_json::json;
use uuid::Uuid;

pub(super) use change::advance_generation;
pub use change::{UserChange, UserRefusal};

use super::{Store, StoreError, is_unique_violation};
use crate::domain::{
    accounts::{Account, Holder},
    audit::{Action, Target},
    ids::{ClientId, Role},
};

/// A user as stored.
#[derive(Debug, Clone)]
pub struct User {
    /// The integer id that HTTP paths use.
    pub id: i64,
    /// The identity that sockets and tokens use.
    pub uuid: ClientId,
    /// Unique; may be an email address.
    pub username: String,
    /// Unique.
    pub email: Option<String>,
    /// The name to show.
    pub full_name: Option<String>,
    /// PHC string.
    pub password_hash: String,
    /// What the user may do.
    pub role: Role,
    /// False: disabled.
    pub is_active: bool,
    /// Tokens of an earlier generation are revoked.
    pub token_generation: i64,
    /// The one login whose tokens of an earlier generation are still valid.
    pub kept_login: Option<Uuid>,
    /// Grows with each change of role, state, generation or existence.
    pub version: i64,
    /// Deleted; the row is kept so that other processes learn of the deletion.
    pub is_deleted: bool,
}

impl From<User> for Account {
    fn from(user: User) -> Self {
        Self {
            id: user.uuid,
            generation: user.token_generation,
            kept_login: user.kept_login,
            version: user.version,
            is_deleted: user.is_deleted,
            holder: Holder::User {
                id: user.id,
                username: user.username,
                email: user.email,
                full_name: user.full_name,
                role: user.role,
                is_active: user.is_active,
            },
        }
    }
}

/// A user to be created.
#[derive(Debug)]
#[allow(missing_docs)] // as in `User`
pub struct NewUser {
    pub username: String,
    pub email: Option<String>,
    pub full_name: Option<String>,
    pub job_title: Option<String>,
    pub password_hash: String,
    pub role: Role,
}

/// Why a user could not be created.
#[derive(Debug)]
pub enum Duplicate {
    /// The username is taken, as a username or as somebody's email.
    Username,
    /// The email is taken, as an email or as somebody's username.
    Email,
}

impl From<Model> for User {
    fn from(row: Model) -> Self {
        Self {
            id: row.id,
            uuid: row.uuid.into(),
            username: row.username,
            email: row.email,
            full_name: row.full_name,
            password_hash: row.password_hash,
            // a role that only a newer version knows grants nothing
            role: Role::parse(&row.role).unwrap_or(Role::User),
            is_active: row.is_active,
            token_generation: row.token_generation,
            kept_login: row.kept_login,
            version: row.version,
            is_deleted: row.deleted_at.is_some(),
        }
    }
}

fn existing() -> Select<Users> {
    Users::find().filter(Column::DeletedAt.is_null())
}

fn named(name: &str) -> Condition {
    Condition::any().add(Column::Username.eq(name)).add(Column::Email.eq(name))
}

impl Store {
    /// Creates a user. Usernames and emails share one name space, since either may be used to log in.
    ///
    /// # Errors
    /// When the database fails; a taken name is the inner error.
    pub async fn create_user(&self, new: NewUser) -> Result<Result<User, Duplicate>, StoreError> {
        let transaction = self.begin().await?;
        if existing().filter(named(&new.username)).count(&transaction).await? > 0 {
            // if the username is the email, the error names the email
            let by_email = new.email.as_deref() == Some(&new.username);
            return Ok(Err(if by_email { Duplicate::Email } else { Duplicate::Username }));
        }
        if let Some(email) = &new.email
            && existing().filter(named(email)).count(&transaction).await? > 0
        {
            return Ok(Err(Duplicate::Email));
        }
        let row = ActiveModel {
            id: NotSet,
            uuid: Set(ClientId::random().into()),
            username: Set(new.username),
            email: Set(new.email),
            full_name: Set(new.full_name),
            job_title: Set(new.job_title),
            password_hash: Set(new.password_hash),
            role: Set(new.role.as_str().to_owned()),
            is_active: Set(true),
            token_generation: Set(0),
            created_at: Set(self.clock.now().into()),
            // no cache holds an account that is created now, so it needs no version
            version: Set(0),
            kept_login: Set(None),
            deleted_at: Set(None),
        };
        match row.insert(&transaction).await {
            Ok(row) => {
                let target = Target::named(row.uuid, &row.username);
                transaction.audit(Action::UserCreated, Some(target), json!({ "role": row.role })).await?;
                transaction.commit().await?;
                Ok(Ok(row.into()))
            }
            // another request was faster
            Err(error) if is_unique_violation(&error) => {
                Ok(Err(if error.to_string().contains("email") { Duplicate::Email } else { Duplicate::Username }))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The user with this username or email.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn user_by_login(&self, login: &str) -> Result<Option<User>, StoreError> {
        Ok(existing().filter(named(login)).one(&self.read).await?.map(User::from))
    }

    /// The user with this UUID.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn user_by_uuid(&self, uuid: ClientId) -> Result<Option<User>, StoreError> {
        find(&self.read, uuid.into()).await
    }

    /// Whether this UUID belongs to a user, deleted or not, so that no device can register it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn is_uuid_of_user(&self, uuid: ClientId) -> Result<bool, StoreError> {
        Ok(Users::find().filter(Column::Uuid.eq(uuid.uuid())).count(&self.read).await? > 0)
    }

    /// The user with this integer id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn user_by_id(&self, id: i64) -> Result<Option<User>, StoreError> {
        Ok(existing().filter(Column::Id.eq(id)).one(&self.read).await?.map(User::from))
    }

    /// Users by id: those after `after`, without the first `skip`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn users(&self, after: Option<i64>, skip: u64, limit: u64) -> Result<Vec<User>, StoreError> {
        let query = existing().apply_if(after, |query, after| query.filter(Column::Id.gt(after)));
        let rows = query.order_by_asc(Column::Id).offset(skip).limit(limit).all(&self.read).await?;
        Ok(rows.into_iter().map(User::from).collect())
    }

    /// Users whose version is greater than `after` and at most `upto`, deleted ones too.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn users_changed(&self, after: i64, upto: i64) -> Result<Vec<User>, StoreError> {
        let rows = Users::find().filter(Column::Version.gt(after)).filter(Column::Version.lte(upto));
        Ok(rows.all(&self.read).await?.into_iter().map(User::from).collect())
    }

    /// The number of users.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count_users(&self) -> Result<u64, StoreError> {
        Ok(existing().count(&self.read).await?)
    }
}

/// The user with this UUID.
pub(super) async fn find(connection: &impl ConnectionTrait, uuid: Uuid) -> Result<Option<User>, StoreError> {
    Ok(existing().filter(Column::Uuid.eq(uuid)).one(connection).await?.map(User::from))
}
