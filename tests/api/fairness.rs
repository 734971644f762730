//! One identity does not use up what all share.

use futures_util::{StreamExt, stream::FuturesUnordered};
use reqwest::Method;
use serde_json::{Value, json};
use switchboard::client::Client;

use crate::support::{
    Broker, answer,
    chat::{Person, ask, error_text},
    faults, get, next, next_of_type, post, posting, reply, until, within,
};

/// A command for later, given at once; status and body of the answer.
async fn queue(client: &Client, target: impl serde::Serialize) -> (u16, Value) {
    let body = json!({ "target": target, "method": "GET", "url": "/", "deliver_within_secs": 604_800 });
    let request = client.request(Method::POST, "/api/commands").header("Prefer", "respond-async");
    let (status, body) = answer(request.json(&body)).await;
    (status.as_u16(), body)
}

fn names(body: &Value, limit: &str) -> bool {
    body["detail"].as_str().is_some_and(|detail| detail.contains(&format!("({limit})")))
}

#[tokio::test]
async fn a_user_who_queues_as_much_as_it_may_keeps_nobody_from_commanding() {
    let mut broker = Broker::with()
        .alone("limits of commands are per node")
        .set("LIMITS__QUEUED_COMMANDS", "10")
        .set("LIMITS__QUEUED_COMMANDS_PER_TARGET", "3")
        .set("LIMITS__PENDING_COMMANDS", "1")
        .start()
        .await;
    let (admin, ulla) = (broker.admin().await, broker.user("ulla", "user").await);
    let (_, me) = get(&ulla, "/api/users/me").await;
    for _ in 0..3 {
        assert_eq!(queue(&ulla, &me["id"]).await.0, 202);
    }
    let (status, body) = queue(&ulla, &me["id"]).await;
    assert!(status == 429 && names(&body, "limits.queued_commands_per_target"), "{status} {body}");
    // neither for later
    let (_, absent) = broker.device("absent").await;
    assert_eq!(queue(&admin, absent.uuid).await.0, 202);
    // nor for now
    let (_, device, mut socket) = broker.connected("device").await;
    let path = format!("/send-command/{}", device.uuid);
    let asking = posting(&admin, &path, &json!({ "method": "GET", "url": "/" }));
    reply(&mut socket, json!(1)).await;
    assert_eq!(within(asking).await.unwrap().0, 200);
    // what was queued counts also after the server's death
    let setup = broker.kill().await;
    let broker = setup.start().await;
    let ulla = broker.login("ulla", "password of ulla").await;
    let (status, body) = queue(&ulla, &me["id"]).await;
    assert!(status == 429 && names(&body, "limits.queued_commands_per_target"), "{status} {body}");
}

#[tokio::test]
async fn many_commands_at_once_do_not_exceed_the_limits_of_commands() {
    let mut broker = Broker::with()
        .alone("limits of commands are per node")
        .set("LIMITS__QUEUED_COMMANDS_PER_IDENTITY", "7")
        .set("LIMITS__PENDING_COMMANDS_PER_IDENTITY", "5")
        .start()
        .await;
    let admin = broker.admin().await;
    let (_, absent) = broker.device("absent").await;
    let (_, device, mut socket) = broker.connected("device").await;
    let queueing = (0..40).map(|_| {
        let (admin, uuid) = (admin.clone(), absent.uuid);
        tokio::spawn(async move { queue(&admin, uuid).await })
    });
    let mut taken = 0;
    for queued in queueing.collect::<Vec<_>>() {
        let (status, body) = within(queued).await.unwrap();
        match status {
            202 => taken += 1,
            429 => assert!(names(&body, "limits.queued_commands_per_identity"), "{body}"),
            other => panic!("{other} {body}"),
        }
    }
    assert_eq!(taken, 7);
    let (_, list) = get(&admin, &format!("/api/commands?target={}", absent.uuid)).await;
    assert_eq!(list["count"], 7, "what was refused is in no record");

    let path = format!("/send-command/{}", device.uuid);
    let request = json!({ "method": "GET", "url": "/" });
    let mut asking: FuturesUnordered<_> = (0..40).map(|_| posting(&admin, &path, &request)).collect();
    let mut sent = Vec::new();
    for _ in 0..5 {
        sent.push(next(&mut socket).await);
    }
    // the device answers only when all others were refused: an answer makes room for a request that arrives late
    for _ in 0..35 {
        let (status, body) = within(asking.next()).await.unwrap().unwrap();
        assert!(status == 429 && names(&body, "limits.pending_commands_per_identity"), "{status} {body}");
    }
    for command in sent {
        let reply = json!({ "command_id": command["command_id"], "result": 1 });
        socket.send_text(reply.to_string()).await.unwrap();
    }
    for _ in 0..5 {
        assert_eq!(within(asking.next()).await.unwrap().unwrap().0, 200);
    }
}

#[tokio::test]
async fn a_command_has_no_more_targets_than_it_may() {
    let mut broker = Broker::start().await;
    let (admin, ulla) = (broker.admin().await, broker.user("ulla", "user").await);
    let body = |targets: usize| json!({ "targets": vec![1; targets], "method": "GET", "url": "/" });
    for (client, most) in [(&admin, 10_000), (&ulla, 16)] {
        let (status, body) = post(client, "/api/commands", body(most + 1)).await;
        assert_eq!((status, faults(&body)), (422, vec!["too_long body.targets".to_owned()]));
    }
    assert_eq!(post(&admin, "/api/commands", body(16)).await.0, 200);
}

#[tokio::test]
async fn topics_that_are_created_at_once_are_no_more_than_a_client_may_create() {
    let broker = Broker::with().set("LIMITS__TOPICS_PER_CLIENT", "5").start().await;
    let (client, _) = broker.device("device").await;
    let creating = (0..40).map(|n| posting(&client, "/topics/create", &json!({ "topic_id": format!("t{n}") })));
    let mut statuses = Vec::new();
    for created in creating.collect::<Vec<_>>() {
        statuses.push(within(created).await.unwrap().0);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 5, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 35, "{statuses:?}");
    assert_eq!(get(&client, "/topics").await.1["count"], 5);
}

#[tokio::test]
async fn rooms_and_subscriptions_that_are_asked_for_at_once_are_no_more_than_a_client_may_have() {
    let broker =
        Broker::with().set("LIMITS__ROOMS_PER_USER", "3").set("LIMITS__SUBSCRIPTIONS_PER_CLIENT", "3").start().await;
    let (client, _) = broker.device("device").await;
    for n in 0..20 {
        assert_eq!(post(&client, "/topics/create", json!({ "topic_id": format!("t{n}") })).await.0, 200);
    }
    for path in ["/api/rooms/", "/topics/subscribe"] {
        let asking =
            (0..20).map(|n| posting(&client, path, &json!({ "name": n.to_string(), "topic_id": format!("t{n}") })));
        let mut statuses = Vec::new();
        for asked in asking.collect::<Vec<_>>() {
            statuses.push(within(asked).await.unwrap().0);
        }
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 3, "{path}: {statuses:?}");
        assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 17, "{path}: {statuses:?}");
    }
}

#[tokio::test]
async fn what_an_identity_has_stored_is_bounded_per_minute() {
    // what was spent is given again as time goes by: all of a second message only after most of a minute
    let broker = Broker::with()
        .alone("limits.stored_bytes_per_minute is per node")
        .set("LIMITS__STORED_BYTES_PER_MINUTE", "31000")
        .start()
        .await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    bert.join(room).await;
    let mut socket = anna.chat_in(room).await;
    let content = "x".repeat(30_000);
    anna.say(room, &content).await;
    next_of_type(&mut socket, "message").await;
    let path = format!("/api/rooms/{room}/messages");
    let body = json!({ "content": content, "room_id": room });
    let response = within(anna.client.request(Method::POST, &path).json(&body).send()).await.unwrap();
    assert_eq!(response.status(), 429);
    assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    let refused: Value = response.json().await.unwrap();
    assert!(names(&refused, "limits.stored_bytes_per_minute"), "{refused}");
    let error = ask(&mut socket, json!({ "content": content, "room_id": room })).await;
    assert!(error_text(&error).contains("limits.stored_bytes_per_minute"), "{error}");
    // little is stored still, and others have budgets of their own
    anna.say(room, "short").await;
    bert.say(room, &content).await;
}

#[tokio::test]
async fn an_identity_changes_no_more_per_second_than_it_may_and_operators_are_free() {
    let mut broker = Broker::with().set("LIMITS__REQUESTS_PER_SECOND", "1").start().await;
    let (client, _) = broker.device("device").await;
    assert_eq!(post(&client, "/topics/create", json!({ "topic_id": "t" })).await.0, 200);
    // so many at once that they are more than one per second on any machine
    until(async || {
        let asking = (0..20).map(|_| post(&client, "/topics/subscribe", json!({ "topic_id": "t" })));
        let answers = futures_util::future::join_all(asking).await;
        answers.iter().any(|(status, body)| *status == 429 && names(body, "limits.requests_per_second"))
    })
    .await;
    // reading is free
    assert_eq!(get(&client, "/topics").await.0, 200);
    let admin = broker.admin().await;
    for n in 0..20 {
        assert_eq!(
            post(&admin, "/api/gateways", json!({ "name": "g", "address": "tcp://127.0.0.1:9", "id": n })).await.0,
            200
        );
    }
}

#[tokio::test]
async fn being_added_to_rooms_leaves_ones_own_quota_alone_until_one_joins() {
    let broker = Broker::with().set("LIMITS__ROOMS_PER_USER", "10").start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let (first, second) = (anna.private_room("first").await, anna.private_room("second").await);
    let add = |room: i64| (format!("/api/rooms/{room}/members"), json!({ "user_id": bert.id() }));
    let (path, body) = add(first);
    anna.post(&path, body).await;
    // one adds only so many
    let (path, body) = add(second);
    let (status, refused) = anna.call(Method::POST, &path, Some(body.clone())).await;
    assert_eq!(status, 429, "{refused}");
    // who is added is a member at once, and has all its own places
    bert.say(first, "hello").await;
    for n in 0..10 {
        bert.room(&format!("room {n}")).await;
    }
    let (status, _) = bert.call(Method::POST, "/api/rooms/", Some(json!({ "name": "one more" }))).await;
    assert_eq!(status, 429);
    // joining takes a place, if there is one, and frees the one among those it was added to
    bert.join(first).await;
    let (status, _) = anna.call(Method::POST, &path, Some(body.clone())).await;
    assert_eq!(status, 429);
    let mine = bert.get("/api/rooms/?limit=1000").await;
    let public = mine.as_array().unwrap().iter().find(|room| room["name"] == "room 0").unwrap()["id"].as_i64().unwrap();
    anna.join(public).await;
    bert.leave(public).await;
    bert.join(first).await;
    anna.post(&path, body).await;
}

#[tokio::test]
async fn rooms_that_are_created_and_left_count_as_long_as_nobody_is_in_them() {
    let broker = Broker::with().set("LIMITS__ROOMS_PER_USER", "2").start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let mut rooms = Vec::new();
    for n in 0..2 {
        rooms.push(anna.room(&format!("room {n}")).await);
        anna.leave(rooms[n]).await;
    }
    let body = Some(json!({ "name": "one more" }));
    assert_eq!(anna.call(Method::POST, "/api/rooms/", body.clone()).await.0, 429);
    bert.join(rooms[0]).await;
    assert_eq!(anna.call(Method::POST, "/api/rooms/", body).await.0, 200);
}

#[tokio::test]
async fn lists_go_on_page_by_page() {
    let broker = Broker::with().set("LIMITS__TOPICS_PER_CLIENT", "0").start().await;
    let (client, _, _socket) = broker.connected("device").await;
    let _others = (broker.connected("b").await, broker.connected("c").await);
    for n in 0..5 {
        assert_eq!(post(&client, "/topics/create", json!({ "topic_id": format!("t{n}") })).await.0, 200);
    }
    let pages = async |path: &str, list: &str| {
        let (mut pages, mut cursor) = (Vec::new(), String::new());
        loop {
            let (status, page) = get(&client, &format!("{path}?limit=2{cursor}")).await;
            assert_eq!(status, 200, "{page}");
            let entries = &page[list];
            pages.push(entries.as_array().map_or_else(|| entries.as_object().unwrap().len(), Vec::len));
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return pages,
            }
            assert_eq!(page["truncated"], true);
        }
    };
    assert_eq!(pages("/topics", "topics").await, [2, 2, 1]);
    assert_eq!(pages("/clients", "clients").await, [2, 1]);
    let (_, whole) = get(&client, "/topics").await;
    assert!(whole["count"] == 5 && whole.get("truncated").is_none() && whole.get("cursor").is_none(), "{whole}");
    for query in ["limit=0", "limit=1001", "limit=x", "cursor=!"] {
        assert_eq!(get(&client, &format!("/topics?{query}")).await.0, 422, "{query}");
    }
}

#[tokio::test]
async fn pages_are_cut_at_a_mebibyte_and_lose_nothing() {
    let mut broker = Broker::with().set("LIMITS__STORED_BYTES_PER_MINUTE", "0").start().await;
    let anna = Person::user(&broker, "anna").await;
    let room = anna.room("lobby").await;
    let content = "x".repeat(30_000);
    for _ in 0..50 {
        anna.say(room, &content).await;
    }
    let path = format!("/api/rooms/{room}/messages?after_id=0&limit=1000");
    let response = within(anna.client.request(Method::GET, &path).send()).await.unwrap();
    let link = response.headers()["link"].to_str().unwrap();
    assert!(link.starts_with(&format!("<{path}&cursor=")), "{link}");
    assert!(within(response.bytes()).await.unwrap().len() < 1_200_000);
    assert_eq!(anna.history(room).await.len(), 50);

    let admin = broker.admin().await;
    let (_, absent) = broker.device("absent").await;
    for _ in 0..5 {
        let body = json!({ "target": absent.uuid, "method": "GET", "url": "/", "deliver_within_secs": 600, "data": "x".repeat(400_000) });
        let request = admin.request(Method::POST, "/api/commands").header("Prefer", "respond-async");
        assert_eq!(answer(request.json(&body)).await.0.as_u16(), 202);
    }
    let (mut seen, mut cursor) = (0, String::new());
    loop {
        let (status, page) = get(&admin, &format!("/api/commands{cursor}")).await;
        assert_eq!(status, 200, "{page}");
        assert!(page["count"].as_u64().unwrap() <= 2, "{}", page["count"]);
        seen += page["count"].as_u64().unwrap();
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("?cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, 5);
}

#[tokio::test]
async fn of_many_logins_of_a_client_the_oldest_end() {
    let broker = Broker::with().set("LIMITS__REGISTRATIONS_PER_MINUTE", "0").start().await;
    let client = broker.client();
    let mut refresh_tokens = Vec::new();
    for _ in 0..101 {
        let body = json!({ "name": "device", "uuid": "00000000-0000-4000-8000-00000000000a" });
        let (status, body) = post(&client, "/register", body).await;
        assert_eq!(status, 200, "{body}");
        refresh_tokens.push(body["refresh_token"].clone());
    }
    for (index, status) in [(0, 401), (1, 200), (100, 200)] {
        let body = json!({ "refresh_token": refresh_tokens[index] });
        assert_eq!(post(&client, "/auth/refresh", body).await.0, status, "login {index}");
    }
}

#[tokio::test]
async fn reads_of_one_identity_take_turns_and_are_all_answered() {
    let mut broker = Broker::with().set("LIMITS__READS_PER_IDENTITY", "1").start().await;
    let admin = broker.admin().await;
    let nobody = broker.client();
    for client in [&admin, &nobody] {
        // each waits for half a second, which may be too short for twenty
        until(async || {
            let reads = (0..20).map(|_| get(client, "/topics"));
            let answers = within(futures_util::future::join_all(reads)).await;
            assert!(answers.iter().all(|(status, _)| matches!(status, 200 | 429)), "{answers:?}");
            answers.iter().all(|(status, _)| *status == 200)
        })
        .await;
    }
    // a handshake is no read, and a socket holds none up
    let (_socket, again) = (within(admin.connect("/ws/auth")).await.unwrap(), get(&admin, "/api/users/me").await);
    assert_eq!(again.0, 200, "{}", again.1);
}

#[tokio::test]
async fn an_address_changes_no_more_per_second_than_it_may() {
    let settings = Broker::with().set("LIMITS__REQUESTS_PER_SECOND_PER_ADDRESS", "1");
    let broker = settings.set("HTTP__TRUSTED_PROXIES", "127.0.0.1").start().await;
    let client = broker.client();
    let ask = async |method: Method, path: &str, address: &str| {
        let request = client.request(method, path).header("x-forwarded-for", address);
        within(request.json(&json!({})).send()).await.unwrap()
    };
    let changes = [
        (Method::POST, "/register"),
        (Method::POST, "/auth/login"),
        (Method::POST, "/topics/create"),
        (Method::POST, "/send-command/1"),
        (Method::PUT, "/devices/1"),
        (Method::PATCH, "/api/users/1"),
        (Method::DELETE, "/topics/t"),
    ];
    for (n, (method, path)) in changes.into_iter().enumerate() {
        let address = format!("203.0.113.{n}");
        // what is refused for another reason counts, too
        let mut limited = ask(method.clone(), path, &address).await;
        until(async || {
            limited = ask(method.clone(), path, &address).await;
            limited.status() == 429
        })
        .await;
        let seconds: u64 = limited.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=2).contains(&seconds), "{method} {path}: {seconds}");
        let body: Value = limited.json().await.unwrap();
        assert!(names(&body, "limits.requests_per_second_per_address"), "{method} {path}: {body}");
        for _ in 0..5 {
            assert_eq!(ask(Method::GET, "/topics", &address).await.status(), 200, "reading is free");
        }
        until(async || ask(method.clone(), path, &address).await.status() != 429).await;
    }
    assert_ne!(ask(Method::POST, "/register", "203.0.113.100").await.status(), 429, "others have budgets of their own");
    // the addresses of one /64 share a budget: of those that ask for the first time, one is refused
    let mut host = 0;
    until(async || {
        host += 1;
        ask(Method::POST, "/register", &format!("2001:db8:0:1::{host:x}")).await.status() == 429
    })
    .await;
    assert_ne!(ask(Method::POST, "/register", "2001:db8:0:2::1").await.status(), 429);
}
