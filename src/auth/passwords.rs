//! Password hashes: argon2id with OWASP's parameters, off the actor threads and never too many at once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use tokio::sync::Semaphore;

use super::AuthError;

/// Hashes and verifies passwords. A hash takes some 14 ms of a core and 19 MiB, so only a few run at once, a limited
/// number waits, and the rest is refused.
#[derive(Debug, Clone)]
pub struct Passwords {
    running: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    /// how many may wait; 0 is no limit
    queue: usize,
    /// verified where there is no such user, so that the answer takes as long as for any other
    dummy: Arc<str>,
}

impl Passwords {
    /// At most `parallel` hashes at once, `queue` waiting.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new(parallel: usize, queue: usize) -> anyhow::Result<Self> {
        Ok(Self {
            running: Arc::new(Semaphore::new(parallel)),
            waiting: Arc::default(),
            queue,
            dummy: hash("a password that nobody has")?.into(),
        })
    }

    /// The PHC string of a password.
    ///
    /// # Errors
    /// Too many wait already.
    pub async fn hash(&self, password: String) -> Result<String, AuthError> {
        self.run(move || hash(&password)).await?.map_err(|error| AuthError::Internal(error.to_string()))
    }

    /// Whether this is the password of that hash; without a hash it takes the same time and is not.
    ///
    /// # Errors
    /// Too many wait already.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, AuthError> {
        let hash = hash.map_or_else(|| (self.dummy.clone(), false), |hash| (hash.into(), true));
        self.run(move || {
            let (hash, exists) = hash;
            let good = PasswordHash::new(&hash)
                .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok());
            good && exists
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, AuthError> {
        let waiting = Waiting::enter(&self.waiting);
        if self.queue > 0 && waiting.ahead >= self.queue {
            return Err(AuthError::HashesQueued);
        }
        let permit = self.running.clone().acquire_owned().await.map_err(|e| AuthError::Internal(e.to_string()))?;
        drop(waiting);
        tokio::task::spawn_blocking(move || {
            // held until the hash is computed, even if the caller hangs up
            let _permit = permit;
            work()
        })
        .await
        .map_err(|error| AuthError::Internal(error.to_string()))
    }
}

/// A place in the queue. It is given up when this is dropped, also because the caller hangs up.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    ahead: usize,
}

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        Self { count, ahead: count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Hashes on this thread; for the command line.
///
/// # Errors
/// When the system gives no randomness.
pub fn hash(password: &str) -> anyhow::Result<String> {
    // the library's defaults are OWASP's parameters: argon2id, m=19456, t=2, p=1
    let hash = Argon2::default().hash_password(password.as_bytes()).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix::test]
    async fn only_the_right_password_of_an_existing_user_is_good() {
        let passwords = Passwords::new(1, 0).unwrap();
        let hash = passwords.hash("secret".to_owned()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(passwords.verify("secret".to_owned(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("Secret".to_owned(), Some(hash)).await.unwrap());
        assert!(!passwords.verify("a password that nobody has".to_owned(), None).await.unwrap());
    }

    #[actix::test]
    async fn a_full_queue_refuses_the_next_one() {
        let passwords = Passwords::new(1, 2).unwrap();
        let calls = (0..10).map(|_| passwords.hash("secret".to_owned()));
        let done = futures_util::future::join_all(calls).await;
        // one runs, two wait
        assert_eq!(done.iter().filter(|result| result.is_ok()).count(), 3);
        assert!(passwords.hash("secret".to_owned()).await.is_ok());
    }
}
