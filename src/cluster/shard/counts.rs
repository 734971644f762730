//! Events that are counted for all nodes together, in windows of a minute: what `domain/rate_limit` counts for one.

use std::{sync::LazyLock, time::Duration};

use deadpool_redis::redis::{Script, ScriptInvocation};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::{Names, PATIENCE, Shard, ShardError};

/// Counts an event of each key, unless one has had as many as it may. Returns how many milliseconds to wait then, else 0.
static COUNT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "for _, key in ipairs(KEYS) do
            if tonumber(redis.call('GET', key) or '0') >= tonumber(ARGV[1]) then
                return math.max(redis.call('PTTL', key), 1)
            end
        end
        for _, key in ipairs(KEYS) do
            if redis.call('INCR', key) == 1 then
                redis.call('PEXPIRE', key, 60000)
            end
        end
        return 0",
    )
});

/// Takes an event of each key back.
static GIVE_BACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "for _, key in ipairs(KEYS) do
            local count = tonumber(redis.call('GET', key) or '0')
            if count > 1 then
                redis.call('DECR', key)
            elseif count == 1 then
                redis.call('DEL', key)
            end
        end",
    )
});

impl Names {
    /// The key of the count of something. Nobody without the secret can tell what it is.
    fn count(&self, what: &str) -> String {
        let digest = Sha256::new().chain_update(self.key).chain_update(what).finalize();
        let digest: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("{}:count:{digest}", self.tag)
    }
}

impl Shard {
    /// Counts an event of all these, unless one of them has had `limit` events in a minute; then returns how long to wait.
    ///
    /// # Errors
    /// Redis is away, or refuses; then they may be counted nevertheless.
    pub async fn count(&self, what: &[String], limit: u32) -> Result<Option<Duration>, ShardError> {
        let mut script = COUNT.prepare_invoke();
        script.arg(limit);
        let wait: u64 = self.run(script, what).await?;
        Ok((wait > 0).then(|| Duration::from_millis(wait)))
    }

    /// Takes an event of all these back.
    ///
    /// # Errors
    /// Redis is away, or refuses; then it is forgotten after a minute.
    pub async fn give_back(&self, what: &[String]) -> Result<(), ShardError> {
        self.run(GIVE_BACK.prepare_invoke(), what).await
    }

    async fn run<T>(&self, mut script: ScriptInvocation<'_>, what: &[String]) -> Result<T, ShardError>
    where
        T: deadpool_redis::redis::FromRedisValue,
    {
        for what in what {
            script.key(self.names.count(what));
        }
        let run = async {
            let mut connection = self.pool.get().await?;
            Ok(script.invoke_async(&mut connection).await?)
        };
        timeout(PATIENCE, run).await.map_err(|_| ShardError::Late)?
    }
}
