//! Acknowledged messages (contract section 11).

use serde_json::{Value, json};
use switchboard::client::{Client, Connection};
use uuid::Uuid;

use crate::support::{Broker, answer, delete, everywhere, get, is_listed, next, next_of_type, nothing_came, post};

/// A device with an open socket.
struct Device {
    client: Client,
    uuid: Uuid,
    socket: Connection,
}

impl Device {
    async fn connect(broker: &Broker, name: &str) -> Self {
        let (client, device, socket) = broker.connected(name).await;
        Self { client, uuid: device.uuid, socket }
    }

    async fn reconnect(&mut self) {
        self.socket = self.client.connect("/ws").await.unwrap();
        next_of_type(&mut self.socket, "connection").await;
    }

    /// Cuts the socket, and waits until the broker knows.
    async fn cut(self, broker: &Broker) -> (Client, Uuid) {
        let Self { client, uuid, socket } = self;
        drop(socket);
        let reader = broker.client();
        everywhere(async || !is_listed(&reader, uuid).await).await;
        (client, uuid)
    }

    async fn send(&mut self, frame: Value) {
        self.socket.send_text(&frame.to_string()).await.unwrap();
    }

    /// Sends a message that is to be acknowledged. Returns its receipt.
    async fn message(&mut self, to: Uuid, msgid: &str) -> Value {
        self.send(message(to, msgid)).await;
        next_of_type(&mut self.socket, "sent").await
    }

    /// Gets a message, and answers it with this status. Returns the state of the message.
    async fn answer(&mut self, msgid: &str, status: &str) -> String {
        self.send(json!({ "type": "ack", "msgid": msgid, "status": status, "from": self.uuid, "timestamp": 1.5 }))
            .await;
        let received = next_of_type(&mut self.socket, "ack_received").await;
        assert_eq!(received["msgid"], msgid);
        received["status"].as_str().unwrap().to_owned()
    }

    /// The next message that it gets: its msgid, and whether it has been sent before.
    async fn got(&mut self) -> (String, bool) {
        let frame = next(&mut self.socket).await;
        assert!(frame["content"].is_string(), "{frame}");
        (frame["msgid"].as_str().unwrap().to_owned(), frame.get("redelivered").is_some_and(|again| *again == true))
    }
}

fn without_time(mut frame: Value) -> Value {
    assert!(frame["timestamp"].is_f64(), "{frame}");
    frame.as_object_mut().unwrap().remove("timestamp");
    frame
}

fn message(to: Uuid, msgid: &str) -> Value {
    json!({ "to": to, "msgid": msgid, "content": "hello", "acknowledge": true })
}

fn again(msgid: &str) -> (String, bool) {
    (msgid.to_owned(), true)
}

fn first(msgid: &str) -> (String, bool) {
    (msgid.to_owned(), false)
}

#[tokio::test]
async fn a_message_is_delivered_acknowledged_and_its_sender_is_told() {
    let broker = Broker::with().set("HTTP__WORKERS", "2").start().await;
    let mut anna = Device::connect(&broker, "anna").await;
    let mut pump = Device::connect(&broker, "pump").await;
    let text = format!(
        r#"{{ "to": "{}", "msgid": "m", "content": {{"n": 1.50}}, "acknowledge": true, "extra": null }}"#,
        pump.uuid
    );
    anna.socket.send_text(&text).await.unwrap();
    let receipt = next(&mut anna.socket).await;
    assert!(receipt["expires_at"].as_str().unwrap().ends_with('Z') && receipt["timestamp"].is_f64(), "{receipt}");
    assert_eq!(
        [&receipt["type"], &receipt["message"], &receipt["msgid"], &receipt["status"]],
        ["sent", "Message delivered", "m", "pending_ack"]
    );
    let expected = json!({
        "from": anna.uuid, "to": pump.uuid, "msgid": "m", "content": { "n": 1.5 }, "acknowledge": true, "extra": null,
    });
    let got = next(&mut pump.socket).await;
    assert_eq!(got.to_string().replace("1.50", "1.5"), expected.to_string());
    assert_eq!(pump.answer("m", "received").await, "delivered");
    let update = next(&mut anna.socket).await;
    assert_eq!(
        without_time(update),
        json!({ "type": "delivery_update", "msgid": "m", "to": pump.uuid, "status": "delivered" })
    );
    // what is done stays done
    assert_eq!(pump.answer("m", "rejected").await, "delivered");
    assert_eq!(pump.answer("other", "received").await, "unknown");
    nothing_came(&mut anna.socket).await;
}

#[tokio::test]
async fn what_waits_for_a_device_goes_by_priority_and_age_and_again_after_each_reconnect() {
    let broker = Broker::start().await;
    let mut anna = Device::connect(&broker, "anna").await;
    let (client, pump) = Device::connect(&broker, "pump").await.cut(&broker).await;
    for (msgid, priority) in [("1", "low"), ("2", "normal"), ("3", "high"), ("4", "urgent"), ("5", "high")] {
        let mut frame = message(pump, msgid);
        frame["priority"] = json!(priority);
        anna.send(frame).await;
        let receipt = next(&mut anna.socket).await;
        assert_eq!(
            [&receipt["status"], &receipt["message"]],
            ["queued_offline", "Recipient offline - message queued for delivery"]
        );
    }
    let (_, queue) = get(&client, &format!("/devices/{pump}/queue")).await;
    let waiting = queue["messages"].as_array().unwrap().iter().map(|message| message["msgid"].as_str().unwrap());
    assert_eq!((&queue["count"], waiting.collect::<Vec<_>>()), (&json!(5), vec!["3", "5", "2", "4", "1"]));
    assert_eq!(queue["messages"][0]["content"], "hello");
    let socket = client.connect("/ws").await.unwrap();
    let mut pump = Device { client, uuid: pump, socket };
    next_of_type(&mut pump.socket, "connection").await;
    for msgid in ["3", "5", "2", "4", "1"] {
        assert_eq!(pump.got().await, first(msgid));
    }
    assert_eq!(pump.answer("5", "ack").await, "delivered");
    // a takeover is a reconnect
    pump.reconnect().await;
    for msgid in ["3", "2", "4", "1"] {
        assert_eq!(pump.got().await, again(msgid));
    }
    for msgid in ["1", "2", "3", "4"] {
        assert_eq!(pump.answer(msgid, "delivered").await, "delivered");
    }
    pump.reconnect().await;
    nothing_came(&mut pump.socket).await;
    for msgid in ["5", "1", "2", "3", "4"] {
        let update = next(&mut anna.socket).await;
        assert_eq!([&update["msgid"], &update["status"]], [msgid, "delivered"]);
    }
}

#[tokio::test]
async fn messages_survive_a_crash_and_their_senders_are_told_afterwards() {
    let broker = Broker::start().await;
    let mut anna = Device::connect(&broker, "anna").await;
    let mut pump = Device::connect(&broker, "pump").await;
    let (valve_client, valve) = Device::connect(&broker, "valve").await.cut(&broker).await;
    for msgid in ["1", "2"] {
        anna.message(pump.uuid, msgid).await;
    }
    anna.message(valve, "3").await;
    assert_eq!((pump.got().await, pump.got().await), (first("1"), first("2")));
    let (anna_client, _) = anna.cut(&broker).await;
    assert_eq!(pump.answer("1", "rejected").await, "rejected");
    let broker = broker.kill().await.start().await;
    let moved = |client: &Client| broker.client().with_token(client.token().unwrap());
    let mut pump = Device { socket: moved(&pump.client).connect("/ws").await.unwrap(), ..pump };
    next_of_type(&mut pump.socket, "connection").await;
    assert_eq!(pump.got().await, again("2"));
    let mut socket = moved(&valve_client).connect("/ws").await.unwrap();
    next_of_type(&mut socket, "connection").await;
    let message = next(&mut socket).await;
    assert_eq!((&message["msgid"], message.get("redelivered")), (&json!("3"), None));
    let mut socket = moved(&anna_client).connect("/ws").await.unwrap();
    next_of_type(&mut socket, "connection").await;
    let update = next(&mut socket).await;
    assert_eq!([&update["type"], &update["msgid"], &update["status"]], ["delivery_update", "1", "rejected"]);
    nothing_came(&mut socket).await;
    assert_eq!(pump.answer("2", "").await, "pending_ack");
}

#[tokio::test]
async fn a_message_that_the_recipient_can_not_take_comes_again_later_and_holds_back_those_behind_it() {
    let broker = Broker::with().set("LIMITS__UNACKNOWLEDGED_PER_DEVICE", "1").start().await;
    let mut anna = Device::connect(&broker, "anna").await;
    let mut ben = Device::connect(&broker, "ben").await;
    let mut pump = Device::connect(&broker, "pump").await;
    anna.message(pump.uuid, "1").await;
    assert_eq!(anna.message(pump.uuid, "2").await["status"], "pending_ack");
    assert_eq!(pump.got().await, first("1"));
    assert_eq!(pump.answer("1", "busy").await, "pending_ack");
    ben.message(pump.uuid, "b").await;
    // after two seconds, which the window of one message leaves free for nobody else
    assert_eq!(pump.got().await, again("1"));
    assert_eq!(pump.answer("1", "ack").await, "delivered");
    assert_eq!(pump.got().await, first("2"));
    assert_eq!(pump.answer("2", "ack").await, "delivered");
    assert_eq!(pump.got().await, first("b"));
}

#[tokio::test]
async fn the_same_message_again_is_the_same_message_and_another_with_its_msgid_is_refused() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let mut anna = Device::connect(&broker, "anna").await;
    let mut ben = Device::connect(&broker, "ben").await;
    let mut pump = Device::connect(&broker, "pump").await;
    let receipt = anna.message(pump.uuid, "m").await;
    assert_eq!(pump.got().await, first("m"));
    // spelled otherwise, and with `from`
    let again = format!(
        r#"{{"acknowledge": true,"content":"h\u0065llo","msgid":"m", "from":"{}","to":"{}"}}"#,
        anna.uuid, pump.uuid
    );
    anna.socket.send_text(&again).await.unwrap();
    assert_eq!(without_time(next(&mut anna.socket).await), without_time(receipt));
    let mut other = message(pump.uuid, "m");
    other["content"] = json!("bye");
    anna.send(other.clone()).await;
    let refused = next(&mut anna.socket).await;
    assert_eq!([&refused["code"], &refused["msgid"]], ["msgid_reused", "m"]);
    // another sender's ids are its own
    ben.send(other.clone()).await;
    assert_eq!(next(&mut ben.socket).await["status"], "pending_ack");
    assert_eq!(pump.got().await, first("m"));
    // the oldest is meant, or that of the sender that is named
    pump.send(json!({ "type": "ack", "msgid": "m", "sender": ben.uuid, "status": "rejected" })).await;
    assert_eq!(next(&mut pump.socket).await["status"], "rejected");
    assert_eq!(next(&mut ben.socket).await["status"], "rejected");
    assert_eq!(pump.answer("m", "ack").await, "delivered");
    assert_eq!(next(&mut anna.socket).await["status"], "delivered");
    anna.socket.send_text(&again).await.unwrap();
    assert_eq!(next(&mut anna.socket).await["status"], "delivered");
    // over HTTP, too
    other["from"] = json!(Uuid::new_v4());
    assert_eq!(post(&operator, "/api/messages", other.clone()).await.0, 403);
    other.as_object_mut().unwrap().remove("from");
    assert_eq!(post(&anna.client, "/api/messages", other).await.0, 409);
    nothing_came(&mut pump.socket).await;
}

#[tokio::test]
async fn a_message_ends_when_its_time_is_over_or_it_is_withdrawn_or_its_recipient_is_deleted() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let mut anna = Device::connect(&broker, "anna").await;
    let (client, pump) = Device::connect(&broker, "pump").await.cut(&broker).await;
    let mut short = message(pump, "1");
    short["ttl"] = json!(1);
    anna.send(short).await;
    assert_eq!(next(&mut anna.socket).await["status"], "queued_offline");
    let ended = next(&mut anna.socket).await;
    assert_eq!([&ended["type"], &ended["msgid"], &ended["status"]], ["delivery_update", "1", "expired"]);

    let (status, receipt) = post(&anna.client, "/api/messages", message(pump, "2")).await;
    assert_eq!((status, &receipt["type"], &receipt["status"]), (200, &json!("sent"), &json!("queued_offline")));
    let path = format!("/api/messages/{}", receipt["id"]);
    let (status, refused) = delete(&client, &path).await;
    assert_eq!((status, &refused["code"]), (403, &json!("forbidden")));
    let (status, shown) = delete(&anna.client, &path).await;
    assert_eq!((status, &shown["status"], &shown["content"]), (200, &json!("cancelled"), &json!("hello")));
    assert!(shown["ended_at"].is_string() && shown["attempts"] == 0 && shown["sent_at"].is_null(), "{shown}");
    assert_eq!(delete(&operator, &path).await.1["status"], "cancelled");
    let ended = next(&mut anna.socket).await;
    assert_eq!([&ended["msgid"], &ended["status"]], ["2", "cancelled"]);

    anna.message(pump, "3").await;
    let (status, _) = delete(&operator, &format!("/devices/{pump}")).await;
    assert_eq!(status, 200);
    let ended = next(&mut anna.socket).await;
    assert_eq!([&ended["msgid"], &ended["status"]], ["3", "failed"]);
    anna.send(message(pump, "4")).await;
    let refused = next(&mut anna.socket).await;
    assert_eq!([&refused["code"], &refused["msgid"]], ["recipient_unknown", "4"]);
    assert_eq!(refused["message"], format!("Recipient {pump} not connected"));
    let (status, refused) = post(&operator, "/api/messages", message(pump, "4")).await;
    assert_eq!((status, &refused["code"]), (404, &json!("recipient_unknown")));
}

#[tokio::test]
async fn a_queue_is_bounded_and_says_so() {
    let mut broker = Broker::with().set("LIMITS__QUEUED_PER_DEVICE", "2").start().await;
    let operator = broker.admin().await;
    let mut anna = Device::connect(&broker, "anna").await;
    let mut pump = Device::connect(&broker, "pump").await;
    for msgid in ["1", "2"] {
        anna.message(pump.uuid, msgid).await;
        assert_eq!(pump.got().await, first(msgid));
    }
    anna.send(message(pump.uuid, "3")).await;
    let refused = next(&mut anna.socket).await;
    assert_eq!([&refused["code"], &refused["msgid"]], ["queue_full", "3"]);
    let request = anna.client.request(reqwest::Method::POST, "/api/messages").json(&message(pump.uuid, "3"));
    let (status, refused) = answer(request).await;
    assert_eq!((status.as_u16(), &refused["code"]), (429, &json!("queue_full")));
    // what is known is no more
    assert_eq!(anna.message(pump.uuid, "2").await["status"], "pending_ack");
    pump.answer("1", "ack").await;
    assert_eq!(next(&mut anna.socket).await["type"], "delivery_update");
    assert_eq!(anna.message(pump.uuid, "3").await["status"], "pending_ack");
    let (status, queue) = get(&operator, &format!("/devices/{}/queue", pump.uuid)).await;
    assert_eq!((status, &queue["count"], queue["messages"][0].get("content")), (200, &json!(2), None));
    let bytes = 2 * message(pump.uuid, "2").to_string().len() + 2 * r#""from":"",""#.len() + 2 * 36 - 2;
    assert_eq!(queue["bytes"], bytes);
    assert_eq!(get(&anna.client, &format!("/devices/{}/queue", pump.uuid)).await.0, 403);
}

#[tokio::test]
async fn a_device_that_comes_back_gets_all_that_waits_in_order_and_what_is_sent_meanwhile_behind_it() {
    let broker = Broker::with().set("HTTP__WORKERS", "2").start().await;
    let mut anna = Device::connect(&broker, "anna").await;
    let (client, pump) = Device::connect(&broker, "pump").await.cut(&broker).await;
    // more bytes than an outbox takes
    let content = "x".repeat(20_000);
    let send = async |anna: &mut Device, number: usize| {
        anna.send(json!({ "to": pump, "msgid": number.to_string(), "content": content, "acknowledge": true })).await;
    };
    for number in 0..150 {
        send(&mut anna, number).await;
    }
    for _ in 0..150 {
        assert_eq!(next(&mut anna.socket).await["status"], "queued_offline");
    }
    let socket = client.connect("/ws").await.unwrap();
    let mut pump = Device { client, uuid: pump, socket };
    next_of_type(&mut pump.socket, "connection").await;
    for number in 0..200 {
        if number < 50 {
            send(&mut anna, 150 + number).await;
        }
        loop {
            let frame = next(&mut pump.socket).await;
            if frame["type"] == "ack_received" {
                continue;
            }
            assert_eq!((&frame["msgid"], frame.get("redelivered")), (&json!(number.to_string()), None));
            break;
        }
        pump.send(json!({ "type": "ack", "msgid": number.to_string() })).await;
    }
}

#[tokio::test]
async fn messages_and_their_receipts_keep_the_order_in_which_a_client_sent_them() {
    let broker = Broker::with()
        .alone("messages of different kinds have no order between nodes")
        .set("HTTP__WORKERS", "2")
        .start()
        .await;
    let mut anna = Device::connect(&broker, "anna").await;
    let mut pump = Device::connect(&broker, "pump").await;
    anna.client.create_topic("news").await.unwrap();
    for device in [&anna, &pump] {
        device.client.subscribe("news").await.unwrap();
    }
    let kinds = ["direct", "acknowledged", "topic"];
    let order: Vec<_> = (0..60).map(|n| kinds[(n * n + n / 7) % 3]).collect();
    for (number, kind) in order.iter().enumerate() {
        let mut frame = json!({ "msgid": number.to_string(), "content": kind });
        match *kind {
            "topic" => frame["topic_id"] = json!("news"),
            "direct" => frame["to"] = json!(pump.uuid),
            _ => {
                frame["to"] = json!(pump.uuid);
                frame["acknowledge"] = json!(true);
            }
        }
        anna.send(frame).await;
    }
    for (number, kind) in order.iter().enumerate() {
        let got = next(&mut pump.socket).await;
        assert_eq!((&got["msgid"], &got["content"]), (&json!(number.to_string()), &json!(kind)));
        let receipt = next(&mut anna.socket).await;
        assert_eq!(receipt["msgid"], number.to_string(), "{receipt}");
    }
}

#[tokio::test]
async fn a_long_queue_is_read_by_pages_also_while_messages_end() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let mut anna = Device::connect(&broker, "anna").await;
    let (client, pump) = Device::connect(&broker, "pump").await.cut(&broker).await;
    // more than fits into one page with their contents
    let content = "x".repeat(60_000);
    let mut ids = Vec::new();
    for number in 0..30 {
        let priority = if number % 3 == 0 { "high" } else { "low" };
        let frame = json!({ "to": pump, "msgid": number.to_string(), "content": content, "priority": priority, "acknowledge": true });
        let (status, receipt) = post(&anna.client, "/api/messages", frame).await;
        assert_eq!(status, 200, "{receipt}");
        ids.push((number % 3 != 0, number, receipt["id"].clone()));
    }
    ids.sort_by_key(|(is_low, number, _)| (*is_low, *number));
    for (reader, limit) in [(&client, "&limit=7"), (&client, ""), (&operator, "&limit=4")] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let (status, page) = get(reader, &format!("/devices/{pump}/queue?{cursor}{limit}")).await;
            assert_eq!((status, &page["count"]), (200, &json!(30)), "{page}");
            seen.extend(page["messages"].as_array().unwrap().iter().map(|message| message["id"].clone()));
            let Some(next) = page["cursor"].as_str() else { break };
            cursor = format!("cursor={next}");
        }
        assert_eq!(seen, ids.iter().map(|(.., id)| id.clone()).collect::<Vec<_>>());
    }
    let (_, page) = get(&client, &format!("/devices/{pump}/queue?limit=5")).await;
    for (.., id) in &ids[..5] {
        delete(&operator, &format!("/api/messages/{id}")).await;
        assert_eq!(next(&mut anna.socket).await["status"], "cancelled");
    }
    let (_, page) =
        get(&client, &format!("/devices/{pump}/queue?limit=5&cursor={}", page["cursor"].as_str().unwrap())).await;
    assert_eq!(page["messages"][0]["id"], ids[5].2);
}

#[tokio::test]
async fn a_message_that_fits_into_no_outbox_is_refused_and_blocks_nobody() {
    let broker = Broker::with().set("LIMITS__OUTBOUND_BYTES", "20000").start().await;
    let mut anna = Device::connect(&broker, "anna").await;
    let mut pump = Device::connect(&broker, "pump").await;
    let mut large = message(pump.uuid, "large");
    large["content"] = json!("x".repeat(20_000));
    anna.send(large.clone()).await;
    let refused = next(&mut anna.socket).await;
    assert_eq!([&refused["code"], &refused["msgid"]], ["message_too_large", "large"]);
    assert_eq!(post(&anna.client, "/api/messages", large).await.0, 413);
    anna.message(pump.uuid, "small").await;
    assert_eq!(pump.got().await, first("small"));
}

#[tokio::test]
async fn senders_recipients_and_operators_read_messages_and_nobody_else() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let user = broker.user("ulla", "user").await;
    let mut anna = Device::connect(&broker, "anna").await;
    let mut pump = Device::connect(&broker, "pump").await;
    let other = Device::connect(&broker, "other").await;
    anna.message(pump.uuid, "1").await;
    pump.got().await;
    pump.answer("1", "ack").await;
    // a user may send, too, and reads the end
    let (status, receipt) = post(&user, "/api/messages", message(pump.uuid, "u")).await;
    assert_eq!((status, &receipt["status"]), (200, &json!("pending_ack")));
    let got = next(&mut pump.socket).await;
    let (_, me) = get(&user, "/api/users/me").await;
    assert_eq!(got["from"], me["uuid"]);
    pump.answer("u", "rejected").await;
    let msgids = async |client: &Client, query: &str| {
        let (status, list) = get(client, &format!("/api/messages{query}")).await;
        assert_eq!(status, 200, "{list}");
        let messages = list["messages"].as_array().unwrap().clone();
        assert_eq!(list["count"], messages.len());
        messages.iter().map(|message| message["msgid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(msgids(&operator, "").await, ["u", "1"]);
    assert_eq!(msgids(&pump.client, "").await, ["u", "1"]);
    assert_eq!(msgids(&anna.client, "").await, ["1"]);
    assert_eq!(msgids(&user, "?state=rejected").await, ["u"]);
    assert_eq!(msgids(&user, "?state=delivered").await, Vec::<String>::new());
    assert_eq!(msgids(&other.client, "").await, Vec::<String>::new());
    assert_eq!(msgids(&pump.client, &format!("?from={}&since=2020-01-01T00:00:00Z", anna.uuid)).await, ["1"]);
    assert_eq!(msgids(&operator, &format!("?to={}", anna.uuid)).await, Vec::<String>::new());
    let (_, page) = get(&operator, "/api/messages?limit=1").await;
    assert_eq!((&page["messages"][0]["msgid"], page["messages"][0].get("content")), (&json!("u"), None));
    let next_page = format!("?limit=1&cursor={}", page["cursor"].as_str().unwrap());
    assert_eq!(msgids(&operator, &next_page).await, ["1"]);
    assert_eq!(get(&operator, "/api/messages?state=lost").await.0, 422);

    let path = format!("/api/messages/{}", receipt["id"]);
    let (_, shown) = get(&user, &path).await;
    assert_eq!(
        (&shown["content"], &shown["attempts"], &shown["priority"]),
        (&json!("hello"), &json!(1), &json!("normal"))
    );
    assert_eq!((get(&operator, &path).await.1.get("content"), get(&anna.client, &path).await.0), (None, 404));
    let (_, status) = get(&anna.client, "/messages/1/status").await;
    let expected = json!({
        "id": 1, "msgid": "1", "status": "delivered", "recipient": pump.uuid, "sender": anna.uuid, "attempts": 1, "ack_required": true,
    });
    assert_eq!(status, expected);
    assert_eq!(get(&operator, "/messages/1/status").await.0, 200);
    assert_eq!((get(&user, "/messages/1/status").await.0, get(&user, "/messages/x/status").await.0), (404, 404));
}

#[tokio::test]
async fn a_script_sends_messages_without_acknowledgement_and_publishes_with_the_same_route() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let mut pump = Device::connect(&broker, "pump").await;
    pump.client.create_topic("news").await.unwrap();
    pump.client.subscribe("news").await.unwrap();
    // other fields are the sender's own
    let direct = json!({
        "to": pump.uuid, "content": [1], "acknowledge": false, "extra": 1, "ttl": "long", "priority": 3,
    });
    let (status, receipt) = post(&operator, "/api/messages", direct).await;
    assert_eq!((status, &receipt["message"], receipt.get("id")), (200, &json!("Message delivered"), None));
    let got = next(&mut pump.socket).await;
    assert_eq!((&got["msgid"], &got["content"], &got["extra"]), (&receipt["msgid"], &json!([1]), &json!(1)));
    assert_eq!((&got["ttl"], &got["priority"]), (&json!("long"), &json!(3)));
    let (status, receipt) =
        post(&operator, "/api/messages", json!({ "topic_id": "news", "content": 2, "acknowledge": true })).await;
    assert_eq!((status, &receipt["type"], &receipt["topic_id"]), (200, &json!("topic_sent"), &json!("news")));
    assert_eq!(next(&mut pump.socket).await["content"], 2);
    let absent = Uuid::new_v4();
    let (status, refused) = post(&operator, "/api/messages", json!({ "to": absent, "content": 1 })).await;
    let expected = json!({ "detail": format!("Recipient {absent} not connected"), "code": "recipient_not_connected" });
    assert_eq!((status, refused), (404, expected));
    for bad in [
        json!({ "content": 1 }),
        json!({ "to": pump.uuid, "topic_id": "news", "content": 1 }),
        json!({ "to": pump.uuid }),
        json!({ "to": "x", "content": 1 }),
        json!({ "to": pump.uuid, "content": 1, "acknowledge": true, "ttl": 0 }),
        json!({ "to": pump.uuid, "content": 1, "acknowledge": "true" }),
        json!({ "to": pump.uuid, "content": 1, "acknowledge": true, "redelivered": true }),
    ] {
        assert_eq!(post(&operator, "/api/messages", bad.clone()).await.0, 422, "{bad}");
    }
}

#[tokio::test]
async fn the_next_device_with_a_uuid_sees_nothing_of_the_last_one() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let mut anna = Device::connect(&broker, "anna").await;
    let mut pump = Device::connect(&broker, "pump").await;
    anna.message(pump.uuid, "1").await;
    pump.got().await;
    pump.message(anna.uuid, "2").await;
    assert_eq!(anna.got().await, first("2"));
    assert_eq!(delete(&operator, &format!("/devices/{}", pump.uuid)).await.0, 200);
    assert_eq!(next(&mut anna.socket).await["status"], "failed");
    assert_eq!(anna.answer("2", "ack").await, "delivered");
    let mut client = broker.client();
    client.register_device("pump", pump.uuid).await.unwrap();
    let mut socket = client.connect("/ws").await.unwrap();
    next_of_type(&mut socket, "connection").await;
    nothing_came(&mut socket).await;
    assert_eq!(get(&client, "/api/messages").await.1["count"], 0);
    assert_eq!(get(&client, "/messages/1/status").await.0, 404);
    // its ids are its own
    assert_eq!(anna.message(pump.uuid, "1").await["status"], "pending_ack");
    assert_eq!(next(&mut socket).await["msgid"], "1");
}
