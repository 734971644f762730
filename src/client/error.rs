//! What can go wrong between client and broker, and why.

use std::{error::Error, io, time::Duration};

use reqwest::{StatusCode, header};
use rustls::{CertificateError, InvalidMessage};
use serde_json::Value;
use tokio_tungstenite::tungstenite;
use uuid::Uuid;

use super::tls;

/// What can go wrong between client and broker.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is no URL of a broker.
    #[error("bad URL {0}: expected something like http://127.0.0.1:8000")]
    Url(String),
    /// The token can't be one.
    #[error("bad token: it has characters that no token has")]
    Token,
    /// The token that was given belongs to another device than the one that it was given for.
    #[error("the token is of the device {owner}, not of {expected}")]
    AnotherDevice {
        /// Whose token it is.
        owner: Uuid,
        /// Whose token it should be.
        expected: Uuid,
    },
    /// The certificates of the authorities can't be used.
    #[error("{0}")]
    Tls(String),
    /// There is no connection to the broker.
    #[error("{}", unreachable_text(*cause, url, reason))]
    Unreachable {
        /// What kind of failure it is.
        cause: Unreachable,
        /// Where the broker should be.
        url: String,
        /// The cause in words.
        reason: String,
    },
    /// The connection broke before the answer was complete.
    #[error("the connection to the broker broke: {0}")]
    Broken(String),
    /// An answer that says no.
    #[error("{status}: {detail}")]
    Refused {
        /// HTTP's status.
        status: StatusCode,
        /// The broker's constant.
        code: String,
        /// The broker's words.
        detail: String,
        /// When to ask again, if the broker says so.
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
        /// The broker's words.
        reason: String,
    },
    /// The broker does not even answer pings.
    #[error("no sign of life from the broker")]
    Silent,
    /// Something else than JSON.
    #[error("the answer is not JSON, so it is not from a Switchboard broker: {0}")]
    NotJson(String),
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// Nobody listens there.
    Refused,
    /// The host's name is unknown.
    Lookup,
    /// The certificate is not good.
    Certificate,
    /// TLS failed otherwise.
    Tls,
    /// What listens there does not speak HTTP.
    NotHttp,
    /// No answer in time.
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
    /// There is no connection, for the reason at the end of this error's chain of causes.
    pub(super) fn unreachable(url: &str, error: &(dyn Error + 'static)) -> Self {
        let (cause, reason) = cause(error);
        Self::Unreachable { cause, url: url.to_owned(), reason }
    }

    /// No answer within so long.
    pub(super) fn timeout(url: &str, after: Duration) -> Self {
        let reason = format!("nothing came for {} s", after.as_secs());
        Self::Unreachable { cause: Unreachable::Timeout, url: url.to_owned(), reason }
    }

    /// The broker's error body. Of anything else only the status is told.
    pub(super) fn refused(status: StatusCode, headers: &header::HeaderMap, body: &[u8]) -> Self {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let detail = match &body["detail"] {
            Value::String(detail) => detail.clone(),
            Value::Array(faults) => faults.iter().map(fault).collect::<Vec<_>>().join("; "),
            _ => match header(header::LOCATION) {
                Some(location) => format!("it is at {location} now: give that as --url"),
                None => {
                    "that is no answer of a Switchboard broker: give its URL with --url (https:// if it speaks TLS)"
                        .to_owned()
                }
            },
        };
        let retry_after = header(header::RETRY_AFTER).and_then(|secs| secs.parse().ok()).map(Duration::from_secs);
        Self::Refused { status, code: body["code"].as_str().unwrap_or_default().to_owned(), detail, retry_after }
    }

    /// A text that should be JSON; its beginning is told.
    pub(super) fn not_json(text: &str) -> Self {
        Self::NotJson(text.chars().take(80).collect::<String>().escape_debug().to_string())
    }

    /// Whether the broker did not accept the token.
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

/// A validation fault as a person reads it: where, and what.
fn fault(fault: &Value) -> String {
    let place = fault["loc"].as_array().map(Vec::as_slice).unwrap_or_default();
    let place: Vec<_> = place.iter().skip(1).filter_map(Value::as_str).collect();
    let message = fault["msg"].as_str().unwrap_or_default();
    if place.is_empty() { message.to_owned() } else { format!("{}: {message}", place.join(".")) }
}

/// What is at the end of a chain of errors.
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
            // what an I/O error wraps is not its source, but its source's is
            Some(wrapper) => match wrapper.get_ref() {
                Some(inner) => Some(inner as &(dyn Error + 'static)),
                None => return io_cause(wrapper),
            },
            None => error.source(),
        };
        match next {
            Some(next) => error = next,
            None if timeout => return (Unreachable::Timeout, "it takes too long".to_owned()),
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
    // the standard library has no kind of its own for this
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
            // the latter, if another authority has the same name
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

/// The library's own texts show its types.
fn handshake_text(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::AlertReceived(_) => "the server has ended the TLS handshake",
        rustls::Error::PeerIncompatible(_) => "the server has no TLS version or cipher that is supported here",
        rustls::Error::NoCertificatesPresented => "the server has no certificate",
        _ => "the server has broken the rules of TLS",
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
            (refused(301, &[("location", "https://host/")], ""), "it is at https://host/ now"),
            (refused(502, &[], "<html>Bad gateway</html>"), "no answer of a Switchboard broker"),
            (refused(404, &[], "[]"), "no answer of a Switchboard broker"),
        ] {
            let text = error.to_string();
            assert!(text.contains(expected) && !text.contains("html"), "{text}");
        }
    }
}
