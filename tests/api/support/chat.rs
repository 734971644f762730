//! Clients in chat rooms (contract section 7).

use chrono::DateTime;
use reqwest::Method;
use serde_json::{Value, json};
use switchboard::client::{Client, Connection};

use super::{Broker, answer, next, next_of_type, within};

/// A chat client: a user or a device.
pub struct Person {
    pub client: Client,
    pub name: String,
    /// The fields that identify it in frames: `user_id` and `username`, for a device also `uuid`.
    pub who: Value,
}

impl Person {
    /// Registers a user and logs in.
    pub async fn user(broker: &Broker, name: &str) -> Self {
        let password = format!("password of {name}");
        let body = json!({ "username": name, "password": password });
        let (status, user) = call(&broker.client(), Method::POST, "/register", Some(body)).await;
        assert_eq!(status, 200, "{user}");
        let client = broker.login(name, &password).await;
        Self { client, name: name.to_owned(), who: json!({ "user_id": user["id"], "username": name }) }
    }

    /// Registers a device.
    pub async fn device(broker: &Broker, name: &str) -> Self {
        let (client, device) = broker.device(name).await;
        let who = json!({ "user_id": null, "username": name, "uuid": device.uuid });
        Self { client, name: name.to_owned(), who }
    }

    /// A user's integer id.
    pub fn id(&self) -> i64 {
        self.who["user_id"].as_i64().expect("a user")
    }

    /// Adds the fields that identify this client to a frame.
    pub fn with(&self, mut fields: Value) -> Value {
        let all = fields.as_object_mut().unwrap();
        all.extend(self.who.as_object().unwrap().clone());
        fields
    }

    /// Sends a request with the client's token. Returns status and body.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        call(&self.client, method, path, body).await
    }

    /// Sends a request and asserts status 200. Returns the body.
    pub async fn done(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// Sends a POST request and asserts status 200. Returns the body.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.done(Method::POST, path, Some(body)).await
    }

    /// Sends a GET request and asserts status 200. Returns the body.
    pub async fn get(&self, path: &str) -> Value {
        self.done(Method::GET, path, None).await
    }

    /// Creates a room.
    pub async fn room(&self, name: &str) -> i64 {
        self.post("/api/rooms/", json!({ "name": name })).await["id"].as_i64().unwrap()
    }

    /// Creates a private room.
    pub async fn private_room(&self, name: &str) -> i64 {
        self.post("/api/rooms/", json!({ "name": name, "private": true })).await["id"].as_i64().unwrap()
    }

    /// Joins over REST.
    pub async fn join(&self, room: i64) {
        self.done(Method::POST, &format!("/api/rooms/{room}/join"), None).await;
    }

    /// Leaves over REST.
    pub async fn leave(&self, room: i64) {
        self.done(Method::POST, &format!("/api/rooms/{room}/leave"), None).await;
    }

    /// Posts a message over REST. Returns the message.
    pub async fn say(&self, room: i64, content: &str) -> Value {
        self.post(&format!("/api/rooms/{room}/messages"), json!({ "content": content, "room_id": room })).await
    }

    /// All messages of the room, read page by page.
    pub async fn history(&self, room: i64) -> Vec<Value> {
        let mut messages: Vec<Value> = Vec::new();
        loop {
            let after = messages.last().map_or(0, |message| message["id"].as_i64().unwrap());
            let page = self.get(&format!("/api/rooms/{room}/messages?after_id={after}&limit=1000")).await;
            let page = page.as_array().unwrap();
            if page.is_empty() {
                return messages;
            }
            messages.extend_from_slice(page);
        }
    }

    /// Opens a socket.
    pub async fn open(&self, path: &str) -> Connection {
        within(self.client.connect(path)).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Opens `/ws/auth`, up to the greeting.
    pub async fn chat(&self) -> Connection {
        let mut socket = self.open("/ws/auth").await;
        next_of_type(&mut socket, "connection_established").await;
        socket
    }

    /// Opens `/ws/auth` and joins a room, in which no other client may be active meanwhile.
    pub async fn chat_in(&self, room: i64) -> Connection {
        let mut socket = self.chat().await;
        join(&mut socket, room).await;
        socket
    }

    /// Opens `/ws/room/{id}`, up to the history and the event of joining.
    pub async fn room_socket(&self, room: i64) -> Connection {
        let mut socket = self.open(&format!("/ws/room/{room}")).await;
        next_of_type(&mut socket, "message_history").await;
        next_of_type(&mut socket, "user_joined").await;
        socket
    }

    /// Opens `/ws?chat_id=`.
    pub async fn plain(&self, room: i64) -> Connection {
        self.open(&format!("/ws?chat_id={room}")).await
    }
}

/// Sends a request. Returns status and body.
pub async fn call(client: &Client, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let request = client.request(method, path);
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    let (status, body) = answer(request).await;
    (status.as_u16(), body)
}

/// Sends a frame.
pub async fn send(socket: &mut Connection, frame: Value) {
    within(socket.send_text(frame.to_string())).await.unwrap();
}

/// Sends a frame and returns the next one received.
pub async fn ask(socket: &mut Connection, frame: Value) -> Value {
    send(socket, frame).await;
    next(socket).await
}

/// Joins a room, in which no other client may be active meanwhile. Returns the history.
pub async fn join(socket: &mut Connection, room: i64) -> Value {
    let joined = ask(socket, json!({ "type": "join_room", "room_id": room })).await;
    assert_eq!((&joined["type"], &joined["room_id"]), (&json!("room_joined"), &json!(room)), "{joined}");
    next_of_type(socket, "user_joined").await;
    next_of_type(socket, "message_history").await
}

/// Asserts that no earlier change has sent a frame to this socket: the next frame is the answer to a request that passes
/// through the same actors as all changes of rooms.
pub async fn nothing_happened(socket: &mut Connection) {
    let frame = ask(socket, json!({ "type": "read", "room_id": 0, "message_id": 0 })).await;
    let text = error_text(&frame);
    assert!(matches!(text, "Message not found" | "You are not a member of this room"), "{frame}");
}

/// The text of an error frame. Asserts the format.
pub fn error_text(frame: &Value) -> &str {
    assert_eq!(frame["type"], "error", "{frame}");
    assert_eq!(frame["message"], frame["content"], "{frame}");
    assert!(frame["timestamp"].is_f64(), "{frame}");
    let code = frame["code"].as_str().unwrap();
    assert!(!code.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{frame}");
    frame["message"].as_str().unwrap()
}

/// Removes a time field from an object. Asserts that it is RFC 3339 in UTC, with `Z`.
pub fn without_time(mut object: Value, field: &str) -> Value {
    let time = object.as_object_mut().unwrap().remove(field);
    let is_time = |time: &str| time.ends_with('Z') && DateTime::parse_from_rfc3339(time).is_ok();
    assert!(time.as_ref().and_then(Value::as_str).is_some_and(is_time), "{field} {time:?} of {object}");
    object
}

/// The next frame without its `timestamp`.
pub async fn next_event(socket: &mut Connection) -> Value {
    without_time(next(socket).await, "timestamp")
}

/// The ids of messages.
pub fn ids(messages: &Value) -> Vec<i64> {
    messages.as_array().unwrap().iter().map(|message| message["id"].as_i64().unwrap()).collect()
}
