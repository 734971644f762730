//! One Redis server. A node has an inbox there, a channel to which others publish, and its record, which is there for as long
//! as its lease. It also counts what limits of all nodes together need (`counts`).

mod counts;

use std::{fmt, sync::LazyLock, time::Duration};

use deadpool_redis::{
    Connection, Manager, Pool, PoolError, Runtime,
    redis::{AsyncCommands, Client, FromRedisValue, Pipeline, RedisError, Script, pipe},
};
use futures_util::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{domain::lease::LEASE, settings::RedisAddress};

/// How long each step may take: to get a connection, to make one, to check one that was used before, to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Connections for commands. Each takes many at once.
const CONNECTIONS: usize = 4;

/// Writes a node's record for as long as its lease lasts, and lists it by the end of the lease, by the clock of the server.
static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
        local now = time[1] * 1000 + math.floor(time[2] / 1000)
        redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
        redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
        redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[3])",
    )
});

/// Why Redis did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// It cannot be reached, or refuses.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// There is no connection.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// It did not answer in time.
    #[error("no answer in time")]
    Late,
    /// It has closed the connection.
    #[error("the connection was closed")]
    Closed,
}

/// The names of keys and channels. They follow from the secret and the database that all nodes share, so that brokers that do
/// not belong together can use the same server.
#[derive(Clone)]
pub struct Names {
    /// how all of them begin
    tag: String,
    /// of hashes
    key: [u8; 32],
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Names").field(&self.tag).finish()
    }
}

impl Names {
    /// Those of the nodes with this secret, and the database with this number.
    pub fn of(secret: &[u8], database: i64) -> Self {
        let digest = Sha256::new().chain_update(b"switchboard cluster").chain_update(secret);
        let digest = digest.chain_update(database.to_be_bytes()).finalize();
        let tag: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        // another hash, since the beginning of the first is public
        let key = Sha256::new().chain_update(b"switchboard counts").chain_update(secret);
        let key = key.chain_update(database.to_be_bytes()).finalize().into();
        Self { tag: format!("switchboard:{tag}"), key }
    }

    fn inbox(&self, node: Uuid) -> String {
        format!("{}:inbox:{node}", self.tag)
    }

    fn record(&self, node: &str) -> String {
        format!("{}:node:{node}", self.tag)
    }

    fn nodes(&self) -> String {
        format!("{}:nodes", self.tag)
    }
}

/// A Redis server.
#[derive(Debug)]
pub struct Shard {
    address: RedisAddress,
    names: Names,
    client: Client,
    pool: Pool,
}

impl Shard {
    /// Connects later.
    ///
    /// # Errors
    /// The address cannot be used.
    pub fn new(address: RedisAddress, names: Names) -> Result<Self, RedisError> {
        let client = Client::open(address.info().clone())?;
        let manager = Manager::new(address.info().clone())?;
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .wait_timeout(Some(PATIENCE))
            .create_timeout(Some(PATIENCE))
            .recycle_timeout(Some(PATIENCE))
            .runtime(Runtime::Tokio1)
            .build()
            // the runtime is there
            .map_err(|error| RedisError::from(std::io::Error::other(error)))?;
        Ok(Self { address, names, client, pool })
    }

    /// Where it is.
    pub fn address(&self) -> &RedisAddress {
        &self.address
    }

    /// Subscribes to a node's inbox. The stream ends with its connection.
    ///
    /// # Errors
    /// Redis is away, or refuses.
    pub async fn inbox(&self, node: Uuid) -> Result<impl Stream<Item = Vec<u8>> + use<>, ShardError> {
        let subscribed = async {
            let mut connection = self.client.get_async_pubsub().await?;
            connection.subscribe(self.names.inbox(node)).await?;
            Ok::<_, RedisError>(connection)
        };
        let connection = timeout(2 * PATIENCE, subscribed).await.map_err(|_| ShardError::Late)??;
        Ok(connection.into_on_message().map(|message| message.get_payload_bytes().to_owned()))
    }

    /// Publishes envelopes, each to the inbox of a node, in their order. Uses the connection that is there, if any, and leaves the one
    /// that works: the pool would check it with a round trip before each use.
    ///
    /// # Errors
    /// Redis is away, or refuses; then it may have published some nevertheless.
    pub async fn publish(
        &self,
        connection: &mut Option<Connection>,
        envelopes: &[(Uuid, Vec<u8>)],
    ) -> Result<(), ShardError> {
        let mut commands = pipe();
        for (node, envelope) in envelopes {
            commands.publish(self.names.inbox(*node), envelope.as_slice()).ignore();
        }
        let last = connection.take();
        let published = async {
            let mut working = match last {
                Some(last) => last,
                None => self.pool.get().await?,
            };
            commands.query_async::<()>(&mut working).await?;
            Ok::<_, ShardError>(working)
        };
        *connection = Some(timeout(PATIENCE, published).await.map_err(|_| ShardError::Late)??);
        Ok(())
    }

    /// Renews a node's lease, with its record.
    ///
    /// # Errors
    /// Redis is away, or refuses; then the lease may be renewed nevertheless.
    pub async fn renew(&self, node: Uuid, record: &str) -> Result<(), ShardError> {
        let node = node.to_string();
        let renewed = async {
            let mut connection = self.pool.get().await?;
            let mut script = RENEW.key(self.names.record(&node));
            script.key(self.names.nodes()).arg(record).arg(LEASE.as_millis() as u64).arg(&node);
            Ok(script.invoke_async(&mut connection).await?)
        };
        timeout(PATIENCE, renewed).await.map_err(|_| ShardError::Late)?
    }

    /// Ends a node's lease.
    ///
    /// # Errors
    /// Redis is away, or refuses; then the lease ends later.
    pub async fn leave(&self, node: Uuid) -> Result<(), ShardError> {
        let node = node.to_string();
        let mut commands = pipe();
        commands.del(self.names.record(&node)).ignore().zrem(self.names.nodes(), &node).ignore();
        self.ask(&commands).await
    }

    /// The records of all nodes with a lease.
    ///
    /// # Errors
    /// Redis is away, or refuses.
    pub async fn nodes(&self) -> Result<Vec<String>, ShardError> {
        let listed = async {
            let mut connection = self.pool.get().await?;
            let nodes: Vec<String> = connection.zrange(self.names.nodes(), 0, -1).await?;
            if nodes.is_empty() {
                return Ok(Vec::new());
            }
            let records: Vec<_> = nodes.iter().map(|node| self.names.record(node)).collect();
            let records: Vec<Option<String>> = connection.mget(records).await?;
            // those whose lease has ended are still listed
            Ok(records.into_iter().flatten().collect())
        };
        timeout(PATIENCE, listed).await.map_err(|_| ShardError::Late)?
    }

    async fn ask<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, ShardError> {
        let answered = async {
            let mut connection = self.pool.get().await?;
            Ok(commands.query_async(&mut connection).await?)
        };
        timeout(PATIENCE, answered).await.map_err(|_| ShardError::Late)?
    }
}
