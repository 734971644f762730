//! Nodes of different releases: those of the release before know the first version of envelopes alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock},
};

use reqwest::Method;
use serde_json::{Value, json};
use switchboard::client::{Client, Connection};
use uuid::Uuid;

use crate::{
    api::support::{
        Broker, ChangeBroker,
        chat::{self, Person, next_event},
        close_code, example, get, next, next_of_type, post, posting, reply, until, within,
    },
    nodes::{Shared, at, connect, device, knows, listed, send},
    schedule::history,
};

/// A node of a release that knows these versions of envelopes.
fn release(shared: &Shared, envelopes: &str) -> ChangeBroker {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| example("other-release"));
    let setup = shared.node().set("LIMITS__STORED_BYTES_PER_MINUTE", "0");
    setup.program(program).env("ENVELOPES", envelopes)
}

/// The versions of the envelopes between a node and each of these, as it shows them.
async fn versions(operator: &Client, nodes: &[&Broker]) -> Vec<Value> {
    let (status, cluster) = get(operator, "/api/cluster").await;
    assert_eq!(status, 200, "{cluster}");
    let shown = cluster["nodes"].as_array().unwrap();
    let version = |node: &&Broker| {
        let shown = shown.iter().find(|shown| node.url.ends_with(shown["address"].as_str().unwrap()));
        shown.unwrap_or_else(|| panic!("{} is not in {cluster}", node.url))["envelope_version"].clone()
    };
    nodes.iter().map(version).collect()
}

/// Sends each way between two nodes all that crosses them.
async fn everything_crosses(one: &Broker, two: &Broker, operator: &Client) {
    let (of_one, left, mut left_socket) = device("left", one).await;
    let (of_two, right, mut right_socket) = device("right", two).await;
    let mut everybody = [left.uuid, right.uuid];
    everybody.sort_unstable();
    for node in [one, two] {
        assert_eq!(listed(&node.client()).await, everybody);
    }
    of_one.create_topic("t").await.unwrap();
    let (status, created) = post(&of_one, "/topics/create", history::topic("kept")).await;
    assert_eq!(status, 200, "{created}");
    for client in [&of_one, &of_two] {
        client.subscribe("t").await.unwrap();
        client.subscribe("kept").await.unwrap();
    }
    for turn in 0..4 {
        let (sender, recipient, to, node) = if turn % 2 == 0 {
            (&mut left_socket, &mut right_socket, right.uuid, one)
        } else {
            (&mut right_socket, &mut left_socket, left.uuid, two)
        };
        assert_eq!(send(sender, to, "direct").await["type"], "sent");
        assert_eq!(next(recipient).await["content"], "direct");
        let msgid = format!("a{turn}");
        let frame = json!({ "to": to, "msgid": msgid, "content": "acknowledged", "acknowledge": true });
        sender.send_text(frame.to_string()).await.unwrap();
        assert_eq!(next(sender).await["status"], "pending_ack");
        assert_eq!(next(recipient).await["content"], "acknowledged");
        recipient.send_text(json!({ "type": "ack", "msgid": msgid }).to_string()).await.unwrap();
        next_of_type(recipient, "ack_received").await;
        assert_eq!(next_of_type(sender, "delivery_update").await["status"], "delivered");
        for topic in ["t", "kept"] {
            let frame = json!({ "topic_id": topic, "msgid": topic, "content": topic });
            sender.send_text(frame.to_string()).await.unwrap();
            assert_eq!(next(sender).await["message"], "Message sent to 1 subscribers");
            assert_eq!(next(recipient).await["content"], topic);
        }
        let request = json!({ "method": "GET", "url": "/status" });
        let asking = posting(&at(operator, node), &format!("/send-command/{to}"), &request);
        reply(recipient, json!(turn)).await;
        let (status, body) = within(asking).await.unwrap();
        assert_eq!((status, &body["response"]), (200, &json!(turn)), "{body}");
    }
    // both move to the other node
    for (client, node, socket) in [(&of_one, two, &mut left_socket), (&of_two, one, &mut right_socket)] {
        let newer = connect(client, node).await;
        assert_eq!(close_code(socket).await, 4409);
        *socket = newer;
    }
    assert_eq!(send(&mut left_socket, right.uuid, "moved").await["type"], "sent");
    assert_eq!(next(&mut right_socket).await["content"], "moved");
}

/// Two people at two nodes see what each says in a room.
async fn a_room_is_shared(one: &Broker, two: &Broker) {
    let (anna, bert) = (Person::user(one, "anna").await, Person::user(two, "bert").await);
    let room = anna.room("lobby").await;
    let mut of_anna = anna.chat_in(room).await;
    let mut of_bert = bert.chat_in(room).await;
    assert_eq!(next_event(&mut of_anna).await["type"], "user_joined");
    for (content, is_of_anna) in [("hello", true), ("again", false)] {
        let socket = if is_of_anna { &mut of_anna } else { &mut of_bert };
        chat::send(socket, json!({ "content": content, "room_id": room })).await;
        for socket in [&mut of_anna, &mut of_bert] {
            assert_eq!(next(socket).await["content"], content);
        }
    }
    let (_, present) = bert.call(Method::GET, &format!("/api/rooms/{room}/presence"), None).await;
    assert_eq!(present["count"], 2, "{present}");
}

#[tokio::test]
async fn a_node_works_beside_one_of_the_release_before_whichever_was_there_first() {
    for releases in [["1-1", "1-2"], ["1-2", "1-1"]] {
        let shared = Shared::start().await;
        let mut one = release(&shared, releases[0]).start().await;
        let two = release(&shared, releases[1]).start().await;
        let operator = one.admin().await;
        for (node, other) in [(&one, &two), (&two, &one)] {
            let operator = at(&operator, node);
            knows(&operator, 2).await;
            // the older one knows no other
            assert_eq!(versions(&operator, &[other]).await, [json!(1)]);
        }
        everything_crosses(&one, &two, &operator).await;
        a_room_is_shared(&one, &two).await;
    }
}

#[tokio::test]
async fn a_node_does_not_start_beside_one_that_it_has_no_version_in_common_with() {
    let shared = Shared::start().await;
    let mut old = release(&shared, "1-1").start().await;
    // it has its lease
    knows(&old.admin().await, 1).await;
    let arguments = ["serve", "--bind", "127.0.0.1:0"];
    let refused = tokio::task::spawn_blocking({
        let mut new = release(&shared, "2-3");
        move || new.run(&arguments, "")
    });
    let refused = refused.await.unwrap();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let address = old.url.strip_prefix("http://").unwrap();
    for part in [address, "the versions 1 to 1", "this program 2 to 3", "a version in between"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    // once it has ended, although its record is still there
    old.kill().await;
    until(async || !shared.is_served().await).await;
    release(&shared, "2-3").start().await;
}

#[tokio::test]
async fn a_node_that_appears_without_a_version_in_common_cannot_be_asked() {
    let mut shared = Shared::start().await;
    let mut old = release(&shared, "1-2").start().await;
    let operator = old.admin().await;
    knows(&operator, 1).await;
    // it cannot know of the other one
    shared.redis.kill().await;
    let new = release(&shared, "3-4").start().await;
    shared.redis.run().await;
    let of_new = at(&operator, &new);
    for (operator, nodes) in [(&operator, [&new]), (&of_new, [&old])] {
        until(async || {
            let (_, cluster) = get(operator, "/api/cluster").await;
            cluster["nodes"].as_array().unwrap().len() == 2
        })
        .await;
        assert_eq!(versions(operator, &nodes).await, [Value::Null]);
    }
    let (_, there, _socket) = device("there", &new).await;
    let (_, _, mut sender) = device("here", &old).await;
    until(async || send(&mut sender, there.uuid, "m").await["code"] == "cluster_unavailable").await;
    until(async || old.log().contains("no version of envelopes in common")).await;
    let shown = old.command(&["cluster", "--url", &old.url.clone()], "").stdout;
    assert!(shown.contains("none in common"), "{shown}");
    // until it ends
    new.kill().await;
    knows(&operator, 1).await;
    until(async || send(&mut sender, there.uuid, "m").await["code"] == "recipient_not_connected").await;
}

/// What all devices know together.
#[derive(Default)]
struct World {
    /// of the nodes that run
    urls: Mutex<Vec<String>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// nothing more is sent
    is_over: bool,
    /// acknowledged messages that were accepted, and those that have arrived
    accepted: BTreeSet<String>,
    arrived: BTreeSet<String>,
    /// publications to the topic with a history, by offset
    kept: BTreeMap<i64, String>,
}

/// Sends and receives at one node after the other.
async fn travel(client: Client, index: usize, devices: Arc<[Uuid]>, world: Arc<World>) {
    let (mut sent, mut attempts) = (0, index);
    loop {
        attempts += 1;
        let url = {
            let urls = world.urls.lock().unwrap();
            urls[attempts % urls.len()].clone()
        };
        let here = Client::new(&url).unwrap().with_token(client.token().unwrap());
        if let Ok(mut socket) = here.connect("/ws").await {
            while exchange(&mut socket, index, &mut sent, &devices, &world).await.is_some() {}
        }
        tokio::task::yield_now().await;
    }
}

/// Sends a message and a publication, and handles what comes up to their receipts. `None` when the socket has ended.
async fn exchange(
    socket: &mut Connection,
    index: usize,
    sent: &mut usize,
    devices: &[Uuid],
    world: &World,
) -> Option<()> {
    let to = devices[(index + 1 + *sent % (devices.len() - 1)) % devices.len()];
    let (message, publication) = (format!("a{index}-{sent}"), format!("k{index}-{sent}"));
    let is_over = world.state.lock().unwrap().is_over;
    let mut waiting = BTreeSet::new();
    if is_over {
        // others may still come
        socket.send_text(json!({ "type": "ping" }).to_string()).await.ok()?;
    } else {
        *sent += 1;
        waiting.extend([message.clone(), publication.clone()]);
        let frame = json!({ "to": to, "msgid": message, "content": 1, "acknowledge": true });
        socket.send_text(frame.to_string()).await.ok()?;
        let frame = json!({ "topic_id": "kept", "msgid": publication, "content": 1 });
        socket.send_text(frame.to_string()).await.ok()?;
    }
    loop {
        let frame = within(socket.next_frame()).await.ok()?;
        let msgid = frame["msgid"].as_str().unwrap_or_default().to_owned();
        match frame["type"].as_str() {
            Some("pong") => return Some(()),
            Some("sent") => drop(world.state.lock().unwrap().accepted.insert(msgid.clone())),
            Some("topic_sent") => {
                let offset = frame["offset"].as_i64().unwrap();
                world.state.lock().unwrap().kept.insert(offset, msgid.clone());
            }
            None if frame["topic_id"].is_null() && msgid.starts_with('a') => {
                world.state.lock().unwrap().arrived.insert(msgid.clone());
                let ack = json!({ "type": "ack", "msgid": msgid, "sender": frame["from"] });
                socket.send_text(ack.to_string()).await.ok()?;
                continue;
            }
            _ => {}
        }
        // an error is a receipt, too
        if waiting.remove(&msgid) && waiting.is_empty() {
            return Some(());
        }
    }
}

#[tokio::test]
async fn nodes_are_replaced_one_after_the_other_by_those_of_the_next_release_and_nothing_that_was_acknowledged_is_lost()
{
    const DEVICES: usize = 4;
    let shared = Shared::start().await;
    let (mut olds, mut news) = (Vec::new(), Vec::<Broker>::new());
    for _ in 0..3 {
        olds.push(release(&shared, "1-1").start().await);
    }
    let operator = olds[0].admin().await;
    let mut clients = Vec::new();
    for _ in 0..DEVICES {
        clients.push(olds[0].device("traveller").await);
    }
    assert_eq!(post(&clients[0].0, "/topics/create", history::topic("kept")).await.0, 200);
    for (client, _) in &clients {
        client.subscribe("kept").await.unwrap();
    }
    let world = Arc::new(World::default());
    let show = |olds: &[Broker], news: &[Broker]| {
        *world.urls.lock().unwrap() = olds.iter().chain(news).map(|node| node.url.clone()).collect();
    };
    show(&olds, &news);
    let uuids: Arc<[Uuid]> = clients.iter().map(|(_, device)| device.uuid).collect();
    let travellers: Vec<_> = clients
        .iter()
        .enumerate()
        .map(|(index, (client, _))| tokio::spawn(travel(client.clone(), index, uuids.clone(), world.clone())))
        .collect();
    let arrived = || world.state.lock().unwrap().arrived.len();
    while let Some(mut old) = olds.pop() {
        let before = arrived();
        until(async || arrived() > before + 20).await;
        show(&olds, &news);
        old.signal("TERM");
        assert_eq!(old.ended().await, Some(0));
        news.push(release(&shared, "1-2").start().await);
        show(&olds, &news);
        for node in olds.iter().chain(&news) {
            knows(&at(&operator, node), 3).await;
        }
        let before = arrived();
        until(async || arrived() > before + 20).await;
        for node in &news {
            let operator = at(&operator, node);
            assert_eq!(versions(&operator, &news.iter().collect::<Vec<_>>()).await, vec![json!(2); news.len()]);
            assert_eq!(versions(&operator, &olds.iter().collect::<Vec<_>>()).await, vec![json!(1); olds.len()]);
        }
    }
    until(async || {
        let mut state = world.state.lock().unwrap();
        state.is_over = true;
        state.accepted.is_subset(&state.arrived)
    })
    .await;
    for traveller in travellers {
        traveller.abort();
        drop(within(traveller).await);
    }
    let kept = history::all(&at(&clients[0].0, &news[0]), "kept").await;
    let state = world.state.lock().unwrap();
    assert!(!state.kept.is_empty());
    for (offset, msgid) in &state.kept {
        assert_eq!(kept.get(offset).map(|kept| &kept.0), Some(msgid), "offset {offset}");
    }
}
