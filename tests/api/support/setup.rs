//! How a broker is started: its settings, files and arguments.

use std::{io::Write, path::PathBuf, process::Stdio, sync::mpsc};

use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use serde_json::json;
use switchboard::{client::Client, store::Store};
use tempfile::TempDir;
use tokio::process::Command;
use uuid::Uuid;

use super::{Broker, PATIENCE, balancer::Balancer, get, node::Node, until};

/// Settings of all brokers: a slow disk on the test machine must not count as an outage, nor a delayed test as a silent client.
/// Tests of these settings override them.
const PATIENT: [(&str, &str); 5] = [
    ("STORAGE__TIMEOUT_MS", "60000"),
    ("SESSIONS__PING_SECS", "3600"),
    ("SESSIONS__SILENCE_SECS", "7200"),
    ("SESSIONS__HEARTBEAT_SECS", "3600"),
    ("LIMITS__COMMAND_TIMEOUT_SECS", "120"),
];

/// An address with a free port.
const ANY_PORT: &str = "127.0.0.1:0";

/// A setting of both nodes: a slow machine is no silent node.
const PATIENT_NODES: (&str, &str) = ("CLUSTER__TIMEOUT_MS", "60000");

/// The secret that both nodes share, unless the test gives one.
const SECRET: &str = "the secret of brokers with two nodes";

/// Settings, files and arguments of a broker. Starting it again uses the same data.
#[derive(Default)]
pub struct ChangeBroker {
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    dir: Option<TempDir>,
    descriptors: Option<u32>,
    is_alone: bool,
    program: Option<String>,
}

/// The output and exit code of a command.
#[derive(Debug)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    pub code: Option<i32>,
}

impl ChangeBroker {
    /// Adds a setting, such as `("LIMITS__FRAME_BYTES", "100")`.
    pub fn set(self, key: &str, value: &str) -> Self {
        self.env(&format!("SWITCHBOARD__{key}"), value)
    }

    /// Makes it one node always, for this reason: the test is about what one node has or counts, or starts further ones itself.
    pub fn alone(mut self, _because: &str) -> Self {
        self.is_alone = true;
        self
    }

    /// Sets the limit of open files.
    pub fn descriptors(mut self, most: u32) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// Adds a variable to the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs another program than the broker's.
    #[allow(dead_code, reason = "tests of nodes use it")]
    pub fn program(mut self, path: &str) -> Self {
        self.program = Some(path.to_owned());
        self
    }

    /// Adds an argument for `serve`.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Writes a file into the broker's working directory.
    pub fn file(mut self, name: &str, content: &str) -> Self {
        std::fs::write(self.dir().join(name), content).unwrap();
        self
    }

    /// The broker's working directory; its data is in the subdirectory `data`.
    pub fn dir(&mut self) -> PathBuf {
        self.dir.get_or_insert_with(|| TempDir::new().unwrap()).path().to_owned()
    }

    /// A command of the binary, with the broker's working directory and environment.
    pub fn command(&mut self, arguments: &[&str]) -> std::process::Command {
        let program = self.program.clone();
        self.command_of(program.as_deref().unwrap_or(env!("CARGO_BIN_EXE_switchboard")), arguments)
    }

    /// A command of any program, with the broker's working directory and environment.
    pub fn command_of(&mut self, program: &str, arguments: &[&str]) -> std::process::Command {
        let mut command = match self.descriptors {
            None => std::process::Command::new(program),
            Some(most) => {
                let mut shell = std::process::Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {most} && exec \"$0\" \"$@\""), program]);
                shell
            }
        };
        command.args(arguments).current_dir(self.dir()).env_clear();
        command.env("XDG_STATE_HOME", self.dir().join("state"));
        for (name, value) in PATIENT {
            command.env(format!("SWITCHBOARD__{name}"), value);
        }
        // only required variables, so that the developer's own settings have no effect
        for name in ["PATH", "HOME", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// A store on the broker's database.
    pub async fn store(&mut self) -> Store {
        let url = self.environment.iter().find(|(name, _)| name == "DATABASE_URL").map_or("", |(_, url)| url.as_str());
        let settings = json!({ "data_dir": self.dir.as_ref().map(|dir| dir.path().join("data")), "database_url": url, "max_connections": 2, "timeout_ms": 10_000, "min_free_bytes": 0 });
        Store::connect(&serde_json::from_value(settings).unwrap()).await.unwrap()
    }

    /// A connection to the database for SQL statements.
    pub async fn database(&mut self) -> DatabaseConnection {
        let url = self.environment.iter().find(|(name, _)| name == "DATABASE_URL").map(|(_, url)| url.clone());
        let file = self.dir().join("data").join("switchboard.db");
        Database::connect(url.unwrap_or_else(|| format!("sqlite://{}", file.display()))).await.unwrap()
    }

    /// Runs a command of the binary to its end. One that does not end is killed, and has no exit code.
    pub fn run(&mut self, arguments: &[&str], stdin: &str) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        // fails if the command has ended without reading
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let (ending, ended) = mpsc::channel::<()>();
        let pid = child.id().to_string();
        std::thread::spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = std::process::Command::new("kill").args(["-s", "KILL", &pid]).status();
            }
        });
        let output = child.wait_with_output().unwrap();
        drop(ending);
        Output {
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            code: output.status.code(),
        }
    }

    /// Starts the broker and waits until it accepts connections.
    pub async fn start(mut self) -> Broker {
        // a known secret, since tests sign and parse tokens
        switchboard::hs256::install();
        // some tests have hundreds of connections, and run in parallel
        rlimit::increase_nofile_limit(u64::MAX).unwrap();
        if let Ok(server) = std::env::var("SWITCHBOARD_TEST_POSTGRES")
            && !self.has("DATABASE_URL")
        {
            let database = create_database(&server).await;
            self = self.env("DATABASE_URL", &database);
        }
        let is_postgres = |(name, url): &(String, String)| name == "DATABASE_URL" && url.starts_with("postgres://");
        match std::env::var("SWITCHBOARD_TEST_REDIS") {
            Ok(redis) if !self.is_alone && self.environment.iter().any(is_postgres) => self.start_two(&redis).await,
            _ => self.start_one().await,
        }
    }

    fn has(&self, name: &str) -> bool {
        self.environment.iter().any(|(given, _)| given == name)
    }

    async fn start_one(mut self) -> Broker {
        let bind = self.bind().unwrap_or_else(|| ANY_PORT.to_owned());
        let node = self.node(&bind, 0).await;
        Broker::of(self, vec![node], None)
    }

    /// Starts two nodes with the same settings and database behind a balancer, and waits until they know each other.
    async fn start_two(mut self, redis: &str) -> Broker {
        if !["SECRET_KEY", "JWT_SECRET_KEY"].iter().any(|name| self.has(name)) {
            self = self.env("SECRET_KEY", SECRET);
        }
        if !self.has("REDIS_URL") {
            self = self.env("REDIS_URL", redis).set(PATIENT_NODES.0, PATIENT_NODES.1);
        }
        let first = self.node(ANY_PORT, 0).await;
        linked(&first).await;
        let second = self.node(ANY_PORT, 1).await;
        linked(&second).await;
        // now the first one knows that there is a second one
        linked(&first).await;
        let nodes = vec![first, second];
        let bind = self.bind().unwrap_or_else(|| ANY_PORT.to_owned());
        let balancer = Balancer::start(&bind, nodes.iter().map(Node::address).collect()).await;
        Broker::of(self, nodes, Some(balancer))
    }

    /// The address that the test wants.
    fn bind(&self) -> Option<String> {
        let place = self.arguments.iter().position(|argument| argument == "--bind")?;
        self.arguments.get(place + 1).cloned()
    }

    /// Starts a node. All nodes have the same working directory, and each a data directory and a log of its own.
    async fn node(&mut self, bind: &str, number: usize) -> Node {
        let mut arguments = vec!["serve", "--bind", bind];
        let mut given = self.arguments.iter();
        while let Some(argument) = given.next() {
            if argument == "--bind" {
                given.next();
            } else {
                arguments.push(argument);
            }
        }
        let arguments: Vec<_> = arguments.into_iter().map(str::to_owned).collect();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let mut command = Command::from(self.command(&arguments));
        if number > 0 {
            command.env("SWITCHBOARD__STORAGE__DATA_DIR", format!("data-{number}"));
        }
        let log = if number == 0 { "log".to_owned() } else { format!("log-{number}") };
        Node::start(command, self.dir().join(log)).await
    }
}

/// Waits until a node knows the clients of the others.
async fn linked(node: &Node) {
    let client = Client::new(&node.url).unwrap();
    until(async || {
        let (_, body) = get(&client, "/readyz").await;
        body["redis"] == "ok"
    })
    .await;
}

/// Creates a new database on a PostgreSQL server.
pub async fn create_database(server: &str) -> String {
    let name = format!("test_{}", Uuid::new_v4().simple());
    let connection = Database::connect(server).await.expect("PostgreSQL answers");
    connection.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
    connection.close().await.unwrap();
    let (base, _) = server.rsplit_once('/').expect("a URL that ends with a database");
    format!("{base}/{name}")
}
