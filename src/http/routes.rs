//! The whole API as one table.

use super::{
    clients, commands, devices, docs, gateways, health, register, rooms, root, tokens, topics, users, websocket,
};
use crate::error::ApiError;
use actix_web::{
    Resource, Route, guard,
    http::Method,
    web::{self, ServiceConfig},
};

/// The paths that speak WebSocket.
pub const WEBSOCKETS: [&str; 5] = ["/ws", "/ws/auth", "/ws/room/{id}", "/ws/status", "/ws/echo"];

/// Registers every route. Each works with and without a trailing slash: a middleware takes it off before this table.
pub fn configure(config: &mut ServiceConfig) {
    let get = || Method::GET;
    let post = || Method::POST;
    let put = || Method::PUT;
    let patch = || Method::PATCH;
    let delete = || Method::DELETE;

    // the router looks from the top, so first what is called most
    add(config, "/send-command/{target}", vec![(post(), web::to(commands::send::send))]);

    // WebSocket
    add(config, "/ws", vec![(get(), web::to(websocket::ws))]);
    add(config, "/ws/auth", vec![(get(), web::to(websocket::auth))]);
    add(config, "/ws/room/{id}", vec![(get(), web::to(websocket::room))]);
    add(config, "/ws/status", vec![(get(), web::to(websocket::status))]);
    add(config, "/ws/echo", vec![(get(), web::to(websocket::echo))]);

    // operations
    add(config, "/", vec![(get(), web::to(root::index))]);
    add(config, "/healthz", vec![(get(), web::to(health::healthz))]);
    add(config, "/readyz", vec![(get(), web::to(health::readyz))]);
    add(config, "/openapi.json", vec![(get(), web::to(docs::openapi_json))]);
    add(config, "/redoc", vec![(get(), web::to(docs::redoc))]);
    add(config, "/docs", vec![(get(), web::to(docs::swagger))]);
    add(config, "/docs/{file}", vec![(get(), web::to(docs::swagger_asset))]);

    // identity
    add(config, "/register", vec![(post(), web::to(register::register))]);
    add(config, "/token", vec![(post(), web::to(tokens::login_form))]);
    add(config, "/api/token", vec![(post(), web::to(tokens::login_form))]);
    add(config, "/auth/login", vec![(post(), web::to(tokens::login_json))]);
    add(config, "/auth/refresh", vec![(post(), web::to(tokens::refresh))]);
    add(config, "/auth/logout", vec![(post(), web::to(tokens::logout))]);
    add(config, "/admin/tokens/revoke", vec![(post(), web::to(tokens::revoke))]);
    add(config, "/api/users", vec![(get(), web::to(users::list)), (post(), web::to(register::create_user))]);
    add(config, "/api/users/me", vec![(get(), web::to(users::me))]);
    add(config, "/api/users/me/password", vec![(post(), web::to(users::change_password))]);
    add(config, "/api/users/{id}", vec![(patch(), web::to(users::update)), (delete(), web::to(users::remove))]);
    add(config, "/api/users/{id}/password", vec![(post(), web::to(users::set_password))]);
    add(config, "/protected-data", vec![(get(), web::to(users::protected_data))]);
    add(config, "/protected", vec![(get(), web::to(users::protected))]);

    // messaging
    add(config, "/clients", vec![(get(), web::to(clients::list))]);
    add(config, "/connections", vec![(get(), web::to(clients::connections))]);
    add(config, "/api/connections", vec![(get(), web::to(clients::connections))]);
    add(config, "/topics", vec![(get(), web::to(topics::list))]);
    let topic = || vec![(get(), web::to(topics::show)), (delete(), web::to(topics::remove))];
    // topics may be called like these
    let topic_and = |route| topic().into_iter().chain([(post(), route)]).collect();
    add(config, "/topics/create", topic_and(web::to(topics::create)));
    add(config, "/topics/subscribe", topic_and(web::to(topics::subscribe)));
    add(config, "/topics/unsubscribe", topic_and(web::to(topics::unsubscribe)));
    add(config, "/topics/{topic_id}", topic());

    // rooms
    add(config, "/rooms", vec![(post(), web::to(rooms::create))]);
    add(config, "/api/rooms", vec![(get(), web::to(rooms::list)), (post(), web::to(rooms::create))]);
    add(config, "/api/rooms/{room_id}", vec![(get(), web::to(rooms::show))]);
    add(config, "/api/rooms/{room_id}/join", vec![(post(), web::to(rooms::join))]);
    add(config, "/api/rooms/{room_id}/leave", vec![(post(), web::to(rooms::leave))]);
    add(config, "/api/rooms/{room_id}/presence", vec![(get(), web::to(rooms::presence))]);
    add(config, "/api/rooms/{room_id}/read", vec![(post(), web::to(rooms::read))]);
    let list_or_post = vec![(get(), web::to(rooms::messages::list)), (post(), web::to(rooms::messages::post))];
    add(config, "/api/rooms/{room_id}/messages", list_or_post);
    let edit_or_delete = vec![(patch(), web::to(rooms::messages::edit)), (delete(), web::to(rooms::messages::delete))];
    add(config, "/api/rooms/{room_id}/messages/{message_id}", edit_or_delete);
    let list_or_add = vec![(get(), web::to(rooms::members::list)), (post(), web::to(rooms::members::add))];
    add(config, "/api/rooms/{room_id}/members", list_or_add);
    let set_or_remove = vec![(patch(), web::to(rooms::members::set_role)), (delete(), web::to(rooms::members::remove))];
    add(config, "/api/rooms/{room_id}/members/{user_id}", set_or_remove);

    // devices
    add(config, "/devices", vec![(get(), web::to(devices::list))]);
    let device =
        vec![(get(), web::to(devices::show)), (put(), web::to(devices::update)), (delete(), web::to(devices::remove))];
    add(config, "/devices/{device_id}", device);

    // gateways
    add(config, "/device_status", vec![(get(), web::to(gateways::device_status))]);
    add(config, "/api/gateways", vec![(get(), web::to(gateways::list)), (post(), web::to(gateways::create))]);
    let gateway = vec![
        (get(), web::to(gateways::show)),
        (put(), web::to(gateways::update)),
        (delete(), web::to(gateways::remove)),
    ];
    add(config, "/api/gateways/{id}", gateway);
    add(config, "/api/gateways/{id}/history", vec![(get(), web::to(gateways::history::history))]);

    // commands
    add(config, "/broadcast-command", vec![(post(), web::to(commands::send::broadcast))]);
    add(config, "/api/commands", vec![(get(), web::to(commands::list)), (post(), web::to(commands::create::create))]);
    let show_or_cancel = vec![(get(), web::to(commands::show)), (delete(), web::to(commands::cancel))];
    add(config, "/api/commands/{id}", show_or_cancel);
    add(config, "/api/commands/{id}/events", vec![(get(), web::to(commands::events::events))]);
}

fn add(config: &mut ServiceConfig, path: &str, methods: Vec<(Method, Route)>) {
    let mut resource: Resource = web::resource(path.to_owned());
    let mut allowed = Vec::new();
    for (method, route) in methods {
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
