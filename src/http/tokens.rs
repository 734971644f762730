//! Logins, renewal of tokens, logout, revocation (contract section 3).

use actix_web::{
    HttpRequest, HttpResponse,
    cookie::{Cookie, SameSite},
    web,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Confirmation,
    audit::actor,
    body::{Body, Checked, Fields, Form, FromFields},
    client_address, is_tls,
};
use crate::{
    auth::{AuthError, IdentityError, login::Revocation, tokens::Issued},
    domain::ids::ClientId,
    http::errors::ApiError,
    http::{
        credentials,
        extract::{Admin, Identity},
    },
    protocol::outbound::rfc3339,
    state::Broker,
};

/// A pair of tokens.
#[derive(Serialize, ToSchema)]
pub struct TokenPair {
    access_token: String,
    #[schema(example = "bearer")]
    token_type: &'static str,
    /// RFC 3339.
    access_token_expires_at: String,
    /// Seconds.
    access_token_expires_in: i64,
    refresh_token: String,
    /// RFC 3339.
    refresh_token_expires_at: String,
    /// Seconds.
    refresh_token_expires_in: i64,
}

impl From<Issued> for TokenPair {
    fn from(issued: Issued) -> Self {
        let Issued { access, access_expires_at, refresh, issued_at } = issued;
        // whole seconds, rounded up: an hour is 3600
        let seconds_until = |at: DateTime<Utc>| ((at - issued_at).num_milliseconds() + 999).max(0) / 1000;
        Self {
            access_token: access,
            token_type: "bearer",
            access_token_expires_at: rfc3339(access_expires_at),
            access_token_expires_in: seconds_until(access_expires_at),
            refresh_token: refresh.token,
            refresh_token_expires_at: rfc3339(refresh.expires_at),
            refresh_token_expires_in: seconds_until(refresh.expires_at),
        }
    }
}

impl TokenPair {
    /// The access token.
    pub fn access_token(&self) -> &str {
        &self.access_token
    }
}

/// A username (or email) and a password.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"username": "alice", "password": "a long password"}))]
pub struct Login {
    /// May be an email.
    username: String,
    password: String,
}

impl FromFields for Login {
    const IGNORES_UNKNOWN: bool = true;

    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let username = fields.text("username", 1..=254);
        // more than a password may have, so that one that is too long gets the answer to a wrong one
        let password = fields.text("password", 1..=4096);
        let grant = fields.optional_text("grant_type", 0..=50)?;
        if grant.is_some_and(|grant| !grant.is_empty() && grant != "password") {
            return Err(fields.fault(
                "string_pattern_mismatch",
                "grant_type",
                "String should match pattern 'password'",
            ));
        }
        Ok(Self { username: username?, password: password? })
    }
}

/// Log in with a form (OAuth2 password grant).
#[utoipa::path(post, path = "/token", tag = "identity", request_body(content = Login, content_type = "application/x-www-form-urlencoded"), responses((status = 200, body = TokenPair), (status = 400, description = "Inactive user"), (status = 401, description = "Incorrect username or password"), (status = 429, description = "limits.login_failures_per_minute")))]
pub async fn login_form(
    request: HttpRequest,
    broker: web::Data<Broker>,
    body: Body<Login, Form>,
) -> Result<web::Json<TokenPair>, ApiError> {
    login(&request, &broker, body.content).await.map(web::Json)
}

/// Log in with JSON. The access token is also set as a cookie.
#[utoipa::path(post, path = "/auth/login", tag = "identity", request_body = Login, responses((status = 200, body = TokenPair, headers(("Set-Cookie" = String, description = "`access_token`, for browsers"))), (status = 400, description = "Inactive user"), (status = 401, description = "Incorrect username or password"), (status = 429, description = "limits.login_failures_per_minute")))]
pub async fn login_json(
    request: HttpRequest,
    broker: web::Data<Broker>,
    body: Body<Login>,
) -> Result<HttpResponse, ApiError> {
    let tokens = login(&request, &broker, body.content).await?;
    let cookie = session_cookie(&request, &broker, tokens.access_token.clone());
    Ok(HttpResponse::Ok().cookie(cookie).json(tokens))
}

fn session_cookie<'a>(request: &HttpRequest, broker: &Broker, value: String) -> Cookie<'a> {
    Cookie::build(credentials::COOKIE, value)
        .path("/")
        .http_only(true)
        .same_site(SameSite::Lax)
        .secure(is_tls(request, &broker.settings.load()))
        .finish()
}

async fn login(request: &HttpRequest, broker: &Broker, login: Login) -> Result<TokenPair, ApiError> {
    let Login { username, password } = login;
    let address = client_address(request, &broker.settings.load());
    match broker.logins.login(username.clone(), password, address).await {
        Ok(issued) => Ok(issued.into()),
        Err(error) => {
            if let Some(reason) = refusal(&error) {
                let audit = broker.audit.clone();
                // the answer must not tell by its time whether there is such a user
                actix_web::rt::spawn(async move { audit.login_refused(&username, address, reason).await });
            }
            Err(error.into())
        }
    }
}

/// Why a password was not accepted, for the audit log; `None` if something failed.
pub(super) fn refusal(error: &AuthError) -> Option<&'static str> {
    match error {
        AuthError::IncorrectLogin => Some("incorrect_login"),
        AuthError::IncorrectPassword => Some("incorrect_password"),
        AuthError::Identity(IdentityError::InactiveUser) => Some("inactive_user"),
        AuthError::OverLimit(_) => Some("too_many_failures"),
        _ => None,
    }
}

/// A refresh token.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"refresh_token": "ZXhhbXBsZSBvZiBhIHJlZnJlc2ggdG9rZW46IGZhbWlseSBhbmQgc2VjcmV0Li4u.ZXhhbXBsZSBvZiBhIHNpZ25hdHVyZS4uLi4uLi4uLi4"}))]
pub struct Refresh {
    /// From a login, a registration or the last refresh; can be used once.
    refresh_token: String,
}

impl FromFields for Refresh {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        fields.text("refresh_token", 1..=4096).map(|refresh_token| Self { refresh_token })
    }
}

/// Exchange a refresh token for a new pair. Each can be used once; a second use makes all tokens of its login invalid.
#[utoipa::path(post, path = "/auth/refresh", tag = "identity", request_body = Refresh, responses((status = 200, body = TokenPair), (status = 401, description = "Invalid refresh token")))]
pub async fn refresh(
    request: HttpRequest,
    broker: web::Data<Broker>,
    body: Body<Refresh>,
) -> Result<web::Json<TokenPair>, ApiError> {
    let address = client_address(&request, &broker.settings.load());
    let issued = broker.logins.refresh(&body.content.refresh_token, address).await?;
    Ok(web::Json(issued.into()))
}

/// Log out: the token and all tokens of its login become invalid, and the sockets opened with them are closed.
#[utoipa::path(post, path = "/auth/logout", tag = "identity", responses((status = 200, description = "Logged out", body = Confirmation, headers(("Set-Cookie" = String, description = "Removes `access_token`")))), security(("bearer" = [])))]
pub async fn logout(
    request: HttpRequest,
    broker: web::Data<Broker>,
    identity: Identity,
) -> Result<HttpResponse, ApiError> {
    let by = actor(&request, &broker, &identity);
    broker.logins.log_out(by, &identity).await?;
    let mut cookie = session_cookie(&request, &broker, String::new());
    cookie.make_removal();
    Ok(HttpResponse::Ok().cookie(cookie).json(Confirmation::of("Logged out")))
}

/// Which tokens to revoke: one of the three.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"client_uuid": "123e4567-e89b-12d3-a456-426614174000"}))]
pub enum Revoke {
    /// This access or refresh token.
    #[schema(rename = "token")]
    Token(String),
    /// The access token with this id.
    #[schema(rename = "jti")]
    Jti(Uuid),
    /// All tokens of this client.
    #[schema(rename = "client_uuid", value_type = Uuid)]
    Client(ClientId),
}

impl FromFields for Revoke {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        if fields.has("token") {
            fields.text("token", 1..=4096).map(Self::Token)
        } else if fields.has("jti") {
            fields.uuid("jti").map(|jti| Self::Jti(jti.uuid()))
        } else if fields.has("client_uuid") {
            fields.uuid("client_uuid").map(Self::Client)
        } else {
            Err(fields.fault_of_all("missing", "Expected one of token, jti, client_uuid"))
        }
    }
}

/// How many tokens or logins ended.
#[derive(Serialize, ToSchema)]
pub struct Revoked {
    revoked: u64,
}

/// Revoke a token, or all tokens of a client. Sockets opened with them are closed (4401).
#[utoipa::path(post, path = "/admin/tokens/revoke", tag = "identity", request_body = Revoke, responses((status = 200, body = Revoked), (status = 404, description = "Client not found")), security(("bearer" = [])))]
pub async fn revoke(
    request: HttpRequest,
    broker: web::Data<Broker>,
    admin: Admin,
    body: Body<Revoke>,
) -> Result<web::Json<Revoked>, ApiError> {
    let what = match body.content {
        Revoke::Token(token) => Revocation::Token(token),
        Revoke::Jti(jti) => Revocation::Jti(jti),
        Revoke::Client(client) => Revocation::Client(client),
    };
    let revoked = broker.logins.revoke(actor(&request, &broker, &admin.0), what).await?;
    Ok(web::Json(Revoked { revoked }))
}
