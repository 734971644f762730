//! The documentation, served from the binary: of the HTTP routes at `/docs`, `/redoc` and `/openapi.json`, of the sockets at
//! `/docs/frames` and `/asyncapi.json` (contract section 9).

use std::sync::{Arc, LazyLock};

use actix_web::{HttpResponse, HttpResponseBuilder, http::header, web};
use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};
use utoipa_swagger_ui::Config;

use super::{asyncapi, openapi};
use crate::{http::errors::ApiError, state::Broker};

static REDOC: LazyLock<String> = LazyLock::new(|| {
    let page = aide::redoc::Redoc::new("/openapi.json").with_title("Switchboard").html();
    // the page loads nothing from other servers, such as the vendor's logo
    page.replace("https://cdn.redoc.ly/redoc/logo-mini.svg", "data:,")
});
/// The content security policy of `/redoc`: only its own script, which is named by its digest, may run.
static REDOC_POLICY: LazyLock<String> = LazyLock::new(|| {
    let script = REDOC.split_once("<script>").and_then(|(_, rest)| rest.split_once("</script>"));
    let digest = BASE64_STANDARD.encode(Sha256::digest(script.map_or("", |(script, _)| script)));
    policy(&format!("script-src 'sha256-{digest}'; worker-src blob:; style-src 'unsafe-inline'; img-src data:"))
});

/// The content security policy of `/docs`: only files of this server are loaded.
static SWAGGER_POLICY: LazyLock<String> =
    LazyLock::new(|| policy("script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"));

/// The content security policy of `/docs/frames`: nothing but its style sheet.
static FRAMES_POLICY: LazyLock<String> =
    LazyLock::new(|| policy(&format!("style-src {}", *asyncapi::page::STYLE_SOURCE)));

/// The content security policy of a page of this server, which nobody may frame.
fn policy(own: &str) -> String {
    format!(
        "default-src 'none'; {own}; connect-src 'self'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    )
}

fn page(policy: &str) -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response.content_type(header::ContentType::html());
    response.insert_header((header::CONTENT_SECURITY_POLICY, policy)).insert_header((header::X_FRAME_OPTIONS, "DENY"));
    response
}

static SWAGGER: LazyLock<Arc<Config<'static>>> =
    LazyLock::new(|| Arc::new(Config::from("/openapi.json").validator_url("none")));

/// This API as an OpenAPI document.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", responses((status = 200, description = "OpenAPI 3.1", body = HashMap<String, serde_json::Value>)))]
pub async fn openapi_json(broker: web::Data<Broker>) -> HttpResponse {
    HttpResponse::Ok().content_type(header::ContentType::json()).body(openapi::json(&broker.settings.load()))
}

/// The frames of the sockets as an AsyncAPI document.
#[utoipa::path(get, path = "/asyncapi.json", tag = "operations", responses((status = 200, description = "AsyncAPI 3.0", body = HashMap<String, serde_json::Value>)))]
pub async fn asyncapi_json() -> HttpResponse {
    HttpResponse::Ok().content_type(header::ContentType::json()).body(asyncapi::json())
}

/// The frames of the sockets, for reading.
#[utoipa::path(get, path = "/docs/frames", tag = "operations", responses((status = 200, description = "A page", content_type = "text/html", body = String)))]
pub async fn frames() -> HttpResponse {
    page(&FRAMES_POLICY).body(asyncapi::page::PAGE.as_str())
}

/// The documentation of this API, for reading.
#[utoipa::path(get, path = "/redoc", tag = "operations", responses((status = 200, description = "A page", content_type = "text/html", body = String)))]
pub async fn redoc() -> HttpResponse {
    page(&REDOC_POLICY).body(REDOC.as_str())
}

/// The documentation of this API, for trying it out.
#[utoipa::path(get, path = "/docs", tag = "operations", responses((status = 200, description = "A page", content_type = "text/html", body = String)))]
pub async fn swagger() -> Result<HttpResponse, ApiError> {
    swagger_file("index.html")
}

/// What the page at `/docs` is made of.
#[utoipa::path(get, path = "/docs/{file}", tag = "operations", params(("file" = String, Path)), responses((status = 200, description = "A file", content((String = "text/html"), (String = "text/css"), (String = "text/javascript"), (String = "image/png"))), (status = 404, description = "Not Found")))]
pub async fn swagger_asset(file: web::Path<String>) -> Result<HttpResponse, ApiError> {
    swagger_file(&file)
}

fn swagger_file(name: &str) -> Result<HttpResponse, ApiError> {
    let file = utoipa_swagger_ui::serve(name, SWAGGER.clone())
        .map_err(|error| ApiError::Internal(error.to_string()))?
        .ok_or(ApiError::NotFound("Not Found"))?;
    if name == "index.html" {
        // relative links of a page at /docs, without a slash, would miss the directory
        let page = String::from_utf8_lossy(&file.bytes).replace("<head>", "<head><base href=\"/docs/\">");
        return Ok(self::page(&SWAGGER_POLICY).body(page));
    }
    Ok(HttpResponse::Ok().content_type(file.content_type).body(file.bytes.into_owned()))
}
