//! Rooms with sockets at several nodes.

use reqwest::Method;
use serde_json::{Value, json};
use switchboard::client::Connection;

use crate::{
    api::support::{
        Broker,
        chat::{Person, join, next_event, send},
        close_code, get, next, until,
    },
    nodes::{Shared, at, device, knows},
    proxy::Way,
};

/// The same person at another node.
fn person_at(person: &Person, node: &Broker) -> Person {
    Person { client: at(&person.client, node), name: person.name.clone(), who: person.who.clone() }
}

/// The next frame of these types.
async fn next_among(socket: &mut Connection, types: &[&str]) -> Value {
    loop {
        let frame = next(socket).await;
        if types.iter().any(|kind| frame["type"] == *kind) {
            return frame;
        }
    }
}

/// The next frame of this type.
async fn next_of(socket: &mut Connection, kind: &str) -> Value {
    next_among(socket, &[kind]).await
}

/// The ids of so many messages that a socket gets.
async fn message_ids(socket: &mut Connection, count: usize) -> Vec<i64> {
    let mut ids = Vec::new();
    while ids.len() < count {
        ids.push(next_of(socket, "message").await["id"].as_i64().unwrap());
    }
    ids
}

#[tokio::test]
async fn what_happens_in_a_room_is_told_at_all_nodes() {
    let shared = Shared::start().await;
    let ([one, two], _) = shared.nodes().await;
    let (anna, bert) = (Person::user(&one, "anna").await, Person::user(&one, "bert").await);
    let room = anna.room("lobby").await;
    let mut of_anna = anna.chat_in(room).await;
    let bert = person_at(&bert, &two);
    let mut of_bert = bert.chat_in(room).await;
    let event = |kind: &str, who: &Person, more: Value| {
        let mut event = who.with(json!({ "type": kind, "room_id": room }));
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    let (online, offline) = (json!({ "presence": "online" }), json!({ "presence": "offline" }));
    assert_eq!(next_event(&mut of_anna).await, event("user_joined", &bert, online));
    let (_, present) = bert.call(Method::GET, &format!("/api/rooms/{room}/presence"), None).await;
    assert_eq!(present["count"], 2, "{present}");

    send(&mut of_bert, json!({ "content": "hello", "room_id": room })).await;
    let seen = next(&mut of_anna).await;
    assert_eq!(
        (&seen["type"], &seen["content"], &seen["username"]),
        (&json!("message"), &json!("hello"), &json!("bert"))
    );
    assert_eq!(next(&mut of_bert).await, seen);
    // in the dialect of messages alone, too
    let mut plain = person_at(&anna, &two).plain(room).await;
    for socket in [&mut of_anna, &mut of_bert] {
        assert_eq!(next_event(socket).await, event("user_joined", &anna, json!({})));
    }
    send(&mut of_bert, json!({ "content": "again", "room_id": room })).await;
    assert_eq!(next(&mut plain).await["message"], "again");
    for socket in [&mut of_anna, &mut of_bert] {
        assert_eq!(next(socket).await["content"], "again");
    }
    plain.close().await.unwrap();
    for socket in [&mut of_anna, &mut of_bert] {
        assert_eq!(next_event(socket).await, event("user_disconnected", &anna, json!({})));
    }

    let id = &seen["id"];
    send(&mut of_bert, json!({ "type": "typing", "room_id": room })).await;
    assert_eq!(next_event(&mut of_anna).await, event("user_typing", &bert, json!({})));
    let message = format!("/api/rooms/{room}/messages/{id}");
    bert.done(Method::PATCH, &message, Some(json!({ "content": "hi" }))).await;
    let edited = next(&mut of_anna).await;
    assert_eq!((&edited["type"], &edited["content"]), (&json!("message_edited"), &json!("hi")), "{edited}");
    send(&mut of_anna, json!({ "type": "read", "room_id": room, "message_id": id })).await;
    assert_eq!(next_among(&mut of_bert, &["user_read"]).await["username"], "anna");
    bert.done(Method::DELETE, &message, None).await;
    assert_eq!(next_among(&mut of_anna, &["message_deleted"]).await["id"], *id);
    of_bert.close().await.unwrap();
    assert_eq!(next_event(&mut of_anna).await, event("user_disconnected", &bert, offline));
}

#[tokio::test]
async fn who_leaves_or_is_removed_at_one_node_is_out_of_the_room_at_all() {
    let shared = Shared::start().await;
    let ([one, two], _) = shared.nodes().await;
    let (anna, bert) = (Person::user(&one, "anna").await, Person::user(&one, "bert").await);
    let room = anna.room("lobby").await;
    let mut of_anna = anna.chat_in(room).await;
    let there = person_at(&bert, &two);
    for turn in ["leaves", "is removed"] {
        let mut chat = there.chat_in(room).await;
        assert_eq!(next(&mut of_anna).await["presence"], "online", "{turn}");
        let mut dedicated = there.room_socket(room).await;
        assert_eq!(next(&mut of_anna).await["type"], "user_joined", "{turn}");
        next_of(&mut chat, "user_joined").await;
        if turn == "leaves" {
            bert.leave(room).await;
        } else {
            anna.done(Method::DELETE, &format!("/api/rooms/{room}/members/{}", bert.id()), None).await;
        }
        let left = next(&mut chat).await;
        assert_eq!(left["type"], "room_left", "{turn}: {left}");
        assert_eq!(close_code(&mut dedicated).await, 4403, "{turn}");
        let left = next(&mut of_anna).await;
        assert_eq!((&left["type"], &left["presence"]), (&json!("user_left"), &json!("offline")), "{turn}: {left}");
    }
}

#[tokio::test]
async fn sockets_at_all_nodes_see_the_same_messages_in_the_same_order_each_once() {
    const EACH: usize = 100;
    let shared = Shared::start().await;
    let ([one, two, three], _) = shared.nodes().await;
    let anna = Person::user(&one, "anna").await;
    let room = anna.room("lobby").await;
    let mut sockets = Vec::new();
    for node in [&one, &two, &three] {
        let mut socket = person_at(&anna, node).chat().await;
        send(&mut socket, json!({ "type": "join_room", "room_id": room })).await;
        next_of(&mut socket, "message_history").await;
        sockets.push(socket);
    }
    for number in 0..EACH {
        for (index, socket) in sockets.iter_mut().enumerate() {
            send(socket, json!({ "content": format!("{index}-{number}"), "room_id": room })).await;
        }
    }
    let stored = anna.history(room).await;
    let mut expected = Vec::new();
    for socket in &mut sockets {
        expected.push(message_ids(socket, 3 * EACH).await);
    }
    assert!(expected[0].is_sorted(), "{expected:?}");
    assert!(expected.iter().all(|ids| *ids == expected[0]), "{expected:?}");
    drop(stored);
    let stored: Vec<_> = anna.history(room).await.iter().map(|message| message["id"].as_i64().unwrap()).collect();
    assert_eq!(stored, expected[0]);
}

#[tokio::test]
async fn a_socket_that_joins_while_others_write_gets_each_message_once() {
    let shared = Shared::start().await;
    let ([one, two], _) = shared.nodes().await;
    let (anna, bert) = (Person::user(&one, "anna").await, Person::user(&one, "bert").await);
    let room = anna.room("lobby").await;
    let mut writer = anna.chat_in(room).await;
    let there = person_at(&bert, &two);
    there.join(room).await;
    let writing = async {
        for number in 0..300 {
            send(&mut writer, json!({ "content": number.to_string(), "room_id": room })).await;
        }
        message_ids(&mut writer, 300).await
    };
    let joining = async {
        let mut all = Vec::new();
        for _ in 0..10 {
            let mut socket = there.chat().await;
            send(&mut socket, json!({ "type": "join_room", "room_id": room, "since_id": 0 })).await;
            let mut ids = Vec::new();
            // the history comes behind the event of joining
            let history = next_of(&mut socket, "message_history").await;
            ids.extend(history["messages"].as_array().unwrap().iter().map(|message| message["id"].as_i64().unwrap()));
            all.push((socket, ids));
        }
        all
    };
    let (written, joined) = tokio::join!(writing, joining);
    for (mut socket, mut ids) in joined {
        let missing = written.len() - ids.len();
        ids.extend(message_ids(&mut socket, missing).await);
        assert_eq!(ids, written);
    }
}

#[tokio::test]
async fn what_is_written_while_redis_is_away_is_told_as_well() {
    let mut shared = Shared::start().await;
    let ([one, two], operator) = shared.nodes().await;
    let (anna, bert) = (Person::user(&one, "anna").await, Person::user(&one, "bert").await);
    let room = anna.room("lobby").await;
    let mut of_anna = anna.chat_in(room).await;
    let mut of_bert = person_at(&bert, &two).chat_in(room).await;
    next_of(&mut of_anna, "user_joined").await;
    shared.redis.kill().await;
    for content in ["one", "two", "three"] {
        anna.say(room, content).await;
    }
    for content in ["one", "two", "three"] {
        assert_eq!(next_of(&mut of_bert, "message").await["content"], content);
    }
    shared.redis.run().await;
    for node in [&one, &two] {
        knows(&at(&operator, node), 2).await;
    }
    send(&mut of_bert, json!({ "content": "back", "room_id": room })).await;
    assert_eq!(next_of(&mut of_bert, "message").await["content"], "back");
    for content in ["one", "two", "three", "back"] {
        assert_eq!(next_of(&mut of_anna, "message").await["content"], content);
    }
    assert_eq!(person_at(&anna, &two).history(room).await.len(), 4);
}

#[tokio::test]
async fn a_node_that_is_gone_has_nobody_in_a_room() {
    let shared = Shared::start().await;
    let ([one, two], _) = shared.nodes().await;
    let (anna, bert) = (Person::user(&one, "anna").await, Person::user(&one, "bert").await);
    let room = anna.room("lobby").await;
    let mut of_anna = anna.chat_in(room).await;
    let _of_bert = person_at(&bert, &two).chat_in(room).await;
    next_of(&mut of_anna, "user_joined").await;
    two.kill().await;
    let gone = next_of(&mut of_anna, "user_disconnected").await;
    assert_eq!((&gone["username"], &gone["presence"]), (&json!("bert"), &json!("offline")), "{gone}");
    let present = anna.get(&format!("/api/rooms/{room}/presence")).await;
    assert_eq!(present["count"], 1, "{present}");
}

#[tokio::test]
async fn who_leaves_a_room_after_its_node_has_stopped_is_out_of_it_at_all_others() {
    let shared = Shared::start().await;
    let ([one, mut two, three], operator) = shared.nodes().await;
    let (anna, bert) = (Person::user(&one, "anna").await, Person::user(&one, "bert").await);
    let room = anna.room("lobby").await;
    let mut of_anna = anna.chat_in(room).await;
    let mut of_bert = person_at(&bert, &two).chat_in(room).await;
    next_of(&mut of_anna, "user_joined").await;
    two.signal("TERM");
    assert_eq!(close_code(&mut of_bert).await, 1001);
    assert_eq!(two.ended().await, Some(0));
    for node in [&one, &three] {
        knows(&at(&operator, node), 2).await;
        // expected to come back
        let (_, present) = get(&at(&anna.client, node), &format!("/api/rooms/{room}/presence")).await;
        assert_eq!(present["count"], 2, "{present}");
    }
    bert.leave(room).await;
    let left = next(&mut of_anna).await;
    assert_eq!((&left["type"], &left["presence"]), (&json!("user_left"), &json!("offline")), "{left}");
    // answered when the third node has handled what was announced before
    let _socket = device("device", &one).await;
    for node in [&one, &three] {
        let (_, present) = get(&at(&anna.client, node), &format!("/api/rooms/{room}/presence")).await;
        assert_eq!(present["count"], 1, "{present}");
    }
}

#[tokio::test]
async fn a_client_whose_membership_ends_while_its_node_is_cut_off_is_out_of_the_room() {
    let shared = Shared::start().await;
    let ([two, one], proxy, operator) = shared.nodes_with_proxy().await;
    let (anna, bert) = (Person::user(&one, "anna").await, Person::user(&one, "bert").await);
    let room = anna.room("lobby").await;
    let mut of_bert = person_at(&bert, &two).chat_in(room).await;
    proxy.set(Way::Cut);
    bert.leave(room).await;
    until(async || {
        let present = anna.get(&format!("/api/rooms/{room}/presence")).await;
        present["count"] == 0
    })
    .await;
    assert_eq!(next_of(&mut of_bert, "room_left").await["room_id"], room);
    proxy.set(Way::Open);
    knows(&at(&operator, &two), 2).await;
    join(&mut of_bert, room).await;
}

#[tokio::test]
async fn sockets_that_cannot_be_told_everything_are_closed_and_find_it_when_they_come_back() {
    let shared = Shared::start().await;
    let ([two, one], proxy, _) = shared.nodes_with_proxy().await;
    let (anna, bert) = (Person::user(&one, "anna").await, Person::user(&one, "bert").await);
    let room = anna.room("lobby").await;
    let there = person_at(&bert, &two);
    let (mut chat, mut dedicated) = (there.chat_in(room).await, there.room_socket(room).await);
    next_of(&mut chat, "user_joined").await;
    proxy.set(Way::Cut);
    two.signal("STOP");
    anna.say(room, "missed").await;
    // as after ten minutes
    shared.sql("DELETE FROM room_events").await;
    two.signal("CONT");
    for socket in [&mut chat, &mut dedicated] {
        assert_eq!(close_code(socket).await, 1013);
    }
    let mut socket = there.chat().await;
    let history = join(&mut socket, room).await;
    assert_eq!(history["messages"][0]["content"], "missed", "{history}");
}
