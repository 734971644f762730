//! Users as a resource.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{
    Confirmation,
    audit::actor,
    body::{Body, Checked, Fields, FromFields, QueryOf, path_int},
    client_address,
    paging::{Paging, fit},
    tokens::refusal,
    undisturbed,
};
use crate::{
    domain::{
        accounts::{Account, Holder},
        audit::{Action, Target},
        ids::{ClientId, Role},
    },
    http::errors::ApiError,
    http::extract::{Admin, UserIdentity},
    state::Broker,
};

/// A user as clients see it.
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

/// The user who is logged in.
#[utoipa::path(get, path = "/api/users/me/", tag = "identity", responses((status = 200, body = UserInfo), (status = 400, description = "Inactive user"), (status = 403, description = "For users, not for devices")), security(("bearer" = [])))]
pub async fn me(identity: UserIdentity) -> Result<web::Json<UserInfo>, ApiError> {
    info(&identity.0.account)
}

/// A greeting for the user who is logged in.
#[utoipa::path(get, path = "/protected-data/", tag = "identity", responses((status = 200, description = "Hello", body = Confirmation), (status = 403, description = "For users, not for devices")), security(("bearer" = [])))]
pub async fn protected_data(identity: UserIdentity) -> web::Json<Confirmation> {
    Confirmation::of(format!("Hello {}, this is protected data!", identity.0.account.name()))
}

/// The user who is logged in.
#[derive(Serialize, ToSchema)]
pub struct LoggedIn {
    user: UserInfo,
}

/// The user who is logged in.
#[utoipa::path(get, path = "/protected/", tag = "identity", responses((status = 200, body = LoggedIn), (status = 403, description = "For users, not for devices")), security(("bearer" = [])))]
pub async fn protected(identity: UserIdentity) -> Result<web::Json<LoggedIn>, ApiError> {
    let web::Json(user) = info(&identity.0.account)?;
    Ok(web::Json(LoggedIn { user }))
}

/// A page of all users.
#[utoipa::path(get, path = "/api/users/", tag = "identity", params(("skip" = Option<u64>, Query, description = "Entries to pass over"), ("limit" = Option<u64>, Query, description = "1 to 1000"), ("cursor" = Option<String>, Query, description = "From an earlier answer, in place of skip", max_length = 1024)), responses((status = 200, body = Vec<UserInfo>, headers(("Link" = String, description = "`<…>; rel=\"next\"`: the next page, if there is one"))), (status = 403, description = "Admin role required")), security(("bearer" = [])))]
pub async fn list(
    request: HttpRequest,
    broker: web::Data<Broker>,
    _: Admin,
    paging: QueryOf<Paging<i64>>,
) -> Result<HttpResponse, ApiError> {
    let Paging { after, skip, limit } = paging.0;
    let users = broker.users.list(after, skip, limit + 1).await?;
    let users = users.into_iter().filter_map(|user| Some((user.id, UserInfo::of(&Account::from(user))?)));
    let (users, next) = fit(users, limit)?;
    Ok(next.of_array(&request, &users))
}

/// A change of a user.
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
        let roles = [Role::User, Role::Operator, Role::Admin].map(|role| (role.as_str(), role));
        let role = fields.one_of("role", &roles);
        let is_active = fields.optional_bool("is_active");
        Ok(Self { role: role?, is_active: is_active? })
    }
}

/// Change a user's role, disable or enable it. A disabled user's sockets are closed (4403).
#[utoipa::path(patch, path = "/api/users/{id}", tag = "identity", params(("id" = i64, Path)), request_body = UpdateUser, responses((status = 200, body = UserInfo), (status = 404, description = "User not found"), (status = 409, description = "It is the last active admin")), security(("bearer" = [])))]
pub async fn update(
    request: HttpRequest,
    broker: web::Data<Broker>,
    admin: Admin,
    path: web::Path<String>,
    body: Body<UpdateUser>,
) -> Result<web::Json<UserInfo>, ApiError> {
    let id = path_int("id", &path)?;
    let UpdateUser { role, is_active } = body.content;
    let by = actor(&request, &broker, &admin.0);
    undisturbed(async move {
        let account = broker.users.update(by, id, role, is_active).await?;
        info(&account)
    })
    .await
}

/// A new password, and the old one as proof.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"old_password": "a long password", "new_password": "a longer password"}))]
pub struct ChangePassword {
    old_password: String,
    /// 6 to 128 characters (`auth.password_min_chars`).
    new_password: String,
}

impl FromFields for ChangePassword {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let old_password = fields.text("old_password", 1..=4096);
        let new_password = fields.new_password("new_password", &[]);
        Ok(Self { old_password: old_password?, new_password: new_password? })
    }
}

/// Change the caller's own password. All other logins of the account end, and their sockets are closed (4401).
#[utoipa::path(post, path = "/api/users/me/password", tag = "identity", request_body = ChangePassword, responses((status = 200, description = "Changed", body = Confirmation), (status = 401, description = "Incorrect password"), (status = 429, description = "limits.login_failures_per_minute")), security(("bearer" = [])))]
pub async fn change_password(
    request: HttpRequest,
    broker: web::Data<Broker>,
    identity: UserIdentity,
    body: Body<ChangePassword>,
) -> Result<web::Json<Confirmation>, ApiError> {
    let ChangePassword { old_password, new_password } = body.content;
    let address = client_address(&request, &broker.settings.load());
    let changed = broker.logins.change_password(&identity.0, old_password, new_password, address).await;
    if let Err(error) = &changed
        && let Some(reason) = refusal(error)
    {
        let by = actor(&request, &broker, &identity.0);
        let target = Target::named(identity.0.account.id, identity.0.account.name());
        broker.audit.record_bounded(by, Action::PasswordRefused, Some(target), json!({ "reason": reason }));
    }
    changed?;
    Ok(Confirmation::of("Password changed"))
}

/// A new password for another user.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"new_password": "a long password"}))]
pub struct SetPassword {
    /// 6 to 128 characters (`auth.password_min_chars`).
    new_password: String,
}

impl FromFields for SetPassword {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        fields.new_password("new_password", &[]).map(|new_password| Self { new_password })
    }
}

/// Set a user's password. All logins of the account end, and their sockets are closed (4401); an admin who does this to
/// their own account stays logged in.
#[utoipa::path(post, path = "/api/users/{id}/password", tag = "identity", params(("id" = i64, Path)), request_body = SetPassword, responses((status = 200, description = "Changed", body = Confirmation), (status = 404, description = "User not found")), security(("bearer" = [])))]
pub async fn set_password(
    request: HttpRequest,
    broker: web::Data<Broker>,
    admin: Admin,
    path: web::Path<String>,
    body: Body<SetPassword>,
) -> Result<web::Json<Confirmation>, ApiError> {
    let id = path_int("id", &path)?;
    let address = client_address(&request, &broker.settings.load());
    broker.logins.set_password(&admin.0, address, id, body.content.new_password).await?;
    Ok(Confirmation::of("Password changed"))
}

/// Delete a user.
///
/// Their tokens become invalid, their sockets are closed (4401, in rooms 4403), and their memberships end as if they had left. Their
/// messages stay, under their name. Username and email are free again.
#[utoipa::path(delete, path = "/api/users/{id}", tag = "identity", params(("id" = i64, Path)), responses((status = 200, description = "Deleted", body = Confirmation), (status = 404, description = "User not found"), (status = 409, description = "It is the last active admin")), security(("bearer" = [])))]
pub async fn remove(
    request: HttpRequest,
    broker: web::Data<Broker>,
    admin: Admin,
    path: web::Path<String>,
) -> Result<web::Json<Confirmation>, ApiError> {
    let id = path_int("id", &path)?;
    let by = actor(&request, &broker, &admin.0);
    undisturbed(async move {
        broker.users.delete(by, id).await?;
        Ok(Confirmation::of("User deleted"))
    })
    .await
}
