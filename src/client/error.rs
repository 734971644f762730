//! The client's errors, with texts for operators.

use std::{error::Error, io, time::Duration};

use reqwest::{StatusCode, header};
use rustls::{CertificateError, InvalidMessage};
use serde_json::Value;
use tokio_tungstenite::tungstenite;
use uuid::Uuid;

use super::tls;

/// An error of a request or socket of the client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is not valid for a broker.
    #[error("bad URL {0}: expected something like http://127.0.0.1:8000")]
    Url(String),
    /// The token has characters that an HTTP header cannot contain.
    #[error("bad token: it has characters that no token has")]
    Token,
    /// The token given for a device belongs to another device.
    #[error("the token is of the device {owner}, not of {expected}")]
    AnotherDevice {
        /// The device that the token belongs to.
        owner: Uuid,
        /// The device that it was given for.
        expected: Uuid,
    },
    /// The device's state cannot be stored, so that its next start could not prove who it is.
    #[error("{0}")]
    State(String),
    /// The given certificates are not usable.
    #[error("{0}")]
    Tls(String),
    /// There is no connection to the broker.
    #[error("{}", unreachable_text(*cause, url, reason))]
    Unreachable {
        /// The kind of failure.
        cause: Unreachable,
        /// The broker's URL.
        url: String,
        /// The cause as a text.
        reason: String,
    },
    /// The connection broke before the answer was complete.
    #[error("the connection to the broker broke: {0}")]
    Broken(String),
    /// The broker refused the request.
    #[error("{status}: {detail}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The constant in `code`; empty if the answer has none.
        code: String,
        /// The text in `detail`.
        detail: String,
        /// The pause of `Retry-After`, if the answer has one.
        retry_after: Option<Duration>,
    },
    /// The socket failed.
    #[error("WebSocket: {0}")]
    WebSocket(#[from] Box<tungstenite::Error>),
    /// The broker closed the socket.
    #[error("closed by the broker: {code} {reason}")]
    Closed {
        /// The close code; 1006 if there was none.
        code: u16,
        /// The reason in the close frame.
        reason: String,
    },
    /// The broker was silent and did not answer a ping.
    #[error("the broker does not answer pings")]
    Silent,
    /// The answer or frame is not JSON.
    #[error("the answer is not JSON, so it is not from a Switchboard broker: {0}")]
    NotJson(String),
}

/// The reason why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// The connection was refused: no program listens at the address.
    Refused,
    /// The host name cannot be resolved.
    Lookup,
    /// The server's certificate is not trusted or not valid.
    Certificate,
    /// The TLS handshake failed for another reason.
    Tls,
    /// The server does not speak HTTP.
    NotHttp,
    /// There was no answer in time.
    Timeout,
    /// Anything else.
    Other,
}

fn unreachable_text(cause: Unreachable, url: &str, reason: &str) -> String {
    match cause {
        Unreachable::Refused => {
            format!("no broker at {url} ({reason}): start it, or give the broker's address with --url")
        }
        Unreachable::Lookup => format!("cannot find the host of {url}: {reason}"),
        Unreachable::Certificate => format!("cannot trust {url}: {reason}"),
        Unreachable::Tls => format!("no TLS connection to {url}: {reason}"),
        Unreachable::NotHttp => format!("no HTTP connection to {url}: {reason}"),
        Unreachable::Timeout => format!("no answer from {url}: {reason}"),
        Unreachable::Other => format!("cannot reach {url}: {reason}"),
    }
}

impl ClientError {
    /// An `Unreachable` error with the reason at the end of the error's chain of sources.
    pub(super) fn unreachable(url: &str, error: &(dyn Error + 'static)) -> Self {
        let (cause, reason) = cause(error);
        Self::Unreachable { cause, url: url.to_owned(), reason }
    }

    /// An `Unreachable` error for a timeout.
    pub(super) fn timeout(url: &str, after: Duration) -> Self {
        let reason = format!("no data for {} s", after.as_secs());
        Self::Unreachable { cause: Unreachable::Timeout, url: url.to_owned(), reason }
    }

    /// Reads the broker's error body. For other bodies the text only says what to try.
    pub(super) fn refused(status: StatusCode, headers: &header::HeaderMap, body: &[u8]) -> Self {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let detail = match &body["detail"] {
            Value::String(detail) => detail.clone(),
            Value::Array(faults) => faults.iter().map(fault).collect::<Vec<_>>().join("; "),
            _ => match header(header::LOCATION) {
                Some(location) => format!("redirected to {location}: give that as --url"),
                None => {
                    "the answer is not from a Switchboard broker: give its URL with --url (https:// if it speaks TLS)"
                        .to_owned()
                }
            },
        };
        let retry_after = header(header::RETRY_AFTER).and_then(|secs| secs.parse().ok()).map(Duration::from_secs);
        Self::Refused { status, code: body["code"].as_str().unwrap_or_default().to_owned(), detail, retry_after }
    }

    /// An error for a text that is not JSON, with its first 80 characters.
    pub fn not_json(text: &str) -> Self {
        Self::NotJson(text.chars().take(80).collect::<String>().escape_debug().to_string())
    }

    /// Whether the broker wants other credentials, or credentials at all: HTTP status 401 or 403.
    pub fn is_about_rights(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(status))
    }

    /// Whether the broker refused the token: HTTP status 401 or close code 4401.
    pub fn is_unauthorized(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status == StatusCode::UNAUTHORIZED,
            Self::Closed { code, .. } => *code == 4401,
            _ => false,
        }
    }
}

impl From<reqwest::Error> for ClientError {
    fn from(error: reqwest::Error) -> Self {
        let url = error.url().map(|url| url.origin().ascii_serialization()).unwrap_or_default();
        match cause(&error) {
            (cause, reason) if cause == Unreachable::NotHttp || error.is_connect() || error.is_timeout() => {
                Self::Unreachable { cause, url, reason }
            }
            (_, reason) => Self::Broken(reason),
        }
    }
}

/// A validation error as text: the field and the message.
fn fault(fault: &Value) -> String {
    let place = fault["loc"].as_array().map(Vec::as_slice).unwrap_or_default();
    let place: Vec<_> = place.iter().skip(1).filter_map(Value::as_str).collect();
    let message = fault["msg"].as_str().unwrap_or_default();
    if place.is_empty() { message.to_owned() } else { format!("{}: {message}", place.join(".")) }
}

/// The kind and text of the error at the end of a chain of sources.
fn cause(error: &(dyn Error + 'static)) -> (Unreachable, String) {
    let mut error = error;
    let mut timeout = false;
    loop {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return tls_cause(tls);
        }
        let is_no_head = matches!(
            error.downcast_ref(),
            Some(tungstenite::Error::Protocol(tungstenite::error::ProtocolError::HttparseError(_)))
        );
        if is_no_head || error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            let reason = "what listens there does not speak HTTP; if it speaks TLS, give https:// in place of http://";
            return (Unreachable::NotHttp, reason.to_owned());
        }
        timeout |= error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_timeout);
        let next = match error.downcast_ref::<io::Error>() {
            // `source` of an I/O error skips the wrapped error itself
            Some(wrapper) => match wrapper.get_ref() {
                Some(inner) => Some(inner as &(dyn Error + 'static)),
                None => return io_cause(wrapper),
            },
            None => error.source(),
        };
        match next {
            Some(next) => error = next,
            None if timeout => return (Unreachable::Timeout, "timed out".to_owned()),
            None => return other_cause(error.to_string()),
        }
    }
}

fn io_cause(error: &io::Error) -> (Unreachable, String) {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => (Unreachable::Refused, "connection refused".to_owned()),
        io::ErrorKind::TimedOut => (Unreachable::Timeout, "connection timed out".to_owned()),
        io::ErrorKind::UnexpectedEof => (Unreachable::Other, "the connection was closed".to_owned()),
        _ => other_cause(error.to_string()),
    }
}

fn other_cause(text: String) -> (Unreachable, String) {
    // the standard library has no stable error kind for a failed lookup
    match text.strip_prefix("failed to lookup address information: ") {
        Some(reason) => (Unreachable::Lookup, reason.to_owned()),
        None => (Unreachable::Other, text),
    }
}

fn tls_cause(error: &rustls::Error) -> (Unreachable, String) {
    use CertificateError as Bad;
    let certificate = |reason: &str| (Unreachable::Certificate, reason.to_owned());
    match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            // BadSignature, if another authority has the same name
            Bad::UnknownIssuer | Bad::BadSignature => certificate(
                "its certificate is signed by an authority that is not trusted here; give that authority's certificate with --ca FILE",
            ),
            Bad::Expired | Bad::ExpiredContext { .. } => certificate("its certificate has expired"),
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                certificate("its certificate is not valid yet, or this machine's clock is wrong")
            }
            Bad::NotValidForNameContext { presented, .. } if presented.is_empty() => certificate(
                "its certificate names no host; make one with -addext subjectAltName=DNS:HOST, or IP:ADDRESS for an address",
            ),
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                certificate("its certificate is for another host name")
            }
            Bad::Revoked => certificate("its certificate is revoked"),
            Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => {
                certificate("its certificate is not for servers (extendedKeyUsage)")
            }
            other if tls::is_authority(other) => certificate(
                "its certificate is an authority's, as self-signed ones are; give it with --ca FILE, or make one with -addext basicConstraints=critical,CA:FALSE",
            ),
            _ => certificate("its certificate is damaged, or of a kind that is not supported"),
        },
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            (Unreachable::Tls, "it does not speak TLS; try http:// in place of https://".to_owned())
        }
        error => (Unreachable::Tls, handshake_text(error).to_owned()),
    }
}

/// The library's texts contain names of types, so they are replaced.
fn handshake_text(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::AlertReceived(_) => "the server has ended the TLS handshake",
        rustls::Error::PeerIncompatible(_) => "the server has no TLS version or cipher that is supported here",
        rustls::Error::NoCertificatesPresented => "the server has no certificate",
        _ => "the server has violated the TLS protocol",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_broker() {
        let refused = |status: u16, headers: &[(&'static str, &'static str)], body: &str| {
            let headers = headers
                .iter()
                .map(|(name, value)| (header::HeaderName::from_static(name), header::HeaderValue::from_static(value)));
            let status = StatusCode::from_u16(status).unwrap();
            ClientError::refused(status, &headers.collect(), body.as_bytes())
        };
        let limited = refused(429, &[("retry-after", "7")], r#"{"detail": "Too many", "code": "rate_limited"}"#);
        assert_eq!(limited.to_string(), "429 Too Many Requests: Too many");
        assert!(matches!(limited, ClientError::Refused { retry_after: Some(pause), .. } if pause.as_secs() == 7));
        let faults = r#"{"detail": [{"loc": ["body", "name"], "msg": "Field required"}], "code": "validation_error"}"#;
        assert_eq!(refused(422, &[], faults).to_string(), "422 Unprocessable Entity: name: Field required");
        for (error, expected) in [
            (refused(301, &[("location", "https://host/")], ""), "redirected to https://host/"),
            (refused(502, &[], "<html>Bad gateway</html>"), "not from a Switchboard broker"),
            (refused(404, &[], "[]"), "not from a Switchboard broker"),
        ] {
            let text = error.to_string();
            assert!(text.contains(expected) && !text.contains("html"), "{text}");
        }
    }
}
