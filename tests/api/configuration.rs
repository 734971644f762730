//! Settings, the first start, and the command line (contract section 1).

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, path::Path};

use chrono::Utc;
use jsonwebtoken::{DecodingKey, Validation};
use reqwest::Method;
use serde_json::{Value, json};
use switchboard::hs256;
use uuid::Uuid;

use crate::{
    identity::ending_at,
    support::{Broker, ChangeBroker, Output, answer, close_code, get, next_of_type, post, within},
};

const PRODUCTION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/production.toml");

/// Tries to start, which must fail with one line; answers that line.
fn refused(mut setup: ChangeBroker, arguments: &[&str]) -> String {
    // where somebody listens already, not even good settings lead to a start that lasts
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut serve = vec!["serve"];
    if !arguments.contains(&"--bind") {
        serve.extend(["--bind", &address]);
    }
    serve.extend(arguments);
    one_line(&setup.run(&serve, ""))
}

/// What a command that failed had to say.
fn one_line(output: &Output) -> String {
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output:?}");
    let line = output.stderr.strip_suffix('\n').expect("a line");
    assert!(line.starts_with("switchboard: ") && !line.contains('\n'), "{output:?}");
    line.to_owned()
}

fn succeeded(output: Output) -> String {
    assert_eq!(output.code, Some(0), "{output:?}");
    output.stdout
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

#[tokio::test]
async fn of_the_layers_the_later_ones_win() {
    let (file, dotenv) = ("[limits]\nbody_bytes = 101\n", "SWITCHBOARD__LIMITS__BODY_BYTES=102\n");
    let with_file = || {
        Broker::with()
            .alone("the data directory of one node")
            .argument("--config")
            .argument("my.toml")
            .file("my.toml", file)
    };
    for (setup, expected) in [
        (with_file(), 101),
        (with_file().file(".env", dotenv), 102),
        (with_file().file(".env", dotenv).set("LIMITS__BODY_BYTES", "103"), 103),
    ] {
        let broker = setup.start().await;
        let (_, body) = post(&broker.client(), "/register", json!({ "name": "x".repeat(200) })).await;
        assert_eq!(body["detail"], format!("Request body over {expected} bytes (limits.body_bytes)"));
    }
    // the harness starts every broker with --bind 127.0.0.1:0
    let setup = Broker::with()
        .alone("the data directory of one node")
        .set("HTTP__BIND", "127.0.0.1:9")
        .set("STORAGE__DATA_DIR", "elsewhere");
    let mut broker = setup.argument("--data-dir").argument("data/here").start().await;
    assert!(!broker.url.ends_with(":9"));
    assert!(broker.data_dir().join("here/jwt-secret").exists());
    assert!(!broker.data_dir().with_file_name("elsewhere").exists());
}

#[test]
fn a_wrong_setting_stops_the_start_with_one_line_that_names_it_and_its_layer() {
    let none = Broker::with;
    let file = |text: &str| Broker::with().file("my.toml", text);
    let config = ["--config", "my.toml"].as_slice();
    let cases = [
        (none().set("LIMITS__NOPE", "1"), [].as_slice(), ["`limits.nope`", "environment, SWITCHBOARD__LIMITS__NOPE"]),
        (none().set("NOPE", "1"), &[], ["SWITCHBOARD__NOPE", "environment"]),
        (none().set("NOPE__NOPE", "1"), &[], ["`nope.nope`", "environment"]),
        (none().set("LIMITS__BAD_FRAMES", "many"), &[], ["`limits.bad_frames`", "environment"]),
        (none().set("HTTP__PUBLIC_READS", "perhaps"), &[], ["`http.public_reads`", "environment"]),
        (none().set("DEVICES__REGISTRATION", "perhaps"), &[], ["`devices.registration`", "environment"]),
        (none().set("AUTH__RECHECK_SECS", "0"), &[], ["`auth.recheck_secs`", "environment"]),
        (none().set("HTTP__WORKERS", "513"), &[], ["`http.workers`", "must be at most 512"]),
        (none().set("STORAGE__TIMEOUT_MS", "2147484000"), &[], ["`storage.timeout_ms`", "at most 600000"]),
        (none().set("STORAGE__MAX_CONNECTIONS", "10001"), &[], ["`storage.max_connections`", "at most 10000"]),
        (
            none().set("LIMITS__COMMAND_TIMEOUT_SECS", "9223372036854775807"),
            &[],
            ["`limits.command_timeout_secs`", "at most 31536000"],
        ),
        (none().set("HTTP__CORS_ORIGINS", "chat.example"), &[], ["`http.cors_origins`", "environment"]),
        (none().set("LOG__LEVEL", "infos"), &[], ["`log.level`", "infos"]),
        (
            none().set("LOG__LEVEL", "warn, switchboard=debug"),
            &[],
            ["`log.level`", "\" switchboard=debug\" is neither"],
        ),
        (none().set("LOG__LEVEL", "info,"), &[], ["`log.level`", "\"\" is neither"]),
        (none().set("LOG__LEVEL", "switchboard="), &[], ["`log.level`", "\"switchboard=\" is neither"]),
        (none().env("RUST_LOG", "=debug"), &[], ["RUST_LOG", "\"=debug\" is neither"]),
        (none().env("RUST_LOG", "[request]=debug"), &[], ["RUST_LOG", "\"[request]=debug\" is neither"]),
        (none().env("RUST_LOG", "switchboard=loud"), &[], ["bad value for RUST_LOG", "level"]),
        (none().env("ACCESS_TOKEN_EXPIRE_MINUTES", "0"), &[], ["`auth.access_token_minutes`", "environment, ACCESS"]),
        (none().env("ALGORITHM", "none"), &[], ["ALGORITHM", "HS256"]),
        (none().file(".env", "ALGORITHM=RS256"), &[], ["ALGORITHM", ".env"]),
        (none().file(".env", "SWITCHBOARD__HTTP__NOPE=1"), &[], ["`http.nope`", "(.env"]),
        (none().file(".env", "SWITCHBOARD__LIMITS__BODY_BYTES=-1"), &[], ["`limits.body_bytes`", "(.env"]),
        (file("[http]\nbindd = \"x\""), config, ["`http.bindd`", "my.toml"]),
        (file("[nope]\nbind = \"x\""), config, ["`nope.bind`", "my.toml"]),
        (file("bind = \"x\""), config, ["`bind`", "my.toml"]),
        (file("[limits]\nbody_bytes = \"1\""), config, ["`limits.body_bytes`", "my.toml"]),
        (file("[limits\n"), config, ["my.toml", "line 1"]),
        (none(), config, ["my.toml", "cannot read"]),
    ];
    let mut wrong = Vec::new();
    for (setup, arguments, expected) in cases {
        let line = refused(setup, arguments);
        if !expected.iter().all(|part| line.contains(part)) {
            wrong.push(format!("{expected:?} {line}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for (name, value) in
        [("REDIS_URL", "6"), ("SWITCHBOARD__REDIS__URL", "http://x"), ("REDIS_PORT", "x"), ("REDIS_DB", "-1")]
    {
        let line = refused(none().env(name, value), &[]);
        assert!(line.contains("`redis.") && line.contains(name), "{line}");
    }
    for url in ["mysql://localhost/x", "sqlite://", "sqlite:///:memory:", "nonsense"] {
        let line = one_line(&none().env("DATABASE_URL", url).run(&["migrate", "status"], ""));
        assert!(line.contains("storage.database_url"), "{url} {line}");
    }
}

#[test]
fn no_message_about_wrong_settings_shows_a_secret() {
    let none = Broker::with;
    let config = ["--config", "my.toml"].as_slice();
    let mut lines = Vec::new();
    for (setup, arguments) in [
        (none().file(".env", "SECRET_KEY=hush hush hush\n"), [].as_slice()),
        (none().file("my.toml", "[auth]\nsecret = \"hush"), config),
        (none().file("my.toml", "[redis]\nurl = \"http://:hush@localhost\""), config),
        (none().env("SECRET_KEY", "hush"), &["--config", PRODUCTION]),
    ] {
        lines.push(refused(setup, arguments));
    }
    for url in ["localhost:port/x", "127.0.0.1:9/x", "[/x"].map(|rest| format!("postgres://me:hush@{rest}")) {
        lines.push(one_line(&none().env("DATABASE_URL", &url).run(&["migrate", "status"], "")));
    }
    // the cause, not that a pool has given up
    assert!(lines.iter().any(|line| line.contains("cannot reach PostgreSQL") && line.contains("refused")), "{lines:?}");
    lines.push(one_line(&none().env("DATABASE_URL", "mysql://me:hush@localhost/x").run(&["migrate", "status"], "")));
    lines.retain(|line| line.contains("hush"));
    assert!(lines.is_empty(), "{lines:#?}");
}

#[tokio::test]
async fn the_names_of_the_systems_before_work_unprefixed() {
    let secret = "these are raw bytes, ünïcode or not";
    for name in ["SECRET_KEY", "JWT_SECRET_KEY"] {
        let setup = Broker::with().env(name, secret).env("ALGORITHM", "HS256").env("ACCESS_TOKEN_EXPIRE_MINUTES", "2");
        let mut broker = setup.start().await;
        let (_, device) = broker.device("Alice").await;
        let key = DecodingKey::from_secret(secret.as_bytes());
        hs256::install();
        let token = jsonwebtoken::decode::<Value>(&device.access_token, &key, &Validation::default()).unwrap();
        assert_eq!(token.claims["exp"].as_i64().unwrap() - token.claims["iat"].as_i64().unwrap(), 120);
        assert!(!broker.data_dir().join("jwt-secret").exists());
    }
    // relative with three slashes, absolute with four
    let mut absolute = Broker::with();
    let path = absolute.dir().join("absolute.db");
    let absolute = absolute.env("DATABASE_URL", &format!("sqlite:///{}", path.display()));
    for (setup, file) in [
        (Broker::with().env("DATABASE_URL", "sqlite:///./app.db"), "app.db"),
        (Broker::with().env("DATABASE_URL", "sqlite+aiosqlite:///app.db"), "app.db"),
        (absolute, "absolute.db"),
    ] {
        let mut broker = setup.start().await;
        assert!(broker.data_dir().with_file_name(file).exists(), "{file}");
        assert!(!broker.data_dir().join("switchboard.db").exists());
    }
}

#[tokio::test]
async fn production_wants_a_strong_secret_and_trusts_nobody() {
    let config = ["--config", PRODUCTION];
    let placeholder = "your-secret-key-change-in-production";
    for secret in ["", "short", "a_very_secret_key", "31 bytes are one less than need", placeholder] {
        for name in ["SECRET_KEY", "JWT_SECRET_KEY", "SWITCHBOARD__AUTH__SECRET"] {
            let line = refused(Broker::with().env(name, secret), &config);
            assert!(line.contains("SECRET_KEY"), "{line}");
            assert!(secret.is_empty() || !line.contains(secret), "{line}");
        }
    }
    let secret = crate::identity::SECRET;
    let mut broker = Broker::with().argument(config[0]).argument(config[1]).env("SECRET_KEY", secret).start().await;
    let (_, device) = broker.device("Alice").await;
    for path in ["/clients", "/topics"] {
        assert_eq!(get(&broker.client(), path).await.0, 401);
    }
    assert_eq!(post(&broker.client(), "/register", json!({ "name": "A", "uuid": device.uuid })).await.0, 409);
    let request = broker.client().request(Method::GET, "/healthz").header("origin", "http://localhost:3000");
    let response = within(request.send()).await.unwrap();
    assert!(!response.headers().contains_key("access-control-allow-origin"));
    for file in ["jwt-secret", "initial-admin-password"] {
        assert!(!broker.data_dir().join(file).exists(), "{file}");
    }
    // a socket ends with its token
    let mut socket = loop {
        let token = ending_at(&device.access_token, Utc::now().timestamp() + 2);
        if let Ok(socket) = within(broker.client().with_token(&token).connect("/ws")).await {
            break socket;
        }
    };
    next_of_type(&mut socket, "connection").await;
    assert_eq!(close_code(&mut socket).await, 4401);
}

#[tokio::test]
async fn the_first_start_makes_private_files_and_the_second_one_keeps_them() {
    let mut broker = Broker::with().alone("the data directory of one node").start().await;
    let data = broker.data_dir();
    let files = ["jwt-secret", "initial-admin-password"].map(|name| data.join(name));
    let contents = files.clone().map(|path| fs::read_to_string(path).unwrap());
    assert_eq!((files.clone().map(|path| mode(&path)), mode(&data)), ([0o600; 2], 0o700));
    assert!(broker.banner().contains("initial-admin-password") && broker.banner().contains(&broker.url));
    for secret in &contents {
        assert!(secret.trim().len() >= 32);
        assert!(!broker.banner().contains(secret.trim()) && !broker.log().contains(secret.trim()));
    }
    let admin = broker.admin().await;
    assert_eq!(get(&admin, "/api/users/me").await.1["role"], "admin");
    let (client, device) = broker.device("Alice").await;
    client.create_topic("weather").await.unwrap();

    let mut broker = broker.kill().await.start().await;
    assert_eq!(files.map(|path| fs::read_to_string(path).unwrap()), contents);
    assert!(!broker.banner().contains("initial-admin-password"), "{}", broker.banner());
    let client = broker.client().with_token(&device.access_token);
    let (_, topic) = get(&client, "/topics/weather").await;
    assert_eq!(topic["creator"], json!(device.uuid));
    within(client.connect("/ws")).await.unwrap();
    assert_eq!(broker.admin().await.token().map(str::is_empty), Some(false));
}

#[tokio::test]
async fn a_mistyped_data_directory_is_not_one_without_users() {
    let mut setup = Broker::with();
    for command in [&["user", "list"][..], &["user", "disable", "anna"]] {
        let output = setup.run(&[command, &["--data-dir", "mistyped"]].concat(), "");
        assert!(output.code != Some(0) && output.stderr.contains("there is no data directory mistyped"), "{output:?}");
        assert!(!setup.dir().join("mistyped").exists());
    }
}

#[tokio::test]
async fn users_are_managed_on_the_command_line_with_and_without_a_running_broker() {
    let mut setup = Broker::with().env("DATABASE_URL", "sqlite:///./app.db");
    let create =
        ["user", "create", "--username", "anna", "--email", "anna@x.org", "--role", "admin", "--password-stdin"];
    succeeded(setup.run(&create, "hush-hush\n"));
    let mut broker = setup.start().await;
    assert!(!broker.data_dir().join("initial-admin-password").exists(), "there is an admin already");
    let admin = broker.login("anna@x.org", "hush-hush").await;
    let oscar = broker.user("oscar", "operator").await;
    assert_eq!(get(&oscar, "/api/users/me").await.1["role"], "operator");
    let list = succeeded(broker.command(&["user", "list"], ""));
    let line = |list: &str, name: &str| list.lines().find(|line| line.contains(name)).unwrap().to_owned();
    assert!(line(&list, "anna").contains("anna@x.org") && line(&list, "anna").contains("admin"), "{list}");
    succeeded(broker.command(&["user", "set-role", "oscar", "user"], ""));
    succeeded(broker.command(&["user", "disable", "oscar"], ""));
    let oscar = line(&succeeded(broker.command(&["user", "list"], "")), "oscar");
    assert!(oscar.contains("user ") && oscar.contains("disabled"), "{oscar}");
    let (status, body) =
        post(&broker.client(), "/auth/login", json!({ "username": "oscar", "password": "password of oscar" })).await;
    assert_eq!((status, &body["detail"]), (400, &json!("Inactive user")));
    succeeded(broker.command(&["user", "enable", "oscar"], ""));
    broker.login("oscar", "password of oscar").await;
    assert_eq!(get(&admin, "/api/users/").await.1.as_array().unwrap().len(), 2);

    let create = |username, role, password| {
        (vec!["user", "create", "--username", username, "--role", role, "--password-stdin"], password)
    };
    for ((arguments, stdin), expected) in [
        (create("anna", "user", "hush-hush"), "give another --username"),
        (create("anna@x.org", "user", "hush-hush"), "give another --username"),
        (create("alice", "user", "12345"), "at least 6 characters"),
        (create("alice", "user", ""), "at least 6 characters"),
        ((vec!["user", "create", "--username", "alice", "--role", "user"], "hush-hush"), "--password-stdin"),
        ((vec!["user", "set-role", "nobody", "user"], ""), "nobody"),
        ((vec!["user", "disable", "nobody"], ""), "nobody"),
    ] {
        let line = one_line(&broker.command(&arguments, stdin));
        assert!(line.contains(expected) && !line.contains("hush-hush"), "{line}");
    }
    let wrong_role = broker.command(&["user", "set-role", "anna", "god"], "");
    assert!(wrong_role.code == Some(2) && wrong_role.stderr.contains("operator"), "{wrong_role:?}");
}

#[tokio::test]
async fn migrations_go_up_and_down_and_a_start_brings_them_up() {
    let mut setup = Broker::with().env("DATABASE_URL", "sqlite:///./app.db");
    let states = |output: Output| -> Vec<bool> {
        let state = |line: &str| match line.split_once("  ") {
            Some(("applied", _)) => true,
            Some(("pending", _)) => false,
            _ => panic!("{line}"),
        };
        succeeded(output).lines().map(state).collect()
    };
    for action in ["status", "down"] {
        let line = one_line(&setup.run(&["migrate", action], ""));
        assert!(line.contains("there is no database ./app.db"), "{line}");
    }
    let count = states(setup.run(&["migrate"], "")).len();
    assert!(count > 0);
    let mut last_is_pending = vec![true; count];
    last_is_pending[count - 1] = false;
    for (action, expected) in [
        (vec!["migrate", "status"], vec![true; count]),
        (vec!["migrate", "down"], last_is_pending.clone()),
        (vec!["migrate", "status"], last_is_pending.clone()),
        (vec!["migrate", "up"], vec![true; count]),
        (vec!["migrate", "up"], vec![true; count]),
        (vec!["migrate", "down"], last_is_pending),
    ] {
        assert_eq!(states(setup.run(&action, "")), expected, "{action:?}");
    }
    let mut broker = setup.start().await;
    broker.device("Alice").await;
    assert_eq!(states(broker.command(&["migrate", "status"], "")), vec![true; count]);
}

#[tokio::test]
async fn no_migration_takes_the_schema_from_under_a_running_broker() {
    let mut broker = Broker::start().await;
    let before = succeeded(broker.command(&["migrate", "status"], ""));
    let line = one_line(&broker.command(&["migrate", "down"], ""));
    assert!(line.contains("a broker uses this database (process ") && line.ends_with("stop it first"), "{line}");
    assert_eq!(succeeded(broker.command(&["migrate", "status"], "")), before);
    // where nothing is to be done, nobody is in the way
    assert_eq!(succeeded(broker.command(&["migrate", "up"], "")), before);
    let last = before.lines().last().unwrap().split_once("  ").unwrap().1.to_owned();
    broker.execute(&format!("DELETE FROM seaql_migrations WHERE version = '{last}'")).await;
    for command in [["migrate", "up"], ["user", "list"]] {
        let line = one_line(&broker.command(&command, ""));
        assert!(line.contains("schema of an older version: a broker uses this database (process "), "{line}");
    }
    broker.execute(&format!("INSERT INTO seaql_migrations (version, applied_at) VALUES ('{last}', 0)")).await;
    let mut setup = broker.kill().await;
    succeeded(setup.run(&["migrate", "down"], ""));
    assert!(succeeded(setup.run(&["user", "list"], "")).contains("admin"));
    assert_eq!(succeeded(setup.run(&["migrate", "status"], "")), before);
    succeeded(setup.run(&["migrate", "down"], ""));
    setup.start().await.device("Alice").await;
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_with_what_to_do() {
    let mut broker = Broker::start().await;
    let newer = "m20300101_000001_newer";
    broker.execute(&format!("INSERT INTO seaql_migrations (version, applied_at) VALUES ('{newer}', 0)")).await;
    let mut setup = broker.kill().await;
    let commands: [&[&str]; 5] = [
        &["serve", "--bind", "127.0.0.1:0"],
        &["migrate", "up"],
        &["migrate", "down"],
        &["migrate", "status"],
        &["user", "list"],
    ];
    for command in commands {
        let line = one_line(&setup.run(command, ""));
        assert!(line.contains("migrated by a newer switchboard") && line.contains(newer), "{command:?} {line}");
    }
}

#[test]
fn values_of_arguments_that_are_wrong_are_wrong_arguments() {
    let mut setup = Broker::with().file("notes.txt", "no program");
    let commands: &[(&[&str], &str)] = &[
        (&["--bind", "here"], "such as 127.0.0.1:8000"),
        (&["send", "all", "GET", "/", "--data", "{bad"], "--data"),
        (&["commands", "list", "--state", "bogus"], "timed_out"),
        (&["commands", "list", "--since", "yesterday"], "--since"),
        (&["agent", "--exec", "./nofile"], "--exec"),
        (&["agent", "--exec", "./notes.txt"], "--exec"),
        (&["user", "create", "--role", "user", "--username", "al"], "--username: a username has at least 3 characters"),
        (&["user", "create", "--role", "user", "--username", "alice", "--email", "no"], "--email: no is not an email"),
        (&["devices", "--url", "nonsense"], "bad URL nonsense"),
        (&["devices", "--limit", "0"], "--limit"),
        (&["commands", "list", "--limit", "1001"], "--limit"),
        (&["send", "all", "GET", "/", "--timeout", "301"], "--timeout"),
        (&["send", "all", "GET", "/", "--deliver-within", "604801"], "--deliver-within"),
        (&["gateways", "add", "north", "a b"], "expected a host name"),
        (&["gateways", "add", "", "north"], "expected 1 to 100 characters"),
        (&["gateways", "add", "north", "north", "--id=-1"], "--id"),
        (&["gateways", "add", "north", "north", "--max-rtt-ms", "0"], "greater than 0"),
        (&["gateways", "add", "north", "north", "--max-loss-percent", "101"], "from 0 to 100"),
    ];
    for (command, expected) in commands {
        let output = setup.run(command, "");
        assert!(output.code == Some(2) && output.stderr.contains(expected), "{command:?} {output:?}");
    }
}

#[tokio::test]
async fn the_command_line_explains_itself_and_serves_without_a_sub_command() {
    let mut setup = Broker::with();
    for (arguments, expected) in [
        (vec!["--help"], vec!["serve", "user", "migrate", "demo", "client", "--bind", "--data-dir", "--config"]),
        (vec!["serve", "--help"], vec!["--bind", "--data-dir", "--config"]),
        (vec!["user", "--help"], vec!["create", "list", "set-role", "disable", "enable"]),
        (vec!["user", "create", "--help"], vec!["--username", "--email", "--role", "--password-stdin", "--config"]),
        (vec!["migrate", "--help"], vec!["up", "down", "status"]),
        (vec!["--version"], vec![env!("CARGO_PKG_VERSION")]),
    ] {
        let help = succeeded(setup.run(&arguments, ""));
        assert!(expected.iter().all(|word| help.contains(word)), "{arguments:?} {help}");
    }
    assert_eq!(setup.run(&["--nope"], "").code, Some(2));
    let broker = setup.start().await;
    let mut second = Broker::with();
    let taken = broker.url.strip_prefix("http://").unwrap().to_owned();
    let line = one_line(&second.run(&["--bind", &taken], ""));
    assert!(line.contains(&taken), "{line}");
    let request =
        broker.client().request(Method::POST, "/register").json(&json!({ "name": "A", "uuid": Uuid::new_v4() }));
    assert_eq!(answer(request).await.0, 200);
}
