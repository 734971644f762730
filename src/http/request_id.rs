//! What happens around every request: its id, its log span, and the answer while the server is draining.

use actix_web::{
    Error, ResponseError,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::header::{HeaderName, HeaderValue},
    middleware::Next,
    web,
};
use tracing::Instrument;
use uuid::Uuid;

use crate::{app::Broker, error::ApiError};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

/// Ids longer than this are cut off: they go into every log line.
const MAX_ID: usize = 128;

/// Echoes or creates `X-Request-ID`, echoes `X-Correlation-ID`, logs, and turns requests away while draining.
///
/// # Errors
/// Those of the handler.
pub async fn around<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let given = |name: &HeaderName| {
        let value = request.headers().get(name)?.to_str().ok()?;
        let usable = !value.is_empty() && value.len() <= MAX_ID;
        usable.then(|| value.to_owned())
    };
    let id = given(&REQUEST_ID).unwrap_or_else(|| Uuid::new_v4().to_string());
    let correlation = given(&CORRELATION_ID);
    // the path alone: the query may hold a token
    let span = tracing::info_span!("request", id, correlation, method = %request.method(), path = request.path());
    let mut response = handle(request, next).instrument(span).await?;
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    if let Some(correlation) = correlation.and_then(|id| HeaderValue::from_str(&id).ok()) {
        response.headers_mut().insert(CORRELATION_ID, correlation);
    }
    Ok(response)
}

async fn handle<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let draining = request.app_data::<web::Data<Broker>>().is_some_and(|broker| broker.is_draining());
    if draining && !matches!(request.path(), "/healthz" | "/readyz") {
        return Ok(request.into_response(ApiError::Draining.error_response().map_into_boxed_body()));
    }
    let response = next.call(request).await?.map_into_boxed_body();
    tracing::debug!(status = response.status().as_u16(), "answered");
    Ok(response)
}
