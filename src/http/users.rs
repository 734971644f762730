//! Users as a resource.

use std::sync::Arc;

use actix_web::web;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Confirmation,
    body::{Body, Checked, Fields, FromFields, QueryOf, path_int},
};
use crate::{
    app::Broker,
    auth::{
        accounts::{Account, Change, Holder},
        extract::{Admin, UserIdentity},
    },
    domain::ids::{ClientId, Role},
    error::ApiError,
};

/// A user, seen from outside.
#[derive(Serialize, ToSchema)]
pub struct UserInfo {
    id: i64,
    #[schema(value_type = uuid::Uuid)]
    uuid: ClientId,
    username: String,
    email: Option<String>,
    full_name: Option<String>,
    is_active: bool,
    #[schema(example = "user")]
    role: &'static str,
}

impl UserInfo {
    fn of(account: &Account) -> Option<Self> {
        let Holder::User { id, username, email, full_name, role, is_active } = &account.holder else { return None };
        Some(Self {
            id: *id,
            uuid: account.id,
            username: username.clone(),
            email: email.clone(),
            full_name: full_name.clone(),
            is_active: *is_active,
            role: role.as_str(),
        })
    }
}

fn info(account: &Account) -> Result<web::Json<UserInfo>, ApiError> {
    UserInfo::of(account).map(web::Json).ok_or(ApiError::Forbidden("This route is for users, not for devices"))
}

/// Who am I.
#[utoipa::path(get, path = "/api/users/me/", tag = "identity", responses((status = 200, body = UserInfo), (status = 400, description = "Inactive user")), security(("bearer" = [])))]
pub async fn me(identity: UserIdentity) -> Result<web::Json<UserInfo>, ApiError> {
    info(&identity.0.account)
}

/// A greeting for those who are logged in.
#[utoipa::path(get, path = "/protected-data/", tag = "identity", responses((status = 200, description = "Hello", body = Confirmation)), security(("bearer" = [])))]
pub async fn protected_data(identity: UserIdentity) -> web::Json<Confirmation> {
    Confirmation::of(format!("Hello {}, this is protected data!", identity.0.account.name()))
}

/// The user who is logged in.
#[derive(Serialize, ToSchema)]
pub struct LoggedIn {
    user: UserInfo,
}

/// The user who is logged in.
#[utoipa::path(get, path = "/protected/", tag = "identity", responses((status = 200, body = LoggedIn)), security(("bearer" = [])))]
pub async fn protected(identity: UserIdentity) -> Result<web::Json<LoggedIn>, ApiError> {
    let web::Json(user) = info(&identity.0.account)?;
    Ok(web::Json(LoggedIn { user }))
}

/// Which part of a list.
#[derive(Debug)]
pub struct Page {
    skip: u64,
    limit: u64,
}

impl FromFields for Page {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let skip = fields.optional_number("skip", 0..=i64::MAX as u64);
        let limit = fields.optional_number("limit", 1..=1000);
        Ok(Self { skip: skip?.unwrap_or(0), limit: limit?.unwrap_or(100) })
    }
}

/// All users, a page at a time.
#[utoipa::path(get, path = "/api/users/", tag = "identity", params(("skip" = Option<u64>, Query), ("limit" = Option<u64>, Query, description = "1 to 1000")), responses((status = 200, body = Vec<UserInfo>)), security(("bearer" = [])))]
pub async fn list(
    broker: web::Data<Broker>,
    _: Admin,
    page: QueryOf<Page>,
) -> Result<web::Json<Vec<UserInfo>>, ApiError> {
    let users = broker.store.users(page.0.skip, page.0.limit).await?;
    Ok(web::Json(users.into_iter().filter_map(|user| UserInfo::of(&Account::from(user))).collect()))
}

/// What to change of a user.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"role": "operator"}))]
pub struct UpdateUser {
    /// `user`, `operator` or `admin`.
    #[schema(value_type = Option<String>)]
    role: Option<Role>,
    /// False disables the user.
    is_active: Option<bool>,
}

impl FromFields for UpdateUser {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let role = match fields.optional_text("role", 0..=20) {
            Ok(Some(role)) => match Role::parse(&role) {
                Some(role) => Ok(Some(role)),
                None => Err(fields.fault("value_error", "role", "Value error, expected user, operator or admin")),
            },
            Ok(None) => Ok(None),
            Err(invalid) => Err(invalid),
        };
        let is_active = fields.optional_bool("is_active");
        Ok(Self { role: role?, is_active: is_active? })
    }
}

/// Change a user's role, disable or enable it. A disabled user's sockets are closed (4403).
#[utoipa::path(patch, path = "/api/users/{id}", tag = "identity", params(("id" = i64, Path)), request_body = UpdateUser, responses((status = 200, body = UserInfo), (status = 404, description = "User not found")), security(("bearer" = [])))]
pub async fn update(
    broker: web::Data<Broker>,
    admin: Admin,
    path: web::Path<String>,
    body: Body<UpdateUser>,
) -> Result<web::Json<UserInfo>, ApiError> {
    let id = path_int("id", &path)?;
    let UpdateUser { role, is_active } = body.content;
    let user = broker.store.update_user(id, role, is_active).await?.ok_or(ApiError::NotFound("User not found"))?;
    let account = broker.accounts.put(Account::from(user));
    broker.apply(Change::Account(Arc::clone(&account))).await?;
    tracing::info!(admin = %admin.0.account.id, user = id, ?role, ?is_active, "user changed");
    info(&account)
}
