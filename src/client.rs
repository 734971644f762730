//! A Rust client: HTTP and WebSocket as one. The command line is built on it, and so are the tests.
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

/// The longest that it may take to connect.
const CONNECT: Duration = Duration::from_secs(10);

/// The longest that a WebSocket handshake may take, connecting included.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// The longest that a broker may be silent while an answer is due. It tells of life every few seconds in event streams,
/// and lets no caller wait longer than half a minute.
const SILENCE: Duration = Duration::from_secs(120);

/// A registered device.
#[derive(Debug, Clone, Deserialize)]
pub struct Device {
    /// Its identity.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// The token to connect with.
    pub access_token: String,
    /// Seconds until that expires.
    pub access_token_expires_in: u64,
    /// For a new pair of tokens, once.
    pub refresh_token: String,
    /// Proof for a later registration of the same UUID.
    pub device_key: String,
}

/// A pair of tokens, of a login or a renewal.
#[derive(Debug, Clone, Deserialize)]
pub struct Login {
    /// The token to connect with.
    pub access_token: String,
    /// Seconds until that expires.
    pub access_token_expires_in: u64,
    /// For a new pair of tokens, once.
    pub refresh_token: String,
}

/// A client of one broker, with or without an identity.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    tls: Arc<ClientConfig>,
    /// Its path ends without a slash, and goes before every other path.
    base: Url,
    token: Option<String>,
}

impl Client {
    /// For the broker at this URL, nobody yet. The URL may have a path, where a proxy has put the broker below one.
    ///
    /// # Errors
    /// The URL is not one of `http` or `https`.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        Self::with_ca(url, None)
    }

    /// The same, trusting the certificates of this file (PEM) in place of the system's: authorities, or the server's own.
    ///
    /// # Errors
    /// The URL is not one of `http` or `https`, or the file holds no certificates.
    pub fn with_ca(url: &str, ca: Option<&Path>) -> Result<Self, ClientError> {
        // for other clients of the process; fails if there is a provider already, which is as good
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = base(url).ok_or_else(|| ClientError::Url(without_credentials(url)))?;
        let tls = if base.scheme() == "https" || ca.is_some() { tls::trusting(ca)? } else { tls::trusting_nobody()? };
        let mut http = reqwest::Client::builder();
        if matches!(base.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            // a proxy of the environment is for other machines
            http = http.no_proxy();
        }
        let http = http
            .tls_backend_preconfigured(ClientConfig::clone(&tls))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            // a redirected POST would become a GET
            .redirect(redirect::Policy::none())
            .build()?;
        Ok(Self { http, tls, base, token: None })
    }

    /// The same broker with this token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The token in use.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Where the broker is, without a slash at the end.
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// The broker's host.
    pub fn host(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }

    /// Registers a device and becomes it.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn register_device(&mut self, name: &str, uuid: Uuid) -> Result<Device, ClientError> {
        self.register_device_again(name, uuid, None).await
    }

    /// Registers a device that has been registered before, with the key from then, and becomes it.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn register_device_again(
        &mut self,
        name: &str,
        uuid: Uuid,
        device_key: Option<&str>,
    ) -> Result<Device, ClientError> {
        let body = json!({ "name": name, "uuid": uuid, "device_key": device_key });
        let device: Device = self.post("/register", &body).await?;
        self.token = Some(device.access_token.clone());
        Ok(device)
    }

    /// Logs in as a user and becomes it.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn login(&mut self, username: &str, password: &str) -> Result<Login, ClientError> {
        let form = [("username", username), ("password", password)];
        let tokens: Login = self.answer(self.request(Method::POST, "/token").form(&form)).await?;
        self.token = Some(tokens.access_token.clone());
        Ok(tokens)
    }

    /// Exchanges a refresh token, which is good for nothing after that, and uses the new access token.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn refresh(&mut self, refresh_token: &str) -> Result<Login, ClientError> {
        let tokens: Login = self.post("/auth/refresh", &json!({ "refresh_token": refresh_token })).await?;
        self.token = Some(tokens.access_token.clone());
        Ok(tokens)
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn create_topic(&self, topic: &str) -> Result<(), ClientError> {
        self.post::<Value>("/topics/create", &json!({ "topic_id": topic })).await.map(|_| ())
    }

    /// Subscribes to a topic.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn subscribe(&self, topic: &str) -> Result<(), ClientError> {
        self.post::<Value>("/topics/subscribe", &json!({ "topic_id": topic })).await.map(|_| ())
    }

    /// Gets a JSON resource.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn get<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<T, ClientError> {
        self.answer(self.request(Method::GET, path)).await
    }

    /// Posts JSON.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn post<T: for<'de> Deserialize<'de>>(&self, path: &str, body: &Value) -> Result<T, ClientError> {
        self.answer(self.request(Method::POST, path).json(body)).await
    }

    /// A request with the client's token, to be completed.
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

    /// Sends a request and reads the JSON of its answer.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn answer<T: for<'de> Deserialize<'de>>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let body = self.response(request).await?.bytes().await?;
        serde_json::from_slice(&body).map_err(|_| ClientError::not_json(&String::from_utf8_lossy(&body)))
    }

    /// Sends a request. The answer's body is still to be read.
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

    /// Opens a WebSocket at this path, with the client's token if it has one.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn connect(&self, path: &str) -> Result<Connection, ClientError> {
        // http becomes ws, https wss
        let origin = self.base.origin().ascii_serialization();
        let url = format!("ws{}{}", origin.trim_start_matches("http"), self.below(path));
        Connection::open(&url, self.url(), self.token.as_deref(), self.tls.clone(), HANDSHAKE).await
    }

    fn below(&self, path: &str) -> String {
        format!("{}{path}", self.base.path().trim_end_matches('/'))
    }
}

/// A URL as it may be shown.
fn without_credentials(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((before, host)) => format!("{}://…@{host}", before.split_once("://").map_or("", |(scheme, _)| scheme)),
        None => url.to_owned(),
    }
}

/// A broker's URL: without credentials, which go elsewhere, and without anything after its path.
fn base(url: &str) -> Option<Url> {
    let mut url = Url::parse(url).ok()?;
    // the schemes of its sockets are as good
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
