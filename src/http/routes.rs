//! The table of all routes. The `#[utoipa::path]` of a handler has its method and path; the router and the OpenAPI document
//! are both made from the table.

use actix_web::{
    Resource, Route, guard,
    http::Method,
    web::{self, ServiceConfig},
};
use utoipa::openapi::OpenApi;

use super::{
    audit, clients, cluster, commands, devices, docs, gateways, health,
    input::{Input, inputs_of},
    log_level, messages, metrics,
    openapi::operations,
    register, rooms, root, tokens, topics, users, webhooks, websocket,
};
use crate::http::errors::ApiError;

/// A handler as a route.
type MakeRoute = fn() -> Route;

/// The WebSocket paths. OpenAPI can't describe them; `/asyncapi.json` does.
pub const WEBSOCKETS: [(&str, MakeRoute); 5] = [
    ("/ws", || web::to(websocket::ws)),
    ("/ws/auth", || web::to(websocket::auth)),
    ("/ws/room/{id}", || web::to(websocket::room)),
    ("/ws/status", || web::to(websocket::status)),
    ("/ws/echo", || web::to(websocket::echo)),
];

/// A handler with its declaration.
pub(super) struct Endpoint {
    /// A document of this handler alone.
    pub declared: fn() -> OpenApi,
    /// The fields that its arguments read.
    pub inputs: fn() -> Vec<Input>,
    /// Its other paths.
    pub aliases: &'static [&'static str],
    route: MakeRoute,
}

/// The endpoint of a handler, with its other paths.
macro_rules! endpoint {
    ($($handler:ident)::+ $(, $alias:literal)*) => {{
        #[derive(utoipa::OpenApi)]
        #[openapi(paths($($handler)::+))]
        struct Declared;
        Endpoint {
            declared: <Declared as utoipa::OpenApi>::openapi,
            inputs: || inputs_of($($handler)::+),
            aliases: &[$($alias),*],
            route: || web::to($($handler)::+),
        }
    }};
}

/// All endpoints. The router searches from the top and takes the first path that fits: `/topics/create` stands before
/// `/topics/{topic_id}`, and what is called most stands first.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint!(commands::send::send),
        // operations
        endpoint!(root::index),
        endpoint!(health::healthz),
        endpoint!(health::readyz),
        endpoint!(metrics::metrics),
        endpoint!(cluster::show),
        endpoint!(log_level::show),
        endpoint!(log_level::change),
        endpoint!(log_level::reset),
        endpoint!(audit::list),
        endpoint!(webhooks::list),
        endpoint!(docs::openapi_json),
        endpoint!(docs::redoc),
        endpoint!(docs::swagger),
        endpoint!(docs::asyncapi_json),
        // before the files of the other page
        endpoint!(docs::frames),
        endpoint!(docs::swagger_asset),
        // identity
        endpoint!(register::register),
        endpoint!(tokens::login_form, "/api/token"),
        endpoint!(tokens::login_json),
        endpoint!(tokens::refresh),
        endpoint!(tokens::logout),
        endpoint!(tokens::revoke),
        endpoint!(users::list),
        endpoint!(register::create_user),
        endpoint!(users::me),
        endpoint!(users::change_password),
        endpoint!(users::update),
        endpoint!(users::remove),
        endpoint!(users::set_password),
        endpoint!(users::protected_data),
        endpoint!(users::protected),
        // messaging
        endpoint!(clients::list),
        endpoint!(clients::connections, "/api/connections"),
        endpoint!(topics::list),
        endpoint!(topics::create),
        endpoint!(topics::subscribe),
        endpoint!(topics::unsubscribe),
        endpoint!(topics::publish::publish),
        // after these four, since a topic may have their names
        endpoint!(topics::show, "/topics/create", "/topics/subscribe", "/topics/unsubscribe", "/topics/publish"),
        endpoint!(topics::remove, "/topics/create", "/topics/subscribe", "/topics/unsubscribe", "/topics/publish"),
        endpoint!(
            topics::history::change,
            "/topics/create",
            "/topics/subscribe",
            "/topics/unsubscribe",
            "/topics/publish"
        ),
        endpoint!(topics::history::messages),
        endpoint!(messages::send::send),
        endpoint!(messages::list),
        endpoint!(messages::show),
        endpoint!(messages::withdraw),
        endpoint!(messages::status),
        endpoint!(messages::queue),
        // rooms
        endpoint!(rooms::list),
        endpoint!(rooms::create, "/rooms"),
        endpoint!(rooms::show),
        endpoint!(rooms::join),
        endpoint!(rooms::leave),
        endpoint!(rooms::presence),
        endpoint!(rooms::read),
        endpoint!(rooms::messages::list),
        endpoint!(rooms::messages::post),
        endpoint!(rooms::messages::edit),
        endpoint!(rooms::messages::delete),
        endpoint!(rooms::members::list),
        endpoint!(rooms::members::add),
        endpoint!(rooms::members::set_role),
        endpoint!(rooms::members::remove),
        // devices
        endpoint!(devices::list),
        endpoint!(devices::show),
        endpoint!(devices::update),
        endpoint!(devices::remove),
        // gateways
        endpoint!(gateways::device_status),
        endpoint!(gateways::list),
        endpoint!(gateways::create),
        endpoint!(gateways::show),
        endpoint!(gateways::update),
        endpoint!(gateways::remove),
        endpoint!(gateways::history::history),
        // commands
        endpoint!(commands::send::broadcast),
        endpoint!(commands::list),
        endpoint!(commands::create::create),
        endpoint!(commands::show),
        endpoint!(commands::cancel),
        endpoint!(commands::events::events),
    ]
}

/// The methods of one path, in the order of the table.
struct Methods {
    path: String,
    routes: Vec<(Method, Route)>,
}

/// Registers every route. A middleware removes trailing slashes before.
pub fn configure(config: &mut ServiceConfig) {
    let mut table: Vec<Methods> = Vec::new();
    let mut add = |path: &str, method: Method, route: Route| {
        let path = if path == "/" { path } else { path.trim_end_matches('/') };
        match table.iter_mut().find(|methods| methods.path == path) {
            Some(methods) => methods.routes.push((method, route)),
            None => table.push(Methods { path: path.to_owned(), routes: vec![(method, route)] }),
        }
    };
    for endpoint in endpoints() {
        for (path, mut item) in (endpoint.declared)().paths.paths {
            for (method, operation) in operations(&mut item) {
                if operation.is_some() {
                    let paths = [path.as_str()].into_iter().chain(endpoint.aliases.iter().copied());
                    paths.for_each(|path| add(path, method.clone(), (endpoint.route)()));
                }
            }
        }
    }
    // none of them is in the table above, and a handshake takes longer than the look through it
    for (path, route) in WEBSOCKETS {
        add(path, Method::GET, route());
    }
    table.into_iter().for_each(|methods| register_path(config, methods));
}

fn register_path(config: &mut ServiceConfig, methods: Methods) {
    let mut resource: Resource = web::resource(methods.path);
    let mut allowed = Vec::new();
    for (method, route) in methods.routes {
        allowed.push(method.to_string());
        let guarded = if method == Method::GET {
            allowed.push(Method::HEAD.to_string());
            route.guard(guard::Any(guard::Get()).or(guard::Head()))
        } else {
            route.guard(guard::Method(method))
        };
        resource = resource.route(guarded);
    }
    let allow = allowed.join(", ");
    config.service(resource.default_service(web::to(move || {
        let error = ApiError::MethodNotAllowed(allow.clone());
        async { Err::<web::Json<()>, _>(error) }
    })));
}
