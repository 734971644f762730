//! One Redis server. A node has an inbox there, a channel to which others publish, and its record, which is there for as long
//! as its lease. It also counts what limits of all nodes together need (`counts`).

mod counts;

use std::{
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use deadpool_redis::{
    Connection, Manager, Pool, PoolError, Runtime,
    redis::{AsyncCommands, Client, FromRedisValue, Pipeline, RedisError, Script, cmd, pipe},
};
use futures_util::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::unconstrained,
    time::timeout,
};
use uuid::Uuid;

use crate::{domain::lease::LEASE, settings::RedisAddress};

/// How long each step may take: to get a connection, to make one, to check one that was used before, to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes that may wait in an inbox to be handled. With more it is closed: the node notices that it misses something, as after a
/// lost connection.
const INBOX: usize = 64 * 1024 * 1024;

/// What the bookkeeping of an envelope takes, in bytes.
const PER_ENVELOPE: usize = 64;

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

/// The time by the clock of a server.
///
/// # Errors
/// It cannot be reached, or refuses.
pub async fn server_time(address: &RedisAddress) -> Result<DateTime<Utc>, RedisError> {
    let mut connection = Client::open(address.info().clone())?.get_multiplexed_async_connection().await?;
    let (seconds, micros): (i64, u32) = cmd("TIME").query_async(&mut connection).await?;
    Ok(DateTime::from_timestamp(seconds, micros.saturating_mul(1000)).unwrap_or_default())
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

    /// Subscribes to a node's inbox.
    ///
    /// # Errors
    /// Redis is away, or refuses.
    pub async fn inbox(&self, node: Uuid) -> Result<Inbox, ShardError> {
        let subscribed = async {
            let mut connection = self.client.get_async_pubsub().await?;
            connection.subscribe(self.names.inbox(node)).await?;
            Ok::<_, RedisError>(connection)
        };
        let connection = timeout(2 * PATIENCE, subscribed).await.map_err(|_| ShardError::Late)??;
        let envelopes = connection.into_on_message().map(|message| message.get_payload_bytes().to_owned());
        Ok(Inbox::of(envelopes, INBOX))
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

/// What comes through a connection. Dropping it closes the connection.
#[derive(Debug)]
pub struct Inbox {
    queued: UnboundedReceiver<Vec<u8>>,
    /// the bytes in the queue
    waiting: Arc<AtomicUsize>,
}

impl Inbox {
    /// So many bytes may wait: with more it ends behind them, and so does the connection. The connection's own queue has no bound,
    /// so it is emptied by a task that does nothing else.
    fn of(mut envelopes: impl Stream<Item = Vec<u8>> + Unpin + Send + 'static, most: usize) -> Self {
        let (queue, queued) = unbounded_channel::<Vec<u8>>();
        let waiting = Arc::new(AtomicUsize::new(0));
        let counted = waiting.clone();
        // without the pauses of other tasks, so that it is faster than the connection
        tokio::spawn(unconstrained(async move {
            loop {
                let envelope = tokio::select! {
                    envelope = envelopes.next() => envelope,
                    () = queue.closed() => return,
                };
                let Some(envelope) = envelope else { return };
                let bytes = envelope.len() + PER_ENVELOPE;
                if counted.fetch_add(bytes, Ordering::Relaxed) + bytes > most {
                    tracing::warn!(most, "an inbox is closed, since too much waits in it");
                    return;
                }
                if queue.send(envelope).is_err() {
                    return;
                }
            }
        }));
        Self { queued, waiting }
    }

    /// The next envelope. `None`: it has ended with its connection, or since too much waited in it.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        let envelope = self.queued.recv().await?;
        self.waiting.fetch_sub(envelope.len() + PER_ENVELOPE, Ordering::Relaxed);
        Some(envelope)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[actix_web::test]
    async fn an_inbox_ends_behind_what_may_wait_in_it() {
        let (sender, received) = unbounded_channel::<Vec<u8>>();
        let incoming = stream::unfold(received, |mut received| async { Some((received.recv().await?, received)) });
        let mut inbox = Inbox::of(Box::pin(incoming), 3 * (10 + PER_ENVELOPE));
        // any number, one after the other
        for number in 0..10 {
            sender.send(vec![number; 10]).unwrap();
            assert_eq!(inbox.next().await, Some(vec![number; 10]));
        }
        for number in 0..10 {
            // it may be closed already
            let _ = sender.send(vec![number; 10]);
        }
        sender.closed().await;
        for number in 0..3 {
            assert_eq!(inbox.next().await, Some(vec![number; 10]));
        }
        assert_eq!(inbox.next().await, None);
        // a reader that goes away closes it, too
        let (sender, received) = unbounded_channel::<Vec<u8>>();
        let incoming = stream::unfold(received, |mut received| async { Some((received.recv().await?, received)) });
        drop(Inbox::of(Box::pin(incoming), 0));
        sender.closed().await;
    }
}
