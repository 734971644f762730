//! The total time that one request may wait for the database, however many calls it makes.
//!
//! Each call also has a deadline of its own, for work that belongs to no request, such as the Journal's.
//!
//! A COMMIT cannot be abandoned, since it may have happened. So work that commits runs in a separate task, and when the
//! COMMIT takes too long, only the wait for that task ends ([`give_up`], [`unless_given_up`]).

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::Either;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

/// Longer than any request, and short enough to be added to any instant without overflow.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

tokio::task_local! {
    static PATIENCE: Patience;
}

/// The remaining time of a request. It decreases only while the request waits for the database, or for an actor or another
/// request that does.
#[derive(Debug, Clone)]
pub struct Patience(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waits: Mutex<Waits>,
    /// notified when the caller should stop waiting for work that continues
    given_up: Notify,
}

/// The remaining time and the running waits. Simultaneous waits count once.
#[derive(Debug)]
struct Waits {
    left: Duration,
    under_way: usize,
    /// when the first of the running waits began
    since: Instant,
}

impl Waits {
    fn new(left: Duration, now: Instant) -> Self {
        Self { left, under_way: 0, since: now }
    }

    /// Begins a wait. Returns its deadline.
    fn begin(&mut self, now: Instant) -> Instant {
        if self.under_way == 0 {
            self.since = now;
        }
        self.under_way += 1;
        // capped, since an unlimited patience would overflow the instant
        self.since + self.left.min(FOREVER)
    }

    /// Ends one of the waits.
    fn end(&mut self, now: Instant) {
        self.under_way -= 1;
        if self.under_way == 0 {
            self.left = self.left.saturating_sub(now.saturating_duration_since(self.since));
        }
    }
}

/// The request has used all its time.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the request has waited for the database for as long as it may")]
pub struct OutOfPatience;

/// A running wait, which ends when this is dropped.
struct Wait(Patience);

impl Patience {
    /// A patience of this length.
    pub fn new(whole: Duration) -> Self {
        Self(Arc::new(Shared { waits: Mutex::new(Waits::new(whole, Instant::now())), given_up: Notify::new() }))
    }

    /// For work without a limit.
    pub fn endless() -> Self {
        Self::new(FOREVER)
    }

    /// Returns when the caller should stop waiting for the work.
    pub async fn given_up(&self) {
        self.0.given_up.notified().await;
    }

    /// Runs work that belongs to the request.
    pub async fn during<T>(self, work: impl Future<Output = T>) -> T {
        PATIENCE.scope(self, work).await
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.0.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self) -> (Wait, Instant) {
        let end = self.waits().begin(Instant::now());
        (Wait(self), end)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.0.waits().end(Instant::now());
    }
}

/// Waits for the database, or for something that waits for it, at most until the patience of the request ends. Work without
/// a request waits without a limit.
///
/// # Errors
/// The patience has ended. If none was left at the call, the work was not started.
pub async fn wait<T>(work: impl Future<Output = T>) -> Result<T, OutOfPatience> {
    let Ok(patience) = PATIENCE.try_with(Clone::clone) else { return Ok(work.await) };
    let (_wait, end) = patience.begin();
    if end <= Instant::now() {
        return Err(OutOfPatience);
    }
    tokio::time::timeout_at(end, work).await.map_err(|_| OutOfPatience)
}

/// Says that the work cannot be abandoned but takes too long: callers stop waiting, and the rest belongs to no request.
pub fn give_up() {
    if let Ok(patience) = PATIENCE.try_with(Clone::clone) {
        patience.waits().left = FOREVER;
        patience.0.given_up.notify_one();
    }
}

/// Waits for work of the request in another task, until it ends or calls [`give_up`].
///
/// # Errors
/// The work has called [`give_up`].
pub async fn unless_given_up<T>(work: impl Future<Output = T>) -> Result<T, OutOfPatience> {
    let Ok(patience) = PATIENCE.try_with(Clone::clone) else { return Ok(work.await) };
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = patience.given_up() => Err(OutOfPatience),
    }
}

/// Why the outcome of work in a separate task is not known.
#[derive(Debug, thiserror::Error)]
pub enum Undone {
    /// It takes too long, and continues.
    #[error(transparent)]
    OutOfPatience(#[from] OutOfPatience),
    /// It panicked; the log has the details.
    #[error("the work has panicked")]
    Panicked,
}

/// Runs work to its end in a separate task, even if the caller hangs up or a commit takes longer than the caller waits:
/// what follows from a commit must always be done.
///
/// # Errors
/// The outcome is not known, or not yet.
pub async fn undisturbed<T: 'static>(work: impl Future<Output = T> + 'static) -> Result<T, Undone> {
    let (done, outcome) = oneshot::channel();
    // boxed, since the code that runs a task is compiled for each type of its future
    let work: Pin<Box<dyn Future<Output = ()>>> = Box::pin(inherited(async move {
        // a caller that has hung up needs no outcome
        let _ = done.send(work.await);
    }));
    actix_web::rt::spawn(work);
    unless_given_up(outcome).await?.map_err(|_| Undone::Panicked)
}

/// Makes work in a separate task belong to the current request, if there is one.
pub fn inherited<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    match PATIENCE.try_with(Clone::clone) {
        Ok(patience) => Either::Left(patience.during(work)),
        Err(_) => Either::Right(work),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_one_after_the_other_share_the_patience_of_their_request() {
        let start = Instant::now();
        let mut waits = Waits::new(2 * SECOND, start);
        assert_eq!(waits.begin(start), start + 2 * SECOND);
        waits.end(start + SECOND);
        // in between it did not wait
        let later = start + 30 * SECOND;
        assert_eq!(waits.begin(later), later + SECOND);
        waits.end(later + 2 * SECOND);
        assert_eq!(waits.begin(later + 2 * SECOND), later + 2 * SECOND);
    }

    #[test]
    fn waits_at_the_same_time_count_once() {
        let start = Instant::now();
        let mut waits = Waits::new(4 * SECOND, start);
        for _ in 0..3 {
            assert_eq!(waits.begin(start), start + 4 * SECOND);
        }
        for n in 1..=3 {
            waits.end(start + n * SECOND);
        }
        assert_eq!(waits.begin(start + 3 * SECOND), start + 4 * SECOND);
    }

    #[tokio::test]
    async fn a_wait_ends_with_the_patience_and_none_begins_after_that() {
        Patience::new(SECOND / 100)
            .during(async {
                wait(async {}).await.unwrap();
                // a wait that its caller gives up has taken its time, too
                let _ = tokio::time::timeout(SECOND / 200, wait(std::future::pending::<()>())).await;
                wait(std::future::pending::<()>()).await.unwrap_err();
                wait(async { panic!("begun") }).await.unwrap_err();
                // a task of the request has no other patience
                let task = tokio::spawn(inherited(async { wait(async { panic!("begun") }).await.unwrap_err() }));
                task.await.unwrap();
                // what cannot be given up goes on, and nobody waits for it
                let (go_on, may_go_on) = oneshot::channel();
                let task = tokio::spawn(inherited(async {
                    give_up();
                    may_go_on.await.unwrap();
                    wait(async {}).await.unwrap();
                }));
                unless_given_up(std::future::pending::<()>()).await.unwrap_err();
                go_on.send(()).unwrap();
                task.await.unwrap();
                // work that belongs to no request has no end to its patience
                tokio::spawn(async { wait(async {}).await.unwrap() }).await.unwrap();
            })
            .await;
    }
}
