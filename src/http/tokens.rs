//! Logins, refreshing, logout, revocation (contract section 3).

use std::{net::IpAddr, time::Instant};

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
    body::{Body, Checked, Fields, Form, FromFields},
    client_address, is_tls, limited_address, undisturbed,
};
use crate::{
    domain::{
        accounts::{Account, AccountChange},
        ids::{ClientId, ClientKind},
        passwords,
        refresh_tokens::RefreshToken,
    },
    error::ApiError,
    http::{
        credentials,
        extract::{Admin, Identity},
    },
    protocol::outbound::rfc3339,
    state::Broker,
    store::{NewRefreshToken, Rotation},
};

/// Characters of a name that failed to log in, in the log.
const LOGGED_CHARS: usize = 64;

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

impl TokenPair {
    /// As it is told to the client.
    pub fn new(access_token: String, expires_at: DateTime<Utc>, refresh: RefreshToken) -> Self {
        // whole seconds, rounded up: an hour is 3600
        let seconds_until = |at: DateTime<Utc>| ((at - Utc::now()).num_milliseconds() + 999).max(0) / 1000;
        Self {
            access_token,
            token_type: "bearer",
            access_token_expires_at: rfc3339(expires_at),
            access_token_expires_in: seconds_until(expires_at),
            refresh_token: refresh.token,
            refresh_token_expires_at: rfc3339(refresh.expires_at),
            refresh_token_expires_in: seconds_until(refresh.expires_at),
        }
    }

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
        // too long to be anybody's: told apart from wrong ones it would cost nothing, but say nothing either
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
        .secure(is_tls(request, &broker.settings))
        .finish()
}

async fn login(request: &HttpRequest, broker: &web::Data<Broker>, login: Login) -> Result<TokenPair, ApiError> {
    let Login { username, password } = login;
    let user = broker.store.user_by_login(&username).await?;
    let hash = user.as_ref().map(|user| user.password_hash.clone());
    let id = user.as_ref().map(|user| user.id);
    let is_right = check_password(request, broker, &username, id, password, hash).await?;
    let user = user.filter(|_| is_right).ok_or(ApiError::IncorrectLogin)?;
    let account = broker.accounts.put(Account::from(user.clone()));
    if !account.is_active() {
        return Err(ApiError::InactiveUser);
    }
    let tokens = broker.accounts.tokens();
    let family = Uuid::new_v4();
    let refresh = tokens.refresh(family)?;
    let stored = NewRefreshToken::of(&refresh, family, account.id, account.kind());
    let is_to_be_stored = |address: &IpAddr| broker.logins().is_to_be_stored(&username, *address, Instant::now());
    let address = limited_address(request, &broker.settings).filter(is_to_be_stored);
    let broker = broker.clone();
    undisturbed(async move {
        if !broker.store.insert_login(user.id, user.token_generation, stored, address).await? {
            return Err(ApiError::IncorrectLogin);
        }
        if let Some(address) = address {
            broker.logins().stored(&username, address, Instant::now());
        }
        // of the generation that the password was of: a newer one is for the new password
        let (access, expires_at) = broker.accounts.tokens().access(&Account::from(user), family)?;
        Ok(TokenPair::new(access, expires_at, refresh))
    })
    .await
}

/// Whether the password of somebody who says to be `name`, which is the user with this id, has this hash. A wrong one counts
/// as a failed login.
pub(super) async fn check_password(
    request: &HttpRequest,
    broker: &Broker,
    name: &str,
    user: Option<i64>,
    password: String,
    hash: Option<String>,
) -> Result<bool, ApiError> {
    let address = limited_address(request, &broker.settings);
    let mut attempt = broker.logins().begin(name, address, Instant::now());
    if let (Err(_), Some(address)) = (&attempt, address)
        && recall(broker, name, user, address).await?
    {
        attempt = broker.logins().begin(name, Some(address), Instant::now());
    }
    let attempt = attempt.map_err(|wait| ApiError::TooMany {
        limit: "limits.login_failures_per_minute",
        retry_after: wait.as_secs() + 1,
    })?;
    // an overlong password is not worth a hash, but must take as long as any other
    let password = if password.chars().count() > passwords::MAX_CHARS { String::new() } else { password };
    let verified = broker.passwords.verify(password, hash).await;
    match &verified {
        Ok(true) => broker.logins().succeeded(attempt, Instant::now()),
        Ok(false) => {
            let name = logged_name(name);
            let address = client_address(request, &broker.settings).map(tracing::field::display);
            tracing::info!(%name, address, "login failed");
        }
        Err(_) => broker.logins().undecided(attempt),
    }
    verified
}

/// Whether a login from this address turns out to be remembered in the database alone.
async fn recall(broker: &Broker, name: &str, user: Option<i64>, address: IpAddr) -> Result<bool, ApiError> {
    if broker.logins().knows(name, address, Instant::now()) {
        return Ok(false);
    }
    let Some(last) = broker.store.known_login(user, address).await? else { return Ok(false) };
    let age = (Utc::now() - last).to_std().unwrap_or_default();
    broker.logins().recall(name, address, age, Instant::now());
    Ok(true)
}

/// A name that anybody can have made up: as a literal if it could look like another line or field of the log.
fn logged_name(name: &str) -> String {
    let name: String = name.chars().take(LOGGED_CHARS).collect();
    let is_plain = |c: char| c.is_alphanumeric() || "@._+-".contains(c);
    if !name.is_empty() && name.chars().all(is_plain) { name } else { format!("{name:?}") }
}

/// A refresh token.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"refresh_token": "ZXhhbXBsZSBvZiBhIHJlZnJlc2ggdG9rZW46IGZhbWlseSBhbmQgc2VjcmV0Li4u.ZXhhbXBsZSBvZiBhIHNpZ25hdHVyZS4uLi4uLi4uLi4"}))]
pub struct Refresh {
    /// From a login, a registration or the last refresh; good once.
    refresh_token: String,
}

impl FromFields for Refresh {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        fields.text("refresh_token", 1..=4096).map(|refresh_token| Self { refresh_token })
    }
}

/// Exchange a refresh token for a new pair. Each can be used once; a second use makes all tokens of its login invalid.
#[utoipa::path(post, path = "/auth/refresh", tag = "identity", request_body = Refresh, responses((status = 200, body = TokenPair), (status = 401, description = "Invalid refresh token")))]
pub async fn refresh(broker: web::Data<Broker>, body: Body<Refresh>) -> Result<web::Json<TokenPair>, ApiError> {
    undisturbed(async move {
        let tokens = broker.accounts.tokens();
        let shown = tokens.read_refresh(&body.content.refresh_token);
        let revoked_until = |kind| tokens.revoked_until(kind);
        match broker.store.rotate_refresh_token(&shown, |family| tokens.refresh(family), revoked_until).await? {
            Rotation::Rotated { family, owner, successor } => {
                // of this very generation: a newer one would be another's to ask for
                let (access, expires_at) = tokens.access(&owner, family)?;
                Ok(web::Json(TokenPair::new(access, expires_at, *successor)))
            }
            Rotation::Inactive => Err(ApiError::InactiveUser),
            Rotation::Reused { family, kind } => {
                tracing::warn!(%family, "refresh token used twice, its login ended");
                token_revoked(&broker, family, kind).await?;
                Err(ApiError::InvalidRefreshToken)
            }
            Rotation::Unknown => Err(ApiError::InvalidRefreshToken),
        }
    })
    .await
}

/// Log out: the token and all tokens of its login become invalid, and the sockets opened with them are closed.
#[utoipa::path(post, path = "/auth/logout", tag = "identity", responses((status = 200, description = "Logged out", body = Confirmation, headers(("Set-Cookie" = String, description = "Removes `access_token`")))), security(("bearer" = [])))]
pub async fn logout(
    request: HttpRequest,
    broker: web::Data<Broker>,
    identity: Identity,
) -> Result<HttpResponse, ApiError> {
    let ended = broker.clone();
    undisturbed(async move { end_family(&ended, identity.family, identity.account.kind()).await }).await?;
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
    broker: web::Data<Broker>,
    admin: Admin,
    body: Body<Revoke>,
) -> Result<web::Json<Revoked>, ApiError> {
    undisturbed(async move {
        let revoked = match body.content {
            Revoke::Token(token) => match broker.accounts.tokens().read_expired(&token) {
                Some(claims) => {
                    let kind = claims.client_kind().unwrap_or(ClientKind::Device);
                    revoke_jti(&broker, claims.jti, kind).await?
                }
                None => match broker.store.family_of(&broker.accounts.tokens().read_refresh(&token)).await? {
                    Some((family, kind)) => end_family(&broker, family, kind).await?,
                    None => {
                        let msg = "Value error, not a token of this server";
                        return Err(ApiError::invalid("value_error", &["body", "token"], msg, serde_json::Value::Null));
                    }
                },
            },
            // nothing tells whose it is, so it is kept as if it were a device's
            Revoke::Jti(jti) => revoke_jti(&broker, jti, ClientKind::Device).await?,
            Revoke::Client(client) => revoke_client(&broker, client).await?,
        };
        tracing::info!(admin = %admin.0.account.id, revoked, "tokens revoked");
        Ok(web::Json(Revoked { revoked }))
    })
    .await
}

async fn revoke_jti(broker: &Broker, jti: Uuid, kind: ClientKind) -> Result<u64, ApiError> {
    let news = broker.store.revoke(jti, broker.accounts.tokens().revoked_until(kind)).await?;
    token_revoked(broker, jti, kind).await?;
    Ok(news.into())
}

async fn end_family(broker: &Broker, family: Uuid, kind: ClientKind) -> Result<u64, ApiError> {
    broker.store.end_family(family, broker.accounts.tokens().revoked_until(kind)).await?;
    token_revoked(broker, family, kind).await?;
    Ok(1)
}

/// What follows from a revocation that is in the database: here at once, and on other nodes.
async fn token_revoked(broker: &Broker, id: Uuid, kind: ClientKind) -> Result<(), ApiError> {
    broker.accounts.put_revocation(id, broker.accounts.tokens().revoked_until(kind));
    Ok(broker.clients.apply(AccountChange::Token(id)).await?)
}

async fn revoke_client(broker: &Broker, client: ClientId) -> Result<u64, ApiError> {
    let (account, logins) = broker.store.revoke_client(client).await?.ok_or(ApiError::NotFound("Client not found"))?;
    broker.clients.apply(AccountChange::Account(broker.accounts.put(account))).await?;
    Ok(logins.max(1))
}
