//! The OpenAPI document (contract section 9): generated from the handlers, then completed with what all routes share.
//!
//! A handler's `#[utoipa::path]` declares what is its own: parameters, body, answers, and errors with a meaning of their own.
//! [`document`] adds the rest, so that no handler has to repeat it: the error schema, the errors of authentication, validation and
//! limits where they can occur and their headers, aliases, operation ids and the ways to authenticate.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Serialize;
use serde_json::json;
use utoipa::{
    OpenApi, ToSchema,
    openapi::{
        Content, HeaderBuilder, Object, Ref, RefOr, Response, Schema, Type,
        path::{Operation, Parameter, ParameterIn, PathItem, PathsMap},
        schema::AdditionalProperties,
        security::{Flow, Http, HttpAuthScheme, OAuth2, Password, Scopes, SecurityRequirement, SecurityScheme},
    },
};

use super::{clients, commands, devices, docs, gateways, health, register, rooms, root, tokens, topics, users};
use crate::error::Fault;

type Paths = PathsMap<String, PathItem>;

/// The security scheme of a token in the `Authorization` header.
const BEARER: &str = "bearer";

/// The security scheme of a token got by username and password.
const PASSWORD: &str = "password";

const NO_SCOPES: [&str; 0] = [];

/// Routes about health answer whatever the load is.
const ALWAYS_ANSWERED: [&str; 2] = ["/healthz", "/readyz"];

/// Other names of the same route, for clients of the earlier systems.
const ALIASES: [(&str, &str); 3] =
    [("/api/token", "/token"), ("/api/connections", "/connections"), ("/rooms", "/api/rooms/")];

#[derive(OpenApi)]
#[openapi(
    info(title = "Switchboard", description = "A message broker: devices, topics, chat rooms and remote commands over WebSocket and HTTP. Get a token at /token or /register, then Authorize."),
    tags(
        (name = "identity", description = "Registration, tokens, users"),
        (name = "messaging", description = "Connected clients and topics"),
        (name = "rooms", description = "Chat rooms, their members and messages"),
        (name = "devices", description = "What devices say of themselves, and which are connected"),
        (name = "gateways", description = "What can be reached, as it changes"),
        (name = "commands", description = "Calling devices and users over HTTP"),
        (name = "operations", description = "Health and documentation"),
    ),
    paths(
        root::index, health::healthz, health::readyz, docs::openapi_json, docs::redoc, docs::swagger, docs::swagger_asset,
        register::register, tokens::login_form, tokens::login_json, tokens::refresh, tokens::logout, tokens::revoke,
        users::list, register::create_user, users::me, users::change_password, users::update, users::remove, users::set_password,
        users::protected_data, users::protected,
        clients::list, clients::connections, topics::list, topics::create, topics::subscribe, topics::unsubscribe, topics::show, topics::remove,
        rooms::create, rooms::list, rooms::show, rooms::join, rooms::leave, rooms::presence, rooms::read,
        rooms::messages::list, rooms::messages::post, rooms::messages::edit, rooms::messages::delete,
        rooms::members::list, rooms::members::add, rooms::members::set_role, rooms::members::remove,
        devices::list, devices::show, devices::update, devices::remove,
        gateways::device_status, gateways::list, gateways::create, gateways::show, gateways::update, gateways::remove, gateways::history::history,
        commands::send::send, commands::send::broadcast, commands::create::create, commands::list, commands::show,
        commands::cancel, commands::events::events,
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

/// The document as JSON text. Made once, at the first request.
pub fn json() -> &'static str {
    static JSON: LazyLock<String> = LazyLock::new(|| document().to_json().unwrap_or_default());
    JSON.as_str()
}

/// The whole document.
fn document() -> utoipa::openapi::OpenApi {
    let mut document = Declared::openapi();
    add_aliases(&mut document.paths.paths);
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            let Some(operation) = operation else { continue };
            // handlers of different resources share names, operations must not
            let words = path.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
            operation.operation_id = Some([method].into_iter().chain(words).collect::<Vec<_>>().join("_"));
            complete(operation, method, path);
        }
    }
    let components = document.components.get_or_insert_default();
    refuse_unknown_fields(&document.paths.paths, &mut components.schemas);
    components.add_security_scheme(BEARER, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    let password = Flow::Password(Password::new("/token", Scopes::new()));
    components.add_security_scheme(PASSWORD, SecurityScheme::OAuth2(OAuth2::new([password])));
    document
}

fn operations(item: &mut PathItem) -> [(&'static str, &mut Option<Operation>); 5] {
    [
        ("get", &mut item.get),
        ("post", &mut item.post),
        ("put", &mut item.put),
        ("patch", &mut item.patch),
        ("delete", &mut item.delete),
    ]
}

fn add_aliases(paths: &mut Paths) {
    for (alias, path) in ALIASES {
        if let Some(item) = paths.get(path).cloned() {
            paths.insert(alias.to_owned(), item);
        }
    }
    // rooms are created there, and no more
    if let Some(item) = paths.get_mut("/rooms") {
        item.get = None;
        // a name can be taken once
        let body = item.post.as_mut().and_then(|create| create.request_body.as_mut());
        if let Some(RefOr::T(body)) = body
            && let Some(RefOr::T(json)) = body.content.get_mut("application/json")
        {
            json.example = Some(json!({ "name": "lounge", "description": "For a few" }));
        }
    }
    // a topic may have the name of one of these routes
    let Some(mut topic) = paths.get("/topics/{topic_id}").cloned() else { return };
    for operation in [&mut topic.get, &mut topic.delete].into_iter().flatten() {
        let in_path = |one: &RefOr<Parameter>| matches!(one, RefOr::T(one) if one.parameter_in == ParameterIn::Path);
        operation.parameters.iter_mut().for_each(|all| all.retain(|one| !in_path(one)));
    }
    for path in ["/topics/create", "/topics/subscribe", "/topics/unsubscribe"] {
        if let Some(item) = paths.get_mut(path) {
            (item.get, item.delete) = (topic.get.clone(), topic.delete.clone());
        }
    }
}

/// Declares that bodies have no other fields, where the handlers refuse those.
fn refuse_unknown_fields(paths: &Paths, schemas: &mut BTreeMap<String, RefOr<Schema>>) {
    // the clients of the systems before send more; `FromFields::IGNORES_UNKNOWN` lets it pass
    let open = [
        tokens::Login::name(),
        topics::CreateTopic::name(),
        topics::TopicName::name(),
        rooms::CreateRoom::name(),
        commands::Request::name(),
    ];
    let bodies = paths.values().flat_map(|item| [&item.post, &item.put, &item.patch]).flatten();
    let contents = bodies.filter_map(|operation| match &operation.request_body {
        Some(RefOr::T(body)) => Some(body.content.values()),
        _ => None,
    });
    for content in contents.flatten() {
        let RefOr::T(Content { schema: Some(RefOr::Ref(schema)), .. }) = content else { continue };
        let name = schema.ref_location.rsplit('/').next().unwrap_or_default();
        if open.iter().any(|open| open == name) {
            continue;
        }
        let refused = || Some(Box::new(AdditionalProperties::FreeForm(false)));
        match schemas.get_mut(name) {
            Some(RefOr::T(Schema::Object(object))) => object.additional_properties = refused(),
            Some(RefOr::T(Schema::OneOf(alternatives))) => {
                for alternative in &mut alternatives.items {
                    if let RefOr::T(Schema::Object(object)) = alternative {
                        object.additional_properties = refused();
                    }
                }
            }
            _ => {}
        }
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
    // whoever may use a token may get one by password first
    if let Some(security) = &mut operation.security
        && security.contains(&SecurityRequirement::new(BEARER, NO_SCOPES))
    {
        security.push(SecurityRequirement::new(PASSWORD, NO_SCOPES));
    }
}
