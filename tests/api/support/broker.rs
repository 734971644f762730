//! Runs the built broker as a child process, or as two.

use std::{path::PathBuf, sync::atomic::AtomicUsize};

use sea_orm::{ConnectionTrait, DatabaseConnection};
use switchboard::{
    client::{Client, Connection, Device},
    store::Store,
};
use uuid::Uuid;

use super::{
    ChangeBroker, Output,
    balancer::{Balancer, choose},
    next_of_type,
    node::Node,
    within,
};

/// A running broker: a node, or two behind a balancer. Dropping it kills the processes.
pub struct Broker {
    /// The broker's URL; of two nodes the balancer's.
    pub url: String,
    setup: ChangeBroker,
    nodes: Vec<Node>,
    /// connections that were made without the balancer
    direct: AtomicUsize,
    balancer: Option<Balancer>,
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

    /// Nodes that run, and what is in front of them if they are two.
    pub(super) fn of(setup: ChangeBroker, nodes: Vec<Node>, balancer: Option<Balancer>) -> Self {
        let url = balancer.as_ref().map_or(nodes[0].url.clone(), |balancer| format!("http://{}", balancer.address));
        Self { url, setup, nodes, direct: AtomicUsize::new(0), balancer }
    }

    /// The banner.
    pub fn banner(&self) -> &str {
        &self.nodes[0].banner
    }

    /// The log so far; of two nodes first all of the first one's.
    pub fn log(&mut self) -> String {
        self.nodes.iter().map(Node::log).collect()
    }

    /// The address for a connection that does not pass the balancer: of the nodes in turn.
    pub fn address(&self) -> &str {
        choose(&self.nodes, &self.direct).address()
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

    /// Sends a signal to each node.
    pub fn signal(&self, signal: &str) {
        self.nodes.iter().for_each(|node| node.signal(signal));
    }

    /// Waits for the end of all processes. Returns their exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let mut codes = Vec::new();
        for node in &mut self.nodes {
            codes.push(node.ended().await);
        }
        assert!(codes.iter().all(|code| *code == codes[0]), "{codes:?}");
        codes[0]
    }

    /// Kills the processes (SIGKILL). Returns the setup, to start it again with the same data.
    pub async fn kill(mut self) -> ChangeBroker {
        if let Some(balancer) = self.balancer {
            balancer.stop().await;
        }
        for node in &mut self.nodes {
            node.kill().await;
        }
        self.setup
    }

    /// Private memory of the first process in bytes (Linux: `RssAnon`).
    pub fn memory(&self) -> u64 {
        self.nodes[0].memory()
    }
}
