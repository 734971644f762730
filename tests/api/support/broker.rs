//! Runs the built broker as a child process.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
};

use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use serde_json::{Value, json};
use switchboard::{
    client::{Client, Connection, Device},
    store::Store,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use uuid::Uuid;

use super::{next_of_type, within};

/// Settings of all brokers: a slow disk on the test machine must not count as an outage, nor a delayed test as a silent client.
/// Tests of these settings override them.
const PATIENT: [(&str, &str); 5] = [
    ("STORAGE__TIMEOUT_MS", "60000"),
    ("SESSIONS__PING_SECS", "3600"),
    ("SESSIONS__SILENCE_SECS", "7200"),
    ("SESSIONS__HEARTBEAT_SECS", "3600"),
    ("LIMITS__COMMAND_TIMEOUT_SECS", "120"),
];

/// A running broker. Dropping it kills the process.
pub struct Broker {
    /// The broker's URL.
    pub url: String,
    setup: ChangeBroker,
    child: Child,
    /// the rest of its output, read so that the broker never blocks on a full pipe
    banner: String,
}

/// Settings, files and arguments of a broker. Starting it again uses the same data.
#[derive(Default)]
pub struct ChangeBroker {
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    dir: Option<TempDir>,
    descriptors: Option<u32>,
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

    /// Runs a command of the binary to its end.
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
        let output = child.wait_with_output().unwrap();
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
            && !self.environment.iter().any(|(name, _)| name == "DATABASE_URL")
        {
            let database = create_database(&server).await;
            self = self.env("DATABASE_URL", &database);
        }
        let mut arguments = vec!["serve".to_owned()];
        if !self.arguments.iter().any(|argument| argument == "--bind") {
            arguments.extend(["--bind".to_owned(), "127.0.0.1:0".to_owned()]);
        }
        arguments.extend(self.arguments.clone());
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let mut command = Command::from(self.command(&arguments));
        let log = std::fs::File::options().create(true).append(true).open(self.dir().join("log")).unwrap();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the binary runs");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = within(lines.next_line()).await.unwrap().unwrap_or_default();
        let url = match serde_json::from_str::<Value>(&first) {
            Ok(line) => line["fields"]["url"].as_str().map(str::to_owned),
            Err(_) => first.split_whitespace().find(|word| word.starts_with("http://")).map(str::to_owned),
        };
        let Some(url) = url else {
            panic!("the broker did not start: {first} {}", std::fs::read_to_string(self.dir().join("log")).unwrap());
        };
        let mut banner = first;
        // reads up to the last line of the banner
        while !banner.contains("try it") && !banner.starts_with('{') {
            banner += "\n";
            banner += &within(lines.next_line()).await.unwrap().expect("the whole banner");
        }
        Broker { url, setup: self, child, banner }
    }
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

impl Broker {
    /// Starts a broker without any configuration.
    pub async fn start() -> Self {
        ChangeBroker::default().start().await
    }

    /// Begins the setup of a broker.
    pub fn with() -> ChangeBroker {
        ChangeBroker::default()
    }

    /// The banner.
    pub fn banner(&self) -> &str {
        &self.banner
    }

    /// The log so far.
    pub fn log(&mut self) -> String {
        std::fs::read_to_string(self.setup.dir().join("log")).unwrap()
    }

    /// A store on its database, as another process opens it.
    pub async fn store(&mut self) -> Store {
        self.setup.store().await
    }

    /// A connection to the database for SQL statements.
    pub async fn database(&mut self) -> DatabaseConnection {
        self.setup.database().await
    }

    /// The data directory.
    pub fn data_dir(&mut self) -> PathBuf {
        self.setup.dir().join("data")
    }

    /// A client without a token.
    pub fn client(&self) -> Client {
        Client::new(&self.url).unwrap()
    }

    /// Registers a device.
    pub async fn device(&self, name: &str) -> (Client, Device) {
        let mut client = self.client();
        let device = within(client.register_device(name, Uuid::new_v4())).await.expect("registered");
        (client, device)
    }

    /// Registers a device and opens its socket, up to the greeting.
    pub async fn connected(&self, name: &str) -> (Client, Device, Connection) {
        let (client, device) = self.device(name).await;
        let mut connection = within(client.connect("/ws")).await.expect("connected");
        next_of_type(&mut connection, "connection").await;
        (client, device, connection)
    }

    /// Logs in as the admin that the first start created.
    pub async fn admin(&mut self) -> Client {
        let password = std::fs::read_to_string(self.data_dir().join("initial-admin-password")).unwrap();
        self.login("admin", password.trim()).await
    }

    /// Logs in as a user.
    pub async fn login(&self, username: &str, password: &str) -> Client {
        let mut client = self.client();
        within(client.login(username, password)).await.expect("logged in");
        client
    }

    /// Creates a user on the command line, with the password `password of <username>`, and logs in.
    pub async fn user(&mut self, username: &str, role: &str) -> Client {
        let password = format!("password of {username}");
        let arguments = ["user", "create", "--username", username, "--role", role, "--password-stdin"];
        let output = self.command(&arguments, &password);
        assert_eq!(output.code, Some(0), "{output:?}");
        self.login(username, &password).await
    }

    /// Runs a command of the binary with the broker's data, while the broker runs.
    pub fn command(&mut self, arguments: &[&str], stdin: &str) -> Output {
        self.setup.run(arguments, stdin)
    }

    /// The setup, for other commands with the same working directory.
    pub fn setup(&mut self) -> &mut ChangeBroker {
        &mut self.setup
    }

    /// Executes an SQL statement on its database.
    pub async fn execute(&mut self, statement: &str) {
        let database = self.database().await;
        database.execute_unprepared(statement).await.unwrap();
        database.close().await.unwrap();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        let status = std::process::Command::new("kill").args(["-s", signal, &pid]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end of the process. Returns the exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        within(self.child.wait()).await.unwrap().code()
    }

    /// Kills the process (SIGKILL). Returns the setup, to start it again with the same data.
    pub async fn kill(mut self) -> ChangeBroker {
        self.child.start_kill().unwrap();
        within(self.child.wait()).await.unwrap();
        self.setup
    }

    /// Private memory of the process in bytes (Linux: `RssAnon`).
    pub fn memory(&self) -> u64 {
        let pid = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}
