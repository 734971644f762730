//! The OpenAPI document (contract section 9): generated from the handlers, then completed with what all routes share.
//!
//! The `#[utoipa::path]` of a handler declares its parameters, body, answers, and its particular errors. [`document`] adds what
//! handlers have in common: the limits that arguments check, the error schema, the errors of authentication, validation and
//! limits with their headers, aliases, operation ids and the ways to authenticate.

mod limits;

use std::sync::{Arc, Mutex, PoisonError};

use actix_web::http::Method;
use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use utoipa::{
    OpenApi, ToSchema,
    openapi::{
        Content, HeaderBuilder, Object, Ref, RefOr, Response, Type,
        path::{Operation, Parameter, ParameterIn, PathItem, PathsMap},
        security::{Flow, Http, HttpAuthScheme, OAuth2, Password, Scopes, SecurityRequirement, SecurityScheme},
    },
};

use super::routes;
use crate::{http::errors::Fault, settings::Settings};

type Paths = PathsMap<String, PathItem>;

/// The security scheme of a token in the `Authorization` header.
const BEARER: &str = "bearer";

/// The security scheme of a token got by username and password.
const PASSWORD: &str = "password";

const NO_SCOPES: [&str; 0] = [];

/// Routes about health have no limits.
const ALWAYS_ANSWERED: [&str; 2] = ["/healthz", "/readyz"];

#[derive(OpenApi)]
#[openapi(
    info(title = "Switchboard", description = "A message broker: devices, topics, chat rooms and remote commands over WebSocket and HTTP. The frames of the WebSockets are described at [/docs/frames](/docs/frames). Get a token at /token or /register, then Authorize."),
    tags(
        (name = "identity", description = "Registration, tokens, users"),
        (name = "messaging", description = "Connected clients and topics"),
        (name = "rooms", description = "Chat rooms, their members and messages"),
        (name = "devices", description = "What devices say of themselves, and which are connected"),
        (name = "gateways", description = "What can be reached, as it changes"),
        (name = "commands", description = "Calling devices and users over HTTP"),
        (name = "operations", description = "Health and documentation"),
    ),
    components(schemas(Error, Fault))
)]
struct Declared;

/// The error answer of every route (contract section 2).
#[derive(Serialize, ToSchema)]
struct Error {
    /// What was wrong, as a text; for `validation_error` the list of faults.
    detail: ErrorDetail,
    /// A constant that programs can test for.
    #[schema(example = "not_found")]
    code: &'static str,
}

/// See [`Error`].
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes what ApiError writes")]
enum ErrorDetail {
    Text(String),
    Faults(Vec<Fault>),
}

/// The document as JSON text. Made at the first request, and when the settings were replaced.
pub fn json(settings: &Arc<Settings>) -> Bytes {
    /// the last one, with the settings whose limits it has
    static JSON: Mutex<Option<(Arc<Settings>, Bytes)>> = Mutex::new(None);
    let mut last = JSON.lock().unwrap_or_else(PoisonError::into_inner);
    match &*last {
        Some((of, json)) if Arc::ptr_eq(of, settings) => json.clone(),
        _ => {
            let json = Bytes::from(document(settings).to_json().unwrap_or_default());
            *last = Some((settings.clone(), json.clone()));
            json
        }
    }
}

/// The whole document.
fn document(settings: &Settings) -> utoipa::openapi::OpenApi {
    let mut document = Declared::openapi();
    for endpoint in routes::endpoints() {
        let mut declared = (endpoint.declared)();
        limits::add(&mut declared, &(endpoint.inputs)(), settings);
        add_aliases(&mut declared.paths.paths, endpoint.aliases);
        document.merge(declared);
    }
    // another name than in the example of `/api/rooms/`, since only one room can have a name
    if let Some(create) = document.paths.paths.get_mut("/rooms").and_then(|item| item.post.as_mut())
        && let Some(RefOr::T(body)) = &mut create.request_body
        && let Some(RefOr::T(json)) = body.content.get_mut("application/json")
    {
        json.example = Some(json!({ "name": "lounge", "description": "For a few" }));
    }
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            let Some(operation) = operation else { continue };
            // unlike names of handlers, operation ids must be unique
            let words = path.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
            let method = method.as_str().to_lowercase();
            operation.operation_id = Some([method.as_str()].into_iter().chain(words).collect::<Vec<_>>().join("_"));
            complete(operation, &method, path);
        }
    }
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(BEARER, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    let password = Flow::Password(Password::new("/token", Scopes::new()));
    components.add_security_scheme(PASSWORD, SecurityScheme::OAuth2(OAuth2::new([password])));
    document
}

/// The operations of a path, by method.
pub(super) fn operations(item: &mut PathItem) -> [(Method, &mut Option<Operation>); 5] {
    [
        (Method::GET, &mut item.get),
        (Method::POST, &mut item.post),
        (Method::PUT, &mut item.put),
        (Method::PATCH, &mut item.patch),
        (Method::DELETE, &mut item.delete),
    ]
}

/// Declares a handler's operation at other paths, too.
fn add_aliases(paths: &mut Paths, aliases: &[&str]) {
    let Some((_, item)) = paths.first_key_value() else { return };
    let item = item.clone();
    for alias in aliases {
        let mut item = item.clone();
        for operation in operations(&mut item).into_iter().filter_map(|(_, operation)| operation.as_mut()) {
            // a path without the placeholder has no such parameter
            let is_there = |one: &RefOr<Parameter>| matches!(one, RefOr::T(one) if one.parameter_in != ParameterIn::Path || alias.contains(&format!("{{{}}}", one.name)));
            operation.parameters.iter_mut().for_each(|all| all.retain(is_there));
        }
        paths.insert((*alias).to_owned(), item);
    }
}

/// Adds what an operation's declaration implies: the errors that can occur, and their schema.
fn complete(operation: &mut Operation, method: &str, path: &str) {
    let needs_token = operation.security.as_ref().is_some_and(|security| !security.is_empty());
    let has_body = operation.request_body.is_some();
    let has_parameters = operation.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty());
    let mut add = |status: &str, description: &str| {
        let responses = &mut operation.responses.responses;
        responses.entry(status.to_owned()).or_insert_with(|| Response::new(description).into());
    };
    if needs_token {
        add("401", "Not authenticated, or Could not validate credentials");
        add("400", "Inactive user");
    }
    if needs_token && method != "get" {
        add("403", "Origin not allowed: a cookie that came with another site's page");
    }
    if has_body || has_parameters {
        add("422", "Input of the wrong shape; `detail` lists every fault");
    }
    if has_body {
        add("408", "The body did not arrive in time");
        add("413", "limits.body_bytes");
        add("415", "Another content type than declared");
    }
    if !ALWAYS_ANSWERED.contains(&path) {
        add("429", "A limit of the client's own; see Retry-After");
        add("503", "The database is away or full, the server is at a limit or shutting down; see Retry-After");
    }
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        if response.description.is_empty() {
            response.description = "OK".to_owned();
        }
        if response.content.is_empty() && status.starts_with(['4', '5']) {
            let content = Content::new(Some(Ref::from_schema_name("Error")));
            response.content.insert("application/json".to_owned(), content.into());
        }
        let header = match status.as_str() {
            "401" => Some(("WWW-Authenticate", Type::String, "`Bearer`")),
            "429" | "503" => Some(("Retry-After", Type::Integer, "Seconds after which it is worth trying again")),
            _ => None,
        };
        if let Some((name, kind, description)) = header {
            let header =
                HeaderBuilder::new().schema(Some(Object::with_type(kind))).description(Some(description)).build();
            response.headers.insert(name.to_owned(), header.into());
        }
    }
    // tokens can be got by password
    if let Some(security) = &mut operation.security
        && security.contains(&SecurityRequirement::new(BEARER, NO_SCOPES))
    {
        security.push(SecurityRequirement::new(PASSWORD, NO_SCOPES));
    }
}
