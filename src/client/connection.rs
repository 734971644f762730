//! The client's WebSocket.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use reqwest::StatusCode;
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        http::header::{AUTHORIZATION, HeaderValue},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};
use uuid::Uuid;

use super::ClientError;

/// Time without data from the broker until it is pinged, and after the ping until the connection counts as broken.
const SILENCE: Duration = Duration::from_secs(45);

/// An open WebSocket. While a message is awaited, pings are answered, and a silent broker is pinged.
#[derive(Debug)]
pub struct Connection {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// path and query of the handshake
    path: String,
    /// when a ping is due or, after a ping, when the connection counts as broken
    due: Instant,
    is_pinged: bool,
}

impl Connection {
    /// Opens a socket at a `ws` or `wss` URL of the broker.
    pub(super) async fn open(
        url: &str,
        broker: &str,
        token: Option<&str>,
        tls: Arc<ClientConfig>,
        patience: Duration,
    ) -> Result<Self, ClientError> {
        let mut request = url.into_client_request().map_err(|_| ClientError::Url(url.to_owned()))?;
        let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| ClientError::Token)?;
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let opening =
            tokio_tungstenite::connect_async_tls_with_config(request, None, true, Some(Connector::Rustls(tls)));
        match timeout(patience, opening).await {
            Ok(Ok((stream, _))) => Ok(Self { stream, path, due: Instant::now() + SILENCE, is_pinged: false }),
            Ok(Err(Error::Http(response))) => {
                let status = StatusCode::from_u16(response.status().as_u16()).unwrap_or_default();
                let body = response.body().as_deref().unwrap_or_default();
                Err(ClientError::refused(status, response.headers(), body))
            }
            Ok(Err(error)) => Err(ClientError::unreachable(broker, &error)),
            Err(_) => Err(ClientError::timeout(broker, patience)),
        }
    }

    /// Path and query of the socket.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Sends a text frame.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn send_text(&mut self, text: impl Into<String>) -> Result<(), ClientError> {
        self.send(Message::text(text.into())).await
    }

    /// Sends a frame of any kind.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn send(&mut self, message: Message) -> Result<(), ClientError> {
        Ok(self.stream.send(message).await.map_err(Box::new)?)
    }

    /// Sends a direct message. Returns its `msgid`, which the receipt repeats.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn send_direct(&mut self, to: Uuid, content: &str) -> Result<String, ClientError> {
        let msgid = Uuid::new_v4().to_string();
        self.send_text(json!({ "to": to, "msgid": msgid, "content": content }).to_string()).await?;
        Ok(msgid)
    }

    /// Publishes to a topic. Returns the message's `msgid`, which the receipt repeats.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn publish(&mut self, topic: &str, content: &str) -> Result<String, ClientError> {
        let msgid = Uuid::new_v4().to_string();
        self.send_text(json!({ "topic_id": topic, "msgid": msgid, "content": content }).to_string()).await?;
        Ok(msgid)
    }

    /// Returns the next text or binary message; skips control frames.
    ///
    /// # Errors
    /// The socket was closed or failed.
    pub async fn next_message(&mut self) -> Result<Message, ClientError> {
        loop {
            let Ok(next) = timeout_at(self.due, self.stream.next()).await else {
                if self.is_pinged {
                    return Err(ClientError::Silent);
                }
                (self.is_pinged, self.due) = (true, Instant::now() + SILENCE);
                self.send(Message::Ping(Bytes::new())).await?;
                continue;
            };
            (self.is_pinged, self.due) = (false, Instant::now() + SILENCE);
            match next {
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) =
                        frame.map_or((1005, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
                    // reads until the answer to the close frame is sent
                    let _ = self.stream.next().await;
                    return Err(ClientError::Closed { code, reason });
                }
                Some(Ok(message)) => return Ok(message),
                Some(Err(error)) => return Err(Box::new(error).into()),
                None => return Err(ClientError::Closed { code: 1006, reason: "without a close frame".to_owned() }),
            }
        }
    }

    /// Returns the next text message; skips binary ones.
    ///
    /// # Errors
    /// The socket was closed or failed.
    pub async fn next_text(&mut self) -> Result<String, ClientError> {
        loop {
            if let Message::Text(text) = self.next_message().await? {
                return Ok(text.to_string());
            }
        }
    }

    /// Returns the next text message, parsed as JSON.
    ///
    /// # Errors
    /// The socket was closed or failed, or the text is not JSON.
    pub async fn next_frame(&mut self) -> Result<Value, ClientError> {
        let text = self.next_text().await?;
        serde_json::from_str(&text).map_err(|_| ClientError::not_json(&text))
    }

    /// Closes the socket with code 1000 and waits for the end of the close handshake.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn close(mut self) -> Result<(), ClientError> {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        match self.stream.close(Some(frame)).await {
            Ok(()) | Err(Error::ConnectionClosed) => {}
            Err(error) => return Err(Box::new(error).into()),
        }
        while let Some(Ok(_)) = self.stream.next().await {}
        Ok(())
    }
}
