//! What happens around every request: its id, its log span, headers of every answer, and the answer while the server is draining.

use std::time::{Duration, Instant};

use actix_web::{
    Error, ResponseError,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        ConnectionType, Method, StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
use tracing::Instrument;
use uuid::Uuid;

use super::{
    Admission,
    connections::{self, Busy},
    limited_address,
    request_body::{self, RequestBody},
    response_body,
};
use crate::{
    domain::{budget::OverLimit, origin},
    http::errors::ApiError,
    metrics::METRICS,
    state::Broker,
    store::patience::Patience,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

/// The most characters of an id in the log.
const MAX_LOGGED: usize = 128;

fn in_log(id: &HeaderValue) -> String {
    String::from_utf8_lossy(id.as_bytes()).chars().take(MAX_LOGGED).collect()
}

/// Echoes or creates `X-Request-ID`, echoes `X-Correlation-ID`, logs, and refuses requests while draining.
///
/// # Errors
/// Those of the handler.
pub async fn around<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let given = |name: &HeaderName| request.headers().get(name).filter(|value| !value.is_empty()).cloned();
    let id = given(&REQUEST_ID).or_else(|| HeaderValue::from_str(&Uuid::new_v4().to_string()).ok());
    let correlation = given(&CORRELATION_ID);
    // at the level ERROR, so that it is never filtered: each line of the log must have the id
    let (shown, shown_correlation) = (id.as_ref().map(in_log), correlation.as_ref().map(in_log));
    // without the query, which may contain a token
    let span = tracing::error_span!("request", id = shown, correlation = shown_correlation, method = %request.method(), path = request.path());
    let mut response = handle(request, next).instrument(span).await?;
    // browsers must not guess another type and execute content that a client has stored
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    if let Some(correlation) = correlation {
        response.headers_mut().insert(CORRELATION_ID, correlation);
    }
    Ok(response)
}

async fn handle<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let began = Instant::now();
    let body = RequestBody::hold(&mut request);
    let begun = connections::begin(&request);
    let busy = begun.as_ref().ok().cloned().flatten();
    let mut response = match begun {
        Ok(_) => answer(request, next).await?,
        Err(refusal) => request.into_response(refusal.error_response().map_into_boxed_body()),
    };
    tracing::debug!(status = response.status().as_u16(), "answered");
    measure(&response, began);
    let shared = response.request();
    let (Some(broker), Some(admission)) =
        (shared.app_data::<web::Data<Broker>>().cloned(), shared.app_data::<web::Data<Admission>>().cloned())
    else {
        return Ok(response);
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        busy.iter().for_each(Busy::upgraded);
        return Ok(response);
    }
    // the framework closes the connection after a request for another protocol, without a header that says so
    let ends = response.request().head().upgrade() || busy.as_ref().is_none_or(Busy::is_refused);
    if ends || admission.connections.are_scarce() {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    let response = response_body::account(&admission.answers, &broker.settings.load(), busy.clone(), response);
    Ok(match body {
        Some(body) => request_body::settle(body, busy, response).await,
        None => response,
    })
}

/// Routes whose answers wait for targets of commands.
const WAITING: [&str; 4] =
    ["/send-command/{target}", "/broadcast-command", "/api/commands", "/api/commands/{id}/events"];

fn measure(response: &ServiceResponse<BoxBody>, began: Instant) {
    let request = response.request();
    let route = request.match_pattern();
    let route = route.as_deref().unwrap_or("none");
    // clients may send any word
    let method = match *request.method() {
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::PATCH | Method::DELETE | Method::OPTIONS => {
            request.method().as_str()
        }
        _ => "other",
    };
    METRICS.http_requests_total.with_label_values(&[method, route, response.status().as_str()]).inc();
    if response.status() != StatusCode::SWITCHING_PROTOCOLS && !WAITING.contains(&route) {
        METRICS.http_request_seconds.observe(began.elapsed().as_secs_f64());
    }
}

async fn answer<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let draining = request.app_data::<web::Data<Broker>>().is_some_and(|broker| broker.is_draining());
    if draining && !matches!(request.path(), "/healthz" | "/readyz" | "/metrics") {
        return Ok(request.into_response(ApiError::Draining.error_response().map_into_boxed_body()));
    }
    if let Err(exceeded) = charge_address(&request) {
        return Ok(request.into_response(ApiError::from(exceeded).error_response().map_into_boxed_body()));
    }
    if is_foreign_preflight(&request) {
        return Ok(request.into_response(ApiError::ForeignOrigin.error_response().map_into_boxed_body()));
    }
    let patience = match request.app_data::<web::Data<Broker>>() {
        Some(broker) => Duration::from_millis(broker.settings.load().storage.timeout_ms),
        None => Duration::MAX,
    };
    Ok(Patience::new(patience).during(next.call(request)).await?.map_into_boxed_body())
}

/// Counts a request that may change something, if its address is limited.
fn charge_address(request: &ServiceRequest) -> Result<(), OverLimit> {
    let Some(broker) = request.app_data::<web::Data<Broker>>() else { return Ok(()) };
    if broker.settings.load().limits.requests_per_second_per_address == 0 || request.method().is_safe() {
        return Ok(());
    }
    let address = limited_address(request.request(), &broker.settings.load());
    address.map_or(Ok(()), |address| broker.charge_address(address))
}

/// A preflight request for a page of an origin that is not allowed.
fn is_foreign_preflight(request: &ServiceRequest) -> bool {
    let headers = request.headers();
    let Some(broker) = request.app_data::<web::Data<Broker>>() else { return false };
    request.method() == Method::OPTIONS
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        && headers.get(header::ORIGIN).is_some_and(|origin| {
            !origin.to_str().is_ok_and(|origin| origin::is_allowed(origin, &broker.settings.load().http.cors_origins))
        })
}
