//! Lists, page by page, while entries come and go.

use reqwest::{Method, header};
use serde_json::{Value, json};
use switchboard::client::Client;
use uuid::Uuid;

use super::support::{Broker, answer, chat::Person, delete, get, next, next_of_type, post, until, within};

/// A page's entries, named by what is unique, and the address of the next page.
async fn page(client: &Client, path: &str, list: &str) -> (Vec<String>, Option<String>) {
    let response = within(client.request(Method::GET, path).send()).await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    let link = response.headers().get(header::LINK).map(|link| link.to_str().unwrap().to_owned());
    let body: Value = within(response.json()).await.unwrap();
    let next = if body.is_array() {
        link.map(|link| link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned())
    } else {
        assert_eq!(body["truncated"] == true, body["cursor"].is_string(), "{body}");
        body["cursor"].as_str().map(|cursor| {
            let (path, query) = path.split_once('?').unwrap();
            let kept = query.split('&').filter(|one| !one.starts_with("cursor=")).collect::<Vec<_>>().join("&");
            format!("{path}?{kept}&cursor={cursor}")
        })
    };
    let entries = if body.is_array() { &body } else { &body[list] };
    let name = |entry: &Value| {
        let known = ["id", "uuid", "user_id"].into_iter().find_map(|field| entry.get(field));
        known.map_or_else(|| entry.as_str().unwrap().to_owned(), Value::to_string).trim_matches('"').to_owned()
    };
    let entries: Vec<_> = match entries {
        Value::Array(entries) => entries.iter().map(name).collect(),
        Value::Object(entries) => entries.keys().cloned().collect(),
        other => panic!("{other}"),
    };
    if let Some(count) = body.get("count") {
        assert_eq!(count, entries.len(), "{path}");
    }
    (entries, next)
}

/// Walks a list to its end. After each page but the last, `between` gets what was seen last. Whatever it does, no entry may come
/// twice, and these must all come.
async fn walk<T: ToString>(
    client: &Client,
    path: &str,
    list: &str,
    expected: &[T],
    mut between: impl AsyncFnMut(usize, &str),
) {
    let (mut seen, mut pages) = (Vec::new(), 0);
    let mut address = Some(path.to_owned());
    while let Some(path) = address {
        let (entries, next) = page(client, &path, list).await;
        assert!(!entries.is_empty(), "{path}");
        seen.extend(entries);
        address = next;
        if address.is_some() {
            between(pages, seen.last().unwrap()).await;
        }
        pages += 1;
    }
    assert!(pages > 1, "{path}");
    for expected in expected {
        assert!(seen.contains(&expected.to_string()), "{path}: {} in {seen:?}", expected.to_string());
    }
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), count, "{path}: {seen:?}");
}

#[tokio::test]
async fn users_and_rooms_are_listed_to_the_end_while_others_come_and_go() {
    let mut broker = Broker::start().await;
    let admin = broker.admin().await;
    let mut users = Vec::new();
    for n in 0..8 {
        users.push(Person::user(&broker, &format!("user{n}")).await.id());
    }
    walk(&admin, "/api/users/?limit=3", "", &users[3..], async |n, _| {
        // one that was seen goes, another one comes
        assert_eq!(delete(&admin, &format!("/api/users/{}", users[n])).await.0, 200);
        Person::user(&broker, &format!("new{n}")).await;
        assert!(n < 3);
    })
    .await;

    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let (mut hidden, mut rooms) = (Vec::new(), Vec::new());
    for n in 0..4 {
        hidden.push(bert.private_room(&format!("hidden {n}")).await);
        bert.post(&format!("/api/rooms/{}/members", hidden[n]), json!({ "user_id": anna.id() })).await;
        rooms.push(bert.room(&format!("room {n}")).await);
    }
    walk(&anna.client, "/api/rooms/?limit=2&skip=0", "", &rooms, async |n, _| {
        if let Some(hidden) = hidden.get(n) {
            // the room is one of the caller's list no more
            anna.leave(*hidden).await;
        }
        if n == 0 {
            anna.room("new").await;
        }
    })
    .await;
}

#[tokio::test]
async fn members_messages_and_presence_are_listed_to_the_end_while_others_come_and_go() {
    let broker = Broker::start().await;
    let anna = Person::user(&broker, "anna").await;
    let room = anna.room("lobby").await;
    let (mut people, mut sockets) = (Vec::new(), Vec::new());
    for n in 0..6 {
        let person = Person::user(&broker, &format!("person{n}")).await;
        person.join(room).await;
        sockets.push(person.room_socket(room).await);
        people.push(person);
    }
    let ids: Vec<_> = people.iter().skip(2).map(Person::id).collect();
    // who comes again is behind all others
    walk(&anna.client, &format!("/api/rooms/{room}/members?limit=2"), "members", &ids, async |n, _| {
        if n == 0 {
            people[0].leave(room).await;
            Person::user(&broker, "late").await.join(room).await;
        }
    })
    .await;
    let presence = format!("/api/rooms/{room}/presence?limit=2");
    let ids: Vec<_> = people.iter().skip(2).map(Person::id).collect();
    walk(&anna.client, &presence, "users", &ids, async |n, _| {
        if n == 0 {
            sockets.remove(0);
            sockets.push(anna.room_socket(room).await);
            let present = async || anna.get(&format!("/api/rooms/{room}/presence")).await["count"].clone();
            until(async || present().await == 6).await;
            assert_eq!(anna.get(&presence).await["total"], 6);
        }
    })
    .await;

    let mut messages = Vec::new();
    for n in 0..7 {
        messages.push(anna.say(room, &n.to_string()).await["id"].clone());
    }
    let path = format!("/api/rooms/{room}/messages");
    for query in ["limit=2", "limit=2&skip=0", "limit=3&before_id=1000"] {
        walk(&anna.client, &format!("{path}?{query}"), "", &messages, async |_, _| {
            anna.say(room, "while the pages are read").await;
        })
        .await;
    }
    let mut more = 3;
    walk(&anna.client, &format!("{path}?after_id=0&limit=4"), "", &messages, async |_, _| {
        if more > 0 {
            more -= 1;
            anna.say(room, "while the pages are read").await;
        }
    })
    .await;
    // the next page goes on in the same direction, in the same order within itself
    let (first, link) = page(&anna.client, &format!("{path}?limit=2&after_id=0"), "").await;
    let link = link.unwrap();
    assert!(link.starts_with(&format!("{path}?limit=2&after_id=0&cursor=")), "{link}");
    let (second, _) = page(&anna.client, &link, "").await;
    assert_eq!([first, second].concat(), messages.iter().take(4).map(Value::to_string).collect::<Vec<_>>());
    // a page without entries has no end to go on from
    assert_eq!(page(&anna.client, &format!("{path}?limit=0"), "").await, (Vec::new(), None));
}

#[tokio::test]
async fn devices_topics_and_clients_are_listed_to_the_end_while_others_come_and_go() {
    let mut broker = Broker::start().await;
    let operator = broker.user("olga", "operator").await;
    let uuid = |n: u128| Uuid::from_u128(n << 64);
    let connected = async |n: u128, name: &str| {
        let mut client = broker.client();
        within(client.register_device(name, uuid(n))).await.unwrap();
        let mut socket = within(client.connect("/ws")).await.unwrap();
        next_of_type(&mut socket, "connection").await;
        (client, socket)
    };
    let (mut devices, topics) = (Vec::new(), ["b", "c", "d", "e", "f"]);
    for n in 10..16 {
        // some of one name
        devices.push(connected(n, ["x", "y", "z"][n as usize % 3]).await);
    }
    for topic in topics {
        assert_eq!(post(&operator, "/topics/create", json!({ "topic_id": topic })).await.0, 200);
        for (client, _) in &devices {
            assert_eq!(post(client, "/topics/subscribe", json!({ "topic_id": topic })).await.0, 200);
        }
    }
    let kept: Vec<_> = (12..16).map(uuid).collect();
    let mut new = 9;
    for (path, list) in [("/clients?limit=2", "clients"), ("/topics/b?limit=2", "subscribers")] {
        walk(&operator, path, list, &kept, async |n, _| {
            if n == 0 {
                // the first of those who were seen goes, another one comes before them
                drop(devices.remove(0));
                let (client, socket) = connected(new, "w").await;
                assert_eq!(post(&client, "/topics/subscribe", json!({ "topic_id": "b" })).await.0, 200);
                devices.insert(0, (client, socket));
                new -= 1;
                until(async || get(&operator, "/topics/b").await.1["subscriber_count"] == 6).await;
                until(async || get(&operator, "/clients").await.1["count"] == 6).await;
            }
        })
        .await;
    }
    walk(&operator, "/topics?limit=2", "topics", &topics[1..], async |n, last| {
        if n == 0 {
            assert_eq!(last, "c");
            assert_eq!(delete(&operator, "/topics/b").await.0, 200);
            assert_eq!(post(&operator, "/topics/create", json!({ "topic_id": "a" })).await.0, 200);
        }
    })
    .await;
    let listed = ["w", "x", "y", "z"].map(async |name| get(&operator, &format!("/devices?search={name}")).await.1);
    let mut kept = Vec::new();
    for list in listed {
        let list = list.await;
        kept.extend(list["devices"].as_array().unwrap().iter().map(|one| one["uuid"].as_str().unwrap().to_owned()));
    }
    let first = kept.remove(0);
    walk(&operator, "/devices?limit=1&skip=0", "devices", &kept, async |n, last| {
        if n == 0 {
            assert_eq!(last, first);
            assert_eq!(delete(&operator, &format!("/devices/{first}")).await.0, 200);
            broker.client().register_device("a", uuid(1)).await.unwrap();
            broker.client().register_device("b", uuid(2)).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn gateways_and_commands_are_listed_to_the_end_while_others_come_and_go() {
    let mut broker = Broker::start().await;
    let operator = broker.user("olga", "operator").await;
    let create = async |id: i64| {
        let body = json!({ "id": id, "name": "x", "address": "tcp://127.0.0.1:1" });
        assert_eq!(post(&operator, "/api/gateways", body).await.0, 200);
    };
    for id in [8, 9, 10, 11, 100] {
        create(id).await;
    }
    walk(&operator, "/api/gateways?limit=2", "gateways", &[9, 10, 11, 100], async |n, _| {
        if n == 0 {
            assert_eq!(delete(&operator, "/api/gateways/8").await.0, 200);
            create(1).await;
        }
    })
    .await;
    let (_, all) = get(&operator, "/api/gateways").await;
    assert!(all["count"] == 5 && all.get("cursor").is_none() && all.get("truncated").is_none(), "{all}");

    let mut targets = Vec::new();
    for n in 0..5 {
        targets.push(broker.device(&format!("device {n}")).await.1.uuid);
    }
    let command = async || {
        let (status, command) =
            post(&operator, "/api/commands", json!({ "targets": targets, "method": "GET", "url": "/" })).await;
        assert_eq!(status, 200, "{command}");
        command["id"].as_str().unwrap().to_owned()
    };
    let commands = [command().await, command().await, command().await, command().await];
    walk(&operator, "/api/commands?limit=2", "commands", &commands, async |_, _| {
        command().await;
    })
    .await;
    let path = format!("/api/commands/{}?limit=2", commands[0]);
    walk(&operator, &path, "targets", &targets, async |_, _| {}).await;
    // what this cursor was called before
    let (_, list) = get(&operator, "/api/commands?limit=2").await;
    assert_eq!(list["cursor"], list["next_cursor"]);
    let (_, list) = get(&operator, "/api/commands").await;
    assert!(list["next_cursor"].is_null() && list.get("cursor").is_none(), "{list}");
}

#[tokio::test]
async fn rooms_with_sockets_are_counted_page_by_page() {
    let broker = Broker::with().alone("/connections is per node").start().await;
    let anna = Person::user(&broker, "anna").await;
    let (mut rooms, mut sockets) = (Vec::new(), Vec::new());
    for n in 0..5 {
        rooms.push(anna.room(&n.to_string()).await);
        sockets.push(anna.room_socket(rooms[n]).await);
    }
    let nobody = broker.client();
    walk(&nobody, "/connections?limit=2", "connections_by_room", &rooms[1..], async |n, _| {
        if n == 0 {
            sockets.remove(0);
            until(async || get(&nobody, "/connections").await.1["total_connections"] == 4).await;
        }
    })
    .await;
}

#[tokio::test]
async fn every_list_takes_a_limit_and_a_cursor_and_declares_them() {
    let mut broker = Broker::start().await;
    let admin = broker.admin().await;
    let document: Value = within(broker.client().get("/openapi.json")).await.unwrap();
    let (_, device, mut socket) = broker.connected("device").await;
    let (_, topic) = post(&admin, "/topics/create", json!({ "topic_id": "t" })).await;
    let (_, room) = post(&admin, "/api/rooms/", json!({ "name": "r" })).await;
    let (_, gateway) = post(&admin, "/api/gateways", json!({ "name": "g", "address": "tcp://127.0.0.1:1" })).await;
    let body = json!({ "target": device.uuid, "method": "GET", "url": "/" });
    let command = {
        let asking = super::support::posting(&admin, "/api/commands", &body);
        let asked = next(&mut socket).await;
        socket.send_text(json!({ "command_id": asked["command_id"], "result": 1 }).to_string()).await.unwrap();
        within(asking).await.unwrap().1
    };
    let concrete = |path: &str| {
        let id = if path.starts_with("/api/gateways") { &gateway["id"] } else { &command["id"] };
        path.replace("{id}", id.to_string().trim_matches('"'))
            .replace("{room_id}", &room["id"].to_string())
            .replace("{topic_id}", topic["topic_id"].as_str().unwrap())
            .replace("{device_id}", &device.uuid.to_string())
    };
    let mut lists = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let declared = |name: &str| {
            let all = item["get"]["parameters"].as_array().into_iter().flatten();
            all.into_iter().any(|parameter| parameter["name"] == name && parameter["in"] == "query")
        };
        // an offset is the cursor of a history
        assert_eq!(declared("limit"), declared("cursor") || declared("since_offset"), "{path}");
        let answer_is_array =
            item["get"]["responses"]["200"]["content"]["application/json"]["schema"]["type"] == "array";
        let has_link = item["get"]["responses"]["200"]["headers"]["Link"].is_object();
        assert_eq!(answer_is_array, has_link, "{path}");
        // topics that are called like these routes are not there
        let routes = ["create", "publish", "subscribe", "unsubscribe"].map(|route| format!("/topics/{route}"));
        if !declared("cursor") || routes.contains(path) {
            continue;
        }
        let address = concrete(path);
        for query in ["limit=1", "limit=1000"] {
            assert_eq!(get(&admin, &format!("{address}?{query}")).await.0, 200, "{address}?{query}");
        }
        for query in ["limit=-1", "limit=1001", "limit=x", "cursor=!", "cursor=AAAA", "cursor=%00"] {
            let status = answer(admin.request(Method::GET, &format!("{address}?{query}"))).await.0;
            assert_eq!(status, 422, "{address}?{query}");
        }
        // the rooms of the systems before take it
        let least = if path.starts_with("/api/rooms") && !path.ends_with("/presence") { 200 } else { 422 };
        assert_eq!(get(&admin, &format!("{address}?limit=0")).await.0, least, "{address}");
        lists.push(path.as_str());
    }
    let expected = [
        "/api/audit",
        "/api/commands",
        "/api/commands/{id}",
        "/api/connections",
        "/api/gateways",
        "/api/gateways/{id}/history",
        "/api/messages",
        "/api/rooms/",
        "/api/rooms/{room_id}/members",
        "/api/rooms/{room_id}/messages",
        "/api/rooms/{room_id}/presence",
        "/api/users/",
        "/clients",
        "/connections",
        "/devices",
        "/devices/{device_id}/queue",
        "/topics",
        "/topics/{topic_id}",
    ];
    lists.sort_unstable();
    assert_eq!(lists, expected);
}

#[tokio::test]
async fn pages_of_other_origins_may_read_where_a_list_goes_on() {
    let broker = Broker::start().await;
    let request = broker.client().request(Method::GET, "/clients").header("origin", "http://localhost:3000");
    let response = within(request.send()).await.unwrap();
    let exposed = response.headers()["access-control-expose-headers"].to_str().unwrap().to_lowercase();
    assert!(exposed.split(',').any(|one| one.trim() == "link"), "{exposed}");
}
