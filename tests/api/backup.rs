//! `switchboard backup` and `switchboard restore`.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use reqwest::Method;
use sea_orm::{ConnectionTrait, Database, DbBackend, Statement};
use serde_json::{Value, json};
use switchboard::client::Client;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::support::{Broker, ChangeBroker, Output, answer, get, next, next_of_type, post, preload, until, within};

/// By how much numbers grow when a backup is restored.
const SKIPPED: i64 = 1_000_000_000;

/// A broker with an embedded database, whatever the others have: `backup` is for that alone.
fn embedded() -> ChangeBroker {
    Broker::with().env("DATABASE_URL", "").set("LIMITS__REGISTRATIONS_PER_MINUTE", "0")
}

fn succeeded(output: &Output) -> &str {
    assert_eq!(output.code, Some(0), "{output:?}");
    &output.stdout
}

/// The one line of a command that failed.
fn refused(output: &Output) -> &str {
    assert!(output.code == Some(1) && output.stderr.lines().count() == 1, "{output:?}");
    &output.stderr
}

/// All files of a folder, and those below it, but locks.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.to_str().unwrap().ends_with("lock") {
            found.insert(path);
        }
    }
    found
}

/// What the clients of a broker know to be stored.
#[derive(Debug, Clone)]
struct Acknowledged {
    device: Uuid,
    token: String,
    room: i64,
    room_message: i64,
    message: i64,
    command: String,
    offset: i64,
}

/// Everything that is stored is stored again and again, one after the other, until it is time to stop.
async fn load(admin: Client, number: usize, done: Arc<Mutex<Vec<Acknowledged>>>, stop: Arc<AtomicBool>) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let name = format!("{number}-{round}");
        let mut client = Client::new(admin.url()).unwrap();
        let device = within(client.register_device(&name, Uuid::new_v4())).await.unwrap().uuid;
        let (status, room) = post(&client, "/api/rooms/", json!({ "name": name })).await;
        assert_eq!(status, 200, "{room}");
        let path = format!("/api/rooms/{}/messages", room["id"]);
        let (status, posted) = post(&client, &path, json!({ "room_id": room["id"], "content": name })).await;
        assert_eq!(status, 200, "{posted}");
        let content = "x".repeat(2000);
        let message = json!({ "to": device, "msgid": name, "content": content, "acknowledge": true });
        let (status, sent) = post(&admin, "/api/messages", message).await;
        assert_eq!(status, 200, "{sent}");
        let command = json!({ "target": device, "method": "GET", "url": name, "deliver_within_secs": 3600 });
        let request = admin.request(Method::POST, "/api/commands").header("prefer", "respond-async").json(&command);
        let (status, command) = answer(request).await;
        assert_eq!(status, 202, "{command}");
        let publication = json!({ "topic_id": format!("load/{number}"), "content": round });
        let (status, published) = post(&admin, "/topics/publish", publication).await;
        assert_eq!(status, 200, "{published}");
        done.lock().unwrap().push(Acknowledged {
            device,
            token: client.token().unwrap().to_owned(),
            room: room["id"].as_i64().unwrap(),
            room_message: posted["id"].as_i64().unwrap(),
            message: sent["id"].as_i64().unwrap(),
            command: command["id"].as_str().unwrap_or_else(|| panic!("{command}")).to_owned(),
            offset: published["offset"].as_i64().unwrap(),
        });
    }
}

impl Acknowledged {
    /// What of it is there, in the order in which it was stored.
    async fn is_there(&self, admin: &Client, number: usize) -> Vec<bool> {
        let own = admin.with_token(&self.token);
        let rooms = format!("/api/rooms/{}", self.room);
        let messages = format!("{rooms}/messages?after_id={}&limit=1", self.room_message - 1);
        let (kept, offset) = (format!("/topics/load%2F{number}/messages"), self.offset + SKIPPED);
        vec![
            get(&own, "/auth/me").await.0 != 401 && get(admin, &format!("/devices/{}", self.device)).await.0 == 200,
            get(&own, &rooms).await.0 == 200,
            get(&own, &messages).await.1[0]["id"] == self.room_message,
            get(&own, &format!("/api/messages/{}", self.message)).await.1["msgid"].is_string(),
            get(admin, &format!("/api/commands/{}", self.command)).await.1["targets"][0]["uuid"] == json!(self.device),
            get(admin, &format!("{kept}?since_offset={}&limit=1", offset - 1)).await.1["messages"][0]["offset"]
                == offset,
        ]
    }
}

/// Statements that count what is there in half.
const HALVES: [&str; 8] = [
    "SELECT COUNT(*) AS n FROM messages WHERE room_id NOT IN (SELECT id FROM rooms)",
    "SELECT COUNT(*) AS n FROM room_members WHERE room_id NOT IN (SELECT id FROM rooms)",
    "SELECT COUNT(*) AS n FROM rooms WHERE id NOT IN (SELECT room_id FROM room_members)",
    "SELECT COUNT(*) AS n FROM commands WHERE id NOT IN (SELECT command_id FROM command_targets)",
    "SELECT COUNT(*) AS n FROM command_targets WHERE command_id NOT IN (SELECT id FROM commands)",
    "SELECT COUNT(*) AS n FROM acknowledged_messages WHERE recipient NOT IN (SELECT uuid FROM devices)",
    "SELECT COUNT(*) AS n FROM topics WHERE last_offset != (SELECT MAX(\"offset\") FROM topic_history h WHERE h.history_id = topics.history_id)",
    "SELECT (SELECT SUM(bytes) FROM acknowledged_messages) + (SELECT SUM(history_bytes) FROM topics) - value AS n FROM counters WHERE name = 'stored_bytes'",
];

#[tokio::test]
async fn a_broker_under_load_is_moved_with_all_that_was_acknowledged_before_the_backup_began() {
    const LOADS: usize = 4;
    let mut broker = embedded().start().await;
    let admin = broker.admin().await;
    let stop = Arc::new(AtomicBool::new(false));
    let done: Vec<Arc<Mutex<Vec<Acknowledged>>>> = (0..LOADS).map(|_| Arc::default()).collect();
    let mut loads = Vec::new();
    for (number, done) in done.iter().enumerate() {
        let topic = json!({ "topic_id": format!("load/{number}"), "history": { "size": 10_000 } });
        assert_eq!(post(&admin, "/topics/create", topic).await.0, 200);
        loads.push(tokio::spawn(load(admin.clone(), number, done.clone(), stop.clone())));
    }
    let all_have = async |most: usize, loads: &[JoinHandle<()>]| {
        until(async || {
            assert!(loads.iter().all(|load| !load.is_finished()));
            done.iter().all(|done| done.lock().unwrap().len() >= most)
        })
        .await;
    };
    all_have(15, &loads).await;
    let before: Vec<_> = done.iter().map(|done| done.lock().unwrap().len()).collect();
    let backup = broker.setup().dir().join("moved.tar");
    let command = broker.setup().command(&["backup", backup.to_str().unwrap()]);
    let output = tokio::process::Command::from(command).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    // it went on meanwhile, and goes on
    let after = done.iter().map(|done| done.lock().unwrap().len()).max().unwrap();
    all_have(after + 3, &loads).await;
    stop.store(true, Ordering::Relaxed);
    for load in loads {
        load.await.unwrap();
    }
    let token = admin.token().unwrap().to_owned();
    let _old = broker.kill().await;

    let mut new = embedded();
    let restored = new.run(&["restore", backup.to_str().unwrap()], "");
    assert!(succeeded(&restored).contains("into ./data"), "{restored:?}");
    let mut new = new.start().await;
    assert!(!new.banner().contains("initial-admin-password"), "{}", new.banner());
    let admin = new.client().with_token(&token);
    for (number, (done, before)) in done.iter().zip(before).enumerate() {
        let done = done.lock().unwrap().clone();
        let mut there = Vec::new();
        for (place, one) in done.iter().enumerate() {
            let is_there = one.is_there(&admin, number).await;
            assert!(place >= before || is_there.iter().all(|is| *is), "{place} of {before}: {is_there:?} {one:?}");
            there.extend(is_there);
        }
        // one moment: nothing is there that came after what is not there
        let cut = there.iter().position(|is| !is).expect("what came after the backup is not in it");
        assert!(there[cut..].iter().all(|is| !is), "{there:?}");
    }
    let database = format!("sqlite://{}", new.data_dir().join("switchboard.db").display());
    let database = Database::connect(database).await.unwrap();
    for halves in HALVES {
        let row = database.query_one_raw(Statement::from_string(DbBackend::Sqlite, halves)).await.unwrap().unwrap();
        assert_eq!(row.try_get::<i64>("", "n").unwrap(), 0, "{halves}");
    }
    database.close().await.unwrap();
}

#[tokio::test]
async fn who_knows_later_numbers_than_a_restored_broker_misses_nothing_of_it() {
    let mut broker = embedded().start().await;
    let admin = broker.admin().await;
    let topic = json!({ "topic_id": "news", "history": { "size": 100 } });
    assert_eq!(post(&admin, "/topics/create", topic).await.0, 200);
    let mut client = broker.client();
    within(client.register_device("reader", Uuid::new_v4())).await.unwrap();
    let room = post(&client, "/api/rooms/", json!({ "name": "lobby" })).await.1["id"].as_i64().unwrap();
    let says = async |admin: &Client, client: &Client, what: &str| {
        let offset =
            post(admin, "/topics/publish", json!({ "topic_id": "news", "content": what })).await.1["offset"].clone();
        let path = format!("/api/rooms/{room}/messages");
        let id = post(client, &path, json!({ "room_id": room, "content": what })).await.1["id"].clone();
        (offset.as_i64().expect("an offset"), id.as_i64().expect("an id"))
    };
    says(&admin, &client, "before").await;
    let backup = broker.setup().dir().join("backup.tar");
    succeeded(&broker.command(&["backup", backup.to_str().unwrap()], ""));
    says(&admin, &client, "lost").await;
    let (offset, id) = says(&admin, &client, "lost, too").await;
    let lost_room = post(&client, "/api/rooms/", json!({ "name": "lost" })).await.1["id"].as_i64().unwrap();
    assert_eq!((offset, id), (3, 3));
    let mut setup = broker.kill().await;
    succeeded(&setup.run(&["restore", "--force", backup.to_str().unwrap()], ""));
    let broker = setup.start().await;
    let (admin, client) =
        (broker.client().with_token(admin.token().unwrap()), broker.client().with_token(client.token().unwrap()));
    let mut newer = Vec::new();
    for what in ["one", "two", "three", "four"] {
        newer.push(says(&admin, &client, what).await);
    }
    let mut socket = within(client.connect("/ws")).await.unwrap();
    next_of_type(&mut socket, "connection").await;
    let subscribe = json!({ "type": "subscribe", "topic_id": "news", "since_offset": offset });
    socket.send_text(subscribe.to_string()).await.unwrap();
    next_of_type(&mut socket, "subscribed").await;
    assert_eq!(next_of_type(&mut socket, "topic_gap").await["first_offset"], SKIPPED + 1);
    for what in ["before", "one", "two", "three", "four"] {
        assert_eq!(next(&mut socket).await["content"], what);
    }
    let (_, missed) = get(&client, &format!("/api/rooms/{room}/messages?after_id={id}")).await;
    let ids: Vec<_> = missed.as_array().unwrap().iter().map(|message| message["id"].as_i64().unwrap()).collect();
    assert_eq!(ids, newer.iter().map(|(_, id)| *id).collect::<Vec<_>>());
    // an id that was given is not that of another room
    let (_, another) = post(&client, "/api/rooms/", json!({ "name": "another" })).await;
    assert!(another["id"].as_i64().unwrap() > lost_room, "{another}");
    assert_eq!(get(&client, &format!("/api/rooms/{lost_room}")).await.0, 404);
}

#[tokio::test]
async fn what_was_changed_after_a_backup_is_as_it_was_before() {
    let mut broker = embedded().start().await;
    let admin = broker.admin().await;
    broker.user("alice", "user").await;
    let mut alice = broker.client();
    let login = within(alice.login("alice", "password of alice")).await.unwrap();
    let (pump, device) = broker.device("pump").await;
    let message = json!({ "to": device.uuid, "msgid": "1", "content": "again", "acknowledge": true });
    assert_eq!(post(&admin, "/api/messages", message).await.0, 200);
    let backup = broker.setup().dir().join("backup.tar");
    succeeded(&broker.command(&["backup", backup.to_str().unwrap()], ""));
    let newer = within(broker.client().refresh(&login.refresh_token)).await.unwrap();
    let (later, _) = broker.device("later").await;
    let mut socket = within(pump.connect("/ws")).await.unwrap();
    while next(&mut socket).await["msgid"] != "1" {}
    socket.send_text(json!({ "type": "ack", "msgid": "1" }).to_string()).await.unwrap();
    next_of_type(&mut socket, "ack_received").await;
    succeeded(&broker.command(&["user", "set-password", "admin", "--password-stdin"], "another one of admin"));
    let mut setup = broker.kill().await;
    succeeded(&setup.run(&["restore", "--force", backup.to_str().unwrap()], ""));

    let mut broker = setup.start().await;
    let client = broker.client();
    let me = async |token: &str| get(&client.with_token(token), "/api/users/me").await.0;
    // the password, and with it the tokens, are those of before
    assert_eq!(me(admin.token().unwrap()).await, 200);
    broker.admin().await;
    assert_eq!((me(&login.access_token).await, me(&newer.access_token).await), (200, 200));
    assert_eq!(get(&client.with_token(later.token().unwrap()), "/protected/").await.0, 401);
    // a token of before that would be good again cannot be used beside the one that came after it
    for token in [&newer.refresh_token, &login.refresh_token] {
        assert_eq!(post(&client, "/auth/refresh", json!({ "refresh_token": token })).await.0, 401);
    }
    let mut socket = within(client.with_token(pump.token().unwrap()).connect("/ws")).await.unwrap();
    while next(&mut socket).await["msgid"] != "1" {}
}

#[tokio::test]
async fn a_backup_is_a_tar_archive_of_a_data_directory() {
    let mut broker = embedded().start().await;
    let admin = broker.admin().await;
    succeeded(&broker.command(&["backup", "backup.tar"], ""));
    let setup = broker.setup();
    let tar = |setup: &mut ChangeBroker, arguments: &[&str]| setup.command_of("tar", arguments).output().unwrap();
    let list = String::from_utf8(tar(setup, &["-tf", "backup.tar"]).stdout).unwrap();
    let names: Vec<_> = list.lines().collect();
    assert_eq!(names, ["backup.json", "jwt-secret", "initial-admin-password", "switchboard.db"]);
    let description: Value =
        serde_json::from_slice(&tar(setup, &["-xOf", "backup.tar", "backup.json"]).stdout).unwrap();
    assert_eq!((&description["format"], &description["switchboard"]), (&json!(1), &json!(env!("CARGO_PKG_VERSION"))));
    assert!(description["schema"].as_str().unwrap().starts_with("m20"), "{description}");
    for name in &names[1..] {
        let sums =
            setup.command_of("sh", &["-c", &format!("tar -xOf backup.tar {name} | sha256sum")]).output().unwrap();
        let sum = String::from_utf8(sums.stdout).unwrap();
        assert_eq!(sum.split_whitespace().next(), description["files"][name]["sha256"].as_str());
    }
    // through pipes, and to stdout
    let line = format!(
        "{0} backup - | gzip -c > b.gz && gunzip -c b.gz | {0} restore - --data-dir by-pipe",
        env!("CARGO_BIN_EXE_switchboard")
    );
    let output = setup.command_of("bash", &["-euo", "pipefail", "-c", &line]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    // unpacked by hand it can be served as well
    let dir = setup.dir();
    fs::create_dir(dir.join("by-hand")).unwrap();
    assert!(tar(setup, &["-xf", "backup.tar", "-C", "by-hand"]).status.success());
    let secret = fs::read(dir.join("data/jwt-secret")).unwrap();
    let mut setup = broker.kill().await;
    for place in ["by-pipe", "by-hand"] {
        assert_eq!(fs::read(dir.join(place).join("jwt-secret")).unwrap(), secret);
        assert!(succeeded(&setup.run(&["user", "list", "--data-dir", place], "")).contains("admin"));
        let place = dir.join(place).display().to_string();
        let moved = embedded().argument("--data-dir").argument(&place).start().await;
        assert_eq!(get(&moved.client().with_token(admin.token().unwrap()), "/api/users/me").await.0, 200);
    }
}

#[tokio::test]
async fn a_backup_is_written_as_a_whole_or_not_at_all() {
    let mut broker = embedded().start().await;
    let dir = broker.setup().dir();
    succeeded(&broker.command(&["backup", "backup.tar"], ""));
    let before = fs::read(dir.join("backup.tar")).unwrap();
    let all = files(&dir);
    let line = refused(&broker.command(&["backup", "backup.tar"], "")).to_owned();
    assert!(line.contains("backup.tar exists already: give another file, or --force"), "{line}");
    for (arguments, code, expected) in [
        (&["backup", "data"][..], 2, "is a directory"),
        (&["backup", "nowhere/backup.tar"], 1, "cannot create a folder in nowhere"),
        (&["backup", "new.tar", "--data-dir", "nowhere"], 1, "there is no data directory nowhere"),
        (&["backup"], 2, "<FILE>"),
    ] {
        let output = broker.command(arguments, "");
        assert!(output.code == Some(code) && output.stderr.contains(expected), "{output:?}");
    }
    // as a disk that is full: no file may grow beyond this
    let line =
        format!("ulimit -f 200; trap '' XFSZ; exec {} backup --force backup.tar", env!("CARGO_BIN_EXE_switchboard"));
    let output = broker.setup().command_of("bash", &["-c", &line]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.starts_with("switchboard: cannot "), "{said}");
    assert_eq!(fs::read(dir.join("backup.tar")).unwrap(), before);
    assert_eq!(files(&dir), all);
    broker.device("another").await;
    succeeded(&broker.command(&["backup", "--force", "backup.tar"], ""));
    assert!(fs::read(dir.join("backup.tar")).unwrap() != before);
}

#[tokio::test]
async fn nothing_is_restored_where_a_broker_or_another_database_is_in_the_way() {
    let mut broker = embedded().start().await;
    succeeded(&broker.command(&["backup", "backup.tar"], ""));
    let line = refused(&broker.command(&["restore", "--force", "backup.tar"], "")).to_owned();
    assert!(line.contains("another broker (process ") && line.contains("is using ./data: stop it"), "{line}");
    let mut setup = broker.kill().await;
    let before = fs::read(setup.dir().join("data/switchboard.db")).unwrap();
    let line = refused(&setup.run(&["restore", "backup.tar"], "")).to_owned();
    assert!(line.contains("there is a database in ./data already: give another --data-dir, or --force"), "{line}");
    // one whose database is elsewhere has a secret here
    fs::create_dir(setup.dir().join("other")).unwrap();
    fs::write(setup.dir().join("other/jwt-secret"), "another").unwrap();
    let line = refused(&setup.run(&["restore", "backup.tar", "--data-dir", "other"], "")).to_owned();
    assert!(line.contains("there is another jwt-secret in other already"), "{line}");
    for (url, expected) in [
        ("sqlite:///./app.db", "DATABASE_URL names ./app.db"),
        ("postgres://me:hush@db.example/broker", "PostgreSQL at db.example/broker: run pg_restore"),
    ] {
        let mut elsewhere = Broker::with().env("DATABASE_URL", url);
        let backup = setup.dir().join("backup.tar");
        let line = refused(&elsewhere.run(&["restore", backup.to_str().unwrap()], "")).to_owned();
        assert!(line.contains(expected) && !line.contains("hush"), "{line}");
        assert!(!elsewhere.dir().join("data").exists());
    }
    assert_eq!(fs::read(setup.dir().join("data/switchboard.db")).unwrap(), before);
    let all = files(&setup.dir().join("data"));
    assert!(all.iter().all(|file| !file.display().to_string().contains("restor")), "{all:?}");
    let said = succeeded(&setup.run(&["restore", "--force", "backup.tar"], "")).to_owned();
    let kept = said.split_whitespace().find(|word| word.contains("before-restore-")).unwrap().trim_end_matches(':');
    assert!(succeeded(&setup.run(&["user", "list", "--data-dir", kept], "")).contains("admin"));
    setup.start().await;
}

#[tokio::test]
async fn a_backup_that_is_damaged_is_refused_and_changes_nothing() {
    let mut broker = embedded().start().await;
    succeeded(&broker.command(&["backup", "backup.tar"], ""));
    let mut setup = broker.kill().await;
    let dir = setup.dir();
    let good = fs::read(dir.join("backup.tar")).unwrap();
    let mut cut = good.clone();
    cut.truncate(good.len() / 2);
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let mut newer = good.clone();
    let place = newer.windows(11).position(|some| some == b"\"format\": 1").unwrap();
    newer[place + 10] = b'9';
    // what has another file, and one that is elsewhere
    let pack = |script: &str| {
        let output = Command::new("bash").args(["-euc", script]).current_dir(&dir).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        fs::read(dir.join("packed.tar")).unwrap()
    };
    let more = pack("mkdir x; tar -xf backup.tar -C x; echo y > x/more; tar -cf packed.tar -C x backup.json more");
    let outside = pack("echo y > outside; tar -cPf packed.tar -C x backup.json ../outside; rm outside");
    let link = pack(
        "rm x/jwt-secret; ln -s /etc/passwd x/jwt-secret; tar -cf packed.tar -C x backup.json jwt-secret; rm -r x",
    );
    let all = files(&dir.join("data"));
    for (bytes, expected) in [
        (cut, "the backup is damaged"),
        (flipped, "the backup is damaged"),
        (newer, "was made by a newer switchboard (0.1.0)"),
        (more, "it has more, which it should not have"),
        (outside, "it has ../outside, which it should not have"),
        (link, "it has jwt-secret, which it should not have"),
        (b"nothing of the kind".to_vec(), "this is no backup by `switchboard backup`"),
        (Vec::new(), "this is no backup by `switchboard backup`"),
    ] {
        fs::write(dir.join("bad.tar"), bytes).unwrap();
        let line = refused(&setup.run(&["restore", "--force", "bad.tar"], "")).to_owned();
        assert!(line.contains(expected) && line.contains("nothing was changed"), "{line}");
        assert_eq!(files(&dir.join("data")), all, "{line}");
        assert!(!dir.join("outside").exists());
    }
    succeeded(&setup.run(&["user", "list"], ""));
}

#[tokio::test]
async fn a_database_that_is_damaged_or_of_a_newer_version_is_neither_backed_up_nor_restored() {
    let broker = embedded().start().await;
    for number in 0..200 {
        broker.device(&format!("device {number}")).await;
    }
    let mut setup = broker.kill().await;
    succeeded(&setup.run(&["backup", "backup.tar"], ""));
    let dir = setup.dir();
    let database = Database::connect(format!("sqlite://{}", dir.join("data/switchboard.db").display())).await.unwrap();
    let newer = "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m20300101_000001_newer', 0)";
    database.execute_unprepared(newer).await.unwrap();
    database.close().await.unwrap();
    let line = refused(&setup.run(&["backup", "new.tar"], "")).to_owned();
    assert!(line.contains("migrated by a newer switchboard (m20300101_000001_newer)"), "{line}");
    // packs what is in the folder x, with the digests of that
    let pack = r#"
        import hashlib, json, tarfile
        about = json.load(open("x/backup.json"))
        for name, file in about["files"].items():
            content = open("x/" + name, "rb").read()
            file["bytes"], file["sha256"] = len(content), hashlib.sha256(content).hexdigest()
        json.dump(about, open("x/backup.json", "w"))
        with tarfile.open("packed.tar", "w") as packed:
            for name in ["backup.json", *about["files"]]: packed.add("x/" + name, name)
    "#;
    let pack: String =
        pack.lines().map(|line| line.strip_prefix("        ").unwrap_or(line).to_owned() + "\n").collect();
    let damage = "content = bytearray(open('x/switchboard.db', 'rb').read())\ncontent[8192:40960] = bytes(32768)\nopen('x/switchboard.db', 'wb').write(content)\n";
    for (change, expected) in [
        ("import shutil\nshutil.copy('data/switchboard.db', 'x/switchboard.db')\n", "migrated by a newer switchboard"),
        (damage, "the database is damaged"),
        ("open('x/switchboard.db', 'w').write('nothing of the kind')\n", "the database is damaged"),
        (
            "import os, sqlite3\nos.remove('x/switchboard.db')\nsqlite3.connect('x/switchboard.db').execute('CREATE TABLE t (i)')\n",
            "its database is not that of a broker",
        ),
    ] {
        let script = format!(
            "import os, shutil, subprocess\nshutil.rmtree('x', True); os.mkdir('x')\nsubprocess.run(['tar', '-xf', 'backup.tar', '-C', 'x'], check=True)\n{change}{pack}"
        );
        let output = Command::new("python3").args(["-c", &script]).current_dir(&dir).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let line = refused(&setup.run(&["restore", "packed.tar", "--data-dir", "new"], "")).to_owned();
        assert!(line.contains(expected) && line.contains("nothing was changed"), "{line}");
        assert!(files(&dir.join("new")).is_empty());
    }
    // a damaged database is found when it is backed up, while older backups are still there
    fs::copy(dir.join("x/switchboard.db"), dir.join("x/none.db")).unwrap();
    fs::write(dir.join("data/switchboard.db"), "nothing of the kind, but long enough to be read").unwrap();
    let line = refused(&setup.run(&["backup", "new.tar"], "")).to_owned();
    assert!(line.contains("switchboard.db") && !dir.join("new.tar").exists(), "{line}");
    // and can be replaced
    succeeded(&setup.run(&["restore", "--force", "backup.tar"], ""));
    setup.start().await;
}

#[tokio::test]
async fn a_restore_that_is_killed_leaves_all_of_the_old_or_all_of_the_new() {
    let user = |name| ["user", "create", "--username", name, "--role", "user", "--password-stdin"];
    let mut new = embedded().start().await;
    succeeded(&new.command(&user("nina"), "password of nina"));
    let backup = new.setup().dir().join("backup.tar");
    succeeded(&new.command(&["backup", backup.to_str().unwrap()], ""));
    let new_secret = fs::read(new.data_dir().join("jwt-secret")).unwrap();
    let mut old = embedded().start().await;
    succeeded(&old.command(&user("olga"), "password of olga"));
    // with a log that is not in the database yet
    let mut setup = preload(old.kill().await, "stop_at.c");
    let dir = setup.dir();
    assert!(fs::metadata(dir.join("data/switchboard.db-wal")).unwrap().len() > 0);
    let old_secret = fs::read(dir.join("data/jwt-secret")).unwrap();
    fs::rename(dir.join("data"), dir.join("old")).unwrap();
    let (mut olds, mut news) = (0, 0);
    for call in 1.. {
        let copied = Command::new("cp").args(["-a", "old", "data"]).current_dir(&dir).status().unwrap();
        assert!(copied.success());
        let mut restore = setup.command(&["restore", "--force", backup.to_str().unwrap()]);
        let restored = restore.env("STOP_AT", call.to_string()).env("RESTORE_IN", "data/").output().unwrap();
        let users = succeeded(&setup.run(&["user", "list"], "")).to_owned();
        let is_new = users.contains("nina");
        assert_eq!(users.contains("olga"), !is_new, "{call} {users}");
        let secret = fs::read(dir.join("data/jwt-secret")).unwrap();
        assert_eq!(secret, if is_new { new_secret.clone() } else { old_secret.clone() }, "{call}");
        let kept = fs::read_dir(dir.join("data")).unwrap().map(|entry| entry.unwrap().path());
        let kept: Vec<_> = kept.filter(|path| path.display().to_string().contains("before-restore-")).collect();
        assert_eq!(kept.len(), usize::from(is_new), "{call} {kept:?}");
        for kept in kept {
            let users = succeeded(&setup.run(&["user", "list", "--data-dir", kept.to_str().unwrap()], "")).to_owned();
            assert!(users.contains("olga"), "{call} {users}");
        }
        if restored.status.code() == Some(0) {
            break;
        }
        assert_eq!(restored.status.code(), Some(137), "{call} {restored:?}");
        if is_new {
            news += 1;
        } else {
            olds += 1;
        }
        // what was left does not hinder the next one
        succeeded(&setup.run(&["restore", "--force", backup.to_str().unwrap()], ""));
        let left = files(&dir.join("data")).into_iter().filter(|path| !path.display().to_string().contains("before-"));
        assert_eq!(left.count(), 3, "{call}");
        fs::remove_dir_all(dir.join("data")).unwrap();
    }
    assert!(olds > 5 && news > 5, "{olds} {news}");
}

#[tokio::test]
async fn with_postgresql_the_command_to_run_is_named_without_the_password() {
    if std::env::var("SWITCHBOARD_TEST_POSTGRES").is_err() {
        return;
    }
    let mut broker = Broker::start().await;
    let line = refused(&broker.command(&["backup", "backup.dump"], "")).to_owned();
    assert!(line.starts_with("switchboard: nothing was backed up: the data is in PostgreSQL at "), "{line}");
    assert!(!broker.setup().dir().join("backup.dump").exists());
    let (_, dump) = line.split_once("Run ").unwrap();
    let (dump, _) = dump.split_once(" (it asks").unwrap();
    let output = broker.setup().command_of("sh", &["-c", dump]).output().unwrap();
    assert!(output.status.success() && broker.setup().dir().join("backup.dump").exists(), "{dump} {output:?}");
}
