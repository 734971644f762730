//! Whether `/asyncapi.json` is true: everything in it exists, and what clients are told to send is accepted. That it has all
//! frames is checked with every frame that any test reads (`support/frames.rs`).

use std::collections::BTreeSet;

use serde_json::{Value, json};
use switchboard::client::{Client, Connection};
use uuid::Uuid;

use crate::support::{
    Broker, answer,
    chat::Person,
    delete,
    frames::{Documentation, documented},
    get, own_address, post, within,
};

/// A socket of a channel, and the frames that it has not got yet.
struct Listener {
    channel: &'static str,
    socket: Connection,
    missing: BTreeSet<(&'static str, &'static str)>,
}

impl Listener {
    async fn open(client: &Client, channel: &'static str, path: &str) -> Self {
        let frames = documented().await.frames.iter().filter(|one| one.channel == channel && one.is_from_broker);
        let missing = frames.flat_map(|one| one.kinds().into_iter().map(|kind| (&*one.name, kind))).collect();
        Self { channel, socket: within(client.connect(path)).await.unwrap(), missing }
    }

    async fn say(&mut self, frame: Value) {
        within(self.socket.send_text(frame.to_string())).await.unwrap();
    }

    /// Reads up to a frame with this name or this `type`.
    async fn hear(&mut self, wanted: &str) -> Value {
        loop {
            let text = within(self.socket.next_text()).await.unwrap();
            let frame = serde_json::from_str(&text).unwrap_or(Value::String(text));
            let is_it = |one: &&Documentation| one.channel == self.channel && one.is_from_broker && one.is(&frame);
            let found: Vec<_> = documented().await.frames.iter().filter(is_it).collect();
            let [one] = found[..] else {
                panic!("{} frames of {} are like {frame}", found.len(), self.channel);
            };
            let kind = if one.kinds() == [""] { "" } else { frame["type"].as_str().unwrap_or_default() };
            self.missing.retain(|(name, word)| *name != one.name || *word != kind);
            if wanted == one.name || wanted == kind {
                return frame;
            }
        }
    }

    /// The same, unless it has got such a frame before.
    async fn hear_unless_heard(&mut self, wanted: &str) {
        if self.missing.iter().any(|(name, kind)| wanted == *name || wanted == *kind) {
            self.hear(wanted).await;
        }
    }

    /// Sends more frames than it may.
    async fn flood(&mut self) {
        for _ in 0..20 {
            // the socket may be closed already
            let _ = within(self.socket.send_text("1")).await;
        }
    }

    /// What all sockets with a token can do.
    async fn hear_answers(&mut self, client: &Client, pong: &str) {
        self.say(json!({ "type": "ping" })).await;
        self.hear(pong).await;
        self.say(json!({ "type": "auth", "token": client.token() })).await;
        self.hear("Authenticated").await;
        self.say(json!({})).await;
        self.hear("Error").await;
    }

    /// Subscriptions to a topic with a history, and its end.
    async fn hear_publications(&mut self, operator: &Client, names: [&str; 2]) {
        let topic = json!({ "topic_id": "weather", "history": { "size": 1 } });
        assert_eq!(post(operator, "/topics/create", topic).await.0, 200);
        self.say(json!({ "type": "subscribe", "topic_id": "weather" })).await;
        self.hear(names[0]).await;
        for _ in 0..2 {
            let publication = json!({ "topic_id": "weather", "content": "x" });
            assert_eq!(post(operator, "/topics/publish", publication).await.0, 200);
            self.hear("Publication").await;
        }
        self.say(json!({ "type": "subscribe", "topic_id": "weather", "since_offset": 0 })).await;
        self.hear("TopicGap").await;
        self.say(json!({ "type": "unsubscribe", "topic_id": "weather" })).await;
        self.hear(names[1]).await;
        self.say(json!({ "type": "subscribe", "topic_id": "weather" })).await;
        self.hear(names[0]).await;
    }

    async fn hear_the_end_of_the_topic(&mut self, operator: &Client) {
        assert_eq!(delete(operator, "/topics/weather").await.0, 200);
        self.hear("TopicDeleted").await;
    }

    async fn hear_commands(&mut self, operator: &Client, target: &Value) {
        let command = json!({ "target": target, "method": "GET", "url": "/status" });
        let (status, command) = post(operator, "/api/commands", command).await;
        assert_eq!(status, 202, "{command}");
        self.hear("Command").await;
        let path = format!("/api/commands/{}", command["id"].as_str().unwrap());
        assert_eq!(delete(operator, &path).await.0, 200);
        self.hear("Cancel").await;
    }

    /// Asserts that nothing is documented that it has not got.
    fn heard_all(self) {
        assert!(self.missing.is_empty(), "{}: {:?}", self.channel, self.missing);
    }
}

#[tokio::test]
async fn a_device_gets_all_frames_of_its_channel_and_no_others() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (client, device) = broker.device("Alice").await;
    let mut socket = Listener::open(&client, "device", "/ws").await;
    socket.hear("Connection").await;
    socket.hear_answers(&client, "Pong").await;
    let message = json!({ "to": device.uuid, "msgid": "m", "content": "x", "extra": 1 });
    socket.say(message).await;
    socket.hear("Sent").await;
    let message = json!({ "to": device.uuid, "msgid": "a", "content": "x", "acknowledge": true });
    socket.say(message).await;
    socket.hear("DeliveredMessage").await;
    socket.say(json!({ "type": "ack", "msgid": "a" })).await;
    for wanted in ["Accepted", "AckReceived", "DeliveryUpdate"] {
        socket.hear_unless_heard(wanted).await;
    }
    socket.hear_publications(&operator, ["Subscribed", "Unsubscribed"]).await;
    socket.say(json!({ "topic_id": "weather", "msgid": "t", "content": "x" })).await;
    socket.hear("TopicSent").await;
    socket.hear_the_end_of_the_topic(&operator).await;
    socket.hear_commands(&operator, &json!(device.uuid)).await;
    socket.heard_all();
}

#[tokio::test]
async fn agents_and_operators_in_chat_get_commands_and_what_happens_to_clients_and_gateways() {
    let quick = Broker::with().set("PROBES__PERIOD_SECS", "1").set("SESSIONS__HEARTBEAT_SECS", "1");
    let mut broker = quick.start().await;
    let (operator, other) = (broker.user("olga", "operator").await, broker.user("otto", "operator").await);
    let (_, olga) = get(&operator, "/api/users/me").await;
    let mut agent = Listener::open(&operator, "agent", "/ws").await;
    agent.hear_answers(&operator, "Pong").await;
    assert_eq!(post(&operator, "/topics/subscribe", json!({ "topic_id": "$status" })).await.0, 200);
    let mut chat = Listener::open(&other, "chat", "/ws/auth").await;
    chat.say(json!({ "type": "subscribe", "topic_id": "$status" })).await;
    chat.hear("ChatSubscribed").await;

    let (_device, _, _socket) = broker.connected("Alice").await;
    let listener = std::net::TcpListener::bind(own_address()).unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let (status, _) = post(&operator, "/api/gateways", json!({ "name": "north", "address": address })).await;
    assert_eq!(status, 200);
    crate::support::until(async || {
        let (_, states) = get(&operator, "/device_status").await;
        states.as_object().is_some_and(|states| states.values().any(|word| word == "connected"))
    })
    .await;
    drop(listener);
    for socket in [&mut agent, &mut chat] {
        socket.hear("ClientEvent").await;
        socket.hear("GatewayEvent").await;
    }
    agent.hear_commands(&operator, &olga["uuid"]).await;
    agent.hear("Heartbeat").await;
    agent.heard_all();
}

#[tokio::test]
async fn chat_sockets_get_all_frames_of_their_channels_and_no_others() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    let mut chat = Listener::open(&anna.client, "chat", "/ws/auth").await;
    chat.hear("ConnectionEstablished").await;
    chat.hear_answers(&anna.client, "ChatPong").await;
    chat.say(json!({ "type": "join_room", "room_id": room })).await;
    chat.hear("MessageHistory").await;
    let carl = Person::user(&broker, "carl").await;
    let mut dedicated = Listener::open(&carl.client, "room", &format!("/ws/room/{room}")).await;
    dedicated.hear("user_joined").await;
    dedicated.hear_answers(&carl.client, "ChatPong").await;
    let dora = Person::user(&broker, "dora").await;
    let mut plain = Listener::open(&dora.client, "plain", &format!("/ws?chat_id={room}")).await;
    plain.hear_answers(&dora.client, "ChatPong").await;

    let mut berts = bert.room_socket(room).await;
    crate::support::chat::send(&mut berts, json!({ "type": "typing" })).await;
    let message = bert.say(room, "Hello!").await;
    let path = format!("/api/rooms/{room}/messages/{}", message["id"]);
    bert.done(reqwest::Method::PATCH, &path, Some(json!({ "content": "Hello again!" }))).await;
    bert.post(&format!("/api/rooms/{room}/read"), json!({ "message_id": message["id"] })).await;
    bert.done(reqwest::Method::DELETE, &path, None).await;
    let member = format!("/api/rooms/{room}/members/{}", bert.id());
    anna.done(reqwest::Method::PATCH, &member, Some(json!({ "role": "moderator" }))).await;
    berts.close().await.unwrap();
    for socket in [&mut chat, &mut dedicated] {
        for wanted in ["user_typing", "message", "message_edited", "UserRead", "message_deleted", "RoleChanged"] {
            socket.hear_unless_heard(wanted).await;
        }
        socket.hear_unless_heard("user_disconnected").await;
    }
    bert.leave(room).await;
    chat.hear("user_left").await;
    dedicated.hear("user_left").await;
    plain.hear_unless_heard("PlainMessage").await;
    let eve = Person::user(&broker, "eve").await;
    let mut eves = Listener::open(&eve.client, "chat", "/ws/auth").await;
    eves.say(json!({ "type": "join_room", "room_id": room })).await;
    eves.hear("MessageHistory").await;
    eves.say(json!({ "type": "leave_room", "room_id": room })).await;
    eves.hear("RoomLeft").await;
    chat.hear_publications(&operator, ["ChatSubscribed", "ChatUnsubscribed"]).await;
    chat.hear_the_end_of_the_topic(&operator).await;

    // what another socket of the channel gets
    chat.missing.retain(|one| eves.missing.contains(one));
    let others = [("GatewayEvent", ""), ("ClientEvent", ""), ("DeliveryUpdate", "delivery_update")];
    assert_eq!(chat.missing, BTreeSet::from(others), "these are for operators, and are tested with agents and devices");
    dedicated.heard_all();
    plain.heard_all();
}

#[tokio::test]
async fn sockets_without_credentials_get_all_frames_of_their_channels_and_no_others() {
    let setup = Broker::with().set("LIMITS__FRAMES_PER_SECOND", "1").set("LIMITS__FRAMES_BURST", "2");
    let broker = setup.start().await;
    let client = broker.client();
    let mut public = Listener::open(&client, "public", "/ws").await;
    public.say(json!({ "type": "ping" })).await;
    public.hear("ChatPong").await;
    public.say(json!([1])).await;
    public.hear("Echo").await;
    public.flood().await;
    public.hear_unless_heard("Error").await;
    public.heard_all();
    for (channel, path, frame) in [("status", "/ws/status", "GatewayStates"), ("echo", "/ws/echo", "EchoedText")] {
        let mut socket = Listener::open(&client, channel, path).await;
        socket.say(json!(1)).await;
        socket.hear(frame).await;
        socket.flood().await;
        socket.hear_unless_heard("Error").await;
        socket.heard_all();
    }
}

/// A client of a channel that sends what the document says.
struct Speaker {
    channel: &'static str,
    socket: Connection,
    device: Uuid,
    sent: u32,
}

impl Speaker {
    /// Sends a frame, and what comes after all answers to it. Returns the errors that came.
    async fn errors_of(&mut self, frame: &Value) -> Vec<Value> {
        self.sent += 1;
        let barrier = format!("barrier {}", self.sent);
        let last = match self.channel {
            "device" => json!({ "to": self.device, "msgid": barrier, "content": "" }),
            "agent" | "public" => json!({ "type": barrier }),
            // passes the same actors as all changes of rooms
            _ => json!({ "type": "read", "room_id": 0, "message_id": 0 }),
        };
        for frame in [frame, &last] {
            within(self.socket.send_text(frame.to_string())).await.unwrap();
        }
        let mut errors = Vec::new();
        loop {
            let frame = crate::support::next(&mut self.socket).await;
            let is_last = match self.channel {
                "device" => frame["type"] == "sent" && frame["msgid"] == barrier.as_str(),
                // refused or echoed
                "agent" | "public" => frame["content"].as_str().is_some_and(|text| text.contains(&barrier)),
                "chat" => frame["type"] == "error" && frame["room_id"] == 0,
                _ => frame["code"] == "not_found",
            };
            if is_last {
                return errors;
            }
            if frame["type"] == "error" {
                errors.push(frame);
            }
        }
    }
}

/// Variants of a frame, and whether each is as documented.
fn variants(documented: &Documentation, example: &Value) -> Vec<(Value, bool)> {
    let schema = &documented.payload;
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut variants = vec![(example.clone(), true)];
    for name in &required {
        // without `acknowledge` it is a plain message, and without `type` another frame
        if !["type", "acknowledge"].contains(name) && documented.name != "CommandReply" {
            let mut without = example.clone();
            without.as_object_mut().unwrap().remove(*name);
            variants.push((without, false));
        }
    }
    let mut least = example.clone();
    if let Some(fields) = least.as_object_mut() {
        fields.retain(|name, _| required.contains(&name.as_str()));
        variants.push((least.clone(), true));
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let mut values = Vec::new();
        if let Some(most) = field["maxLength"].as_u64() {
            values.extend([("x".repeat(most as usize).into(), true), ("x".repeat(most as usize + 1).into(), false)]);
        }
        if let Some(least) = field["minLength"].as_u64() {
            values.push(("x".repeat(least as usize - 1).into(), false));
        }
        if let Some(least) = field["minimum"].as_i64() {
            values.extend([(json!(least), true), (json!(least - 1), false)]);
        }
        if let Some(most) = field["maximum"].as_i64() {
            values.extend([(json!(most), true), (json!(most + 1), false)]);
        }
        for (value, is_good) in values {
            let mut variant = least.clone();
            variant[name] = value;
            variants.push((variant, is_good));
        }
    }
    variants
}

#[tokio::test]
async fn what_clients_are_told_to_send_is_accepted_and_nothing_else() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    // the names that the examples have
    let uuid: Uuid = "123e4567-e89b-12d3-a456-426614174000".parse().unwrap();
    let mut device = broker.client();
    within(device.register_device("Alice", uuid)).await.unwrap();
    let topic = json!({ "topic_id": "weather", "history": { "size": 10 } });
    assert_eq!(post(&device, "/topics/create", topic).await.0, 200);
    let (owner, anna) = (Person::user(&broker, "owner").await, Person::user(&broker, "anna").await);
    assert_eq!(owner.room("lobby").await, 1);
    let message = owner.say(1, "Hello!").await["id"].clone();

    let mut tried = 0;
    for (channel, client, path) in [
        ("device", &device, "/ws"),
        ("agent", &operator, "/ws"),
        ("public", &broker.client(), "/ws"),
        ("chat", &anna.client, "/ws/auth"),
        ("room", &anna.client, "/ws/room/1"),
        ("plain", &anna.client, "/ws?chat_id=1"),
    ] {
        let socket = within(client.connect(path)).await.unwrap();
        let mut speaker = Speaker { channel, socket, device: uuid, sent: 0 };
        let token = client.token().or(anna.client.token()).unwrap();
        let frames = documented().await.frames.iter();
        for documented in frames.filter(|one| one.channel == channel && !one.is_from_broker) {
            for (mut frame, is_good) in documented.examples.iter().flat_map(|example| variants(documented, example)) {
                if frame.get("token").is_some() {
                    frame["token"] = token.into();
                }
                if frame.get("message_id").is_some() {
                    frame["message_id"] = message.clone();
                }
                if frame["msgid"] == "m-2" {
                    // else it would be the same message, with another content
                    frame["msgid"] = Uuid::new_v4().to_string().into();
                }
                if channel == "device" && frame.get("topic_id").is_some() {
                    let subscribe = json!({ "type": "subscribe", "topic_id": "weather" });
                    assert_eq!(speaker.errors_of(&subscribe).await, [] as [Value; 0]);
                }
                if channel == "chat" {
                    let join = json!({ "type": "join_room", "room_id": 1 });
                    assert_eq!(speaker.errors_of(&join).await, [] as [Value; 0]);
                }
                // a bad token would end a socket without another
                if channel == "public" && !is_good {
                    continue;
                }
                assert_eq!(documented.is(&frame), is_good, "{} {frame}", documented.name);
                let errors = speaker.errors_of(&frame).await;
                assert_eq!(errors.is_empty(), is_good, "{channel} {}: {frame}: {errors:?}", documented.name);
                tried += 1;
            }
        }
    }
    assert!(tried > 100, "{tried}");
}

#[tokio::test]
async fn the_page_has_every_frame_of_every_channel_and_may_load_nothing() {
    let broker = Broker::start().await;
    let client = broker.client();
    let response = client.request(reqwest::Method::GET, "/docs/frames").send().await.unwrap();
    assert_eq!(response.status(), 200);
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    let page = response.text().await.unwrap();
    for frame in &documented().await.frames {
        assert!(page.contains(&format!("<article id=\"{}-{}\">", frame.channel, frame.name)), "{}", frame.name);
    }
    let codes = documented().await.document["channels"]["device"]["x-close-codes"].as_array().unwrap();
    for code in codes {
        assert!(page.contains(&format!("<td><code>{}</code></td>", code["code"])), "{code}");
    }
    assert!(!page.contains("<script") && !page.contains("://"), "it loads nothing and links to nobody");
    // the other page links to it
    let (_, openapi) = get(&client, "/openapi.json").await;
    assert!(openapi["info"]["description"].as_str().unwrap().contains("(/docs/frames)"));
    let (status, root) = answer(client.request(reqwest::Method::GET, "/")).await;
    assert_eq!((status.as_u16(), &root["endpoints"]["asyncapi"]), (200, &json!("/asyncapi.json")));
}

#[tokio::test]
async fn all_paths_that_the_server_names_are_in_one_of_the_documents() {
    let broker = Broker::start().await;
    let (_, root) = get(&broker.client(), "/").await;
    let (_, openapi) = get(&broker.client(), "/openapi.json").await;
    let channels = documented().await.document["channels"].as_object().unwrap().values();
    let addresses: BTreeSet<_> = channels.map(|channel| channel["address"].as_str().unwrap()).collect();
    let named = root["websocket_endpoints"].as_array().unwrap().iter();
    assert_eq!(named.map(|path| path.as_str().unwrap()).collect::<BTreeSet<_>>(), addresses);
    for path in root["endpoints"].as_object().unwrap().values().map(|path| path.as_str().unwrap()) {
        assert!(openapi["paths"].get(path).is_some() || addresses.contains(path), "{path}");
    }
}
