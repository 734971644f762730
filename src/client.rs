//! A Rust client for the broker's HTTP interface and WebSockets. The command line and the tests use it.
//!
//! ```no_run
//! # async fn example() -> Result<(), switchboard::client::ClientError> {
//! use switchboard::client::Client;
//!
//! let mut client = Client::new("http://127.0.0.1:8000")?;
//! let device = client.register_device("sensor", uuid::Uuid::new_v4()).await?;
//! let mut connection = client.connect("/ws").await?;
//! println!("{}", connection.next_frame().await?);
//! # Ok(()) }
//! ```

mod connection;
mod error;
mod tls;

use std::{path::Path, sync::Arc, time::Duration};

use reqwest::{Method, RequestBuilder, Response, Url, redirect};
use rustls::ClientConfig;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

pub use connection::Connection;
pub use error::{ClientError, Unreachable};

/// Timeout for connecting.
const CONNECT: Duration = Duration::from_secs(10);

/// Timeout for a WebSocket handshake, including connecting.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// Timeout for reading more of an answer. A broker sends something every few seconds in event streams, and answers every
/// other request within half a minute.
const SILENCE: Duration = Duration::from_secs(120);

/// How long a connection may be idle and still be used again. The broker closes those that are idle for five seconds; a
/// request on one that is being closed fails.
const IDLE: Duration = Duration::from_secs(2);

/// A registered device.
#[derive(Debug, Clone, Deserialize)]
pub struct Device {
    /// The device's UUID.
    pub uuid: Uuid,
    /// The device's name; may be empty.
    pub name: String,
    /// The token for requests and sockets.
    pub access_token: String,
    /// Seconds until the access token expires.
    pub access_token_expires_in: u64,
    /// Can be exchanged once for a new pair of tokens.
    pub refresh_token: String,
    /// The proof for a later registration of the same UUID.
    pub device_key: String,
}

/// A pair of tokens, from a login or a refresh.
#[derive(Debug, Clone, Deserialize)]
pub struct Login {
    /// The token for requests and sockets.
    pub access_token: String,
    /// Seconds until the access token expires.
    pub access_token_expires_in: u64,
    /// Can be exchanged once for a new pair of tokens.
    pub refresh_token: String,
}

/// A client of one broker, with or without a token.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    tls: Arc<ClientConfig>,
    /// the broker's URL; its path has no slash at the end and is the prefix of all paths
    base: Url,
    token: Option<String>,
}

impl Client {
    /// Creates a client without a token. The URL may have a path, for a broker behind a proxy that serves it below that path.
    ///
    /// # Errors
    /// The URL is not a valid `http`, `https`, `ws` or `wss` URL.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        Self::with_ca(url, None)
    }

    /// Like [`Client::new`], but trusts the certificates of this PEM file instead of the system's. They may be authorities, or
    /// the server's own certificate.
    ///
    /// # Errors
    /// The URL is not a valid `http`, `https`, `ws` or `wss` URL, or the file contains no certificates.
    pub fn with_ca(url: &str, ca: Option<&Path>) -> Result<Self, ClientError> {
        // sets the default for other TLS users in the process; an error means that a provider is set already
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = base(url).ok_or_else(|| ClientError::Url(without_credentials(url)))?;
        let tls = if base.scheme() == "https" || ca.is_some() { tls::trusting(ca)? } else { tls::trusting_nobody()? };
        let mut http = reqwest::Client::builder();
        if matches!(base.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            // proxies from the environment are not used for this machine
            http = http.no_proxy();
        }
        let http = http
            .tls_backend_preconfigured(ClientConfig::clone(&tls))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .pool_idle_timeout(IDLE)
            // a redirect would turn a POST into a GET
            .redirect(redirect::Policy::none())
            .build()?;
        Ok(Self { http, tls, base, token: None })
    }

    /// Returns a client of the same broker with this token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The token of this client, if it has one.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The broker's URL, without a slash at the end.
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// The host in the broker's URL.
    pub fn host(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }

    /// Registers a device and uses its access token from then on.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn register_device(&mut self, name: &str, uuid: Uuid) -> Result<Device, ClientError> {
        self.register(&json!({ "name": name, "uuid": uuid })).await
    }

    /// Registers a device that may be registered already, with the `device_key` of its last registration, and uses the new
    /// access token from then on. `new_device_key` becomes its key: store it, beside the old one, before calling this. Then
    /// the call can be repeated with the same keys when the answer is lost.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn register_device_again(
        &mut self,
        name: &str,
        uuid: Uuid,
        device_key: Option<&str>,
        new_device_key: &str,
    ) -> Result<Device, ClientError> {
        let body = json!({ "name": name, "uuid": uuid, "device_key": device_key, "new_device_key": new_device_key });
        self.register(&body).await
    }

    async fn register(&mut self, body: &Value) -> Result<Device, ClientError> {
        let device: Device = self.post("/register", body).await?;
        self.token = Some(device.access_token.clone());
        Ok(device)
    }

    /// Logs in as a user and uses the access token from then on.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn login(&mut self, username: &str, password: &str) -> Result<Login, ClientError> {
        let form = [("username", username), ("password", password)];
        let tokens: Login = self.answer(self.request(Method::POST, "/token").form(&form)).await?;
        self.token = Some(tokens.access_token.clone());
        Ok(tokens)
    }

    /// Exchanges a refresh token for a new pair of tokens and uses the new access token. The old refresh token becomes invalid.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn refresh(&mut self, refresh_token: &str) -> Result<Login, ClientError> {
        let tokens: Login = self.post("/auth/refresh", &json!({ "refresh_token": refresh_token })).await?;
        self.token = Some(tokens.access_token.clone());
        Ok(tokens)
    }

    /// Creates a topic; its id may have up to `limits.topic_id_chars` characters.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn create_topic(&self, topic: &str) -> Result<(), ClientError> {
        self.post::<Value>("/topics/create", &json!({ "topic_id": topic })).await.map(|_| ())
    }

    /// Subscribes the client to an existing topic.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn subscribe(&self, topic: &str) -> Result<(), ClientError> {
        self.post::<Value>("/topics/subscribe", &json!({ "topic_id": topic })).await.map(|_| ())
    }

    /// Sends a GET request and parses the JSON answer.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn get<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<T, ClientError> {
        self.answer(self.request(Method::GET, path)).await
    }

    /// Sends a POST request with a JSON body and parses the JSON answer.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn post<T: for<'de> Deserialize<'de>>(&self, path: &str, body: &Value) -> Result<T, ClientError> {
        self.answer(self.request(Method::POST, path).json(body)).await
    }

    /// Starts a request with the client's token. The path begins with a slash and may have a query.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        url.set_path(&self.below(path));
        url.set_query(query);
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request and parses the JSON answer.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn answer<T: for<'de> Deserialize<'de>>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let body = self.response(request).await?.bytes().await?;
        serde_json::from_slice(&body).map_err(|_| ClientError::not_json(&String::from_utf8_lossy(&body)))
    }

    /// Sends a request and returns the answer, whose body the caller reads.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn response(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let headers = response.headers().clone();
        Err(ClientError::refused(status, &headers, &response.bytes().await?))
    }

    /// Opens a WebSocket at a path, with the client's token if it has one.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn connect(&self, path: &str) -> Result<Connection, ClientError> {
        // http becomes ws, https becomes wss
        let origin = self.base.origin().ascii_serialization();
        let url = format!("ws{}{}", origin.trim_start_matches("http"), self.below(path));
        Connection::open(&url, self.url(), self.token.as_deref(), self.tls.clone(), HANDSHAKE).await
    }

    fn below(&self, path: &str) -> String {
        format!("{}{path}", self.base.path().trim_end_matches('/'))
    }
}

/// A URL for error texts, with credentials removed.
fn without_credentials(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((before, host)) => format!("{}://…@{host}", before.split_once("://").map_or("", |(scheme, _)| scheme)),
        None => url.to_owned(),
    }
}

/// Parses a broker's URL. It must not have credentials, a query or a fragment; a slash at the end is removed.
fn base(url: &str) -> Option<Url> {
    let mut url = Url::parse(url).ok()?;
    // URLs of sockets are accepted, too
    let scheme = match url.scheme() {
        "ws" => "http",
        "wss" => "https",
        _ => "",
    };
    if !scheme.is_empty() {
        let rest = url.as_str().split_once(':')?.1.to_owned();
        url = Url::parse(&format!("{scheme}:{rest}")).ok()?;
    }
    let good = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    good.then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_may_be_below_a_path() {
        for (url, expected) in [
            ("http://host:8000", "http://host:8000/clients?limit=1"),
            ("http://host:8000/", "http://host:8000/clients?limit=1"),
            ("https://host/switchboard", "https://host/switchboard/clients?limit=1"),
            ("https://host/a/b/", "https://host/a/b/clients?limit=1"),
            ("wss://host/a", "https://host/a/clients?limit=1"),
        ] {
            let client = Client::new(url).unwrap();
            let request = client.request(Method::GET, "/clients?limit=1").build().unwrap();
            assert_eq!(request.url().as_str(), expected);
            assert_eq!(client.url(), expected.strip_suffix("/clients?limit=1").unwrap());
        }
    }

    #[test]
    fn what_is_no_url_of_a_broker_is_refused() {
        for url in
            ["", "host:8000", "ftp://host", "http://", "http://me:hush@host", "http://host/?a=b", "http://host/#a"]
        {
            let refused = Client::new(url).unwrap_err();
            assert!(matches!(refused, ClientError::Url(_)) && !refused.to_string().contains("hush"), "{refused}");
        }
    }
}
