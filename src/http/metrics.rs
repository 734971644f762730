//! `GET /metrics` for Prometheus (contract section 9).

use std::net::IpAddr;

use actix_web::{FromRequest, HttpRequest, HttpResponse, http::header, web};

use super::{client_address, extract::Operator, is_forwarded, is_from_trusted_proxy, is_trusted};
use crate::{
    domain::network::MetricsReader, http::errors::ApiError, metrics::CONTENT_TYPE, settings::Settings, state::Broker,
};

/// What the broker measures, as Prometheus reads it. `http.metrics` says who may.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, description = "The metrics in the Prometheus text format", content_type = "text/plain", body = String), (status = 403, description = "Not one of http.metrics")), security((), ("bearer" = [])))]
pub async fn metrics(broker: web::Data<Broker>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let settings = broker.settings.load();
    let readers = &settings.http.metrics;
    let address = known_address(&request, &settings);
    if !address.is_some_and(|address| readers.iter().any(|reader| reader.admits(address))) {
        if !readers.contains(&MetricsReader::Operator) {
            return Err(ApiError::Forbidden("Metrics are not for this address (http.metrics)"));
        }
        Operator::extract(&request).await?;
    }
    let text = broker.metrics().await.text().map_err(|error| ApiError::Internal(error.to_string()))?;
    Ok(HttpResponse::Ok().insert_header((header::CONTENT_TYPE, CONTENT_TYPE)).body(text))
}

/// The address of the client, unless a proxy that is not trusted may hide it.
fn known_address(request: &HttpRequest, settings: &Settings) -> Option<IpAddr> {
    let address = client_address(request, settings);
    if !is_forwarded(request) {
        return address;
    }
    // a proxy that names nobody stands for all its clients
    address.filter(|address| is_from_trusted_proxy(request, &settings.http) && !is_trusted(&settings.http, *address))
}
