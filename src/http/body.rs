//! Request bodies and query strings, checked field by field. An answer has all faults, in FastAPI's format (contract
//! section 2). All validation errors come from here.

mod fields;
mod limits;

use std::{future::Future, pin::Pin, time::Duration};

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header, web};
use futures_util::StreamExt;
use serde_json::{Map, Value};

use super::{admission::Requester, arriving::Buffer, extract::admission};
use crate::{
    domain::ids::ClientId,
    http::errors::ApiError,
    protocol::json::{self, NotRead},
    settings::Settings,
    state::Broker,
};

pub use fields::{Checked, Fields, FromFields};
pub use limits::Limit;

/// How long a body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// An id in a path.
///
/// # Errors
/// A fault at `["path", name]`.
pub fn path_int(name: &'static str, text: &str) -> Result<i64, ApiError> {
    text.parse().map_err(|_| {
        let msg = "Input should be a valid integer, unable to parse string as an integer";
        ApiError::invalid("int_parsing", &["path", name], msg, text.into())
    })
}

/// A UUID in a path, in any spelling.
///
/// # Errors
/// A fault at `["path", name]`.
pub fn path_uuid(name: &'static str, text: &str) -> Result<ClientId, ApiError> {
    ClientId::parse(text)
        .ok_or_else(|| ApiError::invalid("uuid_parsing", &["path", name], "Input should be a valid UUID", text.into()))
}

/// The format of a body.
pub trait Format: 'static {
    /// The content type.
    const CONTENT_TYPE: &'static str;
    /// Whether a body without a content type has this format.
    const DEFAULT: bool;
    /// Parses a body.
    ///
    /// # Errors
    /// The body does not have this format.
    fn parse(bytes: &[u8]) -> Result<Map<String, Value>, ApiError>;
}

/// `application/json`
#[derive(Debug)]
pub struct Json;

impl Format for Json {
    const CONTENT_TYPE: &'static str = "application/json";
    const DEFAULT: bool = true;

    fn parse(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
        if bytes.is_empty() {
            return Err(ApiError::invalid("missing", &["body"], "Field required", Value::Null));
        }
        let value = json::parse(bytes).map_err(|error| {
            let column = match &error {
                NotRead::Invalid(error) => error.column(),
                NotRead::Unacceptable(_) => 0,
            };
            let loc = ["body", &column.to_string()];
            ApiError::invalid("json_invalid", &loc, format!("JSON decode error: {error}"), Value::Null)
        })?;
        match value {
            Value::Object(object) => Ok(object),
            other => {
                let msg = "Input should be a valid dictionary or object to extract fields from";
                Err(ApiError::invalid("model_attributes_type", &["body"], msg, other))
            }
        }
    }
}

/// `application/x-www-form-urlencoded`
#[derive(Debug)]
pub struct Form;

impl Format for Form {
    const CONTENT_TYPE: &'static str = "application/x-www-form-urlencoded";
    const DEFAULT: bool = false;

    fn parse(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
        Ok(pairs(std::str::from_utf8(bytes).unwrap_or_default()))
    }
}

/// The pairs of a form or query string. If a name occurs twice, the last one counts.
fn pairs(text: &str) -> Map<String, Value> {
    let pairs = web::Query::<Vec<(String, String)>>::from_query(text).map(web::Query::into_inner).unwrap_or_default();
    pairs.into_iter().map(|(name, value)| (name, Value::String(value))).collect()
}

/// A checked query string.
#[derive(Debug)]
pub struct QueryOf<T>(pub T);

impl<T: FromFields> FromRequest for QueryOf<T> {
    type Error = ApiError;
    type Future = std::future::Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let read = broker(request).and_then(|broker| {
            Fields::read(&pairs(request.query_string()), None, "query", &broker.settings.load(), broker.clock.now())
        });
        std::future::ready(read.map(QueryOf))
    }
}

/// A checked body of a format.
#[derive(Debug)]
pub struct Body<T, F = Json> {
    /// What was in it.
    pub content: T,
    format: std::marker::PhantomData<F>,
}

impl<T: FromFields, F: Format> FromRequest for Body<T, F> {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let broker = broker(&request)?;
            check_content_type::<F>(&request)?;
            let body = tokio::time::timeout(BODY_PATIENCE, read_body(&request, payload, &broker.settings.load()))
                .await
                .map_err(|_| ApiError::BodyTimeout)??;
            let object = F::parse(body.bytes())?;
            let text = std::str::from_utf8(body.bytes()).ok();
            let content = Fields::read(&object, text, "body", &broker.settings.load(), broker.clock.now())?;
            Ok(Self { content, format: std::marker::PhantomData })
        })
    }
}

fn broker(request: &HttpRequest) -> Result<&Broker, ApiError> {
    request
        .app_data::<web::Data<Broker>>()
        .map(|broker| broker.get_ref())
        .ok_or_else(|| ApiError::Internal("the broker is not in the app's data".to_owned()))
}

fn check_content_type<F: Format>(request: &HttpRequest) -> Result<(), ApiError> {
    let Some(given) = request.headers().get(header::CONTENT_TYPE) else {
        return if F::DEFAULT { Ok(()) } else { Err(ApiError::UnsupportedMediaType(F::CONTENT_TYPE)) };
    };
    let given = given.to_str().unwrap_or_default();
    let kind = given.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case(F::CONTENT_TYPE) {
        Ok(())
    } else {
        Err(ApiError::UnsupportedMediaType(F::CONTENT_TYPE))
    }
}

async fn read_body(request: &HttpRequest, mut payload: Payload, settings: &Settings) -> Result<Buffer, ApiError> {
    let limit = settings.limits.body_bytes;
    let limit = if limit == 0 { usize::MAX } else { limit };
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
    if declared.is_some_and(|declared: usize| declared > limit) {
        return Err(ApiError::BodyTooLarge(limit));
    }
    let mut body = Buffer::new(admission(request)?.arriving.clone(), declared.unwrap_or(limit));
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| {
            ApiError::invalid("value_error", &["body"], "The body ended before it was complete", Value::Null)
        })?;
        if body.bytes().len() + chunk.len() > limit {
            return Err(ApiError::BodyTooLarge(limit));
        }
        // by the time a large part has arrived, the credentials have been checked
        body.append(&chunk, || Requester::of(request, settings))?;
    }
    Ok(body)
}
