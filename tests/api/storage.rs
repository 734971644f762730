//! The database on a disk that fills up, and who may read it.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use switchboard::client::Client;
use tempfile::TempDir;

use crate::support::{Broker, answer, get, next, next_of_type, post, posting, reply, until, within};

/// A small file system of its own.
struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// None, and a word about it, where this may not be done.
    fn mount(size: &str) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { dir }),
            refused => {
                eprintln!(
                    "\n*** NOT TESTED: a full disk, since no tmpfs can be mounted here (be root): {refused:?} ***\n"
                );
                None
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Takes all the space that there is but so much.
    fn fill_up_to(&self, left: usize) {
        let mut ballast = fs::File::create(self.path("ballast")).unwrap();
        let mut written = 0;
        while ballast.write_all(&[0; 4096]).is_ok() {
            written += 4096;
        }
        ballast.set_len(u64::try_from(written - left.min(written)).unwrap()).unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.path("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // lazily: a broker may be about to end
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

fn url(database: &Path) -> String {
    format!("sqlite:///{}", database.display())
}

/// Creates a topic that takes some pages of the database.
async fn create_topic(client: &Client, id: &str) -> (u16, Value) {
    let body = json!({ "topic_id": id, "metadata": { "about": "x".repeat(4000) } });
    post(client, "/topics/create", body).await
}

async fn topics(client: &Client) -> Vec<String> {
    let (status, list) = get(client, "/topics").await;
    assert_eq!(status, 200, "{list}");
    list["topics"].as_array().unwrap().iter().map(|topic| topic["id"].as_str().unwrap().to_owned()).collect()
}

#[actix_web::test]
async fn what_is_acknowledged_around_a_full_disk_is_stored() {
    let Some(disk) = SmallDisk::mount("8m") else { return };
    let mut broker = Broker::with()
        .env("DATABASE_URL", &url(&disk.path("switchboard.db")))
        .set("LIMITS__TOPICS_PER_CLIENT", "0")
        .set("STORAGE__MIN_FREE_BYTES", "0")
        .start()
        .await;
    let (device, _) = broker.device("writer").await;
    let user = json!({ "username": "somebody", "email": "somebody@example.org", "password": "a long password" });
    assert_eq!(post(&device, "/api/users/", user.clone()).await.0, 200);

    // the database rolls back by itself, then something is refused in the ordinary way, twice over
    let mut acknowledged = Vec::new();
    for round in 0..2 {
        disk.fill_up_to(0);
        let mut refused = None;
        for number in 0.. {
            let id = format!("full {round} {number}");
            match create_topic(&device, &id).await {
                (200, _) => acknowledged.push(id),
                other => {
                    refused = Some(other);
                    break;
                }
            }
        }
        let (status, body) = refused.unwrap();
        assert_eq!((status, &body["code"]), (503, &json!("storage_full")), "{body}");
        assert_eq!(post(&device, "/api/users/", user.clone()).await.0, 400);
        assert_eq!(create_topic(&device, "refused").await.0, 503);
        // it proves a write; a small one may fit in where a larger one did not
        until(async || {
            let (status, ready) = get(&device, "/readyz").await;
            assert!(status == 200 || ready["database"] == "full", "{ready}");
            status == 503
        })
        .await;

        disk.free();
        for number in 0..20 {
            let id = format!("free {round} {number}");
            let (status, body) = create_topic(&device, &id).await;
            assert_eq!(status, 200, "{body}");
            acknowledged.push(id);
        }
        until(async || get(&device, "/readyz").await.0 == 200).await;
    }

    acknowledged.sort();
    let elsewhere = broker.store().await.topics(None, None, 10_000, usize::MAX).await.unwrap();
    let mut stored: Vec<_> = elsewhere.0.iter().map(|topic| topic.id.as_str().to_owned()).collect();
    stored.sort();
    assert_eq!(stored, acknowledged, "as another process has it");
    let broker = broker.kill().await.start().await;
    let mut after = topics(&broker.client()).await;
    after.sort();
    assert_eq!(after, acknowledged, "after a restart");
}

#[actix_web::test]
async fn commands_that_find_the_disk_full_are_refused_as_all_else_that_is_stored() {
    let Some(disk) = SmallDisk::mount("8m") else { return };
    let mut broker = Broker::with()
        .env("DATABASE_URL", &url(&disk.path("switchboard.db")))
        .set("STORAGE__MIN_FREE_BYTES", "0")
        .start()
        .await;
    let admin = broker.admin().await;
    let (_, registered) = broker.device("device").await;
    disk.fill_up_to(0);
    let data = "x".repeat(100_000);
    let command =
        json!({ "target": registered.uuid, "method": "POST", "url": "/", "data": data, "deliver_within_secs": 60 });
    // the first ones may fit in; of those after a refusal nothing is tried
    let give = async || {
        let request = admin.request(reqwest::Method::POST, "/api/commands").header("prefer", "respond-async");
        answer(request.json(&command)).await
    };
    let mut refused = 0;
    until(async || {
        let (status, body) = give().await;
        if status != 202 {
            assert_eq!((status.as_u16(), &body["code"]), (503, &json!("storage_full")), "{body}");
            refused += 1;
        }
        refused == 5
    })
    .await;
    disk.free();
    until(async || give().await.0 == 202).await;
}

#[actix_web::test]
async fn a_room_that_can_not_store_a_message_shows_it_to_nobody() {
    let Some(disk) = SmallDisk::mount("8m") else { return };
    let mut broker = Broker::with()
        .env("DATABASE_URL", &url(&disk.path("switchboard.db")))
        .set("STORAGE__MIN_FREE_BYTES", "0")
        .start()
        .await;
    let user = broker.user("alice", "user").await;
    let (status, room) = post(&user, "/api/rooms/", json!({ "name": "lobby" })).await;
    assert_eq!(status, 200, "{room}");
    let path = format!("/api/rooms/{}/messages", room["id"]);
    let say = async |content: String| post(&user, &path, json!({ "content": content, "room_id": room["id"] })).await;

    disk.fill_up_to(0);
    let mut said = Vec::new();
    let refused = loop {
        let content = format!("{} {}", said.len(), "x".repeat(20_000));
        match say(content.clone()).await {
            (200, _) => said.push(content),
            (status, body) => break (status, body["code"].clone()),
        }
    };
    assert_eq!(refused, (503, json!("storage_full")));
    disk.free();
    let (status, body) = say("there is space again".to_owned()).await;
    assert_eq!(status, 200, "{body}");
    said.push("there is space again".to_owned());

    let broker = broker.kill().await.start().await;
    let user = broker.login("alice", "password of alice").await;
    let (_, messages) = get(&user, &format!("{path}?limit=1000")).await;
    let contents: Vec<_> = messages.as_array().unwrap().iter().map(|one| one["content"].as_str().unwrap()).collect();
    assert_eq!(contents, said);
}

#[actix_web::test]
async fn while_storage_is_nearly_full_what_passes_through_goes_on() {
    let Some(disk) = SmallDisk::mount("8m") else { return };
    let mut broker = Broker::with().env("DATABASE_URL", &url(&disk.path("switchboard.db"))).start().await;
    let admin = broker.admin().await;
    let (device, registered, mut socket) = broker.connected("device").await;
    let alice = broker.user("alice", "user").await;
    let (_, room) = post(&alice, "/api/rooms/", json!({ "name": "lobby" })).await;
    let mut chat = within(alice.connect(&format!("/ws/room/{}", room["id"]))).await.unwrap();
    next_of_type(&mut chat, "message_history").await;
    next_of_type(&mut chat, "user_joined").await;

    assert_eq!(create_topic(&device, "old").await.0, 200);

    // a twentieth of 8 MiB is more than that
    disk.fill_up_to(300_000);
    until(async || get(&admin, "/readyz").await.1["database"] == "nearly full").await;
    let (status, ready) = get(&admin, "/readyz").await;
    assert_eq!((status, &ready["status"]), (200, &json!("degraded")), "{ready}");
    let command = json!({ "target": registered.uuid, "method": "GET", "url": "/" });
    let user = json!({ "username": "new", "email": "new@example.org", "password": "a long password" });
    let new = json!({ "name": "new", "uuid": uuid::Uuid::new_v4() });
    for (path, body) in [
        ("/topics/create", json!({ "topic_id": "topic" })),
        ("/api/rooms/", json!({ "name": "another" })),
        ("/api/commands", command.clone()),
        ("/api/users/", user),
        ("/register", new),
    ] {
        let response = within(admin.request(reqwest::Method::POST, path).json(&body).send()).await.unwrap();
        assert!(response.headers().contains_key("retry-after"), "{path}");
        assert_eq!(response.status(), 503, "{path}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body, json!({ "detail": "Storage is nearly full", "code": "storage_full" }), "{path}");
    }
    chat.send_text(r#"{"content": "is there a place for this?"}"#).await.unwrap();
    let refused = next_of_type(&mut chat, "error").await;
    assert_eq!((&refused["code"], &refused["message"]), (&json!("storage_full"), &json!("Storage is nearly full")));

    // messages, commands that are not stored beforehand, logins, another registration, and what makes room
    within(socket.send_direct(registered.uuid, "to myself")).await.unwrap();
    assert_eq!(next(&mut socket).await["content"], "to myself");
    next_of_type(&mut socket, "sent").await;
    let sent = posting(&admin, &format!("/send-command/{}", registered.uuid), &json!({ "method": "GET", "url": "/" }));
    reply(&mut socket, json!("done")).await;
    assert_eq!(within(sent).await.unwrap().0, 200);
    broker.login("alice", "password of alice").await;
    let again = json!({ "name": "device", "uuid": registered.uuid });
    assert_eq!(post(&device, "/register", again).await.0, 200);
    let (_, list) = get(&admin, "/api/commands").await;
    assert_eq!(list["count"], 0, "{list}");
    assert_eq!(broker.command(&["user", "disable", "alice"], "").code, Some(0));
    assert_eq!(answer(admin.request(reqwest::Method::DELETE, "/topics/old")).await.0, 200);

    disk.free();
    until(async || create_topic(&device, "there is space again").await.0 == 200).await;
    until(async || get(&admin, "/readyz").await.1["database"] == "ok").await;
}

#[actix_web::test]
async fn a_broker_starts_with_the_secret_that_is_there_when_its_disk_is_full() {
    let Some(disk) = SmallDisk::mount("8m") else { return };
    let elsewhere = TempDir::new().unwrap();
    // the data directory without a byte left; then the database with less than it keeps free; then that without a byte
    for (name, database, left) in [
        ("full", elsewhere.path().join("switchboard.db"), 0),
        ("nearly full", disk.path("nearly.db"), 300_000),
        ("database full", disk.path("full.db"), 0),
    ] {
        let broker = Broker::with()
            .argument("--data-dir")
            .argument(&disk.path(name).display().to_string())
            .env("DATABASE_URL", &url(&database))
            .start()
            .await;
        let (device, registered) = broker.device("device").await;
        assert_eq!(create_topic(&device, "old").await.0, 200);
        let setup = broker.kill().await;
        disk.fill_up_to(left);
        let broker = setup.start().await;
        let client = broker.client().with_token(device.token().unwrap());
        assert_eq!(get(&client, &format!("/devices/{}", registered.uuid)).await.0, 200, "{name}");
        assert_eq!(topics(&client).await, ["old"], "{name}");
        if name != "full" {
            let (status, body) = create_topic(&client, "new").await;
            assert_eq!((status, &body["code"]), (503, &json!("storage_full")), "{body}");
            let expected = if left > 0 { "nearly full" } else { "full" };
            until(async || get(&client, "/readyz").await.1["database"] == expected).await;
        }
        disk.free();
        until(async || create_topic(&client, "new").await.0 == 200).await;
    }
}

#[actix_web::test]
async fn the_files_of_a_database_are_private_wherever_they_are() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("elsewhere.db");
    let broker = Broker::with().env("DATABASE_URL", &url(&file)).start().await;
    broker.device("somebody").await;
    for suffix in ["", "-wal", "-shm"] {
        let file = dir.path().join(format!("elsewhere.db{suffix}"));
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
}
