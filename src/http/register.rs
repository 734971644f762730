//! Registration: devices, and users in the bodies of the systems before (contract section 3).

use std::time::Instant;

use actix_web::{HttpRequest, web};
use serde::Serialize;
use utoipa::{
    ToSchema,
    openapi::{Ref, RefOr, Schema, schema::OneOfBuilder},
};
use uuid::Uuid;

use super::{
    body::{Body, Checked, Fields, FromFields, is_email},
    limited_address, tokens, undisturbed,
};
use crate::{
    auth::tokens::{digest, random_text},
    domain::{
        accounts::{Account, AccountChange, Holder},
        ids::{ClientId, ClientKind, Role},
        registration::{self, Proof},
    },
    error::ApiError,
    http::credentials,
    settings::Registration,
    state::Broker,
    store::{Duplicate, NewRefreshToken, NewUser},
};

/// What `POST /register` takes: a device (`uuid`), or a user (`username`, or `email` alone).
#[derive(Debug)]
pub enum Register {
    /// A helper device.
    Device(RegisterDevice),
    /// A person or program with a password.
    User(RegisterUser),
}

// which of the two it is, its keys tell, and no derive can say so
impl utoipa::PartialSchema for Register {
    fn schema() -> RefOr<Schema> {
        OneOfBuilder::new()
            .item(Ref::from_schema_name(RegisterDevice::name()))
            .item(Ref::from_schema_name(RegisterUser::name()))
            .into()
    }
}

impl ToSchema for Register {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((RegisterDevice::name().into(), <RegisterDevice as utoipa::PartialSchema>::schema()));
        schemas.push((RegisterUser::name().into(), <RegisterUser as utoipa::PartialSchema>::schema()));
    }
}

/// A device.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"name": "Alice", "uuid": "123e4567-e89b-12d3-a456-426614174000"}))]
pub struct RegisterDevice {
    /// May be empty.
    #[schema(example = "Alice")]
    name: String,
    /// Any spelling of a UUID.
    #[schema(value_type = Uuid)]
    uuid: ClientId,
    /// From the last registration; proves that it is the same device where the server asks for that.
    device_key: Option<String>,
    /// The `device_key` of this registration, chosen by the client; else the server makes one. Random: at least 256 bits. A
    /// client that stores it before it sends can repeat the request when the answer is lost: as long as it is the key of the
    /// UUID, it is proof as well.
    #[schema(min_length = 32, max_length = 128, pattern = "^[!-~]*$")]
    new_device_key: Option<String>,
    /// Another proof: any token of that device, expired or not.
    token: Option<String>,
}

/// A user.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"username": "alice", "password": "a long password"}))]
pub struct RegisterUser {
    /// 3 to 50 characters, or an email. Left out, it is the email.
    #[schema(required = false, example = "alice")]
    username: String,
    /// Unique.
    email: Option<String>,
    /// 6 to 128 characters.
    password: String,
    /// The name to show.
    full_name: Option<String>,
    /// A job title; grants nothing.
    #[schema(rename = "role")]
    job_title: Option<String>,
}

impl FromFields for Register {
    const IGNORES_UNKNOWN: bool = true;

    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        if fields.has("uuid") {
            RegisterDevice::from_fields(fields).map(Self::Device)
        } else if fields.has("username") || fields.has("full_name") {
            RegisterUser::from_fields(fields).map(Self::User)
        } else if fields.has("email") {
            let email = fields.email("email");
            let password = fields.new_password("password", email.as_deref().ok().as_slice());
            let full_name = fields.optional_text("name", 0..=200);
            let email = email?;
            Ok(Self::User(RegisterUser {
                username: email.clone(),
                email: Some(email),
                password: password?,
                full_name: full_name?,
                job_title: None,
            }))
        } else {
            Err(fields.fault_of_all(
                "missing",
                "Expected a device {name, uuid}, a user {username, password, email?, full_name?} or a user {email, password, name?}",
            ))
        }
    }
}

impl FromFields for RegisterDevice {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let name = fields.text("name", 0..=200);
        let uuid = fields.uuid("uuid");
        let device_key = fields.optional_text("device_key", 0..=200);
        let new_device_key = new_device_key(fields);
        let token = fields.optional_text("token", 0..=4096);
        Ok(Self { name: name?, uuid: uuid?, device_key: device_key?, new_device_key: new_device_key?, token: token? })
    }
}

fn new_device_key(fields: &mut Fields<'_>) -> Checked<Option<String>> {
    match fields.optional_text("new_device_key", registration::KEY_CHARS)? {
        Some(key) if !registration::is_key(&key) => {
            Err(fields.fault("value_error", "new_device_key", "Value error, must be printable ASCII without spaces"))
        }
        key => Ok(key),
    }
}

impl FromFields for RegisterUser {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let username = username(fields);
        let email = if fields.has("email") { optional_email(fields) } else { Ok(None) };
        let names = [username.as_deref().ok(), email.as_ref().ok().and_then(Option::as_deref)];
        let password = fields.new_password("password", &names.into_iter().flatten().collect::<Vec<_>>());
        let full_name = fields.optional_text("full_name", 0..=200);
        let job_title = fields.optional_text("role", 0..=200);
        Ok(Self {
            username: username?,
            email: email?,
            password: password?,
            full_name: full_name?,
            job_title: job_title?,
        })
    }
}

fn optional_email(fields: &mut Fields<'_>) -> Checked<Option<String>> {
    match fields.optional_text("email", 0..=254)? {
        Some(_) => fields.email("email").map(Some),
        None => Ok(None),
    }
}

fn username(fields: &mut Fields<'_>) -> Checked<String> {
    let username = fields.text("username", 3..=254)?;
    if let Err(why) = check_username(&username) {
        let kind = if username.chars().count() > 50 { "string_too_long" } else { "value_error" };
        return Err(fields.fault(kind, "username", why));
    }
    Ok(username)
}

/// What a username must be: 3 to 50 characters, or an email.
///
/// # Errors
/// What is wrong with it.
pub fn check_username(username: &str) -> Result<(), &'static str> {
    let chars = username.chars().count();
    if chars < 3 {
        Err("String should have at least 3 characters")
    } else if chars > 50 && !(chars <= 254 && is_email(username)) {
        Err("String should have at most 50 characters")
    } else if username.contains(char::is_control) || username.trim() != username {
        Err("Value error, must not begin or end with spaces or contain control characters")
    } else {
        Ok(())
    }
}

/// A user for `POST /api/users/`, where the email is not optional.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"username": "bob", "email": "bob@example.org", "password": "a long password"}))]
pub struct CreateUser {
    /// 3 to 50 characters, or an email.
    username: String,
    /// Unique.
    email: String,
    /// 6 to 128 characters.
    password: String,
}

impl FromFields for CreateUser {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let username = username(fields);
        let email = fields.email("email");
        let names: Vec<_> = [&username, &email].into_iter().filter_map(|name| name.as_deref().ok()).collect();
        let password = fields.new_password("password", &names);
        Ok(Self { username: username?, email: email?, password: password? })
    }
}

/// The answer to a device.
#[derive(Serialize, ToSchema)]
pub struct RegisteredDevice {
    /// The same as `access_token`.
    token: String,
    #[schema(value_type = Uuid)]
    uuid: ClientId,
    name: String,
    message: &'static str,
    #[serde(flatten)]
    tokens: tokens::TokenPair,
    /// Proof that the next registration of this UUID is by the same device: the `new_device_key` of the body, else a new
    /// one. The next registration ends it; so do deletion and revocation of the device.
    device_key: String,
}

/// The answer to a user.
#[derive(Serialize, ToSchema)]
pub struct RegisteredUser {
    id: i64,
    #[schema(value_type = Uuid)]
    uuid: ClientId,
    username: String,
    email: Option<String>,
    /// The same as `full_name`.
    name: Option<String>,
    full_name: Option<String>,
    is_active: bool,
    #[schema(example = "User registered successfully")]
    message: &'static str,
}

/// The answer to a registration: of a device, or of a user.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Registered {
    /// The body had a `uuid`.
    Device(RegisteredDevice),
    /// The body had none.
    User(RegisteredUser),
}

/// The answer to `POST /api/users/`.
#[derive(Serialize, ToSchema)]
pub struct CreatedUser {
    username: String,
    email: Option<String>,
    id: i64,
    is_active: bool,
}

/// Register a device (a body with `uuid`) or a user.
///
/// Where a registered UUID needs proof (`devices.registration = "claim"`), send the last `device_key`, or an access token
/// of the device, expired or not, as `token` or as `Authorization: Bearer`. Under `closed` the caller must be an operator.
///
/// The answer carries the only key for the next registration. A device that must not lose it chooses it itself, as
/// `new_device_key`, and stores it before it sends: then it can repeat the request when no answer comes.
#[utoipa::path(post, path = "/register", tag = "identity", request_body = Register, responses((status = 200, description = "A device gets its tokens, a user is told who it is", body = Registered), (status = 400, description = "Username or email already registered"), (status = 409, description = "UUID already registered"), (status = 429, description = "limits.registrations_per_minute"), (status = 401, description = "Credentials are needed (`devices.registration = \"closed\"`), or given and no good"), (status = 403, description = "Only operators register devices (`devices.registration = \"closed\"`), or a cookie that came with another site's page")), security((), ("bearer" = [])))]
pub async fn register(
    request: HttpRequest,
    broker: web::Data<Broker>,
    body: Body<Register>,
) -> Result<web::Json<Registered>, ApiError> {
    let registered = match body.content {
        Register::Device(device) => {
            let device = async move { register_device(&request, &broker, device).await };
            Registered::Device(undisturbed(device).await?)
        }
        Register::User(user) => {
            let account = register_user(&request, &broker, user).await?;
            let Holder::User { id, username, email, full_name, is_active, .. } = account.holder.clone() else {
                return Err(ApiError::Internal("a new user is no user".to_owned()));
            };
            Registered::User(RegisteredUser {
                id,
                uuid: account.id,
                username,
                email,
                name: full_name.clone(),
                full_name,
                is_active,
                message: "User registered successfully",
            })
        }
    };
    Ok(web::Json(registered))
}

/// Create a user.
#[utoipa::path(post, path = "/api/users/", tag = "identity", request_body = CreateUser, responses((status = 200, description = "Created", body = CreatedUser), (status = 400, description = "Username or email already registered"), (status = 429, description = "limits.registrations_per_minute")))]
pub async fn create_user(
    request: HttpRequest,
    broker: web::Data<Broker>,
    body: Body<CreateUser>,
) -> Result<web::Json<CreatedUser>, ApiError> {
    let CreateUser { username, email, password } = body.content;
    let user = RegisterUser { username, email: Some(email), password, full_name: None, job_title: None };
    let account = register_user(&request, &broker, user).await?;
    let Holder::User { id, username, email, is_active, .. } = account.holder.clone() else {
        return Err(ApiError::Internal("a new user is no user".to_owned()));
    };
    Ok(web::Json(CreatedUser { username, email, id, is_active }))
}

async fn register_device(
    request: &HttpRequest,
    broker: &Broker,
    device: RegisterDevice,
) -> Result<RegisteredDevice, ApiError> {
    let RegisterDevice { name, uuid, device_key, new_device_key, token } = device;
    let key_hash = device_key.as_deref().map(digest);
    let proof = match broker.settings.devices.registration {
        Registration::Open => Proof::NotAsked,
        Registration::Claim => {
            let shown = match token {
                Some(token) => Some(token),
                None => credentials::token(request, &broker.settings.http)?,
            };
            if proves(broker, shown, uuid).await? { Proof::Token } else { Proof::Key(key_hash.as_deref()) }
        }
        Registration::Closed => {
            let shown = credentials::token(request, &broker.settings.http)?;
            let identity = broker.accounts.authenticate(&shown.ok_or(ApiError::NotAuthenticated)?).await?;
            if identity.account.role() < Role::Operator {
                return Err(ApiError::Forbidden("Only operators register devices (devices.registration)"));
            }
            Proof::Token
        }
    };
    count_registration(request, broker)?;
    let tokens = broker.accounts.tokens();
    let family = Uuid::new_v4();
    let refresh = tokens.refresh(family)?;
    let stored = NewRefreshToken::of(&refresh, family, uuid, ClientKind::Device);
    if broker.store.is_uuid_of_user(uuid).await? {
        return Err(ApiError::UuidClaimed);
    }
    let device_key = new_device_key.unwrap_or_else(random_text);
    let registered = broker
        .store
        .register_device(uuid, &name, &digest(&device_key), proof, &stored)
        .await?
        .ok_or(ApiError::UuidClaimed)?;
    let account = broker.accounts.put(Account::from(registered));
    if broker.clients.is_connected(uuid) {
        // it may have another name now, or another token generation
        broker.clients.apply(AccountChange::Account(account.clone())).await?;
    }
    let (access, expires_at) = tokens.access(&account, family)?;
    tracing::info!(device = %uuid, "device registered");
    let tokens = tokens::TokenPair::new(access, expires_at, refresh);
    Ok(RegisteredDevice {
        token: tokens.access_token().to_owned(),
        uuid,
        name,
        message: "Registration successful",
        tokens,
        device_key,
    })
}

/// Whether this token is an authentic, unrevoked one of that device, expired or not.
async fn proves(broker: &Broker, token: Option<String>, uuid: ClientId) -> Result<bool, ApiError> {
    let Some(claims) = token.and_then(|token| broker.accounts.tokens().read_expired(&token)) else {
        return Ok(false);
    };
    Ok(claims.client() == uuid && broker.accounts.account_of(&claims).await?.is_some())
}

async fn register_user(
    request: &HttpRequest,
    broker: &web::Data<Broker>,
    user: RegisterUser,
) -> Result<std::sync::Arc<Account>, ApiError> {
    count_registration(request, broker)?;
    let RegisterUser { username, email, password, full_name, job_title } = user;
    let password_hash = broker.passwords.hash(password).await?;
    // whatever role a client asks for is what it is called, not what it may do
    let new = NewUser { username, email, full_name, job_title, password_hash, role: Role::User };
    let broker = broker.clone();
    undisturbed(async move {
        match broker.store.create_user(new).await? {
            Ok(user) => {
                tracing::info!(user = user.id, "user registered");
                Ok(broker.accounts.put(Account::from(user)))
            }
            Err(Duplicate::Username) => Err(ApiError::AlreadyExists("Username already registered")),
            Err(Duplicate::Email) => Err(ApiError::AlreadyExists("Email already registered")),
        }
    })
    .await
}

fn count_registration(request: &HttpRequest, broker: &Broker) -> Result<(), ApiError> {
    let Some(address) = limited_address(request, &broker.settings) else { return Ok(()) };
    broker
        .registrations()
        .take(&[address], Instant::now())
        .map_err(|wait| ApiError::TooMany { limit: "limits.registrations_per_minute", retry_after: wait.as_secs() + 1 })
}
