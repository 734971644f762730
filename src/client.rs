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

use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

pub use connection::Connection;

/// What can go wrong between client and broker.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is no URL of a broker.
    #[error("bad URL {0}: expected something like http://127.0.0.1:8000")]
    Url(String),
    /// Nobody listens there.
    #[error("no broker at {0}: is it running? else give --url")]
    NotRunning(String),
    /// No answer.
    #[error("no answer from the broker")]
    Http(#[source] reqwest::Error),
    /// An answer that says no.
    #[error("{status}: {detail}")]
    Refused {
        /// HTTP's status.
        status: StatusCode,
        /// The broker's constant.
        code: String,
        /// The broker's words.
        detail: String,
    },
    /// The socket failed.
    #[error("WebSocket: {0}")]
    WebSocket(#[from] Box<tokio_tungstenite::tungstenite::Error>),
    /// The broker closed the socket.
    #[error("closed by the broker: {code} {reason}")]
    Closed {
        /// The close code; 1006 if there was none.
        code: u16,
        /// The broker's words.
        reason: String,
    },
    /// A frame that is not JSON.
    #[error("the broker sent something else than JSON: {0}")]
    NotJson(String),
}

impl From<reqwest::Error> for ClientError {
    fn from(error: reqwest::Error) -> Self {
        match error.url() {
            Some(url) if error.is_connect() => Self::NotRunning(url.origin().ascii_serialization()),
            _ => Self::Http(error),
        }
    }
}

/// A registered device.
#[derive(Debug, Clone, Deserialize)]
pub struct Device {
    /// Its identity.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// The token to connect with.
    pub access_token: String,
    /// For a new pair of tokens, once.
    pub refresh_token: String,
    /// Proof for a later registration of the same UUID.
    pub device_key: String,
}

/// A user's tokens.
#[derive(Debug, Clone, Deserialize)]
pub struct Login {
    /// The token to connect with.
    pub access_token: String,
    /// For a new pair of tokens, once.
    pub refresh_token: String,
}

/// A client of one broker, with or without an identity.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
}

impl Client {
    /// For the broker at this URL, nobody yet.
    ///
    /// # Errors
    /// The URL is not one of `http` or `https`.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        // fails if there is a provider already, which is as good
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let base = base.ok_or_else(|| ClientError::Url(url.to_owned()))?;
        Ok(Self { http: reqwest::Client::builder().build()?, base, token: None })
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
        let login: Login = answer(self.request(Method::POST, "/token").form(&form)).await?;
        self.token = Some(login.access_token.clone());
        Ok(login)
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
        answer(self.request(Method::GET, path)).await
    }

    /// Posts JSON.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn post<T: for<'de> Deserialize<'de>>(&self, path: &str, body: &Value) -> Result<T, ClientError> {
        answer(self.request(Method::POST, path).json(body)).await
    }

    /// A request with the client's token, to be completed.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        url.set_path(path);
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
        answer(request).await
    }

    /// Opens a WebSocket at this path, with the client's token if it has one.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn connect(&self, path: &str) -> Result<Connection, ClientError> {
        let scheme = if self.base.scheme() == "https" { "wss" } else { "ws" };
        let authority = self.base.authority();
        Connection::open(&format!("{scheme}://{authority}{path}"), self.token.as_deref()).await
    }
}

async fn answer<T: for<'de> Deserialize<'de>>(request: RequestBuilder) -> Result<T, ClientError> {
    let response = request.send().await?;
    let status = response.status();
    if status.is_success() {
        return Ok(response.json().await?);
    }
    Err(refusal(status, &response.bytes().await?))
}

/// The broker's error body; anything else is told as it is.
fn refusal(status: StatusCode, body: &[u8]) -> ClientError {
    let body: Value =
        serde_json::from_slice(body).unwrap_or_else(|_| json!({ "detail": String::from_utf8_lossy(body) }));
    let detail = match &body["detail"] {
        Value::String(detail) => detail.clone(),
        Value::Array(faults) => faults.iter().map(fault).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    };
    ClientError::Refused { status, code: body["code"].as_str().unwrap_or_default().to_owned(), detail }
}

/// A validation fault as a person reads it: where, and what.
fn fault(fault: &Value) -> String {
    let place = fault["loc"].as_array().map(Vec::as_slice).unwrap_or_default();
    let place: Vec<_> = place.iter().skip(1).filter_map(Value::as_str).collect();
    let message = fault["msg"].as_str().unwrap_or_default();
    if place.is_empty() { message.to_owned() } else { format!("{}: {message}", place.join(".")) }
}
