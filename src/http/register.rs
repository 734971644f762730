//! Registration: devices, and users in the bodies of the earlier systems (contract section 3).

use actix_web::{HttpRequest, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    body::{Body, Checked, Fields, FromFields},
    client_address, credentials,
    one_of::one_of,
    tokens::TokenPair,
};
use crate::{
    auth::registration::{NewAccount, NewDevice},
    domain::{
        ids::ClientId,
        registration,
        usernames::{self, BadUsername},
    },
    http::errors::ApiError,
    state::Broker,
    store::User,
};

/// The body of `POST /register`: a device (`uuid`), or a user (`username`, or `email` alone).
#[derive(Debug)]
pub enum Register {
    /// A device.
    Device(RegisterDevice),
    /// A person or program with a password.
    User(RegisterUser),
}

one_of!(Register: RegisterDevice, RegisterUser);

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
    /// The key of the last registration: proof that it is the same device, where the server asks for that.
    device_key: Option<String>,
    /// The key of this registration, chosen by the client: 256 random bits or more. By default the server generates one. A
    /// client that stores the key before it sends the request can repeat the request when the answer is lost: a key that the
    /// UUID has already is proof as well.
    #[schema(min_length = 32, max_length = 128, pattern = "^[!-~]*$")]
    new_device_key: Option<String>,
    /// Another proof: an access token of that device, expired or not.
    token: Option<String>,
}

/// A user.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"username": "alice", "password": "a long password"}))]
pub struct RegisterUser {
    /// 3 to 50 characters, or an email. By default the email.
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
    match fields.optional_text("email", 0..=usernames::MAX_EMAIL_CHARS)? {
        Some(_) => fields.email("email").map(Some),
        None => Ok(None),
    }
}

fn username(fields: &mut Fields<'_>) -> Checked<String> {
    let username = fields.text("username", usernames::MIN_CHARS..=usernames::MAX_EMAIL_CHARS)?;
    match usernames::check(&username) {
        Ok(()) => Ok(username),
        Err(BadUsername::TooShort) => {
            let msg = format!("String should have at least {} characters", usernames::MIN_CHARS);
            Err(fields.fault("string_too_short", "username", msg))
        }
        Err(BadUsername::TooLong) => {
            let msg = format!("String should have at most {} characters", usernames::MAX_CHARS);
            Err(fields.fault("string_too_long", "username", msg))
        }
        Err(BadUsername::Invisible) => {
            let msg = "Value error, must not begin or end with spaces or contain control characters";
            Err(fields.fault("value_error", "username", msg))
        }
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
    tokens: TokenPair,
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
/// The answer has the key for the next registration. A device that chooses the key itself (`new_device_key`) and stores it
/// before it sends the request can repeat the request when the answer is lost.
#[utoipa::path(post, path = "/register", tag = "identity", request_body = Register, responses((status = 200, description = "A device gets its tokens, a user is told who it is", body = Registered), (status = 400, description = "Username or email already registered"), (status = 409, description = "UUID already registered"), (status = 429, description = "limits.registrations_per_minute"), (status = 401, description = "Credentials are needed (`devices.registration = \"closed\"`), or given and no good"), (status = 403, description = "Only operators register devices (`devices.registration = \"closed\"`), or a cookie that came with another site's page")), security((), ("bearer" = [])))]
pub async fn register(
    request: HttpRequest,
    broker: web::Data<Broker>,
    body: Body<Register>,
) -> Result<web::Json<Registered>, ApiError> {
    let registered = match body.content {
        Register::Device(RegisterDevice { name, uuid, device_key, new_device_key, token }) => {
            let device = NewDevice { uuid, name: name.clone(), device_key, new_device_key, token };
            let credentials = credentials::token(&request, &broker.settings.load().http);
            let address = client_address(&request, &broker.settings.load());
            let registered = broker.registrations.device(device, credentials, address).await?;
            let tokens = TokenPair::from(registered.tokens);
            Registered::Device(RegisteredDevice {
                token: tokens.access_token().to_owned(),
                uuid,
                name,
                message: "Registration successful",
                tokens,
                device_key: registered.device_key,
            })
        }
        Register::User(user) => {
            let User { id, uuid, username, email, full_name, is_active, .. } =
                register_user(&request, &broker, user).await?;
            Registered::User(RegisteredUser {
                id,
                uuid,
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
    let User { id, username, email, is_active, .. } = register_user(&request, &broker, user).await?;
    Ok(web::Json(CreatedUser { username, email, id, is_active }))
}

async fn register_user(request: &HttpRequest, broker: &Broker, user: RegisterUser) -> Result<User, ApiError> {
    let RegisterUser { username, email, password, full_name, job_title } = user;
    let user = NewAccount { username, email, password, full_name, job_title };
    Ok(broker.registrations.user(user, client_address(request, &broker.settings.load())).await?)
}
