//! Several nodes with one database and one Redis server.

use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use switchboard::client::{Client, Connection, Device};
use uuid::Uuid;

use crate::{
    api::support::{Broker, ChangeBroker, get, next, next_of_type, until, within},
    postgres::Postgres,
    proxy::Proxy,
    redis::Redis,
};

pub const SECRET: &str = "a secret that all nodes of these tests share";

/// What nodes share.
pub struct Shared {
    pub redis: Redis,
    database: String,
    _postgres: Postgres,
}

impl Shared {
    pub async fn start() -> Self {
        let postgres = Postgres::start().await;
        Self { redis: Redis::start().await, database: postgres.database().await, _postgres: postgres }
    }

    /// Changes rows of the database.
    pub async fn sql(&self, statement: &str) {
        let database = self.connect().await;
        database.execute_unprepared(statement).await.unwrap();
        database.close().await.unwrap();
    }

    /// A pool of connections to the database.
    pub async fn connect(&self) -> sea_orm::DatabaseConnection {
        sea_orm::Database::connect(&self.database).await.unwrap()
    }

    /// The text that a query of one value finds.
    pub async fn read(&self, query: &str) -> String {
        let database = self.connect().await;
        let query = sea_orm::Statement::from_string(sea_orm::DbBackend::Postgres, query);
        let row = database.query_one_raw(query).await.unwrap().expect("a row");
        row.try_get_by_index::<Option<String>>(0).unwrap().unwrap_or_default()
    }

    /// The setup of a node.
    pub fn node(&self) -> ChangeBroker {
        Broker::with()
            .env("DATABASE_URL", &self.database)
            .env("REDIS_URL", &self.redis.url())
            .env("SECRET_KEY", SECRET)
            // a slow machine is no silent node
            .set("CLUSTER__TIMEOUT_MS", "60000")
            .set("LIMITS__FRAMES_PER_SECOND", "0")
    }

    /// Whether a node has the lock on the database.
    pub async fn is_served(&self) -> bool {
        let connection = self.connect().await;
        let locks = connection
            .query_one_raw(sea_orm::Statement::from_string(
                sea_orm::DbBackend::Postgres,
                "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'",
            ))
            .await
            .unwrap();
        connection.close().await.unwrap();
        locks.is_some()
    }

    /// So many nodes that know each other, and an operator of the first.
    pub async fn nodes<const N: usize>(&self) -> ([Broker; N], Client) {
        let mut nodes = Vec::new();
        for _ in 0..N {
            nodes.push(self.node().start().await);
        }
        let operator = nodes[0].admin().await;
        for node in &nodes {
            knows(&at(&operator, node), N).await;
        }
        (nodes.try_into().unwrap_or_else(|_| panic!("all of them")), operator)
    }

    /// Two nodes that know each other, with a proxy between the first and Redis, and an operator.
    pub async fn nodes_with_proxy(&self) -> ([Broker; 2], Proxy, Client) {
        let proxy = Proxy::of(self.redis.address()).await;
        let mut one = self.node().env("REDIS_URL", &proxy.url()).start().await;
        let two = self.node().start().await;
        let operator = one.admin().await;
        for node in [&one, &two] {
            knows(&at(&operator, node), 2).await;
        }
        ([one, two], proxy, operator)
    }
}

/// The same client at another node.
pub fn at(client: &Client, node: &Broker) -> Client {
    Client::new(&node.url).unwrap().with_token(client.token().expect("a token"))
}

/// Opens the socket of a device, up to the greeting.
pub async fn connect(client: &Client, node: &Broker) -> Connection {
    let mut socket = within(at(client, node).connect("/ws")).await.expect("connected");
    next_of_type(&mut socket, "connection").await;
    socket
}

/// Registers a device and opens its socket at a node.
pub async fn device(name: &str, node: &Broker) -> (Client, Device, Connection) {
    let (client, device) = node.device(name).await;
    let socket = connect(&client, node).await;
    (client, device, socket)
}

/// Waits until a node knows so many nodes, and all their clients.
pub async fn knows(operator: &Client, nodes: usize) {
    until(async || {
        let (status, body) = get(operator, "/api/cluster").await;
        assert_eq!(status, 200, "{body}");
        body["nodes"].as_array().map(Vec::len) == Some(nodes) && body["is_complete"] == true
    })
    .await;
}

/// The UUIDs of the clients that a node lists.
pub async fn listed(client: &Client) -> Vec<Uuid> {
    let (status, body) = get(client, "/clients").await;
    assert_eq!(status, 200, "{body}");
    let mut listed: Vec<_> = body["clients"].as_object().unwrap().keys().map(|uuid| uuid.parse().unwrap()).collect();
    listed.sort_unstable();
    listed
}

/// Sends a direct message. Returns its receipt.
pub async fn send(socket: &mut Connection, to: Uuid, msgid: &str) -> Value {
    socket.send_text(json!({ "to": to, "msgid": msgid, "content": msgid }).to_string()).await.unwrap();
    let receipt = next(socket).await;
    assert_eq!(receipt["msgid"], msgid, "{receipt}");
    receipt
}
